//! Prepares a host to be a backend: the VIPs on loopback, the kernel parameters that keep them quiet
//! there, and the end of the tunnel.
//!
//! Everything is decided here, and pure: what is wanted and what is found make a list of changes.
//! [`host`] finds and makes them; [`record`] remembers what to put back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use lb_common::parse::{IPV4_HEADER, IPV6_HEADER};
use serde::{Deserialize, Serialize};

use crate::decap;

pub mod host;
pub mod record;

/// How the balancer's packets come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// As they are, on the same segment.
    L2,
    /// In IP.
    Ipip,
    /// In UDP.
    Gue,
}

/// What the host is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Virtual addresses that it serves.
    pub vips: BTreeSet<IpAddr>,
    /// The end of the tunnel, if packets come by one.
    pub decap: Option<decap::Settings>,
}

/// What the host has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Addresses on loopback.
    pub loopback: BTreeSet<IpAddr>,
    /// Addresses on other interfaces, and which.
    pub elsewhere: BTreeMap<IpAddr, String>,
    /// Kernel parameters that matter.
    pub sysctls: BTreeMap<String, String>,
    /// The end of a tunnel.
    pub decap: Option<decap::Settings>,
}

/// One thing that is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An address comes onto loopback.
    AddAddress(IpAddr),
    /// An address goes from there.
    RemoveAddress(IpAddr),
    /// A kernel parameter, by its name as sysctl(8) has it.
    Sysctl {
        /// Its name.
        name: String,
        /// What it is.
        from: String,
        /// What it becomes.
        to: String,
    },
    /// The end of the tunnel.
    Decap {
        /// What it is.
        from: Option<decap::Settings>,
        /// What it becomes.
        to: Option<decap::Settings>,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddAddress(vip) => write!(f, "+ {vip}/{} on lo", bits(*vip)),
            Self::RemoveAddress(vip) => write!(f, "- {vip}/{} on lo", bits(*vip)),
            Self::Sysctl { name, from, to } => write!(f, "~ {name} {from} -> {to}"),
            Self::Decap { from: None, to: Some(to) } => write!(f, "+ decapsulation {to}"),
            Self::Decap { from: Some(from), to: None } => write!(f, "- decapsulation {from}"),
            Self::Decap { from: Some(from), to: Some(to) } => {
                write!(f, "~ decapsulation {from} -> {to}")
            }
            Self::Decap { from: None, to: None } => write!(f, "  no decapsulation"),
        }
    }
}

/// The length of a prefix that is one address.
pub(crate) const fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// A kernel parameter, and the values that are good; the first is the one to set.
struct Sysctl {
    name: String,
    good: &'static [&'static str],
}

impl Wanted {
    /// Parameters that matter. All are IPv4's: IPv6 neither answers for other interfaces' addresses
    /// nor looks where a packet's source would be.
    fn sysctls(&self) -> Vec<Sysctl> {
        let mut all = Vec::new();
        if !self.vips.iter().any(IpAddr::is_ipv4) {
            return all;
        }
        let mut want = |name: String, good| all.push(Sysctl { name, good });
        // No answer to a question for a VIP. 2 is stricter.
        want("net.ipv4.conf.all.arp_ignore".to_owned(), &["1", "2"]);
        // No question from a VIP.
        want("net.ipv4.conf.all.arp_announce".to_owned(), &["2"]);
        if let Some(decap) = &self.decap {
            // A client's packet may come by another interface than the answer goes by. The larger of
            // the two counts.
            want("net.ipv4.conf.all.rp_filter".to_owned(), &["0"]);
            for interface in &decap.interfaces {
                // As sysctl(8) has names with dots.
                let interface = interface.replace('.', "/");
                want(format!("net.ipv4.conf.{interface}.rp_filter"), &["0"]);
            }
        }
        all
    }

    /// Names of the parameters that matter.
    pub fn sysctl_names(&self) -> Vec<String> {
        self.sysctls().into_iter().map(|sysctl| sysctl.name).collect()
    }
}

/// What has to be changed, in an order in which nothing answers for a VIP meanwhile.
pub fn plan(wanted: &Wanted, found: &Found) -> Vec<Change> {
    let sysctls = wanted.sysctls().into_iter().filter_map(|Sysctl { name, good }| {
        let from = found.sysctls.get(&name).map_or("", String::as_str);
        let to = *good.first()?;
        let change = || Change::Sysctl { name, from: from.to_owned(), to: to.to_owned() };
        (!good.contains(&from)).then(change)
    });
    let missing = wanted.vips.difference(&found.loopback).copied().map(Change::AddAddress);
    let decap = wanted.decap.as_ref().filter(|wanted| match &found.decap {
        Some(found) => !wanted.are_met_by(found),
        None => true,
    });
    let decap = decap.map(|to| Change::Decap { from: found.decap.clone(), to: Some(to.clone()) });
    sysctls.chain(missing).chain(decap).collect()
}

/// What is odd about the host, and not ours to change.
pub fn warnings(wanted: &Wanted, found: &Found) -> Vec<String> {
    let answering = wanted.vips.iter().filter_map(|vip| {
        let interface = found.elsewhere.get(vip)?;
        Some(format!("{vip} is on {interface} too, where this host answers for it"))
    });
    answering.collect()
}

/// Longest packet of a client's, as most of the Internet has it.
const USUAL_MTU: u32 = 1_500;

/// What the tunnel's headers mean for the sizes of packets; `mtus` are those of the interfaces that
/// it comes in by.
pub fn advice(mode: Mode, wanted: &Wanted, mtus: &BTreeMap<String, u32>) -> Vec<String> {
    let Some(decap) = &wanted.decap else { return Vec::new() };
    let families: BTreeSet<_> =
        decap.from.iter().map(|prefix| !prefix.address().is_ipv4()).collect();
    let mut lines = Vec::new();
    for (interface, mtu) in mtus {
        for is_v6 in &families {
            lines.extend(advise(mode, *is_v6, wanted, interface, *mtu));
        }
    }
    lines
}

fn advise(mode: Mode, is_v6: bool, wanted: &Wanted, interface: &str, mtu: u32) -> Vec<String> {
    let (ip, version) = if is_v6 { (IPV6_HEADER, 6) } else { (IPV4_HEADER, 4) };
    let (name, udp) = if mode == Mode::Gue { ("gue", 8) } else { ("ipip", 0) };
    let overhead = (ip + udp) as u32;
    let needed = USUAL_MTU + overhead;
    let mut lines = vec![format!(
        "mtu: {name} over IPv{version} adds {overhead} bytes: packets of {USUAL_MTU} become {needed}, \
         {interface} takes {mtu}"
    )];
    if mtu >= needed {
        lines.push("mtu: that fits, if all between the balancer and this host take as much".into());
        return lines;
    }
    lines.push(format!(
        "mtu: raise it on {interface} and all between the balancer and this host, or have clients \
         send less:"
    ));
    // TCP's own header, and that of the inner packet.
    let families = [("ip", false, 40), ("ip -6", true, 60)];
    for (command, of_v6, headers) in families {
        if wanted.vips.iter().any(|vip| vip.is_ipv6() == of_v6) {
            let advmss = mtu.saturating_sub(overhead + headers);
            lines.push(format!("mtu:   {command} route change default ... advmss {advmss}"));
        }
    }
    lines
}

#[cfg(test)]
mod tests;
