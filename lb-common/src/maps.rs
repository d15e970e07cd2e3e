//! The map schema: every name, capacity, key and value that the BPF program and userspace
//! share. Nothing about a map's layout is said anywhere else.
//!
//! Values hold integers and byte arrays only, with explicit zeroed padding: any bytes are a
//! valid value. Multi-byte integers are in host order unless a field says otherwise. Vacant
//! entries are all zeros, which is what the kernel hands out, so number 0 is never valid.
//!
//! | map | kind | key | value | written by |
//! |---|---|---|---|---|
//! | `CONTROL` | array, mmap | 0 | [`Control`] | userspace, word by word |
//! | `SERVICES` | array, mmap | bucket | [`Service`] | userspace, the idle bank only |
//! | `SLOTS` | array, mmap | line | [`SlotLine`] | userspace, slot by slot |
//! | `BACKENDS` | array, mmap | line | [`Backend`] | userspace, word by word |
//! | `LEASES` | array, mmap | lease | [`Lease`] | userspace, renewed |
//! | `VIPS` | hash | [`Address`] | [`Vip`] | userspace |
//! | `INTERFACES` | hash | ifindex | [`Interface`] | userspace |
//! | `PINS_CURRENT` | LRU hash | [`FlowKey`] | [`Pin`] | the program; userspace ages them |
//! | `PINS_BASE` | LRU hash | [`FlowKey`] | [`Pin`] | the program; userspace ages them |
//! | `HALF_OPEN` | LRU hash | [`FlowKey`] | [`Pin`] | the program |
//! | `FRAGMENTS` | LRU hash | [`FragmentKey`] | [`FirstFragment`] | the program |
//! | `OPEN_FLOWS` | array, mmap | line | `u64` | the program; userspace corrects it |
//! | `TURNS` | per-CPU array | service id | `u64` | the program |
//! | `LIMITS` | array, mmap | service id | [`Limits`] | userspace, word by word |
//! | `BUCKETS` | array | service id | `u64`, see [`Limits`] | the program |
//! | `SOURCES` | LRU hash | [`SourceKey`] | `u64`, see [`Limits`] | the program |
//! | `RULES` | LPM trie | [`RuleKey`] | [`RULE_ALLOW`], [`RULE_DENY`] | userspace |
//! | `SERVER_IDS` | hash | [`ServerKey`] | backend number | userspace |
//! | `BACKEND_COUNTERS` | per-CPU array | line | [`Counter`] | the program |
//! | `VERDICTS` | per-CPU array | [`Verdict::index`](crate::Verdict::index) | [`Counter`] | the program |
//! | `PROGRAMS` | program array | [`Program`](crate::Program) | program | userspace, at load |

use crate::address::Address;

mod backend;
mod flow;
mod guard;
mod service;

pub use backend::{
    BACKEND_IN_USE, BACKEND_OPEN, BACKEND_RESET, BACKEND_RESOLVED, BACKEND_SERVING, BACKEND_STATE,
    Backend, SHARE,
};
pub use flow::{
    FRAGMENTS_OVERLAP, FirstFragment, FlowKey, FragmentKey, PIN_CLOSED, PIN_CLOSING, Pin,
};
pub use guard::{
    LIMITS_ADMIT, LIMITS_RULES, Limits, RULE_ALLOW, RULE_DENY, RULE_SERVICE_BITS, RuleKey,
    ServerKey, SourceKey,
};
pub use service::{
    SERVICE_BY_CLIENT, SERVICE_CHOOSES, SERVICE_GUARDED, SERVICE_GUE, SERVICE_IPIP,
    SERVICE_LEAST_CONN, SERVICE_QUIC, SERVICE_REJECT, SERVICE_ROUND_ROBIN, SERVICE_TUNNEL, Service,
    ServiceKey,
};

/// Version of everything in this module. It is part of the pins' path: a daemon never adopts
/// maps of another layout.
pub const SCHEMA_VERSION: u32 = 3;

