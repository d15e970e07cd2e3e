//! When a change of slots is over: the commit of slots after the quiet window, the end of
//! watching, and the census of remembered flows that both go by. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lb_common::Flow;
use lb_common::flow::protocol;
use lb_common::judge::slot_index;
use lb_common::maps::{
    Control, FlowKey, PIN_CLOSED, PIN_CLOSING, Pin, SERVICE_CHOOSES, Service, ServiceKey,
};
use lb_common::slot::Slot;
use lb_common::tables::Record;

use crate::image::{Change, Image, service_of};
use crate::plan::{Layout, named};
use crate::slots::Slots;

mod open;

pub use open::{Counted, counted_lines};

use open::OpenFlows;

/// When each slot that is moving was changed last, in seconds of the epoch, by the region's first
/// slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transitions(BTreeMap<u32, Region>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Region {
    /// By offset.
    changed: BTreeMap<u32, u64>,
    /// None was changed before.
    oldest: u64,
}

impl Transitions {
    /// Takes note of all moving slots of an image that were not known, as if they had been changed
    /// now: what a restarted daemon knows, and one whose writes were cut short.
    pub fn adopt(&mut self, image: &Image, epoch: u64) {
        self.0.retain(|base, region| {
            let slots = image.slots.get(base).filter(|slots| slots.moving() > 0);
            region.changed.retain(|offset, _| slots.is_some_and(|slots| is_moving(slots, *offset)));
            !region.changed.is_empty()
        });
        for (base, slots) in image.slots.iter().filter(|(_, slots)| slots.moving() > 0) {
            for offset in (0..slots.len() as u32).filter(|offset| is_moving(slots, *offset)) {
                self.region(*base, epoch).changed.entry(offset).or_insert(epoch);
            }
        }
    }

    /// Takes note of changes that were made.
    pub fn note(&mut self, changes: &[Change], epoch: u64) {
        for change in changes {
            match change {
                Change::SetRegion(base, slots) => {
                    self.0.remove(base);
                    if slots.moving() > 0 {
                        let moving =
                            (0..slots.len() as u32).filter(|offset| is_moving(slots, *offset));
                        let changed = moving.map(|offset| (offset, epoch)).collect();
                        self.0.insert(*base, Region { changed, oldest: epoch });
                    }
                }
                Change::SetSlots(base, updates) => {
                    let region = self.region(*base, epoch);
                    for (offset, raw) in updates {
                        if Slot::from_raw(*raw).is_moving() {
                            region.changed.insert(*offset, epoch);
                        } else {
                            region.changed.remove(offset);
                        }
                    }
                    if region.changed.is_empty() {
                        self.0.remove(base);
                    }
                }
                _ => {}
            }
        }
    }

    fn region(&mut self, base: u32, epoch: u64) -> &mut Region {
        let fresh = Region { changed: BTreeMap::new(), oldest: epoch };
        self.0.entry(base).or_insert(fresh)
    }

    /// The commits that are due: slots that did not change for the whole window. Costs nothing
    /// while no slot is moving, and little until some may be due.
    pub fn due(&mut self, image: &Image, epoch: u64, window: Duration) -> Vec<Change> {
        let quiet = |changed: u64| epoch.saturating_sub(changed) >= window.as_secs();
        let mut changes = Vec::new();
        self.0.retain(|base, region| {
            // Slots of regions that are gone are forgotten.
            let Some(slots) = image.slots.get(base) else { return false };
            if !quiet(region.oldest) {
                return true;
            }
            let mut updates = Vec::new();
            region.changed.retain(|offset, changed| {
                let Some(raw) = slots.get(*offset as usize) else { return false };
                let slot = Slot::from_raw(*raw);
                if slot.is_moving() && quiet(*changed) {
                    updates.push((*offset, slot.committed().raw()));
                }
                slot.is_moving()
            });
            if !updates.is_empty() {
                changes.push(Change::SetSlots(*base, updates));
            }
            // Those that are due stay until their commit is made.
            region.oldest = region.changed.values().min().copied().unwrap_or(epoch);
            !region.changed.is_empty()
        });
        changes
    }
}

/// What was changed since a census began. It knows nothing of flows that began under such a change,
/// even if all looks as before by now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    listeners: BTreeMap<ServiceKey, Service>,
    all: bool,
    slots: BTreeSet<u32>,
}

