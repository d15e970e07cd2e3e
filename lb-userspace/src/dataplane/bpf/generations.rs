//! Generations of maps: which are pinned, which of them a start goes on with, and whether it can.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use aya::maps::MapInfo;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::loaded_programs;
use lb_common::maps::{READABLE_SCHEMAS, SCHEMA_VERSION, SLOTS_PER_LINE, names};
use tracing::warn;

use super::pins::{self, LinkPin};
use crate::image::Capacity;

/// A set of maps, by the name of its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Generation {
    /// The schema of its maps.
    pub schema: u32,
    /// Which one of that schema, from 0.
    pub number: u32,
}

/// How the names of generations begin.
const WHOLE: &str = "maps-v";
/// How the names of unfinished generations begin.
const UNFINISHED: &str = "new-v";

impl Generation {
    /// Reads the name of one that is whole.
    fn named(name: &OsStr) -> Option<Self> {
        let (schema, number) = name.to_str()?.strip_prefix(WHOLE)?.split_once('-')?;
        Some(Self { schema: schema.parse().ok()?, number: number.parse().ok()? })
    }

    /// Where it is when it is whole.
    pub fn path(self, pin_dir: &Path) -> PathBuf {
        pin_dir.join(format!("{WHOLE}{}-{}", self.schema, self.number))
    }

    /// Where it is while it is made.
    pub fn unfinished_path(self, pin_dir: &Path) -> PathBuf {
        pin_dir.join(format!("{UNFINISHED}{}-{}", self.schema, self.number))
    }
}

/// Whether a directory holds maps of ours, of whatever schema.
pub(super) fn holds_maps(directory: &Path) -> bool {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(WHOLE) || name.starts_with(UNFINISHED)
}

/// A generation that is pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Which.
    pub generation: Generation,
    /// Whether a program that is attached works with it.
    pub in_use: bool,
    /// Whether nobody has taken pins away, as far as we know what belongs to it.
    pub whole: bool,
}

/// What a start does about the maps that it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// There are none: it begins with empty ones.
    Begin,
    /// It goes on with these.
    Adopt(Generation),
    /// It goes on with a copy of these, whose schema is an older one.
    Copy(Generation),
    /// It cannot read these, and must not put others in their place.
    Refuse(Generation),
}

/// What to go on with: what attached programs use, for only that is up to date. A daemon that
/// ended before it attached has left a generation that is newer, and knows less.
pub(super) fn choose(found: &[Found]) -> Choice {
    let any_in_use = found.iter().any(|found| found.whole && found.in_use);
    let current = found.iter().filter(|found| found.whole && (found.in_use || !any_in_use));
    match current.map(|found| found.generation).max() {
        None => Choice::Begin,
        Some(ours) if ours.schema == SCHEMA_VERSION => Choice::Adopt(ours),
        Some(older) if READABLE_SCHEMAS.contains(&older.schema) => Choice::Copy(older),
        Some(other) => Choice::Refuse(other),
    }
}

/// The generation of our schema that is to be made next.
pub(super) fn next(found: &[Found]) -> Generation {
    let ours = found.iter().map(|found| found.generation).filter(|g| g.schema == SCHEMA_VERSION);
    let number = ours.map(|generation| generation.number + 1).max().unwrap_or(0);
    Generation { schema: SCHEMA_VERSION, number }
}

/// Says why a start is refused, and what can be done about it.
pub(super) fn refusal(generation: Generation, pin_dir: &Path) -> anyhow::Error {
    let readable: Vec<_> =
        READABLE_SCHEMAS.iter().chain(&[SCHEMA_VERSION]).map(u32::to_string).collect();
    let theirs = generation.schema;
    let whose = if theirs > SCHEMA_VERSION { "a newer" } else { "an older" };
    anyhow!(
        "the maps in {} have schema version {theirs}, this lb has {SCHEMA_VERSION} and reads {}: \
         run {whose} lb that has version {theirs}, or remove them by `lb detach`, which stops the \
         balancing and ends the flows that are remembered; nothing has been changed",
        generation.path(pin_dir).display(),
        readable.join(", "),
    )
}

