//! Backends that come back and grow slowly, and backups that stand in for others.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lb_tests::bed::{VIP, VIP6};
use lb_tests::echo::Echo;
use lb_tests::flows::count_names;
use lb_tests::privilege::is_root_or_skips;
use lb_tests::stage::{PATIENCE, Stage};
use lb_tests::talk::{Talk, Talker, all_say, by_server};

/// Where talkers listen.
const TALK: [SocketAddr; 2] = [SocketAddr::new(VIP, 7000), SocketAddr::new(VIP6, 7000)];
/// The same for another service.
const OTHER: [SocketAddr; 2] = [SocketAddr::new(VIP, 7001), SocketAddr::new(VIP6, 7001)];
/// Where servers of the other service tell their names.
const NAMES: SocketAddr = SocketAddr::new(VIP, 7101);

/// Talkers on all web servers.
fn talkers(stage: &Stage, to: &[SocketAddr]) -> Vec<Talker> {
    let all = stage.webs.iter().flat_map(|web| to.iter().map(move |to| (web.node(), *to)));
    all.map(|(node, to)| Talker::start(node, to)).collect()
}

#[test]
fn a_backend_that_comes_back_grows_to_its_share_step_by_step() {
    if !is_root_or_skips("a_backend_that_comes_back_grows_to_its_share_step_by_step") {
        return;
    }
    let mut stage = Stage::new("slow", 3);
    let _talkers = talkers(&stage, &[TALK, OTHER].concat());
    let _names: Vec<_> = stage.webs.iter().map(|web| Echo::tcp(web.node(), NAMES)).collect();
    let slow = "slow-start = \"12s\"";
    let in_turn = format!("{slow}\nscheduler = \"round-robin\"");
    let text = stage.head("")
        + &stage.service_on("web", &[7000], slow, &[""; 3])
        + &stage.service_on("turns", &[7001, 7101], &in_turn, &[""; 3]);
    stage.start(&text);
    for web in ["turns/web1", "turns/web2", "turns/web3"] {
        stage.balancer.wait_for_state(web, "serving", PATIENCE);
    }
    let client = stage.client.node().clone();
    let slots = || stage.balancer.backend("web/web2", "slots").as_u64().expect("a number");
    // Nobody starts slowly because the daemon has started.
    let whole = slots();
    assert!((21_000..23_000).contains(&whole), "{whole}");
    let mut old = Talk::open_many(&client, &[TALK, OTHER].concat(), 120);
    assert_eq!(by_server(&old).len(), 3, "{:?}", by_server(&old));

    let both = |state: &str| {
        for web in ["web/web2", "turns/web2"] {
            stage.balancer.wait_for_state(web, state, PATIENCE);
        }
    };
    stage.webs[1].set_healthy(false);
    both("down");
    assert_eq!(slots(), 0);
    assert_eq!(all_say(&mut old), BTreeMap::new());
    stage.webs[1].set_healthy(true);
    let (mut has, mut steps, mut turns) = (0, 0, Vec::new());
    let begun = Instant::now();
    while has < whole {
        let now = slots();
        assert!(now >= has, "{now} slots after {has} of {whole}");
        assert!(now - has <= whole / 5, "{now} slots after {has} of {whole}");
        steps += u32::from(now != has);
        has = now;
        // A second or two may pass between the checks of both.
        if has > 0 && turns.is_empty() || has > whole / 2 && turns.len() == 1 {
            let counts = count_names(&client, NAMES, 120);
            turns.push(counts.get("web2").copied().unwrap_or(0));
        }
        assert!(begun.elapsed() < PATIENCE * 2, "{has} slots of {whole} so far");
    }
    assert!(steps >= 6 && begun.elapsed() >= Duration::from_secs(9), "{steps} steps");
    both("serving");
    assert_eq!(all_say(&mut old), BTreeMap::new());
    turns.push(count_names(&client, NAMES, 120).get("web2").copied().unwrap_or(0));
    assert!(turns[0] < turns[1] && turns[1] < turns[2], "{turns:?}");
    assert!(turns[0] <= 20, "{turns:?}");
}

#[test]
fn backups_serve_only_while_nobody_else_does() {
    if !is_root_or_skips("backups_serve_only_while_nobody_else_does") {
        return;
    }
    let mut stage = Stage::new("backups", 3);
    let _talkers = talkers(&stage, &[TALK, OTHER].concat());
    let backup = ["", ", backup = true", ", backup = true"];
    let text = stage.head("")
        + &stage.service_on("web", &[7000], "", &backup)
        + &stage.service_on("turns", &[7001], "scheduler = \"round-robin\"", &backup);
    stage.balancer.write_config(&text);
    stage.balancer.start();
    for service in ["web", "turns"] {
        for (web, state) in [("web1", "serving"), ("web2", "standby"), ("web3", "standby")] {
            stage.balancer.wait_for_state(&format!("{service}/{web}"), state, PATIENCE);
        }
    }
    let client = stage.client.node().clone();
    let mut talks: Vec<Talk> = Vec::new();
    let to = [TALK, OTHER].concat();
    let open = |talks: &mut Vec<Talk>, servers: &[&str]| {
        let new = Talk::open_many(&client, &to, 40);
        let by: Vec<&str> = by_server(&new).into_keys().collect();
        assert_eq!(by, servers);
        talks.extend(new);
        assert_eq!(all_say(talks), BTreeMap::new());
    };
    open(&mut talks, &["web1"]);
    for _ in 0..2 {
        stage.webs[0].kill();
        for web in ["web/web1", "turns/web1"] {
            stage.balancer.wait_for_state(web, "down", PATIENCE);
        }
        open(&mut talks, &["web2", "web3"]);
        stage.webs[0].restart();
        for web in ["web/web1", "turns/web1"] {
            stage.balancer.wait_for_state(web, "serving", PATIENCE);
        }
        open(&mut talks, &["web1"]);
    }
    // By hand it is the same.
    for web in ["web/web1", "turns/web1"] {
        stage.balancer.lb_ok(&["drain", web]);
    }
    open(&mut talks, &["web2", "web3"]);
}
