use std::net::{Ipv4Addr, SocketAddr};

use lb_common::Verdict;
use lb_common::builder::{Packet, tcp_flag};
use lb_common::frame::MemoryFrame;
use lb_common::maps::SERVICE_LEAST_CONN;
use lb_common::tables::Record;
use proptest::prelude::*;

use super::*;
use crate::config::{Config, Scheduler};
use crate::dataplane::Dataplane;
use crate::dataplane::memory::Memory;
use crate::plan::tests::{CAPACITY, World, vip, world, worlds};
use crate::plan::{Rings, is_always_watched, plan};
use crate::reconcile::diff;
use crate::state::State;

const WINDOW: Duration = Duration::from_secs(100);

/// The real rule, the real plan and the real census over maps in memory, with time that the test
/// moves.
struct Simulation {
    memory: Memory,
    rings: Rings,
    transitions: Transitions,
    touched: Touched,
    layout: Layout,
    epoch: u64,
    flows: Vec<Flowing>,
    ports: u16,
    /// By service; those left out hash.
    schedulers: BTreeMap<u8, Scheduler>,
}

/// A connection that is open.
struct Flowing {
    service: u8,
    port: u16,
    backend: [u8; 6],
    spoke: u64,
    /// Whether its client has answered the server's SYN.
    established: bool,
}

impl Simulation {
    fn new() -> Self {
        Self {
            memory: Memory::new(CAPACITY, [3, 5]),
            rings: Rings::default(),
            transitions: Transitions::default(),
            touched: Touched::default(),
            layout: Layout::default(),
            epoch: 1,
            flows: Vec::new(),
            ports: 1_024,
            schedulers: BTreeMap::new(),
        }
    }

    fn config(&self, world: &World) -> Config {
        let mut config = world.config();
        for (service, scheduler) in &self.schedulers {
            if let Some(service) = config.services.get_mut(&format!("s{service}")) {
                service.scheduler = *scheduler;
            }
        }
        config
    }

    fn image(&self) -> Image {
        self.memory.image().expect("memory can be read")
    }

    fn make(&mut self, changes: &[Change]) {
        self.memory.apply(changes).expect("the changes can be made");
        self.transitions.note(changes, self.epoch);
        self.touched.note(changes);
    }

    /// Puts a world into effect.
    fn change(&mut self, world: &World) {
        self.change_with(world, BTreeSet::new());
    }

    fn change_with(&mut self, world: &World, free: BTreeSet<(u32, u16)>) {
        let image = self.image();
        let state = State { free, ..world.state() };
        let plan = plan(&self.config(world), &state, &image, CAPACITY, &mut self.rings)
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
        let census = self.take_census();
        self.use_census(&census, world);
    }

    fn take_census(&mut self) -> Census {
        self.touched = Touched::since(&self.image());
        let idle = Idle {
            pinned: WINDOW,
            recorded: WINDOW,
            closing: Duration::from_secs(60),
            closed: Duration::from_secs(10),
            udp: WINDOW,
            half_open: Duration::from_secs(60),
        };
        let image = self.image();
        let counted = self.counted();
        let mut counter = Counter::new(&image, &self.layout, self.epoch, idle, counted);
        let records = self.memory.tables.records.borrow().clone();
        for ((record, key), pin) in records {
            if !counter.count(record, &key, &pin) {
                self.memory.tables.records.borrow_mut().remove(&(record, key));
            }
        }
        counter.finish()
    }

    fn use_census(&mut self, census: &Census, world: &World) {
        for (line, by) in census.corrections(&self.counted()) {
            self.memory.correct_open_flows(line, by).expect("memory can be written");
        }
        self.count_again();
        let always: BTreeSet<u32> = self
            .config(world)
            .services
            .iter()
            .filter(|(_, service)| is_always_watched(service))
            .filter_map(|(name, _)| self.layout.services.get(name).map(|place| place.id))
            .collect();
        let free = census.free(&self.layout, &self.touched);
        let changes = unwatch(&self.image(), census, &self.touched, |id| always.contains(&id));
        self.make(&changes);
        self.change_with(world, free);
    }

    fn send(&mut self, service: u8, port: u16, flags: u8) -> Verdict {
        let client = SocketAddr::new(Ipv4Addr::new(198, 51, 100, 7).into(), port);
        let packet = Packet::tcp(client, SocketAddr::new(vip(service).into(), 443)).flags(flags);
        self.memory.process(&mut MemoryFrame { bytes: packet.build(), ingress: 2 })
    }

