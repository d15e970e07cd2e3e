//! New files for a running daemon: what changes, what does not, and what is refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_tests::balancer::{backend, listener, service};
use lb_tests::bed::{VIP, VIP6};
use lb_tests::echo::Echo;
use lb_tests::flows::{Load, ask_from, ask_udp};
use lb_tests::privilege::is_root_or_skips;
use lb_tests::stage::{PATIENCE, PLAIN, Stage, assert_answered_by};
use lb_tests::wait::wait_until;
use nix::sys::signal::Signal;

/// More virtual addresses.
const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 101));
const SECOND6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 0x101));

#[test]
fn backends_and_addresses_come_and_go_with_the_file() {
    if !is_root_or_skips("backends_and_addresses_come_and_go_with_the_file") {
        return;
    }
    let mut stage = Stage::with_vips("come and go", 3, &[VIP, VIP6, SECOND, SECOND6]);
    let write = |stage: &Stage, web: &str| {
        stage.balancer.write_config(&(stage.balancer.preamble() + web));
    };
    write(&stage, &stage.web_service(&["", ""]));
    stage.balancer.start();
    stage.wait_for("serving", &[&stage.webs[0], &stage.webs[1]]);
    assert_answered_by(&stage.client.get(VIP, 40), &["web1", "web2"]);

    write(&stage, &stage.web_service(&["", "", ""]));
    let said = stage.balancer.lb_ok(&["reload"]);
    assert!(said.contains("reloaded") && said.contains("+ web/web3"), "{said}");
    // Those who served before did so all the time.
    for web in ["web/web1", "web/web2"] {
        assert_eq!(stage.balancer.backend(web, "state"), "serving");
    }
    stage.wait_for("serving", &[&stage.webs[2]]);
    assert_answered_by(&stage.client.get(VIP6, 60), &["web1", "web2", "web3"]);

    let line = |number: usize| backend(stage.web(number), "");
    let all = stage.web_service(&["", "", ""]);
    let without = all.replace(&line(1), "");
    assert_ne!(all, without);
    write(&stage, &without);
    let said = stage.balancer.lb_ok(&["reload"]);
    assert!(said.contains("- web/web1"), "{said}");
    assert_answered_by(&stage.client.get(VIP, 40), &["web2", "web3"]);
    let backends = stage.balancer.lb_ok(&["backends"]);
    assert!(!backends.contains("web/web1"), "{backends}");
    // A backend that comes back while its old flows may go on counts on.
    write(&stage, &all);
    stage.balancer.lb_ok(&["reload"]);
    assert_ne!(stage.balancer.backend("web/web1", "packets"), 0);
    stage.wait_for("serving", &[&stage.webs[0]]);
    assert_answered_by(&stage.client.get(VIP, 60), &["web1", "web2", "web3"]);

    let moved = |text: &str| {
        text.replace(&listener(VIP, 443), &listener(SECOND, 443))
            .replace(&listener(VIP, 80), &listener(SECOND, 80))
            .replace(&listener(VIP6, 443), &listener(SECOND6, 443))
    };
    write(&stage, &moved(&all));
    stage.balancer.signal(Signal::SIGHUP);
    wait_until(PATIENCE, "the new address is listed", || {
        let services = stage.balancer.lb_ok(&["services"]);
        if services.contains("10.9.0.101:443/tcp") { Ok(()) } else { Err(services) }
    });
    for vip in [SECOND, SECOND6] {
        assert_eq!(stage.client.node().resolve(vip, "eth0"), Some(stage.balancer.node().mac()));
        assert_answered_by(&stage.client.get(vip, 60), &["web1", "web2", "web3"]);
    }
    assert_eq!(stage.client.node().resolve(VIP, "eth0"), None, "the old address is answered for");
    // This one still has a listener on port 80.
    assert_eq!(stage.client.node().resolve(VIP6, "eth0"), Some(stage.balancer.node().mac()));
    let tally = stage.client.get(VIP6, 1);
    assert_eq!(tally.total(), 0, "port 443 of {VIP6} still answers: {tally:?}");
    assert!(ask_from(stage.client.node(), 10_000..10_010, PLAIN[1]).iter().all(|(_, a)| a.is_ok()));
}

