//! What makes packets of a service belong together, and what has to go with it.

use std::collections::HashMap;

use super::raw;
use super::report::Sink;
use super::tree::{At, Field};
use super::wording::quoted;
use super::{Affinity, Protocol, Scheduler};

/// The affinity of a service. One that is for UDP alone is, in the defaults, meant for the services
/// that can do with it.
pub fn affinity(sink: &mut Sink, raw: &raw::Service, defaults: &Field<Affinity>) -> Affinity {
    let own = &raw.policy.affinity;
    let chosen = own.or(defaults).value_or_default();
    let why_not = match chosen {
        Affinity::Flow | Affinity::ClientIp => return chosen,
        Affinity::None => {
            "without a memory of flows, a change of backends would break TCP \
                           connections"
        }
        Affinity::Quic => "TCP has no connection ids",
    };
    let mut listen = raw.listen.iter();
    let Some(tcp) = listen.find(|listener| listener.value.protocol == Protocol::Tcp) else {
        return chosen;
    };
    if let Some(own) = own.given() {
        let message = format!(
            "`affinity` = {} is for UDP alone, but service {} has a TCP listener",
            quoted(word(chosen)),
            quoted(&raw.name.value)
        );
        let hint =
            format!("{why_not}: leave it out, or make the UDP listeners a service of their own");
        sink.mistake(&own.span, message).hint(hint).see(&tcp.span, "this one is TCP");
    }
    Affinity::default()
}

/// The scheduler of a service, which has to go with the affinity that was found for it.
pub fn scheduler(
    sink: &mut Sink,
    raw: &raw::Service,
    defaults: &raw::Policy,
    affinity: Affinity,
) -> Scheduler {
    let scheduler = raw.policy.scheduler.or(&defaults.scheduler);
    let Some(chosen) = scheduler.given() else {
        return Scheduler::default();
    };
    let name = match chosen.value {
        Scheduler::Maglev => return Scheduler::Maglev,
        Scheduler::RoundRobin => "round-robin",
        Scheduler::LeastConn => "least-conn",
    };
    let said = raw.policy.affinity.or(&defaults.affinity);
    if let Some(said) = said.given()
        && affinity != Affinity::Flow
    {
        let message = format!(
            "`scheduler` = {} does not go with `affinity` = {}: it chooses for every flow anew",
            quoted(name),
            quoted(word(affinity))
        );
        // Of the two, the service's own is the one to blame: the affinity, if it is both.
        let by_default = raw.policy.affinity.given().is_none();
        let (place, hint, other, label) = match (by_default, raw.policy.scheduler.given()) {
            (true, Some(_)) => (
                &chosen.span,
                "the affinity comes from [defaults]: set `affinity = \"flow\"` in the service",
                &said.span,
                "the affinity",
            ),
            (true, None) | (false, _) => (
                &said.span,
                "set `affinity = \"flow\"`, or `scheduler = \"maglev\"`",
                &chosen.span,
                "the scheduler",
            ),
        };
        sink.mistake(place, message).hint(hint).see(other, label);
    }
    chosen.value
}

/// What backends are told by in QUIC connection ids: each by its own, where that is looked at.
pub fn server_ids(sink: &mut Sink, raw: &raw::Service, affinity: Affinity) {
    let given = || raw.backends.iter().filter_map(|backend| backend.server_id.given());
    if affinity != Affinity::Quic {
        // They may have been meant for an affinity that was reported.
        let own = &raw.policy.affinity;
        let reported = own.is_wrong() || own.given().is_some_and(|at| at.value == Affinity::Quic);
        for id in given().filter(|_| !reported) {
            sink.warn(&id.span, "`server-id` has no effect without `affinity = \"quic\"`");
        }
        return;
    }
    for backend in raw.backends.iter().filter(|backend| backend.server_id == Field::Absent) {
        let message = format!(
            "backend {} has no `server-id`, which `affinity` = `quic` finds it by",
            quoted(&backend.name.value)
        );
        let hint = "write the number that the server puts into its connection ids: server-id = 1";
        sink.mistake(&backend.name.span, message).hint(hint);
    }
    let mut seen: HashMap<u32, &At<u32>> = HashMap::new();
    for id in given() {
        let Some(before) = seen.get(&id.value) else {
            seen.insert(id.value, id);
            continue;
        };
        let message = format!("`server-id` = {} belongs to another backend already", id.value);
        sink.mistake(&id.span, message).see(&before.span, "first here");
    }
}

/// As the file writes it.
fn word(affinity: Affinity) -> &'static str {
    match affinity {
        Affinity::Flow => "flow",
        Affinity::ClientIp => "client-ip",
        Affinity::None => "none",
        Affinity::Quic => "quic",
    }
}
