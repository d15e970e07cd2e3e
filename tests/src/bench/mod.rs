//! Nanoseconds per packet, by `BPF_PROG_TEST_RUN`: the product's program next to floor programs,
//! in one run, the cases taken in turn.
//!
//! Figures are medians over rounds of a thread's CPU time, divided by the repetitions. The
//! machine's speed drifts: only differences and ratios inside one run mean anything.

mod control;
mod driver;
mod report;
mod world;

use std::path::Path;

use anyhow::Result;

pub use control::{Step, run as run_control};
pub use driver::Bench;
use driver::Target;
pub use report::{Outcome, control_table, json, table};
pub use world::{Family, Kind, Transport};

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
    /// What becomes of its packets.
    pub kind: Kind,
    /// Number of flows, a power of two.
    pub flows: u32,
}

/// More flows than are remembered, so that each is new when it comes again.
const MANY: u32 = 4 << 20;

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
                kind: Kind::Steady,
                flows,
            })
        });
        let others = [
            (Transport::Tcp, Kind::Pinned, 1),
            (Transport::Tcp, Kind::Pinned, 64 << 10),
            (Transport::Tcp, Kind::Unpinned, MANY),
            (Transport::Tcp, Kind::Turns, 64 << 10),
            (Transport::Udp, Kind::Quic, 64 << 10),
            (Transport::Tcp, Kind::Guarded, 64 << 10),
            (Transport::Tcp, Kind::GuardedSyn, 64 << 10),
            (Transport::Tcp, Kind::Flood, MANY),
            (Transport::Tcp, Kind::TurnsFlood, MANY),
            (Transport::Tcp, Kind::LeastFlood, MANY),
        ];
        let others = others.into_iter().map(|(transport, kind, flows)| Self {
            family: Family::Ipv4,
            transport,
            kind,
            flows,
        });
        let tunnels = [Kind::Ipip, Kind::Gue].into_iter().flat_map(|kind| {
            let (family, transport) = (Family::Ipv4, Transport::Tcp);
            flows.into_iter().map(move |flows| Self { family, transport, kind, flows })
        });
        steady.chain(tunnels).chain(others).collect()
    }

    /// `l2/ipv4/tcp/steady/64k`: forwarding, packets, what becomes of them, and flows.
    pub fn name(&self) -> String {
        let flows = match self.flows {
            few if few < 1024 => few.to_string(),
            many => format!("{}k", many >> 10),
        };
        let kind = self.kind.name();
        let (forward, family) = (self.kind.forward(), self.family.name());
        format!("{forward}/{family}/{}/{kind}/{flows}", self.transport.name())
    }
}

/// Measures all cases whose name contains `filter`; steady ones with the first program of another
/// object as well, if there is one.
pub fn run(
    bpffs: &Path,
    lab: &Path,
    against: Option<&Path>,
    effort: Effort,
    filter: &str,
) -> Result<Vec<Outcome>> {
    let wanted = |case: &Case| {
        case.name().contains(filter) && (against.is_none() || case.kind == Kind::Steady)
    };
    let cases: Vec<Case> = Case::all().into_iter().filter(wanted).collect();
    if cases.is_empty() {
        return Ok(Vec::new());
    }
    let mut bench = Bench::load(bpffs, lab, against)?;
    let targets: Vec<Target> =
        Target::ALL.into_iter().filter(|t| against.is_some() || *t != Target::Against).collect();
    let mut rounds: Vec<[Vec<f64>; 4]> = vec![Default::default(); cases.len()];
    // The first round warms caches and clocks, and does not count.
    for round in 0..=effort.rounds {
        for (case, samples) in cases.iter().zip(&mut rounds) {
            for (target, samples) in targets.iter().zip(samples) {
                let ns = bench.measure(case, *target, effort.repeat)?;
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
