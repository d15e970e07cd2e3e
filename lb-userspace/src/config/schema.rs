//! Which keys and words the file may have, and which belong to capabilities that this version
//! does not have yet.

use super::wording::{listed, nearest};
use super::{AdminState, Affinity, Forward, NoBackend, OnDown, Scheduler, XdpMode};

/// A table of the file.
pub struct Schema {
    /// What the table is, with its article: "a service".
    pub of: &'static str,
    /// How its place is written: `[service.NAME]`.
    pub place: &'static str,
    /// The keys that it may have.
    pub keys: &'static [&'static str],
    /// The keys that a later version may read, and what they are for.
    pub later: &'static [(&'static str, &'static str)],
}

/// The words that a key may have: what each means, or what it needs that is not there yet.
pub type Words<T> = [(&'static str, Result<T, &'static str>)];

const PAIR: &str = "the pair of nodes (VRRP, peer link)";
const MYSQL: &str = "MySQL roles";

/// The whole file.
pub const FILE: Schema = Schema {
    of: "the file",
    place: "the top of the file",
    keys: &["version", "defaults", "node", "dataplane", "admin", "service"],
    later: &[("pair", PAIR), ("mysql", MYSQL)],
};
/// `[defaults]`.
pub const DEFAULTS: Schema = Schema {
    of: "the defaults",
    place: "[defaults]",
    keys: &[
        "scheduler",
        "forward",
        "affinity",
        "slow-start",
        "on-down",
        "no-backend",
        "drain",
        "check",
    ],
    later: &[],
};
/// `[node.NAME]`.
pub const NODE: Schema = Schema {
    of: "a node",
    place: "[node.NAME]",
    keys: &["interfaces", "address"],
    later: &[("priority", PAIR)],
};
/// `[dataplane]`.
pub const DATAPLANE: Schema = Schema {
    of: "the dataplane",
    place: "[dataplane]",
    keys: &[
        "xdp-mode",
        "slots",
        "lease",
        "quiet-window",
        "pins",
        "half-open",
        "udp-idle",
        "tcp-idle",
        "closing-idle",
        "closed-idle",
        "half-open-idle",
        "sources",
        "pin-dir",
        "state-dir",
    ],
    later: &[],
};
/// `[admin]`.
pub const ADMIN: Schema = Schema {
    of: "the admin table",
    place: "[admin]",
    keys: &["socket"],
    later: &[("http", "the status page"), ("log", "log settings in the file")],
};
/// `[admin].socket` as a table.
pub const SOCKET: Schema = Schema {
    of: "the socket",
    place: "[admin].socket",
    keys: &["path"],
    later: &[("operators", "operators and viewers"), ("viewers", "operators and viewers")],
};
/// `[service.NAME]`.
pub const SERVICE: Schema = Schema {
    of: "a service",
    place: "[service.NAME]",
    keys: &[
        "listen",
        "scheduler",
        "forward",
        "affinity",
        "slots",
        "slow-start",
        "limit",
        "allow",
        "deny",
        "on-down",
        "no-backend",
        "drain",
        "check",
        "backend",
    ],
    later: &[("mysql", MYSQL)],
};
/// A table in `[service.NAME.backend]`.
pub const BACKEND: Schema = Schema {
    of: "a backend",
    place: "[service.NAME.backend]",
    keys: &["address", "port", "weight", "admin", "backup", "slow-start", "server-id"],
    later: &[],
};
/// `check` of a service or of the defaults.
pub const CHECK: Schema = Schema {
    of: "a check",
    place: "`check`",
    keys: &[
        "type",
        "port",
        "path",
        "host",
        "expect",
        "verify",
        "interval",
        "fast-interval",
        "timeout",
        "rise",
        "fall",
    ],
    later: &[],
};
/// `drain` of a service or of the defaults.
pub const DRAIN: Schema =
    Schema { of: "a drain", place: "`drain`", keys: &["grace", "then"], later: &[] };
/// `limit` of a service.
pub const LIMIT: Schema = Schema {
    of: "a limit",
    place: "`limit`",
    keys: &["flows", "flows-burst", "source", "source-burst"],
    later: &[],
};
/// `verify` of a check as a table.
pub const VERIFY: Schema = Schema { of: "verify", place: "verify", keys: &["ca"], later: &[] };

/// All tables; those that a stray key is looked for in first come first.
pub const ALL: [&Schema; 12] = [
    &FILE, &DEFAULTS, &SERVICE, &BACKEND, &CHECK, &DRAIN, &LIMIT, &NODE, &DATAPLANE, &ADMIN,
    &SOCKET, &VERIFY,
];

