use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use lb_common::builder::{Packet, tcp_flag};
use lb_common::frame::MemoryFrame;

use super::*;
use crate::api::{BackendView, GuardView};
use crate::config::{AdminState, Affinity, Rate, Scheduler};
use crate::dataplane::memory::Memory;
use crate::plan::tests::{CAPACITY, Server, vip, world};
use crate::plan::{Rings, plan};
use crate::reconcile::diff;
use crate::state::{BackendId, Override};

/// One service, `s1`, and a dataplane that balances it.
struct Scene {
    config: Config,
    state: State,
    plan: Plan,
    memory: Memory,
    warming: bool,
}

impl Scene {
    fn new(backends: &[Server], change: impl FnOnce(&mut config::Service)) -> Self {
        let world = world(&[(1, backends)]);
        let (mut config, state) = (world.config(), world.state());
        change(config.services.get_mut("s1").expect("the world has it"));
        let memory = Memory::new(CAPACITY, [3, 5]);
        let plan = Plan { image: memory.image().expect("memory"), layout: Default::default() };
        let mut scene = Self { config, state, plan, memory, warming: false };
        scene.replan();
        scene
    }

    fn replan(&mut self) {
        let image = self.memory.image().expect("memory can be read");
        let plan = plan(&self.config, &self.state, &image, CAPACITY, &mut Rings::default());
        self.plan = plan.expect("a small world fits");
        self.memory.apply(&diff(&image, &self.plan.image)).expect("changes can be made");
    }

    fn send(&mut self, source: [u8; 4], port: u16) {
        let client = SocketAddr::new(Ipv4Addr::from(source).into(), port);
        let packet = Packet::tcp(client, SocketAddr::new(vip(1).into(), 443)).flags(tcp_flag::SYN);
        self.memory.process(&mut MemoryFrame { bytes: packet.build(), ingress: 2 });
    }

