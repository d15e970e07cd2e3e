//! Loads the driver program, and has it call one program after another.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use lb_common::maps::{SLOTS_PER_LINE, SlotLine, names};
use lb_common::memory::MemoryTables;
use lb_common::verdict::ENTRY_PROGRAM;
use lb_userspace::image::Features;
use nix::time::{ClockId, clock_gettime};

use super::Case;
use super::world::{self, Kind};
use crate::prog_run::{Kernel, pin_to_one_cpu};

/// The programs that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The product's.
    Product,
    /// Swaps the MACs and transmits.
    Swap,
    /// Parses and transmits.
    Parse,
    /// That of another object.
    Against,
}

impl Target {
    pub(super) const ALL: [Self; 4] = [Self::Product, Self::Swap, Self::Parse, Self::Against];
}

/// The layout of the driver's `WALK` map.
#[derive(Clone, Copy)]
#[repr(C)]
struct Walk {
    step: u64,
    mask: u64,
    macs: [u64; 2],
    address_at: u32,
    port_at: u32,
    length: u32,
    ether_type: u32,
}

// SAFETY: `repr(C)`, integers only, no padding (eight-byte words, and halves of two).
unsafe impl Pod for Walk {}

/// The programs, loaded.
pub struct Bench {
    /// With records of a few flows, which stay.
    product: Kernel,
    /// With records that are crowded out all the time.
    flooded: Kernel,
    /// With programs that ask who may come in.
    guarded: Kernel,
    /// With programs that encapsulate.
    tunnelled: Kernel,
    against: Option<Ebpf>,
    lab: Ebpf,
    walk: Array<MapData, Walk>,
    target: ProgramArray<MapData>,
    /// Steps that each case with new flows has walked.
    walked: Vec<(Kind, u64)>,
    /// Kinds whose flows have been recorded.
    recorded: Vec<Kind>,
}

impl Bench {
    /// Loads the product with the benchmark's tables, another object with the same if there is one,
    /// and the lab's programs.
    pub fn load(bpffs: &Path, lab: &Path, against: Option<&Path>) -> Result<Self> {
        pin_to_one_cpu()?;
        let tables = world::tables();
        let kernel = |name: &str, guards, tunnels| {
            Kernel::load_with(&bpffs.join(name), &tables, Features { guards, tunnels })
        };
        let mut lab = EbpfLoader::new()
            .load_file(lab)
            .with_context(|| format!("failed to load {}", lab.display()))?;
        let walk = lab.take_map("WALK").context("the lab has no WALK")?;
        let target = lab.take_map("TARGET").context("the lab has no TARGET")?;
        for name in ["bench_driver", "bench_swap", "bench_parse"] {
            xdp(&mut lab, name)?.load().with_context(|| format!("{name} was refused"))?;
        }
        Ok(Self {
            product: kernel("bench", false, false)?,
            flooded: kernel("flooded", false, false)?,
            guarded: kernel("guarded", true, false)?,
            tunnelled: kernel("tunnelled", false, true)?,
            against: against.map(|object| other(object, &tables)).transpose()?,
            lab,
            walk: walk.try_into()?,
            target: target.try_into()?,
            walked: Vec::new(),
            recorded: Vec::new(),
        })
    }

    fn kernel(&mut self, kind: Kind) -> &mut Kernel {
        if kind.is_guarded() {
            &mut self.guarded
        } else if kind.overhead() > 0 {
            &mut self.tunnelled
        } else if kind.floods() {
            &mut self.flooded
        } else {
            &mut self.product
        }
    }

    /// Nanoseconds per packet, the driver's own included, of one run; its output is checked.
    pub(super) fn measure(&mut self, case: &Case, target: Target, repeat: u32) -> Result<f64> {
        let frame = world::frame(case.family, case.transport, case.kind);
        if case.kind.is_recorded() && !self.recorded.contains(&case.kind) {
            // As connections begin: a SYN, and then more.
            self.recorded.push(case.kind);
            let syn = world::syn(case.family, case.transport, case.kind);
            self.drive(case, Target::Product, case.flows, &syn)?;
            self.drive(case, Target::Product, case.flows, &frame)?;
        }
        let before = self.kernel(case.kind).counters();
        let (spent, result, output) = self.drive(case, target, repeat, &frame)?;
        let (address_at, port_at) = case.family.offsets();
        let after = self.kernel(case.kind).counters();
        ensure!(before == after, "{}: not all packets were forwarded: {after}", case.name());

        ensure!(result.0 == XDP_TX, "{}: {target:?} did not transmit", case.name());
        let overhead = if target == Target::Product { case.kind.overhead() } else { 0 };
        let length = frame.len() + overhead;
        ensure!(result.1 == length, "{}: {target:?} changed the length", case.name());
        let (head, rest) = output.split_at(12);
        // Behind what was put in front, the EtherType belongs to that.
        let rest = &rest[overhead..];
        let right = match target {
            Target::Product | Target::Against => world::is_forwarded(head),
            Target::Swap => head[..6] == frame[6..12] && head[6..] == frame[..6],
            Target::Parse => head == &frame[..12],
        };
        ensure!(right, "{}: {target:?} left wrong MACs: {head:02x?}", case.name());
        let fields = [(address_at as usize, 4), (port_at as usize, 2)];
        let replaced = |at: usize| overhead > 0 && at < 14;
        let chosen =
            |at: usize| replaced(at) || fields.iter().any(|(from, n)| at >= *from && at < from + n);
        let kept = (12..frame.len()).all(|at| chosen(at) || rest[at - 12] == frame[at]);
        ensure!(kept, "{}: {target:?} changed the packet", case.name());
        Ok(spent.as_nanos() as f64 / f64::from(repeat))
    }

