//! Services and their backends, as operators see them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use lb_common::maps::Counter;
use lb_common::slot::Slot;

use super::Known;
use crate::api::{BackendState, BackendView, GuardView, LeavingView, ServiceState, ServiceView};
use crate::config::{self, Scheduler};
use crate::dataplane::Dataplane;
use crate::plan::{self, GROWN, ServiceLayout, backend_state, in_force, listener_key, usable};
use crate::slots::Slots;
use crate::state::{BackendId, NextHop, State, Status};

/// What is the same for all backends of a service, found out once.
struct Team<'a> {
    service: &'a config::Service,
    place: Option<&'a ServiceLayout>,
    /// Whether new flows are the backups'.
    on_backups: bool,
    /// Whether those that start slowly get less than others for it.
    grows: bool,
    /// Turns until all begins anew, where new flows go by turns.
    lap: Option<u32>,
    /// By number, how many slots or turns of a lap are a backend's.
    slots: BTreeMap<u32, u32>,
}

impl<D: Dataplane> Known<'_, D> {
    /// One service.
    pub(super) fn service(&self, name: &str, service: &config::Service) -> Result<ServiceView> {
        let team = self.team(name, service);
        let backends = service
            .backends
            .iter()
            .map(|(backend, file)| {
                let id = BackendId { service: name.to_owned(), backend: backend.clone() };
                self.member(&id, file, &team)
            })
            .collect::<Result<Vec<_>>>()?;
        let serving = backends.iter().filter(|b| b.state == BackendState::Serving).count();
        Ok(ServiceView {
            name: name.to_owned(),
            listen: service.listen.iter().map(ToString::to_string).collect(),
            scheduler: service.scheduler,
            affinity: service.affinity,
            forward: service.forward,
            slots: service.slots,
            lap: team.lap,
            moving: self.moving(&team),
            guard: guard(service),
            drain_grace: service.drain.grace.as_secs(),
            leaving: self.leaving(&team),
            state: service_state(serving, &backends, team.on_backups),
            on_backups: team.on_backups && serving > 0,
            serving,
            packets: backends.iter().map(|backend| backend.packets).sum(),
            bytes: backends.iter().map(|backend| backend.bytes).sum(),
            backends,
        })
    }

    /// One backend.
    pub fn backend(&self, id: &BackendId) -> Result<BackendView> {
        let service = self.config.services.get(&id.service);
        let file = service.and_then(|service| service.backends.get(&id.backend));
        let (service, file) =
            service.zip(file).with_context(|| format!("there is no backend {id}"))?;
        self.member(id, file, &self.team(&id.service, service))
    }

    fn team<'a>(&'a self, name: &str, service: &'a config::Service) -> Team<'a> {
        let place = self.plan.layout.services.get(name);
        let on_backups = plan::on_backups(name, service, self.state);
        let lap = match service.scheduler {
            Scheduler::RoundRobin => {
                let listener = service.listen.first().map(listener_key);
                let entry = listener.and_then(|key| self.plan.image.listeners.get(&key));
                Some(entry.map_or(0, |entry| entry.lap))
            }
            Scheduler::Maglev | Scheduler::LeastConn => None,
        };
        let mut slots = BTreeMap::new();
        match (lap, self.slots_of(place), place) {
            (Some(lap), Some(held), _) => {
                for raw in held.iter().take(lap as usize) {
                    *slots.entry(Slot::from_raw(*raw).current()).or_default() += 1;
                }
            }
            (None, Some(held), Some(place)) => {
                let numbers = place.numbers.values().map(|number| u32::from(*number));
                slots.extend(numbers.map(|number| (number, held.share(number))));
            }
            _ => {}
        }
        let grows = grows(name, service, on_backups, self.state);
        Team { service, place, on_backups, grows, lap, slots }
    }

    fn member(
        &self,
        id: &BackendId,
        file: &config::Backend,
        team: &Team<'_>,
    ) -> Result<BackendView> {
        let number = team.place.and_then(|place| place.numbers.get(&id.backend).copied());
        let found = team.place.zip(number);
        let counter = match found {
            Some((place, number)) => self.dataplane.backend_counter(place.line(number))?,
            None => Counter::default(),
        };
        let open = match (team.service.scheduler, found) {
            (Scheduler::LeastConn, Some((place, number))) => {
                // Below nought for a moment, where a flow ended that had been taken off already.
                let open = self.dataplane.open_flows(place.line(number))? as i64;
                Some(open.max(0) as u64)
            }
            (Scheduler::LeastConn, None) | (Scheduler::Maglev | Scheduler::RoundRobin, _) => None,
        };
        let health = self.state.health.get(id);
        let (admin, weight) = in_force(file, id, self.state);
        let state = match backend_state(team.service, file, id, self.state) {
            BackendState::Serving if self.warming => BackendState::Checking,
            BackendState::Serving if file.backup && !team.on_backups => BackendState::Standby,
            state => state,
        };
        let grown = self.state.growing.get(id).copied().unwrap_or(GROWN);
        let is_growing = team.grows && grown < GROWN && state == BackendState::Serving;
        let own = number.and_then(|number| team.slots.get(&u32::from(number)).copied());
        Ok(BackendView {
            id: id.clone(),
            address: file.address,
            state,
            health: health.map_or(Status::Unknown, |health| health.status),
            check: health.map_or_else(|| "not probed yet".to_owned(), |health| health.last.clone()),
            since: health.map(|health| health.since),
            admin,
            weight,
            file_admin: file.admin,
            file_weight: file.weight,
            overridden: self.state.overrides.get(id).cloned(),
            backup: file.backup,
            growing: is_growing.then_some(grown / (GROWN / 100)),
            next_hop: match usable(team.service.forward, file.address, self.state) {
                Ok(NextHop::Resolved { interface, mac, gateway: Some(gateway), .. }) => {
                    format!("{mac} via {interface}, gateway {gateway}")
                }
                Ok(NextHop::Resolved { interface, mac, .. }) => format!("{mac} via {interface}"),
                Ok(NextHop::Unresolved(reason)) => reason.clone(),
                Err(reason) => reason,
            },
            slots: (team.service.scheduler != Scheduler::LeastConn).then_some(own.unwrap_or(0)),
            open,
            flows: found.and_then(|(place, number)| (self.flows)(place.id, number)),
            packets: counter.packets,
            bytes: counter.bytes,
        })
    }

    fn slots_of(&self, place: Option<&ServiceLayout>) -> Option<&Slots> {
        place.and_then(|place| self.plan.image.slots.get(&place.slot_base))
    }

    /// How many slots of a service are as asked; none where slots do not tell who gets a flow.
    fn count(&self, team: &Team<'_>, is: impl Fn(Slot) -> bool) -> u32 {
        if team.service.records_flows() {
            return 0;
        }
        let slots = self.slots_of(team.place).into_iter().flat_map(|slots| slots.iter());
        slots.filter(|raw| is(Slot::from_raw(**raw))).count() as u32
    }

    fn moving(&self, team: &Team<'_>) -> u32 {
        if team.service.records_flows() {
            return 0;
        }
        self.slots_of(team.place).map_or(0, Slots::moving)
    }

    fn leaving(&self, team: &Team<'_>) -> Vec<LeavingView> {
        let Some(place) = team.place else { return Vec::new() };
        let held = |number: u16| self.plan.image.backends.contains_key(&place.line(number));
        let leaving = place.leaving.iter().filter(|(number, _)| held(**number));
        leaving
            .map(|(number, address)| LeavingView {
                address: (*address).into(),
                flows: (self.flows)(place.id, *number),
                slots: self
                    .count(team, |slot| slot.is_moving() && slot.base() == u32::from(*number)),
            })
            .collect()
    }
}

