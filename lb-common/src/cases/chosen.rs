//! Frames of services that choose by other things than the flow's hash, or that do not let everybody
//! in.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::Case;
use super::world::{
    self, ALLOWED, DENIED, GUARDED, LEAST, QUIC, SERVER_ID, TURNS, backend_mac, line,
};
use crate::address::Address;
use crate::builder::{BALANCER_MAC, Packet, tcp_flag};
use crate::flow::{Flow, protocol};
use crate::judge::slot_index;
use crate::memory::MemoryTables;
use crate::rewrite::macs;
use crate::tables::{Tables as _, find_service};
use crate::verdict::{Drop, Route, Verdict};

fn forwarded(name: impl Into<String>, packet: &Packet, number: u32) -> Case {
    let frame = packet.build();
    let next_hop = backend_mac(number);
    let mut output = frame.clone();
    output[..12].copy_from_slice(&macs(next_hop, BALANCER_MAC));
    let route =
        Route { line: number, next_hop, source: BALANCER_MAC, redirect: None, tunnel: None };
    Case { name: name.into(), frame, verdict: Verdict::Forward(route), output }
}

pub(super) fn in_turn(cases: &mut Vec<Case>) {
    let mut add = |name: &str, packet: &Packet, number| {
        cases.push(forwarded(name, packet, number));
    };
    let tcp = |port| Packet::tcp(world::client(port), world::vip(TURNS));
    let syn = |port| tcp(port).flags(tcp_flag::SYN);
    let [first, second] = line::TURNS;
    add("in turn: a SYN", &syn(1), first);
    add("in turn: another one", &syn(2), second);
    add("in turn: the first one again", &syn(1), first);
    add("in turn: a third one", &syn(3), first);
    add("in turn: its ACK stays with it", &tcp(3), first);
    add("in turn: and what comes later", &tcp(3).payload(b"more"), first);
    add("in turn: the second one's ACK", &tcp(2).payload(b"more"), second);
    add("in turn: a forged SYN changes nothing", &syn(2), second);
    add("in turn: it is still there", &tcp(2), second);
    add("in turn: its FIN", &tcp(2).flags(tcp_flag::FIN | tcp_flag::ACK), second);
    add("in turn: after that the port begins anew", &syn(2), second);
    add("in turn: whose turn it is then", &syn(4), first);
    let unknown = tcp(9);
    let number = by_hash(9, TURNS);
    add("in turn: a flow that nobody remembers goes by its hash", &unknown, number);
    let datagram = |port| Packet::udp(world::client(port), world::vip(TURNS)).payload(b"?");
    add("in turn: a datagram", &datagram(1), second);
    add("in turn: the next of its flow", &datagram(1), second);
    add("in turn: one of another", &datagram(2), first);
}

pub(super) fn least(cases: &mut Vec<Case>) {
    let mut add = |name: &str, packet: &Packet, number| {
        cases.push(forwarded(name, packet, number));
    };
    let tcp = |port| Packet::tcp(world::client(port), world::vip(LEAST));
    let syn = |port| tcp(port).flags(tcp_flag::SYN);
    let [first, second] = line::LEAST;
    add("least: all are idle", &syn(1), first);
    add("least: the first has one", &syn(2), second);
    add("least: both have one", &syn(3), first);
    add("least: an open one", &tcp(2), second);
    add("least: which ends", &tcp(2).flags(tcp_flag::FIN | tcp_flag::ACK), second);
    add("least: and says so twice", &tcp(2).flags(tcp_flag::FIN | tcp_flag::ACK), second);
    add("least: so the second is idle", &syn(4), second);
    add("least: and has fewer still", &syn(5), second);
    add("least: a half-open one is given up", &tcp(5).flags(tcp_flag::RST), second);
    add("least: which makes room", &syn(6), second);
}

/// A QUIC packet with a long header, from a client.
fn long(port: u16, id: &[u8]) -> Packet {
    let mut payload = [0_u8; 64];
    payload[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, id.len() as u8]);
    payload[6..6 + id.len()].copy_from_slice(id);
    Packet::udp(world::client(port), world::vip(QUIC)).payload(&payload)
}

