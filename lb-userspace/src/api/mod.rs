//! The control API: HTTP/1.1 with JSON bodies over a unix socket, and the types that both ends
//! share. The command line prints these very structs, as tables or as JSON.
//!
//! | method and path | request body | answer |
//! |---|---|---|
//! | `GET /v1/status` | | [`StatusView`] |
//! | `GET /v1/version` | | [`VersionView`] |
//! | `GET /v1/flows?{query}` | [`FlowQuery`] in the path | [`FlowsView`] |
//! | `GET /v1/flows/count?{query}` | the same | [`FlowCountView`] |
//! | `POST /v1/reload` | | [`ReloadView`] |
//! | `POST /v1/reload/dry-run` | | [`DiffView`] |
//! | `POST /v1/diff` | [`DiffRequest`] | [`DiffView`] |
//! | `POST /v1/explain` | [`ExplainRequest`] | [`ExplainView`] |
//! | `POST /v1/backends/{service}/{backend}` | [`Edit`] | [`BackendView`] |
//!
//! Errors are [`Problem`]s (RFC 9457) with the status code of their [`Kind`].

pub mod client;
mod diff;
mod flows;
mod routes;
pub mod server;
#[cfg(test)]
pub(crate) mod tests;

use jiff::Timestamp;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::config::{AdminState, Affinity, Forward, Rate, Scheduler};
use crate::state::{BackendId, Override, Status};

pub use diff::{DiffRequest, DiffView, Fate, ServiceDiff};
pub use flows::{
    BackendFlows, DEFAULT_ROWS, FlowCountView, FlowKind, FlowQuery, FlowState, FlowTally, FlowView,
    FlowsView, MAX_ROWS, ServiceFlows,
};

/// Everything that `lb status`, `lb services` and `lb backends` show.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusView {
    /// `lb.status/1`.
    pub schema: String,
    /// The node's name in the file.
    pub node: String,
    /// The daemon's version.
    pub version: String,
    /// When the daemon started.
    pub started: Timestamp,
    /// Which configuration runs.
    pub config: ConfigView,
    /// The interfaces that the program is attached to.
    pub interfaces: Vec<InterfaceView>,
    /// What is wrong now, worst first, a line each.
    pub problems: Vec<String>,
    /// Services by name.
    pub services: Vec<ServiceView>,
    /// Frames by verdict, those without any left out.
    pub verdicts: Vec<VerdictView>,
    /// Clients that were made to speak.
    pub silent: SilentView,
}

/// Clients that waited in silence for a backend whose flows are reset, since the daemon started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilentView {
    /// Flows whose client was sent a segment that makes it speak.
    pub prodded: u64,
    /// Such segments that could not be sent.
    pub failed: u64,
}

/// Which configuration runs, and what became of the last attempt to change it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConfigView {
    /// The file.
    pub path: String,
    /// SHA-256 of the file as it was loaded.
    pub digest: String,
    /// When it was loaded.
    pub loaded: Timestamp,
    /// The last reload's mistakes, if it was refused and none succeeded since.
    pub rejected: Option<Rejection>,
}

/// A configuration that was refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rejection {
    /// When.
    pub at: Timestamp,
    /// Its mistakes, as `lb check` prints them.
    pub report: String,
}

/// An interface that the program is attached to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InterfaceView {
    /// Its name.
    pub name: String,
    /// `native` or `generic`.
    pub xdp_mode: String,
    /// Whether it is up.
    pub up: bool,
    /// Its hardware address.
    pub mac: String,
}

/// A service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// Its listeners, such as `192.0.2.100:443/tcp`.
    pub listen: Vec<String>,
    /// How flows are spread.
    pub scheduler: Scheduler,
    /// What stays with one backend.
    pub affinity: Affinity,
    /// How packets reach the backends.
    pub forward: Forward,
    /// Slots of its table.
    pub slots: u32,
    /// Turns until all begins anew, of a round-robin service.
    pub lap: Option<u32>,
    /// Slots whose old flows go elsewhere than new ones, until they have been quiet for long
    /// enough; none where new flows do not go by slots.
    pub moving: u32,
    /// What it lets in, unless that is everybody.
    pub guard: Option<GuardView>,
    /// How long the flows of a drained backend may go on, in seconds.
    pub drain_grace: u64,
    /// Backends that are no longer in the file, but may still have flows.
    pub leaving: Vec<LeavingView>,
    /// Whether all, some or none of its backends serve.
    pub state: ServiceState,
    /// Whether its backups take its new flows.
    pub on_backups: bool,
    /// Backends that take new flows.
    pub serving: usize,
    /// Its backends by name.
    pub backends: Vec<BackendView>,
    /// Frames forwarded.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a service lets in, as it is configured. Frames that were turned away are counted for the
