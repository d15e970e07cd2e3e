//! The maps as plain memory: what the kernel's look-ups would return, for tests, for the
//! in-memory dataplane and for explaining a flow.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cell::RefCell;

use crate::address::Address;
use crate::bank::Bank;
use crate::maps::{
    Backend, Control, FlowKey, Interface, MAX_LEASES, Pin, SERVICE_BUCKETS, SLOTS_PER_LINE,
    Service, Vip,
};
use crate::slot::Slot;
use crate::tables::{Record, Tables};

/// Contents of all maps that the packet path reads. Array entries that are not there read as
/// zeros up to the array's end, as in the kernel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryTables {
    /// `CONTROL`
    pub control: Control,
    /// `SERVICES`, occupied buckets of both banks.
    pub services: BTreeMap<u32, Service>,
    /// `SLOTS`, raw, one word a slot; its length is the array's.
    pub slots: Vec<u32>,
    /// `BACKENDS`, lines in use.
    pub backends: BTreeMap<u32, Backend>,
    /// Lines that `BACKENDS` has.
    pub backend_lines: u32,
    /// `LEASES`, deadlines.
    pub leases: BTreeMap<u32, u64>,
    /// `VIPS`
    pub vips: BTreeMap<Address, Vip>,
    /// `INTERFACES`
    pub interfaces: BTreeMap<u32, Interface>,
    /// What is remembered of flows. The packet path writes here as well.
    pub records: RefCell<BTreeMap<(Record, FlowKey), Pin>>,
    /// The clock.
    pub now: u64,
}

impl MemoryTables {
    /// Empty maps of a size.
    pub fn new(slot_lines: u32, backend_lines: u32) -> Self {
        Self {
            slots: alloc::vec![0; (slot_lines * SLOTS_PER_LINE) as usize],
            backend_lines,
            ..Self::default()
        }
    }

    /// Fills the idle bank and makes it the live one.
    pub fn set_services(&mut self, bank: &Bank) {
        let idle = !self.control.services & 1;
        let base = idle as u32 * SERVICE_BUCKETS;
        self.services.retain(|bucket, _| (*bucket < base) || (*bucket >= base + SERVICE_BUCKETS));
        self.services.extend(bank.buckets.iter().map(|(bucket, entry)| (base + bucket, *entry)));
        self.control.services = bank.seed << 1 | idle;
    }

    /// The live bank's listeners.
    pub fn listeners(&self) -> impl Iterator<Item = &Service> {
        let base = (self.control.services & 1) as u32 * SERVICE_BUCKETS;
        self.services.range(base..base + SERVICE_BUCKETS).map(|(_, service)| service)
    }
}

impl Tables for MemoryTables {
    fn control(&self) -> Option<Control> {
        Some(self.control)
    }

    fn service(&self, bucket: u32) -> Option<Service> {
        (bucket < 2 * SERVICE_BUCKETS)
            .then(|| self.services.get(&bucket).copied().unwrap_or_default())
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        self.slots.get(index as usize).map(|raw| Slot::from_raw(*raw))
    }

    fn backend(&self, line: u32) -> Option<Backend> {
        (line < self.backend_lines).then(|| self.backends.get(&line).copied().unwrap_or_default())
    }

    fn vip(&self, address: Address) -> Option<Vip> {
        self.vips.get(&address).copied()
    }

    fn lease(&self, lease: u32) -> Option<u64> {
        (lease < MAX_LEASES).then(|| self.leases.get(&lease).copied().unwrap_or_default())
    }

    fn interface(&self, ifindex: u32) -> Option<Interface> {
        self.interfaces.get(&ifindex).copied()
    }

    fn recorded(&self, record: Record, key: &FlowKey) -> Option<Pin> {
        self.records.borrow().get(&(record, *key)).copied()
    }

    fn record(&self, record: Record, key: &FlowKey, pin: Pin) {
        self.records.borrow_mut().insert((record, *key), pin);
    }

    fn forget(&self, record: Record, key: &FlowKey) {
        self.records.borrow_mut().remove(&(record, *key));
    }

    fn now(&self) -> u64 {
        self.now
    }
}
