//! The dataplane in the kernel: loads the programs, pins maps and links, attaches to interfaces,
//! reads and writes the maps.
//!
//! ```text
//! PIN_DIR/maps-v3-0/CONTROL ...      maps of schema version 3, generation 0
//! PIN_DIR/new-v3-1/CONTROL ...       a generation that is not finished
//! PIN_DIR/links/native-7-eth0        the link of an interface: mode, index, name
//! ```
//!
//! Everything is pinned, so that packets are balanced on while no daemon runs. A new daemon
//! adopts the maps and replaces the programs in the links atomically. Maps that are too small, or
//! of an older schema that can be read, are left for a new generation, which starts as a copy of
//! the old; the old one stays as it is until no link leads to it any more.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, Map, MapData, PerCpuArray, PerCpuValues, ProgramArray};
use aya::programs::Xdp;
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};
use lb_common::maps::{
    Backend, Control, Counter, Interface, Lease, Limits, MAX_SERVICES, RuleKey, SCHEMA_VERSION,
    SERVICE_BUCKETS, SLOTS_PER_LINE, ServerKey, Service, SlotLine, Vip, names,
};
use lb_common::{Address, Program, Verdict, bank};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::warn;

use super::Dataplane;
use super::mapped::Mapped;
use crate::image::{Capacity, Change, Features, Image};
use crate::slots::Slots;

pub(crate) mod attach;
mod generations;
mod open;
pub(crate) mod pins;
mod raw;
mod records;

pub use attach::Attachment;
pub use pins::detach;
pub use records::Records;

/// The programs, compiled for the kernel.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-ebpf"));

/// The programs' constant that says what they have to be able to do.
const FEATURES: &str = "FEATURES";

/// Which word of [`Control`] the epoch is.
const CONTROL_EPOCH: usize = std::mem::offset_of!(Control, epoch) / 8;

/// The kernel's side.
pub struct Bpf {
    ebpf: Ebpf,
    pin_dir: PathBuf,
    generation: PathBuf,
    adopted: bool,
    attachments: BTreeMap<String, Attachment>,
    control: Mapped<Control>,
    services: Mapped<Service>,
    slots: Mapped<SlotLine>,
    backends: Mapped<Backend>,
    leases: Mapped<Lease>,
    vips: HashMap<MapData, Address, Vip>,
    interfaces: HashMap<MapData, u32, Interface>,
    limits: Mapped<Limits>,
    rules: LpmTrie<MapData, RuleKey, u32>,
    servers: HashMap<MapData, ServerKey, u32>,
    open_flows: Mapped<u64>,
    turns: PerCpuArray<MapData, u64>,
    backend_counters: PerCpuArray<MapData, Counter>,
    verdicts: PerCpuArray<MapData, Counter>,
    capacity: Capacity,
    features: Features,
    /// Version of the maps' schema: ours, but for maps that are only read.
    schema: u32,
    /// Records that these maps began as a copy of, while an attached program may still write them.
    copied: Option<Records>,
    /// Kept open: the kernel empties it when its last user goes.
    _programs: ProgramArray<MapData>,
}

impl Bpf {
    fn load(
        pin_dir: &Path,
        generation: PathBuf,
        capacity: Capacity,
        features: Features,
        adopted: bool,
    ) -> Result<Self> {
        fs::create_dir_all(&generation)
            .with_context(|| format!("failed to create {}", generation.display()))?;
        let mut ebpf = open_maps(&generation, capacity, features, &names::PINNED)?;
        let mut programs: ProgramArray<MapData> = take(&mut ebpf, names::PROGRAMS)?;
        for (program, name) in Program::ALL {
            let loaded = load_program(&mut ebpf, name)?;
            programs
                .set(program as u32, loaded.fd().with_context(|| format!("{name} has no fd"))?, 0)
                .with_context(|| format!("failed to put {name} into {}", names::PROGRAMS))?;
        }
        load_program(&mut ebpf, features.entry())?;
        let mut bpf = Self::of(pin_dir, generation, capacity, features, ebpf, programs)?;
        bpf.adopted = adopted;
        if bpf.hash_key()? == [0, 0] {
            bpf.set_hash_key(random_key()?)?;
        }
        Ok(bpf)
    }

