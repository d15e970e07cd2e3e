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
use crate::judge::{Choice, LetIn, Remembered, balance};
use crate::maps::{Control, FRAGMENTS_OVERLAP, FirstFragment, FragmentKey, SERVICE_QUIC, Service};
use crate::parse::{self, IPV4_HEADER, IPV6_HEADER, Link, Segment, Walked, ether_type, tcp_flag};
use crate::slot::Slot;
use crate::tables::{Tables, is_ours};
use crate::verdict::{Drop, Pass, Program, Step, Verdict};

/// Seconds for which a first fragment is remembered: as long as hosts wait for the rest (Linux;
/// RFC 8200 section 4.5 has a minute).
pub const REMEMBERED: u16 = 30;
/// The longest packet that fragments can be of.
const LONGEST: usize = 0xffff;

/// The program for fragments of both versions. Those of a VIP are judged, others are not ours.
#[inline(always)]
pub fn judge_fragment<F: Frame, T: Tables>(frame: &F, tables: &T) -> Step {
    let Some(link) = parse::link(frame) else {
        return Step::Done(Verdict::Pass(Pass::Unreadable));
    };
    // Written twice, as in `judge::thorough`.
    if link.ether_type == ether_type::IPV6 {
        return match Piece::read_v6(frame, &link) {
            Ok(piece) => judge_piece(frame, tables, &link, &piece),
            Err(step) => step,
        };
    }
    match Piece::read_v4(frame, &link) {
        Some(piece) => judge_piece(frame, tables, &link, &piece),
        None => Step::Done(Verdict::Pass(Pass::Unreadable)),
    }
}

#[inline(always)]
fn judge_piece<F: Frame, T: Tables>(frame: &F, tables: &T, link: &Link, piece: &Piece) -> Step {
    let drop = |reason| Step::Done(Verdict::Drop(reason));
    if tables.vip(piece.key.destination).is_none() {
        return Step::Done(Verdict::Pass(Pass::Fragment));
    }
    // A flooded frame is not remembered either.
    if !is_ours(frame, tables, link.destination) {
        return Step::Done(Verdict::Pass(Pass::OtherHost));
    }
    if !piece.has_ports() {
        return drop(Drop::Fragment);
    }
    if !piece.length_holds(frame) {
        return drop(Drop::BadLength);
    }
    let Some(control) = tables.control() else {
        return Step::Done(Verdict::Pass(Pass::NoTable));
    };
    let mut segment = piece.segment();
    let later = piece.offset != 0;
    if later {
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
        segment.flow.ports = first.ports;
    } else {
        if !piece.read_transport(frame, &mut segment) {
            return drop(Drop::TinyFragment);
        }
        let end = (piece.length() / 8) as u16;
        let ports = segment.flow.ports;
        tables.set_fragment(&piece.key, FirstFragment { ports, end, seen: control.epoch as u16 });
    }
    balance(frame, tables, link, &segment, &Fragmented { later })
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

    /// RFC 8200 section 4.5. What is none, or cannot be found, is told by the step.
    #[inline(always)]
    fn read_v6<F: Frame>(frame: &F, link: &Link) -> Result<Self, Step> {
        let Some(head) = frame.read::<IPV6_HEADER>(link.l3) else {
            return Err(Step::Done(Verdict::Pass(Pass::Unreadable)));
        };
        let inside = link.l3 + IPV6_HEADER;
        let (header, at) = match parse::walk(frame, u8_at::<6, 40>(&head), inside) {
            Walked::Fragment { header, at } => (header, at),
            // A whole packet all the same (RFC 6946).
            Walked::Transport { .. } => return Err(Step::Then(Program::Transition)),
            Walked::Lost(reason) => return Err(Step::Done(Verdict::Pass(reason))),
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

    /// What a first one's transport header tells; whether all of that is there.
    #[inline(always)]
    fn read_transport<F: Frame>(&self, frame: &F, segment: &mut Segment) -> bool {
        if self.is_tcp() {
            let Some(head) = frame.read::<20>(self.at) else { return false };
            segment.flow.ports = u32::from_le_bytes(field::<0, 4, 20>(&head));
            segment.claimed = usize::from(u8_at::<12, 20>(&head) >> 4) * 4;
            segment.least = 20;
            segment.tcp_flags = u8_at::<13, 20>(&head);
            self.length() >= segment.least && self.length() >= segment.claimed
        } else {
            let Some(head) = frame.read::<8>(self.at) else { return false };
            segment.flow.ports = u32::from_le_bytes(field::<0, 4, 8>(&head));
            // The datagram's, of which a part is here.
            segment.claimed = usize::from(be16_at::<4, 8>(&head)).min(self.length());
            segment.least = 8;
            self.length() >= segment.least
        }
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

    /// Of TCP, one in the middle of its connection.
    #[inline(always)]
    const fn segment(&self) -> Segment {
        let flow = Flow {
            source: self.key.source,
            destination: self.key.destination,
            ports: 0,
            protocol: self.key.protocol as u8,
        };
        let (l4, end, tcp_flags) = (self.at, self.end, tcp_flag::ACK);
        Segment { flow, l4, end, claimed: 0, least: 0, tcp_flags }
    }
}

/// By what is remembered of the flow. QUIC is never fragmented (RFC 9000 section 14), and what says
/// it is goes by its slot: later fragments do not have the server's id.
struct Fragmented {
    later: bool,
}

impl Choice for Fragmented {
    const LET_IN: LetIn = LetIn::Here;
    // Who is told of the size that fits has to know its packet by the ports.
    const UNFIT: Option<Step> = Some(Step::Done(Verdict::Drop(Drop::TooBig)));
    const WHOLE: bool = false;

    #[inline(always)]
    fn choose<F: Frame, T: Tables>(
        &self,
        frame: &F,
        tables: &T,
        control: &Control,
        service: &Service,
        slot: Slot,
        segment: &Segment,
    ) -> Result<u32, Program> {
        if service.flags & SERVICE_QUIC != 0 {
            return Ok(slot.current());
        }
        Remembered.choose(frame, tables, control, service, slot, segment)
    }

    /// A later one of QUIC was counted with its first; another one is known by the pin that its first
    /// has made.
    #[inline(always)]
    fn begins<F: Frame, T: Tables>(
        &self,
        frame: &F,
        tables: &T,
        service: &Service,
        segment: &Segment,
    ) -> bool {
        let counted = self.later && service.flags & SERVICE_QUIC != 0;
        !counted && Remembered.begins(frame, tables, service, segment)
    }
}
