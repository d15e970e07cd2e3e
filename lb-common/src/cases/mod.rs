//! The table of cases: tables, a frame in, the verdict and the frame out. The same table runs
//! through the host's packet code and through the loaded program.

mod answered;
mod chosen;
pub mod decap;
mod declined;
mod errors;
mod fragmented;
mod steered;
mod tunnelled;
pub mod world;

use alloc::string::String;
use alloc::vec::Vec;

use crate::verdict::Verdict;

pub use world::{EGRESS, EGRESS_MAC, INGRESS, backend_mac, tables};

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it shows, as a sentence.
    pub name: String,
    /// The frame as it comes in.
    pub frame: Vec<u8>,
    /// What becomes of it.
    pub verdict: Verdict,
    /// The frame as it goes out.
    pub output: Vec<u8>,
}

/// All cases, in order: some rely on what those before them left in the records of flows.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    steered::forwarded(&mut cases);
    declined::passed(&mut cases);
    declined::dropped(&mut cases);
    answered::answered(&mut cases);
    steered::remembered(&mut cases);
    answered::refused(&mut cases);
    chosen::in_turn(&mut cases);
    chosen::least(&mut cases);
    chosen::named(&mut cases);
    chosen::guarded(&mut cases);
    fragmented::steered(&mut cases);
    fragmented::declined(&mut cases);
    errors::steered(&mut cases);
    errors::declined(&mut cases);
    tunnelled::encapsulated(&mut cases);
    tunnelled::too_big(&mut cases);
    cases
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::frame::MemoryFrame;
    use crate::process::process;
    use crate::verdict::{Drop, Pass};
    use std::collections::BTreeSet;

    #[test]
    fn every_case_comes_out_as_written() {
        let tables = tables();
        for case in cases() {
            let mut frame = MemoryFrame { bytes: case.frame, ingress: INGRESS };
            let verdict = process(&mut frame, &tables);
            assert_eq!(verdict, case.verdict, "{}", case.name);
            assert_eq!(frame.bytes, case.output, "{}", case.name);
        }
    }

    #[test]
    fn every_verdict_that_a_frame_can_cause_has_a_case() {
        let seen: BTreeSet<_> = cases().iter().map(|case| case.verdict.name()).collect();
        // These need a broken kernel or a daemon that forgot an interface.
        let unreachable = [
            Verdict::Pass(Pass::NoProgram),
            Verdict::Pass(Pass::NoTable),
            Verdict::Pass(Pass::UnknownInterface),
            Verdict::Drop(Drop::NoRoom),
        ];
        for verdict in Verdict::counted().filter(|verdict| !unreachable.contains(verdict)) {
            assert!(seen.contains(&verdict.name()), "no case for {verdict}");
        }
    }

    #[test]
    fn a_frame_cut_anywhere_is_never_forwarded() {
        let tables = tables();
        for case in cases().into_iter().filter(|case| matches!(case.verdict, Verdict::Forward(_))) {
            for length in 0..case.frame.len() {
                let bytes = case.frame[..length].to_vec();
                let mut frame = MemoryFrame { bytes: bytes.clone(), ingress: INGRESS };
                let verdict = process(&mut frame, &tables);
                assert!(
                    matches!(verdict, Verdict::Pass(_) | Verdict::Drop(_)),
                    "{} cut to {length} bytes: {verdict}",
                    case.name
                );
                assert_eq!(frame.bytes, bytes, "{} cut to {length} bytes", case.name);
            }
        }
    }
}
