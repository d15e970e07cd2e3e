//! Where a flow would go, and why: the packet path's own code over a copy of its tables. Pure.

use std::net::SocketAddr;

use anyhow::{Result, anyhow, ensure};
use lb_common::builder::{Packet, tcp_flag};
use lb_common::flow::protocol;
use lb_common::frame::MemoryFrame;
use lb_common::judge::{service_of, slot_index};
use lb_common::maps::{FlowKey, Service};
use lb_common::parse::{self, Content};
use lb_common::process::process;
use lb_common::{Flow, Mac, Tables, Verdict};

use crate::api::{ExplainBackend, ExplainService, ExplainSlot, ExplainView};
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
        established: None,
        action: String::new(),
        reason: String::new(),
    };
    if let Some((flow, service)) = service(&first, tables) {
        fill(&mut view, &flow, &service, config, layout, tables);
    }
    // The packet path remembers flows: each packet gets tables of its own.
    if let Verdict::Forward(route) = process(&mut later, &tables.tables.clone()) {
        view.established = Some(backend_name(layout, route.line));
    }
    let verdict = process(&mut first, &tables.tables.clone());
    let (action, reason) = verdict.name();
    view.action = action.to_owned();
    view.reason = reason.to_owned();
    if let Verdict::Forward(route) = verdict {
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
    view
}

/// What a flow is remembered by, if it is sent to a service.
pub fn key(tuple: Tuple, tables: &Memory) -> Option<FlowKey> {
    let packet = match tuple.protocol {
        Protocol::Tcp => Packet::tcp(tuple.source, tuple.destination),
        Protocol::Udp => Packet::udp(tuple.source, tuple.destination),
    };
    let frame = MemoryFrame { bytes: packet.build(), ingress: 0 };
    let (flow, service) = service(&frame, tables)?;
    Some(flow.key(service.id))
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
    let Some((name, place)) = named else { return };
    let listener = config.services.get(name).and_then(|service_config| {
        service_config.listen.iter().find(|listener| listener_key(listener) == service.key())
    });
    view.service = Some(ExplainService {
        name: name.clone(),
        listener: listener.map(ToString::to_string).unwrap_or_default(),
    });
    let index = slot_index(&control, service, flow);
    if let Some(slot) = tables.tables.slot(index) {
        let backend =
            |number: u32| place.backend(number).map(|backend| format!("{name}/{backend}"));
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
    let named = layout.services.iter().find(|(_, place)| owns(place)).and_then(|(name, place)| {
        place.backend(line - place.backend_base).map(|backend| format!("{name}/{backend}"))
    });
    named.unwrap_or_else(|| format!("line {line}"))
}

/// Protocols that a flow can have are those that a service can have.
const _: () = assert!(Protocol::Tcp.number() == protocol::TCP);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_read_as_they_are_written() {
        for text in [
            "tcp 198.51.100.7:40112 > 192.0.2.100:443",
            "udp [2001:db8::7]:5353 > [2001:db8::100]:53",
        ] {
            let tuple: Tuple = text.parse().unwrap();
            assert_eq!(tuple.to_string(), text);
        }
        let loose: Tuple = "  tcp   198.51.100.7:1>192.0.2.100:443 ".parse().unwrap();
        assert_eq!(loose.to_string(), "tcp 198.51.100.7:1 > 192.0.2.100:443");
    }

    #[test]
    fn what_is_wrong_with_a_flow_is_named() {
        for (text, complaint) in [
            ("", "a flow is written"),
            ("tcp 198.51.100.7:1", "a flow is written"),
            ("sctp 198.51.100.7:1 > 192.0.2.100:443", "`sctp`"),
            ("tcp 198.51.100.7 > 192.0.2.100:443", "`198.51.100.7`"),
            ("tcp 198.51.100.7:1 > [2001:db8::1]:443", "two address families"),
        ] {
            let error = text.parse::<Tuple>().unwrap_err().to_string();
            assert!(error.contains(complaint), "{text}: {error}");
        }
    }
}
