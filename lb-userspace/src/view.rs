//! What operators see of the daemon, from what it knows. Pure: counters are read through the
//! dataplane's trait, times are passed in.

use anyhow::Result;
use jiff::Timestamp;
use lb_common::Verdict;
use lb_common::maps::Counter;
use lb_common::slot::Slot;

use crate::api::{
    BackendState, BackendView, ConfigView, InterfaceView, LeavingView, Rejection, ServiceState,
    ServiceView, SilentView, StatusView, VerdictView,
};
use crate::config::{self, Config};
use crate::dataplane::Dataplane;
use crate::plan::{Plan, ServiceLayout, backend_state, in_force};
use crate::slots::Slots;
use crate::state::{BackendId, NextHop, State, Status};

/// Everything that a view is made of.
pub struct Known<'a, D> {
    /// The configuration that runs.
    pub config: &'a Config,
    /// When it was loaded.
    pub loaded: Timestamp,
    /// Why the last reload was refused.
    pub rejected: Option<&'a Rejection>,
    /// When the daemon started.
    pub started: Timestamp,
    /// What has been learnt.
    pub state: &'a State,
    /// What the maps hold.
    pub plan: &'a Plan,
    /// Mode of the program by interface name.
    pub modes: &'a [(String, &'static str)],
    /// Why the last write of the maps failed.
    pub trouble: Option<&'a str>,
    /// Why interfaces have no program, a line each.
    pub detached: &'a [String],
    /// Clients that were made to speak.
    pub silent: SilentView,
    /// Why clients that stay silent cannot be made to speak, a line each.
    pub untold: &'a [String],
    /// Whether nobody is served yet, because too little is known.
    pub warming: bool,
    /// Counts remembered flows, by service id and backend number.
    pub flows: &'a dyn Fn(u32, u16) -> Option<u64>,
    /// Where the counters are.
    pub dataplane: &'a D,
}

