//! What loading a configuration would do to slots and to remembered flows: one plan compared with
//! another, by the addresses of backends. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use lb_common::judge::slot_index;
use lb_common::maps::{
    BACKEND_RESET, Control, FlowKey, PIN_CLOSING, Pin, SERVICE_BY_CLIENT, Service,
};
use lb_common::slot::{Slot, slot_of};
use lb_common::tables::Record;
use lb_common::{Address, Flow, Mac};

use crate::api::{Fate, ServiceDiff};
use crate::config::{Affinity, Config};
use crate::image::{Image, service_of};
use crate::plan::{Plan, ServiceLayout};
use crate::state::{BackendId, Health, NextHop, State, Status};
use crate::transition::Idle;

/// What would be known once all that has not been found out yet has turned out well: backends that
/// nobody has probed are up, and their way is known.
pub fn hopeful(config: &Config, state: &State) -> State {
    let mut hopeful = state.clone();
    for (name, service) in &config.services {
        for (backend, file) in &service.backends {
            let id = BackendId { service: name.clone(), backend: backend.clone() };
            let health = hopeful.health.entry(id).or_insert_with(|| Health {
                status: Status::Unknown,
                last: String::new(),
                passed: false,
                since: Timestamp::UNIX_EPOCH,
            });
            if health.status == Status::Unknown {
                health.status = Status::Up;
            }
            hopeful.next_hops.entry(file.address).or_insert_with(|| NextHop::Resolved {
                ifindex: 0,
                interface: String::new(),
                mac: Mac::default(),
                source: Mac::default(),
                gateway: None,
                local: Some(file.address),
                mtu: 1_500,
            });
        }
    }
    hopeful
}

/// What is compared.
#[derive(Clone, Debug)]
pub struct Plans {
    /// What the maps hold.
    pub before: Plan,
    /// What they would hold at once.
    pub after: Plan,
    /// What they would hold when all is well that is not known yet: see [`hopeful`].
    pub later: Plan,
}

/// The comparison. It holds copies only, so that flows can be gone through on another thread.
#[derive(Clone, Debug)]
pub struct Preview {
    before: Side,
    after: Side,
    services: Vec<ServiceDiff>,
    /// Which of them each service id of the image before is.
    places: BTreeMap<u32, usize>,
    epoch: u64,
    idle: Idle,
}

/// An image, and who takes new flows in it, by service id.
#[derive(Clone, Debug)]
struct Side {
    image: Image,
    takers: BTreeMap<u32, BTreeSet<Address>>,
}

impl Preview {
    /// Compares plans, the new ones for a configuration, at a second of the epoch.
    pub fn new(plans: Plans, config: &Config, epoch: u64, idle: Idle) -> Self {
        let Plans { before, after, later } = plans;
        let mut services = Vec::new();
        let mut places = BTreeMap::new();
        for (name, place) in &after.layout.services {
            let held = place.held.as_ref().map(|held| held.id);
            let old = before.layout.services.iter().find(|(_, old)| Some(old.id) == held);
            // One that has to begin anew is still the same to its operators.
            let old = old.or_else(|| before.layout.services.get_key_value(name));
            let old = old.map(|(_, old)| old);
            if let Some(old) = old {
                places.insert(old.id, services.len());
            }
            let old = old.map(|old| (&before.image, old));
            services.push(ServiceDiff {
                service: name.clone(),
                fate: if old.is_some() { Fate::Stays } else { Fate::Comes },
                slots: place.slot_count,
                moved: moved(old, (&after.image, place)),
                moved_later: match later.layout.services.get(name) {
                    Some(place) => moved(old, (&later.image, place)),
                    None => 0,
                },
                keeps_flows: config.services.get(name).is_some_and(|service| {
                    service.affinity != Affinity::None && keeps_slots(&after.image, place)
                }),
                flows: 0,
                affected: 0,
                lost: 0,
            });
        }
        for (name, place) in &before.layout.services {
            if places.contains_key(&place.id) {
                continue;
            }
            places.insert(place.id, services.len());
            let owned = owners(&before.image, place).into_iter().flatten().count() as u32;
            services.push(ServiceDiff {
                service: name.clone(),
                fate: Fate::Goes,
                slots: place.slot_count,
                moved: owned,
                moved_later: owned,
                keeps_flows: false,
                flows: 0,
                affected: 0,
                lost: 0,
            });
        }
        Self { before: Side::new(before), after: Side::new(after), services, places, epoch, idle }
    }

