//! The world of the cases. Slots of each service all name one backend, so that a verdict can be
//! written down.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::address::{Address, Mac};
use crate::bank;
use crate::builder::BALANCER_MAC;
use crate::flow::protocol;
use crate::maps::{
    BACKEND_IN_USE, BACKEND_OPEN, BACKEND_RESET, BACKEND_RESOLVED, BACKEND_SERVING, Backend,
    Interface, LIMITS_ADMIT, LIMITS_RULES, Limits, RULE_ALLOW, RULE_DENY, RULE_SERVICE_BITS,
    RuleKey, SERVICE_CHOOSES, SERVICE_GUARDED, SERVICE_GUE, SERVICE_IPIP, SERVICE_LEAST_CONN,
    SERVICE_QUIC, SERVICE_REJECT, SERVICE_ROUND_ROBIN, SHARE, ServerKey, Service, ServiceKey, Vip,
};
use crate::memory::MemoryTables;
use crate::slot::Slot;

/// The interface that cases come in by: loopback's index, which a test run reports.
pub const INGRESS: u32 = 1;
/// Another interface, which one backend is behind.
pub const EGRESS: u32 = 7;
/// That interface's MAC.
pub const EGRESS_MAC: Mac = Mac::new([2, 0, 0, 0, 0, 0x17]);

/// VIP with a lease: TCP 443 and 8080, UDP 53.
pub const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
/// The same in IPv6.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100);
/// A service that refuses what nobody takes.
pub const REJECTED: u16 = 9002;
/// Its address for UDP over IPv6.
pub const VIP_REJECT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x105);
/// VIP with a lease: any TCP port, and UDP 53 by another service.
pub const VIP_ANY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 101);
/// VIP whose lease has run out.
pub const VIP_STALE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 102);
/// The same in IPv6.
pub const VIP6_STALE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x102);
/// VIP with a MAC of its own.
pub const VIP_MAC: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 103);
/// That MAC.
pub const VIRTUAL_MAC: Mac = Mac::new([0, 0, 0x5e, 0, 1, 51]);
/// Who asks.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// The same in IPv6.
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0xc, 0, 0, 0, 7);

/// Backend lines.
pub mod line {
    /// `web`: all flows.
    pub const WEB: u32 = 17;
    /// `dns`: all flows.
    pub const DNS: u32 = 33;
    /// `any`: all flows, behind another interface.
    pub const ANY: u32 = 49;
    /// `unresolved`: the way is not known.
    pub const UNRESOLVED: u32 = 65;
    /// `moving`: flows from before the change.
    pub const OLD: u32 = 113;
    /// `moving`: new flows.
    pub const NEW: u32 = 114;
    /// `watched`: flows that are not remembered.
    pub const WATCHED: u32 = 121;
    /// `gone`: down, and its flows are reset.
    pub const GONE: u32 = 125;
    /// `turns`: the first one, and the second.
    pub const TURNS: [u32; 2] = [145, 146];
    /// `least`: the first one, and the second.
    pub const LEAST: [u32; 2] = [161, 162];
    /// `quic`: packets that name no server.
    pub const QUIC: u32 = 177;
    /// `quic`: packets that name [`SERVER_ID`](super::SERVER_ID).
    pub const NAMED: u32 = 178;
    /// `guarded`: who is let in.
    pub const GUARDED: u32 = 193;
    /// `ipip` and `gue`: backends with an IPv4 address.
    pub const TUNNELS_V4: [u32; 2] = [209, 225];
    /// The same with an IPv6 address.
    pub const TUNNELS_V6: [u32; 2] = [241, 257];
}

