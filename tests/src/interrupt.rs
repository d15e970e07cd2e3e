//! Takes the beds of this process down when it is told to end.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use nix::fcntl::OFlag;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use nix::unistd::pipe2;
use xtask::registry;

/// Prefixes of the beds that are up.
static UP: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
/// Where the handler writes the signal's number, for the thread that does the work.
static WAKE: AtomicI32 = AtomicI32::new(-1);
static INSTALLED: Once = Once::new();

/// From now on the bed goes when the process is told to end.
pub fn watch(prefix: &str) {
    INSTALLED.call_once(install);
    up().insert(prefix.to_owned());
}

/// Removes a bed in order. If the process has been told to end, waits for that instead.
pub fn remove(prefix: &str) -> io::Result<()> {
    let mut up = up();
    let removed = registry::remove(prefix);
    up.remove(prefix);
    removed
}

fn up() -> MutexGuard<'static, BTreeSet<String>> {
    UP.lock().unwrap_or_else(PoisonError::into_inner)
}

extern "C" fn wake(signal: i32) {
    let byte = [signal.to_le_bytes()[0]];
    // SAFETY: write(2) may be called in a signal handler; the buffer is one byte on our stack. A
    // pipe that is full already has a signal in it.
    unsafe { libc::write(WAKE.load(Ordering::SeqCst), byte.as_ptr().cast(), 1) };
}

fn install() {
    let (read, write): (OwnedFd, OwnedFd) = pipe2(OFlag::O_CLOEXEC).expect("failed to make a pipe");
    WAKE.store(write.as_raw_fd(), Ordering::SeqCst);
    // The handler needs it as long as the process lives.
    std::mem::forget(write);
    std::thread::Builder::new()
        .name("interrupt".to_owned())
        .spawn(move || take_down(read))
        .expect("failed to start the thread that removes beds");
    let action = SigAction::new(SigHandler::Handler(wake), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only writes to a pipe.
        unsafe { sigaction(signal, &action) }.expect("failed to install a signal handler");
    }
}

fn take_down(read: OwnedFd) {
    let mut byte = [0];
    if std::fs::File::from(read).read_exact(&mut byte).is_err() {
        return;
    }
    // What fails from here on fails because its bed goes away.
    std::panic::set_hook(Box::new(|_| {}));
    // Never given back: no bed comes or goes any more.
    let beds = up();
    for prefix in beds.iter() {
        if let Err(error) = registry::remove(prefix) {
            eprintln!("failed to remove bed {prefix}: {error}");
        }
    }
    // End by the same signal, so that whoever waits for us sees why.
    let signal = Signal::try_from(i32::from(byte[0])).unwrap_or(Signal::SIGTERM);
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action is no code of ours.
    if unsafe { sigaction(signal, &default) }.is_ok() {
        let _ = raise(signal);
    }
    std::process::exit(1);
}
