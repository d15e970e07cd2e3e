//! Embeds the BPF object that `cargo xtask build` made. Without one the crate still compiles,
//! for `cargo check` and the like; the daemon then says what is missing.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("lb-ebpf");
    println!("cargo::rerun-if-env-changed=LB_BPF_OBJECT");
    let object = match env::var_os("LB_BPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => manifest.join("../target/bpf/lb-ebpf"),
    };
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = fs::read(&object).unwrap_or_default();
    fs::write(&out, bytes).expect("OUT_DIR is ours to write");
}
