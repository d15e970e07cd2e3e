//! What the maps should hold: configuration and state in, an image out. Pure: no clock, no
//! kernel. Writing it is the dataplane's work.
//!
//! Numbers are kept: a service keeps its id and its regions, a backend its line, for as long as
//! the maps hold them, whoever made the entry. So a reload moves nothing that need not move,
//! and a restarted daemon plans the image that it finds.

mod guards;
mod layout;
mod part;
mod rings;
mod ways;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lb_common::maps::{
    BACKEND_IN_USE, BACKEND_OPEN, BACKEND_RESET, BACKEND_RESOLVED, BACKEND_SERVING, Backend,
    Interface, NO_SERVICE, SERVICE_BY_CLIENT, SERVICE_GUARDED, SERVICE_LEAST_CONN, SERVICE_QUIC,
    SERVICE_REJECT, SERVICE_ROUND_ROBIN, ServerKey, Service, ServiceKey, Vip,
};
use lb_common::slot::Slot;
use lb_common::{Address, Mac};

use crate::api::BackendState;
use crate::config::{self, AdminState, Affinity, Config, NoBackend, OnDown, Protocol, Scheduler};
use crate::image::{Capacity, Image};
use crate::maglev::Member;
use crate::slots::Slots;
use crate::state::{BackendId, NextHop, State, Status};

pub use guards::features;
pub use layout::{Layout, OutOfRoom, ServiceLayout, name_hash, wanted};
pub use part::{Part, part};
pub use rings::{GROWN, Ring, Rings, Taker};
use rings::{SlotRule, Want};
pub use ways::{overhead, usable};

/// The lease that all VIPs share.
pub const LEASE: u32 = 1;

/// An image, and which of its numbers belong to which names.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What the maps should hold.
    pub image: Image,
    /// Where each service and backend is in it.
    pub layout: Layout,
}

/// A backend's admin state and weight in force: the file's, or an operator's.
pub fn in_force(file: &config::Backend, id: &BackendId, state: &State) -> (AdminState, u16) {
    let over = state.overrides.get(id);
    let admin = over.and_then(|over| over.admin).unwrap_or(file.admin);
    let weight = over.and_then(|over| over.weight).unwrap_or(file.weight);
    (admin, weight)
}

/// Whether a backend could take new flows, or the first reason why not. Of a backup it does not tell
/// whether it has to: see [`on_backups`].
pub fn backend_state(
    service: &config::Service,
    file: &config::Backend,
    id: &BackendId,
    state: &State,
) -> BackendState {
    let (admin, weight) = in_force(file, id, state);
    if admin == AdminState::Disable {
        return BackendState::Disabled;
    }
    match state.health.get(id).map(|health| health.status).unwrap_or_default() {
        Status::Down => return BackendState::Down,
        Status::Unknown => return BackendState::Checking,
        Status::Up => {}
    }
    if usable(service.forward, file.address, state).is_err() {
        return BackendState::Unreachable;
    }
    if admin == AdminState::Drain || weight == 0 {
        return BackendState::Draining;
    }
    BackendState::Serving
}

/// Whether a service's backups take its new flows: while no other backend could.
pub fn on_backups(name: &str, service: &config::Service, state: &State) -> bool {
    !service.backends.iter().any(|(backend, file)| {
        let id = BackendId { service: name.to_owned(), backend: backend.clone() };
        !file.backup && backend_state(service, file, &id, state) == BackendState::Serving
    })
}

/// Plans the image for a configuration and what is known, starting from what the maps hold.
pub fn plan(
    config: &Config,
    state: &State,
    current: &Image,
    capacity: Capacity,
    rings: &mut Rings,
) -> Result<Plan, OutOfRoom> {
    let layout = layout::allocate(config, current, capacity)?;
    let mut image = Image { hash_key: current.hash_key, ..Image::default() };
    rings.keep(config);
    let services = config.services.iter();
    let wants: Vec<Want<'_>> = services
        .map(|(name, service)| want(name, service, &layout.services[name], state))
        .collect();
    rings.make(&wants);
    for (want, (name, service)) in wants.iter().zip(&config.services) {
        plan_service(want, service, &layout.services[name], state, current, rings, &mut image);
    }
    if ways::tunnels(config) {
        image.limits.insert(NO_SERVICE, ways::errors());
    }
    let attached = |name: &String| config.node.interfaces.contains(name);
    for link in state.interfaces.values().filter(|link| attached(&link.name)) {
        image.interfaces.insert(link.ifindex, Interface { mac: link.mac.word() });
    }
    Ok(Plan { image, layout })
}

