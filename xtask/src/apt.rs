//! Installs Debian packages without the surprises: no questions, no services started, no
//! leftovers.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::run::{output, quietly, stopped};

/// Asked by package scripts before they start a service (invoke-rc.d(8)).
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Whether a package is installed.
pub fn has(package: &str) -> bool {
    output(Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]))
        .is_some_and(|status| status == "installed")
}

/// Installs packages. Asks the archive for its present state first.
pub fn install(packages: &[&str]) -> Result<()> {
    let _policy = NoServices::declare()?;
    quietly("asking for the list of packages", "apt-update", apt().arg("update"))?;
    let what = format!("installing {}", packages.join(" "));
    let mut command = apt();
    command.args(["install", "--yes", "--no-install-recommends"]).args(packages);
    let Err(error) = quietly(&what, "apt-install", &mut command) else { return Ok(()) };
    if stopped().is_some() {
        return Err(error);
    }
    // Images made for containers delete downloaded archives between two phases of one
    // installation, which fails when a basic package is replaced; the second attempt ends it.
    let mut repair = apt();
    repair.args(["install", "--fix-broken", "--yes", "--no-install-recommends"]);
    if quietly("repairing after a failed installation", "apt-repair", &mut repair).is_err() {
        return Err(error);
    }
    quietly(&what, "apt-install", &mut command)
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").env("NEEDRESTART_MODE", "l");
    command.args(["-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=3"]);
    command
}

/// While it lives, package scripts start no service. A policy that is already there stays.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn declare() -> Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(POLICY)
            .with_context(|| format!("failed to make {POLICY}"))?;
        let policy = Self { ours: true };
        file.write_all(b"#!/bin/sh\nexit 101\n")
            .and_then(|()| file.set_permissions(fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("failed to write {POLICY}"))?;
        Ok(policy)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("failed to remove {POLICY}, which keeps services from starting: {error}");
        }
    }
}