    fn known<T>(&self, view: impl FnOnce(&Known<'_, Memory>) -> T) -> T {
        view(&Known {
            config: &self.config,
            loaded: Timestamp::UNIX_EPOCH,
            rejected: None,
            started: Timestamp::UNIX_EPOCH,
            state: &self.state,
            plan: &self.plan,
            modes: &[],
            trouble: None,
            detached: &[],
            silent: SilentView::default(),
            untold: &[],
            warming: self.warming,
            flows: &|_, _| None,
            dataplane: &self.memory,
        })
    }

    fn status(&self) -> StatusView {
        self.known(|known| known.status()).expect("memory can be read")
    }

    fn service(&self) -> ServiceView {
        self.status().services.remove(0)
    }

    /// What a field of each backend is, by name.
    fn each<T>(&self, field: impl Fn(&BackendView) -> T) -> BTreeMap<String, T> {
        let backends = self.service().backends;
        backends.iter().map(|view| (view.id.backend.clone(), field(view))).collect()
    }
}

fn id(backend: &str) -> BackendId {
    BackendId { service: "s1".to_owned(), backend: backend.to_owned() }
}

fn named<T: Copy, const N: usize>(all: [(&str, T); N]) -> BTreeMap<String, T> {
    all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Backends by whether each is up, of which `b3` is a backup.
fn with_backup(up: [bool; 3]) -> Scene {
    let [one, two, three] = up;
    let backends = [(1, 11, one, 100), (2, 12, two, 100), (3, 13, three, 100)];
    Scene::new(&backends, |service| {
        service.backends.get_mut("b3").expect("a backend").backup = true;
    })
}

#[test]
fn a_backup_stands_by_until_no_other_backend_serves() {
    use BackendState::{Down, Serving, Standby};
    let on_backups = "service s1 runs on its backups";
    for (up, states, state, serving, on) in [
        ([true, true, true], [Serving, Serving, Standby], ServiceState::Up, 2, false),
        ([true, false, true], [Serving, Down, Standby], ServiceState::Degraded, 1, false),
        ([true, true, false], [Serving, Serving, Down], ServiceState::Up, 2, false),
        ([false, false, true], [Down, Down, Serving], ServiceState::Degraded, 1, true),
        ([false, false, false], [Down, Down, Down], ServiceState::Down, 0, false),
    ] {
        let scene = with_backup(up);
        let expected = ["b1", "b2", "b3"].into_iter().map(str::to_owned).zip(states);
        assert_eq!(scene.each(|view| view.state), expected.collect(), "{up:?}");
        let status = scene.status();
        let service = &status.services[0];
        assert_eq!((service.state, service.serving, service.on_backups), (state, serving, on));
        let told = status.problems.iter().any(|problem| problem == on_backups);
        assert_eq!(told, on, "{up:?}: {:?}", status.problems);
    }
    assert_eq!(
        with_backup([true; 3]).each(|view| view.backup),
        named([("b1", false), ("b2", false), ("b3", true)])
    );
}

#[test]
fn backups_that_serve_in_place_of_drained_backends_are_told_of_too() {
    let mut scene = with_backup([true; 3]);
    for backend in ["b1", "b2"] {
        let over = Override { admin: Some(AdminState::Drain), ..Default::default() };
        scene.state.overrides.insert(id(backend), over);
    }
    scene.replan();
    let service = scene.service();
    assert_eq!((service.state, service.on_backups), (ServiceState::Degraded, true));
    let changed = scene.known(|known| known.backend(&id("b3"))).expect("a backend");
    assert_eq!((changed.state, changed.slots), (BackendState::Serving, Some(101)));
    scene.warming = true;
    let changed = scene.known(|known| known.backend(&id("b3"))).expect("a backend");
    assert_eq!(changed.state, BackendState::Checking);
    assert!(scene.known(|known| known.backend(&id("b9"))).is_err());
}

#[test]
fn a_backend_that_starts_slowly_says_how_far_it_is() {
    let backends = [(1, 11, true, 100), (2, 12, true, 100)];
    let mut scene = Scene::new(&backends, |_| {});
    scene.state.growing.insert(id("b2"), 405);
    scene.replan();
    assert_eq!(scene.each(|view| view.growing), named([("b1", None), ("b2", Some(40))]));
    // Where all begin at once, a table gives each its whole share, and turns do not.
    scene.state.growing.insert(id("b1"), 10);
    scene.replan();
    assert_eq!(scene.each(|view| view.growing), named([("b1", None), ("b2", None)]));
    scene.config.services.get_mut("s1").expect("a service").scheduler = Scheduler::RoundRobin;
    scene.replan();
    assert_eq!(scene.each(|view| view.growing), named([("b1", Some(1)), ("b2", Some(40))]));
}

#[test]
fn a_backup_that_stands_by_does_not_start_slowly() {
    let mut scene = with_backup([true; 3]);
    scene.state.growing.insert(id("b3"), 400);
    assert_eq!(scene.each(|view| view.growing)["b3"], None);
}

#[test]
fn a_round_robin_service_is_shown_in_turns() {
    let backends = [(1, 11, true, 100), (2, 12, true, 50), (3, 13, true, 50)];
    let mut scene = Scene::new(&backends, |service| service.scheduler = Scheduler::RoundRobin);
    assert_eq!(scene.service().lap, Some(4));
    let turns = named([("b1", Some(2)), ("b2", Some(1)), ("b3", Some(1))]);
    assert_eq!(scene.each(|view| view.slots), turns);
    assert_eq!(scene.each(|view| view.open), named([("b1", None), ("b2", None), ("b3", None)]));
    // Slots that change hands are no flows on their way.
    scene.state.growing.insert(id("b1"), 500);
    scene.replan();
    assert_eq!((scene.service().moving, scene.service().lap), (0, Some(3)));
}

#[test]
fn a_least_conn_service_is_shown_with_the_flows_that_it_goes_by() {
    let backends = [(1, 11, true, 100), (2, 12, true, 50)];
    let mut scene = Scene::new(&backends, |service| service.scheduler = Scheduler::LeastConn);
    (1..=6).for_each(|port| scene.send([198, 51, 100, 7], port));
    assert_eq!(scene.each(|view| view.open), named([("b1", Some(4)), ("b2", Some(2))]));
    assert_eq!(scene.each(|view| view.slots), named([("b1", None), ("b2", None)]));
    let service = scene.service();
    assert_eq!((service.scheduler, service.lap, service.moving), (Scheduler::LeastConn, None, 0));
    let place = scene.plan.layout.services["s1"].clone();
    let line = place.line(place.numbers["b2"]);
    scene.memory.correct_open_flows(line, -3).expect("memory can be written");
    assert_eq!(scene.each(|view| view.open)["b2"], Some(0), "never below nought");
}

#[test]
fn a_guarded_service_says_what_it_lets_in() {
    let rate = Rate { per_second: 100, burst: 1 };
    let mut scene = Scene::new(&[(1, 11, true, 100)], |service| {
        service.affinity = Affinity::ClientIp;
        service.limit.source = Some(rate);
        service.sources = vec![
            config::SourceRule { prefix: prefix([198, 51, 100, 0], 24), allow: true },
            config::SourceRule { prefix: prefix([198, 51, 100, 66], 32), allow: false },
            config::SourceRule { prefix: prefix([198, 51, 100, 67], 32), allow: false },
        ];
    });
    let guard = GuardView { flows: None, source: Some(rate), allow: 1, deny: 2 };
    assert_eq!(scene.service().guard, Some(guard));
    assert_eq!(scene.service().affinity, Affinity::ClientIp);
    for (source, port) in [(66, 1), (9, 2), (7, 3), (7, 4)] {
        scene.send([198, 51, 100, source], port);
    }
    let turned_away: Vec<_> = scene
        .status()
        .verdicts
        .iter()
        .map(|verdict| (verdict.reason.clone(), verdict.packets))
        .collect();
    assert_eq!(turned_away, [("denied".to_owned(), 1), ("source-rate".to_owned(), 1)]);
    assert_eq!(Scene::new(&[(1, 11, true, 100)], |_| {}).service().guard, None);
}

fn prefix(address: [u8; 4], length: u8) -> config::Prefix {
    config::Prefix { address: address.into(), length }
}
