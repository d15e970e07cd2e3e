//! The table of cases of [`decap`](crate::decap): a frame in, what becomes of it, and the frame out.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use super::world::{CLIENT, CLIENT6, VIP, VIP6};
use crate::address::Address;
use crate::builder::{Packet, internet_sum};
use crate::decap::Outcome;
use crate::flow::protocol;
use crate::frame::MemoryFrame;
use crate::parse::{ether_type, link};
use crate::tunnel::{GUE_PORT, encapsulate};
use crate::verdict::Tunnel;

/// Where tunnels may come from: 192.0.2.8/29, 2001:db8:b::/64, and ::/20, which is shorter than
/// what IPv4 begins with.
pub const ALLOWED: &[(Address, u32)] = &[
    (Address::from_v4([192, 0, 2, 8]), 96 + 29),
    (Address::from_v6([0x20, 1, 0xd, 0xb8, 0, 0xb, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 64),
    (Address::from_v6([0; 16]), 20),
];

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it shows.
    pub name: String,
    /// The frame as it comes in.
    pub frame: Vec<u8>,
    /// What becomes of it.
    pub outcome: Outcome,
    /// The frame as it goes out, if it passes.
    pub output: Vec<u8>,
    /// Whether the frame is longer than its packet.
    pub padded: bool,
}

/// The outer addresses, a balancer's and a backend's, of either family.
pub fn outer(v6: bool) -> (Address, Address) {
    if v6 {
        let address =
            |last| Address::from_v6([0x20, 1, 0xd, 0xb8, 0, 0xb, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        (address(0x11), address(0x21))
    } else {
        (Address::from_v4([192, 0, 2, 11]), Address::from_v4([192, 0, 2, 21]))
    }
}

/// All cases; they do not depend on each other.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    taken_off(&mut cases);
    marked(&mut cases);
    refused(&mut cases);
    contradictory(&mut cases);
    not_tunnels(&mut cases);
    cases
}

/// An outer packet around an inner one.
#[derive(Clone, Copy, Debug)]
struct Kind {
    gue: bool,
    outer_v6: bool,
    inner_v6: bool,
}

impl Kind {
    fn all() -> impl Iterator<Item = Self> {
        (0..8).map(|n| Self { gue: n & 1 != 0, outer_v6: n & 2 != 0, inner_v6: n & 4 != 0 })
    }

    fn outcome(self) -> Outcome {
        if self.gue { Outcome::Gue } else { Outcome::Ipip }
    }

    /// A client's packet.
    fn inner(self) -> Packet {
        let socket = |v4: IpAddr, v6: IpAddr, port| {
            SocketAddr::new(if self.inner_v6 { v6 } else { v4 }, port)
        };
        let client = socket(CLIENT.into(), CLIENT6.into(), 40_112);
        let vip = socket(VIP.into(), VIP6.into(), 443);
        Packet::tcp(client, vip).payload(b"through the tunnel")
    }

    /// What the balancer makes of a frame.
    fn wrap(self, plain: Vec<u8>) -> Vec<u8> {
        let mut frame = MemoryFrame { bytes: plain.clone(), ingress: super::INGRESS };
        let (source, destination) = outer(self.outer_v6);
        let entropy = 0x9abc_def0;
        let tunnel = Tunnel { source, destination, gue: self.gue, entropy, covered: 0 };
        let done = link(&frame).and_then(|link| encapsulate(&mut frame, &link, &tunnel));
        assert!(done.is_some(), "a frame in memory has room");
        // The balancer would write its own and the next hop's.
        with(frame.bytes, 0, &plain[..12])
    }

    fn frame(self) -> Vec<u8> {
        self.wrap(self.inner().build())
    }

    /// Where the inner packet begins in an untagged frame.
    fn at(self) -> usize {
        ETHERNET + self.outer_header() + if self.gue { 8 } else { 0 }
    }

    fn outer_header(self) -> usize {
        if self.outer_v6 { 40 } else { 20 }
    }

    fn words(self) -> String {
        let version = |v6| if v6 { 6 } else { 4 };
        let name = self.outcome().name().1;
        format!("{name}, IPv{} in IPv{}", version(self.inner_v6), version(self.outer_v6))
    }
}

const ETHERNET: usize = 14;
const V4: Kind = Kind { gue: false, outer_v6: false, inner_v6: false };
const V4_GUE: Kind = Kind { gue: true, ..V4 };
const V6: Kind = Kind { gue: false, outer_v6: true, inner_v6: true };
const V6_GUE: Kind = Kind { gue: true, ..V6 };

fn passes(cases: &mut Vec<Case>, name: &str, outcome: Outcome, frame: Vec<u8>, output: Vec<u8>) {
    cases.push(Case { name: name.to_string(), frame, outcome, output, padded: false });
}

fn drops(cases: &mut Vec<Case>, name: &str, outcome: Outcome, frame: Vec<u8>) {
    passes(cases, name, outcome, frame, Vec::new());
}

/// Writes bytes into an outer IPv4 header of an untagged frame, and makes its checksum right.
fn outer_v4(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[ETHERNET + at..][..bytes.len()].copy_from_slice(bytes);
    checksum_v4(&mut frame, ETHERNET);
    frame
}

fn checksum_v4(frame: &mut [u8], l3: usize) {
    frame[l3 + 10..l3 + 12].fill(0);
    let sum = !internet_sum(&frame[l3..l3 + 20]);
    frame[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
}

fn with(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

fn taken_off(cases: &mut Vec<Case>) {
    for kind in Kind::all() {
        for (tags, words) in [
            (&[][..], "untagged"),
            (&[(ether_type::VLAN, 10)], "with a tag"),
            (&[(ether_type::SERVICE_VLAN, 200), (ether_type::VLAN, 10)], "with two tags"),
        ] {
            let packet = tags.iter().fold(kind.inner(), |packet, (tag, id)| packet.tag(*tag, *id));
            let plain = packet.build();
            let name = format!("{} is taken off, {words}", kind.words());
            passes(cases, &name, kind.outcome(), kind.wrap(plain.clone()), plain);
        }
        let plain = [kind.inner().build(), alloc::vec![0; 9]].concat();
        let frame = [kind.frame(), alloc::vec![0; 9]].concat();
        let name = format!("{} is taken off, padding stays", kind.words());
        passes(cases, &name, kind.outcome(), frame, plain);
        if let Some(last) = cases.last_mut() {
            last.padded = true;
        }
    }
    let gue = Kind { gue: true, ..V4 };
    for inner_v6 in [false, true] {
        for outer_v6 in [false, true] {
            let kind = Kind { inner_v6, outer_v6, ..gue };
            let carried = if inner_v6 { protocol::IPV6 } else { protocol::IPV4 };
            let frame = variant_0(kind, [0, carried, 0, 0]);
            let name = format!("{}, with a header of variant 0", kind.words());
            passes(cases, &name, Outcome::Gue, frame, kind.inner().build());
        }
    }
    let options = V4.inner().ipv4_options(&[1; 8]).build();
    let name = "options of the inner packet are its own";
    passes(cases, name, Outcome::Ipip, V4.wrap(options.clone()), options);
    let echo = Packet::echo(CLIENT.into(), VIP.into()).build();
    passes(cases, "any protocol may be inside", Outcome::Ipip, V4.wrap(echo.clone()), echo);
    let fragment = V4.inner().fragment(3, true).build();
    let name = "a client's fragment is the kernel's to put together";
    passes(cases, name, Outcome::Ipip, V4.wrap(fragment.clone()), fragment);
    let frame = with(V6_GUE.frame(), ETHERNET + 40 + 6, &[0xde, 0xad]);
    let name = "a UDP checksum is not looked at";
    passes(cases, name, Outcome::Gue, frame, V6_GUE.inner().build());
}

/// A frame with a GUE header of variant 0 behind its UDP header, all lengths right.
fn variant_0(kind: Kind, header: [u8; 4]) -> Vec<u8> {
    let mut frame = kind.frame();
    frame.splice(kind.at()..kind.at(), header);
    let udp = kind.at() - 8;
    let longer = |frame: &mut Vec<u8>, at: usize| {
        let length = u16::from_be_bytes([frame[at], frame[at + 1]]) + 4;
        frame[at..at + 2].copy_from_slice(&length.to_be_bytes());
    };
    longer(&mut frame, udp + 4);
    if kind.outer_v6 {
        longer(&mut frame, ETHERNET + 4);
    } else {
        longer(&mut frame, ETHERNET + 2);
        checksum_v4(&mut frame, ETHERNET);
    }
    frame
}

/// RFC 6040 section 4.2, all of it, in all four nestings.
fn marked(cases: &mut Vec<Case>) {
    let mark = |mut frame: Vec<u8>, l3: usize, v6: bool, ecn: u8| {
        if v6 {
            frame[l3 + 1] = frame[l3 + 1] & 0xcf | ecn << 4;
        } else {
            frame[l3 + 1] = frame[l3 + 1] & 0xfc | ecn;
            checksum_v4(&mut frame, l3);
        }
        frame
    };
    // Rows: inner not-ECT, ECT(1), ECT(0), CE; columns: the outer one's in the same order.
    let table = [
        [Some(0), Some(0), Some(0), None],
        [Some(1), Some(1), Some(1), Some(3)],
        [Some(2), Some(1), Some(2), Some(3)],
        [Some(3), Some(3), Some(3), Some(3)],
    ];
    for kind in Kind::all().filter(|kind| !kind.gue) {
        for (inner, row) in (0..).zip(table) {
            for (outer, expected) in (0..).zip(row) {
                let plain = mark(kind.inner().build(), ETHERNET, kind.inner_v6, inner);
                let frame = mark(kind.wrap(plain), ETHERNET, kind.outer_v6, outer);
                let name = format!("{}, ECN {inner:02b} in {outer:02b}", kind.words());
                match expected {
                    Some(ecn) => {
                        let plain = mark(kind.inner().build(), ETHERNET, kind.inner_v6, ecn);
                        passes(cases, &name, kind.outcome(), frame, plain);
                    }
                    None => drops(cases, &name, Outcome::Congested, frame),
                }
            }
        }
    }
}

fn refused(cases: &mut Vec<Case>) {
    for kind in [V4, V4_GUE] {
        let words = kind.words();
        let name = format!("{words}, from a host next to those allowed");
        let frame = outer_v4(kind.frame(), 12, &[192, 0, 2, 16]);
        drops(cases, &name, Outcome::NotAllowed, frame);
        let name = format!("{words}, from elsewhere and broken besides");
        let frame = with(kind.frame(), ETHERNET + 12, &[203, 0, 113, 9]);
        drops(cases, &name, Outcome::NotAllowed, frame);
    }
    for kind in [V6, V6_GUE] {
        let source = |bytes: [u8; 16]| with(kind.frame(), ETHERNET + 8, &bytes);
        let name = format!("{}, from elsewhere", kind.words());
        drops(cases, &name, Outcome::NotAllowed, source([0x20; 16]));
        let name = format!("{}, from a mapped address", kind.words());
        let mapped = source([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 11]);
        drops(cases, &name, Outcome::NotAllowed, mapped);
        let name = format!("{}, from a short prefix", kind.words());
        let (frame, plain) =
            (source([0, 0, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]), kind.inner());
        passes(cases, &name, kind.outcome(), frame, plain.build());
    }
    for (flags, words) in [([0x20, 0], "first"), ([0x20, 7], "middle"), ([0, 7], "last")] {
        let frame = outer_v4(V4.frame(), 6, &flags);
        drops(cases, &format!("the {words} fragment of IP in IP"), Outcome::Fragment, frame);
    }
    let frame = outer_v4(V4_GUE.frame(), 6, &[0x20, 0]);
    drops(cases, "the first fragment of GUE", Outcome::Fragment, frame);
    for kind in [V4, V4_GUE] {
        let mut frame = kind.frame();
        frame.splice(ETHERNET + 20..ETHERNET + 20, [1, 1, 1, 1]);
        frame[ETHERNET] = 0x46;
        drops(cases, &format!("{}, with options", kind.words()), Outcome::Options, frame);
        let frame = with(kind.frame(), ETHERNET + 8, &[63]);
        let name = format!("{}, with a wrong checksum", kind.words());
        drops(cases, &name, Outcome::BadChecksum, frame);
    }
    for (header, words) in [
        ([0x20, 4, 0, 0], "a control message"),
        ([0x01, 4, 0, 0], "optional fields"),
        ([0, 4, 0, 1], "flags"),
        ([0, 17, 0, 0], "another protocol"),
        ([0x80, 4, 0, 0], "variant 2"),
        ([0xc0, 4, 0, 0], "variant 3"),
    ] {
        drops(cases, &format!("GUE with {words}"), Outcome::GueHeader, variant_0(V4_GUE, header));
    }
}

fn contradictory(cases: &mut Vec<Case>) {
    let swapped = |kind: Kind, at: usize, carried: u8| {
        let frame = with(kind.frame(), ETHERNET + at, &[carried]);
        if kind.outer_v6 { frame } else { outer_v4(frame, 0, &[]) }
    };
    drops(cases, "IPv4 that says it is IPv6", Outcome::BadInner, swapped(V4, 9, protocol::IPV6));
    drops(cases, "IPv6 that says it is IPv4", Outcome::BadInner, swapped(V6, 6, protocol::IPV4));
    let frame = with(V4_GUE.frame(), V4_GUE.at(), &[0x55]);
    drops(cases, "GUE around an IP version 5", Outcome::BadInner, frame);
    let frame = variant_0(V4_GUE, [0, protocol::IPV6, 0, 0]);
    drops(cases, "GUE that says IPv6 around IPv4", Outcome::BadInner, frame);
    let frame = with(V4.frame(), V4.at(), &[0x44]);
    drops(cases, "an inner header that is too short", Outcome::BadInner, frame);
    let frame = with(V4.frame(), V4.at() + 2, &[0, 19]);
    drops(cases, "an inner packet shorter than its header", Outcome::BadInner, frame);

    for kind in Kind::all() {
        let length = kind.frame().len() - kind.at();
        let length = if kind.inner_v6 { length - 40 } else { length } as u16;
        let at = kind.at() + if kind.inner_v6 { 4 } else { 2 };
        let name = format!("{}, the inner packet a byte longer than the outer", kind.words());
        let frame = with(kind.frame(), at, &(length + 1).to_be_bytes());
        drops(cases, &name, Outcome::BadLength, [frame, alloc::vec![0]].concat());

        let whole = (kind.frame().len() - ETHERNET) as u16 + 1;
        let name = format!("{}, an outer length a byte longer than the frame", kind.words());
        let frame = if kind.outer_v6 {
            with(kind.frame(), ETHERNET + 4, &(whole - 40).to_be_bytes())
        } else {
            outer_v4(kind.frame(), 2, &whole.to_be_bytes())
        };
        drops(cases, &name, Outcome::BadLength, frame);
    }
    for (length, words) in [(7_u16, "than its header"), (11, "than any packet in it")] {
        let frame = with(V4_GUE.frame(), V4_GUE.at() - 4, &length.to_be_bytes());
        drops(cases, &format!("a datagram shorter {words}"), Outcome::BadLength, frame);
    }
    let longer = (V4_GUE.frame().len() - V4_GUE.at() + 9) as u16;
    let frame = with(V4_GUE.frame(), V4_GUE.at() - 4, &longer.to_be_bytes());
    drops(cases, "a datagram longer than its packet", Outcome::BadLength, frame);
    let frame = outer_v4(V4.frame(), 2, &[0, 19]);
    drops(cases, "an outer packet shorter than its header", Outcome::BadLength, frame);
}

fn not_tunnels(cases: &mut Vec<Case>) {
    let mut untouched = |name: &str, frame: Vec<u8>| {
        passes(cases, name, Outcome::NoTunnel, frame.clone(), frame);
    };
    for kind in [V4, V6] {
        untouched("a client's packet without a tunnel", kind.inner().build());
    }
    let [elsewhere, vip] = [CLIENT, VIP].map(IpAddr::from);
    let udp = |from, to| {
        Packet::udp(SocketAddr::new(elsewhere, from), SocketAddr::new(vip, to)).payload(&[0x45; 60])
    };
    untouched("a datagram to another port", udp(GUE_PORT, GUE_PORT + 1).build());
    untouched("a later fragment of a datagram", udp(1, GUE_PORT).fragment(1, false).build());
    let arp = Packet::arp_request(CLIENT, VIP).build();
    untouched("ARP", arp);
    untouched("ICMP", Packet::echo(CLIENT6.into(), VIP6.into()).build());
    let tags = V4.inner().tag(ether_type::SERVICE_VLAN, 1).tag(ether_type::VLAN, 2);
    let mut three = V4.wrap(tags.build());
    three.splice(12..12, [0x81, 0, 0, 3]);
    untouched("three tags", three);
    untouched("an outer header that is cut", V4.frame()[..ETHERNET + 19].to_vec());
    untouched("a port that is cut", V4_GUE.frame()[..ETHERNET + 23].to_vec());
    untouched("a version that contradicts its EtherType", with(V4.frame(), ETHERNET, &[0x65]));
    let extended = [protocol::IPV6, 0, 1, 4, 0, 0, 0, 0];
    let mut frame = V6.frame();
    frame[ETHERNET + 6] = protocol::DESTINATION_OPTIONS;
    frame.splice(ETHERNET + 40..ETHERNET + 40, extended);
    untouched("an outer packet with extension headers", frame);
}
