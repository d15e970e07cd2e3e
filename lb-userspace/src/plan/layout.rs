//! Which numbers, slots and backend lines belong to which names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Range;

use lb_common::Address;
use lb_common::maps::{
    BACKEND_IN_USE, Backend, DEFAULT_SOURCES, MAX_BACKENDS_PER_SERVICE, SLOTS_PER_LINE, Service,
    ServiceKey,
};

use super::listener_key;
use crate::config::{self, Config};
use crate::image::{Capacity, Image};

/// Where each service is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// By the service's name.
    pub services: BTreeMap<String, ServiceLayout>,
}

/// Where a service's slots and backends are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceLayout {
    /// Its number, from 1.
    pub id: u32,
    /// Its first slot.
    pub slot_base: u32,
    /// Its slots.
    pub slot_count: u32,
    /// Line of backend number 0, which never exists.
    pub backend_base: u32,
    /// Its lines, number 0's included.
    pub backend_lines: u32,
    /// Its backends' numbers, by name.
    pub numbers: BTreeMap<String, u16>,
    /// Numbers and addresses of backends that are in the maps and no longer in the file.
    pub leaving: BTreeMap<u16, Address>,
    /// One of its listeners as the maps hold it, which tells where it was.
    pub held: Option<Service>,
}

impl ServiceLayout {
    /// Line of a backend.
    pub fn line(&self, number: u16) -> u32 {
        self.backend_base + u32::from(number)
    }

    /// A backend's line as the maps hold it.
    pub(super) fn held_backend<'a>(&self, number: u16, current: &'a Image) -> Option<&'a Backend> {
        let line = self.held.as_ref()?.backend_base + u32::from(number);
        current.backends.get(&line).filter(|held| held.flags & BACKEND_IN_USE != 0)
    }

    /// Name of the backend with a number.
    pub fn backend(&self, number: u32) -> Option<&str> {
        let found = self.numbers.iter().find(|(_, n)| u32::from(**n) == number);
        found.map(|(name, _)| name.as_str())
    }
}

/// The maps are too small for what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the maps hold {} slots and {} backend lines, the configuration wants {} and {}",
    held.slots, held.backends, wanted.slots, wanted.backends
)]
pub struct OutOfRoom {
    /// What there is.
    pub held: Capacity,
    /// What would do.
    pub wanted: Capacity,
}

/// Fewest lines of a service's region, so that a few more backends fit without moving it.
const LEAST_LINES: u32 = 16;

/// What a configuration needs, with room to change as much again.
pub fn wanted(config: &Config) -> Capacity {
    let slots = || config.services.values().map(|service| padded(service.slots));
    let largest = slots().max().unwrap_or(padded(config.dataplane.slots));
    let lines: u32 = config.services.values().map(|service| lines_for(&service.backends)).sum();
    let counts_sources = config.services.values().any(|service| service.limit.source.is_some());
    Capacity {
        slots: slots().sum::<u32>().max(largest) * 2 + largest,
        backends: lines * 2 + 256,
        pins: config.dataplane.pins,
        half_open: config.dataplane.half_open,
        sources: if counts_sources { config.dataplane.sources } else { DEFAULT_SOURCES },
    }
}

fn lines_for(backends: &BTreeMap<String, config::Backend>) -> u32 {
    let needed = (backends.len() as u32 * 2 + 1).next_power_of_two();
    needed.clamp(LEAST_LINES, MAX_BACKENDS_PER_SERVICE + 1)
}

fn padded(slots: u32) -> u32 {
    slots.next_multiple_of(SLOTS_PER_LINE)
}

/// Gives every service and backend its place: the one it has in `current`, else a free one.
/// Nothing that `current` uses is given to anybody else, so that the old and the new image can
/// stand side by side.
pub(super) fn allocate(
    config: &Config,
    current: &Image,
    capacity: Capacity,
) -> Result<Layout, OutOfRoom> {
    let out_of_room = OutOfRoom { held: capacity, wanted: wanted(config) };
    let mut ids: BTreeSet<u32> = current.listeners.values().map(|entry| entry.id).collect();
    let mut slots = Regions::new(capacity.slots, SLOTS_PER_LINE);
    let mut lines = Regions::new(capacity.backends, 1);
    for entry in current.listeners.values() {
        slots.take(entry.slot_base..entry.slot_base + padded(entry.slot_count));
        lines.take(entry.backend_base..entry.backend_base + entry.backend_lines);
    }
    let heirs = heirs(config, current);
    let mut layout = Layout::default();
    for (name, service) in &config.services {
        let mut known = heirs.get(name.as_str()).copied();
        let (mut numbers, mut leaving) = number(service, known, current);
        if highest(&numbers, &leaving) > MAX_BACKENDS_PER_SERVICE {
            // Old and new ones together are too many: all begin anew, elsewhere.
            known = None;
            (numbers, leaving) = number(service, None, current);
        }
        let highest = highest(&numbers, &leaving);
        // A service that outgrows its lines moves as a whole: numbers in live slots would lead
        // behind its lines until the listeners are switched.
        let held = known.filter(|entry| highest < entry.backend_lines);
        let id = match known {
            // Wherever it goes: its flows are remembered by its id and its backends' numbers.
            Some(entry) => entry.id,
            None => (1..).find(|id| !ids.contains(id)).unwrap_or(u32::MAX),
        };
        ids.insert(id);
        let slot_count = service.slots;
        let slot_base = match held.filter(|entry| entry.slot_count == slot_count) {
            Some(entry) => entry.slot_base,
            None => slots.find(padded(slot_count)).ok_or(out_of_room)?,
        };
        let (backend_base, backend_lines) = match held {
            Some(entry) => (entry.backend_base, entry.backend_lines),
            None => {
                let count = lines_for(&service.backends).max((highest + 1).next_power_of_two());
                (lines.find(count).ok_or(out_of_room)?, count)
            }
        };
        layout.services.insert(
            name.clone(),
            ServiceLayout {
                id,
                slot_base,
                slot_count,
                backend_base,
                backend_lines,
                numbers,
                leaving,
                held: known.copied(),
            },
        );
    }
    Ok(layout)
}

