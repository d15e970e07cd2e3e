//! What operators do by hand, and what becomes of it when files and daemons change.

use std::net::SocketAddr;

use lb_tests::balancer::{backend, https_check, listener, service};
use lb_tests::bed::VIP;
use lb_tests::flows::ask_from;
use lb_tests::privilege::is_root_or_skips;
use lb_tests::stage::{PATIENCE, PLAIN, Stage, assert_answered_by};
use lb_tests::talk::{Talk, Talker};

/// Slots of a service unless the file says otherwise.
const SLOTS: f64 = 65_537.0;

#[test]
fn weights_share_out_the_slots_and_change_live() {
    if !is_root_or_skips("weights_share_out_the_slots_and_change_live") {
        return;
    }
    let mut stage = Stage::new("weights", 3);
    let web = stage.web_service(&[", weight = 100", ", weight = 50", ", weight = 50"]);
    stage.start(&(stage.balancer.preamble() + &web));
    assert_shares(&stage, [0.5, 0.25, 0.25]);
    // 200 and 100 of 400 are expected: half the distance is more than six standard deviations.
    let answers = ask_from(stage.client.node(), 10_000..10_400, PLAIN[0]);
    let of = |name: &str| answers.iter().filter(|(_, who)| who.as_deref() == Ok(name)).count();
    let counts = ["web1", "web2", "web3"].map(of);
    assert_eq!(counts.iter().sum::<usize>(), 400, "{answers:?}");
    assert!(counts[0] > counts[1] && counts[0] > counts[2], "{counts:?}");

    let said = stage.balancer.lb_ok(&["weight", "web/web2", "250"]);
    assert!(said.contains("web/web2"), "{said}");
    assert_shares(&stage, [0.25, 0.625, 0.125]);
    let backends = stage.balancer.lb_ok(&["backends", "web"]);
    assert!(backends.contains("weight 250 (the file says 50), by "), "{backends}");

    stage.balancer.lb_ok(&["weight", "web/web2", "0"]);
    assert_shares(&stage, [2.0 / 3.0, 0.0, 1.0 / 3.0]);
    assert_eq!(stage.balancer.backend("web/web2", "state"), "draining");
    assert_answered_by(&stage.client.get(VIP, 40), &["web1", "web3"]);

    stage.balancer.lb_ok(&["weight", "web/web2", "50"]);
    assert_shares(&stage, [0.5, 0.25, 0.25]);
    assert!(stage.balancer.backend("web/web2", "overridden").is_null(), "equal to the file");
    assert_answered_by(&stage.client.get(VIP, 60), &["web1", "web2", "web3"]);
}

#[track_caller]
fn assert_shares(stage: &Stage, shares: [f64; 3]) {
    let mut sum = 0.0;
    for (web, share) in stage.webs.iter().zip(shares) {
        let id = format!("web/{}", web.node().name());
        let slots = stage.balancer.backend(&id, "slots").as_f64().expect("a number");
        let wanted = share * SLOTS;
        assert!((slots - wanted).abs() <= wanted * 0.01, "{id} has {slots} slots, not {wanted}");
        sum += slots;
    }
    assert_eq!(sum, SLOTS, "slots without a backend");
}

