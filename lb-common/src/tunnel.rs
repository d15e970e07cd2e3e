//! Tunnels to backends that are not on our segment: the headers that are put in front of a client's
//! packet, which itself stays as it is. The backend takes them off and answers the client directly.
//!
//! ```text
//! ipip   | Ethernet | IP  outer | IP  inner | TCP, UDP ...          RFC 2003, 2473, 4213
//! gue    | Ethernet | IP  outer | UDP | IP  inner | TCP, UDP ...    draft-ietf-intarea-gue
//! ```
//!
//! GUE is its variant 1: the inner packet follows the UDP header directly, its version in the first
//! four bits. The source port is made of the flow's hash, so that the backend's NIC spreads flows
//! over its queues.
//!
//! Outer packets are never fragmented: they have DF set, and what would not fit is answered with the
//! size that does ([`too_big`](crate::too_big)).

use crate::address::Address;
use crate::bytes::{field, put};
use crate::checksum;
use crate::flow::protocol;
use crate::frame::Frame;
use crate::parse::{IPV4_HEADER, IPV6_HEADER, Link, Segment, ether_type};
use crate::verdict::Tunnel;

/// UDP port of GUE (IANA).
pub const GUE_PORT: u16 = 6_080;
/// Bytes of a UDP header (RFC 768).
const UDP: usize = 8;
/// TTL and hop limit of outer packets (RFC 1700).
const HOP_LIMIT: u8 = 64;
/// Outer headers, by their bytes.
const V4: usize = IPV4_HEADER;
const V4_UDP: usize = IPV4_HEADER + UDP;
const V6: usize = IPV6_HEADER;
const V6_UDP: usize = IPV6_HEADER + UDP;

impl Tunnel {
    /// Bytes that come in front.
    #[inline(always)]
    pub const fn overhead(&self) -> usize {
        let ip = if self.is_v4() { IPV4_HEADER } else { IPV6_HEADER };
        if self.gue { ip + UDP } else { ip }
    }

    #[inline(always)]
    const fn is_v4(&self) -> bool {
        self.destination.0[0] == 0
    }
}

/// Sum of the 16-bit words of a packet, without reading more than its headers: a transport checksum
/// that is right makes its own segment and pseudo header sum up to nought, so that the segment's sum
/// follows from the addresses (as Linux does for "local checksum offload"). 0 where it does not
/// tell: UDP without checksum, IPv6 extension headers.
#[inline(always)]
pub fn covered<F: Frame>(frame: &F, link: &Link, segment: &Segment) -> u16 {
    // Nought has two forms: the other one.
    match words(frame, link, segment) {
        Some(0) => 0xffff,
        Some(sum) => sum,
        None => 0,
    }
}

#[inline(always)]
fn words<F: Frame>(frame: &F, link: &Link, segment: &Segment) -> Option<u16> {
    let length = (segment.end - segment.l4) as u32;
    let rest = segment.flow.protocol as u32 + length;
    if segment.flow.protocol == protocol::UDP && frame.read_late::<2>(segment.l4 + 6)? == [0, 0] {
        return None;
    }
    if link.ether_type == ether_type::IPV4 {
        // The header's own checksum makes it nought.
        let addresses = frame.read_late::<8>(link.l3 + 12)?;
        return Some(!checksum::fold(checksum::sum(&addresses) + rest));
    }
    if segment.l4 != link.l3 + IPV6_HEADER {
        return None;
    }
    // The addresses count once in the header and once, complemented, in the segment.
    let header = checksum::fold(checksum::sum(&frame.read_late::<8>(link.l3)?));
    Some(checksum::fold(header as u32 + !checksum::fold(rest) as u32))
}

/// Puts the outer headers in front of the packet; MACs are not touched. `None` where the frame's
/// buffer has no room.
#[inline(always)]
pub fn encapsulate<F: Frame>(frame: &mut F, link: &Link, tunnel: &Tunnel) -> Option<()> {
    let inner = Inner::read(frame, link)?;
    match (tunnel.is_v4(), tunnel.gue) {
        (true, false) => {
            let header = v4(tunnel, &inner, inner.protocol(), 0);
            insert::<F, V4>(frame, link, ether_type::IPV4, header)
        }
        (true, true) => {
            let mut header = [0; V4_UDP];
            put::<0, V4, V4_UDP>(&mut header, v4(tunnel, &inner, protocol::UDP, UDP));
            // RFC 768: no checksum over IPv4; the inner packet has its own.
            put::<V4, UDP, V4_UDP>(&mut header, udp(tunnel, &inner, 0));
            insert::<F, V4_UDP>(frame, link, ether_type::IPV4, header)
        }
        (false, false) => {
            let header = v6(tunnel, &inner, inner.protocol(), 0);
            insert::<F, V6>(frame, link, ether_type::IPV6, header)
        }
        (false, true) => {
            let ip = v6(tunnel, &inner, protocol::UDP, UDP);
            let mut header = [0; V6_UDP];
            put::<0, V6, V6_UDP>(&mut header, ip);
            let sum = v6_checksum(tunnel, &inner, &ip);
            put::<V6, UDP, V6_UDP>(&mut header, udp(tunnel, &inner, sum));
            insert::<F, V6_UDP>(frame, link, ether_type::IPV6, header)
        }
    }
}

