//! The backends' own program, which takes clients' packets out of tunnels: loads it, attaches it,
//! and tells what it has done.
//!
//! ```text
//! PIN_DIR/v1/ALLOWED           prefixes that tunnels may come from
//! PIN_DIR/v1/OUTCOMES          counters
//! PIN_DIR/links/native-7-eth0  the link of an interface
//! ```
//!
//! Nothing runs for it: program, maps and links are pinned. Attaching again makes a new list of
//! prefixes and puts the program that uses it into each link in one step; the counters go on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Map, MapData, PerCpuArray};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use lb_common::Address;
use lb_common::decap::{MAPPED_BITS, Outcome, PROGRAM};
use lb_common::maps::Counter;
use lb_common::maps::decap::{ALLOW, ALLOWED, MAX_PREFIXES, OUTCOMES, REFUSE, SCHEMA_VERSION};
use serde::{Deserialize, Serialize};

use crate::config::XdpMode;
use crate::dataplane::bpf::attach::{self, Attachment};
use crate::dataplane::bpf::pins::{self, LinkPin};
use crate::dataplane::bpf::{load_program, sum, take};
use crate::prefix::Prefix;

/// The program, compiled for the kernel.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-decap"));

/// Where it is attached, and what it takes off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Interfaces that tunnels come in by.
    pub interfaces: BTreeSet<String>,
    /// Where tunnels may come from.
    pub from: BTreeSet<Prefix>,
    /// Where in the network stack the program runs. Of one that is attached: automatic where its
    /// interfaces differ.
    pub mode: XdpMode,
}

impl Settings {
    /// Whether a program that is attached like `found` is attached as these say.
    pub fn are_met_by(&self, found: &Self) -> bool {
        self.interfaces == found.interfaces
            && self.from == found.from
            && (self.mode == XdpMode::Auto || self.mode == found.mode)
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let interfaces: Vec<_> = self.interfaces.iter().map(String::as_str).collect();
        let from: Vec<_> = self.from.iter().map(Prefix::to_string).collect();
        write!(f, "on {} from {}", interfaces.join(", "), from.join(", "))
    }
}

/// What is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Interfaces, and whether the program runs in the driver.
    pub interfaces: BTreeMap<String, bool>,
    /// Where tunnels may come from.
    pub from: BTreeSet<Prefix>,
    /// What became of frames, and of how many.
    pub outcomes: Vec<(Outcome, Counter)>,
}

impl Attached {
    /// How it must have been asked for.
    pub fn settings(&self) -> Settings {
        let native = |wanted| self.interfaces.values().all(|native| *native == wanted);
        let mode = match (native(true), native(false)) {
            (true, false) => XdpMode::Native,
            (false, true) => XdpMode::Generic,
            _ => XdpMode::Auto,
        };
        let interfaces = self.interfaces.keys().cloned().collect();
        Settings { interfaces, from: self.from.clone(), mode }
    }
}

/// The loaded program.
pub struct Program {
    ebpf: Ebpf,
    allowed: LpmTrie<MapData, Address, u32>,
    outcomes: PerCpuArray<MapData, Counter>,
}

impl Program {
    /// Loads it with a list of its own, and the counters that are pinned, or that it pins.
    pub fn load(pin_dir: &Path, from: &BTreeSet<Prefix>) -> Result<Self> {
        ensure!(
            !OBJECT.is_empty(),
            "this binary was built without its BPF programs: build it with `cargo xtask build`"
        );
        ensure!(
            from.len() <= MAX_PREFIXES as usize,
            "{} prefixes are more than the {MAX_PREFIXES} that there may be",
            from.len()
        );
        pins::ensure_bpffs(pin_dir, "--pin-dir")?;
        let maps = maps(pin_dir);
        fs::create_dir_all(&maps).with_context(|| format!("failed to make {}", maps.display()))?;
        let mut ebpf = EbpfLoader::new()
            .map_pin_path(OUTCOMES, maps.join(OUTCOMES))
            .load(OBJECT)
            .context("failed to load the BPF object")?;
        load_program(&mut ebpf, PROGRAM)?;
        let mut allowed: LpmTrie<_, Address, u32> = take(&mut ebpf, ALLOWED)?;
        // IPv4 is never in a prefix of IPv6, however short. 0.0.0.0/0 goes over it.
        let mapped = (MAPPED_BITS, Address::from_v4([0; 4]));
        let refused = std::iter::once((mapped, REFUSE));
        for ((length, address), says) in refused.chain(from.iter().map(|p| (key(p), ALLOW))) {
            allowed
                .insert(&Key::new(length, address), says, 0)
                .context("failed to write the list of prefixes")?;
        }
        let outcomes = take(&mut ebpf, OUTCOMES)?;
        Ok(Self { ebpf, allowed, outcomes })
    }

