//! Which backend each slot of a service gives to new flows, by the service's scheduler. Pure; equal
//! backends give equal tables, on every node.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use lb_common::Address;
use lb_common::maps::SHARE;
use lb_common::slot::Slot;

use crate::config::{Config, Scheduler};
use crate::maglev::{self, Member};
use crate::slots::Slots;

/// A backend that takes new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taker {
    /// Its number, address and full weight.
    pub member: Member,
    /// How much of its weight it has by now, in thousandths: less than all while it starts slowly.
    pub grown: u16,
}

/// All of it.
pub const GROWN: u16 = 1_000;

impl Taker {
    /// Its share of new flows where these are not given out by slots: at least something.
    pub fn share(&self) -> u16 {
        let whole = u32::from(self.member.weight) * u32::from(SHARE);
        (whole * u32::from(self.grown) / u32::from(GROWN)).max(1) as u16
    }

    fn is_growing(&self) -> bool {
        self.grown < GROWN
    }
}

/// A service's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    /// The backend's number, by slot; 0 for none.
    pub numbers: Arc<[u16]>,
    /// Slots that are gone through in turn.
    pub lap: u32,
}

/// What a service's table is made of.
#[derive(Clone, Debug)]
pub(super) struct Want<'a> {
    /// Its name.
    pub service: &'a str,
    /// How backends are chosen.
    pub scheduler: Scheduler,
    /// Who takes new flows.
    pub takers: Vec<Taker>,
    /// How many slots there are to be.
    pub size: u32,
}

/// How a table is put into slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotRule {
    /// All are watched at all times.
    pub watches: bool,
    /// None remembers where its flows went before.
    pub forgets: bool,
}

/// Tables already computed, and the slots they were put into: a service of which nothing changed
/// keeps both without work.
#[derive(Debug, Default)]
pub struct Rings(BTreeMap<String, Known>);

#[derive(Debug)]
struct Known {
    scheduler: Scheduler,
    takers: Vec<Taker>,
    size: u32,
    tables: Tables,
    ring: Ring,
    slots: Option<Slotted>,
}

/// Maglev tables with all that take new flows, and without those that start slowly.
#[derive(Clone, Debug, Default)]
struct Tables {
    members: Vec<(Member, bool)>,
    full: Arc<[u16]>,
    without: Arc<[u16]>,
}

/// Slots that a table was put into.
#[derive(Debug)]
struct Slotted {
    /// Whether there were none before.
    fresh: bool,
    rule: SlotRule,
    numbers: Arc<[u16]>,
    slots: Slots,
}

impl Rings {
    /// Forgets services that are gone.
    pub(super) fn keep(&mut self, config: &Config) {
        self.0.retain(|name, _| config.services.contains_key(name));
    }

