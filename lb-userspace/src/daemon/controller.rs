//! The owner of configuration, state and dataplane: takes events and requests, plans, and writes
//! what changed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::api::{self, Edit, ExplainRequest, ExplainView, Kind, Problem, Rejection, Request};
use crate::config::{AdminState, Config, NodeChoice, Service};
use crate::dataplane::Dataplane;
use crate::dataplane::bpf::Bpf;
use crate::dataplane::memory::Memory;
use crate::explain::{self, Tuple};
use crate::health::driver::{Supervisor, Target};
use crate::image::{Change, Image};
use crate::net::monitor::link_by_name;
use crate::net::raw::Raw;
use crate::overrides::{self, Store};
use crate::plan::{self, LEASE, OutOfRoom, Plan, Rings};
use crate::reconcile;
use crate::state::{BackendId, Event, State, Status};
use crate::view::Known;

use super::flows::Flows;
use super::growth::Growth;
use super::silent::Silent;
use super::start::{inherit, settling};

/// See the module.
pub struct Controller {
    pub(super) config: Config,
    pub(super) node: NodeChoice,
    pub(super) loaded: Timestamp,
    pub(super) rejected: Option<Rejection>,
    started: Timestamp,
    pub(super) state: State,
    pub(super) bpf: Bpf,
    /// What the maps hold, as far as we know: read again after an error.
    pub(super) held: Image,
    pub(super) plan: Plan,
    rings: Rings,
    pub(super) store: Store,
    health: Supervisor,
    /// Backends that are being probed.
    probed: BTreeSet<BackendId>,
    targets: Option<watch::Sender<BTreeSet<IpAddr>>>,
    /// Why the last write of the maps failed.
    pub(super) trouble: Option<String>,
    /// Why interfaces have no program, a line each.
    detached: Vec<String>,
    pub(super) flows: Flows,
    growth: Growth,
    pub(super) silent: Silent,
    /// Until when nobody is served at the latest, because too little is known.
    pub(super) warming: Option<Instant>,
}

impl Controller {
    /// Loads the programs and finds out what an earlier daemon left. Nothing is attached yet.
    pub async fn start(
        config: Config,
        node: NodeChoice,
        store: impl FnOnce(&Path) -> Store,
        health: Supervisor,
        now: Timestamp,
    ) -> Result<Self> {
        let store = store(&config.dataplane.state_dir);
        let (kept, dropped) = overrides::reconcile(&config, &config, store.load()?);
        for line in &dropped {
            warn!("an operator's change is gone: {line}");
        }
        if !dropped.is_empty() {
            store.save(&kept)?;
        }
        let mut state = State { overrides: kept, ..State::default() };
        for name in &config.node.interfaces {
            let link = link_by_name(name).await?.with_context(|| {
                format!("node {}: there is no interface {name}", config.node.name)
            })?;
            state.interfaces.insert(link.ifindex, link);
        }
        let (wanted, features) = (plan::wanted(&config), plan::features(&config));
        let mut bpf = Bpf::open(&config.dataplane.pin_dir, wanted, features)?;
        let mut held = bpf.image()?;
        let mut rings = Rings::default();
        let first = match plan::plan(&config, &state, &held, bpf.capacity(), &mut rings) {
            Ok(plan) => plan,
            // The maps are full of what an earlier configuration wanted.
            Err(OutOfRoom { held: capacity, .. }) => {
                let room = capacity.plus(&wanted);
                bpf = Bpf::open(&config.dataplane.pin_dir, room, features)?;
                held = bpf.image()?;
                plan::plan(&config, &state, &held, bpf.capacity(), &mut rings)?
            }
        };
        bpf.forward_log();
        let flows = Flows::adopt(&held, bpf.epoch()?);
        // Backends become known one after the other. Were each served at once, most slots would
        // change hands in the first second, and be remembered as moving for the whole window.
        let warming = (!bpf.adopted()).then(|| Instant::now() + settling(&config));
        if bpf.adopted() {
            inherit(&mut state, &config, &first, &held, now);
        }
        let plan = plan::plan(&config, &state, &held, bpf.capacity(), &mut rings)?;
        Ok(Self {
            config,
            node,
            loaded: now,
            rejected: None,
            started: now,
            state,
            bpf,
            held,
            plan,
            rings,
            store,
            health,
            probed: BTreeSet::new(),
            targets: None,
            trouble: None,
            flows,
            growth: Growth::default(),
            silent: Silent::new(Raw::open()),
            warming,
            detached: Vec::new(),
        })
    }

