//! The backend's side of a [`tunnel`](crate::tunnel): takes the outer headers off a client's packet,
//! which then goes to the backend's own network stack as if it had come without.
//!
//! ```text
//! | Ethernet, tags | IP  outer | (UDP | (GUE) |) IP  inner | TCP, UDP ...
//!                  |<----- taken out ---------->|
//! ```
//!
//! What is no tunnel packet is not ours: it passes, untouched and uncounted. A tunnel packet is taken
//! off only if it comes from where tunnels may come from: anybody can put an inner packet from
//! anybody into an outer one.
//!
//! The UDP checksum is not looked at: over IPv4 our tunnels have none, over IPv6 it covers the whole
//! packet, which XDP would have to read for it. The inner packet's own checksums are the stack's
//! business.

use crate::address::Address;
use crate::bytes::{be16_at, field, u8_at};
use crate::checksum;
use crate::flow::protocol;
use crate::frame::Frame;
use crate::parse::{IPV4_HEADER, IPV6_HEADER, Link, ether_type, link};
use crate::tunnel::GUE_PORT;

/// Name of the program in the object file.
pub const PROGRAM: &str = "lb_decap";

/// Bytes of a UDP header (RFC 768).
const UDP: usize = 8;
/// Bytes of a GUE header of variant 0 without optional fields.
const GUE: usize = 4;

/// The look-up that the packet code makes.
pub trait Sources {
    /// Whether tunnels may come from an address.
    fn allows(&self, source: Address) -> bool;
}

/// Prefixes as they are written into the map: IPv4 as IPv4-mapped, lengths of 128 bits.
#[cfg(any(feature = "builder", test))]
impl Sources for &[(Address, u32)] {
    fn allows(&self, source: Address) -> bool {
        self.iter().any(|(network, length)| {
            // IPv4 is never in IPv6, however short the prefix.
            (source.v4_octets().is_none() || *length >= MAPPED_BITS)
                && source.network(*length) == *network
        })
    }
}

/// Bits that all IPv4-mapped addresses begin with.
pub const MAPPED_BITS: u32 = 96;

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Outcome {
    /// The outer IP header was taken off.
    Ipip,
    /// The outer IP, UDP and GUE headers were taken off.
    Gue,
    /// It does not come from where tunnels may come from.
    NotAllowed,
    /// A fragment of an outer packet: a balancer sends none.
    Fragment,
    /// An outer IPv4 header with options: a balancer sends none.
    Options,
    /// The checksum of the outer IPv4 header is wrong.
    BadChecksum,
    /// An outer length does not hold what is inside, or does not fit the frame.
    BadLength,
    /// What is inside is no IP packet of the version that was announced.
    BadInner,
    /// A GUE header that is not understood: control messages, optional fields, other protocols.
    GueHeader,
    /// A router marked the outer packet as congested, and the inner one cannot bear the mark.
    Congested,
    /// The frame's buffer does not let its beginning be moved.
    NoRoom,
    /// No tunnel packet: the kernel's, untouched and not counted.
    NoTunnel,
}

impl Outcome {
    /// All that are counted, in the order of their counters.
    pub const COUNTED: [Self; 11] = [
        Self::Ipip,
        Self::Gue,
        Self::NotAllowed,
        Self::Fragment,
        Self::Options,
        Self::BadChecksum,
        Self::BadLength,
        Self::BadInner,
        Self::GueHeader,
        Self::Congested,
        Self::NoRoom,
    ];

    /// Index of its counter.
    #[inline(always)]
    pub const fn index(self) -> Option<u32> {
        match self {
            Self::NoTunnel => None,
            counted => Some(counted as u32),
        }
    }

    /// Whether the stack gets the frame.
    #[inline(always)]
    pub const fn passes(self) -> bool {
        matches!(self, Self::Ipip | Self::Gue | Self::NoTunnel)
    }

