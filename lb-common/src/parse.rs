//! From a frame's bytes to a flow, or to why there is none. Reads, never judges: whether a
//! broken header matters is known only once the frame is known to be ours.

use crate::address::{Address, Mac};
use crate::bytes::{be16_at, field, u8_at};
use crate::flow::{Flow, protocol};
use crate::frame::Frame;
use crate::steer::Phase;
use crate::verdict::{Pass, Program};

/// EtherTypes (IEEE registry) that the packet path knows, in host order.
pub mod ether_type {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// Customer VLAN tag (IEEE 802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// Service VLAN tag (IEEE 802.1ad).
    pub const SERVICE_VLAN: u16 = 0x88a8;
}

/// Bytes of an IPv4 header without options (RFC 791 section 3.1).
pub const IPV4_HEADER: usize = 20;
/// Bytes of an IPv6 header (RFC 8200 section 3).
pub const IPV6_HEADER: usize = 40;
/// Extension headers that are walked before giving up.
pub const MAX_EXTENSION_HEADERS: usize = 6;

/// The link-layer part of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Whom it is sent to.
    pub destination: Mac,
    /// EtherType behind the tags.
    pub ether_type: u16,
    /// Where the payload begins: 14, 18 or 22.
    pub l3: usize,
}

/// A whole TCP or UDP packet.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Whose it is.
    pub flow: Flow,
    /// Where the transport header begins.
    pub l4: usize,
    /// Where the packet ends by its IP header; may lie behind the frame's end.
    pub end: usize,
    /// Bytes that the transport header claims for itself (TCP) or for the datagram (UDP).
    pub claimed: usize,
    /// Bytes that it has to claim at least.
    pub least: usize,
    /// TCP's flag bits (RFC 9293 section 3.1); 0 for UDP.
    pub tcp_flags: u8,
}

impl Segment {
    /// What it says about its connection.
    #[inline(always)]
    pub const fn phase(&self) -> Phase {
        if self.flow.protocol != protocol::TCP {
            Phase::None
        } else if self.tcp_flags & tcp_flag::RST != 0 {
            Phase::Aborts
        } else if self.tcp_flags & tcp_flag::FIN != 0 {
            Phase::Ends
        } else if self.tcp_flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN {
            Phase::Begins
        } else {
            Phase::Continues
        }
    }
}

/// TCP flag bits (RFC 9293 section 3.1).
pub mod tcp_flag {
    /// Last segment of the sender.
    pub const FIN: u8 = 0x01;
    /// First segment.
    pub const SYN: u8 = 0x02;
    /// Aborts the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
}

/// What a frame carries.
#[derive(Clone, Copy, Debug)]
pub enum Content {
    /// Something with a flow.
    Segment(Segment),
    /// Rare, and another program's work.
    Rare(Program),
    /// Nothing for us.
    None(Pass),
}

/// Ethernet, and up to two VLAN tags.
#[inline(always)]
pub fn link<F: Frame>(frame: &F) -> Option<Link> {
    let head: [u8; 14] = frame.read(0)?;
    let destination = Mac::new(field::<0, 6, 14>(&head));
    let mut kind = be16_at::<12, 14>(&head);
    let mut l3 = 14;
    if is_tag(kind) {
        kind = be16_at::<2, 4>(&frame.read::<4>(14)?);
        l3 = 18;
        if is_tag(kind) {
            kind = be16_at::<2, 4>(&frame.read::<4>(18)?);
            l3 = 22;
        }
    }
    Some(Link { destination, ether_type: kind, l3 })
}

#[inline(always)]
const fn is_tag(kind: u16) -> bool {
    kind == ether_type::VLAN || kind == ether_type::SERVICE_VLAN
}

/// The packet in the frame.
#[inline(always)]
pub fn content<F: Frame>(frame: &F, link: &Link) -> Content {
    match link.ether_type {
        ether_type::IPV4 => ipv4(frame, link.l3),
        ether_type::IPV6 => ipv6(frame, link.l3),
        ether_type::ARP => Content::Rare(Program::Answer),
        _ => Content::None(Pass::NotIp),
    }
}

