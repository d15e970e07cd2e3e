//! What a daemon knows when it starts: what an earlier one left in the maps, and how long it may take
//! to find out the rest.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use lb_common::maps::{BACKEND_IN_USE, BACKEND_SERVING};

use crate::config::{Check, Config};
use crate::image::Image;
use crate::plan::{self, Plan};
use crate::state::{BackendId, Health, NextHop, State, Status};

/// What an earlier daemon knew and wrote into the backend lines: nothing is taken away from a
/// running service just because its new daemon has not probed yet.
pub(super) fn inherit(
    state: &mut State,
    config: &Config,
    plan: &Plan,
    held: &Image,
    now: Timestamp,
) {
    let names: BTreeMap<u32, String> =
        state.interfaces.values().map(|link| (link.ifindex, link.name.clone())).collect();
    for (service_name, service) in &config.services {
        let place = &plan.layout.services[service_name];
        for (name, backend) in &service.backends {
            let Some(line) = held.backends.get(&place.line(place.numbers[name])) else { continue };
            if line.flags & BACKEND_IN_USE == 0 || line.address != backend.address.into() {
                continue;
            }
            if let Some((ifindex, mac, source)) = plan::way_of(line) {
                let interface =
                    names.get(&ifindex).cloned().unwrap_or_else(|| format!("interface {ifindex}"));
                let known = state.interfaces.get(&ifindex);
                let hop = NextHop::Resolved {
                    ifindex,
                    interface,
                    mac,
                    source,
                    gateway: None,
                    local: plan::local_of(line),
                    mtu: known.map_or(1_500, |link| link.mtu),
                };
                state.next_hops.insert(backend.address, hop);
            }
            if line.flags & BACKEND_SERVING != 0 {
                let id = BackendId { service: service_name.clone(), backend: name.clone() };
                let health = Health {
                    status: Status::Up,
                    last: "up before the daemon started".to_owned(),
                    passed: true,
                    since: now,
                };
                state.health.insert(id, health);
            }
        }
    }
}

/// How long the probes of a configuration take at most to tell whether backends are up.
pub(super) fn settling(config: &Config) -> Duration {
    let settling =
        |check: &Check| (check.timeout + check.fast_interval) * (check.rise.max(check.fall) + 1);
    let slowest = config.services.values().map(|service| settling(&service.check)).max();
    slowest.unwrap_or_default().min(MOST_WARMING)
}

/// Longest time that nobody is served after a start.
const MOST_WARMING: Duration = Duration::from_secs(10);
