//! A range of addresses, by the bits that they begin with: `198.51.100.0/24`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Addresses of one family that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// Its first address.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits its addresses have in common.
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// Whether an address begins with these bits. IPv4 is never in IPv6.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && first_bits(address, self.length) == self.bits()
    }

    fn bits(&self) -> u128 {
        first_bits(self.address, self.length)
    }
}

/// The bits of an address as the upper ones of a word.
fn word(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The first `length` bits of an address, all others zero.
fn first_bits(address: IpAddr, length: u8) -> u128 {
    // No bit at all is a shift by the whole width.
    word(address) & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

impl FromStr for Prefix {
    type Err = String;

    /// An address alone is a prefix too, of its whole length.
    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("`{text}` is no prefix: write 198.51.100.0/24 or 2001:db8::/32");
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| form())?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            // `+8` is a number to Rust, and no length to anybody else.
            Some(length) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
                length.parse().map_err(|_| form())?
            }
            Some(_) => return Err(form()),
            None => whole,
        };
        if length > whole {
            return Err(format!("`{text}` is no prefix: {address} has {whole} bits"));
        }
        let prefix = Self { address, length };
        if prefix.bits() != word(address) {
            return Err(format!(
                "`{text}` is no prefix: {address} has bits behind the first {length}"
            ));
        }
        Ok(prefix)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

impl TryFrom<String> for Prefix {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_holds_the_addresses_that_begin_with_it() {
        for (prefix, inside, outside) in [
            ("198.51.100.0/24", "198.51.100.255", "198.51.101.0"),
            ("198.51.100.7", "198.51.100.7", "198.51.100.6"),
            ("0.0.0.0/0", "255.255.255.255", "::"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1"),
            ("::/0", "ffff::1", "1.2.3.4"),
        ] {
            let prefix: Prefix = prefix.parse().expect(prefix);
            assert!(prefix.contains(inside.parse().expect(inside)), "{prefix} {inside}");
            assert!(!prefix.contains(outside.parse().expect(outside)), "{prefix} {outside}");
        }
    }

    #[test]
    fn a_prefix_that_is_none_is_named() {
        for (text, complaint) in [
            ("", "`` is no prefix"),
            ("ten", "`ten` is no prefix"),
            ("10.0.0.0/", "`10.0.0.0/` is no prefix"),
            ("10.0.0.0/+8", "`10.0.0.0/+8` is no prefix"),
            ("10.0.0.0/33", "10.0.0.0 has 32 bits"),
            ("10.0.0.0/999", "`10.0.0.0/999` is no prefix"),
            ("10.0.0.7/8", "10.0.0.7 has bits behind the first 8"),
            ("2001:db8::/129", "2001:db8:: has 128 bits"),
        ] {
            let error = text.parse::<Prefix>().expect_err(text);
            assert!(error.contains(complaint), "{text}: {error}");
        }
    }

    #[test]
    fn a_prefix_is_written_as_it_is_read() {
        for text in ["198.51.100.0/24", "2001:db8::/32", "::/0"] {
            assert_eq!(text.parse::<Prefix>().expect(text).to_string(), text);
        }
    }
}
