//! Connections that last: a server that tells its node's name and then repeats each line, and a
//! client that talks to it.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::flows::{any, connect_from};
use crate::node::Node;

/// How long a step may take, a lost packet or two included.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a server looks for connections.
const LOOK: Duration = Duration::from_millis(2);

/// A server. Its connections end with it.
#[derive(Debug)]
pub struct Talker {
    stop: Arc<AtomicBool>,
    open: Arc<Mutex<BTreeMap<u64, Arc<TcpStream>>>>,
    worker: Option<JoinHandle<()>>,
}

impl Talker {
    /// Talks to everybody who connects to the address.
    #[track_caller]
    pub fn start(node: &Node, address: SocketAddr) -> Self {
        let listener = node.enter(|| TcpListener::bind(address)).expect("failed to bind for TCP");
        listener.set_nonblocking(true).expect("failed to limit waiting");
        let stop = Arc::new(AtomicBool::new(false));
        let open = Arc::new(Mutex::new(BTreeMap::new()));
        let (name, stopped, all) = (node.name().to_owned(), Arc::clone(&stop), Arc::clone(&open));
        let worker = thread::spawn(move || {
            let mut count = 0;
            while !stopped.load(Ordering::SeqCst) {
                let Ok((stream, _)) = listener.accept() else {
                    thread::sleep(LOOK);
                    continue;
                };
                let stream = Arc::new(stream);
                count += 1;
                lock(&all).insert(count, Arc::clone(&stream));
                let (name, all) = (name.clone(), Arc::clone(&all));
                thread::spawn(move || {
                    // What becomes of it is for the client to say.
                    let _ = repeat(&stream, &name);
                    lock(&all).remove(&count);
                });
            }
        });
        Self { stop, open, worker: Some(worker) }
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(Err(_)) = self.worker.take().map(JoinHandle::join) {
            eprintln!("the thread of a talker panicked");
        }
        for stream in lock(&self.open).values() {
            // The client may have ended it.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn repeat(stream: &TcpStream, name: &str) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    let mut writer = stream;
    writer.write_all(format!("{name}\n").as_bytes())?;
    for line in BufReader::new(stream).lines() {
        writer.write_all(format!("{name} {}\n", line?).as_bytes())?;
    }
    stream.shutdown(Shutdown::Both)
}

/// A connection to a [`Talker`].
#[derive(Debug)]
pub struct Talk {
    server: String,
    reader: BufReader<TcpStream>,
    lines: u32,
}

impl Talk {
    /// Connects from a node, and listens who is there.
    #[track_caller]
    pub fn open(node: &Node, to: SocketAddr) -> io::Result<Self> {
        Self::open_from(node, any(to), to)
    }

    /// The same from one of the node's addresses.
    #[track_caller]
    pub fn open_from(node: &Node, from: IpAddr, to: SocketAddr) -> io::Result<Self> {
        node.enter(|| Self::open_here(from, to))
    }

    /// So many connections, to each of the addresses in turn.
    #[track_caller]
    pub fn open_many(node: &Node, to: &[SocketAddr], count: usize) -> Vec<Self> {
        let open = |to: &SocketAddr| {
            Self::open_here(any(*to), *to).unwrap_or_else(|error| panic!("{to}: {error}"))
        };
        node.enter(|| to.iter().cycle().take(count).map(open).collect())
    }

    /// The same in the namespace that the thread lives in.
    pub fn open_here(from: IpAddr, to: SocketAddr) -> io::Result<Self> {
        let stream = connect_from(SocketAddr::new(from, 0), to, PATIENCE)?;
        stream.set_nodelay(true)?;
        let mut talk = Self { server: String::new(), reader: BufReader::new(stream), lines: 0 };
        talk.server = talk.hear()?;
        Ok(talk)
    }

    /// The name of the server at the other end.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The client's end.
    #[track_caller]
    pub fn source(&self) -> SocketAddr {
        self.reader.get_ref().local_addr().expect("a connection has two ends")
    }

    /// Limits how long an answer may take.
    #[track_caller]
    pub fn limit(&self, patience: Duration) {
        self.reader.get_ref().set_read_timeout(Some(patience)).expect("failed to limit waiting");
    }

    /// Says a line, and waits until the server has repeated it.
    pub fn say(&mut self) -> io::Result<()> {
        self.lines += 1;
        let line = format!("{}\n", self.lines);
        self.reader.get_mut().write_all(line.as_bytes())?;
        self.hear_it()
    }

    /// Waits for what was said last to be repeated.
    pub fn hear_it(&mut self) -> io::Result<()> {
        let heard = self.hear()?;
        if heard == format!("{} {}", self.server, self.lines) {
            return Ok(());
        }
        Err(io::Error::other(format!("{} said {heard:?}", self.server)))
    }

    fn hear(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.reader.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}

/// Has each connection say a line; what went wrong, by server.
pub fn all_say(talks: &mut [Talk]) -> BTreeMap<String, Vec<io::ErrorKind>> {
    let mut failures: BTreeMap<String, Vec<io::ErrorKind>> = BTreeMap::new();
    for talk in talks {
        if let Err(error) = talk.say() {
            failures.entry(talk.server.clone()).or_default().push(error.kind());
        }
    }
    failures
}

/// How many connections each server has.
pub fn by_server(talks: &[Talk]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for talk in talks {
        *counts.entry(talk.server()).or_default() += 1;
    }
    counts
}
