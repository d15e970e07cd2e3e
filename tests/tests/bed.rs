//! The test bed itself: it comes up, real servers answer in it, and it leaves nothing behind.

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::thread;
use std::time::Duration;

use lb_tests::bed::{Bed, VIP, VIP6};
use lb_tests::client::Client;
use lb_tests::privilege::is_root_or_skips;
use lb_tests::vlan::{Tag, Tagged};
use lb_tests::wait::wait_until;
use lb_tests::web::{Authority, Web};
use nix::sys::signal::Signal;
use xtask::registry;

#[test]
fn a_bed_comes_up_and_leaves_nothing_behind() {
    if !is_root_or_skips("a_bed_comes_up_and_leaves_nothing_behind") {
        return;
    }
    let mut bed = Bed::new("comes up");
    let (client, lb1) = (bed.node("client", 10), bed.lb_node("lb1", 11));
    client.run("ping", &["-c1", "-W2", &lb1.ipv4().to_string()]);
    client.run("ping", &["-c1", "-W2", &lb1.ipv6().to_string()]);
    let port = bed.switch().ip("link show lb1");
    assert!(port.contains(" xdp "), "no native program at the balancer's port: {port}");
    assert!(Path::new("/sys/fs/bpf").exists() && bed.bpf_directory(&lb1).exists());
    let mounts = std::fs::read_to_string("/proc/mounts").expect("no list of mounts");
    assert!(mounts.contains(&format!("{} bpf", bed.bpf_directory(&lb1).display())), "{mounts}");
    let (prefix, mut sleeper) = (bed.prefix().to_owned(), client.command("sleep"));
    sleeper.arg("1000");
    let mut sleeper = client.spawn("sleep", sleeper);
    assert!(registry::remains(&prefix).len() >= 5, "{:?}", registry::remains(&prefix));
    assert!(!registry::leftovers().contains(&prefix), "a living bed is taken for a leftover");

    drop(bed);

    assert_eq!(registry::remains(&prefix), [""; 0]);
    assert!(!sleeper.is_alive(), "a program outlived its bed");
}

#[test]
fn a_panic_in_a_test_takes_the_bed_down() {
    if !is_root_or_skips("a_panic_in_a_test_takes_the_bed_down") {
        return;
    }
    let mut prefix = String::new();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut bed = Bed::new("panics");
        bed.prefix().clone_into(&mut prefix);
        let node = bed.lb_node("lb1", 11);
        let mut command = node.command("sleep");
        command.arg("1000");
        let _sleeper = node.spawn("sleep", command);
        panic!("on purpose");
    }));
    assert!(outcome.is_err());
    assert!(!prefix.is_empty());
    assert_eq!(registry::remains(&prefix), [""; 0]);
}

#[test]
fn two_beds_with_the_same_addresses_do_not_meet() {
    if !is_root_or_skips("two_beds_with_the_same_addresses_do_not_meet") {
        return;
    }
    let bed = || {
        let mut bed = Bed::new("one of two");
        let (client, web1) = (bed.node("client", 10), bed.node("web1", 21));
        (bed, client, web1)
    };
    let (first, second) = thread::scope(|scope| {
        let (first, second) = (scope.spawn(bed), scope.spawn(bed));
        (first.join().expect("no first bed"), second.join().expect("no second bed"))
    });
    first.0.unplug(&first.2);
    let target = second.2.ipv4().to_string();
    second.1.run("ping", &["-c1", "-W2", &target]);
    let mut lost = first.1.command("ping");
    let lost = lost.args(["-c1", "-W1", &target]).output().expect("no ping");
    assert!(!lost.status.success(), "an unplugged host answered");
    first.0.plug(&first.2);
    wait_until(Duration::from_secs(5), "the host that is plugged in again answers", || {
        let mut ping = first.1.command("ping");
        let output = ping.args(["-c1", "-W1", &target]).output().expect("no ping");
        if output.status.success() { Ok(()) } else { Err(format!("{output:?}")) }
    });
}

#[test]
fn a_signal_takes_the_bed_down() {
    if !is_root_or_skips("a_signal_takes_the_bed_down") {
        return;
    }
    // The process that has the bed is this very test, started again as a child.
    if std::env::var_os("LB_BED_WAITS").is_some() {
        let mut bed = Bed::new("waits for a signal");
        let node = bed.lb_node("lb1", 11);
        let mut command = node.command("sleep");
        command.arg("1000");
        let _sleeper = node.spawn("sleep", command);
        std::fs::write(bed.directory().join("ready"), "").expect("failed to say so");
        thread::sleep(Duration::from_secs(60));
        panic!("no signal came");
    }
    for (signal, cleans) in
        [(Signal::SIGINT, true), (Signal::SIGTERM, true), (Signal::SIGKILL, false)]
    {
        let mut command = std::process::Command::new(std::env::current_exe().expect("no name"));
        command.args(["--exact", "a_signal_takes_the_bed_down"]).env("LB_BED_WAITS", "1");
        let directory = tempfile::tempdir().expect("no directory for a log");
        let mut child =
            lb_tests::daemon::Daemon::start("child", directory.path().join("log"), command);
        let prefix = format!("lbt{}-0-", child.pid());
        wait_until(Duration::from_secs(20), "the child's bed is up", || {
            assert!(child.is_alive(), "the child ended: {}", child.log());
            let ready = registry::directory(&prefix).join("ready");
            if ready.exists() { Ok(()) } else { Err(child.log()) }
        });
        child.signal(signal);
        child.wait(Duration::from_secs(20));
        if cleans {
            assert_eq!(registry::remains(&prefix), [""; 0], "after {signal}");
        } else {
            let remains = registry::remains(&prefix);
            assert!(remains.iter().any(|what| what.contains("(sleep)")), "{remains:?}");
            assert!(registry::leftovers().contains(&prefix));
            registry::remove(&prefix).expect("failed to remove what was left");
            assert_eq!(registry::remains(&prefix), [""; 0], "after clean-bed");
        }
    }
}

