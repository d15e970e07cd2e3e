//! Follows links, neighbours and routes, and tells the controller what changed for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::asker::Asker;
use super::decode::Change;
use super::kernel::{self, Heard, Kernel, Subscription};
use super::table::Table;
use crate::state::{Event, Link, NextHop};

/// Changes come in flocks: routes are asked for when a flock has passed.
const COALESCE: Duration = Duration::from_millis(50);
/// How often routes are asked for without any news, because some changes are not told: rules,
/// and the choices of the kernel's routing policy.
const ROUTES_EVERY: Duration = Duration::from_secs(30);
/// Pause before another attempt after netlink failed.
const RETRY: Duration = Duration::from_secs(1);
/// Most datagrams taken before acting upon them.
const FLOCK: usize = 1_000;

/// The interface with a name, if there is one in the calling thread's network namespace.
///
/// # Errors
/// The kernel cannot be asked.
pub async fn link_by_name(name: &str) -> anyhow::Result<Option<Link>> {
    Kernel::connect()?.link(name).await
}

/// Follows the network until it is shut down or dropped.
#[derive(Debug)]
pub struct Monitor {
    stop: CancellationToken,
    task: JoinHandle<()>,
    overruns: Arc<AtomicU64>,
}

impl Monitor {
    /// Starts to follow the network namespace of the calling thread. Every link is told as
    /// [`Event::Link`] at the start and when it changes; one that vanishes is told as down. The
    /// next hop to each address in `targets` is told as [`Event::NextHop`] when the address is
    /// new (once its neighbour has answered or was asked in vain) and when its next hop changes. The kernel is made to resolve and to verify these
    /// addresses, which needs `CAP_NET_ADMIN`.
    ///
    /// # Errors
    /// The kernel cannot be asked, or cannot be subscribed to.
    pub async fn start(
        targets: watch::Receiver<BTreeSet<IpAddr>>,
        events: mpsc::Sender<Event>,
    ) -> anyhow::Result<Self> {
        let overruns = Arc::new(AtomicU64::new(0));
        let mut watcher = Watcher {
            targets,
            events,
            overruns: Arc::clone(&overruns),
            table: Table::default(),
            asker: Asker::default(),
            told_links: BTreeMap::new(),
            told_hops: BTreeMap::new(),
            warned: false,
        };
        let session = watcher.open().await?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            // Every step may be dropped: the state goes with it.
            stopped.run_until_cancelled(watcher.run(session)).await;
        });
        Ok(Self { stop, task, overruns })
    }

    /// How often the kernel had more to tell than the socket could hold, so that everything was
    /// read anew.
    pub fn overruns(&self) -> u64 {
        self.overruns.load(Ordering::Relaxed)
    }

    /// Stops, and waits until that is done.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        if let Err(error) = (&mut self.task).await {
            warn!(%error, "network monitor did not end well");
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Watcher {
    targets: watch::Receiver<BTreeSet<IpAddr>>,
    events: mpsc::Sender<Event>,
    overruns: Arc<AtomicU64>,
    table: Table,
    asker: Asker,
    told_links: BTreeMap<u32, Link>,
    told_hops: BTreeMap<IpAddr, NextHop>,
    /// Whether it was said that the capability is missing.
    warned: bool,
}

/// The sockets; new ones after an error.
struct Session {
    kernel: Kernel,
    subscription: Subscription,
}

