//! Who may come in: rules for sources, by the prefix of their address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::listen::{Unreadable, parse_address};
use super::wording::quoted;

/// What becomes of a source that is in a prefix, unless a longer one has a rule too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceRule {
    /// The sources that it is about.
    pub prefix: Prefix,
    /// Whether they may come in.
    pub allow: bool,
}

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    /// The first one: all bits behind the length are zero.
    pub address: IpAddr,
    /// How many bits they have in common: at most 32, of IPv6 128.
    pub length: u8,
}

impl fmt::Display for Prefix {
    /// `10.0.0.0/8`, `2001:db8::/32`, and `192.0.2.1/32` for one address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl Prefix {
    /// Whether an address begins with these bits. IPv4 is never in IPv6.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && *self == Self::of(address, self.length)
    }

    /// The prefix of an address.
    fn of(address: IpAddr, length: u8) -> Self {
        let address = match address {
            IpAddr::V4(v4) => {
                let behind = u32::MAX.checked_shr(u32::from(length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & !behind))
            }
            IpAddr::V6(v6) => {
                let behind = u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !behind))
            }
        };
        Self { address, length }
    }
}

/// Reads `10.0.0.0/8`, `2001:db8::/32`, or an address for itself.
pub fn parse_prefix(text: &str) -> Result<Prefix, Unreadable> {
    let wrong =
        |what: &str, hint: String| Err(Unreadable::new(format!("{} {what}", quoted(text)), hint));
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (parse_address(address)?, Some(length)),
        None => (parse_address(text)?, None),
    };
    let (family, most) = match address {
        IpAddr::V4(_) => ("IPv4", 32_u8),
        IpAddr::V6(_) => ("IPv6", 128),
    };
    let length = match length {
        None => most,
        // `u8` would read a leading `+` too.
        Some(digits) if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            let hint = format!("write it as a number of bits, 0 to {most} for {family}");
            return wrong("has a prefix length that is not a number", hint);
        }
        Some(digits) => match digits.parse() {
            Ok(length) if length <= most => length,
            Ok(_) | Err(_) => {
                let hint = format!("it is 0 to {most} for {family}");
                return wrong("has an impossible prefix length", hint);
            }
        },
    };
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        // The first 96 bits say no more than that.
        let hint = match length.checked_sub(96) {
            Some(length) => format!("write \"{}\"", Prefix::of(IpAddr::V4(v4), length)),
            None => format!("write \"{v4}\", with a prefix length for more of them"),
        };
        return wrong("has an IPv4 address written as IPv6", hint);
    }
    let prefix = Prefix::of(address, length);
    if prefix.address != address {
        let hint = format!("write \"{prefix}\", or \"{address}\" for that address alone");
        return wrong("has bits behind its prefix length", hint);
    }
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_as_they_are_shown() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("::/0", "::/0"),
            ("10.128.0.0/09", "10.128.0.0/9"),
        ] {
            let prefix = parse_prefix(text).unwrap();
            assert_eq!(prefix.to_string(), shown);
            assert_eq!(parse_prefix(shown), Ok(prefix));
        }
    }

    #[test]
    fn a_text_that_is_no_prefix_says_what_to_write() {
        let number = "has a prefix length that is not a number";
        let bits = "write it as a number of bits, 0 to 32 for IPv4";
        for (text, message, hint) in [
            ("10.0.0.0/33", "has an impossible prefix length", "it is 0 to 32 for IPv4"),
            ("2001:db8::/129", "has an impossible prefix length", "it is 0 to 128 for IPv6"),
            ("10.0.0.0/256", "has an impossible prefix length", "it is 0 to 32 for IPv4"),
            ("10.0.0.0/255.0.0.0", number, bits),
            ("10.0.0.0/+8", number, bits),
            ("10.0.0.0/", number, bits),
            (
                "10.1.2.3/8",
                "has bits behind its prefix length",
                "write \"10.0.0.0/8\", or \"10.1.2.3\" for that address alone",
            ),
            (
                "2001:db8::1/32",
                "has bits behind its prefix length",
                "write \"2001:db8::/32\", or \"2001:db8::1\" for that address alone",
            ),
            ("::ffff:10.0.0.0/104", "has an IPv4 address written as IPv6", "write \"10.0.0.0/8\""),
            (
                "::ffff:10.0.0.0/8",
                "has an IPv4 address written as IPv6",
                "write \"10.0.0.0\", with a prefix length for more of them",
            ),
            ("::ffff:10.1.2.3", "has an IPv4 address written as IPv6", "write \"10.1.2.3/32\""),
        ] {
            let wrong = parse_prefix(text).unwrap_err();
            assert_eq!(wrong.message, format!("`{text}` {message}"));
            assert_eq!(wrong.hint.as_deref(), Some(hint), "{text}");
        }
        let wrong = parse_prefix("office/8").unwrap_err();
        assert_eq!(wrong.message, "`office` is not an IP address");
    }
}
