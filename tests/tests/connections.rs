//! Connections and flows while their backends change, die and come back, and while others forge
//! what they can.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use lb_common::builder::{Packet, tcp_flag};
use lb_common::cases::{self, backend_mac, world};
use lb_common::tables::Record;
use lb_tests::balancer::{QUICK, backend, https_check, listener, service};
use lb_tests::bed::{Bpffs, VIP, VIP6};
use lb_tests::echo::Echo;
use lb_tests::flows::ask_udp;
use lb_tests::node::Node;
use lb_tests::privilege::is_root_or_skips;
use lb_tests::prog_run::{Action, Kernel};
use lb_tests::stage::{PATIENCE, Stage};
use lb_tests::talk::{Talk, Talker, all_say, by_server};
use lb_tests::wait::wait_until;
use lb_tests::worker::Worker;

/// Where talkers listen.
const TALK: [SocketAddr; 2] = [SocketAddr::new(VIP, 7000), SocketAddr::new(VIP6, 7000)];
/// The same for another service.
const OTHER: [SocketAddr; 2] = [SocketAddr::new(VIP, 7001), SocketAddr::new(VIP6, 7001)];
/// Where datagrams are answered.
const NAMES: SocketAddr = SocketAddr::new(VIP, 5300);

/// Talkers on all web servers.
fn talkers(stage: &Stage, addresses: &[SocketAddr]) -> Vec<Talker> {
    let all = stage.webs.iter().flat_map(|web| addresses.iter().map(move |a| (web.node(), *a)));
    all.map(|(node, address)| Talker::start(node, address)).collect()
}

/// The head of a file, with more to say about the dataplane.
fn head(stage: &Stage, dataplane: &str) -> String {
    stage.balancer.preamble().replace("[dataplane]", &format!("[dataplane]\n{dataplane}"))
}

/// A service of web servers, with more to say about it.
fn talking(
    stage: &Stage,
    name: &str,
    more: &str,
    listeners: &[SocketAddr],
    webs: &[&Node],
) -> String {
    let listeners: Vec<_> = listeners.iter().map(SocketAddr::to_string).collect();
    let lines: Vec<_> = webs.iter().map(|node| backend(node, "")).collect();
    service(name, &listeners, &https_check(&stage.authority), &lines)
        .replace("listen = [", &format!("{more}\nlisten = ["))
}

/// All web servers of a stage.
fn nodes(stage: &Stage) -> Vec<&Node> {
    stage.webs.iter().map(|web| web.node()).collect()
}

/// How often slots have been committed.
fn commits(stage: &Stage) -> usize {
    stage.balancer.log().matches("slots committed").count()
}

/// Waits until slots are committed once more than so many times.
#[track_caller]
fn wait_for_commit(stage: &Stage, before: usize, mut meanwhile: impl FnMut()) {
    wait_until(PATIENCE, "slots are committed", || {
        meanwhile();
        if commits(stage) > before { Ok(()) } else { Err(stage.balancer.log()) }
    });
}

fn nobody() -> BTreeMap<String, Vec<ErrorKind>> {
    BTreeMap::new()
}

/// Servers that may not get new flows, and how often that has changed.
type Out = Arc<Mutex<(u64, BTreeSet<String>)>>;

/// Short connections one after the other: how many were well, and what was wrong with others.
fn short_connections(client: &Node, out: &Out) -> Worker<(usize, Vec<String>)> {
    let (client, out) = (client.clone(), Arc::clone(out));
    let mut targets = TALK.into_iter().cycle();
    Worker::start((0, Vec::new()), move |(count, failures)| {
        let to = targets.next().expect("a cycle has no end");
        let before = out.lock().expect("the list of servers").clone();
        let said = Talk::open(&client, to).and_then(|mut talk| {
            talk.say()?;
            Ok(talk.server().to_owned())
        });
        let after = out.lock().expect("the list of servers").0;
        match said {
            Ok(server) if before.0 == after && before.1.contains(&server) => {
                failures.push(format!("{to}: taken by {server}, which is out"));
            }
            Ok(_) => *count += 1,
            Err(error) => failures.push(format!("{to}: {error}")),
        }
        thread::sleep(Duration::from_millis(2));
    })
}