    /// What was done, and its reason or kind, as users read them: `("drop", "not-allowed")`.
    pub const fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::Ipip => ("unwrap", "ipip"),
            Self::Gue => ("unwrap", "gue"),
            Self::NotAllowed => ("drop", "not-allowed"),
            Self::Fragment => ("drop", "fragment"),
            Self::Options => ("drop", "options"),
            Self::BadChecksum => ("drop", "bad-checksum"),
            Self::BadLength => ("drop", "bad-length"),
            Self::BadInner => ("drop", "bad-inner"),
            Self::GueHeader => ("drop", "gue-header"),
            Self::Congested => ("drop", "congested"),
            Self::NoRoom => ("drop", "no-room"),
            Self::NoTunnel => ("pass", "no-tunnel"),
        }
    }
}

/// Takes the outer headers off, if there are any. A frame that does not pass may be changed.
#[inline(always)]
pub fn decap<F: Frame, S: Sources>(frame: &mut F, sources: &S) -> Outcome {
    match unwrap(frame, sources) {
        Ok(outcome) | Err(outcome) => outcome,
    }
}

#[inline(always)]
fn unwrap<F: Frame, S: Sources>(frame: &mut F, sources: &S) -> Result<Outcome, Outcome> {
    let link = link(frame).ok_or(Outcome::NoTunnel)?;
    let outer = match link.ether_type {
        ether_type::IPV4 => v4(frame, link.l3, sources)?,
        ether_type::IPV6 => v6(frame, link.l3, sources)?,
        _ => return Err(Outcome::NoTunnel),
    };
    if !frame.holds(outer.end) {
        return Err(Outcome::BadLength);
    }
    let (at, end, version, done) = match outer.protocol {
        protocol::IPV4 => (outer.at, outer.end, 4, Outcome::Ipip),
        protocol::IPV6 => (outer.at, outer.end, 6, Outcome::Ipip),
        _ => {
            let (at, end, version) = gue(frame, &outer)?;
            (at, end, version, Outcome::Gue)
        }
    };
    let kind = match version {
        4 => {
            inner_v4(frame, at, end, outer.ecn)?;
            ether_type::IPV4
        }
        6 => {
            inner_v6(frame, at, end, outer.ecn)?;
            ether_type::IPV6
        }
        _ => return Err(Outcome::BadInner),
    };
    strip(frame, &link, at, kind).ok_or(Outcome::NoRoom)?;
    Ok(done)
}

/// An outer packet that may be taken off.
struct Outer {
    /// What its IP header carries.
    protocol: u8,
    /// Where that begins, and where the packet ends.
    at: usize,
    end: usize,
    ecn: u8,
}

#[inline(always)]
fn v4<F: Frame, S: Sources>(frame: &F, l3: usize, sources: &S) -> Result<Outer, Outcome> {
    let Some(head) = frame.read::<IPV4_HEADER>(l3) else { return Err(Outcome::NoTunnel) };
    let first = u8_at::<0, 20>(&head);
    let length = usize::from(first & 0xf) * 4;
    let carried = u8_at::<9, 20>(&head);
    // More-fragments flag and offset: RFC 791 section 3.1.
    let fragment = be16_at::<6, 20>(&head) & 0x3fff;
    if first >> 4 != 4 || length < IPV4_HEADER {
        return Err(Outcome::NoTunnel);
    }
    // Later fragments of a datagram do not tell its port: without its first they are nobody's.
    let is_gue = carried == protocol::UDP && fragment & 0x1fff == 0;
    if !(is_ip(carried) || is_gue && to_gue(frame, l3 + length)) {
        return Err(Outcome::NoTunnel);
    }
    if !sources.allows(Address::from_v4(field::<12, 4, 20>(&head))) {
        return Err(Outcome::NotAllowed);
    }
    if fragment != 0 {
        return Err(Outcome::Fragment);
    }
    if length != IPV4_HEADER {
        return Err(Outcome::Options);
    }
    // A sum that holds its own complement.
    if checksum::fold(checksum::sum(&head)) != 0xffff {
        return Err(Outcome::BadChecksum);
    }
    let end = l3 + usize::from(be16_at::<2, 20>(&head));
    let ecn = u8_at::<1, 20>(&head) & ecn::MASK;
    Ok(Outer { protocol: carried, at: l3 + IPV4_HEADER, end, ecn })
}

