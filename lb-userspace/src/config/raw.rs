//! The shape of the file: every value read by itself, with its place. Types, ranges, unknown
//! keys and names are judged here; rules between values in `check`.

mod check;
mod limit;
mod sources;

use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

pub use self::check::Check;
pub use self::limit::Limit;

use super::listen::{oddity, parse_listener};
use super::report::Sink;
use super::schema;
use super::tree::{self, At, Field, Fields, Key, Value};
use super::wording::quoted;
use super::{
    AdminState, Affinity, Forward, Listener, MAX_WEIGHT, NoBackend, OnDown, Scheduler, SourceRule,
    XdpMode,
};

/// A whole file.
pub struct File {
    pub defaults: Policy,
    /// Those that could be read.
    pub nodes: Vec<Node>,
    /// Whether there are nodes of which none could be read, which was reported.
    pub nodes_are_wrong: bool,
    pub dataplane: Dataplane,
    pub socket: Field<PathBuf>,
    pub services: Vec<Service>,
}

/// What `[defaults]` and services have in common.
#[derive(Default)]
pub struct Policy {
    pub scheduler: Field<Scheduler>,
    pub forward: Field<Forward>,
    pub affinity: Field<Affinity>,
    pub slow_start: Field<Duration>,
    pub on_down: Field<OnDown>,
    pub no_backend: Field<NoBackend>,
    pub drain: Drain,
    pub check: Check,
}

/// `drain` of a service or of the defaults.
#[derive(Default)]
pub struct Drain {
    pub grace: Field<Duration>,
    pub then: Field<OnDown>,
}

/// `[node.NAME]`.
pub struct Node {
    pub name: At<String>,
    pub interfaces: Vec<At<String>>,
    pub address: Field<IpAddr>,
}

/// `[dataplane]`.
#[derive(Default)]
pub struct Dataplane {
    pub xdp_mode: Field<XdpMode>,
    pub slots: Field<u32>,
    pub lease: Field<Duration>,
    pub quiet_window: Field<Duration>,
    pub pins: Field<u32>,
    pub half_open: Field<u32>,
    pub udp_idle: Field<Duration>,
    pub tcp_idle: Field<Duration>,
    pub closing_idle: Field<Duration>,
    pub closed_idle: Field<Duration>,
    pub half_open_idle: Field<Duration>,
    pub sources: Field<u32>,
    pub pin_dir: Field<PathBuf>,
    pub state_dir: Field<PathBuf>,
}

/// `[service.NAME]`.
pub struct Service {
    pub name: At<String>,
    /// Those that could be read.
    pub listen: Vec<At<Listener>>,
    pub policy: Policy,
    pub slots: Field<u32>,
    pub limit: Limit,
    pub sources: Vec<At<SourceRule>>,
    pub backends: Vec<Backend>,
}

/// A table in `[service.NAME.backend]`.
pub struct Backend {
    pub name: At<String>,
    pub address: Field<IpAddr>,
    pub port: Field<u32>,
    pub weight: Field<u32>,
    pub admin: Field<AdminState>,
    pub backup: Field<bool>,
    pub slow_start: Field<Duration>,
    pub server_id: Field<u32>,
}

/// Range of `lease`.
const LEASE: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(60));
/// Range of `slots`: one backend's least, and what fits the largest number of backends.
const SLOTS: (u32, u32) = (101, 4_194_301);
/// Range of `quiet-window`.
const QUIET_WINDOW: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(604_800));
/// Range of `pins`.
const PINS: (u32, u32) = (1_024, 16_777_216);
/// Range of `half-open`.
const HALF_OPEN: (u32, u32) = (1_024, 1_048_576);
/// Range of `udp-idle`, `closing-idle` and `closed-idle`.
const IDLE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3_600));
/// Range of `tcp-idle`.
const TCP_IDLE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(604_800));
/// Range of `half-open-idle`.
const HALF_OPEN_IDLE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
/// Range of `sources`.
const SOURCES: (u32, u32) = (1_024, 16_777_216);
/// Range of `slow-start`.
const SLOW_START: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(3_600));
/// Range of `grace`.
const GRACE: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(86_400));