#[test]
fn other_services_come_and_go_under_load_and_no_request_fails() {
    if !is_root_or_skips("other_services_come_and_go_under_load_and_no_request_fails") {
        return;
    }
    let mut stage = Stage::with_vips("under load", 2, &[VIP, VIP6, SECOND]);
    stage.start(&stage.config());
    let name_port = SocketAddr::new(SECOND, 5300);
    let any_ports = [SocketAddr::new(SECOND, 8080), SocketAddr::new(SECOND, 9090)];
    let mut servers = Vec::new();
    for web in &stage.webs {
        servers.push(Echo::udp(web.node(), name_port));
        servers.extend(any_ports.map(|address| Echo::http(web.node(), address)));
    }
    let lost = || stage.client.node().counter("TcpExt", "TCPSynRetrans");
    let lost_before = lost();
    let load = Load::start(stage.client.node(), &PLAIN);
    load.go_on(50);

    let lines: Vec<_> = stage.webs.iter().map(|web| backend(web.node(), "")).collect();
    let unchecked = "type = \"none\"";
    let dns = service("dns", &[format!("{name_port}/udp")], unchecked, &lines);
    stage.balancer.write_config(&(stage.config() + &dns));
    let said = stage.balancer.lb_ok(&["reload"]);
    assert!(said.contains("+ service dns") && !said.contains("web"), "{said}");
    stage.balancer.wait_for_state("dns/web1", "serving", PATIENCE);
    stage.balancer.wait_for_state("dns/web2", "serving", PATIENCE);
    let who = |port| ask_udp(stage.client.node(), port, name_port).expect("a datagram");
    let mut seen: Vec<_> = (10_000..10_040).map(who).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, ["web1", "web2"], "datagrams");
    assert_eq!(who(10_000), who(10_000), "a flow of datagrams stays");

    let any = service("any", &[format!("{SECOND}:*")], unchecked, &lines);
    stage.balancer.write_config(&(stage.config() + &dns + &any));
    stage.balancer.signal(Signal::SIGHUP);
    wait_until(PATIENCE, "the service for any port is listed", || {
        let services = stage.balancer.lb_ok(&["services"]);
        if services.contains("10.9.0.101:*/tcp") { Ok(()) } else { Err(services) }
    });
    stage.balancer.wait_for_state("any/web1", "serving", PATIENCE);
    stage.balancer.wait_for_state("any/web2", "serving", PATIENCE);
    for to in any_ports {
        let answers = ask_from(stage.client.node(), 11_000..11_040, to);
        let mut seen: Vec<_> = answers.into_iter().map(|(_, answer)| answer).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [Ok("web1".to_owned()), Ok("web2".to_owned())], "{to}");
    }
    load.go_on(50);

    // So many that the maps become too small: they grow, and count on.
    let maps = || {
        let entries = std::fs::read_dir(stage.balancer.pins()).expect("no pins").flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<_> = names.filter(|name| name.starts_with("maps-")).collect();
        names.sort_unstable();
        names
    };
    let before = (maps(), stage.balancer.backend("dns/web1", "packets"));
    let more = |n: u16| service(&format!("more{n}"), &[listener(VIP, 7000 + n)], unchecked, &lines);
    let many: String = (0..8).map(more).collect();
    stage.balancer.write_config(&(stage.config() + &dns + &any + &many));
    let said = stage.balancer.lb_ok(&["reload"]);
    assert!(said.contains("+ service more7"), "{said}");
    load.go_on(50);
    let after = (maps(), stage.balancer.backend("dns/web1", "packets"));
    assert_ne!(before.0, after.0, "the maps did not grow");
    assert_eq!(after.0.len(), 1, "old maps are left");
    assert_eq!(before.1, after.1, "packets of dns/web1");

    stage.balancer.write_config(&stage.config());
    let said = stage.balancer.lb_ok(&["reload"]);
    assert!(said.contains("- service dns") && said.contains("- service any"), "{said}");
    load.go_on(50);
    assert_eq!(stage.client.node().resolve(SECOND, "eth0"), None, "{SECOND} is answered for");
    assert_answered_by(&load.finish(), &["web1", "web2"]);
    assert_eq!(lost(), lost_before, "connections that needed a second attempt");
}

