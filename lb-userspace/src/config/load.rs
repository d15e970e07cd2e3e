//! From a file to a checked [`Config`], or to a [`Report`] of all its mistakes.

use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};
use toml::de::DeTable;

use super::report::{Report, Sink};
use super::{Config, check, raw};

/// Which `[node.NAME]` of the file this host is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeChoice {
    /// The one with this name, as the operator says.
    Named(String),
    /// The one with the host's name; a qualified name also fits a node named by its first label.
    HostName(String),
    /// Any, the first: for a check of the file on another host.
    Any,
}

/// A file that was loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// What it says.
    pub config: Config,
    /// What is allowed but probably not meant, a line each: `lb.toml:7:3: ...`.
    pub warnings: Vec<String>,
}

/// Longest file that is read: many times what the largest possible configuration needs.
const LONGEST_FILE: u64 = 16 << 20;

/// Reads and checks a file.
///
/// # Errors
///
/// All mistakes of the file, or why it cannot be read.
pub fn load(path: &Path, node: &NodeChoice) -> Result<Loaded, Report> {
    let fail = |what: String| Err(Report::without_place(path, what, None));
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(LONGEST_FILE + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return fail(format!("failed to read the configuration: {error}"));
    }
    if bytes.len() as u64 > LONGEST_FILE {
        return fail(format!("the file is larger than {} MiB", LONGEST_FILE >> 20));
    }
    match String::from_utf8(bytes) {
        Ok(text) => parse(path, &text, node),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let mut sink = Sink::new(&text);
            sink.mistake(&(valid..valid + 1), "the file is not UTF-8 from here on");
            Err(sink.into_report(path))
        }
    }
}

/// Checks a file's text; `path` is for messages only.
///
/// # Errors
///
/// All mistakes of the file. A syntax error is reported without the rest, which cannot be
/// understood then.
pub fn parse(path: &Path, text: &str, node: &NodeChoice) -> Result<Loaded, Report> {
    // The parser allows 80 levels of braces with dotted keys of 80 levels in each, and dropping
    // such a tree recurses: more than the 2 MiB of a usual thread.
    const STACK: usize = 32 << 20;
    std::thread::scope(|scope| {
        let parse = || parse_here(path, text, node);
        let thread = std::thread::Builder::new().name("config".to_owned()).stack_size(STACK);
        match thread.spawn_scoped(scope, parse) {
            Ok(handle) => handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(error) => {
                let message = format!("failed to start a thread that reads the file: {error}");
                Err(Report::without_place(path, message, None))
            }
        }
    })
}

fn parse_here(path: &Path, text: &str, node: &NodeChoice) -> Result<Loaded, Report> {
    const DUPLICATE: &str = "duplicate key";
    let mut sink = Sink::new(text);
    let (root, errors) = DeTable::parse_recoverable(text);
    // After a duplicate the parser goes on with the first value, or both tables as one, and so
    // can we. What follows any other error is guesswork.
    let (duplicates, broken): (Vec<_>, Vec<_>) =
        errors.iter().partition(|error| error.message() == DUPLICATE);
    for error in &duplicates {
        let span = error.span().unwrap_or(0..0);
        let key = super::wording::quoted(text.get(span.clone()).unwrap_or_default());
        sink.mistake(&span, format!("{key} is there twice"))
            .hint("a key or table may stand once: join the two, or remove one");
    }
    let first = broken.iter().min_by_key(|error| error.span().map_or(0, |span| span.start));
    if let Some(error) = first {
        let message = format!("syntax error: {}", error.message().replace('\n', "; "));
        sink.mistake(&error.span().unwrap_or(0..0), message);
        return Err(sink.into_report(path));
    }
    let file = raw::File::read(&mut sink, root.get_ref());
    let digest = Sha256::digest(text.as_bytes());
    let digest = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let config = check::check(&mut sink, path, digest, &file, node);
    let report = sink.into_report(path);
    match config {
        Some(config) if report.mistakes().is_empty() => {
            Ok(Loaded { config, warnings: report.warnings() })
        }
        Some(_) | None => Err(report),
    }
}