impl File {
    /// Reads a parsed document.
    pub fn read<'t>(sink: &mut Sink, root: &'t DeTable<'t>) -> Self {
        let file = Fields::of(sink, 0..0, root, &schema::FILE);
        if file.lacks("version") {
            let message = "the file does not say its `version`";
            sink.mistake(&(0..0), message).hint("begin it with `version = 1`");
        }
        let version = file.number(sink, "version", 0..=u32::MAX);
        if let Some(other) = version.given().filter(|version| version.value != 1) {
            let message = format!("`version` must be 1, got {}", other.value);
            sink.mistake(&other.span, message).hint("this is the version of the file's format");
        }
        let open = |sink: &mut Sink, key, schema| {
            file.get(key).and_then(|value| Fields::open(sink, key, value, schema))
        };
        let defaults = open(sink, "defaults", &schema::DEFAULTS);
        let dataplane = open(sink, "dataplane", &schema::DATAPLANE);
        let admin = open(sink, "admin", &schema::ADMIN);
        let nodes = named(sink, &file, "node");
        let services = named(sink, &file, "service");
        let nodes: Vec<Node> = nodes.into_iter().filter_map(|entry| node(sink, entry)).collect();
        let is_empty = |value: &Value| value.get_ref().as_table().is_some_and(DeTable::is_empty);
        let nodes_are_wrong = match file.get("node") {
            None => !file.lacks("node"),
            Some(value) => nodes.is_empty() && !is_empty(value),
        };
        Self {
            defaults: defaults.map(|fields| policy(sink, &fields)).unwrap_or_default(),
            nodes,
            nodes_are_wrong,
            dataplane: dataplane.map(|fields| read_dataplane(sink, &fields)).unwrap_or_default(),
            socket: admin.map(|fields| socket(sink, &fields)).unwrap_or_default(),
            services: services.into_iter().filter_map(|entry| service(sink, entry)).collect(),
        }
    }
}

/// The entries of a table whose keys are names that users choose, in the order of the file.
/// Bad names are reported and the entries read nevertheless.
fn named<'t>(sink: &mut Sink, parent: &Fields<'t>, key: &str) -> Vec<(At<String>, &'t Value<'t>)> {
    let Some(table) = parent.get(key).and_then(|value| tree::table(sink, key, value)) else {
        return Vec::new();
    };
    let name = |(name, value): (&Key<'t>, &'t Value<'t>)| {
        let text: &str = name.get_ref();
        let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let rest = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !first || !rest || text.len() > 63 {
            let message = format!("{} cannot be the name of a {key}", quoted(text));
            let hint = "a name has at most 63 letters, digits, `.`, `_` and `-`, and begins with \
                        a letter or digit";
            sink.mistake(&name.span(), message).hint(hint);
        }
        (At { value: text.to_owned(), span: name.span() }, value)
    };
    tree::in_order(table).into_iter().map(name).collect()
}

/// Opens an entry of [`named`]. A key that was meant for the table around it is told apart.
fn entry<'t>(
    sink: &mut Sink,
    parent: &str,
    name: &At<String>,
    value: &'t Value<'t>,
    schema: &schema::Schema,
) -> Option<Fields<'t>> {
    if value.get_ref().is_table() {
        return Fields::open(sink, &name.value, value, schema);
    }
    let message = format!("{} must be {}, which is a table", quoted(&name.value), schema.of);
    let known = schema.keys.contains(&name.value.as_str());
    let hint = match known {
        true => format!("a key of {} stands in {}", schema.of, schema.place),
        false if parent == "backend" => {
            format!("write {} = {{ address = \"...\" }}", name.value.escape_default())
        }
        false => format!("write [{parent}.NAME] and its keys below it"),
    };
    sink.mistake(&name.span, message).hint(hint);
    None
}

fn policy(sink: &mut Sink, fields: &Fields) -> Policy {
    let drain = fields.get("drain");
    let drain = drain.and_then(|value| Fields::open(sink, "drain", value, &schema::DRAIN));
    Policy {
        scheduler: fields.word(sink, "scheduler", schema::SCHEDULERS),
        forward: fields.word(sink, "forward", schema::FORWARDS),
        affinity: fields.word(sink, "affinity", schema::AFFINITIES),
        slow_start: fields.duration(sink, "slow-start", SLOW_START.0..=SLOW_START.1),
        on_down: fields.word(sink, "on-down", schema::ON_DOWN),
        no_backend: fields.word(sink, "no-backend", schema::NO_BACKEND),
        drain: drain.map(|fields| read_drain(sink, &fields)).unwrap_or_default(),
        check: match fields.get("check") {
            Some(value) => match Fields::open(sink, "check", value, &schema::CHECK) {
                Some(fields) => Check::read(sink, &fields),
                None => Check { kind: Field::Wrong, ..Check::default() },
            },
            None => Check::default(),
        },
    }
}