/// How much of a service is there. Those that an operator took out are not missed, and backups not
/// where they are not needed.
fn service_state(serving: usize, backends: &[BackendView], on_backups: bool) -> ServiceState {
    let is_due = |backend: &&BackendView| {
        !backend.backup && !matches!(backend.state, BackendState::Draining | BackendState::Disabled)
    };
    match serving {
        0 => ServiceState::Down,
        _ if on_backups => ServiceState::Degraded,
        n if n == backends.iter().filter(is_due).count() => ServiceState::Up,
        _ => ServiceState::Degraded,
    }
}

/// Whether a slow start makes a difference: by a Maglev table all begin at once where nobody has
/// begun before.
fn grows(name: &str, service: &config::Service, on_backups: bool, state: &State) -> bool {
    if service.scheduler != Scheduler::Maglev || state.growing.is_empty() {
        return true;
    }
    service.backends.iter().any(|(backend, file)| {
        let id = BackendId { service: name.to_owned(), backend: backend.clone() };
        file.backup == on_backups
            && !state.growing.contains_key(&id)
            && backend_state(service, file, &id, state) == BackendState::Serving
    })
}

fn guard(service: &config::Service) -> Option<GuardView> {
    let rules = |allow| service.sources.iter().filter(|rule| rule.allow == allow).count();
    let guard = GuardView {
        flows: service.limit.flows,
        source: service.limit.source,
        allow: rules(true),
        deny: rules(false),
    };
    let everybody = GuardView { flows: None, source: None, allow: 0, deny: 0 };
    (guard != everybody).then_some(guard)
}
