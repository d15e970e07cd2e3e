//! What services let in, and which servers QUIC packets name.

use crate::address::Address;

/// What a service lets in. A bucket is a moment on the clock of `bpf_ktime_get_ns` (the "theoretical
/// arrival time" of the generic cell rate algorithm, ITU-T I.371): each flow moves it on by an
/// interval, and none is let in while it is further ahead than the tolerance. One word is all the
/// state of a token bucket so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Limits {
    /// New flows of the service: nanoseconds between two of them, 0 for no limit.
    pub interval: u64,
    /// How far the bucket may be ahead, in nanoseconds: burst less one, times interval.
    pub tolerance: u64,
    /// The same for the flows of one source.
    pub source_interval: u64,
    /// The same for the flows of one source.
    pub source_tolerance: u64,
    /// [`LIMITS_RULES`], [`LIMITS_ADMIT`].
    pub flags: u64,
}

/// In [`Limits::flags`]: `RULES` has rules of the service.
pub const LIMITS_RULES: u64 = 1;
/// In [`Limits::flags`]: sources that no rule names may come in.
pub const LIMITS_ADMIT: u64 = 2;

/// A source with a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct SourceKey {
    /// The address, of IPv6 the first 64 bits: a host there has a whole such network to itself.
    pub source: Address,
    /// The service's id.
    pub service: u32,
    /// Zero.
    pub reserved: u32,
}

/// A prefix of source addresses that a rule of a service is about. In the trie the service's bits
/// come first, and always all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct RuleKey {
    /// The service's id.
    pub service: u32,
    /// The address's bytes in network order, IPv4 as IPv4-mapped, read as little-endian numbers.
    pub source: [u32; 4],
}

impl RuleKey {
    /// A source of a service.
    #[inline(always)]
    pub const fn new(service: u32, source: Address) -> Self {
        let [a, b] = source.0;
        Self { service, source: [a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32] }
    }
}

/// Bits of a [`RuleKey`] before the address.
pub const RULE_SERVICE_BITS: u32 = 32;
/// In `RULES`: may come in.
pub const RULE_ALLOW: u32 = 1;
/// In `RULES`: may not.
pub const RULE_DENY: u32 = 2;

/// A server id in QUIC connection ids, as [`quic`](crate::quic) reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct ServerKey {
    /// The service's id.
    pub service: u32,
    /// The server id.
    pub server: u32,
}
