//! Fragments. Only a packet's first one tells the ports: it is remembered by what its sender tells
//! packets apart by, and the later ones go where it went.
//!
//! ```text
//! first   | IP  offset 0, more | TCP, UDP | payload ...     -> FRAGMENTS: ports, where it ends
//! later   | IP  offset n       | payload ...                <- FRAGMENTS: whose it is
//! ```
//!
//! Nothing is put together or held back here: a later fragment that comes before its first one is
//! dropped, and so is what no honest sender makes (RFC 1858, RFC 3128, RFC 5722).

use crate::address::Address;
use crate::bytes::{be16_at, field, u8_at};
use crate::flow::{Flow, protocol};
use crate::frame::Frame;
use crate::judge::{Asked, Choice, LetIn, Remembered, balance};
use crate::maps::{FRAGMENTS_OVERLAP, FirstFragment, FragmentKey, SERVICE_QUIC};
use crate::parse::{self, IPV4_HEADER, IPV6_HEADER, Link, Segment, Walked, ether_type, tcp_flag};
use crate::slot::Slot;
use crate::tables::{Tables, is_ours};
use crate::verdict::{Drop, Pass, Program, Step, Verdict};

/// Seconds for which a first fragment is remembered: as long as hosts wait for the rest (Linux;
/// RFC 8200 section 4.5 has a minute).
pub const REMEMBERED: u16 = 30;
/// The longest packet that fragments can be of.
const LONGEST: usize = 0xffff;

/// What a fragment tells, in one word, which is what a function of a BPF program can return: either a
/// verdict, or whose it is and where its part of the packet begins.
///
/// ```text
///  63  62        48 47   42  41    40   39        32 31                      0
/// +---+------------+-------+-----+-----+------------+-------------------------+
/// | 1 |   begins   |   0   | UDP |later| TCP flags  |          ports          |
/// +---+------------+-------+-----+-----+------------+-------------------------+
/// | 0 |                     0                       | index of the verdict    |
/// +---+---------------------------------------------+-------------------------+
/// | 0 | 1                     0 (no fragment at all)                          |
/// +---+-----------------------------------------------------------------------+
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Told(u64);

impl Told {
    const KNOWN: u64 = 1 << 63;
    const UDP: u64 = 1 << 41;
    const LATER: u64 = 1 << 40;
    /// A whole packet with a fragment header all the same (RFC 6946): for who walks over headers.
    const WHOLE: Self = Self(1 << 62);

    #[inline(always)]
    const fn verdict(verdict: Verdict) -> Self {
        match verdict.index() {
            Some(index) => Self(index as u64),
            None => Self(0),
        }
    }

    #[inline(always)]
    const fn known(piece: &Piece, ports: u32, tcp_flags: u8) -> Self {
        let later = if piece.is_later() { Self::LATER } else { 0 };
        let begins = (piece.at as u64 & 0x7fff) << 48;
        let udp = if piece.is_tcp() { 0 } else { Self::UDP };
        Self(Self::KNOWN | begins | udp | later | (tcp_flags as u64) << 32 | ports as u64)
    }

    /// What is done about it, if that is certain.
    #[inline(always)]
    pub const fn certain(self) -> Option<Step> {
        if self.0 & Self::KNOWN != 0 {
            return None;
        }
        if self.0 == Self::WHOLE.0 {
            return Some(Step::Then(Program::Transition));
        }
        match Verdict::at(self.0 as u32) {
            Some(verdict) => Some(Step::Done(verdict)),
            None => None,
        }
    }
}

/// What a fragment of either version tells. Those of a VIP are judged, others are not ours.
#[inline(always)]
pub fn tell<F: Frame, T: Tables>(frame: &F, tables: &T) -> Told {
    let unreadable = Told::verdict(Verdict::Pass(Pass::Unreadable));
    let Some(link) = parse::link(frame) else { return unreadable };
    // Written twice, as in `judge::thorough`.
    if link.ether_type == ether_type::IPV6 {
        return match Piece::read_v6(frame, &link) {
            Ok(piece) => tell_piece(frame, tables, &link, &piece),
            Err(told) => told,
        };
    }
    match Piece::read_v4(frame, &link) {
        Some(piece) => tell_piece(frame, tables, &link, &piece),
        None => unreadable,
    }
}

