//! Fragments: the first one, those that go where it went, and those that nobody honest makes.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::Case;
use super::world::{
    self, ALLOWED, CLIENT, DENIED, GUARDED, QUIC, REJECTED, SERVER_ID, TUNNELS, VIP, backend_mac,
    line,
};
use crate::builder::{BALANCER_MAC, CLIENT_MAC, Packet, fragments};
use crate::flow::protocol;
use crate::rewrite::macs;
use crate::verdict::{Drop, Pass, Route, Verdict};

/// A frame that goes to a backend, by its line.
fn to(name: &str, frame: &[u8], number: u32) -> Case {
    let next_hop = backend_mac(number);
    let mut output = frame.to_vec();
    output[..12].copy_from_slice(&macs(next_hop, BALANCER_MAC));
    let route =
        Route { line: number, next_hop, source: BALANCER_MAC, redirect: None, tunnel: None };
    Case { name: name.into(), frame: frame.to_vec(), verdict: Verdict::Forward(route), output }
}

/// A frame that stays as it is.
fn stays(name: &str, frame: &[u8], verdict: Verdict) -> Case {
    Case { name: name.into(), frame: frame.to_vec(), verdict, output: frame.to_vec() }
}

/// A datagram to a port of the VIP.
fn datagram(from: u16, port: u16, length: usize) -> Vec<u8> {
    Packet::udp(world::client(from), world::vip(port)).payload(&[7; 4_000][..length]).build()
}

pub(super) fn steered(cases: &mut Vec<Case>) {
    let parts = fragments(&datagram(9, 53, 3_000), 1, &[1_480, 2_960]);
    cases.push(to("a first fragment", &parts[0], line::DNS));
    cases.push(to("a later one", &parts[1], line::DNS));
    cases.push(to("the last one", &parts[2], line::DNS));
    cases.push(to("a later one again", &parts[1], line::DNS));
    let udp6 = Packet::udp(world::client6(9), world::vip6(4_433)).payload(&[7; 3_000]);
    let parts = fragments(&udp6.build(), 0x0001_0001, &[1_448, 2_896]);
    cases.push(to("a first fragment over IPv6, to any port", &parts[0], line::WEB));
    cases.push(to("the last one over IPv6", &parts[2], line::WEB));
    cases.push(to("one between them over IPv6", &parts[1], line::WEB));
    let tcp = Packet::tcp(world::client(9), world::vip(443)).payload(&[7; 3_000]).build();
    let parts = fragments(&tcp, 1, &[1_480]);
    cases.push(to("a first fragment of TCP", &parts[0], line::WEB));
    cases.push(to("and a later one", &parts[1], line::WEB));
    let parts = fragments(&datagram(9, 53, 64), 2, &[8]);
    cases.push(to("a first fragment with ports and no more", &parts[0], line::DNS));
    cases.push(to("and one directly behind them", &parts[1], line::DNS));

    // What is remembered of the flow: one from before the change, a new one, and its next datagram.
    let tcp = Packet::tcp(world::client(3), world::vip(9000)).payload(&[7; 3_000]).build();
    let parts = fragments(&tcp, 3, &[1_480]);
    cases.push(to("a first fragment of a flow from before the change", &parts[0], line::OLD));
    cases.push(to("and a later one of it", &parts[1], line::OLD));
    let parts = fragments(&datagram(9, 9000, 3_000), 4, &[1_480, 2_960]);
    cases.push(to("a first fragment of a new flow", &parts[0], line::NEW));
    cases.push(to("the last one of it", &parts[2], line::NEW));
    cases.push(to("and a whole datagram of it", &datagram(9, 9000, 10), line::NEW));
    // The id of another server, which only the first fragment has.
    let [high, low] = SERVER_ID.to_be_bytes();
    let payload = [&[0x40, 7, high, low][..], &[9; 996]].concat();
    let quic = Packet::udp(world::client(9), world::vip(QUIC)).payload(&payload).build();
    let parts = fragments(&quic, 5, &[400]);
    cases.push(to("a first fragment of QUIC goes by its slot", &parts[0], line::QUIC));
    cases.push(to("as the later ones do", &parts[1], line::QUIC));

    let options = [0, 0, 1, 4, 0, 0, 0, 0];
    let tcp6 = |header: [u8; 8]| {
        let tcp = Packet::tcp(world::client6(9), world::vip6(443)).payload(b"four");
        tcp.extension(protocol::FRAGMENT, &header)
    };
    let first = tcp6([0, 0, 0, 1, 0, 0, 0, 2]).extension(protocol::HOP_BY_HOP, &options);
    cases.push(to("an IPv6 fragment behind other headers", &first.build(), line::WEB));
    let later = tcp6([0, 0, 0, 24, 0, 0, 0, 2]).extension(protocol::HOP_BY_HOP, &options);
    cases.push(to("and a later one behind them", &later.build(), line::WEB));
    let whole = tcp6([0, 0, 0, 0, 0, 0, 0, 3]);
    cases.push(to("an atomic fragment directly behind the header", &whole.build(), line::WEB));

    let from = |source: Ipv4Addr| {
        let from = SocketAddr::new(IpAddr::V4(source), 9);
        let tcp = Packet::tcp(from, world::vip(GUARDED)).payload(&[7; 3_000]).build();
        fragments(&tcp, 6, &[1_480])
    };
    let [allowed, denied] = [ALLOWED, DENIED].map(from);
    cases.push(to(
        "guarded: a first fragment of a source that is let in",
        &allowed[0],
        line::GUARDED,
    ));
    cases.push(to("guarded: and its last", &allowed[1], line::GUARDED));
    let is_denied = Verdict::Drop(Drop::Denied);
    cases.push(stays("guarded: a first fragment of one that is not", &denied[0], is_denied));
    cases.push(stays("guarded: and its last, though it is known", &denied[1], is_denied));
}

