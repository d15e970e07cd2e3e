use lb_common::builder::BALANCER_MAC;

use super::*;
use crate::config;
use crate::config::Scheduler;
use crate::dataplane::Dataplane;
use crate::plan::tests::{CAPACITY, Server, vip, world};
use crate::plan::{Plan, Rings, plan};
use crate::reconcile::diff;

#[test]
fn flows_are_read_as_they_are_written() {
    for text in
        ["tcp 198.51.100.7:40112 > 192.0.2.100:443", "udp [2001:db8::7]:5353 > [2001:db8::100]:53"]
    {
        let tuple: Tuple = text.parse().unwrap();
        assert_eq!(tuple.to_string(), text);
    }
    let loose: Tuple = "  tcp   198.51.100.7:1>192.0.2.100:443 ".parse().unwrap();
    assert_eq!(loose.to_string(), "tcp 198.51.100.7:1 > 192.0.2.100:443");
}

#[test]
fn what_is_wrong_with_a_flow_is_named() {
    for (text, complaint) in [
        ("", "a flow is written"),
        ("tcp 198.51.100.7:1", "a flow is written"),
        ("sctp 198.51.100.7:1 > 192.0.2.100:443", "`sctp`"),
        ("tcp 198.51.100.7 > 192.0.2.100:443", "`198.51.100.7`"),
        ("tcp 198.51.100.7:1 > [2001:db8::1]:443", "two address families"),
    ] {
        let error = text.parse::<Tuple>().unwrap_err().to_string();
        assert!(error.contains(complaint), "{text}: {error}");
    }
}

/// A service, `s1`, as the packet path has it, with what it was sent.
struct Scene {
    config: Config,
    state: State,
    plan: Plan,
    memory: Memory,
}

impl Scene {
    fn new(backends: &[Server], change: impl FnOnce(&mut config::Service)) -> Self {
        let world = world(&[(1, backends)]);
        let (mut config, state) = (world.config(), world.state());
        change(config.services.get_mut("s1").expect("the world has it"));
        let mut memory = Memory::new(CAPACITY, [3, 5]);
        let image = memory.image().expect("memory can be read");
        let plan = plan(&config, &state, &image, CAPACITY, &mut Rings::default());
        let plan = plan.expect("a small world fits");
        memory.apply(&diff(&image, &plan.image)).expect("changes can be made");
        Self { config, state, plan, memory }
    }

    /// Three backends of the same weight, and a scheduler.
    fn scheduled(scheduler: Scheduler) -> Self {
        Self::new(&THREE, |service| service.scheduler = scheduler)
    }

    fn send(&mut self, port: u16, flags: u8) -> Verdict {
        let packet = Packet::tcp(client(port), SocketAddr::new(vip(1).into(), 443)).flags(flags);
        self.memory.process(&mut MemoryFrame { bytes: packet.build(), ingress: 2 })
    }

    /// A new connection, and the name of its backend.
    fn connect(&mut self, port: u16) -> String {
        match self.send(port, tcp_flag::SYN) {
            Verdict::Forward(route) => backend_name(&self.plan.layout, route.line),
            other => panic!("{port}: {other}"),
        }
    }

    /// As the controller does it: with an image of the maps, and what no image has.
    fn explain(&self, flow: &str) -> ExplainView {
        let tuple: Tuple = flow.parse().expect("a flow");
        let image = self.memory.image().expect("memory can be read");
        let copy = Memory::copy_of(&image, CAPACITY).expect("a copy");
        if let Some(key) = key(tuple, &copy) {
            let records = self.memory.tables.records.borrow();
            let own = records.iter().filter(|((_, of), _)| *of == key);
            copy.tables.records.borrow_mut().extend(own.map(|(key, pin)| (*key, *pin)));
        }
        for line in counted_lines(tuple, &copy) {
            let open = self.memory.open_flows(line).expect("a number");
            copy.tables.counts.borrow_mut().open.insert(line, open);
        }
        let (config, state, layout) = (&self.config, &self.state, &self.plan.layout);
        explain(tuple, config, state, layout, &copy, (2, BALANCER_MAC))
    }

    fn explain_tcp(&self, port: u16) -> ExplainView {
        self.explain(&format!("tcp {} > {}:443", client(port), vip(1)))
    }
}

const THREE: [Server; 3] = [(1, 11, true, 100), (2, 12, true, 100), (3, 13, true, 100)];

