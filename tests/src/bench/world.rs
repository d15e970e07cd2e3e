//! The balanced service of the benchmarks: a hundred backends behind one VIP of each family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::builder::{BALANCER_MAC, Packet, tcp_flag};
use lb_common::cases::INGRESS;
use lb_common::flow::protocol;
use lb_common::maps::{
    BACKEND_IN_USE, BACKEND_OPEN, BACKEND_RESOLVED, BACKEND_SERVING, Backend, Interface,
    LIMITS_RULES, Limits, RULE_ALLOW, RULE_DENY, RULE_SERVICE_BITS, RuleKey, SERVICE_GUARDED,
    SERVICE_GUE, SERVICE_IPIP, SERVICE_LEAST_CONN, SERVICE_QUIC, SERVICE_ROUND_ROBIN, SHARE,
    ServerKey, Service, ServiceKey,
};
use lb_common::memory::MemoryTables;
use lb_common::slot::Slot;
use lb_common::{Address, Mac, bank};
use lb_userspace::maglev::{self, Member};

/// IP versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }

    /// Where the last four bytes of the source address stand in an untagged frame, and where the
    /// source port does.
    pub(super) fn offsets(self) -> (u32, u32) {
        match self {
            Self::Ipv4 => (26, 34),
            Self::Ipv6 => (34, 54),
        }
    }

    fn vip(self) -> IpAddr {
        match self {
            Self::Ipv4 => Ipv4Addr::new(192, 0, 2, 100).into(),
            Self::Ipv6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100).into(),
        }
    }

    fn client(self) -> IpAddr {
        match self {
            Self::Ipv4 => Ipv4Addr::new(198, 51, 0, 0).into(),
            Self::Ipv6 => Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0).into(),
        }
    }
}

/// Transport protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// What becomes of a case's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// They are of flows in steady slots.
    Steady,
    /// All slots are moving, and every flow is from before, and found by what is remembered of it.
    Pinned,
    /// All slots are moving, and every flow is heard of for the first time: it is remembered.
    Unpinned,
    /// SYNs of new flows, in steady slots.
    Flood,
    /// Of recorded flows of a service that gives them out in turn.
    Turns,
    /// SYNs of new flows to that service: each is given out, and recorded.
    TurnsFlood,
    /// SYNs of new flows to a service that gives them to the backend with the fewest.
    LeastFlood,
    /// QUIC packets whose connection id names a server.
    Quic,
    /// To a service with rules about sources.
    Guarded,
    /// SYNs to that service, which also limits new flows, its own and each source's.
    GuardedSyn,
    /// They go to their backend in IP.
    Ipip,
    /// They go to their backend in GUE.
    Gue,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Pinned => "pinned",
            Self::Unpinned => "unpinned",
            Self::Flood => "flood",
            Self::Turns => "turns",
            Self::TurnsFlood => "turns-flood",
            Self::LeastFlood => "least-flood",
            Self::Quic => "quic",
            Self::Guarded => "guarded",
            Self::GuardedSyn => "guarded-syn",
            Self::Ipip | Self::Gue => "steady",
        }
    }

    /// Whether packets are of flows that are new, so that maps of records fill up.
    pub(super) fn floods(self) -> bool {
        matches!(self, Self::Unpinned | Self::Flood | Self::TurnsFlood | Self::LeastFlood)
    }

    /// Whether programs are needed that ask who may come in.
    pub(super) fn is_guarded(self) -> bool {
        matches!(self, Self::Guarded | Self::GuardedSyn)
    }

    /// Whether its flows begin by a SYN that has been seen.
    pub(super) fn is_recorded(self) -> bool {
        self == Self::Turns
    }

    /// Bytes that are put in front of packets: backends have IPv4 addresses.
    pub(super) fn overhead(self) -> usize {
        match self {
            Self::Ipip => 20,
            Self::Gue => 28,
            _ => 0,
        }
    }

    /// The forwarding mode.
    pub(super) fn forward(self) -> &'static str {
        match self {
            Self::Ipip => "ipip",
            Self::Gue => "gue",
            _ => "l2",
        }
    }

    fn sends_syn(self) -> bool {
        matches!(self, Self::Flood | Self::TurnsFlood | Self::LeastFlood | Self::GuardedSyn)
    }

    fn service(self) -> &'static Listening {
        let name = match self {
            Self::Steady | Self::Flood => 0,
            Self::Pinned | Self::Unpinned => 1,
            Self::Turns | Self::TurnsFlood => 2,
            Self::LeastFlood => 3,
            Self::Quic => 4,
            Self::Guarded | Self::GuardedSyn => 5,
            Self::Ipip => 6,
            Self::Gue => 7,
        };
        &SERVICES[name]
    }
}

/// One of the services.
struct Listening {
    port: u16,
    id: u32,
    /// Which of the regions of slots is its.
    region: u32,
    flags: u32,
    lap: u32,
}

const SERVICES: [Listening; 8] = [
    Listening { port: 443, id: 1, region: STEADY, flags: 0, lap: 0 },
    Listening { port: 444, id: 2, region: MOVING, flags: 0, lap: 0 },
    Listening { port: 445, id: 3, region: WATCHED, flags: SERVICE_ROUND_ROBIN, lap: LAP },
    Listening { port: 446, id: 4, region: WATCHED, flags: SERVICE_LEAST_CONN, lap: LAP },
    Listening { port: 447, id: 5, region: WATCHED, flags: SERVICE_QUIC, lap: 0 },
    Listening { port: 448, id: GUARDED, region: STEADY, flags: SERVICE_GUARDED, lap: 0 },
    Listening { port: 449, id: 7, region: STEADY, flags: SERVICE_IPIP, lap: 0 },
    Listening { port: 450, id: 8, region: STEADY, flags: SERVICE_GUE, lap: 0 },
];

