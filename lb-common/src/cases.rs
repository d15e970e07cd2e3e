//! The table of cases: tables, a frame in, the verdict and the frame out. The same table runs
//! through the host's packet code and through the loaded program.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::address::{Address, Mac};
use crate::bank;
use crate::builder::{ACKNOWLEDGEMENT, BALANCER_MAC, CLIENT_MAC, Packet, SEQUENCE, tcp_flag};
use crate::flow::protocol;
use crate::maps::{
    BACKEND_IN_USE, BACKEND_RESET, BACKEND_RESOLVED, BACKEND_SERVING, Backend, Interface,
    SERVICE_REJECT, Service, ServiceKey, Vip,
};
use crate::memory::MemoryTables;
use crate::parse::ether_type::{SERVICE_VLAN, VLAN};
use crate::rewrite::macs;
use crate::steer::Slot;
use crate::verdict::{Answer, Drop, Pass, Route, Verdict};

/// The interface that cases come in by: loopback's index, which a test run reports.
pub const INGRESS: u32 = 1;
/// Another interface, which one backend is behind.
pub const EGRESS: u32 = 7;
/// That interface's MAC.
pub const EGRESS_MAC: Mac = Mac::new([2, 0, 0, 0, 0, 0x17]);

/// The world of the cases. Slots of each service all name one backend, so that a verdict can be
/// written down.
pub mod world {
    use super::{IpAddr, Ipv4Addr, Ipv6Addr, Mac, SocketAddr};

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
    }

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
}

use world::{
    CLIENT, CLIENT6, REJECTED, VIP, VIP_ANY, VIP_MAC, VIP_REJECT6, VIP_STALE, VIP6, VIP6_STALE,
    line,
};

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it shows, as a sentence.
    pub name: String,
    /// The frame as it comes in.
    pub frame: Vec<u8>,
    /// What becomes of it.
    pub verdict: Verdict,
    /// The frame as it goes out.
    pub output: Vec<u8>,
}

/// MAC of the backend on a line.
pub const fn backend_mac(line: u32) -> Mac {
    Mac::new([2, 0, 0, 0, 1, line as u8])
}

/// A listener to be: address, port, protocol.
type Listener = (IpAddr, u16, u8);

/// The tables that all cases share. Leases are valid for ever or not at all, so that the
/// kernel's clock does not matter.
pub fn tables() -> MemoryTables {
    let mut tables = MemoryTables::new(64, 144);
    tables.control.epoch = 1_000;
    tables.control.hash_key = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
    let v4 = |vip| IpAddr::V4(vip);
    let services: [(&[Listener], u32, Slot); 10] = [
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
    ];
    let mut listeners = Vec::new();
    for (n, (listens, backend_base, slot)) in services.into_iter().enumerate() {
        let (slot_base, slot_count) = (16 * n as u32, 13);
        for (vip, port, number) in listens {
            let key = ServiceKey::new(Address::from(*vip), *port, *number);
            listeners.push(Service {
                vip: key.vip,
                port_and_protocol: key.port_and_protocol,
                id: n as u32 + 1,
                slot_base,
                slot_count,
                backend_base,
                backend_lines: 16,
                flags: if *port == REJECTED { SERVICE_REJECT } else { 0 },
                ..Service::default()
            });
        }
        tables.slots[slot_base as usize..][..slot_count as usize].fill(slot.raw());
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
    ] {
        let source = if ifindex == INGRESS { BALANCER_MAC } else { EGRESS_MAC };
        let backend = Backend {
            next_hop: backend_mac(number).word() | resolved,
            source: source.word(),
            address: Address::from_v4([10, 0, 0, number as u8]),
            ifindex,
            flags: BACKEND_IN_USE | BACKEND_SERVING,
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
        (v4(VIP_MAC), 1, world::VIRTUAL_MAC.word()),
    ] {
        tables.vips.insert(Address::from(vip), Vip { mac, lease, flags: 0 });
    }
    tables.interfaces.insert(INGRESS, Interface { mac: BALANCER_MAC.word() });
    tables.interfaces.insert(EGRESS, Interface { mac: EGRESS_MAC.word() });
    tables
}

/// All cases, in order: some rely on what those before them left in the records of flows.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    forwarded(&mut cases);
    passed(&mut cases);
    dropped(&mut cases);
    answered(&mut cases);
    remembered(&mut cases);
    refused(&mut cases);
    cases
}

