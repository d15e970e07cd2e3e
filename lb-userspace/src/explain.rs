//! Where a flow would go, and why: the packet path's own code over a copy of its tables. Pure.
//!
//! Not everything that decides is copied. Buckets of limits are not: no flow is over a limit here.
//! Nor are turns, which every CPU counts for itself: where they decide, all that may come of it is
//! told.

mod notes;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, anyhow, ensure};
use lb_common::builder::{Packet, tcp_flag};
use lb_common::flow::protocol;
use lb_common::frame::MemoryFrame;
use lb_common::judge::{service_of, slot_index};
use lb_common::maps::{FlowKey, SERVICE_CHOOSES, SERVICE_LEAST_CONN, Service};
use lb_common::memory::MemoryTables;
use lb_common::parse::{self, Content};
use lb_common::process::process;
use lb_common::tables::Lap;
use lb_common::{Flow, Mac, Tables, Verdict};

use crate::api::{ExplainBackend, ExplainChoice, ExplainService, ExplainSlot, ExplainView};
use crate::config::{Config, Protocol};
use crate::dataplane::memory::Memory;
use crate::plan::{Layout, ServiceLayout, listener_key};
use crate::state::State;

/// A flow as operators write it: `tcp 198.51.100.7:40112 > 192.0.2.100:443`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    protocol: Protocol,
    source: SocketAddr,
    destination: SocketAddr,
}

impl std::str::FromStr for Tuple {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let form = || anyhow!("a flow is written `tcp 198.51.100.7:40112 > 192.0.2.100:443`");
        let (protocol, ends) = text.trim().split_once(char::is_whitespace).ok_or_else(form)?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            other => return Err(anyhow!("`{other}` is neither tcp nor udp")),
        };
        let (source, destination) = ends.split_once('>').ok_or_else(form)?;
        let end = |text: &str| -> Result<SocketAddr> {
            let text = text.trim();
            text.parse().map_err(|_| anyhow!("`{text}` is no address with a port"))
        };
        let (source, destination) = (end(source)?, end(destination)?);
        ensure!(
            source.is_ipv4() == destination.is_ipv4(),
            "{source} and {destination} are of two address families"
        );
        Ok(Self { protocol, source, destination })
    }
}

impl std::fmt::Display for Tuple {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} > {}", self.protocol, self.source, self.destination)
    }
}

/// Runs packets of the flow through a copy of the tables, with what is remembered of it: its first
/// one, and one from the middle. `ingress` is the interface that they would come in by, and the
/// MAC they would be sent to.
pub fn explain(
    tuple: Tuple,
    config: &Config,
    state: &State,
    layout: &Layout,
    tables: &Memory,
    ingress: (u32, Mac),
) -> ExplainView {
    let packet = match tuple.protocol {
        Protocol::Tcp => Packet::tcp(tuple.source, tuple.destination),
        Protocol::Udp => Packet::udp(tuple.source, tuple.destination),
    };
    let packet = packet.to_mac(ingress.1);
    let frame = |packet: Packet| MemoryFrame { bytes: packet.build(), ingress: ingress.0 };
    let (mut later, mut first) = (frame(packet.clone()), frame(packet.flags(tcp_flag::SYN)));
    let mut view = ExplainView {
        schema: "lb.explain/1".to_owned(),
        flow: tuple.to_string(),
        service: None,
        hash: None,
        slot: None,
        backend: None,
        choices: Vec::new(),
        established: None,
        action: String::new(),
        reason: String::new(),
        notes: Vec::new(),
    };
    // The packet path remembers flows and counts turns: each packet gets tables of its own.
    let known = service(&first, tables);
    let run = |frame: &mut MemoryFrame| {
        let tables = tables.tables.clone();
        let verdict = process(frame, &tables);
        let asked = known.is_some_and(|(_, service)| has_chosen(&tables, &service));
        (verdict, asked)
    };
    // A packet for which a backend had to be chosen was of no flow that is there.
    if let (Verdict::Forward(route), false) = run(&mut later) {
        view.established = Some(backend_name(layout, route.line));
    }
    let (verdict, chosen) = run(&mut first);
    let (action, reason) = verdict.name();
    view.action = action.to_owned();
    view.reason = reason.to_owned();
    if let Some((flow, service)) = &known {
        fill(&mut view, flow, service, config, layout, tables);
        if chosen && matches!(verdict, Verdict::Forward(_)) {
            view.choices = choices(service, layout, tables);
        }
    }
    // Of one backend it is always the turn.
    if view.choices.len() > 1 {
        let by_turns = known.is_some_and(|(_, service)| service.flags & SERVICE_LEAST_CONN == 0);
        view.reason = if by_turns { "round-robin" } else { "least-conn" }.to_owned();
    } else if let Verdict::Forward(route) = verdict {
        let ifindex = route.redirect.unwrap_or(ingress.0);
        let interface = state.interfaces.get(&ifindex).map(|link| link.name.clone());
        let address = tables.tables.backends.get(&route.line).map(|line| line.address.into());
        view.backend = Some(ExplainBackend {
            id: backend_name(layout, route.line),
            address: address.unwrap_or(tuple.destination.ip()),
            mac: route.next_hop.to_string(),
            interface: interface.unwrap_or_else(|| format!("interface {ifindex}")),
        });
    }
    view.notes = notes::notes(&view, tuple, config, layout, tables);
    view
}

/// What a flow is remembered by, if it is sent to a service.
pub fn key(tuple: Tuple, tables: &Memory) -> Option<FlowKey> {
    let (flow, service) = sent_to(tuple, tables)?;
    Some(flow.key(service.id))
}