/// Older versions whose maps a daemon takes over, as a copy. They may differ from ours in two
/// things only: maps that they did not have yet ([`names::ADDED`]), which are empty in the copy,
/// and fields that were zero in them, where zero still means what it meant, or is filled in by the
/// copy ([`FlowKey::service`]). Names, sizes of keys and values and the numbers in them are the same.
pub const READABLE_SCHEMAS: &[u32] = &[2];

/// Names of the maps, as the object file and the pins spell them.
pub mod names {
    /// See [`super::Control`].
    pub const CONTROL: &str = "CONTROL";
    /// See [`super::Service`].
    pub const SERVICES: &str = "SERVICES";
    /// See [`super::SlotLine`].
    pub const SLOTS: &str = "SLOTS";
    /// See [`super::Backend`].
    pub const BACKENDS: &str = "BACKENDS";
    /// See [`super::Lease`].
    pub const LEASES: &str = "LEASES";
    /// See [`super::Vip`].
    pub const VIPS: &str = "VIPS";
    /// See [`super::Interface`].
    pub const INTERFACES: &str = "INTERFACES";
    /// Flows that began after a slot's latest change. See [`super::Pin`].
    pub const PINS_CURRENT: &str = "PINS_CURRENT";
    /// Flows from before a slot's latest changes. See [`super::Pin`].
    pub const PINS_BASE: &str = "PINS_BASE";
    /// Connections of which a SYN was seen and nothing more. See [`super::Pin`].
    pub const HALF_OPEN: &str = "HALF_OPEN";
    /// First fragments of packets, which tell whose the later ones are. See [`super::FirstFragment`].
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// Open flows of each backend line, in services that choose by them.
    pub const OPEN_FLOWS: &str = "OPEN_FLOWS";
    /// How often each service has taken a turn.
    pub const TURNS: &str = "TURNS";
    /// See [`super::Limits`].
    pub const LIMITS: &str = "LIMITS";
    /// The buckets of services' limits.
    pub const BUCKETS: &str = "BUCKETS";
    /// The buckets of sources' limits. See [`super::SourceKey`].
    pub const SOURCES: &str = "SOURCES";
    /// Who may come in. See [`super::RuleKey`].
    pub const RULES: &str = "RULES";
    /// See [`super::ServerKey`].
    pub const SERVER_IDS: &str = "SERVER_IDS";
    /// Packets and bytes per backend line.
    pub const BACKEND_COUNTERS: &str = "BACKEND_COUNTERS";
    /// Packets and bytes per verdict that does not name a backend.
    pub const VERDICTS: &str = "VERDICTS";
    /// The tail-called programs.
    pub const PROGRAMS: &str = "PROGRAMS";
    /// All maps that are pinned, in the order they are created.
    pub const PINNED: [&str; 21] = [
        CONTROL,
        SERVICES,
        SLOTS,
        BACKENDS,
        LEASES,
        VIPS,
        INTERFACES,
        PINS_CURRENT,
        PINS_BASE,
        HALF_OPEN,
        FRAGMENTS,
        OPEN_FLOWS,
        TURNS,
        LIMITS,
        BUCKETS,
        SOURCES,
        RULES,
        SERVER_IDS,
        BACKEND_COUNTERS,
        VERDICTS,
        PROGRAMS,
    ];
    /// Those of them that not all of [`READABLE_SCHEMAS`](super::READABLE_SCHEMAS) had, and the
    /// version that brought each.
    pub const ADDED: &[(&str, u32)] = &[
        (FRAGMENTS, 3),
        (OPEN_FLOWS, 3),
        (TURNS, 3),
        (LIMITS, 3),
        (BUCKETS, 3),
        (SOURCES, 3),
        (RULES, 3),
        (SERVER_IDS, 3),
    ];

    /// The maps that a version of the schema had.
    pub fn of(schema: u32) -> impl Iterator<Item = &'static str> {
        let brought = |name: &str| ADDED.iter().find(|(added, _)| *added == name);
        PINNED.into_iter().filter(move |name| brought(name).is_none_or(|(_, by)| *by <= schema))
    }
}