/// A service that gives flows out in turn.
pub const TURNS: u16 = 9010;
/// A service that gives flows to who has the fewest.
pub const LEAST: u16 = 9011;
/// A service of QUIC.
pub const QUIC: u16 = 9012;
/// One of its servers' ids.
pub const SERVER_ID: u16 = 0x1234;
/// A service that takes one flow from each source, three in all, and none from [`DENIED`] but for
/// [`ALLOWED`].
pub const GUARDED: u16 = 9013;
/// Services whose packets are encapsulated: in IP, in GUE; to backends with IPv4 addresses, and with
/// IPv6 ones.
pub const TUNNELS: [[u16; 2]; 2] = [[9020, 9021], [9022, 9023]];
/// A source that is not let in: all of its network.
pub const DENIED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 8);
/// One in the same network that is.
pub const ALLOWED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

/// The client, from a port of its own.
pub fn client(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(CLIENT), port)
}

/// The client in IPv6, from a port of its own.
pub fn client6(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(CLIENT6), port)
}

/// A port of the first VIP.
pub fn vip(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(VIP), port)
}

/// A port of the first VIP in IPv6.
pub fn vip6(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(VIP6), port)
}

/// MAC of the backend on a line.
pub const fn backend_mac(line: u32) -> Mac {
    Mac::new([2, 0, 0, 0, 1 + (line >> 8) as u8, line as u8])
}

/// Address of the backend on a line.
pub fn backend_address(line: u32) -> IpAddr {
    if line::TUNNELS_V6.contains(&line) {
        return Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, line as u16).into();
    }
    Ipv4Addr::new(10, 0, (line >> 8) as u8, line as u8).into()
}

/// Our own address towards backends of a family.
pub fn local_address(of: IpAddr) -> IpAddr {
    match of {
        IpAddr::V4(_) => Ipv4Addr::new(10, 0, 255, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, 0xffff).into(),
    }
}

/// Longest packet that the way to a backend takes.
pub const MTU: u16 = 1_500;

/// A listener to be: address, port, protocol.
type Listener = (IpAddr, u16, u8);

