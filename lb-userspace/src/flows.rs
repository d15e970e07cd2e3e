//! Puts names to what is remembered of flows, one by one or in numbers. Pure: going through the
//! records is the dataplane's work, and may take its time on another thread.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use lb_common::Flow;
use lb_common::maps::{FlowKey, PIN_CLOSING, Pin, Service, ServiceKey};
use lb_common::tables::Record;

use crate::api::{
    BackendFlows, DEFAULT_ROWS, FlowCountView, FlowKind, FlowQuery, FlowState, FlowTally, FlowView,
    FlowsView, Kind, Problem, ServiceFlows,
};
use crate::config::Protocol;
use crate::image::{Image, service_of};
use crate::plan::Layout;
use crate::transition::Idle;

/// What is needed to tell whose a record is: copies only.
#[derive(Clone, Debug)]
pub struct Names {
    listeners: BTreeMap<ServiceKey, Service>,
    services: BTreeMap<u32, Named>,
    epoch: u64,
    idle: Idle,
}

/// A service's names.
#[derive(Clone, Debug)]
struct Named {
    name: String,
    /// By number: the name, or the address of a backend that is no longer in the file.
    backends: BTreeMap<u16, NamedBackend>,
}

#[derive(Clone, Debug)]
struct NamedBackend {
    name: String,
    leaving: bool,
}

/// A record that is a flow's of a service, in numbers.
#[derive(Clone, Copy, Debug)]
struct Seen {
    service: u32,
    backend: u16,
    protocol: Protocol,
    source: SocketAddr,
    destination: SocketAddr,
    kind: FlowKind,
    state: FlowState,
    idle: u64,
}

impl Names {
    /// Names for the flows of an image, at a second of the epoch.
    pub fn new(image: &Image, layout: &Layout, epoch: u64, idle: Idle) -> Self {
        let mut services = BTreeMap::new();
        for (name, place) in &layout.services {
            let known = place.numbers.iter().map(|(name, number)| (*number, name.clone(), false));
            let held = |number: u16| image.backends.contains_key(&place.line(number));
            let leaving = place.leaving.iter().filter(|(number, _)| held(**number));
            let leaving = leaving.map(|(number, address)| (*number, address.to_string(), true));
            let backends = known
                .chain(leaving)
                .map(|(number, name, leaving)| (number, NamedBackend { name, leaving }))
                .collect();
            services.insert(place.id, Named { name: name.clone(), backends });
        }
        Self { listeners: image.listeners.clone(), services, epoch, idle }
    }

    /// A record as a flow; `None` if it leads to no service, or is so old that the next census
    /// forgets it.
    fn look(&self, record: Record, key: &FlowKey, pin: &Pin) -> Option<Seen> {
        let flow = Flow::from(key);
        let service = service_of(&self.listeners, &flow)?;
        if !self.services.contains_key(&service.id) {
            return None;
        }
        let idle = self.idle.age(service, record, key, pin, self.epoch)?;
        let kind = match record {
            Record::HalfOpen => FlowKind::HalfOpen,
            Record::Current => FlowKind::Current,
            Record::Base => FlowKind::Base,
        };
        let state = match record {
            Record::HalfOpen => FlowState::Opening,
            Record::Current | Record::Base if pin.flags & PIN_CLOSING != 0 => FlowState::Closing,
            Record::Current | Record::Base => FlowState::Open,
        };
        let mut protocols = [Protocol::Tcp, Protocol::Udp].into_iter();
        // Each port's two bytes stand in network order.
        let port = |half: u32| (half as u16).swap_bytes();
        Some(Seen {
            service: service.id,
            backend: pin.backend,
            protocol: protocols.find(|protocol| protocol.number() == flow.protocol)?,
            source: SocketAddr::new(flow.source.into(), port(flow.ports)),
            destination: SocketAddr::new(flow.destination.into(), port(flow.ports >> 16)),
            kind,
            state,
            idle,
        })
    }

    fn backend(&self, service: u32, number: u16) -> NamedBackend {
        let named = self.services.get(&service).and_then(|named| named.backends.get(&number));
        named.cloned().unwrap_or_else(|| NamedBackend {
            // Its line was cleared while one of its flows spoke.
            name: format!("number {number}"),
            leaving: true,
        })
    }

    fn row(&self, seen: &Seen) -> FlowView {
        let NamedBackend { name, leaving } = self.backend(seen.service, seen.backend);
        let service = self.services.get(&seen.service);
        FlowView {
            service: service.map(|named| named.name.clone()).unwrap_or_default(),
            backend: name,
            leaving,
            protocol: seen.protocol,
            source: seen.source,
            destination: seen.destination,
            kind: seen.kind,
            state: seen.state,
            idle: seen.idle,
        }
    }
}

/// What is asked for, in numbers.
#[derive(Clone, Debug)]
struct Wanted {
    query: FlowQuery,
    service: Option<u32>,
    backend: Option<u16>,
}

