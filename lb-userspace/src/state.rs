//! What is known about the world apart from the file, and the events that change it. Pure.

use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lb_common::Mac;
use serde::{Deserialize, Serialize};

use crate::config::AdminState;

/// A backend of a service, by name: written `web/web1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct BackendId {
    /// The service.
    pub service: String,
    /// The backend in it.
    pub backend: String,
}

impl std::fmt::Display for BackendId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.service, self.backend)
    }
}

impl std::str::FromStr for BackendId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((service, backend)) if !service.is_empty() && !backend.is_empty() => {
                Ok(Self { service: service.to_owned(), backend: backend.to_owned() })
            }
            _ => Err(format!("`{text}` is no backend: write SERVICE/BACKEND, such as web/web1")),
        }
    }
}

impl From<BackendId> for String {
    fn from(id: BackendId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for BackendId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// What the daemon has learnt.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Health by backend; absent means not probed yet.
    pub health: BTreeMap<BackendId, Health>,
    /// The way to each backend's address; absent means not looked up yet.
    pub next_hops: BTreeMap<IpAddr, NextHop>,
    /// What operators changed.
    pub overrides: BTreeMap<BackendId, Override>,
    /// The host's interfaces, by index.
    pub interfaces: BTreeMap<u32, Link>,
    /// Backends that have left and are known to have no flow any more: service id and number.
    pub free: BTreeSet<(u32, u16)>,
    /// Backends that start slowly, and how much of their weight they have by now, in thousandths.
    pub growing: BTreeMap<BackendId, u16>,
    /// Backends whose drain is over, and whose flows are to be reset: service and address.
    pub drained: BTreeSet<(String, IpAddr)>,
}

impl State {
    /// Takes note of an event; whether anything is different now.
    pub fn apply(&mut self, event: Event) -> bool {
        match event {
            Event::Health { backend, health } => {
                self.health.insert(backend, health.clone()).as_ref() != Some(&health)
            }
            Event::NextHop { address, hop } => {
                self.next_hops.insert(address, hop.clone()).as_ref() != Some(&hop)
            }
            Event::Link(link) => {
                // An interface that was made anew under its old name has another index.
                self.interfaces
                    .retain(|index, held| *index == link.ifindex || held.name != link.name);
                self.interfaces.insert(link.ifindex, link.clone()).as_ref() != Some(&link)
            }
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A probe ended.
    Health {
        /// The backend.
        backend: BackendId,
        /// Where it stands now.
        health: Health,
    },
    /// The way to an address changed.
    NextHop {
        /// A backend's address.
        address: IpAddr,
        /// The way there.
        hop: NextHop,
    },
    /// An interface of ours changed.
    Link(Link),
}

/// Where a backend stands after its probes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Up, down or not yet known.
    pub status: Status,
    /// What the last probe found, in words: `200 OK in 3 ms`, `connection refused`.
    pub last: String,
    /// Whether the last probe succeeded.
    pub passed: bool,
    /// When the status last changed.
    pub since: Timestamp,
}

/// The verdict of a backend's probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Too few probes to tell; takes no flows.
    #[default]
    Unknown,
    /// Serving.
    Up,
    /// Not serving.
    Down,
}

/// The way to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// By an interface of ours, with a known hardware address.
    Resolved {
        /// Interface towards it.
        ifindex: u32,
        /// That interface's name.
        interface: String,
        /// The backend's hardware address.
        mac: Mac,
        /// The interface's own.
        source: Mac,
        /// The router that the backend is behind; its is the hardware address then.
        gateway: Option<IpAddr>,
        /// Our own address that the kernel would send from.
        local: Option<IpAddr>,
        /// Longest packet that the interface takes, in bytes.
        mtu: u32,
    },
    /// No way, and why, in words: `no route`, `no answer to ARP on eth0`.
    Unresolved(String),
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: Mac,
    /// Whether it is up and has a carrier.
    pub up: bool,
    /// Largest payload.
    pub mtu: u32,
}

/// What an operator changed about a backend, kept over reloads and restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// Instead of the file's admin state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<AdminState>,
    /// What the file said when `admin` was set: a file that says something else by now wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_in_file: Option<AdminState>,
    /// Instead of the file's weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// What the file said when `weight` was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_in_file: Option<u16>,
    /// Why, in the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who: the peer's user name or number on the socket.
    pub by: String,
    /// When.
    pub at: Timestamp,
}
