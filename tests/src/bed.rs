//! A small network in namespaces: a switch, and the hosts that are plugged into it.

use std::env;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use aya::Ebpf;
use aya::programs::{Xdp, XdpMode};
use nix::mount::{MsFlags, mount};
use xtask::registry;

use crate::interrupt;
use crate::node::Node;

/// The virtual address that tests use.
pub const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 100));
/// The same for IPv6.
pub const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 0x100));

/// A network. Removed, with all that runs in it, when it is dropped. Declare it before the
/// programs that run in it: what is declared last is dropped first.
pub struct Bed {
    prefix: String,
    directory: PathBuf,
    switch: Node,
    /// The programs at the switch's ports, with the links that hold them there.
    lab: Option<Ebpf>,
}

impl Bed {
    /// A network with a switch and no hosts; `name` says in lists what it is for.
    #[track_caller]
    pub fn new(name: &str) -> Self {
        let (prefix, directory) = register(name);
        let guard = Unfinished(&prefix);
        let switch = Node::new(&prefix, &directory, "sw", 1);
        switch.ip("link add br0 type bridge mcast_snooping 0 forward_delay 0");
        switch.ip("link set br0 up");
        std::mem::forget(guard);
        Self { prefix, directory, switch, lab: None }
    }

    /// Plugs a host into the switch; `number` (10 to 99) becomes part of its addresses.
    #[track_caller]
    pub fn node(&mut self, name: &str, number: u8) -> Node {
        assert!((10..=99).contains(&number), "a node's number has two digits, not {number}");
        assert!(name.len() <= 15 && name != "br0", "`{name}` is no name for a port");
        let node = Node::new(&self.prefix, &self.directory, name, number);
        let (mac, switch) = (node.mac(), self.switch.namespace());
        node.ip(&format!("link add eth0 address {mac} type veth peer name {name} netns {switch}"));
        self.switch.ip(&format!("link set {name} master br0 up"));
        // Addresses that are checked for doubles first cannot be used for more than a second.
        node.sysctl("ipv6.conf.eth0.accept_dad", "0");
        node.ip(&format!("addr add {}/24 dev eth0", node.ipv4()));
        node.ip(&format!("addr add {}/64 dev eth0 nodad", node.ipv6()));
        node.ip("link set eth0 up");
        node
    }

    /// Plugs a host into the switch that will run XDP programs. See [`Bed::bpf_directory`].
    #[track_caller]
    pub fn lb_node(&mut self, name: &str, number: u8) -> Node {
        let node = self.node(name, number);
        mount_bpffs(&self.bpf_directory(&node));
        self.prepare_port(name);
        node
    }

    /// Gives a host a second interface, `eth1`, on a second segment that all such interfaces
    /// share: 02:00:00:00:01:NN, 10.9.1.NN/24, and a port called `<name>-2`.
    #[track_caller]
    pub fn second_cable(&mut self, node: &Node) {
        let (mac, port, switch) = (node.second_mac(), second_port(node), self.switch.namespace());
        if !self.switch.ip("link show type bridge").contains("br1") {
            self.switch.ip("link add br1 type bridge mcast_snooping 0 forward_delay 0");
            self.switch.ip("link set br1 up");
        }
        node.ip(&format!("link add eth1 address {mac} type veth peer name {port} netns {switch}"));
        self.switch.ip(&format!("link set {port} master br1 up"));
        // What comes in here is answered by eth0, where its sender is.
        node.sysctl("ipv4.conf.all.rp_filter", "0");
        node.sysctl("ipv4.conf.eth1.rp_filter", "0");
        node.ip(&format!("addr add {}/24 dev eth1", node.second_ipv4()));
        node.ip("link set eth1 up");
        self.prepare_port(&port);
    }

    /// Puts a host behind another one, which becomes a router: [`Node::far_ipv4`] and
    /// [`Node::far_ipv6`]. The cable takes packets of so many bytes to the host, and whole ones
    /// from it, so that the host does not know.
    #[track_caller]
    pub fn behind(&self, router: &Node, name: &str, number: u8, mtu: u16) -> Node {
        let node = Node::new(&self.prefix, &self.directory, name, number);
        let (mac, namespace) = (node.mac(), router.namespace());
        node.ip(&format!("link add eth0 address {mac} type veth peer name far0 netns {namespace}"));
        for end in [&node, router] {
            end.sysctl("ipv6.conf.all.accept_dad", "0");
        }
        router.sysctl("ipv4.ip_forward", "1");
        router.sysctl("ipv6.conf.all.forwarding", "1");
        router.ip(&format!("link set far0 mtu {mtu} up"));
        router.ip("addr add 10.9.2.1/24 dev far0");
        router.ip("addr add fd09:2::1/64 dev far0 nodad");
        node.ip("link set eth0 up");
        node.ip(&format!("addr add {}/24 dev eth0", node.far_ipv4()));
        node.ip(&format!("addr add {}/64 dev eth0 nodad", node.far_ipv6()));
        node.ip("route add default via 10.9.2.1");
        node.ip("-6 route add default via fd09:2::1");
        node
    }

