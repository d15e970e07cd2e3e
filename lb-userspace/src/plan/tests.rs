use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use lb_common::builder::{BALANCER_MAC, Packet};
use lb_common::frame::MemoryFrame;
use lb_common::{Drop as Reason, Verdict};
use proptest::prelude::*;

use super::*;
use crate::config::{
    Admin, Check, Dataplane as Settings, Drain, Forward, Limit, Listener, Node, Probe, Protocol,
    Scheduler, XdpMode,
};
use crate::dataplane::Dataplane;
use crate::dataplane::memory::Memory;
use crate::image::Change;
use crate::reconcile::diff;
use crate::state::{Health, Link};

pub(crate) const CAPACITY: Capacity =
    Capacity { slots: 64 * 16, backends: 2_048, pins: 1_024, half_open: 1_024, sources: 1_024 };
const SLOTS: u32 = 101;

/// A world in a few numbers: which services have which backends, and who of them is up.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    /// By service: by backend, its address's last byte, whether it is up, and its weight.
    pub(crate) services: BTreeMap<u8, BTreeMap<u8, (u8, bool, u16)>>,
    /// Port 80 of a service's VIP, by the service that has it.
    pub(crate) second: BTreeMap<u8, u8>,
}

impl World {
    pub(crate) fn config(&self) -> Config {
        let services = self.services.iter().map(|(service, backends)| {
            let backends = backends.iter().map(|(name, (address, _, weight))| {
                let address = backend_address(*service, *address);
                (format!("b{name}"), backend_of(address, *weight))
            });
            let mut config = service_of(vip(*service), backends.collect());
            let second = self.second.iter().filter(|(_, owner)| *owner == service);
            config.listen.extend(second.map(|(of, _)| listener(vip(*of), 80)));
            (format!("s{service}"), config)
        });
        Config {
            path: PathBuf::from("lb.toml"),
            digest: String::new(),
            node: Node {
                name: "lb1".to_owned(),
                interfaces: vec!["eth0".to_owned()],
                address: None,
            },
            dataplane: Settings {
                xdp_mode: XdpMode::Auto,
                slots: SLOTS,
                lease: Duration::from_secs(3),
                quiet_window: Duration::from_secs(100),
                pins: 1_024,
                half_open: 1_024,
                udp_idle: Duration::from_secs(30),
                tcp_idle: Duration::from_secs(7_200),
                closing_idle: Duration::from_secs(60),
                closed_idle: Duration::from_secs(10),
                half_open_idle: Duration::from_secs(30),
                sources: 1_024,
                pin_dir: PathBuf::new(),
                state_dir: PathBuf::new(),
            },
            admin: Admin { socket: PathBuf::new() },
            services: services.collect(),
        }
    }

    pub(crate) fn state(&self) -> State {
        let mut state = State::default();
        let link =
            Link { ifindex: 2, name: "eth0".to_owned(), mac: BALANCER_MAC, up: true, mtu: 1_500 };
        state.interfaces.insert(2, link);
        for (service, backends) in &self.services {
            for (name, (address, up, _)) in backends {
                let id = BackendId { service: format!("s{service}"), backend: format!("b{name}") };
                let status = if *up { Status::Up } else { Status::Down };
                state.health.insert(id, health(status));
                let hop = NextHop::Resolved {
                    ifindex: 2,
                    interface: "eth0".to_owned(),
                    mac: Mac::new([2, 0, 0, 0, *service, *address]),
                    source: BALANCER_MAC,
                    gateway: None,
                    local: None,
                    mtu: 1_500,
                };
                state.next_hops.insert(backend_address(*service, *address), hop);
            }
        }
        state
    }
}

fn health(status: Status) -> Health {
    let passed = status == Status::Up;
    Health { status, last: String::new(), passed, since: Timestamp::UNIX_EPOCH }
}

pub(crate) fn vip(service: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 100 + service)
}

fn backend_address(service: u8, address: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, service, address).into()
}