#[test]
fn long_connections_outlive_every_change_of_backends() {
    if !is_root_or_skips("long_connections_outlive_every_change_of_backends") {
        return;
    }
    let mut stage = Stage::new("long", 5);
    let _talkers = talkers(&stage, &TALK);
    let file = |stage: &Stage, without: Option<usize>, weight: Option<(usize, u16)>| {
        let lines = stage.webs.iter().enumerate().filter(|(n, _)| Some(n + 1) != without);
        let line = |(n, web): (usize, &lb_tests::web::Web)| match weight {
            Some((which, weight)) if which == n + 1 => {
                backend(web.node(), &format!(", weight = {weight}"))
            }
            _ => backend(web.node(), ""),
        };
        let lines: Vec<_> = lines.map(line).collect();
        let listeners = TALK.map(|to| to.to_string());
        head(stage, "quiet-window = \"5s\"")
            + &service("web", &listeners, &https_check(&stage.authority), &lines)
    };
    stage.start(&file(&stage, None, None));
    let client = stage.client.node().clone();
    let lost = || client.counter("TcpExt", "TCPSynRetrans");
    let lost_before = lost();
    let long = Talk::open_many(&client, &TALK, 200);
    let homes: Vec<String> = long.iter().map(|talk| talk.server().to_owned()).collect();
    assert_eq!(by_server(&long).len(), 5, "{:?}", by_server(&long));
    let out = Out::default();
    let short = short_connections(&client, &out);
    let long = Worker::start((long, nobody()), |(long, failures)| {
        for (server, kinds) in all_say(long) {
            failures.entry(server).or_default().extend(kinds);
        }
        // Well within the quiet window.
        thread::sleep(Duration::from_millis(500));
    });

    let reload = |stage: &Stage, text: &str| {
        stage.balancer.write_config(text);
        stage.balancer.lb_ok(&["reload"]);
    };
    let take_out = |number: usize| {
        let mut out = out.lock().expect("the list of servers");
        out.0 += 1;
        out.1.insert(format!("web{number}"));
    };
    let take_in = |number: usize| {
        let mut out = out.lock().expect("the list of servers");
        out.0 += 1;
        out.1.remove(&format!("web{number}"));
    };
    let mut changes = 0;
    for round in 0..6 {
        let [a, b, c] = [1, 2, 3].map(|n| (round * 2 + n) % 5 + 1);
        let id = |number: usize| format!("web/web{number}");
        // By hand.
        stage.balancer.lb_ok(&["drain", &id(a)]);
        take_out(a);
        stage.balancer.lb_ok(&["weight", &id(b), &(30 + 40 * round).to_string()]);
        stage.balancer.lb_ok(&["disable", &id(c)]);
        take_out(c);
        take_in(a);
        stage.balancer.lb_ok(&["enable", &id(a)]);
        take_in(c);
        stage.balancer.lb_ok(&["enable", &id(c)]);
        stage.wait_for("serving", &[&stage.webs[a - 1], &stage.webs[c - 1]]);
        // By the file.
        reload(&stage, &file(&stage, Some(a), None));
        take_out(a);
        reload(&stage, &file(&stage, Some(a), Some((c, 50))));
        take_in(a);
        reload(&stage, &file(&stage, None, Some((c, 250))));
        stage.wait_for("serving", &[&stage.webs[a - 1]]);
        reload(&stage, &file(&stage, None, None));
        changes += 9;
        if round % 2 == 1 {
            let before = commits(&stage);
            wait_for_commit(&stage, before, || ());
        }
    }
    assert!(changes >= 50, "{changes} changes");

    let (mut long, failures) = long.finish();
    assert_eq!((failures, all_say(&mut long)), (nobody(), nobody()), "{}", stage.balancer.log());
    let now: Vec<&str> = long.iter().map(Talk::server).collect();
    assert_eq!(now, homes);
    let (count, failures) = short.finish();
    assert_eq!(failures, [""; 0], "after {count} good ones");
    assert!(count > 1000, "only {count} short connections");
    assert_eq!(lost(), lost_before, "connections that needed a second attempt");
}

