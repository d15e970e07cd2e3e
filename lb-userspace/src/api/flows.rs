//! What is told of remembered flows, one by one and in numbers.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::config::Protocol;
use crate::prefix::Prefix;

/// Which flows are asked for: those that fit everything that is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowQuery {
    /// Of this service.
    pub service: Option<String>,
    /// Of this backend of the service: its name, or the address of one that is no longer in the
    /// file.
    pub backend: Option<String>,
    /// From these addresses.
    pub source: Option<Prefix>,
    /// Remembered for this reason.
    pub kind: Option<FlowKind>,
    /// At most so many of them, 1 to [`MAX_ROWS`]; [`DEFAULT_ROWS`] unless told otherwise. Counts
    /// have no limit.
    pub limit: Option<u32>,
}

/// Flows in a list unless told otherwise.
pub const DEFAULT_ROWS: u32 = 1_000;
/// Most flows in one list.
pub const MAX_ROWS: u32 = 100_000;

/// Why a flow is remembered.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum FlowKind {
    /// Its SYN was seen during a change, and nothing more.
    HalfOpen,
    /// `new` in a table: it began after its slot's latest change, or where every flow is remembered.
    #[value(alias = "new")]
    Current,
    /// `old` in a table: it began before its slot's latest changes.
    #[value(alias = "old")]
    Base,
}

/// Where a flow stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlowState {
    /// Half-open.
    Opening,
    /// It may go on.
    Open,
    /// The client has sent FIN or RST.
    Closing,
}

/// A flow that is remembered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FlowView {
    /// The service.
    pub service: String,
    /// The backend: its name, or its address if it is no longer in the file.
    pub backend: String,
    /// Whether the backend is no longer in the file.
    pub leaving: bool,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The client.
    pub source: SocketAddr,
    /// Where it sends to.
    pub destination: SocketAddr,
    /// Why it is remembered.
    pub kind: FlowKind,
    /// Where it stands.
    pub state: FlowState,
    /// Seconds since it was last heard of, as far as the daemon counted them.
    pub idle: u64,
}

/// Flows, one by one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FlowsView {
    /// `lb.flows/1`.
    pub schema: String,
    /// By service, backend and client; the first that were met if there are more than asked for.
    pub flows: Vec<FlowView>,
    /// How many fit what was asked for.
    pub total: u64,
    /// Whether some are left out.
    pub truncated: bool,
}

/// Flows in numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FlowCountView {
    /// `lb.flow-count/1`.
    pub schema: String,
    /// By service; the one asked for, or all.
    pub services: Vec<ServiceFlows>,
    /// All of them together.
    pub total: FlowTally,
}

/// Flows of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceFlows {
    /// Its name.
    pub service: String,
    /// Those of each backend; of the one asked for, or of all.
    pub backends: Vec<BackendFlows>,
    /// All of them together.
    #[serde(flatten)]
    pub tally: FlowTally,
}

/// Flows of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendFlows {
    /// Its name, or its address if it is no longer in the file.
    pub backend: String,
    /// Whether it is no longer in the file.
    pub leaving: bool,
    /// Its flows.
    #[serde(flatten)]
    pub tally: FlowTally,
}

/// Flows by kind and by state: either way they add up to all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowTally {
    /// All.
    pub flows: u64,
    /// Of kind and state half-open.
    pub half_open: u64,
    /// Of kind [`FlowKind::Current`].
    pub current: u64,
    /// Of kind [`FlowKind::Base`].
    pub base: u64,
    /// In state [`FlowState::Open`].
    pub open: u64,
    /// In state [`FlowState::Closing`].
    pub closing: u64,
}

impl FlowTally {
    /// Counts a flow.
    pub const fn count(&mut self, kind: FlowKind, state: FlowState) {
        self.flows += 1;
        match kind {
            FlowKind::HalfOpen => self.half_open += 1,
            FlowKind::Current => self.current += 1,
            FlowKind::Base => self.base += 1,
        }
        match state {
            FlowState::Opening => {}
            FlowState::Open => self.open += 1,
            FlowState::Closing => self.closing += 1,
        }
    }

    /// Adds others.
    pub const fn add(&mut self, other: &Self) {
        self.flows += other.flows;
        self.half_open += other.half_open;
        self.current += other.current;
        self.base += other.base;
        self.open += other.open;
        self.closing += other.closing;
    }
}