fn listener(vip: Ipv4Addr, port: u16) -> Listener {
    Listener { vip: vip.into(), port: NonZeroU16::new(port), protocol: Protocol::Tcp }
}

fn service_of(vip: Ipv4Addr, backends: BTreeMap<String, config::Backend>) -> config::Service {
    config::Service {
        listen: vec![listener(vip, 443)],
        scheduler: Scheduler::Maglev,
        forward: Forward::L2,
        affinity: Affinity::Flow,
        slots: SLOTS,
        slow_start: Duration::ZERO,
        limit: Limit::default(),
        sources: Vec::new(),
        on_down: OnDown::Keep,
        no_backend: NoBackend::Drop,
        drain: Drain { grace: Duration::from_secs(60), then: OnDown::Keep },
        check: Check {
            probe: Probe::Tcp,
            port: 443,
            interval: Duration::from_secs(2),
            fast_interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
        },
        backends,
    }
}

fn backend_of(address: IpAddr, weight: u16) -> config::Backend {
    config::Backend {
        address,
        weight,
        admin: AdminState::Ready,
        backup: false,
        slow_start: None,
        server_id: None,
    }
}

/// Name, last byte of the address, whether it is up, weight.
pub(crate) type Server = (u8, u8, bool, u16);

pub(crate) fn world(services: &[(u8, &[Server])]) -> World {
    let services = services.iter().map(|(service, backends)| {
        let backends =
            backends.iter().map(|(n, address, up, weight)| (*n, (*address, *up, *weight)));
        (*service, backends.collect())
    });
    World { services: services.collect(), second: BTreeMap::new() }
}

pub(crate) fn planned(world: &World, current: &Image) -> Plan {
    plan(&world.config(), &world.state(), current, CAPACITY, &mut Rings::default())
        .expect("a small world fits")
}

/// What becomes of a flow to a service.
fn verdict(memory: &mut Memory, service: u8, port: u16) -> Verdict {
    verdict_at(memory, service, 443, port)
}

fn verdict_at(memory: &mut Memory, service: u8, destination: u16, port: u16) -> Verdict {
    let client = SocketAddr::new(Ipv4Addr::new(198, 51, 100, 7).into(), port);
    let packet = Packet::tcp(client, SocketAddr::new(vip(service).into(), destination));
    memory.process(&mut MemoryFrame { bytes: packet.build(), ingress: 2 })
}

/// Last byte of the address of the backend that a flow to a service goes to.
fn destination(memory: &mut Memory, service: u8, port: u16) -> Option<u8> {
    match verdict(memory, service, port) {
        Verdict::Forward(route) => Some(route.next_hop.octets()[5]),
        _ => None,
    }
}

fn run(memory: &mut Memory, world: &World) -> Vec<Change> {
    let image = memory.image().expect("memory can be read");
    let changes = diff(&image, &planned(world, &image).image);
    memory.apply(&changes).expect("changes that were planned can be made");
    changes
}

fn empty() -> Memory {
    Memory::new(CAPACITY, [3, 5])
}

#[test]
fn a_flow_reaches_a_backend_that_is_up() {
    let mut memory = empty();
    run(&mut memory, &world(&[(1, &[(1, 11, true, 100), (2, 12, false, 100)])]));
    for port in 1..200 {
        assert_eq!(destination(&mut memory, 1, port), Some(11));
    }
}

#[test]
fn what_is_reconciled_needs_no_change() {
    let world = world(&[(1, &[(1, 11, true, 100), (2, 12, true, 50)]), (2, &[(1, 11, true, 1)])]);
    let mut memory = empty();
    assert!(!run(&mut memory, &world).is_empty());
    assert_eq!(run(&mut memory, &world), []);
}