    /// Makes the tables that are not known, on as many threads as there are CPUs.
    pub(super) fn make(&mut self, wants: &[Want<'_>]) {
        let known = |want: &&Want<'_>| self.0.get(want.service).is_some_and(|held| held.is(want));
        let missing: Vec<&Want<'_>> = wants.iter().filter(|want| !known(want)).collect();
        let threads = match missing.len() {
            0 | 1 => 1,
            _ => thread::available_parallelism().map_or(1, usize::from),
        };
        let held = &self.0;
        let make = |wants: &[&Want<'_>]| -> Vec<Known> {
            wants.iter().map(|want| Known::new(want, held.get(want.service))).collect()
        };
        let share = missing.len().div_ceil(threads).max(1);
        let made: Vec<Known> = thread::scope(|scope| {
            let mut parts = missing.chunks(share);
            let own = parts.next();
            let others: Vec<_> = parts.map(|part| scope.spawn(move || make(part))).collect();
            let mut made = own.map(make).unwrap_or_default();
            for other in others {
                made.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
            }
            made
        });
        for (want, known) in missing.into_iter().zip(made) {
            self.0.insert(want.service.to_owned(), known);
        }
    }

    /// A service's table of so many slots.
    #[cfg(test)]
    fn ring(&mut self, service: &str, scheduler: Scheduler, takers: &[Taker], size: u32) -> Ring {
        self.make(&[Want { service, scheduler, takers: takers.to_vec(), size }]);
        self.0[service].ring.clone()
    }

    /// Slots of a table that are gone through in turn. To be called after [`make`](Self::make).
    pub(super) fn lap(&self, want: &Want<'_>) -> u32 {
        self.0.get(want.service).map_or(0, |known| known.ring.lap)
    }

    /// The slots of a service's table: those that are held, with new flows sent where the table
    /// says. To be called after [`make`](Self::make).
    pub(super) fn slots(&mut self, service: &str, held: Option<&Slots>, rule: SlotRule) -> Slots {
        let Some(known) = self.0.get_mut(service) else { return Slots::default() };
        let numbers = &known.ring.numbers;
        let same = |last: &&Slotted| {
            // Slots that a table was put into stay as they are when it is put into them again.
            let before = held.map_or(last.fresh, |held| held.is(&last.slots));
            before && last.rule == rule && Arc::ptr_eq(&last.numbers, numbers)
        };
        if let Some(last) = known.slots.as_ref().filter(same) {
            return last.slots.clone();
        }
        let slots = put(numbers, held, rule);
        let fresh = held.is_none();
        let numbers = numbers.clone();
        known.slots = Some(Slotted { fresh, rule, numbers, slots: slots.clone() });
        slots
    }
}

/// A table put into slots.
fn put(numbers: &[u16], held: Option<&Slots>, rule: SlotRule) -> Slots {
    let watch = |slot: Slot| if rule.watches { slot.watching().raw() } else { slot.raw() };
    let steady = |number: &u16| watch(Slot::steady(*number));
    let slots: Vec<u32> = match held {
        Some(held) if !rule.forgets => {
            let moved = |(raw, number): (&u32, &u16)| watch(Slot::from_raw(*raw).moved_to(*number));
            let rest = numbers.get(held.len()..).unwrap_or_default();
            held.iter().zip(numbers).map(moved).chain(rest.iter().map(steady)).collect()
        }
        Some(_) | None => numbers.iter().map(steady).collect(),
    };
    match held.filter(|held| ***held == *slots) {
        Some(held) => held.clone(),
        None => slots.into(),
    }
}

impl Known {
    fn new(want: &Want<'_>, held: Option<&Self>) -> Self {
        let (takers, size) = (&want.takers, want.size);
        let held = held.filter(|held| held.size == size);
        let (tables, mut ring) = match want.scheduler {
            Scheduler::Maglev => {
                let tables = Tables::new(takers, size, held.map(|held| &held.tables));
                let ring = Ring { numbers: tables.grown(takers), lap: 0 };
                (tables, ring)
            }
            Scheduler::RoundRobin => (Tables::default(), in_turn(takers, size)),
            Scheduler::LeastConn => (Tables::default(), each_once(takers, size)),
        };
        if let Some(held) = held.filter(|held| held.ring == ring) {
            ring = held.ring.clone();
        }
        let (scheduler, takers) = (want.scheduler, takers.clone());
        Self { scheduler, takers, size, tables, ring, slots: None }
    }

    fn is(&self, want: &Want<'_>) -> bool {
        self.scheduler == want.scheduler && self.takers == want.takers && self.size == want.size
    }
}

impl Tables {
    fn new(takers: &[Taker], size: u32, held: Option<&Self>) -> Self {
        let members: Vec<_> =
            takers.iter().map(|taker| (taker.member, taker.is_growing())).collect();
        if let Some(held) = held.filter(|held| held.members == members && !held.full.is_empty()) {
            return held.clone();
        }
        let of = |all: bool| {
            let members = members.iter().filter(|(_, growing)| all || !growing);
            members.map(|(member, _)| *member).collect::<Vec<_>>()
        };
        let grown = of(false);
        // Where nobody is there to take the rest, nobody starts slowly.
        let partly = !grown.is_empty() && grown.len() < members.len();
        let without = if partly { maglev::table(&grown, size) } else { Vec::new() };
        let full = maglev::table(&of(true), size);
        Self { members, full: full.into(), without: without.into() }
    }