fn forwarded(cases: &mut Vec<Case>) {
    let mut add = |name: &str, packet: &Packet, number: u32| {
        let frame = packet.build();
        let redirect = (number == line::ANY).then_some(EGRESS);
        let source = if redirect.is_some() { EGRESS_MAC } else { BALANCER_MAC };
        let next_hop = backend_mac(number);
        let mut output = frame.clone();
        output[..12].copy_from_slice(&macs(next_hop, source));
        let verdict = Verdict::Forward(Route { line: number, next_hop, source, redirect });
        cases.push(Case { name: name.into(), frame, verdict, output });
    };
    let tcp = || Packet::tcp(world::client(40_112), world::vip(443));
    let tcp6 = || Packet::tcp(world::client6(40_112), world::vip6(443));
    let udp = || Packet::udp(world::client(5_353), world::vip(53)).payload(b"query");
    add("TCP over IPv4", &tcp(), line::WEB);
    add("a SYN", &tcp().flags(tcp_flag::SYN), line::WEB);
    add("TCP over IPv4 with a payload", &tcp().payload(&[0x5a; 1_000]), line::WEB);
    add("a VLAN tag stays", &tcp().tag(VLAN, 10), line::WEB);
    add("two VLAN tags stay", &tcp().tag(SERVICE_VLAN, 100).tag(VLAN, 10), line::WEB);
    add("IPv4 options", &tcp().ipv4_options(&[1, 1, 1, 0]), line::WEB);
    add("the longest IPv4 options", &tcp().ipv4_options(&[1; 40]), line::WEB);
    add("options behind a tag", &tcp().tag(VLAN, 1).ipv4_options(&[1; 8]), line::WEB);
    add("TCP over IPv6", &tcp6(), line::WEB);
    add("TCP over IPv6 behind two tags", &tcp6().tag(VLAN, 1).tag(VLAN, 2), line::WEB);
    add("UDP over IPv4", &udp(), line::DNS);
    add("UDP without payload", &Packet::udp(world::client(1), world::vip(53)), line::DNS);
    add("UDP over IPv6, any port", &Packet::udp(world::client6(1), world::vip6(4_433)), line::WEB);
    let any = |port| SocketAddr::new(IpAddr::V4(VIP_ANY), port);
    add("any port, by another interface", &Packet::tcp(world::client(1), any(1)), line::ANY);
    add("any port, the last", &Packet::tcp(world::client(1), any(65_535)), line::ANY);
    let options = [0, 0, 1, 4, 0, 0, 0, 0];
    add("IPv6 hop-by-hop options", &tcp6().extension(protocol::HOP_BY_HOP, &options), line::WEB);
    let mut chain = tcp6();
    for _ in 0..3 {
        chain = chain
            .extension(protocol::DESTINATION_OPTIONS, &options)
            .extension(protocol::ROUTING, &[0, 0, 4, 0, 0, 0, 0, 0]);
    }
    add("six IPv6 extension headers", &chain.tag(VLAN, 7), line::WEB);
    let authentication = [0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9];
    add(
        "an IPv6 authentication header",
        &tcp6().extension(protocol::AUTHENTICATION, &authentication),
        line::WEB,
    );
    add(
        "an atomic IPv6 fragment",
        &tcp6()
            .extension(protocol::FRAGMENT, &[0, 0, 0, 0, 0, 0, 0, 1])
            .extension(protocol::HOP_BY_HOP, &options),
        line::WEB,
    );
}

