//! Answers for VIPs: ARP, neighbour discovery and echo. The frame becomes its own answer and
//! goes back by the interface it came in by.
//!
//! Only a valid lease makes an answer: a node whose daemon is dead, stopped or not the owner
//! falls silent by itself.

use crate::address::{Address, Mac};
use crate::bytes::{be16_at, field, put, u8_at};
use crate::checksum;
use crate::error::is_error;
use crate::flow::protocol;
use crate::frame::Frame;
use crate::parse::{self, IPV4_HEADER, IPV6_HEADER, Link, ether_type};
use crate::rewrite::macs;
use crate::tables::{Tables, is_ours};
use crate::verdict::{Answer, Drop, Pass, Program, Step, Verdict};

/// Bytes of an ARP packet for IPv4 over Ethernet (RFC 826).
const ARP: usize = 28;
/// Bytes of a neighbour solicitation or advertisement without options (RFC 4861 section 4.3).
const NEIGHBOUR: usize = 24;
/// Longest neighbour solicitation that is answered, a bound for the checksum's loop.
const MAX_SOLICITATION: usize = 88;
/// Hop limit of answers to echo requests (RFC 1700).
const HOP_LIMIT: u8 = 64;

/// Decides about ARP and ICMP of both versions, and writes the answer; ICMP errors are another
/// program's.
#[inline(always)]
pub fn answer<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let Some(link) = parse::link(frame) else {
        return Step::Done(Verdict::Pass(Pass::Unreadable));
    };
    if is_error(frame, &link) {
        return Step::Then(Program::Error);
    }
    let result = match link.ether_type {
        ether_type::ARP => arp(frame, tables, &link),
        ether_type::IPV4 => echo(frame, tables, &link),
        ether_type::IPV6 => icmp_v6(frame, tables, &link),
        _ => Err(Pass::NotARequest),
    };
    Step::Done(match result {
        Ok(verdict) => verdict,
        Err(reason) => Verdict::Pass(reason),
    })
}

type Decision = Result<Verdict, Pass>;

/// The MAC to answer with, if this node may answer for `vip`.
#[inline(always)]
fn authority<F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    link: &Link,
    vip: Address,
) -> Result<Mac, Pass> {
    let vip = tables.vip(vip).ok_or(Pass::NotForVip)?;
    if !link.destination.is_multicast() && !is_ours(frame, tables, link.destination) {
        return Err(Pass::OtherHost);
    }
    let deadline = tables.lease(vip.lease).ok_or(Pass::NoLease)?;
    if tables.now() >= deadline {
        return Err(Pass::NoLease);
    }
    let mac = Mac::from_word(vip.mac);
    if !mac.is_zero() {
        return Ok(mac);
    }
    match tables.interface(frame.ingress()) {
        Some(interface) => Ok(Mac::from_word(interface.mac)),
        None => Err(Pass::UnknownInterface),
    }
}

/// RFC 826, and RFC 5227 for what probes and announcements look like.
#[inline(always)]
fn arp<F: Frame, T: Tables>(frame: &mut F, tables: &T, link: &Link) -> Decision {
    let packet: [u8; ARP] = frame.read(link.l3).ok_or(Pass::Unreadable)?;
    // Ethernet, IPv4, six and four bytes of address, request.
    if field::<0, 8, ARP>(&packet) != [0, 1, 8, 0, 6, 4, 0, 1] {
        return Err(Pass::NotARequest);
    }
    let sender = Mac::new(field::<8, 6, ARP>(&packet));
    let sender_ip: [u8; 4] = field::<14, 4, ARP>(&packet);
    let target_ip: [u8; 4] = field::<24, 4, ARP>(&packet);
    let mac = authority(frame, tables, link, Address::from_v4(target_ip))?;
    if sender_ip == target_ip {
        // Somebody announces our VIP: not a question.
        return Err(Pass::NotARequest);
    }
    if sender.is_multicast() || sender.is_zero() {
        return Err(Pass::InvalidRequest);
    }
    let mut reply = packet;
    put::<7, 1, ARP>(&mut reply, [2]);
    put::<8, 6, ARP>(&mut reply, mac.octets());
    put::<14, 4, ARP>(&mut reply, target_ip);
    put::<18, 6, ARP>(&mut reply, sender.octets());
    put::<24, 4, ARP>(&mut reply, sender_ip);
    Ok(written(
        frame.write(link.l3, reply).and_then(|()| frame.write(0, macs(sender, mac))),
        Answer::Arp,
    ))
}

