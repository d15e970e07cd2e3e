//! A backend's host behind tunnels: set up, reached by hand-made tunnel packets, and put back.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use lb_common::builder::Packet;
use lb_common::frame::MemoryFrame;
use lb_common::parse::{Content, content, link};
use lb_common::tunnel::{covered, encapsulate};
use lb_common::verdict::Tunnel;
use lb_common::{Address, Mac};
use lb_tests::balancer::Answer;
use lb_tests::bed::{Bed, VIP, VIP6, artefact};
use lb_tests::echo::Echo;
use lb_tests::inject::Injector;
use lb_tests::node::Node;
use lb_tests::privilege::is_root_or_skips;
use lb_tests::wait::wait_until;

/// What the server listens on.
const PORT: u16 = 5_353;
/// How long a datagram may be on its way.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long silence has to last to be taken for one.
const SILENCE: Duration = Duration::from_millis(300);

/// A client that makes the balancer's packets itself, and a backend.
struct World {
    client: Node,
    backend: Node,
    pins: PathBuf,
    injector: Injector,
    bed: Bed,
}

impl World {
    #[track_caller]
    fn new(name: &str) -> Self {
        let mut bed = Bed::new(name);
        let client = bed.node("client", 10);
        let backend = bed.lb_node("web1", 21);
        // As most distributions have it: the set-up has to switch it off.
        backend.sysctl("ipv4.conf.all.rp_filter", "1");
        backend.sysctl("ipv4.conf.eth0.rp_filter", "1");
        let pins = bed.bpf_directory(&backend).join("lb-decap");
        let injector = Injector::open(&client, "eth0");
        // Replies come by themselves; but nobody else asks who has these addresses.
        assert!(client.pings(backend.ipv4()) && backend.pings(client.ipv6()));
        Self { client, backend, pins, injector, bed }
    }

