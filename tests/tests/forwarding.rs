//! Where packets go: to every backend, by both families, with the way back that `l2` promises.

use std::net::IpAddr;

use lb_tests::balancer::{backend, https_check, listener, service};
use lb_tests::bed::{VIP, VIP6};
use lb_tests::flows::{Load, ask_from};
use lb_tests::privilege::is_root_or_skips;
use lb_tests::stage::{PATIENCE, PLAIN, Stage, assert_answered_by};
use lb_tests::wait::wait_until;

const WEBS: [&str; 3] = ["web1", "web2", "web3"];

#[test]
fn requests_by_both_families_reach_every_backend_and_are_answered_straight() {
    if !is_root_or_skips("requests_by_both_families_reach_every_backend_and_are_answered_straight")
    {
        return;
    }
    let stage = Stage::serving("distribution", 3);
    let status = stage.balancer.lb_ok(&["status"]);
    assert!(status.contains("eth0  native  up  02:00:00:00:00:11"), "{status}");
    // Backends that came up one after the other have moved no slot: the start warmed up first.
    let moving = &stage.balancer.lb_json(&["status"])["services"][0]["moving"];
    assert_eq!(*moving, 0, "slots are moving after a fresh start");
    assert!(status.contains("no problems"), "{status}");

    let mut requests = [0; 3];
    for vip in [VIP, VIP6] {
        // That one of three gets none of 60 is less likely than one in ten thousand million.
        let tally = stage.client.get(vip, 60);
        assert_answered_by(&tally, &WEBS);
        for (sum, web) in requests.iter_mut().zip(WEBS) {
            *sum += tally.of(web);
        }
        let answered = stage.client.node().ip(&format!("neigh show to {vip} dev eth0"));
        assert!(answered.contains(&stage.balancer.node().mac()), "{vip}: {answered}");
        let tally = stage.client.upload(vip, 3_000_000);
        assert_eq!((tally.total(), &tally.failures[..]), (1, &[][..]), "{vip}: {tally:?}");
        let web = tally.answers.keys().next().expect("one answered");
        requests[WEBS.iter().position(|name| name == web).expect("a web server")] += 1;
        assert!(stage.client.node().pings(vip), "{vip} does not answer a ping");
    }

    let mut packets = 0;
    for (web, requests) in stage.webs.iter().zip(requests) {
        let name = web.node().name();
        wait_until(PATIENCE, &format!("{name} counts {requests} requests"), || {
            let count = web.requests();
            if count == requests { Ok(()) } else { Err(count.to_string()) }
        });
        let id = format!("web/{name}");
        let [forwarded, bytes] = ["packets", "bytes"].map(|field| {
            stage.balancer.backend(&id, field).as_u64().expect("counters are numbers")
        });
        // SYN, two flights of TLS, the request, FIN, and 54 bytes of headers in each.
        assert!(forwarded >= 5 * requests as u64, "{id}: {forwarded} for {requests} requests");
        assert!(bytes >= 54 * forwarded, "{id}: {forwarded} packets of {bytes} bytes");
        packets += forwarded;
        assert_eq!(web.node().counter("Tcp", "InCsumErrors"), 0, "{name}");
    }
    // 3 MB went up twice, in packets of at most 1500 bytes.
    assert!(packets > 4_000, "only {packets} packets");
    let status = stage.balancer.lb_json(&["status"]);
    assert_eq!(status["services"][0]["packets"], packets, "{status:#}");
    let verdicts = status["verdicts"].as_array().expect("a list of verdicts");
    for (action, reason) in
        [("answer", "arp"), ("answer", "neighbour"), ("answer", "echo"), ("answer", "echo-v6")]
    {
        let found = verdicts.iter().any(|v| v["action"] == action && v["reason"] == reason);
        assert!(found, "no verdict {action} {reason}: {status:#}");
    }
    assert!(verdicts.iter().all(|verdict| verdict["action"] != "drop"), "{status:#}");
}

