//! Frames in fragments, as a host or a router would make them.

use alloc::vec::Vec;

use super::internet_sum;
use crate::flow::protocol;
use crate::parse::{IPV4_HEADER, IPV6_HEADER};

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// The fragments of an untagged IP packet without options or extension headers; they end at these
/// places of what is behind its IP header, and the last one where the packet does.
pub fn fragments(frame: &[u8], identification: u32, ends: &[usize]) -> Vec<Vec<u8>> {
    let is_v4 = frame[ETHERNET] >> 4 == 4;
    let header = ETHERNET + if is_v4 { IPV4_HEADER } else { IPV6_HEADER };
    let payload = &frame[header..];
    let starts = core::iter::once(0).chain(ends.iter().copied());
    let ends = ends.iter().copied().chain([payload.len()]);
    let parts = starts.zip(ends).map(|(start, end)| {
        let more = end < payload.len();
        let mut part = frame[..header].to_vec();
        if is_v4 {
            let flags = (start / 8) as u16 | u16::from(more) << 13;
            let length = (IPV4_HEADER + end - start) as u16;
            part[ETHERNET + 2..][..2].copy_from_slice(&length.to_be_bytes());
            part[ETHERNET + 4..][..2].copy_from_slice(&(identification as u16).to_be_bytes());
            part[ETHERNET + 6..][..2].copy_from_slice(&flags.to_be_bytes());
            part[ETHERNET + 10..][..2].fill(0);
            let sum = !internet_sum(&part[ETHERNET..]);
            part[ETHERNET + 10..][..2].copy_from_slice(&sum.to_be_bytes());
        } else {
            let length = (8 + end - start) as u16;
            part[ETHERNET + 4..][..2].copy_from_slice(&length.to_be_bytes());
            let next = core::mem::replace(&mut part[ETHERNET + 6], protocol::FRAGMENT);
            part.extend([next, 0]);
            part.extend((start as u16 | u16::from(more)).to_be_bytes());
            part.extend(identification.to_be_bytes());
        }
        part.extend(&payload[start..end]);
        part
    });
    parts.collect()
}