/// Extension headers are the kernel's: a balancer sends none.
#[inline(always)]
fn v6<F: Frame, S: Sources>(frame: &F, l3: usize, sources: &S) -> Result<Outer, Outcome> {
    let Some(head) = frame.read::<IPV6_HEADER>(l3) else { return Err(Outcome::NoTunnel) };
    let carried = u8_at::<6, 40>(&head);
    let at = l3 + IPV6_HEADER;
    if u8_at::<0, 40>(&head) >> 4 != 6
        || !(is_ip(carried) || carried == protocol::UDP && to_gue(frame, at))
    {
        return Err(Outcome::NoTunnel);
    }
    let source = Address::from_v6(field::<8, 16, 40>(&head));
    // On no wire (RFC 4942 section 2.2), and how IPv4 sources are looked up here.
    if source.v4_octets().is_some() || !sources.allows(source) {
        return Err(Outcome::NotAllowed);
    }
    let end = at + usize::from(be16_at::<4, 40>(&head));
    let ecn = u8_at::<1, 40>(&head) >> 4 & ecn::MASK;
    Ok(Outer { protocol: carried, at, end, ecn })
}

#[inline(always)]
const fn is_ip(carried: u8) -> bool {
    carried == protocol::IPV4 || carried == protocol::IPV6
}

/// Whether a UDP header is that of a tunnel.
#[inline(always)]
fn to_gue<F: Frame>(frame: &F, at: usize) -> bool {
    frame.read::<2>(at + 2).is_some_and(|port| u16::from_be_bytes(port) == GUE_PORT)
}

/// Where the packet behind the UDP header begins, where the datagram ends, and the IP version that is
/// announced.
#[inline(always)]
fn gue<F: Frame>(frame: &F, outer: &Outer) -> Result<(usize, usize, u8), Outcome> {
    let Some(udp) = frame.read::<UDP>(outer.at) else { return Err(Outcome::BadLength) };
    let end = outer.at + usize::from(be16_at::<4, 8>(&udp));
    let at = outer.at + UDP;
    // The shortest header decides the variant; an inner packet is longer.
    if end > outer.end || at + GUE > end {
        return Err(Outcome::BadLength);
    }
    let Some(header) = frame.read::<GUE>(at) else { return Err(Outcome::BadLength) };
    let [first, carried, flags @ ..] = header;
    match first >> 6 {
        // Variant 1: the packet itself, whose version begins with these two bits.
        1 => Ok((at, end, first >> 4)),
        // Variant 0: a data message (no C bit) without optional fields (length 0, no flags).
        0 if first == 0 && flags == [0, 0] => match carried {
            protocol::IPV4 => Ok((at + GUE, end, 4)),
            protocol::IPV6 => Ok((at + GUE, end, 6)),
            _ => Err(Outcome::GueHeader),
        },
        _ => Err(Outcome::GueHeader),
    }
}

/// Checks the inner packet, and marks it as the outer one is marked.
#[inline(always)]
fn inner_v4<F: Frame>(frame: &mut F, at: usize, end: usize, outer: u8) -> Result<(), Outcome> {
    let Some(head) = frame.read::<IPV4_HEADER>(at) else { return Err(Outcome::BadLength) };
    let (first, second) = (u8_at::<0, 20>(&head), u8_at::<1, 20>(&head));
    let length = usize::from(be16_at::<2, 20>(&head));
    let own = usize::from(first & 0xf) * 4;
    if first >> 4 != 4 || own < IPV4_HEADER || length < own {
        return Err(Outcome::BadInner);
    }
    if at + length > end {
        return Err(Outcome::BadLength);
    }
    let inner = second & ecn::MASK;
    let marked = ecn::decapsulated(outer, inner).ok_or(Outcome::Congested)?;
    if marked != inner {
        let fresh = second & !ecn::MASK | marked;
        let word = |tos: u8| u16::from_be_bytes([first, tos]);
        let sum = checksum::update(be16_at::<10, 20>(&head), word(second), word(fresh));
        frame.write(at + 1, [fresh]).ok_or(Outcome::BadLength)?;
        frame.write(at + 10, sum.to_be_bytes()).ok_or(Outcome::BadLength)?;
    }
    Ok(())
}