    fn counted(&self) -> BTreeMap<u32, Counted> {
        let turns = &self.memory.tables.counts.borrow().turns;
        let counted = |(line, id)| {
            let open = self.memory.open_flows(line).expect("memory can be read");
            (line, Counted { open, begun: turns.get(&id).copied().unwrap_or(0) })
        };
        counted_lines(&self.image()).map(counted).collect()
    }

    /// After a census the packet path's count of open flows is that of the records.
    fn count_again(&self) {
        let image = self.image();
        let records = self.memory.tables.records.borrow();
        let services: BTreeMap<u32, &Service> =
            image.listeners.values().map(|listener| (listener.id, listener)).collect();
        for (line, _) in counted_lines(&image) {
            let found = records.iter().filter(|((_, key), pin)| {
                let base = services.get(&key.service()).map(|service| service.backend_base);
                pin.flags & PIN_CLOSING == 0
                    && base.is_some_and(|base| base + u32::from(pin.backend) == line)
            });
            let counted = self.memory.open_flows(line).expect("memory can be read");
            assert_eq!(counted, found.count() as u64, "open flows of line {line}");
        }
    }

    /// Opens a connection, if somebody takes it.
    fn open(&mut self, service: u8) {
        if self.begin(service) {
            // Its ACK goes where its SYN did.
            self.speak(self.flows.len() - 1);
        }
    }

    /// Begins to open one: whatever comes between SYN and ACK, they go to the same backend.
    fn begin(&mut self, service: u8) -> bool {
        self.ports += 1;
        let port = self.ports;
        let Verdict::Forward(route) = self.send(service, port, tcp_flag::SYN) else { return false };
        let backend = route.next_hop.octets();
        let flow = Flowing { service, port, backend, spoke: self.epoch, established: false };
        self.flows.push(flow);
        true
    }

    /// Nobody has answered the SYN: it comes again, and whoever gets it now is the one.
    fn begin_again(&mut self, index: usize) {
        let Flowing { service, port, established, .. } = self.flows[index];
        if established {
            return;
        }
        match self.send(service, port, tcp_flag::SYN) {
            Verdict::Forward(route) => self.flows[index].backend = route.next_hop.octets(),
            _ => drop(self.flows.swap_remove(index)),
        }
    }

    /// Whether it is pinned: then nothing about the flow goes by its slot.
    fn is_remembered(&self, service: u8, port: u16) -> bool {
        let records = self.memory.tables.records.borrow();
        records.keys().any(|(kind, key)| {
            let (client, listener) = Flow::from(key).ends();
            *kind != Record::HalfOpen && client.port() == port && listener.ip() == vip(service)
        })
    }

    /// Whether a backend takes new flows, by its MAC.
    fn serves(&self, world: &World, backend: [u8; 6]) -> bool {
        let of = world.services.get(&backend[4]);
        of.is_some_and(|backends| {
            backends
                .values()
                .any(|(address, up, weight)| *address == backend[5] && *up && *weight > 0)
        })
    }

    fn speak(&mut self, index: usize) {
        let Flowing { service, port, backend, spoke, .. } = self.flows[index];
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
        self.flows[index].established = true;
    }

    /// Those who have been silent for most of a window say something, and all handshakes end.
    fn keep_alive(&mut self, ahead: u64) {
        for index in 0..self.flows.len() {
            let begun = !self.flows[index].established;
            if begun || self.epoch + ahead >= self.flows[index].spoke + WINDOW.as_secs() {
                self.speak(index);
            }
        }
    }
}

/// What happens in a step.
#[derive(Clone, Debug)]
enum Step {
    Change(World),
    Schedule(u8, Scheduler),
    Open(u8),
    Begin(u8),
    BeginAgain(prop::sample::Index),
    Forge(prop::sample::Index),
    Speak(prop::sample::Index),
    Close(prop::sample::Index),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => worlds().prop_map(Step::Change),
        1 => (0_u8..4, schedulers()).prop_map(|(of, scheduler)| Step::Schedule(of, scheduler)),
        6 => (0_u8..4).prop_map(Step::Open),
        4 => (0_u8..4).prop_map(Step::Begin),
        2 => any::<prop::sample::Index>().prop_map(Step::BeginAgain),
        1 => any::<prop::sample::Index>().prop_map(Step::Forge),
        8 => any::<prop::sample::Index>().prop_map(Step::Speak),
        2 => any::<prop::sample::Index>().prop_map(Step::Close),
        3 => (1_u64..99).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..120)
}

