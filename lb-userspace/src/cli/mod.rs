//! The command line: arguments to an answer, the answer to stdout, errors once to stderr.
//!
//! Data goes to stdout, talk to stderr. Exit codes: 0 done, 1 failed, 2 usage, 3 no such
//! object, 4 daemon not reachable, 6 configuration invalid.

mod args;
mod ask;
mod backend;
mod failure;
mod host;
#[cfg(test)]
mod tests;

use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use jiff::Timestamp;
use tokio::runtime;

use crate::output::{self, Answer, Format, Screen};
use args::{Cli, Global, Verb};
use failure::Failure;

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    // A usage error ends the process here, with clap's exit code 2.
    let cli = Cli::parse();
    let done = match cli.verb {
        Verb::Run { config, node } => host::run(config, node),
        verb => perform_and_print(verb, &cli.global),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let styled = may_style(&cli.global, &std::io::stderr());
            // Nobody reads stderr: there is nobody to tell that either.
            let _ = std::io::stderr().write_all(failure.words(styled).as_bytes());
            ExitCode::from(failure.code())
        }
    }
}

/// Colours and bold type are for terminals whose user did not refuse them (no-color.org).
fn may_style(global: &Global, stream: &impl IsTerminal) -> bool {
    let refused = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
    stream.is_terminal() && !global.no_color && !refused("NO_COLOR") && !dumb
}

fn perform_and_print(verb: Verb, global: &Global) -> Result<(), Failure> {
    let screen = Screen { styled: may_style(global, &std::io::stdout()), now: Timestamp::now() };
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let printed = runtime.block_on(perform(verb, global, &screen))?;
    print(&printed.text)?;
    match printed.failure {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

/// What a verb puts on stdout, and the failure that comes after it, if any.
#[derive(Debug)]
struct Printed {
    text: String,
    failure: Option<Failure>,
}

impl Printed {
    /// An answer in the format that was asked for.
    fn answer(answer: &impl Answer, format: Format, screen: &Screen) -> Result<Self, Failure> {
        let text =
            output::text(answer, format, screen).context("failed to put the answer into JSON")?;
        Ok(Self { text, failure: None })
    }
}

/// Carries out every verb but `run`.
async fn perform(verb: Verb, global: &Global, screen: &Screen) -> Result<Printed, Failure> {
    match verb {
        Verb::Run { .. } => Err(Failure::from(anyhow::anyhow!("`run` is no single answer"))),
        Verb::Check { file, node } => host::check(&file, node, global.output, screen),
        Verb::Detach { config, force } => host::detach(&config, force, global, screen).await,
        Verb::Decap(args) => backend::decap(args, global, screen),
        Verb::Backend { what: args::Backend::Setup(setup) } => {
            backend::setup(setup, global, screen).await
        }
        verb => ask::daemon(verb, global, screen).await,
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // The reader has seen enough: `lb backends | head -1`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done.context("failed to write to stdout")?),
    }
}