#[test]
fn backends_may_be_known_by_their_ipv6_addresses() {
    if !is_root_or_skips("backends_may_be_known_by_their_ipv6_addresses") {
        return;
    }
    let mut stage = Stage::new("IPv6 backends", 2);
    let listeners = [VIP, VIP6].map(|vip| listener(vip, 443));
    let lines: Vec<_> = stage
        .webs
        .iter()
        .map(|web| format!("{} = {{ address = \"{}\" }}", web.node().name(), web.node().ipv6()))
        .collect();
    let web = service("web", &listeners, &https_check(&stage.authority), &lines);
    stage.start(&(stage.balancer.preamble() + &web));
    for vip in [VIP, VIP6] {
        assert_answered_by(&stage.client.get(vip, 40), &["web1", "web2"]);
    }
}

#[test]
fn a_backend_that_changes_its_hardware_address_is_followed() {
    if !is_root_or_skips("a_backend_that_changes_its_hardware_address_is_followed") {
        return;
    }
    let stage = Stage::serving("new MAC", 2);
    let next_hop = || stage.balancer.backend("web/web1", "next_hop");
    assert_eq!(next_hop(), "02:00:00:00:00:21 via eth0");
    assert_answered_by(&stage.client.get(VIP, 40), &["web1", "web2"]);

    stage.web(1).set_mac("02:00:00:00:01:21");

    // Probes fail by then, and no new flow goes to the old address any more...
    stage.wait_for("down", &[&stage.webs[0]]);
    assert_answered_by(&stage.client.get(VIP, 20), &["web2"]);
    // ... until the neighbour is asked again.
    wait_until(PATIENCE, "the new hardware address is known", || {
        let found = next_hop();
        if found == "02:00:00:00:01:21 via eth0" { Ok(()) } else { Err(found.to_string()) }
    });
    stage.wait_for("serving", &[&stage.webs[0]]);
    let backends = stage.balancer.lb_ok(&["backends"]);
    assert!(backends.contains("02:00:00:00:01:21 via eth0"), "{backends}");
    assert_answered_by(&stage.client.get(VIP, 40), &["web1", "web2"]);
}

#[test]
fn an_explanation_agrees_with_where_connections_end_and_changes_nothing() {
    if !is_root_or_skips("an_explanation_agrees_with_where_connections_end_and_changes_nothing") {
        return;
    }
    let mut stage = Stage::serving("explain", 3);
    let counters = |stage: &Stage| {
        let status = stage.balancer.lb_json(&["status"]);
        let packets = stage
            .webs
            .iter()
            .map(|web| stage.balancer.backend(&format!("web/{}", web.node().name()), "packets"));
        let drops = status["verdicts"].as_array().expect("a list of verdicts").iter();
        let drops = drops.filter(|verdict| verdict["action"] == "drop").cloned();
        packets.chain(drops).collect::<Vec<_>>()
    };
    // A port in each of 64 stretches, below those that the kernel chooses from.
    let seed = u16::try_from(std::process::id() % 300).expect("less than 300");
    let ports = (0..64).map(|n| 10_000 + n * 300 + seed);
    for to in PLAIN {
        let client: IpAddr = match to {
            std::net::SocketAddr::V4(_) => stage.client.node().ipv4().into(),
            std::net::SocketAddr::V6(_) => stage.client.node().ipv6().into(),
        };
        let before = counters(&stage);
        let explained: Vec<_> = ports
            .clone()
            .map(|port| {
                let from = std::net::SocketAddr::new(client, port);
                let view = stage.balancer.lb_json(&["explain", &format!("tcp {from} > {to}")]);
                assert_eq!(
                    (&view["action"], &view["reason"]),
                    (&"forward".into(), &"transmit".into())
                );
                assert_eq!(view["service"]["name"], "web", "{view:#}");
                assert_eq!(view["slot"]["current"], view["backend"]["id"], "{view:#}");
                view["backend"]["id"].as_str().expect("a backend").to_owned()
            })
            .collect();
        assert_eq!(counters(&stage), before, "an explanation was counted");

        let answers = ask_from(stage.client.node(), ports.clone(), to);
        let seen: Vec<_> = answers
            .into_iter()
            .map(|(port, answer)| match answer {
                Ok(server) => format!("web/{server}"),
                Err(error) => panic!("no answer to port {port}: {error}"),
            })
            .collect();
        assert_eq!(explained, seen, "{to}");
        assert_ne!(counters(&stage), before, "connections were not counted");
    }

    let verdict = |stage: &Stage, flow: &str| {
        let view = stage.balancer.lb_json(&["explain", flow]);
        [&view["action"], &view["reason"]].map(|word| word.as_str().unwrap_or("").to_owned())
    };
    assert_eq!(verdict(&stage, "tcp 10.9.0.10:40000 > 10.9.0.99:443"), ["pass", "no-service"]);
    assert_eq!(verdict(&stage, "tcp 10.9.0.10:40000 > 10.9.0.100:22"), ["pass", "no-service"]);
    assert_eq!(verdict(&stage, "udp 10.9.0.10:40000 > 10.9.0.100:443"), ["pass", "no-service"]);
    let answer = stage.balancer.lb(&["explain", "tcp 10.9.0.10 > 10.9.0.100:443"]);
    assert_eq!(answer.code, Some(2), "{answer:?}");

    stage.webs.iter_mut().for_each(lb_tests::web::Web::kill);
    stage.wait_for("down", &stage.webs.iter().collect::<Vec<_>>());
    assert_eq!(verdict(&stage, "tcp 10.9.0.10:40000 > 10.9.0.100:443"), ["drop", "no-backend"]);
    let words = stage.balancer.lb_ok(&["explain", "tcp 10.9.0.10:40000 > 10.9.0.100:443"]);
    assert!(words.contains("DROP, no-backend"), "{words}");
    let tally = stage.client.get(VIP, 1);
    assert_eq!(tally.total(), 0, "{tally:?}");
    let status = stage.balancer.lb_ok(&["status"]);
    assert!(status.contains("service web has no backend that serves"), "{status}");
    assert!(status.contains("no-backend"), "{status}");
}