/// All generations that are pinned.
pub(super) fn find(pin_dir: &Path) -> Result<Vec<Found>> {
    let used = maps_in_use(pin_dir)?;
    let mut found = Vec::new();
    for path in pins::entries(pin_dir)? {
        let Some(generation) = path.file_name().and_then(Generation::named) else { continue };
        let ours = generation.schema == SCHEMA_VERSION;
        let whole = !ours || names::PINNED.iter().all(|map| path.join(map).exists());
        if !whole {
            warn!(maps = %path.display(), "not all maps are there: of no use any more");
        }
        let control = MapInfo::from_pin(path.join(names::CONTROL));
        let in_use = control.is_ok_and(|control| used.contains(&control.id()));
        found.push(Found { generation, in_use, whole });
    }
    Ok(found)
}

/// Ids of the maps that programs in pinned links work with.
fn maps_in_use(pin_dir: &Path) -> Result<Vec<u32>> {
    let mut programs = Vec::new();
    for path in pins::entries(&pins::links(pin_dir))? {
        if LinkPin::of(&path).is_none() {
            continue;
        }
        let link = PinnedLink::from_pin(&path)
            .with_context(|| format!("failed to open {}", path.display()))?;
        let info = FdLink::from(link).info();
        programs.push(
            info.with_context(|| format!("failed to ask about {}", path.display()))?.program_id(),
        );
    }
    let mut maps = Vec::new();
    if programs.is_empty() {
        return Ok(maps);
    }
    // Programs of others may go while we look.
    for program in loaded_programs().flatten().filter(|info| programs.contains(&info.id())) {
        let ids = program.map_ids().context("failed to ask for a program's maps")?;
        maps.extend(ids.unwrap_or_default());
    }
    if maps.is_empty() {
        warn!("the kernel does not tell which maps are in use: going on with the newest");
    }
    Ok(maps)
}

/// How much fits into the maps of a directory. A map that an older schema did not have counts
/// as the smallest that there can be.
pub(super) fn held_capacity(directory: &Path) -> Result<Capacity> {
    let entries = |name: &str| -> Result<u32> {
        let path = directory.join(name);
        if !path.exists() && names::ADDED.iter().any(|(added, _)| *added == name) {
            return Ok(1);
        }
        Ok(info(&path)?.max_entries())
    };
    Ok(Capacity {
        slots: entries(names::SLOTS)? * SLOTS_PER_LINE,
        backends: entries(names::BACKENDS)?,
        pins: entries(names::PINS_CURRENT)?,
        half_open: entries(names::HALF_OPEN)?,
        sources: entries(names::SOURCES)?,
    })
}

/// Makes sure that all these maps are pinned in the directory, and have the kind, keys and values
/// that the object declares: the loader takes whatever it finds.
pub(super) fn check_layout(object: &[u8], directory: &Path, maps: &[&str]) -> Result<()> {
    let object = aya_obj::Object::parse(object).context("failed to read the BPF object")?;
    for name in maps {
        let path = directory.join(name);
        let held = info(&path)?;
        let declared =
            object.maps.get(*name).with_context(|| format!("the object has no map {name}"))?;
        let kind =
            held.map_type().with_context(|| format!("{} is of an unknown kind", path.display()))?;
        for (what, held, declared) in [
            ("kind", kind as u32, declared.map_type()),
            ("size of keys", held.key_size(), declared.key_size()),
            ("size of values", held.value_size(), declared.value_size()),
        ] {
            ensure!(held == declared, "{}: its {what} is {held}, not {declared}", path.display());
        }
    }
    Ok(())
}

/// Gives maps to a generation that is being made, as they are: the same maps, pinned once more.
pub(super) fn share(maps: &[&str], from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("failed to create {}", to.display()))?;
    for name in maps {
        let (from, to) = (from.join(name), to.join(name));
        let map = aya::maps::MapData::from_pin(&from)
            .with_context(|| format!("failed to open {}", from.display()))?;
        map.pin(&to).with_context(|| format!("failed to pin {}", to.display()))?;
    }
    Ok(())
}

