//! Prods clients that wait in silence for a backend whose flows are reset: goes through the
//! records and sends, both on threads of their own. Whom and when is decided in
//! [`prod`](crate::prod).

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{error, info, warn};

use super::controller::Controller;
use crate::api::SilentView;
use crate::config::Config;
use crate::net::raw::Raw;
use crate::prod::{Finder, Prod, Prods, may_reset, segment};

/// The controller's knowledge of silent clients.
#[derive(Debug)]
pub struct Silent {
    prods: Prods,
    raw: Arc<Raw>,
    search: Option<JoinHandle<(Finder, Result<()>)>>,
    sending: Option<JoinHandle<Sent>>,
    told: SilentView,
    /// Whether it has been said that this round's prods fail.
    complained: bool,
}

/// What became of some prods.
#[derive(Debug, Default)]
struct Sent {
    prodded: u64,
    failed: u64,
    /// The first error.
    error: Option<anyhow::Error>,
}

impl Silent {
    /// Nobody has been prodded yet.
    pub fn new(raw: Raw) -> Self {
        Self {
            prods: Prods::default(),
            raw: Arc::new(raw),
            search: None,
            sending: None,
            told: SilentView::default(),
            complained: false,
        }
    }

    /// How many were prodded so far.
    pub fn told(&self) -> SilentView {
        self.told
    }

    /// Why clients that stay silent cannot be told where a configuration wants them to be.
    pub fn untold(&self, config: &Config) -> Vec<String> {
        let families = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
        let wanted = families.into_iter().filter(|family| may_reset(config, family.is_ipv4()));
        let trouble = wanted.filter_map(|family| self.raw.trouble(family));
        trouble
            .map(|error| format!("clients that stay silent are not told of resets: {error:#}"))
            .collect()
    }

    fn note(&mut self, sent: Sent) {
        self.told.prodded += sent.prodded;
        self.told.failed += sent.failed;
        if sent.prodded > 0 {
            info!(flows = sent.prodded, "silent clients of backends that are gone prodded");
        }
        if let Some(error) = sent.error
            && !self.complained
        {
            self.complained = true;
            warn!(failed = sent.failed, "silent clients could not be prodded: {error:#}");
        }
    }
}

impl Controller {
    /// To be called every second: takes what is done, and begins what is due.
    pub(super) fn prod_the_silent(&mut self) {
        let (silent, epoch) = (&mut self.silent, self.flows.epoch());
        silent.prods.note(&self.held, epoch);
        match finished(&mut silent.search) {
            Some(Ok((finder, searched))) => {
                // Those that were found before it failed are told all the same.
                silent.prods.take(finder);
                if let Err(error) = searched {
                    error!("failed to look for silent clients: {error:#}");
                }
            }
            Some(Err(error)) => error!("the search for silent clients died: {error}"),
            None => {}
        }
        match finished(&mut silent.sending) {
            Some(Ok(sent)) => silent.note(sent),
            Some(Err(error)) => error!("the prodding of silent clients died: {error}"),
            None => {}
        }
        if silent.search.is_none()
            && let Some(mut finder) = silent.prods.begin(&self.held, epoch)
        {
            silent.complained = false;
            let records = self.bpf.records();
            silent.search = Some(spawn_blocking(move || {
                let look = |record, key: &_, pin: &_| {
                    finder.look(record, key, pin);
                    true
                };
                let searched = records
                    .and_then(|mut records| records.retain(look))
                    .context("failed to go through the flows");
                (finder, searched)
            }));
        }
        if silent.sending.is_none() {
            let prods = silent.prods.next(epoch);
            if !prods.is_empty() {
                let raw = Arc::clone(&silent.raw);
                silent.sending = Some(spawn_blocking(move || send(&raw, &prods)));
            }
        }
    }
}

/// The result of a task that is done, which this does not wait for.
fn finished<T>(task: &mut Option<JoinHandle<T>>) -> Option<Result<T, tokio::task::JoinError>> {
    let task = task.take_if(|task| task.is_finished())?;
    futures_util::FutureExt::now_or_never(task)
}

fn send(raw: &Raw, prods: &[Prod]) -> Sent {
    let mut sent = Sent::default();
    // Whoever gets one prod shall not know the next: a key of its own for each batch.
    let chance = RandomState::new();
    for (index, prod) in prods.iter().enumerate() {
        let (client, _) = prod.flow.ends();
        let segment = segment(&prod.flow, chance.hash_one(prod.flow.key(0)));
        match raw.send(&segment, client.ip()) {
            Ok(()) => sent.prodded += u64::from(prod.first),
            Err(error) => {
                sent.failed += 1;
                // What takes nothing now will not take the rest either, and each would wait.
                let stuck = error.kind() == io::ErrorKind::WouldBlock;
                let what = || anyhow!(error).context(format!("failed to send to {}", client.ip()));
                sent.error.get_or_insert_with(what);
                if stuck {
                    sent.failed += (prods.len() - index - 1) as u64;
                    break;
                }
            }
        }
    }
    sent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OnDown;
    use crate::plan::tests::world;
    use lb_common::maps::FlowKey;

    #[test]
    fn without_raw_sockets_it_is_said_what_does_not_work_if_it_is_wanted() {
        let mut silent = Silent::new(Raw::denied());
        let mut config = world(&[(1, &[(1, 11, true, 1)])]).config();
        assert_eq!(silent.untold(&config), [""; 0]);
        config.services.values_mut().for_each(|service| service.on_down = OnDown::Reset);
        assert_eq!(
            silent.untold(&config),
            ["clients that stay silent are not told of resets: failed to open a raw socket: not \
              permitted"]
        );
        let prod = Prod { flow: (&FlowKey::default()).into(), first: true };
        silent.note(send(&silent.raw, &[prod, prod]));
        assert_eq!(silent.told(), SilentView { prodded: 0, failed: 2 });
    }
}
