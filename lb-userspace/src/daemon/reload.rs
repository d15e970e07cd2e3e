//! Taking a new configuration: all of it, or nothing.

use std::net::IpAddr;

use jiff::Timestamp;
use tracing::{info, warn};

use super::controller::{Controller, failed};
use crate::api::{Kind, Problem, Rejection, ReloadView};
use crate::config::{self, Config, Loaded, Service};
use crate::dataplane::Dataplane;
use crate::image::{Capacity, Features};
use crate::state::{BackendId, State};
use crate::{overrides, plan};

impl Controller {
    /// Reads the file again. A file that is refused changes nothing, and is remembered.
    pub fn reload(&mut self, now: Timestamp) -> Result<ReloadView, Problem> {
        let result = self.try_reload(now);
        match &result {
            Ok(view) => {
                self.rejected = None;
                info!(digest = view.digest, changes = view.changes.len(), "configuration loaded");
            }
            Err(problem) if self.loaded == now => {
                self.rejected = None;
                warn!("configuration loaded, but the maps could not be written: {problem}");
            }
            Err(problem) => {
                warn!("configuration refused, the old one runs on");
                self.rejected = Some(Rejection { at: now, report: problem.detail.clone() });
            }
        }
        result
    }

    fn try_reload(&mut self, now: Timestamp) -> Result<ReloadView, Problem> {
        let Loaded { config: new, warnings } = config::load(&self.config.path, &self.node)
            .map_err(|report| Problem { kind: Kind::InvalidConfig, detail: report.to_string() })?;
        let fixed = fixed(&self.config, &new);
        if !fixed.is_empty() {
            let detail =
                format!("{} cannot change while the daemon runs: restart it", fixed.join(", "));
            return Err(Problem { kind: Kind::InvalidConfig, detail });
        }
        for (id, address) in moved(&self.config, &new) {
            info!(backend = %id, %address, "at another address: to be probed anew");
        }
        let (state, dropped) = carried_over(&self.config, &new, &self.state);
        let room = self.try_plan(&new, &state).is_ok()
            && suffice(self.bpf.capacity(), self.bpf.features(), &new);
        // A disk may be slow, and most reloads leave the operators' changes alone.
        if state.overrides != self.state.overrides {
            self.store.save(&state.overrides).map_err(failed)?;
        }

        let changes = changes(&self.config, &new);
        let changed = self.config.digest != new.digest;
        let interfaces = self.config.node.interfaces != new.node.interfaces
            || self.config.dataplane.xdp_mode != new.dataplane.xdp_mode;
        let old = std::mem::replace(&mut self.config, new);
        let old_state = std::mem::replace(&mut self.state, state);
        self.renew();
        self.warming = None;
        let prepared = if !room {
            self.grow().and_then(|()| {
                let (config, state) = (self.config.clone(), self.state.clone());
                self.try_plan(&config, &state).map(drop).map_err(anyhow::Error::from)
            })
        } else if interfaces {
            self.attach()
        } else {
            Ok(())
        };
        if let Err(error) = prepared {
            self.config = old;
            self.state = old_state;
            if let Err(error) = self.store.save(&self.state.overrides) {
                warn!("failed to write back the operators' changes: {error:#}");
            }
            if let Err(error) = self.attach() {
                warn!("failed to attach as before: {error:#}");
            }
            return Err(failed(error));
        }
        self.loaded = now;
        self.probe();
        self.replan();
        self.renew();
        if let Some(trouble) = &self.trouble {
            // The new file is in force, and is written again with every event until it succeeds.
            return Err(Problem { kind: Kind::Failed, detail: trouble.clone() });
        }
        Ok(ReloadView {
            digest: self.config.digest.clone(),
            changed,
            changes,
            dropped_overrides: dropped,
            warnings,
        })
    }
}

/// Whether maps and programs can do what a configuration wants, apart from room for its services.
pub(super) fn suffice(held: Capacity, features: Features, new: &Config) -> bool {
    let wanted = plan::wanted(new);
    held.pins >= wanted.pins
        && held.half_open >= wanted.half_open
        && held.sources >= wanted.sources
        && features.include(plan::features(new))
}

/// What is still known under a new configuration, and the operators' changes that are not, a line
/// each.
pub(super) fn carried_over(old: &Config, new: &Config, state: &State) -> (State, Vec<String>) {
    let mut state = state.clone();
    let (kept, dropped) = overrides::reconcile(old, new, state.overrides);
    state.overrides = kept;
    for (id, _) in moved(old, new) {
        // What was found out about the old address says nothing about the new one.
        state.health.remove(&id);
    }
    (state, dropped)
}

/// Backends that have another address, and which.
fn moved(old: &Config, new: &Config) -> Vec<(BackendId, IpAddr)> {
    let mut moved = Vec::new();
    for (service, after) in &new.services {
        let Some(before) = old.services.get(service) else { continue };
        for (backend, file) in &after.backends {
            let known = before.backends.get(backend);
            if known.is_some_and(|known| known.address != file.address) {
                let id = BackendId { service: service.clone(), backend: backend.clone() };
                moved.push((id, file.address));
            }
        }
    }
    moved
}

