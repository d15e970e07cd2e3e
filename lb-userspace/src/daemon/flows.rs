//! What becomes of flows over time: counts the seconds that they are dated with, commits slots
//! that have been quiet, ends drains, and takes the census of remembered flows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context, Result};
use tokio::task::JoinHandle;
use tracing::{error, info};

use super::controller::Controller;
use crate::api::BackendState;
use crate::config::{AdminState, Backend, OnDown};
use crate::dataplane::Dataplane;
use crate::image::{Change, Image};
use crate::plan::{backend_state, is_always_watched};
use crate::state::BackendId;
use crate::transition::{
    Census, Counted, Counter, Idle, Touched, Transitions, counted_lines, is_census_needed, unwatch,
};

/// How often remembered flows are counted.
const CENSUS: u64 = 5;
/// The controller's knowledge of flows.
#[derive(Debug)]
pub struct Flows {
    epoch: u64,
    transitions: Transitions,
    /// When each drain began, by service and address.
    drains: BTreeMap<(String, IpAddr), u64>,
    census: Option<JoinHandle<Result<Census>>>,
    /// Since the census that is under way began.
    touched: Touched,
    /// The last census, and when it began.
    last: Option<(u64, Census)>,
    next: u64,
}

impl Flows {
    /// What a restarted daemon knows.
    pub fn adopt(image: &Image, epoch: u64) -> Self {
        let mut transitions = Transitions::default();
        transitions.adopt(image, epoch);
        Self {
            epoch,
            transitions,
            drains: BTreeMap::new(),
            census: None,
            touched: Touched::default(),
            last: None,
            next: epoch,
        }
    }

    /// Seconds counted so far.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Takes note of changes that were made.
    pub fn note(&mut self, changes: &[Change]) {
        self.transitions.note(changes, self.epoch);
        self.touched.note(changes);
    }

    /// Takes note of slots that are moving without having been changed by us.
    pub fn take_over(&mut self, image: &Image) {
        self.transitions.adopt(image, self.epoch);
    }

    /// Takes note that somebody else has changed the maps.
    pub const fn distrust(&mut self) {
        self.touched.touch_all();
    }

    /// Flows remembered for a backend, by service id and number. `None`: not counted yet.
    pub fn of(&self, service: u32, number: u16) -> Option<u64> {
        let (_, census) = self.last.as_ref()?;
        Some(census.flows.get(&(service, number)).copied().unwrap_or(0))
    }
}

impl Controller {
    /// To be called every second.
    pub fn count_a_second(&mut self) {
        self.flows.epoch += 1;
        if let Err(error) = self.bpf.set_epoch(self.flows.epoch) {
            error!("failed to write the epoch: {error:#}");
        }
        let window = self.config.dataplane.quiet_window;
        let due = self.flows.transitions.due(&self.held, self.flows.epoch, window);
        self.settle(&due, "slots committed");
        self.warm();
        self.end_drains();
        self.let_grow();
        self.take_census();
        self.prod_the_silent();
    }

    /// Makes changes of slots that no plan asked for: what new flows are given stays as it is.
    fn settle(&mut self, changes: &[Change], what: &str) {
        if changes.is_empty() {
            return;
        }
        if let Err(error) = self.bpf.apply(changes) {
            error!("{error:#}");
            self.resync();
            return;
        }
        for change in changes {
            let Change::SetSlots(base, updates) = change else { continue };
            for image in [&mut self.held, &mut self.plan.image] {
                let Some(slots) = image.slots.get_mut(base) else { continue };
                *slots = slots.with(updates);
            }
        }
        self.flows.note(changes);
        let count: usize = changes
            .iter()
            .map(|change| if let Change::SetSlots(_, updates) = change { updates.len() } else { 0 })
            .sum();
        info!(count, "{what}");
        // A backend that left may have been kept for these slots only.
        let bases: BTreeSet<u32> = changes
            .iter()
            .filter_map(|change| match change {
                Change::SetSlots(base, _) => Some(*base),
                _ => None,
            })
            .collect();
        let places = self.plan.layout.services.iter();
        let services = places.filter(|(_, place)| bases.contains(&place.slot_base));
        self.replan_some(&services.map(|(name, _)| name.clone()).collect());
    }

