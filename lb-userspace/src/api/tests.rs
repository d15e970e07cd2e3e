//! The real client and raw HTTP against the real server on a unix socket; only the controller
//! is made up.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::client::{CallError, Client};
use super::server::{Server, serve, serve_within};
use super::*;
use crate::config::Protocol;

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a second of this century")
}

/// A backend of the service `web`.
pub(crate) fn backend(name: &str, last: u8, state: BackendState) -> BackendView {
    BackendView {
        id: BackendId { service: "web".to_owned(), backend: name.to_owned() },
        address: IpAddr::from([192, 0, 2, last]),
        state,
        health: Status::Up,
        check: "200 OK in 3 ms".to_owned(),
        since: Some(at(1_000)),
        admin: AdminState::Ready,
        weight: 100,
        file_admin: AdminState::Ready,
        file_weight: 100,
        overridden: None,
        backup: false,
        growing: None,
        next_hop: format!("02:00:00:00:00:{last} via eth0"),
        slots: Some(84),
        open: None,
        flows: Some(0),
        packets: 18_249,
        bytes: 1_900_000,
    }
}

/// A node with one service and two backends.
pub(crate) fn view() -> StatusView {
    StatusView {
        schema: "lb.status/1".to_owned(),
        node: "lb1".to_owned(),
        version: "0.1.0".to_owned(),
        started: at(1_000),
        config: ConfigView {
            path: "/etc/lb/lb.toml".to_owned(),
            digest: "9f2c41aa0b12cd34ef".to_owned(),
            loaded: at(1_000),
            rejected: None,
        },
        interfaces: vec![InterfaceView {
            name: "eth0".to_owned(),
            xdp_mode: "native".to_owned(),
            up: true,
            mac: "02:00:00:00:00:01".to_owned(),
        }],
        problems: Vec::new(),
        services: vec![ServiceView {
            name: "web".to_owned(),
            listen: vec!["192.0.2.100:443/tcp".to_owned(), "[2001:db8::100]:443/tcp".to_owned()],
            scheduler: Scheduler::Maglev,
            affinity: Affinity::Flow,
            forward: Forward::L2,
            slots: 251,
            lap: None,
            moving: 0,
            guard: None,
            drain_grace: 60,
            leaving: Vec::new(),
            state: ServiceState::Up,
            on_backups: false,
            serving: 2,
            backends: vec![
                backend("web1", 21, BackendState::Serving),
                backend("web2", 22, BackendState::Serving),
            ],
            packets: 412_000,
            bytes: 1_900_000_000,
        }],
        verdicts: vec![VerdictView {
            action: "pass".to_owned(),
            reason: "no-service".to_owned(),
            packets: 12,
            bytes: 1_200,
        }],
        silent: SilentView::default(),
    }
}

/// A connection to a backend of the service `web`.
pub(crate) fn flow(backend: &str, port: u16, kind: FlowKind) -> FlowView {
    FlowView {
        service: "web".to_owned(),
        backend: backend.to_owned(),
        leaving: !backend.starts_with("web"),
        protocol: Protocol::Tcp,
        source: SocketAddr::from(([198, 51, 100, 7], port)),
        destination: SocketAddr::from(([192, 0, 2, 100], 443)),
        kind,
        state: FlowState::Open,
        idle: 41,
    }
}

/// What `web` would lose with its second backend.
pub(crate) fn service_diff() -> ServiceDiff {
    ServiceDiff {
        service: "web".to_owned(),
        fate: Fate::Stays,
        slots: 251,
        moved: 125,
        moved_later: 125,
        keeps_flows: true,
        flows: 12,
        affected: 5,
        lost: 0,
    }
}

/// What a file would change that drops a backend.
pub(crate) fn diff_view(path: &str) -> DiffView {
    DiffView {
        schema: "lb.diff/1".to_owned(),
        path: path.to_owned(),
        digest: "0123456789abcdef".to_owned(),
        changed: true,
        fixed: Vec::new(),
        changes: vec!["- web/web2".to_owned()],
        dropped_overrides: Vec::new(),
        warnings: Vec::new(),
        grows: false,
        services: vec![service_diff()],
    }
}

