//! The verbs that ask the daemon.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::args::{Flows, Global, Target, Verb};
use super::failure::{Failure, Mistakes};
use super::{Printed, Screen};
use crate::api::client::{CallError, Client};
use crate::api::{DiffRequest, DiffView, Edit, Kind, Problem, ServiceView, VersionView};
use crate::config::AdminState;
use crate::output::{Answer, Backends, ChangedBackend, Reloaded, Services, Versions};
use crate::state::BackendId;

/// How long `lb version` waits for the daemon, in whose answer it is interested only besides.
const VERSION_WITHIN: Duration = Duration::from_secs(2);

/// Asks the daemon on the socket that the options name.
pub(super) async fn daemon(
    verb: Verb,
    global: &Global,
    screen: &Screen,
) -> Result<Printed, Failure> {
    let client = Client::new(&global.socket);
    let print = Print { global, screen };
    match verb {
        Verb::Status => print.answer(&client.status().await?),
        Verb::Services => print.answer(&Services::new(client.status().await?.services)),
        Verb::Backends { service } => {
            let services = client.status().await?.services;
            print.answer(&Backends::new(selected(services, service.as_deref())?))
        }
        Verb::Reload { dry_run: false } => print.answer(&reload(&client).await?),
        Verb::Reload { dry_run: true } => {
            print.answer(&client.dry_run().await.map_err(would_be_refused)?)
        }
        Verb::Diff { file } => print.answer(&diff(&client, &file).await?),
        Verb::Flows { how: Flows::List { which, limit } } => {
            print.answer(&client.flows(&which.query(Some(limit))).await?)
        }
        Verb::Flows { how: Flows::Count(which) } => {
            print.answer(&client.flow_count(&which.query(None)).await?)
        }
        Verb::Explain { flow } => print.answer(&client.explain(&flow).await?),
        Verb::Drain { target, wait } => {
            let id = target.backend.clone();
            let mut drained = set(&client, target, AdminState::Drain).await?;
            if wait {
                drained = until_gone(&client, &id).await?;
            }
            print.answer(&drained)
        }
        Verb::Enable(target) => print.answer(&set(&client, target, AdminState::Ready).await?),
        Verb::Disable(target) => print.answer(&set(&client, target, AdminState::Disable).await?),
        Verb::Weight { target, weight } => {
            let edit = Edit { admin: None, weight: Some(weight), reason: target.reason };
            print.answer(&ChangedBackend::new(client.edit(&target.backend, &edit).await?))
        }
        Verb::Version => {
            let daemon = client.within(VERSION_WITHIN).version().await;
            let daemon = daemon.map_err(|error| error.to_string());
            print.answer(&Versions::new(own_version(), daemon))
        }
        Verb::Run { .. }
        | Verb::Check { .. }
        | Verb::Detach { .. }
        | Verb::Decap(_)
        | Verb::Backend { .. } => {
            Err(Failure::from(anyhow::anyhow!("not a question for the daemon")))
        }
    }
}

/// Where answers go.
struct Print<'a> {
    global: &'a Global,
    screen: &'a Screen,
}

impl Print<'_> {
    fn answer(&self, answer: &impl Answer) -> Result<Printed, Failure> {
        Printed::answer(answer, self.global.output, self.screen)
    }
}

/// All services, or the one of that name.
fn selected(services: Vec<ServiceView>, name: Option<&str>) -> Result<Vec<ServiceView>, Failure> {
    let Some(name) = name else { return Ok(services) };
    let names: Vec<String> = services.iter().map(|service| service.name.clone()).collect();
    let found: Vec<_> = services.into_iter().filter(|service| service.name == name).collect();
    if found.is_empty() {
        let known = match names.as_slice() {
            [] => "there are no services".to_owned(),
            names => format!("the services are {}", names.join(", ")),
        };
        return Err(Failure::NotFound(format!("no service `{name}`; {known}")));
    }
    Ok(found)
}

async fn set(
    client: &Client,
    target: Target,
    admin: AdminState,
) -> Result<ChangedBackend, CallError> {
    let edit = Edit { admin: Some(admin), weight: None, reason: target.reason };
    client.edit(&target.backend, &edit).await.map(ChangedBackend::new)
}

/// How long nothing may have gone to a backend for its flows to count as gone.
const SILENCE: Duration = Duration::from_secs(10);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Waits until a drained backend's flows are gone, or its service's grace is over.
async fn until_gone(client: &Client, id: &BackendId) -> Result<ChangedBackend, Failure> {
    let begun = Instant::now();
    let mut packets = None;
    let mut silent_since = begun;
    loop {
        let services = client.status().await?.services;
        let mut service = selected(services, Some(&id.service))?;
        let (Some(grace), Some(backend)) = (
            service.first().map(|service| Duration::from_secs(service.drain_grace)),
            service.pop().and_then(|service| service.backends.into_iter().find(|b| b.id == *id)),
        ) else {
            return Err(Failure::NotFound(format!("no backend `{id}` any more")));
        };
        if packets != Some(backend.packets) {
            packets = Some(backend.packets);
            silent_since = Instant::now();
        }
        let gone = backend.flows.unwrap_or(0) == 0 && silent_since.elapsed() >= SILENCE;
        if gone || begun.elapsed() >= grace {
            let how = if gone { "its flows are gone" } else { "the grace is over" };
            eprintln!("{id}: {how}");
            return Ok(ChangedBackend::new(backend));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn reload(client: &Client) -> Result<Reloaded, Failure> {
    let summary = "the file was refused, the old configuration still runs";
    client.reload().await.map(Reloaded::new).map_err(|error| refused(error, summary))
}

/// Sends the file's text: the daemon may not see what the operator sees.
async fn diff(client: &Client, file: &Path) -> Result<DiffView, Failure> {
    let path = file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(|| format!("failed to read {path}"))?;
    client.diff(&DiffRequest { path, text }).await.map_err(would_be_refused)
}

fn would_be_refused(error: CallError) -> Failure {
    refused(error, "the file would be refused")
}

/// A failure, with the mistakes of a file below each other where it is about one.
fn refused(error: CallError, summary: &str) -> Failure {
    match error {
        CallError::Problem(Problem { kind: Kind::InvalidConfig, detail }) => {
            let report = Mistakes::Told(detail);
            Failure::InvalidConfig { summary: summary.to_owned(), report }
        }
        error => Failure::Call(error),
    }
}

/// The version of this program.
fn own_version() -> VersionView {
    VersionView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        map_schema: lb_common::maps::SCHEMA_VERSION,
    }
}