#[test]
fn a_restarted_daemon_plans_the_image_that_it_finds() {
    let before = world(&[(1, &[(1, 11, true, 100), (2, 12, true, 50)]), (2, &[(7, 17, true, 9)])]);
    let mut memory = empty();
    run(&mut memory, &before);
    // A new process knows nothing but the file and the maps.
    let image = memory.image().expect("memory can be read");
    assert_eq!(planned(&before, &image).image, image);
}

#[test]
fn a_backend_keeps_its_number_whatever_its_name_and_neighbours() {
    let mut memory = empty();
    run(&mut memory, &world(&[(1, &[(1, 11, true, 100), (2, 12, true, 100)])]));
    let image = memory.image().expect("memory can be read");
    let renamed = world(&[(1, &[(0, 10, true, 100), (9, 12, true, 100)])]);
    let before = planned(&world(&[(1, &[(2, 12, true, 100)])]), &image).layout;
    let after = planned(&renamed, &image).layout;
    assert_eq!(before.services["s1"].numbers["b2"], after.services["s1"].numbers["b9"]);
}

#[test]
fn a_service_without_a_backend_that_is_up_drops_its_flows() {
    let mut memory = empty();
    run(&mut memory, &world(&[(1, &[(1, 11, false, 100)])]));
    assert_eq!(verdict(&mut memory, 1, 1), Verdict::Drop(Reason::NoBackend));
}

#[test]
fn a_backend_without_a_way_takes_nothing_and_says_so() {
    let world = world(&[(1, &[(1, 11, true, 100), (2, 12, true, 100)])]);
    let (config, mut state) = (world.config(), world.state());
    state.next_hops.insert(backend_address(1, 11), NextHop::Unresolved("no route".to_owned()));
    let id: BackendId = "s1/b1".parse().expect("a backend's name");
    let file = &config.services["s1"].backends["b1"];
    assert_eq!(backend_state(&config.services["s1"], file, &id, &state), BackendState::Unreachable);
    let mut memory = empty();
    let image = memory.image().expect("memory can be read");
    let plan = plan(&config, &state, &image, CAPACITY, &mut Rings::default()).expect("fits");
    memory.apply(&diff(&image, &plan.image)).expect("changes can be made");
    assert!((1..200).all(|port| destination(&mut memory, 1, port) == Some(12)));
}

#[test]
fn an_operator_decides_over_the_file() {
    let world = world(&[(1, &[(1, 11, true, 100), (2, 12, true, 100)])]);
    let (config, mut state) = (world.config(), world.state());
    let id: BackendId = "s1/b1".parse().expect("a backend's name");
    let file = &config.services["s1"].backends["b1"];
    for (admin, weight, expected) in [
        (None, None, BackendState::Serving),
        (Some(AdminState::Drain), None, BackendState::Draining),
        (Some(AdminState::Disable), None, BackendState::Disabled),
        (None, Some(0), BackendState::Draining),
    ] {
        let over = crate::state::Override { admin, weight, ..Default::default() };
        state.overrides.insert(id.clone(), over);
        assert_eq!(
            backend_state(&config.services["s1"], file, &id, &state),
            expected,
            "{admin:?} {weight:?}"
        );
    }
}

#[test]
fn a_drain_that_is_over_resets_what_is_left_until_the_backend_is_wanted_again() {
    let world = world(&[(1, &[(1, 11, true, 100), (2, 12, true, 100)])]);
    let (config, mut state) = (world.config(), world.state());
    let id: BackendId = "s1/b1".parse().expect("a backend's name");
    state.drained.insert(("s1".to_owned(), backend_address(1, 11)));
    for (admin, reset) in [(AdminState::Drain, true), (AdminState::Ready, false)] {
        let over = crate::state::Override { admin: Some(admin), ..Default::default() };
        state.overrides.insert(id.clone(), over);
        let plan = plan(&config, &state, &Image::default(), CAPACITY, &mut Rings::default());
        let plan = plan.expect("a small world fits");
        let place = &plan.layout.services["s1"];
        let line = plan.image.backends[&place.line(place.numbers["b1"])];
        assert_eq!(line.next_hop & BACKEND_RESET != 0, reset, "{admin:?}");
    }
}

