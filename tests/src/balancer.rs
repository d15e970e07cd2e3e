//! The balancer under test: `lb run` in a node, and its command line.

use std::env;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::bed::{Bed, artefact};
use crate::daemon::Daemon;
use crate::node::Node;
use crate::wait::wait_until;
use crate::web::{Authority, HOST};

/// How long the daemon may take to answer after its start.
const START: Duration = Duration::from_secs(10);

/// A balancer in a node, with files, socket and pins of its own.
#[derive(Debug)]
pub struct Balancer {
    node: Node,
    binary: PathBuf,
    pins: PathBuf,
    daemon: Option<Daemon>,
}

/// What a run of the command line gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Balancer {
    /// A balancer that does not run yet, in a node that [`Bed::lb_node`] made.
    #[track_caller]
    pub fn new(bed: &Bed, node: &Node) -> Self {
        let mut binary = artefact("LB_BIN", "target/debug/lb");
        if env::var_os("LB_BIN").is_none() && !binary.exists() {
            binary = artefact("LB_BIN", "target/release/lb");
        }
        assert!(binary.exists(), "{} is not built: `cargo xtask build`", binary.display());
        let pins = bed.bpf_directory(node).join("lb");
        Self { node: node.clone(), binary, pins, daemon: None }
    }

    /// The node that it runs in.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// From the next start on it is another file, a copy of the program, as after an upgrade.
    #[track_caller]
    pub fn upgrade(&mut self) {
        let copy = self.node.directory().join("lb-upgraded");
        fs::copy(&self.binary, &copy).expect("failed to copy lb");
        self.binary = copy;
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.node.directory().join("lb.toml")
    }

    /// Its unix socket.
    pub fn socket(&self) -> PathBuf {
        self.node.directory().join("lb.sock")
    }

    /// Where its maps and links are pinned.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// The head of a configuration for this node: interface `eth0`, a lease of one second, and
    /// all paths inside the bed.
    pub fn preamble(&self) -> String {
        format!(
            "version = 1

[node.{name}]
interfaces = [\"eth0\"]

[dataplane]
lease     = \"1s\"
pin-dir   = \"{pins}\"
state-dir = \"{state}\"

[admin]
socket = {{ path = \"{socket}\" }}
",
            name = self.node.name(),
            pins = self.pins.display(),
            state = self.node.directory().join("state").display(),
            socket = self.socket().display(),
        )
    }

    /// Writes the whole configuration file.
    #[track_caller]
    pub fn write_config(&self, text: &str) {
        fs::write(self.config(), text).expect("failed to write lb.toml");
    }

    /// Starts the daemon and waits until it answers on its socket.
    #[track_caller]
    pub fn start(&mut self) {
        assert!(self.daemon.is_none(), "the balancer is to start, but has not been stopped");
        let mut command = self.node.command(&self.binary.to_string_lossy());
        command.arg("run").arg("--config").arg(self.config());
        command.args(["--node", self.node.name()]);
        let mut daemon = self.node.spawn("lb", command);
        wait_until(START, "lb run answers on its socket", || {
            // Waiting would not bring it back.
            assert!(daemon.is_alive(), "lb run ended, saying:\n{}", daemon.log());
            match self.lb(&["-o", "json", "status"]) {
                Answer { code: Some(0), .. } => Ok(()),
                answer => Err(format!("{answer:?}; the daemon said:\n{}", daemon.log())),
            }
        });
        self.daemon = Some(daemon);
    }

    /// Ends the daemon by SIGTERM.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        let mut daemon = self.daemon.take().expect("the balancer is to stop, but does not run");
        daemon.stop().expect("a daemon that was stopped has no exit status")
    }

    /// Ends the daemon by SIGKILL.
    #[track_caller]
    pub fn kill(&mut self) {
        self.daemon.take().expect("the balancer is to die, but does not run").kill();
    }

    /// Ends the daemon by SIGTERM and starts it again.
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop();
        self.start();
    }

    /// Sends a signal to the daemon: SIGHUP reloads.
    #[track_caller]
    pub fn signal(&mut self, signal: Signal) {
        self.daemon.as_mut().expect("a balancer that does not run gets no signal").signal(signal);
    }

    /// Whether the daemon runs.
    pub fn is_alive(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(Daemon::is_alive)
    }

    /// All that the daemon has said, over all its starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.node.directory().join("lb.log")).unwrap_or_default()
    }

    /// Runs the command line against this balancer.
    #[track_caller]
    pub fn lb(&self, arguments: &[&str]) -> Answer {
        let output = self
            .node
            .command(&self.binary.to_string_lossy())
            .arg("--socket")
            .arg(self.socket())
            .args(arguments)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .output()
            .expect("failed to start lb");
        Answer {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs the command line, which must succeed, and gives its standard output.
    #[track_caller]
    pub fn lb_ok(&self, arguments: &[&str]) -> String {
        let answer = self.lb(arguments);
        assert_eq!(answer.code, Some(0), "lb {arguments:?}: {answer:?}\n{}", self.log());
        answer.stdout
    }

    /// The same with `-o json`.
    #[track_caller]
    pub fn lb_json(&self, arguments: &[&str]) -> Value {
        let text = self.lb_ok(&[&["-o", "json"], arguments].concat());
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("lb {arguments:?} printed no JSON ({error}): {text}"))
    }

    /// A field of a backend, such as `state` or `weight`, as `lb status` tells it.
    #[track_caller]
    pub fn backend(&self, id: &str, field: &str) -> Value {
        let status = self.lb_json(&["status"]);
        let services = status["services"].as_array().into_iter().flatten();
        let mut backends = services.flat_map(|s| s["backends"].as_array().into_iter().flatten());
        let backend = backends.find(|backend| backend["id"] == id);
        backend.unwrap_or_else(|| panic!("lb status has no backend {id}: {status:#}"))[field]
            .clone()
    }

    /// Waits until a backend is in this state: `serving`, `draining`, `down` ...
    #[track_caller]
    pub fn wait_for_state(&self, id: &str, state: &str, patience: Duration) {
        wait_until(patience, &format!("{id} is {state}"), || {
            let found = self.backend(id, "state");
            let check = || format!("{found}, {}", self.backend(id, "check"));
            if found == state { Ok(()) } else { Err(check()) }
        });
    }
}

