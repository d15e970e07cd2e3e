//! The loaded programs against the table of cases, and against the model on random frames.

use std::net::SocketAddr;

use lb_common::Verdict;
use lb_common::builder::{Packet, tcp_flag};
use lb_common::cases::{self, INGRESS, world};
use lb_common::frame::MemoryFrame;
use lb_common::process::process;
use lb_common::verdict::ENTRY_PROGRAM;
use lb_tests::bed::Bpffs;
use lb_tests::privilege::is_root_or_skips;
use lb_tests::prog_run::{Action, Kernel, pin_to_one_cpu};
use lb_tests::random::{Random, seed};
use lb_userspace::image::Features;

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
fn programs_that_guard_nobody_are_without_the_code_for_it() {
    if !is_root_or_skips("programs_that_guard_nobody_are_without_the_code_for_it") {
        return;
    }
    let bpffs = Bpffs::new("guards");
    let tables = cases::tables();
    let load = |guards| {
        let directory = bpffs.path().join(format!("guards-{guards}"));
        Kernel::load_with(&directory, &tables, Features { guards, tunnels: false }).unwrap()
    };
    let (mut with, mut without) = (load(true), load(false));
    for program in [ENTRY_PROGRAM, "lb_transition"] {
        let sizes = (with.size(program).unwrap(), without.size(program).unwrap());
        assert!(sizes.1 < sizes.0, "{program}: {sizes:?}");
    }
    // Whom the tables do not let in.
    let denied = SocketAddr::new(world::DENIED.into(), 40_000);
    let frame = Packet::tcp(denied, world::vip(world::GUARDED)).flags(tcp_flag::SYN).build();
    assert_eq!(with.run(&frame).unwrap().0, Action::Drop, "{}", with.counters());
    assert_eq!(without.run(&frame).unwrap().0, Action::Transmit, "{}", without.counters());
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
