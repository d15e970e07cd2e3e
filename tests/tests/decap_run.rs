//! The backends' program against its table of cases, and against the model on random frames.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use aya::programs::{TestRun, TestRunOptions};
use lb_common::Address;
use lb_common::cases::INGRESS;
use lb_common::cases::decap::{ALLOWED, cases};
use lb_common::decap::{MAPPED_BITS, Outcome, decap};
use lb_common::frame::MemoryFrame;
use lb_common::maps::Counter;
use lb_tests::bed::Bpffs;
use lb_tests::privilege::is_root_or_skips;
use lb_tests::prog_run::{Action, pin_to_one_cpu};
use lb_tests::random::{Random, seed};
use lb_userspace::decap::Program;
use lb_userspace::prefix::Prefix;

/// Loads the program with the prefixes of the cases.
fn load(bpffs: &Bpffs) -> Program {
    let prefix = |(address, length): &(Address, u32)| -> Prefix {
        let length = length - if address.v4_octets().is_some() { MAPPED_BITS } else { 0 };
        format!("{}/{length}", IpAddr::from(*address)).parse().expect("a prefix")
    };
    let from: BTreeSet<_> = ALLOWED.iter().map(prefix).collect();
    Program::load(&bpffs.path().join("decap"), &from).expect("the program loads")
}

fn run(program: &mut Program, frame: &[u8], scratch: &mut [u8]) -> (Action, Vec<u8>) {
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(scratch),
        ..TestRunOptions::default()
    };
    let result = program.xdp().expect("a program").test_run(options).expect("a run");
    let action = Action::from_number(result.return_value);
    (action, scratch[..result.data_size_out as usize].to_vec())
}

fn counters(program: &Program) -> BTreeMap<Outcome, Counter> {
    program.outcomes().expect("counters").into_iter().collect()
}

/// The counters after one more frame.
fn counted(
    mut before: BTreeMap<Outcome, Counter>,
    outcome: Outcome,
    length: usize,
) -> BTreeMap<Outcome, Counter> {
    if let Some(counter) = before.get_mut(&outcome) {
        counter.packets += 1;
        counter.bytes += length as u64;
    }
    before
}

fn expected(outcome: Outcome) -> Action {
    if outcome.passes() { Action::Pass } else { Action::Drop }
}

#[test]
fn every_case_of_decapsulation_comes_out_of_the_kernel_as_written() {
    if !is_root_or_skips("every_case_of_decapsulation_comes_out_of_the_kernel_as_written") {
        return;
    }
    pin_to_one_cpu().unwrap();
    let bpffs = Bpffs::new("decap cases");
    let mut program = load(&bpffs);
    let mut scratch = vec![0; 4096];
    for case in cases() {
        let before = counters(&program);
        let (action, output) = run(&mut program, &case.frame, &mut scratch);
        assert_eq!(action, expected(case.outcome), "{}", case.name);
        let after = counted(before, case.outcome, case.frame.len());
        assert_eq!(counters(&program), after, "{}", case.name);
        if case.outcome.passes() {
            assert_eq!(output, case.output, "{}", case.name);
        }
    }
}

#[test]
fn decapsulation_in_kernel_and_model_agree_on_mutated_frames() {
    if !is_root_or_skips("decapsulation_in_kernel_and_model_agree_on_mutated_frames") {
        return;
    }
    pin_to_one_cpu().unwrap();
    let bpffs = Bpffs::new("decap mutated");
    let mut program = load(&bpffs);
    let mut scratch = vec![0; 4096];
    let cases = cases();
    let seed = seed();
    let mut random = Random::new(seed);
    let mut seen = BTreeMap::new();
    for n in 0..100_000 {
        let mut bytes = cases[random.below(cases.len())].frame.clone();
        random.mutate(&mut bytes);
        let mut frame = MemoryFrame { bytes: bytes.clone(), ingress: INGRESS };
        let outcome = decap(&mut frame, &ALLOWED);
        *seen.entry(outcome).or_insert(0) += 1;
        let before = counters(&program);
        let (action, output) = run(&mut program, &bytes, &mut scratch);
        let context = || format!("LB_SEED={seed}, frame {n}: {bytes:02x?}, model: {outcome:?}");
        assert_eq!(action, expected(outcome), "{}", context());
        assert_eq!(counters(&program), counted(before, outcome, bytes.len()), "{}", context());
        if outcome.passes() {
            assert_eq!(output, frame.bytes, "{}", context());
        }
    }
    println!("{seen:#?}");
    // All but the one that needs a driver without room.
    assert_eq!(seen.len(), Outcome::COUNTED.len(), "not every outcome was seen: {seen:?}");
}
