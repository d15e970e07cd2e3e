//! Virtual addresses inside VLANs, which the balancer's host itself knows nothing of.

use std::net::{IpAddr, SocketAddr};

use lb_tests::balancer::{backend, https_check, listener, service};
use lb_tests::flows::ask_from;
use lb_tests::privilege::is_root_or_skips;
use lb_tests::stage::{Stage, assert_answered_by};
use lb_tests::vlan::{Tag, Tagged};

#[test]
fn services_are_reached_through_one_and_two_vlan_tags() {
    if !is_root_or_skips("services_are_reached_through_one_and_two_vlan_tags") {
        return;
    }
    // Interface, its tags, and the middle of the addresses in that network.
    let networks = [
        ("vlan10", vec![Tag::customer(10)], 10),
        ("qinq", vec![Tag::provider(200), Tag::customer(7)], 207),
    ];
    let vips = |network: u8| -> [IpAddr; 2] {
        let parse = |text: String| text.parse().expect("an address");
        [parse(format!("10.10.{network}.100")), parse(format!("fd10:{network}::100"))]
    };
    let all: Vec<IpAddr> = networks.iter().flat_map(|(.., network)| vips(*network)).collect();
    let mut stage = Stage::with_vips("VLANs", 2, &all);
    let hosts = [(stage.client.node(), 10), (stage.web(1), 21), (stage.web(2), 22)];
    let mut interfaces = Vec::new();
    for (name, tags, network) in &networks {
        for (node, host) in hosts {
            interfaces.push(Tagged::new(node, name, tags));
            node.ip(&format!("addr add 10.10.{network}.{host}/24 dev {name}"));
            node.ip(&format!("addr add fd10:{network}::{host}/64 dev {name} nodad"));
        }
    }
    // The backends are known by their untagged addresses: tags stay as they are, so what counts
    // is that the hardware address is the same in every VLAN.
    let lines: Vec<_> = stage.webs.iter().map(|web| backend(web.node(), "")).collect();
    let listeners: Vec<_> =
        all.iter().flat_map(|vip| [80, 443].map(|port| listener(*vip, port))).collect();
    let web = service("web", &listeners, &https_check(&stage.authority), &lines);
    stage.start(&(stage.balancer.preamble() + &web));

    let client = stage.client.node();
    for (name, _, network) in &networks {
        for vip in vips(*network) {
            // The answer came tagged, or it would not have come by this interface.
            let answered = client.resolve(vip, name);
            assert_eq!(answered, Some(stage.balancer.node().mac()), "{vip} in {name}");
            assert!(client.pings(vip), "{vip} in {name}");
            assert_answered_by(&stage.client.get(vip, 40), &["web1", "web2"]);
            let tally = stage.client.upload(vip, 1_000_000);
            assert_eq!((tally.total(), &tally.failures[..]), (1, &[][..]), "{vip}: {tally:?}");
            let to = SocketAddr::new(vip, 80);
            let answers = ask_from(client, 10_000..10_020, to);
            assert!(answers.iter().all(|(_, answer)| answer.is_ok()), "{to}: {answers:?}");
            // The same flow without its tags has the same home.
            for (port, answer) in &answers {
                let own = match vip {
                    IpAddr::V4(_) => format!("10.10.{network}.10:{port}"),
                    IpAddr::V6(_) => format!("[fd10:{network}::10]:{port}"),
                };
                let view = stage.balancer.lb_json(&["explain", &format!("tcp {own} > {to}")]);
                let home = answer.as_ref().map(|server| format!("web/{server}"));
                assert_eq!(view["backend"]["id"].as_str(), home.as_deref().ok(), "{own} > {to}");
            }
        }
    }
    for web in &stage.webs {
        assert_eq!(web.node().counter("Tcp", "InCsumErrors"), 0, "{}", web.node().name());
    }
}
