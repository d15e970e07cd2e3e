//! Frames that go to a backend in a tunnel. What comes out is put together by the packet builder, which
//! knows nothing of how the packet path does it.

use alloc::format;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use super::Case;
use super::answered::set_code;
use super::errors::about;
use super::world::{
    self, CLIENT, CLIENT6, MTU, TUNNELS, VIP, VIP6, backend_address, backend_mac, line,
    local_address,
};
use crate::Flow;
use crate::address::Address;
use crate::builder::{BALANCER_MAC, CLIENT_MAC, Packet};
use crate::flow::protocol;
use crate::parse::ether_type::{SERVICE_VLAN, VLAN};
use crate::tunnel::GUE_PORT;
use crate::verdict::{Answer, Drop, Route, Tunnel, Verdict};

/// One of the ways: over IPv4 or IPv6, in IP or in GUE.
#[derive(Clone, Copy)]
struct Way {
    port: u16,
    line: u32,
    gue: bool,
}

const WAYS: [Way; 4] = [
    Way { port: TUNNELS[0][0], line: line::TUNNELS_V4[0], gue: false },
    Way { port: TUNNELS[1][0], line: line::TUNNELS_V4[1], gue: true },
    Way { port: TUNNELS[0][1], line: line::TUNNELS_V6[0], gue: false },
    Way { port: TUNNELS[1][1], line: line::TUNNELS_V6[1], gue: true },
];

impl Way {
    fn overhead(self) -> usize {
        let ip = if backend_address(self.line).is_ipv4() { 20 } else { 40 };
        if self.gue { ip + 8 } else { ip }
    }

    /// What is to come out for a packet, which says how its outer one is made.
    fn case(self, name: &str, packet: &Packet, from: SocketAddr, tcp: bool, outer: Outer) -> Case {
        let destination = backend_address(self.line);
        let source = local_address(destination);
        let to = if from.is_ipv4() { world::vip(self.port) } else { world::vip6(self.port) };
        let number = if tcp { protocol::TCP } else { protocol::UDP };
        let hash = hash(from, to, number);
        let inner = packet.build_datagram();
        let mut whole = if self.gue {
            let from = SocketAddr::new(source, 0xc000 | (hash >> 18) as u16);
            Packet::udp(from, SocketAddr::new(destination, GUE_PORT)).payload(&inner)
        } else {
            Packet::carrying(source, destination, &inner)
        };
        whole = whole.from_mac(BALANCER_MAC).to_mac(backend_mac(self.line));
        whole = whole.hop_limit(64).unidentified().traffic_class(outer.class);
        if destination.is_ipv6() {
            whole = whole.flow_label(hash >> 12);
        }
        for (kind, id) in outer.tags {
            whole = whole.tag(*kind, *id);
        }
        let mut output = whole.build();
        let udp = 14 + 4 * outer.tags.len() + if destination.is_ipv4() { 20 } else { 40 };
        let mut covered = 0;
        if self.gue && (destination.is_ipv4() || !outer.sums) {
            output[udp + 6..udp + 8].fill(0);
        } else if self.gue {
            covered = words(&inner);
        }
        let tunnel = Tunnel {
            source: Address::from(source),
            destination: Address::from(destination),
            gue: self.gue,
            entropy: hash,
            covered,
        };
        let route = Route {
            line: self.line,
            next_hop: backend_mac(self.line),
            source: BALANCER_MAC,
            redirect: None,
            tunnel: Some(tunnel),
        };
        let kind = if self.gue { "GUE" } else { "IP" };
        let over = if destination.is_ipv4() { "IPv4" } else { "IPv6" };
        let name = format!("{name} in {kind} over {over}");
        Case { name, frame: packet.build(), verdict: Verdict::Forward(route), output }
    }
}

/// What is special about the outer packet.
#[derive(Clone, Copy)]
struct Outer {
    class: u8,
    tags: &'static [(u16, u16)],
    /// Whether the inner packet's sum is known.
    sums: bool,
}

const PLAIN: Outer = Outer { class: 0, tags: &[], sums: true };

fn hash(from: SocketAddr, to: SocketAddr, number: u8) -> u32 {
    let flow = Flow {
        source: Address::from(from.ip()),
        destination: Address::from(to.ip()),
        ports: u32::from(from.port().swap_bytes()) | u32::from(to.port().swap_bytes()) << 16,
        protocol: number,
    };
    flow.hash(world::tables().control.hash_key)
}

/// Folded sum of a packet's words, of the two noughts the one that is not.
fn words(packet: &[u8]) -> u16 {
    match crate::builder::internet_sum(packet) {
        0 => 0xffff,
        sum => sum,
    }
}

