//! Addresses and ports that are used for two things at once.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::ops::Range;

use lb_common::maps::MAX_LISTENERS;

use super::raw;
use super::report::Sink;
use super::tree::At;
use super::wording::quoted;
use super::{Listener, Prefix, SourceRule};

/// Listeners across all services.
pub fn listeners(sink: &mut Sink, services: &[raw::Service]) {
    let mut seen: HashMap<Listener, (&At<Listener>, &str)> = HashMap::new();
    let mut number = 0;
    for service in services {
        let name = service.name.value.as_str();
        for listener in &service.listen {
            number += 1;
            if number == MAX_LISTENERS + 1 {
                let message = format!("there are more than {MAX_LISTENERS} listeners");
                sink.mistake(&listener.span, message);
            }
            // The first one stays: every later one is shown against it.
            let Some((before, owner)) = seen.get(&listener.value) else {
                seen.insert(listener.value, (listener, name));
                continue;
            };
            let shown = listener.value.to_string();
            let message = match *owner == name {
                true => format!("{} is listed twice", quoted(&shown)),
                false => format!("{} belongs to service {} already", quoted(&shown), quoted(owner)),
            };
            sink.mistake(&listener.span, message).see(&before.span, "first here");
        }
    }
}

/// Addresses that have two meanings: a packet that goes to a VIP comes to a balancer, which
/// must not be where it is sent on to.
pub fn addresses(sink: &mut Sink, file: &raw::File) {
    let mut vips: HashMap<IpAddr, &Range<usize>> = HashMap::new();
    for listener in file.services.iter().flat_map(|service| &service.listen) {
        vips.entry(listener.value.vip).or_insert(&listener.span);
    }
    let mut nodes: HashMap<IpAddr, &At<String>> = HashMap::new();
    for node in &file.nodes {
        let Some(address) = node.address.given() else {
            continue;
        };
        nodes.insert(address.value, &node.name);
        if let Some(vip) = vips.get(&address.value) {
            let message = format!(
                "{} is the address of a node and a VIP",
                quoted(&address.value.to_string())
            );
            let hint = "a VIP is an address that no host has for itself";
            sink.mistake(&address.span, message).hint(hint).see(vip, "the VIP");
        }
    }
    for backend in file.services.iter().flat_map(|service| &service.backends) {
        let Some(address) = backend.address.given() else {
            continue;
        };
        let shown = quoted(&address.value.to_string());
        if let Some(vip) = vips.get(&address.value) {
            let message = format!("{shown} is the address of a backend and a VIP");
            let hint = "packets would come back to the balancer: write the backend's own address";
            sink.mistake(&address.span, message).hint(hint).see(vip, "the VIP");
        }
        if let Some(node) = nodes.get(&address.value) {
            let message = format!("{shown} is the address of a backend and of a node");
            let hint = "a balancer cannot be its own backend: it would send the packets on again";
            sink.mistake(&address.span, message).hint(hint).see(&node.span, "the node");
        }
    }
}

/// `l2` changes hardware addresses only: the backend gets the port that the client chose.
pub fn same_port(sink: &mut Sink, backend: &raw::Backend, listen: &[At<Listener>]) {
    let Some(port) = backend.port.given() else {
        return;
    };
    let other = |listener: &&At<Listener>| {
        listener.value.port.is_none_or(|own| u32::from(own.get()) != port.value)
    };
    if let Some(other) = listen.iter().find(other) {
        let message = format!(
            "`l2` cannot change the port to {}: only the hardware addresses are rewritten",
            port.value
        );
        let hint = "leave `port` out, and let the backend listen on the service's port";
        sink.mistake(&port.span, message).hint(hint).see(&other.span, "another port");
    }
}

/// Most rules of a service for its sources.
const MAX_SOURCE_RULES: usize = 1_000;

/// The rules of a service for its sources: of each prefix there may be one.
pub fn sources(sink: &mut Sink, service: &raw::Service) -> Vec<SourceRule> {
    let mut seen: BTreeMap<Prefix, &At<SourceRule>> = BTreeMap::new();
    for rule in &service.sources {
        let SourceRule { prefix, allow } = rule.value;
        let Some(before) = seen.get(&prefix) else {
            seen.insert(prefix, rule);
            continue;
        };
        let shown = quoted(&prefix.to_string());
        let message = match before.value.allow == allow {
            true => format!("{shown} is listed twice"),
            false => format!("{shown} is both allowed and denied"),
        };
        sink.mistake(&rule.span, message).see(&before.span, "first here");
    }
    if let Some(extra) = service.sources.get(MAX_SOURCE_RULES) {
        let message = format!(
            "a service has at most {MAX_SOURCE_RULES} rules for sources, {} has {}",
            quoted(&service.name.value),
            service.sources.len()
        );
        sink.mistake(&extra.span, message);
    }
    seen.into_values().map(|rule| rule.value).collect()
}

/// Two backends of one service with one address.
pub fn same_address(sink: &mut Sink, backends: &[raw::Backend]) {
    let mut seen: HashMap<IpAddr, &raw::Backend> = HashMap::new();
    for backend in backends {
        let Some(address) = backend.address.given() else {
            continue;
        };
        match seen.get(&address.value) {
            None => {
                seen.insert(address.value, backend);
            }
            Some(first) => {
                let message = format!(
                    "backends {} and {} have the same address",
                    quoted(&first.name.value),
                    quoted(&backend.name.value)
                );
                let hint = "to give a server more flows, raise its `weight`";
                sink.mistake(&address.span, message).hint(hint).see(&first.name.span, "first here");
            }
        }
    }
}
