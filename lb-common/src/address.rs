//! Addresses as the packet path compares them: two 64-bit words.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 or IPv6 address: the 16 bytes of the IPv6 form as two little-endian words in
/// memory order, so that a header's bytes can be loaded and compared without swapping.
/// IPv4 addresses are IPv4-mapped, `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Address(pub [u64; 2]);

/// Bytes 8..12 of an IPv4-mapped address, `00 00 ff ff`, as the low half of the second word.
const MAPPED: u64 = 0xffff_0000;

impl Address {
    /// From the four bytes of an IPv4 address, in network order.
    #[inline(always)]
    pub const fn from_v4(octets: [u8; 4]) -> Self {
        Self([0, (u32::from_le_bytes(octets) as u64) << 32 | MAPPED])
    }

    /// From the sixteen bytes of an IPv6 address, in network order.
    #[inline(always)]
    pub const fn from_v6(octets: [u8; 16]) -> Self {
        let whole = u128::from_le_bytes(octets);
        Self([whole as u64, (whole >> 64) as u64])
    }

    /// The sixteen bytes, in network order.
    #[inline(always)]
    pub const fn octets(self) -> [u8; 16] {
        ((self.0[1] as u128) << 64 | self.0[0] as u128).to_le_bytes()
    }

    /// The four bytes of an IPv4 address, if this is one.
    #[inline(always)]
    pub const fn v4_octets(self) -> Option<[u8; 4]> {
        if self.0[0] == 0 && self.0[1] & 0xffff_ffff == MAPPED {
            Some(((self.0[1] >> 32) as u32).to_le_bytes())
        } else {
            None
        }
    }

    /// The address with all bits behind the first `length` (of 128) zero.
    pub const fn network(self, length: u32) -> Self {
        let whole = u128::from_be_bytes(self.octets());
        let mask = if length == 0 { 0 } else { u128::MAX << (128 - length) };
        Self::from_v6((whole & mask).to_be_bytes())
    }

    /// Whether a packet from here may be answered: not from "this" network, a group, a reserved
    /// or the broadcast address (RFC 1122 section 3.2.1.3), nor from nowhere.
    #[inline(always)]
    pub const fn is_one_host(self) -> bool {
        match self.v4_octets() {
            Some(octets) => octets[0] != 0 && octets[0] < 224,
            None => self.octets()[0] != 0xff && (self.0[0] | self.0[1]) != 0,
        }
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::from_v4(v4.octets()),
            IpAddr::V6(v6) => Self::from_v6(v6.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        match address.v4_octets() {
            Some(octets) => Self::V4(Ipv4Addr::from(octets)),
            None => Self::V6(Ipv6Addr::from(address.octets())),
        }
    }
}

impl core::fmt::Display for Address {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

/// A hardware address in the low six bytes of a word, first byte lowest: a frame's first
/// eight bytes, loaded as one little-endian word, hold the destination in this form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Mac(u64);

impl Mac {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self(Self::MASK);
    const MASK: u64 = 0xffff_ffff_ffff;

    /// From the low six bytes of `word`; the upper two are ignored.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self(word & Self::MASK)
    }

    /// The six bytes in the low part of a word, the upper two zero.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// From the bytes in transmission order.
    #[inline(always)]
    pub const fn new(octets: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = octets;
        Self(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }

    /// The bytes in transmission order.
    #[inline(always)]
    pub const fn octets(self) -> [u8; 6] {
        let [a, b, c, d, e, f, _, _] = self.0.to_le_bytes();
        [a, b, c, d, e, f]
    }

    /// Whether this is no address at all.
    #[inline(always)]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Whether the group bit is set (broadcast included).
    #[inline(always)]
    pub const fn is_multicast(self) -> bool {
        self.0 & 1 == 1
    }
}

impl core::fmt::Display for Mac {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d, e, g] = self.octets();
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn addresses_survive_the_round_trip() {
        for text in ["192.0.2.100", "0.0.0.0", "2001:db8::100", "::", "::1", "::192.0.2.1"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Address::from(address)), address, "{text}");
        }
    }

    #[test]
    fn an_ipv4_address_equals_its_mapped_form() {
        let mapped: Ipv6Addr = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(Address::from_v6(mapped.octets()), Address::from_v4([192, 0, 2, 1]));
    }

    #[test]
    fn a_mac_is_the_first_six_bytes_of_the_word() {
        let mac = Mac::new([2, 0, 0, 0, 0, 0x11]);
        assert_eq!(Mac::from_word(u64::from_le_bytes([2, 0, 0, 0, 0, 0x11, 9, 9])), mac);
        assert_eq!(mac.to_string(), "02:00:00:00:00:11");
        assert!(!mac.is_multicast() && Mac::BROADCAST.is_multicast());
    }
}