/// Answers as a daemon would that knows `web/web1` and `web/web2`, until everybody hung up.
pub(crate) async fn controller(mut requests: mpsc::Receiver<Request>) {
    while let Some(request) = requests.recv().await {
        match request {
            Request::Status(reply) => drop(reply.send(Ok(view()))),
            Request::Reload(reply) => drop(reply.send(Err(Problem {
                kind: Kind::InvalidConfig,
                detail: "error: unknown key `bogus`\n --> lb.toml:6:1\n".to_owned(),
            }))),
            Request::Diff(None, reply) => drop(reply.send(Ok(diff_view("/etc/lb/lb.toml")))),
            Request::Diff(Some(file), reply) => drop(reply.send(compared(&file))),
            Request::Flows(query, reply) => drop(reply.send(listed(&query))),
            Request::FlowCount(query, reply) => drop(reply.send(counted(&query))),
            Request::Explain(request, reply) => drop(reply.send(explained(request.flow))),
            Request::Edit(id, edit, by, reply) => drop(reply.send(edited(&id, edit, by))),
        }
    }
}

fn compared(file: &DiffRequest) -> Result<DiffView, Problem> {
    if file.text.contains("bogus") {
        let detail = format!("error: unknown key `bogus`\n --> {}:1:1\n", file.path);
        return Err(Problem { kind: Kind::InvalidConfig, detail });
    }
    Ok(diff_view(&file.path))
}

/// One flow, as if it were what the query asks for.
fn listed(query: &FlowQuery) -> Result<FlowsView, Problem> {
    let kind = query.kind.unwrap_or(FlowKind::Base);
    let flow = flow(query.backend.as_deref().unwrap_or("web1"), 40_112, kind);
    if query.service.as_deref().is_some_and(|service| service != "web") {
        return Err(Problem { kind: Kind::NotFound, detail: format!("asked for {query:?}") });
    }
    let outside = query.source.is_some_and(|source| !source.contains(flow.source.ip()));
    let flows = if outside { Vec::new() } else { vec![flow] };
    let total = u64::from(query.limit.unwrap_or(7));
    Ok(FlowsView { schema: "lb.flows/1".to_owned(), flows, total, truncated: total > 1 })
}

fn counted(query: &FlowQuery) -> Result<FlowCountView, Problem> {
    let mut tally = FlowTally::default();
    for flow in listed(query)?.flows {
        tally.count(flow.kind, flow.state);
    }
    let backend = query.backend.clone().unwrap_or_else(|| "web1".to_owned());
    let backends = vec![BackendFlows { backend, leaving: false, tally }];
    let services = vec![ServiceFlows { service: "web".to_owned(), backends, tally }];
    Ok(FlowCountView { schema: "lb.flow-count/1".to_owned(), services, total: tally })
}

fn explained(flow: String) -> Result<ExplainView, Problem> {
    if flow.starts_with("sctp") {
        let detail = "`sctp` is no protocol: write tcp or udp".to_owned();
        return Err(Problem { kind: Kind::BadRequest, detail });
    }
    Ok(ExplainView {
        schema: "lb.explain/1".to_owned(),
        flow,
        service: None,
        hash: None,
        slot: None,
        backend: None,
        choices: Vec::new(),
        established: None,
        action: "pass".to_owned(),
        reason: "no-service".to_owned(),
        notes: Vec::new(),
    })
}

fn edited(id: &BackendId, edit: Edit, by: String) -> Result<BackendView, Problem> {
    let mut services = view().services;
    let backends = services.iter_mut().flat_map(|service| &mut service.backends);
    let Some(found) = backends.into_iter().find(|backend| backend.id == *id) else {
        return Err(Problem { kind: Kind::NotFound, detail: format!("no backend {id}") });
    };
    let mut found = found.clone();
    found.admin = edit.admin.unwrap_or(found.admin);
    found.weight = edit.weight.unwrap_or(found.weight);
    found.overridden = Some(Override {
        admin: edit.admin,
        weight: edit.weight,
        reason: edit.reason,
        by,
        at: at(2_000),
        ..Override::default()
    });
    Ok(found)
}

