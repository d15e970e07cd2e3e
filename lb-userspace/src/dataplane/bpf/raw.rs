//! Tables as they are, for those who run frames through the programs without a plan.

use std::sync::atomic::Ordering;

use anyhow::Result;
use lb_common::memory::MemoryTables;

use super::Bpf;
use crate::dataplane::Dataplane;
use crate::image::Change;

impl Bpf {
    /// Writes tables as they are, for test runs and benchmarks. The maps have to be empty and
    /// large enough.
    pub fn write_tables(&mut self, tables: &MemoryTables) -> Result<()> {
        for (bucket, entry) in &tables.services {
            self.services.set(*bucket, entry)?;
        }
        for (slot, raw) in tables.slots.iter().enumerate() {
            self.slots.half_word(slot)?.store(*raw, Ordering::Relaxed);
        }
        for (line, backend) in &tables.backends {
            self.backends.set(*line, backend)?;
        }
        for (service, limits) in &tables.limits {
            self.make(&Change::SetLimits(*service, *limits))?;
        }
        for (rule, says) in &tables.rules {
            self.make(&Change::SetRule(*rule, *says))?;
        }
        for (key, number) in &tables.servers {
            self.make(&Change::SetServer(*key, *number))?;
        }
        self.set_turns(|_| 0)?;
        for (lease, deadline) in &tables.leases {
            self.renew(*lease, *deadline)?;
        }
        for (vip, entry) in &tables.vips {
            self.make(&Change::SetVip(*vip, *entry))?;
        }
        for (ifindex, interface) in &tables.interfaces {
            self.make(&Change::SetInterface(*ifindex, *interface))?;
        }
        self.control.set(0, &tables.control)
    }
}
