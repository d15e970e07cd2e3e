//! What is remembered of flows, and of fragments.

use crate::address::Address;

/// A flow of a service, by its five-tuple as it stands in the packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// Where it comes from.
    pub source: Address,
    /// Where it goes to.
    pub destination: Address,
    /// Both ports: see [`Flow::ports`](crate::Flow::ports).
    pub ports: u32,
    /// Bits 0..8: IP protocol number. Bits 8..32: id of the service, whose numbers are what a pin
    /// tells: where a listener moves to another service, its flows there are not known.
    pub protocol_and_service: u32,
}

impl FlowKey {
    /// IP protocol number.
    pub const fn protocol(&self) -> u8 {
        self.protocol_and_service as u8
    }

    /// The service's id.
    pub const fn service(&self) -> u32 {
        self.protocol_and_service >> 8
    }
}

/// The backend of a flow that its slot alone does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Pin {
    /// Its number in the service.
    pub backend: u16,
    /// [`PIN_CLOSING`], [`PIN_CLOSED`].
    pub flags: u16,
    /// [`Control::epoch`](super::Control::epoch), its low half, when the flow was last heard of.
    pub seen: u32,
}

/// In [`Pin::flags`]: the client has sent FIN or RST.
pub const PIN_CLOSING: u16 = 1;
/// In [`Pin::flags`], besides: it was RST.
pub const PIN_CLOSED: u16 = 2;

/// A packet that comes in fragments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FragmentKey {
    /// Where it comes from.
    pub source: Address,
    /// Where it goes to.
    pub destination: Address,
    /// What its sender tells its packets apart by: of IPv4 16 bits.
    pub identification: u32,
    /// IP protocol number.
    pub protocol: u32,
}

/// What a packet's first fragment says about the others, which do not tell their ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FirstFragment {
    /// Both ports: see [`Flow::ports`](crate::Flow::ports).
    pub ports: u32,
    /// Where it ends in the packet, in units of eight bytes; [`FRAGMENTS_OVERLAP`].
    pub end: u16,
    /// [`Control::epoch`](super::Control::epoch), its lowest bits, when it came.
    pub seen: u16,
}

/// In [`FirstFragment::end`]: a later one began before the first one's end, and none of them is let
/// through any more.
pub const FRAGMENTS_OVERLAP: u16 = u16::MAX;
