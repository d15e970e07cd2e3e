//! ICMP errors about what backends have sent: whoever sent it is told.

use std::net::{IpAddr, SocketAddr};

use lb_tests::balancer::{backend, https_check, service};
use lb_tests::bed::{VIP, VIP6};
use lb_tests::echo::Echo;
use lb_tests::node::Node;
use lb_tests::privilege::is_root_or_skips;
use lb_tests::stage::Stage;

/// Where the downloads are.
const FILES: [SocketAddr; 2] = [SocketAddr::new(VIP, 7000), SocketAddr::new(VIP6, 7000)];
/// How long they are.
const LENGTH: usize = 20_000_000;
/// What the cable to the client takes.
const NARROW: u16 = 1_300;

/// Whether a node has been told how much the way to an address takes.
#[track_caller]
fn knows_narrow_way(node: &Node, to: IpAddr) -> bool {
    let family = if to.is_ipv4() { "-4" } else { "-6" };
    node.ip(&format!("{family} route get {to}")).contains(&format!("mtu {NARROW}"))
}

#[test]
fn a_backend_learns_from_a_router_that_its_packets_are_too_big() {
    if !is_root_or_skips("a_backend_learns_from_a_router_that_its_packets_are_too_big") {
        return;
    }
    let mut stage = Stage::new("path MTU", 3);
    let router = stage.bed.node("router", 30);
    let client = stage.bed.behind(&router, "far", 40, NARROW);
    let mut servers = Vec::new();
    for web in &stage.webs {
        stage.bed.route_behind(web.node(), &router);
        servers.extend(FILES.map(|address| Echo::download(web.node(), address, LENGTH)));
    }
    let lines: Vec<_> = stage.webs.iter().map(|web| backend(web.node(), "")).collect();
    let listeners = FILES.map(|address| address.to_string());
    let web = service("web", &listeners, &https_check(&stage.authority), &lines);
    stage.start(&(stage.balancer.preamble() + &web));

    for (from, far) in [(FILES[0], client.far_ipv4().into()), (FILES[1], client.far_ipv6().into())]
    {
        let name = Echo::fetch(&client, from, LENGTH);
        let told: Vec<_> = stage.webs.iter().map(|web| web.node()).collect();
        let told = told.into_iter().filter(|node| knows_narrow_way(node, far));
        let told: Vec<_> = told.map(|node| node.name().to_owned()).collect();
        assert_eq!(told, [name], "who was told about {far}");
    }
    let status = stage.balancer.lb_json(&["status"]);
    let verdicts = status["verdicts"].as_array().expect("a list of verdicts");
    assert!(verdicts.iter().all(|verdict| verdict["action"] != "drop"), "{status:#}");
}
