//! The rules between values: turns the file's shape into the checked [`Config`].
//!
//! Whatever is built here counts only if the sink stayed empty, so a value that was already
//! reported is replaced by its default and not mentioned again.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lb_common::maps::MAX_INTERFACES;

use super::affinity;
use super::limit;
use super::overlap;
use super::probe;
use super::raw;
use super::report::Sink;
use super::shares::{self, DEFAULT_SLOTS, DEFAULT_WEIGHT};
use super::tree::At;
use super::wording::{listed, quoted};
use super::{Admin, Backend, Config, Dataplane, Drain, Node, NodeChoice, Service};

/// Pins of either kind where the file says nothing.
const DEFAULT_PINS: u32 = 500_000;
/// Half-open records where the file says nothing.
const DEFAULT_HALF_OPEN: u32 = 65_536;
/// Source addresses that are told apart where the file says nothing.
const DEFAULT_SOURCES: u32 = 131_072;

/// Checks a file; `None` where the rest cannot be built for want of a node.
pub fn check(
    sink: &mut Sink,
    path: &Path,
    digest: String,
    file: &raw::File,
    choice: &NodeChoice,
) -> Option<Config> {
    let node = choose(sink, file, choice);
    nodes(sink, &file.nodes);
    probe::contradictions(sink, &file.defaults.check);
    shares::slots(sink, file);
    overlap::listeners(sink, &file.services);
    overlap::addresses(sink, file);
    if file.services.is_empty() {
        sink.warn(&(0..0), "the file has no services that could be used");
    }
    let services = file.services.iter();
    let services = services.map(|raw| (raw.name.value.clone(), service(sink, file, raw)));
    let services = services.collect();
    Some(Config {
        path: path.to_owned(),
        digest,
        node: node?,
        dataplane: Dataplane {
            xdp_mode: file.dataplane.xdp_mode.value_or_default(),
            slots: file.dataplane.slots.value_or(DEFAULT_SLOTS),
            lease: file.dataplane.lease.value_or(Duration::from_secs(3)),
            quiet_window: file.dataplane.quiet_window.value_or(Duration::from_secs(2 * 3_600)),
            pins: file.dataplane.pins.value_or(DEFAULT_PINS),
            half_open: file.dataplane.half_open.value_or(DEFAULT_HALF_OPEN),
            udp_idle: file.dataplane.udp_idle.value_or(Duration::from_secs(30)),
            tcp_idle: file.dataplane.tcp_idle.value_or(Duration::from_secs(2 * 3_600)),
            closing_idle: file.dataplane.closing_idle.value_or(Duration::from_secs(60)),
            closed_idle: file.dataplane.closed_idle.value_or(Duration::from_secs(10)),
            half_open_idle: file.dataplane.half_open_idle.value_or(Duration::from_secs(30)),
            sources: file.dataplane.sources.value_or(DEFAULT_SOURCES),
            pin_dir: file.dataplane.pin_dir.value_or(PathBuf::from("/sys/fs/bpf/lb")),
            state_dir: file.dataplane.state_dir.value_or(PathBuf::from("/var/lib/lb")),
        },
        admin: Admin { socket: file.socket.value_or(PathBuf::from("/run/lb/lb.sock")) },
        services,
    })
}

/// The node that this host is.
fn choose(sink: &mut Sink, file: &raw::File, choice: &NodeChoice) -> Option<Node> {
    let nodes = &file.nodes;
    let Some(first) = nodes.first() else {
        if file.nodes_are_wrong {
            return None;
        }
        let hint = "write [node.NAME] with its interfaces, NAME being the host's name";
        sink.mistake(&(0..0), "the file has no node").hint(hint);
        return None;
    };
    let find = |name: &str| nodes.iter().find(|node| node.name.value == name);
    let names = || listed(nodes.iter().map(|node| node.name.value.as_str()));
    let (found, message, hint) = match choice {
        NodeChoice::Any => (Some(first), String::new(), ""),
        NodeChoice::Named(name) => {
            let message = format!("the file has no node {}: it has {}", quoted(name), names());
            (find(name), message, "choose one of them")
        }
        NodeChoice::HostName(name) => {
            // A host may know itself by its fully qualified name.
            let short = name.split('.').next().unwrap_or_default();
            let message =
                format!("no node has this host's name, {}: the file has {}", quoted(name), names());
            let hint = "name this host's node by the option --node, or rename it in the file";
            (find(name).or_else(|| find(short)), message, hint)
        }
    };
    let Some(found) = found else {
        sink.mistake(&first.name.span, message).hint(hint);
        return None;
    };
    Some(Node {
        name: found.name.value.clone(),
        interfaces: found.interfaces.iter().map(|name| name.value.clone()).collect(),
        address: found.address.given().map(|at| at.value),
    })
}

