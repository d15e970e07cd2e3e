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
/// | `ALLOWED` | LPM trie | [`Address`](super::Address) | [`ALLOW`], [`REFUSE`] | userspace, once |
/// | `OUTCOMES` | per-CPU array | [`Outcome::index`](crate::decap::Outcome::index) | [`Counter`](super::Counter) | the program |
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

/// What programs can do that not every configuration needs: rules and limits.
pub const FEATURE_GUARDS: u32 = 1;
/// What programs can do that not every configuration needs: tunnels to backends.
pub const FEATURE_TUNNELS: u32 = 2;

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

/// Sixteen slots, a cache line. The kernel pads array values to eight bytes: a lone slot would
/// take twice its size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct SlotLine {
    /// Raw [`Slot`](crate::slot::Slot)s.
    pub slots: [u32; SLOTS_PER_LINE as usize],
}

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
    /// [`Control::epoch`], its low half, when the flow was last heard of.
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
    /// [`Control::epoch`], its lowest bits, when it came.
    pub seen: u16,
}

/// In [`FirstFragment::end`]: a later one began before the first one's end, and none of them is let
/// through any more.
pub const FRAGMENTS_OVERLAP: u16 = u16::MAX;

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