    /// Has the driver call a program: the time that took, the program's answer and the length that
    /// it left, and the frame after.
    fn drive(
        &mut self,
        case: &Case,
        target: Target,
        repeat: u32,
        frame: &[u8],
    ) -> Result<(Duration, (u32, usize), Vec<u8>)> {
        let program = match target {
            Target::Product => {
                let kernel = self.kernel(case.kind);
                let entry = kernel.features().entry();
                xdp(kernel.ebpf_mut(), entry)?
            }
            Target::Swap => xdp(&mut self.lab, "bench_swap")?,
            Target::Parse => xdp(&mut self.lab, "bench_parse")?,
            Target::Against => {
                xdp(self.against.as_mut().context("there is no other object")?, ENTRY_PROGRAM)?
            }
        };
        let program = program.fd().context("the program is not loaded")?;
        let program = program.try_clone().context("failed to open a program once more")?;
        self.target.set(0, &program, 0).context("failed to set the target")?;

        let (address_at, port_at) = case.family.offsets();
        let mut macs = [0; 16];
        macs[..12].copy_from_slice(&frame[..12]);
        let whole = u128::from_le_bytes(macs);
        let walk = Walk {
            step: self.first_step(case.kind, target, repeat),
            mask: u64::from(case.flows) - 1,
            macs: [whole as u64, (whole >> 64) as u64],
            address_at,
            port_at,
            length: frame.len() as u32,
            ether_type: u32::from(u16::from_le_bytes([frame[12], frame[13]])),
        };
        self.walk.set(0, walk, 0).context("failed to set the walk")?;

        let mut output = vec![0; frame.len() + 64];
        let driver = xdp(&mut self.lab, "bench_driver")?;
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut output),
            repeat,
            ..TestRunOptions::default()
        };
        let before = thread_time()?;
        let result = driver.test_run(options).context("failed to run the driver")?;
        let spent = thread_time()? - before;
        Ok((spent, (result.return_value, result.data_size_out as usize), output))
    }

    /// Where a walk begins: where the last one ended, if its flows have to be new.
    fn first_step(&mut self, kind: Kind, target: Target, repeat: u32) -> u64 {
        if !kind.floods() || target != Target::Product {
            return 0;
        }
        if !self.walked.iter().any(|(other, _)| *other == kind) {
            self.walked.push((kind, 0));
        }
        let walked = self.walked.iter_mut().find(|(other, _)| *other == kind);
        walked.map_or(0, |(_, step)| std::mem::replace(step, *step + u64::from(repeat)))
    }
}

/// Loads the first program of another object, as it is, and fills the maps that it needs for steady
/// slots. They have to be named and laid out as ours are.
fn other(object: &Path, tables: &MemoryTables) -> Result<Ebpf> {
    let mut ebpf = EbpfLoader::new()
        .load_file(object)
        .with_context(|| format!("failed to load {}", object.display()))?;
    fill(&mut ebpf, names::CONTROL, [(0, tables.control)])?;
    fill(&mut ebpf, names::SERVICES, tables.services.iter().map(|(at, value)| (*at, *value)))?;
    let lines = (0..).zip(tables.slots.chunks_exact(SLOTS_PER_LINE as usize));
    let line = |line: &[u32]| SlotLine { slots: std::array::from_fn(|n| line[n]) };
    fill(&mut ebpf, names::SLOTS, lines.map(|(at, slots)| (at, line(slots))))?;
    fill(&mut ebpf, names::BACKENDS, tables.backends.iter().map(|(at, value)| (*at, *value)))?;
    let program = xdp(&mut ebpf, ENTRY_PROGRAM)?;
    program.load().with_context(|| format!("{ENTRY_PROGRAM} of the other object was refused"))?;
    Ok(ebpf)
}

fn fill<T: Pod>(
    ebpf: &mut Ebpf,
    name: &str,
    values: impl IntoIterator<Item = (u32, T)>,
) -> Result<()> {
    let map = ebpf.map_mut(name).with_context(|| format!("the other object has no {name}"))?;
    let mut map: Array<_, T> =
        map.try_into().with_context(|| format!("{name} of the other object is not as ours"))?;
    for (at, value) in values {
        map.set(at, value, 0).with_context(|| format!("failed to fill {name}"))?;
    }
    Ok(())
}

const XDP_TX: u32 = 3;

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("there is no program {name}"))?;
    program.try_into().with_context(|| format!("{name} is no XDP program"))
}

fn thread_time() -> Result<Duration> {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("failed to read a clock")?;
    Ok(Duration::from(now))
}
