//! Who is let in, and how many: limits of new flows, sources by list, and how both come and go.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use lb_tests::bed::{VIP, VIP6};
use lb_tests::flows::{is_let_in, knock};
use lb_tests::node::Node;
use lb_tests::privilege::is_root_or_skips;
use lb_tests::stage::Stage;
use lb_tests::talk::{Talk, Talker, all_say};
use lb_tests::wait::wait_until;

/// Where talkers listen.
const TALK: [SocketAddr; 2] = [SocketAddr::new(VIP, 7000), SocketAddr::new(VIP6, 7000)];

/// How long a connection that must not come is waited for; one that must come has longer.
const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(5);

/// Web servers that talk, and a balancer that serves them, with more to say about the service.
fn talking(name: &str, more: &str) -> (Stage, Vec<Talker>) {
    let mut stage = Stage::new(name, 2);
    let all = stage.webs.iter().flat_map(|web| TALK.map(|to| Talker::start(web.node(), to)));
    let talkers = all.collect();
    stage.start(&file(&stage, more));
    (stage, talkers)
}

fn file(stage: &Stage, more: &str) -> String {
    stage.head("") + &stage.service_on("web", &[7000], more, &[""; 2])
}

/// SYNs of a crowd.
const CROWD: u16 = 300;

/// A crowd of SYNs at once from an address of the client, its ports counted from the first one: no
/// more are let in than there is room for, and the others are dropped for the reason.
#[track_caller]
fn crowd(stage: &Stage, from: IpAddr, first: u16, reason: &str, [rate, burst]: [u64; 2]) {
    let dropped = || stage.verdicts("drop", reason);
    let before = dropped();
    let begun = Instant::now();
    knock(stage.client.node(), from, first..first + CROWD, TALK[0]);
    wait_until(Duration::from_secs(2), "a crowd is let in as far as there is room", || {
        let let_in = u64::from(CROWD) - (dropped() - before);
        let room = burst + (begun.elapsed().as_secs_f64() * rate as f64) as u64 + 1;
        if (burst * 8 / 10..=room).contains(&let_in) {
            Ok(())
        } else {
            Err(format!("{let_in} let in, with room for {room}"))
        }
    });
}

#[test]
fn a_service_takes_no_more_new_flows_than_its_limit_and_no_old_one_minds() {
    if !is_root_or_skips("a_service_takes_no_more_new_flows_than_its_limit_and_no_old_one_minds") {
        return;
    }
    let (stage, _talkers) = talking("limited", "limit = { flows = 50, flows-burst = 50 }");
    let client = stage.client.node().clone();
    let mut old = Talk::open_many(&client, &TALK, 10);
    let own = IpAddr::V4(client.ipv4());
    // The bucket has filled up again by then.
    std::thread::sleep(Duration::from_millis(500));
    for round in 0..3 {
        crowd(&stage, own, 20_000 + round * CROWD, "service-rate", [50, 50]);
        let drops = stage.verdicts("drop", "service-rate");
        for _ in 0..20 {
            assert_eq!(all_say(&mut old), BTreeMap::new());
        }
        assert_eq!(stage.verdicts("drop", "service-rate"), drops);
        std::thread::sleep(Duration::from_secs(1));
    }
    assert_eq!(stage.verdicts("drop", "source-rate"), 0);
    assert!(is_let_in(&client, own, TALK[0], LONG));
}

#[test]
fn one_source_that_is_limited_takes_nothing_from_another() {
    if !is_root_or_skips("one_source_that_is_limited_takes_nothing_from_another") {
        return;
    }
    let limit = "limit = { flows = 1000, source = 20, source-burst = 20 }";
    let (stage, _talkers) = talking("sources", limit);
    let client = stage.client.node().clone();
    let other = add(&client, Ipv4Addr::new(10, 9, 0, 200));
    crowd(&stage, IpAddr::V4(client.ipv4()), 20_000, "source-rate", [20, 20]);
    let drops = stage.verdicts("drop", "source-rate");
    for _ in 0..10 {
        Talk::open_from(&client, other, TALK[0]).expect("a connection from the other address");
    }
    assert_eq!(stage.verdicts("drop", "source-rate"), drops);
    assert_eq!(stage.verdicts("drop", "service-rate"), 0);
}

