//! Embeds the BPF objects that `cargo xtask build` made. Without them the crate still compiles,
//! for `cargo check` and the like; `lb` then says what is missing.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    embed("lb-ebpf", "LB_BPF_OBJECT");
    embed("lb-decap", "LB_DECAP_OBJECT");
}

/// Copies an object to where the sources include it from: the one that the variable names, or the
/// one that was built.
fn embed(name: &str, variable: &str) {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join(name);
    println!("cargo::rerun-if-env-changed={variable}");
    let object = match env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => manifest.join("../target/bpf").join(name),
    };
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = fs::read(&object).unwrap_or_default();
    fs::write(&out, bytes).expect("OUT_DIR is ours to write");
}