fn passed(cases: &mut Vec<Case>) {
    let mut add = |name: &str, frame: Vec<u8>, reason: Pass| {
        let output = frame.clone();
        cases.push(Case { name: name.into(), frame, verdict: Verdict::Pass(reason), output });
    };
    let tcp = || Packet::tcp(world::client(40_112), world::vip(443));
    let tcp6 = || Packet::tcp(world::client6(40_112), world::vip6(443));
    let with = |packet: &Packet, at: usize, byte: u8| {
        let mut frame = packet.build();
        frame[at] = byte;
        frame
    };
    let cut = |packet: &Packet, len: usize| {
        let mut frame = packet.build();
        frame.truncate(len);
        frame
    };
    add("an unknown EtherType", with(&tcp(), 12, 0x88), Pass::NotIp);
    add("a third VLAN tag", tcp().tag(VLAN, 1).tag(VLAN, 2).tag(VLAN, 3).build(), Pass::NotIp);
    add(
        "a port without a service",
        Packet::tcp(world::client(1), world::vip(444)).build(),
        Pass::NoService,
    );
    add(
        "the right port, the wrong protocol",
        Packet::udp(world::client(1), world::vip(443)).build(),
        Pass::NoService,
    );
    add(
        "an address of somebody else",
        Packet::tcp(world::vip(443), world::client(443)).build(),
        Pass::NoService,
    );
    add(
        "UDP to a VIP with any TCP port",
        Packet::udp(world::client(1), SocketAddr::new(VIP_ANY.into(), 53)).build(),
        Pass::NoService,
    );
    add("a protocol without ports", with(&tcp(), 23, 47), Pass::Protocol);
    add("an IPv6 protocol without ports", with(&tcp6(), 20, 47), Pass::Protocol);
    add("sent to another hardware address", tcp().to_mac(CLIENT_MAC).build(), Pass::OtherHost);
    add("sent to all", tcp().to_mac(Mac::BROADCAST).build(), Pass::OtherHost);
    add(
        "a flooded frame that would be dropped",
        Packet::tcp(world::client(1), world::vip(8080)).to_mac(CLIENT_MAC).build(),
        Pass::OtherHost,
    );
    add(
        "a fragment for somebody else",
        Packet::tcp(world::vip(1), world::client(1)).fragment(8, false).build(),
        Pass::Fragment,
    );
    add("nothing behind the Ethernet header", cut(&tcp(), 14), Pass::Unreadable);
    add("cut inside a VLAN tag", cut(&tcp().tag(VLAN, 1), 17), Pass::Unreadable);
    add(
        "cut inside the second VLAN tag",
        cut(&tcp().tag(VLAN, 1).tag(VLAN, 1), 21),
        Pass::Unreadable,
    );
    add("cut inside the IPv4 header", cut(&tcp(), 33), Pass::Unreadable);
    add("cut inside the TCP header", cut(&tcp(), 53), Pass::Unreadable);
    add(
        "cut inside the UDP header",
        cut(&Packet::udp(world::client(1), world::vip(53)), 41),
        Pass::Unreadable,
    );
    let mapped = SocketAddr::new(VIP.to_ipv6_mapped().into(), 443);
    add(
        "IPv6 to a VIP's mapped form",
        Packet::tcp(world::client6(1), mapped).build(),
        Pass::MappedAddress,
    );
    add(
        "a solicitation of a VIP's mapped form",
        Packet::neighbour_solicitation(CLIENT6, VIP.to_ipv6_mapped()).build(),
        Pass::MappedAddress,
    );
    add("cut inside the IPv6 header", cut(&tcp6(), 53), Pass::Unreadable);
    add("an IPv4 header of version 5", with(&tcp(), 14, 0x55), Pass::Unreadable);
    add("an IPv4 header shorter than it can be", with(&tcp(), 14, 0x44), Pass::Unreadable);
    add("an IPv4 header longer than the frame", with(&tcp(), 14, 0x4f), Pass::Unreadable);
    add("an IPv6 header of version 4", with(&tcp6(), 14, 0x40), Pass::Unreadable);
    let options = [0, 0, 1, 4, 0, 0, 0, 0];
    let mut chain = tcp6();
    for _ in 0..7 {
        chain = chain.extension(protocol::DESTINATION_OPTIONS, &options);
    }
    add("seven IPv6 extension headers", chain.build(), Pass::ExtensionHeaders);
    add(
        "a routing header on its way",
        tcp6().extension(protocol::ROUTING, &[0, 0, 4, 1, 0, 0, 0, 0]).build(),
        Pass::ExtensionHeaders,
    );
    let huge = with(&tcp6().extension(protocol::HOP_BY_HOP, &options), 55, 255);
    add("an extension header longer than the frame", huge, Pass::Unreadable);
    let strange = with(&tcp6().extension(protocol::HOP_BY_HOP, &options), 54, 59);
    add("no next header", strange, Pass::ExtensionHeaders);
    add(
        "ARP for somebody else",
        Packet::arp_request(CLIENT, Ipv4Addr::new(192, 0, 2, 1)).build(),
        Pass::NotForVip,
    );
    add(
        "ARP for a VIP without a lease",
        Packet::arp_request(CLIENT, VIP_STALE).build(),
        Pass::NoLease,
    );
    add("an ARP announcement of a VIP", Packet::arp_request(VIP, VIP).build(), Pass::NotARequest);
    add("an ARP reply", with(&Packet::arp_request(CLIENT, VIP), 21, 2), Pass::NotARequest);
    add(
        "ARP for another kind of address",
        with(&Packet::arp_request(CLIENT, VIP), 16, 9),
        Pass::NotARequest,
    );
    add("ARP cut short", cut(&Packet::arp_request(CLIENT, VIP), 41), Pass::Unreadable);
    add(
        "ARP from a group address",
        with(&Packet::arp_request(CLIENT, VIP), 22, 1),
        Pass::InvalidRequest,
    );
    add(
        "ARP sent to another host",
        Packet::arp_request(CLIENT, VIP).to_mac(CLIENT_MAC).build(),
        Pass::OtherHost,
    );
    let echo = |vip: Ipv4Addr| Packet::echo(CLIENT.into(), vip.into());
    let echo6 = |vip: Ipv6Addr| Packet::echo(CLIENT6.into(), vip.into());
    add("echo to somebody else", echo(CLIENT).build(), Pass::NotForVip);
    add("echo to a VIP without a lease", echo(VIP_STALE).build(), Pass::NoLease);
    add("echo over IPv6 to a VIP without a lease", echo6(VIP6_STALE).build(), Pass::NoLease);
    add("echo with IPv4 options", echo(VIP).ipv4_options(&[1; 4]).build(), Pass::NotARequest);
    add("an ICMP error to a VIP", with(&echo(VIP), 34, 3), Pass::NotARequest);
    add("an ICMPv6 error to a VIP", with(&echo6(VIP6), 54, 2), Pass::NotARequest);
    add(
        "echo from a group",
        Packet::echo(Ipv4Addr::new(224, 0, 0, 1).into(), VIP.into()).build(),
        Pass::InvalidRequest,
    );
    add("echo shorter than it says", cut(&echo(VIP), 44), Pass::InvalidRequest);
    let solicit = |target| Packet::neighbour_solicitation(CLIENT6, target);
    add("a solicitation of somebody else", solicit(CLIENT6).build(), Pass::NotForVip);
    add("a solicitation without a lease", solicit(VIP6_STALE).build(), Pass::NoLease);
    add("a solicitation from afar", solicit(VIP6).hop_limit(254).build(), Pass::InvalidRequest);
    add("a solicitation with a wrong checksum", with(&solicit(VIP6), 56, 0), Pass::InvalidRequest);
}

