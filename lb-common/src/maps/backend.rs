//! A backend's line.

use crate::address::Address;

/// A backend of one service: where its packets go. Shared by all CPUs and only read by the
/// program, so that userspace may change a live one; every word is written in one store, and
/// no decision needs two words of the same moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Backend {
    /// Bytes 0..6: MAC of the next hop. Bytes 6..8: flags, [`BACKEND_RESOLVED`],
    /// [`BACKEND_RESET`] and [`BACKEND_OPEN`].
    pub next_hop: u64,
    /// Bytes 0..6: MAC of our interface towards it. Bytes 6..8: zero.
    pub source: u64,
    /// The backend's own address.
    pub address: Address,
    /// Interface towards it.
    pub ifindex: u32,
    /// [`BACKEND_IN_USE`], [`BACKEND_SERVING`]. Read by userspace only: a restarted daemon
    /// finds here which backends it had and which of them served.
    pub flags: u32,
    /// Port in host order; 0 where it is the service's.
    pub port: u16,
    /// Its share of new flows relative to the others', in units of [`SHARE`] for each unit of
    /// weight; 0 where it does not matter.
    pub share: u16,
    /// Zero.
    pub reserved: [u16; 2],
    /// Our own address towards it, for tunnels; zero where it does not matter.
    pub local: Address,
}

/// In the upper bytes of [`Backend::next_hop`]: the MACs are known.
pub const BACKEND_RESOLVED: u64 = 1 << 48;
/// In the upper bytes of [`Backend::next_hop`]: the backend is gone, and flows that it still has
/// are reset.
pub const BACKEND_RESET: u64 = 2 << 48;
/// In the upper bytes of [`Backend::next_hop`]: it takes new flows.
pub const BACKEND_OPEN: u64 = 4 << 48;
/// What a unit of weight is in [`Backend::share`]: while a backend starts slowly it has fractions.
pub const SHARE: u16 = 60;
/// The bits of [`Backend::next_hop`] that decide about a packet.
pub const BACKEND_STATE: u64 = BACKEND_RESOLVED | BACKEND_RESET;
/// In [`Backend::flags`]: the line belongs to a backend.
pub const BACKEND_IN_USE: u32 = 1;
/// In [`Backend::flags`]: the backend was up when the line was written.
pub const BACKEND_SERVING: u32 = 2;
