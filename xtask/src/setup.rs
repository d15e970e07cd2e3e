//! Finds what the machine lacks and installs it, or says exactly what to install and why.

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::unistd::Uid;

use crate::apt;
use crate::bpf::{self, Toolchain};
use crate::run::{output, quietly};

/// The version of bpf-linker that is installed where there is none.
const LINKER: &str = "0.13.0";
/// LLVM that goes with [`LINKER`] and Debian's compiler.
const LLVM: &str = "22";
/// Chooses the BPF toolchain: `debian` or `nightly`.
const CHOICE: &str = "LB_BPF_TOOLCHAIN";

/// What a command is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Compile.
    Build,
    /// Compile, and run test beds.
    Run,
    /// Everything that the other commands and clippy want.
    All,
}

/// A program that must be there.
struct Tool {
    program: &'static str,
    /// Debian's package.
    package: &'static str,
    reason: &'static str,
    purpose: Purpose,
}

const TOOLS: [Tool; 6] = [
    tool("cc", "gcc", "links Rust programs", Purpose::Build),
    tool("nginx", "nginx-light", "is the web server behind the balancer in tests", Purpose::Run),
    tool("curl", "curl", "is the client in tests", Purpose::Run),
    tool("ip", "iproute2", "makes namespaces and cables", Purpose::Run),
    tool(
        "ethtool",
        "ethtool",
        "turns offloads off that a virtual cable only pretends",
        Purpose::Run,
    ),
    tool("ping", "iputils-ping", "asks a virtual address for an echo in tests", Purpose::Run),
];

const fn tool(
    program: &'static str,
    package: &'static str,
    reason: &'static str,
    purpose: Purpose,
) -> Tool {
    Tool { program, package, reason, purpose }
}

/// What is missing, and how to get it.
#[derive(Default)]
struct Missing {
    /// Debian's packages.
    packages: Vec<&'static str>,
    /// bpf-linker is to be built.
    linker: bool,
    /// For people: what and why, a line each.
    reasons: Vec<String>,
}

/// Makes sure that everything is there, and says which BPF toolchain to use.
pub fn ensure(purpose: Purpose) -> Result<Toolchain> {
    let choice = choice()?;
    let toolchain = choice.unwrap_or_else(|| {
        match bpf::can_compile(Toolchain::Nightly) && bpf::linker_version().is_some() {
            true => Toolchain::Nightly,
            false => Toolchain::Debian,
        }
    });
    let missing = missing(toolchain, purpose);
    if missing.reasons.is_empty() {
        return Ok(toolchain);
    }
    eprintln!("set-up: not everything is here yet");
    for reason in &missing.reasons {
        eprintln!("  {reason}");
    }
    install(toolchain, choice.is_some(), &missing)?;
    let still = self::missing(toolchain, purpose);
    if !still.reasons.is_empty() {
        bail!("the set-up went through, and yet:\n  {}", still.reasons.join("\n  "));
    }
    Ok(toolchain)
}

fn choice() -> Result<Option<Toolchain>> {
    match env::var(CHOICE).as_deref() {
        Err(_) | Ok("") => Ok(None),
        Ok("debian") => Ok(Some(Toolchain::Debian)),
        Ok("nightly") => Ok(Some(Toolchain::Nightly)),
        Ok(other) => bail!("{CHOICE} must be debian or nightly, not `{other}`"),
    }
}

fn missing(toolchain: Toolchain, purpose: Purpose) -> Missing {
    let mut missing = Missing::default();
    for tool in TOOLS.iter().filter(|tool| tool.purpose <= purpose && !is_in_path(tool.program)) {
        missing.packages.push(tool.package);
        if tool.program == "cc" {
            missing.packages.push("libc6-dev");
        }
        missing.reasons.push(format!("{:<11} {}", tool.program, tool.reason));
    }
    if !bpf::can_compile(toolchain) {
        if toolchain == Toolchain::Debian {
            missing.packages.extend(["rustc-web", "libstd-rust-web-dev-bpf"]);
        }
        let compiler = toolchain.name();
        missing
            .reasons
            .push(format!("{:<11} for BPF ({compiler}) compiles the XDP programs", "rustc"));
    }
    if purpose == Purpose::All && !bpf::can_lint(toolchain) {
        if toolchain == Toolchain::Debian {
            missing.packages.push("rust-web-clippy");
        }
        missing.reasons.push(format!("{:<11} for BPF lints the XDP programs", "clippy"));
    }
    let linker = bpf::linker_version();
    if linker.as_deref().is_none_or(|version| version_of(version) < version_of(LINKER)) {
        missing.linker = true;
        if toolchain == Toolchain::Debian {
            if !apt::has("llvm-22-dev") {
                missing.packages.push("llvm-22-dev");
            }
            if !Path::new("/etc/ssl/certs/ca-certificates.crt").exists() {
                missing.packages.push("ca-certificates");
            }
        }
        let found = linker.map_or("not found".to_owned(), |version| format!("found {version}"));
        missing
            .reasons
            .push(format!("{:<11} links them; {LINKER} is wanted, {found}", "bpf-linker"));
    }
    missing
}

