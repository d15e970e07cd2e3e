//! Netlink's sockets (netlink(7), rtnetlink(7)): one for questions to the kernel, one for what it
//! tells by itself.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroI32;
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::{Stream, StreamExt};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rtnetlink::{MulticastGroup, RouteMessageBuilder};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::asker::Question;
use super::decode::{self, Change};
use super::table::{Neighbour, Route};
use crate::state::Link;

/// How long the kernel may take for an answer, which it owes at once: a lost one (an answer
/// that could not be decoded) must not stop everything.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest name of an interface (`IFNAMSIZ` less the final zero).
const MAX_NAME: usize = 15;

/// A connection for questions.
#[derive(Debug)]
pub(super) struct Kernel {
    handle: rtnetlink::Handle,
    connection: AbortHandle,
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Kernel {
    /// Connects, in the calling thread's network namespace.
    pub(super) fn connect() -> anyhow::Result<Self> {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("failed to open a netlink socket")?;
        let connection = tokio::spawn(connection).abort_handle();
        Ok(Self { handle, connection })
    }

    pub(super) const fn handle(&self) -> &rtnetlink::Handle {
        &self.handle
    }

    pub(super) async fn links(&self) -> anyhow::Result<Vec<Link>> {
        let messages = collect(self.handle.link().get().execute()).await;
        let messages = messages.context("failed to list network interfaces")?;
        Ok(messages.iter().filter_map(decode::link).collect())
    }

    pub(super) async fn link(&self, name: &str) -> anyhow::Result<Option<Link>> {
        if name.is_empty() || name.len() > MAX_NAME {
            return Ok(None);
        }
        let request = self.handle.link().get().match_name(name).execute();
        match collect(request).await {
            Ok(messages) => Ok(messages.iter().find_map(decode::link)),
            Err(error) if code_of(&error) == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("failed to look up interface {name}")),
        }
    }

    pub(super) async fn neighbours(&self) -> anyhow::Result<Vec<(u32, IpAddr, Neighbour)>> {
        let messages = collect(self.handle.neighbours().get().execute()).await;
        let messages = messages.context("failed to list neighbours")?;
        Ok(messages.iter().filter_map(decode::neighbour).collect())
    }

    /// The route that the kernel would take to an address.
    pub(super) async fn route(&self, address: IpAddr) -> anyhow::Result<Route> {
        let message = match address {
            IpAddr::V4(v4) => {
                RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(v4, 32).build()
            }
            IpAddr::V6(v6) => {
                RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(v6, 128).build()
            }
        };
        match collect(self.handle.route().get(message).execute()).await {
            Ok(messages) => Ok(messages.first().map_or(Route::Missing, decode::route)),
            Err(error) => match code_of(&error) {
                Some(code) => Ok(decode::refusal(code)),
                None => {
                    Err(error).with_context(|| format!("failed to ask for the route to {address}"))
                }
            },
        }
    }

    /// Makes the kernel ask a neighbour. It answers when it has begun; the neighbour's answer
    /// comes as a change of the neighbour's entry.
    pub(super) async fn ask(&mut self, question: Question) -> anyhow::Result<()> {
        let mut message = NeighbourMessage::default();
        let (ifindex, address, flags) = match question {
            // What `ip neigh replace ... use` does: as if a packet were to be sent.
            Question::Resolve { ifindex, address } => {
                message.header.flags = NeighbourFlags::Use;
                (ifindex, address, NLM_F_CREATE)
            }
            // What `ip neigh change ... nud probe` does: a question by unicast, now. The entry
            // stays valid meanwhile. Only one that exists and is valid can be changed like this.
            Question::Verify { ifindex, address } => {
                message.header.state = NeighbourState::Probe;
                (ifindex, address, 0)
            }
        };
        message.header.ifindex = ifindex;
        message.header.family = match address {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        message.attributes.push(NeighbourAttribute::Destination(address.into()));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let answers = self.handle.request(request)?.map(|answer| match answer.payload {
            NetlinkPayload::Error(error) => Err(rtnetlink::Error::NetlinkError(error)),
            _ => Ok(()),
        });
        collect(answers)
            .await
            .with_context(|| format!("failed to make the kernel ask {address}"))?;
        Ok(())
    }
}

pub(super) async fn collect<T>(
    answers: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> anyhow::Result<Vec<T>> {
    let mut answers = std::pin::pin!(answers);
    let mut all = Vec::new();
    while let Some(answer) = timeout(PATIENCE, answers.next())
        .await
        .with_context(|| format!("the kernel gave no answer in {PATIENCE:?}"))?
    {
        all.push(answer?);
    }
    Ok(all)
}

/// The `errno` of an answer, positive.
pub(super) fn code_of(error: &anyhow::Error) -> Option<i32> {
    match error.downcast_ref::<rtnetlink::Error>()? {
        rtnetlink::Error::NetlinkError(error) => {
            error.code.map(NonZeroI32::get).map(i32::wrapping_abs)
        }
        _ => None,
    }
}

/// What a subscription hears.
#[derive(Debug)]
pub(super) enum Heard {
    Changes(Vec<Change>),
    /// The kernel had more to tell than the socket could hold: some changes are lost.
    Overrun,
}

/// A connection for changes.
pub(super) struct Subscription(TokioSocket);

impl Subscription {
    /// Subscribes, in the calling thread's network namespace.
    pub(super) fn open() -> anyhow::Result<Self> {
        const GROUPS: [MulticastGroup; 6] = [
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv6Route,
        ];
        let groups = GROUPS.iter().fold(0, |groups, &group| groups | 1 << (group as u32 - 1));
        let mut socket =
            TokioSocket::new(NETLINK_ROUTE).context("failed to open a netlink socket")?;
        // The kernel takes as much of it as net.core.rmem_max allows.
        socket
            .socket_mut()
            .set_rx_buf_sz(1 << 20)
            .context("failed to size the netlink socket's buffer")?;
        socket
            .socket_mut()
            .bind(&SocketAddr::new(0, groups))
            .context("failed to subscribe to network changes")?;
        Ok(Self(socket))
    }

    /// The next datagram. Dropping the wait loses nothing.
    pub(super) async fn next(&self) -> anyhow::Result<Heard> {
        match self.0.recv_from_full().await {
            // Port 0 is the kernel (netlink(7)); other processes may send to us as well.
            Ok((datagram, from)) if from.port_number() == 0 => {
                Ok(Heard::Changes(decode::changes(&datagram)))
            }
            Ok(_) => Ok(Heard::Changes(Vec::new())),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(Heard::Overrun),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                Ok(Heard::Changes(Vec::new()))
            }
            Err(error) => bail!("failed to read network changes: {error}"),
        }
    }
}
