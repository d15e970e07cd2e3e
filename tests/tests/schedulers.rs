//! New flows in turn and by the fewest open ones: how exactly they are shared, and that those which
//! are there stay where they are.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData};
use aya::util::online_cpus;
use lb_common::builder::{Packet, tcp_flag};
use lb_common::cases::{self, world};
use lb_common::maps::{FlowKey, Pin, SCHEMA_VERSION};
use lb_common::tables::Record;
use lb_tests::bed::{Bpffs, VIP, VIP6};
use lb_tests::echo::Echo;
use lb_tests::flows::{count_names, knock};
use lb_tests::privilege::is_root_or_skips;
use lb_tests::prog_run::{Action, Kernel};
use lb_tests::stage::{PATIENCE, Stage};
use lb_tests::talk::{Talk, Talker, all_say, by_server};
use lb_tests::wait::wait_until;
use lb_tests::worker::Worker;
use serde_json::Value;

/// Where talkers listen.
const TALK: [SocketAddr; 2] = [SocketAddr::new(VIP, 7000), SocketAddr::new(VIP6, 7000)];
/// The same for another service.
const OTHER: [SocketAddr; 2] = [SocketAddr::new(VIP, 7001), SocketAddr::new(VIP6, 7001)];
/// Where servers tell their names.
const NAMES: [SocketAddr; 2] = [SocketAddr::new(VIP, 7100), SocketAddr::new(VIP6, 7100)];
/// The same for another service.
const WEIGHED: [SocketAddr; 2] = [SocketAddr::new(VIP, 7101), SocketAddr::new(VIP6, 7101)];

/// An address of the client that tests give it.
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 200);

/// Something on all web servers and addresses.
fn on_all<T>(
    stage: &Stage,
    to: &[SocketAddr],
    start: fn(&lb_tests::node::Node, SocketAddr) -> T,
) -> Vec<T> {
    let all = stage.webs.iter().flat_map(|web| to.iter().map(move |to| (web.node(), *to)));
    all.map(|(node, to)| start(node, to)).collect()
}

fn nobody() -> BTreeMap<String, Vec<ErrorKind>> {
    BTreeMap::new()
}

/// Connections of a server.
fn of(talks: &[Talk], server: &str) -> usize {
    by_server(talks).get(server).copied().unwrap_or(0)
}

#[test]
fn turns_are_shared_exactly_but_for_one_on_each_cpu() {
    if !is_root_or_skips("turns_are_shared_exactly_but_for_one_on_each_cpu") {
        return;
    }
    let mut stage = Stage::new("turns", 3);
    let _servers = on_all(&stage, &[NAMES, WEIGHED].concat(), Echo::tcp);
    let in_turn = "scheduler = \"round-robin\"";
    let weights = [", weight = 100", ", weight = 50", ", weight = 50"];
    let text = stage.head("")
        + &stage.service_on("web", &[7100], in_turn, &[""; 3])
        + &stage.service_on("weighed", &[7101], in_turn, &weights);
    stage.start(&text);
    for web in ["web1", "web2", "web3"] {
        stage.balancer.wait_for_state(&format!("weighed/{web}"), "serving", PATIENCE);
    }
    let client = stage.client.node();
    let cpus = online_cpus().expect("the kernel tells its CPUs").len();
    for (to, count, shares) in [
        (NAMES[0], 10_000, [1, 1, 1]),
        (NAMES[1], 2_000, [1, 1, 1]),
        (WEIGHED[0], 4_000, [2, 1, 1]),
    ] {
        let counts = count_names(client, to, count);
        let sum: usize = shares.iter().sum();
        for (n, share) in (1..).zip(shares) {
            let (ideal, got) =
                (count as f64 * share as f64 / sum as f64, counts[&format!("web{n}")]);
            let off = (got as f64 - ideal).abs();
            assert!(off <= cpus as f64, "{to}: {counts:?} with {cpus} CPUs");
        }
    }
}

