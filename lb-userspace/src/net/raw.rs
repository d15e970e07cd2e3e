//! Sends IP packets whose headers are written here, from addresses that need not be the host's.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

/// How long the kernel may take to take a packet.
const PATIENCE: Duration = Duration::from_millis(200);
/// The protocol of sockets that send any protocol, and receive nothing (`IPPROTO_RAW`, raw(7)).
const ANY: i32 = 255;

/// A raw socket for each address family, or why there is none.
#[derive(Debug)]
pub struct Raw {
    v4: Result<Socket>,
    v6: Result<Socket>,
}

impl Raw {
    /// Opens the sockets, which needs `CAP_NET_RAW`.
    pub fn open() -> Self {
        Self {
            v4: open(Domain::IPV4).context("failed to open a raw socket for IPv4"),
            v6: open(Domain::IPV6).context("failed to open a raw socket for IPv6"),
        }
    }

    /// As if there were no `CAP_NET_RAW`.
    #[cfg(test)]
    pub(crate) fn denied() -> Self {
        let denied = || Err(anyhow::anyhow!("failed to open a raw socket: not permitted"));
        Self { v4: denied(), v6: denied() }
    }

    /// Why nothing can be sent to addresses of this one's family.
    pub fn trouble(&self, to: IpAddr) -> Option<&anyhow::Error> {
        self.socket(to).as_ref().err()
    }

    /// Sends a whole packet by the kernel's route to an address.
    pub fn send(&self, packet: &[u8], to: IpAddr) -> io::Result<()> {
        let socket = self.socket(to).as_ref();
        let socket = socket.map_err(|error| io::Error::other(format!("{error:#}")))?;
        // The port has no meaning here; for IPv6 it must not have another one.
        let address = SocketAddr::new(to, 0).into();
        socket.send_to(packet, &address).map(drop)
    }

    fn socket(&self, to: IpAddr) -> &Result<Socket> {
        if to.is_ipv4() { &self.v4 } else { &self.v6 }
    }
}

fn open(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(ANY)))?;
    if domain == Domain::IPV4 {
        socket.set_header_included_v4(true)?;
    } else {
        socket.set_header_included_v6(true)?;
    }
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}