#[test]
fn a_drained_backend_keeps_its_flows_and_gets_no_new_ones_until_its_grace_is_over() {
    let name = "a_drained_backend_keeps_its_flows_and_gets_no_new_ones_until_its_grace_is_over";
    if !is_root_or_skips(name) {
        return;
    }
    let mut stage = Stage::new("drained", 2);
    let _talkers = talkers(&stage, &TALK);
    let file = |more: &str| {
        stage.balancer.preamble() + &talking(&stage, "web", more, &TALK, &nodes(&stage))
    };
    let (keeps, resets) = (file(""), file("drain = { grace = \"2s\", then = \"reset\" }"));
    stage.start(&keeps);
    let client = stage.client.node().clone();
    let mut old = Talk::open_many(&client, &TALK, 40);
    let homes = by_server(&old).len();
    assert_eq!(homes, 2, "{:?}", by_server(&old));
    stage.balancer.lb_ok(&["drain", "web/web1"]);
    assert_eq!(all_say(&mut old), nobody());
    let mut new = Talk::open_many(&client, &TALK, 40);
    assert_eq!(by_server(&new), BTreeMap::from([("web2", 40)]));
    assert_eq!((all_say(&mut old), all_say(&mut new)), (nobody(), nobody()));

    stage.balancer.lb_ok(&["enable", "web/web1"]);
    stage.balancer.write_config(&resets);
    stage.balancer.lb_ok(&["reload"]);
    assert_eq!((all_say(&mut old), all_say(&mut new)), (nobody(), nobody()));
    old.extend(Talk::open_many(&client, &TALK, 40));
    let left = by_server(&old)["web1"];
    stage.balancer.lb_ok(&["drain", "web/web1"]);
    assert_eq!(all_say(&mut old), nobody(), "within the grace");
    wait_until(PATIENCE, "the grace is over", || {
        let log = stage.balancer.log();
        if log.contains("the drain is over") { Ok(()) } else { Err(log) }
    });
    let reset = BTreeMap::from([("web1".to_owned(), vec![ErrorKind::ConnectionReset; left])]);
    assert_eq!(all_say(&mut old), reset);
    assert_eq!(all_say(&mut new), nobody());
    // A backend that serves again is one as any other.
    stage.balancer.lb_ok(&["enable", "web/web1"]);
    let mut again = Talk::open_many(&client, &TALK, 40);
    assert_eq!(by_server(&again).len(), 2, "{:?}", by_server(&again));
    assert_eq!((all_say(&mut again), all_say(&mut new)), (nobody(), nobody()));
}

#[test]
fn flows_of_a_backend_that_dies_are_reset_or_kept_as_their_service_says() {
    if !is_root_or_skips("flows_of_a_backend_that_dies_are_reset_or_kept_as_their_service_says") {
        return;
    }
    let mut stage = Stage::new("dies", 2);
    let _talkers = talkers(&stage, &[TALK, OTHER].concat());
    let text = stage.balancer.preamble()
        + &talking(&stage, "web", "on-down = \"reset\"", &TALK, &nodes(&stage))
        + &talking(&stage, "kept", "on-down = \"keep\"", &OTHER, &nodes(&stage));
    stage.start(&text);
    for web in ["kept/web1", "kept/web2"] {
        stage.balancer.wait_for_state(web, "serving", PATIENCE);
    }
    let client = stage.client.node().clone();
    let mut reset = Talk::open_many(&client, &TALK, 40);
    let mut kept = Talk::open_many(&client, &OTHER, 40);
    let left = by_server(&reset)["web1"];
    kept.retain(|talk| talk.server() == "web1");
    assert!(left > 0 && !kept.is_empty(), "{left} and {}", kept.len());

    stage.bed.unplug(stage.web(1));
    stage.wait_for("down", &[&stage.webs[0]]);
    stage.balancer.wait_for_state("kept/web1", "down", PATIENCE);
    let expected = BTreeMap::from([("web1".to_owned(), vec![ErrorKind::ConnectionReset; left])]);
    assert_eq!(all_say(&mut reset), expected);
    for talk in &mut kept {
        talk.limit(Duration::from_millis(20));
        let error = talk.say().expect_err("a server that is unplugged answered");
        assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
    }
    for to in [TALK, OTHER].concat() {
        assert_eq!(Talk::open(&client, to).expect("a connection").server(), "web2", "{to}");
    }
    stage.bed.plug(stage.web(1));
    for talk in &mut kept {
        talk.limit(PATIENCE);
        talk.hear_it().expect("what was said is sent again, and answered");
        talk.say().expect("a connection that was kept");
    }
}