    /// Drains whose grace is over, by their service's policy.
    fn end_drains(&mut self) {
        let mut draining = BTreeMap::new();
        let changed: BTreeSet<&String> =
            self.state.overrides.keys().map(|id| &id.service).collect();
        for (name, service) in &self.config.services {
            // By the file or by an operator: of most backends there is nothing to look up.
            let drains = |file: &Backend| file.admin == AdminState::Drain || file.weight == 0;
            let is_changed = changed.contains(name);
            let backends = service.backends.iter().filter(|(_, file)| is_changed || drains(file));
            for (backend, file) in backends {
                let id = BackendId { service: name.clone(), backend: backend.clone() };
                if backend_state(service, file, &id, &self.state) == BackendState::Draining {
                    draining.insert((name.clone(), file.address), service.drain);
                }
            }
            let place = self.plan.layout.services.get(name);
            for address in place.into_iter().flat_map(|place| place.leaving.values()) {
                draining.insert((name.clone(), IpAddr::from(*address)), service.drain);
            }
        }
        let epoch = self.flows.epoch;
        self.flows.drains.retain(|key, _| draining.contains_key(key));
        let mut over = BTreeSet::new();
        for (key, drain) in draining {
            let since = *self.flows.drains.entry(key.clone()).or_insert(epoch);
            if drain.then == OnDown::Reset && epoch - since >= drain.grace.as_secs() {
                over.insert(key);
            }
        }
        if over != self.state.drained {
            let before = std::mem::replace(&mut self.state.drained, over);
            self.replan();
            for (service, address) in self.state.drained.difference(&before) {
                info!(service, %address, "the drain is over: flows that are left are reset");
            }
        }
    }

    /// Begins a census when it is time, and takes the result of one that is done.
    fn take_census(&mut self) {
        if let Some(task) = self.flows.census.take_if(|task| task.is_finished()) {
            // Finished: this does not wait.
            match futures_util::FutureExt::now_or_never(task) {
                Some(Ok(Ok(census))) => self.use_census(census),
                Some(Ok(Err(error))) => error!("failed to count the flows: {error:#}"),
                Some(Err(error)) => error!("the census of flows died: {error}"),
                None => {}
            }
        }
        if self.flows.census.is_some() || self.flows.epoch < self.flows.next {
            return;
        }
        self.flows.next = self.flows.epoch + CENSUS;
        if !is_census_needed(&self.held, &self.plan.layout) {
            self.flows.last = Some((self.flows.epoch, Census::default()));
            return;
        }
        let open = match self.counted() {
            Ok(open) => open,
            Err(error) => return error!("{error:#}"),
        };
        self.flows.touched = Touched::since(&self.held);
        let layout = &self.plan.layout;
        let mut counter = Counter::new(&self.held, layout, self.flows.epoch, self.idle(), open);
        let records = self.bpf.records();
        self.flows.census = Some(tokio::task::spawn_blocking(move || {
            let mut records = records?;
            records
                .retain(|record, key, pin| counter.count(record, key, pin))
                .context("failed to go through the flows")?;
            Ok(counter.finish())
        }));
    }

    /// What the packet path has counted of open flows, by line.
    fn counted(&self) -> Result<BTreeMap<u32, Counted>> {
        let counted = |(line, service)| {
            let (open, begun) = (self.bpf.open_flows(line)?, self.bpf.turns(service)?);
            Ok((line, Counted { open, begun }))
        };
        let counted: Result<_> = counted_lines(&self.held).map(counted).collect();
        counted.context("failed to read the numbers of open flows")
    }

    /// How long flows are remembered without a packet.
    pub(super) fn idle(&self) -> Idle {
        let settings = &self.config.dataplane;
        Idle {
            pinned: settings.quiet_window,
            recorded: settings.tcp_idle,
            closing: settings.closing_idle,
            closed: settings.closed_idle,
            udp: settings.udp_idle,
            half_open: settings.half_open_idle,
        }
    }

    fn use_census(&mut self, census: Census) {
        let always: Vec<u32> = self
            .config
            .services
            .iter()
            .filter(|(_, service)| is_always_watched(service))
            .filter_map(|(name, _)| self.plan.layout.services.get(name).map(|place| place.id))
            .collect();
        let corrected = self.counted().and_then(|now| {
            let mut corrections = census.corrections(&now).into_iter();
            corrections.try_for_each(|(line, by)| self.bpf.correct_open_flows(line, by))
        });
        if let Err(error) = corrected {
            error!("failed to correct the numbers of open flows: {error:#}");
        }
        let changes = unwatch(&self.held, &census, &self.flows.touched, |id| always.contains(&id));
        let free = census.free(&self.plan.layout, &self.flows.touched);
        if !free.is_empty() {
            // For this one plan: what is free now may be taken again with the next.
            let left = |id: u32| free.iter().any(|(service, _)| *service == id);
            let places = self.plan.layout.services.iter();
            let services = places.filter(|(_, place)| left(place.id));
            let services = services.map(|(name, _)| name.clone()).collect();
            self.state.free = free.clone();
            self.replan_some(&services);
            self.state.free.clear();
        }
        self.flows.last = Some((self.flows.epoch, census));
        self.settle(&changes, "slots are no longer watched");
    }
}