#[test]
fn backends_are_drained_disabled_and_enabled_by_hand() {
    if !is_root_or_skips("backends_are_drained_disabled_and_enabled_by_hand") {
        return;
    }
    let mut stage = Stage::serving("by hand", 3);
    stage.balancer.lb_ok(&["drain", "web/web1", "--reason", "new disk"]);
    assert_eq!(stage.balancer.backend("web/web1", "state"), "draining");
    assert_eq!(stage.balancer.backend("web/web1", "health"), "up");
    assert_answered_by(&stage.client.get(VIP, 40), &["web2", "web3"]);

    stage.balancer.lb_ok(&["disable", "web/web2"]);
    assert_eq!(stage.balancer.backend("web/web2", "state"), "disabled");
    assert_eq!(stage.balancer.backend("web/web2", "check"), "not probed yet");
    assert_answered_by(&stage.client.get(VIP, 20), &["web3"]);
    let backends = stage.balancer.lb_ok(&["backends"]);
    for (words, reason) in [
        ("* web/web1: admin drain (the file says ready), by root ", ": new disk"),
        ("* web/web2: admin disable (the file says ready), by root ", ""),
    ] {
        let told = |line: &str| line.starts_with(words) && line.ends_with(reason);
        assert!(backends.lines().any(told), "{words}{reason} in:\n{backends}");
    }
    // What an operator took out is not missed.
    assert_eq!(stage.balancer.lb_json(&["status"])["services"][0]["state"], "up");

    stage.balancer.lb_ok(&["enable", "web/web1"]);
    stage.balancer.lb_ok(&["enable", "web/web2"]);
    // It is probed anew first.
    stage.wait_for("serving", &[&stage.webs[0], &stage.webs[1]]);
    assert_answered_by(&stage.client.get(VIP, 60), &["web1", "web2", "web3"]);

    for (arguments, code, words) in [
        (&["drain", "web/web9"][..], 3, "service web has no backend `web9`"),
        (&["drain", "mail/web1"], 3, "there is no service `mail`"),
        (&["drain", "web1"], 2, "write SERVICE/BACKEND"),
        (&["weight", "web/web1", "1001"], 2, "1001"),
        (&["backends", "mail"], 3, "no service `mail`; the services are web"),
    ] {
        let answer = stage.balancer.lb(arguments);
        assert_eq!(answer.code, Some(code), "{arguments:?}: {answer:?}");
        assert!(answer.stderr.contains(words) && answer.stdout.is_empty(), "{answer:?}");
    }
    stage.balancer.stop();
    let answer = stage.balancer.lb(&["drain", "web/web1"]);
    assert_eq!(answer.code, Some(4), "{answer:?}");
}

#[test]
fn what_operators_changed_is_kept_until_the_file_changes_it_too() {
    if !is_root_or_skips("what_operators_changed_is_kept_until_the_file_changes_it_too") {
        return;
    }
    let mut stage = Stage::serving("overrides", 3);
    stage.balancer.lb_ok(&["drain", "web/web1", "--reason", "new disk"]);
    stage.balancer.lb_ok(&["weight", "web/web1", "300"]);
    stage.balancer.lb_ok(&["weight", "web/web2", "50"]);
    let check = |stage: &Stage, when: &str| {
        let backend = |id, field| stage.balancer.backend(id, field);
        assert_eq!(backend("web/web1", "state"), "draining", "{when}");
        assert_eq!(backend("web/web1", "weight"), 300, "{when}");
        assert_eq!(backend("web/web1", "file_admin"), "ready", "{when}");
        assert_eq!(backend("web/web1", "file_weight"), 100, "{when}");
        assert_eq!(backend("web/web1", "overridden")["reason"], "new disk", "{when}");
        assert_eq!(backend("web/web2", "weight"), 50, "{when}");
        let backends = stage.balancer.lb_ok(&["backends"]);
        let words = "* web/web1: admin drain (the file says ready), weight 300 (the file says 100)";
        assert!(backends.contains(words), "{when}: {backends}");
        assert_answered_by(&stage.client.get(VIP, 40), &["web2", "web3"]);
    };
    check(&stage, "at once");
    let said = stage.balancer.lb_ok(&["reload"]);
    assert!(said.starts_with("nothing to do"), "{said}");
    check(&stage, "after a reload of the same file");
    // Another backend's line is no reason to forget.
    let text = stage.web_service(&["", "", ", weight = 90"]);
    stage.balancer.write_config(&(stage.balancer.preamble() + &text));
    let said = stage.balancer.lb_ok(&["reload"]);
    assert!(said.contains("~ web/web3 weight 100 -> 90") && !said.contains("override"), "{said}");
    check(&stage, "after a reload of another file");
    stage.balancer.restart();
    stage.wait_for("serving", &stage.webs[1..].iter().collect::<Vec<_>>());
    check(&stage, "after a restart");
    stage.balancer.kill();
    stage.balancer.start();
    stage.wait_for("serving", &stage.webs[1..].iter().collect::<Vec<_>>());
    check(&stage, "after a crash");

    // The file changes one of the two fields: it wins there, and there only.
    let text = stage.web_service(&[", weight = 200", "", ""]);
    stage.balancer.write_config(&(stage.balancer.preamble() + &text));
    let said = stage.balancer.lb_ok(&["reload"]);
    let words = "override: web/web1: weight 300 by root is dropped: the file changed 100 -> 200";
    assert!(said.contains(words), "{said}");
    assert_eq!(stage.balancer.backend("web/web1", "weight"), 200);
    assert_eq!(stage.balancer.backend("web/web1", "state"), "draining");
    // And while no daemon runs.
    stage.balancer.stop();
    let text = stage.web_service(&[", weight = 200, admin = \"disable\"", ", weight = 60", ""]);
    stage.balancer.write_config(&(stage.balancer.preamble() + &text));
    stage.balancer.start();
    assert_eq!(stage.balancer.backend("web/web1", "state"), "disabled");
    assert_eq!(stage.balancer.backend("web/web2", "weight"), 60);
    for web in ["web/web1", "web/web2"] {
        assert!(stage.balancer.backend(web, "overridden").is_null(), "{web}");
    }
    let log = stage.balancer.log();
    for words in [
        "web/web1: admin drain by root is dropped: the file changed ready -> disable",
        "web/web2: weight 50 by root is dropped: the file changed 100 -> 60",
    ] {
        assert!(log.contains(words), "{log}");
    }
}

