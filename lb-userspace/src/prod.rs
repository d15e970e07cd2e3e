//! Whom to make speak: clients that wait in silence for a backend whose flows are reset. Pure.
//!
//! The packet path resets a flow at its client's next packet, and only then can it: hosts take a
//! reset with the very next sequence number and no other (RFC 5961 section 3.2), and that number
//! is in what the client sends, while the backend's answers never come by here. So a client that
//! is silent is prodded: it gets a segment that is outside its window, and has to answer with an
//! ACK that bears its true numbers (RFC 9293 section 3.10.7.4).

use std::collections::{BTreeMap, BTreeSet};

use lb_common::Flow;
use lb_common::builder::Packet;
use lb_common::flow::protocol;
use lb_common::maps::{BACKEND_RESET, FlowKey, PIN_CLOSING, Pin, Service, ServiceKey};
use lb_common::tables::Record;

use crate::config::{Config, OnDown, Protocol};
use crate::image::{Image, service_of};

/// Flows that are prodded in a second, of all backends together.
pub const PER_SECOND: usize = 1_000;
/// Seconds between the end of a round and the next one: a prod or its answer may get lost. Longer
/// than hosts wait before they answer the next odd segment (Linux: half a second).
const PAUSES: [u64; 2] = [3, 7];
/// Hop limit of what is sent from here (RFC 1700).
const HOP_LIMIT: u8 = 64;

/// Flows by their backend: its service's id and its number.
type Found = BTreeMap<(u32, u16), BTreeSet<FlowKey>>;

/// The backends whose flows are reset, and how far their clients have been told.
#[derive(Debug, Default)]
pub struct Prods(BTreeMap<(u32, u16), Gone>);

/// A backend whose flows are reset.
#[derive(Debug)]
struct Gone {
    /// Rounds that are over.
    rounds: usize,
    /// When the next one begins; `None` while one is under way, and after the last.
    due: Option<u64>,
    /// Flows that are yet to be prodded in this one.
    flows: BTreeSet<FlowKey>,
}

/// A flow to prod now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prod {
    /// The flow, as its client's packets have it.
    pub flow: Flow,
    /// Whether it is in the first round.
    pub first: bool,
}

impl Prods {
    /// Takes note of which backends' flows are reset now. Flows of one that is back are left
    /// alone at once.
    pub fn note(&mut self, image: &Image, epoch: u64) {
        let gone = gone(image);
        self.0.retain(|place, _| gone.contains(place));
        for place in gone {
            let new = Gone { rounds: 0, due: Some(epoch), flows: BTreeSet::new() };
            self.0.entry(place).or_insert(new);
        }
    }

    /// Begins the rounds that are due, if any: their flows have to be found.
    pub fn begin(&mut self, image: &Image, epoch: u64) -> Option<Finder> {
        let mut found = Found::new();
        for (place, gone) in &mut self.0 {
            if gone.due.take_if(|due| *due <= epoch).is_some() {
                found.insert(*place, BTreeSet::new());
            }
        }
        (!found.is_empty()).then(|| Finder { listeners: image.listeners.clone(), found })
    }

    /// Takes what a finder has found. Where nobody is left, there is no further round.
    pub fn take(&mut self, finder: Finder) {
        for (place, flows) in finder.found {
            // One that came back and went again since then begins anew.
            let gone = self.0.get_mut(&place).filter(|gone| gone.due.is_none());
            if let Some(gone) = gone {
                gone.flows = flows;
            }
        }
    }

    /// The flows to prod in this second, taken from all rounds alike.
    pub fn next(&mut self, epoch: u64) -> Vec<Prod> {
        let mut prods = Vec::new();
        loop {
            let before = prods.len();
            for gone in self.0.values_mut() {
                if prods.len() == PER_SECOND {
                    return prods;
                }
                let Some(key) = gone.flows.pop_first() else { continue };
                prods.push(Prod { flow: Flow::from(&key), first: gone.rounds == 0 });
                if gone.flows.is_empty() {
                    gone.due = PAUSES.get(gone.rounds).map(|pause| epoch + pause);
                    gone.rounds += 1;
                }
            }
            if prods.len() == before {
                return prods;
            }
        }
    }
}

/// Backends whose flows are reset, by service id and number.
fn gone(image: &Image) -> BTreeSet<(u32, u16)> {
    let services: BTreeMap<u32, &Service> =
        image.listeners.values().map(|listener| (listener.id, listener)).collect();
    let mut gone = BTreeSet::new();
    for (id, service) in services {
        let base = service.backend_base;
        let lines = image.backends.range(base..base + service.backend_lines);
        let reset = lines.filter(|(_, backend)| backend.next_hop & BACKEND_RESET != 0);
        gone.extend(reset.map(|(line, _)| (id, (line - base) as u16)));
    }
    gone
}

/// Finds the flows of a round among those that are remembered. It holds copies only, so that it
/// may take its time on another thread.
#[derive(Debug)]
pub struct Finder {
    listeners: BTreeMap<ServiceKey, Service>,
    found: Found,
}

impl Finder {
    /// Looks at a flow. A client that has ended its flow waits for nothing, one that is not
    /// through with its handshake tries again by itself, and UDP knows no reset.
    pub fn look(&mut self, record: Record, key: &FlowKey, pin: &Pin) {
        let flow = Flow::from(key);
        if record == Record::HalfOpen
            || flow.protocol != protocol::TCP
            || pin.flags & PIN_CLOSING != 0
        {
            return;
        }
        let Some(service) = service_of(&self.listeners, &flow) else { return };
        if service.id != key.service() {
            return;
        }
        if let Some(flows) = self.found.get_mut(&(service.id, pin.backend)) {
            flows.insert(*key);
        }
    }
}

/// The segment that makes a client speak, as a whole IP packet from the address and port that it
/// is connected to: an ACK with numbers by chance, which all but never fall into its window. The
/// next round takes other ones.
pub fn segment(flow: &Flow, chance: u64) -> Vec<u8> {
    let (client, vip) = flow.ends();
    Packet::tcp(vip, client)
        .numbers((chance >> 32) as u32, chance as u32)
        .hop_limit(HOP_LIMIT)
        .unidentified()
        .build_datagram()
}

/// Whether a configuration may have clients of an address family reset, IPv4 or IPv6.
pub fn may_reset(config: &Config, is_v4: bool) -> bool {
    let resets = config
        .services
        .values()
        .filter(|service| service.on_down == OnDown::Reset || service.drain.then == OnDown::Reset);
    resets
        .flat_map(|service| &service.listen)
        .any(|listener| listener.protocol == Protocol::Tcp && listener.vip.is_ipv4() == is_v4)
}

#[cfg(test)]
mod tests;