fn schedulers() -> impl Strategy<Value = Scheduler> {
    prop_oneof![Just(Scheduler::Maglev), Just(Scheduler::RoundRobin), Just(Scheduler::LeastConn)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Services are given other schedulers. Backends flap, come, go and change their weight, several times inside one window; slots
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
                Step::Schedule(service, scheduler) => {
                    simulation.schedulers.insert(service, scheduler);
                    simulation.change(&now);
                }
                Step::Open(service) => simulation.open(service),
                Step::Begin(service) => {
                    simulation.begin(service);
                }
                Step::BeginAgain(which) if !simulation.flows.is_empty() => {
                    let index = which.index(simulation.flows.len());
                    simulation.begin_again(index);
                }
                // Somebody forges a SYN of a connection that is there: while its backend takes new
                // flows it is not even asked again.
                Step::Forge(which) if !simulation.flows.is_empty() => {
                    let index = which.index(simulation.flows.len());
                    let Flowing { service, port, backend, .. } = simulation.flows[index];
                    if simulation.is_remembered(service, port) && simulation.serves(&now, backend) {
                        simulation.send(service, port, tcp_flag::SYN);
                    }
                }
                Step::Speak(which) if !simulation.flows.is_empty() => {
                    let index = which.index(simulation.flows.len());
                    simulation.speak(index);
                }
                Step::Close(which) if !simulation.flows.is_empty() => {
                    let index = which.index(simulation.flows.len());
                    let flow = simulation.flows.swap_remove(index);
                    simulation.send(flow.service, flow.port, tcp_flag::FIN | tcp_flag::ACK);
                }
                Step::BeginAgain(_) | Step::Forge(_) | Step::Speak(_) | Step::Close(_) => {}
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
        simulation.schedulers.clear();
        simulation.change(&now);
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
fn a_change_that_came_and_went_during_a_census_is_not_forgotten() {
    let mut simulation = Simulation::new();
    let both = world(&[(1, &[(1, 11, true, 1), (2, 12, true, 1)])]);
    let one = world(&[(1, &[(1, 11, true, 1), (2, 12, false, 1)])]);
    simulation.change(&both);
    // Slots move and are back, watched, with no flow to remember.
    simulation.change(&one);
    simulation.change(&both);
    let census = simulation.take_census();
    simulation.change(&one);
    for _ in 0..200 {
        simulation.open(1);
    }
    simulation.change(&both);
    simulation.use_census(&census, &both);
    for index in 0..simulation.flows.len() {
        simulation.speak(index);
    }
}

#[test]
fn a_handshake_that_a_census_interrupts_ends_where_it_began() {
    let mut simulation = Simulation::new();
    let both = world(&[(1, &[(1, 11, true, 1), (2, 12, true, 1)])]);
    simulation.change(&both);
    simulation.change(&world(&[(1, &[(1, 11, true, 1), (2, 12, false, 1)])]));
    let begun: Vec<_> =
        (1..200).map(|port| (port, simulation.send(1, port, tcp_flag::SYN))).collect();
    simulation.change(&both);
    simulation.pass(1, &both);
    for (port, verdict) in begun {
        assert_eq!(simulation.send(1, port, tcp_flag::ACK), verdict, "{port}");
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

#[test]
fn a_census_outlives_turns_that_change_but_no_other_change_of_listeners() {
    let mut simulation = Simulation::new();
    simulation.change(&world(&[(1, &[(1, 11, true, 1), (2, 12, true, 1)])]));
    let image = simulation.image();
    let with = |change: fn(&mut Service)| {
        let mut listeners: Vec<Service> = image.listeners.values().copied().collect();
        listeners.iter_mut().for_each(change);
        let mut touched = Touched::since(&image);
        touched.note(&[Change::SetListeners(listeners)]);
        touched.has(0..1)
    };
    assert!(!with(|listener| listener.lap += 1));
    assert!(with(|listener| listener.flags |= SERVICE_LEAST_CONN));
    assert!(with(|listener| listener.port_and_protocol += 1));
}
