//! Addresses and listeners as text, and which addresses make sense.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use super::wording::quoted;
use super::{Listener, Protocol};

/// Why a text cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// What is wrong, in one line.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Unreadable {
    /// With a hint.
    pub fn new(message: String, hint: impl Into<String>) -> Self {
        Self { message, hint: Some(hint.into()) }
    }
}

impl Listener {
    /// Reads `192.0.2.1:443`, `192.0.2.1:53/udp`, `[2001:db8::1]:443` or `192.0.2.1:*` (any
    /// port); without a protocol it is TCP. Whether the address makes sense is not asked.
    ///
    /// # Errors
    ///
    /// Says what is wrong and what to write instead, in one line.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse_listener(text).map_err(|wrong| match wrong.hint {
            Some(hint) => format!("{}: {hint}", wrong.message),
            None => wrong.message,
        })
    }
}

/// As [`Listener::parse`], with the hint apart.
pub fn parse_listener(text: &str) -> Result<Listener, Unreadable> {
    let wrong =
        |what: &str, hint: String| Err(Unreadable::new(format!("{} {what}", quoted(text)), hint));
    let (ends, protocol) = match text.split_once('/') {
        None => (text, Protocol::Tcp),
        Some((ends, "tcp")) => (ends, Protocol::Tcp),
        Some((ends, "udp")) => (ends, Protocol::Udp),
        Some((_, other)) if other.bytes().all(|byte| byte.is_ascii_digit()) => {
            let hint = "write one address, without a prefix length, such as \"192.0.2.1:443\"";
            return wrong("has a prefix length", hint.to_owned());
        }
        Some((_, other)) => {
            let what = format!("has the unknown protocol {}", quoted(other));
            return wrong(
                &what,
                "the protocol is `tcp` (which may be left out) or `udp`".to_owned(),
            );
        }
    };
    let (address, port) = match ends.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => match port.strip_prefix(':') {
                Some(port) => (address, port),
                None => return wrong("has no port", format!("write {}", example(ends))),
            },
            None => return wrong("has no closing bracket", format!("write {}", example(ends))),
        },
        None if ends.bytes().filter(|byte| *byte == b':').count() > 1 => {
            let hint = "an IPv6 address stands in brackets: \"[2001:db8::1]:443\"";
            return wrong("is not an address and a port", hint.to_owned());
        }
        None => match ends.split_once(':') {
            Some(ends) => ends,
            None => return wrong("has no port", format!("write {}", example(ends))),
        },
    };
    let vip = parse_address(address)?;
    if vip.is_ipv4() && ends.starts_with('[') {
        let hint = "only IPv6 addresses stand in brackets".to_owned();
        return wrong("has an IPv4 address in brackets", hint);
    }
    let port = match port {
        "*" => None,
        // `u16` would read a leading `+` too.
        _ if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) => {
            let hint = "the port is a number from 1 to 65535, or `*` for any port".to_owned();
            return wrong("has a port that is not a number", hint);
        }
        _ => match port.parse::<NonZeroU16>() {
            Ok(port) => Some(port),
            Err(_) => {
                let hint = "the port is a number from 1 to 65535, or `*` for any port".to_owned();
                return wrong("has an impossible port", hint);
            }
        },
    };
    Ok(Listener { vip, port, protocol })
}

/// The address with a port, for a text that is an address without one.
fn example(text: &str) -> String {
    match text.trim_matches(['[', ']']).parse() {
        Ok(IpAddr::V4(address)) => format!("\"{address}:443\", or \"{address}:*\" for any port"),
        Ok(IpAddr::V6(address)) => {
            format!("\"[{address}]:443\", or \"[{address}]:*\" for any port")
        }
        Err(_) => "an address and a port: \"192.0.2.1:443\" or \"[2001:db8::1]:443\"".to_owned(),
    }
}

/// Reads an IPv4 or IPv6 address.
pub fn parse_address(text: &str) -> Result<IpAddr, Unreadable> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let is_address = |part: &str| part.parse::<IpAddr>().is_ok();
    let hint = if text.split_once('%').is_some_and(|(address, _)| is_address(address)) {
        "zones (`%eth0`) are for link-local addresses, which are of no use here"
    } else if text.split_once('/').is_some_and(|(address, _)| is_address(address)) {
        "write it without the prefix length"
    } else if text.parse::<std::net::SocketAddr>().is_ok() {
        "write it without a port"
    } else if text.starts_with('[') {
        "write it without brackets"
    } else if text.bytes().any(|byte| byte.is_ascii_alphabetic()) && !text.contains(':') {
        "names are not looked up: write the address itself"
    } else {
        "an address is such as 192.0.2.1 or 2001:db8::1"
    };
    Err(Unreadable::new(format!("{} is not an IP address", quoted(text)), hint))
}