    /// To be called when the programs are loaded: they find the maps by descriptors, and some of
    /// those are closed here.
    fn of(
        pin_dir: &Path,
        generation: PathBuf,
        capacity: Capacity,
        features: Features,
        mut ebpf: Ebpf,
        programs: ProgramArray<MapData>,
    ) -> Result<Self> {
        Ok(Self {
            pin_dir: pin_dir.to_owned(),
            generation,
            adopted: false,
            attachments: BTreeMap::new(),
            control: mapped(&mut ebpf, names::CONTROL)?,
            services: mapped(&mut ebpf, names::SERVICES)?,
            slots: mapped(&mut ebpf, names::SLOTS)?,
            backends: mapped(&mut ebpf, names::BACKENDS)?,
            leases: mapped(&mut ebpf, names::LEASES)?,
            vips: take(&mut ebpf, names::VIPS)?,
            interfaces: take(&mut ebpf, names::INTERFACES)?,
            limits: mapped(&mut ebpf, names::LIMITS)?,
            rules: take(&mut ebpf, names::RULES)?,
            servers: take(&mut ebpf, names::SERVER_IDS)?,
            open_flows: mapped(&mut ebpf, names::OPEN_FLOWS)?,
            turns: take(&mut ebpf, names::TURNS)?,
            backend_counters: take(&mut ebpf, names::BACKEND_COUNTERS)?,
            verdicts: take(&mut ebpf, names::VERDICTS)?,
            capacity,
            features,
            schema: SCHEMA_VERSION,
            copied: None,
            _programs: programs,
            ebpf,
        })
    }

    /// The epoch that the last daemon counted to.
    pub fn epoch(&self) -> Result<u64> {
        Ok(self.control.get(0)?.epoch)
    }

    /// What the programs were loaded with.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Whether the maps held somebody's image before.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// The loaded objects, for what is not a daemon's work: how large they are.
    pub fn ebpf(&self) -> &Ebpf {
        &self.ebpf
    }

    /// The same to be changed: test runs.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Takes what the program writes into its log and hands it on to ours. Must run inside a
    /// tokio runtime.
    pub fn forward_log(&mut self) {
        let logger = match aya_log::EbpfLogger::init(&mut self.ebpf) {
            Ok(logger) => logger,
            Err(error) => {
                warn!(%error, "the program's log cannot be read");
                return;
            }
        };
        // SAFETY: the logger owns its ring buffer's descriptor, which stays open as long as it.
        let watched = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
        match watched {
            Ok(mut logger) => {
                tokio::spawn(async move {
                    while let Ok(mut ready) = logger.readable_mut().await {
                        ready.get_inner_mut().flush();
                        ready.clear_ready();
                    }
                });
            }
            Err(error) => warn!(?error, "the program's log cannot be watched"),
        }
    }

    /// Lets each CPU begin its turns at another place, or all would begin with the same backend.
    fn spread_turns(&mut self) -> Result<()> {
        self.set_turns(|cpu| cpu as u64)
    }

    fn set_turns(&mut self, first: impl Fn(usize) -> u64) -> Result<()> {
        let turns: Vec<u64> = (0..cpus()?).map(first).collect();
        for service in 0..MAX_SERVICES {
            let values = PerCpuValues::try_from(turns.clone())
                .context("failed to make a value for each CPU")?;
            self.turns.set(service, values, 0).context("failed to set a service's turn")?;
        }
        Ok(())
    }

    fn hash_key(&self) -> Result<[u64; 2]> {
        Ok(self.control.get(0)?.hash_key)
    }

    fn set_hash_key(&mut self, key: [u64; 2]) -> Result<()> {
        let control = Control { hash_key: key, ..self.control.get(0)? };
        self.control.set(0, &control)
    }

    /// Fills the idle bank and makes it the live one.
    fn set_listeners(&mut self, listeners: &[Service]) -> Result<()> {
        let bank =
            bank::fill(listeners).context("the listeners do not fit into the service table")?;
        let idle = !self.control.get(0)?.services & 1;
        let base = idle as u32 * SERVICE_BUCKETS;
        for bucket in 0..SERVICE_BUCKETS {
            let entry = bank.buckets.get(&bucket).copied().unwrap_or_default();
            self.services.set(base + bucket, &entry)?;
        }
        self.control.word(0, 0)?.store(bank.seed << 1 | idle, Ordering::Release);
        // After this nobody reads what only the old listeners lead to.
        wait_for_readers();
        Ok(())
    }

    /// A line's new backend counts from nought. No packet finds its way to the line yet.
    fn reset_counter(&mut self, line: u32) -> Result<()> {
        let zeros = PerCpuValues::try_from(vec![Counter::default(); cpus()?])
            .context("failed to make a value for each CPU")?;
        self.backend_counters.set(line, zeros, 0).context("failed to reset a counter")?;
        self.open_flows.set(line, &0)
    }

    fn listeners(&self) -> Result<Vec<Service>> {
        let base = (self.control.get(0)?.services & 1) as u32 * SERVICE_BUCKETS;
        let mut listeners = Vec::new();
        for bucket in base..base + SERVICE_BUCKETS {
            let entry = self.services.get(bucket)?;
            if entry.id != 0 {
                listeners.push(entry);
            }
        }
        Ok(listeners)
    }

