//! What most tests of the whole balancer begin with: a client, a balancer and web servers.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::balancer::{Balancer, backend, https_check, listener, service};
use crate::bed::{Bed, VIP, VIP6};
use crate::client::{Client, Tally};
use crate::node::Node;
use crate::web::{Authority, Web};

/// How long the balancer may take to notice what it probes for.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A bed with everything in it.
pub struct Stage {
    /// The balancer, in `lb1`.
    pub balancer: Balancer,
    /// The client, in `client`.
    pub client: Client,
    /// `web1` and so on, with the virtual addresses on their loopbacks.
    pub webs: Vec<Web>,
    /// Who signed the web servers' certificate.
    pub authority: Authority,
    /// The network; the last to go.
    pub bed: Bed,
}

impl Stage {
    /// A client, web servers that run, and a balancer that does not yet.
    #[track_caller]
    pub fn new(name: &str, servers: u8) -> Self {
        Self::with_vips(name, servers, &[VIP, VIP6])
    }

    /// The same with other virtual addresses on the web servers' loopbacks.
    #[track_caller]
    pub fn with_vips(name: &str, servers: u8, vips: &[IpAddr]) -> Self {
        Self::made(name, servers, vips, Bed::node)
    }

    /// Web servers on hosts that can have XDP programs of their own.
    #[track_caller]
    pub fn of_hosts(name: &str, servers: u8) -> Self {
        Self::made(name, servers, &[VIP, VIP6], Bed::lb_node)
    }

    #[track_caller]
    fn made(
        name: &str,
        servers: u8,
        vips: &[IpAddr],
        host: impl Fn(&mut Bed, &str, u8) -> Node,
    ) -> Self {
        let mut bed = Bed::new(name);
        let client = bed.node("client", 10);
        let lb1 = bed.lb_node("lb1", 11);
        let authority = Authority::new(&bed, vips);
        let hosts: Vec<Node> =
            (1..=servers).map(|n| host(&mut bed, &format!("web{n}"), 20 + n)).collect();
        let webs = hosts.iter().map(|host| Web::start(host, &authority, vips)).collect();
        let client = Client::new(&client, &authority);
        let balancer = Balancer::new(&bed, &lb1);
        Self { balancer, client, webs, authority, bed }
    }

    /// The same, with the balancer running on [`Stage::config`], and all web servers serving.
    #[track_caller]
    pub fn serving(name: &str, servers: u8) -> Self {
        let mut stage = Self::new(name, servers);
        stage.start(&stage.config());
        stage
    }

    /// Starts the balancer and waits until all backends that the text has for web servers serve.
    #[track_caller]
    pub fn start(&mut self, config: &str) {
        self.balancer.write_config(config);
        self.balancer.start();
        self.wait_for("serving", &self.webs.iter().collect::<Vec<_>>());
    }

    /// Waits until the backends in service `web` of these web servers are in a state.
    #[track_caller]
    pub fn wait_for(&self, state: &str, webs: &[&Web]) {
        for web in webs {
            let id = format!("web/{}", web.node().name());
            self.balancer.wait_for_state(&id, state, PATIENCE);
        }
    }

    /// A configuration with service `web`: all web servers, ports 80 and 443 of both virtual
    /// addresses.
    pub fn config(&self) -> String {
        self.balancer.preamble() + &self.web_service(&vec![""; self.webs.len()])
    }

    /// The service `web`, with more to say about each of the first web servers, such as
    /// `, weight = 50`; the others are left out.
    pub fn web_service(&self, more: &[&str]) -> String {
        let lines = self.webs.iter().zip(more).map(|(web, more)| backend(web.node(), more));
        let lines: Vec<_> = lines.collect();
        let listeners = [(VIP, 80), (VIP, 443), (VIP6, 80), (VIP6, 443)];
        let listeners = listeners.map(|(vip, port)| listener(vip, port));
        service("web", &listeners, &https_check(&self.authority), &lines)
    }

    /// The head of a configuration, with more to say about the dataplane.
    pub fn head(&self, dataplane: &str) -> String {
        self.balancer.preamble().replace("[dataplane]", &format!("[dataplane]\n{dataplane}"))
    }

    /// A service on these ports of both virtual addresses, with more to say about it, and about each
    /// of the first web servers; the others are left out.
    pub fn service_on(&self, name: &str, ports: &[u16], more: &str, each: &[&str]) -> String {
        let lines = self.webs.iter().zip(each).map(|(web, more)| backend(web.node(), more));
        let lines: Vec<_> = lines.collect();
        let on = |vip: IpAddr| ports.iter().map(move |port| listener(vip, *port));
        let listeners: Vec<_> = on(VIP).chain(on(VIP6)).collect();
        service(name, &listeners, &https_check(&self.authority), &lines)
            .replace("listen = [", &format!("{more}\nlisten = ["))
    }

    /// Loads a configuration that must be taken.
    #[track_caller]
    pub fn reload(&self, config: &str) {
        self.balancer.write_config(config);
        self.balancer.lb_ok(&["reload"]);
    }

    /// How many packets a verdict has had, such as `drop`, `service-rate`.
    #[track_caller]
    pub fn verdicts(&self, action: &str, reason: &str) -> u64 {
        let status = self.balancer.lb_json(&["status"]);
        let verdicts = status["verdicts"].as_array().into_iter().flatten();
        let mut found = verdicts.filter(|v| v["action"] == action && v["reason"] == reason);
        found.next().map_or(0, |verdict| verdict["packets"].as_u64().expect("a number"))
    }

    /// The node of a web server, counted from 1 as its name is.
    pub fn web(&self, number: usize) -> &Node {
        self.webs[number - 1].node()
    }
}

/// Port 80 of both virtual addresses.
pub const PLAIN: [SocketAddr; 2] = [SocketAddr::new(VIP, 80), SocketAddr::new(VIP6, 80)];

/// Requests that just these servers answered, each of them at least one, and none failed.
#[track_caller]
pub fn assert_answered_by(tally: &Tally, servers: &[&str]) {
    assert_eq!(tally.failures, [""; 0], "{tally:?}");
    let mut answered: Vec<&str> = tally.answers.keys().map(String::as_str).collect();
    answered.sort_unstable();
    assert_eq!(answered, servers, "{tally:?}");
}
