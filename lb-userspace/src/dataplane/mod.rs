//! Where packets are balanced: the kernel's maps, or a model of them in memory. Both hold an
//! [`Image`], and take the same changes.

pub mod bpf;
mod mapped;
pub mod memory;

use anyhow::Result;
use lb_common::Verdict;
use lb_common::maps::Counter;

use crate::image::{Capacity, Change, Image};

/// Something that balances packets by an image.
pub trait Dataplane {
    /// How much fits.
    fn capacity(&self) -> Capacity;

    /// What it holds now.
    fn image(&self) -> Result<Image>;

    /// Makes the changes, one after the other. After an error the rest is not done; a later
    /// [`diff`](crate::reconcile::diff) from [`image`](Self::image) finds what is missing.
    fn apply(&mut self, changes: &[Change]) -> Result<()>;

    /// Lets the VIPs of a lease be answered for until `deadline`, in nanoseconds of
    /// `CLOCK_MONOTONIC`.
    fn renew(&mut self, lease: u32, deadline: u64) -> Result<()>;

    /// Tells the packet path what second it is, by the daemon's own count.
    fn set_epoch(&mut self, epoch: u64) -> Result<()>;

    /// Open flows of a backend line, where new flows are given out by them.
    fn open_flows(&self, line: u32) -> Result<u64>;

    /// Flows that a service has given out by turns or by open flows, ever.
    fn turns(&self, service: u32) -> Result<u64>;

    /// Adds to that number of open flows: the packet path does not notice when a flow is never heard of again.
    fn correct_open_flows(&mut self, line: u32, by: i64) -> Result<()>;

    /// Packets and bytes of a backend line so far.
    fn backend_counter(&self, line: u32) -> Result<Counter>;

    /// Packets and bytes of a verdict so far; zero for one that names a backend.
    fn verdict_counter(&self, verdict: Verdict) -> Result<Counter>;
}
