//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, value_parser};

use crate::config::MAX_WEIGHT;
use crate::output::Format;
use crate::state::BackendId;

/// Where the configuration is unless told otherwise.
const CONFIG: &str = "/etc/lb/lb.toml";
/// Where the daemon listens unless told otherwise.
const SOCKET: &str = "/run/lb/lb.sock";

/// XDP layer-4 load balancer: the daemon and its command line.
#[derive(Debug, Parser)]
#[command(name = "lb", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(super) struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 usage, 3 no such service or backend, \
                          4 daemon not reachable, 6 configuration not valid";

/// Options that every verb has.
#[derive(Clone, Debug, Args)]
pub(super) struct Global {
    /// The daemon's control socket
    #[arg(long, global = true, env = "LB_SOCKET", value_name = "PATH", default_value = SOCKET)]
    pub socket: PathBuf,
    /// How answers are printed
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
    /// Print without colours (so does the environment variable NO_COLOR)
    #[arg(long, global = true)]
    pub no_color: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Run the daemon
    Run {
        /// The configuration file
        #[arg(long, value_name = "FILE", default_value = CONFIG)]
        config: PathBuf,
        /// Which [node.NAME] of the file this host is, instead of the one named like the host
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
    },
    /// Check a configuration file, without a daemon
    Check {
        /// The configuration file
        #[arg(default_value = CONFIG)]
        file: PathBuf,
        /// Check as this [node.NAME] of the file
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
    },
    /// Make the daemon read its file again
    Reload,
    /// Show the node, what is wrong, services and counters
    Status,
    /// Show the services
    Services,
    /// Show the backends
    Backends {
        /// Only this service's
        service: Option<String>,
    },
    /// Let a backend take no new flows; old ones stay
    Drain {
        #[command(flatten)]
        target: Target,
        /// Return once its flows are gone (no packet for 10 s, none remembered), or its grace is
        /// over
        #[arg(long)]
        wait: bool,
    },
    /// Let a backend take flows again
    Enable(Target),
    /// Take a backend out altogether: no flows, no checks
    Disable(Target),
    /// Change a backend's share of the flows
    Weight {
        #[command(flatten)]
        target: Target,
        /// The weight, 0 to 1000; 0 takes no new flows
        #[arg(value_parser = value_parser!(u16).range(..=i64::from(MAX_WEIGHT)))]
        weight: u16,
    },
    /// Tell where a flow would go and why, changing nothing
    Explain {
        /// The flow, such as 'tcp 198.51.100.7:40112 > 192.0.2.100:443'
        flow: String,
    },
    /// Show the version of this program and of the daemon
    Version,
    /// Remove the XDP program and its pins from this host
    Detach {
        /// The configuration file, which says where the pins are
        #[arg(long, value_name = "FILE", default_value = CONFIG)]
        config: PathBuf,
        /// Even while a daemon runs
        #[arg(long)]
        force: bool,
    },
}

/// A backend, and why it is changed.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// The backend, such as web/web1
    #[arg(value_name = "SERVICE/BACKEND")]
    pub backend: BackendId,
    /// Why; shown to other operators until the change is taken back
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}
