//! The demo: a balancer between a client and three web servers, in a network of namespaces.
//! `cargo xtask demo` builds everything and runs it. Exit code 0: all went as it should.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::thread::park;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use lb_tests::balancer::{Balancer, web_service};
use lb_tests::bed::{Bed, VIP, VIP6};
use lb_tests::client::{Client, Tally};
use lb_tests::node::Node;
use lb_tests::web::{Authority, HOST, Web};
use nix::unistd::Uid;

/// Requests of each step.
const REQUESTS: usize = 120;
/// Width of a bar for all requests of a step.
const BAR: usize = 48;
/// How long the balancer may take to see a change.
const PATIENCE: Duration = Duration::from_secs(15);
/// The web servers: names and numbers.
const SERVERS: [(&str, u8); 3] = [("web1", 21), ("web2", 22), ("web3", 23)];

fn main() -> ExitCode {
    let keep = match env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [only] if only == "--keep" => true,
        other => {
            eprintln!("demo: only --keep is understood, not {other:?}");
            return ExitCode::from(2);
        }
    };
    if !Uid::effective().is_root() {
        eprintln!("demo: needs root: it makes network namespaces and loads XDP programs");
        return ExitCode::FAILURE;
    }
    // What the bed cannot do panics; by then it has been taken down.
    match catch_unwind(AssertUnwindSafe(|| show(keep))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("\ndemo failed: {error:#}");
            ExitCode::FAILURE
        }
        Err(_) => {
            eprintln!("\ndemo failed: see above");
            ExitCode::FAILURE
        }
    }
}

fn show(keep: bool) -> Result<()> {
    let mut bed = Bed::new("demo");
    let mut stage = Stage::build(&mut bed)?;
    stage.play()?;
    if keep {
        stage.explain_how_to_look_around();
        loop {
            // Until Ctrl-C, which takes the bed down.
            park();
        }
    }
    step("The end: everything is taken down again");
    Ok(())
}

/// All that is in the bed.
struct Stage {
    client: Client,
    webs: Vec<Web>,
    balancer: Balancer,
}

impl Stage {
    fn build(bed: &mut Bed) -> Result<Self> {
        step("A network: a client, a switch, a balancer, three web servers with TLS");
        let client = bed.node("client", 10);
        let lb1 = bed.lb_node("lb1", 11);
        let nodes = SERVERS.map(|(name, number)| bed.node(name, number));
        let authority = Authority::new(bed, &[VIP, VIP6]);
        say(&format!("client {}   lb1 {}", client.ipv4(), lb1.ipv4()));
        let webs: Vec<Web> =
            nodes.iter().map(|node| Web::start(node, &authority, &[VIP, VIP6])).collect();
        for node in &nodes {
            say(&format!("{} {}   nginx serves https://{HOST}/", node.name(), node.ipv4()));
        }

        step("The balancer: `lb run` in lb1");
        let mut balancer = Balancer::new(bed, &lb1);
        let backends: Vec<&Node> = nodes.iter().collect();
        let service = web_service(&[VIP, VIP6], &authority, &backends);
        balancer.write_config(&(balancer.preamble() + &service));
        say(&format!("virtual addresses: {VIP} and {VIP6}, port 443"));
        balancer.start();
        let stage = Self { client: Client::new(&client, &authority), webs, balancer };
        stage.wait_for("serving", &["web1", "web2", "web3"]);
        stage.print(&["status"]);
        Ok(stage)
    }

    fn play(&mut self) -> Result<()> {
        step(&format!("{REQUESTS} HTTPS requests to the virtual address, by IPv4 and by IPv6"));
        self.expect_answers(&["web1", "web2", "web3"], &[])?;

        step("web1 dies: nginx is killed");
        self.webs[0].kill();
        self.wait_for("down", &["web1"]);
        say(&format!("found out: {}", text(&self.balancer.backend("web/web1", "check"))));
        self.expect_answers(&["web2", "web3"], &["web1"])?;

        step("An operator drains web2: `lb drain web/web2`");
        self.balancer.lb_ok(&["drain", "web/web2", "--reason", "to show it"]);
        self.wait_for("draining", &["web2"]);
        self.print(&["backends"]);
        self.expect_answers(&["web3"], &["web1", "web2"])?;

        step("Both come back: nginx starts again, and `lb enable web/web2`");
        self.webs[0].restart();
        self.balancer.lb_ok(&["enable", "web/web2"]);
        self.wait_for("serving", &["web1", "web2"]);
        self.expect_answers(&["web1", "web2", "web3"], &[])?;
        self.print(&["backends"]);
        Ok(())
    }