impl Wanted {
    /// Looks for the service and the backend that a query names.
    fn new(query: FlowQuery, names: &Names) -> Result<Self, Problem> {
        let not_found = |detail: String| Err(Problem { kind: Kind::NotFound, detail });
        let Some(wanted) = &query.service else {
            if query.backend.is_some() {
                let detail = "a backend is asked for without its service".to_owned();
                return Err(Problem { kind: Kind::BadRequest, detail });
            }
            return Ok(Self { query, service: None, backend: None });
        };
        let found = names.services.iter().find(|(_, named)| named.name == *wanted);
        let Some((service, named)) = found else {
            return not_found(format!("there is no service `{wanted}`"));
        };
        let backend = match &query.backend {
            None => None,
            Some(wanted) => {
                let found = named.backends.iter().find(|(_, backend)| backend.name == *wanted);
                let Some((number, _)) = found else {
                    return not_found(format!("service {} has no backend `{wanted}`", named.name));
                };
                Some(*number)
            }
        };
        Ok(Self { service: Some(*service), backend, query })
    }

    fn has(&self, seen: &Seen) -> bool {
        self.names(seen.service, seen.backend)
            && self.query.kind.is_none_or(|kind| kind == seen.kind)
            && self.query.source.is_none_or(|source| source.contains(seen.source.ip()))
    }

    fn names(&self, service: u32, backend: u16) -> bool {
        self.service.is_none_or(|wanted| wanted == service)
            && self.backend.is_none_or(|wanted| wanted == backend)
    }
}

/// Something that is collected by going through the records.
pub trait Collect {
    /// What it is in the end.
    type View: Send + 'static;

    /// Takes note of a record.
    fn take(&mut self, record: Record, key: &FlowKey, pin: &Pin);

    /// The result.
    fn finish(self) -> Self::View;
}

/// Flows, one by one.
#[derive(Debug)]
pub struct List {
    names: Names,
    wanted: Wanted,
    limit: usize,
    flows: Vec<FlowView>,
    total: u64,
}

impl List {
    /// An empty list.
    ///
    /// # Errors
    ///
    /// When there is no such service or backend.
    pub fn new(query: FlowQuery, names: Names) -> Result<Self, Problem> {
        let limit = query.limit.unwrap_or(DEFAULT_ROWS) as usize;
        let wanted = Wanted::new(query, &names)?;
        Ok(Self { names, wanted, limit, flows: Vec::new(), total: 0 })
    }
}

impl Collect for List {
    type View = FlowsView;

    fn take(&mut self, record: Record, key: &FlowKey, pin: &Pin) {
        let Some(seen) = self.names.look(record, key, pin) else { return };
        if self.wanted.has(&seen) {
            self.total += 1;
            if self.flows.len() < self.limit {
                self.flows.push(self.names.row(&seen));
            }
        }
    }

    fn finish(mut self) -> FlowsView {
        self.flows.sort_unstable();
        FlowsView {
            schema: "lb.flows/1".to_owned(),
            truncated: self.total > self.flows.len() as u64,
            total: self.total,
            flows: self.flows,
        }
    }
}

/// Flows in numbers.
#[derive(Debug)]
pub struct Count {
    names: Names,
    wanted: Wanted,
    tallies: BTreeMap<u32, BTreeMap<u16, FlowTally>>,
}

impl Count {
    /// Nothing counted yet.
    ///
    /// # Errors
    ///
    /// When there is no such service or backend.
    pub fn new(query: FlowQuery, names: Names) -> Result<Self, Problem> {
        let wanted = Wanted::new(query, &names)?;
        // Those without any flow are told too.
        let mut tallies: BTreeMap<u32, BTreeMap<u16, FlowTally>> = BTreeMap::new();
        for (service, named) in &names.services {
            for number in named.backends.keys().filter(|number| wanted.names(*service, **number)) {
                tallies.entry(*service).or_default().entry(*number).or_default();
            }
        }
        Ok(Self { names, wanted, tallies })
    }
}

impl Collect for Count {
    type View = FlowCountView;

    fn take(&mut self, record: Record, key: &FlowKey, pin: &Pin) {
        let Some(seen) = self.names.look(record, key, pin) else { return };
        if self.wanted.has(&seen) {
            let backends = self.tallies.entry(seen.service).or_default();
            backends.entry(seen.backend).or_default().count(seen.kind, seen.state);
        }
    }

    fn finish(self) -> FlowCountView {
        let Self { names, tallies, .. } = self;
        let mut total = FlowTally::default();
        let mut services = Vec::new();
        for (id, tallies) in tallies {
            let mut sum = FlowTally::default();
            let mut backends = Vec::new();
            for (number, tally) in tallies {
                sum.add(&tally);
                let NamedBackend { name, leaving } = names.backend(id, number);
                backends.push(BackendFlows { backend: name, leaving, tally });
            }
            backends.sort_by(|a, b| (a.leaving, &a.backend).cmp(&(b.leaving, &b.backend)));
            total.add(&sum);
            let service = names.services.get(&id).map(|named| named.name.clone());
            let service = service.unwrap_or_default();
            services.push(ServiceFlows { service, backends, tally: sum });
        }
        services.sort_by(|a, b| a.service.cmp(&b.service));
        FlowCountView { schema: "lb.flow-count/1".to_owned(), services, total }
    }
}

#[cfg(test)]
mod tests;