    /// A table into which backends that start slowly grow slot by slot: each slot that is to be
    /// theirs in the end changes hands once, at a moment of its own.
    fn grown(&self, takers: &[Taker]) -> Arc<[u16]> {
        let (full, without) = (&self.full, &self.without);
        if takers.iter().all(|taker| !taker.is_growing()) || without.is_empty() {
            return full.clone();
        }
        let growing: BTreeMap<u16, u16> = takers
            .iter()
            .filter(|taker| taker.is_growing())
            .map(|taker| (taker.member.number, taker.grown))
            .collect();
        // What moves between others only makes room: it waits for the slowest.
        let slowest = growing.values().min().copied().unwrap_or(GROWN);
        (0_u64..)
            .zip(full.iter().zip(without.iter()))
            .map(|(slot, (last, first))| {
                let grown = growing.get(last).copied().unwrap_or(slowest);
                let moment = maglev::mix(slot) % u64::from(GROWN);
                if moment < u64::from(grown) { *last } else { *first }
            })
            .collect()
    }
}

/// A sequence in which every backend comes up as often as its share wants, and evenly.
fn in_turn(takers: &[Taker], size: u32) -> Ring {
    let takers = by_address(takers);
    let shares: Vec<u64> = takers.iter().map(|taker| u64::from(taker.share())).collect();
    let counts = counts(&shares, u64::from(size));
    // The n-th of k stands at (n + 1/2) / k of the lap, as a fraction of 2^32.
    let mut places: Vec<(u64, usize)> = Vec::new();
    for (index, count) in counts.iter().enumerate() {
        places.extend((0..*count).map(|n| (((2 * n + 1) << 32) / count, index)));
    }
    places.sort_unstable();
    let sequence = places.into_iter().map(|(_, index)| takers[index].member.number);
    cycle(sequence.collect(), size)
}

/// Every backend once: which of them takes a flow is not the table's to say.
fn each_once(takers: &[Taker], size: u32) -> Ring {
    cycle(by_address(takers).iter().map(|taker| taker.member.number).collect(), size)
}

/// How often each comes up in a lap: in proportion exactly if a lap of at most `size` can do that,
/// else as nearly as one can, and everybody at least once.
fn counts(shares: &[u64], size: u64) -> Vec<u64> {
    let divisor = shares.iter().copied().fold(0, greatest_common_divisor).max(1);
    let sum = shares.iter().sum::<u64>() / divisor;
    if sum <= size {
        return shares.iter().map(|share| share / divisor).collect();
    }
    shares.iter().map(|share| (share / divisor * size / sum).max(1)).collect()
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// A lap, and the rest of the slots filled with more of the same: flows that nobody remembers find
/// a backend there by their hash.
fn cycle(lap: Vec<u16>, size: u32) -> Ring {
    let size = size as usize;
    let mut numbers: Vec<u16> = lap.iter().copied().cycle().take(size).collect();
    numbers.resize(size, 0);
    Ring { numbers: numbers.into(), lap: lap.len().min(size) as u32 }
}

/// Names and numbers differ between nodes and over time, addresses do not.
fn by_address(takers: &[Taker]) -> Vec<Taker> {
    let mut takers: Vec<Taker> =
        takers.iter().filter(|taker| taker.member.weight > 0).copied().collect();
    takers.sort_by_key(|taker| -> Address { taker.member.address });
    takers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takers(weights: &[(u16, u16)]) -> Vec<Taker> {
        weights
            .iter()
            .enumerate()
            .map(|(n, (weight, grown))| Taker {
                member: Member {
                    number: n as u16 + 1,
                    address: Address::from_v4([10, 0, 0, n as u8 + 1]),
                    weight: *weight,
                },
                grown: *grown,
            })
            .collect()
    }

    fn share_of(numbers: &[u16], number: u16) -> usize {
        numbers.iter().filter(|n| **n == number).count()
    }

    #[test]
    fn turns_are_shared_by_weight_within_a_lap_and_evenly() {
        let ring = in_turn(&takers(&[(100, GROWN), (50, GROWN), (50, GROWN)]), 101);
        assert_eq!(ring.lap, 4);
        let lap = &ring.numbers[..4];
        assert_eq!((share_of(lap, 1), share_of(lap, 2), share_of(lap, 3)), (2, 1, 1), "{lap:?}");
        assert_ne!(lap[0], lap[1], "{lap:?}");
        assert_eq!(ring.numbers.len(), 101);
        assert_eq!(ring.numbers[4..8], ring.numbers[..4]);
    }

    #[test]
    fn a_lap_that_would_be_too_long_is_shared_as_nearly_as_may_be() {
        let ring = in_turn(&takers(&[(997, GROWN), (991, GROWN), (1, GROWN)]), 101);
        assert!(ring.lap <= 101);
        let lap = &ring.numbers[..ring.lap as usize];
        assert_eq!((share_of(lap, 1), share_of(lap, 2), share_of(lap, 3)), (50, 50, 1));
    }

    #[test]
    fn a_growing_backend_gets_fewer_turns() {
        let ring = in_turn(&takers(&[(1, GROWN), (1, 250)]), 101);
        assert_eq!(ring.lap, 5);
        assert_eq!(share_of(&ring.numbers[..5], 2), 1);
    }

    #[test]
    fn nobody_takes_no_turn() {
        let ring = in_turn(&[], 7);
        assert_eq!(ring, Ring { numbers: vec![0; 7].into(), lap: 0 });
        assert_eq!(each_once(&takers(&[(0, GROWN)]), 7), ring);
    }

    #[test]
    fn a_backend_grows_into_the_table_slot_by_slot() {
        const SLOTS: u32 = 10_007;
        let mut rings = Rings::default();
        let at = |rings: &mut Rings, grown| {
            let takers = takers(&[(100, GROWN), (100, GROWN), (100, GROWN), (100, grown)]);
            rings.ring("web", Scheduler::Maglev, &takers, SLOTS).numbers
        };
        let mut before = at(&mut rings, 1);
        let last = at(&mut rings, GROWN);
        let first = before.clone();
        for grown in (50..=1_000).step_by(50) {
            let now = at(&mut rings, grown);
            let moved: Vec<usize> =
                (0..now.len()).filter(|slot| now[*slot] != before[*slot]).collect();
            // Each slot goes from where it began to where it ends, and only once.
            assert!(
                moved.iter().all(|slot| before[*slot] == first[*slot] && now[*slot] == last[*slot])
            );
            assert!(moved.len() < SLOTS as usize * 3 / 100, "{} slots moved at once", moved.len());
            let due = share_of(&last, 4) as f64 * f64::from(grown) / 1_000.0;
            let has = share_of(&now, 4) as f64;
            assert!((has - due).abs() < due * 0.15 + 30.0, "{has} slots for {due} at {grown}");
            before = now;
        }
        assert_eq!(before, last);
    }

    #[test]
    fn where_all_start_slowly_nobody_does() {
        let mut rings = Rings::default();
        let slow = rings.ring("web", Scheduler::Maglev, &takers(&[(1, 10), (1, 20)]), 101);
        let full = rings.ring("web", Scheduler::Maglev, &takers(&[(1, GROWN), (1, GROWN)]), 101);
        assert_eq!(slow, full);
    }
}
