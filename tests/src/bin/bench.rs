//! `cargo xtask bench`: nanoseconds per packet.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lb_tests::bed::Bpffs;
use lb_tests::bench::{self, Effort};

/// Measures what a packet costs.
#[derive(Parser)]
struct Flags {
    /// Only cases with this in their name.
    #[arg(default_value = "")]
    filter: String,
    /// Also write the figures to a file.
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
    /// Rounds that count; every case runs once in each.
    #[arg(long, default_value_t = 21, value_parser = clap::value_parser!(u32).range(1..1000))]
    rounds: u32,
    /// Packets per case and round.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Measure steady cases also with the first program of another object, built from another
    /// commit; nothing else then.
    #[arg(long, value_name = "OBJECT")]
    against: Option<PathBuf>,
    /// The object with the driver and the floor programs.
    #[arg(long, env = "LB_LAB_OBJECT", default_value = "target/bpf/lb-lab")]
    lab: PathBuf,
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> Result<()> {
    let bpffs = Bpffs::new("bench");
    let effort = Effort { rounds: flags.rounds as usize, repeat: flags.repeat };
    // First, while memory is fresh.
    let steps = match flags.against {
        None => bench::run_control(bpffs.path(), &flags.filter)?,
        Some(_) => Vec::new(),
    };
    let against = flags.against.as_deref();
    let outcomes = bench::run(bpffs.path(), &flags.lab, against, effort, &flags.filter)?;
    ensure!(
        !steps.is_empty() || !outcomes.is_empty(),
        "no case has `{}` in its name",
        flags.filter
    );
    if !outcomes.is_empty() {
        println!("{}\n", bench::table(&outcomes));
    }
    if !steps.is_empty() {
        println!("{}", bench::control_table(&steps));
    }
    if let Some(path) = &flags.json {
        let text = serde_json::to_string_pretty(&bench::json(&outcomes, &steps))?;
        std::fs::write(path, text + "\n")
            .with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}