#[inline(always)]
fn ipv4<F: Frame>(frame: &F, l3: usize) -> Content {
    let Some(head) = frame.read::<IPV4_HEADER>(l3) else {
        return Content::None(Pass::Unreadable);
    };
    let first = u8_at::<0, 20>(&head);
    let length = usize::from(first & 0xf) * 4;
    if first >> 4 != 4 || length < IPV4_HEADER {
        return Content::None(Pass::Unreadable);
    }
    // More-fragments flag or an offset: RFC 791 section 3.1.
    if be16_at::<6, 20>(&head) & 0x3fff != 0 {
        return Content::Rare(Program::Fragment);
    }
    let ends = Ends {
        source: Address::from_v4(field::<12, 4, 20>(&head)),
        destination: Address::from_v4(field::<16, 4, 20>(&head)),
        l4: l3 + length,
        end: l3 + usize::from(be16_at::<2, 20>(&head)),
    };
    match u8_at::<9, 20>(&head) {
        protocol::TCP => tcp(frame, &ends),
        protocol::UDP => udp(frame, &ends),
        protocol::ICMP => Content::Rare(Program::Answer),
        _ => Content::None(Pass::Protocol),
    }
}

#[inline(always)]
fn ipv6<F: Frame>(frame: &F, l3: usize) -> Content {
    let Some(head) = frame.read::<IPV6_HEADER>(l3) else {
        return Content::None(Pass::Unreadable);
    };
    if u8_at::<0, 40>(&head) >> 4 != 6 {
        return Content::None(Pass::Unreadable);
    }
    let ends = ipv6_ends(&head, l3);
    if ends.destination.v4_octets().is_some() {
        return Content::None(Pass::MappedAddress);
    }
    match u8_at::<6, 40>(&head) {
        protocol::TCP => tcp(frame, &ends),
        protocol::UDP => udp(frame, &ends),
        protocol::ICMPV6 => Content::Rare(Program::Answer),
        protocol::FRAGMENT => Content::Rare(Program::Fragment),
        protocol::HOP_BY_HOP
        | protocol::ROUTING
        | protocol::AUTHENTICATION
        | protocol::DESTINATION_OPTIONS => Content::Rare(Program::Transition),
        _ => Content::None(Pass::Protocol),
    }
}

/// An IPv6 packet with extension headers (RFC 8200 section 4): walks at most
/// [`MAX_EXTENSION_HEADERS`] of them.
#[inline(always)]
pub fn extended<F: Frame>(frame: &F, l3: usize) -> Content {
    let Some(head) = frame.read::<IPV6_HEADER>(l3) else {
        return Content::None(Pass::Unreadable);
    };
    let mut ends = ipv6_ends(&head, l3);
    let next = match walk(frame, u8_at::<6, 40>(&head), ends.l4) {
        Walked::Transport { number, at } => {
            ends.l4 = at;
            number
        }
        Walked::Fragment { .. } => return Content::Rare(Program::Fragment),
        Walked::Lost(reason) => return Content::None(reason),
    };
    match next {
        protocol::TCP => tcp(frame, &ends),
        protocol::UDP => udp(frame, &ends),
        _ => Content::None(Pass::ExtensionHeaders),
    }
}

/// Where a walk over extension headers ends.
#[derive(Clone, Copy, Debug)]
pub enum Walked {
    /// At a transport header.
    Transport {
        /// Its protocol number, TCP's or UDP's.
        number: u8,
        /// Where it begins.
        at: usize,
    },
    /// At the header of a fragment of something longer.
    Fragment {
        /// It.
        header: [u8; 8],
        /// Where what follows it begins.
        at: usize,
    },
    /// Nowhere.
    Lost(Pass),
}