#[test]
fn operators_see_who_stands_by_whose_turn_it_is_and_who_is_denied() {
    if !is_root_or_skips("operators_see_who_stands_by_whose_turn_it_is_and_who_is_denied") {
        return;
    }
    let mut stage = Stage::new("seen", 3);
    let [one, two, three] = [1, 2, 3].map(|n| stage.web(n));
    let plain = [backend(one, ""), backend(two, ", weight = 50")];
    let check = https_check(&stage.authority);
    let [turns, closed] = PLAIN;
    let config = [
        stage.balancer.preamble(),
        service(
            "web",
            &[listener(VIP, 443)],
            &check,
            &[backend(one, ""), backend(two, ""), backend(three, ", backup = true")],
        ),
        with(
            "scheduler = \"round-robin\"",
            &service("turns", &[turns.to_string()], &check, &plain),
        ),
        with(
            "deny = [\"fd09::/16\"]\nlimit = { source = 1000 }",
            &service("closed", &[closed.to_string()], &check, &plain),
        ),
    ];
    stage.balancer.write_config(&config.concat());
    stage.balancer.start();
    stage.wait_for("serving", &[&stage.webs[0], &stage.webs[1]]);
    stage.wait_for("standby", &[&stage.webs[2]]);
    for id in ["turns/web1", "turns/web2", "closed/web1", "closed/web2"] {
        stage.balancer.wait_for_state(id, "serving", PATIENCE);
    }
    assert_eq!(stage.balancer.backend("web/web3", "slots"), 0);
    let services = stage.balancer.lb_ok(&["services"]);
    for words in ["up         2/2  maglev       flow", "up         2/2  round-robin  flow"] {
        assert!(services.contains(words), "{services}");
    }
    assert!(stage.balancer.lb_ok(&["backends", "web"]).contains("  standby  "));
    assert_answered_by(&stage.client.get(VIP, 40), &["web1", "web2"]);

    // Nobody knows whose turn it is, but who has had it.
    let from = SocketAddr::new(stage.client.node().ipv4().into(), 10_001);
    let explain = |stage: &Stage, from: SocketAddr, to: SocketAddr| {
        stage.balancer.lb_json(&["explain", &format!("tcp {from} > {to}")])
    };
    let view = explain(&stage, from, turns);
    assert!(view["backend"].is_null() && view["reason"] == "round-robin", "{view:#}");
    let choices = view["choices"].as_array().expect("a list").iter();
    let choices: Vec<_> = choices.map(|choice| (&choice["id"], &choice["turns"])).collect();
    let expected = [("turns/web1".into(), 2.into()), ("turns/web2".into(), 1.into())];
    assert_eq!(choices, expected.each_ref().map(|(id, turns)| (id, turns)), "{view:#}");
    let words = stage.balancer.lb_ok(&["explain", &format!("tcp {from} > {turns}")]);
    assert!(words.contains("turns/web1 (2 of 3 turns), turns/web2 (1 of 3 turns)"), "{words}");
    let answers = ask_from(stage.client.node(), [from.port()], turns);
    let server = answers[0].1.as_ref().expect("an answer");
    let view = explain(&stage, from, turns);
    assert_eq!(view["established"], format!("turns/{server}"), "{view:#}");

    // Who may not come in is told so, and counted.
    let from = SocketAddr::new(stage.client.node().ipv6().into(), 10_001);
    let view = explain(&stage, from, closed);
    assert_eq!([&view["action"], &view["reason"]], ["drop", "denied"], "{view:#}");
    assert_eq!(view["notes"][0], format!("{} is denied by fd09::/16", from.ip()), "{view:#}");
    let status = stage.balancer.lb_ok(&["status"]);
    let guarded = "guarded  closed: 1000 new flows/s (1000 at once) of a source, 1 prefix denied\n";
    assert!(status.contains(guarded), "{status}");
    assert!(status.contains("turned away by all of them: 0 denied, "), "{status}");
    let answers = ask_from(stage.client.node(), [from.port()], closed);
    assert!(answers[0].1.is_err(), "{answers:?}");
    let status = stage.balancer.lb_ok(&["status"]);
    assert!(status.contains("turned away by all of them: "), "{status}");
    assert!(!status.contains("turned away by all of them: 0 denied, "), "{status}");

    stage.webs[..2].iter_mut().for_each(lb_tests::web::Web::kill);
    stage.wait_for("down", &[&stage.webs[0], &stage.webs[1]]);
    stage.wait_for("serving", &[&stage.webs[2]]);
    let status = stage.balancer.lb_ok(&["status"]);
    assert!(status.contains("! service web runs on its backups\n"), "{status}");
    assert!(stage.balancer.lb_ok(&["backends", "web"]).contains("  serving, a backup  "));
    let services = stage.balancer.lb_json(&["status"])["services"].clone();
    let web = services.as_array().into_iter().flatten().find(|service| service["name"] == "web");
    let web = web.expect("the service is there");
    assert!(web["state"] == "degraded" && web["on_backups"] == true, "{web:#}");
    assert_answered_by(&stage.client.get(VIP, 10), &["web3"]);
}

