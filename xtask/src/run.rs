//! Runs commands: shows that something goes on, keeps what they say, passes Ctrl-C on.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, killpg, sigaction};
use nix::unistd::Pid;

/// Lines of a log that are shown when its command failed.
const TAIL: usize = 40;
/// How long a command may take to end after Ctrl-C.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a quiet command says that it still runs.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// The signal that asked us to stop; 0 for none.
static STOP: AtomicI32 = AtomicI32::new(0);

extern "C" fn remember(signal: i32) {
    STOP.store(signal, Ordering::SeqCst);
}

/// Makes SIGINT and SIGTERM end the running command first, and us after it.
pub fn catch_signals() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(remember), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler only stores into an atomic.
        unsafe { sigaction(signal, &action) }
            .with_context(|| format!("failed to install a handler for {signal}"))?;
    }
    Ok(())
}

/// The signal that asked us to stop, if one did.
pub fn stopped() -> Option<i32> {
    Some(STOP.load(Ordering::SeqCst)).filter(|&signal| signal != 0)
}

/// The workspace's directory.
pub fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Where cargo puts what it builds for the host.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => workspace().join(directory),
        None => workspace().join("target"),
    }
}

/// Runs a command with its output hidden in `target/xtask/<log>.log`; its end is shown if the
/// command fails. `what` is said before: `installing nginx-light`.
pub fn quietly(what: &str, log: &str, command: &mut Command) -> Result<()> {
    let path = workspace().join("target/xtask").join(format!("{log}.log"));
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("failed to make {}", directory.display()))?;
    }
    let file = File::create(&path).with_context(|| format!("failed to make {}", path.display()))?;
    let also = file.try_clone().context("failed to share a log file")?;
    eprintln!("  {what}");
    let begun = Instant::now();
    let mut beat = begun;
    let status = finish(command.stdout(file).stderr(also), || {
        if beat.elapsed() >= HEARTBEAT {
            beat = Instant::now();
            eprintln!("    {:>3} s  {}", begun.elapsed().as_secs(), last_lines(&path, 1));
        }
    })?;
    if !status.success() {
        bail!(
            "{what} failed ({status}); the end of {}:\n{}",
            path.display(),
            last_lines(&path, TAIL)
        );
    }
    eprintln!("    done in {:.1} s", begun.elapsed().as_secs_f32());
    Ok(())
}

/// Runs a command that shows its own progress.
pub fn openly(what: &str, command: &mut Command) -> Result<()> {
    let status = finish(command, || {})?;
    if !status.success() {
        bail!("{what} failed ({status})");
    }
    Ok(())
}

/// What a short command prints, or `None` if it cannot be run or fails.
pub fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Waits for a command. It gets a process group of its own: so Ctrl-C at the terminal reaches it
/// once, through us, and whatever it started with it.
fn finish(command: &mut Command, mut meanwhile: impl FnMut()) -> Result<ExitStatus> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .with_context(|| format!("failed to start {name}"))?;
    let mut asked = None;
    loop {
        if let Some(status) =
            child.try_wait().with_context(|| format!("failed to wait for {name}"))?
        {
            if let Some(signal) = stopped() {
                bail!("stopped by signal {signal}");
            }
            return Ok(status);
        }
        match (stopped(), asked) {
            (Some(signal), None) => {
                asked = Some(Instant::now());
                pass_on(&child, Signal::try_from(signal).unwrap_or(Signal::SIGTERM));
            }
            (_, Some(since)) if since.elapsed() > PATIENCE => pass_on(&child, Signal::SIGKILL),
            _ => meanwhile(),
        }
        sleep(Duration::from_millis(20));
    }
}

/// Signals a command's process group. It may have just ended: then there is nobody to tell.
fn pass_on(child: &Child, signal: Signal) {
    let _ = killpg(Pid::from_raw(child.id().cast_signed()), signal);
}

/// The last lines of a file that may be written to meanwhile, at most 16 KiB.
fn last_lines(path: &Path, count: usize) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(16 * 1024)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
