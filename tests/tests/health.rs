//! Backends that die, fall ill, vanish from the network and come back, and what probes find.

use std::path::PathBuf;

use lb_tests::balancer::{QUICK, backend, listener, service};
use lb_tests::bed::{VIP, VIP6};
use lb_tests::flows::Load;
use lb_tests::privilege::is_root_or_skips;
use lb_tests::stage::{PATIENCE, PLAIN, Stage, assert_answered_by};
use lb_tests::wait::wait_until;
use lb_tests::web::HOST;

#[test]
fn a_server_that_dies_is_taken_out_and_comes_back() {
    if !is_root_or_skips("a_server_that_dies_is_taken_out_and_comes_back") {
        return;
    }
    let mut stage = Stage::serving("death", 3);
    stage.webs[0].kill();
    stage.wait_for("down", &[&stage.webs[0]]);
    assert_eq!(stage.balancer.backend("web/web1", "check"), "connection refused");
    // Whatever a flow's hash is, somebody who lives takes it.
    let load = Load::start(stage.client.node(), &PLAIN);
    for vip in [VIP, VIP6] {
        assert_answered_by(&stage.client.get(vip, 40), &["web2", "web3"]);
    }
    load.go_on(100);
    assert_answered_by(&load.finish(), &["web2", "web3"]);
    let status = stage.balancer.lb_ok(&["status"]);
    assert!(status.contains("! web/web1 is down: connection refused"), "{status}");
    assert_eq!(stage.balancer.backend("web/web1", "slots"), 0);

    stage.webs[0].restart();
    stage.wait_for("serving", &[&stage.webs[0]]);
    assert_answered_by(&stage.client.get(VIP, 60), &["web1", "web2", "web3"]);
    let status = stage.balancer.lb_ok(&["status"]);
    assert!(status.contains("no problems"), "{status}");
}

#[test]
fn a_server_that_calls_itself_ill_gets_no_requests_until_it_is_well() {
    if !is_root_or_skips("a_server_that_calls_itself_ill_gets_no_requests_until_it_is_well") {
        return;
    }
    let stage = Stage::serving("illness", 2);
    let load = Load::start(stage.client.node(), &PLAIN);
    load.go_on(50);
    stage.webs[0].set_healthy(false);
    stage.wait_for("down", &[&stage.webs[0]]);
    assert_eq!(stage.balancer.backend("web/web1", "check"), "status 503, wanted 200");
    assert_answered_by(&stage.client.get(VIP, 40), &["web2"]);
    stage.webs[0].set_healthy(true);
    stage.wait_for("serving", &[&stage.webs[0]]);
    load.go_on(50);
    let tally = load.finish();
    assert!(tally.of("web1") > 0 && tally.of("web2") > 0, "{tally:?}");
    // It never stopped to serve. Only a flow that is under way when its slot moves to another
    // backend can break: one for each of the two who ask, and for each of the two changes.
    assert!(tally.failures.len() <= 4, "{tally:?}");
    assert!(tally.failures.iter().all(|failure| failure.contains("reset")), "{tally:?}");
}

#[test]
fn a_server_that_is_unplugged_is_taken_out_and_the_reason_is_told() {
    if !is_root_or_skips("a_server_that_is_unplugged_is_taken_out_and_the_reason_is_told") {
        return;
    }
    let mut stage = Stage::new("unplugged", 2);
    // One service that would find out by probes, and one that has nothing but its neighbours.
    let lines: Vec<_> = stage.webs.iter().map(|web| backend(web.node(), "")).collect();
    let blind = service("blind", &[listener(VIP, 81)], "type = \"none\"", &lines);
    stage.start(&(stage.config() + &blind));
    stage.balancer.wait_for_state("blind/web1", "serving", PATIENCE);

    stage.bed.unplug(stage.web(1));

    stage.wait_for("down", &[&stage.webs[0]]);
    let check = stage.balancer.backend("web/web1", "check");
    assert!(check == "no answer in 1s" || check == "host unreachable", "{check}");
    for vip in [VIP, VIP6] {
        assert_answered_by(&stage.client.get(vip, 20), &["web2"]);
    }
    stage.balancer.wait_for_state("blind/web1", "unreachable", PATIENCE);
    assert_eq!(stage.balancer.backend("blind/web1", "next_hop"), "no answer to ARP on eth0");
    assert_eq!(stage.balancer.backend("blind/web1", "slots"), 0);
    let status = stage.balancer.lb_ok(&["status"]);
    let words = "! blind/web1 cannot be reached: no answer to ARP on eth0";
    assert!(status.contains(words), "{status}");

    stage.bed.plug(stage.web(1));

    stage.wait_for("serving", &[&stage.webs[0]]);
    stage.balancer.wait_for_state("blind/web1", "serving", PATIENCE);
    assert_answered_by(&stage.client.get(VIP, 40), &["web1", "web2"]);
}