/// One with a short header.
fn short(port: u16, id: &[u8]) -> Packet {
    let mut payload = [0x40_u8; 40];
    payload[1..1 + id.len()].copy_from_slice(id);
    Packet::udp(world::client(port), world::vip(QUIC)).payload(&payload)
}

pub(super) fn named(cases: &mut Vec<Case>) {
    let mut add = |name: &str, packet: &Packet, number| {
        cases.push(forwarded(name, packet, number));
    };
    let id = |first: u8, server: u16| {
        let [high, low] = server.to_be_bytes();
        [first, high, low, 9, 9, 9, 9, 9]
    };
    let server = id(7, SERVER_ID);
    add("QUIC: an Initial with a client's id", &long(1, &[0xe7, 1, 2, 3, 4, 5, 6, 7]), line::QUIC);
    add("QUIC: a short header that names a server", &short(1, &server), line::NAMED);
    add("QUIC: from elsewhere", &short(2, &server), line::NAMED);
    add("QUIC: a long header that does", &long(1, &server), line::NAMED);
    add("QUIC: a server that nobody is", &short(1, &id(7, 0x4321)), line::QUIC);
    add("QUIC: another configuration", &short(1, &id(0x27, SERVER_ID)), line::QUIC);
    add("QUIC: a length that is not its own", &long(1, &id(8, SERVER_ID)), line::QUIC);
    add("QUIC: an id too short to be a server's", &short(1, &id(5, SERVER_ID)), line::QUIC);
    let empty = Packet::udp(world::client(1), world::vip(QUIC));
    add("QUIC: nothing at all", &empty, line::QUIC);
    add("QUIC: less than an id", &empty.payload(&[0x40, 7]), line::QUIC);
}

pub(super) fn guarded(cases: &mut Vec<Case>) {
    let from = |source: Ipv4Addr, port| {
        Packet::tcp(SocketAddr::new(IpAddr::V4(source), port), world::vip(GUARDED))
    };
    let other = |host| Ipv4Addr::new(198, 51, 100, host);
    let mut add = |name: &str, packet: &Packet, dropped: Option<Drop>| {
        let case = match dropped {
            None => forwarded(name, packet, line::GUARDED),
            Some(reason) => {
                let frame = packet.build();
                let output = frame.clone();
                Case { name: name.into(), frame, verdict: Verdict::Drop(reason), output }
            }
        };
        cases.push(case);
    };
    let syn = |source, port| from(source, port).flags(tcp_flag::SYN);
    add("guarded: a source that is not let in", &syn(DENIED, 1), Some(Drop::Denied));
    add("guarded: nor in the middle of a flow", &from(DENIED, 1), Some(Drop::Denied));
    add("guarded: its neighbour is", &syn(ALLOWED, 1), None);
    add("guarded: but once only", &syn(ALLOWED, 2), Some(Drop::SourceRate));
    add("guarded: a flow that is there goes on", &from(ALLOWED, 1), None);
    add("guarded: a second source", &syn(other(21), 1), None);
    let v6 = Packet::tcp(world::client6(1), world::vip6(GUARDED)).flags(tcp_flag::SYN);
    add("guarded: a third one, over IPv6", &v6, None);
    add("guarded: a fourth one is too many", &syn(other(22), 1), Some(Drop::ServiceRate));
}

/// Line of the backend that a flow of the client to a port finds by its hash.
fn by_hash(from: u16, to: u16) -> u32 {
    let tables: MemoryTables = world::tables();
    let flow = Flow {
        source: Address::from(world::client(from).ip()),
        destination: Address::from(world::vip(to).ip()),
        ports: u32::from(from.swap_bytes()) | u32::from(to.swap_bytes()) << 16,
        protocol: protocol::TCP,
    };
    let service = find_service(&tables, &tables.control, flow.service_key());
    let service = service.expect("the world has the service");
    let slot = tables.slot(slot_index(&tables.control, &service, &flow));
    service.backend_base + slot.expect("and its slots").base()
}