fn dropped(cases: &mut Vec<Case>) {
    let mut add = |name: &str, frame: Vec<u8>, reason: Drop| {
        let output = frame.clone();
        cases.push(Case { name: name.into(), frame, verdict: Verdict::Drop(reason), output });
    };
    let tcp = |port| Packet::tcp(world::client(40_112), world::vip(port));
    let tcp6 = || Packet::tcp(world::client6(40_112), world::vip6(443));
    let udp = || Packet::udp(world::client(1), world::vip(53)).payload(b"query");
    let with = |packet: &Packet, at: usize, byte: u8| {
        let mut frame = packet.build();
        frame[at] = byte;
        frame
    };
    add("no backend is left", tcp(8080).build(), Drop::NoBackend);
    add("a slot that names nobody", tcp(8081).build(), Drop::StaleSlot);
    let unresolved = SocketAddr::new(VIP_STALE.into(), 80);
    add(
        "a backend without a way",
        Packet::tcp(world::client(1), unresolved).build(),
        Drop::Unresolved,
    );
    add("longer than the frame by its IPv4 header", with(&tcp(443), 16, 1), Drop::BadLength);
    add("shorter than its TCP header by its IPv4 header", with(&tcp(443), 17, 39), Drop::BadLength);
    add("longer than the frame by its IPv6 header", with(&tcp6(), 18, 1), Drop::BadLength);
    add("shorter than its TCP header by its IPv6 header", with(&tcp6(), 19, 19), Drop::BadLength);
    add("a TCP header shorter than it can be", with(&tcp(443), 46, 0x40), Drop::BadTransport);
    add("a TCP header longer than the packet", with(&tcp(443), 46, 0x60), Drop::BadTransport);
    add("a UDP length shorter than its header", with(&udp(), 39, 7), Drop::BadTransport);
    add("a UDP length longer than the packet", with(&udp(), 39, 14), Drop::BadTransport);
    add("a first fragment", tcp(443).fragment(0, true).payload(&[1; 64]).build(), Drop::Fragment);
    add("a later fragment", tcp(443).fragment(8, false).build(), Drop::Fragment);
    let fragment = [0, 0, 0, 1, 0, 0, 0, 1];
    add(
        "an IPv6 fragment",
        tcp6().extension(protocol::FRAGMENT, &fragment).build(),
        Drop::Fragment,
    );
    add(
        "an IPv6 fragment behind other headers",
        tcp6()
            .extension(protocol::FRAGMENT, &fragment)
            .extension(protocol::HOP_BY_HOP, &[0, 0, 1, 4, 0, 0, 0, 0])
            .build(),
        Drop::Fragment,
    );
}

