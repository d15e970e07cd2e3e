//! The start: adopts the maps that are there, makes new ones, or copies old ones into new ones.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lb_common::maps::{SCHEMA_VERSION, names};
use tracing::{info, warn};

use super::generations::{self, Choice, Generation};
use super::records::Existing;
use super::{Bpf, OBJECT, open_maps, pins, take};
use crate::dataplane::Dataplane;
use crate::image::{Capacity, Features};

impl Bpf {
    /// Loads the programs. Pinned maps are adopted if they are large enough, else copied into
    /// larger ones; those of an older schema are copied too. Maps that cannot be read are an
    /// error, and stay. Nothing is attached yet.
    pub fn open(pin_dir: &Path, wanted: Capacity, features: Features) -> Result<Self> {
        ensure!(
            !OBJECT.is_empty(),
            "this binary was built without its BPF programs: build it with `cargo xtask build`"
        );
        pins::ensure_bpffs(pin_dir, "dataplane.pin-dir")?;
        fs::create_dir_all(pin_dir)
            .with_context(|| format!("failed to create {}", pin_dir.display()))?;
        let found = generations::find(pin_dir)?;
        let next = generations::next(&found);
        let old = match generations::choose(&found) {
            Choice::Begin => return Self::create(pin_dir, next, wanted, features, None),
            Choice::Adopt(ours) => {
                let directory = ours.path(pin_dir);
                let held = generations::held_capacity(&directory)?;
                if held.holds(&wanted) {
                    info!(maps = %directory.display(), "adopting the maps");
                    generations::check_layout(OBJECT, &directory, &names::PINNED)?;
                    return Self::load(pin_dir, directory, held, features, true);
                }
                info!(?held, ?wanted, "the maps are too small: copying them into larger ones");
                ours
            }
            Choice::Copy(older) => {
                let maps = older.path(pin_dir);
                info!(maps = %maps.display(), "the maps have an older schema: copying them");
                older
            }
            Choice::Refuse(other) => return Err(generations::refusal(other, pin_dir)),
        };
        let made = Self::open_old(pin_dir, old).and_then(|old| {
            Self::create(pin_dir, next, old.capacity.or(&wanted), features, Some(&old))
        });
        made.with_context(|| format!("failed to copy {}", old.path(pin_dir).display()))
    }

    /// Makes a generation of maps, as a copy of an older one if there is one. It gets its name
    /// once it is whole: what a start leaves that did not finish is no generation.
    fn create(
        pin_dir: &Path,
        generation: Generation,
        capacity: Capacity,
        features: Features,
        old: Option<&Self>,
    ) -> Result<Self> {
        let unfinished = generation.unfinished_path(pin_dir);
        pins::remove_pins(&unfinished)?;
        let whole = generation.path(pin_dir);
        let make = || {
            let shared = old.map_or(Vec::new(), |old| shared(old, &capacity));
            if let Some(old) = old {
                generations::share(&shared, &old.generation, &unfinished)?;
            }
            let mut new = Self::load(pin_dir, unfinished.clone(), capacity, features, false)?;
            if !shared.contains(&names::TURNS) {
                new.spread_turns()?;
            }
            if let Some(old) = old {
                new.copy_from(old, &shared)?;
                new.adopted = true;
            }
            fs::rename(&unfinished, &whole)
                .with_context(|| format!("failed to name {}", whole.display()))?;
            new.generation = whole;
            Ok(new)
        };
        let made = make();
        if made.is_err()
            && let Err(error) = pins::remove_pins(&unfinished)
        {
            warn!("{error:#}");
        }
        made
    }

    /// Opens the maps of a generation to be read. Nothing about them is changed, nor is anything
    /// pinned: maps that their schema did not have are empty ones, which are gone with us, and so
    /// is the map of programs, which those that are attached use.
    fn open_old(pin_dir: &Path, generation: Generation) -> Result<Self> {
        let directory = generation.path(pin_dir);
        let read: Vec<_> =
            names::of(generation.schema).filter(|name| *name != names::PROGRAMS).collect();
        generations::check_layout(OBJECT, &directory, &read)?;
        let capacity = generations::held_capacity(&directory)?;
        let mut ebpf = open_maps(&directory, capacity, Features::default(), &read)?;
        let programs = take(&mut ebpf, names::PROGRAMS)?;
        let old = Self::of(pin_dir, directory, capacity, Features::default(), ebpf, programs)?;
        Ok(Self { schema: generation.schema, ..old })
    }

    /// Takes over all that another generation holds, but for maps that both share.
    fn copy_from(&mut self, old: &Self, shared: &[&str]) -> Result<()> {
        self.set_hash_key(old.hash_key()?)?;
        self.set_epoch(old.epoch()?)?;
        let image = old.image()?;
        let records = old.records()?.without(shared);
        records.copy_to(&mut self.records()?, Existing::Replaced, &image.listeners)?;
        self.copied = Some(records);
        for (line, backend) in &image.backends {
            // Not by a change, which would let the counters begin at nought.
            self.backends.set(*line, backend)?;
        }
        let changes = crate::reconcile::diff(&self.image()?, &image);
        self.apply(&changes)?;
        for lease in 0..old.leases.len() {
            self.leases.set(lease, &old.leases.get(lease)?)?;
        }
        if !shared.contains(&names::BACKEND_COUNTERS) {
            for line in image.backends.keys() {
                let values =
                    old.backend_counters.get(line, 0).context("failed to read a counter")?;
                self.backend_counters.set(*line, values, 0).context("failed to copy a counter")?;
            }
        }
        Ok(())
    }

    /// Takes over what the program has remembered of flows since the maps were copied. To be
    /// called when no attached program writes the old ones any more.
    pub(super) fn catch_up(&mut self) -> Result<()> {
        let Some(old) = self.copied.take() else { return Ok(()) };
        // What is there was written by the new program, or is as old.
        let listeners = self.image()?.listeners;
        old.copy_to(&mut self.records()?, Existing::Kept, &listeners)
    }
}

/// Maps that only the program writes, that the old generation has, and that are as large in the new
/// one: it goes on with the same maps, and nothing that the program writes meanwhile is lost.
fn shared(old: &Bpf, new: &Capacity) -> Vec<&'static str> {
    // Keys of older schemas are filled in.
    let ours = old.schema == SCHEMA_VERSION;
    let same = [
        (names::PINS_CURRENT, ours && old.capacity.pins == new.pins),
        (names::PINS_BASE, ours && old.capacity.pins == new.pins),
        (names::HALF_OPEN, ours && old.capacity.half_open == new.half_open),
        (names::SOURCES, old.capacity.sources == new.sources),
        (names::OPEN_FLOWS, old.capacity.backends == new.backends),
        (names::BACKEND_COUNTERS, old.capacity.backends == new.backends),
        // Their sizes are the same in all schemas that can be read.
        (names::FRAGMENTS, true),
        (names::TURNS, true),
        (names::BUCKETS, true),
        (names::VERDICTS, true),
    ];
    let there = |name: &str| old.generation.join(name).exists();
    same.into_iter().filter(|(name, same)| *same && there(name)).map(|(name, _)| name).collect()
}
