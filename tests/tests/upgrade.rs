//! Restarts and upgrades, counted at both ends: what is sent to the virtual addresses arrives, and
//! what is remembered goes over to the next daemon, or stays with the last one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lb_common::builder::{Packet, tcp_flag};
use lb_common::cases::{self, world};
use lb_common::maps::{FlowKey, Pin, READABLE_SCHEMAS, SCHEMA_VERSION, names};
use lb_common::tables::Record;
use lb_tests::balancer::{backend, https_check, service};
use lb_tests::bed::{Bpffs, VIP, VIP6};
use lb_tests::datagrams::{Arrivals, Sink, Source, arrivals};
use lb_tests::flows::{Load, ask_from};
use lb_tests::privilege::is_root_or_skips;
use lb_tests::prog_run::{Action, Kernel};
use lb_tests::stage::{PATIENCE, PLAIN, Stage, assert_answered_by};
use lb_tests::talk::{Talk, Talker, all_say, by_server};
use lb_tests::wait::wait_until;
use lb_userspace::config::XdpMode;
use lb_userspace::dataplane::bpf::Bpf;
use lb_userspace::image::{Capacity, Features};

/// Where talkers listen.
const TALK: [SocketAddr; 2] = [SocketAddr::new(VIP, 7000), SocketAddr::new(VIP6, 7000)];
/// Where datagrams are counted.
const COUNT: [SocketAddr; 2] = [SocketAddr::new(VIP, 5300), SocketAddr::new(VIP6, 5300)];
/// Time between two datagrams.
const PACE: Duration = Duration::from_micros(500);

/// A configuration with all that is listened for, and more to say about the dataplane.
fn config(stage: &Stage, dataplane: &str) -> String {
    let tcp = PLAIN.iter().chain(&TALK).map(SocketAddr::to_string);
    let listeners: Vec<_> = tcp.chain(COUNT.iter().map(|to| format!("{to}/udp"))).collect();
    let lines: Vec<_> = stage.webs.iter().map(|web| backend(web.node(), "")).collect();
    // A daemon of a busy machine may need a while to start.
    let head = stage.balancer.preamble().replace("lease     = \"1s\"", "lease     = \"20s\"");
    head.replace("[dataplane]", &format!("[dataplane]\n{dataplane}"))
        + &service("web", &listeners, &https_check(&stage.authority), &lines)
}

fn talkers(stage: &Stage) -> Vec<Talker> {
    let webs = stage.webs.iter().flat_map(|web| TALK.iter().map(move |to| (web.node(), *to)));
    webs.map(|(node, to)| Talker::start(node, to)).collect()
}

/// What goes on while daemons come and go: numbered datagrams, connections that last, and requests.
struct Traffic {
    /// Connections that needed a second attempt before.
    again: u64,
    sinks: Vec<Sink>,
    source: Source,
    load: Load,
    stop: Arc<AtomicBool>,
    long: JoinHandle<Vec<Talk>>,
}

impl Traffic {
    #[track_caller]
    fn start(stage: &Stage) -> Self {
        let webs = stage.webs.iter().flat_map(|web| COUNT.iter().map(move |to| (web.node(), *to)));
        let sinks = webs.map(|(node, to)| Sink::start(node, to)).collect();
        let client = stage.client.node();
        let mut talks = Talk::open_many(client, &TALK, 50);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let long = thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                let failures = all_say(&mut talks);
                assert!(failures.is_empty(), "connections that last: {failures:?}");
                thread::sleep(Duration::from_millis(50));
            }
            talks
        });
        let load = Load::start(client, &PLAIN);
        let source = Source::start(client, &COUNT, 20, PACE);
        Self { again: second_attempts(stage), sinks, source, load, stop, long }
    }

    /// Ends it, and makes sure that nothing was lost, refused or sent astray. How many datagrams
    /// there were.
    #[track_caller]
    fn finish(self, stage: &Stage) -> u64 {
        let sent = self.source.finish();
        let Arrivals { by_node, lost, twice, overrun } = arrivals(sent, self.sinks);
        self.stop.store(true, Ordering::SeqCst);
        let mut talks = self.long.join().expect("long connections failed");
        assert_eq!(all_say(&mut talks), BTreeMap::new());
        assert_answered_by(&self.load.finish(), &["web1", "web2", "web3"]);
        assert_eq!(
            (overrun, &lost[..], &twice[..]),
            (0, &[][..], &[][..]),
            "of {sent} datagrams: no room at their receivers, lost, and come twice; {by_node:?}\n{}",
            places(stage)
        );
        assert_eq!(by_node.values().sum::<usize>() as u64, sent, "{by_node:?}");
        assert_eq!(by_node.len(), 3, "{by_node:?}");
        assert_eq!(second_attempts(stage), self.again, "connections that needed a second attempt");
        sent
    }
}