#[test]
fn every_kind_of_check_says_what_it_found() {
    if !is_root_or_skips("every_kind_of_check_says_what_it_found") {
        return;
    }
    let mut stage = Stage::new("checks", 1);
    let ca = format!("verify = {{ ca = \"{}\" }}", stage.authority.ca().display());
    let stranger = stranger(&stage);
    let strange = format!("verify = {{ ca = \"{}\" }}", stranger.display());
    let host = format!("host = \"{HOST}\"");
    let names = format!("{HOST}, {VIP}, {VIP6}");
    let none = "verify = \"none\"";
    // Name, check without its times, whether it passes, and the words that tell why.
    let checks: [(&str, &[&str], bool, &[&str]); 18] = [
        ("none", &["type = \"none\""], true, &["not probed"]),
        ("tcp", &["type = \"tcp\"", "port = 443"], true, &["connected in "]),
        ("tcp-closed", &["type = \"tcp\"", "port = 82"], false, &["connection refused"]),
        ("http", &["type = \"http\"", "port = 80"], true, &["200 OK in "]),
        (
            "http-path",
            &["type = \"http\"", "port = 80", "path = \"/healthz?a=1\""],
            true,
            &["200 OK in "],
        ),
        (
            "http-host",
            &["type = \"http\"", "port = 80", "path = \"/?b=2\"", &host],
            true,
            &["200 OK in "],
        ),
        (
            "http-expect",
            &["type = \"http\"", "port = 80", "expect = [204, 301]"],
            false,
            &["status 200, wanted 204, 301"],
        ),
        (
            "http-missing",
            &["type = \"http\"", "port = 80", "path = \"/missing\""],
            false,
            &["status 404, wanted 200-399"],
        ),
        (
            "http-404",
            &["type = \"http\"", "port = 80", "path = \"/missing\"", "expect = [404]"],
            true,
            &["404 Not Found in "],
        ),
        ("http-to-tls", &["type = \"http\"", "port = 443"], false, &["status 400, wanted 200-399"]),
        ("http-closed", &["type = \"http\"", "port = 82"], false, &["connection refused"]),
        ("https", &["type = \"https\"", "port = 443", &host, &ca], true, &["200 OK in "]),
        ("https-none", &["type = \"https\"", "port = 443", none], true, &["200 OK in "]),
        // Hosts without a store of certificates say so instead.
        (
            "https-system",
            &["type = \"https\"", "port = 443", &host],
            false,
            &[
                "TLS: certificate is from an issuer that is not trusted",
                "TLS: no certificates in the host's store",
            ],
        ),
        (
            "https-stranger",
            &["type = \"https\"", "port = 443", &host, &strange],
            false,
            &["TLS: certificate is from an issuer that is not trusted"],
        ),
        (
            "https-name",
            &["type = \"https\"", "port = 443", "host = \"other.example\"", &ca],
            false,
            &[&format!("TLS: certificate is for {names}, not other.example")],
        ),
        (
            "https-address",
            &["type = \"https\"", "port = 443", &ca],
            false,
            &[&format!("TLS: certificate is for {names}, not 10.9.0.21")],
        ),
        (
            "https-to-plain",
            &["type = \"https\"", "port = 80", none],
            false,
            &["TLS: answer is not TLS"],
        ),
    ];
    let mut config = stage.balancer.preamble();
    for (port, (name, check, ..)) in (1001..).zip(&checks) {
        // Nothing is sent to the services themselves.
        let times = if *name == "none" { "" } else { QUICK };
        let check = format!("{}\n{times}", check.join("\n"));
        config += &service(name, &[listener(VIP, port)], &check, &[backend(stage.web(1), "")]);
    }
    stage.balancer.write_config(&config);
    stage.balancer.start();
    for (name, _, passes, words) in checks {
        let id = format!("{name}/web1");
        let state = if passes { "serving" } else { "down" };
        stage.balancer.wait_for_state(&id, state, PATIENCE);
        let check = stage.balancer.backend(&id, "check");
        let said = check.as_str().expect("words");
        assert!(words.iter().any(|words| said.starts_with(words)), "{name}: {said}");
        assert!(passes || words.contains(&said), "{name} says more: {said}");
    }

    stage.webs[0].kill();
    for (name, ..) in checks.iter().filter(|(name, _, passes, _)| *passes && *name != "none") {
        let id = format!("{name}/web1");
        stage.balancer.wait_for_state(&id, "down", PATIENCE);
        assert_eq!(stage.balancer.backend(&id, "check"), "connection refused", "{name}");
    }
    assert_eq!(stage.balancer.backend("none/web1", "state"), "serving");
    stage.webs[0].restart();
    for (name, ..) in checks.iter().filter(|(_, _, passes, _)| *passes) {
        stage.balancer.wait_for_state(&format!("{name}/web1"), "serving", PATIENCE);
    }
    for asked in ["10.9.0.11 /healthz?a=1 200 10.9.0.21\n", "10.9.0.11 /?b=2 200 www.foobar.com\n"]
    {
        wait_until(PATIENCE, &format!("nginx was asked for {asked}"), || {
            let log = stage.webs[0].log();
            if log.contains(asked) { Ok(()) } else { Err(log) }
        });
    }
}

/// The certificate of an authority that signed nothing.
fn stranger(stage: &Stage) -> PathBuf {
    let path = stage.bed.directory().join("stranger.pem");
    let key = rcgen::KeyPair::generate().expect("failed to make a key");
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&key).expect("failed to sign");
    std::fs::write(&path, certificate.pem()).expect("failed to write a certificate");
    path
}
