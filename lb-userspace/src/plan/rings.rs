//! Which backend each slot of a service gives to new flows, by the service's scheduler. Pure; equal
//! backends give equal tables, on every node.

use std::collections::BTreeMap;

use lb_common::Address;
use lb_common::maps::SHARE;

use crate::config::{Config, Scheduler};
use crate::maglev::{self, Member};

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    /// The backend's number, by slot; 0 for none.
    pub numbers: Vec<u16>,
    /// Slots that are gone through in turn.
    pub lap: u32,
}

/// Tables already computed: a service whose backends did not change keeps its table without work.
#[derive(Debug, Default)]
pub struct Rings(BTreeMap<String, Known>);

#[derive(Debug)]
struct Known {
    scheduler: Scheduler,
    members: Vec<(Member, bool)>,
    size: u32,
    /// With all that take new flows, and without those that start slowly.
    tables: (Vec<u16>, Vec<u16>),
}

impl Rings {
    /// Forgets services that are gone.
    pub(super) fn keep(&mut self, config: &Config) {
        self.0.retain(|name, _| config.services.contains_key(name));
    }

    /// A service's table of so many slots.
    pub(super) fn ring(
        &mut self,
        service: &str,
        scheduler: Scheduler,
        takers: &[Taker],
        size: u32,
    ) -> Ring {
        match scheduler {
            Scheduler::Maglev => {
                let numbers = self.hashed(service, takers, size);
                Ring { numbers, lap: 0 }
            }
            Scheduler::RoundRobin => in_turn(takers, size),
            Scheduler::LeastConn => each_once(takers, size),
        }
    }

    /// A Maglev table into which backends that start slowly grow slot by slot: each slot that is to
    /// be theirs in the end changes hands once, at a moment of its own.
    fn hashed(&mut self, service: &str, takers: &[Taker], size: u32) -> Vec<u16> {
        let (full, without) = self.tables(service, takers, size);
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
            .zip(full.iter().zip(without))
            .map(|(slot, (last, first))| {
                let grown = growing.get(last).copied().unwrap_or(slowest);
                let moment = maglev::mix(slot) % u64::from(GROWN);
                if moment < u64::from(grown) { *last } else { *first }
            })
            .collect()
    }

    fn tables(&mut self, service: &str, takers: &[Taker], size: u32) -> &(Vec<u16>, Vec<u16>) {
        let members: Vec<_> =
            takers.iter().map(|taker| (taker.member, taker.is_growing())).collect();
        let same = |known: &Known| {
            known.scheduler == Scheduler::Maglev && known.members == members && known.size == size
        };
        if !self.0.get(service).is_some_and(same) {
            let of = |all: bool| {
                let members = members.iter().filter(|(_, growing)| all || !growing);
                members.map(|(member, _)| *member).collect::<Vec<_>>()
            };
            let grown = of(false);
            // Where nobody is there to take the rest, nobody starts slowly.
            let partly = !grown.is_empty() && grown.len() < members.len();
            let without = if partly { maglev::table(&grown, size) } else { Vec::new() };
            let tables = (maglev::table(&of(true), size), without);
            let known = Known { scheduler: Scheduler::Maglev, members, size, tables };
            self.0.insert(service.to_owned(), known);
        }
        &self.0[service].tables
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
    Ring { numbers, lap: lap.len().min(size) as u32 }
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
        assert_eq!(ring, Ring { numbers: vec![0; 7], lap: 0 });
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
