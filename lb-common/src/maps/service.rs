//! A service's listeners, and what they are found by.

use super::SERVICE_BUCKETS;
use crate::address::Address;

/// A listener: one address, port and protocol of a service, and where its slots and backends
/// are. A service with several listeners has an entry for each, alike but for the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Service {
    /// Where packets are sent to.
    pub vip: Address,
    /// Port and protocol: see [`ServiceKey::port_and_protocol`].
    pub port_and_protocol: u32,
    /// Service number, from 1; 0 marks a vacant bucket.
    pub id: u32,
    /// First slot, counted in slots from the start of `SLOTS`; a multiple of 16.
    pub slot_base: u32,
    /// Number of slots, a prime.
    pub slot_count: u32,
    /// Line of backend number 0 (which never exists): number `n` is line `backend_base + n`.
    pub backend_base: u32,
    /// Lines that belong to the service, number 0 included.
    pub backend_lines: u32,
    /// `SERVICE_...`.
    pub flags: u32,
    /// Hash of the service's name, low word first: by it a daemon knows its services again. Not
    /// read by the program.
    pub name: [u32; 2],
    /// Slots, from the first, that are gone through in turn by [`SERVICE_ROUND_ROBIN`] and
    /// [`SERVICE_LEAST_CONN`]; 0 while there is no backend.
    pub lap: u32,
    /// Longest IP packet that fits into the tunnel to any of its backends, in bytes, where packets
    /// are encapsulated.
    pub fits: u32,
    /// Zero.
    pub reserved: u32,
}

/// In [`Service::flags`]: a flow for which there is no backend is refused at once (TCP RST, ICMP
/// port unreachable) instead of dropped.
pub const SERVICE_REJECT: u32 = 1;
/// In [`Service::flags`]: flows are told apart by their source address alone.
pub const SERVICE_BY_CLIENT: u32 = 2;

/// In [`Service::flags`]: new flows are given to the slots of the [lap](Service::lap) in turn, and
/// every flow is remembered.
pub const SERVICE_ROUND_ROBIN: u32 = 4;
/// In [`Service::flags`]: new flows go to the backend with the fewest open ones for its weight, and
/// every flow is remembered. The lap names each backend once.
pub const SERVICE_LEAST_CONN: u32 = 8;
/// The flags of services that choose a backend by other things than the flow's hash.
pub const SERVICE_CHOOSES: u32 = SERVICE_ROUND_ROBIN | SERVICE_LEAST_CONN;
/// In [`Service::flags`]: datagrams are QUIC's, and go by their connection ids where these name a
/// server.
pub const SERVICE_QUIC: u32 = 16;
/// In [`Service::flags`]: `LIMITS` and `RULES` have something to say.
pub const SERVICE_GUARDED: u32 = 32;
/// In [`Service::flags`]: packets go to backends in IP (see [`tunnel`](crate::tunnel)).
pub const SERVICE_IPIP: u32 = 64;
/// In [`Service::flags`]: packets go to backends in GUE.
pub const SERVICE_GUE: u32 = 128;
/// The flags of services whose packets are encapsulated.
pub const SERVICE_TUNNEL: u32 = SERVICE_IPIP | SERVICE_GUE;

/// What a service is looked up by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// Destination address.
    pub vip: Address,
    /// The destination port's two bytes in network order in the low half, read as a
    /// little-endian number (0: any port), the IP protocol number in bits 16..24.
    pub port_and_protocol: u32,
}

impl ServiceKey {
    /// Key of a listener; `port` in host order, 0 for any.
    pub const fn new(vip: Address, port: u16, protocol: u8) -> Self {
        Self { vip, port_and_protocol: (protocol as u32) << 16 | port.swap_bytes() as u32 }
    }

    /// The same address and protocol, any port.
    #[inline(always)]
    pub const fn any_port(self) -> Self {
        Self { vip: self.vip, port_and_protocol: self.port_and_protocol & 0xff_0000 }
    }

    /// Port in host order, 0 for any.
    pub const fn port(self) -> u16 {
        (self.port_and_protocol as u16).swap_bytes()
    }

    /// IP protocol number.
    pub const fn protocol(self) -> u8 {
        (self.port_and_protocol >> 16) as u8
    }

    /// First bucket to look at, for a bank filled with `seed`.
    #[inline(always)]
    pub const fn bucket(self, seed: u64) -> u32 {
        let [high, low] = self.vip.0;
        // One multiply by a constant apart from the seeded one: else addresses and ports that
        // differ by equal amounts would collide under every seed.
        let word = low ^ high.rotate_left(32) ^ (self.port_and_protocol as u64).wrapping_mul(MIX);
        (word.wrapping_mul(seed | 1) >> (64 - SERVICE_BUCKETS.trailing_zeros())) as u32
    }
}

const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

impl Service {
    /// What the entry is found by.
    #[inline(always)]
    pub const fn key(&self) -> ServiceKey {
        ServiceKey { vip: self.vip, port_and_protocol: self.port_and_protocol }
    }
}
