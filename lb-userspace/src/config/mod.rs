//! The checked configuration: what the file says, after every rule about it holds.
//!
//! `raw` has the file's shape and the place of every value; `check` turns it into [`Config`]
//! and reports all mistakes of a file at once. Nothing behind this module checks again.
//!
//! ```text
//! text -> toml's tree with spans -> raw::File -> check -> Config
//!         (load)                    (schema, tree)  (probe)
//!                  every mistake -> report::Sink -> Report
//! ```

mod affinity;
mod check;
mod duration;
mod limit;
mod listen;
mod load;
mod overlap;
mod probe;
mod raw;
mod report;
mod schema;
mod shares;
mod source;
#[cfg(test)]
mod tests;
mod tree;
mod wording;

pub use load::{Loaded, NodeChoice, load, parse};
pub use report::{Mistake, Report};
pub use source::{Prefix, SourceRule};

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A whole configuration file, seen from one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    /// SHA-256 of the file's bytes, in lower-case hexadecimal.
    pub digest: String,
    /// The node that this host is.
    pub node: Node,
    /// How the packet path is set up.
    pub dataplane: Dataplane,
    /// How operators reach the daemon.
    pub admin: Admin,
    /// Services by name.
    pub services: BTreeMap<String, Service>,
}

/// A host that runs the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name in the file.
    pub name: String,
    /// Interfaces that the XDP program is attached to, by name; at least one.
    pub interfaces: Vec<String>,
    /// The node's own address, if given.
    pub address: Option<IpAddr>,
}

/// How the packet path is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataplane {
    /// Where in the network stack the program runs.
    pub xdp_mode: XdpMode,
    /// Slots of the table of a service that does not say otherwise; a prime.
    pub slots: u32,
    /// How long a VIP is answered for after the daemon's last sign of life.
    pub lease: Duration,
    /// For how long after a change of a slot its old flows are found without having been heard
    /// of; those that speak at least once in this time outlive any change.
    pub quiet_window: Duration,
    /// Flows of either kind that can be remembered.
    pub pins: u32,
    /// Half-open connections that can be remembered during a change.
    pub half_open: u32,
    /// How long a UDP flow is remembered without a packet.
    pub udp_idle: Duration,
    /// How long a connection of a service that records its flows is kept without a packet.
    pub tcp_idle: Duration,
    /// The same once its client has sent a FIN.
    pub closing_idle: Duration,
    /// The same once its client has sent a RST.
    pub closed_idle: Duration,
    /// The same while no more than its SYN was seen.
    pub half_open_idle: Duration,
    /// Source addresses that [`Limit::source`] can tell apart.
    pub sources: u32,
    /// Directory in a bpffs under which maps and links are pinned.
    pub pin_dir: PathBuf,
    /// Directory for what must survive a reboot: overrides, the hash key.
    pub state_dir: PathBuf,
}

/// Where in the network stack the program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum XdpMode {
    /// In the driver where it can, else generic.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// Behind the driver, on socket buffers: works everywhere, slower.
    Generic,
}

/// How operators reach the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Path of the unix socket.
    pub socket: PathBuf,
}

/// A virtual service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Addresses, ports and protocols that it is reached under; at least one.
    pub listen: Vec<Listener>,
    /// How new flows are spread.
    pub scheduler: Scheduler,
    /// How packets reach the backends.
    pub forward: Forward,
    /// What makes packets belong together.
    pub affinity: Affinity,
    /// Slots of its table; a prime.
    pub slots: u32,
    /// For how long the share of a backend that came up grows to its weight; zero: it has all of
    /// it at once.
    pub slow_start: Duration,
    /// How many new flows are let in.
    pub limit: Limit,
    /// Which sources may come in, and which may not: no prefix twice.
    pub sources: Vec<SourceRule>,
    /// What becomes of the flows of a backend that is down.
    pub on_down: OnDown,
    /// What becomes of flows for which there is no backend.
    pub no_backend: NoBackend,
    /// How a drained backend ends.
    pub drain: Drain,
    /// How backends are probed.
    pub check: Check,
    /// Backends by name; at least one.
    pub backends: BTreeMap<String, Backend>,
}

impl Service {
    /// Whether a source that no rule names may come in: yes unless something is allowed by name.
    pub fn admits_unnamed(&self) -> bool {
        !self.sources.iter().any(|rule| rule.allow)
    }

    /// Whether every flow is recorded one by one, since no hash tells where it went.
    pub fn records_flows(&self) -> bool {
        match self.scheduler {
            Scheduler::Maglev => false,
            Scheduler::RoundRobin | Scheduler::LeastConn => true,
        }
    }
}

/// How many new flows of a service are let in; what is beyond that is turned away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Of the whole service.
    pub flows: Option<Rate>,
    /// Of one source: an IPv4 address, or a /64 of IPv6.
    pub source: Option<Rate>,
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// New flows per second, in the long run.
    pub per_second: u32,
    /// How many of them may come at once.
    pub burst: u32,
}