    /// A listener's slots; those that are known, if they are still the same.
    fn slots_of(&self, entry: &Service, known: &Image) -> Result<Slots> {
        let words = self.slots.half_words(entry.slot_base as usize, entry.slot_count as usize)?;
        let held = || words.iter().map(|word| word.load(Ordering::Relaxed));
        let known = known.slots.get(&entry.slot_base);
        match known.filter(|known| held().eq(known.iter().copied())) {
            Some(known) => Ok(known.clone()),
            None => Ok(held().collect::<Vec<u32>>().into()),
        }
    }

    /// What it holds now. What is as in an image that is known is shared with that.
    pub fn image_like(&self, known: &Image) -> Result<Image> {
        let mut image = Image { hash_key: self.hash_key()?, ..Image::default() };
        for entry in self.listeners()? {
            image.slots.insert(entry.slot_base, self.slots_of(&entry, known)?);
            image.listeners.insert(entry.key(), entry);
        }
        for line in 0..self.backends.len() {
            let backend = self.backends.get(line)?;
            if backend != Backend::default() {
                image.backends.insert(line, backend);
            }
        }
        for service in 0..self.limits.len() {
            let limits = self.limits.get(service)?;
            if limits != Limits::default() {
                image.limits.insert(service, limits);
            }
        }
        for entry in self.rules.iter() {
            let (key, says) = entry.context("failed to read RULES")?;
            image.rules.insert((key.prefix_len(), key.data()), says);
        }
        for entry in self.servers.iter() {
            let (key, number) = entry.context("failed to read SERVER_IDS")?;
            image.servers.insert(key, number);
        }
        for entry in self.vips.iter() {
            let (vip, entry) = entry.context("failed to read VIPS")?;
            image.vips.insert(vip, entry);
        }
        for entry in self.interfaces.iter() {
            let (ifindex, interface) = entry.context("failed to read INTERFACES")?;
            image.interfaces.insert(ifindex, interface);
        }
        Ok(image)
    }

    fn make(&mut self, change: &Change) -> Result<()> {
        match change {
            Change::RemoveVip(vip) => self.vips.remove(vip)?,
            Change::SetInterface(ifindex, interface) => {
                self.interfaces.insert(ifindex, interface, 0)?;
            }
            Change::SetBackend(line, backend) => {
                if self.backends.get(*line)?.address != backend.address {
                    self.reset_counter(*line)?;
                }
                self.backends.set(*line, backend)?;
            }
            Change::SetSlots(base, updates) => {
                for (offset, raw) in updates {
                    let slot = self.slots.half_word((base + offset) as usize)?;
                    slot.store(*raw, Ordering::Release);
                }
            }
            Change::SetRegion(base, slots) => {
                let words = self.slots.half_words(*base as usize, slots.len())?;
                for (word, raw) in words.iter().zip(slots.iter()) {
                    word.store(*raw, Ordering::Release);
                }
            }
            Change::SetListeners(listeners) => self.set_listeners(listeners)?,
            Change::SetRule((length, key), says) => {
                self.rules.insert(&Key::new(*length, *key), says, 0)?;
            }
            Change::RemoveRule((length, key)) => self.rules.remove(&Key::new(*length, *key))?,
            Change::SetLimits(service, limits) => self.limits.set(*service, limits)?,
            Change::ClearLimits(service) => self.limits.set(*service, &Limits::default())?,
            Change::SetServer(key, number) => self.servers.insert(key, number, 0)?,
            Change::RemoveServer(key) => self.servers.remove(key)?,
            Change::SetVip(vip, entry) => self.vips.insert(vip, entry, 0)?,
            Change::ClearBackend(line) => self.backends.set(*line, &Backend::default())?,
            Change::RemoveInterface(ifindex) => self.interfaces.remove(ifindex)?,
        }
        Ok(())
    }
}

impl Dataplane for Bpf {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn image(&self) -> Result<Image> {
        self.image_like(&Image::default())
    }

    fn apply(&mut self, changes: &[Change]) -> Result<()> {
        let mut waited = false;
        for change in changes {
            if matches!(change, Change::ClearBackend(_)) && !waited {
                // Packets that read their slot before it changed still need the line.
                wait_for_readers();
                waited = true;
            }
            self.make(change).with_context(|| format!("failed to write the maps: {change:?}"))?;
        }
        Ok(())
    }

    fn renew(&mut self, lease: u32, deadline: u64) -> Result<()> {
        self.leases.word(lease, 0)?.store(deadline, Ordering::Release);
        Ok(())
    }

    fn set_epoch(&mut self, epoch: u64) -> Result<()> {
        self.control.word(0, CONTROL_EPOCH)?.store(epoch, Ordering::Release);
        Ok(())
    }

    fn open_flows(&self, line: u32) -> Result<u64> {
        Ok(self.open_flows.word(line, 0)?.load(Ordering::Relaxed))
    }