/// Short connections one after the other: how many were well, and what was wrong with others.
fn short_connections(stage: &Stage) -> Worker<(usize, Vec<String>)> {
    let client = stage.client.node().clone();
    let mut targets = TALK.into_iter().cycle();
    Worker::start((0, Vec::new()), move |(count, failures)| {
        let to = targets.next().expect("a cycle has no end");
        match Talk::open(&client, to).and_then(|mut talk| talk.say()) {
            Ok(()) => *count += 1,
            Err(error) => failures.push(format!("{to}: {error}")),
        }
        thread::sleep(Duration::from_millis(2));
    })
}

#[test]
fn connections_outlive_every_change_of_the_scheduler_and_under_each() {
    if !is_root_or_skips("connections_outlive_every_change_of_the_scheduler_and_under_each") {
        return;
    }
    let mut stage = Stage::new("schedulers", 4);
    let _talkers = on_all(&stage, &TALK, Talker::start);
    let file = |stage: &Stage, scheduler: &str, each: &[&str]| {
        let scheduler = format!("scheduler = \"{scheduler}\"");
        stage.head("quiet-window = \"5s\"") + &stage.service_on("web", &[7000], &scheduler, each)
    };
    stage.start(&file(&stage, "maglev", &[""; 4]));
    let client = stage.client.node().clone();
    let long = Talk::open_many(&client, &TALK, 100);
    assert_eq!(by_server(&long).len(), 4, "{:?}", by_server(&long));
    let short = short_connections(&stage);
    let long = Worker::start((long, nobody()), |(long, failures)| {
        for (server, kinds) in all_say(long) {
            failures.entry(server).or_default().extend(kinds);
        }
        // Well within the quiet window.
        thread::sleep(Duration::from_millis(300));
    });
    let mut later: Vec<Talk> = Vec::new();
    let schedulers = ["round-robin", "least-conn", "maglev", "round-robin", "maglev", "least-conn"];
    for (round, scheduler) in schedulers.into_iter().chain(["maglev"]).enumerate() {
        let mut step = |what: &str| {
            assert_eq!(all_say(&mut later), nobody(), "{scheduler}: {what}");
            let ended = later.len().saturating_sub(60);
            later.drain(..ended);
            later.extend(Talk::open_many(&client, &TALK, 10));
        };
        let [a, b] = [1, 2].map(|n| format!("web/web{}", (round + n) % 4 + 1));
        step("before");
        stage.reload(&file(&stage, scheduler, &[""; 4]));
        step("changed");
        stage.balancer.lb_ok(&["drain", &a]);
        step("drained");
        stage.balancer.lb_ok(&["weight", &b, "250"]);
        step("weighed");
        stage.balancer.lb_ok(&["enable", &a]);
        step("enabled");
        stage.reload(&file(&stage, scheduler, &["", ", weight = 30", ""]));
        step("removed");
        stage.reload(&file(&stage, scheduler, &[""; 4]));
        stage.wait_for("serving", &[&stage.webs[3]]);
        step("added");
    }
    assert_eq!(all_say(&mut later), nobody());
    let (mut long, failures) = long.finish();
    assert_eq!((failures, all_say(&mut long)), (nobody(), nobody()), "{}", stage.balancer.log());
    let (count, failures) = short.finish();
    assert_eq!(failures, [""; 0], "after {count} good ones");
    assert!(count > 300, "only {count} short connections");
}

