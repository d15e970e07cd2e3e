//! What operators see of remembered flows, and what they are told about a file before it is loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::thread;

use aya::maps::{HashMap, Map, MapData};
use lb_common::Address;
use lb_common::flow::protocol;
use lb_common::maps::{FlowKey, Pin, names};
use lb_tests::balancer::{backend, https_check, service};
use lb_tests::bed::{VIP, VIP6};
use lb_tests::privilege::is_root_or_skips;
use lb_tests::stage::Stage;
use lb_tests::talk::{Talk, Talker, all_say};
use serde_json::Value;

/// Where talkers listen.
const TALK: [SocketAddr; 2] = [SocketAddr::new(VIP, 7000), SocketAddr::new(VIP6, 7000)];

/// Talkers on all web servers of a stage, and a balancer that serves them.
fn talking(name: &str) -> (Stage, Vec<Talker>) {
    let mut stage = Stage::new(name, 3);
    let all = stage.webs.iter().flat_map(|web| TALK.map(|to| Talker::start(web.node(), to)));
    let talkers = all.collect();
    stage.start(&file(&stage, &[1, 2, 3], ""));
    (stage, talkers)
}

/// A file with these web servers, and more to say about the service.
fn file(stage: &Stage, webs: &[usize], more: &str) -> String {
    let lines: Vec<_> = webs.iter().map(|number| backend(stage.web(*number), "")).collect();
    let listeners = TALK.map(|to| to.to_string());
    let web = service("web", &listeners, &https_check(&stage.authority), &lines);
    stage.balancer.preamble() + &web.replace("listen = [", &format!("{more}\nlisten = ["))
}

/// Has all connections say something, which must be answered.
#[track_caller]
fn say(talks: &mut [Talk]) {
    assert_eq!(all_say(talks), BTreeMap::new());
}

/// Flows as the list tells them: backend, kind and state by the client's end.
#[track_caller]
fn listed(stage: &Stage, arguments: &[&str]) -> BTreeMap<SocketAddr, [String; 3]> {
    let view = stage.balancer.lb_json(&[&["flows", "list"], arguments].concat());
    assert_eq!((&view["schema"], &view["truncated"]), (&"lb.flows/1".into(), &false.into()));
    let flows = view["flows"].as_array().expect("a list");
    assert_eq!(view["total"], flows.len());
    let mut listed = BTreeMap::new();
    for flow in flows {
        assert_eq!((&flow["service"], &flow["protocol"]), (&"web".into(), &"tcp".into()), "{flow}");
        let end = |field: &str| -> SocketAddr {
            flow[field].as_str().and_then(|text| text.parse().ok()).expect("an address")
        };
        assert!(TALK.contains(&end("destination")), "{flow}");
        assert!(flow["idle"].as_u64().expect("a number") < 60, "{flow}");
        let words = ["backend", "kind", "state"].map(|field| flow[field].as_str().expect("a word"));
        listed.insert(end("source"), words.map(str::to_owned));
    }
    listed
}

/// How many open flows a count has, by backend.
fn open_flows(count: &Value) -> BTreeMap<&str, u64> {
    let backends = count["services"][0]["backends"].as_array().into_iter().flatten();
    let of = |backend: &'static str| move |row: &Value| row[backend].as_u64().expect("a number");
    backends.map(|row| (row["backend"].as_str().expect("a name"), of("open")(row))).collect()
}

