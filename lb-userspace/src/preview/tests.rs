use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use lb_common::Verdict;
use lb_common::builder::{Packet, tcp_flag};
use lb_common::frame::MemoryFrame;

use super::*;
use crate::config::{self, AdminState, OnDown};
use crate::dataplane::Dataplane;
use crate::dataplane::memory::Memory;
use crate::explain;
use crate::plan::tests::{CAPACITY, World, vip, world};
use crate::plan::{Layout, Rings, plan};
use crate::reconcile::diff;

const IDLE: Idle = Idle {
    pinned: Duration::from_secs(100),
    recorded: Duration::from_secs(100),
    closed: Duration::from_secs(10),
    closing: Duration::from_secs(60),
    udp: Duration::from_secs(30),
    half_open: Duration::from_secs(50),
};
const THREE: [(u8, u8, bool, u16); 3] =
    [(1, 11, true, 100), (2, 12, true, 100), (3, 13, true, 100)];
const PORTS: std::ops::Range<u16> = 1_000..1_300;

/// Maps in memory, and remembered flows from [`PORTS`] to a port of each service.
struct Scene {
    memory: Memory,
    layout: Layout,
    config: Config,
    state: State,
}

impl Scene {
    fn new(world: &World, destinations: &[(u8, u16)]) -> Self {
        let (config, state) = (world.config(), world.state());
        let memory = Memory::new(CAPACITY, [3, 5]);
        let mut scene = Self { memory, layout: Layout::default(), config, state };
        let first = scene.plan(&scene.config, &scene.state);
        scene.put(first);
        for (service, destination) in destinations {
            for port in PORTS {
                let tuple = format!("tcp 198.51.100.7:{port} > {}:{destination}", vip(*service));
                let key = explain::key(tuple.parse().expect("a flow"), &scene.memory)
                    .expect("its service");
                let Verdict::Forward(route) = scene.send(*service, *destination, port) else {
                    panic!("{tuple} goes nowhere")
                };
                let base = scene.layout.services[&format!("s{service}")].backend_base;
                let pin = Pin { backend: (route.line - base) as u16, flags: 0, seen: 0 };
                scene.memory.tables.records.borrow_mut().insert((Record::Current, key), pin);
            }
        }
        scene
    }

    fn image(&self) -> Image {
        self.memory.image().expect("memory can be read")
    }

    fn plan(&self, config: &Config, state: &State) -> Plan {
        plan(config, state, &self.image(), CAPACITY, &mut Rings::default()).expect("it fits")
    }

    fn put(&mut self, plan: Plan) {
        self.memory.apply(&diff(&self.image(), &plan.image)).expect("changes can be made");
        self.layout = plan.layout;
    }

    /// A packet from the middle of a connection.
    fn send(&mut self, service: u8, destination: u16, port: u16) -> Verdict {
        let client = SocketAddr::new(Ipv4Addr::new(198, 51, 100, 7).into(), port);
        let packet = Packet::tcp(client, SocketAddr::new(vip(service).into(), destination));
        let bytes = packet.flags(tcp_flag::ACK).build();
        self.memory.process(&mut MemoryFrame { bytes, ingress: 2 })
    }

    /// The address that each flow's packets are sent to.
    fn homes(&mut self, service: u8, destination: u16) -> Vec<Option<u8>> {
        let home = |verdict| match verdict {
            Verdict::Forward(route) => Some(Mac::octets(route.next_hop)[5]),
            Verdict::Pass(_) | Verdict::Drop(_) | Verdict::Answer(_) => None,
        };
        PORTS.map(|port| home(self.send(service, destination, port))).collect()
    }

    fn preview(&self, config: &Config, state: &State) -> Vec<ServiceDiff> {
        let before = Plan { image: self.image(), layout: self.layout.clone() };
        let after = self.plan(config, state);
        let later = self.plan(config, &hopeful(config, state));
        let mut preview = Preview::new(Plans { before, after, later }, config, 0, IDLE);
        for ((record, key), pin) in self.memory.tables.records.borrow().iter() {
            preview.count(*record, key, pin);
        }
        preview.finish()
    }
}

fn flows() -> u64 {
    PORTS.count() as u64
}

#[test]
fn nothing_is_told_of_a_file_that_changes_nothing() {
    let world = world(&[(1, &THREE), (2, &[(1, 11, true, 1)])]);
    let scene = Scene::new(&world, &[(1, 443)]);
    let diffs = scene.preview(&scene.config, &scene.state);
    let names: Vec<_> = diffs.iter().map(|diff| diff.service.as_str()).collect();
    assert_eq!(names, ["s1", "s2"]);
    for diff in &diffs {
        assert_eq!((diff.fate, diff.moved, diff.moved_later), (Fate::Stays, 0, 0), "{diff:?}");
        assert_eq!((diff.affected, diff.lost, diff.keeps_flows), (0, 0, true), "{diff:?}");
    }
    assert_eq!((diffs[0].flows, diffs[1].flows), (flows(), 0));
}

