//! The balanced service of the benchmarks: a hundred backends behind one VIP of each family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::builder::{BALANCER_MAC, Packet};
use lb_common::cases::INGRESS;
use lb_common::flow::protocol;
use lb_common::maps::{
    BACKEND_IN_USE, BACKEND_RESOLVED, BACKEND_SERVING, Backend, Interface, Service, ServiceKey,
};
use lb_common::memory::MemoryTables;
use lb_common::slot::Slot;
use lb_common::{Address, Mac, bank};
use lb_userspace::maglev::{self, Member};

/// IP versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }

    /// Where the last four bytes of the source address stand in an untagged frame, and where the
    /// source port does.
    pub(super) fn offsets(self) -> (u32, u32) {
        match self {
            Self::Ipv4 => (26, 34),
            Self::Ipv6 => (34, 54),
        }
    }

    fn vip(self) -> IpAddr {
        match self {
            Self::Ipv4 => Ipv4Addr::new(192, 0, 2, 100).into(),
            Self::Ipv6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100).into(),
        }
    }

    fn client(self) -> IpAddr {
        match self {
            Self::Ipv4 => Ipv4Addr::new(198, 51, 0, 0).into(),
            Self::Ipv6 => Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0).into(),
        }
    }
}

/// Transport protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Slots of the service that a case is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slots {
    /// Steady.
    Steady,
    /// All of them moving.
    Moving,
}

impl Slots {
    fn port(self) -> u16 {
        match self {
            Self::Steady => 443,
            Self::Moving => 444,
        }
    }

    fn base(self) -> u32 {
        match self {
            Self::Steady => 0,
            Self::Moving => SLOTS.next_multiple_of(16),
        }
    }
}

const SLOTS: u32 = 65_537;
const BACKENDS: u16 = 100;

/// The frame that all flows of a case start from, of at least 60 bytes as on a wire.
pub(super) fn frame(family: Family, transport: Transport, slots: Slots) -> Vec<u8> {
    let source = SocketAddr::new(family.client(), 0x8000);
    let destination = SocketAddr::new(family.vip(), slots.port());
    let packet = match transport {
        Transport::Tcp => Packet::tcp(source, destination),
        Transport::Udp => Packet::udp(source, destination),
    };
    packet.payload(&[0; 10]).build()
}

/// MAC of a backend.
fn backend_mac(number: u16) -> Mac {
    Mac::new([2, 0, 0, 1, (number >> 8) as u8, number as u8])
}

/// Whether a frame's first twelve bytes are those of a forwarded one.
pub(super) fn is_forwarded(macs: &[u8]) -> bool {
    let to_backend = (1..=BACKENDS).any(|number| macs[..6] == backend_mac(number).octets());
    to_backend && macs[6..12] == BALANCER_MAC.octets()
}

/// The tables.
pub(super) fn tables() -> MemoryTables {
    let mut tables = MemoryTables::new(2 * super::super::prog_run::lines(SLOTS), 256);
    tables.control.hash_key = [0x5bd1_e995_9bd1_e995, 0xc2b2_ae3d_27d4_eb4f];
    let listeners: Vec<Service> = [Family::Ipv4, Family::Ipv6]
        .into_iter()
        .flat_map(|family| [(family, protocol::TCP), (family, protocol::UDP)])
        .flat_map(|kind| [(kind, Slots::Steady), (kind, Slots::Moving)])
        .map(|((family, number), slots)| {
            let key = ServiceKey::new(Address::from(family.vip()), slots.port(), number);
            Service {
                vip: key.vip,
                port_and_protocol: key.port_and_protocol,
                id: 1 + slots.base(),
                slot_base: slots.base(),
                slot_count: SLOTS,
                backend_base: 0,
                backend_lines: 256,
                ..Service::default()
            }
        })
        .collect();
    tables.set_services(&bank::fill(&listeners).expect("eight listeners fit"));
    let address = |number: u16| Address::from_v4([10, 0, (number >> 8) as u8, number as u8]);
    let members: Vec<Member> = (1..=BACKENDS)
        .map(|number| Member { number, address: address(number), weight: 100 })
        .collect();
    for (slot, number) in maglev::table(&members, SLOTS).into_iter().enumerate() {
        tables.slots[slot] = Slot::steady(number).raw();
        let next = number % BACKENDS + 1;
        let moving = Slots::Moving.base() as usize + slot;
        tables.slots[moving] = Slot::steady(number).moved_to(next).raw();
    }
    for number in 1..=BACKENDS {
        let backend = Backend {
            next_hop: backend_mac(number).word() | BACKEND_RESOLVED,
            source: BALANCER_MAC.word(),
            address: address(number),
            ifindex: INGRESS,
            flags: BACKEND_IN_USE | BACKEND_SERVING,
            ..Backend::default()
        };
        tables.backends.insert(u32::from(number), backend);
    }
    tables.interfaces.insert(INGRESS, Interface { mac: BALANCER_MAC.word() });
    tables
}
