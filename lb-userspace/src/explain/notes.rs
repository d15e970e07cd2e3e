//! What is to be known of an explanation besides where the flow goes.

use super::{Tuple, backend_names};
use crate::api::ExplainView;
use crate::config::{Affinity, Config, Scheduler, Service};
use crate::dataplane::memory::Memory;
use crate::plan::{Layout, ServiceLayout};

/// Notes about a flow, a line each; none where nothing is odd.
pub(super) fn notes(
    view: &ExplainView,
    tuple: Tuple,
    config: &Config,
    layout: &Layout,
    tables: &Memory,
) -> Vec<String> {
    let Some(name) = view.service.as_ref().map(|service| &service.name) else { return Vec::new() };
    let (Some(service), Some(place)) = (config.services.get(name), layout.services.get(name))
    else {
        return Vec::new();
    };
    let mut notes = Vec::new();
    if !service.sources.is_empty() {
        notes.push(admission(service, tuple));
    }
    notes.extend(limit(service));
    if !view.choices.is_empty() {
        notes.extend(choice(service.scheduler));
    }
    if service.affinity == Affinity::Quic {
        notes.extend(servers(name, place, tables));
    }
    notes
}

/// Which of a service's rules is about a source.
fn admission(service: &Service, tuple: Tuple) -> String {
    let source = tuple.source.ip();
    let rules = service.sources.iter().filter(|rule| rule.prefix.contains(source));
    match rules.max_by_key(|rule| rule.prefix.length) {
        Some(rule) => {
            let word = if rule.allow { "allowed" } else { "denied" };
            format!("{source} is {word} by {}", rule.prefix)
        }
        None if service.admits_unnamed() => format!("{source} is in no denied prefix"),
        None => format!("{source} is in no allowed prefix"),
    }
}

fn limit(service: &Service) -> Option<String> {
    service.limit.flows.or(service.limit.source)?;
    Some("new flows are limited; how many came lately is not looked at here".to_owned())
}

fn choice(scheduler: Scheduler) -> Option<String> {
    let words = match scheduler {
        Scheduler::Maglev => return None,
        Scheduler::RoundRobin => {
            "every CPU takes turns by itself: a new flow goes to whose turn it is on the one that \
             its packet comes in by"
        }
        Scheduler::LeastConn => {
            "a new flow goes to the backend with the fewest open flows for its weight, as they are \
             now; of equals, to whose turn it is"
        }
    };
    Some(words.to_owned())
}

/// Who gets the packets of which server id, wherever they come from.
fn servers(name: &str, place: &ServiceLayout, tables: &Memory) -> Vec<String> {
    let names = backend_names(name, place);
    let own = tables.tables.servers.iter().filter(|(key, _)| key.service == place.id);
    let own = own.filter_map(|(key, number)| {
        let backend = names.get(number)?;
        Some(format!("packets that name server {} go to {backend}", key.server))
    });
    let rest = "where the flow goes is told of packets whose connection id names no server";
    [rest.to_owned()].into_iter().chain(own).collect()
}
