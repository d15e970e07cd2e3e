//! How a command fails: the exit code and the words.

use crate::api::Kind;
use crate::api::client::CallError;
use crate::config::Report;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Asking the daemon failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// What was typed contradicts itself.
    #[error("{0}")]
    Usage(String),
    /// A file is not valid.
    #[error("{summary}")]
    InvalidConfig {
        /// One line.
        summary: String,
        /// Its mistakes.
        report: Mistakes,
    },
    /// Anything else.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// The mistakes of a file.
#[derive(Debug)]
pub(super) enum Mistakes {
    /// Found by this process.
    Here(Box<Report>),
    /// Found by the daemon, as plain text.
    Told(String),
    /// Printed already, on stdout.
    Printed,
}

impl Failure {
    /// The process's exit code.
    pub(super) const fn code(&self) -> u8 {
        match self {
            Self::Call(CallError::Unreachable { .. }) => 4,
            Self::Call(CallError::Problem(problem)) => match problem.kind {
                Kind::BadRequest => 2,
                Kind::NotFound => 3,
                Kind::InvalidConfig => 6,
                Kind::Failed => 1,
            },
            Self::Call(CallError::Answer { .. }) | Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::InvalidConfig { .. } => 6,
        }
    }

    /// What is printed on stderr, ending in a line feed.
    pub(super) fn words(&self, styled: bool) -> String {
        let report = match self {
            Self::InvalidConfig { report: Mistakes::Here(report), .. } => report.render(styled),
            Self::InvalidConfig { report: Mistakes::Told(report), .. } => {
                report.lines().map(|line| crate::output::clean(line) + "\n").collect()
            }
            _ => String::new(),
        };
        let gap = if report.is_empty() || report.ends_with('\n') { "" } else { "\n" };
        format!("{report}{gap}lb: {self:#}\n")
    }
}
