//! `cargo xtask bench`: nanoseconds per packet.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
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
    let outcomes = bench::run(bpffs.path(), &flags.lab, effort, &flags.filter)?;
    println!("{}", bench::table(&outcomes));
    if let Some(path) = &flags.json {
        let text = serde_json::to_string_pretty(&bench::json(&outcomes))?;
        std::fs::write(path, text + "\n")
            .with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}