#[inline(always)]
fn tell_piece<F: Frame, T: Tables>(frame: &F, tables: &T, link: &Link, piece: &Piece) -> Told {
    let pass = |reason| Told::verdict(Verdict::Pass(reason));
    let drop = |reason| Told::verdict(Verdict::Drop(reason));
    if tables.vip(piece.key.destination).is_none() {
        return pass(Pass::Fragment);
    }
    // A flooded frame is not remembered either.
    if !is_ours(frame, tables, link.destination) {
        return pass(Pass::OtherHost);
    }
    if !piece.has_ports() {
        return drop(Drop::Fragment);
    }
    if !piece.length_holds(frame) {
        return drop(Drop::BadLength);
    }
    let Some(control) = tables.control() else { return pass(Pass::NoTable) };
    if piece.is_later() {
        if piece.is_tcp() && piece.offset == 1 {
            return drop(Drop::TinyFragment);
        }
        let Some(first) = piece.first(tables, control.epoch) else {
            return drop(Drop::FragmentUnknown);
        };
        if piece.offset < first.end {
            let overlap = FirstFragment { end: FRAGMENTS_OVERLAP, ..first };
            tables.set_fragment(&piece.key, overlap);
            return drop(Drop::OverlappingFragment);
        }
        // In the middle of its connection, whatever the first one was.
        return Told::known(piece, first.ports, tcp_flag::ACK);
    }
    let Some(transport) = piece.transport(frame) else { return drop(Drop::TinyFragment) };
    if transport.claimed < piece.least() {
        return drop(Drop::BadTransport);
    }
    let end = (piece.length() / 8) as u16;
    let seen = control.epoch as u16;
    tables.set_fragment(&piece.key, FirstFragment { ports: transport.ports, end, seen });
    Told::known(piece, transport.ports, transport.tcp_flags)
}

/// The program for fragments, once it is told whose one is.
#[inline(always)]
pub fn judge_fragment<F: Frame, T: Tables>(frame: &F, tables: &T, told: Told) -> Step {
    let Some(link) = parse::link(frame) else {
        return Step::Done(Verdict::Pass(Pass::Unreadable));
    };
    let later = told.0 & Told::LATER != 0;
    let l4 = (told.0 >> 48) as usize & 0x7fff;
    let protocol = if told.0 & Told::UDP != 0 { protocol::UDP } else { protocol::TCP };
    let part = |source, destination, end| {
        let flow = Flow { source, destination, ports: told.0 as u32, protocol };
        let tcp_flags = (told.0 >> 32) as u8;
        // What its transport header claims has been looked at.
        Segment { flow, l4, end, claimed: 0, least: 0, tcp_flags }
    };
    if link.ether_type == ether_type::IPV6 {
        let Some(head) = frame.read::<IPV6_HEADER>(link.l3) else {
            return Step::Done(Verdict::Pass(Pass::Unreadable));
        };
        let end = link.l3 + IPV6_HEADER + usize::from(be16_at::<4, 40>(&head));
        let source = Address::from_v6(field::<8, 16, 40>(&head));
        let destination = Address::from_v6(field::<24, 16, 40>(&head));
        let segment = part(source, destination, end);
        return balance(frame, tables, &link, &segment, &Fragmented { later });
    }
    let Some(head) = frame.read::<IPV4_HEADER>(link.l3) else {
        return Step::Done(Verdict::Pass(Pass::Unreadable));
    };
    let end = link.l3 + usize::from(be16_at::<2, 20>(&head));
    let source = Address::from_v4(field::<12, 4, 20>(&head));
    let destination = Address::from_v4(field::<16, 4, 20>(&head));
    let segment = part(source, destination, end);
    balance(frame, tables, &link, &segment, &Fragmented { later })
}

/// A fragment, as its IP headers tell.
struct Piece {
    key: FragmentKey,
    /// Where it belongs in its packet, in units of eight bytes.
    offset: u16,
    /// Whether another one comes behind it.
    more: bool,
    /// Where its part of the packet begins.
    at: usize,
    /// Where that ends.
    end: usize,
}

impl Piece {
    /// RFC 791 section 3.1.
    #[inline(always)]
    fn read_v4<F: Frame>(frame: &F, link: &Link) -> Option<Self> {
        let head: [u8; IPV4_HEADER] = frame.read(link.l3)?;
        let flags = be16_at::<6, 20>(&head);
        Some(Self {
            key: FragmentKey {
                source: Address::from_v4(field::<12, 4, 20>(&head)),
                destination: Address::from_v4(field::<16, 4, 20>(&head)),
                identification: be16_at::<4, 20>(&head) as u32,
                protocol: u8_at::<9, 20>(&head) as u32,
            },
            offset: flags & 0x1fff,
            more: flags & 0x2000 != 0,
            at: link.l3 + usize::from(u8_at::<0, 20>(&head) & 0xf) * 4,
            end: link.l3 + usize::from(be16_at::<2, 20>(&head)),
        })
    }

    /// RFC 8200 section 4.5.
    #[inline(always)]
    fn read_v6<F: Frame>(frame: &F, link: &Link) -> Result<Self, Told> {
        let Some(head) = frame.read::<IPV6_HEADER>(link.l3) else {
            return Err(Told::verdict(Verdict::Pass(Pass::Unreadable)));
        };
        let inside = link.l3 + IPV6_HEADER;
        let (header, at) = match parse::walk(frame, u8_at::<6, 40>(&head), inside) {
            Walked::Fragment { header, at } => (header, at),
            // A whole packet, or what never has fragments: others look further.
            Walked::Transport { .. } => return Err(Told::WHOLE),
            Walked::Lost(reason) => return Err(Told::verdict(Verdict::Pass(reason))),
        };
        let flags = be16_at::<2, 8>(&header);
        Ok(Self {
            key: FragmentKey {
                source: Address::from_v6(field::<8, 16, 40>(&head)),
                destination: Address::from_v6(field::<24, 16, 40>(&head)),
                identification: u32::from_be_bytes(field::<4, 4, 8>(&header)),
                protocol: u8_at::<0, 8>(&header) as u32,
            },
            offset: flags >> 3,
            more: flags & 1 != 0,
            at,
            end: inside + usize::from(be16_at::<4, 40>(&head)),
        })
    }

