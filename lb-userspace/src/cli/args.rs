//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, value_parser};

use crate::api::{DEFAULT_ROWS, FlowKind, FlowQuery, MAX_ROWS};
use crate::config::MAX_WEIGHT;
use crate::output::Format;
use crate::prefix::Prefix;
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
    Reload {
        /// Only tell what that would change, as `lb diff` does
        #[arg(long)]
        dry_run: bool,
    },
    /// Tell what would change if the daemon loaded a file now, changing nothing
    Diff {
        /// The file
        file: PathBuf,
    },
    /// Show the node, what is wrong, services and counters
    Status,
    /// Show the services
    Services,
    /// Show the backends
    Backends {
        /// Only this service's
        service: Option<String>,
    },
    /// Show what is remembered of flows
    Flows {
        #[command(subcommand)]
        how: Flows,
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

/// How remembered flows are shown.
#[derive(Debug, Subcommand)]
pub(super) enum Flows {
    /// One by one
    List {
        #[command(flatten)]
        which: Which,
        /// Show so many at most
        #[arg(
            long, value_name = "N", default_value_t = DEFAULT_ROWS,
            value_parser = value_parser!(u32).range(1..=i64::from(MAX_ROWS))
        )]
        limit: u32,
    },
    /// How many each backend has
    Count(Which),
}

/// Which flows are meant.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// Only those of this service, or of this backend of it
    #[arg(value_name = "SERVICE|SERVICE/BACKEND")]
    pub scope: Option<String>,
    /// Only those from these addresses, such as 198.51.100.0/24
    #[arg(long, value_name = "PREFIX")]
    pub source: Option<Prefix>,
    /// Only those that are remembered for this reason
    #[arg(long, value_enum, value_name = "KIND")]
    pub kind: Option<FlowKind>,
}

impl Which {
    /// The question to the daemon.
    pub(super) fn query(self, limit: Option<u32>) -> FlowQuery {
        let Self { scope, source, kind } = self;
        let (service, backend) = match scope {
            Some(scope) => match scope.split_once('/') {
                Some((service, backend)) => (Some(service.to_owned()), Some(backend.to_owned())),
                None => (Some(scope), None),
            },
            None => (None, None),
        };
        FlowQuery { service, backend, source, kind, limit }
    }
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