/// RFC 792, RFC 1122 section 3.2.2.6.
#[inline(always)]
fn echo<F: Frame, T: Tables>(frame: &mut F, tables: &T, link: &Link) -> Decision {
    let ip: [u8; IPV4_HEADER] = frame.read(link.l3).ok_or(Pass::Unreadable)?;
    let source: [u8; 4] = field::<12, 4, 20>(&ip);
    let destination: [u8; 4] = field::<16, 4, 20>(&ip);
    let mac = authority(frame, tables, link, Address::from_v4(destination))?;
    let icmp: [u8; 4] = frame.read(link.l3 + IPV4_HEADER).ok_or(Pass::Unreadable)?;
    // Options may ask for more than turning round: they and all but "echo" are for the kernel.
    if u8_at::<0, 20>(&ip) != 0x45
        || icmp[0] != 8
        || icmp[1] != 0
        || link.destination.is_multicast()
    {
        return Err(Pass::NotARequest);
    }
    let end = link.l3 + usize::from(be16_at::<2, 20>(&ip));
    if end < link.l3 + IPV4_HEADER + 8
        || !frame.holds(end)
        || !Address::from_v4(source).is_one_host()
    {
        return Err(Pass::InvalidRequest);
    }
    let requester = Mac::new(frame.read(6).ok_or(Pass::Unreadable)?);
    let mut reply = ip;
    put::<12, 4, 20>(&mut reply, destination);
    put::<16, 4, 20>(&mut reply, source);
    // Swapping the addresses leaves the sum as it is; only the time to live changes it.
    let protocol = u16::from(protocol::ICMP);
    let old = be16_at::<8, 20>(&ip);
    let new = u16::from(HOP_LIMIT) << 8 | protocol;
    put::<8, 2, 20>(&mut reply, new.to_be_bytes());
    let sum = checksum::update(be16_at::<10, 20>(&ip), old, new);
    put::<10, 2, 20>(&mut reply, sum.to_be_bytes());
    let [a, b] = checksum::update(be16_at::<2, 4>(&icmp), 0x0800, 0).to_be_bytes();
    let done = frame
        .write(link.l3 + IPV4_HEADER, [0, 0, a, b])
        .and_then(|()| frame.write(link.l3, reply))
        .and_then(|()| frame.write(0, macs(requester, mac)));
    Ok(written(done, Answer::Echo))
}

#[inline(always)]
fn icmp_v6<F: Frame, T: Tables>(frame: &mut F, tables: &T, link: &Link) -> Decision {
    let ip: [u8; IPV6_HEADER] = frame.read(link.l3).ok_or(Pass::Unreadable)?;
    let head: [u8; 4] = frame.read(link.l3 + IPV6_HEADER).ok_or(Pass::Unreadable)?;
    match head[0] {
        128 => echo_v6(frame, tables, link, &ip, &head),
        135 => neighbour(frame, tables, link, &ip),
        _ => match tables.vip(Address::from_v6(field::<24, 16, 40>(&ip))) {
            Some(_) => Err(Pass::NotARequest),
            None => Err(Pass::NotForVip),
        },
    }
}

/// RFC 4443 section 4.
#[inline(always)]
fn echo_v6<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    link: &Link,
    ip: &[u8; IPV6_HEADER],
    head: &[u8; 4],
) -> Decision {
    let source: [u8; 16] = field::<8, 16, 40>(ip);
    let destination: [u8; 16] = field::<24, 16, 40>(ip);
    let mac = authority(frame, tables, link, Address::from_v6(destination))?;
    if head[1] != 0 || link.destination.is_multicast() {
        return Err(Pass::NotARequest);
    }
    let end = link.l3 + IPV6_HEADER + usize::from(be16_at::<4, 40>(ip));
    let unspecified = Address::from_v6(source) == Address::default();
    if source[0] == 0xff || unspecified || end < link.l3 + IPV6_HEADER + 8 || !frame.holds(end) {
        return Err(Pass::InvalidRequest);
    }
    let requester = Mac::new(frame.read(6).ok_or(Pass::Unreadable)?);
    let mut reply = *ip;
    put::<7, 1, 40>(&mut reply, [HOP_LIMIT]);
    put::<8, 16, 40>(&mut reply, destination);
    put::<24, 16, 40>(&mut reply, source);
    let [a, b] = checksum::update(be16_at::<2, 4>(head), 0x8000, 0x8100).to_be_bytes();
    let done = frame
        .write(link.l3 + IPV6_HEADER, [129, 0, a, b])
        .and_then(|()| frame.write(link.l3, reply))
        .and_then(|()| frame.write(0, macs(requester, mac)));
    Ok(written(done, Answer::EchoV6))
}

