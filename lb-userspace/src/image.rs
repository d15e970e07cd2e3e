//! What the maps hold, as values: the common form of what is wanted and of what is there.

use std::collections::BTreeMap;

use lb_common::maps::{
    Backend, Counter, FEATURE_GUARDS, FEATURE_TUNNELS, FlowKey, Interface, Limits, MAX_SERVER_IDS,
    MAX_SERVICES, MAX_VIPS, RuleKey, SERVICE_BUCKETS, ServerKey, Service, ServiceKey, SourceKey,
    Vip,
};
use lb_common::verdict::{ENTRY_PROGRAM, ENTRY_WITH_TUNNELS};
use lb_common::{Address, Flow};

use crate::slots::Slots;

/// Contents of all maps that userspace writes. A service's regions of `SLOTS` and `BACKENDS`
/// are named by its listeners; what no listener names does not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Secret of the flow hash.
    pub hash_key: [u64; 2],
    /// Listeners by what they are found by.
    pub listeners: BTreeMap<ServiceKey, Service>,
    /// Slots of each service, by the region's first slot.
    pub slots: BTreeMap<u32, Slots>,
    /// Backend lines in use.
    pub backends: BTreeMap<u32, Backend>,
    /// What guarded services let in, by id.
    pub limits: BTreeMap<u32, Limits>,
    /// Their rules about sources.
    pub rules: BTreeMap<Rule, u32>,
    /// Backend numbers by the server ids in QUIC connection ids.
    pub servers: BTreeMap<ServerKey, u32>,
    /// Addresses to answer for.
    pub vips: BTreeMap<Address, Vip>,
    /// Interfaces that the program is attached to, by index.
    pub interfaces: BTreeMap<u32, Interface>,
}

/// A prefix in `RULES`: its length, the service's bits counted in, and its bits.
pub type Rule = (u32, RuleKey);

/// What the programs are loaded with. What no service needs is left out of them, and costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Limits of new flows, and rules about sources.
    pub guards: bool,
    /// Tunnels to backends.
    pub tunnels: bool,
}

impl Features {
    /// Whether programs with these features can do all that others can.
    pub fn include(self, other: Self) -> bool {
        (self.guards || !other.guards) && (self.tunnels || !other.tunnels)
    }

    /// Name of the first program that has them.
    pub fn entry(self) -> &'static str {
        if self.tunnels { ENTRY_WITH_TUNNELS } else { ENTRY_PROGRAM }
    }

    /// As the programs read them.
    pub fn bits(self) -> u32 {
        let bit = |set: bool, bit: u32| if set { bit } else { 0 };
        bit(self.guards, FEATURE_GUARDS) | bit(self.tunnels, FEATURE_TUNNELS)
    }
}

/// The listener that a flow is sent to: by its port, else any port of the address.
pub fn service_of<'a>(
    listeners: &'a BTreeMap<ServiceKey, Service>,
    flow: &Flow,
) -> Option<&'a Service> {
    let key = flow.service_key();
    listeners.get(&key).or_else(|| listeners.get(&key.any_port()))
}

/// How much fits into the maps as they were created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Slots; a multiple of 16.
    pub slots: u32,
    /// Backend lines.
    pub backends: u32,
    /// Pins of either kind.
    pub pins: u32,
    /// Half-open records.
    pub half_open: u32,
    /// Sources whose new flows are counted.
    pub sources: u32,
}

impl Capacity {
    /// Bytes that the kernel locks for the maps on a host of so many CPUs. What is made only when it
    /// is there is left out: entries of VIPs, rules and server ids, about a hundred bytes each.
    pub fn memory(&self, cpus: u64) -> u64 {
        let slots = u64::from(self.slots) * SLOT;
        // A line, its open flows, and its counter with a pointer to it.
        let line = bytes::<Backend>() + WORD + WORD + bytes::<Counter>() * cpus;
        let records = 2 * hashed::<FlowKey>(self.pins) + hashed::<FlowKey>(self.half_open);
        let service = bytes::<Limits>() + WORD + WORD + WORD * cpus;
        let fixed = u64::from(2 * SERVICE_BUCKETS) * bytes::<Service>()
            + u64::from(MAX_SERVICES) * service
            + u64::from(MAX_VIPS + MAX_SERVER_IDS) * BUCKET;
        slots
            + u64::from(self.backends) * line
            + records
            + hashed::<SourceKey>(self.sources)
            + fixed
    }

    /// Whether everything that fits into `other` fits here.
    pub fn holds(&self, other: &Self) -> bool {
        self.slots >= other.slots
            && self.backends >= other.backends
            && self.pins >= other.pins
            && self.half_open >= other.half_open
            && self.sources >= other.sources
    }

    /// Room for what fits into either.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self {
            slots: self.slots.max(other.slots),
            backends: self.backends.max(other.backends),
            pins: self.pins.max(other.pins),
            half_open: self.half_open.max(other.half_open),
            sources: self.sources.max(other.sources),
        }
    }

    /// Room for the services of both, side by side.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            slots: self.slots.saturating_add(other.slots),
            backends: self.backends.saturating_add(other.backends),
            ..self.or(other)
        }
    }
}

/// Bytes of a slot.
const SLOT: u64 = 4;
const WORD: u64 = 8;
/// What the kernel's hash maps take for a bucket, and for an entry besides key and value
/// (`struct bucket` and `struct htab_elem` of kernel/bpf/hashtab.c).
const BUCKET: u64 = 16;
const ENTRY: u64 = 48;

const fn bytes<T>() -> u64 {
    size_of::<T>() as u64
}

/// Of a hash map whose values are words, and whose entries are all made at once.
const fn hashed<K>(entries: u32) -> u64 {
    entries as u64 * (ENTRY + bytes::<K>() + WORD) + entries.next_power_of_two() as u64 * BUCKET
}

/// One write. A list of them, in the order that [`reconcile::diff`](crate::reconcile::diff)
/// gives, takes the maps from one image to another without a moment in which a packet meets
/// something that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Stop answering for an address.
    RemoveVip(Address),
    /// An interface is there, or has another MAC.
    SetInterface(u32, Interface),
    /// A backend line is new or different.
    SetBackend(u32, Backend),
    /// Slots of the region that begins at the number: offsets in it, and raw words.
    SetSlots(u32, Vec<(u32, u32)>),
    /// All slots of a region that no packet is led to yet, by its first slot.
    SetRegion(u32, Slots),
    /// A rule about sources is new or different.
    SetRule(Rule, u32),
    /// What a service lets in is different.
    SetLimits(u32, Limits),
    /// A server id has a backend.
    SetServer(ServerKey, u32),
    /// All listeners, in one step.
    SetListeners(Vec<Service>),
    /// Answer for an address.
    SetVip(Address, Vip),
    /// A rule about sources is gone.
    RemoveRule(Rule),
    /// A service that was guarded is not, or is gone.
    ClearLimits(u32),
    /// A server id has no backend any more.
    RemoveServer(ServerKey),
    /// A backend line is free: no slot names it any more.
    ClearBackend(u32),
    /// An interface is gone.
    RemoveInterface(u32),
}
