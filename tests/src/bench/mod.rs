//! Nanoseconds per packet, by `BPF_PROG_TEST_RUN`: the product's program next to floor programs,
//! in one run, the cases taken in turn.
//!
//! Figures are medians over rounds of a thread's CPU time, divided by the repetitions. The
//! machine's speed drifts: only differences and ratios inside one run mean anything.

mod driver;
mod report;
mod world;

use std::path::Path;

use anyhow::{Result, ensure};

pub use driver::Bench;
pub use report::{Outcome, json, table};
pub use world::{Family, Slots, Transport};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds; each runs every case once.
    pub rounds: usize,
    /// Packets per case and round.
    pub repeat: u32,
}

/// What is measured in one go: a kind of packet and a number of flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// IP version.
    pub family: Family,
    /// Transport protocol.
    pub transport: Transport,
    /// Whether the service's slots are steady.
    pub slots: Slots,
    /// Number of flows, a power of two.
    pub flows: u32,
}

impl Case {
    /// Every case.
    pub fn all() -> Vec<Self> {
        let kinds = [
            (Family::Ipv4, Transport::Tcp),
            (Family::Ipv6, Transport::Tcp),
            (Family::Ipv4, Transport::Udp),
        ];
        let flows = [1, 64 << 10, 512 << 10];
        let steady = kinds.into_iter().flat_map(|(family, transport)| {
            flows.into_iter().map(move |flows| Self {
                family,
                transport,
                slots: Slots::Steady,
                flows,
            })
        });
        let (family, transport) = (Family::Ipv4, Transport::Tcp);
        let pinned = [1, 64 << 10].into_iter().map(|flows| Self {
            family,
            transport,
            slots: Slots::Moving,
            flows,
        });
        steady.chain(pinned).collect()
    }

    /// `l2/ipv4/tcp/steady/64k`; `pinned` where every flow is from before a change, and is found
    /// by what is remembered of it.
    pub fn name(&self) -> String {
        let flows = match self.flows {
            few if few < 1024 => few.to_string(),
            many => format!("{}k", many >> 10),
        };
        let slots = match self.slots {
            Slots::Steady => "steady",
            Slots::Moving => "pinned",
        };
        format!("l2/{}/{}/{slots}/{flows}", self.family.name(), self.transport.name())
    }
}

/// Measures all cases whose name contains `filter`.
pub fn run(bpffs: &Path, lab: &Path, effort: Effort, filter: &str) -> Result<Vec<Outcome>> {
    let cases: Vec<Case> =
        Case::all().into_iter().filter(|case| case.name().contains(filter)).collect();
    ensure!(!cases.is_empty(), "no case has `{filter}` in its name");
    let mut bench = Bench::load(bpffs, lab)?;
    let mut rounds: Vec<[Vec<f64>; 3]> = vec![Default::default(); cases.len()];
    // The first round warms caches and clocks, and does not count.
    for round in 0..=effort.rounds {
        for (case, samples) in cases.iter().zip(&mut rounds) {
            for (program, samples) in driver::Target::ALL.into_iter().zip(samples) {
                let ns = bench.measure(case, program, effort.repeat)?;
                if round > 0 {
                    samples.push(ns);
                }
            }
        }
        eprint!("\rround {round} of {}", effort.rounds);
    }
    eprintln!();
    Ok(cases.iter().zip(rounds).map(|(case, samples)| Outcome::new(case.name(), samples)).collect())
}
