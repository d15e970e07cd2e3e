//! `lb services`, and the services in `lb status`.

use serde::Serialize;

use super::table::{Align, Grid, Text};
use super::words::{clean, count};
use super::{Answer, Screen, Tone};
use crate::api::{BackendState, GuardView, ServiceState, ServiceView, VerdictView};
use crate::config::{Affinity, Forward, Rate, Scheduler};

/// The services of a node.
#[derive(Clone, Debug, Serialize)]
pub struct Services {
    /// `lb.services/1`.
    schema: &'static str,
    /// By name.
    services: Vec<ServiceView>,
}

impl Services {
    /// An answer with these services.
    pub const fn new(services: Vec<ServiceView>) -> Self {
        Self { schema: "lb.services/1", services }
    }
}

impl Answer for Services {
    fn table(&self, screen: &Screen) -> String {
        services(&self.services, screen)
    }
}

/// The table of services.
pub(super) fn services(services: &[ServiceView], screen: &Screen) -> String {
    if services.is_empty() {
        return "no services\n".to_owned();
    }
    let mut grid = Grid::new(
        screen,
        &[
            ("SERVICE", Align::Left),
            ("LISTEN", Align::Left),
            ("STATE", Align::Left),
            ("SERVING", Align::Right),
            ("SCHEDULER", Align::Left),
            ("AFFINITY", Align::Left),
            ("FORWARD", Align::Left),
            ("PACKETS", Align::Right),
            ("BYTES", Align::Right),
        ],
    );
    for service in services {
        grid.row([
            service.name.as_str().into(),
            service.listen.join("\n").into(),
            state(service.state),
            serving(service).into(),
            scheduler(service.scheduler).into(),
            affinity(service.affinity).into(),
            forward(service.forward).into(),
            count(service.packets).into(),
            count(service.bytes).into(),
        ]);
    }
    grid.text()
}

/// What services let in that do not let in everybody, and how much was turned away; nothing where
/// there are none.
pub(super) fn guards(services: &[ServiceView], verdicts: &[VerdictView]) -> String {
    let guarded =
        services.iter().filter_map(|service| service.guard.as_ref().map(|g| (service, g)));
    let text: String = guarded
        .map(|(service, guard)| format!("guarded  {}: {}\n", clean(&service.name), words(guard)))
        .collect();
    if text.is_empty() {
        return text;
    }
    let turned_away = TURNED_AWAY.map(|(reason, words)| {
        let found = verdicts.iter().find(|verdict| verdict.reason == reason);
        format!("{} {words}", count(found.map_or(0, |verdict| verdict.packets)))
    });
    format!("{text}turned away by all of them: {}\n", turned_away.join(", "))
}

/// Verdicts of guards, and what they mean: they are counted for the node, not for each service.
const TURNED_AWAY: [(&str, &str); 3] = [
    ("denied", "denied"),
    ("source-rate", "over a source's limit"),
    ("service-rate", "over a service's limit"),
];

/// `100 new flows/s (300 at once) of a source; 2 prefixes denied`.
fn words(guard: &GuardView) -> String {
    let rate = |rate: Rate| format!("{} new flows/s ({} at once)", rate.per_second, rate.burst);
    let prefixes = |number: usize, word: &str| {
        let noun = if number == 1 { "prefix" } else { "prefixes" };
        (number > 0).then(|| format!("{number} {noun} {word}"))
    };
    let parts = [
        guard.flows.map(rate),
        guard.source.map(|limit| format!("{} of a source", rate(limit))),
        prefixes(guard.allow, "allowed"),
        prefixes(guard.deny, "denied"),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// How many backends serve, of those that are not on standby.
fn serving(service: &ServiceView) -> String {
    let standby = service.backends.iter().filter(|b| b.state == BackendState::Standby).count();
    format!("{}/{}", service.serving, service.backends.len() - standby)
}

fn state(state: ServiceState) -> Text {
    let (word, tone) = match state {
        ServiceState::Up => ("up", Tone::Good),
        ServiceState::Degraded => ("degraded", Tone::Odd),
        ServiceState::Down => ("DOWN", Tone::Bad),
    };
    Text(word.to_owned(), tone)
}

const fn scheduler(scheduler: Scheduler) -> &'static str {
    match scheduler {
        Scheduler::Maglev => "maglev",
        Scheduler::RoundRobin => "round-robin",
        Scheduler::LeastConn => "least-conn",
    }
}

const fn affinity(affinity: Affinity) -> &'static str {
    match affinity {
        Affinity::Flow => "flow",
        Affinity::ClientIp => "client-ip",
        Affinity::None => "none",
        Affinity::Quic => "quic",
    }
}

const fn forward(forward: Forward) -> &'static str {
    match forward {
        Forward::L2 => "l2",
        Forward::Ipip => "ipip",
        Forward::Gue => "gue",
    }
}
