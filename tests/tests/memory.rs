//! What the maps take of the kernel's memory, against what is said of it.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use aya::maps::MapData;
use lb_common::maps::names;
use lb_tests::bed::Bpffs;
use lb_tests::privilege::is_root_or_skips;
use lb_userspace::config::{self, NodeChoice};
use lb_userspace::dataplane::bpf::{Bpf, cpus};
use lb_userspace::image::{Capacity, Features};
use lb_userspace::plan;

const FILE: &str = r#"
version = 1

[node.lb1]
interfaces = ["lo"]

[service.web]
listen = ["192.0.2.100:443"]
limit = { source = 100 }

[service.web.backend]
web1 = { address = "192.0.2.21" }
web2 = { address = "192.0.2.22" }
"#;

/// Bytes that the kernel has locked for a pinned map.
fn locked(pin: &Path) -> u64 {
    let map = MapData::from_pin(pin).expect("the map is pinned");
    let info = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let info = fs::read_to_string(info).expect("the kernel tells about descriptors");
    let line = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    line.expect("it tells of memory").trim().parse().expect("as a number")
}

/// What the kernel has locked for maps of a size, by name.
fn maps(bpffs: &Bpffs, name: &str, capacity: Capacity) -> Vec<(&'static str, u64)> {
    let pins = bpffs.path().join(name);
    let bpf = Bpf::open(&pins, capacity, Features::default()).expect("the programs can be loaded");
    let entries = fs::read_dir(&pins).expect("the pins are there");
    let mut entries = entries.map(|entry| entry.expect("an entry").path());
    let maps = entries.find(|path| path.join(names::CONTROL).exists()).expect("maps are pinned");
    let each = names::PINNED.into_iter().map(|name| (name, locked(&maps.join(name)))).collect();
    drop(bpf);
    each
}

#[test]
fn the_default_maps_fit_into_256_megabytes_and_all_are_as_large_as_is_said() {
    let name = "the_default_maps_fit_into_256_megabytes_and_all_are_as_large_as_is_said";
    if !is_root_or_skips(name) {
        return;
    }
    let loaded = config::parse(Path::new("lb.toml"), FILE, &NodeChoice::Any).expect("it is valid");
    let default = plan::wanted(&loaded.config);
    let few = Capacity { pins: 1_024, half_open: 1_024, sources: 1_024, ..default };
    let bpffs = Bpffs::new("memory");
    for (name, capacity) in [
        ("default", default),
        ("slots", Capacity { slots: 16 << 20, ..few }),
        ("lines", Capacity { backends: 400_000, ..few }),
        ("sources", Capacity { sources: 1 << 20, ..few }),
        ("half-open", Capacity { half_open: 1 << 20, ..few }),
    ] {
        let each = maps(&bpffs, name, capacity);
        let total: u64 = each.iter().map(|(_, bytes)| bytes).sum();
        let said = capacity.memory(cpus().expect("CPUs are known") as u64);
        println!("{name}: {total} bytes, said to be {said}");
        assert!(said.abs_diff(total) <= total / 10, "{said} instead of {total} bytes: {each:?}");
        assert!(capacity != default || total <= 256 << 20, "{total} bytes: {each:?}");
    }
}