    /// `lb` in the backend.
    fn lb(&self, arguments: &str) -> Answer {
        let output = self
            .backend
            .command(&artefact("LB_BIN", "target/debug/lb").to_string_lossy())
            .args(arguments.split(' '))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .output()
            .expect("failed to start lb");
        Answer {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    fn ok(&self, arguments: &str) -> String {
        let answer = self.lb(arguments);
        assert_eq!(answer.code, Some(0), "lb {arguments}: {answer:?}");
        answer.stdout
    }

    /// `lb decap`, pinned where the backend's BPF file system is.
    #[track_caller]
    fn decap(&self, arguments: &str) -> String {
        self.ok(&format!("decap {arguments} --pin-dir {}", self.pins.display()))
    }

    /// `lb backend setup` with these options.
    fn setup_words(&self, arguments: &str) -> String {
        let state = self.bed.directory().join("state");
        let pins = self.pins.display();
        format!("backend setup {arguments} --pin-dir {pins} --state-dir {}", state.display())
    }

    #[track_caller]
    fn setup(&self, arguments: &str) -> String {
        self.ok(&self.setup_words(arguments))
    }

    #[track_caller]
    fn undo(&self, arguments: &str) -> String {
        let state = self.bed.directory().join("state");
        self.ok(&format!("backend setup --undo{arguments} --state-dir {}", state.display()))
    }

    /// Packets that had an outcome.
    #[track_caller]
    fn count(&self, reason: &str) -> u64 {
        let json = self.decap("-o json --status");
        let json: serde_json::Value = serde_json::from_str(&json).expect("lb speaks JSON");
        let outcomes = json["outcomes"].as_array().expect("a list of outcomes");
        let found = outcomes.iter().find(|outcome| outcome["reason"] == reason);
        found.and_then(|outcome| outcome["packets"].as_u64()).expect("a number of packets")
    }

    /// A client's datagram to the VIP in a tunnel from `outer`'s first address to its second.
    fn packet(&self, from: SocketAddr, outer: [IpAddr; 2], gue: bool) -> Vec<u8> {
        let to = SocketAddr::new(if from.is_ipv4() { VIP } else { VIP6 }, PORT);
        let bytes = Packet::udp(from, to).payload(b"who are you?").build();
        let mut frame = MemoryFrame { bytes, ingress: 0 };
        let link = link(&frame).expect("the frame has a header");
        let Content::Segment(segment) = content(&frame, &link) else { panic!("no datagram") };
        let tunnel = Tunnel {
            source: Address::from(outer[0]),
            destination: Address::from(outer[1]),
            gue,
            entropy: 0x5555_aaaa,
            covered: covered(&frame, &link, &segment),
        };
        encapsulate(&mut frame, &link, &tunnel).expect("a frame in memory has room");
        let mac = |node: &Node| {
            let parts = node.mac();
            let octets = parts.split(':').map(|part| u8::from_str_radix(part, 16));
            let octets: Vec<u8> = octets.collect::<Result<_, _>>().expect("hexadecimal digits");
            Mac::new(octets.try_into().expect("six octets")).octets()
        };
        frame.bytes[..6].copy_from_slice(&mac(&self.backend));
        frame.bytes[6..12].copy_from_slice(&mac(&self.client));
        frame.bytes
    }

    fn addresses(&self, v6: bool) -> [IpAddr; 2] {
        let of = |node: &Node| match v6 {
            true => IpAddr::from(node.ipv6()),
            false => IpAddr::from(node.ipv4()),
        };
        [of(&self.client), of(&self.backend)]
    }

    /// A client's socket.
    #[track_caller]
    fn socket(&self, v6: bool) -> UdpSocket {
        let [own, _] = self.addresses(v6);
        let socket = self.client.enter(|| UdpSocket::bind((own, 0))).expect("failed to bind");
        socket.set_read_timeout(Some(SILENCE)).expect("failed to limit waiting");
        socket
    }

    /// Sends and expects the server's answer, from the VIP itself.
    #[track_caller]
    fn is_answered(&self, inner_v6: bool, outer_v6: bool, gue: bool) {
        let socket = self.socket(inner_v6);
        let from = socket.local_addr().expect("a socket has an address");
        let frame = self.packet(from, self.addresses(outer_v6), gue);
        let what = format!("answer: inner v6 {inner_v6}, outer v6 {outer_v6}, gue {gue}");
        wait_until(PATIENCE, &what, || {
            self.injector.send(&frame);
            let mut buffer = [0; 64];
            match socket.recv_from(&mut buffer) {
                Ok((length, sender)) => {
                    assert_eq!(&buffer[..length], b"web1");
                    assert_eq!(sender.ip(), if inner_v6 { VIP6 } else { VIP });
                    Ok(())
                }
                Err(error) => Err(format!("{error}; {}", self.decap("--status"))),
            }
        });
    }

    /// Sends a frame that nobody must answer.
    #[track_caller]
    fn is_not_answered(&self, socket: &UdpSocket, frame: &[u8]) {
        self.injector.send(frame);
        let answer = socket.recv_from(&mut [0; 64]);
        assert!(answer.is_err(), "answered: {answer:?}");
    }

    /// Everything that a set-up may change.
    fn state(&self) -> String {
        let parameters = ["all.arp_ignore", "all.arp_announce", "all.rp_filter", "eth0.rp_filter"];
        let values = parameters.map(|name| {
            let path = format!("/proc/sys/net/ipv4/conf/{}", name.replace('.', "/"));
            self.backend.run("cat", &[&path])
        });
        let addresses = self.backend.ip("-o addr show");
        let pins = self.pins.exists();
        let xdp = self.backend.ip("-d link show eth0").contains("xdp");
        format!("{values:?}\n{addresses}\npins: {pins}, xdp: {xdp}")
    }
}

/// Servers on both VIPs.
fn servers(backend: &Node) -> [Echo; 2] {
    [VIP, VIP6].map(|vip| Echo::udp(backend, SocketAddr::new(vip, PORT)))
}

#[test]
fn a_backend_is_reached_by_every_tunnel_and_answers_directly() {
    if !is_root_or_skips("a_backend_is_reached_by_every_tunnel_and_answers_directly") {
        return;
    }
    for mode in ["native", "generic"] {
        let world = World::new("decap");
        let [from, from6] = [false, true].map(|v6| world.addresses(v6)[0]);
        let words = format!(
            "--mode ipip --vip {VIP} --vip {VIP6} --interface eth0 --from {from} --from {from6} \
             --xdp-mode {mode}"
        );
        world.setup(&words);
        let status = world.decap("--status");
        assert!(status.contains(&format!("eth0       {mode}\n")), "{status}");
        let servers = servers(&world.backend);
        for n in 0..8 {
            world.is_answered(n & 1 != 0, n & 2 != 0, n & 4 != 0);
        }
        assert!(world.count("ipip") >= 4 && world.count("gue") >= 4, "{}", world.decap("--status"));
        assert_eq!(world.count("not-allowed"), 0);
        assert_eq!(world.backend.counter("Udp", "InCsumErrors"), 0);
        // Nobody but the balancer answers for the VIP.
        assert_eq!(world.client.resolve(VIP, "eth0"), None);
        // What comes without a tunnel goes on as ever.
        assert!(world.client.pings(world.backend.ipv4()));
        drop(servers);
        world.undo("");
    }
}

#[test]
fn packets_from_elsewhere_or_broken_ones_get_nothing_and_are_counted() {
    if !is_root_or_skips("packets_from_elsewhere_or_broken_ones_get_nothing_and_are_counted") {
        return;
    }
    let world = World::new("decap drops");
    let [own, other] = world.addresses(false);
    world.setup(&format!("--mode gue --vip {VIP} --vip {VIP6} --interface eth0 --from {own}"));
    let servers = servers(&world.backend);
    world.is_answered(false, false, true);
    let socket = world.socket(false);
    let from = socket.local_addr().expect("a socket has an address");
    let frame = |source: IpAddr, gue| world.packet(from, [source, other], gue);
    let elsewhere = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 99));
    let broken = |at: usize, byte: u8| {
        let mut frame = frame(own, true);
        frame[14 + at] = byte;
        frame
    };
    for (reason, frame) in [
        ("not-allowed", frame(elsewhere, false)),
        ("not-allowed", frame(elsewhere, true)),
        ("not-allowed", world.packet(from, world.addresses(true), false)),
        // A wrong checksum or length of the outer header would not come through the switch, whose
        // bridge may look at them (br_netfilter).
        // Behind 20 and 8 bytes: GUE's or the packet's first byte, and the packet's length.
        ("gue-header", broken(28, 0x20)),
        ("bad-inner", broken(28, 0x55)),
        ("bad-length", broken(30, 7)),
    ] {
        let before = world.count(reason);
        world.is_not_answered(&socket, &frame);
        assert_eq!(world.count(reason), before + 1, "{reason}");
    }
    // Another list, by another run: who was allowed is not any more, and the counters go on.
    let refused = world.count("not-allowed");
    world.decap(&format!("--interface eth0 --from {elsewhere}"));
    world.is_not_answered(&socket, &frame(own, true));
    assert_eq!(world.count("not-allowed"), refused + 1);
    let answer = world.lb(&format!(
        "decap --interface eth0 --interface eth9 --from {own} --pin-dir {}",
        world.pins.display()
    ));
    assert_eq!(answer.code, Some(1));
    assert!(answer.stderr.contains("there is no interface eth9"), "{answer:?}");
    // What is attached has kept its list.
    let status = world.decap("--status");
    assert!(status.contains("from 10.9.0.99/32\n"), "{status}");
    world.is_not_answered(&socket, &frame(own, true));
    drop(servers);
    let removed = world.decap("--remove");
    assert!(removed.contains("program removed from eth0"), "{removed}");
    assert_eq!(world.decap("--remove"), "nothing to remove\n");
    assert_eq!(world.decap("--status"), "not attached\n");
    assert!(!world.pins.exists());
}