/// How often the client has tried to connect once more.
fn second_attempts(stage: &Stage) -> u64 {
    stage.client.node().counter("TcpExt", "TCPSynRetrans")
}

/// Where datagrams may have been lost.
fn places(stage: &Stage) -> String {
    let nodes = stage.webs.iter().map(|web| web.node());
    let nodes = nodes.chain([stage.balancer.node(), stage.client.node(), stage.bed.switch()]);
    let links = nodes.map(|node| format!("{}:\n{}", node.name(), node.ip("-s -s link show")));
    let links: Vec<_> = links.collect();
    format!("{:#}\n{}", stage.balancer.lb_json(&["status"])["verdicts"], links.join("\n"))
}

/// How often the daemon has said something.
fn said(stage: &Stage, words: &str) -> usize {
    stage.balancer.log().matches(words).count()
}

#[test]
fn nothing_is_lost_while_daemons_die_and_a_copy_of_the_program_takes_over() {
    let name = "nothing_is_lost_while_daemons_die_and_a_copy_of_the_program_takes_over";
    if !is_root_or_skips(name) {
        return;
    }
    let mut stage = Stage::new("takes over", 3);
    let _talkers = talkers(&stage);
    stage.start(&config(&stage, ""));
    let traffic = Traffic::start(&stage);
    traffic.load.go_on(100);
    for round in 0..6 {
        if round == 1 {
            // From here on slots are moving, and flows are found by what is remembered of them.
            stage.balancer.lb_ok(&["drain", "web/web1"]);
        }
        stage.balancer.kill();
        traffic.load.go_on(100);
        stage.balancer.start();
        traffic.load.go_on(100);
    }
    stage.balancer.upgrade();
    stage.balancer.restart();
    traffic.load.go_on(100);
    stage.balancer.lb_ok(&["enable", "web/web1"]);
    stage.balancer.kill();
    stage.balancer.start();
    traffic.load.go_on(100);
    assert_eq!(said(&stage, "program replaced"), 8, "{}", stage.balancer.log());
    let sent = traffic.finish(&stage);
    assert!(sent >= 5_000, "only {sent} datagrams");
}

#[test]
fn nothing_is_lost_while_larger_maps_take_the_place_of_small_ones() {
    if !is_root_or_skips("nothing_is_lost_while_larger_maps_take_the_place_of_small_ones") {
        return;
    }
    let mut stage = Stage::new("larger maps", 3);
    let _talkers = talkers(&stage);
    let small = config(&stage, "pins = 20000\nslots = 1009");
    stage.start(&small);
    let traffic = Traffic::start(&stage);
    traffic.load.go_on(100);
    stage.balancer.lb_ok(&["drain", "web/web1"]);
    let before = said(&stage, "copying them into larger ones");
    let more = |number: u16| {
        let listener = SocketAddr::new(VIP, 8000 + number).to_string();
        let web = backend(stage.web(1), "");
        service(&format!("more{number}"), &[listener], &https_check(&stage.authority), &[web])
    };
    let larger = [
        ("pins", config(&stage, "pins = 50000\nslots = 1009")),
        (
            "services",
            (0..20).fold(config(&stage, "pins = 50000\nslots = 1009"), |all, number| {
                all + &more(number)
            }),
        ),
        ("half-open", config(&stage, "pins = 50000\nslots = 1009\nhalf-open = 100000")),
    ];
    for (count, (what, text)) in (1..).zip(larger) {
        stage.balancer.write_config(&text);
        stage.balancer.lb_ok(&["reload"]);
        assert_eq!(said(&stage, "copying them into larger ones") - before, count, "{what}");
        traffic.load.go_on(100);
    }
    stage.balancer.lb_ok(&["enable", "web/web1"]);
    // The next daemon wants more than it finds, too.
    stage.balancer.kill();
    stage.balancer.write_config(&config(&stage, "pins = 60000\nslots = 1009\nhalf-open = 100000"));
    stage.balancer.start();
    traffic.load.go_on(100);
    assert_eq!(said(&stage, "copying them into larger ones") - before, 4, "at the start");
    assert_eq!(generations(stage.balancer.pins()).len(), 1, "old maps are left");
    let sent = traffic.finish(&stage);
    assert!(sent >= 3_000, "only {sent} datagrams");
}