/// Why following ended.
enum End {
    /// The controller is gone.
    Gone,
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for End {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl Watcher {
    async fn open(&mut self) -> anyhow::Result<Session> {
        // Subscribed first: what changes during the listing is told again after it.
        let subscription = Subscription::open()?;
        let kernel = Kernel::connect()?;
        self.read_all(&kernel).await?;
        Ok(Session { kernel, subscription })
    }

    async fn read_all(&mut self, kernel: &Kernel) -> anyhow::Result<()> {
        let links = kernel.links().await?;
        let neighbours = kernel.neighbours().await?;
        self.table.clear();
        for link in links {
            self.table.set_link(link);
        }
        for (ifindex, address, neighbour) in neighbours {
            self.table.set_neighbour(ifindex, address, neighbour);
        }
        Ok(())
    }

    async fn run(mut self, session: Session) {
        let mut session = Some(session);
        loop {
            let opened = match session.take() {
                Some(session) => Ok(session),
                None => self.open().await,
            };
            let end = match opened {
                Ok(session) => self.follow(session).await,
                Err(error) => End::Failed(error),
            };
            match end {
                End::Gone => return,
                End::Failed(error) => {
                    warn!("network changes cannot be followed, trying again: {error:#}");
                    sleep(RETRY).await;
                }
            }
        }
    }

    async fn follow(&mut self, mut session: Session) -> End {
        let mut routes_due = Instant::now();
        loop {
            match self.step(&mut session, &mut routes_due).await {
                Ok(()) => {}
                Err(end) => return end,
            }
        }
    }

    /// Asks and tells what is due, then waits for news.
    async fn step(&mut self, session: &mut Session, routes_due: &mut Instant) -> Result<(), End> {
        if *routes_due <= Instant::now() {
            self.look_up_routes(&session.kernel).await?;
            *routes_due = Instant::now() + ROUTES_EVERY;
        }
        // Before telling, which may wait for the controller: a question that rests on old news
        // would undo what an operator has set by hand meanwhile (NTF_USE and NUD_PROBE take
        // NUD_PERMANENT away).
        self.ask(&mut session.kernel).await;
        self.publish().await?;

        let next_question = self.asker.next().map(Instant::from_std);
        let wake = next_question.map_or(*routes_due, |next| next.min(*routes_due));
        // No arm loses anything when it is dropped: a datagram is read whole or not at all.
        tokio::select! {
            // News first: the next questions shall rest on all of them.
            biased;
            heard = session.subscription.next() => {
                let mut heard = Some(heard);
                for _ in 0..FLOCK {
                    match heard.take() {
                        Some(Ok(Heard::Changes(changes))) => {
                            let soon = Instant::now() + COALESCE;
                            if self.take(changes) {
                                *routes_due = soon.min(*routes_due);
                            }
                        }
                        Some(Ok(Heard::Overrun)) => {
                            let count = self.overruns.fetch_add(1, Ordering::Relaxed) + 1;
                            warn!(count, "network changes were lost, reading everything anew");
                            self.read_all(&session.kernel).await?;
                            *routes_due = Instant::now();
                        }
                        Some(Err(error)) => return Err(error.into()),
                        None => break,
                    }
                    heard = session.subscription.next().now_or_never();
                }
            }
            changed = self.targets.changed() => {
                changed.map_err(|_| End::Gone)?;
                *routes_due = Instant::now();
            }
            () = sleep_until(wake) => {}
        }
        Ok(())
    }

    /// Whether routes must be asked for again.
    fn take(&mut self, changes: Vec<Change>) -> bool {
        let mut routes = false;
        for change in changes {
            match change {
                Change::Link(link) => {
                    routes |= self.table.links().get(&link.ifindex) != Some(&link);
                    self.table.set_link(link);
                }
                Change::LinkGone(ifindex) => {
                    self.table.remove_link(ifindex);
                    routes = true;
                }
                Change::Neighbour(ifindex, address, neighbour) => {
                    self.table.set_neighbour(ifindex, address, neighbour);
                }
                Change::NeighbourGone(ifindex, address) => {
                    self.table.remove_neighbour(ifindex, address);
                }
                Change::Routes => routes = true,
            }
        }
        routes
    }

    async fn look_up_routes(&mut self, kernel: &Kernel) -> anyhow::Result<()> {
        let targets = self.targets.borrow_and_update().clone();
        self.table.retain_routes(|address| targets.contains(address));
        for &address in &targets {
            let route = kernel.route(address).await?;
            self.table.set_route(address, route);
        }
        Ok(())
    }

    async fn publish(&mut self) -> Result<(), End> {
        for link in links_to_tell(self.table.links(), &mut self.told_links) {
            debug!(link = link.name, up = link.up, mac = %link.mac, mtu = link.mtu, "link changed");
            self.events.send(Event::Link(link)).await.map_err(|_| End::Gone)?;
        }
        let targets = self.targets.borrow().clone();
        self.told_hops.retain(|address, _| targets.contains(address));
        for address in targets {
            // A new target's route is not known until the next lookup.
            let Some(hop) = self.table.next_hop(address) else { continue };
            if self.told_hops.get(&address) == Some(&hop) {
                continue;
            }
            // The controller may have a way from an earlier daemon, which is no worse for our not
            // having heard from the neighbour yet.
            if !self.told_hops.contains_key(&address) && self.table.is_open(address) {
                continue;
            }
            match &hop {
                NextHop::Resolved { interface, mac, .. } => {
                    info!(%address, %mac, interface, "next hop found");
                }
                NextHop::Unresolved(reason) => info!(%address, reason, "no next hop"),
            }
            self.told_hops.insert(address, hop.clone());
            self.events.send(Event::NextHop { address, hop }).await.map_err(|_| End::Gone)?;
        }
        Ok(())
    }

    async fn ask(&mut self, kernel: &mut Kernel) {
        let now = Instant::now().into_std();
        let questions = self.asker.due(&self.table, &self.targets.borrow(), now);
        for question in questions {
            let Err(error) = kernel.ask(question).await else { continue };
            let forbidden = kernel::code_of(&error) == Some(libc::EPERM);
            if forbidden && !std::mem::replace(&mut self.warned, true) {
                warn!("neighbours cannot be asked without CAP_NET_ADMIN: {error:#}");
            } else {
                // An entry may be another one by now, and the next question is not far.
                debug!(?question, "neighbour could not be asked: {error:#}");
            }
        }
    }
}

/// The links that are not as they were told; those that vanished, as down.
fn links_to_tell(known: &BTreeMap<u32, Link>, told: &mut BTreeMap<u32, Link>) -> Vec<Link> {
    let gone = told.values().filter(|link| !known.contains_key(&link.ifindex));
    let gone = gone.map(|link| Link { up: false, ..link.clone() });
    let changed = known.values().filter(|link| told.get(&link.ifindex) != Some(link));
    let news: Vec<_> = gone.chain(changed.cloned()).collect();
    told.clone_from(known);
    news
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_told_when_new_changed_or_gone() {
        let link = |ifindex: u32, mtu| Link {
            ifindex,
            name: format!("eth{ifindex}"),
            mac: lb_common::Mac::new([2, 0, 0, 0, 0, 1]),
            up: true,
            mtu,
        };
        let mut told = BTreeMap::new();
        let mut known = BTreeMap::from([(1, link(1, 1500)), (2, link(2, 1500))]);
        assert_eq!(links_to_tell(&known, &mut told), [link(1, 1500), link(2, 1500)]);
        assert_eq!(links_to_tell(&known, &mut told), []);
        known.insert(2, link(2, 9000));
        known.remove(&1);
        let gone = Link { up: false, ..link(1, 1500) };
        assert_eq!(links_to_tell(&known, &mut told), [gone, link(2, 9000)]);
        assert_eq!(links_to_tell(&known, &mut told), []);
    }
}
