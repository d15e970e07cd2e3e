//! What the smaller verbs answer: `reload`, `version`, `check`, `detach`.

use serde::Serialize;

use super::words::{clean, indented};
use super::{Answer, Screen};
use crate::api::{ReloadView, VersionView};

/// What a reload did.
#[derive(Clone, Debug, Serialize)]
pub struct Reloaded {
    /// `lb.reload/1`.
    schema: &'static str,
    #[serde(flatten)]
    view: ReloadView,
}

impl Reloaded {
    /// An answer with the daemon's.
    pub const fn new(view: ReloadView) -> Self {
        Self { schema: "lb.reload/1", view }
    }
}

impl Answer for Reloaded {
    fn table(&self, screen: &Screen) -> String {
        let ReloadView { digest, changed, changes, dropped_overrides, warnings } = &self.view;
        let digest: String = digest.chars().take(12).collect();
        let mut text = if *changed {
            format!("{}: sha256 {} runs now\n", screen.heading("reloaded"), clean(&digest))
        } else {
            format!("nothing to do: sha256 {} runs already\n", clean(&digest))
        };
        for change in changes {
            text += &format!("  {}\n", clean(change));
        }
        for line in dropped_overrides {
            text += &format!("override: {}\n", clean(line));
        }
        for line in warnings {
            text += &format!("warning: {}\n", clean(line));
        }
        text
    }
}

/// The versions of the command line and of the daemon.
#[derive(Clone, Debug, Serialize)]
pub struct Versions {
    /// `lb.version/1`.
    schema: &'static str,
    /// This program's.
    cli: VersionView,
    /// The running daemon's.
    daemon: Option<VersionView>,
    /// Why the daemon's is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    daemon_error: Option<String>,
}

impl Versions {
    /// This program's version, and what asking the daemon came to.
    pub fn new(cli: VersionView, daemon: Result<VersionView, String>) -> Self {
        let (daemon, daemon_error) = match daemon {
            Ok(version) => (Some(version), None),
            Err(words) => (None, Some(words)),
        };
        Self { schema: "lb.version/1", cli, daemon, daemon_error }
    }
}

impl Answer for Versions {
    fn table(&self, _screen: &Screen) -> String {
        let words = |view: &VersionView| {
            format!("{} (map schema {})", clean(&view.version), view.map_schema)
        };
        let daemon = match (&self.daemon, &self.daemon_error) {
            (Some(view), _) => words(view),
            (None, Some(error)) => format!("unknown: {}", clean(error)),
            (None, None) => "unknown".to_owned(),
        };
        format!("lb      {}\ndaemon  {daemon}\n", words(&self.cli))
    }
}

/// What checking a file came to.
#[derive(Clone, Debug, Serialize)]
pub struct Checked {
    /// `lb.check/1`.
    schema: &'static str,
    /// The file.
    file: String,
    /// Whether it holds.
    valid: bool,
    /// SHA-256 of its bytes, where it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// How many services it has, where it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    services: Option<usize>,
    /// How many backends they have together, where it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    backends: Option<usize>,
    /// Bytes that the maps would take on a host of so many CPUs as this one, where it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    locked_memory: Option<u64>,
    /// What is odd about it, a line each.
    warnings: Vec<String>,
    /// Its mistakes, where it does not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<String>,
}

impl Checked {
    /// A file that holds.
    pub fn valid(loaded: crate::config::Loaded, cpus: u64) -> Self {
        let config = loaded.config;
        Self {
            schema: "lb.check/1",
            file: config.path.display().to_string(),
            valid: true,
            locked_memory: Some(crate::plan::wanted(&config).memory(cpus)),
            digest: Some(config.digest),
            services: Some(config.services.len()),
            backends: Some(config.services.values().map(|service| service.backends.len()).sum()),
            warnings: loaded.warnings,
            report: None,
        }
    }

    /// A file with mistakes, and the report of them without colours.
    pub const fn invalid(file: String, report: String) -> Self {
        Self {
            schema: "lb.check/1",
            file,
            valid: false,
            digest: None,
            services: None,
            backends: None,
            locked_memory: None,
            warnings: Vec::new(),
            report: Some(report),
        }
    }
}

impl Answer for Checked {
    fn table(&self, _screen: &Screen) -> String {
        let file = clean(&self.file);
        let mut text = match (&self.report, self.services, self.backends) {
            (Some(report), _, _) => {
                format!("{file} is not valid:\n{}", indented(report, "  "))
            }
            (None, Some(services), Some(backends)) => {
                let (s, b) = (number(services, "service"), number(backends, "backend"));
                format!("{file} is valid: {s}, {b}\n")
            }
            (None, _, _) => format!("{file} is valid\n"),
        };
        if let Some(bytes) = self.locked_memory {
            text += &format!("locked memory: about {} MB\n", bytes.div_ceil(1_000_000));
        }
        for warning in &self.warnings {
            text += &format!("warning: {}\n", clean(warning));
        }
        text
    }
}

/// `1 service`, `2 services`.
fn number(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// What was removed from the host.
#[derive(Clone, Debug, Serialize)]
pub struct Detached {
    /// `lb.detach/1`.
    schema: &'static str,
    /// A line for each thing.
    removed: Vec<String>,
}

impl Detached {
    /// An answer with these lines.
    pub const fn new(removed: Vec<String>) -> Self {
        Self { schema: "lb.detach/1", removed }
    }
}

impl Answer for Detached {
    fn table(&self, _screen: &Screen) -> String {
        if self.removed.is_empty() {
            return "nothing to remove\n".to_owned();
        }
        self.removed.iter().map(|line| format!("{}\n", clean(line))).collect()
    }
}
