//! Builds frames with right lengths and checksums, for tests, benchmarks and explanations, and for
//! what userspace sends.

mod fragments;

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::address::Mac;
use crate::checksum::fold;
use crate::flow::protocol;
use crate::parse::ether_type;
pub use crate::parse::tcp_flag;

pub use fragments::fragments;

/// A frame to be: link-layer addresses, tags, and what it carries.
#[derive(Clone, Debug)]
pub struct Packet {
    destination: Mac,
    source: Mac,
    tags: Vec<(u16, u16)>,
    body: Body,
}

#[derive(Clone, Debug)]
enum Body {
    Ip(Ip),
    Arp([u8; 28]),
}

#[derive(Clone, Debug)]
struct Ip {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    hop_limit: u8,
    /// IPv4 options, or IPv6 extension headers with the number that announces the first one.
    options: Vec<u8>,
    extension: Option<u8>,
    fragment: Option<(u16, bool)>,
    identification: u16,
    traffic_class: u8,
    flow_label: u32,
    transport: Transport,
}

#[derive(Clone, Debug)]
enum Transport {
    Tcp {
        ports: (u16, u16),
        flags: u8,
        numbers: (u32, u32),
        window: u16,
        payload: Vec<u8>,
    },
    Udp {
        ports: (u16, u16),
        payload: Vec<u8>,
    },
    Icmp(Vec<u8>),
    /// Something without a checksum of its own.
    Raw(Vec<u8>),
}

impl Packet {
    /// A TCP segment; both ends of one family.
    pub fn tcp(source: SocketAddr, destination: SocketAddr) -> Self {
        let ports = (source.port(), destination.port());
        let transport = Transport::Tcp {
            ports,
            flags: tcp_flag::ACK,
            numbers: (SEQUENCE, ACKNOWLEDGEMENT),
            window: 0xffff,
            payload: Vec::new(),
        };
        Self::ip(source.ip(), destination.ip(), protocol::TCP, transport)
    }

    /// A UDP datagram; both ends of one family.
    pub fn udp(source: SocketAddr, destination: SocketAddr) -> Self {
        let ports = (source.port(), destination.port());
        let transport = Transport::Udp { ports, payload: Vec::new() };
        Self::ip(source.ip(), destination.ip(), protocol::UDP, transport)
    }

    /// Another IP packet, in IP (RFC 2003, RFC 2473).
    pub fn carrying(source: IpAddr, destination: IpAddr, inner: &[u8]) -> Self {
        let number = if inner[0] >> 4 == 4 { protocol::IPV4 } else { protocol::IPV6 };
        Self::ip(source, destination, number, Transport::Raw(inner.to_vec()))
    }

    /// An echo request with an identifier and a sequence number of 1.
    pub fn echo(source: IpAddr, destination: IpAddr) -> Self {
        let kind = if destination.is_ipv4() { 8 } else { 128 };
        let body = [0x12, 0x34, 0, 1, b'l', b'b', b'!', b'!'];
        Self::icmp(source, destination, kind, &body)
    }

    /// An ICMP or ICMPv6 message of code 0; `body` is what follows the checksum.
    pub fn icmp(source: IpAddr, destination: IpAddr, kind: u8, body: &[u8]) -> Self {
        let number = match destination {
            IpAddr::V4(_) => protocol::ICMP,
            IpAddr::V6(_) => protocol::ICMPV6,
        };
        let message = [&[kind, 0, 0, 0], body].concat();
        Self::ip(source, destination, number, Transport::Icmp(message))
    }

    /// A neighbour solicitation (RFC 4861 section 4.3) for `target` to its solicited-node
    /// group, with its source link-layer address unless `source` is unspecified.
    pub fn neighbour_solicitation(source: Ipv6Addr, target: Ipv6Addr) -> Self {
        let tail = target.octets();
        let group = Ipv6Addr::from([
            0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, tail[13], tail[14], tail[15],
        ]);
        let mut body = alloc::vec![0; 4];
        body.extend(target.octets());
        if !source.is_unspecified() {
            body.extend([1, 1]);
            body.extend(CLIENT_MAC.octets());
        }
        let mut packet = Self::icmp(source.into(), group.into(), 135, &body);
        packet.destination = Mac::new([0x33, 0x33, 0xff, tail[13], tail[14], tail[15]]);
        packet.hop_limit(255)
    }

