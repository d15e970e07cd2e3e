//! Files that are whole after a crash at any moment: the old ones or the new ones.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;

/// Replaces a file, or makes it, and its directory if that is not there.
pub fn replace(directory: &Path, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    fs::create_dir_all(directory).context("failed to create the state directory")?;
    let temporary = directory.join(format!(".{name}.new"));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(&temporary)
        .with_context(|| format!("failed to create {}", temporary.display()))?;
    file.write_all(bytes).context("failed to write the bytes")?;
    file.sync_all().context("failed to sync the file")?;
    fs::rename(&temporary, directory.join(name))
        .context("failed to rename the new file over the old")?;
    // The rename itself is on disk only once the directory is.
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .context("failed to sync the state directory")
}