pub(super) fn declined(cases: &mut Vec<Case>) {
    let mut add = |name: &str, frame: &[u8], verdict| cases.push(stays(name, frame, verdict));
    let dropped = Verdict::Drop;
    let whole = datagram(9, 53, 3_000);
    let parts = |identification| fragments(&whole, identification, &[1_480, 2_960]);
    let unknown = dropped(Drop::FragmentUnknown);
    add("a later fragment without its first", &parts(0x77)[1], unknown);
    let tcp = Packet::tcp(world::client(9), world::vip(53)).payload(&[7; 3_000]).build();
    let other = fragments(&tcp, 2, &[1_480]);
    add("a later fragment of another protocol", &other[1], unknown);
    let elsewhere = Packet::udp(world::client(9), SocketAddr::new(world::VIP_ANY.into(), 53));
    let other = fragments(&elsewhere.payload(&[7; 3_000]).build(), 1, &[1_480]);
    add("a later fragment to another VIP", &other[1], unknown);

    let tiny = dropped(Drop::TinyFragment);
    let tcp = Packet::tcp(world::client(9), world::vip(443)).payload(&[7; 64]).build();
    add("a first fragment without the TCP flags", &fragments(&tcp, 8, &[8])[0], tiny);
    add("a first fragment with half a TCP header", &fragments(&tcp, 8, &[16])[0], tiny);
    add("a later fragment with the TCP flags", &fragments(&tcp, 8, &[8])[1], tiny);
    let mut long = fragments(&tcp, 8, &[24])[0].clone();
    long[46] = 0x80;
    add("a first fragment with half the TCP options", &long, tiny);

    let overlapping = dropped(Drop::OverlappingFragment);
    let good = parts(9);
    let over = &fragments(&whole, 9, &[1_472, 2_960])[1];
    cases.push(to("a first fragment that will be overlapped", &good[0], line::DNS));
    let mut add = |name: &str, frame: &[u8], verdict| cases.push(stays(name, frame, verdict));
    add("a fragment that begins before the first one's end", over, overlapping);
    add("a good one after that", &good[1], overlapping);
    add("the last one after that", &good[2], overlapping);
    cases.push(to("the identification begins anew", &good[0], line::DNS));
    cases.push(to("and with it the later ones", &good[1], line::DNS));

    let mut add = |name: &str, frame: &[u8], verdict| cases.push(stays(name, frame, verdict));
    let length = dropped(Drop::BadLength);
    let odd = fragments(&whole, 10, &[1_476, 2_960]);
    add("a first fragment of an odd length", &odd[0], length);
    let mut beyond = parts(10)[2].clone();
    // The last offset there is.
    beyond[20..22].copy_from_slice(&[0x1f, 0xff]);
    add("a fragment beyond the longest packet", &beyond, length);
    add("a fragment longer than its frame", &parts(10)[1][..1_000], length);
    let mut nothing = parts(10)[1].clone();
    nothing[16..18].copy_from_slice(&[0, 20]);
    add("a fragment with nothing in it", &nothing, length);
    let mut claims = parts(10)[0].clone();
    claims[38..40].copy_from_slice(&[0, 7]);
    add("a first fragment of an impossible datagram", &claims, dropped(Drop::BadTransport));

    add(
        "a flooded fragment",
        &fragments(
            &Packet::udp(world::client(9), world::vip(53))
                .payload(&[7; 64])
                .to_mac(CLIENT_MAC)
                .build(),
            11,
            &[32],
        )[0],
        Verdict::Pass(Pass::OtherHost),
    );
    let nobody = fragments(&datagram(9, 444, 64), 12, &[32]);
    add("a first fragment to a port without a service", &nobody[0], Verdict::Pass(Pass::NoService));
    add("and a later one", &nobody[1], Verdict::Pass(Pass::NoService));
    let tcp = |port| Packet::tcp(world::client(9), world::vip(port)).payload(&[7; 64]).build();
    let lost = fragments(&tcp(8080), 13, &[32]);
    add("a first fragment that nobody takes", &lost[0], dropped(Drop::NoBackend));
    add("and a later one of it", &lost[1], dropped(Drop::NoBackend));
    let refused = fragments(&tcp(REJECTED), 14, &[32]);
    add("fragments are not refused by an answer", &refused[0], dropped(Drop::NotAnswerable));
    let large = fragments(&datagram(9, TUNNELS[0][0], 3_000), 15, &[1_480]);
    add("a first fragment too big for its tunnel", &large[0], dropped(Drop::TooBig));
    let echo = fragments(&Packet::echo(CLIENT.into(), VIP.into()).build(), 16, &[8]);
    add("a fragment of an echo", &echo[0], dropped(Drop::Fragment));
    add("a later fragment of an echo", &echo[1], dropped(Drop::Fragment));
}
