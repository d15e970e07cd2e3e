//! What setting a backend up has changed, so that it can be put back: a file, and what follows from
//! it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Change, Found};
use crate::{decap, durable};

/// The file's name.
const FILE: &str = "backend.json";
/// What the file says it is.
const SCHEMA: &str = "lb.backend-record/1";

/// What was changed, by one set-up or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`SCHEMA`].
    schema: String,
    /// Where the program is pinned.
    pub pin_dir: PathBuf,
    /// Addresses that were not on loopback.
    addresses: BTreeSet<IpAddr>,
    /// Kernel parameters that had another value.
    sysctls: BTreeMap<String, Was>,
    /// The end of the tunnel, if it was touched.
    decap: Option<Decap>,
}

/// A value before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Was {
    from: String,
    to: String,
}

/// The same for the end of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Decap {
    from: Option<decap::Settings>,
    to: decap::Settings,
}

impl Record {
    /// Of a host that nothing was changed on.
    pub fn new(pin_dir: &Path) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            pin_dir: pin_dir.to_owned(),
            addresses: BTreeSet::new(),
            sysctls: BTreeMap::new(),
            decap: None,
        }
    }

    /// Adds changes that are about to be made. What was there before the first of them stays what is
    /// put back.
    pub fn add(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::AddAddress(vip) => {
                    self.addresses.insert(*vip);
                }
                Change::RemoveAddress(vip) => {
                    self.addresses.remove(vip);
                }
                Change::Sysctl { name, from, to } => {
                    let first = || Was { from: from.clone(), to: to.clone() };
                    self.sysctls.entry(name.clone()).or_insert_with(first).to.clone_from(to);
                }
                Change::Decap { from, to: Some(to) } => {
                    let first = || Decap { from: from.clone(), to: to.clone() };
                    self.decap.get_or_insert_with(first).to.clone_from(to);
                }
                Change::Decap { to: None, .. } => self.decap = None,
            }
        }
    }

    /// Names of kernel parameters that were changed.
    pub fn sysctl_names(&self) -> Vec<String> {
        self.sysctls.keys().cloned().collect()
    }

    /// What puts everything back, as far as it still is as it was left, and a line for each thing
    /// that is not: somebody else's wishes stay.
    pub fn undo(&self, found: &Found) -> (Vec<Change>, Vec<String>) {
        let (mut changes, mut kept) = (Vec::new(), Vec::new());
        if let (Some(Decap { from, to }), Some(now)) = (&self.decap, &found.decap) {
            if to.are_met_by(now) {
                changes.push(Change::Decap { from: Some(now.clone()), to: from.clone() });
            } else if from.as_ref() != Some(now) {
                kept.push(format!("decapsulation {now} is not what was set up: it stays"));
            }
        }
        let still_there = self.addresses.intersection(&found.loopback);
        changes.extend(still_there.copied().map(Change::RemoveAddress));
        for (name, Was { from, to }) in &self.sysctls {
            match found.sysctls.get(name) {
                Some(now) if now == to => {
                    let (from, to) = (to.clone(), from.clone());
                    changes.push(Change::Sysctl { name: name.clone(), from, to });
                }
                Some(now) if now != from => {
                    kept.push(format!("{name} is {now}, not the {to} that was set up: it stays"));
                }
                Some(_) | None => {}
            }
        }
        (changes, kept)
    }
}

/// Where the record is kept.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// In a directory, which is made when something is written.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// Reads the record, if there is one. One that cannot be understood is an error: to forget it
    /// would be to leave changes behind.
    pub fn load(&self) -> Result<Option<Record>> {
        let path = self.path();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("failed to read {}", path.display()));
            }
        };
        let record: Record = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is corrupt", path.display()))?;
        ensure!(
            record.schema == SCHEMA,
            "{} has schema {:?}, this version reads {SCHEMA:?}",
            path.display(),
            record.schema
        );
        Ok(Some(record))
    }

    /// Writes the record.
    pub fn save(&self, record: &Record) -> Result<()> {
        let write = || {
            let mut bytes = serde_json::to_vec_pretty(record).context("failed to encode")?;
            bytes.push(b'\n');
            durable::replace(&self.directory, FILE, &bytes)
        };
        write().with_context(|| format!("failed to write {}", self.path().display()))
    }

    /// Removes it.
    pub fn remove(&self) -> Result<()> {
        let path = self.path();
        fs::remove_file(&path).with_context(|| format!("failed to remove {}", path.display()))
    }
}