fn answered(cases: &mut Vec<Case>) {
    let mut add = |name: &str, packet: &Packet, answer: Answer, output: Vec<u8>| {
        let verdict = Verdict::Answer(answer);
        cases.push(Case { name: name.into(), frame: packet.build(), verdict, output });
    };
    // Written down by hand from the RFCs, not made by the code under test.
    let arp_reply = |vip: Ipv4Addr, mac: Mac, client: Ipv4Addr, tags: &[u8]| {
        let mut frame = Vec::new();
        frame.extend(CLIENT_MAC.octets());
        frame.extend(mac.octets());
        frame.extend(tags);
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        frame.extend(mac.octets());
        frame.extend(vip.octets());
        frame.extend(CLIENT_MAC.octets());
        frame.extend(client.octets());
        frame
    };
    let arp = |vip| Packet::arp_request(CLIENT, vip);
    add("ARP for a VIP", &arp(VIP), Answer::Arp, arp_reply(VIP, BALANCER_MAC, CLIENT, &[]));
    add(
        "ARP for a VIP behind a VLAN tag",
        &arp(VIP).tag(VLAN, 10),
        Answer::Arp,
        arp_reply(VIP, BALANCER_MAC, CLIENT, &[0x81, 0, 0, 10]),
    );
    add(
        "ARP sent to us alone",
        &arp(VIP).to_mac(BALANCER_MAC),
        Answer::Arp,
        arp_reply(VIP, BALANCER_MAC, CLIENT, &[]),
    );
    add(
        "ARP for a VIP with a MAC of its own",
        &arp(VIP_MAC),
        Answer::Arp,
        arp_reply(VIP_MAC, world::VIRTUAL_MAC, CLIENT, &[]),
    );
    let nobody = Ipv4Addr::UNSPECIFIED;
    add(
        "an ARP probe",
        &Packet::arp_request(nobody, VIP),
        Answer::Arp,
        arp_reply(VIP, BALANCER_MAC, nobody, &[]),
    );

    let reply = |from: IpAddr, to: IpAddr, kind: u8, tags: &[u16]| {
        let mut packet =
            Packet::echo(from, to).from_mac(BALANCER_MAC).to_mac(CLIENT_MAC).hop_limit(64);
        for id in tags {
            packet = packet.tag(VLAN, *id);
        }
        let mut frame = packet.build();
        let icmp = frame.len() - 12;
        frame[icmp] = kind;
        let sum = &mut frame[icmp + 2..icmp + 4];
        // From 8 to 0 and from 128 to 129, in one's complement.
        let old = u16::from_be_bytes([sum[0], sum[1]]);
        let (new, carry) =
            if kind == 0 { old.overflowing_add(0x0800) } else { old.overflowing_sub(0x0100) };
        let new = match (carry, kind) {
            (false, _) => new,
            (true, 0) => new + 1,
            (true, _) => new - 1,
        };
        sum.copy_from_slice(&new.to_be_bytes());
        frame
    };
    let echo = Packet::echo(CLIENT.into(), VIP.into());
    add("echo to a VIP", &echo, Answer::Echo, reply(VIP.into(), CLIENT.into(), 0, &[]));
    let tagged = reply(VIP.into(), CLIENT.into(), 0, &[10, 20]);
    add("echo behind two tags", &echo.tag(VLAN, 10).tag(VLAN, 20), Answer::Echo, tagged);
    let echo6 = Packet::echo(CLIENT6.into(), VIP6.into());
    let reply6 = reply(VIP6.into(), CLIENT6.into(), 129, &[]);
    add("echo over IPv6 to a VIP", &echo6, Answer::EchoV6, reply6);

    let advertisement = |to: Ipv6Addr, to_mac: Mac, flags: u8| {
        let mut body = alloc::vec![flags, 0, 0, 0];
        body.extend(VIP6.octets());
        body.extend([2, 1]);
        body.extend(BALANCER_MAC.octets());
        Packet::icmp(VIP6.into(), to.into(), 136, &body)
            .from_mac(BALANCER_MAC)
            .to_mac(to_mac)
            .hop_limit(255)
            .build()
    };
    add(
        "a solicitation of a VIP",
        &Packet::neighbour_solicitation(CLIENT6, VIP6),
        Answer::Neighbour,
        advertisement(CLIENT6, CLIENT_MAC, 0x60),
    );
    add(
        "a solicitation sent to us alone",
        &Packet::neighbour_solicitation(CLIENT6, VIP6).to_mac(BALANCER_MAC),
        Answer::Neighbour,
        advertisement(CLIENT6, CLIENT_MAC, 0x60),
    );
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    add(
        "duplicate address detection",
        &Packet::neighbour_solicitation(Ipv6Addr::UNSPECIFIED, VIP6),
        Answer::Neighbour,
        advertisement(all_nodes, Mac::new([0x33, 0x33, 0, 0, 0, 1]), 0x20),
    );
}

