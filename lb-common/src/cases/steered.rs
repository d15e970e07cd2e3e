//! Frames that go to a backend: by their slot, or by what is remembered of their flow.

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use super::Case;
use super::world::{self, EGRESS, EGRESS_MAC, VIP_ANY, backend_mac, line};
use crate::builder::{BALANCER_MAC, Packet, tcp_flag};
use crate::flow::protocol;
use crate::parse::ether_type::{SERVICE_VLAN, VLAN};
use crate::rewrite::macs;
use crate::verdict::{Route, Verdict};

pub(super) fn forwarded(cases: &mut Vec<Case>) {
    let mut add = |name: &str, packet: &Packet, number: u32| {
        let frame = packet.build();
        let redirect = (number == line::ANY).then_some(EGRESS);
        let source = if redirect.is_some() { EGRESS_MAC } else { BALANCER_MAC };
        let next_hop = backend_mac(number);
        let mut output = frame.clone();
        output[..12].copy_from_slice(&macs(next_hop, source));
        let verdict =
            Verdict::Forward(Route { line: number, next_hop, source, redirect, tunnel: None });
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

pub(super) fn remembered(cases: &mut Vec<Case>) {
    let mut add = |name: &str, packet: &Packet, number: u32| {
        let frame = packet.build();
        let next_hop = backend_mac(number);
        let mut output = frame.clone();
        output[..12].copy_from_slice(&macs(next_hop, BALANCER_MAC));
        let route =
            Route { line: number, next_hop, source: BALANCER_MAC, redirect: None, tunnel: None };
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