fn client(port: u16) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 7], port))
}

fn id_of(view: &ExplainView) -> Option<&str> {
    view.backend.as_ref().map(|backend| backend.id.as_str())
}

fn choices_of(view: &ExplainView) -> Vec<(&str, u32)> {
    view.choices.iter().map(|choice| (choice.id.as_str(), choice.turns)).collect()
}

#[test]
fn a_maglev_service_is_explained_by_the_flow_alone() {
    let mut scene = Scene::scheduled(Scheduler::Maglev);
    for port in 1..50 {
        let view = scene.explain_tcp(port);
        assert!(view.choices.is_empty() && view.notes.is_empty(), "{view:?}");
        assert_eq!(id_of(&view), Some(scene.connect(port).as_str()));
    }
}

#[test]
fn a_new_flow_of_a_round_robin_service_has_no_backend_before_its_turn() {
    let mut scene = Scene::new(&[(1, 11, true, 100), (2, 12, true, 50)], |service| {
        service.scheduler = Scheduler::RoundRobin;
    });
    for port in 1..7 {
        let view = scene.explain_tcp(port);
        assert_eq!((id_of(&view), view.action.as_str()), (None, "forward"));
        assert_eq!(view.reason, "round-robin");
        assert_eq!(choices_of(&view), [("s1/b1", 2), ("s1/b2", 1)]);
        assert!(view.notes[0].contains("whose turn it is"), "{view:?}");
        let got = scene.connect(port);
        // From now on it is remembered.
        let view = scene.explain_tcp(port);
        assert_eq!((id_of(&view), view.choices.len()), (Some(got.as_str()), 0), "{port}");
        assert_eq!((view.established.as_deref(), view.notes.len()), (Some(got.as_str()), 0));
    }
}

#[test]
fn a_datagram_of_nobody_who_is_remembered_belongs_to_no_old_flow() {
    let listener = |service: &mut config::Service| {
        service.listen[0].protocol = Protocol::Udp;
        service.scheduler = Scheduler::RoundRobin;
    };
    let view = Scene::new(&THREE, listener).explain("udp 198.51.100.7:1 > 192.0.2.101:443");
    assert_eq!((id_of(&view), view.established.as_deref()), (None, None));
    assert_eq!(view.choices.len(), 3);
}

#[test]
fn of_one_backend_it_is_always_the_turn() {
    let scene = Scene::new(&[(1, 11, true, 100), (2, 12, false, 50)], |service| {
        service.scheduler = Scheduler::RoundRobin;
    });
    let view = scene.explain_tcp(1);
    assert_eq!((id_of(&view), view.reason.as_str()), (Some("s1/b1"), "transmit"));
    assert_eq!(choices_of(&view), [("s1/b1", 1)]);
}

#[test]
fn a_new_flow_of_a_least_conn_service_goes_to_who_has_the_fewest_now() {
    let mut scene = Scene::scheduled(Scheduler::LeastConn);
    let view = scene.explain_tcp(1);
    assert_eq!((id_of(&view), view.reason.as_str()), (None, "least-conn"));
    assert_eq!(choices_of(&view), [("s1/b1", 1), ("s1/b2", 1), ("s1/b3", 1)]);
    let [first, second] = [1, 2].map(|port| scene.connect(port));
    let view = scene.explain_tcp(3);
    let last = id_of(&view).expect("only one has none").to_owned();
    assert!(last != first && last != second, "{view:?}");
    assert_eq!(view.choices[0].open, Some(0));
    assert_eq!(scene.connect(3), last);
    // The first one's flow ends.
    scene.send(1, tcp_flag::ACK);
    scene.send(1, tcp_flag::FIN | tcp_flag::ACK);
    let view = scene.explain_tcp(4);
    assert_eq!((id_of(&view), view.choices.len()), (Some(first.as_str()), 1));
    assert!(view.notes[0].contains("as they are now"), "{view:?}");
}

#[test]
fn where_nobody_serves_nobody_has_a_turn() {
    for scheduler in [Scheduler::RoundRobin, Scheduler::LeastConn] {
        let scene = Scene::new(&[(1, 11, false, 100)], |s| s.scheduler = scheduler);
        let view = scene.explain_tcp(1);
        assert_eq!((view.action.as_str(), view.reason.as_str()), ("drop", "no-backend"));
        assert!(view.choices.is_empty() && view.backend.is_none(), "{view:?}");
    }
}

