//! Rise and fall: turns the results of probes into a status. Pure.
//!
//! ```text
//!             rise successes in a row            fall failures in a row
//!   Unknown ---------------------------> Up <-----------------------------+
//!      |                                  |                               |
//!      |  fall failures in a row          |  fall failures in a row       |
//!      +-----------------------> Down <---+     (Down -> Up: rise successes in a row)
//! ```

use jiff::Timestamp;

use crate::state::Status;

/// The status of one backend and the run of equal results that led here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    status: Status,
    since: Timestamp,
    /// The last result, and how many in a row were like it; `None` before the first probe.
    run: Option<Run>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    passed: bool,
    length: u32,
}

/// What a result did to the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing.
    Kept,
    /// It moved.
    Changed {
        /// The status before.
        from: Status,
        /// The status now.
        to: Status,
    },
}

impl Machine {
    /// A backend that has not been probed by this process. `initial` is what is believed of it:
    /// [`Status::Up`] for one that an earlier daemon left serving, else [`Status::Unknown`].
    pub const fn new(initial: Status, now: Timestamp) -> Self {
        Self { status: initial, since: now, run: None }
    }

    /// Takes one result. `rise` and `fall` are the lengths of runs that change the status; 0
    /// counts as 1.
    pub fn observe(&mut self, passed: bool, rise: u32, fall: u32, now: Timestamp) -> Outcome {
        let length = match self.run {
            Some(run) if run.passed == passed => run.length.saturating_add(1),
            _ => 1,
        };
        self.run = Some(Run { passed, length });
        let (to, needed) = if passed { (Status::Up, rise) } else { (Status::Down, fall) };
        if to == self.status || length < needed {
            return Outcome::Kept;
        }
        let from = self.status;
        self.status = to;
        self.since = now;
        Outcome::Changed { from, to }
    }

    /// Where the backend stands.
    pub const fn status(&self) -> Status {
        self.status
    }

    /// When the status last changed.
    pub const fn since(&self) -> Timestamp {
        self.since
    }

    /// Whether the last result agrees with the status: then the next probe has time. Not while
    /// the status is unknown, nor while results speak against it. An adopted backend that was
    /// not probed yet counts as settled.
    pub const fn is_settled(&self) -> bool {
        match (self.status, self.run) {
            (Status::Unknown, _) => false,
            (_, None) => true,
            (Status::Up, Some(run)) => run.passed,
            (Status::Down, Some(run)) => !run.passed,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// A machine with `initial` that has seen `results`, rise 2 and fall 3.
    fn after(initial: Status, results: &[bool]) -> Machine {
        let mut machine = Machine::new(initial, at(0));
        for (second, &passed) in (1..).zip(results) {
            machine.observe(passed, 2, 3, at(second));
        }
        machine
    }

    #[test]
    fn every_state_takes_every_result() {
        use Status::{Down, Unknown, Up};
        const S: bool = true;
        const F: bool = false;
        // Start, results before, result => status after it, settled after it.
        let table: &[(Status, &[bool], bool, Status, bool)] = &[
            (Unknown, &[], S, Unknown, false),
            (Unknown, &[], F, Unknown, false),
            (Unknown, &[S], S, Up, true),
            (Unknown, &[S], F, Unknown, false),
            (Unknown, &[F], S, Unknown, false),
            (Unknown, &[F], F, Unknown, false),
            (Unknown, &[F, F], S, Unknown, false),
            (Unknown, &[F, F], F, Down, true),
            (Up, &[], S, Up, true),
            (Up, &[], F, Up, false),
            (Up, &[S], S, Up, true),
            (Up, &[S], F, Up, false),
            (Up, &[F], S, Up, true),
            (Up, &[F], F, Up, false),
            (Up, &[F, F], S, Up, true),
            (Up, &[F, F], F, Down, true),
            (Down, &[], S, Down, false),
            (Down, &[], F, Down, true),
            (Down, &[S], S, Up, true),
            (Down, &[S], F, Down, true),
            (Down, &[F], S, Down, false),
            (Down, &[F], F, Down, true),
        ];
        for &(initial, before, result, status, settled) in table {
            let mut machine = after(initial, before);
            let from = machine.status();
            let outcome = machine.observe(result, 2, 3, at(100));
            let case = format!("{initial:?} {before:?} {result}");
            assert_eq!(machine.status(), status, "{case}");
            assert_eq!(machine.is_settled(), settled, "{case}");
            if from == status {
                assert_eq!(outcome, Outcome::Kept, "{case}");
                assert_ne!(machine.since(), at(100), "{case}");
            } else {
                assert_eq!(outcome, Outcome::Changed { from, to: status }, "{case}");
                assert_eq!(machine.since(), at(100), "{case}");
            }
        }
    }

    #[test]
    fn an_adopted_backend_is_settled_before_its_first_probe() {
        assert!(after(Status::Up, &[]).is_settled());
        assert!(!after(Status::Unknown, &[]).is_settled());
    }

    #[test]
    fn a_shorter_rise_counts_from_the_next_result() {
        let mut machine = Machine::new(Status::Down, at(0));
        assert_eq!(machine.observe(true, 10, 3, at(1)), Outcome::Kept);
        assert_eq!(machine.observe(true, 10, 3, at(2)), Outcome::Kept);
        let outcome = machine.observe(true, 2, 3, at(3));
        assert_eq!(outcome, Outcome::Changed { from: Status::Down, to: Status::Up });
    }

    /// The rule as a person would say it, over the whole history: the status is that of the
    /// latest run that was long enough, else the initial one.
    fn model(initial: Status, results: &[bool], rise: u32, fall: u32) -> Status {
        let mut status = initial;
        for end in 1..=results.len() {
            let last = results[end - 1];
            let run = results[..end].iter().rev().take_while(|&&r| r == last).count();
            if last && run >= rise.max(1) as usize {
                status = Status::Up;
            } else if !last && run >= fall.max(1) as usize {
                status = Status::Down;
            }
        }
        status
    }

    proptest! {
        #[test]
        fn the_status_is_that_of_the_latest_long_enough_run(
            results in prop::collection::vec(any::<bool>(), 0..60),
            rise in 0u32..6,
            fall in 0u32..6,
            initial in prop::sample::select(vec![Status::Unknown, Status::Up, Status::Down]),
        ) {
            let mut machine = Machine::new(initial, at(0));
            let mut changed_at = at(0);
            for (i, &passed) in results.iter().enumerate() {
                let now = at(i as i64 + 1);
                let before = machine.status();
                let outcome = machine.observe(passed, rise, fall, now);
                let expected = model(initial, &results[..=i], rise, fall);
                prop_assert_eq!(machine.status(), expected);
                let changed = before != machine.status();
                prop_assert_eq!(outcome != Outcome::Kept, changed);
                if changed {
                    changed_at = now;
                }
                prop_assert_eq!(machine.since(), changed_at);
            }
        }
    }
}