#[test]
fn of_all_that_a_source_is_in_the_longest_decides() {
    if !is_root_or_skips("of_all_that_a_source_is_in_the_longest_decides") {
        return;
    }
    let deny = "deny = [\"10.9.0.192/26\", \"10.9.0.202\", \"fd09::2:0/112\"]";
    let (stage, _talkers) = talking("rules", deny);
    let client = stage.client.node().clone();
    let [v4, one, two] = [200, 201, 202].map(|n| add(&client, Ipv4Addr::new(10, 9, 0, n)));
    let [v6, one6] = [0, 1].map(|n| add(&client, Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 2, n)));
    let [own, own6] = [IpAddr::V4(client.ipv4()), IpAddr::V6(client.ipv6())];
    let check = |let_in: &[IpAddr], denied: &[IpAddr]| {
        let counted = |from: &IpAddr, patience| {
            let before = stage.verdicts("drop", "denied");
            let to = if from.is_ipv4() { TALK[0] } else { TALK[1] };
            (is_let_in(&client, *from, to, patience), stage.verdicts("drop", "denied") - before)
        };
        for from in let_in {
            assert_eq!(counted(from, LONG), (true, 0), "{from}");
        }
        for from in denied {
            let (is_let_in, drops) = counted(from, SHORT);
            assert!(!is_let_in && drops > 0, "{from}: {drops} drops");
        }
    };
    check(&[own, own6], &[v4, one, two, v6, one6]);

    let allow = format!("{deny}\nallow = [\"10.9.0.0/24\", \"10.9.0.200/31\", \"fd09::2:1\"]");
    stage.reload(&file(&stage, &allow));
    // Whom no rule names is not let in where some are allowed.
    check(&[own, v4, one, one6], &[two, v6, own6]);
    stage.reload(&file(&stage, ""));
    check(&[own, own6, v4, one, two, v6, one6], &[]);
}

#[test]
fn the_first_limit_and_the_last_come_and_go_under_a_long_connection() {
    if !is_root_or_skips("the_first_limit_and_the_last_come_and_go_under_a_long_connection") {
        return;
    }
    let (mut stage, _talkers) = talking("guards", "");
    let client = stage.client.node().clone();
    let own = IpAddr::V4(client.ipv4());
    let denied = add(&client, Ipv4Addr::new(10, 9, 0, 200));
    let mut old = Talk::open_many(&client, &TALK, 20);
    old.push(Talk::open_from(&client, denied, TALK[0]).expect("a connection"));
    let kept = old.len() - 1;
    let plain = program(&stage);
    for more in ["limit = { source = 20, source-burst = 20 }", "deny = [\"10.9.0.200\"]"] {
        stage.reload(&file(&stage, more));
        assert_ne!(program(&stage), plain, "{more}: the program is the old one");
        assert_eq!(all_say(&mut old[..kept]), BTreeMap::new(), "{more}");
        if more.starts_with("limit") {
            crowd(&stage, own, 20_000, "source-rate", [20, 20]);
            assert_eq!(all_say(&mut old), BTreeMap::new(), "{more}");
        } else {
            assert!(!is_let_in(&client, denied, TALK[0], SHORT));
            assert!(is_let_in(&client, own, TALK[0], LONG));
        }
        stage.reload(&file(&stage, ""));
        assert!(is_let_in(&client, denied, TALK[0], LONG));
        assert_eq!(all_say(&mut old), BTreeMap::new(), "{more}: removed");
    }
    // The next daemon loads what it needs.
    stage.balancer.restart();
    assert!(is_let_in(&client, denied, TALK[0], LONG));
    assert_eq!(all_say(&mut old), BTreeMap::new());
}

/// Gives the client one more address.
fn add(client: &Node, address: impl Into<IpAddr>) -> IpAddr {
    let address = address.into();
    match address {
        IpAddr::V4(address) => client.ip(&format!("addr add {address}/24 dev eth0")),
        IpAddr::V6(address) => client.ip(&format!("addr add {address}/64 dev eth0 nodad")),
    };
    address
}

/// The number of the program on the balancer's interface.
fn program(stage: &Stage) -> String {
    let link = stage.balancer.node().ip("link show dev eth0");
    let (_, after) = link.split_once("prog/xdp id ").expect("a program on eth0");
    after.split(' ').next().expect("a number").to_owned()
}
