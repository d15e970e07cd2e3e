//! The smallest servers: they answer with the name of the node that they run in.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::node::Node;

/// How often a server looks whether it is to end.
const LOOK: Duration = Duration::from_millis(20);
/// How long a client may take to go.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a client may leave what it is sent.
const STALL: Duration = Duration::from_secs(5);

/// A server. Ends when it is dropped.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    worker: Option<JoinHandle<()>>,
}

impl Echo {
    /// Answers every datagram to the address. It must be that of the virtual address itself:
    /// answers come from where a socket is bound to.
    #[track_caller]
    pub fn udp(node: &Node, address: SocketAddr) -> Self {
        let socket = node.enter(|| UdpSocket::bind(address)).expect("failed to bind for UDP");
        socket.set_read_timeout(Some(LOOK)).expect("failed to limit waiting");
        let name = node.name().to_owned();
        Self::run(move || {
            if let Ok((_, from)) = socket.recv_from(&mut [0; 64]) {
                // A datagram may get lost.
                let _ = socket.send_to(name.as_bytes(), from);
            }
        })
    }

    /// Sends every datagram back whole, behind its node's name and a blank. The address as for
    /// [`udp`](Self::udp).
    #[track_caller]
    pub fn back(node: &Node, address: SocketAddr) -> Self {
        let socket = node.enter(|| UdpSocket::bind(address)).expect("failed to bind for UDP");
        socket.set_read_timeout(Some(LOOK)).expect("failed to limit waiting");
        let name = format!("{} ", node.name());
        Self::run(move || {
            let mut datagram = vec![0; 65_535];
            if let Ok((length, from)) = socket.recv_from(&mut datagram) {
                // A datagram may get lost.
                let _ = socket.send_to(&[name.as_bytes(), &datagram[..length]].concat(), from);
            }
        })
    }

    /// Sends so many bytes, which [`numbered`] tells, to everybody who connects to the address, behind
    /// a line with its node's name, and closes the connection.
    #[track_caller]
    pub fn download(node: &Node, address: SocketAddr, bytes: usize) -> Self {
        let listener = node.enter(|| TcpListener::bind(address)).expect("failed to bind for TCP");
        listener.set_nonblocking(true).expect("failed to limit waiting");
        let content = [format!("{}\n", node.name()).into_bytes(), numbered(bytes)].concat();
        Self::run(move || match listener.accept() {
            Ok((mut stream, _)) => {
                stream.set_write_timeout(Some(STALL)).expect("failed to limit waiting");
                // The client finds out what is missing.
                let _ = stream.write_all(&content);
            }
            Err(_) => thread::sleep(LOOK),
        })
    }

    /// Downloads what [`download`](Self::download) sends, compares every byte, and tells the server.
    #[track_caller]
    pub fn fetch(node: &Node, from: SocketAddr, bytes: usize) -> String {
        node.enter(|| {
            let stream = TcpStream::connect_timeout(&from, STALL).expect("failed to connect");
            stream.set_read_timeout(Some(STALL)).expect("failed to limit waiting");
            let mut stream = BufReader::new(stream);
            let (mut server, mut content) = (String::new(), Vec::new());
            stream.read_line(&mut server).expect("no server told its name");
            let end = stream.read_to_end(&mut content);
            assert!(end.is_ok(), "{from} sent {} bytes of {bytes}: {end:?}", content.len());
            assert!(content == numbered(bytes), "{from} sent something else");
            server.trim_end().to_owned()
        })
    }

    /// Tells its name to everybody who connects to the address, one after the other, and waits for
    /// them to go.
    #[track_caller]
    pub fn tcp(node: &Node, address: SocketAddr) -> Self {
        let listener = node.enter(|| TcpListener::bind(address)).expect("failed to bind for TCP");
        let look = TimeVal::milliseconds(LOOK.as_millis() as i64);
        setsockopt(&listener, sockopt::ReceiveTimeout, &look).expect("failed to limit waiting");
        let name = node.name().to_owned();
        Self::run(move || {
            let Ok((mut stream, _)) = listener.accept() else { return };
            // Clients may go as they like.
            let _ = stream
                .set_read_timeout(Some(PATIENCE))
                .and_then(|()| stream.write_all(name.as_bytes()))
                .and_then(|()| stream.read(&mut [0; 64]));
        })
    }

    /// Answers every connection to the address as a web server would, and closes it.
    #[track_caller]
    pub fn http(node: &Node, address: SocketAddr) -> Self {
        let listener = node.enter(|| TcpListener::bind(address)).expect("failed to bind for TCP");
        listener.set_nonblocking(true).expect("failed to limit waiting");
        let name = node.name().to_owned();
        Self::run(move || match listener.accept() {
            Ok((mut stream, _)) => {
                let answer = format!("HTTP/1.1 200 OK\r\nX-Server: {name}\r\n\r\n");
                // Read before closing, or what is unread resets the connection.
                let read = stream.read(&mut [0; 1024]);
                if read.is_ok() {
                    let _ = stream.write_all(answer.as_bytes());
                }
            }
            Err(_) => thread::sleep(LOOK),
        })
    }

    fn run(step: impl Fn() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let worker = thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                step();
            }
        });
        Self { stop, worker: Some(worker) }
    }
}

/// Bytes of which no part looks like another.
pub fn numbered(bytes: usize) -> Vec<u8> {
    let words = (0..bytes as u64 / 8 + 1).flat_map(|word| word.wrapping_mul(ODD).to_be_bytes());
    words.take(bytes).collect()
}

/// Spreads numbers over all bits.
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(Err(_)) = self.worker.take().map(JoinHandle::join) {
            eprintln!("the thread of a small server panicked");
        }
    }
}
