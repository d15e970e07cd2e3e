//! Builds the BPF objects, and lints them: the only place that knows how.
//!
//! Two compilers can do it. Debian's `rustc-web` has a prebuilt `core` for BPF; a nightly of
//! rustup's builds one itself, if it has `rust-src`. Both link with `bpf-linker`.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::{openly, output, workspace};

/// The compilation target: BPF for a little-endian kernel.
pub const TARGET: &str = "bpfel-unknown-none";
/// Debian's compiler.
pub const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// Debian's lint driver for that compiler.
const DEBIAN_CLIPPY: &str = "/usr/bin/clippy-driver";
/// The objects: `lb-ebpf` is the balancer's, `lb-decap` its backends', `lb-lab` the test bed's.
const OBJECTS: [&str; 3] = ["lb-ebpf", "lb-decap", "lb-lab"];
/// Crates that turn on unstable features, as `RUSTC_BOOTSTRAP` wants them for a stable compiler.
/// Named, not `1`: that would make build scripts believe in a nightly.
const UNSTABLE_CRATES: &str = "aya_ebpf,aya_log_ebpf,lb_ebpf,lb_decap,lb_lab";
/// What both compilers are told, besides the architecture of the kernel.
/// `--btf` keeps the types of maps; `v3` (Linux 5.1) has 32-bit jumps; the kernel's JITs all
/// allow unaligned loads, and without them each field of a header is put together from bytes.
/// rustc passes the processor and its features on to the linker.
const FLAGS: [&str; 5] = [
    "-Cdebuginfo=2",
    "-Clink-arg=--btf",
    "-Clink-arg=--export=lb_least",
    "-Ctarget-cpu=v3",
    "-Ctarget-feature=+allows-misaligned-mem-access",
];

/// A compiler that can build for BPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// Debian 12's packages.
    Debian,
    /// rustup's nightly with `rust-src`.
    Nightly,
}

impl Toolchain {
    /// What to call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Debian => "Debian's rustc-web",
            Self::Nightly => "rustup's nightly",
        }
    }

    /// The cargo command that does `verb` with it.
    fn cargo(self, verb: &str) -> Command {
        let mut cargo = Command::new("cargo");
        match self {
            Self::Debian => {
                // No `+toolchain`: the workspace's cargo drives Debian's compiler.
                cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", UNSTABLE_CRATES).arg(verb);
            }
            Self::Nightly => {
                // Cargo tells its children which one it is; rustup must choose anew.
                cargo.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").env_remove("RUSTC");
                cargo.args(["+nightly", verb, "-Z", "build-std=core"]);
            }
        }
        let architecture = format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH);
        let flags: Vec<&str> = std::iter::once(architecture.as_str()).chain(FLAGS).collect();
        cargo
            .args(["--package", "lb-ebpf", "--bins", "--release", "--target", TARGET])
            .arg("--target-dir")
            .arg(self.target_directory())
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .env_remove("RUSTFLAGS")
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTC_WORKSPACE_WRAPPER")
            .env("PATH", path_with_cargo())
            .current_dir(workspace());
        cargo
    }

    /// Each compiler has a directory of its own, so that changing over rebuilds nothing.
    fn target_directory(self) -> PathBuf {
        workspace().join("target").join(match self {
            Self::Debian => "bpf-debian",
            Self::Nightly => "bpf-nightly",
        })
    }
}

/// Where an object is found once it is built.
pub fn object(name: &str) -> PathBuf {
    workspace().join("target/bpf").join(name)
}

/// Builds the objects.
pub fn build(toolchain: Toolchain) -> Result<()> {
    openly("building the BPF objects", &mut toolchain.cargo("build")).map_err(|error| {
        match toolchain {
            Toolchain::Debian => error,
            // The linker does not tell which LLVM it was built with.
            Toolchain::Nightly => error.context(
                "if bpf-linker does not understand what the compiler made, its LLVM is older than \
                 your nightly's: rebuild it, or set LB_BPF_TOOLCHAIN=debian on Debian 12",
            ),
        }
    })?;
    let built = toolchain.target_directory().join(TARGET).join("release");
    for name in OBJECTS {
        replace_if_changed(&built.join(name), &object(name))?;
    }
    Ok(())
}

/// Lints the BPF crate, warnings denied.
pub fn clippy(toolchain: Toolchain) -> Result<()> {
    let mut cargo = match toolchain {
        Toolchain::Debian => {
            let mut cargo = toolchain.cargo("check");
            // What `cargo clippy` does, for a compiler that this cargo does not come with.
            cargo.env("RUSTC_WORKSPACE_WRAPPER", DEBIAN_CLIPPY);
            cargo.env("CLIPPY_ARGS", "-Dwarnings__CLIPPY_HACKERY__");
            cargo
        }
        Toolchain::Nightly => {
            let mut cargo = toolchain.cargo("clippy");
            cargo.args(["--", "-Dwarnings"]);
            cargo
        }
    };
    openly("clippy for the BPF target", &mut cargo)
}

/// Whether the compiler, and a `core` for BPF, are there.
pub fn can_compile(toolchain: Toolchain) -> bool {
    match toolchain {
        Toolchain::Debian => sysroot(Command::new(DEBIAN_RUSTC).args(["--print", "sysroot"]))
            .is_some_and(|root| root.join("lib/rustlib").join(TARGET).is_dir()),
        Toolchain::Nightly => {
            let rustc = ["run", "nightly", "rustc", "--print", "sysroot"];
            sysroot(Command::new("rustup").args(rustc))
                .is_some_and(|root| root.join("lib/rustlib/src/rust/library/core").is_dir())
        }
    }
}

/// Whether the compiler's lint driver is there.
pub fn can_lint(toolchain: Toolchain) -> bool {
    match toolchain {
        Toolchain::Debian => Path::new(DEBIAN_CLIPPY).exists(),
        Toolchain::Nightly => {
            let driver = ["run", "nightly", "clippy-driver", "--version"];
            output(Command::new("rustup").args(driver)).is_some()
        }
    }
}

/// Version of the bpf-linker that runs here.
pub fn linker_version() -> Option<String> {
    let said = output(Command::new("bpf-linker").arg("--version").env("PATH", path_with_cargo()))?;
    Some(said.trim().strip_prefix("bpf-linker ")?.to_owned())
}

/// `PATH`, with the place where `cargo install` puts things at its end.
fn path_with_cargo() -> std::ffi::OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let places = env::split_paths(&path).chain(home.map(|home| home.join("bin")));
    env::join_paths(places).unwrap_or(path)
}

fn sysroot(rustc: &mut Command) -> Option<PathBuf> {
    Some(PathBuf::from(output(rustc)?.trim()))
}

/// Copies a file in one step, and only if its content is new: what embeds it is rebuilt when its
/// time changes.
fn replace_if_changed(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("failed to read {}", from.display()))?;
    if new.is_empty() {
        bail!("{} is empty", from.display());
    }
    match fs::read(to) {
        Ok(old) if old == new => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("failed to read {}", to.display()));
        }
    }
    let directory = to.parent().context("an object has no directory")?;
    fs::create_dir_all(directory)
        .with_context(|| format!("failed to make {}", directory.display()))?;
    let fresh = to.with_extension("new");
    fs::write(&fresh, &new).with_context(|| format!("failed to write {}", fresh.display()))?;
    fs::rename(&fresh, to).with_context(|| format!("failed to replace {}", to.display()))
}
