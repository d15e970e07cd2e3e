//! Clients of a backend whose flows are reset: those that wait in silence, and those that speak.

use std::io::{ErrorKind, Result};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::balancer::{backend, https_check, service};
use lb_tests::bed::{VIP, VIP6};
use lb_tests::privilege::is_root_or_skips;
use lb_tests::stage::{PATIENCE, Stage};
use lb_tests::talk::{Talk, Talker, by_server};
use lb_tests::wait::wait_until;

/// Where talkers listen.
const TALK: [SocketAddr; 2] = [SocketAddr::new(VIP, 7000), SocketAddr::new(VIP6, 7000)];
/// Connections in a test, half of them for either address.
const MANY: usize = 40;

/// Talkers on all web servers.
fn talkers(stage: &Stage) -> Vec<Talker> {
    let all = stage.webs.iter().flat_map(|web| TALK.map(|to| (web.node(), to)));
    all.map(|(node, address)| Talker::start(node, address)).collect()
}

/// A file with the service `web` that resets, and more to say about each web server.
fn file(stage: &Stage, more: &[&str]) -> String {
    let lines = stage.webs.iter().zip(more).map(|(web, more)| backend(web.node(), more));
    let lines: Vec<_> = lines.collect();
    let resets = "on-down = \"reset\"\ndrain = { grace = \"1s\", then = \"reset\" }\nlisten = [";
    let web =
        service("web", &TALK.map(|to| to.to_string()), &https_check(&stage.authority), &lines);
    stage.balancer.preamble() + &web.replace("listen = [", resets)
}

/// Connections of which every one is remembered: they begin while all slots move from the third
/// web server to the first two.
fn remembered(stage: &mut Stage) -> Vec<Talk> {
    let drained = ", admin = \"drain\"";
    stage.balancer.write_config(&file(stage, &[drained, drained, ""]));
    stage.balancer.start();
    stage.wait_for("draining", &[&stage.webs[0], &stage.webs[1]]);
    stage.wait_for("serving", &[&stage.webs[2]]);
    wait_until(PATIENCE, "the third web server has all slots", || {
        let slots = stage.balancer.backend("web/web3", "slots");
        if slots == 65_537 { Ok(()) } else { Err(slots.to_string()) }
    });
    for change in [["enable", "web/web1"], ["enable", "web/web2"], ["drain", "web/web3"]] {
        stage.balancer.lb_ok(&change);
    }
    let talks = Talk::open_many(stage.client.node(), &TALK, MANY);
    let servers: Vec<_> = by_server(&talks).into_keys().collect();
    assert_eq!(servers, ["web1", "web2"]);
    talks
}

/// Takes out those of one server.
fn of(talks: &mut Vec<Talk>, server: &str) -> Vec<Talk> {
    let (its, others) = talks.drain(..).partition(|talk| talk.server() == server);
    *talks = others;
    its
}

/// Waits for something to be said, without a word: what came, and how long it took.
fn listen(talks: Vec<Talk>, patience: Duration) -> Vec<(Result<()>, Duration)> {
    let workers = talks.into_iter().map(|mut talk| {
        talk.limit(patience);
        thread::spawn(move || {
            let begun = Instant::now();
            (talk.hear_it(), begun.elapsed())
        })
    });
    let workers: Vec<_> = workers.collect();
    workers.into_iter().map(|worker| worker.join().expect("a listener panicked")).collect()
}

#[track_caller]
fn assert_all_reset(heard: &[(Result<()>, Duration)], what: &str, stage: &Stage) {
    for (result, after) in heard {
        let kind = result.as_ref().err().map(std::io::Error::kind);
        let log = || stage.balancer.log();
        assert_eq!(kind, Some(ErrorKind::ConnectionReset), "after {after:?}: {}", log());
    }
    let last = heard.iter().map(|(_, after)| *after).max().expect("somebody listened");
    println!("{what}: {} silent clients were reset within {last:?}", heard.len());
}

fn prodded(stage: &Stage) -> (u64, u64) {
    let silent = &stage.balancer.lb_json(&["status"])["silent"];
    let count = |field: &str| silent[field].as_u64().expect("a number");
    (count("prodded"), count("failed"))
}

#[test]
fn clients_that_wait_in_silence_for_a_backend_that_is_gone_are_reset() {
    if !is_root_or_skips("clients_that_wait_in_silence_for_a_backend_that_is_gone_are_reset") {
        return;
    }
    let mut stage = Stage::new("silent", 3);
    let _talkers = talkers(&stage);
    let mut others = remembered(&mut stage);
    let silent = of(&mut others, "web1");
    let (count, left) = (silent.len(), others.len());
    assert_eq!(prodded(&stage), (0, 0));

    let waiting = thread::spawn(move || listen(silent, PATIENCE));
    // Unplugged, it can reset nothing itself.
    stage.bed.unplug(stage.web(1));
    stage.wait_for("down", &[&stage.webs[0]]);
    let down = Instant::now();
    let heard = waiting.join().expect("the listeners panicked");
    println!("backend down: the last client heard of it {:?} later", down.elapsed());
    assert!(down.elapsed() < Duration::from_secs(8), "{:?}", down.elapsed());
    assert_all_reset(&heard, "backend down", &stage);
    wait_until(PATIENCE, "all prods are counted", || match prodded(&stage) {
        (prodded, 0) if prodded == count as u64 => Ok(()),
        seen => Err(format!("{seen:?} of {count}")),
    });
    let line = format!("silent clients: {count} prodded, 0 failed\n");
    let status = stage.balancer.lb_ok(&["status"]);
    assert!(status.contains(&line), "{status}");

    // Those of the other backend have not heard a thing, and go on.
    for talk in &mut others {
        talk.limit(Duration::from_millis(1));
        let error = talk.hear_it().expect_err("nobody has said anything");
        assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
        talk.limit(PATIENCE);
        talk.say().expect("a connection to a backend that is well");
    }

    // A drain that is over says the same.
    stage.balancer.lb_ok(&["enable", "web/web3"]);
    let waiting = thread::spawn(move || listen(others, PATIENCE));
    stage.balancer.lb_ok(&["drain", "web/web2"]);
    let heard = waiting.join().expect("the listeners panicked");
    assert_all_reset(&heard, "drain over", &stage);
    wait_until(PATIENCE, "all prods are counted", || match prodded(&stage) {
        (prodded, 0) if prodded == (count + left) as u64 => Ok(()),
        seen => Err(format!("{seen:?} of {count} and {left}")),
    });
}

#[test]
fn a_client_that_speaks_to_a_backend_that_is_gone_is_reset_at_once() {
    if !is_root_or_skips("a_client_that_speaks_to_a_backend_that_is_gone_is_reset_at_once") {
        return;
    }
    let mut stage = Stage::new("speaks", 2);
    let _talkers = talkers(&stage);
    stage.start(&file(&stage, &["", ""]));
    // Nothing changes: nobody is remembered, and nobody can be prodded.
    let mut talks = Talk::open_many(stage.client.node(), &TALK, MANY);
    let mut gone = of(&mut talks, "web1");
    stage.bed.unplug(stage.web(1));
    stage.wait_for("down", &[&stage.webs[0]]);
    let mut longest = Duration::ZERO;
    for talk in &mut gone {
        let begun = Instant::now();
        let error = talk.say().expect_err("a server that is unplugged answered");
        longest = longest.max(begun.elapsed());
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    println!("{} clients that spoke were reset within {longest:?}", gone.len());
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    assert_eq!(prodded(&stage), (0, 0));
    for talk in &mut talks {
        talk.say().expect("a connection to a backend that is well");
    }
}