/// whole node, by the verdicts `denied`, `source-rate` and `service-rate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardView {
    /// New flows of the whole service.
    pub flows: Option<Rate>,
    /// New flows of one source.
    pub source: Option<Rate>,
    /// Prefixes of sources that may come in.
    pub allow: usize,
    /// Prefixes of sources that may not.
    pub deny: usize,
}

/// A backend that is no longer in the file, but may still have flows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeavingView {
    /// Its own address.
    pub address: IpAddr,
    /// Open flows that are remembered for it; absent before the first count.
    pub flows: Option<u64>,
    /// Slots whose old flows go to it; none where new flows do not go by slots.
    pub slots: u32,
}

/// How much of a service is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceState {
    /// Every backend that should serve does; backups need not.
    Up,
    /// Some do, or backups in their place.
    Degraded,
    /// None does.
    Down,
}

/// A backend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackendView {
    /// `web/web1`.
    pub id: BackendId,
    /// Its own address.
    pub address: IpAddr,
    /// The state that counts: whether it takes new flows, or the first reason why not.
    pub state: BackendState,
    /// Health by its probes.
    pub health: Status,
    /// What the last probe found.
    pub check: String,
    /// When its health last changed.
    pub since: Option<Timestamp>,
    /// The admin state in force.
    pub admin: AdminState,
    /// The weight in force.
    pub weight: u16,
    /// Admin state in the file.
    pub file_admin: AdminState,
    /// Weight in the file.
    pub file_weight: u16,
    /// What an operator changed.
    pub overridden: Option<Override>,
    /// Whether it serves only while no other backend of the service does.
    pub backup: bool,
    /// Per cent of its weight that it has by now, while it starts slowly.
    pub growing: Option<u16>,
    /// `02:00:00:00:00:21 via eth0`, or why there is none.
    pub next_hop: String,
    /// Slots that lead to it; of a round-robin service its turns in a lap, of a least-conn one
    /// absent.
    pub slots: Option<u32>,
    /// Open flows by the packet path's own count, which new flows of a least-conn service go by.
    pub open: Option<u64>,
    /// Open flows that are remembered for it, apart from those that its slots tell; absent before
    /// the first count.
    pub flows: Option<u64>,
    /// Frames forwarded to it.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Whether a backend takes new flows, or the first reason why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendState {
    /// It does.
    Serving,
    /// It could, but is a backup, and others serve.
    Standby,
    /// An operator drains it, or its weight is 0.
    Draining,
    /// An operator disabled it.
    Disabled,
    /// Its probes fail.
    Down,
    /// Its probes have not told yet.
    Checking,
    /// The way to it is not known.
    Unreachable,
}

/// Frames with one verdict.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VerdictView {
    /// `pass`, `drop` or `answer`.
    pub action: String,
    /// Why, such as `no-service`.
    pub reason: String,
    /// Frames.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What an operator changes about a backend. Absent fields stay as they are.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// The admin state; equal to the file's: the override goes.
    #[serde(default)]
    pub admin: Option<AdminState>,
    /// The weight; equal to the file's: the override goes.
    #[serde(default)]
    pub weight: Option<u16>,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What a reload did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReloadView {
    /// SHA-256 of the file that runs now.
    pub digest: String,
    /// Whether it differs from the one that ran before.
    pub changed: bool,
    /// What changed, a line each: `+ service dns`, `~ web/web1 weight 100 -> 50`.
    pub changes: Vec<String>,
    /// Overrides that went because the file changed the same field, a line each.
    pub dropped_overrides: Vec<String>,
    /// Warnings, a line each.
    pub warnings: Vec<String>,
}

