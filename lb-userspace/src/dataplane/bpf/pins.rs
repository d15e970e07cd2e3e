//! The pins of links, and the removal of all pins. Those of maps are the business of
//! `generations`.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::generations::holds_maps;

/// What the name of a link's pin says: `native-7-eth0`. The file system allows no dots in names,
/// interfaces do: see [`escape`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkPin {
    /// Name of the interface.
    pub interface: String,
    /// Its index: another one of the same name is another interface.
    pub ifindex: u32,
    /// Whether the program runs in the driver.
    pub native: bool,
}

impl LinkPin {
    /// Reads a path's last part.
    pub fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let mut parts = name.splitn(3, '-');
        let native = match parts.next()? {
            "native" => true,
            "generic" => false,
            _ => return None,
        };
        let ifindex = parts.next()?.parse().ok()?;
        Some(Self { interface: unescape(parts.next()?), ifindex, native })
    }

    /// Where the link is pinned.
    pub fn path(&self, pin_dir: &Path) -> PathBuf {
        let mode = mode_name(self.native);
        links(pin_dir).join(format!("{mode}-{}-{}", self.ifindex, escape(&self.interface)))
    }
}

/// `eth0.10` as `eth0%2e10`.
fn escape(interface: &str) -> String {
    interface.replace('%', "%25").replace('.', "%2e")
}

fn unescape(text: &str) -> String {
    text.replace("%2e", ".").replace("%25", "%")
}

/// A mode's word in pins and for users.
pub(crate) fn mode_name(native: bool) -> &'static str {
    if native { "native" } else { "generic" }
}

/// The directory of the links.
pub(crate) fn links(pin_dir: &Path) -> PathBuf {
    pin_dir.join("links")
}

/// The links that are pinned.
pub(crate) fn pinned(pin_dir: &Path) -> Result<Vec<LinkPin>> {
    Ok(entries(&links(pin_dir))?.iter().filter_map(|path| LinkPin::of(path)).collect())
}

/// Pins live in a BPF file system only. The directory itself may not be there yet; `setting` is what
/// says where it is.
pub(crate) fn ensure_bpffs(directory: &Path, setting: &str) -> Result<()> {
    let there = directory.ancestors().find(|directory| directory.exists());
    let there = there.unwrap_or(directory);
    let kind = nix::sys::statfs::statfs(there)
        .with_context(|| format!("failed to ask about {}", there.display()))?
        .filesystem_type();
    ensure!(
        kind == nix::sys::statfs::BPF_FS_MAGIC,
        "{} is not in a BPF file system: `mount -t bpf bpf /sys/fs/bpf`, or set {setting}",
        directory.display()
    );
    Ok(())
}

/// Removes the program from all interfaces and all maps, as far as `pin_dir` holds them. Says
/// what was removed, a line each.
pub fn detach(pin_dir: &Path) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for link in entries(&links(pin_dir))? {
        let Some(pin) = LinkPin::of(&link) else { continue };
        fs::remove_file(&link).with_context(|| format!("failed to remove {}", link.display()))?;
        removed.push(format!("program removed from {}", pin.interface));
    }
    for entry in entries(pin_dir)?.into_iter().filter(|entry| holds_maps(entry)) {
        remove_pins(&entry)?;
        removed.push(format!("{} removed", entry.display()));
    }
    remove_empty(&[links(pin_dir), pin_dir.to_owned()])?;
    Ok(removed)
}

/// Removes directories, in this order. What is not ours stays, and so do directories that hold it.
pub(crate) fn remove_empty(directories: &[PathBuf]) -> Result<()> {
    for directory in directories {
        match fs::remove_dir(directory) {
            Ok(()) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty | ErrorKind::ResourceBusy
                ) => {}
            Err(error) => {
                let message = || format!("failed to remove {}", directory.display());
                return Err(error).with_context(message);
            }
        }
    }
    Ok(())
}

/// Removes a directory of pins, and the pins in it, if it is there.
pub(crate) fn remove_pins(directory: &Path) -> Result<()> {
    for pin in entries(directory)? {
        fs::remove_file(&pin).with_context(|| format!("failed to remove {}", pin.display()))?;
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to remove {}", directory.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// What is in a directory; nothing if it is not there.
pub(crate) fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).with_context(|| format!("failed to read {}", directory.display()));
        }
    };
    entries
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()
        .with_context(|| format!("failed to read {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_found_again_by_its_pin() {
        for interface in ["eth0", "eth0.10", "a-b", "br%2e", "en-1.2-3"] {
            let pin = LinkPin { interface: interface.to_owned(), ifindex: 7, native: true };
            let path = pin.path(Path::new("/sys/fs/bpf/lb"));
            assert!(!path.file_name().unwrap().to_str().unwrap().contains('.'), "{path:?}");
            assert_eq!(LinkPin::of(&path), Some(pin));
        }
    }

    #[test]
    fn other_files_are_no_links() {
        for name in ["eth0", "native-x-eth0", "offload-7-eth0", "native-7"] {
            assert_eq!(LinkPin::of(Path::new(name)), None, "{name}");
        }
    }
}
