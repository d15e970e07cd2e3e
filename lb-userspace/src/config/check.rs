//! From a file to a [`Config`]: a placeholder with the signatures that others call.

use std::path::Path;

use super::{Config, Report};

/// Which node of the file this host is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeChoice {
    /// The one of this name.
    Named(String),
    /// The one named like the host.
    HostName(String),
    /// Whichever: the file is only looked at.
    Any,
}

/// A file that holds.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it says.
    pub config: Config,
    /// What is odd about it, a line each.
    pub warnings: Vec<String>,
}

/// Reads and checks a file.
///
/// # Errors
/// Always: this build cannot read files yet.
pub fn load(path: &Path, _node: &NodeChoice) -> Result<Loaded, Report> {
    Err(Report::new(format!("failed to read {}: this build has no checker", path.display())))
}