/// Buckets of one bank of the service table; a power of two.
pub const SERVICE_BUCKETS: u32 = 16_384;
/// Listeners (VIP, port, protocol) that may exist at once: a quarter of the buckets, so that
/// a seed without long probes is quickly found.
pub const MAX_LISTENERS: u32 = SERVICE_BUCKETS / 4;
/// Services that there may be at once: one for each listener, and as many that are on their way
/// out. Their numbers are below this.
pub const MAX_SERVICES: u32 = 2 * MAX_LISTENERS;
/// The number that no service has: under it stand the limits of ICMP errors that are made here.
pub const NO_SERVICE: u32 = 0;
/// Buckets that a look-up may visit.
pub const SERVICE_PROBES: u32 = 4;
/// Slots in one array value.
pub const SLOTS_PER_LINE: u32 = 16;
/// Slot lines in the object file; userspace sets the real number when it loads the program.
pub const DEFAULT_SLOT_LINES: u32 = 65_552;
/// Backend lines in the object file; userspace sets the real number when it loads the program.
pub const DEFAULT_BACKEND_LINES: u32 = 4_096;
/// Backends that one service can tell apart (15 bits, number 0 is "none").
pub const MAX_BACKENDS_PER_SERVICE: u32 = 0x7fff;
/// Pins of either kind in the object file; userspace sets the real number when it loads the
/// program.
pub const DEFAULT_PINS: u32 = 65_536;
/// Half-open records in the object file; userspace sets the real number likewise.
pub const DEFAULT_HALF_OPEN: u32 = 16_384;
/// Packets of which the first fragment is remembered: those whose fragments are under way at once.
pub const MAX_FRAGMENTS: u32 = 4_096;
/// Sources with buckets in the object file; userspace sets the real number likewise.
pub const DEFAULT_SOURCES: u32 = 1_024;
/// Prefixes in `RULES`, of all services.
pub const MAX_RULES: u32 = 65_536;
/// Server ids in `SERVER_IDS`, of all services.
pub const MAX_SERVER_IDS: u32 = 65_536;
/// VIPs that can be answered for.
pub const MAX_VIPS: u32 = 4_096;
/// Leases: one for each group of VIPs that moves together.
pub const MAX_LEASES: u32 = 256;
/// Network interfaces that the program may be attached to.
pub const MAX_INTERFACES: u32 = 64;
/// Entries of `INTERFACES`: a new one is written before its predecessor is removed.
pub const INTERFACE_ENTRIES: u32 = 2 * MAX_INTERFACES;
/// Entries of the per-CPU verdict counters; more than there are verdicts.
pub const VERDICT_COUNTERS: u32 = 64;
/// Entries of the program array; more than there are programs.
pub const MAX_PROGRAMS: u32 = 8;

/// The maps of the backends' own program ([`decap`](crate::decap)), which has an object of its own.
///
/// | map | kind | key | value | written by |
/// |---|---|---|---|---|
/// | `ALLOWED` | LPM trie | [`Address`] | [`ALLOW`](decap::ALLOW), [`REFUSE`](decap::REFUSE) | userspace, once |
/// | `OUTCOMES` | per-CPU array | [`Outcome::index`](crate::decap::Outcome::index) | [`Counter`] | the program |
pub mod decap {
    /// Version of what is pinned: part of the pins' path.
    pub const SCHEMA_VERSION: u32 = 1;
    /// Where tunnels may come from. IPv4 is IPv4-mapped, as everywhere.
    pub const ALLOWED: &str = "ALLOWED";
    /// Packets and bytes of each outcome.
    pub const OUTCOMES: &str = "OUTCOMES";
    /// Prefixes that tunnels may come from.
    pub const MAX_PREFIXES: u32 = 1_000;
    /// Entries of `ALLOWED`: one more, which keeps IPv4 out of IPv6's prefixes.
    pub const ALLOWED_ENTRIES: u32 = MAX_PREFIXES + 1;
    /// Entries of the counters; more than there are outcomes.
    pub const COUNTERS: u32 = 32;
    /// In `ALLOWED`: tunnels may come from there.
    pub const ALLOW: u32 = 1;
    /// In `ALLOWED`: they may not.
    pub const REFUSE: u32 = 2;
}