    /// Tells a host the way to those that are [`behind`](Self::behind) a router.
    #[track_caller]
    pub fn route_behind(&self, node: &Node, router: &Node) {
        node.ip(&format!("route add 10.9.2.0/24 via {}", router.ipv4()));
        node.ip(&format!("-6 route add fd09:2::/64 via {}", router.ipv6()));
    }

    /// Makes a host's `eth0` refuse native programs, as a driver would that has none: a veth device
    /// takes them only while it has as many queues to receive as its other end has to send by.
    #[track_caller]
    pub fn refuse_native(&self, node: &Node) {
        self.switch.run("ethtool", &["-L", node.name(), "tx", "2"]);
    }

    /// Where a balancer's host has a BPF file system of its own.
    pub fn bpf_directory(&self, node: &Node) -> PathBuf {
        node.directory().join("bpf")
    }

    /// Makes a port of the switch fit for a host that forwards by XDP.
    fn prepare_port(&mut self, port: &str) {
        // A virtual cable leaves checksums, segments and VLAN tags to a receiver that is another
        // socket of the same kernel. XDP sees the bare frame: there they must be complete.
        let settings = ["-K", port, "tx", "off", "txvlan", "off", "tx-vlan-stag-hw-insert", "off"];
        self.switch.run("ethtool", &settings);
        // A cable takes what its other end sends by XDP_TX only with a native program here.
        let lab = self.lab.get_or_insert_with(load_lab);
        let program: &mut Xdp = lab
            .program_mut("lab_pass")
            .expect("the lab object has no lab_pass")
            .try_into()
            .expect("lab_pass is not an XDP program");
        self.switch
            .enter(|| program.attach(port, XdpMode::Driver))
            .unwrap_or_else(|error| panic!("failed to attach lab_pass to port {port}: {error}"));
    }

    /// The switch, whose ports have the names of the hosts.
    pub fn switch(&self) -> &Node {
        &self.switch
    }

    /// Unplugs a host.
    #[track_caller]
    pub fn unplug(&self, node: &Node) {
        self.switch.ip(&format!("link set {} down", node.name()));
    }

    /// Plugs a host in again.
    #[track_caller]
    pub fn plug(&self, node: &Node) {
        self.switch.ip(&format!("link set {} up", node.name()));
    }

    /// How the names of everything that it makes begin.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A directory for files, which goes with the bed.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.lab = None;
        take_down(&self.prefix);
    }
}

/// A BPF file system alone, for programs that are run without a network. Goes as a bed does.
pub struct Bpffs {
    prefix: String,
    path: PathBuf,
}

impl Bpffs {
    /// Mounts one; `name` says in lists what it is for.
    #[track_caller]
    pub fn new(name: &str) -> Self {
        let (prefix, directory) = register(name);
        let path = directory.join("bpf");
        let bpffs = Self { prefix, path };
        mount_bpffs(&bpffs.path);
        bpffs
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        take_down(&self.prefix);
    }
}

/// A prefix of its own, and the directory that tells others whose it is.
#[track_caller]
fn register(name: &str) -> (String, PathBuf) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let prefix = registry::prefix(COUNT.fetch_add(1, Ordering::SeqCst));
    // First of all, so that nothing can be left without an owner.
    interrupt::watch(&prefix);
    let directory = registry::register(&prefix)
        .unwrap_or_else(|error| panic!("failed to register bed {prefix}: {error}"));
    let guard = Unfinished(&prefix);
    fs::write(directory.join("name"), format!("{name}\n")).expect("failed to name a bed");
    std::mem::forget(guard);
    (prefix, directory)
}

/// The port of a host's `eth1`.
fn second_port(node: &Node) -> String {
    format!("{}-2", node.name())
}

#[track_caller]
fn mount_bpffs(directory: &Path) {
    fs::create_dir(directory).expect("failed to make a directory for a bpffs");
    mount(Some("bpf"), directory, Some("bpf"), MsFlags::empty(), None::<&Path>)
        .unwrap_or_else(|error| panic!("failed to mount {}: {error}", directory.display()));
}

/// Removes a bed that panics while it is made.
struct Unfinished<'a>(&'a str);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        take_down(self.0);
    }
}

fn take_down(prefix: &str) {
    match interrupt::remove(prefix) {
        Ok(()) => {}
        // A second panic would hide the first.
        Err(error) if thread::panicking() => eprintln!("failed to remove bed {prefix}: {error}"),
        Err(error) => panic!("failed to remove bed {prefix}: {error}"),
    }
}

/// Loads the bed's own BPF object.
fn load_lab() -> Ebpf {
    let path = artefact("LB_LAB_OBJECT", "target/bpf/lb-lab");
    let mut lab = Ebpf::load_file(&path).unwrap_or_else(|error| {
        panic!("failed to load {} (`cargo xtask build` makes it): {error}", path.display())
    });
    let program: &mut Xdp = lab
        .program_mut("lab_pass")
        .expect("the lab object has no lab_pass")
        .try_into()
        .expect("lab_pass is not an XDP program");
    program.load().expect("failed to load lab_pass into the kernel");
    lab
}

/// Something that `cargo xtask` built: where the variable says, or where it is put.
pub fn artefact(variable: &str, usual: &str) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    env::var_os(variable).map_or_else(|| workspace.join(usual), PathBuf::from)
}