/// One address, port and protocol of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listener {
    /// The virtual IP.
    pub vip: IpAddr,
    /// Destination port; `None` for all that no other listener of the address has.
    pub port: Option<NonZeroU16>,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl fmt::Display for Listener {
    /// `192.0.2.1:443/tcp`, `[2001:db8::1]:*/udp`: what [`Listener::parse`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vip {
            IpAddr::V4(vip) => write!(f, "{vip}:")?,
            IpAddr::V6(vip) => write!(f, "[{vip}]:")?,
        }
        match self.port {
            Some(port) => write!(f, "{port}")?,
            None => f.write_str("*")?,
        }
        write!(f, "/{}", self.protocol)
    }
}

/// Transport protocols that a service can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => lb_common::flow::protocol::TCP,
            Self::Udp => lb_common::flow::protocol::UDP,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// How new flows are spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheduler {
    /// Consistent hashing by a weighted Maglev table (Eisenbud et al., NSDI 2016).
    #[default]
    Maglev,
    /// One after the other, by weight.
    RoundRobin,
    /// To the backend with the fewest flows for its weight.
    LeastConn,
}

/// How packets reach the backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forward {
    /// Direct server return on one segment: both MACs are rewritten, nothing else.
    #[default]
    L2,
    /// Direct server return over any network: in IP (RFC 2003, RFC 2473).
    Ipip,
    /// The same in GUE, which spreads flows over a backend's receive queues.
    Gue,
}

/// What makes packets belong together, to one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Affinity {
    /// Addresses, ports and protocol. Of UDP, every flow is remembered while it is not idle.
    #[default]
    Flow,
    /// The source address.
    ClientIp,
    /// As `Flow`, but UDP packets go by their hash alone: a change of backends moves them. For
    /// services of UDP listeners only, such as DNS.
    None,
    /// The server's id in QUIC connection ids, else as `Flow`: a connection outlives a change of
    /// its client's address. For services of UDP listeners only.
    Quic,
}

/// What becomes of the flows of a backend that is down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDown {
    /// They go on being sent there: it may come back.
    #[default]
    Keep,
    /// They are reset at their client's next packet.
    Reset,
}

/// What becomes of flows for which there is no backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoBackend {
    /// They are dropped; the client tries again by itself.
    #[default]
    Drop,
    /// They are refused: TCP reset, ICMP port unreachable.
    Reject,
}

/// How a drained backend ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// How long its flows may go on.
    pub grace: Duration,
    /// What becomes of those that are left then.
    pub then: OnDown,
}

/// A real server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its own address.
    pub address: IpAddr,
    /// Its share of the flows, relative to the other backends' of the service; 0 to
    /// [`MAX_WEIGHT`]. 0 takes no new flows.
    pub weight: u16,
    /// What the operator wants of it.
    pub admin: AdminState,
    /// Whether it serves only while no other backend of the service does.
    pub backup: bool,
    /// Its own slow start, instead of the service's.
    pub slow_start: Option<Duration>,
    /// What tells it in QUIC connection ids; every backend of a service with [`Affinity::Quic`]
    /// has one.
    pub server_id: Option<u16>,
}

/// Largest weight of a backend.
pub const MAX_WEIGHT: u16 = 1_000;

/// What the operator wants of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdminState {
    /// It takes flows while it is healthy.
    #[default]
    Ready,
    /// It takes no new flows.
    Drain,
    /// It takes nothing and is not probed.
    Disable,
}

impl fmt::Display for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Disable => "disable",
        })
    }
}

/// How backends are probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What a probe does.
    pub probe: Probe,
    /// Port to probe; where the file gives none, that of the first TCP listener that has one, else
    /// of the first UDP listener. 0 if nothing is probed.
    pub port: u16,
    /// Time from one probe to the next while nothing changes.
    pub interval: Duration,
    /// The same while a backend is not yet settled: unknown, or between up and down.
    pub fast_interval: Duration,
    /// How long one probe may take.
    pub timeout: Duration,
    /// Successes in a row that make a backend up.
    pub rise: u32,
    /// Failures in a row that make it down.
    pub fall: u32,
}

/// What a probe does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Nothing: the backend counts as up.
    None,
    /// Opens a TCP connection and closes it.
    Tcp,
    /// Asks by HTTP/1.1, over TLS if `tls` is there.
    Http {
        /// Path and query.
        path: String,
        /// `Host` header (and server name for TLS); the backend's address where the file gives
        /// none.
        host: Option<String>,
        /// Status codes that count as success; empty: 200 to 399.
        expect: Vec<u16>,
        /// How the connection is secured.
        tls: Option<Tls>,
    },
}

/// How a probe checks the backend's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Not at all.
    None,
    /// Against the host's certificate store.
    System,
    /// Against the certificates in a PEM file.
    Ca(PathBuf),
}
