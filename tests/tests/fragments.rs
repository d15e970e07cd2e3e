//! Datagrams that come in fragments: whole at the backend of their flow, or not at all.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use lb_common::builder::{Packet, fragments};
use lb_tests::balancer::{backend, https_check, service};
use lb_tests::bed::{VIP, VIP6};
use lb_tests::echo::{Echo, numbered};
use lb_tests::node::Node;
use lb_tests::privilege::is_root_or_skips;
use lb_tests::stage::Stage;
use lb_userspace::net::raw::Raw;

/// Where datagrams are sent back.
const ECHO: [SocketAddr; 2] = [SocketAddr::new(VIP, 7000), SocketAddr::new(VIP6, 7000)];
/// Three fragments, on a cable that takes 1500 bytes.
const LENGTH: usize = 4_000;

/// Servers on all web servers of a stage, and a balancer that serves them.
fn echoing(name: &str) -> (Stage, Vec<Echo>) {
    let mut stage = Stage::new(name, 3);
    let all = stage.webs.iter().flat_map(|web| ECHO.map(|to| Echo::back(web.node(), to)));
    let servers = all.collect();
    let lines: Vec<_> = stage.webs.iter().map(|web| backend(web.node(), "")).collect();
    let listeners = ECHO.map(|to| format!("{to}/udp"));
    let web = service("web", &listeners, &https_check(&stage.authority), &lines);
    let config = stage.balancer.preamble() + &web;
    stage.start(&config);
    (stage, servers)
}

/// A socket of a node; it waits a second for what comes.
#[track_caller]
fn socket(node: &Node, to: SocketAddr) -> UdpSocket {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = node.enter(|| {
        let socket = UdpSocket::bind((any, 0)).expect("failed to bind for UDP");
        socket.connect(to).expect("failed to connect for UDP");
        socket
    });
    socket.set_read_timeout(Some(Duration::from_secs(1))).expect("failed to limit waiting");
    socket
}

/// Who sent this back; `None` if nobody did.
#[track_caller]
fn answer(socket: &UdpSocket, sent: &[u8]) -> Option<String> {
    let mut answer = vec![0; 65_535];
    let length = socket.recv(&mut answer).ok()?;
    let blank = answer.iter().position(|byte| *byte == b' ').expect("a name");
    assert!(answer[blank + 1..length] == *sent, "something else came back");
    Some(String::from_utf8_lossy(&answer[..blank]).into_owned())
}

/// Sends each socket's datagram, and tells who sent it back.
#[track_caller]
fn ask(sockets: &[UdpSocket]) -> Vec<String> {
    let datagram = numbered(LENGTH);
    let ask = |socket: &UdpSocket| {
        socket.send(&datagram).expect("failed to send a datagram");
        answer(socket, &datagram).unwrap_or_else(|| "nobody".to_owned())
    };
    sockets.iter().map(ask).collect()
}

/// Frames that were dropped, by reason.
#[track_caller]
fn drops(stage: &Stage) -> BTreeMap<String, u64> {
    let status = stage.balancer.lb_json(&["status"]);
    let verdicts = status["verdicts"].as_array().expect("a list of verdicts").iter();
    let dropped = verdicts.filter(|verdict| verdict["action"] == "drop");
    let count = |verdict: &serde_json::Value| {
        let reason = verdict["reason"].as_str().expect("a reason").to_owned();
        (reason, verdict["packets"].as_u64().expect("a number"))
    };
    dropped.map(count).collect()
}

#[test]
fn large_datagrams_go_where_their_flow_is_through_a_drain() {
    if !is_root_or_skips("large_datagrams_go_where_their_flow_is_through_a_drain") {
        return;
    }
    let (stage, _servers) = echoing("fragments");
    let client = stage.client.node();
    let open = || ECHO.iter().cycle().take(60).map(|to| socket(client, *to)).collect::<Vec<_>>();
    let old = open();
    let first = ask(&old);
    let by = |answers: &[String], name: &str| answers.iter().filter(|a| *a == name).count();
    for web in ["web1", "web2", "web3"] {
        assert!(by(&first, web) > 0, "{web} answered none of {first:?}");
    }
    assert_eq!(ask(&old), first, "while nothing changes");

    stage.balancer.lb_ok(&["drain", "web/web1"]);
    assert_eq!(ask(&old), first, "while web1 drains");
    let new = ask(&open());
    assert_eq!((by(&new, "web1"), by(&new, "nobody")), (0, 0), "{new:?}");
    stage.balancer.lb_ok(&["enable", "web/web1"]);
    assert_eq!(ask(&old), first, "when web1 is back");
    assert_eq!(drops(&stage), BTreeMap::new());
}

#[test]
fn fragments_before_their_first_one_are_dropped_and_any_order_after_it_is_good() {
    if !is_root_or_skips(
        "fragments_before_their_first_one_are_dropped_and_any_order_after_it_is_good",
    ) {
        return;
    }
    let (stage, _servers) = echoing("fragments in disorder");
    let client = stage.client.node();
    let raw = client.enter(Raw::open);
    let payload = numbered(LENGTH);
    for to in ECHO {
        let socket = socket(client, to);
        let from = socket.local_addr().expect("a socket has an address");
        let datagram = Packet::udp(from, to).payload(&payload).build();
        let send = |identification: u32, order: [usize; 3]| {
            let parts = fragments(&datagram, identification, &[1_400, 2_800]);
            for part in order {
                // Behind the link layer.
                raw.send(&parts[part][14..], to.ip()).expect("failed to send a fragment");
            }
        };
        send(0x1111, [0, 2, 1]);
        let server = answer(&socket, &payload);
        assert!(server.is_some(), "{to}: in disorder");
        let before = drops(&stage);
        send(0x2222, [2, 1, 0]);
        assert_eq!(answer(&socket, &payload), None, "{to}: backwards");
        let unknown = |drops: &BTreeMap<String, u64>| drops.get("fragment-unknown").copied();
        let after = drops(&stage);
        assert_eq!(unknown(&after), Some(unknown(&before).unwrap_or(0) + 2), "{to}: {after:?}");
        // What came then is sent once more, as its sender does.
        send(0x3333, [0, 1, 2]);
        assert_eq!(answer(&socket, &payload), server, "{to}: in order");
    }
}