/// All nodes, not only the chosen one: the file is the same on each.
fn nodes(sink: &mut Sink, nodes: &[raw::Node]) {
    let mut addresses: HashMap<IpAddr, &At<String>> = HashMap::new();
    for node in nodes {
        let mut seen: HashMap<&str, &Range<usize>> = HashMap::new();
        for name in &node.interfaces {
            if let Some(before) = seen.insert(&name.value, &name.span) {
                let message = format!("interface {} is listed twice", quoted(&name.value));
                sink.mistake(&name.span, message).see(before, "first here");
            }
        }
        if let Some(extra) = node.interfaces.get(MAX_INTERFACES as usize) {
            let message = format!("a node has at most {MAX_INTERFACES} interfaces");
            sink.mistake(&extra.span, message);
        }
        let Some(address) = node.address.given() else {
            continue;
        };
        if let Some(other) = addresses.insert(address.value, &node.name) {
            let message = format!(
                "nodes {} and {} have the same address",
                quoted(&other.value),
                quoted(&node.name.value)
            );
            sink.mistake(&address.span, message).see(&other.span, "the other node");
        }
    }
}

fn service(sink: &mut Sink, file: &raw::File, raw: &raw::Service) -> Service {
    let (own, defaults) = (&raw.policy, &file.defaults);
    let forward = own.forward.or(&defaults.forward);
    let backends = raw.backends.iter().map(|backend| {
        // With another way of forwarding in mind, a port of its own made sense.
        if !forward.is_wrong() {
            overlap::same_port(sink, backend, &raw.listen);
        }
        Some((
            backend.name.value.clone(),
            Backend {
                address: backend.address.given()?.value,
                weight: u16::try_from(backend.weight.value_or(DEFAULT_WEIGHT)).ok()?,
                admin: backend.admin.value_or_default(),
                backup: backend.backup.value_or_default(),
                slow_start: backend.slow_start.given().map(|at| at.value),
                server_id: backend.server_id.given().and_then(|at| u16::try_from(at.value).ok()),
            },
        ))
    });
    let backends: BTreeMap<_, _> = backends.flatten().collect();
    overlap::same_address(sink, &raw.backends);
    let slots = raw.slots.or(&file.dataplane.slots);
    shares::shares(sink, raw, slots);
    let affinity = affinity::affinity(sink, raw, &defaults.affinity);
    affinity::server_ids(sink, raw, affinity);
    Service {
        listen: raw.listen.iter().map(|listener| listener.value).collect(),
        scheduler: affinity::scheduler(sink, raw, defaults, affinity),
        forward: forward.value_or_default(),
        affinity,
        slots: slots.value_or(DEFAULT_SLOTS),
        slow_start: own.slow_start.or(&defaults.slow_start).value_or(Duration::ZERO),
        limit: limit::limit(sink, raw, affinity),
        sources: overlap::sources(sink, raw),
        on_down: own.on_down.or(&defaults.on_down).value_or_default(),
        no_backend: own.no_backend.or(&defaults.no_backend).value_or_default(),
        drain: Drain {
            grace: own.drain.grace.or(&defaults.drain.grace).value_or(Duration::from_secs(60)),
            then: own.drain.then.or(&defaults.drain.then).value_or_default(),
        },
        check: probe::check(sink, raw, &defaults.check),
        backends,
    }
}