fn remembered(cases: &mut Vec<Case>) {
    let mut add = |name: &str, packet: &Packet, number: u32| {
        let frame = packet.build();
        let next_hop = backend_mac(number);
        let mut output = frame.clone();
        output[..12].copy_from_slice(&macs(next_hop, BALANCER_MAC));
        let route = Route { line: number, next_hop, source: BALANCER_MAC, redirect: None };
        cases.push(Case { name: name.into(), frame, verdict: Verdict::Forward(route), output });
    };
    let moving = |port| Packet::tcp(world::client(port), world::vip(9000));
    add(
        "a SYN in a moving slot goes to the new backend",
        &moving(1).flags(tcp_flag::SYN),
        line::NEW,
    );
    add("its ACK follows", &moving(1), line::NEW);
    add("and so does all that comes later", &moving(1).payload(b"more"), line::NEW);
    add("a flow from before the change stays", &moving(2), line::OLD);
    add(
        "a FIN from before the change too",
        &moving(3).flags(tcp_flag::FIN | tcp_flag::ACK),
        line::OLD,
    );
    add("it begins anew with the next SYN", &moving(2).flags(tcp_flag::SYN), line::NEW);
    add("and its ACK follows that", &moving(2).tag(VLAN, 5), line::NEW);
    let datagram = Packet::udp(world::client(1), world::vip(9000));
    add("a datagram in a moving slot goes to the new backend", &datagram, line::NEW);
    add("the next one follows it", &datagram.payload(b"more"), line::NEW);
    let watched = |port| Packet::tcp(world::client(port), world::vip(9001));
    add("a SYN in a watched slot", &watched(1).flags(tcp_flag::SYN), line::WATCHED);
    add("an unknown flow in a watched slot", &watched(2), line::WATCHED);
}

