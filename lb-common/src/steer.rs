//! Which backend a flow goes to: the slot, what is in it, and the rule by which connections
//! outlive a change of the slot (compare JET, CoNEXT 2021; Beamer, NSDI 2018).

use crate::maps::{FlowKey, PIN_CLOSING, Pin, names};
use crate::tables::Tables;

/// A slot of a service's Maglev table, in one 32-bit word that is read and written in one
/// access:
///
/// ```text
///  31            16  15   14             0
/// +----------------+----+-----------------+
/// |      base      | w  |     current     |
/// +----------------+----+-----------------+
/// ```
///
/// `current` is the backend of new flows, `base` that of flows from before the latest changes,
/// `w` (watched) says that some flow may be remembered apart from both. Backend numbers are
/// local to the service; 0 is none. While nothing changes, `base == current` and `w == 0`, and
/// a flow needs no state of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Slot(u32);

impl Slot {
    const WATCHED: u32 = 1 << 15;
    const CURRENT: u32 = Self::WATCHED - 1;

    /// From the map's word.
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// The map's word.
    #[inline(always)]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// A slot in which nothing changes: all flows go to `backend` (at most 15 bits; 0: to none).
    pub const fn steady(backend: u16) -> Self {
        let number = backend as u32 & Self::CURRENT;
        Self(number << 16 | number)
    }

    /// Backend of new flows, 0 for none.
    #[inline(always)]
    pub const fn current(self) -> u32 {
        self.0 & Self::CURRENT
    }

    /// Backend of flows from before the latest changes, 0 for none.
    #[inline(always)]
    pub const fn base(self) -> u32 {
        self.0 >> 16
    }

    /// Whether some flow of the slot may be remembered.
    #[inline(always)]
    pub const fn watched(self) -> bool {
        self.0 & Self::WATCHED != 0
    }

    /// Whether the slot alone tells where every one of its flows goes.
    #[inline(always)]
    pub const fn is_steady(self) -> bool {
        self.base() == self.0 & 0xffff
    }

    /// The slot after new flows are sent to `backend` (0: to none) from now on. Flows that are
    /// older than the first change since the last commit stay with `base`; those since are
    /// remembered one by one.
    #[must_use]
    pub const fn moved_to(self, backend: u16) -> Self {
        let number = backend as u32 & Self::CURRENT;
        if self.current() == number {
            return self;
        }
        // Nobody was there whose flows could be found without having been remembered.
        if self.base() == 0 {
            return Self(number << 16 | self.0 & Self::WATCHED | number);
        }
        Self(self.base() << 16 | Self::WATCHED | number)
    }

    /// The slot after a quiet window: every old flow that is still alive has been remembered by
    /// now, so that `base` is not needed any more.
    #[must_use]
    pub const fn committed(self) -> Self {
        Self(self.current() << 16 | self.0 & 0xffff)
    }

    /// The slot, watched.
    #[must_use]
    pub const fn watching(self) -> Self {
        Self(self.0 | Self::WATCHED)
    }

    /// Whether old flows go elsewhere than new ones.
    #[inline(always)]
    pub const fn is_moving(self) -> bool {
        self.base() != self.current()
    }

    /// The slot after none of its flows is remembered any more. A slot that is not committed
    /// stays as it is.
    #[must_use]
    pub const fn unwatched(self) -> Self {
        if self.is_moving() { self } else { Self(self.0 & !Self::WATCHED) }
    }
}

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

/// The slot, from 0, of a flow with this hash among `count`: a multiply and a shift instead of
/// a division (Lemire, "Fast random integer generation in an interval", 2019).
#[inline(always)]
pub const fn slot_of(hash: u32, count: u32) -> u32 {
    ((hash as u64 * count as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_keeps_its_parts_apart() {
        let slot = Slot::from_raw(0x1234_8001);
        assert_eq!((slot.base(), slot.watched(), slot.current()), (0x1234, true, 1));
        let steady = Slot::steady(0x7fff);
        assert_eq!((steady.base(), steady.watched(), steady.current()), (0x7fff, false, 0x7fff));
        assert_eq!(Slot::default().current(), 0);
    }

    #[test]
    fn every_slot_is_reached_and_none_beyond() {
        assert_eq!(slot_of(0, 65_537), 0);
        assert_eq!(slot_of(u32::MAX, 65_537), 65_536);
        assert_eq!(slot_of(u32::MAX, 1), 0);
    }
}