pub(super) fn encapsulated(cases: &mut Vec<Case>) {
    for way in WAYS {
        for (from, to, family) in [
            (world::client(40_112), world::vip(way.port), "IPv4"),
            (world::client6(40_112), world::vip6(way.port), "IPv6"),
        ] {
            let tcp = Packet::tcp(from, to).payload(b"hello");
            let udp = Packet::udp(from, to).payload(b"query");
            let mut add = |name: &str, packet: &Packet, is_tcp, outer| {
                cases.push(way.case(&format!("{name} over {family}"), packet, from, is_tcp, outer));
            };
            add("TCP", &tcp, true, PLAIN);
            add("UDP", &udp, false, PLAIN);
            add("an odd number of bytes", &tcp.clone().payload(&[7; 501]), true, PLAIN);
            let class = Outer { class: 0xbb, ..PLAIN };
            add("DSCP and CE", &tcp.clone().traffic_class(0xbb), true, class);
            let tagged = tcp.clone().tag(SERVICE_VLAN, 7).tag(VLAN, 8);
            add(
                "two tags",
                &tagged,
                true,
                Outer { tags: &[(SERVICE_VLAN, 7), (VLAN, 8)], ..PLAIN },
            );
            add("one tag", &udp.clone().tag(VLAN, 8), false, Outer { tags: &[(VLAN, 8)], ..PLAIN });
            let room = usize::from(MTU) - way.overhead() - if from.is_ipv4() { 40 } else { 60 };
            add("the largest that fits", &tcp.clone().payload(&[1; 1_460][..room]), true, PLAIN);
            let unknown = Outer { sums: false, ..PLAIN };
            let sent = Packet::tcp(to, from).payload(&[7; 1_000]);
            add("an error", &about(3 - u8::from(to.is_ipv6()), &sent, 68), true, unknown);
            if from.is_ipv4() {
                let first = udp.clone().payload(&[7; 16]).fragment(0, true);
                add("a first fragment", &first, false, unknown);
                add("a later fragment", &first.fragment(3, false), false, unknown);
                add("options", &tcp.clone().ipv4_options(&[1; 8]), true, PLAIN);
            } else {
                let options = [0, 0, 1, 4, 0, 0, 0, 0];
                let extended = tcp.clone().extension(protocol::HOP_BY_HOP, &options);
                add("hop-by-hop options", &extended, true, Outer { sums: false, ..PLAIN });
            }
        }
        let from = world::client(5_353);
        let udp = Packet::udp(from, world::vip(way.port)).payload(b"query");
        let mut case = way.case("UDP without checksum", &udp, from, false, PLAIN);
        // The last two bytes of the UDP header, in front of five of payload.
        let sum = case.frame.len() - 7..case.frame.len() - 5;
        case.frame[sum].fill(0);
        let sum = case.output.len() - 7..case.output.len() - 5;
        case.output[sum].fill(0);
        if let Verdict::Forward(Route { tunnel: Some(tunnel), .. }) = &mut case.verdict
            && tunnel.covered != 0
        {
            tunnel.covered = 0;
            // So the outer one has none either.
            case.output[14 + 40 + 6..14 + 40 + 8].fill(0);
        }
        cases.push(case);
    }
}

pub(super) fn too_big(cases: &mut Vec<Case>) {
    for way in WAYS {
        let fits = usize::from(MTU) - way.overhead();
        for (from, to, ends) in [
            (world::client(1), world::vip(way.port), (IpAddr::V4(VIP), IpAddr::V4(CLIENT))),
            (world::client6(1), world::vip6(way.port), (IpAddr::V6(VIP6), IpAddr::V6(CLIENT6))),
        ] {
            let (header, kind, at) = if from.is_ipv4() { (20, 3, 34) } else { (40, 2, 54) };
            let packet = Packet::tcp(from, to).payload(&[1; 1_480][..fits + 1 - header - 20]);
            let packet = packet.tag(VLAN, 3);
            let frame = packet.build();
            let body = [&(fits as u32).to_be_bytes(), &frame[18..18 + header + 8]].concat();
            let error = Packet::icmp(ends.0, ends.1, kind, &body).tag(VLAN, 3);
            let error = error.from_mac(BALANCER_MAC).to_mac(CLIENT_MAC);
            let mut output = error.hop_limit(64).unidentified().build();
            if from.is_ipv4() {
                set_code(&mut output, at + 4, 4);
            }
            let name = format!("one byte more than {fits}, to {to}");
            cases.push(Case { name, frame, verdict: Verdict::Answer(Answer::TooBig), output });
        }
    }
    let to = world::vip(TUNNELS[0][0]);
    for (name, packet) in [
        ("too big, with options that an answer has no place for", {
            Packet::tcp(world::client(1), to).ipv4_options(&[1; 8]).payload(&[1; 1_460])
        }),
        ("too big, from a group", {
            Packet::udp("224.0.0.1:1".parse().expect("an address"), to).payload(&[1; 1_460])
        }),
    ] {
        let frame = packet.build();
        let output = frame.clone();
        cases.push(Case { name: name.into(), frame, verdict: Verdict::Drop(Drop::TooBig), output });
    }
}
