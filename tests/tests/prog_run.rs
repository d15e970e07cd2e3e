//! The loaded programs against the table of cases, and against the model on random frames.

use lb_common::Verdict;
use lb_common::cases::{self, INGRESS};
use lb_common::frame::MemoryFrame;
use lb_common::process::process;
use lb_tests::bed::Bpffs;
use lb_tests::privilege::is_root_or_skips;
use lb_tests::prog_run::{Action, Kernel, pin_to_one_cpu};
use lb_tests::random::{Random, seed};

#[test]
fn every_case_comes_out_of_the_kernel_as_written() {
    if !is_root_or_skips("every_case_comes_out_of_the_kernel_as_written") {
        return;
    }
    pin_to_one_cpu().unwrap();
    let bpffs = Bpffs::new("cases");
    let mut kernel = Kernel::load(&bpffs.path().join("lb"), &cases::tables()).unwrap();
    for case in cases::cases() {
        let before = kernel.counter(case.verdict).unwrap();
        let (action, output) = kernel.run(&case.frame).unwrap();
        assert_eq!(action, Action::of(case.verdict), "{}: {}", case.name, kernel.counters());
        assert_eq!(output, case.output, "{}", case.name);
        let after = kernel.counter(case.verdict).unwrap();
        assert_eq!(after.packets, before.packets + 1, "{}: {}", case.name, kernel.counters());
        assert_eq!(after.bytes, before.bytes + case.frame.len() as u64, "{}", case.name);
    }
}

#[test]
fn kernel_and_model_agree_on_a_hundred_thousand_mutated_frames() {
    if !is_root_or_skips("kernel_and_model_agree_on_a_hundred_thousand_mutated_frames") {
        return;
    }
    pin_to_one_cpu().unwrap();
    let bpffs = Bpffs::new("mutated");
    let tables = cases::tables();
    let mut kernel = Kernel::load(&bpffs.path().join("lb"), &tables).unwrap();
    let cases = cases::cases();
    let seed = seed();
    let mut random = Random::new(seed);
    let mut seen = std::collections::BTreeMap::new();
    for n in 0..100_000 {
        let mut bytes = cases[random.below(cases.len())].frame.clone();
        random.mutate(&mut bytes);
        let mut frame = MemoryFrame { bytes: bytes.clone(), ingress: INGRESS };
        let verdict = process(&mut frame, &tables);
        *seen.entry(verdict.name()).or_insert(0) += 1;
        let before = kernel.counter(verdict).unwrap();
        let (action, output) = kernel.run(&bytes).unwrap();
        let after = kernel.counter(verdict).unwrap();
        let context = || format!("LB_SEED={seed}, frame {n}: {bytes:02x?}, model: {verdict}");
        assert_eq!(action, Action::of(verdict), "{}", context());
        assert_eq!(after.packets, before.packets + 1, "{}", context());
        // What is dropped is nobody's frame any more.
        if !matches!(verdict, Verdict::Drop(_)) {
            assert_eq!(output, frame.bytes, "{}", context());
        }
    }
    println!("{seen:#?}");
    assert!(seen.len() > 20, "the mutations reach few verdicts: {seen:?}");
}
