//! ICMP errors about what backends have sent. A backend answers its clients directly, with the VIP as
//! source: whoever cannot deliver that (a router, because of its size; the client, because of its
//! port) tells the VIP, and so us. What the error quotes says which flow it is about, and the
//! backend that has the flow gets it. Path-MTU discovery (RFC 1191, RFC 8201) needs that.
//!
//! ```text
//! | Ethernet | IP  router > VIP | ICMP | IP  VIP > client | TCP, UDP: 8 bytes at least
//! ```
//!
//! Anybody can make such an error: nothing is remembered, dated or counted because of one but the
//! packet, and it is the backend that finds out whether it has sent what is quoted (RFC 5927).

use crate::address::Address;
use crate::bytes::{be16_at, field, u8_at};
use crate::flow::{Flow, protocol};
use crate::frame::Frame;
use crate::judge::{Asked, Choice, LetIn, balance};
use crate::maps::SERVICE_QUIC;
use crate::parse::{self, IPV4_HEADER, IPV6_HEADER, Link, Segment, Walked, ether_type};
use crate::slot::Slot;
use crate::steer::peek;
use crate::tables::Tables;
use crate::verdict::{Pass, Program, Step, Verdict};

/// Bytes of an ICMP error before what it quotes.
const ICMP: usize = 8;
/// Bytes of the quoted transport header that have to be there (RFC 792).
const QUOTE: usize = 8;

/// Whether an ICMP message of either version is an error: destination unreachable, time exceeded,
/// parameter problem (RFC 792), and in IPv6 packet too big (RFC 4443).
#[inline(always)]
pub fn is_error<F: Frame>(frame: &F, link: &Link) -> bool {
    match link.ether_type {
        ether_type::IPV4 => match frame.read::<1>(link.l3) {
            Some([first]) => {
                matches!(frame.read::<1>(link.l3 + header_length(first)), Some([3 | 11 | 12]))
            }
            None => false,
        },
        ether_type::IPV6 => matches!(frame.read::<1>(link.l3 + IPV6_HEADER), Some([1..=4])),
        _ => false,
    }
}

/// The program for ICMP errors: the backend of the flow that one is about gets it.
#[inline(always)]
pub fn judge_error<F: Frame, T: Tables>(frame: &F, tables: &T) -> Step {
    let pass = |reason| Step::Done(Verdict::Pass(reason));
    let Some(link) = parse::link(frame) else { return pass(Pass::Unreadable) };
    let Some(vip) = parse::destination(frame, &link) else { return pass(Pass::Unreadable) };
    if tables.vip(vip).is_none() {
        return pass(Pass::NotForVip);
    }
    // Written twice, as in `judge::thorough`.
    if link.ether_type == ether_type::IPV6 {
        return match about_v6(frame, &link, vip) {
            Some(segment) => balance(frame, tables, &link, &segment, &Peeked),
            None => pass(Pass::NotARequest),
        };
    }
    match about_v4(frame, &link, vip) {
        Some(segment) => balance(frame, tables, &link, &segment, &Peeked),
        None => pass(Pass::NotARequest),
    }
}

/// The flow that an error to the VIP is about, as its client sends it; the rest of the segment is the
/// error itself.
#[inline(always)]
fn about_v4<F: Frame>(frame: &F, link: &Link, vip: Address) -> Option<Segment> {
    let outer: [u8; IPV4_HEADER] = frame.read(link.l3)?;
    let l4 = link.l3 + header_length(u8_at::<0, 20>(&outer));
    let at = l4 + ICMP;
    let quoted: [u8; IPV4_HEADER] = frame.read(at)?;
    let first = u8_at::<0, 20>(&quoted);
    let length = header_length(first);
    // Later fragments do not tell their ports.
    if first >> 4 != 4 || length < IPV4_HEADER || be16_at::<6, 20>(&quoted) & 0x1fff != 0 {
        return None;
    }
    let message = Message { l4, end: link.l3 + usize::from(be16_at::<2, 20>(&outer)), vip };
    let source = Address::from_v4(field::<12, 4, 20>(&quoted));
    let client = Address::from_v4(field::<16, 4, 20>(&quoted));
    message.about(frame, source, client, u8_at::<9, 20>(&quoted), at + length)
}

