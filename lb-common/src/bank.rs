//! Filling a bank of the service table: which bucket each listener goes to, and under which
//! seed all of them are found within the probes that a look-up makes.

use alloc::collections::BTreeMap;

use crate::maps::{SERVICE_BUCKETS, SERVICE_PROBES, Service};

/// Seeds that are tried before giving up. At the largest allowed load about every other seed
/// fits, so that failing is out of the question while keys differ.
const TRIES: u64 = 4_096;

/// A filled bank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bank {
    /// What [`ServiceKey::bucket`](crate::maps::ServiceKey::bucket) takes.
    pub seed: u64,
    /// Occupied buckets, counted from the start of the bank.
    pub buckets: BTreeMap<u32, Service>,
}

/// Places all listeners. `None` if no seed fits: too many of them, or two with the same key.
pub fn fill(listeners: &[Service]) -> Option<Bank> {
    (1..=TRIES).find_map(|n| {
        // Any 63 bits do; the odd constant spreads consecutive numbers over all of them.
        let seed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 1;
        place(listeners, seed).map(|buckets| Bank { seed, buckets })
    })
}

fn place(listeners: &[Service], seed: u64) -> Option<BTreeMap<u32, Service>> {
    let mut buckets: BTreeMap<u32, Service> = BTreeMap::new();
    for service in listeners {
        let first = service.key().bucket(seed);
        let probes = (0..SERVICE_PROBES).map(|n| (first + n) & (SERVICE_BUCKETS - 1));
        let free = probes.into_iter().find(|bucket| match buckets.get(bucket) {
            Some(taken) => taken.key() == service.key(),
            None => true,
        })?;
        if buckets.insert(free, *service).is_some() {
            return None;
        }
    }
    Some(buckets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;
    use crate::maps::{MAX_LISTENERS, ServiceKey};
    use alloc::vec::Vec;

    fn listeners(count: u32) -> Vec<Service> {
        (0..count)
            .map(|n| {
                let vip = Address::from_v4([10, 0, (n >> 8) as u8, n as u8]);
                let key = ServiceKey::new(vip, 80 + (n % 7) as u16, 6);
                Service {
                    vip,
                    port_and_protocol: key.port_and_protocol,
                    id: n + 1,
                    ..Service::default()
                }
            })
            .collect()
    }

    #[test]
    fn the_largest_number_of_listeners_fits() {
        let all = listeners(MAX_LISTENERS);
        let bank = fill(&all).unwrap();
        assert_eq!(bank.buckets.len(), all.len());
    }

    #[test]
    fn two_listeners_with_one_key_do_not_fit() {
        let mut all = listeners(2);
        all[1] = Service { id: 2, ..all[0] };
        assert_eq!(fill(&all), None);
    }
}