#[test]
fn more_than_fits_is_refused_with_what_would_do() {
    let world = world(&[(1, &[(1, 11, true, 100)]), (2, &[(1, 11, true, 100)])]);
    let small = Capacity { slots: 112, ..CAPACITY };
    let image = Image::default();
    let error = plan(&world.config(), &world.state(), &image, small, &mut Rings::default())
        .expect_err("two services do not fit into the slots of one");
    let enough = plan(&world.config(), &world.state(), &image, error.wanted, &mut Rings::default());
    assert!(enough.is_ok(), "{error}");
}

#[test]
fn two_services_may_have_tables_of_different_sizes() {
    let world = world(&[(1, &[(1, 11, true, 100)]), (2, &[(1, 12, true, 100)])]);
    let mut config = world.config();
    config.services.get_mut("s2").expect("a service").slots = 1_009;
    // A line of 16 more than 101, and than 1009, each; twice over, and the larger once more.
    let capacity = wanted(&config);
    assert_eq!(capacity.slots, 2 * (112 + 1_024) + 1_024);
    let mut memory = Memory::new(capacity, [3, 5]);
    let mut rings = Rings::default();
    let mut sizes = Vec::new();
    // The first one grows over the second, whose table stays where it is.
    for slots in [101, 2_003] {
        config.services.get_mut("s1").expect("a service").slots = slots;
        let image = memory.image().expect("memory can be read");
        let plan = plan(&config, &world.state(), &image, capacity, &mut rings).expect("fits");
        memory.apply(&diff(&image, &plan.image)).expect("changes can be made");
        for (name, place) in &plan.layout.services {
            let table = plan.image.slots[&place.slot_base].len() as u32;
            assert_eq!(table, place.slot_count, "{name}");
            sizes.push((table, place.slot_base));
        }
        for port in 1..200 {
            assert_eq!(destination(&mut memory, 1, port), Some(11));
            assert_eq!(destination(&mut memory, 2, port), Some(12));
        }
    }
    assert_eq!(sizes, [(101, 0), (1_009, 112), (2_003, 1_136), (1_009, 112)]);
}

#[test]
fn maps_that_are_full_of_the_past_are_told_apart_from_maps_that_are_too_small() {
    let config = |services: std::ops::Range<u8>| World {
        services: services.map(|n| (n, [(1, (1, true, 1))].into())).collect(),
        second: BTreeMap::new(),
    };
    let capacity = wanted(&config(0..4).config());
    let mut memory = Memory::new(capacity, [3, 5]);
    let mut rings = Rings::default();
    for world in [config(0..4), config(0..9)] {
        let image = memory.image().expect("memory can be read");
        let plan = plan(&world.config(), &world.state(), &image, capacity, &mut rings);
        memory.apply(&diff(&image, &plan.expect("fits").image)).expect("changes can be made");
    }
    let image = memory.image().expect("memory can be read");
    let others = config(20..23);
    let refused = plan(&others.config(), &others.state(), &image, capacity, &mut rings);
    let larger = refused.expect_err("nine services are in the way").held;
    let room = larger.plus(&wanted(&others.config()));
    assert!(plan(&others.config(), &others.state(), &image, room, &mut rings).is_ok());
}

#[test]
fn seventeen_thousand_backends_may_be_replaced_by_as_many_others() {
    let backends = |from: u32| {
        let all = (from..from + 17_000).map(|n| {
            let address = IpAddr::from(Ipv4Addr::from(0x0a00_0000 + n));
            (format!("b{n}"), backend_of(address, 1))
        });
        all.collect::<BTreeMap<_, _>>()
    };
    let mut config = world(&[(1, &[(1, 1, true, 1)])]).config();
    let capacity = Capacity { backends: 200_000, ..CAPACITY };
    let mut image = Image::default();
    for from in [0, 20_000] {
        config.services = [("s1".to_owned(), service_of(vip(1), backends(from)))].into();
        let plan = plan(&config, &State::default(), &image, capacity, &mut Rings::default());
        let plan = plan.expect("there is room");
        let place = &plan.layout.services["s1"];
        assert!(place.numbers.values().all(|n| *n > 0 && u32::from(*n) < place.backend_lines));
        assert!(place.numbers.values().all(|n| *n <= 0x7fff));
        image = plan.image;
    }
}

