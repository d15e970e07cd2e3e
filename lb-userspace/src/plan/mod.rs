//! What the maps should hold: configuration and state in, an image out. Pure: no clock, no
//! kernel. Writing it is the dataplane's work.
//!
//! Numbers are kept: a service keeps its id and its regions, a backend its line, for as long as
//! the maps hold them, whoever made the entry. So a reload moves nothing that need not move,
//! and a restarted daemon plans the image that it finds.

mod layout;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lb_common::maps::{
    BACKEND_IN_USE, BACKEND_RESET, BACKEND_RESOLVED, BACKEND_SERVING, Backend, Interface,
    SERVICE_BY_CLIENT, SERVICE_REJECT, Service, ServiceKey, Vip,
};
use lb_common::slot::Slot;
use lb_common::{Address, Mac};

use crate::api::BackendState;
use crate::config::{self, AdminState, Affinity, Config, NoBackend, OnDown, Protocol};
use crate::image::{Capacity, Image};
use crate::maglev::{self, Member};
use crate::state::{BackendId, NextHop, State, Status};

pub use layout::{Layout, OutOfRoom, ServiceLayout, name_hash, wanted};

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

/// Tables already computed: a service whose members did not change keeps its table without
/// work.
#[derive(Debug, Default)]
pub struct Rings(BTreeMap<String, (Vec<Member>, Vec<u16>)>);

/// A backend's admin state and weight in force: the file's, or an operator's.
pub fn in_force(file: &config::Backend, id: &BackendId, state: &State) -> (AdminState, u16) {
    let over = state.overrides.get(id);
    let admin = over.and_then(|over| over.admin).unwrap_or(file.admin);
    let weight = over.and_then(|over| over.weight).unwrap_or(file.weight);
    (admin, weight)
}

/// Whether a backend takes new flows, or the first reason why not.
pub fn backend_state(file: &config::Backend, id: &BackendId, state: &State) -> BackendState {
    let (admin, weight) = in_force(file, id, state);
    if admin == AdminState::Disable {
        return BackendState::Disabled;
    }
    match state.health.get(id).map(|health| health.status).unwrap_or_default() {
        Status::Down => return BackendState::Down,
        Status::Unknown => return BackendState::Checking,
        Status::Up => {}
    }
    match state.next_hops.get(&file.address) {
        Some(NextHop::Resolved { .. }) => {}
        Some(NextHop::Unresolved(_)) | None => return BackendState::Unreachable,
    }
    if admin == AdminState::Drain || weight == 0 {
        return BackendState::Draining;
    }
    BackendState::Serving
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
    rings.0.retain(|name, _| config.services.contains_key(name));
    for (name, service) in &config.services {
        let place = &layout.services[name];
        for listener in &service.listen {
            let entry =
                Service { name: name_hash(name), ..listener_entry(service, listener, place) };
            image.listeners.insert(entry.key(), entry);
            image.vips.insert(entry.vip, Vip { mac: 0, lease: LEASE, flags: 0 });
        }
        let mut members = Vec::new();
        for (backend_name, backend) in &service.backends {
            let id = BackendId { service: name.clone(), backend: backend_name.clone() };
            let number = place.numbers[backend_name];
            let condition = backend_state(backend, &id, state);
            if condition == BackendState::Serving {
                let (_, weight) = in_force(backend, &id, state);
                members.push(Member { number, address: backend.address.into(), weight });
            }
            let up = state.health.get(&id).is_some_and(|health| health.status == Status::Up);
            let gone = matches!(condition, BackendState::Down | BackendState::Disabled);
            // A drain that is over does not outlast the drain.
            let over = condition == BackendState::Draining
                && state.drained.contains(&(name.clone(), backend.address));
            let reset = gone && service.on_down == OnDown::Reset || over;
            let held = place.held_backend(number, current);
            let entry = backend_entry(backend.address.into(), up, reset, state, held);
            image.backends.insert(place.line(number), entry);
        }
        let slots = slots(service, place, current, &rings.table(name, members, place.slot_count));
        for (number, address) in leaving(place, &slots, state) {
            let held = place.held_backend(number, current);
            let reset = state.drained.contains(&(name.clone(), IpAddr::from(address)));
            let entry = backend_entry(address, false, reset, state, held);
            image.backends.insert(place.line(number), entry);
        }
        image.slots.insert(place.slot_base, slots);
    }
    let attached = |name: &String| config.node.interfaces.contains(name);
    for link in state.interfaces.values().filter(|link| attached(&link.name)) {
        image.interfaces.insert(link.ifindex, Interface { mac: link.mac.word() });
    }
    Ok(Plan { image, layout })
}

impl Rings {
    fn table(&mut self, service: &str, members: Vec<Member>, size: u32) -> Vec<u16> {
        if let Some((known, table)) = self.0.get(service)
            && *known == members
            && table.len() == size as usize
        {
            return table.clone();
        }
        let table = maglev::table(&members, size);
        self.0.insert(service.to_owned(), (members, table.clone()));
        table
    }
}

/// A service's slots: those that the maps hold, with new flows sent where the table says.
fn slots(
    service: &config::Service,
    place: &ServiceLayout,
    current: &Image,
    table: &[u16],
) -> Vec<u32> {
    let held = match &place.held {
        // Slots of another number are other slots: no flow can be found in both.
        Some(held) if held.slot_count == place.slot_count => current.slots.get(&held.slot_base),
        Some(_) | None => None,
    };
    let keeps = keeps_datagrams(service);
    let forgets = service.affinity == Affinity::None;
    let slot = |(index, number): (usize, &u16)| {
        let held = held.and_then(|held| held.get(index)).map(|raw| Slot::from_raw(*raw));
        let slot = match held {
            Some(held) if !forgets => held.moved_to(*number),
            Some(_) | None => Slot::steady(*number),
        };
        if keeps { slot.watching().raw() } else { slot.raw() }
    };
    table.iter().enumerate().map(slot).collect()
}

/// Whether every flow of a service is remembered: UDP does not tell new flows from old ones.
pub fn keeps_datagrams(service: &config::Service) -> bool {
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
    let reject = if service.no_backend == NoBackend::Reject { SERVICE_REJECT } else { 0 };
    let client = if service.affinity == Affinity::ClientIp { SERVICE_BY_CLIENT } else { 0 };
    reject | client
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
            Some(held) => (held.next_hop & !BACKEND_RESET, held.source, held.ifindex),
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