/// A service's place once more, with the numbers that its backends have by now. `None` if it cannot
/// stay where it is.
pub(super) fn again(
    service: &config::Service,
    place: &ServiceLayout,
    current: &Image,
) -> Option<ServiceLayout> {
    let held = service.listen.iter().find_map(|of| current.listeners.get(&listener_key(of)))?;
    let same = held.id == place.id
        && (held.slot_base, held.slot_count) == (place.slot_base, place.slot_count)
        && (held.backend_base, held.backend_lines) == (place.backend_base, place.backend_lines);
    let (numbers, leaving) = number(service, Some(held), current);
    let fits = highest(&numbers, &leaving) < held.backend_lines;
    (same && fits).then_some(ServiceLayout {
        id: place.id,
        slot_base: place.slot_base,
        slot_count: place.slot_count,
        backend_base: place.backend_base,
        backend_lines: place.backend_lines,
        numbers,
        leaving,
        held: Some(*held),
    })
}

fn highest(numbers: &BTreeMap<String, u16>, leaving: &BTreeMap<u16, Address>) -> u32 {
    numbers.values().chain(leaving.keys()).max().map_or(0, |highest| u32::from(*highest))
}

/// What each service of the configuration goes on with, by name: an entry that leads to it in the
/// maps.
///
/// A service is known by its name, or, after it was renamed, by having all listeners of one that is
/// gone. A listener that moves to another service begins anew there: its slots and backends are
/// still looked up until all listeners are switched, and must not become another's meanwhile.
fn heirs<'a>(config: &'a Config, current: &'a Image) -> BTreeMap<&'a str, &'a Service> {
    let mut heirs = BTreeMap::new();
    for (name, service) in &config.services {
        let hash = name_hash(name);
        if let Some(entry) = current.listeners.values().find(|entry| entry.name == hash) {
            heirs.insert(name.as_str(), entry);
            continue;
        }
        let keys: BTreeSet<ServiceKey> = service.listen.iter().map(listener_key).collect();
        let Some(entry) = keys.iter().find_map(|key| current.listeners.get(key)) else { continue };
        let gone = !config.services.keys().any(|name| name_hash(name) == entry.name);
        let then = current.listeners.values().filter(|other| other.id == entry.id);
        if gone && then.map(Service::key).collect::<BTreeSet<_>>() == keys {
            heirs.insert(name, entry);
        }
    }
    heirs
}

/// A service's name in its entries: 64 bits of FNV-1a (Fowler, Noll, Vo), low word first.
pub fn name_hash(name: &str) -> [u32; 2] {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    [hash as u32, (hash >> 32) as u32]
}

/// Backends keep the number under which the maps know their address; others get the lowest
/// that is free. Also those that the maps know and the file does not.
fn number(
    service: &config::Service,
    held: Option<&Service>,
    current: &Image,
) -> (BTreeMap<String, u16>, BTreeMap<u16, Address>) {
    let known: BTreeMap<Address, u16> = match held {
        Some(entry) => current
            .backends
            .range(entry.backend_base..entry.backend_base + entry.backend_lines)
            .map(|(line, backend)| (backend.address, (line - entry.backend_base) as u16))
            .collect(),
        None => BTreeMap::new(),
    };
    let taken: BTreeSet<u16> = known.values().copied().collect();
    let mut free = (1..=u16::MAX).filter(|number| !taken.contains(number));
    let mut numbers = BTreeMap::new();
    for (name, backend) in &service.backends {
        let address: IpAddr = backend.address;
        let number = match known.get(&Address::from(address)) {
            Some(number) => *number,
            None => free.next().unwrap_or(u16::MAX),
        };
        numbers.insert(name.clone(), number);
    }
    let staying: BTreeSet<Address> =
        service.backends.values().map(|backend| backend.address.into()).collect();
    let leaving = known.into_iter().filter(|(address, _)| !staying.contains(address));
    (numbers, leaving.map(|(address, number)| (number, address)).collect())
}

/// Free and taken runs of an array.
struct Regions {
    size: u32,
    align: u32,
    taken: BTreeMap<u32, u32>,
}

impl Regions {
    fn new(size: u32, align: u32) -> Self {
        Self { size, align, taken: BTreeMap::new() }
    }

    fn take(&mut self, region: Range<u32>) {
        let end = self.taken.entry(region.start).or_insert(region.end);
        *end = region.end.max(*end);
    }

    /// Takes the first free run of a length.
    fn find(&mut self, length: u32) -> Option<u32> {
        let mut start = 0_u32;
        for (from, to) in &self.taken {
            if start.checked_add(length)? <= *from {
                break;
            }
            start = start.max(*to).next_multiple_of(self.align);
        }
        let end = start.checked_add(length)?;
        if end > self.size {
            return None;
        }
        self.take(start..end);
        Some(start)
    }
}