/// What is odd about an address that no VIP, backend or node can have, if anything is.
pub fn oddity(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) if v4.is_unspecified() => Some("the unspecified address"),
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some("an address of \"this network\""),
        IpAddr::V4(v4) if v4.is_loopback() => Some("a loopback address"),
        IpAddr::V4(v4) if v4.is_multicast() => Some("a multicast address"),
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some("the broadcast address"),
        IpAddr::V4(v4) if v4.is_link_local() => Some("a link-local address"),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Some("the unspecified address"),
        IpAddr::V6(Ipv6Addr::LOCALHOST) => Some("a loopback address"),
        IpAddr::V6(v6) if v6.is_multicast() => Some("a multicast address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4 address written as IPv6"),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_read_as_they_are_shown() {
        for (text, shown) in [
            ("192.0.2.100:443", "192.0.2.100:443/tcp"),
            ("192.0.2.100:443/tcp", "192.0.2.100:443/tcp"),
            ("192.0.2.100:53/udp", "192.0.2.100:53/udp"),
            ("[2001:db8::100]:443", "[2001:db8::100]:443/tcp"),
            ("192.0.2.100:*", "192.0.2.100:*/tcp"),
            ("[2001:db8::100]:*/udp", "[2001:db8::100]:*/udp"),
        ] {
            let listener = Listener::parse(text).unwrap();
            assert_eq!(listener.to_string(), shown);
            assert_eq!(Listener::parse(shown), Ok(listener));
        }
    }

    #[test]
    fn a_text_that_is_no_listener_says_what_to_write() {
        let brackets = "an IPv6 address stands in brackets: \"[2001:db8::1]:443\"";
        let port = "the port is a number from 1 to 65535, or `*` for any port";
        let zone = "zones (`%eth0`) are for link-local addresses, which are of no use here";
        for (text, message, hint) in [
            (
                "192.0.2.1",
                "has no port",
                "write \"192.0.2.1:443\", or \"192.0.2.1:*\" for any port",
            ),
            ("2001:db8::1:443", "is not an address and a port", brackets),
            (
                "[2001:db8::1]",
                "has no port",
                "write \"[2001:db8::1]:443\", or \"[2001:db8::1]:*\" for any port",
            ),
            ("192.0.2.1:0", "has an impossible port", port),
            ("192.0.2.1:65536", "has an impossible port", port),
            ("192.0.2.1:+80", "has a port that is not a number", port),
            ("192.0.2.1:", "has a port that is not a number", port),
            (
                "192.0.2.1:80/sctp",
                "has the unknown protocol `sctp`",
                "the protocol is `tcp` (which may be left out) or `udp`",
            ),
            (
                "192.0.2.0/24",
                "has a prefix length",
                "write one address, without a prefix length, such as \"192.0.2.1:443\"",
            ),
            (
                "[192.0.2.1]:80",
                "has an IPv4 address in brackets",
                "only IPv6 addresses stand in brackets",
            ),
        ] {
            let wrong = parse_listener(text).unwrap_err();
            assert_eq!(wrong.message, format!("`{text}` {message}"));
            assert_eq!(wrong.hint.as_deref(), Some(hint), "{text}");
        }
        let wrong = parse_listener("[fe80::1%eth0]:443").unwrap_err();
        assert_eq!(wrong.message, "`fe80::1%eth0` is not an IP address");
        assert_eq!(wrong.hint.as_deref(), Some(zone));
        let one_line = "`www.foobar.com` is not an IP address: names are not looked up: write the address itself";
        assert_eq!(Listener::parse("www.foobar.com:443"), Err(one_line.to_owned()));
    }

    #[test]
    fn addresses_that_no_host_can_have_are_odd() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.18",
            "255.255.255.255",
            "169.254.1.1",
            "::",
            "::1",
            "ff02::12",
            "fe80::1",
            "::ffff:192.0.2.1",
        ] {
            assert!(oddity(text.parse().unwrap()).is_some(), "{text}");
        }
        for text in ["192.0.2.1", "10.0.0.0", "2001:db8::1", "fd00::1"] {
            assert_eq!(oddity(text.parse().unwrap()), None, "{text}");
        }
    }
}
