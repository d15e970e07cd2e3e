//! What the server does for each path: read the call, ask the controller, put the answer or the
//! problem into words.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};

use super::server::{MAX_BODY, MAX_FILE_BODY, Peer};
use super::{
    DiffRequest, Edit, ExplainRequest, FlowQuery, Kind, MAX_ROWS, Problem, Reply, Request,
    VersionView,
};
use crate::config::MAX_WEIGHT;
use crate::state::BackendId;

/// The way to the task that knows and decides.
#[derive(Clone, Debug)]
pub(crate) struct Controller {
    requests: mpsc::Sender<Request>,
    answer_within: Duration,
}

/// How long an answer may take that goes through all remembered flows: there may be millions.
const WALK_WITHIN: Duration = Duration::from_secs(60);

impl Controller {
    pub(crate) fn new(requests: mpsc::Sender<Request>, answer_within: Duration) -> Self {
        Self { requests, answer_within }
    }

    /// Sends the request that `request` makes of a reply channel, and waits for the answer.
    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Refusal> {
        self.ask_within(self.answer_within, request).await
    }

    /// The same for what takes longer.
    async fn ask_within<T>(
        &self,
        within: Duration,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            if self.requests.send(request(reply)).await.is_err() {
                return Err(failed("the daemon is shutting down"));
            }
            answer.await.unwrap_or_else(|_| Err(failed("the daemon dropped the request")))
        };
        match tokio::time::timeout(within, asked).await {
            Ok(answer) => answer.map_err(Refusal::from),
            Err(_) => Err(Refusal::from(failed(&format!(
                "the daemon did not answer within {within:?}; it may still do what was asked"
            )))),
        }
    }
}

fn failed(detail: &str) -> Problem {
    Problem { kind: Kind::Failed, detail: detail.to_owned() }
}

fn bad_request(detail: String) -> Problem {
    Problem { kind: Kind::BadRequest, detail }
}

/// A problem on its way out, with its HTTP status.
pub(crate) struct Refusal {
    status: StatusCode,
    problem: Problem,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        let status = match problem.kind {
            Kind::BadRequest => StatusCode::BAD_REQUEST,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::InvalidConfig => StatusCode::UNPROCESSABLE_ENTITY,
            Kind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, problem }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        json(self.status, "application/problem+json", &self.problem)
    }
}

/// An answer that went well.
pub(crate) struct Answer<T>(T);

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        json(StatusCode::OK, "application/json", &self.0)
    }
}