#[test]
fn a_file_with_mistakes_changes_nothing_and_all_of_them_are_told() {
    if !is_root_or_skips("a_file_with_mistakes_changes_nothing_and_all_of_them_are_told") {
        return;
    }
    let mut stage = Stage::serving("mistakes", 2);
    let load = Load::start(stage.client.node(), &PLAIN);
    let digest = |stage: &Stage| stage.balancer.lb_json(&["status"])["config"]["digest"].clone();
    let good = digest(&stage);
    let text = stage.balancer.preamble().replace("lease     = \"1s\"", "lease     = \"1 s\"")
        + &stage.web_service(&[", weight = 1001", ", wieght = 50"]).replace("443\"", "70000\"");
    stage.balancer.write_config(&text);
    // The line that holds this, the part under the caret, and what is said of it.
    let mistakes = [
        ("lease     = \"1 s\"", "\"1 s\""),
        ("weight = 1001", "1001"),
        ("wieght = 50", "wieght"),
        ("10.9.0.100:70000", "\"10.9.0.100:70000\""),
    ];
    let assert_told = |report: &str| {
        for (line, part) in mistakes {
            let number = 1 + text.lines().position(|found| found.contains(line)).expect(line);
            let column = 1 + text.lines().nth(number - 1).and_then(|l| l.find(part)).expect(part);
            let place = format!("lb.toml:{number}:{column}");
            let mut lines = report.lines().skip_while(|found| !found.contains(&place));
            assert!(lines.next().is_some(), "no {place} ({line}) in:\n{report}");
            let caret = lines.by_ref().take(5).find(|found| found.contains('^'));
            let caret = caret.unwrap_or_else(|| panic!("no caret for {line} in:\n{report}"));
            assert_eq!(caret.matches('^').count(), part.len(), "{line} in:\n{report}");
        }
    };

    let answer = stage.balancer.lb(&["reload"]);
    assert_eq!((answer.code, answer.stdout.as_str()), (Some(6), ""), "{answer:?}");
    assert_told(&answer.stderr);
    let words = "lb: the file was refused, the old configuration still runs";
    assert!(answer.stderr.contains(words), "{}", answer.stderr);
    let status = stage.balancer.lb_ok(&["status"]);
    assert!(status.contains("REJECTED"), "{status}");
    assert_told(&status);
    assert_eq!(digest(&stage), good);
    load.go_on(50);
    // The same without a daemon.
    let path = stage.balancer.config();
    let answer = stage.balancer.lb(&["check", &path.to_string_lossy()]);
    assert_eq!(answer.code, Some(6), "{answer:?}");
    assert_told(&answer.stderr);

    // A change that a running daemon cannot make is refused as well.
    let config = stage.config().replace("/state\"", "/elsewhere\"");
    stage.balancer.write_config(&config);
    let answer = stage.balancer.lb(&["reload"]);
    assert_eq!(answer.code, Some(6), "{answer:?}");
    assert!(answer.stderr.contains("dataplane.state-dir cannot change"), "{answer:?}");

    // A signal has no one to answer: the log and the status tell.
    stage.balancer.write_config("version = 2\n");
    stage.balancer.signal(Signal::SIGHUP);
    wait_until(PATIENCE, "the file is refused", || {
        let status = stage.balancer.lb_ok(&["status"]);
        if status.contains("version = 2") { Ok(()) } else { Err(status) }
    });
    assert!(stage.balancer.log().contains("reload refused"), "{}", stage.balancer.log());
    assert_eq!(digest(&stage), good);

    stage.balancer.write_config(&stage.config());
    stage.balancer.lb_ok(&["reload"]);
    let status = stage.balancer.lb_ok(&["status"]);
    assert!(!status.contains("REJECTED") && status.contains("no problems"), "{status}");
    load.go_on(50);
    assert_answered_by(&load.finish(), &["web1", "web2"]);
}
