//! The slot: which backend new flows go to, and which old ones.

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
