//! The daemon: a placeholder with the signature that the command line calls.

use std::path::PathBuf;

/// How the daemon is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// Which node of the file this host is; `None` to go by the host's name.
    pub node: Option<String>,
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// Always: this build has no daemon yet.
pub async fn run(options: Options) -> anyhow::Result<()> {
    anyhow::bail!("failed to start with {}: this build has no daemon", options.config.display())
}