#[test]
fn who_may_not_come_in_is_told_by_which_rule() {
    let rule = |address: [u8; 4], length, allow| {
        let prefix = config::Prefix { address: address.into(), length };
        config::SourceRule { prefix, allow }
    };
    let mut rules = vec![rule([198, 51, 100, 0], 24, false)];
    let explain = |rules: &[config::SourceRule], scheduler| {
        let scene = Scene::new(&THREE, |service| {
            service.scheduler = scheduler;
            service.sources = rules.to_vec();
        });
        scene.explain_tcp(1)
    };
    for scheduler in [Scheduler::Maglev, Scheduler::RoundRobin] {
        let view = explain(&rules, scheduler);
        assert_eq!((view.action.as_str(), view.reason.as_str()), ("drop", "denied"));
        assert_eq!((id_of(&view), view.established.as_deref()), (None, None));
        assert!(view.choices.is_empty());
        assert_eq!(view.notes, ["198.51.100.7 is denied by 198.51.100.0/24"]);
    }
    rules.push(rule([198, 51, 100, 7], 32, true));
    let view = explain(&rules, Scheduler::Maglev);
    assert_eq!((view.action.as_str(), view.notes.len()), ("forward", 1));
    assert_eq!(view.notes, ["198.51.100.7 is allowed by 198.51.100.7/32"]);
    let view = explain(&[rule([10, 0, 0, 0], 8, true)], Scheduler::Maglev);
    assert_eq!(view.reason, "denied");
    assert_eq!(view.notes, ["198.51.100.7 is in no allowed prefix"]);
    let view = explain(&[rule([10, 0, 0, 0], 8, false)], Scheduler::Maglev);
    assert_eq!(view.action, "forward");
    assert_eq!(view.notes, ["198.51.100.7 is in no denied prefix"]);
}

#[test]
fn a_limit_is_told_but_never_reached() {
    let mut scene = Scene::new(&THREE, |service| {
        service.limit.flows = Some(config::Rate { per_second: 1, burst: 1 });
    });
    scene.connect(1);
    assert_eq!(scene.send(2, tcp_flag::SYN), Verdict::Drop(lb_common::Drop::ServiceRate));
    let view = scene.explain_tcp(2);
    assert_eq!(view.action, "forward");
    assert!(view.notes[0].contains("is not looked at"), "{view:?}");
}

#[test]
fn server_ids_of_a_quic_service_are_listed() {
    let scene = Scene::new(&THREE, |service| {
        service.listen[0].protocol = Protocol::Udp;
        service.affinity = config::Affinity::Quic;
        for (backend, server) in service.backends.values_mut().zip([7, 8, 500]) {
            backend.server_id = Some(server);
        }
    });
    let view = scene.explain("udp 198.51.100.7:1 > 192.0.2.101:443");
    assert_eq!(view.action, "forward");
    assert!(view.notes[0].contains("names no server"), "{view:?}");
    assert_eq!(
        view.notes[1..],
        [
            "packets that name server 7 go to s1/b1",
            "packets that name server 8 go to s1/b2",
            "packets that name server 500 go to s1/b3",
        ]
    );
}

#[test]
fn a_backend_that_left_the_file_is_named_by_its_address() {
    let mut scene = Scene::scheduled(Scheduler::Maglev);
    let ports = 1..50;
    let before: Vec<_> = ports.clone().map(|port| scene.connect(port)).collect();
    scene.config.services.get_mut("s1").expect("a service").backends.remove("b3");
    let image = scene.memory.image().expect("memory can be read");
    let planned = plan(&scene.config, &scene.state, &image, CAPACITY, &mut Rings::default());
    scene.plan = planned.expect("fits");
    scene.memory.apply(&diff(&image, &scene.plan.image)).expect("changes can be made");
    let mut left = 0;
    for (port, name) in ports.zip(before) {
        let view = scene.explain_tcp(port);
        if name == "s1/b3" {
            left += 1;
            assert_eq!(view.established.as_deref(), Some("s1/10.0.1.13 (leaving)"));
            let base = view.slot.and_then(|slot| slot.base);
            assert_eq!(base.as_deref(), Some("s1/10.0.1.13 (leaving)"));
        } else {
            assert_eq!(view.established.as_deref(), Some(name.as_str()));
        }
    }
    assert!(left > 0);
}