impl Touched {
    /// Nothing yet, of an image whose flows are being counted.
    pub fn since(image: &Image) -> Self {
        Self { listeners: ways(image.listeners.values()), ..Self::default() }
    }

    /// Takes note that anything may have changed.
    pub const fn touch_all(&mut self) {
        self.all = true;
    }

    /// Takes note of changes that were made.
    pub fn note(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::SetSlots(base, updates) => {
                    self.slots.extend(updates.iter().map(|(offset, _)| base + offset));
                }
                Change::SetListeners(listeners) => self.all |= ways(listeners) != self.listeners,
                _ => {}
            }
        }
    }

    fn has(&self, slots: std::ops::Range<u32>) -> bool {
        self.all || self.slots.range(slots).next().is_some()
    }
}

/// How flows of listeners find their backends, whoever's turn it is.
fn ways<'a>(listeners: impl IntoIterator<Item = &'a Service>) -> BTreeMap<ServiceKey, Service> {
    listeners.into_iter().map(|entry| (entry.key(), Service { lap: 0, ..*entry })).collect()
}

fn is_moving(slots: &Slots, offset: u32) -> bool {
    slots.get(offset as usize).is_some_and(|raw| Slot::from_raw(*raw).is_moving())
}

/// Whether anything is remembered, or may be: else there is nothing to count.
pub fn is_census_needed(image: &Image, layout: &Layout) -> bool {
    layout.services.values().any(|place| !place.leaving.is_empty())
        || image.slots.values().any(|slots| slots.watched() > 0)
}

/// The slots that need not be watched any more: those that were steady when the census began,
/// have not changed since, and have no remembered flow. `kept` tells the services, by id, whose
/// slots are always watched.
pub fn unwatch(
    image: &Image,
    census: &Census,
    touched: &Touched,
    kept: impl Fn(u32) -> bool,
) -> Vec<Change> {
    let always: BTreeSet<u32> = image
        .listeners
        .values()
        .filter(|listener| kept(listener.id))
        .map(|listener| listener.slot_base)
        .collect();
    let watched = image.slots.iter().filter(|(_, slots)| slots.watched() > 0);
    let mut changes = Vec::new();
    for (base, slots) in watched.filter(|(base, _)| !always.contains(base)) {
        let Some(before) = census.slots.get(base) else { continue };
        let updates: Vec<(u32, u32)> = (0..)
            .zip(slots.iter().zip(before.iter()))
            .filter(|(offset, (now, then))| {
                let index = base + offset;
                now == then && !touched.has(index..index + 1)
            })
            .map(|(offset, (raw, _))| (offset, Slot::from_raw(*raw)))
            .filter(|(offset, slot)| {
                let forgotten = || !census.pinned_slots.contains(&(base + offset));
                slot.watched() && !slot.is_moving() && forgotten()
            })
            .map(|(offset, slot)| (offset, slot.unwatched().raw()))
            .collect();
        if !updates.is_empty() {
            changes.push(Change::SetSlots(*base, updates));
        }
    }
    changes
}

/// What is found by going through all remembered flows.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// Slots when it began, of services that had watched ones.
    slots: BTreeMap<u32, Slots>,
    /// Slots that some remembered flow hashes to.
    pinned_slots: BTreeSet<u32>,
    /// Flows by service id and backend number; those that are closing left out.
    pub flows: BTreeMap<(u32, u16), u64>,
    /// Backends that had left when it began, and have no flow.
    free: BTreeSet<(u32, u16)>,
    /// Where new flows go by open ones.
    open: OpenFlows,
}

impl Census {
    /// Backends that had left when it began and have no flow, of services where no slot has changed
    /// since.
    pub fn free(&self, layout: &Layout, touched: &Touched) -> BTreeSet<(u32, u16)> {
        let changed = |id: u32| {
            let mut places = layout.services.values().filter(|place| place.id == id);
            places.any(|place| touched.has(place.slot_base..place.slot_base + place.slot_count))
        };
        self.free.iter().copied().filter(|(id, _)| !changed(*id)).collect()
    }