#[test]
fn remembered_flows_are_listed_and_counted_by_name() {
    if !is_root_or_skips("remembered_flows_are_listed_and_counted_by_name") {
        return;
    }
    let (stage, _talkers) = talking("flows");
    let client = stage.client.node().clone();
    let mut old = Talk::open_many(&client, &TALK, 60);
    say(&mut old);
    assert_eq!(listed(&stage, &[]), BTreeMap::new(), "while nothing changes");
    let said = stage.balancer.lb_ok(&["flows", "list"]);
    assert!(said.contains("no flows") && said.contains("not the number of connections"), "{said}");

    stage.balancer.lb_ok(&["drain", "web/web1"]);
    say(&mut old);
    let mut new = Talk::open_many(&client, &TALK, 60);
    say(&mut new);
    let flows = listed(&stage, &[]);
    let ends = |talks: &[Talk], server: &str| -> BTreeSet<SocketAddr> {
        talks.iter().filter(|talk| talk.server() == server).map(Talk::source).collect()
    };
    // All flows of the drained backend are remembered, and each has the name of its server.
    let drained = ends(&old, "web1");
    let told = listed(&stage, &["web/web1", "--kind", "base"]);
    assert_eq!(told.keys().copied().collect::<BTreeSet<_>>(), drained);
    let kinds = [(&old, "base"), (&new, "current")];
    for (talk, kind) in kinds.iter().flat_map(|(talks, kind)| talks.iter().map(move |t| (t, *kind)))
    {
        if let Some([backend, is, state]) = flows.get(&talk.source()) {
            assert_eq!(
                (backend.as_str(), is.as_str(), state.as_str()),
                (talk.server(), kind, "open")
            );
        }
    }
    let began = listed(&stage, &["web", "--kind", "current"]);
    assert!(
        !began.is_empty() && began.values().all(|[backend, ..]| backend != "web1"),
        "{began:?}"
    );
    let half = listed(&stage, &["--kind", "half-open"]);
    assert_eq!(half, BTreeMap::new(), "all connections were made");

    let count = stage.balancer.lb_json(&["flows", "count"]);
    assert_eq!(open_flows(&count)["web1"], drained.len() as u64);
    let total = &count["total"];
    let sums = [total["base"].as_u64(), total["current"].as_u64()].map(Option::unwrap_or_default);
    assert_eq!(sums, [flows.len() - began.len(), began.len()].map(|n| n as u64));
    let table = stage.balancer.lb_ok(&["flows", "count", "web/web1"]);
    assert!(table.contains("web1") && !table.contains("web2"), "{table}");
    assert!(table.contains("not the number of connections"), "{table}");

    // Of one address family, and of nobody.
    let v4: BTreeSet<_> = drained.iter().copied().filter(SocketAddr::is_ipv4).collect();
    let told = listed(&stage, &["web/web1", "--source", "10.9.0.0/24"]);
    assert_eq!(told.into_keys().collect::<BTreeSet<_>>(), v4);
    assert_eq!(listed(&stage, &["--source", "203.0.113.0/24"]), BTreeMap::new());
    let few = stage.balancer.lb_json(&["flows", "list", "--limit", "2"]);
    assert_eq!((&few["truncated"], &few["total"]), (&true.into(), &flows.len().into()));
    assert_eq!(few["flows"].as_array().map(Vec::len), Some(2));

    // The client ends a connection.
    let ended = old.iter().position(|talk| talk.server() == "web1").expect("some are");
    let source = old.remove(ended).source();
    let told = listed(&stage, &["web/web1"]);
    assert_eq!(told[&source], ["web1", "base", "closing"].map(str::to_owned));

    // A backend that is no longer in the file has an address only.
    stage.balancer.write_config(&file(&stage, &[1, 3], ""));
    stage.balancer.lb_ok(&["reload"]);
    say(&mut old);
    say(&mut new);
    let address = stage.web(2).ipv4().to_string();
    let told = listed(&stage, &[&format!("web/{address}")]);
    let gone: BTreeSet<_> = ends(&old, "web2").union(&ends(&new, "web2")).copied().collect();
    assert_eq!(told.keys().copied().collect::<BTreeSet<_>>(), gone);
    assert!(told.values().all(|[backend, ..]| *backend == address), "{told:?}");
    let table = stage.balancer.lb_ok(&["flows", "list"]);
    assert!(table.contains(&format!("{address} (leaving)")), "{table}");

    for (arguments, code, words) in [
        (&["flows", "list", "mail"][..], 3, "there is no service `mail`"),
        (&["flows", "count", "web/web9"], 3, "service web has no backend `web9`"),
        (&["flows", "list", "web/web2"], 3, "service web has no backend `web2`"),
        (&["flows", "list", "--source", "10.9.0.0/33"], 2, "`10.9.0.0/33` is no prefix"),
    ] {
        let answer = stage.balancer.lb(arguments);
        assert_eq!(answer.code, Some(code), "{arguments:?}: {answer:?}");
        assert!(answer.stderr.contains(words) && answer.stdout.is_empty(), "{answer:?}");
    }
}

