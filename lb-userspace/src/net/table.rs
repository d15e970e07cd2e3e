//! What is known of links, neighbours and routes, and the next hops that follow. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lb_common::Mac;

use crate::state::{Link, NextHop};

/// What the kernel told so far.
#[derive(Clone, Debug, Default)]
pub struct Table {
    links: BTreeMap<u32, Link>,
    neighbours: BTreeMap<(u32, IpAddr), Neighbour>,
    routes: BTreeMap<IpAddr, Route>,
    /// The interface that an address was last on-link by: when an interface goes down, its
    /// routes vanish, and "no route" alone would hide the cause.
    last_seen_on: BTreeMap<IpAddr, u32>,
}

/// The route that the kernel chose for an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// By an interface of ours.
    By {
        /// The interface.
        ifindex: u32,
        /// The router, if the address is not on the interface's own segment.
        gateway: Option<IpAddr>,
        /// Our own address that the kernel would send from.
        local: Option<IpAddr>,
    },
    /// None.
    Missing,
    /// One that leads to no neighbour, and why, in words.
    Unusable(String),
}

/// An entry of the kernel's neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// What the kernel thinks of it.
    pub reach: Reach,
    /// Its hardware address; that of a valid entry counts only.
    pub mac: Option<Mac>,
}

/// The states of a neighbour (`NUD_*` in linux/neighbour.h, RFC 4861 section 7.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Known by name only.
    None,
    /// Asked, and no answer yet.
    Incomplete,
    /// Confirmed lately.
    Reachable,
    /// Confirmed some time ago.
    Stale,
    /// Used while stale: will be asked soon.
    Delay,
    /// Being asked whether it is still there.
    Probe,
    /// Asked in vain.
    Failed,
    /// On a device without resolution.
    NoArp,
    /// Set by hand.
    Permanent,
}

/// What should be done about an address, so that its hardware address is known and true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing can be asked, or nothing needs to be.
    Nothing,
    /// The kernel is asking.
    Wait,
    /// Nobody has asked, or in vain.
    Resolve {
        /// Where.
        ifindex: u32,
        /// Whom: the address itself, or the router that it is behind.
        neighbour: IpAddr,
    },
    /// There is an answer, which may be out of date.
    Verify {
        /// Where.
        ifindex: u32,
        /// Whom, likewise.
        neighbour: IpAddr,
        /// Whether the kernel itself thinks so.
        stale: bool,
    },
}

impl Table {
    /// Takes a new or changed link.
    pub fn set_link(&mut self, link: Link) {
        self.links.insert(link.ifindex, link);
    }

    /// Forgets a link and its neighbours.
    pub fn remove_link(&mut self, ifindex: u32) {
        self.links.remove(&ifindex);
        self.neighbours.retain(|&(on, _), _| on != ifindex);
    }

    /// All links by index.
    pub const fn links(&self) -> &BTreeMap<u32, Link> {
        &self.links
    }

    /// Takes a new or changed neighbour.
    pub fn set_neighbour(&mut self, ifindex: u32, address: IpAddr, neighbour: Neighbour) {
        self.neighbours.insert((ifindex, address), neighbour);
    }

    /// Forgets a neighbour.
    pub fn remove_neighbour(&mut self, ifindex: u32, address: IpAddr) {
        self.neighbours.remove(&(ifindex, address));
    }

    /// Forgets links and neighbours, before all are told anew.
    pub fn clear(&mut self) {
        self.links.clear();
        self.neighbours.clear();
    }

    /// Takes the route to an address.
    pub fn set_route(&mut self, address: IpAddr, route: Route) {
        if let Route::By { ifindex, .. } = route {
            self.last_seen_on.insert(address, ifindex);
        }
        self.routes.insert(address, route);
    }

    /// Forgets what is known of addresses that `wanted` does not want.
    pub fn retain_routes(&mut self, wanted: impl Fn(&IpAddr) -> bool) {
        self.routes.retain(|address, _| wanted(address));
        self.last_seen_on.retain(|address, _| wanted(address));
    }

