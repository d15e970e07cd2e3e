use std::net::{Ipv4Addr, SocketAddr};

use lb_common::Verdict;
use lb_common::builder::{Packet, tcp_flag};
use lb_common::frame::MemoryFrame;
use lb_common::tables::Record;
use proptest::prelude::*;

use super::*;
use crate::dataplane::Dataplane;
use crate::dataplane::memory::Memory;
use crate::plan::tests::{CAPACITY, World, vip, world, worlds};
use crate::plan::{Rings, plan};
use crate::reconcile::diff;
use crate::state::State;

const WINDOW: Duration = Duration::from_secs(100);

/// The real rule, the real plan and the real census over maps in memory, with time that the test
/// moves.
struct Simulation {
    memory: Memory,
    rings: Rings,
    transitions: Transitions,
    layout: Layout,
    epoch: u64,
    flows: Vec<Flowing>,
    ports: u16,
}

/// A connection that is open.
struct Flowing {
    service: u8,
    port: u16,
    backend: [u8; 6],
    spoke: u64,
}

impl Simulation {
    fn new() -> Self {
        Self {
            memory: Memory::new(CAPACITY, [3, 5]),
            rings: Rings::default(),
            transitions: Transitions::default(),
            layout: Layout::default(),
            epoch: 1,
            flows: Vec::new(),
            ports: 1_024,
        }
    }

    fn image(&self) -> Image {
        self.memory.image().expect("memory can be read")
    }

    fn make(&mut self, changes: &[Change]) {
        self.memory.apply(changes).expect("the changes can be made");
        self.transitions.note(changes, self.epoch);
    }

    /// Puts a world into effect.
    fn change(&mut self, world: &World) {
        self.change_with(world, BTreeSet::new());
    }

    fn change_with(&mut self, world: &World, free: BTreeSet<(u32, u16)>) {
        let image = self.image();
        let state = State { free, ..world.state() };
        let plan = plan(&world.config(), &state, &image, CAPACITY, &mut self.rings)
            .expect("a small world fits");
        self.make(&diff(&image, &plan.image));
        self.layout = plan.layout;
    }

    /// Lets time pass, with what the daemon does meanwhile.
    fn pass(&mut self, seconds: u64, world: &World) {
        self.epoch += seconds;
        self.memory.set_epoch(self.epoch).expect("memory has an epoch");
        let image = self.image();
        let due = self.transitions.due(&image, self.epoch, WINDOW);
        self.make(&due);
        let idle = Idle {
            pinned: WINDOW,
            recorded: WINDOW,
            closing: Duration::from_secs(60),
            closed: Duration::from_secs(10),
            udp: WINDOW,
            half_open: Duration::from_secs(60),
        };
        let mut counter =
            Counter::new(&self.image(), &self.layout, self.epoch, idle, BTreeMap::new());
        let records = self.memory.tables.records.borrow().clone();
        for ((record, key), pin) in records {
            if !counter.count(record, &key, &pin) {
                self.memory.tables.records.borrow_mut().remove(&(record, key));
            }
        }
        let census = counter.finish();
        let changes = unwatch(&self.image(), &census, |_| false);
        self.make(&changes);
        self.change_with(world, census.free);
    }

    fn send(&mut self, service: u8, port: u16, flags: u8) -> Verdict {
        let client = SocketAddr::new(Ipv4Addr::new(198, 51, 100, 7).into(), port);
        let packet = Packet::tcp(client, SocketAddr::new(vip(service).into(), 443)).flags(flags);
        self.memory.process(&mut MemoryFrame { bytes: packet.build(), ingress: 2 })
    }

    /// Opens a connection, if somebody takes it: SYN and ACK go to the same backend.
    fn open(&mut self, service: u8) {
        self.ports += 1;
        let port = self.ports;
        let Verdict::Forward(route) = self.send(service, port, tcp_flag::SYN) else { return };
        let backend = route.next_hop.octets();
        self.flows.push(Flowing { service, port, backend, spoke: self.epoch });
        self.speak(self.flows.len() - 1);
    }

    fn speak(&mut self, index: usize) {
        let Flowing { service, port, backend, spoke } = self.flows[index];
        let verdict = self.send(service, port, tcp_flag::ACK);
        let Verdict::Forward(route) = verdict else {
            panic!(
                "flow {port} to service {service}, last heard {spoke}, now {}: {verdict}",
                self.epoch
            )
        };
        assert_eq!(
            route.next_hop.octets(),
            backend,
            "flow {port} to service {service}, last heard at {spoke}, moved at {}",
            self.epoch
        );
        self.flows[index].spoke = self.epoch;
    }

