//! What loading a file would do, doing nothing. Planning all services anew and going through the
//! flows take their time: both are done with copies, on a thread of their own.

use std::path::Path;

use super::controller::{Controller, failed};
use super::flows_view::walk;
use super::reload::{carried_over, changes, fixed, suffice};
use crate::api::{DiffRequest, DiffView, Kind, Problem, Reply};
use crate::config::{self, Config, Loaded, NodeChoice};
use crate::dataplane::Dataplane;
use crate::dataplane::bpf::Records;
use crate::image::{Capacity, Features};
use crate::plan::{self, Plan, Rings};
use crate::preview::{Plans, Preview, hopeful};
use crate::state::State;
use crate::transition::Idle;

impl Controller {
    /// Answers with what loading a file would do; without one, the daemon's own.
    pub(super) fn dry_run(&self, file: Option<DiffRequest>, reply: Reply<DiffView>) {
        let records = match self.bpf.records() {
            Ok(records) => records,
            Err(error) => return drop(reply.send(Err(failed(error)))),
        };
        let trial = Trial {
            running: self.config.clone(),
            node: self.node.clone(),
            state: self.state.clone(),
            held: Plan { image: self.held.clone(), layout: self.plan.layout.clone() },
            capacity: self.bpf.capacity(),
            features: self.bpf.features(),
            epoch: self.flows.epoch(),
            idle: self.idle(),
        };
        // Ends by itself, at the latest when nobody waits for its answer any more.
        tokio::task::spawn_blocking(move || {
            let result = trial.run(file, &records, || reply.is_closed());
            drop(reply.send(result));
        });
    }
}

/// All that a reload goes by.
struct Trial {
    running: Config,
    node: NodeChoice,
    state: State,
    held: Plan,
    capacity: Capacity,
    features: Features,
    epoch: u64,
    idle: Idle,
}

impl Trial {
    /// Does what a reload does, up to the writing.
    fn run(
        self,
        file: Option<DiffRequest>,
        records: &Records,
        gone: impl Fn() -> bool,
    ) -> Result<DiffView, Problem> {
        let loaded = match file {
            Some(file) => config::parse(Path::new(&file.path), &file.text, &self.node),
            None => config::load(&self.running.path, &self.node),
        };
        let Loaded { config: new, warnings } = loaded
            .map_err(|report| Problem { kind: Kind::InvalidConfig, detail: report.to_string() })?;
        let (state, dropped_overrides) = carried_over(&self.running, &new, &self.state);
        let mut rings = Rings::default();
        let mut plan = |state: &State, capacity: Capacity| {
            plan::plan(&new, state, &self.held.image, capacity, &mut rings)
        };
        let room = self.capacity.plus(&plan::wanted(&new));
        let fits = plan(&state, self.capacity);
        let grows = fits.is_err() || !suffice(self.capacity, self.features, &new);
        let after = match fits {
            Ok(plan) => plan,
            // The copy in larger maps holds what these hold, at the same places.
            Err(_) => plan(&state, room).map_err(|error| failed(error.into()))?,
        };
        let later = plan(&hopeful(&new, &state), room).map_err(|error| failed(error.into()))?;
        let plans = Plans { before: self.held, after, later };
        let mut preview = Preview::new(plans, &new, self.epoch, self.idle);
        walk(records, gone, |record, key, pin| preview.count(record, key, pin)).map_err(failed)?;
        Ok(DiffView {
            schema: "lb.diff/1".to_owned(),
            path: new.path.display().to_string(),
            changed: self.running.digest != new.digest,
            fixed: fixed(&self.running, &new).into_iter().map(str::to_owned).collect(),
            changes: changes(&self.running, &new),
            digest: new.digest,
            dropped_overrides,
            warnings,
            grows,
            services: preview.finish(),
        })
    }
}
