//! The look-ups that the packet path may make, as a trait: BPF maps in the kernel, plain
//! memory on the host.

use crate::address::{Address, Mac};
use crate::frame::Frame;
use crate::maps::{
    Backend, Control, FirstFragment, FlowKey, FragmentKey, Interface, Limits, Pin, SERVICE_BUCKETS,
    SERVICE_PROBES, ServerKey, Service, ServiceKey, SourceKey, Vip, names,
};
use crate::slot::Slot;

/// Which flows a record is about: each kind has a map of its own, so that one cannot crowd out
/// another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Record {
    /// A SYN was seen, and nothing more: anybody can make these.
    HalfOpen,
    /// Began after the slot's latest change: needed from the first packet on.
    Current,
    /// Began before the slot's latest changes: redundant until the slot is committed.
    Base,
}

impl Record {
    /// All of them, and the maps that they are kept in.
    pub const ALL: [(Self, &'static str); 3] = [
        (Self::HalfOpen, names::HALF_OPEN),
        (Self::Current, names::PINS_CURRENT),
        (Self::Base, names::PINS_BASE),
    ];
}

/// A service's lap, and where in it to begin.
#[derive(Clone, Copy, Debug)]
pub struct Lap {
    /// Its first slot.
    pub slot_base: u32,
    /// The line of the service's backend number 0.
    pub backend_base: u32,
    /// Its slots.
    pub length: u32,
    /// The place to begin at, below the length.
    pub start: u32,
}

/// Access to the maps: reading but for what is remembered and counted. Values are copies; `None`
/// means that the entry does not exist.
pub trait Tables {
    /// What some service needs, `FEATURE_...`: a constant of the loaded programs, which are without
    /// all that none does.
    fn features(&self) -> u32;
    /// The one control value.
    fn control(&self) -> Option<Control>;
    /// A bucket of the service table, both banks counted through.
    fn service(&self, bucket: u32) -> Option<Service>;
    /// A slot, counted from the start of `SLOTS`.
    fn slot(&self, index: u32) -> Option<Slot>;
    /// A backend line.
    fn backend(&self, line: u32) -> Option<Backend>;
    /// What is known of an address that we may answer for.
    fn vip(&self, address: Address) -> Option<Vip>;
    /// Deadline of a lease, in the clock of [`now`](Self::now).
    fn lease(&self, lease: u32) -> Option<u64>;
    /// An interface that the program is attached to.
    fn interface(&self, ifindex: u32) -> Option<Interface>;
    /// What is remembered of a flow.
    fn recorded(&self, record: Record, key: &FlowKey) -> Option<Pin>;
    /// Remembers something of a flow. May fail where there is no room: then the flow is found by
    /// its slot again.
    fn record(&self, record: Record, key: &FlowKey, pin: Pin);
    /// Forgets a flow.
    fn forget(&self, record: Record, key: &FlowKey);
    /// What is remembered of a packet's first fragment.
    fn fragment(&self, key: &FragmentKey) -> Option<FirstFragment>;
    /// Remembers a packet's first fragment. May fail where there is no room: then the later ones are
    /// nobody's.
    fn set_fragment(&self, key: &FragmentKey, first: FirstFragment);
    /// How often the service has been asked this, on this CPU.
    fn turn(&self, service: u32) -> u64;
    /// [`choose::least`](crate::choose::least) over these tables; apart, because the kernel's verifier
    /// has enough to do with that loop once.
    fn least(&self, lap: Lap) -> u32;
    /// Open flows of a backend line, where they are counted.
    fn open_flows(&self, line: u32) -> u64;
    /// Counts a flow that has begun (`true`) or ended.
    fn count_flow(&self, line: u32, begun: bool);
    /// What a service lets in.
    fn limits(&self, service: u32) -> Option<Limits>;
    /// The bucket of a service's limit, 0 if it was never asked for.
    fn bucket(&self, service: u32) -> u64;
    /// Sets it. CPUs that do so at the same time may undo one another's: then a few more flows are
    /// let in.
    fn set_bucket(&self, service: u32, bucket: u64);
    /// The bucket of a source's limit, likewise.
    fn source_bucket(&self, key: &SourceKey) -> u64;
    /// Sets it.
    fn set_source_bucket(&self, key: &SourceKey, bucket: u64);
    /// What the rule with the longest prefix says about a source.
    fn rule(&self, service: u32, source: Address) -> Option<u32>;
    /// The backend of a server id.
    fn server(&self, key: &ServerKey) -> Option<u32>;
    /// `CLOCK_MONOTONIC`, nanoseconds.
    fn now(&self) -> u64;
}

/// The listener for `key` in the live bank; no any-port match.
#[inline(always)]
pub fn find_service<T: Tables>(tables: &T, control: &Control, key: ServiceKey) -> Option<Service> {
    let bank = (control.services as u32 & 1) * SERVICE_BUCKETS;
    let first = key.bucket(control.services >> 1);
    let mut probe = 0;
    while probe < SERVICE_PROBES {
        let service = tables.service(bank + ((first + probe) & (SERVICE_BUCKETS - 1)))?;
        if service.key() == key && service.id != 0 {
            return Some(service);
        }
        if service.id == 0 {
            return None;
        }
        probe += 1;
    }
    None
}

/// Whether a frame that came in here with this destination is sent to this host.
#[inline(always)]
pub fn is_ours<F: Frame, T: Tables>(frame: &F, tables: &T, destination: Mac) -> bool {
    match tables.interface(frame.ingress()) {
        Some(interface) => destination == Mac::from_word(interface.mac),
        None => false,
    }
}
