//! Who may come in, and how many: a service's rules about sources, and its limits of new flows.

use crate::address::Address;
use crate::maps::{LIMITS_ADMIT, LIMITS_RULES, RULE_ALLOW, RULE_DENY, Service, SourceKey};
use crate::tables::Tables;
use crate::verdict::Drop;

/// Why a packet is not let in; `begins` tells whether it begins a flow. A source's limit is asked
/// before the service's, so that what one source has too many of is taken from nobody else.
#[inline(always)]
pub fn guard<T: Tables>(
    tables: &T,
    service: &Service,
    source: Address,
    begins: bool,
) -> Result<(), Drop> {
    let Some(limits) = tables.limits(service.id) else { return Ok(()) };
    if limits.flags & LIMITS_RULES != 0 {
        let let_in = match tables.rule(service.id, source) {
            Some(RULE_ALLOW) => true,
            Some(RULE_DENY) => false,
            _ => limits.flags & LIMITS_ADMIT != 0,
        };
        if !let_in {
            return Err(Drop::Denied);
        }
    }
    if !begins || limits.interval | limits.source_interval == 0 {
        return Ok(());
    }
    let now = tables.now();
    if limits.source_interval != 0 {
        let key = SourceKey { source: network(source), service: service.id, reserved: 0 };
        let held = tables.source_bucket(&key);
        let Some(bucket) = take(held, now, limits.source_interval, limits.source_tolerance) else {
            return Err(Drop::SourceRate);
        };
        tables.set_source_bucket(&key, bucket);
    }
    if limits.interval != 0 {
        let held = tables.bucket(service.id);
        let Some(bucket) = take(held, now, limits.interval, limits.tolerance) else {
            return Err(Drop::ServiceRate);
        };
        tables.set_bucket(service.id, bucket);
    }
    Ok(())
}

/// The bucket after one more flow; `None` if it is too far ahead for that.
#[inline(always)]
pub(crate) const fn take(bucket: u64, now: u64, interval: u64, tolerance: u64) -> Option<u64> {
    let bucket = if bucket > now { bucket } else { now };
    if bucket - now > tolerance { None } else { Some(bucket + interval) }
}

/// Who is one source: an IPv4 address, an IPv6 network of 64 bits.
#[inline(always)]
const fn network(source: Address) -> Address {
    if source.0[0] == 0 { source } else { Address([source.0[0], 0]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_a_burst_in_and_then_one_in_each_interval() {
        let (interval, burst) = (1_000, 4);
        let tolerance = interval * (burst - 1);
        let mut bucket = 0;
        let mut let_in = |now| match take(bucket, now, interval, tolerance) {
            Some(next) => {
                bucket = next;
                true
            }
            None => false,
        };
        let begun = 1_000_000;
        assert_eq!((0..10).filter(|_| let_in(begun)).count(), 4);
        assert!(!let_in(begun + 999));
        assert!(let_in(begun + 1_000));
        assert!(!let_in(begun + 1_000));
        // A long silence is worth a burst, and no more.
        assert_eq!((0..10).filter(|_| let_in(begun + 1_000_000)).count(), 4);
    }

    #[test]
    fn hosts_of_an_ipv6_network_are_one_source() {
        let v6 = |host: u8| {
            let mut octets = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0];
            octets[15] = host;
            network(Address::from_v6(octets))
        };
        assert_eq!(v6(1), v6(2));
        let v4 = |host| network(Address::from_v4([192, 0, 2, host]));
        assert_ne!(v4(1), v4(2));
    }
}
