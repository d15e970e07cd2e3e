//! A host of the bed: a network namespace, and programs that run in it.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use crate::daemon::Daemon;
use crate::wait::wait_until;

/// A host. Clones are the same host.
#[derive(Clone, Debug)]
pub struct Node {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    number: u8,
    namespace: String,
    /// Keeps hold of the namespace, for those who enter it.
    handle: File,
    directory: PathBuf,
}

impl Node {
    /// Makes the namespace, with nothing in it but a loopback device that is up.
    pub(crate) fn new(prefix: &str, bed: &Path, name: &str, number: u8) -> Self {
        let namespace = format!("{prefix}{name}");
        execute(Command::new("ip").args(["netns", "add", &namespace]));
        let path = Path::new("/run/netns").join(&namespace);
        let handle = File::open(&path)
            .unwrap_or_else(|error| panic!("failed to open {}: {error}", path.display()));
        let directory = bed.join(name);
        fs::create_dir(&directory)
            .unwrap_or_else(|error| panic!("failed to make {}: {error}", directory.display()));
        let name = name.to_owned();
        let node = Self { inner: Arc::new(Inner { name, number, namespace, handle, directory }) };
        node.ip("link set lo up");
        node
    }

    /// Its name in the bed, which is also that of its port at the switch.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The namespace's name, as `ip netns` knows it.
    pub fn namespace(&self) -> &str {
        &self.inner.namespace
    }

    /// A directory of its own, which goes with the bed.
    pub fn directory(&self) -> &Path {
        &self.inner.directory
    }

    /// Its address on the segment: 10.9.0.NN.
    pub fn ipv4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 9, 0, self.inner.number)
    }

    /// Its address on the segment: fd09::NN, the digits being those of the number.
    pub fn ipv6(&self) -> Ipv6Addr {
        format!("fd09::{}", self.inner.number).parse().expect("digits are a group of an address")
    }

    /// The hardware address that its `eth0` gets at first: 02:00:00:00:00:NN.
    pub fn mac(&self) -> String {
        format!("02:00:00:00:00:{:02}", self.inner.number)
    }

    /// The hardware address of its `eth1`, if it has one: 02:00:00:00:01:NN.
    pub fn second_mac(&self) -> String {
        format!("02:00:00:00:01:{:02}", self.inner.number)
    }

    /// The address of its `eth1`, if it has one: 10.9.1.NN.
    pub fn second_ipv4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 9, 1, self.inner.number)
    }

    /// Its address behind a router, if it is there: 10.9.2.NN.
    pub fn far_ipv4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 9, 2, self.inner.number)
    }

    /// Its address behind a router, if it is there: fd09:2::NN, the digits being those of the number.
    pub fn far_ipv6(&self) -> Ipv6Addr {
        format!("fd09:2::{}", self.inner.number).parse().expect("digits are a group of an address")
    }

    /// A command that will run in the node.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let inner = Arc::clone(&self.inner);
        // SAFETY: between fork and exec only setns(2) is called, which is a mere system call.
        unsafe {
            command.pre_exec(move || Ok(setns(&inner.handle, CloneFlags::CLONE_NEWNET)?));
        }
        command
    }

    /// Runs a program in the node to its end and gives its standard output. Panics with all that
    /// it said if it fails.
    #[track_caller]
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        execute(self.command(program).args(arguments))
    }

    /// Starts a program in the node; what it says goes to `<name>.log` in the node's directory.
    #[track_caller]
    pub fn spawn(&self, name: &str, command: Command) -> Daemon {
        Daemon::start(name, self.directory().join(format!("{name}.log")), command)
    }

    /// Runs `act` on a thread of its own that lives in the node. Sockets opened there stay there.
    #[track_caller]
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.inner.handle, CloneFlags::CLONE_NEWNET)
                .unwrap_or_else(|error| panic!("failed to enter {}: {error}", self.name()));
            act()
        };
        match thread::scope(|scope| scope.spawn(inside).join()) {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Runs `ip` in the node, arguments separated by blanks: `link set eth0 down`.
    #[track_caller]
    pub fn ip(&self, arguments: &str) -> String {
        // Not `ip -n`, which mounts a /sys of its own each time.
        self.run("ip", &arguments.split(' ').collect::<Vec<_>>())
    }

    /// Sets a kernel parameter of the node's network: `ipv4.conf.all.arp_ignore`.
    #[track_caller]
    pub fn sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/net/{}", name.replace('.', "/"));
        self.enter(|| fs::write(&path, value))
            .unwrap_or_else(|error| panic!("failed to write {value} to {path}: {error}"));
    }

    /// A counter of the node's network, as /proc/net/snmp and /proc/net/netstat group them:
    /// `Tcp`, `InCsumErrors`.
    #[track_caller]
    pub fn counter(&self, group: &str, name: &str) -> u64 {
        // Not /proc/net, which is the network of the process's first thread.
        let text = self.enter(|| {
            ["snmp", "netstat"].map(|file| {
                let path = format!("/proc/thread-self/net/{file}");
                fs::read_to_string(&path).unwrap_or_else(|error| panic!("no {path}: {error}"))
            })
        });
        let group = format!("{group}:");
        let mut lines = text.iter().flat_map(|text| text.lines()).filter(|l| l.starts_with(&group));
        let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
        let mut both = names.split(' ').zip(values.split(' '));
        let found = both.find(|(counter, _)| *counter == name).map(|(_, value)| value.parse());
        match found {
            Some(Ok(value)) => value,
            _ => panic!("the kernel has no counter {group} {name}: {names}"),
        }
    }

    /// Whether an address answers a ping from here within a second.
    pub fn pings(&self, address: impl Into<IpAddr>) -> bool {
        let mut ping = self.command("ping");
        ping.args(["-c1", "-W1", &address.into().to_string()]);
        ping.output().expect("failed to start ping").status.success()
    }

    /// Asks anew who has an address on the segment of an interface, by ARP or by neighbour
    /// discovery; the hardware address that was answered, if any was.
    #[track_caller]
    pub fn resolve(&self, address: impl Into<IpAddr>, interface: &str) -> Option<String> {
        let address = address.into();
        let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
        // Two questions, and half a second until silence is taken for an answer.
        let settings = format!("{family}.neigh.{interface}");
        self.sysctl(&format!("{settings}.mcast_solicit"), "2");
        self.sysctl(&format!("{settings}.retrans_time_ms"), "250");
        self.ip(&format!("neigh flush to {address} dev {interface}"));
        self.enter(|| {
            let own = match address {
                IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
            };
            let socket = UdpSocket::bind((own, 0)).expect("failed to open a socket");
            // To the port for what nobody wants; the question comes first.
            socket.send_to(b"?", (address, 9)).expect("failed to send a datagram");
        });
        let what = format!("{}'s question for {address} is answered or given up", self.name());
        wait_until(Duration::from_secs(5), &what, || {
            let entry = self.ip(&format!("neigh show to {address} dev {interface}"));
            match entry.split_once("lladdr ") {
                Some((_, mac)) => Ok(mac.split(' ').next().map(str::to_owned)),
                None if entry.contains("FAILED") => Ok(None),
                None => Err(entry),
            }
        })
    }

    /// Gives the node's `eth0` another hardware address, and lets nobody know.
    #[track_caller]
    pub fn set_mac(&self, mac: &str) {
        self.ip(&format!("link set eth0 address {mac}"));
    }
}

/// Runs a command to its end and gives its standard output. Panics with all that it said if it
/// fails.
#[track_caller]
pub(crate) fn execute(command: &mut Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("failed to start {command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?} failed ({}):\n{said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    said
}
