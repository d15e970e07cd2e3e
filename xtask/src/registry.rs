//! The register of test beds: who made which, and how to take one down from outside.
//!
//! A bed is known by its prefix, `lbt<pid>-<n>-`. Everything that it makes can be found from
//! there: its directory `/run/lb-bed/<prefix>`, mounts under that directory, the network
//! namespaces `/run/netns/<prefix>*`, and the processes that live in those namespaces. So a bed
//! can be removed by somebody who knows nothing else of it, and nothing but a bed is touched.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Directory that holds a directory for each bed.
pub const ROOT: &str = "/run/lb-bed";
/// Where `ip netns` keeps its namespaces.
const NAMESPACES: &str = "/run/netns";
/// How every bed's prefix begins.
const PREFIX: &str = "lbt";
/// Name of the file that tells the owner.
const OWNER: &str = "owner";
/// How long processes have between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// A process, told apart from a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its process number.
    pub pid: i32,
    /// Its start, in clock ticks since boot (field 22 of `/proc/<pid>/stat`, proc_pid_stat(5)).
    pub started: u64,
}

impl Owner {
    /// The process of this number that runs now, if there is one.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command's name is in brackets and may hold anything, brackets too.
        let fields = &stat[stat.rfind(')')? + 1..];
        // What follows the name begins with field 3, the state.
        if fields.trim_start().starts_with('Z') {
            return None;
        }
        let started = fields.split_whitespace().nth(22 - 3)?.parse().ok()?;
        Some(Self { pid, started })
    }

    /// Whether it still runs.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// The directory of a bed.
pub fn directory(prefix: &str) -> PathBuf {
    Path::new(ROOT).join(prefix)
}

/// The prefix of this process's `n`th bed.
pub fn prefix(n: u32) -> String {
    format!("{PREFIX}{}-{n}-", std::process::id())
}

/// Makes a bed's directory and writes its owner, this process, into it. To be called before
/// anything else of the bed is made.
pub fn register(prefix: &str) -> io::Result<PathBuf> {
    let owner = Owner::of(std::process::id().cast_signed())
        .ok_or_else(|| io::Error::other("this process is not to be found in /proc"))?;
    let directory = directory(prefix);
    let mut attempts = 0;
    loop {
        fs::create_dir_all(ROOT)?;
        match fs::create_dir(&directory) {
            Ok(()) => break,
            // Somebody else just removed the empty register.
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempts < 100 => {
                attempts += 1;
            }
            Err(error) => return Err(error),
        }
    }
    fs::write(directory.join(OWNER), format!("{} {}\n", owner.pid, owner.started))?;
    Ok(directory)
}

/// Prefixes of the beds whose owner is gone: what killed runs left behind.
pub fn leftovers() -> BTreeSet<String> {
    let beds = names(Path::new(ROOT)).into_iter().filter(|name| owner_in(name).is_some());
    let namespaces = names(Path::new(NAMESPACES))
        .into_iter()
        .filter_map(|name| Some(name[..prefix_length(&name)?].to_owned()));
    beds.chain(namespaces).filter(|prefix| !is_owned(prefix)).collect()
}

/// What is there of a bed, a line each; empty when it is gone.
pub fn remains(prefix: &str) -> Vec<String> {
    let mut remains = Vec::new();
    for pid in processes(prefix) {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        remains.push(format!("process {pid} ({})", name.trim()));
    }
    remains.extend(mounts(prefix).iter().map(|path| format!("mount {}", path.display())));
    remains.extend(namespaces(prefix).iter().map(|path| format!("namespace {}", path.display())));
    let directory = directory(prefix);
    if directory.exists() {
        remains.push(format!("directory {}", directory.display()));
    }
    remains
}

