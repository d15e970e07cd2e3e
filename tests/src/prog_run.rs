//! Running the loaded programs on frames of our own: `BPF_PROG_TEST_RUN`, and tables written
//! straight into the maps.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use lb_common::maps::{Counter, FlowKey, Pin, SLOTS_PER_LINE};
use lb_common::memory::MemoryTables;
use lb_common::tables::Record;
use lb_common::{Route, Verdict};
use lb_userspace::dataplane::Dataplane;
use lb_userspace::dataplane::bpf::Bpf;
use lb_userspace::image::{Capacity, Features};

/// The loaded programs with their maps.
pub struct Kernel {
    bpf: Bpf,
    scratch: Vec<u8>,
}

/// What XDP does with a frame (`enum xdp_action`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `XDP_ABORTED`, or a number that is no action.
    Aborted,
    /// `XDP_DROP`
    Drop,
    /// `XDP_PASS`
    Pass,
    /// `XDP_TX`
    Transmit,
    /// `XDP_REDIRECT`
    Redirect,
}

impl Action {
    /// What a program returned.
    pub const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Drop,
            2 => Self::Pass,
            3 => Self::Transmit,
            4 => Self::Redirect,
            _ => Self::Aborted,
        }
    }

    /// What a verdict comes to.
    pub fn of(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Pass(_) => Self::Pass,
            Verdict::Drop(_) => Self::Drop,
            Verdict::Answer(_) | Verdict::Forward(Route { redirect: None, .. }) => Self::Transmit,
            Verdict::Forward(Route { redirect: Some(_), .. }) => Self::Redirect,
        }
    }
}

impl Kernel {
    /// Loads the programs with maps of the tables' size, pinned under `pin_dir`, and writes the
    /// tables into them.
    pub fn load(pin_dir: &Path, tables: &MemoryTables) -> Result<Self> {
        Self::load_with(pin_dir, tables, Features { guards: true, tunnels: true })
    }

    /// The same of programs with fewer features.
    pub fn load_with(pin_dir: &Path, tables: &MemoryTables, features: Features) -> Result<Self> {
        let capacity = Capacity {
            slots: tables.slots.len() as u32,
            backends: tables.backend_lines,
            // More than any test remembers: what is evicted would be the model's to know.
            pins: 1 << 20,
            half_open: 1 << 18,
            sources: 1 << 16,
        };
        let mut bpf = Bpf::open(pin_dir, capacity, features)?;
        bpf.write_tables(tables)?;
        Ok(Self { bpf, scratch: vec![0; 128 * 1024] })
    }

    /// How much fits into the maps.
    pub fn capacity(&self) -> Capacity {
        self.bpf.capacity()
    }

    /// What the programs can do.
    pub fn features(&self) -> Features {
        self.bpf.features()
    }

    /// The loaded object.
    pub fn ebpf_mut(&mut self) -> &mut aya::Ebpf {
        self.bpf.ebpf_mut()
    }

    /// Bytes of a program's instructions, when the verifier has taken out what is never reached.
    pub fn size(&self, program: &str) -> Result<u32> {
        let program = self.bpf.ebpf().program(program).context("no such program")?;
        let info = program.info().context("failed to ask about the program")?;
        info.size_translated().context("the kernel does not tell the size")
    }

    /// Runs a frame through the first program: what was done with it, and the frame after.
    pub fn run(&mut self, frame: &[u8]) -> Result<(Action, Vec<u8>)> {
        let entry = self.bpf.features().entry();
        let program = self.bpf.ebpf_mut().program_mut(entry).context("no entry program")?;
        let program: &mut Xdp = program.try_into().context("no XDP program")?;
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut self.scratch),
            ..TestRunOptions::default()
        };
        let result = program.test_run(options).context("failed to run the program")?;
        let action = Action::from_number(result.return_value);
        Ok((action, self.scratch[..result.data_size_out as usize].to_vec()))
    }

    /// All that is remembered of flows.
    pub fn records(&self) -> Result<BTreeMap<(Record, FlowKey), Pin>> {
        let mut found = BTreeMap::new();
        self.bpf.records()?.retain(|record, key, pin| {
            found.insert((record, *key), *pin);
            true
        })?;
        Ok(found)
    }

    /// The counter that a verdict moves.
    pub fn counter(&self, verdict: Verdict) -> Result<Counter> {
        match verdict {
            Verdict::Forward(route) => self.bpf.backend_counter(route.line),
            other => self.bpf.verdict_counter(other),
        }
    }

    /// All verdict counters that are not zero, for messages.
    pub fn counters(&self) -> String {
        let counted = Verdict::counted().filter_map(|verdict| {
            let counter = self.bpf.verdict_counter(verdict).ok()?;
            (counter.packets > 0).then(|| format!("{verdict}: {}", counter.packets))
        });
        counted.collect::<Vec<_>>().join(", ")
    }
}

/// Slot lines of a slot count.
pub const fn lines(slots: u32) -> u32 {
    slots.div_ceil(SLOTS_PER_LINE)
}

/// Keeps the calling thread on one CPU. Moving between CPUs in the middle of a run would change
/// caches, and what each CPU counts for itself.
pub fn pin_to_one_cpu() -> Result<()> {
    let here = nix::unistd::Pid::from_raw(0);
    let allowed = nix::sched::sched_getaffinity(here).context("failed to ask for the CPUs")?;
    let last = (0..nix::sched::CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu) == Ok(true));
    let mut one = nix::sched::CpuSet::new();
    one.set(last.context("no CPU is allowed")?).context("no such CPU")?;
    nix::sched::sched_setaffinity(here, &one).context("failed to stay on one CPU")
}
