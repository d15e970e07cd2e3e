//! Web servers behind tunnels: the whole balancer, with what a backend needs on the other end.

use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::thread;

use lb_tests::balancer::{https_check, listener, service};
use lb_tests::bed::{VIP, VIP6, artefact};
use lb_tests::echo::Echo;
use lb_tests::node::Node;
use lb_tests::privilege::is_root_or_skips;
use lb_tests::stage::{PATIENCE, Stage, assert_answered_by};

/// Bytes of an upload: full-size packets, of which none fits into a tunnel before the client has
/// been told.
const UPLOAD: usize = 20_000_000;
/// Bytes of the download.
const DOWNLOAD: usize = 100_000_000;
/// Where it is to be had.
const PORT: u16 = 7_080;

/// `lb decap` on a web server's host.
#[track_caller]
fn decap(stage: &Stage, node: &Node, more: &[&str]) -> String {
    let pins = stage.bed.bpf_directory(node).join("lb-decap");
    let output = node
        .command(&artefact("LB_BIN", "target/debug/lb").to_string_lossy())
        .arg("decap")
        .args(more)
        .arg("--pin-dir")
        .arg(pins)
        .stdin(Stdio::null())
        .output()
        .expect("failed to start lb");
    assert!(output.status.success(), "lb decap {more:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Packets that were taken out of their tunnels, of all kinds.
fn taken_off(stage: &Stage, node: &Node) -> u64 {
    let json = decap(stage, node, &["--status", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("lb speaks JSON");
    let outcomes = json["outcomes"].as_array().into_iter().flatten();
    let off = outcomes.filter(|outcome| outcome["action"] == "unwrap");
    off.filter_map(|outcome| outcome["packets"].as_u64()).sum()
}

/// The web service, in tunnels of a kind to addresses of a family.
fn config(stage: &Stage, forward: &str, address: fn(&Node) -> IpAddr) -> String {
    let listeners = [(VIP, 80), (VIP, 443), (VIP6, 80), (VIP6, 443), (VIP, PORT), (VIP6, PORT)];
    let listeners = listeners.map(|(vip, port)| listener(vip, port));
    let line = |node: &Node| format!("{} = {{ address = \"{}\" }}", node.name(), address(node));
    let lines: Vec<_> = stage.webs.iter().map(|web| line(web.node())).collect();
    let text = service("web", &listeners, &https_check(&stage.authority), &lines);
    let text = text.replace("listen = [", &format!("forward = \"{forward}\"\nlisten = ["));
    stage.balancer.preamble() + &text
}

#[test]
fn web_servers_are_reached_in_tunnels_of_every_kind_and_uploads_find_their_size() {
    if !is_root_or_skips(
        "web_servers_are_reached_in_tunnels_of_every_kind_and_uploads_find_their_size",
    ) {
        return;
    }
    let mut stage = Stage::of_hosts("tunnels", 2);
    for web in &stage.webs {
        let lb1 = stage.balancer.node();
        let (v4, v6) = (lb1.ipv4().to_string(), lb1.ipv6().to_string());
        decap(&stage, web.node(), &["--interface", "eth0", "--from", &v4, "--from", &v6]);
    }
    let v4: fn(&Node) -> IpAddr = |node| node.ipv4().into();
    let v6: fn(&Node) -> IpAddr = |node| node.ipv6().into();
    let ways = [("ipip", v4), ("gue", v4), ("ipip", v6), ("gue", v6)];
    stage.start(&config(&stage, ways[0].0, ways[0].1));
    for (forward, address) in ways {
        stage.reload(&config(&stage, forward, address));
        stage.wait_for("serving", &stage.webs.iter().collect::<Vec<_>>());
        let off = |stage: &Stage| -> Vec<u64> {
            stage.webs.iter().map(|web| taken_off(stage, web.node())).collect()
        };
        let before = off(&stage);
        for vip in [VIP, VIP6] {
            assert_answered_by(&stage.client.get(vip, 40), &["web1", "web2"]);
            // What was learnt of the last tunnel's size is not to help.
            stage.client.node().ip("route flush cache");
            stage.client.node().ip("-6 route flush cache");
            let told = stage.verdicts("answer", "too-big");
            let tally = stage.client.upload(vip, UPLOAD);
            assert_eq!((tally.total(), tally.failures.len()), (1, 0), "{forward}: {tally:?}");
            assert!(stage.verdicts("answer", "too-big") > told, "{forward} to {vip}");
        }
        let after = off(&stage);
        assert!(before.iter().zip(&after).all(|(before, after)| before < after), "{forward}");
        for web in &stage.webs {
            let name = web.node().name();
            assert_eq!(web.node().counter("Tcp", "InCsumErrors"), 0, "{forward} to {name}");
        }
        assert_eq!(stage.verdicts("drop", "no-room"), 0, "{forward}");
    }
}

#[test]
fn a_hundred_megabytes_come_back_whole_and_a_restart_does_not_stop_them() {
    if !is_root_or_skips("a_hundred_megabytes_come_back_whole_and_a_restart_does_not_stop_them") {
        return;
    }
    let mut stage = Stage::of_hosts("download", 2);
    let mut servers = Vec::new();
    for web in &stage.webs {
        let lb1 = stage.balancer.node().ipv6().to_string();
        decap(&stage, web.node(), &["--interface", "eth0", "--from", &lb1]);
        servers.extend(
            [VIP, VIP6].map(|vip| Echo::download(web.node(), SocketAddr::new(vip, PORT), DOWNLOAD)),
        );
    }
    stage.start(&config(&stage, "gue", |node| node.ipv6().into()));
    for vip in [VIP, VIP6] {
        let client = stage.client.node().clone();
        let address = SocketAddr::new(vip, PORT);
        let download = thread::spawn(move || Echo::fetch(&client, address, DOWNLOAD));
        stage.balancer.kill();
        stage.balancer.start();
        let server = download.join().expect("the download failed");
        assert!(server.starts_with("web"), "{server}");
    }
    stage.balancer.wait_for_state("web/web1", "serving", PATIENCE);
}
