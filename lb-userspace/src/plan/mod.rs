//! What the maps should hold: configuration and state in, an image out. Pure: no clock, no
//! kernel. Writing it is the dataplane's work.
//!
//! Numbers are kept: a service keeps its id and its regions, a backend its line, for as long as
//! the maps hold them, whoever made the entry. So a reload moves nothing that need not move,
//! and a restarted daemon plans the image that it finds.

mod layout;

use std::collections::BTreeMap;
use std::net::IpAddr;

use lb_common::maps::{
    BACKEND_IN_USE, BACKEND_RESOLVED, BACKEND_SERVING, Backend, Interface, Service, ServiceKey, Vip,
};
use lb_common::steer::Slot;
use lb_common::{Address, Mac};

use crate::api::BackendState;
use crate::config::{self, AdminState, Config};
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
pub struct Rings(BTreeMap<String, (Vec<Member>, Vec<u32>)>);

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
            let entry = Service { name: name_hash(name), ..listener_entry(listener, place) };
            image.listeners.insert(entry.key(), entry);
            image.vips.insert(entry.vip, Vip { mac: 0, lease: LEASE, flags: 0 });
        }
        let mut members = Vec::new();
        for (backend_name, backend) in &service.backends {
            let id = BackendId { service: name.clone(), backend: backend_name.clone() };
            let number = place.numbers[backend_name];
            let line = place.line(number);
            let taking = backend_state(backend, &id, state) == BackendState::Serving;
            let (_, weight) = in_force(backend, &id, state);
            if taking {
                members.push(Member { number, address: backend.address.into(), weight });
            }
            let up = state.health.get(&id).is_some_and(|health| health.status == Status::Up);
            let held = current.backends.get(&line).filter(|held| held.flags & BACKEND_IN_USE != 0);
            image.backends.insert(line, backend_entry(backend.address, up, state, held));
        }
        image.slots.insert(place.slot_base, rings.slots(name, members, place.slot_count));
    }
    let attached = |name: &String| config.node.interfaces.contains(name);
    for link in state.interfaces.values().filter(|link| attached(&link.name)) {
        image.interfaces.insert(link.ifindex, Interface { mac: link.mac.word() });
    }
    Ok(Plan { image, layout })
}

impl Rings {
    fn slots(&mut self, service: &str, members: Vec<Member>, size: u32) -> Vec<u32> {
        if let Some((known, slots)) = self.0.get(service)
            && *known == members
            && slots.len() == size as usize
        {
            return slots.clone();
        }
        let slots: Vec<u32> = maglev::table(&members, size)
            .into_iter()
            .map(|number| Slot::steady(number).raw())
            .collect();
        self.0.insert(service.to_owned(), (members, slots.clone()));
        slots
    }
}

/// What a listener is found by.
pub fn listener_key(listener: &config::Listener) -> ServiceKey {
    let port = listener.port.map_or(0, std::num::NonZeroU16::get);
    ServiceKey::new(Address::from(listener.vip), port, listener.protocol.number())
}

fn listener_entry(listener: &config::Listener, place: &ServiceLayout) -> Service {
    let key = listener_key(listener);
    Service {
        vip: key.vip,
        port_and_protocol: key.port_and_protocol,
        id: place.id,
        slot_base: place.slot_base,
        slot_count: place.slot_count,
        backend_base: place.backend_base,
        backend_lines: place.backend_lines,
        ..Service::default()
    }
}

fn backend_entry(address: IpAddr, up: bool, state: &State, held: Option<&Backend>) -> Backend {
    let serving = if up { BACKEND_SERVING } else { 0 };
    let way = match state.next_hops.get(&address) {
        Some(NextHop::Resolved { ifindex, mac, source, .. }) => {
            (mac.word() | BACKEND_RESOLVED, source.word(), *ifindex)
        }
        // Flows that it has still try the way that was last known.
        Some(NextHop::Unresolved(_)) | None => match held {
            Some(held) => (held.next_hop, held.source, held.ifindex),
            None => (0, 0, 0),
        },
    };
    Backend {
        next_hop: way.0,
        source: way.1,
        address: address.into(),
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
mod tests;
