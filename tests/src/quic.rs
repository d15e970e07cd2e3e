//! QUIC: servers whose connection ids name them, and clients that change their address in the
//! middle of a connection.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use quinn::rustls::RootCertStore;
use quinn::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use quinn::{
    ClientConfig, Connecting, Connection, ConnectionError, ConnectionId, ConnectionIdGenerator,
    Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime,
};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use ring::hmac::{HMAC_SHA256, Key};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::node::Node;
use crate::web::HOST;

/// How long an answer may take, a lost packet or two included.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than an answer may be.
const LONGEST: usize = 256;

/// Where all endpoints work; their sockets live in the nodes.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().expect("failed to start a runtime for QUIC")
});

/// What the servers of one site have in common: a certificate, and the key of their stateless
/// resets. By that key a packet that comes to the wrong server ends its connection, and is not
/// merely sent again until it finds the right one.
pub struct Site {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    resets: Arc<Key>,
    /// Whether servers go on with clients that are new to them.
    open: watch::Sender<bool>,
    /// How many clients have come to a server.
    came: Arc<AtomicUsize>,
}

impl Site {
    /// Makes a certificate and a key.
    #[track_caller]
    pub fn new() -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed([HOST.to_owned()]).expect("failed to make a certificate");
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key is a key");
        let resets =
            Key::generate(HMAC_SHA256, &SystemRandom::new()).expect("failed to make a key");
        Self {
            certificate: cert.der().clone(),
            key,
            resets: Arc::new(resets),
            open: watch::Sender::new(true),
            came: Arc::default(),
        }
    }

    /// Has all servers keep new clients waiting, or go on with those that wait.
    pub fn set_open(&self, open: bool) {
        self.open.send_replace(open);
    }

    /// How many clients have come to a server since there is one. Who is sent away by Retry comes
    /// twice.
    pub fn came(&self) -> usize {
        self.came.load(Ordering::SeqCst)
    }

    /// Serves on a virtual address in a node, by a server id.
    #[track_caller]
    pub fn serve(&self, node: &Node, address: SocketAddr, id: u16, welcome: Welcome) -> Server {
        let socket = node.enter(|| UdpSocket::bind(address)).expect("failed to bind for QUIC");
        let mut settings = EndpointConfig::new(Arc::clone(&self.resets) as _);
        settings.cid_generator(move || Box::new(Ids { server: id, random: SystemRandom::new() }));
        let serves =
            ServerConfig::with_single_cert(vec![self.certificate.clone()], self.key.clone_key())
                .expect("failed to use a certificate");
        let endpoint = {
            let _inside = RUNTIME.enter();
            Endpoint::new(settings, Some(serves), socket, Arc::new(TokioRuntime))
                .expect("failed to serve by QUIC")
        };
        let entrance = Entrance {
            name: node.name().to_owned(),
            welcome,
            open: self.open.subscribe(),
            came: Arc::clone(&self.came),
        };
        Server { task: RUNTIME.spawn(accept(endpoint, entrance)) }
    }

    /// Connects from an address of a node, and asks who is there.
    #[track_caller]
    pub fn connect(&self, node: &Node, from: IpAddr, to: SocketAddr) -> Result<Session, Failure> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("failed to trust a certificate");
        // Of its own for each client, so that none knows what another was told.
        let trusts = ClientConfig::with_root_certificates(Arc::new(roots))
            .expect("failed to trust a certificate");
        let socket = bind(node, from);
        let endpoint = {
            let _inside = RUNTIME.enter();
            let settings = EndpointConfig::default();
            Endpoint::new(settings, None, socket, Arc::new(TokioRuntime))
        };
        let mut endpoint = endpoint.expect("failed to prepare a client for QUIC");
        endpoint.set_default_client_config(trusts);
        let connecting = begin(&endpoint, to);
        let connection = RUNTIME.block_on(within(async { Ok(connecting.await?) }));
        let connection = connection.map_err(|error| Failure::of(&error, None))?;
        let session = Session { node: node.clone(), endpoint, connection, server: String::new() };
        let server = session.who_is_there()?;
        Ok(Session { server, ..session })
    }
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

/// What a server says to a client that it does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Welcome {
    /// It goes on with the handshake.
    AtOnce,
    /// Retry: the client is to show first that it is where it says it is, and begins again with a
    /// connection id of the server's.
    Retry,
}

/// Connection ids by QUIC-LB: configuration 0, the length, the server's id, five bytes by chance.
struct Ids {
    server: u16,
    random: SystemRandom,
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; 8];
        self.random.fill(&mut id).expect("the kernel has random bytes");
        id[0] = 7;
        id[1..3].copy_from_slice(&self.server.to_be_bytes());
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// A server: it answers every stream with the name of its node, and with the address that it sees
/// its client at. Ends, with its connections, when it is dropped.
#[derive(Debug)]
pub struct Server {
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How a server meets clients.
#[derive(Clone)]
struct Entrance {
    name: String,
    welcome: Welcome,
    open: watch::Receiver<bool>,
    came: Arc<AtomicUsize>,
}

async fn accept(endpoint: Endpoint, entrance: Entrance) {
    // They end with this task.
    let mut connections = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        entrance.came.fetch_add(1, Ordering::SeqCst);
        let entrance = entrance.clone();
        // What becomes of it is for the client to say.
        connections.spawn(async move { drop(meet(incoming, entrance).await) });
    }
}