/// Words of HAProxy and keepalived, and what they are called here.
const ELSEWHERE: [(&str, &str); 15] = [
    ("bind", "listen"),
    ("balance", "scheduler"),
    ("lb_algo", "scheduler"),
    ("lb_kind", "forward"),
    ("mode", "forward"),
    ("server", "backend"),
    ("servers", "backend"),
    ("real_server", "backend"),
    ("virtual_server", "service"),
    ("frontend", "service"),
    ("inter", "interval"),
    ("fastinter", "fast-interval"),
    ("slowstart", "slow-start"),
    ("maxconnrate", "limit"),
    ("rate-limit", "limit"),
];

/// The same for the words that a key may have.
const WORDS_ELSEWHERE: [(&str, &str); 6] = [
    ("rr", "round-robin"),
    ("wrr", "round-robin"),
    ("roundrobin", "round-robin"),
    ("lc", "least-conn"),
    ("wlc", "least-conn"),
    ("leastconn", "least-conn"),
];

/// The one of `known` words that was probably meant by another one.
pub fn meant(
    word: &str,
    known: impl Iterator<Item = &'static str> + Clone,
) -> Option<&'static str> {
    let elsewhere = WORDS_ELSEWHERE.iter().find(|(theirs, _)| *theirs == word);
    let mut ours = elsewhere.map(|(_, ours)| *ours).into_iter();
    ours.find(|ours| known.clone().any(|known| known == *ours)).or_else(|| nearest(word, known))
}

/// What is to be said about a key that a table does not have.
pub struct Unknown {
    /// The table's key that was meant, if it is clear.
    pub meant: Option<&'static str>,
    /// What to do about it.
    pub hint: String,
}

impl Schema {
    /// Looks for what was meant by a key that the table does not have.
    pub fn unknown(&self, key: &str) -> Unknown {
        let keys = || self.keys.iter().copied();
        let elsewhere = ELSEWHERE.iter().find(|(word, _)| *word == key).map(|(_, ours)| *ours);
        let meant = nearest(key, keys()).or(elsewhere.filter(|ours| self.keys.contains(ours)));
        if let Some(known) = meant {
            return Unknown { meant, hint: format!("did you mean `{known}`?") };
        }
        let word = elsewhere.unwrap_or(key);
        let hint = match ALL.iter().find(|schema| schema.keys.contains(&word)) {
            Some(owner) => format!("`{word}` belongs in {}", owner.place),
            None => format!("{} may have {}", self.of, listed(keys())),
        };
        Unknown { meant: None, hint }
    }
}

/// `scheduler`.
pub const SCHEDULERS: &Words<Scheduler> = &[
    ("maglev", Ok(Scheduler::Maglev)),
    ("round-robin", Ok(Scheduler::RoundRobin)),
    ("least-conn", Ok(Scheduler::LeastConn)),
];
/// `forward`.
pub const FORWARDS: &Words<Forward> = &[
    ("l2", Ok(Forward::L2)),
    ("ipip", Ok(Forward::Ipip)),
    ("gue", Ok(Forward::Gue)),
    ("nat", Err("address translation")),
    ("full-nat", Err("address translation")),
];
/// `affinity`.
pub const AFFINITIES: &Words<Affinity> = &[
    ("flow", Ok(Affinity::Flow)),
    ("client-ip", Ok(Affinity::ClientIp)),
    ("none", Ok(Affinity::None)),
    ("quic", Ok(Affinity::Quic)),
];
/// `on-down`, and `then` of a drain.
pub const ON_DOWN: &Words<OnDown> = &[("keep", Ok(OnDown::Keep)), ("reset", Ok(OnDown::Reset))];
/// `no-backend`.
pub const NO_BACKEND: &Words<NoBackend> =
    &[("drop", Ok(NoBackend::Drop)), ("reject", Ok(NoBackend::Reject))];
/// `xdp-mode`.
pub const XDP_MODES: &Words<XdpMode> = &[
    ("auto", Ok(XdpMode::Auto)),
    ("native", Ok(XdpMode::Native)),
    ("generic", Ok(XdpMode::Generic)),
];
/// `admin` of a backend.
pub const ADMIN_STATES: &Words<AdminState> = &[
    ("ready", Ok(AdminState::Ready)),
    ("drain", Ok(AdminState::Drain)),
    ("disable", Ok(AdminState::Disable)),
];

/// `type` of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing is asked.
    None,
    /// A connection is opened.
    Tcp,
    /// HTTP in the clear.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Kind {
    /// As the file writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Check types.
pub const KINDS: &Words<Kind> = &[
    ("none", Ok(Kind::None)),
    ("tcp", Ok(Kind::Tcp)),
    ("http", Ok(Kind::Http)),
    ("https", Ok(Kind::Https)),
    ("mysql", Err(MYSQL)),
];
