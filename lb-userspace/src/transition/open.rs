//! The packet path's count of open flows, and what a census says about it: flows that were never
//! heard of again, or crowded out, are counted for ever else. Pure.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::maps::{BACKEND_IN_USE, SERVICE_LEAST_CONN};

use crate::image::Image;

/// What the packet path has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Open flows of a backend line.
    pub open: u64,
    /// Flows that its service has given out, ever.
    pub begun: u64,
}

/// Lines of backends whose open flows the packet path counts, with their services' ids.
pub fn counted_lines(image: &Image) -> impl Iterator<Item = (u32, u32)> {
    let regions: BTreeSet<(u32, u32, u32)> = image
        .listeners
        .values()
        .filter(|entry| entry.flags & SERVICE_LEAST_CONN != 0)
        .map(|entry| (entry.backend_base, entry.backend_lines, entry.id))
        .collect();
    regions.into_iter().flat_map(|(base, lines, id)| {
        let in_use = image.backends.range(base..base + lines);
        let in_use = in_use.filter(|(_, backend)| backend.flags & BACKEND_IN_USE != 0);
        in_use.map(move |(line, _)| (*line, id))
    })
}

/// Open flows by backend line.
#[derive(Clone, Debug, Default)]
pub(super) struct OpenFlows(BTreeMap<u32, Tally>);

#[derive(Clone, Copy, Debug)]
struct Tally {
    /// When the census began.
    before: Counted,
    found: u64,
    forgotten: u64,
}

impl OpenFlows {
    pub(super) fn new(before: BTreeMap<u32, Counted>) -> Self {
        let tally = |before| Tally { before, found: 0, forgotten: 0 };
        Self(before.into_iter().map(|(line, before)| (line, tally(before))).collect())
    }

    /// Takes note of a record of a flow that is open, and whether it stays.
    pub(super) fn count(&mut self, line: u32, stays: bool) {
        if let Some(tally) = self.0.get_mut(&line) {
            tally.found += u64::from(stays);
            tally.forgotten += u64::from(!stays);
        }
    }

    /// What is to be added to the packet path's count, by line, given what it is now. Where flows
    /// began and ended while their records were gone through, some were found and some not: only
    /// what this does not explain is corrected. A count that is off by one is enough to keep a
    /// backend of short connections from its share.
    pub(super) fn corrections(&self, now: &BTreeMap<u32, Counted>) -> Vec<(u32, i64)> {
        let off = |(line, tally): (&u32, &Tally)| {
            let now = now.get(line)?;
            let (before, now, begun) = (
                tally.before.open as i64,
                now.open as i64,
                now.begun.wrapping_sub(tally.before.begun),
            );
            let forgotten = tally.forgotten as i64;
            let least = before.min(now) - forgotten - begun as i64;
            let most = before.max(now) - forgotten + begun as i64;
            let found = tally.found as i64;
            let by = found - found.clamp(least, most) - forgotten;
            (by != 0).then_some((*line, by))
        };
        self.0.iter().filter_map(off).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_corrected_by_what_flows_that_came_and_went_do_not_explain() {
        // Open before and now, begun meanwhile, records that were found and that were forgotten.
        for ((before, now, begun, found, forgotten), by) in [
            ((10, 10, 0, 10, 0), 0),
            // Forgotten, all of them or some.
            ((10, 10, 0, 0, 10), -10),
            ((10, 12, 3, 9, 3), -3),
            // Crowded out; found once more after that.
            ((10, 10, 0, 7, 0), -3),
            ((10, 10, 0, 13, 0), 3),
            // Below nought.
            ((-2, -2, 0, 1, 0), 3),
            // Came and went, whether they were found or not.
            ((1, 1, 500, 0, 0), 0),
            ((0, 1, 500, 3, 0), 0),
            // Ended meanwhile.
            ((100, 0, 0, 40, 0), 0),
            // More than that is wrong.
            ((100, 90, 5, 40, 0), -45),
        ] {
            let counted =
                |open: i64, begun| BTreeMap::from([(7, Counted { open: open as u64, begun })]);
            let mut open = OpenFlows::new(counted(before, 1_000));
            (0..found).for_each(|_| open.count(7, true));
            (0..forgotten).for_each(|_| open.count(7, false));
            let corrections = open.corrections(&counted(now, 1_000 + begun));
            let got = corrections.iter().map(|(_, by)| *by).sum::<i64>();
            assert_eq!(got, by, "{:?}", (before, now, begun, found, forgotten));
        }
    }

    #[test]
    fn a_line_that_is_counted_no_more_is_left_alone() {
        let open = OpenFlows::new(BTreeMap::from([(7, Counted { open: 5, begun: 0 })]));
        assert_eq!(open.corrections(&BTreeMap::new()), []);
    }
}