fn read_drain(sink: &mut Sink, fields: &Fields) -> Drain {
    Drain {
        grace: fields.duration(sink, "grace", GRACE.0..=GRACE.1),
        then: fields.word(sink, "then", schema::ON_DOWN),
    }
}

fn node<'t>(sink: &mut Sink, (name, value): (At<String>, &'t Value<'t>)) -> Option<Node> {
    let fields = entry(sink, "node", &name, value, &schema::NODE)?;
    if fields.lacks("interfaces") {
        let message = format!("node {} has no `interfaces`", quoted(&name.value));
        let hint = "name those that packets for the VIPs come in by: interfaces = [\"eth0\"]";
        sink.mistake(&fields.span, message).hint(hint);
    }
    let interfaces = fields.read(sink, "interfaces", |sink, value| {
        let names = tree::array(sink, "interfaces", value, "names")?;
        if names.is_empty() {
            sink.mistake(&value.span(), "`interfaces` is empty: the node would take no packets");
        }
        Some(names.iter().filter_map(|name| interface(sink, name)).collect::<Vec<_>>())
    });
    let address = address(sink, &fields, "a node");
    Some(Node { name, interfaces: interfaces.value_or(Vec::new()), address })
}

/// A name that the kernel would give: `dev_valid_name()` in Linux's net/core/dev.c.
fn interface<'t>(sink: &mut Sink, value: &'t Value<'t>) -> Option<At<String>> {
    let text = tree::string(sink, "interfaces", value)?;
    let odd = |byte: u8| !byte.is_ascii_graphic() || byte == b'/' || byte == b':';
    let wrong = if text.is_empty() || text == "." || text == ".." || text.bytes().any(odd) {
        "is not the name of an interface"
    } else if text.len() > 15 {
        "is too long for the name of an interface: at most 15 bytes"
    } else {
        return Some(At { value: text.to_owned(), span: value.span() });
    };
    sink.mistake(&value.span(), format!("{} {wrong}", quoted(text)));
    None
}

fn read_dataplane(sink: &mut Sink, fields: &Fields) -> Dataplane {
    Dataplane {
        xdp_mode: fields.word(sink, "xdp-mode", schema::XDP_MODES),
        slots: fields.number(sink, "slots", SLOTS.0..=SLOTS.1),
        lease: fields.duration(sink, "lease", LEASE.0..=LEASE.1),
        quiet_window: fields.duration(sink, "quiet-window", QUIET_WINDOW.0..=QUIET_WINDOW.1),
        pins: fields.number(sink, "pins", PINS.0..=PINS.1),
        half_open: fields.number(sink, "half-open", HALF_OPEN.0..=HALF_OPEN.1),
        udp_idle: fields.duration(sink, "udp-idle", IDLE.0..=IDLE.1),
        tcp_idle: fields.duration(sink, "tcp-idle", TCP_IDLE.0..=TCP_IDLE.1),
        closing_idle: fields.duration(sink, "closing-idle", IDLE.0..=IDLE.1),
        closed_idle: fields.duration(sink, "closed-idle", IDLE.0..=IDLE.1),
        half_open_idle: fields.duration(
            sink,
            "half-open-idle",
            HALF_OPEN_IDLE.0..=HALF_OPEN_IDLE.1,
        ),
        sources: fields.number(sink, "sources", SOURCES.0..=SOURCES.1),
        pin_dir: path(sink, fields, "pin-dir", 4_095),
        state_dir: path(sink, fields, "state-dir", 4_095),
    }
}

/// The socket's path: `socket = "..."` or `socket = { path = "..." }`.
fn socket(sink: &mut Sink, fields: &Fields) -> Field<PathBuf> {
    // `sun_path` has 108 bytes with its final zero: unix(7).
    const LONGEST: usize = 107;
    match fields.get("socket") {
        Some(value) if value.get_ref().is_table() => {
            let Some(socket) = Fields::open(sink, "socket", value, &schema::SOCKET) else {
                return Field::Wrong;
            };
            path(sink, &socket, "path", LONGEST)
        }
        Some(_) | None => path(sink, fields, "socket", LONGEST),
    }
}

