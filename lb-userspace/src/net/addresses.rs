//! Addresses of the host's interfaces (rtnetlink(7)).

use std::net::IpAddr;

use anyhow::{Context, bail};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};

use super::kernel::{Kernel, collect};

/// A connection for them.
#[derive(Debug)]
pub struct Addresses {
    kernel: Kernel,
}

impl Addresses {
    /// Connects, in the calling thread's network namespace.
    pub fn connect() -> anyhow::Result<Self> {
        Ok(Self { kernel: Kernel::connect()? })
    }

    /// All addresses, with the interfaces that they are on.
    pub async fn list(&self) -> anyhow::Result<Vec<(String, IpAddr)>> {
        let links = self.kernel.links().await?;
        let messages = collect(self.kernel.handle().address().get().execute()).await;
        let messages = messages.context("failed to list addresses")?;
        let named = messages.iter().filter_map(|message| {
            let link = links.iter().find(|link| link.ifindex == message.header.index)?;
            Some((link.name.clone(), address(message)?))
        });
        Ok(named.collect())
    }

    /// The largest packet that an interface takes.
    pub async fn mtu(&self, interface: &str) -> anyhow::Result<u32> {
        match self.kernel.link(interface).await? {
            Some(link) => Ok(link.mtu),
            None => bail!("there is no interface {interface}"),
        }
    }

    /// Puts an address on an interface.
    pub async fn add(&self, interface: &str, address: IpAddr, length: u8) -> anyhow::Result<()> {
        let index = self.index(interface).await?;
        let request = self.kernel.handle().address().add(index, address, length);
        request
            .execute()
            .await
            .with_context(|| format!("failed to put {address}/{length} on {interface}"))
    }

    /// Takes an address off an interface.
    pub async fn remove(&self, interface: &str, address: IpAddr, length: u8) -> anyhow::Result<()> {
        let index = self.index(interface).await?;
        let handle = self.kernel.handle();
        let find = handle.address().get().set_link_index_filter(index);
        let find = find.set_prefix_length_filter(length).set_address_filter(address);
        for message in collect(find.execute()).await.context("failed to list addresses")? {
            let removed = handle.address().del(message).execute().await;
            removed.with_context(|| format!("failed to take {address} off {interface}"))?;
        }
        Ok(())
    }

    async fn index(&self, interface: &str) -> anyhow::Result<u32> {
        match self.kernel.link(interface).await? {
            Some(link) => Ok(link.ifindex),
            None => bail!("there is no interface {interface}"),
        }
    }
}

/// The host's own address: of a point-to-point link there is the other end's too.
fn address(message: &AddressMessage) -> Option<IpAddr> {
    let (mut local, mut either) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => either = Some(*address),
            _ => {}
        }
    }
    local.or(either)
}