#[test]
fn a_new_flow_is_explained_by_the_flows_that_are_open_now() {
    if !is_root_or_skips("a_new_flow_is_explained_by_the_flows_that_are_open_now") {
        return;
    }
    let mut stage = Stage::new("open flows", 2);
    let to = SocketAddr::new(VIP, 9_000);
    let _talkers: Vec<_> = stage.webs.iter().map(|web| Talker::start(web.node(), to)).collect();
    let lines = [1, 2].map(|n| backend(stage.web(n), ""));
    let talk = service("web", &[to.to_string()], &https_check(&stage.authority), &lines);
    stage.start(&(stage.balancer.preamble() + &with("scheduler = \"least-conn\"", &talk)));
    let explain = |stage: &Stage| {
        let from = SocketAddr::new(stage.client.node().ipv4().into(), 10_001);
        stage.balancer.lb_json(&["explain", &format!("tcp {from} > {to}")])
    };
    let view = explain(&stage);
    assert!(view["backend"].is_null() && view["reason"] == "least-conn", "{view:#}");
    assert_eq!(view["choices"].as_array().map(Vec::len), Some(2), "{view:#}");

    let mut first = Talk::open(stage.client.node(), to).expect("a connection");
    first.say().expect("an answer");
    let other = if first.server() == "web1" { "web2" } else { "web1" };
    let view = explain(&stage);
    assert_eq!(view["backend"]["id"], format!("web/{other}"), "{view:#}");
    let open = |name: &str| stage.balancer.backend(&format!("web/{name}"), "open");
    assert_eq!((open(first.server()), open(other)), (1.into(), 0.into()));
    assert!(stage.balancer.lb_ok(&["backends"]).contains("SLOTS  OPEN  FLOWS"));
    let second = Talk::open(stage.client.node(), to).expect("a connection");
    assert_eq!(second.server(), other);
}

/// A service with more to say about it than [`service`] has.
fn with(lines: &str, service: &str) -> String {
    service.replacen("\nlisten", &format!("\n{lines}\nlisten"), 1)
}