/// A flow to explain.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// `tcp 198.51.100.7:40112 > 192.0.2.100:443`.
    pub flow: String,
}

/// Where a flow would go, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExplainView {
    /// `lb.explain/1`.
    pub schema: String,
    /// The flow as it was read.
    pub flow: String,
    /// The service it is sent to: name and listener.
    pub service: Option<ExplainService>,
    /// Its hash.
    pub hash: Option<u32>,
    /// Its slot in the service's table.
    pub slot: Option<ExplainSlot>,
    /// The backend that takes it if it begins now; absent too where there are several choices.
    pub backend: Option<ExplainBackend>,
    /// The backends that one is chosen from if it begins now, where more than the flow decides;
    /// nobody where it is remembered.
    pub choices: Vec<ExplainChoice>,
    /// The backend that has it if it is there already: what is remembered of it, else what its
    /// slot tells about old flows.
    pub established: Option<String>,
    /// `forward`, `pass` or `drop`, of its first packet.
    pub action: String,
    /// Why, such as `transmit` or `no-backend`; the scheduler where there are several choices.
    pub reason: String,
    /// What else is to be known, a line each.
    pub notes: Vec<String>,
}

/// The service in an explanation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExplainService {
    /// Its name.
    pub name: String,
    /// The listener that matched.
    pub listener: String,
    /// How new flows are spread.
    pub scheduler: Scheduler,
    /// What stays with one backend.
    pub affinity: Affinity,
}

/// The slot in an explanation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExplainSlot {
    /// Its number in the service's table.
    pub index: u32,
    /// How many there are.
    pub count: u32,
    /// Backend for new flows.
    pub current: Option<String>,
    /// Backend for flows from before the latest changes.
    pub base: Option<String>,
    /// Whether some flow of the slot may be remembered.
    pub watched: bool,
}

/// A backend that a flow may be given to if it begins now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainChoice {
    /// Its name.
    pub id: String,
    /// In how many turns of a lap the flow would be given to it.
    pub turns: u32,
    /// Open flows that it has now, where these decide.
    pub open: Option<u64>,
}

/// The backend in an explanation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExplainBackend {
    /// Its name.
    pub id: String,
    /// Its own address.
    pub address: IpAddr,
    /// Its hardware address.
    pub mac: String,
    /// The interface towards it.
    pub interface: String,
}

/// The daemon's build.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VersionView {
    /// Version of the daemon.
    pub version: String,
    /// Version of the map layout.
    pub map_schema: u32,
}

/// An error answer (RFC 9457).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// The kind, for programs.
    pub kind: Kind,
    /// What went wrong, for people; may have several lines.
    pub detail: String,
}

/// Kinds of errors; the HTTP status and the exit code follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The request cannot be read: 400, exit code 2.
    BadRequest,
    /// No such service or backend: 404, exit code 3.
    NotFound,
    /// The configuration file is wrong: 422, exit code 6.
    InvalidConfig,
    /// It was tried and failed: 500, exit code 1.
    Failed,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}

/// A request as the API hands it to the controller, with where the answer goes.
#[derive(Debug)]
pub enum Request {
    /// `GET /v1/status`.
    Status(Reply<StatusView>),
    /// `POST /v1/reload`.
    Reload(Reply<ReloadView>),
    /// `POST /v1/diff`, or, without a file, `POST /v1/reload/dry-run`.
    Diff(Option<DiffRequest>, Reply<DiffView>),
    /// `GET /v1/flows`.
    Flows(FlowQuery, Reply<FlowsView>),
    /// `GET /v1/flows/count`.
    FlowCount(FlowQuery, Reply<FlowCountView>),
    /// `POST /v1/explain`.
    Explain(ExplainRequest, Reply<ExplainView>),
    /// `POST /v1/backends/...`, and who asks for it.
    Edit(BackendId, Edit, String, Reply<BackendView>),
}

/// Where a request's answer goes. The asker may be gone: then the answer is dropped.
pub type Reply<T> = tokio::sync::oneshot::Sender<Result<T, Problem>>;