    /// What is remembered of the first one.
    #[inline(always)]
    fn first<T: Tables>(&self, tables: &T, epoch: u64) -> Option<FirstFragment> {
        let first = tables.fragment(&self.key)?;
        if (epoch as u16).wrapping_sub(first.seen) > REMEMBERED { None } else { Some(first) }
    }

    /// What a first one's transport header tells, if all of that is there.
    #[inline(always)]
    fn transport<F: Frame>(&self, frame: &F) -> Option<Transport> {
        if self.length() < self.least() {
            return None;
        }
        if self.is_tcp() {
            let head: [u8; 20] = frame.read(self.at)?;
            let claimed = usize::from(u8_at::<12, 20>(&head) >> 4) * 4;
            if claimed > self.length() {
                return None;
            }
            let ports = u32::from_le_bytes(field::<0, 4, 20>(&head));
            return Some(Transport { ports, claimed, tcp_flags: u8_at::<13, 20>(&head) });
        }
        // The length is the whole datagram's, of which a part is here.
        let head: [u8; 8] = frame.read(self.at)?;
        let ports = u32::from_le_bytes(field::<0, 4, 8>(&head));
        Some(Transport { ports, claimed: usize::from(be16_at::<4, 8>(&head)), tcp_flags: 0 })
    }

    /// Least bytes of its transport header.
    #[inline(always)]
    const fn least(&self) -> usize {
        if self.is_tcp() { 20 } else { 8 }
    }

    #[inline(always)]
    const fn is_later(&self) -> bool {
        self.offset != 0
    }

    /// Whether the lengths fit the frame and one another: all but the last have a multiple of eight
    /// bytes, and none goes beyond the longest packet.
    #[inline(always)]
    fn length_holds<F: Frame>(&self, frame: &F) -> bool {
        frame.holds(self.end)
            && self.end > self.at
            && usize::from(self.offset) * 8 + self.length() <= LONGEST
            && (!self.more || self.length().is_multiple_of(8))
    }

    /// Bytes of the packet that are in it.
    #[inline(always)]
    const fn length(&self) -> usize {
        self.end - self.at
    }

    #[inline(always)]
    const fn has_ports(&self) -> bool {
        self.is_tcp() || self.key.protocol == protocol::UDP as u32
    }

    #[inline(always)]
    const fn is_tcp(&self) -> bool {
        self.key.protocol == protocol::TCP as u32
    }
}

/// What a transport header says.
struct Transport {
    ports: u32,
    claimed: usize,
    tcp_flags: u8,
}

/// By what is remembered of the flow. QUIC is never fragmented (RFC 9000 section 14), and what says
/// it is goes by its slot: later fragments do not have the server's id.
struct Fragmented {
    later: bool,
}

impl Choice for Fragmented {
    const LET_IN: LetIn = LetIn::Here;
    const WHOLE: bool = false;

    #[inline(always)]
    fn choose<F: Frame, T: Tables>(
        &self,
        frame: &F,
        tables: &T,
        slot: Slot,
        asked: &Asked<'_>,
    ) -> Result<u32, Program> {
        if asked.service.flags & SERVICE_QUIC != 0 {
            return Ok(slot.current());
        }
        Remembered::<true>.choose(frame, tables, slot, asked)
    }

    /// A later one of QUIC was counted with its first; another one is known by the pin that its first
    /// has made.
    #[inline(always)]
    fn begins<F: Frame, T: Tables>(&self, frame: &F, tables: &T, asked: &Asked<'_>) -> bool {
        let counted = self.later && asked.service.flags & SERVICE_QUIC != 0;
        !counted && Remembered::<true>.begins(frame, tables, asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::{Packet, fragments};
    use crate::cases::{INGRESS, tables, world};
    use crate::frame::MemoryFrame;
    use crate::process::process;

    #[test]
    fn a_first_fragment_is_forgotten_after_half_a_minute() {
        let mut tables = tables();
        // Close to where its lowest bits begin anew.
        tables.control.epoch = 0x1_fff0;
        let datagram = Packet::udp(world::client(9), world::vip(53)).payload(&[7; 64]).build();
        let parts = fragments(&datagram, 1, &[32]);
        let verdict_at = |tables: &_, part: usize| {
            let mut frame = MemoryFrame { bytes: parts[part].clone(), ingress: INGRESS };
            process(&mut frame, tables)
        };
        assert!(matches!(verdict_at(&tables, 0), Verdict::Forward(_)));
        for (seconds, known) in [(0, true), (30, true), (31, false)] {
            tables.control.epoch = 0x1_fff0 + seconds;
            let forwarded = matches!(verdict_at(&tables, 1), Verdict::Forward(_));
            assert_eq!(forwarded, known, "after {seconds} s");
        }
        assert_eq!(verdict_at(&tables, 1), Verdict::Drop(Drop::FragmentUnknown));
    }
}
