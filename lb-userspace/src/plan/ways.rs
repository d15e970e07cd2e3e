//! How packets get to a backend: whether the way that the kernel knows is of use to a service's
//! forwarding mode, and what tunnels need to know of it.

use std::net::IpAddr;

use lb_common::Address;
use lb_common::maps::{Limits, SERVICE_GUE, SERVICE_IPIP};

use crate::config::{Config, Forward, Service};
use crate::state::{NextHop, State};

/// ICMP errors that are made here, in a second, and at once.
const ERRORS: (u64, u64) = (1_000, 50);
/// Length of packets where nobody has told the interface's.
const USUAL_MTU: u32 = 1_500;

/// Whether a service's packets can go to an address, or why not, in words.
pub fn usable(forward: Forward, address: IpAddr, state: &State) -> Result<&NextHop, String> {
    let hop = state.next_hops.get(&address).ok_or_else(|| "not asked yet".to_owned())?;
    let (gateway, local) = match hop {
        NextHop::Resolved { gateway, local, .. } => (gateway, local),
        NextHop::Unresolved(reason) => return Err(reason.clone()),
    };
    match (forward, gateway, local) {
        (Forward::L2, Some(gateway), _) => {
            Err(format!("behind gateway {gateway}: l2 needs one segment"))
        }
        (Forward::Ipip | Forward::Gue, _, None) => {
            Err("no address of ours to send tunnels from".to_owned())
        }
        (Forward::L2, None, _) | (Forward::Ipip | Forward::Gue, _, Some(_)) => Ok(hop),
    }
}

/// A forwarding mode's flag in the maps.
pub(super) fn flag(forward: Forward) -> u32 {
    match forward {
        Forward::L2 => 0,
        Forward::Ipip => SERVICE_IPIP,
        Forward::Gue => SERVICE_GUE,
    }
}

/// Whether some service needs tunnels.
pub(super) fn tunnels(config: &Config) -> bool {
    config.services.values().any(|service| service.forward != Forward::L2)
}

/// The source of tunnels to a backend; zero where there are none.
pub(super) fn local(forward: Forward, address: IpAddr, state: &State) -> Address {
    match state.next_hops.get(&address) {
        Some(NextHop::Resolved { local: Some(local), .. }) if forward != Forward::L2 => {
            Address::from(*local)
        }
        Some(_) | None => Address::default(),
    }
}

/// The longest packet that fits into the tunnels to all of a service's backends; 0 without tunnels.
pub(super) fn fits(service: &Service, state: &State) -> u32 {
    if service.forward == Forward::L2 {
        return 0;
    }
    let fits = service.backends.values().map(|backend| {
        let mtu = match state.next_hops.get(&backend.address) {
            Some(NextHop::Resolved { mtu, .. }) => *mtu,
            Some(NextHop::Unresolved(_)) | None => USUAL_MTU,
        };
        mtu.saturating_sub(overhead(service.forward, backend.address))
    });
    fits.min().unwrap_or(USUAL_MTU)
}

/// Bytes that a forwarding mode puts in front of a packet to an address.
pub fn overhead(forward: Forward, address: IpAddr) -> u32 {
    let ip = if address.is_ipv4() { 20 } else { 40 };
    match forward {
        Forward::L2 => 0,
        Forward::Ipip => ip,
        Forward::Gue => ip + 8,
    }
}

/// The limit of ICMP errors.
pub(super) fn errors() -> Limits {
    let (rate, burst) = ERRORS;
    let interval = 1_000_000_000 / rate;
    Limits { interval, tolerance: interval * (burst - 1), ..Limits::default() }
}