impl<D: Dataplane> Known<'_, D> {
    /// The whole status.
    pub fn status(&self) -> Result<StatusView> {
        let services = self
            .config
            .services
            .iter()
            .map(|(name, service)| self.service(name, service))
            .collect::<Result<Vec<_>>>()?;
        let interfaces = self.interfaces();
        Ok(StatusView {
            schema: "lb.status/1".to_owned(),
            node: self.config.node.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started,
            config: ConfigView {
                path: self.config.path.display().to_string(),
                digest: self.config.digest.clone(),
                loaded: self.loaded,
                rejected: self.rejected.cloned(),
            },
            problems: self.problems(&interfaces, &services),
            interfaces,
            services,
            verdicts: self.verdicts()?,
            silent: self.silent,
        })
    }

    /// One service.
    fn service(&self, name: &str, service: &config::Service) -> Result<ServiceView> {
        let backends = service
            .backends
            .iter()
            .map(|(backend, file)| {
                let id = BackendId { service: name.to_owned(), backend: backend.clone() };
                self.backend(&id, file)
            })
            .collect::<Result<Vec<_>>>()?;
        let serving = backends.iter().filter(|b| b.state == BackendState::Serving).count();
        // Those that an operator took out are not missed.
        let due = backends
            .iter()
            .filter(|b| !matches!(b.state, BackendState::Draining | BackendState::Disabled))
            .count();
        let state = match serving {
            0 => ServiceState::Down,
            n if n == due => ServiceState::Up,
            _ => ServiceState::Degraded,
        };
        Ok(ServiceView {
            name: name.to_owned(),
            listen: service.listen.iter().map(ToString::to_string).collect(),
            scheduler: service.scheduler,
            forward: service.forward,
            slots: service.slots,
            moving: self.moving(name),
            drain_grace: service.drain.grace.as_secs(),
            leaving: self.leaving(name),
            state,
            serving,
            packets: backends.iter().map(|backend| backend.packets).sum(),
            bytes: backends.iter().map(|backend| backend.bytes).sum(),
            backends,
        })
    }

    /// One backend.
    pub fn backend(&self, id: &BackendId, file: &config::Backend) -> Result<BackendView> {
        let place = self.plan.layout.services.get(&id.service);
        let number = place.and_then(|place| place.numbers.get(&id.backend).copied());
        let counter = match (place, number) {
            (Some(place), Some(number)) => self.dataplane.backend_counter(place.line(number))?,
            _ => Counter::default(),
        };
        let health = self.state.health.get(id);
        let (admin, weight) = in_force(file, id, self.state);
        Ok(BackendView {
            id: id.clone(),
            address: file.address,
            state: match backend_state(file, id, self.state) {
                BackendState::Serving if self.warming => BackendState::Checking,
                state => state,
            },
            health: health.map_or(Status::Unknown, |health| health.status),
            check: health.map_or_else(|| "not probed yet".to_owned(), |health| health.last.clone()),
            since: health.map(|health| health.since),
            admin,
            weight,
            file_admin: file.admin,
            file_weight: file.weight,
            overridden: self.state.overrides.get(id).cloned(),
            next_hop: match self.state.next_hops.get(&file.address) {
                Some(NextHop::Resolved { interface, mac, .. }) => format!("{mac} via {interface}"),
                Some(NextHop::Unresolved(reason)) => reason.clone(),
                None => "not asked yet".to_owned(),
            },
            slots: place.zip(number).map_or(0, |(place, number)| self.slots(place, number)),
            flows: place.zip(number).and_then(|(place, number)| (self.flows)(place.id, number)),
            packets: counter.packets,
            bytes: counter.bytes,
        })
    }

    fn slots(&self, place: &ServiceLayout, number: u16) -> u32 {
        let slots = self.plan.image.slots.get(&place.slot_base);
        slots.map_or(0, |slots| slots.share(u32::from(number)))
    }

    fn moving(&self, service: &str) -> u32 {
        let place = self.plan.layout.services.get(service);
        let slots = place.and_then(|place| self.plan.image.slots.get(&place.slot_base));
        slots.map_or(0, Slots::moving)
    }

    fn leaving(&self, service: &str) -> Vec<LeavingView> {
        let Some(place) = self.plan.layout.services.get(service) else { return Vec::new() };
        let held = |number: u16| self.plan.image.backends.contains_key(&place.line(number));
        let leaving = place.leaving.iter().filter(|(number, _)| held(**number));
        let slots = self.plan.image.slots.get(&place.slot_base);
        let left = |number: u16| {
            let slots = slots.into_iter().flat_map(|slots| slots.iter());
            let slots = slots.map(|raw| Slot::from_raw(*raw));
            slots.filter(|slot| slot.is_moving() && slot.base() == u32::from(number)).count()
        };
        leaving
            .map(|(number, address)| LeavingView {
                address: (*address).into(),
                flows: (self.flows)(place.id, *number),
                slots: left(*number) as u32,
            })
            .collect()
    }

    fn interfaces(&self) -> Vec<InterfaceView> {
        let view = |(name, mode): &(String, &'static str)| {
            let link = self.state.interfaces.values().find(|link| link.name == *name);
            InterfaceView {
                name: name.clone(),
                xdp_mode: (*mode).to_owned(),
                up: link.is_some_and(|link| link.up),
                mac: link.map(|link| link.mac.to_string()).unwrap_or_default(),
            }
        };
        self.modes.iter().map(view).collect()
    }

    fn verdicts(&self) -> Result<Vec<VerdictView>> {
        let mut views = Vec::new();
        for verdict in Verdict::counted() {
            let counter = self.dataplane.verdict_counter(verdict)?;
            if counter.packets > 0 {
                let (action, reason) = verdict.name();
                views.push(VerdictView {
                    action: action.to_owned(),
                    reason: reason.to_owned(),
                    packets: counter.packets,
                    bytes: counter.bytes,
                });
            }
        }
        Ok(views)
    }

    fn problems(&self, interfaces: &[InterfaceView], services: &[ServiceView]) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(trouble) = self.trouble {
            problems.push(format!("the maps could not be written: {trouble}"));
        }
        problems.extend(self.detached.iter().cloned());
        if self.rejected.is_some() {
            problems.push("the configuration file was refused: the old one runs on".to_owned());
        }
        for service in services.iter().filter(|service| service.state == ServiceState::Down) {
            problems.push(format!("service {} has no backend that serves", service.name));
        }
        for interface in interfaces {
            if !interface.up {
                problems.push(format!("interface {} is down", interface.name));
            }
            let by_choice = self.config.dataplane.xdp_mode == config::XdpMode::Generic;
            if interface.xdp_mode == "generic" && !by_choice {
                problems.push(format!(
                    "interface {} runs in generic XDP mode, which is slower than native (to try \
                     native again: stop the daemon, `lb detach`, start it)",
                    interface.name
                ));
            }
        }
        for backend in services.iter().flat_map(|service| &service.backends) {
            match backend.state {
                BackendState::Down => {
                    problems.push(format!("{} is down: {}", backend.id, backend.check));
                }
                BackendState::Unreachable => {
                    problems
                        .push(format!("{} cannot be reached: {}", backend.id, backend.next_hop));
                }
                BackendState::Serving
                | BackendState::Draining
                | BackendState::Disabled
                | BackendState::Checking => {}
            }
        }
        problems.extend(self.untold.iter().cloned());
        problems
    }
}
