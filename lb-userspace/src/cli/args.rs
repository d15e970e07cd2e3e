//! What can be typed.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, value_parser};

use crate::api::{DEFAULT_ROWS, FlowKind, FlowQuery, MAX_ROWS};
use crate::backend::Mode;
use crate::config::{MAX_WEIGHT, XdpMode};
use crate::decap::parse_source;
use crate::output::Format;
use crate::prefix::Prefix;
use crate::state::BackendId;

/// Where the configuration is unless told otherwise.
const CONFIG: &str = "/etc/lb/lb.toml";
/// Where the daemon listens unless told otherwise.
const SOCKET: &str = "/run/lb/lb.sock";

/// Where a backend's program is pinned unless told otherwise.
const DECAP_PINS: &str = "/sys/fs/bpf/lb-decap";
/// Where a backend's host remembers what was changed, unless told otherwise.
const STATE: &str = "/var/lib/lb";

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
    /// On a backend: take clients' packets out of tunnels (ipip, gue)
    Decap(Decap),
    /// On a backend: prepare this host
    Backend {
        #[command(subcommand)]
        what: Backend,
    },
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

/// The end of a tunnel.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Decap {
    /// An interface that tunnels come in by; again for more. Others lose the program
    #[arg(
        long = "interface", value_name = "NAME", value_parser = NonEmptyStringValueParser::new(),
        required_unless_present_any = ["status", "remove"],
        conflicts_with_all = ["status", "remove"]
    )]
    pub interfaces: Vec<String>,
    /// Where tunnels may come from: the balancers' addresses; again for more
    #[arg(
        long, value_name = "PREFIX", value_parser = parse_source,
        required_unless_present_any = ["status", "remove"],
        conflicts_with_all = ["status", "remove"]
    )]
    pub from: Vec<Prefix>,
    /// Where in the network stack the program runs
    #[arg(long, value_enum, default_value_t, value_name = "MODE")]
    pub xdp_mode: XdpMode,
    /// A directory in a BPF file system where program and maps are pinned
    #[arg(long, value_name = "DIRECTORY", default_value = DECAP_PINS)]
    pub pin_dir: PathBuf,
    /// Only show what is attached and what became of packets
    #[arg(long, conflicts_with = "remove")]
    pub status: bool,
    /// Remove the program and its pins
    #[arg(long)]
    pub remove: bool,
}

/// What is done with a backend's host.
#[derive(Debug, Subcommand)]
pub(super) enum Backend {
    /// Put VIPs on loopback, keep them quiet there, and attach the end of the tunnel
    Setup(Setup),
}

/// What a backend's host is to have.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Setup {
    /// How the balancer forwards
    #[arg(long, value_enum, required_unless_present = "undo", conflicts_with = "undo")]
    pub mode: Option<Mode>,
    /// A virtual address that this host serves; again for more. Those of earlier runs stay
    #[arg(
        long = "vip",
        value_name = "ADDRESS",
        required_unless_present = "undo",
        conflicts_with = "undo"
    )]
    pub vips: Vec<IpAddr>,
    /// With a tunnel: an interface that it comes in by; again for more
    #[arg(
        long = "interface", value_name = "NAME", value_parser = NonEmptyStringValueParser::new(),
        required_if_eq_any = [("mode", "ipip"), ("mode", "gue")], conflicts_with = "undo"
    )]
    pub interfaces: Vec<String>,
    /// With a tunnel: where it may come from, the balancers' addresses; again for more
    #[arg(
        long, value_name = "PREFIX", value_parser = parse_source,
        required_if_eq_any = [("mode", "ipip"), ("mode", "gue")], conflicts_with = "undo"
    )]
    pub from: Vec<Prefix>,
    /// With a tunnel: where in the network stack the program runs
    #[arg(long, value_enum, default_value_t, value_name = "MODE", conflicts_with = "undo")]
    pub xdp_mode: XdpMode,
    /// With a tunnel: a directory in a BPF file system where program and maps are pinned
    #[arg(
        long, value_name = "DIRECTORY", default_value = DECAP_PINS, conflicts_with = "undo"
    )]
    pub pin_dir: PathBuf,
    /// Where it is remembered what to put back
    #[arg(long, value_name = "DIRECTORY", default_value = STATE)]
    pub state_dir: PathBuf,
    /// Only show what would be changed
    #[arg(long)]
    pub dry_run: bool,
    /// Put back what was changed
    #[arg(long)]
    pub undo: bool,
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
