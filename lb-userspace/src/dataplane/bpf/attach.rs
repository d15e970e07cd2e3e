//! Attaching programs to interfaces, and the pinned links that outlive the process.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{Xdp, XdpMode};
use tracing::{error, info, warn};

use super::Bpf;
use super::generations;
use super::pins::{self, LinkPin, mode_name};
use crate::config;

/// The program on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Index of the interface.
    pub ifindex: u32,
    /// Whether it runs in the driver.
    pub native: bool,
}

impl Attachment {
    /// `native` or `generic`.
    pub fn mode(&self) -> &'static str {
        mode_name(self.native)
    }
}

impl Bpf {
    /// Where the program is attached, by interface name.
    pub fn attachments(&self) -> &std::collections::BTreeMap<String, Attachment> {
        &self.attachments
    }

    /// Attaches to these interfaces and to no others. If one of them refuses, those that had no
    /// link of ours before are left without one again.
    pub fn attach_to(&mut self, interfaces: &[String], mode: config::XdpMode) -> Result<()> {
        let before = self.link_pins()?;
        for interface in interfaces {
            if let Err(error) = self.attach(interface, mode) {
                let is_new = |pin: &LinkPin| before.iter().all(|b| b.interface != pin.interface);
                if let Err(error) = self.remove_links(is_new) {
                    warn!("failed to detach again: {error:#}");
                }
                return Err(error);
            }
        }
        self.tidy(interfaces)
    }

    /// Attaches to an interface, or replaces the program there if a link of ours is pinned.
    pub fn attach(&mut self, interface: &str, mode: config::XdpMode) -> Result<()> {
        let pin_dir = self.pin_dir.clone();
        let attachment = attach(self.entry()?, &pin_dir, interface, mode)?;
        self.attachments.insert(interface.to_owned(), attachment);
        Ok(())
    }

    /// Removes links to interfaces that are not wanted, and maps that nobody uses any more. To
    /// be called once all wanted interfaces are attached.
    fn tidy(&mut self, wanted: &[String]) -> Result<()> {
        self.remove_links(|pin| !wanted.contains(&pin.interface))?;
        if let Err(error) = self.catch_up() {
            error!("failed to take over what was remembered while the maps were copied: {error:#}");
        }
        for entry in pins::entries(&self.pin_dir)? {
            if generations::holds_maps(&entry) && entry != self.generation {
                pins::remove_pins(&entry)?;
            }
        }
        Ok(())
    }

    fn remove_links(&mut self, unwanted: impl Fn(&LinkPin) -> bool) -> Result<()> {
        for pin in self.link_pins()?.into_iter().filter(unwanted) {
            remove(&pin.path(&self.pin_dir))?;
            info!(interface = pin.interface, "program removed from the interface");
            self.attachments.remove(&pin.interface);
        }
        Ok(())
    }

    fn link_pins(&self) -> Result<Vec<LinkPin>> {
        pins::pinned(&self.pin_dir)
    }

    fn entry(&mut self) -> Result<&mut Xdp> {
        let program =
            self.ebpf.program_mut(self.features.entry()).context("the entry program is gone")?;
        program.try_into().context("the entry program is no XDP program")
    }
}

/// Attaches a program to an interface, or replaces the one there if a link of ours is pinned.
pub(crate) fn attach(
    program: &mut Xdp,
    pin_dir: &Path,
    interface: &str,
    mode: config::XdpMode,
) -> Result<Attachment> {
    let ifindex = nix::net::if_::if_nametoindex(interface)
        .with_context(|| format!("there is no interface {interface}"))?;
    let links = pins::links(pin_dir);
    fs::create_dir_all(&links).with_context(|| format!("failed to create {}", links.display()))?;
    let mut native = None;
    for pin in pins::pinned(pin_dir)?.into_iter().filter(|pin| pin.interface == interface) {
        let wanted = match mode {
            config::XdpMode::Auto => true,
            config::XdpMode::Native => pin.native,
            config::XdpMode::Generic => !pin.native,
        };
        if native.is_none() && wanted && pin.ifindex == ifindex && replace(program, pin_dir, &pin)?
        {
            info!(interface, mode = mode_name(pin.native), "program replaced on the interface");
            native = Some(pin.native);
        } else {
            info!(interface, "the old link is of no use any more: removed");
            remove(&pin.path(pin_dir))?;
        }
    }
    let native = match native {
        Some(native) => native,
        None => attach_anew(program, pin_dir, interface, ifindex, mode)?,
    };
    Ok(Attachment { ifindex, native })
}