    /// Takes note of a remembered flow: of those that are open and would be found.
    pub fn count(&mut self, record: Record, key: &FlowKey, pin: &Pin) {
        let closing = pin.flags & PIN_CLOSING != 0;
        let flow = Flow::from(key);
        let Some(service) = service_of(&self.before.image.listeners, &flow) else { return };
        if record == Record::HalfOpen
            || closing
            || self.idle.age(service, record, key, pin, self.epoch).is_none()
        {
            return;
        }
        let place = self.places.get(&service.id).and_then(|place| self.services.get_mut(*place));
        let Some(diff) = place else { return };
        diff.flows += 1;
        // Those that are refused already have nothing to lose.
        let Some(home) = self.before.home(service, key, pin) else { return };
        let heir = service_of(&self.after.image.listeners, &flow);
        let stays = heir.filter(|heir| self.after.home(heir, key, pin) == Some(home));
        match stays {
            None => diff.lost += 1,
            Some(heir) => {
                let (then, later) =
                    (self.before.takes(service, home), self.after.takes(heir, home));
                diff.affected += u64::from(then && !later);
            }
        }
    }

    /// The result, by service.
    pub fn finish(mut self) -> Vec<ServiceDiff> {
        self.services.sort_by(|a, b| a.service.cmp(&b.service));
        self.services
    }
}

impl Side {
    fn new(plan: Plan) -> Self {
        let takers =
            plan.layout.services.values().map(|place| {
                (place.id, owners(&plan.image, place).into_iter().flatten().collect())
            });
        Self { takers: takers.collect(), image: plan.image }
    }

    /// The backend that a remembered flow is sent to; `None` if there is none, or it is refused.
    /// As the packet path decides about a packet that does not begin a connection.
    fn home(&self, service: &Service, key: &FlowKey, pin: &Pin) -> Option<Address> {
        let control = Control { hash_key: self.image.hash_key, ..Control::default() };
        let offset = slot_index(&control, service, &Flow::from(key)) - service.slot_base;
        let slot = self.image.slots.get(&service.slot_base)?.get(offset as usize)?;
        let slot = Slot::from_raw(*slot);
        let number = if slot.is_steady() || key.service() != service.id {
            // Where another service has the listener now, the flow is not known.
            slot.base()
        } else {
            u32::from(pin.backend)
        };
        let line = self.image.backends.get(&(service.backend_base + number))?;
        (line.next_hop & BACKEND_RESET == 0).then_some(line.address)
    }

    fn takes(&self, service: &Service, backend: Address) -> bool {
        self.takers.get(&service.id).is_some_and(|takers| takers.contains(&backend))
    }
}

/// The backend of new flows in each slot of a service.
fn owners(image: &Image, place: &ServiceLayout) -> Vec<Option<Address>> {
    let slots = image.slots.get(&place.slot_base).map_or(&[][..], |slots| &**slots);
    let owner = |raw: &u32| {
        let line = place.backend_base + Slot::from_raw(*raw).current();
        image.backends.get(&line).map(|backend| backend.address)
    };
    slots.iter().map(owner).collect()
}

/// How many slots give their new flows to another backend than those flows had before, or to one
/// where they had none. Of tables of two sizes, slots are compared that have the same hashes.
fn moved(old: Option<(&Image, &ServiceLayout)>, new: (&Image, &ServiceLayout)) -> u32 {
    let before = old.map(|(image, place)| owners(image, place)).unwrap_or_default();
    let after = owners(new.0, new.1);
    let counts = (before.len() as u32, after.len() as u32);
    let differs = |(index, owner): &(u64, &Option<Address>)| {
        // The hash in the middle of the slot.
        let hash = ((index << 32) + (1 << 31)) / u64::from(counts.1);
        let held = before.get(slot_of(hash as u32, counts.0) as usize).copied().flatten();
        held != **owner
    };
    (0..).zip(&after).filter(differs).count() as u32
}

/// Whether a service goes on with its slots as they are in the maps, so that each of its flows
/// finds its own again.
fn keeps_slots(image: &Image, place: &ServiceLayout) -> bool {
    let by_client = |service: &Service| service.flags & SERVICE_BY_CLIENT;
    let entry = image.listeners.values().find(|entry| entry.id == place.id);
    let (Some(held), Some(entry)) = (&place.held, entry) else { return false };
    held.slot_count == place.slot_count && by_client(held) == by_client(entry)
}

#[cfg(test)]
mod tests;
