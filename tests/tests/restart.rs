//! Daemons that end, crash, come back, are not alone, or cannot attach; and what stays in the
//! kernel meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};

use aya::maps::Array;
use lb_tests::bed::{VIP, VIP6};
use lb_tests::flows::{Load, ask_from};
use lb_tests::node::Node;
use lb_tests::privilege::is_root_or_skips;
use lb_tests::stage::{PATIENCE, PLAIN, Stage, assert_answered_by};
use lb_tests::wait::wait_until;

const VIPS: [IpAddr; 2] = [VIP, VIP6];

/// Which server takes the flow of each of 50 ports, by either family.
#[track_caller]
fn homes(client: &Node) -> BTreeMap<(SocketAddr, u16), String> {
    let mut homes = BTreeMap::new();
    for to in PLAIN {
        for (port, answer) in ask_from(client, 10_000..10_050, to) {
            let server = answer.unwrap_or_else(|error| panic!("{to} from port {port}: {error}"));
            homes.insert((to, port), server);
        }
    }
    homes
}

/// Where the program is, and which.
fn program(lb1: &Node) -> Option<String> {
    let link = lb1.ip("-details link show eth0");
    let words = link.split_once("prog/xdp id ").map(|(_, rest)| rest);
    words.and_then(|rest| rest.split(' ').next()).map(str::to_owned)
}

#[test]
fn packets_are_balanced_on_without_a_daemon_and_addresses_answered_for_one_lease() {
    let name = "packets_are_balanced_on_without_a_daemon_and_addresses_answered_for_one_lease";
    if !is_root_or_skips(name) {
        return;
    }
    let mut stage = Stage::new("crash", 3);
    // Long enough for four questions and their answers.
    let config = stage.config().replace("lease     = \"1s\"", "lease     = \"6s\"");
    stage.start(&config);
    stage.balancer.lb_ok(&["drain", "web/web3", "--reason", "kept"]);
    let client = stage.client.node().clone();
    let lb1 = stage.balancer.node().clone();
    let before = homes(&client);
    assert!(before.values().all(|server| server != "web3"), "{before:?}");

    stage.balancer.kill();

    for vip in VIPS {
        assert_eq!(client.resolve(vip, "eth0"), Some(lb1.mac()), "{vip} before the lease is over");
        assert!(client.pings(vip), "{vip} before the lease is over");
    }
    for vip in VIPS {
        wait_until(PATIENCE, &format!("nobody answers for {vip}"), || {
            let mac = client.resolve(vip, "eth0");
            mac.map_or(Ok(()), Err)
        });
        // A host that knows the hardware address all the same gets its packets through.
        client.ip(&format!("neigh replace {vip} lladdr {} dev eth0 nud permanent", lb1.mac()));
        assert!(!client.pings(vip), "{vip} after the lease is over");
    }
    assert_eq!(homes(&client), before, "without a daemon");

    let old = program(&lb1).expect("no program without a daemon");
    stage.balancer.start();

    let new = program(&lb1).expect("no program after the start");
    assert_ne!(old, new, "the new daemon brought its program");
    let log = stage.balancer.log();
    let adopted = log.contains("adopting the maps") && log.contains("program replaced");
    assert!(adopted, "{log}");
    assert_eq!(homes(&client), before, "after the start");
    assert_eq!(stage.balancer.backend("web/web3", "overridden")["reason"], "kept");
    assert_eq!(stage.balancer.backend("web/web3", "admin"), "drain");
    for vip in VIPS {
        client.ip(&format!("neigh del {vip} dev eth0"));
        assert_eq!(client.resolve(vip, "eth0"), Some(lb1.mac()), "{vip} after the start");
        assert!(client.pings(vip), "{vip} after the start");
    }
}

#[test]
fn a_restart_and_a_crash_break_no_request() {
    if !is_root_or_skips("a_restart_and_a_crash_break_no_request") {
        return;
    }
    let mut stage = Stage::serving("restart", 3);
    let client = stage.client.node().clone();
    let lost = || client.counter("TcpExt", "TCPSynRetrans");
    let before = (homes(&client), lost());
    let load = Load::start(&client, &PLAIN);
    load.go_on(100);
    let status = stage.balancer.stop();
    assert!(status.success(), "lb run ended with {status}: {}", stage.balancer.log());
    load.go_on(100);
    stage.balancer.start();
    load.go_on(100);
    stage.balancer.restart();
    load.go_on(100);
    stage.balancer.kill();
    stage.balancer.start();
    load.go_on(100);
    let ids = stage.webs.iter().collect::<Vec<_>>();
    stage.wait_for("serving", &ids);
    load.go_on(100);
    assert_answered_by(&load.finish(), &["web1", "web2", "web3"]);
    assert_eq!((homes(&client), lost()), before, "flows, and second attempts to connect");
}