/// The one value that steers all look-ups. Each word is read and written in one access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Control {
    /// Bit 0: the bank of `SERVICES` that is live. Bits 1..64: seed of the bucket hash. One
    /// word, so that a bank and the seed it was filled with change together.
    pub services: u64,
    /// Secret of the flow hash: the same on both nodes of a pair and across restarts.
    pub hash_key: [u64; 2],
    /// Seconds that userspace has counted; what pins are dated with. Stands still while no
    /// daemon runs, so that nothing grows old unseen.
    pub epoch: u64,
    /// Zero.
    pub reserved: [u64; 4],
}

/// What programs can do that not every configuration needs: rules and limits.
pub const FEATURE_GUARDS: u32 = 1;
/// What programs can do that not every configuration needs: tunnels to backends.
pub const FEATURE_TUNNELS: u32 = 2;

/// Sixteen slots, a cache line. The kernel pads array values to eight bytes: a lone slot would
/// take twice its size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct SlotLine {
    /// Raw [`Slot`](crate::slot::Slot)s.
    pub slots: [u32; SLOTS_PER_LINE as usize],
}

/// Until when this node may answer for the VIPs that refer to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Lease {
    /// `CLOCK_MONOTONIC` nanoseconds, what `bpf_ktime_get_ns` returns.
    pub deadline: u64,
}

/// An address that this node answers for while its lease is valid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Vip {
    /// Bytes 0..6: the MAC to answer with, zero for that of the interface asked. Bytes 6..8: zero.
    pub mac: u64,
    /// Index in `LEASES`.
    pub lease: u32,
    /// Zero.
    pub flags: u32,
}

/// An interface that the program is attached to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Interface {
    /// Bytes 0..6: its own MAC. Bytes 6..8: zero.
    pub mac: u64,
}

/// Packets and bytes; bytes as the frame came in, without its checksum; of a frame in several
/// buffers, those in the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counter {
    /// Frames.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

const _: () = {
    assert!(size_of::<Control>() == 64);
    assert!(size_of::<Service>() == 64 && align_of::<Service>() == 8);
    assert!(size_of::<SlotLine>() == 64);
    assert!(size_of::<Backend>() == 64);
    assert!(size_of::<FlowKey>() == 40);
    assert!(size_of::<Pin>() == 8);
    assert!(size_of::<FragmentKey>() == 40);
    assert!(size_of::<FirstFragment>() == 8);
    assert!(size_of::<Limits>() == 40);
    assert!(size_of::<SourceKey>() == 24);
    assert!(size_of::<RuleKey>() == 20);
    assert!(size_of::<ServerKey>() == 8);
    assert!(size_of::<Lease>() == 8);
    assert!(size_of::<Vip>() == 16);
    assert!(size_of::<Interface>() == 8);
    assert!(size_of::<Counter>() == 16);
    assert!(size_of::<Address>() == 16 && align_of::<Address>() == 8);
    assert!(SERVICE_BUCKETS.is_power_of_two());
};

#[cfg(feature = "user")]
mod pod {
    use super::{
        Backend, Control, Counter, FirstFragment, FlowKey, FragmentKey, Interface, Lease, Limits,
        Pin, RuleKey, ServerKey, Service, SlotLine, SourceKey, Vip,
    };
    use crate::address::Address;

    macro_rules! pod {
        ($($name:ty),*) => { $(
            // SAFETY: `repr(C)`, integers only, padding explicit (the sizes are asserted above).
            unsafe impl aya::Pod for $name {}
        )* };
    }
    pod!(
        Address,
        Backend,
        Control,
        Counter,
        FirstFragment,
        FlowKey,
        FragmentKey,
        Interface,
        Lease,
        Limits,
        Pin,
        RuleKey,
        ServerKey,
        Service,
        SlotLine,
        SourceKey,
        Vip
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_schemas_have_the_maps_that_their_daemons_pinned() {
        // A map that is new in PINNED belongs into ADDED as well.
        assert_eq!(names::of(2).count(), 13);
        assert_eq!(names::of(SCHEMA_VERSION).count(), names::PINNED.len());
        assert!(READABLE_SCHEMAS.iter().all(|older| *older < SCHEMA_VERSION));
    }
}