fn json(status: StatusCode, content_type: &'static str, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => (status, [(header::CONTENT_TYPE, content_type)], body).into_response(),
        Err(error) => {
            tracing::error!(%error, "failed to encode an answer");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

type Answered<T> = Result<Answer<T>, Refusal>;

/// `GET /v1/status`.
pub(crate) async fn status(State(controller): State<Controller>) -> Answered<super::StatusView> {
    controller.ask(Request::Status).await.map(Answer)
}

/// `GET /v1/version`: answered here, so that it tells also of a daemon whose controller hangs.
pub(crate) async fn version() -> Answer<VersionView> {
    Answer(VersionView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        map_schema: lb_common::maps::SCHEMA_VERSION,
    })
}

/// `POST /v1/reload`.
pub(crate) async fn reload(State(controller): State<Controller>) -> Answered<super::ReloadView> {
    controller.ask(Request::Reload).await.map(Answer)
}

/// `POST /v1/reload/dry-run`.
pub(crate) async fn dry_run(State(controller): State<Controller>) -> Answered<super::DiffView> {
    controller.ask_within(WALK_WITHIN, |reply| Request::Diff(None, reply)).await.map(Answer)
}

/// `POST /v1/diff`.
pub(crate) async fn diff(
    State(controller): State<Controller>,
    body: Result<Bytes, BytesRejection>,
) -> Answered<super::DiffView> {
    let file: DiffRequest = read(body, MAX_FILE_BODY)?;
    controller.ask_within(WALK_WITHIN, |reply| Request::Diff(Some(file), reply)).await.map(Answer)
}

/// `GET /v1/flows`.
pub(crate) async fn flows(
    State(controller): State<Controller>,
    query: Result<Query<FlowQuery>, QueryRejection>,
) -> Answered<super::FlowsView> {
    let query = flow_query(query)?;
    controller.ask_within(WALK_WITHIN, |reply| Request::Flows(query, reply)).await.map(Answer)
}

/// `GET /v1/flows/count`.
pub(crate) async fn flow_count(
    State(controller): State<Controller>,
    query: Result<Query<FlowQuery>, QueryRejection>,
) -> Answered<super::FlowCountView> {
    let query = flow_query(query)?;
    controller.ask_within(WALK_WITHIN, |reply| Request::FlowCount(query, reply)).await.map(Answer)
}

fn flow_query(query: Result<Query<FlowQuery>, QueryRejection>) -> Result<FlowQuery, Refusal> {
    let Query(query) = query.map_err(|rejection| Refusal {
        status: rejection.status(),
        problem: bad_request(format!("the query cannot be read: {}", rejection.body_text())),
    })?;
    match query.limit {
        Some(limit) if limit == 0 || limit > MAX_ROWS => {
            Err(bad_request(format!("limit: must be 1 to {MAX_ROWS}, got {limit}")).into())
        }
        Some(_) | None => Ok(query),
    }
}

/// `POST /v1/explain`.
pub(crate) async fn explain(
    State(controller): State<Controller>,
    body: Result<Bytes, BytesRejection>,
) -> Answered<super::ExplainView> {
    let request: ExplainRequest = read(body, MAX_BODY)?;
    controller.ask(|reply| Request::Explain(request, reply)).await.map(Answer)
}

/// `POST /v1/backends/{service}/{backend}`.
pub(crate) async fn edit(
    State(controller): State<Controller>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    path: Result<Path<(String, String)>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Answered<super::BackendView> {
    let Path((service, backend)) = path.map_err(|rejection| Refusal {
        status: rejection.status(),
        problem: bad_request(format!("the path cannot be read: {}", rejection.body_text())),
    })?;
    let edit: Edit = read(body, MAX_BODY)?;
    if let Some(mistake) = mistake_of(&edit) {
        return Err(bad_request(mistake).into());
    }
    let id = BackendId { service, backend };
    let by = name_of(peer).await;
    controller.ask(|reply| Request::Edit(id, edit, by, reply)).await.map(Answer)
}

/// What is wrong with an edit that could be read.
fn mistake_of(edit: &Edit) -> Option<String> {
    match edit {
        Edit { admin: None, weight: None, .. } => {
            Some("nothing to change: give `admin` or `weight`".to_owned())
        }
        Edit { weight: Some(weight), .. } if *weight > MAX_WEIGHT => {
            Some(format!("weight: must be 0 to {MAX_WEIGHT}, got {weight}"))
        }
        Edit { .. } => None,
    }
}

/// No such path.
pub(crate) async fn no_such_path(uri: Uri) -> Refusal {
    let detail = format!("the API has no path {}", uri.path());
    Problem { kind: Kind::NotFound, detail }.into()
}

/// The path exists, but not for this method.
pub(crate) async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    Refusal {
        status: StatusCode::METHOD_NOT_ALLOWED,
        problem: bad_request(format!("{} does not allow {method}", uri.path())),
    }
}

/// Reads a JSON body that may have so many bytes; a mistake is told with its line and column.
fn read<T: DeserializeOwned>(
    body: Result<Bytes, BytesRejection>,
    most: usize,
) -> Result<T, Refusal> {
    let body = body.map_err(|rejection| {
        let detail = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                format!("the request body is longer than {} KiB", most / 1024)
            }
            _ => format!("the request body cannot be read: {}", rejection.body_text()),
        };
        Refusal { status: rejection.status(), problem: bad_request(detail) }
    })?;
    serde_json::from_slice(&body)
        .map_err(|error| bad_request(format!("the request body is wrong: {error}")).into())
}

/// Who asks, in words: the user's name, else the number.
async fn name_of(peer: Peer) -> String {
    let Some(uid) = peer.uid else { return "unknown".to_owned() };
    // The lookup may read files or ask a directory service.
    let name = tokio::task::spawn_blocking(move || {
        nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid))
            .ok()
            .flatten()
            .map(|user| user.name)
    });
    name.await.ok().flatten().unwrap_or_else(|| format!("uid {uid}"))
}