    /// The program itself.
    pub fn xdp(&mut self) -> Result<&mut Xdp> {
        let program = self.ebpf.program_mut(PROGRAM).context("the program is gone")?;
        program.try_into().context("the program is no XDP program")
    }

    /// What became of frames.
    pub fn outcomes(&self) -> Result<Vec<(Outcome, Counter)>> {
        outcomes(&self.outcomes)
    }
}

/// Attaches the program to these interfaces and to no others, with this list and no other. If an
/// interface refuses, those that have it already keep what they had.
pub fn attach(pin_dir: &Path, settings: &Settings) -> Result<BTreeMap<String, Attachment>> {
    let mut program = Program::load(pin_dir, &settings.from)?;
    let before = pins::pinned(pin_dir)?;
    let had = |interface: &str| before.iter().any(|pin| pin.interface == interface);
    let mut attached = BTreeMap::new();
    // New ones first: they are what may fail.
    let (old, new): (Vec<_>, Vec<_>) = settings.interfaces.iter().partition(|name| had(name));
    for interface in new.into_iter().chain(old) {
        match attach::attach(program.xdp()?, pin_dir, interface, settings.mode) {
            Ok(attachment) => attached.insert(interface.clone(), attachment),
            Err(error) => {
                remove_links(pin_dir, |pin| !had(&pin.interface))?;
                if before.is_empty() {
                    remove(pin_dir)?;
                }
                return Err(error);
            }
        };
    }
    remove_links(pin_dir, |pin| !settings.interfaces.contains(&pin.interface))?;
    // The list of the program that is attached takes its predecessor's name in one step.
    let (fresh, name) = (maps(pin_dir).join("new"), maps(pin_dir).join(ALLOWED));
    remove_file(&fresh)?;
    program.allowed.pin(&fresh).with_context(|| format!("failed to pin {}", fresh.display()))?;
    fs::rename(&fresh, &name).with_context(|| format!("failed to name {}", name.display()))?;
    for other in others(pin_dir)? {
        pins::remove_pins(&other)?;
    }
    Ok(attached)
}

/// What is attached, if anything is.
pub fn attached(pin_dir: &Path) -> Result<Option<Attached>> {
    let links = pins::pinned(pin_dir)?;
    if links.is_empty() {
        return Ok(None);
    }
    // An interface that is gone, or is another one of the same name, has no program.
    let alive = |pin: &LinkPin| {
        nix::net::if_::if_nametoindex(pin.interface.as_str()).is_ok_and(|now| now == pin.ifindex)
    };
    let interfaces = links.into_iter().filter(alive).map(|pin| (pin.interface, pin.native));
    let allowed: LpmTrie<_, Address, u32> = open(&maps(pin_dir).join(ALLOWED))?;
    let mut from = BTreeSet::new();
    for entry in allowed.iter() {
        let (key, says) = entry.context("failed to read the list of prefixes")?;
        if says == ALLOW {
            from.insert(prefix(key.prefix_len(), key.data())?);
        }
    }
    let counters: PerCpuArray<_, Counter> = open(&maps(pin_dir).join(OUTCOMES))?;
    let interfaces = interfaces.collect();
    Ok(Some(Attached { interfaces, from, outcomes: outcomes(&counters)? }))
}

/// Removes the program from all interfaces, and its maps. Says what was removed, a line each.
pub fn remove(pin_dir: &Path) -> Result<Vec<String>> {
    let links = remove_links(pin_dir, |_| true)?;
    let mut removed: Vec<_> =
        links.into_iter().map(|interface| format!("program removed from {interface}")).collect();
    let maps = maps(pin_dir);
    for directory in others(pin_dir)?.into_iter().chain(maps.exists().then_some(maps)) {
        pins::remove_pins(&directory)?;
        removed.push(format!("{} removed", directory.display()));
    }
    pins::remove_empty(&[pins::links(pin_dir), pin_dir.to_owned()])?;
    Ok(removed)
}