#[test]
fn flows_without_any_backend_are_refused_or_dropped_as_their_service_says() {
    if !is_root_or_skips("flows_without_any_backend_are_refused_or_dropped_as_their_service_says") {
        return;
    }
    let mut stage = Stage::new("refused", 2);
    let _talkers = talkers(&stage, &[TALK, OTHER].concat());
    let names = [VIP, VIP6].map(|vip| SocketAddr::new(vip, 5300));
    let webs = nodes(&stage);
    let lines: Vec<_> = webs.iter().map(|node| backend(node, "")).collect();
    let listeners: Vec<_> = TALK
        .iter()
        .map(SocketAddr::to_string)
        .chain(names.iter().map(|to| format!("{to}/udp")))
        .collect();
    let refuses = service("web", &listeners, &https_check(&stage.authority), &lines)
        .replace("listen = [", "no-backend = \"reject\"\nlisten = [");
    let text = stage.balancer.preamble()
        + &refuses
        + &talking(&stage, "dropped", "no-backend = \"drop\"", &OTHER, &webs);
    stage.start(&text);
    let client = stage.client.node().clone();
    assert_eq!(all_say(&mut Talk::open_many(&client, &TALK, 4)), nobody());

    stage.webs.iter_mut().for_each(|web| web.kill());
    stage.wait_for("down", &stage.webs.iter().collect::<Vec<_>>());
    for backend in ["dropped/web1", "dropped/web2"] {
        stage.balancer.wait_for_state(backend, "down", PATIENCE);
    }
    let answered = |reason: &str| {
        let status = stage.balancer.lb_json(&["status"]);
        let verdicts = status["verdicts"].as_array().into_iter().flatten();
        let mut found = verdicts.filter(|v| v["action"] == "answer" && v["reason"] == reason);
        found.next().map_or(0, |verdict| verdict["packets"].as_u64().expect("a number"))
    };
    assert_eq!((answered("reset"), answered("unreachable")), (0, 0));
    for to in TALK {
        let error = Talk::open(&client, to).expect_err("nobody is there");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}: {error}");
    }
    for to in names {
        let error = client.enter(|| {
            let own = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(own).expect("a socket");
            socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
            socket.connect(to).expect("a destination");
            // No shorter than what the error quotes: a virtual cable has no room for more.
            socket.send(&[b'?'; 60]).expect("a datagram");
            socket.recv(&mut [0; 64]).expect_err("nobody is there")
        });
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}: {error}");
    }
    assert_eq!((answered("reset"), answered("unreachable")), (2, 2));
    for to in OTHER {
        let error = client.enter(|| {
            let patience = Duration::from_millis(200);
            std::net::TcpStream::connect_timeout(&to, patience).expect_err("nobody is there")
        });
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{to}: {error}");
    }
    assert_eq!((answered("reset"), answered("unreachable")), (2, 2));

    stage.webs.iter_mut().for_each(|web| web.restart());
    stage.wait_for("serving", &stage.webs.iter().collect::<Vec<_>>());
    assert_eq!(all_say(&mut Talk::open_many(&client, &TALK, 20)), nobody());
}