fn info(path: &Path) -> Result<MapInfo> {
    MapInfo::from_pin(path).with_context(|| format!("failed to open {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEWER: u32 = SCHEMA_VERSION + 1;
    /// Its layout was another one.
    const FORGOTTEN: u32 = 1;

    fn generation(schema: u32, number: u32) -> Generation {
        Generation { schema, number }
    }

    fn found(list: &[(u32, u32, bool)]) -> Vec<Found> {
        let found = |&(schema, number, in_use)| {
            let generation = generation(schema, number);
            Found { generation, in_use, whole: true }
        };
        list.iter().map(found).collect()
    }

    #[test]
    fn a_start_goes_on_with_what_is_in_use_if_it_can_read_it() {
        const OURS: u32 = SCHEMA_VERSION;
        let mut table = vec![
            (vec![], Choice::Begin),
            (vec![(OURS, 0, false)], Choice::Adopt(generation(OURS, 0))),
            (vec![(OURS, 10, false), (OURS, 9, false)], Choice::Adopt(generation(OURS, 10))),
            // A larger copy that was never attached.
            (vec![(OURS, 0, true), (OURS, 1, false)], Choice::Adopt(generation(OURS, 0))),
            // The end came between two interfaces.
            (vec![(OURS, 0, true), (OURS, 1, true)], Choice::Adopt(generation(OURS, 1))),
            (vec![(NEWER, 0, false)], Choice::Refuse(generation(NEWER, 0))),
            (vec![(NEWER, 0, true), (OURS, 0, true)], Choice::Refuse(generation(NEWER, 0))),
            (vec![(NEWER, 0, false), (OURS, 0, true)], Choice::Adopt(generation(OURS, 0))),
            (vec![(FORGOTTEN, 0, false)], Choice::Refuse(generation(FORGOTTEN, 0))),
            (vec![(FORGOTTEN, 3, false), (OURS, 0, false)], Choice::Adopt(generation(OURS, 0))),
            (
                vec![(FORGOTTEN, 0, true), (OURS, 0, false)],
                Choice::Refuse(generation(FORGOTTEN, 0)),
            ),
        ];
        for &older in READABLE_SCHEMAS {
            table.extend([
                (vec![(older, 2, true)], Choice::Copy(generation(older, 2))),
                (vec![(older, 0, false)], Choice::Copy(generation(older, 0))),
                // A copy that was never attached.
                (vec![(older, 0, true), (OURS, 0, false)], Choice::Copy(generation(older, 0))),
                (vec![(older, 0, true), (OURS, 0, true)], Choice::Adopt(generation(OURS, 0))),
            ]);
        }
        for (list, choice) in table {
            assert_eq!(choose(&found(&list)), choice, "{list:?}");
        }
        let mut cut = found(&[(OURS, 0, false), (OURS, 1, true)]);
        cut[1].whole = false;
        assert_eq!(choose(&cut), Choice::Adopt(generation(OURS, 0)));
        assert_eq!(choose(&cut[1..]), Choice::Begin);
        assert_eq!(next(&cut), generation(OURS, 2));
    }

    #[test]
    fn a_new_generation_takes_no_others_name() {
        let next = |list: &[(u32, u32, bool)]| next(&found(list));
        assert_eq!(next(&[]), generation(SCHEMA_VERSION, 0));
        assert_eq!(next(&[(FORGOTTEN, 7, true)]), generation(SCHEMA_VERSION, 0));
        let two = [(SCHEMA_VERSION, 4, false), (SCHEMA_VERSION, 3, true)];
        assert_eq!(next(&two), generation(SCHEMA_VERSION, 5));
    }

    #[test]
    fn a_generation_is_found_again_by_its_directory() {
        let ours = generation(12, 34);
        let path = ours.path(Path::new("/sys/fs/bpf/lb"));
        assert_eq!(path.file_name().and_then(Generation::named), Some(ours));
        for name in ["maps-v2", "maps-v2-", "maps-vx-0", "new-v2-0", "links"] {
            assert_eq!(Generation::named(OsStr::new(name)), None, "{name}");
        }
    }

    #[test]
    fn a_refusal_names_both_versions_the_directory_and_what_to_do() {
        let words = refusal(generation(99, 0), Path::new("/sys/fs/bpf/lb")).to_string();
        let ours = format!("this lb has {SCHEMA_VERSION} ");
        for part in
            ["/sys/fs/bpf/lb/maps-v99-0", "schema version 99", &ours, "a newer lb", "`lb detach`"]
        {
            assert!(words.contains(part), "{part}: {words}");
        }
        let words = refusal(generation(FORGOTTEN, 0), Path::new("/sys/fs/bpf/lb")).to_string();
        assert!(words.contains("an older lb that has version 1"), "{words}");
    }
}