/// Removes a bed: its processes, mounts, namespaces and files. Goes on after a failure, so that
/// as much as possible goes; the error is the first one.
pub fn remove(prefix: &str) -> io::Result<()> {
    // A prefix that is too short would match the beds of others.
    if prefix_length(prefix) != Some(prefix.len()) {
        return Err(io::Error::other(format!("`{prefix}` is no bed's prefix")));
    }
    let mut result = end_processes(prefix);
    for mount in mounts(prefix) {
        result = result.and(umount2(&mount, MntFlags::MNT_DETACH).map_err(io::Error::from));
    }
    for namespace in namespaces(prefix) {
        let unmounted = match umount2(&namespace, MntFlags::MNT_DETACH) {
            // Made, but not yet mounted, when its owner died.
            Ok(()) | Err(Errno::EINVAL) => Ok(()),
            Err(error) => Err(error.into()),
        };
        result = result.and(unmounted).and(fs::remove_file(&namespace));
    }
    let removed = match fs::remove_dir_all(directory(prefix)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    // Others may still have beds there; the last one takes the register with it.
    let _ = fs::remove_dir(ROOT);
    result.and(removed)
}

/// Ends every process in the bed's namespaces: politely first, then without asking.
fn end_processes(prefix: &str) -> io::Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let deadline = Instant::now() + GRACE;
        for pid in processes(prefix) {
            match kill(Pid::from_raw(pid), signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        while !processes(prefix).is_empty() && Instant::now() < deadline {
            sleep(Duration::from_millis(10));
        }
    }
    match processes(prefix).first() {
        None => Ok(()),
        Some(pid) => Err(io::Error::other(format!("process {pid} of bed {prefix} does not end"))),
    }
}

/// Processes, other than this one, whose main thread lives in a namespace of the bed. A dead
/// process that nobody waited for has no namespace any more and is not among them.
fn processes(prefix: &str) -> Vec<i32> {
    let identity = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let inside: HashSet<_> =
        namespaces(prefix).iter().filter_map(|path| identity(path.as_path())).collect();
    if inside.is_empty() {
        return Vec::new();
    }
    let me = std::process::id().cast_signed();
    names(Path::new("/proc"))
        .iter()
        .filter_map(|name| name.parse::<i32>().ok())
        .filter(|&pid| pid != me)
        .filter(|pid| {
            identity(Path::new(&format!("/proc/{pid}/ns/net")))
                .is_some_and(|namespace| inside.contains(&namespace))
        })
        .collect()
}

fn namespaces(prefix: &str) -> Vec<PathBuf> {
    names(Path::new(NAMESPACES))
        .into_iter()
        .filter(|name| name.starts_with(prefix))
        .map(|name| Path::new(NAMESPACES).join(name))
        .collect()
}

/// Mount points under the bed's directory, the innermost first.
fn mounts(prefix: &str) -> Vec<PathBuf> {
    let inside = directory(prefix);
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // Field 5 is the mount point, proc_pid_mountinfo(5). Ours have no blanks to unescape.
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut points: Vec<_> = points.filter(|point| point.starts_with(&inside)).collect();
    points.reverse();
    points
}

/// Whether the bed's owner runs. A bed that has just been made may not have its file yet: then
/// the number in the prefix decides.
fn is_owned(prefix: &str) -> bool {
    match fs::read_to_string(directory(prefix).join(OWNER)).ok().as_deref().and_then(parse_owner) {
        Some(owner) => owner.is_alive(),
        None => owner_in(prefix).is_some_and(|pid| Owner::of(pid).is_some()),
    }
}

fn parse_owner(text: &str) -> Option<Owner> {
    let (pid, started) = text.trim().split_once(' ')?;
    Some(Owner { pid: pid.parse().ok()?, started: started.parse().ok()? })
}

/// The process number in a bed's prefix.
fn owner_in(prefix: &str) -> Option<i32> {
    if prefix_length(prefix)? != prefix.len() {
        return None;
    }
    prefix[PREFIX.len()..].split('-').next()?.parse().ok()
}

/// How much of a name is a bed's prefix, `lbt<pid>-<n>-`.
fn prefix_length(name: &str) -> Option<usize> {
    let mut rest = name.strip_prefix(PREFIX)?;
    for _ in 0..2 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return None;
        }
        rest = rest[digits..].strip_prefix('-')?;
    }
    Some(name.len() - rest.len())
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_told_from_the_names_of_others() {
        assert_eq!(prefix_length("lbt12-3-web1"), Some("lbt12-3-".len()));
        for other in ["lbt", "lbt-1-", "lbt12", "lbt12-", "lbt12-3", "lbt12-x-", "docker0", ""] {
            assert_eq!(prefix_length(other), None, "{other}");
        }
    }

    #[test]
    fn an_owner_is_this_process_only_with_its_start() {
        let me = Owner::of(std::process::id().cast_signed()).expect("this process runs");
        assert!(me.is_alive());
        assert!(!Owner { started: me.started + 1, ..me }.is_alive());
    }

    #[test]
    fn a_name_that_is_no_prefix_removes_nothing() {
        for name in ["", "lbt", "lbt1", "lbt1-2-web1"] {
            assert!(remove(name).is_err(), "{name}");
        }
    }
}
