//! Requests by plain HTTP and UDP whose source port the test chooses, and a steady load of them.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::client::Tally;
use crate::node::Node;
use crate::wait::wait_until;

/// How long a step of a request may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Time between two requests of a load, so that it leaves the processors to others too.
const PACE: Duration = Duration::from_millis(2);

/// Asks for `/` by plain HTTP from each source port in turn, and gives the name of the server
/// that answered, or what went wrong.
#[track_caller]
pub fn ask_from(
    node: &Node,
    ports: impl IntoIterator<Item = u16> + Send,
    to: SocketAddr,
) -> Vec<(u16, Result<String, String>)> {
    node.enter(|| {
        let ask = |port| (port, ask(port, to).map_err(|error| error.to_string()));
        ports.into_iter().map(ask).collect()
    })
}

/// Sends a datagram from a source port, and gives what comes back from where it was sent to.
#[track_caller]
pub fn ask_udp(node: &Node, port: u16, to: SocketAddr) -> Result<String, String> {
    let ask = || -> io::Result<String> {
        let socket = UdpSocket::bind((any(to), port))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        // Answers from elsewhere are not for a connected socket.
        socket.connect(to)?;
        socket.send(b"who are you?")?;
        let mut answer = [0; 64];
        let length = socket.recv(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    };
    node.enter(|| ask().map_err(|error| error.to_string()))
}

/// Connects so often to servers that tell their names, one connection after the other; how many
/// each has answered. Connections are reset, so that their ports are free again at once.
#[track_caller]
pub fn count_names(node: &Node, to: SocketAddr, count: usize) -> BTreeMap<String, usize> {
    let ask = || -> io::Result<String> {
        let mut stream = connect_from(SocketAddr::new(any(to), 0), to, PATIENCE)?;
        setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
        let mut name = [0; 64];
        let length = stream.read(&mut name)?;
        Ok(String::from_utf8_lossy(&name[..length]).into_owned())
    };
    node.enter(|| {
        let mut counts = BTreeMap::new();
        for n in 0..count {
            let name = ask().unwrap_or_else(|error| panic!("connection {n} to {to}: {error}"));
            *counts.entry(name).or_default() += 1;
        }
        counts
    })
}

/// Whether a connection from one of a node's addresses is taken within so long.
#[track_caller]
pub fn is_let_in(node: &Node, from: IpAddr, to: SocketAddr, patience: Duration) -> bool {
    node.enter(|| connect_from(SocketAddr::new(from, 0), to, patience)).is_ok()
}

/// Sends a SYN from each of an address's ports, and is gone before it is answered.
#[track_caller]
pub fn knock(node: &Node, from: IpAddr, ports: impl Iterator<Item = u16> + Send, to: SocketAddr) {
    let knock = |port| -> nix::Result<()> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(family(to), SockType::Stream, flags, None)?;
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from, port)))?;
        match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
            Err(Errno::EINPROGRESS) => Ok(()),
            other => other,
        }
    };
    node.enter(|| {
        for port in ports {
            knock(port).unwrap_or_else(|error| panic!("a SYN from port {port} to {to}: {error}"));
        }
    });
}

/// Requests by plain HTTP, one after the other, each over a connection of its own, until it is
/// told to end.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    workers: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// Starts to ask each of the addresses from a node.
    pub fn start(node: &Node, addresses: &[SocketAddr]) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let start = |&to: &SocketAddr| {
            let (node, stop, answered) = (node.clone(), Arc::clone(&stop), Arc::clone(&answered));
            thread::spawn(move || node.enter(|| work(to, &stop, &answered)))
        };
        let workers = addresses.iter().map(start).collect();
        Self { stop, answered, workers }
    }

    /// Waits until so many more requests have ended, well or badly: whatever has happened before
    /// the call has met the load then.
    #[track_caller]
    pub fn go_on(&self, requests: usize) {
        let before = self.answered.load(Ordering::SeqCst);
        wait_until(Duration::from_secs(30), &format!("{requests} more requests end"), || {
            let more = self.answered.load(Ordering::SeqCst) - before;
            if more >= requests { Ok(()) } else { Err(more.to_string()) }
        });
    }

    /// Ends it, and tells what became of the requests.
    pub fn finish(mut self) -> Tally {
        self.stop.store(true, Ordering::SeqCst);
        let mut sum = Tally::default();
        for worker in self.workers.drain(..) {
            sum.add(worker.join().expect("a worker of the load panicked"));
        }
        sum
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            // A test that fails does so for its own reason.
            let _ = worker.join();
        }
    }
}

fn work(to: SocketAddr, stop: &AtomicBool, answered: &AtomicUsize) -> Tally {
    let mut tally = Tally::default();
    while !stop.load(Ordering::SeqCst) {
        match ask(0, to) {
            Ok(server) => *tally.answers.entry(server).or_default() += 1,
            Err(error) => tally.failures.push(error.to_string()),
        }
        answered.fetch_add(1, Ordering::SeqCst);
        thread::sleep(PACE);
    }
    tally
}

/// One request; the source port may be 0, for any.
fn ask(port: u16, to: SocketAddr) -> io::Result<String> {
    let mut stream = connect_from(SocketAddr::new(any(to), port), to, PATIENCE)?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: flows\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    // `Connection: close`: nginx ends the connection, and we hold no port in TIME_WAIT.
    let (head, _) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let server = head.lines().find_map(|line| line.strip_prefix("X-Server: "));
    match server {
        Some(server) if head.starts_with("HTTP/1.1 200 ") => Ok(server.to_owned()),
        _ => Err(io::Error::other(format!("answered with {head:?}"))),
    }
}

/// A connection from a port that may have been used a moment ago, or from port 0, which is any.
/// Each of its steps may take so long.
pub(crate) fn connect_from(
    from: SocketAddr,
    to: SocketAddr,
    patience: Duration,
) -> io::Result<TcpStream> {
    let socket = socket(family(to), SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let patience = TimeVal::milliseconds(patience.as_millis() as i64);
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(&socket, sockopt::SendTimeout, &patience)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
    if from.port() != 0 || !from.ip().is_unspecified() {
        bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?;
    }
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to)).map_err(|error| match error {
        // What a send timeout makes of a connect, socket(7).
        Errno::EINPROGRESS => io::Error::other("no answer to the connection"),
        error => error.into(),
    })?;
    Ok(TcpStream::from(socket))
}

fn family(of: SocketAddr) -> AddressFamily {
    if of.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// No address in particular, of the family of another.
pub(crate) fn any(to: SocketAddr) -> IpAddr {
    match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}