/// The tables that all cases share. Leases are valid for ever or not at all, so that the
/// kernel's clock does not matter.
pub fn tables() -> MemoryTables {
    let mut tables = MemoryTables::new(64, 272);
    tables.control.epoch = 1_000;
    tables.control.hash_key = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
    let v4 = |vip| IpAddr::V4(vip);
    let watched = Slot::steady(1).watching();
    let tunnels = TUNNELS.map(|ports| ports.map(tunnel_listeners));
    let services: [(&[Listener], u32, Slot); 18] = [
        (
            &[
                (v4(VIP), 443, protocol::TCP),
                (IpAddr::V6(VIP6), 443, protocol::TCP),
                (IpAddr::V6(VIP6), 0, protocol::UDP),
            ],
            line::WEB - 1,
            Slot::steady(1),
        ),
        (&[(v4(VIP), 53, protocol::UDP)], line::DNS - 1, Slot::steady(1)),
        (&[(v4(VIP_ANY), 0, protocol::TCP)], line::ANY - 1, Slot::steady(1)),
        (&[(v4(VIP_STALE), 80, protocol::TCP)], line::UNRESOLVED - 1, Slot::steady(1)),
        // No backend, and one that is no more.
        (&[(v4(VIP), 8080, protocol::TCP)], 80, Slot::steady(0)),
        (&[(v4(VIP), 8081, protocol::TCP)], 96, Slot::steady(9)),
        (
            &[(v4(VIP), 9000, protocol::TCP), (v4(VIP), 9000, protocol::UDP)],
            line::OLD - 1,
            Slot::steady(1).moved_to(2),
        ),
        (&[(v4(VIP), 9001, protocol::TCP)], line::WATCHED - 1, Slot::steady(1).watching()),
        (
            &[
                (v4(VIP), REJECTED, protocol::TCP),
                (v4(VIP), REJECTED, protocol::UDP),
                (IpAddr::V6(VIP6), REJECTED, protocol::TCP),
                (IpAddr::V6(VIP_REJECT6), REJECTED, protocol::UDP),
            ],
            96,
            Slot::steady(0),
        ),
        (&[(v4(VIP), 9003, protocol::TCP)], line::GONE - 1, Slot::steady(1)),
        (
            &[(v4(VIP), TURNS, protocol::TCP), (v4(VIP), TURNS, protocol::UDP)],
            line::TURNS[0] - 1,
            watched,
        ),
        (&[(v4(VIP), LEAST, protocol::TCP)], line::LEAST[0] - 1, watched),
        (&[(v4(VIP), QUIC, protocol::UDP)], line::QUIC - 1, watched),
        (
            &[(v4(VIP), GUARDED, protocol::TCP), (IpAddr::V6(VIP6), GUARDED, protocol::TCP)],
            line::GUARDED - 1,
            Slot::steady(1),
        ),
        (&tunnels[0][0], line::TUNNELS_V4[0] - 1, Slot::steady(1)),
        (&tunnels[1][0], line::TUNNELS_V4[1] - 1, Slot::steady(1)),
        (&tunnels[0][1], line::TUNNELS_V6[0] - 1, Slot::steady(1)),
        (&tunnels[1][1], line::TUNNELS_V6[1] - 1, Slot::steady(1)),
    ];
    let mut listeners = Vec::new();
    for (n, (listens, backend_base, slot)) in services.into_iter().enumerate() {
        let (slot_base, slot_count) = (16 * n as u32, 13);
        let id = n as u32 + 1;
        let slots = &mut tables.slots[slot_base as usize..][..slot_count as usize];
        slots.fill(slot.raw());
        let flags = flags(listens[0].1);
        if flags & SERVICE_CHOOSES != 0 {
            for (place, slot) in slots.iter_mut().enumerate() {
                *slot = Slot::steady(1 + place as u16 % 2).watching().raw();
            }
        }
        if flags & SERVICE_GUARDED != 0 {
            guard(&mut tables, id);
        }
        if flags & SERVICE_QUIC != 0 {
            tables.servers.insert(ServerKey { service: id, server: SERVER_ID.into() }, 2);
        }
        for (vip, port, number) in listens {
            let key = ServiceKey::new(Address::from(*vip), *port, *number);
            listeners.push(Service {
                vip: key.vip,
                port_and_protocol: key.port_and_protocol,
                id,
                slot_base,
                slot_count,
                backend_base,
                backend_lines: 16,
                flags,
                lap: if flags & SERVICE_CHOOSES != 0 { 2 } else { 0 },
                fits: fits(*port),
                ..Service::default()
            });
        }
    }
    tables.set_services(&bank::fill(&listeners).expect("a handful of listeners fits"));
    for (number, resolved, ifindex) in [
        (line::WEB, BACKEND_RESOLVED, INGRESS),
        (line::DNS, BACKEND_RESOLVED, INGRESS),
        (line::ANY, BACKEND_RESOLVED, EGRESS),
        (line::UNRESOLVED, 0, INGRESS),
        (line::OLD, BACKEND_RESOLVED, INGRESS),
        (line::NEW, BACKEND_RESOLVED, INGRESS),
        (line::WATCHED, BACKEND_RESOLVED, INGRESS),
        (line::GONE, BACKEND_RESOLVED | BACKEND_RESET, INGRESS),
        (line::TURNS[0], BACKEND_RESOLVED | BACKEND_OPEN, INGRESS),
        (line::TURNS[1], BACKEND_RESOLVED | BACKEND_OPEN, INGRESS),
        (line::LEAST[0], BACKEND_RESOLVED | BACKEND_OPEN, INGRESS),
        (line::LEAST[1], BACKEND_RESOLVED | BACKEND_OPEN, INGRESS),
        (line::QUIC, BACKEND_RESOLVED | BACKEND_OPEN, INGRESS),
        (line::NAMED, BACKEND_RESOLVED | BACKEND_OPEN, INGRESS),
        (line::GUARDED, BACKEND_RESOLVED | BACKEND_OPEN, INGRESS),
        (line::TUNNELS_V4[0], BACKEND_RESOLVED | BACKEND_OPEN, INGRESS),
        (line::TUNNELS_V4[1], BACKEND_RESOLVED | BACKEND_OPEN, INGRESS),
        (line::TUNNELS_V6[0], BACKEND_RESOLVED | BACKEND_OPEN, INGRESS),
        (line::TUNNELS_V6[1], BACKEND_RESOLVED | BACKEND_OPEN, INGRESS),
    ] {
        let source = if ifindex == INGRESS { BALANCER_MAC } else { EGRESS_MAC };
        let backend = Backend {
            next_hop: backend_mac(number).word() | resolved,
            source: source.word(),
            address: backend_address(number).into(),
            local: local_address(backend_address(number)).into(),
            ifindex,
            flags: BACKEND_IN_USE | BACKEND_SERVING,
            share: SHARE,
            ..Backend::default()
        };
        tables.backends.insert(number, backend);
    }
    tables.leases.insert(1, u64::MAX);
    for (vip, lease, mac) in [
        (v4(VIP), 1, 0),
        (IpAddr::V6(VIP6), 1, 0),
        (v4(VIP_ANY), 1, 0),
        (v4(VIP_STALE), 0, 0),
        (IpAddr::V6(VIP6_STALE), 0, 0),
        (v4(VIP_MAC), 1, VIRTUAL_MAC.word()),
    ] {
        tables.vips.insert(Address::from(vip), Vip { mac, lease, flags: 0 });
    }
    tables.interfaces.insert(INGRESS, Interface { mac: BALANCER_MAC.word() });
    tables.interfaces.insert(EGRESS, Interface { mac: EGRESS_MAC.word() });
    tables
}