    fn turns(&self, service: u32) -> Result<u64> {
        let turns = self.turns.get(&service, 0).context("failed to read a service's turns")?;
        Ok(turns.iter().fold(0, |sum: u64, turn| sum.wrapping_add(*turn)))
    }

    fn correct_open_flows(&mut self, line: u32, by: i64) -> Result<()> {
        // Two's complement: adding it is adding a number below nought too.
        self.open_flows.word(line, 0)?.fetch_add(by as u64, Ordering::Relaxed);
        Ok(())
    }

    fn backend_counter(&self, line: u32) -> Result<Counter> {
        sum(&self.backend_counters, line)
    }

    fn verdict_counter(&self, verdict: Verdict) -> Result<Counter> {
        verdict.index().map_or(Ok(Counter::default()), |index| sum(&self.verdicts, index))
    }
}

pub(crate) fn sum(counters: &PerCpuArray<MapData, Counter>, index: u32) -> Result<Counter> {
    let values = counters.get(&index, 0).context("failed to read a counter")?;
    Ok(values.iter().fold(Counter::default(), |sum, value| Counter {
        packets: sum.packets.wrapping_add(value.packets),
        bytes: sum.bytes.wrapping_add(value.bytes),
    }))
}

/// Opens or makes the maps. Those that are named are, or become, pinned in the directory.
fn open_maps(
    generation: &Path,
    capacity: Capacity,
    features: Features,
    pinned: &[&'static str],
) -> Result<Ebpf> {
    let features = features.bits();
    let mut loader = EbpfLoader::new();
    loader
        .override_global(FEATURES, &features, true)
        .map_max_entries(names::SLOTS, capacity.slots / SLOTS_PER_LINE)
        .map_max_entries(names::BACKENDS, capacity.backends)
        .map_max_entries(names::BACKEND_COUNTERS, capacity.backends)
        .map_max_entries(names::OPEN_FLOWS, capacity.backends)
        .map_max_entries(names::SOURCES, capacity.sources)
        .map_max_entries(names::PINS_CURRENT, capacity.pins)
        .map_max_entries(names::PINS_BASE, capacity.pins)
        .map_max_entries(names::HALF_OPEN, capacity.half_open);
    for name in pinned {
        loader.map_pin_path(name, generation.join(name));
    }
    loader.load(OBJECT).context("failed to load the BPF object")
}

/// CPUs that this host may have: what maps with a value for each go by.
pub fn cpus() -> Result<usize> {
    nr_cpus().map_err(|(path, error)| {
        anyhow::Error::new(error).context(format!("failed to count the CPUs by {path}"))
    })
}

pub(crate) fn load_program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("the object has no {name}"))?;
    let program: &mut Xdp =
        program.try_into().with_context(|| format!("{name} is no XDP program"))?;
    program.load().with_context(|| format!("the kernel refused the program {name}"))?;
    Ok(program)
}

pub(crate) fn take<M: TryFrom<Map>>(ebpf: &mut Ebpf, name: &str) -> Result<M>
where
    M::Error: std::error::Error + Send + Sync + 'static,
{
    let map = ebpf.take_map(name).with_context(|| format!("the object has no map {name}"))?;
    M::try_from(map).with_context(|| format!("the map {name} is of another kind"))
}

fn mapped<T: aya::Pod>(ebpf: &mut Ebpf, name: &str) -> Result<Mapped<T>> {
    let map = ebpf.take_map(name).with_context(|| format!("the object has no map {name}"))?;
    let Map::Array(data) = map else { bail!("the map {name} is no array") };
    let info = data.info().with_context(|| format!("failed to ask about the map {name}"))?;
    ensure!(
        info.value_size() as usize == size_of::<T>(),
        "the map {name} has values of {} bytes instead of {}",
        info.value_size(),
        size_of::<T>()
    );
    Mapped::new(data.fd(), info.max_entries()).with_context(|| format!("failed to map {name}"))
}

/// Waits until every packet that was being judged at the call is done: the program runs in a
/// read-side critical section of RCU, and this system call waits for all of them (membarrier(2),
/// `MEMBARRIER_CMD_GLOBAL`).
fn wait_for_readers() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: takes no pointers and touches none of our memory.
    let failed = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if failed != 0 {
        // Not there with nohz_full CPUs. A packet takes microseconds.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn random_key() -> Result<[u64; 2]> {
    let mut bytes = [0; 16];
    let mut urandom = fs::File::open("/dev/urandom").context("failed to open /dev/urandom")?;
    std::io::Read::read_exact(&mut urandom, &mut bytes).context("failed to read /dev/urandom")?;
    let word = u128::from_le_bytes(bytes);
    Ok([word as u64, (word >> 64) as u64])
}
