//! Refusing a flow that nobody takes: a TCP reset, an ICMP port unreachable. The frame becomes
//! the answer and goes back where it came from.
//!
//! The client learns at once, where silence would leave it waiting for its own timeouts.

use crate::address::Mac;
use crate::bytes::{field, put};
use crate::checksum;
use crate::flow::{Flow, protocol};
use crate::frame::Frame;
use crate::judge::service_of;
use crate::parse::{self, Content, IPV4_HEADER, IPV6_HEADER, Link, Segment, ether_type, tcp_flag};
use crate::rewrite::macs;
use crate::tables::{Record, Tables, is_ours};
use crate::verdict::{Answer, Drop, Pass, Verdict};

/// Bytes of a TCP header without options (RFC 9293 section 3.1).
const TCP: usize = 20;
/// Bytes of a datagram that an error quotes: its IP header and eight more (RFC 792); in IPv6 the
/// same keeps the answer from being larger than what caused it.
const QUOTE: usize = 8;
/// Hop limit of what is sent from here (RFC 1700).
const HOP_LIMIT: u8 = 64;

/// Answers a segment or datagram for which there is no backend, and forgets its flow.
#[inline(always)]
pub fn refuse<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Verdict {
    let Some(link) = parse::link(frame) else { return Verdict::Pass(Pass::Unreadable) };
    // Extension headers are not walked again: such flows time out instead.
    let Content::Segment(segment) = parse::content(frame, &link) else {
        return Verdict::Drop(Drop::NotAnswerable);
    };
    if !is_ours(frame, tables, link.destination) {
        return Verdict::Pass(Pass::OtherHost);
    }
    if segment.tcp_flags & tcp_flag::RST != 0
        || !segment.flow.source.is_one_host()
        || has_options(&link, &segment)
    {
        return Verdict::Drop(Drop::NotAnswerable);
    }
    forget(tables, &segment.flow);
    let answered = match (segment.flow.protocol, link.ether_type) {
        (protocol::TCP, ether_type::IPV4) => reset_v4(frame, &link, &segment),
        (protocol::TCP, _) => reset_v6(frame, &link, &segment),
        (_, ether_type::IPV4) => unreachable(error_v4(frame, &link, &segment, [3, 3], [0; 4])),
        _ => unreachable(error_v6(frame, &link, &segment, [1, 4], [0; 4])),
    };
    match answered {
        Some(answer) => Verdict::Answer(answer),
        None => Verdict::Drop(Drop::NoRoom),
    }
}

/// What was remembered of the flow would only lead its next connection astray.
#[inline(always)]
fn forget<T: Tables>(tables: &T, flow: &Flow) {
    let Some(control) = tables.control() else { return };
    let Some(service) = service_of(tables, &control, flow) else { return };
    let key = &flow.key(service.id);
    tables.forget(Record::Current, key);
    tables.forget(Record::Base, key);
    tables.forget(Record::HalfOpen, key);
}

/// An error quotes the whole IP header, which is of one length here.
#[inline(always)]
fn has_options(link: &Link, segment: &Segment) -> bool {
    segment.flow.protocol == protocol::UDP
        && link.ether_type == ether_type::IPV4
        && segment.l4 != link.l3 + IPV4_HEADER
}

/// The answer to a segment (RFC 9293 section 3.10.7.1): with its acknowledgement number as
/// sequence number, so that hosts that check it exactly (RFC 5961 section 3.2) accept it.
#[inline(always)]
fn reset_header<F: Frame>(frame: &F, segment: &Segment) -> Option<[u8; TCP]> {
    let head: [u8; TCP] = frame.read(segment.l4)?;
    let mut reset = [0; TCP];
    put::<0, 2, TCP>(&mut reset, field::<2, 2, TCP>(&head));
    put::<2, 2, TCP>(&mut reset, field::<0, 2, TCP>(&head));
    put::<12, 1, TCP>(&mut reset, [0x50]);
    if segment.tcp_flags & tcp_flag::ACK != 0 {
        put::<4, 4, TCP>(&mut reset, field::<8, 4, TCP>(&head));
        put::<13, 1, TCP>(&mut reset, [tcp_flag::RST]);
    } else {
        let length = (segment.end - segment.l4 - segment.claimed) as u32
            + (segment.tcp_flags & tcp_flag::SYN != 0) as u32
            + (segment.tcp_flags & tcp_flag::FIN != 0) as u32;
        let acknowledged = u32::from_be_bytes(field::<4, 4, TCP>(&head)).wrapping_add(length);
        put::<8, 4, TCP>(&mut reset, acknowledged.to_be_bytes());
        put::<13, 1, TCP>(&mut reset, [tcp_flag::RST | tcp_flag::ACK]);
    }
    Some(reset)
}

#[inline(always)]
fn reset_v4<F: Frame>(frame: &mut F, link: &Link, segment: &Segment) -> Option<Answer> {
    let tcp = reset_header(frame, segment)?;
    let ip = header_v4(frame, link, TCP, protocol::TCP)?;
    let addresses = checksum::sum(&field::<12, 8, IPV4_HEADER>(&ip));
    let pseudo = addresses + u32::from(protocol::TCP) + TCP as u32;
    replace::<F, IPV4_HEADER, TCP, 16>(frame, link, ip, tcp, pseudo)?;
    Some(Answer::Reset)
}

#[inline(always)]
fn reset_v6<F: Frame>(frame: &mut F, link: &Link, segment: &Segment) -> Option<Answer> {
    let tcp = reset_header(frame, segment)?;
    let ip = header_v6(frame, link, TCP, protocol::TCP)?;
    let addresses = checksum::sum(&field::<8, 32, IPV6_HEADER>(&ip));
    let pseudo = addresses + u32::from(protocol::TCP) + TCP as u32;
    replace::<F, IPV6_HEADER, TCP, 16>(frame, link, ip, tcp, pseudo)?;
    Some(Answer::Reset)
}

