//! What is told of a configuration before it is loaded.

use serde::{Deserialize, Serialize};

/// A file that is not the daemon's own, which it may not be allowed to read.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffRequest {
    /// What messages call it.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// What loading a file now would do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DiffView {
    /// `lb.diff/1`.
    pub schema: String,
    /// The file.
    pub path: String,
    /// SHA-256 of the file.
    pub digest: String,
    /// Whether it differs from the one that runs.
    pub changed: bool,
    /// What a running daemon cannot change: with any of these the file would be refused.
    pub fixed: Vec<String>,
    /// What would change, a line each, as a reload tells it.
    pub changes: Vec<String>,
    /// Overrides that would go because the file changes the same field, a line each.
    pub dropped_overrides: Vec<String>,
    /// Warnings, a line each.
    pub warnings: Vec<String>,
    /// Whether the maps are too small, and would be copied into larger ones.
    pub grows: bool,
    /// Services by name, those included that would come or go.
    pub services: Vec<ServiceDiff>,
}

/// What would happen to a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceDiff {
    /// Its name, the new one if it has another.
    pub service: String,
    /// What becomes of it.
    pub fate: Fate,
    /// Slots of its table: the new one's, or of a service that goes, the old one's.
    pub slots: u32,
    /// Slots whose new flows would go to another backend at once.
    pub moved: u32,
    /// The same once the backends that have yet to pass their checks and to be found serve too.
    pub moved_later: u32,
    /// Whether old flows of these slots stay where they are, remembered or not; else they move as
    /// new ones do.
    pub keeps_flows: bool,
    /// Open flows that are remembered now.
    pub flows: u64,
    /// Of these, those that would stay with a backend that takes no new flows any more.
    pub affected: u64,
    /// Of these, those that would be refused, or sent to a server that does not know them.
    pub lost: u64,
}

/// What becomes of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It is there before and after.
    Stays,
    /// It is new.
    Comes,
    /// It is no longer in the file.
    Goes,
}
