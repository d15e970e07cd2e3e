//! The rule by which connections outlive a change of their slot (compare JET, CoNEXT 2021;
//! Beamer, NSDI 2018).

use crate::choose::{choose, is_open};
use crate::flow::protocol;
use crate::maps::{
    FlowKey, PIN_CLOSED, PIN_CLOSING, Pin, SERVICE_CHOOSES, SERVICE_LEAST_CONN, Service,
};
use crate::slot::Slot;
use crate::tables::{Record, Tables};

/// What the transition rule needs to know of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// Whose it is.
    pub key: FlowKey,
    /// What it says about its connection.
    pub phase: Phase,
    /// Seconds that userspace has counted.
    pub epoch: u32,
}

/// What a packet says about its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing: its protocol has no connections (UDP).
    None,
    /// It begins one: SYN without ACK.
    Begins,
    /// It belongs to one that is there.
    Continues,
    /// The client has nothing more to send: FIN.
    Ends,
    /// The client has given it up: RST.
    Aborts,
}

/// The backend of a packet whose slot is not steady; 0 for none. *New* is the backend that
/// [`choose`] finds: `current`, unless the service goes by turns or by open flows, and so remembers
/// every flow.
///
/// | slot | packet | backend | record |
/// |---|---|---|---|
/// | any | begins, pinned to a backend that takes new flows | its pin's | |
/// | | begins, half-open, of a service that remembers every flow | its half-open record's | |
/// | | begins | new | half-open, if `current != base` or all are remembered; pins of its five-tuple go |
/// | | other | its pin's, else its half-open record's, which becomes a pin | |
/// | | UDP, unknown | new | pin |
/// | `current != base` | other, unknown | `base` | pin |
/// | `current == base` | other, unknown | `current` | pin, if all are remembered |
///
/// A SYN of a flow that is pinned stays with it: it may be forged, and if not, a backend that takes
/// new flows takes this one as well as another would.
///
/// UDP does not tell a new flow from an old one: services that keep UDP flows together remember
/// every flow, and all their slots are watched at all times.
#[inline(always)]
pub fn transition<T: Tables>(tables: &T, service: &Service, slot: Slot, packet: &Packet) -> u32 {
    let keeps_all = service.flags & SERVICE_CHOOSES != 0;
    let key = &packet.key;
    if packet.phase == Phase::Begins {
        return begin(tables, service, slot, packet, keeps_all);
    }
    if let Some(backend) = pinned(tables, service, Record::Current, packet) {
        return backend;
    }
    if let Some(backend) = pinned(tables, service, Record::Base, packet) {
        return backend;
    }
    if packet.phase == Phase::None {
        let backend = choose(tables, service, slot);
        if backend != 0 {
            tables.record(Record::Current, key, pin(backend, packet));
            count(tables, service, backend, true);
        }
        return backend;
    }
    // A slot that moved there and back knows half-open flows of the time between.
    if let Some(half) = tables.recorded(Record::HalfOpen, key) {
        let backend = half.backend as u32;
        tables.record(Record::Current, key, pin(backend, packet));
        tables.forget(Record::HalfOpen, key);
        if is_ending(packet.phase) {
            count(tables, service, backend, false);
        }
        return backend;
    }
    if !slot.is_moving() && !keeps_all {
        return slot.current();
    }
    // `base` is `current` where nothing moves.
    let backend = slot.base();
    if backend != 0 {
        tables.record(Record::Base, key, pin(backend, packet));
        if !is_ending(packet.phase) {
            count(tables, service, backend, true);
        }
    }
    backend
}

/// The backend of a flow that somebody tells of, and whose packet this is not: that of a packet in
/// the middle of it, or of a datagram. Nothing is remembered, dated or counted.
#[inline(always)]
pub fn peek<T: Tables>(tables: &T, slot: Slot, key: &FlowKey) -> u32 {
    if let Some(held) = tables.recorded(Record::Current, key) {
        return held.backend as u32;
    }
    if let Some(held) = tables.recorded(Record::Base, key) {
        return held.backend as u32;
    }
    if key.protocol() == protocol::UDP {
        return slot.current();
    }
    match tables.recorded(Record::HalfOpen, key) {
        Some(half) => half.backend as u32,
        // `base` is `current` where nothing moves.
        None => slot.base(),
    }
}

/// The backend of a SYN.
#[inline(always)]
fn begin<T: Tables>(
    tables: &T,
    service: &Service,
    slot: Slot,
    packet: &Packet,
    keeps_all: bool,
) -> u32 {
    let key = &packet.key;
    let held = match tables.recorded(Record::Current, key) {
        Some(held) => Some(held),
        None => tables.recorded(Record::Base, key),
    };
    if let Some(held) = held {
        if held.flags & PIN_CLOSING == 0 {
            if is_open(tables, service, held.backend as u32) {
                return held.backend as u32;
            }
            count(tables, service, held.backend as u32, false);
        }
        tables.forget(Record::Current, key);
        tables.forget(Record::Base, key);
    }
    if keeps_all
        && let Some(half) = tables.recorded(Record::HalfOpen, key)
        && is_open(tables, service, half.backend as u32)
    {
        return half.backend as u32;
    }
    let backend = choose(tables, service, slot);
    if backend != 0 && (keeps_all || slot.is_moving()) {
        tables.record(Record::HalfOpen, key, pin(backend, packet));
        count(tables, service, backend, true);
    } else {
        // Of an earlier SYN, while the slot had moved.
        tables.forget(Record::HalfOpen, key);
    }
    backend
}

/// The backend that a pin tells; the pin is dated anew if it is older than this second, or if
/// the flow ends.
#[inline(always)]
fn pinned<T: Tables>(
    tables: &T,
    service: &Service,
    record: Record,
    packet: &Packet,
) -> Option<u32> {
    let held = tables.recorded(record, &packet.key)?;
    let flags = held.flags | flags(packet.phase);
    if held.seen != packet.epoch || held.flags != flags {
        let renewed = Pin { backend: held.backend, flags, seen: packet.epoch };
        tables.record(record, &packet.key, renewed);
        if (flags ^ held.flags) & PIN_CLOSING != 0 {
            count(tables, service, held.backend as u32, false);
        }
    }
    Some(held.backend as u32)
}

#[inline(always)]
fn pin(backend: u32, packet: &Packet) -> Pin {
    Pin { backend: backend as u16, flags: flags(packet.phase), seen: packet.epoch }
}

#[inline(always)]
const fn flags(phase: Phase) -> u16 {
    match phase {
        Phase::Ends => PIN_CLOSING,
        Phase::Aborts => PIN_CLOSING | PIN_CLOSED,
        Phase::None | Phase::Begins | Phase::Continues => 0,
    }
}

#[inline(always)]
const fn is_ending(phase: Phase) -> bool {
    matches!(phase, Phase::Ends | Phase::Aborts)
}

/// Open flows count from the SYN on, so that many that come at once do not all find the same
/// backend idle. What is never heard of again is taken off by userspace.
#[inline(always)]
fn count<T: Tables>(tables: &T, service: &Service, backend: u32, begun: bool) {
    if service.flags & SERVICE_LEAST_CONN != 0 {
        tables.count_flow(service.backend_base + backend, begun);
    }
}