/// A server with the made-up controller, in a directory of its own.
pub(crate) struct Bench {
    pub server: Server,
    pub socket: PathBuf,
    _directory: tempfile::TempDir,
}

pub(crate) async fn bench() -> Bench {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("run/lb.sock");
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(controller(receiver));
    let server = serve(&socket, sender).await.expect("served");
    Bench { server, socket, _directory: directory }
}

/// Sends bytes, and returns all that comes back.
async fn raw(socket: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(socket).await.expect("connected");
    // A server that has heard enough may hang up before the end.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: lb\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: lb\r\nConnection: close\r\n\r\n")
}

/// The problem in an answer, which must have this status and be labelled as a problem.
fn problem(answer: &str, status: u16) -> Problem {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(answer.contains("content-type: application/problem+json"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    serde_json::from_str(body).expect(body)
}

#[tokio::test]
async fn every_call_reaches_the_controller_and_comes_back() {
    let bench = bench().await;
    let client = Client::new(&bench.socket);
    assert_eq!(client.status().await.expect("status").services[0].backends.len(), 2);
    assert_eq!(
        client.version().await.expect("version").map_schema,
        lb_common::maps::SCHEMA_VERSION
    );
    let view = client.explain("tcp 192.0.2.7:1 > 192.0.2.100:443").await.expect("explained");
    assert_eq!(view.flow, "tcp 192.0.2.7:1 > 192.0.2.100:443");
    let id: BackendId = "web/web2".parse().expect("a backend");
    let edit = Edit { weight: Some(50), reason: Some("slow".to_owned()), admin: None };
    let changed = client.edit(&id, &edit).await.expect("edited");
    let over = changed.overridden.expect("overridden");
    assert_eq!((changed.weight, over.reason.as_deref()), (50, Some("slow")));
    assert_eq!(client.dry_run().await.expect("a dry run").path, "/etc/lb/lb.toml");
    let file = DiffRequest { path: "new.toml".to_owned(), text: "# much\n".repeat(100_000) };
    assert_eq!(client.diff(&file).await.expect("compared").services, [service_diff()]);
    let query = FlowQuery {
        service: Some("web".to_owned()),
        backend: Some("2001:db8::21".to_owned()),
        source: Some("198.51.100.0/24".parse().expect("a prefix")),
        kind: Some(FlowKind::HalfOpen),
        limit: Some(1),
    };
    let listed = client.flows(&query).await.expect("flows");
    let flow = flow("2001:db8::21", 40_112, FlowKind::HalfOpen);
    assert_eq!((listed.flows, listed.total, listed.truncated), (vec![flow], 1, false));
    let counted = client.flow_count(&query).await.expect("counted");
    assert_eq!(counted.services[0].backends[0].backend, "2001:db8::21");
    assert_eq!((counted.total.half_open, counted.total.flows), (1, 1));
    let elsewhere = FlowQuery { source: Some("::/0".parse().expect("a prefix")), ..query };
    assert_eq!(client.flow_count(&elsewhere).await.expect("counted").total.flows, 0);
    bench.server.shutdown().await;
}

#[tokio::test]
async fn an_edit_carries_the_name_of_who_asks() {
    let bench = bench().await;
    let id: BackendId = "web/web1".parse().expect("a backend");
    let edit = Edit { admin: Some(AdminState::Drain), ..Edit::default() };
    let changed = Client::new(&bench.socket).edit(&id, &edit).await.expect("edited");
    let uid = nix::unistd::getuid();
    let expected = match nix::unistd::User::from_uid(uid).expect("looked up") {
        Some(user) => user.name,
        None => format!("uid {uid}"),
    };
    assert_eq!(changed.overridden.expect("overridden").by, expected);
}

#[tokio::test]
async fn problems_arrive_with_their_kind() {
    let bench = bench().await;
    let client = Client::new(&bench.socket);
    let id: BackendId = "web/a b%2f".parse().expect("a name that needs encoding");
    let edit = Edit { weight: Some(1), ..Edit::default() };
    match client.edit(&id, &edit).await.expect_err("no such backend") {
        CallError::Problem(problem) => {
            assert_eq!(problem.kind, Kind::NotFound);
            assert_eq!(problem.detail, "no backend web/a b%2f");
        }
        other => panic!("{other}"),
    }
    let file = DiffRequest { path: "new.toml".to_owned(), text: "bogus = 1".to_owned() };
    for error in [
        client.reload().await.expect_err("a bad file"),
        client.diff(&file).await.expect_err("another"),
    ] {
        match error {
            CallError::Problem(problem) => assert_eq!(problem.kind, Kind::InvalidConfig),
            other => panic!("{other}"),
        }
    }
    let file = DiffRequest { path: "huge.toml".to_owned(), text: "#".repeat(4 << 20) };
    let error = client.diff(&file).await.expect_err("too long").to_string();
    assert_eq!(error, "huge.toml is too large to be sent: more than 4096 KiB");
}

#[tokio::test]
async fn bad_requests_are_refused_each_with_its_status() {
    let bench = bench().await;
    let long = format!("{{\"reason\":\"{}\"}}", "x".repeat(64 * 1024));
    let longer = "x".repeat(4 << 20 | 1);
    let cases = [
        (get("/v1/nothing"), 404, Kind::NotFound, "no path /v1/nothing"),
        (get("/v1/reload"), 405, Kind::BadRequest, "does not allow GET"),
        (post("/v1/status", ""), 405, Kind::BadRequest, "does not allow POST"),
        (post("/v1/explain", ""), 400, Kind::BadRequest, "line 1 column 0"),
        (post("/v1/explain", "{\n \"flow\": 7}"), 400, Kind::BadRequest, "line 2 column 10"),
        (post("/v1/explain", "{\"flow\":\"sctp\"}"), 400, Kind::BadRequest, "no protocol"),
        (post("/v1/backends/web/web1", "{\"wait\":1}"), 400, Kind::BadRequest, "`wait`"),
        (post("/v1/backends/web/web1", "{}"), 400, Kind::BadRequest, "nothing to change"),
        (post("/v1/backends/web/web1", "{\"weight\":1001}"), 400, Kind::BadRequest, "got 1001"),
        (post("/v1/backends/web/web1", "{\"weight\":-1}"), 400, Kind::BadRequest, "column"),
        (post("/v1/backends/web/%ff", "{\"weight\":1}"), 400, Kind::BadRequest, "UTF-8"),
        (post("/v1/backends/web/web9", "{\"weight\":1}"), 404, Kind::NotFound, "no backend"),
        (post("/v1/backends/web/web1", &long), 413, Kind::BadRequest, "longer than 64 KiB"),
        (post("/v1/diff", "{\"path\":\"a\"}"), 400, Kind::BadRequest, "`text`"),
        (post("/v1/diff", &longer), 413, Kind::BadRequest, "longer than 4096 KiB"),
        (get("/v1/flows?sauce=1"), 400, Kind::BadRequest, "`sauce`"),
        (get("/v1/flows?limit=0"), 400, Kind::BadRequest, "limit: must be 1 to 100000, got 0"),
        (get("/v1/flows?limit=100001"), 400, Kind::BadRequest, "got 100001"),
        (get("/v1/flows?source=10.0.0.7/8"), 400, Kind::BadRequest, "`10.0.0.7/8` is no prefix"),
        (get("/v1/flows/count?kind=odd"), 400, Kind::BadRequest, "`odd`"),
        (get("/v1/flows?service=dns"), 404, Kind::NotFound, "dns"),
        (post("/v1/flows", ""), 405, Kind::BadRequest, "does not allow POST"),
        (post("/v1/reload", ""), 422, Kind::InvalidConfig, "unknown key"),
    ];
    for (request, status, kind, words) in cases {
        let answer = raw(&bench.socket, &request).await;
        let problem = problem(&answer, status);
        assert_eq!(problem.kind, kind, "{answer}");
        assert!(problem.detail.contains(words), "{answer}");
    }
    Client::new(&bench.socket).status().await.expect("the daemon is still there");
}

#[tokio::test]
async fn what_is_no_http_kills_nobody() {
    let bench = bench().await;
    for bytes in ["", "\0\0\0\0", "GET", "GET / HTTP/9.9\r\n\r\n", "POST /v1/reload HTTP/1.1\r\n"] {
        let mut stream = UnixStream::connect(&bench.socket).await.expect("connected");
        stream.write_all(bytes.as_bytes()).await.expect("written");
        drop(stream);
    }
    Client::new(&bench.socket).status().await.expect("the daemon is still there");
}

#[tokio::test]
async fn a_controller_that_hangs_or_is_gone_is_told_as_a_failure() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("lb.sock");
    let (sender, receiver) = mpsc::channel(4);
    let server = serve_within(&socket, sender, Duration::from_millis(50)).await.expect("served");
    let detail = async || match Client::new(&socket).status().await.expect_err("no answer") {
        CallError::Problem(Problem { kind: Kind::Failed, detail }) => detail,
        other => panic!("{other}"),
    };
    assert!(detail().await.contains("did not answer within 50ms"));
    drop(receiver);
    assert!(detail().await.contains("shutting down"));
    server.shutdown().await;
}

#[tokio::test]
async fn the_socket_is_for_owner_and_group_and_goes_with_the_server() {
    let bench = bench().await;
    let mode = std::fs::metadata(&bench.socket).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    bench.server.shutdown().await;
    assert!(!bench.socket.exists());
    let error = Client::new(&bench.socket).status().await.expect_err("nobody there");
    assert!(matches!(error, CallError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_dead_daemons_socket_is_replaced_and_a_living_ones_is_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("lb.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("bound"));
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(controller(receiver));
    let first = serve(&socket, sender.clone()).await.expect("the dead one's place is taken");

    let error = serve(&socket, sender.clone()).await.expect_err("somebody answers");
    assert!(format!("{error:#}").contains("another daemon answers"), "{error:#}");
    Client::new(&socket).status().await.expect("the first still answers");

    // A successor that took the path over keeps its file when the first one goes.
    std::fs::remove_file(&socket).expect("removed");
    let second = serve(&socket, sender).await.expect("the path is free");
    first.shutdown().await;
    Client::new(&socket).status().await.expect("the second answers");
    second.shutdown().await;
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_never_removed() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("lb.sock");
    std::fs::write(&path, "precious").expect("written");
    let (sender, _receiver) = mpsc::channel(4);
    let error = serve(&path, sender).await.expect_err("no socket");
    assert!(format!("{error:#}").contains("no socket"), "{error:#}");
    assert_eq!(std::fs::read_to_string(&path).expect("still there"), "precious");
}

#[tokio::test]
async fn a_caller_that_stalls_does_not_hold_up_the_shutdown() {
    let bench = bench().await;
    let mut stream = UnixStream::connect(&bench.socket).await.expect("connected");
    let head = "POST /v1/explain HTTP/1.1\r\nHost: lb\r\nExpect: 100-continue\r\n\
                Content-Length: 9\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("written");
    // The server says so once it waits for the body, which never comes.
    let mut interim = [0; 12];
    stream.read_exact(&mut interim).await.expect("an interim answer");
    assert_eq!(&interim, b"HTTP/1.1 100");
    tokio::time::timeout(Duration::from_secs(5), bench.server.shutdown())
        .await
        .expect("stopped within its own deadline");
}