#[test]
fn a_restart_in_the_middle_of_a_change_keeps_remembered_flows() {
    if !is_root_or_skips("a_restart_in_the_middle_of_a_change_keeps_remembered_flows") {
        return;
    }
    let mut stage = Stage::new("restarts", 3);
    let _talkers = talkers(&stage, &TALK);
    let text =
        head(&stage, "quiet-window = \"4s\"") + &talking(&stage, "web", "", &TALK, &nodes(&stage));
    stage.start(&text);
    let client = stage.client.node().clone();
    let mut talks = Talk::open_many(&client, &TALK, 60);
    // Each time to a backend that had few of the slots before, or nothing would move.
    for (start, first, second) in
        [("crash", "web/web1", "web/web2"), ("clean", "web/web3", "web/web1")]
    {
        let before = commits(&stage);
        stage.balancer.lb_ok(&["drain", first]);
        assert_eq!(all_say(&mut talks), nobody(), "{start}: drained");
        talks.extend(Talk::open_many(&client, &TALK, 30));
        stage.balancer.lb_ok(&["drain", second]);
        assert_eq!(all_say(&mut talks), nobody(), "{start}: both drained");
        if start == "crash" {
            stage.balancer.kill();
        } else {
            stage.balancer.stop();
        }
        assert_eq!(all_say(&mut talks), nobody(), "{start}: without a daemon");
        talks.extend(Talk::open_many(&client, &TALK, 30));
        stage.balancer.start();
        assert_eq!(all_say(&mut talks), nobody(), "{start}: with the next daemon");
        wait_for_commit(&stage, before, || {
            assert_eq!(all_say(&mut talks), nobody(), "{start}: before the commit");
        });
        assert_eq!(all_say(&mut talks), nobody(), "{start}: after the commit");
        stage.balancer.lb_ok(&["enable", first]);
        stage.balancer.lb_ok(&["enable", second]);
        stage.wait_for("serving", &stage.webs.iter().collect::<Vec<_>>());
        assert_eq!(all_say(&mut talks), nobody(), "{start}: enabled");
    }
    assert_eq!(by_server(&talks).len(), 3, "{:?}", by_server(&talks));
}

/// Forged SYNs of a flood.
const FLOOD: u32 = 1_000_000;

/// Runs forged SYNs to a port of the address through the program: none of them from a source of
/// the others.
fn flood(kernel: &mut Kernel, port: u16) {
    let syn = Packet::tcp(world::client(0), world::vip(port)).flags(tcp_flag::SYN);
    let mut frame = syn.build();
    for n in 0..FLOOD {
        // Source address and port, spread; the program leaves checksums to the receiver.
        let spread = n.wrapping_mul(0x9e37_79b1);
        frame[26..30].copy_from_slice(&(0x0b00_0000 | spread >> 8).to_be_bytes());
        frame[34..36].copy_from_slice(&((spread as u16) << 8 | n as u16 & 0xff).to_be_bytes());
        let (action, _) = kernel.run(&frame).expect("a test run");
        assert_eq!(action, Action::Transmit, "{}", kernel.counters());
    }
}

#[test]
fn forged_syns_move_nobody_and_leave_nothing_while_nothing_changes() {
    if !is_root_or_skips("forged_syns_move_nobody_and_leave_nothing_while_nothing_changes") {
        return;
    }
    /// The service of the cases whose slots are moving.
    const MOVING: u16 = 9000;
    const FLOWS: u16 = 2000;
    let bpffs = Bpffs::new("forged");
    let mut kernel = Kernel::load(&bpffs.path().join("lb"), &cases::tables()).expect("a kernel");
    flood(&mut kernel, 443);
    assert_eq!(kernel.records().expect("records"), BTreeMap::new(), "while nothing changes");

    let packet = |port: u16, flags: u8| {
        Packet::tcp(world::client(port), world::vip(MOVING)).flags(flags).build()
    };
    let goes_to = |kernel: &mut Kernel, frame: &[u8]| {
        let (action, output) = kernel.run(frame).expect("a test run");
        assert_eq!(action, Action::Transmit, "{}", kernel.counters());
        output[..6].to_vec()
    };
    let (old, new) = (1..FLOWS, FLOWS..2 * FLOWS);
    let home = |port: u16| {
        let line = if old.contains(&port) { world::line::OLD } else { world::line::NEW };
        backend_mac(line).octets().to_vec()
    };
    for port in new.clone() {
        assert_eq!(goes_to(&mut kernel, &packet(port, tcp_flag::SYN)), home(port), "{port}");
    }
    for port in old.clone().chain(new.clone()) {
        assert_eq!(goes_to(&mut kernel, &packet(port, tcp_flag::ACK)), home(port), "{port}");
    }
    let pins = |kernel: &Kernel| {
        let mut records = kernel.records().expect("records");
        records.retain(|(record, _), _| *record != Record::HalfOpen);
        records
    };
    let before = pins(&kernel);
    assert_eq!(before.len(), usize::from(2 * FLOWS - 1));
    flood(&mut kernel, MOVING);
    assert!(pins(&kernel) == before, "pins are not what they were");
    for port in old.clone().chain(new.clone()) {
        assert_eq!(goes_to(&mut kernel, &packet(port, tcp_flag::ACK)), home(port), "{port}");
    }
    assert!(pins(&kernel) == before, "pins are not what they were after their flows spoke");
}

