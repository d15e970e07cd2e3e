//! When to make the kernel ask a neighbour. Pure: time is passed in.
//!
//! The kernel asks when it has something to send, and then believes an answer for half a minute
//! or more. This host sends next to nothing to its backends (XDP transmits behind the kernel's
//! back), and a backend that moved to another hardware address should be followed in seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::table::{Need, Table};

/// From one verification of a known neighbour to the next: a unicast question and its answer.
const VERIFY: Duration = Duration::from_secs(5);
/// Delays between questions to a neighbour that does not answer; the last one repeats.
const BACKOFF: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(5)];

/// Remembers whom it asked.
#[derive(Debug, Default)]
pub(super) struct Asker {
    turns: BTreeMap<IpAddr, Turn>,
}

#[derive(Clone, Copy, Debug)]
enum Turn {
    Resolving { asked: usize, next: Instant },
    Verifying { next: Instant },
}

/// Something to ask of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// Find the neighbour.
    Resolve { ifindex: u32, address: IpAddr },
    /// Ask the neighbour whether it is still there.
    Verify { ifindex: u32, address: IpAddr },
}

impl Asker {
    /// What to ask now.
    pub(super) fn due(
        &mut self,
        table: &Table,
        targets: &BTreeSet<IpAddr>,
        now: Instant,
    ) -> Vec<Question> {
        self.turns.retain(|address, _| targets.contains(address));
        targets.iter().filter_map(|&address| self.question(table, address, now)).collect()
    }

    fn question(&mut self, table: &Table, address: IpAddr, now: Instant) -> Option<Question> {
        match table.need(address) {
            Need::Nothing => {
                self.turns.remove(&address);
                None
            }
            // The turn stays: a neighbour that fails again goes on with its backoff.
            Need::Wait => None,
            Need::Resolve { ifindex, neighbour } => {
                let (asked, next) = match self.turns.get(&address) {
                    Some(&Turn::Resolving { asked, next }) => (asked, next),
                    // Known until now, or never seen: at once.
                    Some(Turn::Verifying { .. }) | None => (0, now),
                };
                let is_due = next <= now;
                let turn = if is_due {
                    let delay = BACKOFF[asked.min(BACKOFF.len() - 1)];
                    Turn::Resolving { asked: asked + 1, next: now + delay }
                } else {
                    Turn::Resolving { asked, next }
                };
                self.turns.insert(address, turn);
                is_due.then_some(Question::Resolve { ifindex, address: neighbour })
            }
            Need::Verify { ifindex, neighbour, stale } => {
                let next = match self.turns.get(&address) {
                    Some(&Turn::Verifying { next }) => next,
                    // Just resolved.
                    Some(Turn::Resolving { .. }) => now + VERIFY,
                    None if stale => now,
                    None => now + VERIFY,
                };
                let is_due = next <= now;
                let next = if is_due { now + VERIFY } else { next };
                self.turns.insert(address, Turn::Verifying { next });
                is_due.then_some(Question::Verify { ifindex, address: neighbour })
            }
        }
    }

    /// When something will be due, if nothing changes.
    pub(super) fn next(&self) -> Option<Instant> {
        let next = |turn: &Turn| match *turn {
            Turn::Resolving { next, .. } | Turn::Verifying { next } => next,
        };
        self.turns.values().map(next).min()
    }
}

#[cfg(test)]
mod tests {
    use lb_common::Mac;

    use super::*;
    use crate::net::table::{Neighbour, Reach, Route};
    use crate::state::Link;

    struct Bench {
        asker: Asker,
        table: Table,
        targets: BTreeSet<IpAddr>,
        start: Instant,
    }

    fn address() -> IpAddr {
        "192.0.2.21".parse().unwrap()
    }

    const RESOLVE: bool = true;
    const VERIFY: bool = false;

    impl Bench {
        fn new() -> Self {
            let mac = Mac::new([2, 0, 0, 0, 0, 1]);
            let mut table = Table::default();
            table.set_link(Link { ifindex: 2, name: "eth0".to_owned(), mac, up: true, mtu: 1500 });
            table.set_route(address(), Route::By { ifindex: 2, gateway: None, local: None });
            let targets = BTreeSet::from([address()]);
            Self { asker: Asker::default(), table, targets, start: Instant::now() }
        }

        fn becomes(&mut self, reach: Reach) {
            let mac = Some(Mac::new([2, 0, 0, 0, 0, 0x21]));
            self.table.set_neighbour(2, address(), Neighbour { reach, mac });
        }

        /// What is asked at a time in milliseconds, and that nothing is asked twice.
        fn at(&mut self, ms: u64) -> Option<bool> {
            let now = self.start + Duration::from_millis(ms);
            let asked = self.asker.due(&self.table, &self.targets, now);
            assert_eq!(self.asker.due(&self.table, &self.targets, now), []);
            match asked.as_slice() {
                [] => None,
                [Question::Resolve { ifindex: 2, .. }] => Some(RESOLVE),
                [Question::Verify { ifindex: 2, .. }] => Some(VERIFY),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn an_unknown_neighbour_is_asked_at_once_and_then_less_and_less_often() {
        let mut bench = Bench::new();
        let asked: Vec<_> = (0..20_000).step_by(100).filter(|&ms| bench.at(ms).is_some()).collect();
        assert_eq!(asked, [0, 1_000, 3_000, 8_000, 13_000, 18_000]);
    }

    #[test]
    fn the_backoff_goes_on_through_the_kernels_own_attempts() {
        let mut bench = Bench::new();
        assert_eq!(bench.at(0), Some(RESOLVE));
        bench.becomes(Reach::Incomplete);
        assert_eq!(bench.at(1_500), None);
        bench.becomes(Reach::Failed);
        assert_eq!(bench.at(3_000), Some(RESOLVE));
        assert_eq!(bench.at(4_900), None);
        assert_eq!(bench.at(5_000), Some(RESOLVE));
    }

    #[test]
    fn a_known_neighbour_is_verified_every_five_seconds() {
        let mut bench = Bench::new();
        bench.becomes(Reach::Reachable);
        let asked: Vec<_> = (0..16_000).step_by(100).filter(|&ms| bench.at(ms).is_some()).collect();
        assert_eq!(asked, [5_000, 10_000, 15_000]);
    }

    #[test]
    fn a_neighbour_that_is_stale_when_first_seen_is_verified_at_once() {
        let mut bench = Bench::new();
        bench.becomes(Reach::Stale);
        assert_eq!(bench.at(0), Some(VERIFY));
        bench.becomes(Reach::Probe);
        assert_eq!(bench.at(100), None);
    }

    #[test]
    fn a_neighbour_that_fails_is_asked_for_at_once() {
        let mut bench = Bench::new();
        bench.becomes(Reach::Stale);
        assert_eq!(bench.at(0), Some(VERIFY));
        bench.becomes(Reach::Failed);
        assert_eq!(bench.at(100), Some(RESOLVE));
    }

    #[test]
    fn nobody_is_asked_without_need() {
        let mut bench = Bench::new();
        bench.becomes(Reach::Permanent);
        assert_eq!(bench.at(60_000), None);
        assert_eq!(bench.asker.next(), None);
        bench.becomes(Reach::Failed);
        bench.targets.clear();
        assert_eq!(bench.at(61_000), None);
    }

    #[test]
    fn the_next_time_is_told() {
        let mut bench = Bench::new();
        assert_eq!(bench.at(0), Some(RESOLVE));
        assert_eq!(bench.asker.next(), Some(bench.start + Duration::from_secs(1)));
    }
}