    /// Writes the first image, attaches, and begins to probe.
    pub fn go(&mut self, targets: watch::Sender<BTreeSet<IpAddr>>) -> Result<()> {
        self.targets = Some(targets);
        self.write()?;
        self.attach()?;
        self.renew();
        self.probe();
        Ok(())
    }

    /// Attaches to the interfaces of the configuration, and to no others.
    pub(super) fn attach(&mut self) -> Result<()> {
        self.bpf.attach_to(&self.config.node.interfaces, self.config.dataplane.xdp_mode)
    }

    /// How often the lease is renewed: two renewals may come late before it runs out.
    pub fn renewal(&self) -> Duration {
        self.config.dataplane.lease / 3
    }

    /// Lets VIPs be answered for until the lease from now on is over.
    pub fn renew(&mut self) {
        if self.warming.is_some() {
            return;
        }
        let renewed = clock_gettime(ClockId::CLOCK_MONOTONIC)
            .context("failed to read the clock")
            .and_then(|now| {
                let deadline = Duration::from(now) + self.config.dataplane.lease;
                self.bpf.renew(LEASE, deadline.as_nanos() as u64)
            });
        if let Err(error) = renewed {
            error!("failed to renew the lease of the VIPs: {error:#}");
        }
    }

    /// Takes note of events, and writes the maps once for all of them.
    pub fn learn(&mut self, events: impl Iterator<Item = Event>) {
        let (mut services, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        let (mut links, mut changed) = (false, false);
        for event in events {
            match &event {
                // The last word of a probe that has been ended.
                Event::Health { backend, .. } if !self.probed.contains(backend) => continue,
                Event::Health { backend, .. } => {
                    services.insert(backend.service.clone());
                }
                Event::NextHop { address, .. } => {
                    addresses.insert(*address);
                }
                Event::Link(_) => links = true,
            }
            changed |= self.state.apply(event);
        }
        if !changed {
            return;
        }
        self.attach_again();
        self.warm();
        if links {
            return self.replan();
        }
        if !addresses.is_empty() {
            services.extend(self.services_at(&addresses));
        }
        self.replan_some(&services);
    }

    /// Services that have a backend at one of the addresses.
    fn services_at(&self, addresses: &BTreeSet<IpAddr>) -> Vec<String> {
        let has = |(name, service): &(&String, &Service)| {
            let mut files = service.backends.values().map(|file| file.address);
            let place = self.plan.layout.services.get(*name);
            let mut leaving = place.into_iter().flat_map(|place| place.leaving.values());
            files.any(|address| addresses.contains(&address))
                || leaving.any(|address| addresses.contains(&IpAddr::from(*address)))
        };
        self.config.services.iter().filter(has).map(|(name, _)| name.clone()).collect()
    }

    /// Ends the warming-up when every backend's probes have told, or time is over.
    pub(super) fn warm(&mut self) {
        let told = |id: &BackendId| {
            self.state.health.get(id).is_some_and(|health| health.status != Status::Unknown)
        };
        let Some(until) = self.warming else { return };
        if self.probed.iter().all(told) || Instant::now() >= until {
            info!("warmed up: backends are served");
            self.warming = None;
            self.replan();
            self.renew();
        }
    }

    /// Attaches to interfaces that were made anew under their old names.
    fn attach_again(&mut self) {
        self.detached.clear();
        for name in &self.config.node.interfaces {
            let link = self.state.interfaces.values().find(|link| link.name == *name);
            let attached = self.bpf.attachments().get(name).map(|attached| attached.ifindex);
            let Some(link) = link.filter(|link| Some(link.ifindex) != attached) else { continue };
            warn!(interface = name, ifindex = link.ifindex, "a new interface: attaching");
            if let Err(error) = self.bpf.attach(name, self.config.dataplane.xdp_mode) {
                error!("{error:#}");
                self.detached.push(format!("{error:#}"));
            }
        }
    }

    /// Compares maps and links with what they should be, and mends them.
    pub fn resync(&mut self) {
        self.attach_again();
        match self.bpf.image_like(&self.held) {
            Ok(image) => {
                if image == self.held && self.trouble.is_none() {
                    return;
                }
                if image != self.held {
                    warn!("the maps do not hold what was written: writing them again");
                    self.flows.distrust();
                }
                self.held = image;
                self.flows.take_over(&self.held);
                self.replan();
            }
            Err(error) => error!("failed to read the maps: {error:#}"),
        }
    }

    /// Answers a request. An asker that is gone does not matter.
    pub fn answer(&mut self, request: Request, now: Timestamp) {
        match request {
            Request::Status(reply) => {
                let view = self.known(|known| known.status());
                drop(reply.send(view.map_err(failed)));
            }
            Request::Reload(reply) => drop(reply.send(self.reload(now))),
            Request::Diff(file, reply) => self.dry_run(file, reply),
            Request::Flows(query, reply) => self.list_flows(query, reply),
            Request::FlowCount(query, reply) => self.count_flows(query, reply),
            Request::Explain(request, reply) => drop(reply.send(self.explain(&request))),
            Request::Edit(id, edit, by, reply) => drop(reply.send(self.edit(&id, &edit, &by, now))),
        }
    }

    /// Ends the probes. The maps and links stay as they are.
    pub async fn stop(self) {
        self.health.shutdown().await;
    }

    /// Addresses of all backends, those included that are no longer in the file but may have
    /// flows.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        let services = self.config.services.values();
        let named = services.flat_map(|service| service.backends.values().map(|b| b.address));
        let held = self.plan.image.backends.values().map(|backend| backend.address.into());
        named.chain(held).collect()
    }

