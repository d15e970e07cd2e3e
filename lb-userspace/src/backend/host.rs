//! The host itself: finds what it has, and makes changes. Decides nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::record::{Record, Store};
use super::{Change, Found, Wanted, bits};
use crate::decap;
use crate::net::addresses::Addresses;

/// Where the kernel has its parameters.
const PARAMETERS: &str = "/proc/sys";

/// This host, in the calling thread's network namespace.
#[derive(Debug)]
pub struct Host {
    addresses: Addresses,
    pin_dir: PathBuf,
}

impl Host {
    /// Connects to the kernel; the program is pinned in `pin_dir`.
    pub fn connect(pin_dir: &Path) -> Result<Self> {
        Ok(Self { addresses: Addresses::connect()?, pin_dir: pin_dir.to_owned() })
    }

    /// What the host has; of these kernel parameters, those that there are.
    pub async fn find(&self, sysctls: &[String]) -> Result<Found> {
        let mut found = Found::default();
        for (interface, address) in self.addresses.list().await? {
            if interface == LOOPBACK {
                found.loopback.insert(address);
            } else {
                found.elsewhere.insert(address, interface);
            }
        }
        for name in sysctls {
            if let Some(value) = read(name)? {
                found.sysctls.insert(name.clone(), value);
            }
        }
        found.decap = decap::attached(&self.pin_dir)?.map(|attached| attached.settings());
        Ok(found)
    }

    /// The largest packets that interfaces take.
    pub async fn mtus(&self, wanted: &Wanted) -> Result<BTreeMap<String, u32>> {
        let mut mtus = BTreeMap::new();
        for interface in wanted.decap.iter().flat_map(|decap| &decap.interfaces) {
            mtus.insert(interface.clone(), self.addresses.mtu(interface).await?);
        }
        Ok(mtus)
    }

    async fn make(&self, change: &Change) -> Result<()> {
        let made = match change {
            Change::AddAddress(vip) => self.addresses.add(LOOPBACK, *vip, bits(*vip)).await,
            Change::RemoveAddress(vip) => self.addresses.remove(LOOPBACK, *vip, bits(*vip)).await,
            Change::Sysctl { name, to, .. } => write(name, to),
            Change::Decap { to: Some(to), .. } => decap::attach(&self.pin_dir, to).map(drop),
            Change::Decap { to: None, .. } => decap::remove(&self.pin_dir).map(drop),
        };
        made.with_context(|| format!("failed to make the change `{change}`"))
    }

    /// Makes changes that set the host up. They are recorded before the first is made, and `show` is
    /// called before each.
    pub async fn set_up(
        &self,
        store: &Store,
        changes: &[Change],
        show: &mut impl FnMut(&Change) -> Result<()>,
    ) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut record = store.load()?.unwrap_or_else(|| Record::new(&self.pin_dir));
        ensure!(
            record.pin_dir == self.pin_dir,
            "this host was set up with pins in {}: `lb backend setup --undo` first",
            record.pin_dir.display()
        );
        record.add(changes);
        store.save(&record)?;
        for change in changes {
            show(change)?;
            self.make(change).await?;
        }
        Ok(())
    }

    /// Makes changes that put things back, and forgets the record after the last.
    pub async fn put_back(
        &self,
        store: &Store,
        changes: &[Change],
        show: &mut impl FnMut(&Change) -> Result<()>,
    ) -> Result<()> {
        for change in changes {
            show(change)?;
            self.make(change).await?;
        }
        store.remove()
    }
}

/// The loopback device's name.
const LOOPBACK: &str = "lo";

/// `net.ipv4.conf.eth0/10.rp_filter` as `/proc/sys/net/ipv4/conf/eth0.10/rp_filter`.
fn path(name: &str) -> PathBuf {
    let swapped = name.chars().map(|character| match character {
        '.' => '/',
        '/' => '.',
        other => other,
    });
    Path::new(PARAMETERS).join(swapped.collect::<String>())
}

/// `None` where there is no such parameter: its interface may be gone.
fn read(name: &str) -> Result<Option<String>> {
    match fs::read_to_string(path(name)) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => {
            Err(error).with_context(|| format!("failed to read the kernel parameter {name}"))
        }
    }
}

fn write(name: &str, value: &str) -> Result<()> {
    fs::write(path(name), value).with_context(|| format!("failed to set {name} to {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_may_have_dots_in_its_name() {
        let path = path("net.ipv4.conf.eth0/10.rp_filter");
        assert_eq!(path, Path::new("/proc/sys/net/ipv4/conf/eth0.10/rp_filter"));
    }
}