#[test]
fn all_connections_of_a_client_address_go_to_one_backend() {
    if !is_root_or_skips("all_connections_of_a_client_address_go_to_one_backend") {
        return;
    }
    let mut stage = Stage::new("client-ip", 3);
    let _talkers = talkers(&stage, &TALK);
    let text = stage.balancer.preamble()
        + &talking(&stage, "web", "affinity = \"client-ip\"", &TALK, &nodes(&stage));
    stage.start(&text);
    let client = stage.client.node().clone();
    let addresses: Vec<_> = (200..220).map(|n| Ipv4Addr::new(10, 9, 0, n)).collect();
    addresses.iter().for_each(|own| drop(client.ip(&format!("addr add {own}/24 dev eth0"))));
    let open = |own: &Ipv4Addr| {
        let talk = Talk::open_from(&client, IpAddr::V4(*own), TALK[0]);
        talk.unwrap_or_else(|error| panic!("from {own}: {error}"))
    };
    let home = |own: &Ipv4Addr| {
        let talks: Vec<_> = (0..8).map(|_| open(own)).collect();
        let servers = by_server(&talks);
        assert_eq!(servers.len(), 1, "{own}: {servers:?}");
        talks[0].server().to_owned()
    };
    let homes: Vec<String> = addresses.iter().map(home).collect();
    let all: BTreeSet<&String> = homes.iter().collect();
    assert_eq!(all.len(), 3, "{homes:?}");
    // Who must go elsewhere does so with all that it has; few others do.
    let mut old: Vec<Talk> = addresses.iter().map(open).collect();
    stage.balancer.lb_ok(&["drain", "web/web1"]);
    let after: Vec<String> = addresses.iter().map(home).collect();
    assert!(!after.contains(&"web1".to_owned()), "{after:?}");
    assert_eq!(all_say(&mut old), nobody());
}

#[test]
fn a_flow_of_datagrams_stays_while_backends_change() {
    if !is_root_or_skips("a_flow_of_datagrams_stays_while_backends_change") {
        return;
    }
    let mut stage = Stage::new("datagrams", 3);
    let servers: Vec<_> = stage.webs.iter().map(|web| Echo::udp(web.node(), NAMES)).collect();
    let file = |webs: &[&Node]| {
        let lines: Vec<_> = webs.iter().map(|node| backend(node, "")).collect();
        let check = format!("type = \"tcp\"\nport = 443\n{QUICK}");
        head(&stage, "quiet-window = \"2s\"\nudp-idle = \"30s\"")
            + &service("web", &[format!("{}/udp", listener(VIP, NAMES.port()))], &check, &lines)
    };
    let (all, fewer) = (file(&nodes(&stage)), file(&nodes(&stage)[..2]));
    stage.start(&all);
    let client = stage.client.node().clone();
    let homes = |ports: std::ops::Range<u16>| -> Vec<String> {
        let ask = |port| ask_udp(&client, port, NAMES).unwrap_or_else(|e| panic!("{port}: {e}"));
        ports.map(ask).collect()
    };
    let committed = commits(&stage);
    let ports = 10_000..10_060;
    let before = homes(ports.clone());
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 3, "{before:?}");

    stage.balancer.lb_ok(&["drain", "web/web1"]);
    assert_eq!(homes(ports.clone()), before, "drained");
    assert!(!homes(11_000..11_060).contains(&"web1".to_owned()), "a new flow");
    stage.balancer.write_config(&fewer);
    stage.balancer.lb_ok(&["reload"]);
    assert_eq!(homes(ports.clone()), before, "one drained, one removed");
    assert!(homes(12_000..12_030).iter().all(|server| server == "web2"), "new flows");
    wait_for_commit(&stage, committed, || {
        assert_eq!(homes(ports.clone()), before, "before the commit");
    });
    assert_eq!(homes(ports.clone()), before, "after the commit");
    stage.balancer.write_config(&all);
    stage.balancer.lb_ok(&["reload"]);
    stage.balancer.lb_ok(&["enable", "web/web1"]);
    stage.wait_for("serving", &stage.webs.iter().collect::<Vec<_>>());
    assert_eq!(homes(ports), before, "all are back");
    drop(servers);
}
