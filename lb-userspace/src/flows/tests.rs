use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use lb_common::builder::{Packet, tcp_flag};
use lb_common::frame::MemoryFrame;

use super::*;
use crate::dataplane::Dataplane;
use crate::dataplane::memory::Memory;
use crate::explain;
use crate::plan::tests::{CAPACITY, planned, vip, world};
use crate::reconcile::diff;

const IDLE: Idle = Idle {
    pinned: Duration::from_secs(100),
    recorded: Duration::from_secs(100),
    closed: Duration::from_secs(10),
    closing: Duration::from_secs(60),
    udp: Duration::from_secs(30),
    half_open: Duration::from_secs(50),
};
const EPOCH: u64 = 1_000;

/// A service of three backends, the third of which left the file; flows from before and since, by
/// their source ports.
struct Scene {
    memory: Memory,
    layout: Layout,
}

impl Scene {
    const OLD: std::ops::Range<u16> = 1_000..1_100;
    const NEW: std::ops::Range<u16> = 2_000..2_100;
    const HALF: std::ops::Range<u16> = 3_000..3_100;

    fn new() -> Self {
        let mut scene = Self { memory: Memory::new(CAPACITY, [3, 5]), layout: Layout::default() };
        let three = [(1, 11, true, 100), (2, 12, true, 100), (3, 13, true, 100)];
        for backends in [&three[..], &three[..2]] {
            let image = scene.memory.image().expect("memory can be read");
            let plan = planned(&world(&[(1, backends), (2, &[(1, 11, true, 1)])]), &image);
            scene.memory.apply(&diff(&image, &plan.image)).expect("changes can be made");
            scene.layout = plan.layout;
        }
        scene.memory.set_epoch(EPOCH).expect("memory has an epoch");
        Self::OLD.for_each(|port| scene.send(port, tcp_flag::ACK));
        Self::NEW.chain(Self::HALF).for_each(|port| scene.send(port, tcp_flag::SYN));
        Self::NEW.for_each(|port| scene.send(port, tcp_flag::ACK));
        scene
    }

    fn send(&mut self, port: u16, flags: u8) {
        let client = SocketAddr::new(Ipv4Addr::new(198, 51, 100, 7).into(), port);
        let packet = Packet::tcp(client, SocketAddr::new(vip(1).into(), 443)).flags(flags);
        self.memory.process(&mut MemoryFrame { bytes: packet.build(), ingress: 2 });
    }

    fn names(&self, epoch: u64) -> Names {
        let image = self.memory.image().expect("memory can be read");
        Names::new(&image, &self.layout, epoch, IDLE)
    }

    fn collect<C: Collect>(&self, collection: Result<C, Problem>) -> C::View {
        let mut collection = collection.expect("there is such a service");
        for ((record, key), pin) in self.memory.tables.records.borrow().iter() {
            collection.take(*record, key, pin);
        }
        collection.finish()
    }

    fn list(&self, query: FlowQuery, later: u64) -> FlowsView {
        self.collect(List::new(query, self.names(EPOCH + later)))
    }

    fn count(&self, query: FlowQuery) -> FlowCountView {
        self.collect(Count::new(query, self.names(EPOCH)))
    }
}

fn of(service: &str, backend: Option<&str>) -> FlowQuery {
    let backend = backend.map(str::to_owned);
    FlowQuery { service: Some(service.to_owned()), backend, ..FlowQuery::default() }
}