    /// What is to be added to the packet path's count of open flows, by line, given what it is now.
    pub fn corrections(&self, now: &BTreeMap<u32, Counted>) -> Vec<(u32, i64)> {
        self.open.corrections(now)
    }
}

/// How long a flow is remembered without a packet.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    /// TCP, of services whose slots tell where a flow goes when nothing changes: the quiet window.
    pub pinned: Duration,
    /// TCP, of services that remember every flow.
    pub recorded: Duration,
    /// TCP once the client has sent FIN: what is left is the server's part.
    pub closing: Duration,
    /// TCP once the client has sent RST: what is left are retransmissions.
    pub closed: Duration,
    /// UDP.
    pub udp: Duration,
    /// A SYN without more.
    pub half_open: Duration,
}

impl Idle {
    /// For how many seconds a flow of a service has not been heard of; `None` if so long that it is
    /// to be forgotten, or if the service's listener was another's then.
    pub fn age(
        &self,
        service: &Service,
        record: Record,
        key: &FlowKey,
        pin: &Pin,
        epoch: u64,
    ) -> Option<u64> {
        if key.service() != service.id {
            return None;
        }
        let limit = if record == Record::HalfOpen {
            self.half_open
        } else if key.protocol() != protocol::TCP {
            self.udp
        } else if pin.flags & PIN_CLOSED != 0 {
            self.closed
        } else if pin.flags & PIN_CLOSING != 0 {
            self.closing
        } else if service.flags & SERVICE_CHOOSES != 0 {
            self.recorded
        } else {
            self.pinned
        };
        // Dated with the epoch's low half, and perhaps a moment after it was looked at.
        let age = (epoch as u32).wrapping_sub(pin.seen) as i32;
        let age = u64::try_from(age).unwrap_or(0);
        (age <= limit.as_secs()).then_some(age)
    }
}

/// Goes through remembered flows. It holds copies only, so that it may take its time on another
/// thread.
pub struct Counter {
    control: Control,
    listeners: BTreeMap<ServiceKey, Service>,
    epoch: u64,
    idle: Idle,
    census: Census,
}

impl Counter {
    /// Begins a census of the flows of an image, after all packets that were under way before
    /// the image's latest change. `open` is what the packet path has counted on
    /// [`counted_lines`].
    pub fn new(
        image: &Image,
        layout: &Layout,
        epoch: u64,
        idle: Idle,
        open: BTreeMap<u32, Counted>,
    ) -> Self {
        let watched = image.slots.iter().filter(|(_, slots)| slots.watched() > 0);
        let slots = watched.map(|(base, slots)| (*base, slots.clone())).collect();
        let mut free = BTreeSet::new();
        for place in layout.services.values().filter(|place| !place.leaving.is_empty()) {
            let named = image.slots.get(&place.slot_base).map(|slots| named(slots));
            let named = named.unwrap_or_default();
            let gone = place.leaving.keys().filter(|number| !named.contains(&u32::from(**number)));
            free.extend(gone.map(|number| (place.id, *number)));
        }
        Self {
            control: Control { hash_key: image.hash_key, ..Control::default() },
            listeners: image.listeners.clone(),
            epoch,
            idle,
            census: Census { slots, free, open: OpenFlows::new(open), ..Census::default() },
        }
    }

    /// Counts a flow; `false` if it is to be forgotten.
    pub fn count(&mut self, record: Record, key: &FlowKey, pin: &Pin) -> bool {
        let flow = Flow::from(key);
        let Some(service) = service_of(&self.listeners, &flow) else { return false };
        let stays = self.idle.age(service, record, key, pin, self.epoch).is_some();
        if pin.flags & PIN_CLOSING == 0 && key.service() == service.id {
            self.census.open.count(service.backend_base + u32::from(pin.backend), stays);
        }
        if !stays {
            return false;
        }
        self.census.free.remove(&(service.id, pin.backend));
        // Half-open ones too: their handshake may end any moment.
        self.census.pinned_slots.insert(slot_index(&self.control, service, &flow));
        if record == Record::HalfOpen {
            return true;
        }
        if pin.flags & PIN_CLOSING == 0 {
            *self.census.flows.entry((service.id, pin.backend)).or_default() += 1;
        }
        true
    }

    /// The result.
    pub fn finish(self) -> Census {
        self.census
    }
}

#[cfg(test)]
mod tests;