/// An absolute path: the daemon's working directory is nobody's business.
fn path(sink: &mut Sink, fields: &Fields, key: &str, longest: usize) -> Field<PathBuf> {
    let check = |text: &str| match text {
        _ if !Path::new(text).is_absolute() => Err("must be an absolute path".to_owned()),
        _ if text.chars().any(char::is_control) => {
            Err("must hold no control characters".to_owned())
        }
        _ if text.len() > longest => Err(format!("must have at most {longest} bytes")),
        _ => Ok(()),
    };
    match fields.text(sink, key, check) {
        Field::Given(at) => Field::Given(At { value: PathBuf::from(at.value), span: at.span }),
        Field::Wrong => Field::Wrong,
        Field::Absent => Field::Absent,
    }
}

fn service<'t>(sink: &mut Sink, (name, value): (At<String>, &'t Value<'t>)) -> Option<Service> {
    let fields = entry(sink, "service", &name, value, &schema::SERVICE)?;
    for (key, hint) in [
        ("listen", "write what it is reached under: listen = [\"192.0.2.1:443\"]".to_owned()),
        ("backend", format!("write [service.{}.backend] and a line for each", name.value)),
    ] {
        if fields.lacks(key) {
            let message = format!("service {} has no `{key}`", quoted(&name.value));
            sink.mistake(&fields.span, message).hint(hint);
        }
    }
    let listen = fields.read(sink, "listen", |sink, value| {
        let texts = tree::array(sink, "listen", value, "strings")?;
        if texts.is_empty() {
            sink.mistake(&value.span(), "`listen` is empty: nothing would reach the service");
        }
        Some(texts.iter().filter_map(|text| listener(sink, text)).collect::<Vec<_>>())
    });
    let policy = policy(sink, &fields);
    let backends = named(sink, &fields, "backend");
    if let Some(value) = fields.get("backend")
        && value.get_ref().as_table().is_some_and(DeTable::is_empty)
    {
        let message = format!("service {} has no backends", quoted(&name.value));
        sink.mistake(&value.span(), message).hint("write web1 = { address = \"192.0.2.21\" }");
    }
    let backends = backends.into_iter().filter_map(|entry| backend(sink, entry)).collect();
    Some(Service {
        name,
        listen: listen.value_or(Vec::new()),
        policy,
        slots: fields.number(sink, "slots", SLOTS.0..=SLOTS.1),
        limit: Limit::read(sink, &fields),
        sources: sources::read(sink, &fields),
        backends,
    })
}

fn listener<'t>(sink: &mut Sink, value: &'t Value<'t>) -> Option<At<Listener>> {
    let text = tree::string(sink, "listen", value)?;
    let listener = match parse_listener(text) {
        Ok(listener) => listener,
        Err(wrong) => {
            sink.mistake(&value.span(), wrong.message).hint_if(wrong.hint);
            return None;
        }
    };
    usable(sink, listener.vip, &value.span(), "a VIP")
        .then(|| At { value: listener, span: value.span() })
}

fn backend<'t>(sink: &mut Sink, (name, value): (At<String>, &'t Value<'t>)) -> Option<Backend> {
    let fields = entry(sink, "backend", &name, value, &schema::BACKEND)?;
    if fields.lacks("address") {
        let message = format!("backend {} has no `address`", quoted(&name.value));
        sink.mistake(&fields.span, message);
    }
    Some(Backend {
        name,
        address: address(sink, &fields, "a backend"),
        port: fields.number(sink, "port", 1..=65_535),
        weight: fields.number(sink, "weight", 0..=u32::from(MAX_WEIGHT)),
        admin: fields.word(sink, "admin", schema::ADMIN_STATES),
        backup: fields.truth(sink, "backup"),
        slow_start: fields.duration(sink, "slow-start", SLOW_START.0..=SLOW_START.1),
        server_id: fields.number(sink, "server-id", 0..=65_535),
    })
}

/// `address`, if it is one that `whose` can have.
fn address(sink: &mut Sink, fields: &Fields, whose: &str) -> Field<IpAddr> {
    match fields.address(sink, "address") {
        Field::Given(at) if !usable(sink, at.value, &at.span, whose) => Field::Wrong,
        other => other,
    }
}

fn usable(sink: &mut Sink, address: IpAddr, span: &Range<usize>, whose: &str) -> bool {
    let Some(oddity) = oddity(address) else {
        return true;
    };
    let mapped = match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map(|v4| format!("write {v4}")),
    };
    let message = format!("{whose} cannot have {oddity}: {}", quoted(&address.to_string()));
    sink.mistake(span, message).hint_if(mapped);
    false
}