#[test]
fn a_daemon_that_has_yet_to_find_its_neighbours_takes_nothing_away() {
    if !is_root_or_skips("a_daemon_that_has_yet_to_find_its_neighbours_takes_nothing_away") {
        return;
    }
    let mut stage = Stage::new("forgotten neighbours", 2);
    let lb1 = stage.balancer.node().clone();
    let config = stage.config().replace("fall          = 2", "fall          = 100");
    stage.start(&config);
    let load = Load::start(stage.client.node(), &PLAIN);
    load.go_on(50);
    stage.balancer.kill();
    // The host has forgotten its neighbours, and they are slow to answer.
    stage.webs.iter().for_each(|web| web.node().sysctl("ipv4.conf.all.arp_ignore", "8"));
    lb1.sysctl("ipv4.neigh.eth0.mcast_solicit", "60");
    lb1.ip("neigh flush dev eth0");
    stage.balancer.start();
    wait_until(PATIENCE, "the neighbours are asked for", || {
        let entries = lb1.ip("neigh show dev eth0");
        if entries.matches("INCOMPLETE").count() == 2 { Ok(()) } else { Err(entries) }
    });
    load.go_on(100);
    stage.wait_for("serving", &stage.webs.iter().collect::<Vec<_>>());
    stage.webs.iter().for_each(|web| web.node().sysctl("ipv4.conf.all.arp_ignore", "1"));
    wait_until(PATIENCE, "the neighbours are found", || {
        let found = stage.balancer.log().matches("next hop found").count();
        // Once by each of the two daemons.
        if found >= 4 { Ok(()) } else { Err(found.to_string()) }
    });
    load.go_on(50);
    assert_answered_by(&load.finish(), &["web1", "web2"]);
}

#[test]
fn a_backend_that_died_while_no_daemon_ran_is_found_out() {
    if !is_root_or_skips("a_backend_that_died_while_no_daemon_ran_is_found_out") {
        return;
    }
    let mut stage = Stage::serving("died meanwhile", 2);
    stage.balancer.kill();
    stage.webs[1].kill();
    stage.balancer.start();
    stage.wait_for("down", &[&stage.webs[1]]);
    assert_answered_by(&stage.client.get(VIP, 20), &["web1"]);
    stage.webs[1].restart();
    stage.wait_for("serving", &[&stage.webs[1]]);
    assert_answered_by(&stage.client.get(VIP, 40), &["web1", "web2"]);
}

#[test]
fn a_second_daemon_is_refused_and_detach_waits_for_the_first_to_end() {
    if !is_root_or_skips("a_second_daemon_is_refused_and_detach_waits_for_the_first_to_end") {
        return;
    }
    let mut stage = Stage::serving("detach", 1);
    let lb1 = stage.balancer.node().clone();
    let config = stage.balancer.config().to_string_lossy().into_owned();
    let answer = stage.balancer.lb(&["run", "--config", &config, "--node", "lb1"]);
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert!(answer.stderr.contains("lb: another daemon runs: it holds "), "{answer:?}");
    assert!(stage.balancer.is_alive());
    let answer = stage.balancer.lb(&["detach", "--config", &config]);
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert!(answer.stderr.contains("a daemon runs on "), "{answer:?}");
    assert_answered_by(&stage.client.get(VIP, 4), &["web1"]);

    stage.balancer.stop();
    assert!(program(&lb1).is_some(), "the program went with the daemon");
    assert_answered_by(&stage.client.get(VIP, 4), &["web1"]);
    // What others left, of whatever schema.
    let pins = stage.balancer.pins().to_owned();
    let others = ["maps-v1-0", "maps-v99-3", "new-v2-1"];
    for directory in others.map(|name| pins.join(name)) {
        let map = Array::<_, u32>::create(1, 0).expect("a map");
        fs::create_dir(&directory).expect("a directory");
        map.pin(directory.join("LEFT")).expect("a pin");
    }
    let said = stage.balancer.lb_ok(&["detach", "--config", &config]);
    assert!(said.contains("program removed from eth0"), "{said}");
    for directory in others {
        assert!(said.contains(&format!("{directory} removed")), "{said}");
    }
    // The kernel takes a link away when the last who holds it is gone.
    wait_until(PATIENCE, "the program is gone", || program(&lb1).map_or(Ok(()), Err));
    assert!(!stage.balancer.pins().exists(), "pins are left");
    let said = stage.balancer.lb_ok(&["detach", "--config", &config]);
    assert_eq!(said, "nothing to remove\n");
    let tally = stage.client.get(VIP, 1);
    assert_eq!(tally.total(), 0, "balanced by nobody: {tally:?}");
    // And a daemon that finds nothing begins anew.
    stage.balancer.start();
    stage.wait_for("serving", &[&stage.webs[0]]);
    assert_answered_by(&stage.client.get(VIP, 4), &["web1"]);
}

