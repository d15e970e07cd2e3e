//! One probe: one connection to a backend, within one deadline, and what it found in words.

mod http;
mod tcp;
mod tls;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::config::Probe;

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether the backend counts as serving.
    pub passed: bool,
    /// What happened, without times: two findings with the same words here say the same.
    pub what: String,
    /// What happened, for people: `200 OK in 3.1 ms`, `connection refused`.
    pub words: String,
    /// How long it took.
    pub took: Duration,
}

impl Finding {
    fn passed(what: String, took: Duration) -> Self {
        Self { passed: true, words: format!("{what} in {}", spoken(took)), what, took }
    }

    fn failed(what: String, took: Duration) -> Self {
        Self { passed: false, words: what.clone(), what, took }
    }
}

/// Why a probe failed, in words; it passed with the words otherwise.
type Answer = Result<String, String>;

/// Probes one backend, again and again.
#[derive(Debug)]
pub struct Prober {
    backend: SocketAddr,
    probe: Probe,
    tls: tls::Connector,
}

impl Prober {
    /// A prober of `address`, at `port`. Files that the probe needs are read by the first probe
    /// that needs them, and again until they can be read.
    pub fn new(address: IpAddr, port: u16, probe: Probe) -> Self {
        let tls = match &probe {
            Probe::Http { tls: Some(tls), .. } => tls::Connector::new(tls.clone()),
            Probe::None | Probe::Tcp | Probe::Http { tls: None, .. } => {
                tls::Connector::new(crate::config::Tls::None)
            }
        };
        Self { backend: SocketAddr::new(address, port), probe, tls }
    }

    /// One probe, which takes `timeout` at most (and up to a fifth of a second to say goodbye).
    pub async fn probe(&mut self, timeout: Duration) -> Finding {
        let start = Instant::now();
        let deadline = Deadline { at: start + timeout, timeout };
        let answer = match &self.probe {
            Probe::None => Ok("not probed".to_owned()),
            Probe::Tcp => return tcp::probe(self.backend, start, deadline).await,
            Probe::Http { path, host, expect, tls } => {
                let request = http::Request { path, host: host.as_deref(), expect };
                let tls = tls.as_ref().map(|_| &mut self.tls);
                http::probe(self.backend, &request, tls, deadline).await
            }
        };
        let took = start.elapsed();
        match answer {
            Ok(what) => Finding::passed(what, took),
            Err(what) => Finding::failed(what, took),
        }
    }
}

/// The end of a probe's time.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    at: Instant,
    timeout: Duration,
}

impl Deadline {
    /// What `step` gives, or that `silence` and for how long.
    async fn limit<T>(
        self,
        silence: &str,
        step: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        match timeout_at(self.at, step).await {
            Ok(result) => result,
            Err(_) => Err(format!("{silence} in {:?}", self.timeout)),
        }
    }
}

async fn connect(backend: SocketAddr, deadline: Deadline) -> Result<TcpStream, String> {
    deadline
        .limit("no answer", async {
            TcpStream::connect(backend).await.map_err(|error| reason(&error))
        })
        .await
}

/// An error of a socket as people say it.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::ConnectionAborted => "connection aborted".to_owned(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
            "connection closed before the answer".to_owned()
        }
        io::ErrorKind::HostUnreachable => "host unreachable".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network unreachable".to_owned(),
        io::ErrorKind::TimedOut => "no answer".to_owned(),
        io::ErrorKind::AddrNotAvailable => "no free local address or port".to_owned(),
        _ => format!("failed to talk to the backend: {error}"),
    }
}

/// A time as people read it: `0.4 ms`, `31 ms`, `1.2 s`.
fn spoken(took: Duration) -> String {
    let ms = took.as_secs_f64() * 1_000.0;
    if ms < 10.0 {
        format!("{ms:.1} ms")
    } else if ms < 1_000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.1} s", ms / 1_000.0)
    }
}

#[cfg(test)]
mod tests;
