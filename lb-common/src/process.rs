//! All programs in a row, as tail calls chain them in the kernel: for the host.

use crate::answer::answer;
use crate::error::judge_error;
use crate::fragment::{judge_fragment, tell};
use crate::frame::Frame;
use crate::judge::{judge, judge_guarded, judge_transition};
use crate::refuse::refuse;
use crate::rewrite::apply;
use crate::tables::Tables;
use crate::too_big::too_big;
use crate::verdict::{Program, Step, Verdict};

/// What becomes of a frame, in verdict and bytes.
pub fn process<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Verdict {
    let mut step = judge::<true, F, T>(frame, tables);
    loop {
        let verdict = match step {
            Step::Done(verdict) => verdict,
            Step::Then(Program::Answer) => match answer(frame, tables) {
                Step::Done(verdict) => return verdict,
                then @ Step::Then(_) => {
                    step = then;
                    continue;
                }
            },
            Step::Then(Program::Refuse) => return refuse(frame, tables),
            Step::Then(Program::TooBig) => return too_big(frame, tables),
            Step::Then(Program::Error) => {
                step = judge_error(frame, tables);
                continue;
            }
            Step::Then(Program::Fragment) => {
                let told = tell(frame, tables);
                step = match told.certain() {
                    Some(step) => step,
                    None => judge_fragment(frame, tables, told),
                };
                continue;
            }
            Step::Then(Program::Transition) => {
                step = judge_transition(frame, tables);
                continue;
            }
            Step::Then(Program::Guard) => {
                step = judge_guarded(frame, tables);
                continue;
            }
        };
        return apply(frame, verdict);
    }
}