    /// A broadcast ARP request (RFC 826) from [`CLIENT_MAC`].
    pub fn arp_request(source: Ipv4Addr, target: Ipv4Addr) -> Self {
        let mut body = [0; 28];
        body[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
        body[8..14].copy_from_slice(&CLIENT_MAC.octets());
        body[14..18].copy_from_slice(&source.octets());
        body[24..].copy_from_slice(&target.octets());
        Self {
            destination: Mac::BROADCAST,
            source: CLIENT_MAC,
            tags: Vec::new(),
            body: Body::Arp(body),
        }
    }

    fn ip(source: IpAddr, destination: IpAddr, protocol: u8, transport: Transport) -> Self {
        Self {
            destination: BALANCER_MAC,
            source: CLIENT_MAC,
            tags: Vec::new(),
            body: Body::Ip(Ip {
                source,
                destination,
                protocol,
                hop_limit: 61,
                options: Vec::new(),
                extension: None,
                fragment: None,
                identification: 0x1d0d,
                traffic_class: 0,
                flow_label: 0,
                transport,
            }),
        }
    }

    /// Adds a VLAN tag behind those that are there.
    #[must_use]
    pub fn tag(mut self, tag_type: u16, id: u16) -> Self {
        self.tags.push((tag_type, id));
        self
    }

    /// Sent to another hardware address than [`BALANCER_MAC`].
    #[must_use]
    pub fn to_mac(mut self, destination: Mac) -> Self {
        self.destination = destination;
        self
    }

    /// Sent from another hardware address than [`CLIENT_MAC`].
    #[must_use]
    pub fn from_mac(mut self, source: Mac) -> Self {
        self.source = source;
        self
    }

    /// With other TCP flags than ACK.
    #[must_use]
    pub fn flags(self, set: u8) -> Self {
        self.edit(|ip| {
            if let Transport::Tcp { flags, .. } = &mut ip.transport {
                *flags = set;
            }
        })
    }

    /// A TCP segment with these sequence and acknowledgement numbers, and a window of 0: as
    /// resets are.
    #[must_use]
    pub fn numbers(self, sequence: u32, acknowledgement: u32) -> Self {
        self.edit(|ip| {
            if let Transport::Tcp { numbers, window, .. } = &mut ip.transport {
                *numbers = (sequence, acknowledgement);
                *window = 0;
            }
        })
    }

    /// With an identification and type of service of 0, as answers have.
    #[must_use]
    pub fn unidentified(self) -> Self {
        self.edit(|ip| ip.identification = 0)
    }

    /// With a payload.
    #[must_use]
    pub fn payload(self, bytes: &[u8]) -> Self {
        self.edit(|ip| match &mut ip.transport {
            Transport::Tcp { payload, .. } | Transport::Udp { payload, .. } => {
                *payload = bytes.to_vec();
            }
            Transport::Icmp(_) | Transport::Raw(_) => {}
        })
    }

    /// With DSCP and ECN.
    #[must_use]
    pub fn traffic_class(self, class: u8) -> Self {
        self.edit(|ip| ip.traffic_class = class)
    }

    /// With an IPv6 flow label.
    #[must_use]
    pub fn flow_label(self, label: u32) -> Self {
        self.edit(|ip| ip.flow_label = label)
    }

    /// With a hop limit (time to live).
    #[must_use]
    pub fn hop_limit(self, limit: u8) -> Self {
        self.edit(|ip| ip.hop_limit = limit)
    }

    /// With IPv4 options, a multiple of four bytes and at most 40.
    #[must_use]
    pub fn ipv4_options(self, bytes: &[u8]) -> Self {
        self.edit(|ip| ip.options = bytes.to_vec())
    }

    /// With an IPv6 extension header in front of those that are there. `header` is whole but for
    /// its first byte, which is filled in.
    #[must_use]
    pub fn extension(self, number: u8, header: &[u8]) -> Self {
        self.edit(|ip| {
            let mut bytes = header.to_vec();
            bytes[0] = ip.extension.unwrap_or(ip.protocol);
            bytes.append(&mut ip.options);
            ip.options = bytes;
            ip.extension = Some(number);
        })
    }

    /// As an IPv4 fragment: offset in units of eight bytes, and whether more follow.
    #[must_use]
    pub fn fragment(self, offset: u16, more: bool) -> Self {
        self.edit(|ip| ip.fragment = Some((offset, more)))
    }

    fn edit(mut self, change: impl FnOnce(&mut Ip)) -> Self {
        if let Body::Ip(ip) = &mut self.body {
            change(ip);
        }
        self
    }

    /// The frame's bytes.
    pub fn build(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.destination.octets());
        frame.extend(self.source.octets());
        for (tag_type, id) in &self.tags {
            frame.extend(tag_type.to_be_bytes());
            frame.extend(id.to_be_bytes());
        }
        match &self.body {
            Body::Arp(body) => {
                frame.extend(ether_type::ARP.to_be_bytes());
                frame.extend(body);
            }
            Body::Ip(ip) => match (ip.source, ip.destination) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => {
                    frame.extend(ether_type::IPV4.to_be_bytes());
                    ip.build_v4(source, destination, &mut frame);
                }
                (source, destination) => {
                    frame.extend(ether_type::IPV6.to_be_bytes());
                    ip.build_v6(as_v6(source), as_v6(destination), &mut frame);
                }
            },
        }
        frame
    }

    /// The bytes behind the link layer.
    pub fn build_datagram(&self) -> Vec<u8> {
        self.build().split_off(ETHERNET + TAG * self.tags.len())
    }
}

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Bytes of a VLAN tag.
const TAG: usize = 4;
/// Sequence number of TCP segments built here.
pub const SEQUENCE: u32 = 0x1000_0001;
/// Acknowledgement number of TCP segments built here.
pub const ACKNOWLEDGEMENT: u32 = 0x2000_0002;
/// Hardware address of the one who asks, in frames built here.
pub const CLIENT_MAC: Mac = Mac::new([2, 0, 0, 0, 0, 0x10]);
/// Hardware address of the balancer, in frames built here.
pub const BALANCER_MAC: Mac = Mac::new([2, 0, 0, 0, 0, 0x11]);

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

