//! The look-ups that the packet path may make, as a trait: BPF maps in the kernel, plain
//! memory on the host.

use crate::address::{Address, Mac};
use crate::frame::Frame;
use crate::maps::{
    Backend, Control, FlowKey, Interface, Pin, SERVICE_BUCKETS, SERVICE_PROBES, Service,
    ServiceKey, Vip, names,
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

/// Access to the maps: reading but for the records of flows. Values are copies; `None` means
/// that the entry does not exist.
pub trait Tables {
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
