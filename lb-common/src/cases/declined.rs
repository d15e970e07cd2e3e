//! Frames that go no further: those that are not ours, and those that nobody can take.

use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Case;
use super::world::{self, CLIENT, CLIENT6, VIP, VIP_ANY, VIP_STALE, VIP6, VIP6_STALE};
use crate::address::Mac;
use crate::builder::{CLIENT_MAC, Packet};
use crate::flow::protocol;
use crate::parse::ether_type::VLAN;
use crate::verdict::{Drop, Pass, Verdict};

pub(super) fn passed(cases: &mut Vec<Case>) {
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

pub(super) fn dropped(cases: &mut Vec<Case>) {
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
}
