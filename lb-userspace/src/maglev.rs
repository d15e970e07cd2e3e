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
    let Some(heaviest) = claims.iter().map(|claim| claim.weight).max() else {
        return vec![0; size as usize];
    };
    let mut table = vec![0; size as usize];
    let mut free = size;
    while free > 0 {
        for claim in &mut claims {
            claim.credit += claim.weight;
            if claim.credit < heaviest {
                continue;
            }
            claim.credit -= heaviest;
            let slot = claim.next_free(&table);
            table[slot] = claim.number;
            free -= 1;
            if free == 0 {
                break;
            }
        }
    }
    table
}

struct Claim {
    number: u16,
    address: Address,
    weight: u32,
    credit: u32,
    /// Next slot of the permutation, and the step to the one after.
    position: u64,
    skip: u64,
    size: u64,
}

impl Claim {
    fn new(member: &Member, size: u32) -> Self {
        let [high, low] = member.address.0;
        let offset = mix(mix(high ^ 0x6c62_2d6d_6167_6c65) ^ low);
        let skip = mix(offset ^ 0x7668_2d73_6b69_7021);
        let size = u64::from(size);
        Self {
            number: member.number,
            address: member.address,
            weight: u32::from(member.weight),
            credit: 0,
            position: offset % size,
            // With a prime size, any step but 0 visits every slot.
            skip: if size > 1 { skip % (size - 1) + 1 } else { 0 },
            size,
        }
    }

    /// The first slot of the permutation that nobody has. There is one: the caller counts.
    fn next_free(&mut self, table: &[u16]) -> usize {
        loop {
            let slot = self.position as usize;
            self.position = (self.position + self.skip) % self.size;
            if table[slot] == 0 {
                return slot;
            }
        }
    }
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