#[test]
fn a_service_may_outgrow_its_lines() {
    let mut memory = empty();
    let few: Vec<_> = (1..=3).map(|n| (n, n, true, 10)).collect();
    let many: Vec<_> = (1..=90).map(|n| (n, n, true, 10)).collect();
    run(&mut memory, &world(&[(1, &few)]));
    run(&mut memory, &world(&[(1, &many)]));
    assert!((1..500).all(|port| destination(&mut memory, 1, port).is_some()));
    run(&mut memory, &world(&[(1, &few)]));
    assert!((1..500).all(|port| destination(&mut memory, 1, port).is_some()));
}

pub(crate) fn worlds() -> impl Strategy<Value = World> {
    let backend = (1_u8..60, any::<bool>(), 1_u16..4);
    let some = |most: usize| prop::collection::btree_map(0_u8..60, backend.clone(), 1..most);
    let backends = prop_oneof![4 => some(6), 1 => some(40)];
    let backends = backends.prop_map(|backends| {
        // One address once in a service, as the checker sees to.
        let mut seen = BTreeSet::new();
        backends.into_iter().filter(|(_, (address, _, _))| seen.insert(*address)).collect()
    });
    let services = prop::collection::btree_map(0_u8..4, backends, 0..4);
    let second = prop::collection::btree_map(0_u8..4, 0_u8..4, 0..4);
    (services, second).prop_map(|(services, second)| World { services, second })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the change, a packet that comes between any two writes finds its way: it meets
    /// nothing that is not there, and a service that had a backend before and after has one.
    #[test]
    fn no_packet_meets_a_half_made_change(history in prop::collection::vec(worlds(), 2..5)) {
        let mut memory = empty();
        run(&mut memory, &history[0]);
        for (before, after) in history.iter().zip(&history[1..]) {
            let image = memory.image().expect("memory can be read");
            let changes = diff(&image, &planned(after, &image).image);
            for change in &changes {
                memory.apply(std::slice::from_ref(change)).expect("the change can be made");
                for service in 0..4 {
                    let serves = |world: &World| {
                        let backends = world.services.get(&service);
                        backends.is_some_and(|all| all.values().any(|(_, up, _)| *up))
                    };
                    for port in 1..12 {
                        let verdict = verdict(&mut memory, service, port);
                        prop_assert!(
                            !matches!(verdict, Verdict::Drop(Reason::StaleSlot | Reason::Unresolved)),
                            "{verdict} after {change:?} of {changes:?}"
                        );
                        // Nobody's flows go to another service's backends.
                        if let Verdict::Forward(route) = verdict {
                            prop_assert_eq!(route.next_hop.octets()[4], service, "{:?}", changes);
                        }
                        if let Verdict::Forward(route) = verdict_at(&mut memory, service, 80, port) {
                            let owners = [before.second.get(&service), after.second.get(&service)];
                            let owner = route.next_hop.octets()[4];
                            prop_assert!(owners.contains(&Some(&owner)), "{owner}: {changes:?}");
                        }
                        if serves(before) && serves(after) {
                            prop_assert!(
                                matches!(verdict, Verdict::Forward(_)),
                                "{verdict} after {change:?} of {changes:?}"
                            );
                        }
                    }
                }
            }
            let image = memory.image().expect("memory can be read");
            prop_assert_eq!(&planned(after, &image).image, &image);
        }
    }
}

