//! Datagrams with numbers, sent at a steady pace and counted where they arrive: what was lost on
//! the way, and what came twice.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use crate::flows::any;
use crate::node::Node;

/// Room for what arrives while the receiver waits for a processor: ten seconds' worth, as each
/// datagram counts for most of a kilobyte.
const ROOM: usize = 16 << 20;
/// How long a receiver waits for one more before it ends.
const SILENCE: Duration = Duration::from_millis(300);
/// A sender that is later than this does not make up for it: a burst would overrun the virtual
/// cables, which hold 256 frames.
const LATE: Duration = Duration::from_millis(10);

/// Sends datagrams with the numbers 0, 1, ... Ends when it is dropped.
#[derive(Debug)]
pub struct Source {
    stop: Arc<AtomicBool>,
    worker: Option<JoinHandle<u64>>,
}

impl Source {
    /// Sends one datagram each `pace` from a node to the addresses in turn, from so many sockets
    /// for each.
    #[track_caller]
    pub fn start(node: &Node, to: &[SocketAddr], sockets: usize, pace: Duration) -> Self {
        let open = |to: &SocketAddr| {
            let socket = UdpSocket::bind((any(*to), 0)).expect("failed to bind for UDP");
            (socket, *to)
        };
        let count = to.len() * sockets;
        let sockets: Vec<_> = node.enter(|| to.iter().cycle().take(count).map(open).collect());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let worker = thread::spawn(move || {
            let mut sent = 0;
            let mut next = Instant::now();
            while !stopped.load(Ordering::SeqCst) {
                let (socket, to) = &sockets[sent as usize % count];
                let number: u64 = sent;
                socket.send_to(&number.to_be_bytes(), to).expect("failed to send a datagram");
                sent += 1;
                next += pace;
                let now = Instant::now();
                match next.checked_duration_since(now) {
                    Some(early) => thread::sleep(early),
                    None if now - next > LATE => next = now,
                    None => {}
                }
            }
            sent
        });
        Self { stop, worker: Some(worker) }
    }

    /// Ends it, and tells how many were sent.
    #[track_caller]
    pub fn finish(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        let worker = self.worker.take().expect("a source has one thread");
        worker.join().expect("the thread of a source panicked")
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// Takes note of the numbers that arrive. Ends when it is dropped.
#[derive(Debug)]
pub struct Sink {
    node: Node,
    stop: Arc<AtomicBool>,
    worker: Option<JoinHandle<(UdpSocket, Vec<u64>)>>,
}

impl Sink {
    /// Receives what is sent to an address of the node.
    #[track_caller]
    pub fn start(node: &Node, address: SocketAddr) -> Self {
        let socket = node.enter(|| UdpSocket::bind(address)).expect("failed to bind for UDP");
        socket.set_read_timeout(Some(SILENCE)).expect("failed to limit waiting");
        setsockopt(&socket, sockopt::RcvBufForce, &ROOM).expect("failed to make room");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let worker = thread::spawn(move || {
            let mut numbers = Vec::new();
            let mut buffer = [0; 8];
            loop {
                match socket.recv(&mut buffer) {
                    Ok(8) => numbers.push(u64::from_be_bytes(buffer)),
                    Ok(length) => panic!("a datagram of {length} bytes"),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        if stopped.load(Ordering::SeqCst) {
                            return (socket, numbers);
                        }
                    }
                    Err(error) => panic!("failed to receive a datagram: {error}"),
                }
            }
        });
        Self { node: node.clone(), stop, worker: Some(worker) }
    }

    /// Ends it once nothing more arrives; what did, and how many it had no room for.
    #[track_caller]
    fn finish(mut self) -> (Vec<u64>, u64) {
        self.stop.store(true, Ordering::SeqCst);
        let worker = self.worker.take().expect("a sink has one thread");
        let (socket, numbers) = worker.join().expect("the thread of a sink panicked");
        let address = socket.local_addr().expect("a socket has an address");
        let file = if address.is_ipv4() { "udp" } else { "udp6" };
        let path = format!("/proc/thread-self/net/{file}");
        let sockets = self.node.enter(|| fs::read_to_string(&path)).expect("a list of sockets");
        // Its address ends in the port, in hexadecimal digits; what was dropped comes last.
        let port = format!(":{:04X}", address.port());
        let ours = sockets.lines().filter(|line| {
            line.split_whitespace().nth(1).is_some_and(|local| local.ends_with(&port))
        });
        let dropped = ours.map(|line| line.split_whitespace().last()?.parse::<u64>().ok());
        let dropped = dropped.sum::<Option<u64>>().expect("a number of what was dropped");
        (numbers, dropped)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// What became of a number of datagrams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// How many arrived at each node.
    pub by_node: BTreeMap<String, usize>,
    /// Numbers that arrived nowhere.
    pub lost: Vec<u64>,
    /// Numbers that arrived more than once.
    pub twice: Vec<u64>,
    /// Datagrams that arrived at a node, which had no room for them: the bed's fault.
    pub overrun: u64,
}

/// Compares what a source has sent with what arrived at all the sinks.
#[track_caller]
pub fn arrivals(sent: u64, sinks: Vec<Sink>) -> Arrivals {
    let mut arrivals = Arrivals::default();
    let mut counts = vec![0_u32; sent as usize];
    for sink in &sinks {
        // The last may still be on their way; each looks a while from now on.
        sink.stop.store(true, Ordering::SeqCst);
    }
    for sink in sinks {
        let name = sink.node.name().to_owned();
        let (numbers, dropped) = sink.finish();
        *arrivals.by_node.entry(name).or_default() += numbers.len();
        arrivals.overrun += dropped;
        for number in numbers {
            counts[number as usize] += 1;
        }
    }
    for (number, count) in (0..).zip(counts) {
        match count {
            0 => arrivals.lost.push(number),
            1 => {}
            _ => arrivals.twice.push(number),
        }
    }
    arrivals
}
