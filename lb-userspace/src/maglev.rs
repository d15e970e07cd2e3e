//! Weighted Maglev tables (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
//! Balancer", NSDI 2016, section 3.4). Pure: equal members give equal tables, on every node.

use lb_common::Address;

/// A backend as the table sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number in the service, what the table's cells hold.
    pub number: u16,
    /// What its preferences follow from: the same on every node.
    pub address: Address,
    /// Its share relative to the others'; with 0 it gets nothing.
    pub weight: u16,
}

/// The number of the member for each of `size` slots, a prime; all 0 if no member has a weight.
///
/// In each round every member may claim as many free slots as its weight has earned it, in the
/// order of a permutation of its own. So slots are shared by weight up to rounding, and few
/// slots change hands that do not have to when a member comes or goes.
pub fn table(members: &[Member], size: u32) -> Vec<u16> {
    let mut claims: Vec<Claim> = members
        .iter()
        .filter(|member| member.weight > 0)
        .map(|member| Claim::new(member, size))
        .collect();
    // Names and numbers differ between nodes and over time, addresses do not.
    claims.sort_by_key(|claim| claim.address);
    let mut table = vec![0; size as usize];
    let Some(heaviest) = claims.iter().map(|claim| claim.weight).max() else {
        return table;
    };
    let mut free = Free::new(size);
    while !free.is_empty() {
        for claim in &mut claims {
            claim.credit += claim.weight;
            if claim.credit < heaviest {
                continue;
            }
            claim.credit -= heaviest;
            let slot = claim.next_free(&mut free);
            table[slot as usize] = claim.number;
            if free.is_empty() {
                break;
            }
        }
    }
    table
}

/// The slots that nobody has: a bit for each, which stay in the nearest cache, and a list of the
/// last ones.
struct Free {
    bits: Vec<u64>,
    count: u32,
    /// From so many on, they are listed: looking at all of them is less than a walk that finds
    /// one of so few.
    few: u32,
    list: Vec<u32>,
}

impl Free {
    fn new(size: u32) -> Self {
        let words = size.div_ceil(u64::BITS) as usize;
        Self { bits: vec![u64::MAX; words], count: size, few: size.isqrt(), list: Vec::new() }
    }

    fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn contains(&self, slot: u32) -> bool {
        self.bits[slot as usize / 64] >> (slot % 64) & 1 != 0
    }

    fn take(&mut self, slot: u32) {
        self.bits[slot as usize / 64] &= !(1 << (slot % 64));
        self.count -= 1;
    }

    /// The last ones, if there are so few.
    fn few(&mut self, size: u32) -> Option<&mut Vec<u32>> {
        if self.count > self.few {
            return None;
        }
        if self.list.len() != self.count as usize {
            self.list = (0..size).filter(|slot| self.contains(*slot)).collect();
        }
        Some(&mut self.list)
    }
}

struct Claim {
    number: u16,
    address: Address,
    weight: u32,
    credit: u32,
    /// Next slot of the permutation, and the step to the one after.
    position: u32,
    skip: u32,
    /// How many steps further on the slot next to another stands.
    unskip: u32,
    size: u32,
}

impl Claim {
    fn new(member: &Member, size: u32) -> Self {
        let [high, low] = member.address.0;
        let offset = mix(mix(high ^ 0x6c62_2d6d_6167_6c65) ^ low);
        let skip = mix(offset ^ 0x7668_2d73_6b69_7021);
        let slots = u64::from(size);
        // With a prime size, any step but 0 visits every slot.
        let skip = if size > 1 { skip % (slots - 1) + 1 } else { 0 };
        Self {
            number: member.number,
            address: member.address,
            weight: u32::from(member.weight),
            credit: 0,
            position: (offset % slots) as u32,
            skip: skip as u32,
            unskip: inverse(skip as u32, size),
            size,
        }
    }

    /// Takes the first slot of the permutation that nobody has. There is one: the caller counts.
    fn next_free(&mut self, free: &mut Free) -> u32 {
        let slot = match free.few(self.size) {
            Some(few) => {
                let steps = |slot: &u32| self.steps_to(*slot);
                let nearest = (0..few.len()).min_by_key(|place| steps(&few[*place]));
                few.swap_remove(nearest.unwrap_or(0))
            }
            None => {
                let mut slot = self.position;
                while !free.contains(slot) {
                    slot = self.after(slot);
                }
                slot
            }
        };
        free.take(slot);
        self.position = self.after(slot);
        slot
    }

    /// The slot after one in the permutation.
    fn after(&self, slot: u32) -> u32 {
        let next = slot + self.skip;
        if next >= self.size { next - self.size } else { next }
    }

    /// How far a slot is from the next one of the permutation.
    fn steps_to(&self, slot: u32) -> u64 {
        let apart = slot + self.size - self.position;
        u64::from(apart) * u64::from(self.unskip) % u64::from(self.size)
    }
}