#[inline(always)]
fn inner_v6<F: Frame>(frame: &mut F, at: usize, end: usize, outer: u8) -> Result<(), Outcome> {
    let Some(head) = frame.read::<IPV6_HEADER>(at) else { return Err(Outcome::BadLength) };
    if u8_at::<0, 40>(&head) >> 4 != 6 {
        return Err(Outcome::BadInner);
    }
    if at + IPV6_HEADER + usize::from(be16_at::<4, 40>(&head)) > end {
        return Err(Outcome::BadLength);
    }
    // The traffic class lies across two bytes; its last two bits are here.
    let second = u8_at::<1, 40>(&head);
    let inner = second >> 4 & ecn::MASK;
    let marked = ecn::decapsulated(outer, inner).ok_or(Outcome::Congested)?;
    if marked != inner {
        let fresh = second & !(ecn::MASK << 4) | marked << 4;
        frame.write(at + 1, [fresh]).ok_or(Outcome::BadLength)?;
    }
    Ok(())
}

/// Moves the link-layer header up to the inner packet, and the frame's beginning after it.
#[inline(always)]
fn strip<F: Frame>(frame: &mut F, link: &Link, at: usize, kind: u16) -> Option<()> {
    let cut = at - link.l3;
    let addresses: [u8; 12] = frame.read(0)?;
    // Tags end at byte 20 at most, and `cut` is never less.
    if link.l3 > 14 {
        let tag: [u8; 4] = frame.read(12)?;
        frame.write(cut + 12, tag)?;
    }
    if link.l3 > 18 {
        let tag: [u8; 4] = frame.read(16)?;
        frame.write(cut + 16, tag)?;
    }
    frame.write(cut, addresses)?;
    frame.write(at - 2, kind.to_be_bytes())?;
    frame.shrink(cut)
}

/// Explicit congestion notification (RFC 3168), and what becomes of it at a tunnel's end.
mod ecn {
    /// The two bits.
    pub const MASK: u8 = 0b11;
    const NOT_ECT: u8 = 0b00;
    const ECT_1: u8 = 0b01;
    const ECT_0: u8 = 0b10;
    const CE: u8 = 0b11;