/// RFC 4861 sections 7.1.1 (what a valid solicitation is) and 7.2.4 (the advertisement).
#[inline(always)]
fn neighbour<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    link: &Link,
    ip: &[u8; IPV6_HEADER],
) -> Decision {
    let icmp = link.l3 + IPV6_HEADER;
    let solicitation: [u8; NEIGHBOUR] = frame.read(icmp).ok_or(Pass::Unreadable)?;
    let target: [u8; 16] = field::<8, 16, NEIGHBOUR>(&solicitation);
    let vip = Address::from_v6(target);
    if vip.v4_octets().is_some() {
        return Err(Pass::MappedAddress);
    }
    let mac = authority(frame, tables, link, vip)?;

    let source: [u8; 16] = field::<8, 16, 40>(ip);
    let length = usize::from(be16_at::<4, 40>(ip));
    let requester = Mac::new(frame.read(6).ok_or(Pass::Unreadable)?);
    if u8_at::<7, 40>(ip) != 255
        || u8_at::<1, NEIGHBOUR>(&solicitation) != 0
        || length < NEIGHBOUR
        || requester.is_multicast()
        || source[0] == 0xff
        || !checksum_holds(frame, ip, icmp, length)
    {
        return Err(Pass::InvalidRequest);
    }
    // Without a source address it asks whether the address is taken: everybody is told.
    let probe = Address::from_v6(source) == Address::default();
    let (to, to_mac, solicited) = if probe {
        (ALL_NODES, Mac::new([0x33, 0x33, 0, 0, 0, 1]), 0)
    } else {
        (source, requester, 0x40)
    };
    let mut header = *ip;
    put::<4, 4, 40>(&mut header, [0, ADVERTISEMENT as u8, protocol::ICMPV6, 255]);
    put::<8, 16, 40>(&mut header, target);
    put::<24, 16, 40>(&mut header, to);

    let mut advertisement = [0; ADVERTISEMENT];
    // Type, then the flags: solicited, override.
    put::<0, 1, ADVERTISEMENT>(&mut advertisement, [136]);
    put::<4, 1, ADVERTISEMENT>(&mut advertisement, [solicited | 0x20]);
    put::<8, 16, ADVERTISEMENT>(&mut advertisement, target);
    // Option: target link-layer address, one unit of eight bytes.
    put::<24, 2, ADVERTISEMENT>(&mut advertisement, [2, 1]);
    put::<26, 6, ADVERTISEMENT>(&mut advertisement, mac.octets());
    let sum = pseudo_header(target, to, ADVERTISEMENT) + checksum::sum(&advertisement);
    put::<2, 2, ADVERTISEMENT>(&mut advertisement, (!checksum::fold(sum)).to_be_bytes());

    let done = frame
        .resize(icmp + ADVERTISEMENT)
        .and_then(|()| frame.write(icmp, advertisement))
        .and_then(|()| frame.write(link.l3, header))
        .and_then(|()| frame.write(0, macs(to_mac, mac)));
    Ok(written(done, Answer::Neighbour))
}

/// Bytes of an advertisement with its link-layer address option.
const ADVERTISEMENT: usize = NEIGHBOUR + 8;
/// ff02::1
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// Sum of the pseudo-header of RFC 8200 section 8.1 for ICMPv6.
#[inline(always)]
fn pseudo_header(source: [u8; 16], destination: [u8; 16], length: usize) -> u32 {
    checksum::sum(&source)
        + checksum::sum(&destination)
        + length as u32
        + u32::from(protocol::ICMPV6)
}

/// Whether an ICMPv6 message of `length` bytes, at most [`MAX_SOLICITATION`], sums up.
#[inline(always)]
fn checksum_holds<F: Frame>(frame: &F, ip: &[u8; IPV6_HEADER], icmp: usize, length: usize) -> bool {
    if length > MAX_SOLICITATION || !length.is_multiple_of(8) {
        return false;
    }
    let mut sum = pseudo_header(field::<8, 16, 40>(ip), field::<24, 16, 40>(ip), length);
    let mut at = 0;
    while at < MAX_SOLICITATION {
        if at >= length {
            break;
        }
        let Some(words) = frame.read::<8>(icmp + at) else { return false };
        sum += checksum::sum(&words);
        at += 8;
    }
    checksum::fold(sum) == 0xffff
}

#[inline(always)]
fn written(done: Option<()>, answer: Answer) -> Verdict {
    match done {
        Some(()) => Verdict::Answer(answer),
        None => Verdict::Drop(Drop::NoRoom),
    }
}