#[test]
fn nginx_answers_over_tls_without_a_balancer() {
    if !is_root_or_skips("nginx_answers_over_tls_without_a_balancer") {
        return;
    }
    let mut bed = Bed::new("web");
    let (client, web1) = (bed.node("client", 10), bed.node("web1", 21));
    let authority = Authority::new(&bed, &[VIP, VIP6]);
    let mut web = Web::start(&web1, &authority, &[VIP, VIP6]);
    let client = Client::new(&client, &authority);

    for address in [IpAddr::from(web1.ipv4()), IpAddr::from(web1.ipv6())] {
        let tally = client.get(address, 10);
        assert_eq!((tally.of("web1"), &tally.failures[..]), (10, &[][..]), "{address}");
        let tally = client.upload(address, 3_000_000);
        assert_eq!((tally.of("web1"), &tally.failures[..]), (1, &[][..]), "{address}");
    }
    wait_for_requests(&web, 22);

    let tally = client.get(VIP, 1);
    assert_eq!(tally.total(), 0, "a web server answered ARP for the virtual address");
    let tally = client.get(VIP6, 1);
    assert_eq!(tally.total(), 0, "a web server answered solicitations for the virtual address");

    let health = |wanted: &str| {
        let url = format!("http://{}/healthz", web1.ipv4());
        let code = web1.run("curl", &["-s", "-o", "/dev/null", "-w", "%{http_code}", &url]);
        assert_eq!(code, wanted);
    };
    health("200");
    web.set_healthy(false);
    health("503");
    web.set_healthy(true);
    health("200");

    web.kill();
    let tally = client.get(web1.ipv4(), 1);
    assert_eq!(tally.total(), 0, "a worker of nginx survived: {tally:?}");
    assert!(tally.failures[0].contains("connect"), "{tally:?}");
    web.restart();
    web1.set_mac("02:00:00:00:01:21");
    client.node().ip("neigh flush dev eth0");
    assert_eq!(client.get(web1.ipv4(), 1).of("web1"), 1);
    let neighbour = client.node().ip(&format!("neigh show {}", web1.ipv4()));
    assert!(neighbour.contains("02:00:00:00:01:21"), "{neighbour}");
}

#[test]
fn tcp_runs_over_one_and_two_vlan_tags() {
    if !is_root_or_skips("tcp_runs_over_one_and_two_vlan_tags") {
        return;
    }
    let mut bed = Bed::new("vlan");
    let (client, web1) = (bed.node("client", 10), bed.node("web1", 21));
    let authority = Authority::new(&bed, &[VIP]);
    let web = Web::start(&web1, &authority, &[]);
    let requests = Client::new(&client, &authority);
    let networks = [
        ("one", vec![Tag::customer(100)], 100),
        ("two", vec![Tag::provider(200), Tag::customer(7)], 101),
    ];
    let mut interfaces = Vec::new();
    for (name, tags, network) in &networks {
        for (node, host) in [(&client, 10), (&web1, 21)] {
            interfaces.push(Tagged::new(node, name, tags));
            node.ip(&format!("addr add 10.9.{network}.{host}/24 dev {name}"));
        }
    }
    for (name, _, network) in &networks {
        let address = std::net::Ipv4Addr::new(10, 9, *network, 21);
        let tally = requests.get(address, 4);
        assert_eq!((tally.of("web1"), &tally.failures[..]), (4, &[][..]), "{name}");
        let tally = requests.upload(address, 1_000_000);
        assert_eq!((tally.of("web1"), &tally.failures[..]), (1, &[][..]), "{name}");
        let neighbour = client.ip(&format!("neigh show {address}"));
        assert!(neighbour.contains(&format!("dev {name}")), "not by the tagged way: {neighbour}");
    }
    wait_for_requests(&web, 10);
}

fn wait_for_requests(web: &Web, wanted: usize) {
    wait_until(Duration::from_secs(5), &format!("nginx counts {wanted} requests"), || {
        let count = web.requests();
        if count == wanted { Ok(()) } else { Err(count.to_string()) }
    });
}