    fn explain(&self, request: &ExplainRequest) -> Result<ExplainView, Problem> {
        let tuple: Tuple = request.flow.parse().map_err(|error: anyhow::Error| Problem {
            kind: Kind::BadRequest,
            detail: format!("{error:#}"),
        })?;
        let image = self.bpf.image().map_err(failed)?;
        let tables = Memory::copy_of(&image, self.bpf.capacity()).map_err(failed)?;
        if let Some(key) = explain::key(tuple, &tables) {
            for (record, pin) in self.bpf.remembered(&key).map_err(failed)? {
                tables.tables.records.borrow_mut().insert((record, key), pin);
            }
        }
        for line in explain::counted_lines(tuple, &tables) {
            let open = self.bpf.open_flows(line).map_err(failed)?;
            tables.tables.counts.borrow_mut().open.insert(line, open);
        }
        let first = |name: &String| self.state.interfaces.values().find(|link| link.name == *name);
        let ingress = self.config.node.interfaces.iter().find_map(first);
        let ingress = ingress.map(|link| (link.ifindex, link.mac));
        let ingress = ingress.context("no interface is known").map_err(failed)?;
        Ok(explain::explain(tuple, &self.config, &self.state, &self.plan.layout, &tables, ingress))
    }

    fn edit(
        &mut self,
        id: &BackendId,
        edit: &Edit,
        by: &str,
        now: Timestamp,
    ) -> Result<api::BackendView, Problem> {
        let Some(service) = self.config.services.get(&id.service) else {
            let detail = format!("there is no service `{}`", id.service);
            return Err(Problem { kind: Kind::NotFound, detail });
        };
        let Some(file) = service.backends.get(&id.backend) else {
            let detail = format!("service {} has no backend `{}`", id.service, id.backend);
            return Err(Problem { kind: Kind::NotFound, detail });
        };
        let file = file.clone();
        let mut changed = self.state.overrides.clone();
        match overrides::edit(&file, changed.get(id), edit, by, now) {
            Some(kept) => changed.insert(id.clone(), kept),
            None => changed.remove(id),
        };
        // On disk first: what cannot be kept over a restart is not done. A slow disk shall not
        // cost the VIPs.
        self.renew();
        self.store.save(&changed).map_err(failed)?;
        self.state.overrides = changed;
        self.warming = None;
        info!(backend = %id, admin = ?edit.admin, weight = ?edit.weight, reason = ?edit.reason, by, "operator's change");
        self.probe();
        self.replan();
        if let Some(trouble) = &self.trouble {
            return Err(Problem { kind: Kind::Failed, detail: trouble.clone() });
        }
        self.known(|known| known.backend(id)).map_err(failed)
    }

