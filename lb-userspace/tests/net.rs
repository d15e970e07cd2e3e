//! The network monitor against the kernel: every test makes two network namespaces of its own,
//! joined by a veth pair, and removes them at its end. Needs root and iproute2.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeSet;
use std::fs::File;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lb_common::Mac;
use lb_userspace::net::{Monitor, link_by_name};
use lb_userspace::state::{Event, Link, NextHop};
use nix::sched::{CloneFlags, setns};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};

/// Long enough for the slowest of the kernel's timers that a test waits for, and more.
const PATIENCE: Duration = Duration::from_secs(30);
const BACKEND_V4: &str = "192.0.2.21";
const BACKEND_V6: &str = "2001:db8::21";

/// Two hosts on one segment: `ours` with eth0 192.0.2.11 and 2001:db8::11, and `theirs`, the
/// backend, with eth0 192.0.2.21 and 2001:db8::21. Goes with its namespaces when dropped.
struct Bed {
    ours: String,
    theirs: String,
}

impl Bed {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            println!("this test makes network namespaces: run it as root (`cargo xtask test`)");
            panic!("not root: network namespaces cannot be made");
        }
        let prefix =
            format!("lbnet{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let bed = Self { ours: format!("{prefix}-a"), theirs: format!("{prefix}-b") };
        ip(&format!("netns add {}", bed.ours));
        ip(&format!("netns add {}", bed.theirs));
        ip(&format!(
            "-n {} link add eth0 address 02:00:00:00:00:11 type veth \
             peer name eth0 netns {} address 02:00:00:00:00:21",
            bed.ours, bed.theirs
        ));
        for (command, v4, v6) in [
            (Self::us as fn(&Self, &str), "192.0.2.11", "2001:db8::11"),
            (Self::them, BACKEND_V4, BACKEND_V6),
        ] {
            command(&bed, &format!("addr add {v4}/24 dev eth0"));
            command(&bed, &format!("addr add {v6}/64 dev eth0 nodad"));
            command(&bed, "link set eth0 up");
        }
        bed
    }

    /// Runs `ip` here.
    fn us(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.ours));
    }

    /// Runs `ip` at the backend.
    fn them(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.theirs));
    }

    /// Runs a story in our namespace: on a thread and a runtime of its own, for a thread of a
    /// shared pool would carry the namespace to other tests.
    fn run<F: Future<Output = ()>>(&self, story: impl FnOnce() -> F + Send) {
        std::thread::scope(|scope| {
            let story = scope.spawn(|| {
                let namespace = File::open(Path::new("/run/netns").join(&self.ours)).unwrap();
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(story());
            });
            if let Err(panic) = story.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for name in [&self.ours, &self.theirs] {
            // It may not have come to be, and a panic here would hide the test's own.
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {errors}");
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A monitor, and what it told.
struct Watched {
    monitor: Monitor,
    targets: watch::Sender<BTreeSet<IpAddr>>,
    events: mpsc::Receiver<Event>,
}

impl Watched {
    async fn start(addresses: &[&str]) -> Self {
        let addresses = addresses.iter().map(|text| address(text)).collect();
        let (targets, receiver) = watch::channel(addresses);
        let (sender, events) = mpsc::channel(1_000);
        let monitor = Monitor::start(receiver, sender).await.unwrap();
        Self { monitor, targets, events }
    }

    /// Waits for an event that `wanted` finds something in; fails with all others that came.
    async fn until<T>(&mut self, what: &str, wanted: impl Fn(&Event) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut others = Vec::new();
        loop {
            match timeout_at(deadline, self.events.recv()).await {
                Ok(Some(event)) => match wanted(&event) {
                    Some(found) => return found,
                    None => others.push(event),
                },
                Ok(None) => panic!("the monitor is gone; waited for {what}, saw {others:#?}"),
                Err(_) => panic!("waited {PATIENCE:?} for {what}, saw {others:#?}"),
            }
        }
    }

    /// Waits until an address is resolved; gives its hardware address.
    async fn resolved(&mut self, of: &str) -> Mac {
        let hop = self
            .until(&format!("{of} to be resolved"), |event| match event {
                Event::NextHop { address: told, hop: NextHop::Resolved { .. } }
                    if *told == address(of) =>
                {
                    let Event::NextHop { hop, .. } = event.clone() else { unreachable!() };
                    Some(hop)
                }
                _ => None,
            })
            .await;
        let NextHop::Resolved { interface, mac, source, .. } = hop else { unreachable!() };
        assert_eq!((interface.as_str(), source), ("eth0", Mac::new([2, 0, 0, 0, 0, 0x11])));
        mac
    }

    /// Waits until an address is told to be unresolved for this reason.
    async fn unresolved(&mut self, of: &str, reason: &str) {
        let what = format!("{of} to be unresolved: {reason}");
        self.until(&what, |event| match event {
            Event::NextHop { address: told, hop: NextHop::Unresolved(why) }
                if *told == address(of) && why == reason =>
            {
                Some(())
            }
            _ => None,
        })
        .await;
    }

    async fn link(&mut self, what: &str, wanted: impl Fn(&Link) -> bool) -> Link {
        self.until(what, |event| match event {
            Event::Link(link) if wanted(link) => Some(link.clone()),
            _ => None,
        })
        .await
    }
}

const THEIRS: Mac = Mac::new([2, 0, 0, 0, 0, 0x21]);

#[test]
fn neighbours_of_both_families_are_resolved_without_any_other_traffic() {
    let bed = Bed::new();
    bed.run(async || {
        let mut watched = Watched::start(&[BACKEND_V4, BACKEND_V6]).await;
        let link = watched.link("eth0", |link| link.name == "eth0").await;
        assert!(link.up && link.mac == Mac::new([2, 0, 0, 0, 0, 0x11]) && link.mtu == 1500);
        assert_eq!(watched.resolved(BACKEND_V4).await, THEIRS);
        assert_eq!(watched.resolved(BACKEND_V6).await, THEIRS);
        watched.monitor.shutdown().await;
    });
}

#[test]
fn an_interface_is_found_by_its_name() {
    let bed = Bed::new();
    bed.run(async || {
        let link = link_by_name("eth0").await.unwrap().expect("eth0 is not found");
        assert_eq!((link.name.as_str(), link.mac), ("eth0", Mac::new([2, 0, 0, 0, 0, 0x11])));
        for unknown in ["eth1", "", "a-name-that-is-too-long-for-an-interface"] {
            assert_eq!(link_by_name(unknown).await.unwrap(), None, "{unknown}");
        }
    });
}

#[test]
fn a_changed_hardware_address_is_followed_within_seconds_without_an_announcement() {
    let bed = Bed::new();
    bed.run(async || {
        let mut watched = Watched::start(&[BACKEND_V4, BACKEND_V6]).await;
        for of in [BACKEND_V4, BACKEND_V6] {
            assert_eq!(watched.resolved(of).await, THEIRS);
        }
        bed.them("link set eth0 address 02:00:00:00:00:99");
        let changed = Instant::now();
        let new = Mac::new([2, 0, 0, 0, 0, 0x99]);
        let mut left = BTreeSet::from([address(BACKEND_V4), address(BACKEND_V6)]);
        while !left.is_empty() {
            let found = watched
                .until("the new hardware address", |event| match event {
                    Event::NextHop { address, hop: NextHop::Resolved { mac, .. } }
                        if *mac == new =>
                    {
                        Some(*address)
                    }
                    _ => None,
                })
                .await;
            left.remove(&found);
        }
        let took = changed.elapsed();
        println!("followed after {took:?}");
        // Five seconds to the next verification, three questions in vain, one by broadcast.
        assert!(took < Duration::from_secs(15), "{took:?}");
        watched.monitor.shutdown().await;
    });
}

#[test]
fn a_link_that_goes_down_and_returns_is_followed() {
    let bed = Bed::new();
    bed.run(async || {
        let mut watched = Watched::start(&[BACKEND_V4, BACKEND_V6]).await;
        for of in [BACKEND_V4, BACKEND_V6] {
            watched.resolved(of).await;
        }
        // Our own side, by hand: the kernel takes the routes away as well.
        bed.us("link set eth0 down");
        watched.link("eth0 to be down", |link| link.name == "eth0" && !link.up).await;
        watched.unresolved(BACKEND_V4, "eth0 is down").await;
        bed.us("link set eth0 up");
        watched.link("eth0 to be up", |link| link.name == "eth0" && link.up).await;
        watched.resolved(BACKEND_V4).await;
        // The other side: the carrier is lost, the routes stay.
        bed.them("link set eth0 down");
        watched.unresolved(BACKEND_V4, "eth0 is down").await;
        bed.them("link set eth0 up");
        watched.resolved(BACKEND_V4).await;
        watched.monitor.shutdown().await;
    });
}

#[test]
fn a_link_that_is_renamed_or_resized_or_deleted_is_told() {
    let bed = Bed::new();
    bed.us("link add spare0 type veth peer name peer0");
    bed.us("link set peer0 up");
    bed.run(async || {
        let mut watched = Watched::start(&[]).await;
        let first = watched.link("spare0", |link| link.name == "spare0").await;
        bed.us("link set spare0 name spare1 mtu 9000");
        let renamed = watched.link("spare1", |link| link.name == "spare1").await;
        assert_eq!(renamed.ifindex, first.ifindex);
        bed.us("link set spare1 mtu 1400");
        watched.link("an MTU of 1400", |link| link.name == "spare1" && link.mtu == 1400).await;
        bed.us("link set spare1 up");
        watched.link("spare1 to be up", |link| link.name == "spare1" && link.up).await;
        bed.us("link del spare1");
        watched.link("spare1 to be down", |link| link.name == "spare1" && !link.up).await;
        watched.monitor.shutdown().await;
    });
}

#[test]
fn routes_that_lead_to_no_neighbour_are_named_and_followed() {
    let bed = Bed::new();
    bed.us("route add 198.51.100.0/24 via 192.0.2.1");
    bed.us("route add 2001:db8:1::/64 via 2001:db8::1");
    bed.us("route add blackhole 203.0.113.0/28");
    bed.us("route add unreachable 203.0.113.16/28");
    bed.us("route add prohibit 203.0.113.32/28");
    bed.us("route add blackhole 2001:db8:2::/64");
    let v4 = "no answer to ARP from gateway 192.0.2.1 on eth0";
    let v6 = "no answer to neighbour discovery from gateway 2001:db8::1 on eth0";
    let table = [
        ("198.51.100.9", v4),
        ("2001:db8:1::9", v6),
        ("203.0.113.1", "the route there is a blackhole"),
        ("203.0.113.17", "the route there is `unreachable`"),
        ("203.0.113.33", "the route there is `prohibit`"),
        ("2001:db8:2::9", "the route there is a blackhole"),
        ("203.0.113.99", "no route"),
        ("2001:db8:3::9", "no route"),
        ("192.0.2.11", "it is an address of this host"),
        ("2001:db8::11", "it is an address of this host"),
        ("192.0.2.255", "it is a broadcast address"),
        ("224.0.0.9", "it is a multicast address"),
    ];
    bed.run(async || {
        // Some of these answers depend on the loopback interface.
        bed.us("link set lo up");
        bed.us("route add 224.0.0.0/4 dev eth0");
        for (of, reason) in table {
            let mut watched = Watched::start(&[of]).await;
            watched.unresolved(of, reason).await;
            watched.monitor.shutdown().await;
        }
        let mut watched = Watched::start(&["198.51.100.9", BACKEND_V4]).await;
        watched.unresolved("198.51.100.9", v4).await;
        bed.us("route del 198.51.100.0/24");
        watched.unresolved("198.51.100.9", "no route").await;
        bed.them("addr add 198.51.100.9/32 dev eth0");
        bed.us("route add 198.51.100.0/24 dev eth0");
        assert_eq!(watched.resolved("198.51.100.9").await, THEIRS);
        watched.monitor.shutdown().await;
    });
}

#[test]
fn an_address_that_we_lose_takes_the_way_along_and_brings_it_back() {
    let bed = Bed::new();
    bed.run(async || {
        let mut watched = Watched::start(&[BACKEND_V4]).await;
        watched.resolved(BACKEND_V4).await;
        bed.us("addr del 192.0.2.11/24 dev eth0");
        watched.unresolved(BACKEND_V4, "no route").await;
        bed.us("addr add 192.0.2.12/24 dev eth0");
        watched.resolved(BACKEND_V4).await;
        watched.monitor.shutdown().await;
    });
}

#[test]
fn a_backend_that_falls_silent_is_unresolved_and_found_again_when_it_returns() {
    let bed = Bed::new();
    bed.run(async || {
        let mut watched = Watched::start(&[BACKEND_V4, BACKEND_V6]).await;
        for of in [BACKEND_V4, BACKEND_V6] {
            watched.resolved(of).await;
        }
        bed.them("addr del 192.0.2.21/24 dev eth0");
        bed.them("addr del 2001:db8::21/64 dev eth0");
        watched.unresolved(BACKEND_V4, "no answer to ARP on eth0").await;
        watched.unresolved(BACKEND_V6, "no answer to neighbour discovery on eth0").await;
        bed.them("addr add 192.0.2.21/24 dev eth0");
        watched.resolved(BACKEND_V4).await;
        watched.monitor.shutdown().await;
    });
}

#[test]
fn targets_come_and_go_and_a_neighbour_set_by_hand_counts() {
    let bed = Bed::new();
    bed.us("neigh add 192.0.2.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent");
    bed.run(async || {
        let mut watched = Watched::start(&[]).await;
        watched.targets.send(BTreeSet::from([address(BACKEND_V4)])).unwrap();
        assert_eq!(watched.resolved(BACKEND_V4).await, THEIRS);
        let both = BTreeSet::from([address(BACKEND_V4), address("192.0.2.77")]);
        watched.targets.send(both).unwrap();
        assert_eq!(watched.resolved("192.0.2.77").await, Mac::new([2, 0, 0, 0, 0, 0x77]));
        bed.us("neigh replace 192.0.2.77 lladdr 02:00:00:00:00:78 dev eth0 nud permanent");
        assert_eq!(watched.resolved("192.0.2.77").await, Mac::new([2, 0, 0, 0, 0, 0x78]));
        bed.us("neigh del 192.0.2.77 dev eth0");
        watched.unresolved("192.0.2.77", "no answer to ARP on eth0").await;
        // Told anew when it comes back as a target.
        watched.targets.send(BTreeSet::new()).unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        watched.targets.send(BTreeSet::from([address(BACKEND_V4)])).unwrap();
        assert_eq!(watched.resolved(BACKEND_V4).await, THEIRS);
        watched.monitor.shutdown().await;
    });
}

#[test]
fn lost_changes_are_made_good_by_reading_everything_anew() {
    let bed = Bed::new();
    bed.run(async || {
        let (_targets, receiver) = watch::channel(BTreeSet::from([address(BACKEND_V4)]));
        // Depth one, and nobody takes: the monitor stands still with its first event, and the
        // kernel's notices fill its socket.
        let (sender, mut events) = mpsc::channel(1);
        let monitor = Monitor::start(receiver, sender).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let flood = tempfile::NamedTempFile::new().unwrap();
        let lines: String = (0..8_000)
            .map(|n| {
                let (high, low) = (n / 250, n % 250 + 1);
                format!("neigh replace 10.0.{high}.{low} lladdr 02:00:00:00:01:01 dev eth0 nud permanent\n")
            })
            .collect();
        std::fs::write(flood.path(), lines).unwrap();
        bed.us(&format!("-batch {}", flood.path().display()));
        // This one is certainly lost.
        let entry = format!("{BACKEND_V4} lladdr 02:00:00:00:00:55 dev eth0 nud permanent");
        bed.us(&format!("neigh replace {entry}"));
        let new = Mac::new([2, 0, 0, 0, 0, 0x55]);
        let found = async {
            loop {
                match events.recv().await {
                    Some(Event::NextHop { hop: NextHop::Resolved { mac, .. }, .. })
                        if mac == new =>
                    {
                        return;
                    }
                    Some(_) => {}
                    None => panic!("the monitor is gone"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("the lost change was not made good");
        assert!(monitor.overruns() > 0, "nothing was lost: the test proves nothing");
        monitor.shutdown().await;
    });
}

#[test]
fn shutdown_does_not_wait_for_a_controller_that_no_longer_listens() {
    let bed = Bed::new();
    bed.run(async || {
        let (_targets, receiver) = watch::channel(BTreeSet::from([address(BACKEND_V4)]));
        let (sender, _events) = mpsc::channel(1);
        let monitor = Monitor::start(receiver, sender).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let done = tokio::time::timeout(Duration::from_secs(5), monitor.shutdown()).await;
        done.expect("shutdown hung");
    });
}