/// A service `web` of these backends on port 443 of the addresses, probed quickly by HTTPS.
pub fn web_service(vips: &[IpAddr], authority: &Authority, backends: &[&Node]) -> String {
    let listeners: Vec<String> = vips.iter().map(|vip| listener(*vip, 443)).collect();
    let lines: Vec<String> = backends.iter().map(|node| backend(node, "")).collect();
    service("web", &listeners, &https_check(authority), &lines)
}

/// A service as the file tells it: listeners, the inside of its table `check`, and a line for
/// each backend.
pub fn service(
    name: &str,
    listeners: &[impl AsRef<str>],
    check: &str,
    backends: &[impl AsRef<str>],
) -> String {
    let listen: Vec<_> = listeners.iter().map(|l| format!("\"{}\"", l.as_ref())).collect();
    let lines: Vec<_> = backends.iter().map(AsRef::as_ref).collect();
    format!(
        "
[service.{name}]
listen = [{}]

[service.{name}.check]
{check}

[service.{name}.backend]
{}
",
        listen.join(", "),
        lines.join("\n"),
    )
}

/// A listener for TCP, as the file writes it.
pub fn listener(vip: IpAddr, port: u16) -> String {
    SocketAddr::new(vip, port).to_string()
}

/// The line of a backend, with more about it, such as `, weight = 50`.
pub fn backend(node: &Node, more: &str) -> String {
    format!("{} = {{ address = \"{}\"{more} }}", node.name(), node.ipv4())
}

/// A check by HTTPS of what the bed's web servers tell of their health.
pub fn https_check(authority: &Authority) -> String {
    format!(
        "type          = \"https\"
port          = 443
path          = \"/healthz\"
host          = \"{HOST}\"
expect        = [200]
verify        = {{ ca = \"{}\" }}
{QUICK}",
        authority.ca().display(),
    )
}

/// A check's times, short ones.
pub const QUICK: &str = "interval      = \"500ms\"
fast-interval = \"200ms\"
timeout       = \"1s\"
rise          = 2
fall          = 2";
