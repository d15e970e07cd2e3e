//! A flow: what tells one connection from another, and its hash.

use core::net::{IpAddr, SocketAddr};

use crate::address::Address;
use crate::maps::{FlowKey, ServiceKey};

/// IP protocol numbers (IANA) that the packet path knows.
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP.
    pub const IPV4: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// IP authentication header.
    pub const AUTHENTICATION: u8 = 51;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// A five-tuple as it stands in the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Where it comes from.
    pub source: Address,
    /// Where it goes to.
    pub destination: Address,
    /// Source port's two bytes, then destination port's, in network order, read as a
    /// little-endian number.
    pub ports: u32,
    /// IP protocol number.
    pub protocol: u8,
}

impl Flow {
    /// The listener that the flow is sent to.
    #[inline(always)]
    pub const fn service_key(&self) -> ServiceKey {
        ServiceKey {
            vip: self.destination,
            port_and_protocol: (self.protocol as u32) << 16 | self.ports >> 16,
        }
    }

    /// What the flow is remembered by, in the service with this id.
    #[inline(always)]
    pub const fn key(&self, service: u32) -> FlowKey {
        FlowKey {
            source: self.source,
            destination: self.destination,
            ports: self.ports,
            protocol_and_service: service << 8 | self.protocol as u32,
        }
    }

    /// Source and destination as sockets have them.
    pub fn ends(&self) -> (SocketAddr, SocketAddr) {
        let end =
            |address, port: u32| SocketAddr::new(IpAddr::from(address), (port as u16).swap_bytes());
        (end(self.source, self.ports), end(self.destination, self.ports >> 16))
    }

    /// The flow as far as its client goes: all flows of one source address to a service look
    /// alike.
    #[inline(always)]
    pub const fn by_client(&self) -> Self {
        Self { ports: 0, destination: Address([0, 0]), ..*self }
    }

    /// 32 well-mixed bits under a secret key. Equal on all nodes that share the key.
    ///
    /// Each word passes through a multiply and a fold before the next one is added, so that a
    /// sender who does not know the key cannot trade a difference in one word for another. This
    /// keeps strangers from aiming at one backend; it is no cryptographic hash.
    #[inline(always)]
    pub const fn hash(&self, key: [u64; 2]) -> u32 {
        const A: u64 = 0xa076_1d64_78bd_642f;
        const B: u64 = 0xe703_7ed1_a0b4_28db;
        let rest = (self.protocol as u64) << 32 | self.ports as u64;
        // Both address words of IPv4 fit into one: the upper words are constant there.
        let mut h = key[0];
        if self.source.0[0] | self.destination.0[0] == 0 {
            h ^= (self.source.0[1] >> 32) << 32 | self.destination.0[1] >> 32;
        } else {
            h = mix(h ^ self.source.0[0], A);
            h = mix(h ^ self.source.0[1], B);
            h = mix(h ^ self.destination.0[0], A);
            h ^= self.destination.0[1];
        }
        h = mix(h, key[1] | 1);
        h = mix(h ^ rest, A);
        h = mix(h, B);
        (h >> 32) as u32
    }
}

impl From<&FlowKey> for Flow {
    fn from(key: &FlowKey) -> Self {
        Self {
            source: key.source,
            destination: key.destination,
            ports: key.ports,
            protocol: key.protocol(),
        }
    }
}

#[inline(always)]
const fn mix(word: u64, factor: u64) -> u64 {
    let product = word.wrapping_mul(factor);
    product ^ product >> 32
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::slot::slot_of;
    use std::vec;

    const KEY: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];

    fn v4(source: u32, port: u16) -> Flow {
        Flow {
            source: Address::from_v4(source.to_be_bytes()),
            destination: Address::from_v4([192, 0, 2, 100]),
            ports: u32::from(port.swap_bytes()) | u32::from(443_u16.swap_bytes()) << 16,
            protocol: protocol::TCP,
        }
    }

    fn v6(host: u64, port: u16) -> Flow {
        let mut octets = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        octets[8..].copy_from_slice(&host.to_be_bytes());
        let vip = [0x20, 1, 0xd, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        Flow { source: Address::from_v6(octets), destination: Address::from_v6(vip), ..v4(0, port) }
    }

    /// Chi-squared over `slots` cells, as a distance from its mean in standard deviations.
    fn deviation(flows: impl Iterator<Item = Flow>, slots: u32, key: [u64; 2]) -> f64 {
        let mut counts = vec![0_u32; slots as usize];
        let mut total = 0_u32;
        for flow in flows {
            counts[slot_of(flow.hash(key), slots) as usize] += 1;
            total += 1;
        }
        let expected = f64::from(total) / f64::from(slots);
        let chi: f64 = counts.iter().map(|n| (f64::from(*n) - expected).powi(2) / expected).sum();
        let freedom = f64::from(slots - 1);
        (chi - freedom) / (2.0 * freedom).sqrt()
    }

    #[test]
    fn regular_flows_spread_evenly_over_the_slots() {
        for key in [KEY, [1, 2], [0, 0], [u64::MAX, 7]] {
            let spreads = [
                ("ports of one host", deviation((0..60_000).map(|p| v4(0x0a00_0001, p)), 251, key)),
                (
                    "hosts, one port",
                    deviation((0..200_000).map(|h| v4(0x0a00_0000 + h, 4_000)), 1_009, key),
                ),
                ("hosts 256 apart", deviation((0..60_000).map(|h| v4(h << 8, 4_000)), 1_009, key)),
                (
                    "hosts and ports together",
                    deviation((0..60_000).map(|i: u16| v4(u32::from(i), i)), 1_009, key),
                ),
                ("IPv6 hosts", deviation((0..200_000).map(|h| v6(h, 4_000)), 1_009, key)),
                ("IPv6 networks", deviation((0..60_000).map(|h| v6(h << 40, 4_000)), 1_009, key)),
                ("IPv6 ports", deviation((0..60_000).map(|p| v6(1, p)), 251, key)),
            ];
            for (name, spread) in spreads {
                assert!(spread.abs() < 6.0, "{name}, key {key:x?}: {spread} standard deviations");
            }
        }
    }

    #[test]
    fn the_key_decides_where_a_flow_goes() {
        let moved = (0..10_000)
            .filter(|p| {
                let flow = v4(0x0a00_0001, *p);
                slot_of(flow.hash(KEY), 65_537) != slot_of(flow.hash([KEY[0] ^ 1, KEY[1]]), 65_537)
            })
            .count();
        assert!(moved > 9_900, "{moved} of 10000 flows moved");
    }

    #[test]
    fn a_flow_is_found_again_in_what_it_is_remembered_by() {
        for flow in [v4(0xc633_6407, 40_112), v6(7, 40_112)] {
            assert_eq!(Flow::from(&flow.key(4_095)), flow);
            let (source, destination) = flow.ends();
            assert_eq!((source.port(), destination.port()), (40_112, 443));
            assert_eq!(Address::from(source.ip()), flow.source);
            assert_eq!(Address::from(destination.ip()), flow.destination);
        }
    }

    #[test]
    fn a_flow_knows_its_listener() {
        let key = v4(1, 40_000).service_key();
        assert_eq!((key.port(), key.protocol()), (443, protocol::TCP));
        assert_eq!(key, ServiceKey::new(Address::from_v4([192, 0, 2, 100]), 443, protocol::TCP));
        assert_eq!(key.any_port().port(), 0);
    }
}
