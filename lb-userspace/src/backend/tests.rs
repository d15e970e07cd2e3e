//! From what is wanted and what is found to what is changed, and back.

use super::record::{Record, Store};
use super::*;
use crate::config::XdpMode;
use crate::prefix::Prefix;
use std::path::Path;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn settings(interfaces: &[&str], from: &[&str]) -> decap::Settings {
    decap::Settings {
        interfaces: interfaces.iter().map(|name| (*name).to_owned()).collect(),
        from: from.iter().map(|text| text.parse::<Prefix>().unwrap()).collect(),
        mode: XdpMode::Auto,
    }
}

fn wanted(vips: &[&str], decap: Option<decap::Settings>) -> Wanted {
    Wanted { vips: vips.iter().map(|text| address(text)).collect(), decap }
}

/// A host as distributions make them.
fn fresh() -> Found {
    let values = [
        ("net.ipv4.conf.all.arp_ignore", "0"),
        ("net.ipv4.conf.all.arp_announce", "0"),
        ("net.ipv4.conf.all.rp_filter", "2"),
        ("net.ipv4.conf.eth0.rp_filter", "0"),
        ("net.ipv4.conf.eth0/10.rp_filter", "1"),
    ];
    Found {
        loopback: [address("127.0.0.1"), address("::1")].into(),
        sysctls: values.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..Found::default()
    }
}

/// The host after the changes.
fn after(mut found: Found, changes: &[Change]) -> Found {
    for change in changes {
        match change {
            Change::AddAddress(vip) => assert!(found.loopback.insert(*vip), "{change}"),
            Change::RemoveAddress(vip) => assert!(found.loopback.remove(vip), "{change}"),
            Change::Sysctl { name, from, to } => {
                let was = found.sysctls.insert(name.clone(), to.clone());
                assert_eq!(was.as_ref(), Some(from), "{change}");
            }
            Change::Decap { from, to } => {
                assert_eq!(&found.decap, from, "{change}");
                found.decap.clone_from(to);
            }
        }
    }
    found
}

fn words(changes: &[Change]) -> Vec<String> {
    changes.iter().map(Change::to_string).collect()
}

#[test]
fn a_host_on_the_segment_gets_the_vips_and_keeps_quiet_about_them_first() {
    let changes = plan(&wanted(&["192.0.2.100", "2001:db8::100"], None), &fresh());
    let expected = [
        "~ net.ipv4.conf.all.arp_ignore 0 -> 1",
        "~ net.ipv4.conf.all.arp_announce 0 -> 2",
        "+ 192.0.2.100/32 on lo",
        "+ 2001:db8::100/128 on lo",
    ];
    assert_eq!(words(&changes), expected);
}

#[test]
fn a_tunnel_needs_its_end_and_no_filter_of_sources() {
    let tunnel = settings(&["eth0", "eth0.10"], &["10.9.0.11", "fd09::/64"]);
    let changes = plan(&wanted(&["192.0.2.100"], Some(tunnel)), &fresh());
    let expected = [
        "~ net.ipv4.conf.all.arp_ignore 0 -> 1",
        "~ net.ipv4.conf.all.arp_announce 0 -> 2",
        "~ net.ipv4.conf.all.rp_filter 2 -> 0",
        "~ net.ipv4.conf.eth0/10.rp_filter 1 -> 0",
        "+ 192.0.2.100/32 on lo",
        "+ decapsulation on eth0, eth0.10 from 10.9.0.11/32, fd09::/64",
    ];
    assert_eq!(words(&changes), expected);
}

#[test]
fn ipv6_alone_changes_no_parameter() {
    let tunnel = settings(&["eth0"], &["fd09::/64"]);
    let changes = plan(&wanted(&["2001:db8::100"], Some(tunnel)), &fresh());
    let expected = ["+ 2001:db8::100/128 on lo", "+ decapsulation on eth0 from fd09::/64"];
    assert_eq!(words(&changes), expected);
}

#[test]
fn a_second_run_has_nothing_to_do() {
    let tunnel = settings(&["eth0"], &["10.9.0.11"]);
    for wanted in [wanted(&["192.0.2.100"], None), wanted(&["192.0.2.100"], Some(tunnel))] {
        let changes = plan(&wanted, &fresh());
        assert_eq!(plan(&wanted, &after(fresh(), &changes)), []);
    }
}

#[test]
fn a_stricter_value_stays() {
    let mut found = fresh();
    found.sysctls.insert("net.ipv4.conf.all.arp_ignore".to_owned(), "2".to_owned());
    let changes = words(&plan(&wanted(&["192.0.2.100"], None), &found));
    assert!(!changes.iter().any(|change| change.contains("arp_ignore")), "{changes:?}");
}