/// What nothing but a real change may change: the configuration, and each backend's slots.
fn standing(stage: &Stage) -> (Value, Vec<Value>) {
    let status = stage.balancer.lb_json(&["status"]);
    let backends = status["services"][0]["backends"].as_array().expect("backends");
    let slots = backends.iter().map(|backend| backend["slots"].clone()).collect();
    (status["config"].clone(), slots)
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn a_file_does_what_its_preview_said() {
    if !is_root_or_skips("a_file_does_what_its_preview_said") {
        return;
    }
    let (stage, _talkers) = talking("preview");
    let client = stage.client.node().clone();
    let mut talks = Talk::open_many(&client, &TALK, 90);
    // They speak while their slots move, and are remembered; the slots come back.
    stage.balancer.lb_ok(&["drain", "web/web1"]);
    say(&mut talks);
    stage.balancer.lb_ok(&["enable", "web/web1"]);
    let own = talks.iter().filter(|talk| talk.server() == "web1").count() as u64;
    assert!(own > 0);
    let count = stage.balancer.lb_json(&["flows", "count"]);
    let before = standing(&stage);

    let two = file(&stage, &[2, 3], "");
    let other = stage.balancer.config().with_file_name("two.toml");
    std::fs::write(&other, &two).expect("written");
    let path = other.to_str().expect("a path of letters");
    let diff = stage.balancer.lb_json(&["diff", path]);
    assert_eq!((&diff["schema"], &diff["path"]), (&"lb.diff/1".into(), &path.into()));
    assert_eq!((&diff["changed"], &diff["grows"]), (&true.into(), &false.into()), "{diff:#}");
    assert_eq!(diff["changes"], serde_json::json!(["- web/web1"]));
    let web = &diff["services"][0];
    assert_eq!((&web["fate"], &web["keeps_flows"]), (&"stays".into(), &true.into()), "{diff:#}");
    let moved = number(&web["moved"]) as f64 / number(&web["slots"]) as f64;
    assert!((0.32..0.40).contains(&moved), "{moved} of the slots");
    assert_eq!(web["flows"], count["total"]["open"]);
    assert_eq!((number(&web["affected"]), number(&web["lost"])), (own, 0), "{diff:#}");
    let table = stage.balancer.lb_ok(&["diff", path]);
    for words in ["would change this:\n  - web/web1\n", "AFFECTED", "stay"] {
        assert!(table.contains(words), "{words} in:\n{table}");
    }
    assert_eq!(standing(&stage), before, "after a preview");

    // The daemon's own file.
    let same = stage.balancer.lb_ok(&["reload", "--dry-run"]);
    assert!(same.contains("runs already\n") && same.contains("\nno slot would move"), "{same}");
    stage.balancer.write_config(&two);
    let dry = stage.balancer.lb_json(&["reload", "--dry-run"]);
    for field in ["digest", "changes", "services"] {
        assert_eq!(dry[field], diff[field], "{field}");
    }
    assert_eq!(standing(&stage), before, "after a dry run");

    let real = stage.balancer.lb_json(&["reload"]);
    assert_eq!((&real["digest"], &real["changes"]), (&diff["digest"], &diff["changes"]));
    let status = stage.balancer.lb_json(&["status"]);
    assert_eq!(status["services"][0]["moving"], web["moved"]);
    say(&mut talks);
    let address = stage.web(1).ipv4().to_string();
    let left = stage.balancer.lb_json(&["flows", "count", &format!("web/{address}")]);
    assert_eq!(open_flows(&left), BTreeMap::from([(address.as_str(), own)]));

    // Other slots find other backends, and no file brings back what they lose.
    let anew = two.replace("[dataplane]", "[dataplane]\nslots = 4099");
    std::fs::write(&other, &anew).expect("written");
    let remembered = listed(&stage, &[]);
    let diff = stage.balancer.lb_json(&["diff", path]);
    let web = &diff["services"][0];
    assert_eq!((&web["keeps_flows"], number(&web["slots"])), (&false.into(), 4099), "{diff:#}");
    assert_eq!(number(&web["flows"]), remembered.len() as u64);
    stage.balancer.write_config(&anew);
    stage.balancer.lb_ok(&["reload"]);
    let broken = |talk: &mut Talk| talk.say().is_err() && remembered.contains_key(&talk.source());
    let broken = talks.iter_mut().filter_map(|talk| broken(talk).then_some(())).count() as u64;
    assert!(broken >= own, "{broken}");
    assert_eq!((number(&web["lost"]), number(&web["affected"])), (broken, 0), "{diff:#}");
}

#[test]
fn a_preview_tells_mistakes_and_what_would_be_refused_and_harms_nobody() {
    if !is_root_or_skips("a_preview_tells_mistakes_and_what_would_be_refused_and_harms_nobody") {
        return;
    }
    let (mut stage, _talkers) = talking("mistaken");
    let client = stage.client.node().clone();
    let mut talks = Talk::open_many(&client, &TALK, 10);
    let before = standing(&stage);
    let other: PathBuf = stage.balancer.config().with_file_name("other.toml");
    let path = other.to_str().expect("a path of letters");

    let broken = file(&stage, &[1, 2, 3], "bogus = 1");
    stage.balancer.write_config(&broken);
    std::fs::write(&other, &broken).expect("written");
    for (arguments, name) in [(&["reload", "--dry-run"][..], "lb.toml:"), (&["diff", path], path)] {
        let answer = stage.balancer.lb(arguments);
        assert_eq!((answer.code, answer.stdout.as_str()), (Some(6), ""), "{answer:?}");
        for words in ["bogus", name, "lb: the file would be refused"] {
            assert!(answer.stderr.contains(words), "{words} in {answer:?}");
        }
    }
    assert_eq!(standing(&stage), before, "a dry run is no reload that was refused");

    let elsewhere = file(&stage, &[1, 2, 3], "").replace("/state\"", "/elsewhere\"");
    std::fs::write(&other, &elsewhere).expect("written");
    let told = stage.balancer.lb_ok(&["diff", path]);
    assert!(told.contains("WOULD BE REFUSED: dataplane.state-dir cannot change"), "{told}");
    let diff = stage.balancer.lb_json(&["diff", path]);
    assert_eq!(diff["fixed"], serde_json::json!(["dataplane.state-dir"]));

    // A server that nobody has checked yet takes its share later, if all is well.
    let four = file(&stage, &[1, 2, 3], "") + "web4 = { address = \"10.9.0.99\" }\n";
    std::fs::write(&other, &four).expect("written");
    let diff = stage.balancer.lb_json(&["diff", path]);
    let web = &diff["services"][0];
    let later = number(&web["moved_later"]) as f64 / number(&web["slots"]) as f64;
    assert!(web["moved"] == 0 && (0.24..0.30).contains(&later), "{diff:#}");
    let missing = stage.balancer.lb(&["diff", "/nowhere.toml"]);
    assert_eq!(missing.code, Some(1), "{missing:?}");
    assert!(missing.stderr.contains("failed to read /nowhere.toml"), "{missing:?}");

    assert_eq!(standing(&stage), before);
    assert!(stage.balancer.is_alive());
    say(&mut talks);
}

#[test]
fn virtual_addresses_are_answered_for_while_many_flows_are_gone_through() {
    if !is_root_or_skips("virtual_addresses_are_answered_for_while_many_flows_are_gone_through") {
        return;
    }
    /// Of either kind.
    const FLOWS: u32 = 400_000;
    let (stage, _talkers) = talking("many");
    let port = |port: u16| u32::from(port.swap_bytes());
    for name in [names::PINS_BASE, names::PINS_CURRENT] {
        let path = stage.balancer.pins().join("maps-v3-0").join(name);
        let map = MapData::from_pin(&path).expect("the pins are pinned");
        let mut map: HashMap<_, FlowKey, Pin> =
            HashMap::try_from(Map::LruHashMap(map)).expect("pins in a hash map");
        for n in 0..FLOWS {
            let source = IpAddr::from(Ipv4Addr::from(0x0b00_0000 | n >> 8));
            let key = FlowKey {
                source: Address::from(source),
                destination: Address::from(VIP),
                ports: port(10_000 + (n & 0xff) as u16) | port(7000) << 16,
                // The only service is the first one.
                protocol_and_service: 1 << 8 | u32::from(protocol::TCP),
            };
            let pin = Pin { backend: 1 + (n % 3) as u16, flags: 0, seen: 0 };
            map.insert(key, pin, 0).expect("there is room");
        }
    }
    let silences = thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let view = stage.balancer.lb_json(&["flows", "list"]);
            assert_eq!(view["flows"].as_array().map(Vec::len), Some(1000));
            assert_eq!((&view["total"], &view["truncated"]), (&(2 * FLOWS).into(), &true.into()));
            let count = stage.balancer.lb_json(&["flows", "count", "--source", "11.0.0.0/24"]);
            assert_eq!(count["total"]["base"], 0x1_0000);
            let path = stage.balancer.config();
            let diff = stage.balancer.lb_json(&["diff", path.to_str().expect("letters")]);
            assert_eq!(diff["services"][0]["flows"], 2 * FLOWS);
        });
        let mut silences = 0;
        while !asked.is_finished() {
            // The lease is one second.
            silences += u32::from(stage.client.node().resolve(VIP, "eth0").is_none());
        }
        asked.join().expect("all was answered");
        silences
    });
    assert_eq!(silences, 0);
}