#[test]
fn new_connections_go_to_the_backend_with_the_fewest_for_its_weight() {
    if !is_root_or_skips("new_connections_go_to_the_backend_with_the_fewest_for_its_weight") {
        return;
    }
    let mut stage = Stage::new("fewest", 3);
    let _talkers = on_all(&stage, &[TALK, OTHER].concat(), Talker::start);
    let fewest = "scheduler = \"least-conn\"";
    let text = stage.head("tcp-idle = \"10s\"")
        + &stage.service_on("web", &[7000], fewest, &[""; 3])
        + &stage.service_on("weighed", &[7001], fewest, &[", weight = 200", ", weight = 100"]);
    stage.start(&text);
    for web in ["weighed/web1", "weighed/web2"] {
        stage.balancer.wait_for_state(web, "serving", PATIENCE);
    }
    let client = stage.client.node().clone();
    client.ip(&format!("addr add {SECOND}/24 dev eth0"));
    let others = |verb: &str| {
        for web in ["web/web2", "web/web3"] {
            stage.balancer.lb_ok(&[verb, web]);
        }
    };

    let talks = Talk::open_many(&client, &OTHER, 60);
    let twice = of(&talks, "web1");
    assert!(twice.abs_diff(40) <= 2, "by weight: {:?}", by_server(&talks));
    drop(talks);

    others("drain");
    let mut long = Talk::open_many(&client, &TALK, 60);
    assert_eq!(by_server(&long), BTreeMap::from([("web1", 60)]));
    others("enable");
    // They have none each, and take all until they have as many.
    let mut new = Talk::open_many(&client, &TALK, 60);
    let (two, three) = (of(&new, "web2"), of(&new, "web3"));
    assert!(of(&new, "web1") == 0 && two.abs_diff(three) <= 4, "{:?}", by_server(&new));
    new.extend(Talk::open_many(&client, &TALK, 60));
    assert!(of(&new, "web1") <= 4, "{:?}", by_server(&new));
    let mut even = Talk::open_many(&client, &TALK, 30);
    for server in ["web1", "web2", "web3"] {
        let count = of(&even, server) + of(&new, server) + of(&long, server);
        assert!(count.abs_diff(70) <= 4, "{server}: {count}");
    }
    // FINs are counted at once.
    long.clear();
    let mut again = Talk::open_many(&client, &TALK, 40);
    assert!(of(&again, "web1") >= 36, "{:?}", by_server(&again));

    // Clients that vanish without a word: their address is gone before their sockets are.
    others("drain");
    let from = IpAddr::V4(SECOND);
    let open = |_| Talk::open_from(&client, from, TALK[0]).expect("a connection");
    let vanishing: Vec<Talk> = (0..50).map(open).collect();
    assert_eq!(by_server(&vanishing), BTreeMap::from([("web1", 50)]));
    others("enable");
    let probe = Talk::open(&client, TALK[0]).expect("a connection");
    assert_ne!(probe.server(), "web1");
    client.ip(&format!("addr del {SECOND}/24 dev eth0"));
    drop(vanishing);
    wait_until(PATIENCE * 2, "connections that vanished are counted no more", || {
        // Those who speak are not idle.
        assert_eq!(
            (all_say(&mut new), all_say(&mut even), all_say(&mut again)),
            (nobody(), nobody(), nobody())
        );
        let next = Talk::open(&client, TALK[0]).expect("a connection");
        thread::sleep(Duration::from_millis(200));
        match next.server() {
            "web1" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    // It had twenty fewer than each of the others.
    let new = Talk::open_many(&client, &TALK, 20);
    assert!(of(&new, "web1") >= 16, "{:?}", by_server(&new));
}

/// Records in the maps, whatever their age.
fn records(stage: &Stage) -> usize {
    let maps = stage.balancer.pins().join(format!("maps-v{SCHEMA_VERSION}-0"));
    let count = |(_, name): &(Record, &str)| {
        let map = MapData::from_pin(maps.join(name)).expect("the records are pinned");
        let map: HashMap<_, FlowKey, Pin> =
            HashMap::try_from(Map::LruHashMap(map)).expect("records in a hash map");
        map.keys().filter(|key| key.is_ok()).count()
    };
    Record::ALL.iter().map(count).sum()
}

#[test]
fn records_last_as_long_as_the_state_of_their_connection_wants() {
    if !is_root_or_skips("records_last_as_long_as_the_state_of_their_connection_wants") {
        return;
    }
    /// Connections in each state.
    const EACH: u64 = 10;
    let mut stage = Stage::new("timeouts", 3);
    let _talkers = on_all(&stage, &TALK, Talker::start);
    let _servers = on_all(&stage, &NAMES[..1], Echo::tcp);
    let idle = "tcp-idle = \"12s\"\nclosing-idle = \"9s\"\nhalf-open-idle = \"6s\"
closed-idle = \"3s\"";
    let in_turn = "scheduler = \"round-robin\"";
    stage.start(&(stage.head(idle) + &stage.service_on("web", &[7000, 7100], in_turn, &[""; 3])));
    let client = stage.client.node().clone();
    // Who is not answered has a connection that is half open.
    client.ip(&format!("addr add {SECOND}/24 dev eth0"));
    for web in &stage.webs {
        web.node().ip(&format!("route add blackhole {SECOND}/32"));
    }
    let begun = Instant::now();
    let talks = Talk::open_many(&client, &TALK, EACH as usize);
    drop(Talk::open_many(&client, &TALK, EACH as usize));
    count_names(&client, NAMES[0], EACH as usize);
    knock(&client, IpAddr::V4(SECOND), 20_000..20_000 + EACH as u16, TALK[0]);

    let total = || -> Value { stage.balancer.lb_json(&["flows", "count", "web"])["total"].clone() };
    let number = |total: &Value, field: &str| total[field].as_u64().expect("a number");
    let first = total();
    let told = ["open", "closing", "half_open"].map(|field| number(&first, field));
    assert_eq!(told, [EACH, 2 * EACH, EACH], "{first}");
    for (seconds, what, field, left) in [
        (3, "closed", "closing", EACH),
        (6, "half open", "half_open", 0),
        (9, "closing", "closing", 0),
        (12, "open", "open", 0),
    ] {
        wait_until(PATIENCE, &format!("what is {what} is forgotten"), || {
            let total = total();
            if number(&total, field) <= left { Ok(()) } else { Err(total.to_string()) }
        });
        let after = begun.elapsed();
        assert!(after >= Duration::from_secs(seconds), "{what}: after {after:?}");
    }
    wait_until(PATIENCE, "nothing is left in the maps", || match records(&stage) {
        0 => Ok(()),
        left => Err(left.to_string()),
    });
    drop(talks);
}

#[test]
fn forged_syns_to_a_service_that_remembers_all_push_out_nobody_who_is_connected() {
    let name = "forged_syns_to_a_service_that_remembers_all_push_out_nobody_who_is_connected";
    if !is_root_or_skips(name) {
        return;
    }
    /// More than there is room for.
    const FLOOD: u32 = 300_000;
    const FLOWS: u16 = 2000;
    let bpffs = Bpffs::new("turns-forged");
    let mut kernel = Kernel::load(&bpffs.path().join("lb"), &cases::tables()).expect("a kernel");
    assert!(kernel.capacity().half_open < FLOOD);
    let to = world::vip(world::TURNS);
    let packet = |port, flags| Packet::tcp(world::client(port), to).flags(flags).build();
    let goes_to = |kernel: &mut Kernel, frame: &[u8]| {
        let (action, output) = kernel.run(frame).expect("a test run");
        assert_eq!(action, Action::Transmit, "{}", kernel.counters());
        output[..6].to_vec()
    };
    let mut homes = BTreeMap::new();
    for port in 1..=FLOWS {
        let home = goes_to(&mut kernel, &packet(port, tcp_flag::SYN));
        assert_eq!(goes_to(&mut kernel, &packet(port, tcp_flag::ACK)), home, "{port}");
        homes.insert(port, home);
    }
    let connected = |kernel: &Kernel| {
        let mut records = kernel.records().expect("records");
        records.retain(|(record, _), _| *record != Record::HalfOpen);
        records
    };
    let before = connected(&kernel);
    assert_eq!(before.len(), usize::from(FLOWS));
    let mut frame = packet(0, tcp_flag::SYN);
    for n in 0..FLOOD {
        // Source address and port, spread; the program leaves checksums to the receiver.
        let spread = n.wrapping_mul(0x9e37_79b1);
        frame[26..30].copy_from_slice(&(0x0b00_0000 | spread >> 8).to_be_bytes());
        frame[34..36].copy_from_slice(&((spread as u16) << 8 | n as u16 & 0xff).to_be_bytes());
        goes_to(&mut kernel, &frame);
    }
    assert!(connected(&kernel) == before, "records are not what they were");
    for (port, home) in homes {
        assert_eq!(goes_to(&mut kernel, &packet(port, tcp_flag::ACK)), home, "{port}");
    }
}