/// Directories of maps.
fn generations(pins: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(pins).expect("a directory of pins");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut found: Vec<_> = paths.filter(|path| !path.ends_with("links")).collect();
    found.sort_unstable();
    found
}

/// The one directory of maps, under the name that a schema's first would have.
#[track_caller]
fn pretend(pins: &Path, schema: u32) -> PathBuf {
    let found = generations(pins);
    assert_eq!(found.len(), 1, "{found:?}");
    let other = pins.join(format!("maps-v{schema}-0"));
    fs::rename(&found[0], &other).expect("failed to rename a directory of maps");
    other
}

/// All pins, with the numbers of their inodes.
fn everything(pins: &Path) -> BTreeSet<(PathBuf, u64)> {
    use std::os::unix::fs::MetadataExt;
    let mut all = BTreeSet::new();
    for directory in fs::read_dir(pins).expect("a directory of pins") {
        for pin in fs::read_dir(directory.expect("an entry").path()).expect("pins") {
            let pin = pin.expect("a pin");
            all.insert((pin.path(), pin.metadata().expect("an inode").ino()));
        }
    }
    all
}

/// Gives two pins each other's names.
#[track_caller]
fn swap(one: &Path, other: &Path) {
    let between = one.with_file_name("between");
    for (from, to) in [(one, &*between), (other, one), (&between, other)] {
        fs::rename(from, to).expect("failed to rename a pin");
    }
}

/// Which server takes the flow of each of 50 ports, by either family.
fn homes(stage: &Stage) -> Vec<(u16, Result<String, String>)> {
    let ask = |to| ask_from(stage.client.node(), 10_000..10_050, to);
    PLAIN.into_iter().flat_map(ask).collect()
}

#[test]
fn maps_of_an_older_schema_are_taken_over_with_all_that_they_remember() {
    if !is_root_or_skips("maps_of_an_older_schema_are_taken_over_with_all_that_they_remember") {
        return;
    }
    for &older in READABLE_SCHEMAS {
        let mut stage = Stage::new("older schema", 3);
        let _talkers = talkers(&stage);
        stage.start(&config(&stage, ""));
        let pins = stage.balancer.pins().to_owned();
        let traffic = Traffic::start(&stage);
        let client = stage.client.node().clone();
        let mut talks = Talk::open_many(&client, &TALK, 60);
        stage.balancer.lb_ok(&["drain", "web/web1"]);
        // These go to other servers than those before them, and some by the same slots.
        talks.extend(Talk::open_many(&client, &TALK, 60));
        assert_eq!(all_say(&mut talks), BTreeMap::new(), "drained");
        assert_eq!(by_server(&talks).len(), 3, "{:?}", by_server(&talks));
        let before = homes(&stage);
        let packets = |stage: &Stage| -> u64 {
            stage.balancer.backend("web/web2", "packets").as_u64().expect("a number")
        };
        let counted = packets(&stage);
        stage.balancer.kill();

        let old = pretend(&pins, older);
        for (added, _) in names::ADDED.iter().filter(|(_, by)| *by > older) {
            fs::remove_file(old.join(added)).expect("a pin");
        }
        traffic.load.go_on(100);
        stage.balancer.start();

        assert_eq!(said(&stage, "the maps have an older schema"), 1, "{}", stage.balancer.log());
        assert_eq!(generations(&pins), [pins.join(format!("maps-v{SCHEMA_VERSION}-0"))]);
        assert!(names::PINNED.iter().all(|map| generations(&pins)[0].join(map).exists()));
        assert_eq!(all_say(&mut talks), BTreeMap::new(), "from version {older}");
        assert_eq!(homes(&stage), before, "from version {older}");
        assert!(packets(&stage) > counted, "{} after {counted}", packets(&stage));
        assert_eq!(stage.balancer.backend("web/web1", "state"), "draining");
        stage.balancer.lb_ok(&["enable", "web/web1"]);
        traffic.finish(&stage);
        assert_eq!(all_say(&mut talks), BTreeMap::new(), "enabled, from version {older}");
    }
}

