//! The verbs that need no daemon: `run` is one, `check` reads a file, `detach` cleans the host.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use tokio::runtime;

use super::args::Global;
use super::failure::{Failure, Mistakes};
use super::{Printed, Screen};
use crate::api::client::{CallError, Client};
use crate::config::{self, NodeChoice, Report};
use crate::output::{Checked, Detached, Format};
use crate::{daemon, dataplane};

/// Runs the daemon until it is told to stop.
pub(super) fn run(config: PathBuf, node: Option<String>) -> Result<(), Failure> {
    let runtime = runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let file = config.display().to_string();
    let ended = runtime.block_on(daemon::run(daemon::Options { config, node }));
    ended.map_err(|error| match error.downcast::<Report>() {
        Ok(report) => invalid(&file, report),
        Err(error) => Failure::Failed(error),
    })
}

fn invalid(file: &str, report: Report) -> Failure {
    Failure::InvalidConfig {
        summary: format!("{file} is not valid"),
        report: Mistakes::Here(Box::new(report)),
    }
}

/// Checks a file; programs get its mistakes on stdout, people on stderr.
pub(super) fn check(
    file: &Path,
    node: Option<String>,
    format: Format,
    screen: &Screen,
) -> Result<Printed, Failure> {
    let name = file.display().to_string();
    let choice = node.map_or(NodeChoice::Any, NodeChoice::Named);
    match (config::load(file, &choice), format) {
        (Ok(loaded), _) => {
            let cpus = dataplane::bpf::cpus()?;
            Printed::answer(&Checked::valid(loaded, cpus as u64), format, screen)
        }
        (Err(report), Format::Table) => Err(invalid(&name, report)),
        (Err(report), Format::Json) => {
            let checked = Checked::invalid(name.clone(), report.to_string());
            let printed = Printed::answer(&checked, format, screen)?;
            let summary = format!("{name} is not valid");
            let failure = Failure::InvalidConfig { summary, report: Mistakes::Printed };
            Ok(Printed { failure: Some(failure), ..printed })
        }
    }
}

/// Removes the program and its pins, unless a daemon uses them.
pub(super) async fn detach(
    file: &Path,
    force: bool,
    global: &Global,
    screen: &Screen,
) -> Result<Printed, Failure> {
    let loaded = config::load(file, &NodeChoice::Any)
        .map_err(|report| invalid(&file.display().to_string(), report))?;
    let config = loaded.config;
    if !force {
        // The daemon listens where its file says; an operator may know better.
        for socket in [&config.admin.socket, &global.socket] {
            nobody_answers(socket).await?;
        }
    }
    let pins = &config.dataplane.pin_dir;
    let removed = dataplane::bpf::detach(pins)
        .with_context(|| format!("failed to detach what is pinned in {}", pins.display()))?;
    Printed::answer(&Detached::new(removed), global.output, screen)
}

/// An error, unless it is certain that no daemon listens on `socket`.
pub(super) async fn nobody_answers(socket: &Path) -> Result<(), Failure> {
    let advice = "stop it first, or use --force";
    match Client::new(socket).version().await {
        Err(CallError::Unreachable { reason, .. }) if reason.nobody_there() => Ok(()),
        Err(error @ CallError::Unreachable { .. }) => Err(Failure::from(
            anyhow!(error).context(format!("cannot tell whether a daemon runs ({advice})")),
        )),
        Ok(_) | Err(CallError::Problem(_) | CallError::Answer { .. }) => {
            Err(Failure::from(anyhow!("a daemon runs on {}: {advice}", socket.display())))
        }
    }
}