/// The backend lines whose open flows decide where a flow goes if it begins now. No image has these
/// numbers: they are to be put into the tables before [`explain`].
pub fn counted_lines(tuple: Tuple, tables: &Memory) -> Vec<u32> {
    match sent_to(tuple, tables) {
        Some((_, service)) if service.flags & SERVICE_LEAST_CONN != 0 => {
            let lines = service.backend_base..service.backend_base + service.backend_lines;
            tables.tables.backends.range(lines).map(|(line, _)| *line).collect()
        }
        Some(_) | None => Vec::new(),
    }
}

fn sent_to(tuple: Tuple, tables: &Memory) -> Option<(Flow, Service)> {
    let packet = match tuple.protocol {
        Protocol::Tcp => Packet::tcp(tuple.source, tuple.destination),
        Protocol::Udp => Packet::udp(tuple.source, tuple.destination),
    };
    service(&MemoryFrame { bytes: packet.build(), ingress: 0 }, tables)
}

/// Whether a backend had to be chosen by more than the flow.
fn has_chosen(tables: &MemoryTables, service: &Service) -> bool {
    let turns = tables.counts.borrow().turns.get(&service.id).copied();
    service.flags & SERVICE_CHOOSES != 0 && turns.is_some_and(|turns| turns > 0)
}

/// The backends that a new flow may be given to, depending on whose turn it is.
fn choices(service: &Service, layout: &Layout, tables: &Memory) -> Vec<ExplainChoice> {
    let by_flows = service.flags & SERVICE_LEAST_CONN != 0;
    let mut turns: BTreeMap<u32, u32> = BTreeMap::new();
    for start in 0..service.lap {
        let number = if by_flows {
            let (slot_base, backend_base) = (service.slot_base, service.backend_base);
            tables.tables.least(Lap { slot_base, backend_base, length: service.lap, start })
        } else {
            tables.tables.slot(service.slot_base + start).map_or(0, |slot| slot.current())
        };
        *turns.entry(number).or_default() += 1;
    }
    let named = layout.services.iter().find(|(_, place)| place.id == service.id);
    let mut names = named.map(|(name, place)| backend_names(name, place)).unwrap_or_default();
    let choice = |(number, turns)| {
        let line = service.backend_base + number;
        // Below nought for a moment, where a flow ended that had been taken off already.
        let open = by_flows.then(|| (tables.tables.open_flows(line) as i64).max(0) as u64);
        let id = names.remove(&number).unwrap_or_else(|| format!("line {line}"));
        ExplainChoice { id, turns, open }
    };
    let mut choices: Vec<_> = turns.into_iter().map(choice).collect();
    choices.sort_by(|one, other| one.id.cmp(&other.id));
    choices
}

/// The flow and the service that the packet path sees in the frame.
fn service(frame: &MemoryFrame, tables: &Memory) -> Option<(Flow, Service)> {
    let link = parse::link(frame)?;
    let Content::Segment(segment) = parse::content(frame, &link) else { return None };
    let control = tables.tables.control()?;
    Some((segment.flow, service_of(&tables.tables, &control, &segment.flow)?))
}

fn fill(
    view: &mut ExplainView,
    flow: &Flow,
    service: &Service,
    config: &Config,
    layout: &Layout,
    tables: &Memory,
) {
    let control = tables.tables.control;
    view.hash = Some(flow.hash(control.hash_key));
    let named = layout.services.iter().find(|(_, place)| place.id == service.id);
    let Some((name, _)) = named else { return };
    let file = config.services.get(name);
    let listener = file.and_then(|file| {
        file.listen.iter().find(|listener| listener_key(listener) == service.key())
    });
    view.service = Some(ExplainService {
        name: name.clone(),
        listener: listener.map(ToString::to_string).unwrap_or_default(),
        scheduler: file.map(|file| file.scheduler).unwrap_or_default(),
        affinity: file.map(|file| file.affinity).unwrap_or_default(),
    });
    let index = slot_index(&control, service, flow);
    if let Some(slot) = tables.tables.slot(index) {
        let backend = |number: u32| {
            (number != 0).then(|| backend_name(layout, service.backend_base + number))
        };
        view.slot = Some(ExplainSlot {
            index: index - service.slot_base,
            count: service.slot_count,
            current: backend(slot.current()),
            base: backend(slot.base()),
            watched: slot.watched(),
        });
    }
}

/// `web/web1` for a backend line.
fn backend_name(layout: &Layout, line: u32) -> String {
    let owns = |place: &ServiceLayout| {
        line >= place.backend_base && line < place.backend_base + place.backend_lines
    };
    let owner = layout.services.iter().find(|(_, place)| owns(place));
    let named = owner
        .and_then(|(name, place)| backend_names(name, place).remove(&(line - place.backend_base)));
    named.unwrap_or_else(|| format!("line {line}"))
}

/// Names of a service's backends by number: `web/web1`, and `web/192.0.2.21 (leaving)` of one that is
/// no longer in the file.
fn backend_names(service: &str, place: &ServiceLayout) -> BTreeMap<u32, String> {
    let named = place.numbers.iter().map(|(name, number)| (number, format!("{service}/{name}")));
    let leaving = place.leaving.iter().map(|(number, address)| {
        (number, format!("{service}/{} (leaving)", IpAddr::from(*address)))
    });
    named.chain(leaving).map(|(number, name)| (u32::from(*number), name)).collect()
}

/// Protocols that a flow can have are those that a service can have.
const _: () = assert!(Protocol::Tcp.number() == protocol::TCP);
