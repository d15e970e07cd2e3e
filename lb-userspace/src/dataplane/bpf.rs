//! The kernel's maps and programs: a placeholder with the signature that the command line calls.

use std::path::Path;

/// Removes the program from its interfaces and the pins under `pin_dir`; answers a line for each
/// thing removed.
///
/// # Errors
/// Always: this build has no dataplane yet.
pub fn detach(pin_dir: &Path) -> anyhow::Result<Vec<String>> {
    anyhow::bail!("failed to detach {}: this build has no dataplane", pin_dir.display())
}