async fn meet(incoming: Incoming, mut entrance: Entrance) -> Result<()> {
    entrance.open.wait_for(|open| *open).await?;
    if entrance.welcome == Welcome::Retry && !incoming.remote_address_validated() {
        return Ok(incoming.retry()?);
    }
    answer(&incoming.await?, &entrance.name).await
}

async fn answer(connection: &Connection, name: &str) -> Result<()> {
    loop {
        let (mut answer, mut question) = connection.accept_bi().await?;
        question.read_to_end(LONGEST).await?;
        let text = format!("{name} {}", connection.remote_address());
        answer.write_all(text.as_bytes()).await?;
        answer.finish()?;
    }
}

/// A connection, which has a socket for itself.
#[derive(Debug)]
pub struct Session {
    node: Node,
    endpoint: Endpoint,
    connection: Connection,
    server: String,
}

impl Session {
    /// The name of the server that it began with.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Where the client is now.
    #[track_caller]
    pub fn source(&self) -> SocketAddr {
        self.endpoint.local_addr().expect("a socket has an address")
    }

    /// Goes on from another address of the node, and from another port.
    #[track_caller]
    pub fn move_to(&self, from: IpAddr) {
        let before = self.source();
        let socket = bind(&self.node, from);
        let _inside = RUNTIME.enter();
        self.endpoint.rebind(socket).expect("failed to give a client another socket");
        assert_ne!(self.source(), before, "the old socket is still open");
    }

    /// Asks who is there: it must be the same server, and see where the client is.
    pub fn ask(&self) -> Result<(), Failure> {
        let server = self.who_is_there()?;
        if server == self.server {
            return Ok(());
        }
        Err(Failure::Other(format!("{server} answered in the place of {}", self.server)))
    }

    /// Connects once more from the same socket, and asks in the very first packets: 0-RTT, which
    /// only the server that the client knows from before can read. The name of who answered.
    pub fn ask_early(&self) -> Result<String, Failure> {
        let connecting = begin(&self.endpoint, self.connection.remote_address());
        let Ok((connection, accepted)) = connecting.into_0rtt() else {
            return Err(Failure::Other("no ticket for 0-RTT".to_owned()));
        };
        let asked = RUNTIME.block_on(within(async {
            let server = ask(&connection, self.source()).await?;
            ensure!(accepted.await, "0-RTT was not accepted");
            Ok(server)
        }));
        asked.map_err(|error| Failure::of(&error, Some(&connection)))
    }

    fn who_is_there(&self) -> Result<String, Failure> {
        let asked = RUNTIME.block_on(within(ask(&self.connection, self.source())));
        asked.map_err(|error| Failure::of(&error, Some(&self.connection)))
    }
}

/// Asks, and gives the name of who answered, if that sees the client where it is.
async fn ask(connection: &Connection, source: SocketAddr) -> Result<String> {
    let (mut question, mut answer) = connection.open_bi().await?;
    question.write_all(b"who is there?").await?;
    question.finish()?;
    let answer = String::from_utf8(answer.read_to_end(LONGEST).await?)?;
    let (server, seen) = answer.split_once(' ').context("half an answer")?;
    ensure!(seen == source.to_string(), "{server} sees {seen}, not {source}");
    Ok(server.to_owned())
}

async fn within<T>(step: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(PATIENCE, step).await?
}

#[track_caller]
fn begin(endpoint: &Endpoint, to: SocketAddr) -> Connecting {
    let _inside = RUNTIME.enter();
    endpoint.connect(to, HOST).expect("failed to begin a connection")
}

#[track_caller]
fn bind(node: &Node, from: IpAddr) -> UdpSocket {
    let bound: io::Result<UdpSocket> = node.enter(|| UdpSocket::bind((from, 0)));
    bound.unwrap_or_else(|error| panic!("failed to bind to {from}: {error}"))
}

/// Why there was no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A stateless reset: a packet came to a server that does not know the connection.
    Reset,
    /// Nothing came in time.
    Silence,
    /// Anything else, in words.
    Other(String),
}

impl Failure {
    fn of(error: &anyhow::Error, connection: Option<&Connection>) -> Self {
        match connection.and_then(Connection::close_reason) {
            Some(ConnectionError::Reset) => Self::Reset,
            Some(reason) => Self::Other(reason.to_string()),
            None if error.is::<tokio::time::error::Elapsed>() => Self::Silence,
            None => Self::Other(format!("{error:#}")),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset => f.write_str("reset by a server that does not know the connection"),
            Self::Silence => write!(f, "no answer within {PATIENCE:?}"),
            Self::Other(what) => f.write_str(what),
        }
    }
}
