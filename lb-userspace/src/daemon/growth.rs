//! Slow start: how much of their weight backends have by now that came back or are new. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::api::BackendState;
use crate::config::Config;
use crate::plan::{GROWN, backend_state};
use crate::state::{BackendId, State};

/// Which backends start slowly, and since when.
#[derive(Debug, Default)]
pub struct Growth {
    /// Those that could serve when last looked at; `None` before the first look, so that nobody
    /// starts slowly just because the daemon has started.
    serving: Option<BTreeSet<BackendId>>,
    /// In seconds of the epoch.
    begun: BTreeMap<BackendId, u64>,
}

impl Growth {
    /// What backends have by now, in thousandths: those left out have all of it.
    pub fn look(&mut self, config: &Config, state: &State, epoch: u64) -> BTreeMap<BackendId, u16> {
        if let Some(serving) = &mut self.serving {
            serving.retain(|id| {
                let service = config.services.get(&id.service);
                service.is_some_and(|service| service.backends.contains_key(&id.backend))
            });
        }
        self.look_at(config.services.keys(), config, state, epoch)
    }

    /// The same, where only backends of some services may have come or gone.
    pub fn look_at<'a>(
        &mut self,
        services: impl Iterator<Item = &'a String>,
        config: &Config,
        state: &State,
        epoch: u64,
    ) -> BTreeMap<BackendId, u16> {
        let first = self.serving.is_none();
        let serving = self.serving.get_or_insert_default();
        for (name, service) in services.filter_map(|name| config.services.get_key_value(name)) {
            for (backend, file) in &service.backends {
                let id = BackendId { service: name.clone(), backend: backend.clone() };
                if backend_state(service, file, &id, state) != BackendState::Serving {
                    serving.remove(&id);
                } else if serving.insert(id.clone()) && !first {
                    self.begun.insert(id, epoch);
                }
            }
        }
        self.begun.retain(|id, _| serving.contains(id));
        let mut growing = BTreeMap::new();
        self.begun.retain(|id, begun| {
            let whole = config.services.get(&id.service).map_or(Duration::ZERO, |service| {
                let own = service.backends.get(&id.backend).and_then(|file| file.slow_start);
                own.unwrap_or(service.slow_start)
            });
            // A moment after the start it has something already: checks of nobody's flows would
            // not tell whether it bears them.
            let passed = epoch.saturating_sub(*begun) + 1;
            if passed >= whole.as_secs() {
                return false;
            }
            growing.insert(id.clone(), (passed * u64::from(GROWN) / whole.as_secs()) as u16);
            true
        });
        growing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::world;

    #[test]
    fn who_comes_back_grows_second_by_second_and_who_was_there_does_not() {
        let with = |up| world(&[(1, &[(1, 11, true, 100), (2, 12, up, 100)])]);
        let config = |up| {
            let mut config = with(up).config();
            for service in config.services.values_mut() {
                service.slow_start = Duration::from_secs(10);
            }
            config
        };
        let mut growth = Growth::default();
        let id = |name: &str| BackendId { service: "s1".to_owned(), backend: name.to_owned() };
        assert_eq!(growth.look(&config(true), &with(true).state(), 100), BTreeMap::new());
        assert_eq!(growth.look(&config(false), &with(false).state(), 110), BTreeMap::new());
        let mut at = |epoch| growth.look(&config(true), &with(true).state(), epoch);
        assert_eq!(at(120), BTreeMap::from([(id("b2"), 100)]));
        assert_eq!(at(124), BTreeMap::from([(id("b2"), 500)]));
        assert_eq!(at(129), BTreeMap::new());
        assert_eq!(at(131), BTreeMap::new());
    }

    #[test]
    fn a_backend_that_goes_down_while_it_grows_begins_again() {
        let with = |up| world(&[(1, &[(1, 11, true, 100), (2, 12, up, 100)])]);
        let mut config = with(true).config();
        let service = config.services.get_mut("s1").expect("the world has it");
        let backend = service.backends.get_mut("b2").expect("and its backend");
        backend.slow_start = Some(Duration::from_secs(10));
        let mut growth = Growth::default();
        growth.look(&config, &with(false).state(), 100);
        let half = growth.look(&config, &with(true).state(), 101);
        assert_eq!(half.values().copied().collect::<Vec<_>>(), [100]);
        growth.look(&config, &with(false).state(), 108);
        let again = growth.look(&config, &with(true).state(), 109);
        assert_eq!(again.values().copied().collect::<Vec<_>>(), [100]);
    }
}
