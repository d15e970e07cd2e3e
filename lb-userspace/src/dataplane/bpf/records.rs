//! What the program remembers of flows, as userspace goes through it.

use std::ops::ControlFlow;

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData, MapError};
use lb_common::maps::{FlowKey, Pin};
use lb_common::tables::Record;

use super::Bpf;

/// What the program remembers of flows.
pub struct Records(Vec<(Record, HashMap<MapData, FlowKey, Pin>, u64)>);

impl Records {
    pub(super) fn copy_to(&self, other: &mut Self) -> Result<()> {
        for ((_, from, _), (_, to, _)) in self.0.iter().zip(&mut other.0) {
            for entry in from.iter() {
                let Ok((key, pin)) = entry else { continue };
                to.insert(key, pin, 0).context("failed to copy a flow")?;
            }
        }
        Ok(())
    }

    /// Shows every record to `keep`, and forgets those that it does not want kept. The program goes
    /// on writing meanwhile: a pin that comes or goes may be missed or seen twice.
    pub fn retain(&mut self, mut keep: impl FnMut(Record, &FlowKey, &Pin) -> bool) -> Result<()> {
        for (record, map, entries) in &mut self.0 {
            let mut old = Vec::new();
            let _: ControlFlow<()> = walk(map, *entries, |key, pin| {
                if !keep(*record, key, pin) {
                    old.push(*key);
                }
                ControlFlow::Continue(())
            })?;
            for key in old {
                match map.remove(&key) {
                    Ok(()) | Err(MapError::KeyNotFound) => {}
                    Err(error) => return Err(error).context("failed to forget a flow"),
                }
            }
        }
        Ok(())
    }

    /// Shows every record to `look` until it has seen enough, and changes nothing. The program goes
    /// on writing meanwhile, as above.
    pub fn each(
        &self,
        mut look: impl FnMut(Record, &FlowKey, &Pin) -> ControlFlow<()>,
    ) -> Result<()> {
        for (record, map, entries) in &self.0 {
            if walk(map, *entries, |key, pin| look(*record, key, pin))?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// Goes through one kind of records.
fn walk(
    map: &HashMap<MapData, FlowKey, Pin>,
    entries: u64,
    mut look: impl FnMut(&FlowKey, &Pin) -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    for (step, entry) in (1..).zip(map.iter()) {
        // The kernel begins again when the entry that it stands at goes away.
        ensure!(step <= 2 * entries, "flows come and go faster than they can be counted");
        // An entry that was evicted while we looked at it is not there any more.
        let Ok((key, pin)) = entry else { continue };
        if look(&key, &pin).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

impl Bpf {
    /// What is remembered of one flow.
    pub fn remembered(&self, key: &FlowKey) -> Result<Vec<(Record, Pin)>> {
        let mut found = Vec::new();
        for (record, map, _) in &self.records()?.0 {
            match map.get(key, 0) {
                Ok(pin) => found.push((*record, pin)),
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error).context("failed to look for a flow"),
            }
        }
        Ok(found)
    }

    /// Opens the records of flows once more, for somebody who goes through them.
    pub fn records(&self) -> Result<Records> {
        let open = |(record, name): (Record, &str)| {
            let path = self.generation.join(name);
            let map = MapData::from_pin(&path)
                .with_context(|| format!("failed to open {}", path.display()))?;
            let info =
                map.info().with_context(|| format!("failed to ask about {}", path.display()))?;
            let map = HashMap::try_from(Map::LruHashMap(map))
                .with_context(|| format!("{} is of another kind", path.display()))?;
            Ok((record, map, u64::from(info.max_entries())))
        };
        Ok(Records(Record::ALL.into_iter().map(open).collect::<Result<_>>()?))
    }
}