#[test]
fn a_backend_behind_a_router_is_reached_in_a_tunnel_only() {
    let world = world(&[(1, &[(1, 11, true, 100), (2, 12, true, 100)])]);
    let mut state = world.state();
    let far = backend_address(1, 12);
    let behind = |mtu, local: Option<IpAddr>| NextHop::Resolved {
        ifindex: 2,
        interface: "eth0".to_owned(),
        mac: Mac::new([2, 0, 0, 0, 0, 1]),
        source: BALANCER_MAC,
        gateway: Some(Ipv4Addr::new(10, 0, 0, 1).into()),
        local,
        mtu,
    };
    let here: IpAddr = Ipv4Addr::new(10, 0, 0, 2).into();
    let id = BackendId { service: "s1".to_owned(), backend: "b2".to_owned() };
    let with = |forward| {
        let mut config = world.config();
        config.services.values_mut().for_each(|service| service.forward = forward);
        config
    };
    let entry = |forward, state: &State| {
        let config = with(forward);
        let plan = plan(&config, state, &Image::default(), CAPACITY, &mut Rings::default())
            .expect("a small world fits");
        let place = &plan.layout.services["s1"];
        let line = plan.image.backends[&place.line(place.numbers["b2"])];
        let service = *plan.image.listeners.values().next().expect("a listener");
        let limited = plan.image.limits.contains_key(&NO_SERVICE);
        let file = config.services["s1"].backends["b2"].clone();
        let condition = backend_state(&config.services["s1"], &file, &id, state);
        (condition, line.local, service.fits, limited, features(&config).tunnels)
    };
    state.next_hops.insert(far, behind(1_400, Some(here)));
    let (condition, local, fits, limited, tunnels) = entry(Forward::L2, &state);
    assert_eq!((condition, fits, limited, tunnels), (BackendState::Unreachable, 0, false, false));
    assert_eq!(local, Address::default());
    let why = usable(Forward::L2, far, &state).expect_err("no use");
    assert_eq!(why, "behind gateway 10.0.0.1: l2 needs one segment");
    // The other backend has no address of ours to it, and room for 1500 bytes.
    for (forward, overhead) in [(Forward::Ipip, 20), (Forward::Gue, 28)] {
        let (condition, local, fits, limited, tunnels) = entry(forward, &state);
        assert_eq!((condition, limited, tunnels), (BackendState::Serving, true, true));
        assert_eq!((local, fits), (Address::from(here), 1_400 - overhead));
    }
    state.next_hops.insert(far, behind(1_400, None));
    assert_eq!(entry(Forward::Gue, &state).0, BackendState::Unreachable);
}

#[test]
fn a_service_of_which_nothing_changes_shares_its_slots_with_what_is_held() {
    let before = world(&[(1, &[(1, 11, true, 100), (2, 12, true, 100)]), (2, &[(1, 21, true, 1)])]);
    let after = world(&[(1, &[(1, 11, true, 100), (2, 12, false, 100)]), (2, &[(1, 21, true, 1)])]);
    let mut rings = Rings::default();
    let mut planned = |world: &World, held: &Image| {
        plan(&world.config(), &world.state(), held, CAPACITY, &mut rings).expect("it fits")
    };
    let first = planned(&before, &Image::default());
    let second = planned(&after, &first.image);
    let shared = |name: &str| {
        let base = first.layout.services[name].slot_base;
        second.image.slots[&base].is(&first.image.slots[&base])
    };
    assert!(!shared("s1") && shared("s2"));
    // A daemon that starts finds equal slots, and keeps those that it read.
    let read = Image { slots: BTreeMap::new(), ..second.image.clone() };
    let slots = second.image.slots.iter().map(|(base, slots)| (*base, slots.to_vec().into()));
    let read = Image { slots: slots.collect(), ..read };
    let third = plan(&after.config(), &after.state(), &read, CAPACITY, &mut Rings::default());
    let third = third.expect("it fits").image;
    assert!(third.slots.iter().all(|(base, slots)| slots.is(&read.slots[base])));
}
