//! The command line's end of the control API: one connection for each call.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::server::MAX_FILE_BODY;
use super::{
    BackendView, DiffRequest, DiffView, Edit, ExplainRequest, ExplainView, FlowCountView, FlowKind,
    FlowQuery, FlowsView, Kind, Problem, ReloadView, StatusView, VersionView,
};
use crate::state::BackendId;

/// How long a whole call may take: longer than the daemon gives its controller, so that its own
/// words arrive first.
const CALL_WITHIN: Duration = Duration::from_secs(15);

/// The same for what goes through all remembered flows.
const WALK_WITHIN: Duration = Duration::from_secs(65);

/// Speaks to the daemon on one socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    call_within: Duration,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No daemon could be spoken to.
    #[error("{why}", why = .reason.words(.socket))]
    Unreachable {
        /// The socket that was tried.
        socket: PathBuf,
        /// What happened.
        reason: Unreachable,
    },
    /// The daemon answered, with a problem.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// Something answered that does not speak this API, or broke off.
    #[error("the answer on {} is not understood: {detail}", .socket.display())]
    Answer {
        /// The socket that was tried.
        socket: PathBuf,
        /// What is wrong with the answer.
        detail: String,
    },
}

/// Why no daemon could be spoken to.
#[derive(Debug)]
pub enum Unreachable {
    /// There is no socket: no daemon runs, or it uses another path.
    NoSocket,
    /// There is a socket on which nobody listens: the daemon died.
    Refused,
    /// The socket is there for others.
    Denied,
    /// Somebody listens, but says nothing.
    Silent(Duration),
    /// Anything else.
    Other(std::io::Error),
}

impl Unreachable {
    /// Whether this shows that no daemon uses the socket.
    pub const fn nobody_there(&self) -> bool {
        matches!(self, Self::NoSocket | Self::Refused)
    }

    fn words(&self, socket: &std::path::Path) -> String {
        let socket = socket.display();
        match self {
            Self::NoSocket => format!("no daemon runs here: there is no socket {socket}"),
            Self::Refused => {
                format!("the daemon is gone: nobody listens on its socket {socket}")
            }
            Self::Denied => format!(
                "no permission for the socket {socket}: ask as root or as a member of its group"
            ),
            Self::Silent(waited) => {
                format!("the daemon on {socket} did not answer within {waited:?}")
            }
            Self::Other(error) => format!("failed to connect to {socket}: {error}"),
        }
    }
}

impl Client {
    /// A client for the daemon that listens on `socket`. Nothing is opened yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), call_within: CALL_WITHIN }
    }

    /// The same, but a call fails after `call_within`.
    pub fn within(self, call_within: Duration) -> Self {
        Self { call_within, ..self }
    }

    /// Everything that `lb status` shows.
    pub async fn status(&self) -> Result<StatusView, CallError> {
        self.call(Method::GET, "/v1/status", Bytes::new()).await
    }

    /// The daemon's build.
    pub async fn version(&self) -> Result<VersionView, CallError> {
        self.call(Method::GET, "/v1/version", Bytes::new()).await
    }

    /// Makes the daemon read its file again.
    pub async fn reload(&self) -> Result<ReloadView, CallError> {
        self.call(Method::POST, "/v1/reload", Bytes::new()).await
    }

    /// What reloading the daemon's file would do.
    pub async fn dry_run(&self) -> Result<DiffView, CallError> {
        self.walking().call(Method::POST, "/v1/reload/dry-run", Bytes::new()).await
    }

    /// What loading another file would do.
    pub async fn diff(&self, file: &DiffRequest) -> Result<DiffView, CallError> {
        let body = self.encode(file)?;
        if body.len() > MAX_FILE_BODY {
            // The daemon would hang up in the middle of it.
            let most = MAX_FILE_BODY / 1024;
            let detail = format!("{} is too large to be sent: more than {most} KiB", file.path);
            return Err(Problem { kind: Kind::Failed, detail }.into());
        }
        self.walking().call(Method::POST, "/v1/diff", body).await
    }

    /// Remembered flows, one by one.
    pub async fn flows(&self, query: &FlowQuery) -> Result<FlowsView, CallError> {
        let path = format!("/v1/flows{}", question(query));
        self.walking().call(Method::GET, &path, Bytes::new()).await
    }

    /// Remembered flows in numbers.
    pub async fn flow_count(&self, query: &FlowQuery) -> Result<FlowCountView, CallError> {
        let path = format!("/v1/flows/count{}", question(query));
        self.walking().call(Method::GET, &path, Bytes::new()).await
    }

    fn walking(&self) -> Self {
        self.clone().within(self.call_within.max(WALK_WITHIN))
    }

    /// Where a flow, such as `tcp 198.51.100.7:40112 > 192.0.2.100:443`, would go.
    pub async fn explain(&self, flow: &str) -> Result<ExplainView, CallError> {
        let body = self.encode(&ExplainRequest { flow: flow.to_owned() })?;
        self.call(Method::POST, "/v1/explain", body).await
    }

    /// Changes a backend; answers what it is afterwards.
    pub async fn edit(&self, id: &BackendId, edit: &Edit) -> Result<BackendView, CallError> {
        let path = format!("/v1/backends/{}/{}", segment(&id.service), segment(&id.backend));
        let body = self.encode(edit)?;
        self.call(Method::POST, &path, body).await
    }

    fn encode(&self, body: &impl Serialize) -> Result<Bytes, CallError> {
        serde_json::to_vec(body).map(Bytes::from).map_err(|error| self.misunderstood(&error))
    }

    fn misunderstood(&self, detail: &dyn std::fmt::Display) -> CallError {
        CallError::Answer { socket: self.socket.clone(), detail: detail.to_string() }
    }

    fn unreachable(&self, reason: Unreachable) -> CallError {
        CallError::Unreachable { socket: self.socket.clone(), reason }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, CallError> {
        let answer = tokio::time::timeout(self.call_within, self.exchange(method, path, body));
        let (status, body) = match answer.await {
            Ok(answer) => answer?,
            Err(_) => return Err(self.unreachable(Unreachable::Silent(self.call_within))),
        };
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| self.misunderstood(&error));
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(CallError::Problem(problem)),
            Err(_) => Err(self.misunderstood(&format!("HTTP status {status}"))),
        }
    }

    /// One request and the whole of its answer.
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), CallError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| {
            self.unreachable(match error.kind() {
                ErrorKind::NotFound => Unreachable::NoSocket,
                ErrorKind::ConnectionRefused => Unreachable::Refused,
                ErrorKind::PermissionDenied => Unreachable::Denied,
                _ => Unreachable::Other(error),
            })
        })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.misunderstood(&error))?;
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .body(Full::new(body))
            .map_err(|error| self.misunderstood(&error))?;
        let answer = async move {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            Ok::<_, hyper::Error>((status, answer.into_body().collect().await?.to_bytes()))
        };
        // The connection is driven beside the request and has nothing to say of its own.
        let (answer, _) = tokio::join!(answer, connection);
        answer.map_err(|error| self.misunderstood(&error))
    }
}