/// Walks over at most [`MAX_EXTENSION_HEADERS`], from the one with this number.
#[inline(always)]
pub fn walk<F: Frame>(frame: &F, mut next: u8, mut at: usize) -> Walked {
    let mut walked = 0;
    while walked < MAX_EXTENSION_HEADERS {
        walked += 1;
        if next == protocol::TCP || next == protocol::UDP {
            break;
        }
        let Some(header) = frame.read::<8>(at) else {
            return Walked::Lost(Pass::Unreadable);
        };
        let length = u8_at::<1, 8>(&header) as usize;
        at += match next {
            protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS => (length + 1) * 8,
            // Segments left: the packet is on its way to somebody else (RFC 8200 section 4.4).
            protocol::ROUTING if u8_at::<3, 8>(&header) == 0 => (length + 1) * 8,
            // In units of four bytes, less two (RFC 4302 section 2.2).
            protocol::AUTHENTICATION => (length + 2) * 4,
            // No offset, no more fragments: a whole packet all the same (RFC 6946).
            protocol::FRAGMENT if be16_at::<2, 8>(&header) & 0xfff9 == 0 => 8,
            protocol::FRAGMENT => return Walked::Fragment { header, at: at + 8 },
            _ => return Walked::Lost(Pass::ExtensionHeaders),
        };
        next = u8_at::<0, 8>(&header);
    }
    match next {
        protocol::TCP | protocol::UDP => Walked::Transport { number: next, at },
        _ => Walked::Lost(Pass::ExtensionHeaders),
    }
}

/// Destination of an IP packet of either version; `None` where it cannot be read. An IPv6 packet
/// has been seen by [`content`], and so is not sent to an IPv4-mapped address.
#[inline(always)]
pub fn destination<F: Frame>(frame: &F, link: &Link) -> Option<Address> {
    match link.ether_type {
        ether_type::IPV4 => frame.read::<4>(link.l3 + 16).map(Address::from_v4),
        ether_type::IPV6 => frame.read::<16>(link.l3 + 24).map(Address::from_v6),
        _ => None,
    }
}

struct Ends {
    source: Address,
    destination: Address,
    l4: usize,
    end: usize,
}

#[inline(always)]
fn ipv6_ends(head: &[u8; IPV6_HEADER], l3: usize) -> Ends {
    let l4 = l3 + IPV6_HEADER;
    Ends {
        source: Address::from_v6(field::<8, 16, 40>(head)),
        destination: Address::from_v6(field::<24, 16, 40>(head)),
        l4,
        end: l4 + usize::from(be16_at::<4, 40>(head)),
    }
}

#[inline(always)]
fn tcp<F: Frame>(frame: &F, ends: &Ends) -> Content {
    let Some(head) = frame.read::<20>(ends.l4) else {
        return Content::None(Pass::Unreadable);
    };
    // Data offset, in units of four bytes: RFC 9293 section 3.1.
    let claimed = usize::from(u8_at::<12, 20>(&head) >> 4) * 4;
    let flags = u8_at::<13, 20>(&head);
    segment(ends, protocol::TCP, field::<0, 4, 20>(&head), claimed, 20, flags)
}

#[inline(always)]
fn udp<F: Frame>(frame: &F, ends: &Ends) -> Content {
    let Some(head) = frame.read::<8>(ends.l4) else {
        return Content::None(Pass::Unreadable);
    };
    // Length, header included: RFC 768.
    let claimed = usize::from(be16_at::<4, 8>(&head));
    segment(ends, protocol::UDP, field::<0, 4, 8>(&head), claimed, 8, 0)
}

#[inline(always)]
fn segment(
    ends: &Ends,
    protocol: u8,
    ports: [u8; 4],
    claimed: usize,
    least: usize,
    tcp_flags: u8,
) -> Content {
    let flow = Flow {
        source: ends.source,
        destination: ends.destination,
        ports: u32::from_le_bytes(ports),
        protocol,
    };
    Content::Segment(Segment { flow, l4: ends.l4, end: ends.end, claimed, least, tcp_flags })
}
