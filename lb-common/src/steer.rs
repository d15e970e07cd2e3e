//! The rule by which connections outlive a change of their slot (compare JET, CoNEXT 2021;
//! Beamer, NSDI 2018).

use crate::maps::{FlowKey, PIN_CLOSING, Pin};
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
    /// The client ends it: FIN or RST.
    Ends,
}

/// The backend of a packet whose slot is not steady; 0 for none.
///
/// | slot | packet | backend | record |
/// |---|---|---|---|
/// | watched, `current == base` | begins | `current` | those of its five-tuple go |
/// | | other | its pin's, else `current` | |
/// | `current != base` | begins | `current` | half-open; pins of its five-tuple go |
/// | | other | its pin's, else its half-open record's, which becomes a pin | |
/// | | other, unknown | `base` | pin |
/// | either | UDP | its pin's, else `current` | pin |
///
/// UDP does not tell a new flow from an old one: services that keep UDP flows together remember
/// every flow, and all their slots are watched at all times.
#[inline(always)]
pub fn transition<T: Tables>(tables: &T, slot: Slot, packet: &Packet) -> u32 {
    let moving = slot.is_moving();
    let key = &packet.key;
    if packet.phase == Phase::Begins {
        tables.forget(Record::Current, key);
        tables.forget(Record::Base, key);
        if moving && slot.current() != 0 {
            tables.record(Record::HalfOpen, key, pin(slot.current(), packet));
        }
        return slot.current();
    }
    if let Some(backend) = pinned(tables, Record::Current, packet) {
        return backend;
    }
    if let Some(backend) = pinned(tables, Record::Base, packet) {
        return backend;
    }
    if packet.phase == Phase::None {
        if slot.current() != 0 {
            tables.record(Record::Current, key, pin(slot.current(), packet));
        }
        return slot.current();
    }
    if !moving {
        return slot.current();
    }
    if let Some(half) = tables.recorded(Record::HalfOpen, key) {
        tables.record(Record::Current, key, pin(half.backend as u32, packet));
        tables.forget(Record::HalfOpen, key);
        return half.backend as u32;
    }
    tables.record(Record::Base, key, pin(slot.base(), packet));
    slot.base()
}

/// The backend that a pin tells; the pin is dated anew if it is older than this second, or if
/// the flow ends.
#[inline(always)]
fn pinned<T: Tables>(tables: &T, record: Record, packet: &Packet) -> Option<u32> {
    let held = tables.recorded(record, &packet.key)?;
    let flags = if packet.phase == Phase::Ends { held.flags | PIN_CLOSING } else { held.flags };
    if held.seen != packet.epoch || held.flags != flags {
        let renewed = Pin { backend: held.backend, flags, seen: packet.epoch };
        tables.record(record, &packet.key, renewed);
    }
    Some(held.backend as u32)
}

#[inline(always)]
fn pin(backend: u32, packet: &Packet) -> Pin {
    let flags = if packet.phase == Phase::Ends { PIN_CLOSING } else { 0 };
    Pin { backend: backend as u16, flags, seen: packet.epoch }
}
