//! Loads the driver program, and has it call one program after another.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use lb_common::verdict::ENTRY_PROGRAM;
use nix::time::{ClockId, clock_gettime};

use super::Case;
use super::world;
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
}

impl Target {
    pub(super) const ALL: [Self; 3] = [Self::Product, Self::Swap, Self::Parse];
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
}

// SAFETY: `repr(C)`, integers only, no padding (eight-byte words, and two halves of one).
unsafe impl Pod for Walk {}

/// The programs, loaded.
pub struct Bench {
    product: Kernel,
    lab: Ebpf,
    walk: Array<MapData, Walk>,
    target: ProgramArray<MapData>,
}

impl Bench {
    /// Loads the product with the benchmark's tables, and the lab's programs.
    pub fn load(bpffs: &Path, lab: &Path) -> Result<Self> {
        pin_to_one_cpu()?;
        let product = Kernel::load(&bpffs.join("bench"), &world::tables())?;
        let mut lab = EbpfLoader::new()
            .load_file(lab)
            .with_context(|| format!("failed to load {}", lab.display()))?;
        let walk = lab.take_map("WALK").context("the lab has no WALK")?;
        let target = lab.take_map("TARGET").context("the lab has no TARGET")?;
        for name in ["bench_driver", "bench_swap", "bench_parse"] {
            xdp(&mut lab, name)?.load().with_context(|| format!("{name} was refused"))?;
        }
        Ok(Self { product, lab, walk: walk.try_into()?, target: target.try_into()? })
    }

    /// Nanoseconds per packet, the driver's own included, of one run; its output is checked.
    pub(super) fn measure(&mut self, case: &Case, target: Target, repeat: u32) -> Result<f64> {
        let program = match target {
            Target::Product => xdp(self.product.ebpf_mut(), ENTRY_PROGRAM)?,
            Target::Swap => xdp(&mut self.lab, "bench_swap")?,
            Target::Parse => xdp(&mut self.lab, "bench_parse")?,
        };
        let program = program.fd().context("the program is not loaded")?;
        self.target.set(0, program, 0).context("failed to set the target")?;

        let frame = world::frame(case.family, case.transport, case.slots);
        let (address_at, port_at) = case.family.offsets();
        let mut macs = [0; 16];
        macs[..12].copy_from_slice(&frame[..12]);
        let whole = u128::from_le_bytes(macs);
        let walk = Walk {
            step: 0,
            mask: u64::from(case.flows) - 1,
            macs: [whole as u64, (whole >> 64) as u64],
            address_at,
            port_at,
        };
        self.walk.set(0, walk, 0).context("failed to set the walk")?;

        let mut output = vec![0; frame.len() + 64];
        let driver = xdp(&mut self.lab, "bench_driver")?;
        let options = TestRunOptions {
            data_in: Some(&frame),
            data_out: Some(&mut output),
            repeat,
            ..TestRunOptions::default()
        };
        let before = thread_time()?;
        let result = driver.test_run(options).context("failed to run the driver")?;
        let spent = thread_time()? - before;

        ensure!(result.return_value == XDP_TX, "{}: {target:?} did not transmit", case.name());
        ensure!(
            result.data_size_out as usize == frame.len(),
            "{}: {target:?} changed the length",
            case.name()
        );
        let (head, rest) = output.split_at(12);
        let right = match target {
            Target::Product => world::is_forwarded(head),
            Target::Swap => head[..6] == frame[6..12] && head[6..] == frame[..6],
            Target::Parse => head == &frame[..12],
        };
        ensure!(right, "{}: {target:?} left wrong MACs: {head:02x?}", case.name());
        let fields = [(address_at as usize, 4), (port_at as usize, 2)];
        let chosen = |at: usize| fields.iter().any(|(from, n)| at >= *from && at < from + n);
        let kept = (12..frame.len()).all(|at| chosen(at) || rest[at - 12] == frame[at]);
        ensure!(kept, "{}: {target:?} changed the packet", case.name());
        Ok(spent.as_nanos() as f64 / f64::from(repeat))
    }
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