#[test]
fn a_set_up_is_shown_made_once_and_taken_back() {
    if !is_root_or_skips("a_set_up_is_shown_made_once_and_taken_back") {
        return;
    }
    let world = World::new("backend setup");
    let fresh = world.state();
    let words = format!("--mode ipip --vip {VIP} --vip {VIP6} --interface eth0 --from 10.9.0.11");
    let changes = "~ net.ipv4.conf.all.arp_ignore 0 -> 1\n\
                   ~ net.ipv4.conf.all.arp_announce 0 -> 2\n\
                   ~ net.ipv4.conf.all.rp_filter 1 -> 0\n\
                   ~ net.ipv4.conf.eth0.rp_filter 1 -> 0\n\
                   + 10.9.0.100/32 on lo\n\
                   + fd09::100/128 on lo\n\
                   + decapsulation on eth0 from 10.9.0.11/32\n";

    let shown = world.setup(&format!("{words} --dry-run"));
    assert!(shown.starts_with(&format!("{changes}nothing was changed")), "{shown}");
    assert!(shown.contains("advmss 1440\n") && shown.contains("advmss 1420\n"), "{shown}");
    assert_eq!(world.state(), fresh);
    assert_eq!(world.undo(""), "nothing to do\n");

    let shown = world.setup(&words);
    assert!(shown.starts_with(&format!("{changes}mtu: ")), "{shown}");
    let made = world.state();
    assert_ne!(made, fresh);
    assert!(made.contains("xdp: true"), "{made}");
    let again = world.setup(&words);
    assert!(again.starts_with("nothing to do\n"), "{again}");
    assert_eq!(world.state(), made);

    // On top of it: another VIP, and another balancer.
    let more = "--mode ipip --vip 10.9.0.101 --interface eth0 --from 10.9.0.12";
    let shown = world.setup(more);
    let expected = "+ 10.9.0.101/32 on lo\n\
                    ~ decapsulation on eth0 from 10.9.0.11/32 -> on eth0 from 10.9.0.12/32\n";
    assert!(shown.starts_with(expected), "{shown}");

    let made = world.state();
    let shown = world.undo(" --dry-run");
    assert!(shown.contains("- 10.9.0.101/32 on lo\n"), "{shown}");
    assert_eq!(world.state(), made);
    let shown = world.undo("");
    assert!(shown.starts_with("- decapsulation on eth0 from 10.9.0.12/32\n"), "{shown}");
    assert_eq!(world.state(), fresh);
    assert_eq!(world.undo(""), "nothing to do\n");

    // A mode without tunnels leaves out what is theirs.
    let shown = world.setup(&format!("--mode l2 --vip {VIP}"));
    assert!(!shown.contains("decap") && !shown.contains("rp_filter"), "{shown}");
    world.undo("");
    assert_eq!(world.state(), fresh);
}