impl Ip {
    fn build_v4(&self, source: Ipv4Addr, destination: Ipv4Addr, frame: &mut Vec<u8>) {
        let mut pseudo = Vec::new();
        pseudo.extend(source.octets());
        pseudo.extend(destination.octets());
        // ICMP has no pseudo-header: RFC 792.
        let pseudo = if self.protocol == protocol::ICMP { Vec::new() } else { pseudo };
        let transport = self.transport.build(&pseudo, self.protocol);
        let header = 20 + self.options.len();
        let fragment = match self.fragment {
            Some((offset, more)) => offset & 0x1fff | u16::from(more) << 13,
            None => 0x4000,
        };
        let start = frame.len();
        frame.push(0x40 | (header / 4) as u8);
        frame.push(self.traffic_class);
        frame.extend(((header + transport.len()) as u16).to_be_bytes());
        frame.extend(self.identification.to_be_bytes());
        frame.extend(fragment.to_be_bytes());
        frame.extend([self.hop_limit, self.protocol, 0, 0]);
        frame.extend(source.octets());
        frame.extend(destination.octets());
        frame.extend(&self.options);
        let sum = !internet_sum(&frame[start..]);
        frame[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
        frame.extend(transport);
    }

    fn build_v6(&self, source: Ipv6Addr, destination: Ipv6Addr, frame: &mut Vec<u8>) {
        let mut pseudo = Vec::new();
        pseudo.extend(source.octets());
        pseudo.extend(destination.octets());
        let transport = self.transport.build(&pseudo, self.protocol);
        let first = 6 << 28 | u32::from(self.traffic_class) << 20 | self.flow_label;
        frame.extend(first.to_be_bytes());
        frame.extend(((self.options.len() + transport.len()) as u16).to_be_bytes());
        frame.extend([self.extension.unwrap_or(self.protocol), self.hop_limit]);
        frame.extend(pseudo);
        frame.extend(&self.options);
        frame.extend(transport);
    }
}

impl Transport {
    /// Header and payload, summed up with the addresses of the pseudo-header (none: no
    /// pseudo-header).
    fn build(&self, addresses: &[u8], protocol: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        let checksum_at = match self {
            Self::Tcp { ports, flags, numbers, window, payload } => {
                bytes.extend(ports.0.to_be_bytes());
                bytes.extend(ports.1.to_be_bytes());
                bytes.extend(numbers.0.to_be_bytes());
                bytes.extend(numbers.1.to_be_bytes());
                bytes.extend([0x50, *flags]);
                bytes.extend(window.to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend(payload);
                16
            }
            Self::Udp { ports, payload } => {
                bytes.extend(ports.0.to_be_bytes());
                bytes.extend(ports.1.to_be_bytes());
                bytes.extend(((8 + payload.len()) as u16).to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(payload);
                6
            }
            Self::Icmp(body) => {
                bytes.extend(body);
                2
            }
            Self::Raw(bytes) => return bytes.clone(),
        };
        let mut covered = addresses.to_vec();
        if !addresses.is_empty() {
            covered.extend((bytes.len() as u32).to_be_bytes());
            covered.extend([0, 0, 0, protocol]);
        }
        covered.extend(&bytes);
        let sum = !internet_sum(&covered);
        bytes[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

/// Folded sum of any number of bytes (RFC 1071).
pub fn internet_sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| match word {
        [a, b] => u32::from(*a) << 8 | u32::from(*b),
        [a] => u32::from(*a) << 8,
        _ => 0,
    });
    fold(words.fold(0, |sum, word| u32::from(fold(sum)) + word))
}