/// What the outer header takes over from the inner one.
struct Inner {
    v4: bool,
    /// DSCP and ECN, as they stand in either version: RFC 6040 section 4.1, normal mode.
    traffic_class: u8,
    /// The whole packet.
    length: u16,
}

impl Inner {
    #[inline(always)]
    fn read<F: Frame>(frame: &F, link: &Link) -> Option<Self> {
        let [a, b, c, d, e, f]: [u8; 6] = frame.read(link.l3)?;
        Some(if link.ether_type == ether_type::IPV4 {
            Self { v4: true, traffic_class: b, length: u16::from_be_bytes([c, d]) }
        } else {
            let length = u16::from_be_bytes([e, f]).wrapping_add(IPV6_HEADER as u16);
            Self { v4: false, traffic_class: a << 4 | b >> 4, length }
        })
    }

    #[inline(always)]
    const fn protocol(&self) -> u8 {
        if self.v4 { protocol::IPV4 } else { protocol::IPV6 }
    }
}

/// DF is set, so the identification needs not tell packets apart (RFC 6864).
#[inline(always)]
fn v4(tunnel: &Tunnel, inner: &Inner, next: u8, between: usize) -> [u8; V4] {
    let mut header = [0; V4];
    let length = inner.length.wrapping_add((V4 + between) as u16);
    put::<0, 2, V4>(&mut header, [0x45, inner.traffic_class]);
    put::<2, 2, V4>(&mut header, length.to_be_bytes());
    put::<6, 4, V4>(&mut header, [0x40, 0, HOP_LIMIT, next]);
    put::<12, 4, V4>(&mut header, last_four(tunnel.source));
    put::<16, 4, V4>(&mut header, last_four(tunnel.destination));
    let sum = !checksum::fold(checksum::sum(&header));
    put::<10, 2, V4>(&mut header, sum.to_be_bytes());
    header
}

/// The flow label is the flow's, for routers that spread by it (RFC 6438).
#[inline(always)]
fn v6(tunnel: &Tunnel, inner: &Inner, next: u8, between: usize) -> [u8; V6] {
    let mut header = [0; V6];
    let first = 6 << 28 | (inner.traffic_class as u32) << 20 | tunnel.entropy >> 12;
    put::<0, 4, V6>(&mut header, first.to_be_bytes());
    put::<4, 2, V6>(&mut header, inner.length.wrapping_add(between as u16).to_be_bytes());
    put::<6, 2, V6>(&mut header, [next, HOP_LIMIT]);
    put::<8, 16, V6>(&mut header, tunnel.source.octets());
    put::<24, 16, V6>(&mut header, tunnel.destination.octets());
    header
}

#[inline(always)]
fn udp(tunnel: &Tunnel, inner: &Inner, checksum: u16) -> [u8; UDP] {
    let mut header = [0; UDP];
    put::<0, 2, UDP>(&mut header, port(tunnel.entropy).to_be_bytes());
    put::<2, 2, UDP>(&mut header, GUE_PORT.to_be_bytes());
    put::<4, 2, UDP>(&mut header, inner.length.wrapping_add(UDP as u16).to_be_bytes());
    put::<6, 2, UDP>(&mut header, checksum.to_be_bytes());
    header
}

/// A port of the dynamic range (RFC 6335): 14 bits of the hash.
#[inline(always)]
const fn port(entropy: u32) -> u16 {
    0xc000 | (entropy >> 18) as u16
}

/// UDP over IPv6 has a checksum (RFC 8200 section 8.1) wherever it can be had; a tunnel may go
/// without (RFC 6935), which the rest does.
#[inline(always)]
fn v6_checksum(tunnel: &Tunnel, inner: &Inner, ip: &[u8; V6]) -> u16 {
    if tunnel.covered == 0 {
        return 0;
    }
    let length = inner.length.wrapping_add(UDP as u16) as u32;
    let addresses = checksum::sum(&field::<8, 32, V6>(ip));
    let ports = port(tunnel.entropy) as u32 + GUE_PORT as u32;
    let pseudo = addresses + length + protocol::UDP as u32;
    let sum = !checksum::fold(pseudo + ports + length + tunnel.covered as u32);
    // Zero would say that there is none.
    if sum == 0 { 0xffff } else { sum }
}

/// Makes room behind the link-layer header, and fills it.
#[inline(always)]
fn insert<F: Frame, const N: usize>(
    frame: &mut F,
    link: &Link,
    kind: u16,
    header: [u8; N],
) -> Option<()> {
    frame.grow(N)?;
    if link.l3 > 14 {
        let tag: [u8; 4] = frame.read(N + 12)?;
        frame.write(12, tag)?;
    }
    if link.l3 > 18 {
        let tag: [u8; 4] = frame.read(N + 16)?;
        frame.write(16, tag)?;
    }
    frame.write(link.l3 - 2, kind.to_be_bytes())?;
    frame.write(link.l3, header)
}

#[inline(always)]
const fn last_four(address: Address) -> [u8; 4] {
    ((address.0[1] >> 32) as u32).to_le_bytes()
}