fn refused(cases: &mut Vec<Case>) {
    let mut add = |name: &str, packet: &Packet, verdict: Verdict, output: Vec<u8>| {
        let frame = packet.build();
        cases.push(Case { name: name.into(), frame, verdict, output });
    };
    let vip = world::vip(REJECTED);
    let vip6 = world::vip6(REJECTED);
    let (client, client6) = (world::client(40_112), world::client6(40_112));
    let back = |packet: Packet| {
        packet.from_mac(BALANCER_MAC).to_mac(CLIENT_MAC).hop_limit(64).unidentified()
    };
    // RFC 9293 section 3.10.7.1, written down by hand.
    let reset = Verdict::Answer(Answer::Reset);
    let to_ack =
        |from, to| back(Packet::tcp(from, to).flags(tcp_flag::RST).numbers(ACKNOWLEDGEMENT, 0));
    let to_syn = |from, to, length: u32| {
        let flags = tcp_flag::RST | tcp_flag::ACK;
        back(Packet::tcp(from, to).flags(flags).numbers(0, SEQUENCE + length))
    };
    let tcp = Packet::tcp(client, vip);
    let tcp6 = Packet::tcp(client6, vip6);
    add("an ACK that nobody takes is reset", &tcp, reset, to_ack(vip, client).build());
    add(
        "a segment with data that nobody takes is reset",
        &tcp.clone().payload(&[7; 500]).tag(VLAN, 9),
        reset,
        to_ack(vip, client).tag(VLAN, 9).build(),
    );
    add(
        "a segment with IPv4 options that nobody takes is reset",
        &tcp.clone().ipv4_options(&[1; 8]),
        reset,
        to_ack(vip, client).build(),
    );
    let syn = tcp.clone().flags(tcp_flag::SYN);
    add("a SYN that nobody takes is reset", &syn, reset, to_syn(vip, client, 1).build());
    let fin = tcp.clone().flags(tcp_flag::FIN).payload(b"bye");
    add(
        "a FIN without ACK that nobody takes is reset",
        &fin,
        reset,
        to_syn(vip, client, 4).build(),
    );
    add("an ACK over IPv6 that nobody takes", &tcp6, reset, to_ack(vip6, client6).build());
    let syn6 = tcp6.flags(tcp_flag::SYN).tag(SERVICE_VLAN, 1).tag(VLAN, 2);
    let answer6 = to_syn(vip6, client6, 1).tag(SERVICE_VLAN, 1).tag(VLAN, 2);
    add("a SYN over IPv6 behind two tags that nobody takes", &syn6, reset, answer6.build());
    let gone = world::vip(9003);
    let to_gone = Packet::tcp(client, gone).payload(b"x");
    add("a flow of a backend that is gone is reset", &to_gone, reset, to_ack(gone, client).build());

    let unreachable = Verdict::Answer(Answer::Unreachable);
    let quote = |packet: &Packet, header: usize| {
        let frame = packet.build();
        [&[0; 4], &frame[14..14 + header + 8]].concat()
    };
    let udp = Packet::udp(client, vip).payload(b"query");
    let mut error = back(Packet::icmp(VIP.into(), CLIENT.into(), 3, &quote(&udp, 20))).build();
    set_code(&mut error, 34, 3);
    add("a datagram that nobody takes", &udp, unreachable, error);
    let rejected6 = SocketAddr::new(VIP_REJECT6.into(), REJECTED);
    let udp6 = Packet::udp(client6, rejected6).payload(&[7; 300]);
    let mut error =
        back(Packet::icmp(VIP_REJECT6.into(), CLIENT6.into(), 1, &quote(&udp6, 40))).build();
    set_code(&mut error, 54, 4);
    add("a datagram over IPv6 that nobody takes", &udp6, unreachable, error);

    let dropped = Verdict::Drop(Drop::NotAnswerable);
    for (name, packet) in [
        ("a reset is never answered", tcp.flags(tcp_flag::RST)),
        ("a group is never answered", Packet::udp("224.0.0.1:1".parse().expect("an address"), vip)),
        ("a datagram with IPv4 options is not answered", udp.ipv4_options(&[1; 4])),
    ] {
        let output = packet.build();
        add(name, &packet, dropped, output);
    }
}