#[test]
fn an_undo_puts_everything_back_in_reverse() {
    let earlier = settings(&["eth1"], &["10.0.0.0/8"]);
    for decap in [None, Some(earlier)] {
        let before = Found { decap, ..fresh() };
        let tunnel = settings(&["eth0"], &["10.9.0.11"]);
        let first = plan(&wanted(&["192.0.2.100"], Some(tunnel)), &before);
        let mut record = Record::new(Path::new("/pins"));
        record.add(&first);
        let found = after(before.clone(), &first);
        // Another set-up on top, with one more VIP and other balancers.
        let tunnel = settings(&["eth0"], &["10.9.0.12"]);
        let second = plan(&wanted(&["192.0.2.101", "192.0.2.100"], Some(tunnel)), &found);
        assert_eq!(second.len(), 2, "{second:?}");
        record.add(&second);
        let found = after(found, &second);

        let (changes, kept) = record.undo(&found);
        assert_eq!(kept, [""; 0]);
        assert!(matches!(changes[0], Change::Decap { .. }), "{changes:?}");
        assert_eq!(after(found, &changes), before);
        // And once more: what is back needs nothing.
        assert_eq!(record.undo(&before), (Vec::new(), Vec::new()));
    }
}

#[test]
fn what_somebody_changed_since_then_stays() {
    let tunnel = settings(&["eth0"], &["10.9.0.11"]);
    let changes = plan(&wanted(&["192.0.2.100"], Some(tunnel)), &fresh());
    let mut record = Record::new(Path::new("/pins"));
    record.add(&changes);
    let mut found = after(fresh(), &changes);
    found.loopback.remove(&address("192.0.2.100"));
    found.sysctls.insert("net.ipv4.conf.all.rp_filter".to_owned(), "1".to_owned());
    found.sysctls.remove("net.ipv4.conf.all.arp_ignore");
    found.decap = Some(settings(&["eth0"], &["10.9.0.99"]));
    let (changes, kept) = record.undo(&found);
    assert_eq!(words(&changes), ["~ net.ipv4.conf.all.arp_announce 2 -> 0"]);
    let expected = [
        "decapsulation on eth0 from 10.9.0.99/32 is not what was set up: it stays",
        "net.ipv4.conf.all.rp_filter is 1, not the 0 that was set up: it stays",
    ];
    assert_eq!(kept, expected);
}

#[test]
fn a_record_is_read_as_it_was_written_and_never_guessed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(&dir.path().join("state"));
    assert_eq!(store.load().unwrap(), None);
    let tunnel = settings(&["eth0"], &["10.9.0.11", "fd09::/64"]);
    let mut record = Record::new(Path::new("/pins"));
    record.add(&plan(&wanted(&["192.0.2.100", "2001:db8::1"], Some(tunnel)), &fresh()));
    store.save(&record).unwrap();
    assert_eq!(store.load().unwrap(), Some(record));
    let path = dir.path().join("state/backend.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("record/1", "record/9")).unwrap();
    let error = format!("{:#}", store.load().unwrap_err());
    assert!(error.contains("this version reads \"lb.backend-record/1\""), "{error}");
    std::fs::write(&path, "{}").unwrap();
    assert!(format!("{:#}", store.load().unwrap_err()).contains("is corrupt"));
    store.remove().unwrap();
    assert_eq!(store.load().unwrap(), None);
}

#[test]
fn a_vip_that_is_answered_for_is_told() {
    let mut found = fresh();
    found.elsewhere.insert(address("192.0.2.100"), "eth0".to_owned());
    let told = warnings(&wanted(&["192.0.2.100", "192.0.2.101"], None), &found);
    assert_eq!(told, ["192.0.2.100 is on eth0 too, where this host answers for it"]);
}

#[test]
fn the_sizes_of_packets_are_worked_out() {
    let tunnel = |from: &[&str]| Some(settings(&["eth0"], from));
    let mtus = |mtu| BTreeMap::from([("eth0".to_owned(), mtu)]);
    let both = wanted(&["192.0.2.100", "2001:db8::100"], tunnel(&["10.9.0.11"]));
    let lines = advice(Mode::Ipip, &both, &mtus(1_500));
    let expected = [
        "mtu: ipip over IPv4 adds 20 bytes: packets of 1500 become 1520, eth0 takes 1500",
        "mtu: raise it on eth0 and all between the balancer and this host, or have clients send \
         less:",
        "mtu:   ip route change default ... advmss 1440",
        "mtu:   ip -6 route change default ... advmss 1420",
    ];
    assert_eq!(lines, expected);
    let v6 = wanted(&["192.0.2.100"], tunnel(&["fd09::/64"]));
    let lines = advice(Mode::Gue, &v6, &mtus(1_500));
    assert!(lines[0].contains("gue over IPv6 adds 48 bytes: packets of 1500 become 1548"));
    assert!(lines[2].ends_with("advmss 1412"), "{lines:?}");
    let lines = advice(Mode::Gue, &v6, &mtus(9_000));
    assert_eq!(lines.len(), 2);
    assert!(lines[1].contains("that fits"), "{lines:?}");
    assert_eq!(advice(Mode::L2, &wanted(&["192.0.2.100"], None), &mtus(1_500)), [""; 0]);
}
