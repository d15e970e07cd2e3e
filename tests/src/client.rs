//! A client that asks by HTTPS with curl, a new connection for each request.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Stdio;

use crate::node::Node;
use crate::web::{Authority, HOST};

/// Curls that run at the same time.
const PARALLEL: usize = 4;

/// A client in a node that trusts the bed's authority.
#[derive(Clone, Debug)]
pub struct Client {
    node: Node,
    ca: PathBuf,
}

/// What became of a number of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Answers of status 200, by the server that gave them.
    pub answers: BTreeMap<String, usize>,
    /// The other requests: what curl says of each, or the status.
    pub failures: Vec<String>,
}

impl Tally {
    /// Answers of one server.
    pub fn of(&self, server: &str) -> usize {
        self.answers.get(server).copied().unwrap_or(0)
    }

    /// Answers of all.
    pub fn total(&self) -> usize {
        self.answers.values().sum()
    }

    /// Adds those of others.
    pub(crate) fn add(&mut self, other: Self) {
        for (server, count) in other.answers {
            *self.answers.entry(server).or_default() += count;
        }
        self.failures.extend(other.failures);
    }
}

impl Client {
    /// A client in this node.
    pub fn new(node: &Node, authority: &Authority) -> Self {
        Self { node: node.clone(), ca: authority.ca() }
    }

    /// The node that it runs in.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Sends requests to port 443 of an address, each over a connection of its own, and counts
    /// where they ended.
    #[track_caller]
    pub fn get(&self, address: impl Into<IpAddr>, requests: usize) -> Tally {
        self.ask(address.into(), requests, "?[1-{share}]", 0, &[])
    }

    /// Sends one request with a body of so many bytes, in full-size packets.
    #[track_caller]
    pub fn upload(&self, address: impl Into<IpAddr>, bytes: usize) -> Tally {
        let file = self.node.directory().join("upload");
        std::fs::write(&file, vec![b'x'; bytes]).expect("failed to write a file to upload");
        let body = format!("@{}", file.display());
        self.ask(address.into(), 1, "upload", bytes, &["--data-binary", &body, "-H", "Expect:"])
    }

    fn ask(
        &self,
        address: IpAddr,
        requests: usize,
        path: &str,
        body: usize,
        more: &[&str],
    ) -> Tally {
        let address = match address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        let share = |n: usize| requests / PARALLEL + usize::from(n < requests % PARALLEL);
        let shares = (0..PARALLEL).map(share).filter(|&share| share > 0);
        let children: Vec<_> = shares
            .map(|share| {
                let mut curl = self.node.command("curl");
                curl.args(["--silent", "--http1.1", "--header", "Connection: close"])
                    .args(["--connect-timeout", "3", "--max-time", "10"])
                    .args(["--resolve", &format!("{HOST}:443:{address}")])
                    .arg("--cacert")
                    .arg(&self.ca)
                    .args(["--output", "/dev/null"])
                    .args([
                        "--write-out",
                        "%{http_code}\t%header{x-server}\t%{size_upload}\t%{errormsg}\n",
                    ])
                    .args(more)
                    // One process asks for all; nginx closes after each answer.
                    .arg(format!("https://{HOST}/{}", path.replace("{share}", &share.to_string())))
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped());
                curl.spawn().expect("failed to start curl")
            })
            .collect();
        let mut tally = Tally::default();
        for child in children {
            let output = child.wait_with_output().expect("failed to wait for curl");
            tally.add(count(&String::from_utf8_lossy(&output.stdout), body));
        }
        let seen = tally.total() + tally.failures.len();
        assert_eq!(seen, requests, "curl did not account for every request");
        tally
    }
}

/// What became of requests with bodies of so many bytes, from a line of curl for each.
fn count(report: &str, body: usize) -> Tally {
    let mut tally = Tally::default();
    for line in report.lines() {
        let fields: Vec<&str> = line.splitn(4, '\t').collect();
        match fields[..] {
            ["200", server, sent, ""] if sent == body.to_string() => {
                *tally.answers.entry(server.to_owned()).or_default() += 1;
            }
            ["200", server, sent, ""] => {
                tally.failures.push(format!("{server} answered after {sent} bytes of {body}"));
            }
            [status, server, _, ""] => {
                tally.failures.push(format!("status {status} from {server}"));
            }
            [_, _, _, error] => tally.failures.push(error.to_owned()),
            _ => tally.failures.push(format!("curl said {line:?}")),
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_curl_is_counted_line_by_line() {
        let report = "200\tweb1\t0\t\n503\tweb1\t0\t\n000\t\t0\tCouldn't connect
200\tweb2\t0\t\n200\tweb1\t0\t\n";
        let tally = count(report, 0);
        assert_eq!((tally.of("web1"), tally.of("web2"), tally.of("web3")), (2, 1, 0));
        assert_eq!(tally.failures, ["status 503 from web1", "Couldn't connect"]);
    }

    #[test]
    fn an_upload_that_ends_early_is_a_failure() {
        let tally = count("200\tweb1\t65536\t\n200\tweb1\t3000000\t\n", 3_000_000);
        assert_eq!(tally.of("web1"), 1);
        assert_eq!(tally.failures, ["web1 answered after 65536 bytes of 3000000"]);
    }
}
