//! Tests that need root say so, and are counted where there is none.

use std::fs::OpenOptions;
use std::io::Write;

use nix::unistd::Uid;

/// Whether this process may make namespaces and load BPF programs. If not, the test must return;
/// it is added to the list that `cargo xtask test` prints at its end (the file that
/// `LB_SKIPPED_TESTS` names), so that it is never skipped in silence.
#[must_use]
pub fn is_root_or_skips(test: &str) -> bool {
    if Uid::effective().is_root() {
        return true;
    }
    let line = format!("{test}: needs root");
    eprintln!("SKIPPED {line}");
    if let Some(path) = std::env::var_os("LB_SKIPPED_TESTS") {
        let written = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
        if let Err(error) = written {
            panic!("failed to note a skipped test in {}: {error}", path.display());
        }
    }
    false
}