/// Whether the pinned link could be given the new program: not if its interface is gone.
fn replace(program: &mut Xdp, pin_dir: &Path, pin: &LinkPin) -> Result<bool> {
    let path = pin.path(pin_dir);
    let link = PinnedLink::from_pin(&path)
        .with_context(|| format!("failed to open {}", path.display()))?;
    let link = XdpLink::try_from(FdLink::from(link))
        .with_context(|| format!("{} is no link of an XDP program", path.display()))?;
    match program.attach_to_link(link) {
        Ok(id) => {
            // The pin keeps the link alive; our own descriptor can go.
            drop(program.take_link(id).context("the link is gone")?);
            Ok(true)
        }
        Err(error) => {
            warn!(interface = pin.interface, %error, "the pinned link cannot be used");
            Ok(false)
        }
    }
}

/// Whether it is attached in native mode.
fn attach_anew(
    program: &mut Xdp,
    pin_dir: &Path,
    interface: &str,
    ifindex: u32,
    mode: config::XdpMode,
) -> Result<bool> {
    let mut attach = |native| {
        let pin = LinkPin { interface: interface.to_owned(), ifindex, native };
        attach_and_pin(program, &pin.path(pin_dir), interface, native)
    };
    let native = || format!("failed to attach to {interface} in native mode");
    match mode {
        config::XdpMode::Generic => {
            attach(false)?;
            Ok(false)
        }
        config::XdpMode::Native => {
            attach(true).with_context(native)?;
            Ok(true)
        }
        config::XdpMode::Auto => match attach(true) {
            Ok(()) => Ok(true),
            Err(error) => {
                warn!(
                    interface,
                    error = format!("{error:#}"),
                    "NATIVE XDP IS NOT POSSIBLE HERE: falling back to generic mode, which is slower"
                );
                attach(false)?;
                Ok(false)
            }
        },
    }
}

fn attach_and_pin(program: &mut Xdp, pin: &Path, interface: &str, native: bool) -> Result<()> {
    let mode = if native { XdpMode::Driver } else { XdpMode::Skb };
    let id = program.attach(interface, mode).map_err(|error| busy(interface, error))?;
    let link = program.take_link(id).context("the link is gone")?;
    let link = FdLink::try_from(link).map_err(|error| {
        anyhow!(error).context("the kernel cannot attach by link, which Linux 5.9 or later can")
    })?;
    link.pin(pin).with_context(|| format!("failed to pin {}", pin.display()))?;
    info!(interface, mode = mode_name(native), "program attached to the interface");
    Ok(())
}

/// Says who may be in the way when an interface has a program already.
fn busy(interface: &str, error: aya::programs::ProgramError) -> anyhow::Error {
    let busy = matches!(
        &error,
        aya::programs::ProgramError::SyscallError(call)
            if call.io_error.raw_os_error() == Some(libc::EBUSY)
    );
    let error = anyhow!(error).context(format!("failed to attach to {interface}"));
    if busy {
        error.context(format!(
            "{interface} has another XDP program (`ip link show dev {interface}` tells which)"
        ))
    } else {
        error
    }
}

fn remove(pin: &Path) -> Result<()> {
    fs::remove_file(pin).with_context(|| format!("failed to remove {}", pin.display()))
}