/// Port unreachable: RFC 792, RFC 4443 section 3.1.
#[inline(always)]
fn unreachable(written: Option<()>) -> Option<Answer> {
    written.map(|()| Answer::Unreachable)
}

/// An ICMP error (RFC 792) in the packet's place, of a type and code, with what follows the checksum;
/// it quotes the header without options.
#[inline(always)]
pub fn error_v4<F: Frame>(
    frame: &mut F,
    link: &Link,
    segment: &Segment,
    kind: [u8; 2],
    rest: [u8; 4],
) -> Option<()> {
    const ICMP: usize = 8 + IPV4_HEADER + QUOTE;
    let mut icmp = [0; ICMP];
    put::<0, 2, ICMP>(&mut icmp, kind);
    put::<4, 4, ICMP>(&mut icmp, rest);
    put::<8, IPV4_HEADER, ICMP>(&mut icmp, frame.read(link.l3)?);
    put::<28, QUOTE, ICMP>(&mut icmp, frame.read(segment.l4)?);
    let ip = header_v4(frame, link, ICMP, protocol::ICMP)?;
    replace::<F, IPV4_HEADER, ICMP, 2>(frame, link, ip, icmp, 0)
}

/// The same of ICMPv6 (RFC 4443 section 3).
#[inline(always)]
pub fn error_v6<F: Frame>(
    frame: &mut F,
    link: &Link,
    segment: &Segment,
    kind: [u8; 2],
    rest: [u8; 4],
) -> Option<()> {
    const ICMP: usize = 8 + IPV6_HEADER + QUOTE;
    let mut icmp = [0; ICMP];
    put::<0, 2, ICMP>(&mut icmp, kind);
    put::<4, 4, ICMP>(&mut icmp, rest);
    put::<8, IPV6_HEADER, ICMP>(&mut icmp, frame.read(link.l3)?);
    put::<48, QUOTE, ICMP>(&mut icmp, frame.read(segment.l4)?);
    let ip = header_v6(frame, link, ICMP, protocol::ICMPV6)?;
    let addresses = checksum::sum(&field::<8, 32, IPV6_HEADER>(&ip));
    let pseudo = addresses + u32::from(protocol::ICMPV6) + ICMP as u32;
    replace::<F, IPV6_HEADER, ICMP, 2>(frame, link, ip, icmp, pseudo)
}

/// Puts the answer in the packet's place and sends it back: its header, and `body`, whose checksum
/// field is at `SUM` and whose pseudo-header adds up to `pseudo`.
#[inline(always)]
fn replace<F: Frame, const IP: usize, const BODY: usize, const SUM: usize>(
    frame: &mut F,
    link: &Link,
    ip: [u8; IP],
    mut body: [u8; BODY],
    pseudo: u32,
) -> Option<()> {
    let sum = !checksum::fold(pseudo + checksum::sum(&body));
    put::<SUM, 2, BODY>(&mut body, sum.to_be_bytes());
    let at = link.l3 + IP;
    frame.resize(at + BODY)?;
    frame.write(at, body)?;
    frame.write(link.l3, ip)?;
    turn_round(frame, link)
}

/// The header of an answer with `length` bytes behind it: addresses swapped, without options.
#[inline(always)]
fn header_v4<F: Frame>(
    frame: &F,
    link: &Link,
    length: usize,
    number: u8,
) -> Option<[u8; IPV4_HEADER]> {
    let head: [u8; IPV4_HEADER] = frame.read(link.l3)?;
    let mut ip = [0; IPV4_HEADER];
    put::<0, 2, IPV4_HEADER>(&mut ip, [0x45, 0]);
    put::<2, 2, IPV4_HEADER>(&mut ip, ((IPV4_HEADER + length) as u16).to_be_bytes());
    // Not to be fragmented, which is why the identification may be zero (RFC 6864).
    put::<6, 4, IPV4_HEADER>(&mut ip, [0x40, 0, HOP_LIMIT, number]);
    put::<12, 4, IPV4_HEADER>(&mut ip, field::<16, 4, IPV4_HEADER>(&head));
    put::<16, 4, IPV4_HEADER>(&mut ip, field::<12, 4, IPV4_HEADER>(&head));
    let sum = !checksum::fold(checksum::sum(&ip));
    put::<10, 2, IPV4_HEADER>(&mut ip, sum.to_be_bytes());
    Some(ip)
}

#[inline(always)]
fn header_v6<F: Frame>(
    frame: &F,
    link: &Link,
    length: usize,
    number: u8,
) -> Option<[u8; IPV6_HEADER]> {
    let head: [u8; IPV6_HEADER] = frame.read(link.l3)?;
    let mut ip = [0; IPV6_HEADER];
    put::<0, 1, IPV6_HEADER>(&mut ip, [0x60]);
    put::<4, 2, IPV6_HEADER>(&mut ip, (length as u16).to_be_bytes());
    put::<6, 2, IPV6_HEADER>(&mut ip, [number, HOP_LIMIT]);
    put::<8, 16, IPV6_HEADER>(&mut ip, field::<24, 16, IPV6_HEADER>(&head));
    put::<24, 16, IPV6_HEADER>(&mut ip, field::<8, 16, IPV6_HEADER>(&head));
    Some(ip)
}

/// Back to the sender, from the address it sent to.
#[inline(always)]
fn turn_round<F: Frame>(frame: &mut F, link: &Link) -> Option<()> {
    let sender = Mac::new(frame.read(6)?);
    frame.write(0, macs(sender, link.destination))
}