    fn known<T>(&self, view: impl FnOnce(&Known<'_, Bpf>) -> T) -> T {
        let modes: Vec<(String, &'static str)> = self
            .bpf
            .attachments()
            .iter()
            .map(|(name, attachment)| (name.clone(), attachment.mode()))
            .collect();
        view(&Known {
            config: &self.config,
            loaded: self.loaded,
            rejected: self.rejected.as_ref(),
            started: self.started,
            state: &self.state,
            plan: &self.plan,
            modes: &modes,
            trouble: self.trouble.as_deref(),
            detached: &self.detached,
            silent: self.silent.told(),
            untold: &self.silent.untold(&self.config),
            warming: self.warming.is_some(),
            flows: &|service, number| self.flows.of(service, number),
            dataplane: &self.bpf,
        })
    }

    /// Gives backends that start slowly what they have earned since the last second.
    pub(super) fn let_grow(&mut self) {
        let growing = self.state.growing.keys().map(|id| id.service.clone());
        let growing: BTreeSet<String> = growing.collect();
        if !growing.is_empty() {
            self.replan_some(&growing);
        }
    }

    /// Plans anew and writes what is different. An error is kept for the status, and tried again
    /// with the next event or resync.
    pub(super) fn replan(&mut self) {
        if self.warming.is_some() {
            return;
        }
        self.state.growing = self.growth.look(&self.config, &self.state, self.flows.epoch());
        let planned =
            plan::plan(&self.config, &self.state, &self.held, self.bpf.capacity(), &mut self.rings);
        let written = planned.map_err(anyhow::Error::from).and_then(|plan| {
            self.plan = plan;
            self.write()
        });
        self.note_trouble(written);
    }

    /// Plans some services anew, if everything else is in the maps as it was planned, and writes
    /// what is different.
    pub(super) fn replan_some(&mut self, services: &BTreeSet<String>) {
        if self.warming.is_some() || self.trouble.is_some() {
            return self.replan();
        }
        let epoch = self.flows.epoch();
        self.state.growing = self.growth.look_at(services.iter(), &self.config, &self.state, epoch);
        let part = plan::part(&self.plan, &self.config, &self.state, services, &mut self.rings);
        let Some(part) = part else { return self.replan() };
        let written = self.make(part.changes());
        if written.is_ok() {
            part.put_into(&mut self.held);
            part.put_into(&mut self.plan.image);
            part.into_layout(&mut self.plan.layout);
        }
        self.note_trouble(written);
    }

    fn note_trouble(&mut self, written: Result<()>) {
        self.trouble = match written {
            Ok(()) => None,
            Err(error) => {
                error!("{error:#}");
                Some(format!("{error:#}"))
            }
        };
    }

    fn write(&mut self) -> Result<()> {
        let changes = reconcile::diff(&self.held, &self.plan.image);
        if changes.is_empty() {
            return Ok(());
        }
        self.make(&changes)?;
        self.held = self.plan.image.clone();
        Ok(())
    }

    /// Makes changes; when that fails, finds out what the maps hold.
    fn make(&mut self, changes: &[Change]) -> Result<()> {
        match self.bpf.apply(changes) {
            Ok(()) => {
                self.flows.note(changes);
                Ok(())
            }
            Err(error) => {
                self.held = self.bpf.image().context("failed to read the maps")?;
                self.flows.take_over(&self.held);
                Err(error)
            }
        }
    }

    /// Loads the programs anew, with all that the configuration needs of them, and puts larger maps
    /// in place of ones that are too small: with room for all that they hold and for all that is
    /// wanted.
    pub(super) fn grow(&mut self) -> Result<()> {
        let (held, wanted) = (self.bpf.capacity(), plan::wanted(&self.config));
        // Maps that are large enough are adopted.
        let fits = self.try_plan(&self.config.clone(), &self.state.clone()).is_ok();
        let room = if fits { held.or(&wanted) } else { held.plus(&wanted) };
        let features = plan::features(&self.config);
        let mut bpf = Bpf::open(&self.config.dataplane.pin_dir, room, features)?;
        bpf.forward_log();
        self.bpf = bpf;
        self.held = self.bpf.image()?;
        self.attach()
    }

    /// Plans a configuration that is not in force yet.
    pub(super) fn try_plan(&mut self, config: &Config, state: &State) -> Result<Plan, OutOfRoom> {
        plan::plan(config, state, &self.held, self.bpf.capacity(), &mut self.rings)
    }

    /// Tells the probers and the netlink monitor whom to look at, and forgets who is gone.
    pub(super) fn probe(&mut self) {
        let mut targets = Vec::new();
        let mut probed = BTreeSet::new();
        for (service_name, service) in &self.config.services {
            for (name, backend) in &service.backends {
                let id = BackendId { service: service_name.clone(), backend: name.clone() };
                if plan::in_force(backend, &id, &self.state).0 == AdminState::Disable {
                    continue;
                }
                probed.insert(id.clone());
                targets.push(Target {
                    initial: self.state.health.get(&id).map_or(Status::Unknown, |h| h.status),
                    backend: id,
                    address: backend.address,
                    check: service.check.clone(),
                });
            }
        }
        self.state.health.retain(|id, _| probed.contains(id));
        self.probed = probed;
        self.health.set_targets(targets);
        let addresses = self.addresses();
        if let Some(sender) = &self.targets {
            sender.send_replace(addresses);
        }
    }
}

pub(super) fn failed(error: anyhow::Error) -> Problem {
    Problem { kind: Kind::Failed, detail: format!("{error:#}") }
}