#[test]
fn flows_are_told_by_kind_with_the_names_of_their_backends() {
    let scene = Scene::new();
    let view = scene.list(FlowQuery::default(), 41);
    assert_eq!((view.total, view.truncated), (view.flows.len() as u64, false));
    let mut seen = [0; 3];
    for flow in &view.flows {
        let port = flow.source.port();
        let expected = match port {
            _ if Scene::OLD.contains(&port) => (FlowKind::Base, FlowState::Open),
            _ if Scene::NEW.contains(&port) => (FlowKind::Current, FlowState::Open),
            _ => (FlowKind::HalfOpen, FlowState::Opening),
        };
        assert_eq!((flow.kind, flow.state), expected, "{flow:?}");
        assert_eq!((flow.service.as_str(), flow.idle), ("s1", 41), "{flow:?}");
        assert_eq!(flow.destination, SocketAddr::new(vip(1).into(), 443));
        seen[flow.kind as usize] += 1;
        // Nobody new goes to a backend that left.
        assert_eq!(flow.leaving, flow.backend == "10.0.1.13", "{flow:?}");
        assert!(flow.kind == FlowKind::Base || ["b1", "b2"].contains(&flow.backend.as_str()));
    }
    // About a third of the slots moved.
    assert!(seen.iter().all(|count| (10..60).contains(count)), "{seen:?}");
    assert!(view.flows.iter().any(|flow| flow.leaving));
    assert!(view.flows.is_sorted());
}

#[test]
fn flows_that_the_next_census_forgets_are_gone() {
    let mut scene = Scene::new();
    let ports = |view: &FlowsView, kind| {
        let flows = view.flows.iter().filter(|flow| flow.kind == kind);
        flows.map(|flow| flow.source.port()).collect::<Vec<_>>()
    };
    let old = ports(&scene.list(FlowQuery::default(), 0), FlowKind::Base);
    scene.send(old[0], tcp_flag::FIN | tcp_flag::ACK);
    let closing: Vec<_> = scene.list(FlowQuery::default(), 0).flows;
    let closing: Vec<_> = closing.iter().filter(|f| f.state == FlowState::Closing).collect();
    assert_eq!(closing.iter().map(|flow| flow.source.port()).collect::<Vec<_>>(), old[..1]);

    let later = scene.list(FlowQuery::default(), 61);
    assert_eq!(ports(&later, FlowKind::HalfOpen), [0; 0]);
    assert_eq!(ports(&later, FlowKind::Base), old[1..]);
    assert_eq!(scene.list(FlowQuery::default(), 101).total, 0);
}

#[test]
fn only_what_is_asked_for_is_told() {
    let scene = Scene::new();
    let all = scene.list(FlowQuery::default(), 0).flows;
    for (query, fits) in [
        (of("s1", None), (|_| true) as fn(&FlowView) -> bool),
        (of("s1", Some("b2")), |flow| flow.backend == "b2"),
        (of("s1", Some("10.0.1.13")), |flow| flow.backend == "10.0.1.13"),
        (of("s2", None), |_| false),
        (FlowQuery { kind: Some(FlowKind::Current), ..FlowQuery::default() }, |flow| {
            flow.kind == FlowKind::Current
        }),
    ] {
        let expected: Vec<_> = all.iter().filter(|flow| fits(flow)).cloned().collect();
        assert_eq!(scene.list(query.clone(), 0).flows, expected, "{query:?}");
        let counted = scene.count(query.clone()).total;
        assert_eq!(counted.flows, expected.len() as u64, "{query:?}");
    }
    for (source, fits) in [("198.51.100.0/29", true), ("198.51.100.8/29", false), ("::/0", false)] {
        let source = Some(source.parse().expect("a prefix"));
        let view = scene.list(FlowQuery { source, ..FlowQuery::default() }, 0);
        assert_eq!(view.flows.len(), if fits { all.len() } else { 0 });
    }
}

#[test]
fn a_list_ends_at_its_limit_and_says_so() {
    let scene = Scene::new();
    let all = scene.list(FlowQuery::default(), 0).total;
    let view = scene.list(FlowQuery { limit: Some(7), ..FlowQuery::default() }, 0);
    assert_eq!((view.flows.len(), view.total, view.truncated), (7, all, true));
    let exact = scene.list(FlowQuery { limit: Some(all as u32), ..FlowQuery::default() }, 0);
    assert!(!exact.truncated);
}