/// What differs, and cannot change while the daemon runs.
pub(super) fn fixed(old: &Config, new: &Config) -> Vec<&'static str> {
    let (a, b) = (&old.dataplane, &new.dataplane);
    let changed = [
        ("the node's name", old.node.name != new.node.name),
        ("dataplane.pin-dir", a.pin_dir != b.pin_dir),
        ("dataplane.state-dir", a.state_dir != b.state_dir),
        ("admin.socket", old.admin != new.admin),
    ];
    changed.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| name).collect()
}

/// What is different, for people, a line each.
pub(super) fn changes(old: &Config, new: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    if old.node != new.node {
        lines.push(format!("~ node {}", new.node.name));
    }
    if old.dataplane != new.dataplane {
        lines.push("~ dataplane".to_owned());
    }
    for name in old.services.keys().filter(|name| !new.services.contains_key(*name)) {
        lines.push(format!("- service {name}"));
    }
    for (name, service) in &new.services {
        match old.services.get(name) {
            None => lines.push(format!("+ service {name}")),
            Some(before) => service_changes(name, before, service, &mut lines),
        }
    }
    lines
}

fn service_changes(name: &str, old: &Service, new: &Service, lines: &mut Vec<String>) {
    for listener in old.listen.iter().filter(|listener| !new.listen.contains(listener)) {
        lines.push(format!("- {name} {listener}"));
    }
    for listener in new.listen.iter().filter(|listener| !old.listen.contains(listener)) {
        lines.push(format!("+ {name} {listener}"));
    }
    if old.check != new.check {
        lines.push(format!("~ {name} check"));
    }
    let changed = [
        ("scheduler", old.scheduler != new.scheduler),
        ("forward", old.forward != new.forward),
        ("affinity", old.affinity != new.affinity),
        ("slots", old.slots != new.slots),
        ("slow-start", old.slow_start != new.slow_start),
        ("limit", old.limit != new.limit),
        ("sources", old.sources != new.sources),
        ("on-down", old.on_down != new.on_down),
        ("no-backend", old.no_backend != new.no_backend),
        ("drain", old.drain != new.drain),
    ];
    let changed = changed.into_iter().filter(|(_, changed)| *changed);
    lines.extend(changed.map(|(key, _)| format!("~ {name} {key}")));
    for backend in old.backends.keys().filter(|backend| !new.backends.contains_key(*backend)) {
        lines.push(format!("- {name}/{backend}"));
    }
    for (backend, after) in &new.backends {
        let Some(before) = old.backends.get(backend) else {
            lines.push(format!("+ {name}/{backend}"));
            continue;
        };
        if before.address != after.address {
            lines.push(format!(
                "~ {name}/{backend} address {} -> {}",
                before.address, after.address
            ));
        }
        if before.weight != after.weight {
            lines.push(format!("~ {name}/{backend} weight {} -> {}", before.weight, after.weight));
        }
        if before.admin != after.admin {
            lines.push(format!("~ {name}/{backend} admin {} -> {}", before.admin, after.admin));
        }
        if before.backup != after.backup {
            lines.push(format!("~ {name}/{backend} backup {} -> {}", before.backup, after.backup));
        }
        if before.slow_start != after.slow_start {
            lines.push(format!("~ {name}/{backend} slow-start"));
        }
        if before.server_id != after.server_id {
            lines.push(format!("~ {name}/{backend} server-id"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Limit, Prefix, Rate, SourceRule};
    use crate::plan::tests::world;

    #[test]
    fn every_difference_of_a_service_is_told() {
        let old = world(&[(1, &[(1, 11, true, 100)])]).config();
        let mut new = old.clone();
        let service = new.services.get_mut("s1").expect("a service");
        service.slots = 251;
        service.slow_start = Duration::from_secs(30);
        service.limit = Limit { flows: Some(Rate { per_second: 5, burst: 9 }), source: None };
        let prefix = Prefix { address: IpAddr::from([10, 0, 0, 0]), length: 8 };
        service.sources = vec![SourceRule { prefix, allow: false }];
        let backend = service.backends.get_mut("b1").expect("a backend");
        backend.weight = 50;
        backend.backup = true;
        backend.slow_start = Some(Duration::ZERO);
        backend.server_id = Some(7);
        assert_eq!(
            changes(&old, &new),
            [
                "~ s1 slots",
                "~ s1 slow-start",
                "~ s1 limit",
                "~ s1 sources",
                "~ s1/b1 weight 100 -> 50",
                "~ s1/b1 backup false -> true",
                "~ s1/b1 slow-start",
                "~ s1/b1 server-id",
            ]
        );
        assert_eq!(changes(&new, &new), Vec::<String>::new());
    }
}