/// A name as one segment of a path: everything but RFC 3986's unreserved characters is
/// percent-encoded.
fn segment(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// What follows a path to say which flows are asked for.
fn question(query: &FlowQuery) -> String {
    let kind = query.kind.map(|kind| match kind {
        FlowKind::HalfOpen => "half-open",
        FlowKind::Current => "current",
        FlowKind::Base => "base",
    });
    let fields = [
        ("service", query.service.clone()),
        ("backend", query.backend.clone()),
        ("source", query.source.map(String::from)),
        ("kind", kind.map(str::to_owned)),
        ("limit", query.limit.map(|limit| limit.to_string())),
    ];
    let fields = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let said: Vec<_> = fields.map(|(name, value)| format!("{name}={}", segment(&value))).collect();
    if said.is_empty() { String::new() } else { format!("?{}", said.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one_segment_of_the_path() {
        assert_eq!(segment("web-1.a_b~"), "web-1.a_b~");
        assert_eq!(segment("a/b c?#%ü"), "a%2Fb%20c%3F%23%25%C3%BC");
    }

    #[tokio::test]
    async fn a_daemon_that_is_not_there_is_told_from_one_that_died() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lb.sock");
        let error = Client::new(&path).status().await.expect_err("no daemon");
        assert!(error.to_string().starts_with("no daemon runs here"), "{error}");

        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        let error = Client::new(&path).status().await.expect_err("no listener");
        assert!(error.to_string().starts_with("the daemon is gone"), "{error}");
    }

    #[tokio::test]
    async fn a_listener_that_says_nothing_is_not_waited_for_without_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lb.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        let client = Client::new(&path).within(Duration::from_millis(50));
        let error = client.status().await.expect_err("silence");
        assert!(error.to_string().contains("did not answer within 50ms"), "{error}");
    }

    #[tokio::test]
    async fn something_else_that_listens_there_is_not_a_daemon() {
        use std::io::Write;
        let directory = tempfile::tempdir().expect("a directory");
        for bytes in [
            "hello\n",
            "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\nno",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
        ] {
            let path = directory.path().join("other.sock");
            let listener = std::os::unix::net::UnixListener::bind(&path).expect("bound");
            let answering = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("a caller");
                stream.write_all(bytes.as_bytes()).expect("written");
            });
            let error = Client::new(&path).version().await.expect_err(bytes);
            assert!(matches!(error, CallError::Answer { .. }), "{bytes:?}: {error}");
            answering.join().expect("answered");
            std::fs::remove_file(&path).expect("removed");
        }
    }
}