#[inline(always)]
fn about_v6<F: Frame>(frame: &F, link: &Link, vip: Address) -> Option<Segment> {
    let outer: [u8; IPV6_HEADER] = frame.read(link.l3)?;
    let l4 = link.l3 + IPV6_HEADER;
    let quoted: [u8; IPV6_HEADER] = frame.read(l4 + ICMP)?;
    if u8_at::<0, 40>(&quoted) >> 4 != 6 {
        return None;
    }
    let inside = l4 + ICMP + IPV6_HEADER;
    let (number, at) = match parse::walk(frame, u8_at::<6, 40>(&quoted), inside) {
        Walked::Transport { number, at } => (number, at),
        Walked::Fragment { header, at } if be16_at::<2, 8>(&header) & 0xfff8 == 0 => {
            (u8_at::<0, 8>(&header), at)
        }
        Walked::Fragment { .. } | Walked::Lost(_) => return None,
    };
    let message = Message { l4, end: l4 + usize::from(be16_at::<4, 40>(&outer)), vip };
    let source = Address::from_v6(field::<8, 16, 40>(&quoted));
    let client = Address::from_v6(field::<24, 16, 40>(&quoted));
    message.about(frame, source, client, number, at)
}

/// An error as it came.
struct Message {
    l4: usize,
    end: usize,
    vip: Address,
}

impl Message {
    /// What it is about, given whose packet is quoted and where its transport header begins.
    #[inline(always)]
    fn about<F: Frame>(
        &self,
        frame: &F,
        source: Address,
        client: Address,
        number: u8,
        at: usize,
    ) -> Option<Segment> {
        if source != self.vip || (number != protocol::TCP && number != protocol::UDP) {
            return None;
        }
        let quote: [u8; QUOTE] = frame.read(at)?;
        // The other way round: ports, too.
        let ports = u32::from_le_bytes(field::<0, 4, QUOTE>(&quote)).rotate_left(16);
        let flow = Flow { source: client, destination: source, ports, protocol: number };
        let least = at + QUOTE - self.l4;
        Some(Segment { flow, l4: self.l4, end: self.end, claimed: least, least, tcp_flags: 0 })
    }
}

/// Bytes of an IPv4 header, by its first byte.
#[inline(always)]
const fn header_length(first: u8) -> usize {
    (first & 0xf) as usize * 4
}

/// By the slot of a flow, or what is remembered of it. A QUIC server's packets do not have its id in
/// them, so its flows go by their slot.
struct Peeked;

impl Choice for Peeked {
    // Its client was let in, or nothing would have been sent to it.
    const LET_IN: LetIn = LetIn::Already;
    const NO_SERVICE: Pass = Pass::NotARequest;
    // An error is not answered by another one (RFC 1122 section 3.2.2).
    const REFUSES: bool = false;
    const WHOLE: bool = false;

    #[inline(always)]
    fn choose<F: Frame, T: Tables>(
        &self,
        _: &F,
        tables: &T,
        slot: Slot,
        asked: &Asked<'_>,
    ) -> Result<u32, Program> {
        let Asked { service, segment, .. } = *asked;
        if slot.is_steady() || service.flags & SERVICE_QUIC != 0 {
            return Ok(slot.current());
        }
        Ok(peek(tables, slot, &segment.flow.key(service.id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::{INGRESS, cases, tables};
    use crate::frame::MemoryFrame;
    use crate::process::process;
    use crate::verdict::Verdict;

    #[test]
    fn errors_leave_nothing_behind() {
        let tables = tables();
        let mut errors = 0;
        for case in cases() {
            let mut frame = MemoryFrame { bytes: case.frame, ingress: INGRESS };
            let step = parse::link(&frame).map(|link| parse::content(&frame, &link));
            let asks = matches!(step, Some(parse::Content::Rare(Program::Answer)));
            let error = asks && parse::link(&frame).is_some_and(|link| is_error(&frame, &link));
            let before = (tables.records.borrow().clone(), tables.counts.borrow().clone());
            let verdict = process(&mut frame, &tables);
            if error {
                errors += usize::from(matches!(verdict, Verdict::Forward(_)));
                let after = (tables.records.borrow().clone(), tables.counts.borrow().clone());
                assert_eq!(before, after, "{}", case.name);
            }
        }
        assert!(errors > 20, "only {errors} errors went to a backend");
    }
}
