//! Telling a sender that its packet does not fit into the tunnel to its backend: ICMP "fragmentation
//! needed" (RFC 1191), ICMPv6 "packet too big" (RFC 4443 section 3.2), with the size that fits. The
//! frame becomes the answer and goes back where it came from.
//!
//! Nothing is fragmented here: IPv4 senders that allow it are told too, and hosts that have been
//! told keep to it.

use crate::frame::Frame;
use crate::guard::take;
use crate::judge::service_of;
use crate::maps::NO_SERVICE;
use crate::parse::{self, Content, ether_type};
use crate::refuse::{error_v4, error_v6};
use crate::tables::{Tables, is_ours};
use crate::verdict::{Answer, Drop, Pass, Verdict};

/// Answers a packet that does not fit.
#[inline(always)]
pub fn too_big<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Verdict {
    let Some(link) = parse::link(frame) else { return Verdict::Pass(Pass::Unreadable) };
    // Extension headers are not walked again.
    let Content::Segment(segment) = parse::content(frame, &link) else {
        return Verdict::Drop(Drop::TooBig);
    };
    if !is_ours(frame, tables, link.destination) {
        return Verdict::Pass(Pass::OtherHost);
    }
    let Some(control) = tables.control() else { return Verdict::Pass(Pass::NoTable) };
    let Some(service) = service_of(tables, &control, &segment.flow) else {
        return Verdict::Pass(Pass::NoService);
    };
    if !segment.flow.source.is_one_host() || !may_answer(tables) {
        return Verdict::Drop(Drop::TooBig);
    }
    let size = service.fits.to_be_bytes();
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

/// Answers are limited (RFC 4443 section 2.4 (f)): whom forged packets are blamed on is left alone,
/// and a host that is not told loses a few packets more.
#[inline(always)]
fn may_answer<T: Tables>(tables: &T) -> bool {
    let Some(limits) = tables.limits(NO_SERVICE) else { return false };
    if limits.interval == 0 {
        return true;
    }
    let held = tables.bucket(NO_SERVICE);
    match take(held, tables.now(), limits.interval, limits.tolerance) {
        Some(bucket) => {
            tables.set_bucket(NO_SERVICE, bucket);
            true
        }
        None => false,
    }
}