/// Installs what is missing if this machine is one that we know how to do that on.
fn install(toolchain: Toolchain, chosen: bool, missing: &Missing) -> Result<()> {
    let system = System::here();
    let can_compile = bpf::can_compile(toolchain);
    let obstacle = match (toolchain, system.debian) {
        (Toolchain::Nightly, _) if !can_compile => {
            Some("rustup's toolchains are yours to install".to_owned())
        }
        (Toolchain::Debian, version) if !can_compile && version != Some(12) => Some(format!(
            "{} has no compiler for BPF among its packages that this program knows of",
            system.name
        )),
        (_, None) if !missing.packages.is_empty() => Some(format!(
            "this program installs packages on Debian only, and this is {}",
            system.name
        )),
        _ if !missing.packages.is_empty() && !Uid::effective().is_root() => {
            Some("only root can install packages".to_owned())
        }
        // Its LLVM must be at least as new as the compiler's; which that is, we cannot know.
        (Toolchain::Nightly, _) if missing.linker => {
            Some("bpf-linker must fit the LLVM of your nightly".to_owned())
        }
        _ => None,
    };
    if let Some(obstacle) = obstacle {
        // Without a choice of the user's, nightly is the advice where Debian's packages are not.
        let advised = match (chosen, system.debian) {
            (false, version) if version != Some(12) => Toolchain::Nightly,
            _ => toolchain,
        };
        bail!(
            "{obstacle}. Please do this, then try again:\n\n{}",
            advice(advised, &system, missing)
        );
    }
    if !missing.packages.is_empty() {
        apt::install(&missing.packages)?;
    }
    if missing.linker {
        let mut cargo = Command::new("cargo");
        cargo.args(["install", &format!("bpf-linker@{LINKER}"), "--locked"]);
        cargo.args(["--no-default-features", "--features", &format!("llvm-{LLVM}")]);
        cargo.env("LLVM_PREFIX", format!("/usr/lib/llvm-{LLVM}")).env_remove("RUSTC");
        quietly(
            &format!("building bpf-linker {LINKER} (about a minute)"),
            "bpf-linker",
            &mut cargo,
        )?;
    }
    Ok(())
}

/// The commands that a person has to run.
fn advice(toolchain: Toolchain, system: &System, missing: &Missing) -> String {
    let mut text = String::new();
    let mut packages = missing.packages.clone();
    if toolchain == Toolchain::Nightly {
        // Those that only the other way needs.
        packages.retain(|package| {
            !matches!(
                *package,
                "rustc-web" | "libstd-rust-web-dev-bpf" | "rust-web-clippy" | "llvm-22-dev"
            )
        });
    }
    if !packages.is_empty() {
        let packages = packages.join(" ");
        let _ = match system.debian {
            Some(_) => {
                writeln!(text, "    sudo apt-get install --no-install-recommends {packages}")
            }
            None => writeln!(
                text,
                "    install, by your distribution's names, what Debian calls: {packages}"
            ),
        };
    }
    if toolchain == Toolchain::Nightly && !bpf::can_compile(toolchain) {
        text.push_str("    rustup toolchain install nightly --component rust-src,clippy\n");
    }
    if missing.linker {
        let _ = match toolchain {
            Toolchain::Debian => writeln!(
                text,
                "    LLVM_PREFIX=/usr/lib/llvm-{LLVM} cargo install bpf-linker@{LINKER} --locked \
                 --no-default-features --features llvm-{LLVM}"
            ),
            Toolchain::Nightly => writeln!(
                text,
                "    cargo install bpf-linker@{LINKER} --locked --no-default-features --features llvm-N\n\
                 \x20      where N is the LLVM of your nightly (`rustc +nightly -vV`); it needs that LLVM's\n\
                 \x20      development files, and LLVM_PREFIX=<where they are>. Your distribution's own\n\
                 \x20      package of bpf-linker does as well"
            ),
        };
    }
    if toolchain == Toolchain::Debian && system.debian == Some(12) {
        text.push_str("\nOn Debian 12, `cargo xtask setup` does all of it when run as root.\n");
    }
    text
}

/// What this machine is.
struct System {
    name: String,
    /// The major version, if it is Debian.
    debian: Option<u32>,
}

impl System {
    fn here() -> Self {
        let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
            Some(value.trim_matches('"').to_owned())
        };
        let is_debian = field("ID").as_deref() == Some("debian");
        Self {
            name: field("PRETTY_NAME").unwrap_or_else(|| "an unknown system".to_owned()),
            debian: field("VERSION_ID").filter(|_| is_debian).and_then(|id| id.parse().ok()),
        }
    }
}

/// Adds the places of system programs to `PATH`: a normal user's often lacks them.
pub fn complete_path() -> Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"];
    let all = env::split_paths(&path).chain(more.map(Into::into));
    let all = env::join_paths(all).context("PATH cannot be extended")?;
    // SAFETY: called first thing in `main`, before there is a second thread.
    unsafe { env::set_var("PATH", all) };
    Ok(())
}

fn is_in_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|place| place.join(program).is_file())
}

fn version_of(text: &str) -> Vec<u32> {
    text.split('.').map_while(|part| part.parse().ok()).collect()
}

/// Whether cargo-nextest is there; without it, `cargo test` does.
pub fn has_nextest() -> bool {
    is_in_path("cargo-nextest")
        && output(Command::new("cargo-nextest").args(["nextest", "--version"])).is_some()
}
