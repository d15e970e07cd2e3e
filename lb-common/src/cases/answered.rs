//! Frames that become their own answers: requests for VIPs, and flows that are refused.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Case;
use super::world::{self, CLIENT, CLIENT6, REJECTED, VIP, VIP_MAC, VIP_REJECT6, VIP6};
use crate::address::Mac;
use crate::builder::{ACKNOWLEDGEMENT, BALANCER_MAC, CLIENT_MAC, Packet, SEQUENCE, tcp_flag};
use crate::parse::ether_type::{SERVICE_VLAN, VLAN};
use crate::verdict::{Answer, Drop, Verdict};

pub(super) fn answered(cases: &mut Vec<Case>) {
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

pub(super) fn refused(cases: &mut Vec<Case>) {
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
pub(super) fn set_code(frame: &mut [u8], at: usize, code: u8) {
    frame[at + 1] = code;
    let sum = u16::from_be_bytes([frame[at + 2], frame[at + 3]]);
    let (sum, borrow) = sum.overflowing_sub(u16::from(code));
    frame[at + 2..at + 4].copy_from_slice(&sum.wrapping_sub(u16::from(borrow)).to_be_bytes());
}
