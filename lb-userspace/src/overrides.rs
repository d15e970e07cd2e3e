//! The operator's layer over the file: what an edit makes of it, what a new file leaves of it,
//! and the store that keeps it over restarts. Deciding is pure; [`Store`] only reads and writes.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::Edit;
use crate::config::{self, Config};
use crate::durable;
use crate::state::{BackendId, Override};

/// Applies an edit to the overrides of a backend against what the file says; returns what to
/// keep, `None` where nothing is overridden any more.
///
/// `by` is who asks, `now` when. A field that the edit leaves out stays as it is, and so does
/// the reason, unless it is somebody else's: nobody's words are put into another's mouth. An
/// empty reason takes the old one away.
pub fn edit(
    file: &config::Backend,
    current: Option<&Override>,
    edit: &Edit,
    by: &str,
    now: Timestamp,
) -> Option<Override> {
    let Edit { admin, weight, reason } = edit;
    if admin.is_none() && weight.is_none() && reason.is_none() {
        return current.cloned();
    }
    let mut kept = current.cloned().unwrap_or_default();
    if let Some(admin) = *admin {
        (kept.admin, kept.admin_in_file) = against(admin, file.admin);
    }
    if let Some(weight) = *weight {
        (kept.weight, kept.weight_in_file) = against(weight, file.weight);
    }
    if let Some(reason) = reason {
        kept.reason = Some(reason.clone()).filter(|words| !words.trim().is_empty());
    } else if kept.by != by {
        kept.reason = None;
    }
    by.clone_into(&mut kept.by);
    kept.at = now;
    overrides_something(&kept).then_some(kept)
}

/// The two fields of an override for a wish: nothing if the file says the same.
fn against<T: PartialEq>(wish: T, file: T) -> (Option<T>, Option<T>) {
    if wish == file { (None, None) } else { (Some(wish), Some(file)) }
}

const fn overrides_something(kept: &Override) -> bool {
    kept.admin.is_some() || kept.weight.is_some()
}

/// After a reload: which overrides stay, and a line for each that goes, because its backend is
/// gone or because the file changed the same field (then the file wins).
///
/// What an override was made against is taken from the override itself, and from `old` where it
/// does not say. So a daemon that starts passes its one configuration twice, and learns what the
/// file changed while it was away.
pub fn reconcile(
    old: &Config,
    new: &Config,
    overrides: BTreeMap<BackendId, Override>,
) -> (BTreeMap<BackendId, Override>, Vec<String>) {
    let mut kept = BTreeMap::new();
    let mut lines = Vec::new();
    for (id, mut entry) in overrides {
        let Some(file) = backend(new, &id) else {
            lines.push(format!(
                "{id}: {} by {} is dropped: the file has no such backend any more",
                wishes(&entry),
                entry.by
            ));
            continue;
        };
        let before = backend(old, &id);
        let admin_before = entry.admin_in_file.or(before.map(|b| b.admin));
        if let (Some(wish), Some(was)) = (entry.admin, admin_before) {
            entry.admin_in_file = Some(was);
            if was != file.admin {
                lines.push(file_wins(&id, "admin", &wish, &entry.by, &was, &file.admin));
                (entry.admin, entry.admin_in_file) = (None, None);
            }
        }
        let weight_before = entry.weight_in_file.or(before.map(|b| b.weight));
        if let (Some(wish), Some(was)) = (entry.weight, weight_before) {
            entry.weight_in_file = Some(was);
            if was != file.weight {
                lines.push(file_wins(&id, "weight", &wish, &entry.by, &was, &file.weight));
                (entry.weight, entry.weight_in_file) = (None, None);
            }
        }
        if overrides_something(&entry) {
            kept.insert(id, entry);
        }
    }
    (kept, lines)
}

fn backend<'a>(config: &'a Config, id: &BackendId) -> Option<&'a config::Backend> {
    config.services.get(&id.service)?.backends.get(&id.backend)
}

/// What an override wants, in words: `admin drain, weight 50`.
fn wishes(entry: &Override) -> String {
    let admin = entry.admin.map(|admin| format!("admin {admin}"));
    let weight = entry.weight.map(|weight| format!("weight {weight}"));
    admin.into_iter().chain(weight).collect::<Vec<_>>().join(", ")
}

fn file_wins(
    id: &BackendId,
    field: &str,
    wish: &dyn Display,
    by: &str,
    was: &dyn Display,
    now: &dyn Display,
) -> String {
    format!("{id}: {field} {wish} by {by} is dropped: the file changed {was} -> {now}")
}

/// Where overrides survive restarts: `overrides.json` in the state directory.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
}

/// The file's content.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    schema: String,
    overrides: BTreeMap<BackendId, Override>,
}

const SCHEMA: &str = "lb.overrides/1";
const FILE: &str = "overrides.json";

impl Store {
    /// A store in `state_dir`, which the first save creates where it is missing.
    pub fn open(state_dir: &Path) -> Self {
        Self { directory: state_dir.to_owned() }
    }

    /// The file that it reads and writes.
    pub fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// Reads the overrides; none where the file does not exist. A file that cannot be read or
    /// understood is an error and stays where it is: forgetting a drain would send flows to a
    /// server that somebody works on.
    pub fn load(&self) -> anyhow::Result<BTreeMap<BackendId, Override>> {
        let path = self.path();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("failed to read overrides {}", path.display()));
            }
        };
        let stored: Stored = serde_json::from_slice(&bytes)
            .with_context(|| format!("overrides {} are corrupt", path.display()))?;
        if stored.schema != SCHEMA {
            bail!(
                "overrides {} have schema {:?}, this version reads {SCHEMA:?}",
                path.display(),
                stored.schema
            );
        }
        Ok(stored.overrides)
    }

    /// Writes the overrides, so that after a crash at any moment the file holds the old ones or
    /// the new ones, whole.
    pub fn save(&self, overrides: &BTreeMap<BackendId, Override>) -> anyhow::Result<()> {
        let stored = Stored { schema: SCHEMA.to_owned(), overrides: overrides.clone() };
        let write = || {
            let mut bytes = serde_json::to_vec_pretty(&stored).context("failed to encode")?;
            bytes.push(b'\n');
            durable::replace(&self.directory, FILE, &bytes)
        };
        write().with_context(|| format!("failed to write overrides {}", self.path().display()))
    }
}

#[cfg(test)]
mod tests;