    fn wait_for(&self, state: &str, servers: &[&str]) {
        for server in servers {
            self.balancer.wait_for_state(&format!("web/{server}"), state, PATIENCE);
        }
        say(&format!("{} {state}", list(servers)));
    }

    /// Sends requests and shows where they went; no one may fail.
    fn expect_answers(&self, from: &[&str], not_from: &[&str]) -> Result<()> {
        let half = REQUESTS / 2;
        let (by_v4, by_v6) = (self.client.get(VIP, half), self.client.get(VIP6, half));
        let columns = [("IPv4", &by_v4), ("IPv6", &by_v6)];
        println!("\n    {:<8}{:>6}{:>6}{:>7}", "server", "IPv4", "IPv6", "share");
        for (server, _) in SERVERS {
            let count = by_v4.of(server) + by_v6.of(server);
            println!(
                "    {server:<8}{:>6}{:>6}{:>6.1}%  {}",
                by_v4.of(server),
                by_v6.of(server),
                count as f64 * 100.0 / REQUESTS as f64,
                bar(count)
            );
        }
        for (family, tally) in columns {
            judge(tally, from, not_from, half)
                .map_err(|error| error.context(format!("requests by {family} went wrong")))?;
        }
        println!();
        Ok(())
    }

    fn print(&self, arguments: &[&str]) {
        println!("\n    $ lb {}", arguments.join(" "));
        for line in self.balancer.lb_ok(arguments).lines() {
            println!("    {line}");
        }
        println!();
    }

    fn explain_how_to_look_around(&self) {
        step("Everything keeps running; Ctrl-C takes it down");
        let enter = |node: &Node| format!("nsenter --net=/run/netns/{}", node.namespace());
        let (client, lb1) = (enter(self.client.node()), enter(self.balancer.node()));
        let socket = self.balancer.socket();
        let lb = env::var("LB_BIN").unwrap_or_else(|_| "lb".to_owned());
        println!("    export LB_SOCKET={}", socket.display());
        println!("    {lb} status");
        println!("    {lb} explain 'tcp 10.9.0.10:40000 > {VIP}:443'");
        println!("    {client} curl --insecure --resolve {HOST}:443:{VIP} https://{HOST}/");
        println!("    {lb1} ip -statistics link show eth0");
        println!("    cat {}", self.balancer.config().display());
        println!("    tail -f {}", self.balancer.node().directory().join("lb.log").display());
    }
}

/// Whether a family's requests were all answered, by those who should and by no one else. With
/// so few requests, who gets how many is chance; that a server gets none of 60 is not (less
/// than one in ten thousand million for a third of the slots).
fn judge(tally: &Tally, from: &[&str], not_from: &[&str], requests: usize) -> Result<()> {
    if let Some(first) = tally.failures.first() {
        bail!("{} of {requests} failed; the first: {first}", tally.failures.len());
    }
    for server in from {
        ensure!(tally.of(server) > 0, "{server} got none");
    }
    for server in not_from {
        ensure!(tally.of(server) == 0, "{server} got {}", tally.of(server));
    }
    let expected: usize = from.iter().map(|server| tally.of(server)).sum();
    ensure!(expected == requests, "only {expected} of {requests} came from {}", from.join(", "));
    Ok(())
}

fn bar(count: usize) -> String {
    "█".repeat((count * BAR).div_ceil(REQUESTS))
}

fn list(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [only] => format!("{only} is"),
        [others @ .., last] => format!("{} and {last} are", others.join(", ")),
    }
}

fn text(value: &serde_json::Value) -> &str {
    value.as_str().unwrap_or("(nothing)")
}

fn step(heading: &str) {
    println!("== {heading}");
}

fn say(line: &str) {
    println!("    {line}");
}
