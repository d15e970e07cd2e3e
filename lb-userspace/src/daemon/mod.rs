//! `lb run`: the daemon. One task, the controller, owns configuration, state and dataplane;
//! everything else sends it events or requests.
//!
//! ```text
//!  health probes (N tasks) ─┐ Event                      ┌─► health targets
//!  netlink monitor (1) ─────┼──────► controller (1) ─────┼─► netlink targets
//!  API server (1) ──────────┘ Request   │                └─► overrides file
//!  SIGHUP, SIGTERM, lease tick ─────────┤
//!                                       └─► plan ─► diff ─► Dataplane::apply
//! ```

mod controller;
mod dry_run;
mod flows;
mod flows_view;
mod growth;
mod lock;
mod reload;
mod silent;
mod start;

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use crate::api;
#[cfg(doc)]
use crate::config::Report;
use crate::config::{self, Loaded, NodeChoice};
use crate::health::driver::Supervisor;
use crate::net::monitor::Monitor;
use crate::overrides::Store;
use crate::state::Event;
use controller::Controller;

/// How the daemon is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// Which `[node.*]` this is; by host name if not given.
    pub node: Option<String>,
}

/// Events that wait while the controller is at work: a burst from every backend of a large
/// configuration. A sender that finds the channel full waits, and loses nothing.
const EVENTS: usize = 1_024;
/// Requests that wait: operators, not programs.
const REQUESTS: usize = 16;
/// Events that are taken in one go before the maps are written.
const BATCH: usize = 256;
/// How often the maps are compared with what they should hold.
const RESYNC: Duration = Duration::from_secs(30);

/// Runs until SIGTERM or SIGINT. What is attached stays: packets are balanced on, and the next
/// daemon adopts it. VIPs are answered for until the lease runs out.
///
/// # Errors
///
/// A configuration file that is refused is a [`Report`]; others are for people to read.
pub async fn run(options: Options) -> Result<()> {
    log_to_stderr();
    let node = match options.node {
        Some(name) => NodeChoice::Named(name),
        None => NodeChoice::HostName(host_name()?),
    };
    let Loaded { config, warnings } = config::load(&options.config, &node)?;
    for warning in warnings {
        warn!("{warning}");
    }
    // Before anything is made: a signal that comes during the start waits for its end.
    let mut hangup = signal(SignalKind::hangup()).context("failed to watch for SIGHUP")?;
    let mut terminate = signal(SignalKind::terminate()).context("failed to watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to watch for SIGINT")?;
    let _lock = lock::take(&config.dataplane.state_dir)?;
    let (event_sender, mut events) = mpsc::channel::<Event>(EVENTS);
    let (request_sender, mut requests) = mpsc::channel::<api::Request>(REQUESTS);
    let server = api::server::serve(&config.admin.socket, request_sender).await?;

    let mut controller = Controller::start(
        config,
        node,
        Store::open,
        Supervisor::new(event_sender.clone()),
        Timestamp::now(),
    )
    .await?;
    let (target_sender, targets) = watch::channel::<BTreeSet<IpAddr>>(controller.addresses());
    let monitor = Monitor::start(targets, event_sender).await?;
    controller.go(target_sender)?;

    let mut renewal = ticks(controller.renewal());
    let mut resync = ticks(RESYNC);
    let mut second = ticks(Duration::from_secs(1));
    let mut batch = Vec::with_capacity(BATCH);
    info!("running");
    loop {
        // Every arm is cancel-safe: what is not taken stays in its channel or timer.
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = renewal.tick() => controller.renew(),
            _ = hangup.recv() => {
                if let Err(problem) = controller.reload(Timestamp::now()) {
                    error!("reload refused: {problem}");
                }
            }
            request = requests.recv() => {
                let Some(request) = request else { break };
                controller.answer(request, Timestamp::now());
            }
            taken = events.recv_many(&mut batch, BATCH) => {
                if taken == 0 {
                    break;
                }
                controller.learn(batch.drain(..));
            }
            _ = second.tick() => controller.count_a_second(),
            _ = resync.tick() => controller.resync(),
        }
        // A reload may have changed the lease, by whatever way it came.
        if renewal.period() != controller.renewal() {
            renewal = ticks(controller.renewal());
        }
    }
    info!("stopping; packets are balanced on by what is attached (`lb detach` removes it)");
    server.shutdown().await;
    monitor.shutdown().await;
    controller.stop().await;
    Ok(())
}

/// Lines on stderr, from level info on; `LB_LOG` chooses others (`debug`, `lb_userspace::net=debug`).
fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("LB_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colour = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour);
    if log.with_writer(std::io::stderr).try_init().is_err() {
        warn!("somebody has set up the log already");
    }
}

/// A timer that goes on from when it was late, rather than catching up.
fn ticks(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname().context("failed to ask for the host name")?;
    Ok(name.to_string_lossy().into_owned())
}