#[test]
fn a_backend_that_goes_moves_its_slots_and_leaves_its_flows() {
    let (all, two) = (world(&[(1, &THREE)]), world(&[(1, &THREE[..2])]));
    let mut scene = Scene::new(&all, &[(1, 443)]);
    let [diff] = &scene.preview(&two.config(), &two.state())[..] else { panic!("one service") };
    // A third, and the few that Maglev moves besides.
    assert!((33..50).contains(&diff.moved), "{diff:?}");
    assert_eq!((diff.slots, diff.moved_later, diff.keeps_flows), (101, diff.moved, true));
    let before = scene.homes(1, 443);
    let own = before.iter().filter(|home| **home == Some(13)).count() as u64;
    assert!(own > 50, "{own}");
    assert_eq!((diff.flows, diff.affected, diff.lost), (flows(), own, 0));

    // And so it comes.
    let current = |image: &Image| {
        let slots = image.slots.values().next().expect("slots").clone();
        slots.iter().map(|raw| Slot::from_raw(*raw).current()).collect::<Vec<_>>()
    };
    let slots = current(&scene.image());
    let plan = scene.plan(&two.config(), &two.state());
    scene.put(plan);
    let now = current(&scene.image());
    let moved = slots.iter().zip(&now).filter(|(a, b)| a != b).count();
    assert_eq!((moved as u32, scene.homes(1, 443)), (diff.moved, before));
}

#[test]
fn a_drained_backend_is_one_that_gets_no_new_flows_and_was_not_before() {
    let world = world(&[(1, &THREE)]);
    let mut scene = Scene::new(&world, &[(1, 443)]);
    let own = scene.homes(1, 443).iter().filter(|home| **home == Some(13)).count() as u64;
    let mut config = world.config();
    let set = |config: &mut Config, admin| {
        let service = config.services.get_mut("s1").expect("a service");
        service.backends.get_mut("b3").expect("a backend").admin = admin;
    };
    set(&mut config, AdminState::Drain);
    let diff = &scene.preview(&config, &scene.state)[0];
    assert_eq!((diff.affected, diff.lost), (own, 0), "{diff:?}");
    let plan = scene.plan(&config, &scene.state);
    scene.put(plan);
    assert_eq!(scene.preview(&config, &scene.state)[0].affected, 0, "drained already");
    set(&mut config, AdminState::Disable);
    assert_eq!(scene.preview(&config, &scene.state)[0].affected, 0, "drained already");
}

#[test]
fn flows_that_are_refused_are_lost() {
    let world = world(&[(1, &THREE)]);
    let mut scene = Scene::new(&world, &[(1, 443)]);
    let own = scene.homes(1, 443).iter().filter(|home| **home == Some(13)).count() as u64;
    let mut config = world.config();
    let service = config.services.get_mut("s1").expect("a service");
    service.on_down = OnDown::Reset;
    service.backends.get_mut("b3").expect("a backend").admin = AdminState::Disable;
    let diff = &scene.preview(&config, &scene.state)[0];
    assert_eq!((diff.affected, diff.lost), (0, own), "{diff:?}");
    // What is refused already has nothing to lose.
    let plan = scene.plan(&config, &scene.state);
    scene.put(plan);
    let config = world_without_services(&config);
    let diff = &scene.preview(&config, &scene.state)[0];
    assert_eq!((diff.flows, diff.lost), (flows(), flows() - own), "{diff:?}");
}

fn world_without_services(config: &Config) -> Config {
    Config { services: BTreeMap::new(), ..config.clone() }
}

#[test]
fn services_come_and_go_by_name() {
    let scene = Scene::new(&world(&[(1, &THREE)]), &[(1, 443)]);
    let other = world(&[(2, &THREE)]);
    let diffs = scene.preview(&other.config(), &other.state());
    let [goes, comes] = &diffs[..] else { panic!("two services: {diffs:?}") };
    assert_eq!((goes.service.as_str(), goes.fate, goes.moved), ("s1", Fate::Goes, 101));
    assert_eq!((goes.flows, goes.affected, goes.lost), (flows(), 0, flows()));
    assert_eq!((comes.service.as_str(), comes.fate, comes.moved), ("s2", Fate::Comes, 101));
    assert_eq!((comes.flows, comes.lost), (0, 0));
}