#[test]
fn counts_add_up_and_name_backends_without_flows_too() {
    let scene = Scene::new();
    let view = scene.count(FlowQuery::default());
    let rows: Vec<_> = view
        .services
        .iter()
        .flat_map(|s| s.backends.iter().map(|b| (s.service.as_str(), b.backend.as_str())))
        .collect();
    assert_eq!(rows, [("s1", "b1"), ("s1", "b2"), ("s1", "10.0.1.13"), ("s2", "b1")]);
    let all = scene.list(FlowQuery::default(), 0).flows;
    for service in &view.services {
        for backend in &service.backends {
            let own = |flow: &&FlowView| {
                flow.service == service.service && flow.backend == backend.backend
            };
            let mut tally = FlowTally::default();
            all.iter().filter(own).for_each(|flow| tally.count(flow.kind, flow.state));
            assert_eq!(backend.tally, tally, "{}", backend.backend);
            let FlowTally { flows, half_open, current, base, open, closing } = tally;
            assert_eq!((half_open + current + base, half_open + open + closing), (flows, flows));
        }
    }
    assert_eq!(view.total.flows, all.len() as u64);
    let one = scene.count(of("s1", Some("b1")));
    assert_eq!(one.services.len(), 1);
    assert_eq!(one.services[0].backends, view.services[0].backends[..1]);
}

#[test]
fn what_is_not_there_is_not_found() {
    let scene = Scene::new();
    for (query, words) in [
        (of("mail", None), "there is no service `mail`"),
        (of("s1", Some("b3")), "service s1 has no backend `b3`"),
        (of("s2", Some("10.0.1.13")), "service s2 has no backend `10.0.1.13`"),
    ] {
        let problem = List::new(query.clone(), scene.names(0)).expect_err(words);
        assert_eq!((problem.kind, problem.detail.as_str()), (Kind::NotFound, words));
        assert_eq!(Count::new(query, scene.names(0)).expect_err(words).kind, Kind::NotFound);
    }
    let alone = FlowQuery { backend: Some("b1".to_owned()), ..FlowQuery::default() };
    let problem = List::new(alone, scene.names(0)).expect_err("a backend of which service?");
    assert_eq!(problem.kind, Kind::BadRequest);
}

#[test]
fn datagrams_of_ipv6_to_any_port_are_told_too() {
    let scene = Scene::new();
    let mut names = scene.names(EPOCH);
    let client: IpAddr = "2001:db8::7".parse().expect("an address");
    let listener: IpAddr = "2001:db8::100".parse().expect("an address");
    let tuple = "udp [2001:db8::7]:5353 > [2001:db8::100]:53".parse().expect("a flow");
    assert_eq!(explain::key(tuple, &scene.memory), None, "of no service");
    let id = scene.layout.services["s1"].id;
    let key = FlowKey {
        source: client.into(),
        destination: listener.into(),
        ports: u32::from(5353_u16.swap_bytes()) | u32::from(53_u16.swap_bytes()) << 16,
        protocol_and_service: id << 8 | u32::from(Protocol::Udp.number()),
    };
    let pin = Pin { backend: 7, flags: 0, seen: EPOCH as u32 - 30 };
    assert!(names.look(Record::Current, &key, &pin).is_none(), "of no service");
    let vip = ServiceKey::new(key.destination, 0, Protocol::Udp.number());
    names.listeners.insert(vip, Service { id, ..Service::default() });
    let seen = names.look(Record::Current, &key, &pin).expect("a flow of s1");
    let row = names.row(&seen);
    let flow = format!("{} {} > {}", row.protocol, row.source, row.destination);
    assert_eq!(flow, tuple.to_string());
    assert_eq!((row.backend.as_str(), row.leaving, row.idle), ("number 7", true, 30));
    let older = Pin { seen: pin.seen - 1, ..pin };
    assert!(names.look(Record::Current, &key, &older).is_none(), "idle for too long");
    // A pin may be newer than what the daemon has counted.
    let newer = Pin { seen: EPOCH as u32 + 1, ..pin };
    assert_eq!(names.look(Record::Current, &key, &newer).map(|seen| seen.idle), Some(0));
}