fn remove_links(pin_dir: &Path, unwanted: impl Fn(&LinkPin) -> bool) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for pin in pins::pinned(pin_dir)?.into_iter().filter(unwanted) {
        remove_file(&pin.path(pin_dir))?;
        removed.push(pin.interface);
    }
    Ok(removed)
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Where our maps are pinned.
fn maps(pin_dir: &Path) -> PathBuf {
    pin_dir.join(format!("v{SCHEMA_VERSION}"))
}

/// Where other versions have pinned theirs.
fn others(pin_dir: &Path) -> Result<Vec<PathBuf>> {
    let is_version = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_prefix('v'));
        number.is_some_and(|number| number.parse::<u32>().is_ok_and(|n| n != SCHEMA_VERSION))
    };
    Ok(pins::entries(pin_dir)?.into_iter().filter(is_version).collect())
}

fn open<M: TryFrom<Map>>(path: &Path) -> Result<M>
where
    M::Error: std::error::Error + Send + Sync + 'static,
{
    let data = MapData::from_pin(path);
    let map = data.and_then(Map::from_map_data);
    let map = map.with_context(|| format!("failed to open {}", path.display()))?;
    M::try_from(map).with_context(|| format!("{} is a map of another kind", path.display()))
}

fn outcomes(counters: &PerCpuArray<MapData, Counter>) -> Result<Vec<(Outcome, Counter)>> {
    let indexed = Outcome::COUNTED.iter().filter_map(|outcome| Some((*outcome, outcome.index()?)));
    indexed.map(|(outcome, index)| Ok((outcome, sum(counters, index)?))).collect()
}

/// A prefix as the trie has it: IPv4 as IPv4-mapped, behind 96 bits that are all the same.
fn key(prefix: &Prefix) -> (u32, Address) {
    let mapped = if prefix.address().is_ipv4() { MAPPED_BITS } else { 0 };
    (mapped + u32::from(prefix.length()), Address::from(prefix.address()))
}

/// And back.
fn prefix(length: u32, address: Address) -> Result<Prefix> {
    let length = match address.v4_octets() {
        Some(_) => length.wrapping_sub(MAPPED_BITS),
        None => length,
    };
    let text = format!("{}/{length}", IpAddr::from(address));
    text.parse().map_err(anyhow::Error::msg).context("the list of prefixes cannot be read")
}

/// Parses a prefix that tunnels may come from.
///
/// # Errors
/// What is wrong with it.
pub fn parse_source(text: &str) -> Result<Prefix, String> {
    let prefix: Prefix = text.parse()?;
    match prefix.address() {
        IpAddr::V6(v6) if Address::from_v6(v6.octets()).v4_octets().is_some() => {
            Err(format!("`{text}` is IPv4 written as IPv6: write it as IPv4"))
        }
        _ => Ok(prefix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_read_from_the_trie_as_it_was_written() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.1/32", "::/0", "2001:db8::/32"] {
            let written: Prefix = text.parse().unwrap();
            let (length, address) = key(&written);
            assert_eq!(prefix(length, address).unwrap(), written, "{text}");
        }
        assert_eq!(key(&"10.0.0.0/8".parse().unwrap()).0, 104);
    }

    #[test]
    fn ipv4_written_as_ipv6_is_no_source() {
        let error = parse_source("::ffff:10.0.0.0/104").unwrap_err();
        assert!(error.contains("write it as IPv4"), "{error}");
        assert!(parse_source("::/0").is_ok() && parse_source("10.0.0.0/8").is_ok());
        assert!(parse_source("10.0.0.1/8").is_err());
    }

    #[test]
    fn settings_are_met_by_the_same_in_any_mode_unless_they_name_one() {
        let settings = |mode| Settings {
            interfaces: ["eth0".to_owned()].into(),
            from: ["10.0.0.0/8".parse().unwrap()].into(),
            mode,
        };
        let found = settings(XdpMode::Generic);
        assert!(settings(XdpMode::Auto).are_met_by(&found));
        assert!(settings(XdpMode::Generic).are_met_by(&found));
        assert!(!settings(XdpMode::Native).are_met_by(&found));
        let more = Settings { from: BTreeSet::new(), ..settings(XdpMode::Auto) };
        assert!(!more.are_met_by(&found));
    }
}
