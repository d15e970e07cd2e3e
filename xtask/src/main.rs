//! The developer's entry point: `cargo xtask <command>`. It installs what is missing, builds both
//! halves of the load balancer, and runs tests, the demo and benchmarks.

mod apt;
mod bpf;
mod run;
mod setup;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::setup::Purpose;
use crate::test::Profile;

/// Set-up, build, test, demo and benchmarks of the load balancer.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Find what is missing on this machine and install it, or say what to install.
    Setup,
    /// Build the BPF objects and `lb`.
    Build {
        /// With optimisations.
        #[arg(long)]
        release: bool,
    },
    /// Run the tests: on the host, and as root in the kernel and in network namespaces.
    Test {
        /// Count a test that cannot run here as failed.
        #[arg(long)]
        strict: bool,
        /// Only tests whose names hold one of these.
        filters: Vec<String>,
    },
    /// Show the balancer at work between a client and three web servers (as root).
    Demo {
        /// Leave everything running at the end, until Ctrl-C.
        #[arg(long)]
        keep: bool,
    },
    /// Measure the packet path in nanoseconds (as root).
    Bench {
        /// Write the results as JSON, too.
        #[arg(long, value_name = "PATH")]
        json: Option<PathBuf>,
        /// Measure the first program of another object next to ours: one of another commit.
        #[arg(long, value_name = "OBJECT")]
        against: Option<PathBuf>,
        /// Passed on.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Lint everything for the host and for BPF, warnings denied.
    Clippy,
    /// Remove what killed runs left behind: namespaces, processes, mounts and files.
    CleanBed,
}

fn main() -> ExitCode {
    match act() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            // 130 and 143, as shells count it.
            run::stopped().map_or(ExitCode::FAILURE, |signal| {
                ExitCode::from(u8::try_from(128 + signal).unwrap_or(1))
            })
        }
    }
}

fn act() -> Result<()> {
    setup::complete_path()?;
    run::catch_signals()?;
    match Arguments::parse().command {
        Action::Setup => {
            let toolchain = setup::ensure(Purpose::All)?;
            println!("everything is here; the BPF side is built with {}", toolchain.name());
            Ok(())
        }
        Action::Build { release } => {
            let lb = test::build(Purpose::Build, profile(release))?;
            println!("{}", lb.display());
            Ok(())
        }
        Action::Test { strict, filters } => test::test(&filters, strict),
        Action::Demo { keep } => {
            let arguments = if keep { vec!["--keep".to_owned()] } else { Vec::new() };
            test::run_with_bed("demo", Profile::Dev, &arguments)
        }
        Action::Bench { json, against, mut arguments } => {
            if let Some(path) = json {
                let path = std::path::absolute(path)?;
                arguments.push(format!("--json={}", path.display()));
            }
            if let Some(object) = against {
                let object = std::path::absolute(object)?;
                arguments.push(format!("--against={}", object.display()));
            }
            test::run_with_bed("bench", Profile::Release, &arguments)
        }
        Action::Clippy => test::clippy(),
        Action::CleanBed => {
            let found = test::clean()?;
            for what in &found {
                println!("removed {what}");
            }
            if found.is_empty() {
                println!("nothing was left behind");
            }
            Ok(())
        }
    }
}

const fn profile(release: bool) -> Profile {
    if release { Profile::Release } else { Profile::Dev }
}