#[test]
fn a_daemon_that_cannot_read_the_maps_is_refused_and_they_balance_on() {
    if !is_root_or_skips("a_daemon_that_cannot_read_the_maps_is_refused_and_they_balance_on") {
        return;
    }
    let mut stage = Stage::new("refused", 3);
    let _talkers = talkers(&stage);
    stage.start(&config(&stage, ""));
    let pins = stage.balancer.pins().to_owned();
    let client = stage.client.node().clone();
    // Nobody will answer for the addresses for a while.
    for vip in [VIP, VIP6] {
        let mac = stage.balancer.node().mac();
        client.ip(&format!("neigh replace {vip} lladdr {mac} dev eth0 nud permanent"));
    }
    let traffic = Traffic::start(&stage);
    traffic.load.go_on(50);
    stage.balancer.stop();
    let file = stage.balancer.config().to_string_lossy().into_owned();
    let refused = |stage: &Stage, directory: &Path, words: &[&str]| {
        let before = everything(&pins);
        let answer = stage.balancer.lb(&["run", "--config", &file, "--node", "lb1"]);
        assert_eq!(answer.code, Some(1), "{answer:?}");
        let directory = directory.to_string_lossy();
        for words in words.iter().chain(&[&*directory]) {
            assert!(answer.stderr.contains(words), "no {words:?} in:\n{}", answer.stderr);
        }
        assert_eq!(everything(&pins), before);
        traffic.load.go_on(50);
    };
    let ours = format!("this lb has {SCHEMA_VERSION} ");
    let newer = pretend(&pins, 99);
    refused(&stage, &newer, &["have schema version 99", &ours, "a newer lb", "`lb detach`"]);
    let forgotten = pretend(&pins, 1);
    refused(&stage, &forgotten, &["have schema version 1", &ours, "an older lb", "`lb detach`"]);

    // Of a schema that could be read, but they are not what it says.
    for &older in READABLE_SCHEMAS {
        let old = pretend(&pins, older);
        let [control, leases, vips] =
            [names::CONTROL, names::LEASES, names::VIPS].map(|name| old.join(name));
        fs::rename(&leases, old.join("other")).expect("a pin");
        refused(&stage, &leases, &["failed to copy ", "failed to open "]);
        fs::rename(old.join("other"), &leases).expect("a pin");
        for (other, map, words) in [
            (&vips, &leases, "LEASES: its kind is "),
            (&leases, &control, "CONTROL: its size of values is 8, not 64"),
        ] {
            swap(map, other);
            refused(&stage, map, &["failed to copy ", words]);
            swap(map, other);
        }
    }
    // A daemon that has its maps back goes on with them.
    pretend(&pins, SCHEMA_VERSION);
    stage.balancer.start();
    traffic.finish(&stage);

    // Who does not want them any more says so.
    stage.balancer.stop();
    let newer = pretend(&pins, 99);
    let answer = stage.balancer.lb(&["run", "--config", &file, "--node", "lb1"]);
    assert_eq!(answer.code, Some(1), "{answer:?}");
    let said = stage.balancer.lb_ok(&["detach", "--config", &file]);
    assert!(said.contains(&format!("{} removed", newer.display())), "{said}");
    wait_until(PATIENCE, "nothing is pinned", || {
        if pins.exists() { Err(format!("{:?}", everything(&pins))) } else { Ok(()) }
    });
    stage.balancer.start();
    stage.wait_for("serving", &stage.webs.iter().collect::<Vec<_>>());
    assert_eq!(all_say(&mut Talk::open_many(&client, &TALK, 20)), BTreeMap::new());
}

