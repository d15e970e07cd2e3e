//! A service's slots as a value that is shared: of thousands of services few change at a time, and
//! those that stay cost nothing to plan, compare or keep. Pure.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use lb_common::slot::Slot;

/// Raw slots, and what is often asked about all of them.
#[derive(Clone, Debug, Default)]
pub struct Slots(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    raw: Vec<u32>,
    watched: u32,
    moving: u32,
    /// Made when first asked for.
    shares: OnceLock<Vec<u32>>,
}

impl Slots {
    /// Whether both are the same in memory: then they are equal, and nobody has to look.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The slots after some of them were changed: offsets and raw words. What is behind the end
    /// is left out.
    #[must_use]
    pub fn with(&self, updates: &[(u32, u32)]) -> Self {
        let mut raw = self.0.raw.clone();
        for (offset, word) in updates {
            if let Some(slot) = raw.get_mut(*offset as usize) {
                *slot = *word;
            }
        }
        Self::from(raw)
    }

    /// How many are watched.
    pub fn watched(&self) -> u32 {
        self.0.watched
    }

    /// How many are moving.
    pub fn moving(&self) -> u32 {
        self.0.moving
    }

    /// How many give their new flows to the backend with a number.
    pub fn share(&self, number: u32) -> u32 {
        let count = || {
            let mut shares = Vec::new();
            for raw in &self.0.raw {
                let number = Slot::from_raw(*raw).current() as usize;
                if number >= shares.len() {
                    shares.resize(number + 1, 0);
                }
                shares[number] += 1;
            }
            shares
        };
        self.0.shares.get_or_init(count).get(number as usize).copied().unwrap_or(0)
    }
}

impl From<Vec<u32>> for Slots {
    fn from(raw: Vec<u32>) -> Self {
        let count = |is: fn(Slot) -> bool| {
            raw.iter().map(|raw| u32::from(is(Slot::from_raw(*raw)))).sum::<u32>()
        };
        let (watched, moving) = (count(Slot::watched), count(Slot::is_moving));
        Self(Arc::new(Shared { raw, watched, moving, shares: OnceLock::new() }))
    }
}

impl Deref for Slots {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        &self.0.raw
    }
}

impl PartialEq for Slots {
    fn eq(&self, other: &Self) -> bool {
        self.is(other) || self.0.raw == other.0.raw
    }
}

impl Eq for Slots {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_slots_after_every_change() {
        let steady = |number: u16| Slot::steady(number).raw();
        let slots = Slots::from(vec![steady(1), steady(2), steady(2), steady(0)]);
        assert_eq!((slots.watched(), slots.moving()), (0, 0));
        assert_eq!([0, 1, 2, 3].map(|number| slots.share(number)), [1, 1, 2, 0]);
        let moved = Slot::from_raw(steady(2)).moved_to(1).raw();
        let after = slots.with(&[(1, moved), (9, moved)]);
        assert_eq!((after.watched(), after.moving(), after.len()), (1, 1, 4));
        assert_eq!([0, 1, 2].map(|number| after.share(number)), [1, 2, 1]);
        assert!(!after.is(&slots) && after != slots);
        assert_eq!(after.with(&[(1, steady(2))]), slots);
    }
}