/// Sets the code of an ICMP message and keeps its checksum right.
fn set_code(frame: &mut [u8], at: usize, code: u8) {
    frame[at + 1] = code;
    let sum = u16::from_be_bytes([frame[at + 2], frame[at + 3]]);
    let (sum, borrow) = sum.overflowing_sub(u16::from(code));
    frame[at + 2..at + 4].copy_from_slice(&sum.wrapping_sub(u16::from(borrow)).to_be_bytes());
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::frame::MemoryFrame;
    use crate::judge::process;
    use std::collections::BTreeSet;

    #[test]
    fn every_case_comes_out_as_written() {
        let tables = tables();
        for case in cases() {
            let mut frame = MemoryFrame { bytes: case.frame, ingress: INGRESS };
            let verdict = process(&mut frame, &tables);
            assert_eq!(verdict, case.verdict, "{}", case.name);
            assert_eq!(frame.bytes, case.output, "{}", case.name);
        }
    }

    #[test]
    fn every_verdict_that_a_frame_can_cause_has_a_case() {
        let seen: BTreeSet<_> = cases().iter().map(|case| case.verdict.name()).collect();
        // These need a broken kernel or a daemon that forgot an interface.
        let unreachable = [
            Verdict::Pass(Pass::NoProgram),
            Verdict::Pass(Pass::NoTable),
            Verdict::Pass(Pass::UnknownInterface),
            Verdict::Drop(Drop::NoRoom),
        ];
        for verdict in Verdict::counted().filter(|verdict| !unreachable.contains(verdict)) {
            assert!(seen.contains(&verdict.name()), "no case for {verdict}");
        }
    }

    #[test]
    fn a_frame_cut_anywhere_is_never_forwarded() {
        let tables = tables();
        for case in cases().into_iter().filter(|case| matches!(case.verdict, Verdict::Forward(_))) {
            for length in 0..case.frame.len() {
                let bytes = case.frame[..length].to_vec();
                let mut frame = MemoryFrame { bytes: bytes.clone(), ingress: INGRESS };
                let verdict = process(&mut frame, &tables);
                assert!(
                    matches!(verdict, Verdict::Pass(_) | Verdict::Drop(_)),
                    "{} cut to {length} bytes: {verdict}",
                    case.name
                );
                assert_eq!(frame.bytes, bytes, "{} cut to {length} bytes", case.name);
            }
        }
    }
}
