//! What operators see of the daemon, from what it knows. Pure: counters are read through the
//! dataplane's trait, times are passed in.

mod services;
#[cfg(test)]
mod tests;

use anyhow::Result;
use jiff::Timestamp;
use lb_common::Verdict;

use crate::api::{
    BackendState, ConfigView, InterfaceView, Rejection, ServiceState, ServiceView, SilentView,
    StatusView, VerdictView,
};
use crate::config::{self, Config};
use crate::dataplane::Dataplane;
use crate::plan::Plan;
use crate::state::State;

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
        for service in services.iter().filter(|service| service.on_backups) {
            problems.push(format!("service {} runs on its backups", service.name));
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
                | BackendState::Standby
                | BackendState::Draining
                | BackendState::Disabled
                | BackendState::Checking => {}
            }
        }
        problems.extend(self.untold.iter().cloned());
        problems
    }
}
