//! The server that a QUIC packet names by its connection id: so that a connection stays with its
//! server when its client's address changes, and needs no record here.
//!
//! Servers make connection ids by the plaintext way of QUIC-LB (draft-ietf-quic-load-balancers,
//! sections 3 and 5.2), with configuration id 0, length self-description and server ids of two
//! bytes:
//!
//! ```text
//!  0   3       8                  24
//! +---+-------+-------------------+------------------------- ...
//! | 0 | len-1 |  server id        |  nonce, at least 4 bytes
//! +---+-------+-------------------+------------------------- ...
//! ```
//!
//! The connection id that a client makes for its first packets (Initial, 0-RTT) is random: it names
//! a server by accident only, and such packets go by their addresses and ports.

use crate::flow::protocol;
use crate::frame::Frame;
use crate::maps::{ServerKey, Service};
use crate::parse::Segment;
use crate::tables::Tables;

/// Bytes of a UDP header.
const UDP: usize = 8;
/// In a packet's first byte: its header is a long one (RFC 9000 section 17.2).
const LONG: u8 = 0x80;
/// Least length of a connection id that names a server: first byte, server id, nonce.
const LEAST: u8 = 7;

/// The number of the backend that a packet's connection id names.
#[inline(always)]
pub fn server<F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    service: &Service,
    segment: &Segment,
) -> Option<u32> {
    if segment.flow.protocol != protocol::UDP {
        return None;
    }
    let payload = segment.l4 + UDP;
    let first = u8::from_le_bytes(frame.read(payload)?);
    let id = if first & LONG != 0 {
        // First byte, version, length of the destination connection id.
        let length = u8::from_le_bytes(frame.read(payload + 5)?);
        let id: [u8; 3] = frame.read(payload + 6)?;
        // The length says itself there: what does not agree was made by a client.
        if length < LEAST || id[0] & 0x1f != length - 1 {
            return None;
        }
        id
    } else {
        frame.read::<3>(payload + 1)?
    };
    let [head, high, low] = id;
    if head & 0xe0 != 0 || (head & 0x1f) + 1 < LEAST {
        return None;
    }
    let server = (high as u32) << 8 | low as u32;
    tables.server(&ServerKey { service: service.id, server })
}