const STEADY: u32 = 0;
const MOVING: u32 = SLOTS.next_multiple_of(16);
/// A hundred in turn, all watched.
const WATCHED: u32 = 2 * MOVING;
const LAP: u32 = BACKENDS as u32;
const GUARDED: u32 = 6;
/// A server id of the service that goes by them.
const SERVER: u8 = 7;

const SLOTS: u32 = 65_537;
const BACKENDS: u16 = 100;

/// The frame that all flows of a case start from, of at least 60 bytes as on a wire.
pub(super) fn frame(family: Family, transport: Transport, kind: Kind) -> Vec<u8> {
    let flags = if kind.sends_syn() { tcp_flag::SYN } else { tcp_flag::ACK };
    packet(family, transport, kind).flags(flags).build()
}

/// The SYN that flows of a case began by.
pub(super) fn syn(family: Family, transport: Transport, kind: Kind) -> Vec<u8> {
    packet(family, transport, kind).flags(tcp_flag::SYN).build()
}

fn packet(family: Family, transport: Transport, kind: Kind) -> Packet {
    let source = SocketAddr::new(family.client(), 0x8000);
    let destination = SocketAddr::new(family.vip(), kind.service().port);
    let packet = match transport {
        Transport::Tcp => Packet::tcp(source, destination),
        Transport::Udp => Packet::udp(source, destination),
    };
    // With a short header, where it is QUIC's: then the connection id, of eight bytes.
    packet.payload(&[0x40, 7, 0, SERVER, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
}

/// MAC of a backend.
fn backend_mac(number: u16) -> Mac {
    Mac::new([2, 0, 0, 1, (number >> 8) as u8, number as u8])
}

/// Whether a frame's first twelve bytes are those of a forwarded one.
pub(super) fn is_forwarded(macs: &[u8]) -> bool {
    let to_backend = (1..=BACKENDS).any(|number| macs[..6] == backend_mac(number).octets());
    to_backend && macs[6..12] == BALANCER_MAC.octets()
}

/// The tables.
pub(super) fn tables() -> MemoryTables {
    let mut tables = MemoryTables::new(3 * super::super::prog_run::lines(SLOTS), 256);
    tables.control.hash_key = [0x5bd1_e995_9bd1_e995, 0xc2b2_ae3d_27d4_eb4f];
    let listeners: Vec<Service> = [Family::Ipv4, Family::Ipv6]
        .into_iter()
        .flat_map(|family| [(family, protocol::TCP), (family, protocol::UDP)])
        .flat_map(|kind| SERVICES.iter().map(move |service| (kind, service)))
        .map(|((family, number), service)| {
            let key = ServiceKey::new(Address::from(family.vip()), service.port, number);
            Service {
                vip: key.vip,
                port_and_protocol: key.port_and_protocol,
                id: service.id,
                slot_base: service.region,
                slot_count: SLOTS,
                backend_base: 0,
                backend_lines: 256,
                flags: service.flags,
                lap: service.lap,
                fits: 1_400,
                ..Service::default()
            }
        })
        .collect();
    tables.set_services(&bank::fill(&listeners).expect("three dozen listeners fit"));
    let address = |number: u16| Address::from_v4([10, 0, (number >> 8) as u8, number as u8]);
    let members: Vec<Member> = (1..=BACKENDS)
        .map(|number| Member { number, address: address(number), weight: 100 })
        .collect();
    for (slot, number) in maglev::table(&members, SLOTS).into_iter().enumerate() {
        tables.slots[STEADY as usize + slot] = Slot::steady(number).raw();
        let next = number % BACKENDS + 1;
        tables.slots[MOVING as usize + slot] = Slot::steady(number).moved_to(next).raw();
        let turn = (slot % usize::from(BACKENDS)) as u16 + 1;
        tables.slots[WATCHED as usize + slot] = Slot::steady(turn).watching().raw();
    }
    for number in 1..=BACKENDS {
        let backend = Backend {
            next_hop: backend_mac(number).word() | BACKEND_RESOLVED | BACKEND_OPEN,
            source: BALANCER_MAC.word(),
            address: address(number),
            ifindex: INGRESS,
            flags: BACKEND_IN_USE | BACKEND_SERVING,
            share: 100 * SHARE,
            local: Address::from_v4([10, 0, 255, 1]),
            ..Backend::default()
        };
        tables.backends.insert(u32::from(number), backend);
    }
    tables.interfaces.insert(INGRESS, Interface { mac: BALANCER_MAC.word() });
    let server = ServerKey { service: Kind::Quic.service().id, server: SERVER.into() };
    tables.servers.insert(server, SERVER.into());
    guard(&mut tables);
    tables
}

/// Rules of which one lets all clients in, and limits that none of them ever meets.
fn guard(tables: &mut MemoryTables) {
    const FAR: u64 = 1 << 60;
    let limits = Limits {
        interval: 1,
        tolerance: FAR,
        source_interval: 1,
        source_tolerance: FAR,
        flags: LIMITS_RULES,
    };
    tables.limits.insert(GUARDED, limits);
    let mut rule = |[a, b]: [u8; 2], length: u32, says| {
        let key = RuleKey::new(GUARDED, Address::from_v4([a, b, 0, 0]));
        tables.rules.insert((RULE_SERVICE_BITS + 96 + length, key), says);
    };
    rule([198, 0], 8, RULE_ALLOW);
    for second in 0..=255 {
        rule([10, second], 16, RULE_DENY);
    }
}
