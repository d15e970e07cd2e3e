//! What the program remembers of flows, as userspace goes through it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::os::fd::AsFd;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData, MapError};
use lb_common::Flow;
use lb_common::maps::{FlowKey, Pin, Service, ServiceKey};
use lb_common::tables::Record;

use super::Bpf;
use crate::image::service_of;

/// What the program remembers of flows.
pub struct Records(Vec<(Record, HashMap<MapData, FlowKey, Pin>, u64)>);

/// What becomes of records that are there already when others are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Existing {
    /// They are written again.
    Replaced,
    /// They stay.
    Kept,
}

impl Records {
    /// Those that are not in one of these maps.
    pub(super) fn without(mut self, maps: &[&str]) -> Self {
        let name = |record| Record::ALL.into_iter().find(|(r, _)| *r == record).map(|(_, n)| n);
        self.0.retain(|(record, ..)| name(*record).is_none_or(|name| !maps.contains(&name)));
        self
    }

    /// Copies all. Keys of older schemas do not name the service: it is found among the listeners.
    pub(super) fn copy_to(
        &self,
        other: &mut Self,
        existing: Existing,
        listeners: &BTreeMap<ServiceKey, Service>,
    ) -> Result<()> {
        let flags = match existing {
            Existing::Replaced => BPF_ANY,
            Existing::Kept => BPF_NOEXIST,
        };
        for (record, from, _) in &self.0 {
            let to = other.0.iter_mut().find(|(other, ..)| other == record);
            let (_, to, _) = to.with_context(|| format!("there is no map for {record:?}"))?;
            for entry in from.iter() {
                let Ok((mut key, pin)) = entry else { continue };
                if key.service() == 0 {
                    let flow = Flow::from(&key);
                    let Some(service) = service_of(listeners, &flow) else { continue };
                    key = flow.key(service.id);
                }
                match to.insert(key, pin, flags) {
                    Err(error) if !is_there(&error) => {
                        return Err(error).context("failed to copy a flow");
                    }
                    Ok(()) | Err(_) => {}
                }
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

/// `BPF_ANY` and `BPF_NOEXIST` of bpf(2).
const BPF_ANY: u64 = 0;
const BPF_NOEXIST: u64 = 1;

/// Whether a record could not be written because there is one.
fn is_there(error: &MapError) -> bool {
    let MapError::SyscallError(call) = error else { return false };
    call.io_error.kind() == ErrorKind::AlreadyExists
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
            let map = match self.ebpf.map(name) {
                Some(Map::LruHashMap(map)) => map,
                _ => bail!("the object has no map {name} for records"),
            };
            let fd = map.fd().as_fd().try_clone_to_owned();
            let map = fd.map_err(anyhow::Error::from).and_then(|fd| Ok(MapData::from_fd(fd)?));
            let map = map.with_context(|| format!("failed to open the map {name} once more"))?;
            let info = map.info().with_context(|| format!("failed to ask about the map {name}"))?;
            let map = HashMap::try_from(Map::LruHashMap(map))
                .with_context(|| format!("the map {name} is of another kind"))?;
            Ok((record, map, u64::from(info.max_entries())))
        };
        Ok(Records(Record::ALL.into_iter().map(open).collect::<Result<_>>()?))
    }
}
