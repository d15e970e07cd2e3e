//! The dataplane as a model: the same packet code over plain memory.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use lb_common::frame::MemoryFrame;
use lb_common::maps::{Counter, SLOTS_PER_LINE};
use lb_common::memory::MemoryTables;
use lb_common::process::process;
use lb_common::{Tables, Verdict, bank};

use super::Dataplane;
use crate::image::{Capacity, Change, Image};

/// Balances frames in memory.
#[derive(Clone, Debug)]
pub struct Memory {
    /// The maps.
    pub tables: MemoryTables,
    backends: BTreeMap<u32, Counter>,
    verdicts: BTreeMap<u32, Counter>,
}

impl Memory {
    /// Empty maps of a size, and the secret of the flow hash.
    pub fn new(capacity: Capacity, hash_key: [u64; 2]) -> Self {
        let mut tables = MemoryTables::new(capacity.slots / SLOTS_PER_LINE, capacity.backends);
        tables.control.hash_key = hash_key;
        Self { tables, backends: BTreeMap::new(), verdicts: BTreeMap::new() }
    }

    /// A copy of what another dataplane holds.
    pub fn copy_of(image: &Image, capacity: Capacity) -> Result<Self> {
        let mut copy = Self::new(capacity, image.hash_key);
        let empty = Image { hash_key: image.hash_key, ..Image::default() };
        copy.apply(&crate::reconcile::diff(&empty, image))?;
        Ok(copy)
    }

    /// Judges and rewrites a frame, and counts it.
    pub fn process(&mut self, frame: &mut MemoryFrame) -> Verdict {
        let bytes = frame.bytes.len() as u64;
        let verdict = process(frame, &self.tables);
        let counter = match (verdict, verdict.index()) {
            (Verdict::Forward(route), _) => self.backends.entry(route.line).or_default(),
            (_, index) => self.verdicts.entry(index.unwrap_or(u32::MAX)).or_default(),
        };
        counter.packets += 1;
        counter.bytes += bytes;
        verdict
    }
}

impl Dataplane for Memory {
    fn capacity(&self) -> Capacity {
        Capacity {
            slots: self.tables.slots.len() as u32,
            backends: self.tables.backend_lines,
            pins: u32::MAX,
            half_open: u32::MAX,
            sources: u32::MAX,
        }
    }

    fn image(&self) -> Result<Image> {
        let listeners: BTreeMap<_, _> =
            self.tables.listeners().map(|entry| (entry.key(), *entry)).collect();
        let slots = listeners
            .values()
            .map(|entry| {
                let from = entry.slot_base as usize;
                let slots = self.tables.slots.get(from..from + entry.slot_count as usize);
                Ok((
                    entry.slot_base,
                    slots.context("a listener's slots end behind the map")?.to_vec().into(),
                ))
            })
            .collect::<Result<_>>()?;
        Ok(Image {
            hash_key: self.tables.control.hash_key,
            slots,
            backends: self.tables.backends.clone(),
            limits: self.tables.limits.clone(),
            rules: self.tables.rules.clone(),
            servers: self.tables.servers.clone(),
            vips: self.tables.vips.clone(),
            interfaces: self.tables.interfaces.clone(),
            listeners,
        })
    }

    fn apply(&mut self, changes: &[Change]) -> Result<()> {
        let tables = &mut self.tables;
        for change in changes {
            match change {
                Change::RemoveVip(vip) => drop(tables.vips.remove(vip)),
                Change::SetInterface(ifindex, interface) => {
                    tables.interfaces.insert(*ifindex, *interface);
                }
                Change::SetBackend(line, backend) => {
                    if *line >= tables.backend_lines {
                        bail!("backend line {line} is behind the map's end");
                    }
                    let held = tables.backends.insert(*line, *backend);
                    // A line's new backend counts from nought.
                    if held.is_none_or(|held| held.address != backend.address) {
                        self.backends.remove(line);
                        tables.counts.borrow_mut().open.remove(line);
                    }
                }
                Change::SetSlots(base, updates) => {
                    for (offset, raw) in updates {
                        let slot = tables.slots.get_mut((base + offset) as usize);
                        *slot.context("a slot is behind the map's end")? = *raw;
                    }
                }
                Change::SetRegion(base, slots) => {
                    let from = *base as usize;
                    let region = tables.slots.get_mut(from..from + slots.len());
                    region.context("a region is behind the map's end")?.copy_from_slice(slots);
                }
                Change::SetListeners(listeners) => {
                    let bank = bank::fill(listeners).context("the listeners do not fit")?;
                    tables.set_services(&bank);
                }
                Change::SetRule(rule, says) => drop(tables.rules.insert(*rule, *says)),
                Change::RemoveRule(rule) => drop(tables.rules.remove(rule)),
                Change::SetLimits(service, limits) => {
                    tables.limits.insert(*service, *limits);
                }
                Change::ClearLimits(service) => drop(tables.limits.remove(service)),
                Change::SetServer(key, number) => drop(tables.servers.insert(*key, *number)),
                Change::RemoveServer(key) => drop(tables.servers.remove(key)),
                Change::SetVip(vip, entry) => {
                    tables.vips.insert(*vip, *entry);
                }
                Change::ClearBackend(line) => drop(tables.backends.remove(line)),
                Change::RemoveInterface(ifindex) => drop(tables.interfaces.remove(ifindex)),
            }
        }
        Ok(())
    }

    fn renew(&mut self, lease: u32, deadline: u64) -> Result<()> {
        self.tables.leases.insert(lease, deadline);
        Ok(())
    }

    fn set_epoch(&mut self, epoch: u64) -> Result<()> {
        self.tables.control.epoch = epoch;
        Ok(())
    }

    fn open_flows(&self, line: u32) -> Result<u64> {
        Ok(self.tables.open_flows(line))
    }

    fn turns(&self, service: u32) -> Result<u64> {
        Ok(self.tables.counts.borrow().turns.get(&service).copied().unwrap_or_default())
    }

    fn correct_open_flows(&mut self, line: u32, by: i64) -> Result<()> {
        let mut counts = self.tables.counts.borrow_mut();
        let open = counts.open.entry(line).or_default();
        *open = open.wrapping_add_signed(by);
        Ok(())
    }

    fn backend_counter(&self, line: u32) -> Result<Counter> {
        Ok(self.backends.get(&line).copied().unwrap_or_default())
    }

    fn verdict_counter(&self, verdict: Verdict) -> Result<Counter> {
        let counter = verdict.index().and_then(|index| self.verdicts.get(&index));
        Ok(counter.copied().unwrap_or_default())
    }
}