#[test]
fn a_new_backend_takes_its_share_once_it_is_up() {
    let scene = Scene::new(&world(&[(1, &THREE)]), &[(1, 443)]);
    let mut four = THREE.to_vec();
    four.push((4, 14, true, 100));
    let config = world(&[(1, &four)]).config();
    // Nothing is known of it yet.
    let diff = &scene.preview(&config, &scene.state)[0];
    assert_eq!(diff.moved, 0);
    assert!((25..40).contains(&diff.moved_later), "{diff:?}");
    assert_eq!((diff.affected, diff.lost), (0, 0));
    // One that is down is not hoped for.
    four[3].2 = false;
    let down = world(&[(1, &four)]);
    assert_eq!(scene.preview(&down.config(), &down.state())[0].moved_later, 0);
}

#[test]
fn another_number_of_slots_loses_just_the_flows_that_the_packet_path_loses() {
    let world = world(&[(1, &THREE)]);
    let mut scene = Scene::new(&world, &[(1, 443)]);
    let mut config = world.config();
    config.services.values_mut().for_each(|service| service.slots = 211);
    let diff = scene.preview(&config, &scene.state).remove(0);
    assert_eq!((diff.fate, diff.slots, diff.keeps_flows), (Fate::Stays, 211, false));
    let before = scene.homes(1, 443);
    let plan = scene.plan(&config, &scene.state);
    scene.put(plan);
    let lost = before.iter().zip(scene.homes(1, 443)).filter(|(a, b)| **a != *b).count();
    assert!(lost > 0);
    assert_eq!((diff.lost, diff.affected), (lost as u64, 0));
    // The same part of the slots, as far as so few flows tell.
    let (slots, flows) = (f64::from(diff.moved) / 211.0, lost as f64 / flows() as f64);
    assert!((slots - flows).abs() < 0.15, "{slots} of the slots, {flows} of the flows");
}

#[test]
fn flows_of_another_affinity_are_found_elsewhere() {
    let world = world(&[(1, &THREE)]);
    let mut scene = Scene::new(&world, &[(1, 443)]);
    let mut config = world.config();
    config.services.get_mut("s1").expect("a service").affinity = Affinity::ClientIp;
    let diff = scene.preview(&config, &scene.state).remove(0);
    let before = scene.homes(1, 443);
    let plan = scene.plan(&config, &scene.state);
    scene.put(plan);
    let lost = before.iter().zip(scene.homes(1, 443)).filter(|(a, b)| **a != *b).count();
    assert!(lost > 100, "{lost}");
    assert_eq!((diff.moved, diff.lost, diff.keeps_flows), (0, lost as u64, false));
}

#[test]
fn a_listener_that_another_service_gets_loses_its_flows_alone() {
    let second = |owner| World {
        second: [(1, owner)].into(),
        ..world(&[(1, &THREE), (2, &[(1, 21, true, 1)])])
    };
    let scene = Scene::new(&second(1), &[(1, 443), (1, 80)]);
    let moved = second(2);
    let diffs = scene.preview(&moved.config(), &moved.state());
    let [from, to] = &diffs[..] else { panic!("two services: {diffs:?}") };
    assert_eq!((from.flows, from.lost, from.moved), (2 * flows(), flows(), 0));
    assert_eq!((to.flows, to.lost, to.moved), (0, 0, 0));
}

#[test]
fn a_service_with_another_name_is_the_same_but_has_to_be_checked_anew() {
    let world = world(&[(1, &THREE)]);
    let scene = Scene::new(&world, &[(1, 443)]);
    let mut config = world.config();
    let service: config::Service = config.services.remove("s1").expect("a service");
    config.services.insert("other".to_owned(), service);
    let [diff] = &scene.preview(&config, &scene.state)[..] else { panic!("one service") };
    assert_eq!((diff.service.as_str(), diff.fate), ("other", Fate::Stays));
    assert_eq!((diff.moved, diff.moved_later, diff.keeps_flows), (101, 0, true));
    assert_eq!((diff.affected, diff.lost), (flows(), 0));
}

#[test]
fn flows_that_do_not_live_are_not_counted() {
    let world = world(&[(1, &THREE)]);
    let scene = Scene::new(&world, &[]);
    let before = Plan { image: scene.image(), layout: scene.layout.clone() };
    let plans = Plans { after: before.clone(), later: before.clone(), before };
    let mut preview = Preview::new(plans, &scene.config, 101, IDLE);
    let tuple = format!("tcp 198.51.100.7:1 > {}:443", vip(1)).parse().expect("a flow");
    let key = explain::key(tuple, &scene.memory).expect("its service");
    let pin = Pin { backend: 1, flags: 0, seen: 1 };
    preview.count(Record::HalfOpen, &key, &Pin { seen: 101, ..pin });
    preview.count(Record::Base, &key, &Pin { flags: PIN_CLOSING, seen: 101, ..pin });
    preview.count(Record::Base, &key, &Pin { seen: 0, ..pin });
    preview.count(Record::Base, &key, &pin);
    assert_eq!(preview.finish()[0].flows, 1);
}
