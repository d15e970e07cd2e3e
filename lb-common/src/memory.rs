//! The maps as plain memory: what the kernel's look-ups would return, for tests, for the
//! in-memory dataplane and for explaining a flow.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cell::RefCell;

use crate::address::Address;
use crate::bank::Bank;
use crate::choose::least;
use crate::maps::{
    Backend, Control, FEATURE_GUARDS, FEATURE_TUNNELS, FirstFragment, FlowKey, FragmentKey,
    Interface, Limits, MAX_LEASES, MAX_SERVICES, Pin, RULE_SERVICE_BITS, RuleKey, SERVICE_BUCKETS,
    SLOTS_PER_LINE, ServerKey, Service, SourceKey, Vip,
};
use crate::slot::Slot;
use crate::tables::{Lap, Record, Tables};

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
    /// `FRAGMENTS`
    pub fragments: RefCell<BTreeMap<FragmentKey, FirstFragment>>,
    /// `LIMITS`, of services that have any.
    pub limits: BTreeMap<u32, Limits>,
    /// `RULES`, by prefix length (the service's bits counted in) and prefix.
    pub rules: BTreeMap<(u32, RuleKey), u32>,
    /// `SERVER_IDS`
    pub servers: BTreeMap<ServerKey, u32>,
    /// `OPEN_FLOWS`, `TURNS` as of one CPU, `BUCKETS` and `SOURCES`: what the packet path counts.
    pub counts: RefCell<Counts>,
    /// The clock.
    pub now: u64,
}

/// What the packet path counts, apart from packets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Open flows by backend line.
    pub open: BTreeMap<u32, u64>,
    /// Turns by service id.
    pub turns: BTreeMap<u32, u64>,
    /// Buckets of services.
    pub buckets: BTreeMap<u32, u64>,
    /// Buckets of sources.
    pub sources: BTreeMap<SourceKey, u64>,
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
    fn features(&self) -> u32 {
        FEATURE_GUARDS | FEATURE_TUNNELS
    }

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

    fn fragment(&self, key: &FragmentKey) -> Option<FirstFragment> {
        self.fragments.borrow().get(key).copied()
    }

    fn set_fragment(&self, key: &FragmentKey, first: FirstFragment) {
        self.fragments.borrow_mut().insert(*key, first);
    }

    fn turn(&self, service: u32) -> u64 {
        let mut counts = self.counts.borrow_mut();
        let turns = counts.turns.entry(service).or_default();
        *turns += 1;
        *turns - 1
    }

    fn least(&self, lap: Lap) -> u32 {
        least(self, lap)
    }

    fn open_flows(&self, line: u32) -> u64 {
        self.counts.borrow().open.get(&line).copied().unwrap_or_default()
    }

    fn count_flow(&self, line: u32, begun: bool) {
        let mut counts = self.counts.borrow_mut();
        let open = counts.open.entry(line).or_default();
        *open = open.wrapping_add_signed(if begun { 1 } else { -1 });
    }

    fn limits(&self, service: u32) -> Option<Limits> {
        (service < MAX_SERVICES).then(|| self.limits.get(&service).copied().unwrap_or_default())
    }

    fn bucket(&self, service: u32) -> u64 {
        self.counts.borrow().buckets.get(&service).copied().unwrap_or_default()
    }

    fn set_bucket(&self, service: u32, bucket: u64) {
        self.counts.borrow_mut().buckets.insert(service, bucket);
    }

    fn source_bucket(&self, key: &SourceKey) -> u64 {
        self.counts.borrow().sources.get(key).copied().unwrap_or_default()
    }

    fn set_source_bucket(&self, key: &SourceKey, bucket: u64) {
        self.counts.borrow_mut().sources.insert(*key, bucket);
    }

    fn rule(&self, service: u32, source: Address) -> Option<u32> {
        let lengths = (0..=128_u32).rev();
        lengths.into_iter().find_map(|length| {
            let prefix = RuleKey::new(service, source.network(length));
            self.rules.get(&(RULE_SERVICE_BITS + length, prefix)).copied()
        })
    }

    fn server(&self, key: &ServerKey) -> Option<u32> {
        self.servers.get(key).copied()
    }

    fn now(&self) -> u64 {
        self.now
    }
}