    /// The inner packet's mark after the outer one's is gone, by the table of RFC 6040 section 4.2:
    ///
    /// ```text
    /// inner \ outer   not-ECT    ECT(0)     ECT(1)     CE
    /// not-ECT         not-ECT    not-ECT    not-ECT    drop
    /// ECT(0)          ECT(0)     ECT(0)     ECT(1)     CE
    /// ECT(1)          ECT(1)     ECT(1)     ECT(1)     CE
    /// CE              CE         CE         CE         CE
    /// ```
    #[inline(always)]
    pub const fn decapsulated(outer: u8, inner: u8) -> Option<u8> {
        match (outer, inner) {
            (CE, NOT_ECT) => None,
            (CE, _) => Some(CE),
            (ECT_1, ECT_0) => Some(ECT_1),
            (_, inner) => Some(inner),
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_table_of_rfc_6040_is_kept_in_full() {
            let outer = [NOT_ECT, ECT_0, ECT_1, CE];
            let table = [
                (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
                (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
                (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
                (CE, [Some(CE); 4]),
            ];
            for (inner, row) in table {
                assert_eq!(outer.map(|outer| decapsulated(outer, inner)), row, "{inner:02b}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::address::Mac;
    use crate::builder::{Packet, internet_sum};
    use crate::cases::INGRESS;
    use crate::cases::decap::{ALLOWED, cases, outer};
    use crate::frame::MemoryFrame;
    use crate::maps::decap::COUNTERS;
    use crate::parse::{Content, content};
    use crate::tunnel::{covered, encapsulate};
    use crate::verdict::Tunnel;
    use alloc::vec::Vec;
    use std::collections::BTreeSet;

    fn run(bytes: Vec<u8>) -> (Outcome, Vec<u8>) {
        let mut frame = MemoryFrame { bytes, ingress: INGRESS };
        let outcome = decap(&mut frame, &ALLOWED);
        (outcome, frame.bytes)
    }

    #[test]
    fn every_case_comes_out_as_written() {
        for case in cases() {
            let (outcome, bytes) = run(case.frame);
            assert_eq!(outcome, case.outcome, "{}", case.name);
            if outcome.passes() {
                assert_eq!(bytes, case.output, "{}", case.name);
            }
        }
    }

    #[test]
    fn every_outcome_has_a_case_a_counter_and_a_name_of_its_own() {
        let seen: BTreeSet<_> = cases().iter().map(|case| case.outcome).collect();
        for outcome in Outcome::COUNTED {
            // Needs a driver without room in front of frames that it has just filled.
            assert!(seen.contains(&outcome) || outcome == Outcome::NoRoom, "{outcome:?}");
        }
        let indices: BTreeSet<_> = Outcome::COUNTED.iter().filter_map(|o| o.index()).collect();
        let names: BTreeSet<_> = Outcome::COUNTED.iter().map(|outcome| outcome.name()).collect();
        assert_eq!((indices.len(), names.len()), (Outcome::COUNTED.len(), Outcome::COUNTED.len()));
        assert!(indices.iter().all(|index| *index < COUNTERS));
    }

    #[test]
    fn a_tunnel_packet_cut_anywhere_is_never_taken_off() {
        for case in cases() {
            if !matches!(case.outcome, Outcome::Ipip | Outcome::Gue) || case.padded {
                continue;
            }
            for length in 0..case.frame.len() {
                let (outcome, bytes) = run(case.frame[..length].to_vec());
                let kept = outcome == Outcome::NoTunnel && bytes == case.frame[..length];
                assert!(kept || outcome == Outcome::BadLength, "{} to {length}", case.name);
            }
        }
    }

    #[test]
    fn what_the_balancer_puts_on_the_backend_takes_off() {
        let sockets = [
            ("198.51.100.7:4000", "192.0.2.100:443"),
            ("[2001:db8:c::7]:4000", "[2001:db8::100]:443"),
        ];
        for n in 0..8 {
            let ((from, to), v6, gue) = (sockets[n & 1], n & 2 != 0, n & 4 != 0);
            for tags in 0..=2 {
                let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
                let mut packet = Packet::tcp(from, to).payload(b"hello").to_mac(Mac::BROADCAST);
                for tag in 0..tags {
                    packet = packet.tag(ether_type::VLAN, 7 + tag);
                }
                let plain = packet.build();
                let mut frame = MemoryFrame { bytes: plain.clone(), ingress: INGRESS };
                let link = link(&frame).unwrap();
                let Content::Segment(segment) = content(&frame, &link) else { panic!("no flow") };
                let (source, destination) = outer(v6);
                let tunnel = Tunnel {
                    source,
                    destination,
                    gue,
                    entropy: 0x1234_5678,
                    covered: covered(&frame, &link, &segment),
                };
                encapsulate(&mut frame, &link, &tunnel).unwrap();
                frame.bytes[..12].copy_from_slice(&plain[..12]);
                assert_eq!(frame.bytes.len(), plain.len() + tunnel.overhead());
                let expected = if gue { Outcome::Gue } else { Outcome::Ipip };
                assert_eq!(run(frame.bytes), (expected, plain), "{from} {v6} {gue} {tags}");
            }
        }
    }

    #[test]
    fn a_mark_leaves_a_header_with_a_right_checksum() {
        for case in cases() {
            let (outcome, bytes) = run(case.frame);
            let link = link(&MemoryFrame { bytes: bytes.clone(), ingress: INGRESS }).unwrap();
            if outcome == Outcome::Ipip && link.ether_type == ether_type::IPV4 {
                let length = usize::from(bytes[link.l3] & 0xf) * 4;
                let header = &bytes[link.l3..link.l3 + length];
                assert_eq!(internet_sum(header), 0xffff, "{}", case.name);
            }
        }
    }
}