#[test]
fn a_copy_of_the_maps_that_was_never_attached_is_not_gone_on_with() {
    if !is_root_or_skips("a_copy_of_the_maps_that_was_never_attached_is_not_gone_on_with") {
        return;
    }
    let mut stage = Stage::new("never attached", 3);
    let _talkers = talkers(&stage);
    stage.start(&config(&stage, ""));
    let pins = stage.balancer.pins().to_owned();
    let client = stage.client.node().clone();
    let mut talks = Talk::open_many(&client, &TALK, 30);
    stage.balancer.kill();
    // As far as a daemon comes that dies before it attaches.
    let larger = Capacity { slots: 16, backends: 1, pins: 1, half_open: 100_000, sources: 1 };
    drop(Bpf::open(&pins, larger, Features::default()).expect("larger maps"));
    let directory = |number: u32| pins.join(format!("maps-v{SCHEMA_VERSION}-{number}"));
    assert_eq!(generations(&pins), [directory(0), directory(1)]);
    stage.balancer.start();
    assert_eq!(generations(&pins), [directory(0)]);
    assert_eq!(all_say(&mut talks), BTreeMap::new());
}

#[test]
fn what_is_remembered_while_maps_are_copied_is_in_the_copy_in_the_end() {
    if !is_root_or_skips("what_is_remembered_while_maps_are_copied_is_in_the_copy_in_the_end") {
        return;
    }
    /// The service of the cases whose slots are moving.
    const MOVING: u16 = 9000;
    let bpffs = Bpffs::new("catch up");
    let tables = cases::tables();
    let mut old = Kernel::load(&bpffs.path().join("lb"), &tables).expect("a kernel");
    let speak = |kernel: &mut Kernel, ports: Range<u16>, flags: u8| {
        for port in ports {
            let packet = Packet::tcp(world::client(port), world::vip(MOVING)).flags(flags);
            let (action, _) = kernel.run(&packet.build()).expect("a test run");
            assert_eq!(action, Action::Transmit, "{}", kernel.counters());
        }
    };
    let remembered = |bpf: &Bpf| {
        let mut found = BTreeMap::new();
        let keep = |record, key: &FlowKey, pin: &Pin| found.insert((record, *key), *pin).is_none();
        bpf.records().expect("records").retain(keep).expect("records");
        found
    };
    let begun = |records: &BTreeMap<(Record, FlowKey), Pin>| {
        records.keys().filter(|(record, _)| *record == Record::HalfOpen).count()
    };
    speak(&mut old, 1..100, tcp_flag::SYN);
    speak(&mut old, 1000..1100, tcp_flag::ACK);
    // Room for half-open connections only: the other records are shared.
    let larger = Capacity { half_open: (1 << 18) + 1, ..old.capacity() };
    let mut new =
        Bpf::open(&bpffs.path().join("lb"), larger, Features::default()).expect("larger maps");
    assert_eq!(remembered(&new), old.records().expect("records"));
    speak(&mut old, 100..200, tcp_flag::SYN);
    speak(&mut old, 1100..1200, tcp_flag::ACK);
    let all = old.records().expect("records");
    assert_eq!((all.len(), begun(&all)), (399, 199));
    assert_eq!((remembered(&new).len(), begun(&remembered(&new))), (299, 99));
    new.attach_to(&[], XdpMode::Auto).expect("nothing to attach to");
    assert_eq!(remembered(&new), all);
}