    /// The way to an address: whoever is next on it must have a valid neighbour entry. `None` before
    /// its route is known.
    pub fn next_hop(&self, address: IpAddr) -> Option<NextHop> {
        let found = match self.routes.get(&address)? {
            Route::By { ifindex, gateway, local } => self.by(*ifindex, address, *gateway, *local),
            Route::Missing => Err(self.missing(address)),
            Route::Unusable(why) => Err(why.clone()),
        };
        Some(found.unwrap_or_else(NextHop::Unresolved))
    }

    fn by(
        &self,
        ifindex: u32,
        address: IpAddr,
        gateway: Option<IpAddr>,
        local: Option<IpAddr>,
    ) -> Result<NextHop, String> {
        let address = gateway.unwrap_or(address);
        let link =
            self.links.get(&ifindex).ok_or_else(|| format!("interface {ifindex} is gone"))?;
        let name = &link.name;
        if !link.up {
            return Err(format!("{name} is down"));
        }
        if link.mac.is_zero() {
            return Err(format!("{name} has no hardware address: l2 needs Ethernet"));
        }
        let neighbour = self.neighbours.get(&(ifindex, address));
        match neighbour.map_or(Reach::None, |neighbour| neighbour.reach) {
            Reach::Reachable
            | Reach::Stale
            | Reach::Delay
            | Reach::Probe
            | Reach::NoArp
            | Reach::Permanent => {}
            Reach::Incomplete | Reach::Failed => {
                let question = match address {
                    IpAddr::V4(_) => "ARP",
                    IpAddr::V6(_) => "neighbour discovery",
                };
                let who = gateway.map(|gateway| format!(" from gateway {gateway}"));
                let who = who.unwrap_or_default();
                return Err(format!("no answer to {question}{who} on {name}"));
            }
            Reach::None => return Err(format!("not yet asked on {name}")),
        }
        match neighbour.and_then(|neighbour| neighbour.mac) {
            Some(mac) if !mac.is_zero() && !mac.is_multicast() => {
                let (interface, source, mtu) = (name.clone(), link.mac, link.mtu);
                Ok(NextHop::Resolved { ifindex, interface, mac, source, gateway, local, mtu })
            }
            Some(mac) => Err(format!("{mac} on {name} is no hardware address of one host")),
            None => Err(format!("no hardware address on {name}")),
        }
    }

    fn missing(&self, address: IpAddr) -> String {
        match self.last_seen_on.get(&address).and_then(|ifindex| self.links.get(ifindex)) {
            Some(link) if !link.up => format!("{} is down", link.name),
            _ => "no route".to_owned(),
        }
    }

    /// Whose hardware address packets to an address are sent to, and where.
    fn next_on_the_way(&self, address: IpAddr) -> Option<(u32, IpAddr)> {
        match self.routes.get(&address)? {
            Route::By { ifindex, gateway, .. } => Some((*ifindex, gateway.unwrap_or(address))),
            Route::Missing | Route::Unusable(_) => None,
        }
    }

    /// Whether nobody can tell yet where an address is: its neighbour was not asked, or has not
    /// answered so far.
    pub fn is_open(&self, address: IpAddr) -> bool {
        let Some((ifindex, address)) = self.next_on_the_way(address) else { return false };
        let is_asking = self.links.get(&ifindex).is_some_and(|link| link.up && !link.mac.is_zero());
        let neighbour = self.neighbours.get(&(ifindex, address));
        let reach = neighbour.map_or(Reach::None, |neighbour| neighbour.reach);
        is_asking && matches!(reach, Reach::None | Reach::Incomplete)
    }

