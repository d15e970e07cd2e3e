//! Telling a sender that its packet does not fit into the tunnel to its backend: ICMP "fragmentation
//! needed" (RFC 1191), ICMPv6 "packet too big" (RFC 4443 section 3.2), with the size that fits. The
//! frame becomes the answer and goes back where it came from.
//!
//! Nothing is fragmented here: IPv4 senders that allow it are told too, and hosts that have been
//! told keep to it.

use crate::frame::Frame;
use crate::guard::take;
use crate::judge::judge_sized;
use crate::parse::{self, Content, ether_type};
use crate::refuse::{error_v4, error_v6};
use crate::rewrite::apply;
use crate::tables::Tables;
use crate::verdict::{Answer, Drop, Pass, Route, Step, Verdict};

/// The bucket of these answers: no service has this id.
const BUCKET: u32 = 0;
/// At most a thousand answers a second, and a burst of fifty: hosts that are not told again drop a
/// few more packets, and those that are flooded with forged ones are left alone (RFC 4443 section
/// 2.4 (f)).
const INTERVAL: u64 = 1_000_000;
const TOLERANCE: u64 = 49 * INTERVAL;

/// Answers a packet that does not fit. One that does after all goes on.
#[inline(always)]
pub fn too_big<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Verdict {
    let (verdict, tunnel) = match judge_sized(frame, tables) {
        Step::Done(Verdict::Forward(route @ Route { tunnel: Some(tunnel), .. })) => {
            (Verdict::Forward(route), tunnel)
        }
        Step::Done(verdict) => return apply(frame, verdict),
        Step::Then(_) => return Verdict::Pass(Pass::NoProgram),
    };
    let Some(link) = parse::link(frame) else { return Verdict::Pass(Pass::Unreadable) };
    // Extension headers are not walked again.
    let Content::Segment(segment) = parse::content(frame, &link) else {
        return Verdict::Drop(Drop::TooBig);
    };
    let fits = (tunnel.mtu as usize).saturating_sub(tunnel.overhead());
    if segment.end - link.l3 <= fits {
        return apply(frame, verdict);
    }
    if !segment.flow.source.is_one_host() || !may_answer(tables) {
        return Verdict::Drop(Drop::TooBig);
    }
    let size = (fits as u32).to_be_bytes();
    let answered = if link.ether_type == ether_type::IPV4 {
        // Quoted is a header without options.
        if segment.l4 != link.l3 + parse::IPV4_HEADER {
            return Verdict::Drop(Drop::TooBig);
        }
        error_v4(frame, &link, &segment, [3, 4], size)
    } else {
        error_v6(frame, &link, &segment, [2, 0], size)
    };
    match answered {
        Some(()) => Verdict::Answer(Answer::TooBig),
        None => Verdict::Drop(Drop::NoRoom),
    }
}

#[inline(always)]
fn may_answer<T: Tables>(tables: &T) -> bool {
    match take(tables.bucket(BUCKET), tables.now(), INTERVAL, TOLERANCE) {
        Some(bucket) => {
            tables.set_bucket(BUCKET, bucket);
            true
        }
        None => false,
    }
}
