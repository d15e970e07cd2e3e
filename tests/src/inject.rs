//! Frames of our own making, sent by a node as if its network stack had.

use std::os::fd::{AsFd, OwnedFd};

use crate::node::Node;
use crate::vlan::open_cable;

/// A packet socket on an interface of a node.
#[derive(Debug)]
pub struct Injector {
    socket: OwnedFd,
}

impl Injector {
    /// Opens one.
    #[track_caller]
    pub fn open(node: &Node, interface: &str) -> Self {
        let socket = node.enter(|| open_cable(interface));
        let socket = socket.unwrap_or_else(|error| {
            panic!("failed to open {interface} of {}: {error}", node.name())
        });
        Self { socket }
    }

    /// Sends a frame.
    #[track_caller]
    pub fn send(&self, frame: &[u8]) {
        let sent = nix::unistd::write(self.socket.as_fd(), frame).expect("failed to send a frame");
        assert_eq!(sent, frame.len(), "a frame was cut");
    }
}