/// The source of tunnels to a backend as its line tells it, for a restarted daemon.
pub fn local_of(backend: &Backend) -> Option<IpAddr> {
    (backend.local != Address::default()).then(|| backend.local.into())
}

/// Puts one service into the image.
fn plan_service(
    want: &Want<'_>,
    service: &config::Service,
    place: &ServiceLayout,
    state: &State,
    current: &Image,
    rings: &mut Rings,
    image: &mut Image,
) {
    let name = want.service;
    let takers = &want.takers;
    let taking: BTreeMap<u16, Taker> =
        takers.iter().map(|taker| (taker.member.number, *taker)).collect();
    let lap = rings.lap(want);
    for listener in &service.listen {
        let entry = Service {
            name: name_hash(name),
            lap,
            fits: ways::fits(service, state),
            ..listener_entry(service, listener, place)
        };
        image.listeners.insert(entry.key(), entry);
        image.vips.insert(entry.vip, Vip { mac: 0, lease: LEASE, flags: 0 });
    }
    if guards::is_guarded(service) {
        image.limits.insert(place.id, guards::limits(service));
        image.rules.extend(guards::rules(place.id, service));
    }
    for (backend_name, backend) in &service.backends {
        let id = BackendId { service: name.to_owned(), backend: backend_name.clone() };
        let number = place.numbers[backend_name];
        let condition = backend_state(service, backend, &id, state);
        let up = state.health.get(&id).is_some_and(|health| health.status == Status::Up);
        let gone = matches!(condition, BackendState::Down | BackendState::Disabled);
        // A drain that is over does not outlast the drain.
        let over = condition == BackendState::Draining
            && state.drained.contains(&(name.to_owned(), backend.address));
        let reset = gone && service.on_down == OnDown::Reset || over;
        let held = place.held_backend(number, current);
        let mut entry = backend_entry(backend.address.into(), up, reset, state, held);
        entry.local = ways::local(service.forward, backend.address, state);
        if let Some(taker) = taking.get(&number) {
            entry.next_hop |= BACKEND_OPEN;
            entry.share = if service.records_flows() { taker.share() } else { 0 };
        }
        image.backends.insert(place.line(number), entry);
        if let (Affinity::Quic, Some(server)) = (service.affinity, backend.server_id) {
            let key = ServerKey { service: place.id, server: u32::from(server) };
            image.servers.insert(key, u32::from(number));
        }
    }
    let slots = slots(name, service, place, current, rings);
    for (number, address) in leaving(place, &slots, state) {
        let held = place.held_backend(number, current);
        let reset = state.drained.contains(&(name.to_owned(), IpAddr::from(address)));
        let mut entry = backend_entry(address, false, reset, state, held);
        entry.local = ways::local(service.forward, address.into(), state);
        image.backends.insert(place.line(number), entry);
        // Connections that name it stay with it too, unless its id is another's by now.
        let known = current
            .servers
            .iter()
            .filter(|(key, held)| key.service == place.id && **held == u32::from(number));
        for (key, held) in known {
            image.servers.entry(*key).or_insert(*held);
        }
    }
    image.slots.insert(place.slot_base, slots);
}

/// The table that a service wants: of the backends that take its new flows.
fn want<'a>(
    name: &'a str,
    service: &config::Service,
    place: &ServiceLayout,
    state: &State,
) -> Want<'a> {
    let backups = on_backups(name, service, state);
    let mut takers = Vec::new();
    for (backend_name, backend) in &service.backends {
        let id = BackendId { service: name.to_owned(), backend: backend_name.clone() };
        if backend.backup == backups
            && backend_state(service, backend, &id, state) == BackendState::Serving
        {
            let (_, weight) = in_force(backend, &id, state);
            let number = place.numbers[backend_name];
            let member = Member { number, address: backend.address.into(), weight };
            let grown = state.growing.get(&id).copied().unwrap_or(GROWN);
            takers.push(Taker { member, grown });
        }
    }
    Want { service: name, scheduler: service.scheduler, takers, size: place.slot_count }
}

/// A service's slots: those that the maps hold, with new flows sent where the table says.
fn slots(
    name: &str,
    service: &config::Service,
    place: &ServiceLayout,
    current: &Image,
    rings: &mut Rings,
) -> Slots {
    let held = match &place.held {
        // Slots of another number are other slots: no flow can be found in both.
        Some(held) if held.slot_count == place.slot_count => current.slots.get(&held.slot_base),
        Some(_) | None => None,
    };
    let rule = SlotRule {
        watches: is_always_watched(service),
        forgets: service.affinity == Affinity::None,
    };
    rings.slots(name, held, rule)
}

