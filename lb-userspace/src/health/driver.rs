//! Runs the probes: one task per backend, each of which asks, waits, and tells the controller
//! what changed. What a result means is decided by [`Machine`].

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use super::machine::{Machine, Outcome};
use super::pace::Pace;
use super::probe::{Finding, Prober};
use crate::config::{Check, Probe};
use crate::state::{BackendId, Event, Health, Status};

/// A backend to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub backend: BackendId,
    /// Its own address.
    pub address: IpAddr,
    /// How it is probed.
    pub check: Check,
    /// What is believed of it before its first probe: [`Status::Up`] for one that an earlier
    /// daemon left serving; it then stays up until `fall` failures.
    pub initial: Status,
}

/// Keeps one task per target.
#[derive(Debug)]
pub struct Supervisor {
    events: mpsc::Sender<Event>,
    running: BTreeMap<BackendId, Running>,
    tasks: TaskTracker,
}

/// A task, and what it was started for. Dropping it stops the task.
#[derive(Debug)]
struct Running {
    address: IpAddr,
    port: u16,
    probe: Probe,
    tempo: watch::Sender<Tempo>,
    _stop: DropGuard,
}

/// What may change about a check while its task keeps running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tempo {
    interval: Duration,
    fast_interval: Duration,
    timeout: Duration,
    rise: u32,
    fall: u32,
}

impl Supervisor {
    /// A supervisor without targets, whose tasks send their findings to `events`.
    pub fn new(events: mpsc::Sender<Event>) -> Self {
        Self { events, running: BTreeMap::new(), tasks: TaskTracker::new() }
    }

    /// Starts, stops and keeps tasks so that exactly these are probed; must be called within a
    /// tokio runtime. A target with the same backend, address, port and probe keeps its health
    /// when only times, rise and fall differ. Any other one is new, starts from its `initial`
    /// status, and reports after its first probe; findings about what it replaces may still be
    /// on their way at that moment, and come before its own.
    pub fn set_targets(&mut self, targets: Vec<Target>) {
        let mut previous = std::mem::take(&mut self.running);
        for target in targets {
            let tempo = Tempo::of(&target.check);
            let running = match previous.remove(&target.backend) {
                Some(running) if running.probes(&target) => {
                    running
                        .tempo
                        .send_if_modified(|current| std::mem::replace(current, tempo) != tempo);
                    running
                }
                _ => self.start(&target, tempo),
            };
            self.running.insert(target.backend, running);
        }
    }

    fn start(&self, target: &Target, tempo: Tempo) -> Running {
        let Check { probe, port, .. } = &target.check;
        let (sender, receiver) = watch::channel(tempo);
        let stop = CancellationToken::new();
        let watcher = Watcher {
            backend: target.backend.clone(),
            prober: Prober::new(target.address, *port, probe.clone()),
            tempo: receiver,
            events: self.events.clone(),
            machine: Machine::new(target.initial, Timestamp::now()),
            pace: Pace::new(RandomState::new().hash_one(&target.backend)),
            told: None,
        };
        let stopped = stop.clone();
        let probed = *probe != Probe::None;
        self.tasks.spawn(async move {
            // Every step of a watcher may be dropped: it holds nothing but sockets.
            stopped
                .run_until_cancelled(async move {
                    if probed {
                        watcher.run().await;
                    } else {
                        watcher.count_as_up().await;
                    }
                })
                .await;
        });
        Running {
            address: target.address,
            port: *port,
            probe: probe.clone(),
            tempo: sender,
            _stop: stop.drop_guard(),
        }
    }

    /// Stops all tasks and waits until they are gone.
    pub async fn shutdown(self) {
        let Self { running, tasks, .. } = self;
        drop(running);
        tasks.close();
        tasks.wait().await;
    }
}

impl Running {
    fn probes(&self, target: &Target) -> bool {
        self.address == target.address
            && self.port == target.check.port
            && self.probe == target.check.probe
    }
}

impl Tempo {
    const fn of(check: &Check) -> Self {
        Self {
            interval: check.interval,
            fast_interval: check.fast_interval,
            timeout: check.timeout,
            rise: check.rise,
            fall: check.fall,
        }
    }
}

/// One question to a backend; a script in tests.
trait Ask {
    fn ask(&mut self, timeout: Duration) -> impl Future<Output = Finding> + Send;
}

impl Ask for Prober {
    fn ask(&mut self, timeout: Duration) -> impl Future<Output = Finding> + Send {
        self.probe(timeout)
    }
}

/// The task of one backend.
struct Watcher<P> {
    backend: BackendId,
    prober: P,
    tempo: watch::Receiver<Tempo>,
    events: mpsc::Sender<Event>,
    machine: Machine,
    pace: Pace,
    /// What the controller knows: status, result and words without times.
    told: Option<(Status, bool, String)>,
}

/// The controller is gone, and so is the reason to probe.
struct Gone;

impl<P: Ask> Watcher<P> {
    async fn run(mut self) {
        let first = self.interval();
        let mut due = Instant::now() + self.pace.first(first);
        while let Ok(()) = self.wait(due).await {
            let started = Instant::now();
            let timeout = self.tempo.borrow().timeout;
            let finding = self.prober.ask(timeout).await;
            if self.take(finding).await.is_err() {
                return;
            }
            let interval = self.interval();
            due = started + self.pace.jittered(interval);
        }
    }

    /// Waits for the next probe, earlier if the interval gets shorter meanwhile.
    async fn wait(&mut self, mut due: Instant) -> Result<(), Gone> {
        loop {
            // Both arms only wait: dropping either loses nothing.
            tokio::select! {
                () = sleep_until(due) => return Ok(()),
                changed = self.tempo.changed() => {
                    changed.map_err(|_| Gone)?;
                    let interval = self.interval();
                    due = due.min(Instant::now() + self.pace.jittered(interval));
                }
            }
        }
    }

    fn interval(&self) -> Duration {
        let tempo = self.tempo.borrow();
        if self.machine.is_settled() { tempo.interval } else { tempo.fast_interval }
    }

    async fn take(&mut self, finding: Finding) -> Result<(), Gone> {
        let Tempo { rise, fall, .. } = *self.tempo.borrow();
        debug!(backend = %self.backend, passed = finding.passed, found = finding.words, "probed");
        match self.machine.observe(finding.passed, rise, fall, Timestamp::now()) {
            Outcome::Changed { from, to } => {
                info!(backend = %self.backend, ?from, ?to, reason = finding.words, "health changed");
            }
            Outcome::Kept => {}
        }
        let news = (self.machine.status(), finding.passed, finding.what);
        if self.told.as_ref() == Some(&news) {
            return Ok(());
        }
        self.told = Some(news);
        self.tell(finding.passed, finding.words).await
    }

    async fn tell(&self, passed: bool, last: String) -> Result<(), Gone> {
        let health =
            Health { status: self.machine.status(), last, passed, since: self.machine.since() };
        let event = Event::Health { backend: self.backend.clone(), health };
        self.events.send(event).await.map_err(|_| Gone)
    }

    /// For [`Probe::None`].
    async fn count_as_up(mut self) {
        self.machine.observe(true, 1, 1, Timestamp::now());
        // The controller being gone is no news at the task's end.
        let _ = self.tell(true, "not probed".to_owned()).await;
    }
}

#[cfg(test)]
mod tests;
