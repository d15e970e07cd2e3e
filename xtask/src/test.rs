//! Builds everything, runs the tests, and looks whether they left anything behind.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::unistd::Uid;
use xtask::registry;

use crate::bpf;
use crate::run::{openly, stopped, target, workspace};
use crate::setup::{self, Purpose};

/// How the host's side is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build.
    Dev,
    /// Quick to run.
    Release,
}

impl Profile {
    fn directory(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// Builds the BPF objects and `lb`; the path of the latter.
pub fn build(purpose: Purpose, profile: Profile) -> Result<PathBuf> {
    let toolchain = setup::ensure(purpose)?;
    heading(&format!("BPF objects, with {}", toolchain.name()));
    bpf::build(toolchain)?;
    heading("lb");
    let mut cargo = cargo();
    cargo.args(["build", "--package", "lb-userspace", "--bin", "lb"]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    openly("building lb", &mut cargo)?;
    Ok(target().join(profile.directory()).join("lb"))
}

/// Builds and runs the tests whose names hold one of the filters, or all. With `strict`, a test
/// that cannot run here counts as failed.
pub fn test(filters: &[String], strict: bool) -> Result<()> {
    let lb = build(Purpose::Run, Profile::Dev)?;
    clean()?;
    let skipped = workspace().join("target/xtask/skipped-tests");
    fs::create_dir_all(workspace().join("target/xtask")).context("failed to make target/xtask")?;
    fs::write(&skipped, "").context("failed to empty the list of skipped tests")?;
    if !Uid::effective().is_root() {
        eprintln!("not root: tests that need namespaces or the kernel's BPF cannot run");
    }

    heading("tests");
    let mut cargo = cargo();
    match setup::has_nextest() {
        true => {
            cargo.args(["nextest", "run", "--workspace", "--exclude", "lb-ebpf", "--no-fail-fast"])
        }
        false => cargo.args(["test", "--workspace", "--exclude", "lb-ebpf", "--no-fail-fast"]),
    };
    if !setup::has_nextest() && !filters.is_empty() {
        cargo.arg("--");
    }
    cargo.args(filters).envs(environment(&lb)).env("LB_SKIPPED_TESTS", &skipped);
    let outcome = openly("running the tests", &mut cargo);

    let left = clean()?;
    let list = fs::read_to_string(&skipped).context("failed to read the list of skipped tests")?;
    if !list.is_empty() {
        eprintln!("\n{} tests could not run here:", list.lines().count());
        list.lines().for_each(|line| eprintln!("  {line}"));
    }
    outcome?;
    if !left.is_empty() {
        bail!("the tests passed, but left things behind (now removed): {}", left.join(", "));
    }
    if strict && !list.is_empty() {
        bail!("some tests could not run, and --strict counts that as failure");
    }
    Ok(())
}

/// Builds, then runs a binary of the test crate; what is left of its beds goes afterwards.
pub fn run_with_bed(binary: &str, profile: Profile, arguments: &[String]) -> Result<()> {
    let lb = build(Purpose::Run, profile)?;
    let mut cargo = cargo();
    cargo.args(["build", "--package", "lb-tests", "--bin", binary]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    openly(&format!("building {binary}"), &mut cargo)?;
    if !Uid::effective().is_root() {
        bail!(
            "{binary} needs root: it makes network namespaces and loads XDP programs; try sudo -E"
        );
    }
    clean()?;
    let mut command = Command::new(target().join(profile.directory()).join(binary));
    command.args(arguments).envs(environment(&lb));
    let outcome = openly(binary, &mut command);
    let left = clean()?;
    outcome?;
    if !left.is_empty() {
        bail!("{binary} left things behind (now removed): {}", left.join(", "));
    }
    Ok(())
}

/// Removes beds whose owner is gone; what was found of them.
pub fn clean() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for prefix in registry::leftovers() {
        found.extend(registry::remains(&prefix));
        registry::remove(&prefix).with_context(|| match Uid::effective().is_root() {
            true => format!("failed to remove what is left of bed {prefix}"),
            false => format!("failed to remove what is left of bed {prefix}: root may"),
        })?;
    }
    Ok(found)
}

/// Lints everything, warnings denied.
pub fn clippy() -> Result<()> {
    let toolchain = setup::ensure(Purpose::All)?;
    // `lb`'s build embeds the object.
    bpf::build(toolchain)?;
    heading("clippy for the host");
    let mut host = cargo();
    host.args(["clippy", "--workspace", "--exclude", "lb-ebpf", "--all-targets"]);
    openly("clippy for the host", host.args(["--", "-Dwarnings"]))?;
    heading("clippy for the BPF target");
    bpf::clippy(toolchain)
}

/// Where the tests find what was built.
fn environment(lb: &std::path::Path) -> [(&'static str, PathBuf); 3] {
    [
        ("LB_BIN", lb.to_owned()),
        ("LB_BPF_OBJECT", bpf::object("lb-ebpf")),
        ("LB_LAB_OBJECT", bpf::object("lb-lab")),
    ]
}

fn cargo() -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(workspace());
    // What cargo tells us about this crate would tell build scripts, ring's among them, that
    // something has changed, whenever plain cargo and `cargo xtask` take turns.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&*name);
        }
    }
    cargo
}

fn heading(text: &str) {
    if stopped().is_none() {
        eprintln!("== {text}");
    }
}