/// Whether a service's slots alone never tell where a flow goes: all its flows are remembered, or
/// go by their connection ids.
pub fn is_always_watched(service: &config::Service) -> bool {
    service.records_flows() || service.affinity == Affinity::Quic || keeps_datagrams(service)
}

/// Whether every flow of a service is remembered because UDP does not tell new flows from old ones.
fn keeps_datagrams(service: &config::Service) -> bool {
    service.affinity == Affinity::Flow
        && service.listen.iter().any(|listener| listener.protocol == Protocol::Udp)
}

/// Numbers that some slot names.
pub fn named(slots: &[u32]) -> BTreeSet<u32> {
    let slots = slots.iter().map(|raw| Slot::from_raw(*raw));
    slots.flat_map(|slot| [slot.base(), slot.current()]).collect()
}

/// Backends that are no longer in the file, but may still have flows.
fn leaving(place: &ServiceLayout, slots: &[u32], state: &State) -> Vec<(u16, Address)> {
    if place.leaving.is_empty() {
        return Vec::new();
    }
    let named = named(slots);
    let may_have_flows = |number: u16| {
        named.contains(&u32::from(number)) || !state.free.contains(&(place.id, number))
    };
    place
        .leaving
        .iter()
        .filter(|(number, _)| may_have_flows(**number))
        .map(|(number, address)| (*number, *address))
        .collect()
}

/// What a listener is found by.
pub fn listener_key(listener: &config::Listener) -> ServiceKey {
    let port = listener.port.map_or(0, std::num::NonZeroU16::get);
    ServiceKey::new(Address::from(listener.vip), port, listener.protocol.number())
}

fn service_flags(service: &config::Service) -> u32 {
    let scheduler = match service.scheduler {
        Scheduler::Maglev => 0,
        Scheduler::RoundRobin => SERVICE_ROUND_ROBIN,
        Scheduler::LeastConn => SERVICE_LEAST_CONN,
    };
    let affinity = match service.affinity {
        Affinity::Flow | Affinity::None => 0,
        Affinity::ClientIp => SERVICE_BY_CLIENT,
        Affinity::Quic => SERVICE_QUIC,
    };
    let reject = if service.no_backend == NoBackend::Reject { SERVICE_REJECT } else { 0 };
    let guarded = if guards::is_guarded(service) { SERVICE_GUARDED } else { 0 };
    scheduler | affinity | reject | guarded | ways::flag(service.forward)
}

fn listener_entry(
    service: &config::Service,
    listener: &config::Listener,
    place: &ServiceLayout,
) -> Service {
    let key = listener_key(listener);
    Service {
        vip: key.vip,
        port_and_protocol: key.port_and_protocol,
        id: place.id,
        slot_base: place.slot_base,
        slot_count: place.slot_count,
        backend_base: place.backend_base,
        backend_lines: place.backend_lines,
        flags: service_flags(service),
        ..Service::default()
    }
}

fn backend_entry(
    address: Address,
    up: bool,
    reset: bool,
    state: &State,
    held: Option<&Backend>,
) -> Backend {
    let serving = if up { BACKEND_SERVING } else { 0 };
    let way = match state.next_hops.get(&IpAddr::from(address)) {
        Some(NextHop::Resolved { ifindex, mac, source, .. }) => {
            (mac.word() | BACKEND_RESOLVED, source.word(), *ifindex)
        }
        // Flows that it has still try the way that was last known.
        Some(NextHop::Unresolved(_)) | None => match held {
            Some(held) => {
                let next_hop = held.next_hop & !(BACKEND_RESET | BACKEND_OPEN);
                (next_hop, held.source, held.ifindex)
            }
            None => (0, 0, 0),
        },
    };
    Backend {
        next_hop: if reset { way.0 | BACKEND_RESET } else { way.0 },
        source: way.1,
        address,
        ifindex: way.2,
        flags: BACKEND_IN_USE | serving,
        ..Backend::default()
    }
}

/// The way to a backend as its line tells it: what a restarted daemon knows before the kernel
/// has been asked.
pub fn way_of(backend: &Backend) -> Option<(u32, Mac, Mac)> {
    (backend.next_hop & BACKEND_RESOLVED != 0).then(|| {
        (backend.ifindex, Mac::from_word(backend.next_hop), Mac::from_word(backend.source))
    })
}

#[cfg(test)]
pub(crate) mod tests;