/// What `skip` times this is one more than a multiple of `size`, a prime; 0 if there is no such
/// number. By Euclid's algorithm.
fn inverse(skip: u32, size: u32) -> u32 {
    let (mut divided, mut rest) = (i64::from(size), i64::from(skip));
    let (mut before, mut factor) = (0_i64, 1_i64);
    while rest != 0 {
        let times = divided / rest;
        (divided, rest) = (rest, divided - times * rest);
        (before, factor) = (factor, before - times * factor);
    }
    before.rem_euclid(i64::from(size)) as u32
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
pub(crate) fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SLOTS: u32 = 65_537;

    fn members(weights: &[u16]) -> Vec<Member> {
        weights
            .iter()
            .enumerate()
            .map(|(n, weight)| Member {
                number: n as u16 + 1,
                address: Address::from_v4([10, 0, (n / 250) as u8, (n % 250) as u8 + 1]),
                weight: *weight,
            })
            .collect()
    }

    fn shares(table: &[u16], count: usize) -> Vec<u32> {
        let mut shares = vec![0; count + 1];
        for number in table {
            shares[usize::from(*number)] += 1;
        }
        shares
    }

    /// As the paper has it, step by step.
    fn plain(members: &[Member], size: u32) -> Vec<u16> {
        let mut members: Vec<Member> = members.to_vec();
        members.retain(|member| member.weight > 0);
        members.sort_by_key(|member| member.address);
        let mut table = vec![0; size as usize];
        let Some(heaviest) = members.iter().map(|member| u32::from(member.weight)).max() else {
            return table;
        };
        let mut walks: Vec<_> = members
            .iter()
            .map(|member| {
                let [high, low] = member.address.0;
                let offset = mix(mix(high ^ 0x6c62_2d6d_6167_6c65) ^ low);
                let skip = mix(offset ^ 0x7668_2d73_6b69_7021) % u64::from(size - 1) + 1;
                (0_u64..).map(move |step| {
                    ((u128::from(offset) + u128::from(step) * u128::from(skip)) % u128::from(size))
                        as usize
                })
            })
            .collect();
        let mut credits = vec![0; members.len()];
        let mut free = size;
        while free > 0 {
            for ((member, walk), credit) in members.iter().zip(&mut walks).zip(&mut credits) {
                *credit += u32::from(member.weight);
                if *credit >= heaviest && free > 0 {
                    free -= 1;
                    *credit -= heaviest;
                    let slot = walk.find(|slot| table[*slot] == 0);
                    table[slot.expect("a walk finds every slot")] = member.number;
                }
            }
        }
        table
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn slots_are_shared_within_one_percent_of_the_weights(
            weights in prop::collection::vec(1_u16..=100, 1..60)
        ) {
            let table = table(&members(&weights), SLOTS);
            let total: u32 = weights.iter().map(|weight| u32::from(*weight)).sum();
            let shares = shares(&table, weights.len());
            prop_assert_eq!(shares[0], 0);
            for (n, weight) in weights.iter().enumerate() {
                let due = f64::from(SLOTS) * f64::from(*weight) / f64::from(total);
                let got = f64::from(shares[n + 1]);
                // A whole slot of rounding matters where a share is a few slots.
                prop_assert!((got - due).abs() <= (due * 0.01).max(1.5), "{got} for {due}");
            }
        }

        #[test]
        fn few_slots_move_that_do_not_have_to(
            count in 3_usize..60, leaving in any::<prop::sample::Index>()
        ) {
            let all = members(&vec![100; count]);
            let mut fewer = all.clone();
            let gone = fewer.remove(leaving.index(count)).number;
            let (before, after) = (table(&all, SLOTS), table(&fewer, SLOTS));
            let moved = before.iter().zip(&after).filter(|(a, b)| **a != gone && a != b).count();
            // The paper's figure 12: a few per cent at this size, less with more members.
            prop_assert!(moved < SLOTS as usize * 4 / 100, "{moved} of {SLOTS} moved");
        }

        #[test]
        fn every_slot_is_whose_the_plain_algorithm_says(
            weights in prop::collection::vec(0_u16..=1_000, 0..40),
            size in prop::sample::select(&[2_u32, 3, 13, 101, 251, 1_009, 10_007][..]),
        ) {
            let members = members(&weights);
            prop_assert_eq!(table(&members, size), plain(&members, size));
        }

        #[test]
        fn neither_order_nor_numbers_decide_who_gets_a_slot(
            weights in prop::collection::vec(0_u16..5, 1..20), seed in any::<u64>()
        ) {
            let first = members(&weights);
            let mut second = first.clone();
            let turn = seed as usize % second.len();
            second.rotate_left(turn);
            for member in &mut second {
                member.number += 100;
            }
            let moved: Vec<u16> =
                table(&second, 251).iter().map(|n| n.saturating_sub(100)).collect();
            prop_assert_eq!(table(&first, 251), moved);
        }
    }

    #[test]
    fn large_tables_are_those_of_the_plain_algorithm() {
        for weights in [vec![100; 100], (1..=60).collect()] {
            let members = members(&weights);
            assert_eq!(table(&members, SLOTS), plain(&members, SLOTS));
        }
    }

    #[test]
    fn a_table_without_members_is_empty() {
        assert!(table(&[], 13).iter().all(|number| *number == 0));
        assert!(table(&members(&[0, 0]), 13).iter().all(|number| *number == 0));
    }

    #[test]
    fn a_table_of_one_slot_has_one_owner() {
        assert_eq!(table(&members(&[3, 5]), 2).len(), 2);
        assert_ne!(table(&members(&[3]), 2), [0, 0]);
    }

    #[test]
    fn a_change_of_weight_moves_about_the_share_that_it_must() {
        let before = table(&members(&[100, 100, 100, 100]), SLOTS);
        let after = table(&members(&[100, 100, 100, 50]), SLOTS);
        let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
        // From 1/4 to 1/7: 10.7 per cent have to.
        assert!(moved < SLOTS as usize * 20 / 100, "{moved} of {SLOTS} moved");
    }
}
