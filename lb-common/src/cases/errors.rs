//! ICMP errors about what backends have sent.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Case;
use super::world::{
    self, CLIENT, CLIENT6, DENIED, GUARDED, QUIC, REJECTED, VIP, VIP_ANY, VIP6, backend_mac, line,
};
use crate::builder::{BALANCER_MAC, CLIENT_MAC, Packet};
use crate::flow::protocol;
use crate::parse::ether_type::VLAN;
use crate::rewrite::macs;
use crate::verdict::{Drop, Pass, Route, Verdict};

/// Who cannot deliver.
const ROUTER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 254));
const ROUTER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0xc, 0, 0, 0, 0xfe));

/// An error of a type about a packet that a backend sent: so much of it is quoted.
pub(super) fn about(kind: u8, sent: &Packet, quoted: usize) -> Packet {
    let datagram = sent.build_datagram();
    let body = [&[0, 0, 5, 20], &datagram[..quoted.min(datagram.len())]].concat();
    match datagram[0] >> 4 {
        4 => Packet::icmp(ROUTER, VIP.into(), kind, &body),
        _ => Packet::icmp(ROUTER6, VIP6.into(), kind, &body),
    }
}

pub(super) fn steered(cases: &mut Vec<Case>) {
    let mut add = |name: &str, packet: &Packet, number: u32| {
        let frame = packet.build();
        let next_hop = backend_mac(number);
        let mut output = frame.clone();
        output[..12].copy_from_slice(&macs(next_hop, BALANCER_MAC));
        let route =
            Route { line: number, next_hop, source: BALANCER_MAC, redirect: None, tunnel: None };
        cases.push(Case { name: name.into(), frame, verdict: Verdict::Forward(route), output });
    };
    let tcp = |from, port| Packet::tcp(world::vip(from), world::client(port)).payload(&[7; 1_400]);
    let udp = |from, port| Packet::udp(world::vip(from), world::client(port)).payload(&[7; 1_400]);
    let tcp6 = Packet::tcp(world::vip6(443), world::client6(1)).payload(&[7; 1_400]);
    add("a packet was too big for IPv4", &about(3, &tcp(443, 1), 28), line::WEB);
    add("with more of it quoted", &about(3, &tcp(443, 1), 548), line::WEB);
    add("a packet was too old", &about(11, &tcp(443, 1), 28), line::WEB);
    add("a packet was wrong", &about(12, &tcp(443, 1), 28), line::WEB);
    add("a datagram found no port", &about(3, &udp(53, 1), 28), line::DNS);
    let options = tcp(443, 1).ipv4_options(&[1; 8]);
    add("a packet with options was too big", &about(3, &options, 36), line::WEB);
    let tagged = about(3, &tcp(443, 1), 28).ipv4_options(&[1; 4]).tag(VLAN, 7);
    add("an error with options, behind a tag", &tagged, line::WEB);
    let first = udp(53, 1).fragment(0, true);
    add("a first fragment was too big", &about(3, &first, 28), line::DNS);
    for kind in 1..=4 {
        add("an IPv6 packet could not be delivered", &about(kind, &tcp6, 60), line::WEB);
    }
    add("a packet was too big for IPv6", &about(2, &tcp6, 1_232), line::WEB);
    let extended = tcp6.clone().extension(protocol::HOP_BY_HOP, &[0, 0, 1, 4, 0, 0, 0, 0]);
    add("an IPv6 packet with options was too big", &about(2, &extended, 68), line::WEB);
    let first = tcp6.clone().extension(protocol::FRAGMENT, &[0, 0, 0, 1, 0, 0, 0, 1]);
    add("a first IPv6 fragment was too big", &about(2, &first, 68), line::WEB);

    // What the cases of moving slots have left.
    add("of a new flow", &about(3, &tcp(9000, 1), 28), line::NEW);
    add("of a flow from before the change", &about(3, &tcp(9000, 3), 28), line::OLD);
    add("of a flow that nobody remembers", &about(3, &tcp(9000, 77), 28), line::OLD);
    add("of a datagram's flow", &about(3, &udp(9000, 1), 28), line::NEW);
    add("of a datagram's flow that nobody remembers", &about(3, &udp(9000, 77), 28), line::NEW);
    add("of a flow of QUIC", &about(3, &udp(QUIC, 1), 28), line::QUIC);
    let guarded = Packet::tcp(world::vip(GUARDED), SocketAddr::new(DENIED.into(), 1));
    add("guarded: what was sent, was let in", &about(3, &guarded, 28), line::GUARDED);
}

pub(super) fn declined(cases: &mut Vec<Case>) {
    let mut add = |name: &str, frame: Vec<u8>, verdict| {
        let output = frame.clone();
        cases.push(Case { name: name.into(), frame, verdict, output });
    };
    let tcp = |from| Packet::tcp(world::vip(from), world::client(1)).payload(&[7; 64]);
    let not_ours = Verdict::Pass(Pass::NotARequest);
    add("an error about a port without a service", about(3, &tcp(444), 28).build(), not_ours);
    add("an error that quotes too little", about(3, &tcp(443), 27).build(), not_ours);
    add("a redirection", about(5, &tcp(443), 28).build(), not_ours);
    add(
        "an error about a later fragment",
        about(3, &tcp(443).fragment(8, true), 28).build(),
        not_ours,
    );
    let strange = Packet::echo(VIP.into(), CLIENT.into());
    add("an error about an echo", about(3, &strange, 28).build(), not_ours);
    let other = Packet::tcp(SocketAddr::new(VIP_ANY.into(), 443), world::client(1));
    add("an error about what another address sent", about(3, &other, 28).build(), not_ours);
    let mut version = about(3, &tcp(443), 28).build();
    version[42] = 0x65;
    add("an error about something else than IPv4", version, not_ours);
    let tcp6 = Packet::tcp(world::vip6(443), world::client6(1)).payload(&[7; 64]);
    let later = tcp6.clone().extension(protocol::FRAGMENT, &[0, 0, 0, 9, 0, 0, 0, 1]);
    add("an error about a later IPv6 fragment", about(2, &later, 68).build(), not_ours);
    let other = Packet::echo(VIP6.into(), CLIENT6.into());
    add("an error about an echo over IPv6", about(1, &other, 60).build(), not_ours);
    let body = [&[0; 4], &tcp(443).build_datagram()[..28]].concat();
    let elsewhere = Packet::icmp(ROUTER, CLIENT.into(), 3, &body);
    add("an error to somebody else", elsewhere.build(), Verdict::Pass(Pass::NotForVip));
    let flooded = about(3, &tcp(443), 28).to_mac(CLIENT_MAC);
    add("a flooded error", flooded.build(), Verdict::Pass(Pass::OtherHost));
    let no_backend = Verdict::Drop(Drop::NoBackend);
    add("an error for nobody", about(3, &tcp(8080), 28).build(), no_backend);
    add("an error is not refused by an answer", about(3, &tcp(REJECTED), 28).build(), no_backend);
    let mut long = about(3, &tcp(443), 28).build();
    long[16] = 1;
    add("an error longer than its frame", long, Verdict::Drop(Drop::BadLength));
}