    /// What should be done about an address.
    pub fn need(&self, address: IpAddr) -> Need {
        let Some((ifindex, neighbour)) = self.next_on_the_way(address) else {
            return Need::Nothing;
        };
        match self.links.get(&ifindex) {
            Some(link) if link.up && !link.mac.is_zero() => {}
            _ => return Need::Nothing,
        }
        match self.neighbours.get(&(ifindex, neighbour)).map_or(Reach::None, |known| known.reach) {
            Reach::None | Reach::Failed => Need::Resolve { ifindex, neighbour },
            Reach::Incomplete | Reach::Probe => Need::Wait,
            Reach::Reachable => Need::Verify { ifindex, neighbour, stale: false },
            // The kernel would stay in delay for five seconds, in the hope of a sign of life.
            Reach::Stale | Reach::Delay => Need::Verify { ifindex, neighbour, stale: true },
            Reach::NoArp | Reach::Permanent => Need::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Mac = Mac::new([2, 0, 0, 0, 0, 1]);
    const THEIRS: Mac = Mac::new([2, 0, 0, 0, 0, 0x21]);

    fn eth0() -> Link {
        Link { ifindex: 2, name: "eth0".to_owned(), mac: OURS, up: true, mtu: 1500 }
    }

    fn v4() -> IpAddr {
        "192.0.2.21".parse().unwrap()
    }

    fn v6() -> IpAddr {
        "2001:db8::21".parse().unwrap()
    }

    fn on_link(ifindex: u32) -> Route {
        Route::By { ifindex, gateway: None, local: None }
    }

    /// Both addresses on-link at eth0, with this neighbour entry.
    fn table(neighbour: Option<Neighbour>) -> Table {
        let mut table = Table::default();
        table.set_link(eth0());
        for address in [v4(), v6()] {
            table.set_route(address, on_link(2));
            if let Some(neighbour) = neighbour {
                table.set_neighbour(2, address, neighbour);
            }
        }
        table
    }

    fn resolved() -> NextHop {
        NextHop::Resolved {
            ifindex: 2,
            interface: "eth0".to_owned(),
            mac: THEIRS,
            source: OURS,
            gateway: None,
            local: None,
            mtu: 1500,
        }
    }

    fn unresolved(why: &str) -> Option<NextHop> {
        Some(NextHop::Unresolved(why.to_owned()))
    }

    #[test]
    fn every_neighbour_state_has_its_next_hop_and_its_need() {
        use Reach as R;
        let resolve = |neighbour| Need::Resolve { ifindex: 2, neighbour };
        let stale = |stale| move |neighbour| Need::Verify { ifindex: 2, neighbour, stale };
        let (verify, verify_stale) = (stale(false), stale(true));
        /// A state, its next hop or why there is none by family, and what is needed of whom.
        type Row<'a> = (R, Result<(), [&'static str; 2]>, &'a dyn Fn(IpAddr) -> Need);
        let no_answer =
            Err(["no answer to ARP on eth0", "no answer to neighbour discovery on eth0"]);
        let not_asked = Err(["not yet asked on eth0"; 2]);
        let table_of_cases: [Row<'_>; 9] = [
            (R::None, not_asked, &resolve),
            (R::Incomplete, no_answer, &|_| Need::Wait),
            (R::Reachable, Ok(()), &verify),
            (R::Stale, Ok(()), &verify_stale),
            (R::Delay, Ok(()), &verify_stale),
            (R::Probe, Ok(()), &|_| Need::Wait),
            (R::Failed, no_answer, &resolve),
            (R::NoArp, Ok(()), &|_| Need::Nothing),
            (R::Permanent, Ok(()), &|_| Need::Nothing),
        ];
        for (reach, hop, need) in table_of_cases {
            let table = table(Some(Neighbour { reach, mac: Some(THEIRS) }));
            for (address, family) in [(v4(), 0), (v6(), 1)] {
                let expected = match hop {
                    Ok(()) => Some(resolved()),
                    Err(words) => unresolved(words[family]),
                };
                assert_eq!(table.next_hop(address), expected, "{reach:?} {address}");
                assert_eq!(table.need(address), need(address), "{reach:?} {address}");
            }
        }
        assert_eq!(table(None).next_hop(v4()), unresolved("not yet asked on eth0"));
        assert_eq!(table(None).need(v4()), resolve(v4()));
    }

    #[test]
    fn a_question_is_open_until_it_is_answered_or_given_up() {
        let asked = |reach, mac| table(Some(Neighbour { reach, mac })).is_open(v4());
        assert!(table(None).is_open(v4()));
        assert!(asked(Reach::Incomplete, None));
        assert!(!asked(Reach::Failed, None));
        assert!(!asked(Reach::Stale, Some(THEIRS)));
        let mut table = table(None);
        table.set_link(Link { up: false, ..eth0() });
        assert!(!table.is_open(v4()), "nobody can be asked on a link that is down");
        table.set_link(eth0());
        table.set_route(v4(), Route::Missing);
        assert!(!table.is_open(v4()), "nobody can be asked without a route");
    }

    #[test]
    fn a_hardware_address_must_be_one_of_a_host() {
        for (mac, words) in [
            (None, "no hardware address on eth0"),
            (Some(Mac::default()), "00:00:00:00:00:00 on eth0 is no hardware address of one host"),
            (Some(Mac::BROADCAST), "ff:ff:ff:ff:ff:ff on eth0 is no hardware address of one host"),
        ] {
            let table = table(Some(Neighbour { reach: Reach::Reachable, mac }));
            assert_eq!(table.next_hop(v4()), unresolved(words));
        }
    }

    #[test]
    fn behind_a_router_the_router_is_asked() {
        let mut table = table(None);
        let gateway: IpAddr = "192.0.2.1".parse().unwrap();
        let local: IpAddr = "192.0.2.11".parse().unwrap();
        let far: IpAddr = "10.0.0.21".parse().unwrap();
        table.set_route(far, Route::By { ifindex: 2, gateway: Some(gateway), local: Some(local) });
        assert_eq!(table.need(far), Need::Resolve { ifindex: 2, neighbour: gateway });
        assert!(table.is_open(far));
        let failed = Neighbour { reach: Reach::Failed, mac: None };
        table.set_neighbour(2, gateway, failed);
        let why = "no answer to ARP from gateway 192.0.2.1 on eth0";
        assert_eq!(table.next_hop(far), unresolved(why));
        table.set_neighbour(2, gateway, Neighbour { reach: Reach::Reachable, mac: Some(THEIRS) });
        let Some(NextHop::Resolved { gateway: by, local: from, mac, .. }) = table.next_hop(far)
        else {
            panic!("{:?}", table.next_hop(far))
        };
        assert_eq!((by, from, mac), (Some(gateway), Some(local), THEIRS));
    }

    #[test]
    fn routes_that_lead_nowhere_say_why() {
        let mut table = table(Some(Neighbour { reach: Reach::Reachable, mac: Some(THEIRS) }));
        let table_of_cases = [
            (Route::Missing, "no route"),
            (
                Route::Unusable("the route there is a blackhole".to_owned()),
                "the route there is a blackhole",
            ),
            (on_link(9), "interface 9 is gone"),
        ];
        for (route, words) in table_of_cases {
            table.set_route(v4(), route);
            assert_eq!(table.next_hop(v4()), unresolved(words));
            assert_eq!(table.need(v4()), Need::Nothing);
        }
        assert_eq!(table.next_hop("192.0.2.99".parse().unwrap()), None, "not looked up yet");
    }

    #[test]
    fn a_link_that_is_down_is_named_even_after_its_routes_are_gone() {
        let mut table = table(Some(Neighbour { reach: Reach::Reachable, mac: Some(THEIRS) }));
        table.set_link(Link { up: false, ..eth0() });
        assert_eq!(table.next_hop(v4()), unresolved("eth0 is down"));
        assert_eq!(table.need(v4()), Need::Nothing);
        table.set_route(v4(), Route::Missing);
        assert_eq!(table.next_hop(v4()), unresolved("eth0 is down"));
        table.set_link(eth0());
        assert_eq!(table.next_hop(v4()), unresolved("no route"));
        table.set_route(v4(), on_link(2));
        assert_eq!(table.next_hop(v4()), Some(resolved()));
    }

    #[test]
    fn a_link_that_goes_takes_its_neighbours_along() {
        let mut table = table(Some(Neighbour { reach: Reach::Permanent, mac: Some(THEIRS) }));
        table.remove_link(2);
        assert_eq!(table.next_hop(v4()), unresolved("interface 2 is gone"));
        table.set_link(eth0());
        assert_eq!(table.next_hop(v4()), unresolved("not yet asked on eth0"));
    }

    #[test]
    fn a_link_without_a_hardware_address_is_no_way_for_l2() {
        let mut table = table(None);
        table.set_link(Link { mac: Mac::default(), name: "tun0".to_owned(), ..eth0() });
        let words = "tun0 has no hardware address: l2 needs Ethernet";
        assert_eq!(table.next_hop(v4()), unresolved(words));
    }
}