#[test]
fn packets_to_a_backend_behind_another_interface_are_redirected() {
    if !is_root_or_skips("packets_to_a_backend_behind_another_interface_are_redirected") {
        return;
    }
    let mut stage = Stage::new("redirect", 2);
    let lb1 = stage.balancer.node().clone();
    // The second way to web2 is a segment of its own; it answers by the first, as to everybody.
    stage.bed.second_cable(&lb1);
    stage.bed.second_cable(stage.webs[1].node());
    let preamble = stage.balancer.preamble().replace("[\"eth0\"]", "[\"eth0\", \"eth1\"]");
    let listeners = PLAIN.map(|address| address.to_string());
    let lines = [
        backend(stage.web(1), ""),
        format!("web2 = {{ address = \"{}\" }}", stage.web(2).second_ipv4()),
    ];
    let web = service("web", &listeners, &https_check(&stage.authority), &lines);
    stage.start(&(preamble + &web));
    assert_eq!(stage.balancer.backend("web/web2", "next_hop"), "02:00:00:00:01:22 via eth1");
    let status = stage.balancer.lb_ok(&["status"]);
    assert!(status.contains("eth1  native  up  02:00:00:00:01:11"), "{status}");

    let load = Load::start(stage.client.node(), &PLAIN);
    load.go_on(100);
    let tally = load.finish();
    assert_answered_by(&tally, &["web1", "web2"]);
    let forwarded = stage.balancer.backend("web/web2", "packets").as_u64().expect("a number");
    assert!(forwarded >= 4 * tally.of("web2") as u64, "{forwarded} packets: {tally:?}");

    let mut reasons = std::collections::BTreeSet::new();
    for port in 10_000..10_040 {
        let flow = format!("tcp 10.9.0.10:{port} > 10.9.0.100:80");
        let view = stage.balancer.lb_json(&["explain", &flow]);
        let words = ["id", "interface"].map(|field| view["backend"][field].to_string());
        reasons.insert((words.concat(), view["reason"].to_string()));
    }
    let expected =
        [("\"web/web1\"\"eth0\"", "\"transmit\""), ("\"web/web2\"\"eth1\"", "\"redirect\"")];
    assert_eq!(reasons, expected.map(|(a, b)| (a.to_owned(), b.to_owned())).into());
}
