//! A program that runs in a node until it is told to end.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// How long a program has between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// A running program, with what it says in a file. Ends when it is dropped.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Daemon {
    /// Starts a program; standard output and standard error are added to `log`.
    #[track_caller]
    pub fn start(name: &str, log: PathBuf, mut command: Command) -> Self {
        let file = File::options().append(true).create(true).open(&log);
        let file = file.unwrap_or_else(|e| panic!("failed to open {}: {e}", log.display()));
        let also = file.try_clone().expect("failed to share a log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(also)
            // A group of its own: Ctrl-C is the bed's business, and helpers can be killed with it.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("failed to start {name}: {error}"));
        Self { name: name.to_owned(), child, log, ended: None }
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("failed to look after a child process");
        }
        self.ended.is_none()
    }

    /// Sends a signal to the program itself.
    #[track_caller]
    pub fn signal(&mut self, signal: Signal) {
        assert!(self.is_alive(), "{} is to get {signal}, but has ended", self.name);
        kill(self.group(), signal)
            .unwrap_or_else(|error| panic!("failed to send {signal} to {}: {error}", self.name));
    }

    /// Ends the program and all its helpers at once, by SIGKILL: none can clean up.
    pub fn kill(&mut self) {
        if self.is_alive() {
            // The group may be gone already; waiting tells.
            let _ = killpg(self.group(), Signal::SIGKILL);
            self.ended = self.child.wait().ok();
        }
    }

    /// Ends the program by SIGTERM, and by SIGKILL if it does not care.
    pub fn stop(&mut self) -> Option<ExitStatus> {
        if self.is_alive() {
            let _ = kill(self.group(), Signal::SIGTERM);
            let deadline = Instant::now() + GRACE;
            while self.is_alive() && Instant::now() < deadline {
                sleep(Duration::from_millis(5));
            }
            self.kill();
        }
        self.ended
    }

    /// Waits until it ends by itself. Panics if it does not in time.
    #[track_caller]
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        while self.is_alive() && Instant::now() < deadline {
            sleep(Duration::from_millis(5));
        }
        self.ended.unwrap_or_else(|| {
            panic!("{} did not end within {patience:?}; it said:\n{}", self.name, self.log())
        })
    }

    /// All that it has said.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_else(|error| format!("(no log: {error})"))
    }

    /// The program's process group, which has its number.
    fn group(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}
