//! What is written into a frame, by forwarding mode.

use crate::address::Mac;
use crate::bytes::put;
use crate::frame::Frame;
use crate::parse;
use crate::tunnel::encapsulate;
use crate::verdict::{Drop, Route, Verdict};

/// Makes the frame what its verdict says; the verdict may change if that is impossible.
#[inline(always)]
pub fn apply<F: Frame>(frame: &mut F, verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Forward(route) => match forward(frame, &route) {
            Some(()) => verdict,
            None => Verdict::Drop(Drop::NoRoom),
        },
        Verdict::Pass(_) | Verdict::Drop(_) | Verdict::Answer(_) => verdict,
    }
}

#[inline(always)]
fn forward<F: Frame>(frame: &mut F, route: &Route) -> Option<()> {
    if let Some(tunnel) = &route.tunnel {
        encapsulate(frame, &parse::link(frame)?, tunnel)?;
    }
    l2(frame, route)
}

/// Direct server return on one segment: to the backend's MAC, from our own. With the client's
/// MAC left in place, switches would learn that the client is behind our port.
#[inline(always)]
fn l2<F: Frame>(frame: &mut F, route: &Route) -> Option<()> {
    frame.write(0, macs(route.next_hop, route.source))
}

/// The twelve address bytes of an Ethernet header.
#[inline(always)]
pub fn macs(destination: Mac, source: Mac) -> [u8; 12] {
    let mut bytes = [0; 12];
    put::<0, 8, 12>(&mut bytes, (destination.word() | source.word() << 48).to_le_bytes());
    put::<8, 4, 12>(&mut bytes, ((source.word() >> 16) as u32).to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_stand_in_transmission_order() {
        let bytes = macs(Mac::new([1, 2, 3, 4, 5, 6]), Mac::new([7, 8, 9, 10, 11, 12]));
        assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    }
}