/// The longest packet of a service that is encapsulated.
fn fits(port: u16) -> u32 {
    let overhead = match port {
        port if port == TUNNELS[0][0] => 20,
        port if port == TUNNELS[1][0] => 28,
        port if port == TUNNELS[0][1] => 40,
        port if port == TUNNELS[1][1] => 48,
        _ => return 0,
    };
    u32::from(MTU) - overhead
}

fn tunnel_listeners(port: u16) -> [Listener; 4] {
    [
        (VIP.into(), port, protocol::TCP),
        (VIP.into(), port, protocol::UDP),
        (VIP6.into(), port, protocol::TCP),
        (VIP6.into(), port, protocol::UDP),
    ]
}

/// A service's flags, by the port of its first listener.
fn flags(port: u16) -> u32 {
    match port {
        REJECTED => SERVICE_REJECT,
        TURNS => SERVICE_ROUND_ROBIN,
        LEAST => SERVICE_LEAST_CONN,
        QUIC => SERVICE_QUIC,
        GUARDED => SERVICE_GUARDED,
        port if TUNNELS[0].contains(&port) => SERVICE_IPIP,
        port if TUNNELS[1].contains(&port) => SERVICE_GUE,
        _ => 0,
    }
}

/// So long between two flows that the kernel's clock does not matter.
const FOR_EVER: u64 = 1 << 60;

fn guard(tables: &mut MemoryTables, id: u32) {
    let limits = Limits {
        interval: FOR_EVER,
        tolerance: 2 * FOR_EVER,
        source_interval: FOR_EVER,
        source_tolerance: 0,
        flags: LIMITS_RULES | LIMITS_ADMIT,
    };
    tables.limits.insert(id, limits);
    for (source, length, says) in [(DENIED, 24, RULE_DENY), (ALLOWED, 32, RULE_ALLOW)] {
        let length = 96 + length;
        let prefix = Address::from_v4(source.octets()).network(length);
        tables.rules.insert((RULE_SERVICE_BITS + length, RuleKey::new(id, prefix)), says);
    }
}