#[test]
fn native_mode_that_is_not_possible_is_an_error_and_leaves_nothing_attached() {
    if !is_root_or_skips("native_mode_that_is_not_possible_is_an_error_and_leaves_nothing_attached")
    {
        return;
    }
    let mut stage = Stage::new("native only", 1);
    let lb1 = stage.balancer.node().clone();
    lb1.ip("link add br7 type bridge");
    lb1.ip("link set br7 up");
    let both = |mode: &str| {
        stage
            .config()
            .replace("[\"eth0\"]", "[\"eth0\", \"br7\"]")
            .replace("[dataplane]", &format!("[dataplane]\nxdp-mode = \"{mode}\""))
    };
    let (native, auto) = (both("native"), both("auto"));
    stage.balancer.write_config(&native);
    let config = stage.balancer.config().to_string_lossy().into_owned();
    let run = ["run", "--config", &config, "--node", "lb1"];
    let answer = stage.balancer.lb(&run);
    assert_eq!(answer.code, Some(1), "{answer:?}");
    let words = "lb: failed to attach to br7 in native mode: ";
    assert!(answer.stderr.contains(words), "{}", answer.stderr);
    wait_until(PATIENCE, "nothing is attached", || {
        program(&lb1).map_or(Ok(()), |id| Err(format!("program {id} on eth0")))
    });
    // A running daemon refuses such a file, and keeps what it has.
    stage.start(&stage.config());
    stage.balancer.write_config(&native);
    let answer = stage.balancer.lb(&["reload"]);
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert!(answer.stderr.contains(words), "{}", answer.stderr);
    let status = stage.balancer.lb_ok(&["status"]);
    assert!(status.contains("REJECTED") && status.contains("eth0  native"), "{status}");
    assert!(!status.contains("xdp     br7"), "{status}");
    assert_answered_by(&stage.client.get(VIP, 4), &["web1"]);
    // The next daemon does not start on it, and does not take away what serves.
    stage.balancer.stop();
    let answer = stage.balancer.lb(&run);
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert_answered_by(&stage.client.get(VIP, 4), &["web1"]);

    stage.balancer.write_config(&auto);
    stage.balancer.start();
    let status = stage.balancer.lb_ok(&["status"]);
    for words in [
        "eth0  native",
        "br7  GENERIC (behind the driver, slow)",
        "! interface br7 runs in generic XDP mode",
    ] {
        assert!(status.contains(words), "{status}");
    }
    let log = stage.balancer.log();
    assert!(log.contains("NATIVE XDP IS NOT POSSIBLE HERE") && log.contains("br7"), "{log}");
}

#[test]
fn generic_mode_forwards_by_fallback_and_by_choice() {
    if !is_root_or_skips("generic_mode_forwards_by_fallback_and_by_choice") {
        return;
    }
    let mut stage = Stage::new("generic", 2);
    // A cable takes no native program while its other end has more queues to send by.
    stage.bed.refuse_native(stage.balancer.node());
    stage.start(&stage.config());
    let status = stage.balancer.lb_ok(&["status"]);
    assert!(status.contains("eth0  GENERIC (behind the driver, slow)  up"), "{status}");
    assert!(status.contains("! interface eth0 runs in generic XDP mode"), "{status}");
    let log = stage.balancer.log();
    assert!(log.contains("NATIVE XDP IS NOT POSSIBLE HERE"), "{log}");
    let check = |stage: &Stage| {
        for vip in VIPS {
            assert_eq!(
                stage.client.node().resolve(vip, "eth0"),
                Some(stage.balancer.node().mac()),
                "{vip}"
            );
            assert_answered_by(&stage.client.get(vip, 40), &["web1", "web2"]);
            let tally = stage.client.upload(vip, 1_000_000);
            assert_eq!((tally.total(), &tally.failures[..]), (1, &[][..]), "{vip}: {tally:?}");
        }
    };
    check(&stage);
    // Chosen, it is no problem.
    let chosen = stage.config().replace("[dataplane]", "[dataplane]\nxdp-mode = \"generic\"");
    stage.balancer.write_config(&chosen);
    stage.balancer.lb_ok(&["reload"]);
    let status = stage.balancer.lb_ok(&["status"]);
    assert!(status.contains("eth0  GENERIC") && status.contains("no problems"), "{status}");
    check(&stage);
    for web in &stage.webs {
        assert_eq!(web.node().counter("Tcp", "InCsumErrors"), 0, "{}", web.node().name());
    }
}
