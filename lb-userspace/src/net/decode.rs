//! What netlink's messages (rtnetlink(7)) say of links, neighbours and routes, in this crate's
//! words. Pure. What cannot be read, or is not about these, is left out.

use std::io;
use std::net::IpAddr;

use lb_common::Mac;
use netlink_packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use tracing::debug;

use super::table::{Neighbour, Reach, Route};
use crate::state::Link;

/// A change that the kernel tells of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Link(Link),
    LinkGone(u32),
    Neighbour(u32, IpAddr, Neighbour),
    NeighbourGone(u32, IpAddr),
    /// Routes or addresses: routes must be asked for again.
    Routes,
}

/// The messages of a datagram; those that cannot be read are left out.
pub(super) fn changes(mut datagram: &[u8]) -> Vec<Change> {
    let mut all = Vec::new();
    while !datagram.is_empty() {
        let length = match NetlinkBuffer::new_checked(datagram) {
            Ok(buffer) => buffer.length() as usize,
            Err(error) => {
                debug!(%error, "netlink datagram cannot be read");
                break;
            }
        };
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&datagram[..length]) {
            Ok(message) => all.extend(change(&message.payload)),
            Err(error) => debug!(%error, "netlink message cannot be read"),
        }
        // Messages start at multiples of four (NLMSG_ALIGN).
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}

fn change(payload: &NetlinkPayload<RouteNetlinkMessage>) -> Option<Change> {
    use RouteNetlinkMessage as M;
    let NetlinkPayload::InnerMessage(message) = payload else { return None };
    match message {
        M::NewLink(message) => link(message).map(Change::Link),
        // A bridge tells in the same way, but with its own family, that a port has left it.
        M::DelLink(message) if message.header.interface_family == AddressFamily::Unspec => {
            Some(Change::LinkGone(message.header.index))
        }
        M::NewNeighbour(message) => neighbour(message)
            .map(|(ifindex, address, neighbour)| Change::Neighbour(ifindex, address, neighbour)),
        M::DelNeighbour(message) => {
            neighbour(message).map(|(ifindex, address, _)| Change::NeighbourGone(ifindex, address))
        }
        M::NewRoute(_) | M::DelRoute(_) | M::NewAddress(_) | M::DelAddress(_) => {
            Some(Change::Routes)
        }
        _ => None,
    }
}

pub(super) fn link(message: &LinkMessage) -> Option<Link> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let (mut name, mut mac, mut mtu) = (None, Mac::default(), 0);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = Some(value.clone()),
            LinkAttribute::Address(value) => mac = ethernet(value).unwrap_or_default(),
            LinkAttribute::Mtu(value) => mtu = *value,
            _ => {}
        }
    }
    Some(Link {
        ifindex: message.header.index,
        // Wireless events come without a name, and say nothing of interest.
        name: name?,
        mac,
        up: message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        mtu,
    })
}

pub(super) fn neighbour(message: &NeighbourMessage) -> Option<(u32, IpAddr, Neighbour)> {
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                address = Some(IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                address = Some(IpAddr::V6(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(value) => mac = ethernet(value),
            _ => {}
        }
    }
    let reach = match message.header.state {
        NeighbourState::Incomplete => Reach::Incomplete,
        NeighbourState::Reachable => Reach::Reachable,
        NeighbourState::Stale => Reach::Stale,
        NeighbourState::Delay => Reach::Delay,
        NeighbourState::Probe => Reach::Probe,
        NeighbourState::Failed => Reach::Failed,
        NeighbourState::Noarp => Reach::NoArp,
        NeighbourState::Permanent => Reach::Permanent,
        // States are single bits; a combination or a new one promises nothing.
        _ => Reach::None,
    };
    Some((message.header.ifindex, address?, Neighbour { reach, mac }))
}

pub(super) fn route(message: &RouteMessage) -> Route {
    let unusable = |words: &str| Route::Unusable(words.to_owned());
    match message.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => return unusable("it is an address of this host"),
        RouteType::Broadcast => return unusable("it is a broadcast address"),
        RouteType::Anycast => return unusable("it is an anycast address"),
        RouteType::Multicast => return unusable("it is a multicast address"),
        RouteType::BlackHole => return unusable("the route there is a blackhole"),
        RouteType::Unreachable => return unusable("the route there is `unreachable`"),
        RouteType::Prohibit => return unusable("the route there is `prohibit`"),
        other => {
            return Route::Unusable(format!("the route there is of a strange type, {other:?}"));
        }
    }
    let (mut ifindex, mut gateway, mut local) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(value) => ifindex = Some(*value),
            RouteAttribute::Gateway(RouteAddress::Inet(v4))
            | RouteAttribute::Via(RouteVia::Inet(v4)) => gateway = Some((*v4).into()),
            RouteAttribute::Gateway(RouteAddress::Inet6(v6))
            | RouteAttribute::Via(RouteVia::Inet6(v6)) => gateway = Some((*v6).into()),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => {
                return unusable("the route there has a gateway of a strange kind");
            }
            RouteAttribute::PrefSource(RouteAddress::Inet(v4)) => local = Some((*v4).into()),
            RouteAttribute::PrefSource(RouteAddress::Inet6(v6)) => local = Some((*v6).into()),
            _ => {}
        }
    }
    match ifindex {
        Some(ifindex) => Route::By { ifindex, gateway, local },
        None => unusable("the route there has no interface"),
    }
}