    /// Those who have been silent for most of a window say something.
    fn keep_alive(&mut self, ahead: u64) {
        for index in 0..self.flows.len() {
            if self.epoch + ahead >= self.flows[index].spoke + WINDOW.as_secs() {
                self.speak(index);
            }
        }
    }
}

/// What happens in a step.
#[derive(Clone, Debug)]
enum Step {
    Change(World),
    Open(u8),
    Speak(prop::sample::Index),
    Close(prop::sample::Index),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => worlds().prop_map(Step::Change),
        8 => (0_u8..4).prop_map(Step::Open),
        8 => any::<prop::sample::Index>().prop_map(Step::Speak),
        2 => any::<prop::sample::Index>().prop_map(Step::Close),
        3 => (1_u64..99).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Backends flap, come, go and change their weight, several times inside one window; slots
    /// are committed and no longer watched: a flow that speaks at least once a window stays.
    #[test]
    fn no_flow_that_speaks_ever_moves(first in worlds(), steps in steps()) {
        let mut simulation = Simulation::new();
        // A service that is taken away takes its flows with it: all four stay.
        let all = |mut world: World| {
            for service in 0..4 {
                world.services.entry(service).or_insert_with(|| [(0, (1, true, 1))].into());
            }
            world
        };
        let mut now = all(first);
        simulation.change(&now);
        for step in steps {
            match step {
                Step::Change(next) => {
                    now = all(next);
                    simulation.change(&now);
                }
                Step::Open(service) => simulation.open(service),
                Step::Speak(which) if !simulation.flows.is_empty() => {
                    let index = which.index(simulation.flows.len());
                    simulation.speak(index);
                }
                Step::Close(which) if !simulation.flows.is_empty() => {
                    let index = which.index(simulation.flows.len());
                    let flow = simulation.flows.swap_remove(index);
                    simulation.send(flow.service, flow.port, tcp_flag::FIN | tcp_flag::ACK);
                }
                Step::Speak(_) | Step::Close(_) => {}
                Step::Pass(seconds) => {
                    simulation.keep_alive(seconds);
                    simulation.pass(seconds, &now);
                }
            }
        }
        for index in 0..simulation.flows.len() {
            simulation.speak(index);
        }
        // Once everything has been quiet and closed, no slot is different from a new table's.
        simulation.flows.clear();
        for _ in 0..6 {
            simulation.pass(50, &now);
        }
        let image = simulation.image();
        let slots = image.slots.values().flat_map(|slots| slots.iter());
        prop_assert!(slots.map(|raw| Slot::from_raw(*raw)).all(Slot::is_steady));
        prop_assert!(simulation.memory.tables.records.borrow().is_empty());
        let named: usize = now.services.values().map(|backends| backends.len()).sum();
        prop_assert_eq!(image.backends.len(), named);
    }
}

#[test]
fn a_drained_backend_keeps_its_flows_and_gets_no_new_ones() {
    let mut simulation = Simulation::new();
    let both = world(&[(1, &[(1, 11, true, 1), (2, 12, true, 1)])]);
    simulation.change(&both);
    for _ in 0..100 {
        simulation.open(1);
    }
    // Gone from the file: removal drains.
    let one = world(&[(1, &[(2, 12, true, 1)])]);
    simulation.change(&one);
    let old = simulation.flows.len();
    for _ in 0..100 {
        simulation.open(1);
    }
    assert!(simulation.flows[old..].iter().all(|flow| flow.backend[5] == 12));
    assert!(simulation.flows[..old].iter().any(|flow| flow.backend[5] == 11));
    for index in 0..simulation.flows.len() {
        simulation.speak(index);
    }
}

#[test]
fn nothing_is_remembered_while_nothing_changes() {
    let mut simulation = Simulation::new();
    simulation.change(&world(&[(1, &[(1, 11, true, 1), (2, 12, true, 1)])]));
    for _ in 0..200 {
        simulation.open(1);
    }
    assert!(simulation.memory.tables.records.borrow().is_empty());
}

#[test]
fn forged_syns_fill_the_half_open_records_only() {
    let mut simulation = Simulation::new();
    simulation.change(&world(&[(1, &[(1, 11, true, 1), (2, 12, true, 1)])]));
    simulation.change(&world(&[(1, &[(2, 12, true, 1)])]));
    for port in 1..5_000 {
        simulation.send(1, port, tcp_flag::SYN);
    }
    let records = simulation.memory.tables.records.borrow();
    assert!(!records.is_empty());
    assert!(records.keys().all(|(kind, _)| *kind == Record::HalfOpen));
}