/// What an error instead of a route means (`fib_props` in net/ipv4/fib_semantics.c,
/// `ip6_rt_type_to_error` in net/ipv6/route.c).
pub(super) fn refusal(code: i32) -> Route {
    Route::Unusable(match code {
        libc::ENETUNREACH => return Route::Missing,
        libc::EHOSTUNREACH => "the route there is `unreachable`".to_owned(),
        libc::EACCES => "the route there is `prohibit`".to_owned(),
        libc::EINVAL => "the route there is a blackhole".to_owned(),
        other => format!("the kernel refuses a route: {}", io::Error::from_raw_os_error(other)),
    })
}

/// A hardware address, if it is one of Ethernet.
fn ethernet(octets: &[u8]) -> Option<Mac> {
    octets.try_into().ok().map(Mac::new)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn datagram(messages: &[RouteNetlinkMessage]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for message in messages {
            let mut message = NetlinkMessage::from(message.clone());
            message.finalize();
            let start = bytes.len();
            bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut bytes[start..]);
        }
        bytes
    }

    fn link_message(family: AddressFamily) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.interface_family = family;
        message.header.index = 7;
        message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
        message.attributes = vec![
            LinkAttribute::IfName("eth0".to_owned()),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 7]),
            LinkAttribute::Mtu(9000),
        ];
        message
    }

    fn neighbour_message() -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = 7;
        message.header.state = NeighbourState::Stale;
        let address: IpAddr = "192.0.2.21".parse().unwrap();
        message.attributes = vec![
            NeighbourAttribute::Destination(address.into()),
            NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 0x21]),
        ];
        message
    }

    #[test]
    fn a_datagram_with_several_messages_gives_all_their_changes() {
        let bytes = datagram(&[
            RouteNetlinkMessage::NewLink(link_message(AddressFamily::Unspec)),
            RouteNetlinkMessage::NewNeighbour(neighbour_message()),
            RouteNetlinkMessage::DelRoute(RouteMessage::default()),
        ]);
        let link = Link {
            ifindex: 7,
            name: "eth0".to_owned(),
            mac: Mac::new([2, 0, 0, 0, 0, 7]),
            up: true,
            mtu: 9000,
        };
        let mac = Some(Mac::new([2, 0, 0, 0, 0, 0x21]));
        let address = "192.0.2.21".parse().unwrap();
        let expected = [
            Change::Link(link),
            Change::Neighbour(7, address, Neighbour { reach: Reach::Stale, mac }),
            Change::Routes,
        ];
        assert_eq!(changes(&bytes), expected);
    }

    #[test]
    fn a_port_that_leaves_a_bridge_is_no_link_that_goes() {
        let bytes = datagram(&[
            RouteNetlinkMessage::DelLink(link_message(AddressFamily::Bridge)),
            RouteNetlinkMessage::NewLink(link_message(AddressFamily::Bridge)),
        ]);
        assert_eq!(changes(&bytes), []);
        let bytes = datagram(&[RouteNetlinkMessage::DelLink(link_message(AddressFamily::Unspec))]);
        assert_eq!(changes(&bytes), [Change::LinkGone(7)]);
    }

    #[test]
    fn a_link_is_up_only_with_a_carrier() {
        let mut message = link_message(AddressFamily::Unspec);
        for (flags, up) in [
            (LinkFlags::empty(), false),
            (LinkFlags::Up, false),
            (LinkFlags::LowerUp, false),
            (LinkFlags::Up | LinkFlags::LowerUp | LinkFlags::Running, true),
        ] {
            message.header.flags = flags;
            assert_eq!(link(&message).map(|link| link.up), Some(up), "{flags:?}");
        }
    }

    #[test]
    fn proxies_and_nameless_links_are_left_out() {
        let mut message = neighbour_message();
        message.header.flags = NeighbourFlags::Proxy;
        assert_eq!(neighbour(&message), None);
        let mut message = link_message(AddressFamily::Unspec);
        message.attributes.remove(0);
        assert_eq!(link(&message), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(
            noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = datagram(&[
                RouteNetlinkMessage::NewNeighbour(neighbour_message()),
                RouteNetlinkMessage::NewLink(link_message(AddressFamily::Unspec)),
            ]);
            for (at, value) in noise {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let length = cut.index(bytes.len());
            changes(&bytes[..length]);
            changes(&bytes);
        }
    }
}
