//! QUIC through the balancer: connections that stay with their server while their clients change
//! their addresses, and while backends, the file and the daemon change.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lb_tests::balancer::{backend, service};
use lb_tests::bed::{VIP, VIP6};
use lb_tests::privilege::is_root_or_skips;
use lb_tests::quic::{Failure, Server, Session, Site, Welcome};
use lb_tests::stage::{PATIENCE, Stage};
use lb_tests::wait::wait_until;

/// Where servers go on with the handshake at once.
const QUIC: [SocketAddr; 2] = [SocketAddr::new(VIP, 4433), SocketAddr::new(VIP6, 4433)];
/// Where they send Retry first.
const RETRY: [SocketAddr; 2] = [SocketAddr::new(VIP, 4434), SocketAddr::new(VIP6, 4434)];
/// The same servers and the same ids, but a service that does not look at these.
const BLIND: [SocketAddr; 2] = [SocketAddr::new(VIP, 4435), SocketAddr::new(VIP6, 4435)];

/// A stage whose web servers speak QUIC, and a client with two addresses of each family.
struct Place {
    stage: Stage,
    site: Site,
    _servers: Vec<Server>,
}

impl Place {
    #[track_caller]
    fn new(name: &str, servers: u8) -> Self {
        let stage = Stage::new(name, servers);
        let site = Site::new();
        let mut running = Vec::new();
        for (web, number) in stage.webs.iter().zip(1..) {
            let mut serve = |to: &SocketAddr, welcome| {
                running.push(site.serve(web.node(), *to, server_id(number), welcome));
            };
            QUIC.iter().chain(&BLIND).for_each(|to| serve(to, Welcome::AtOnce));
            RETRY.iter().for_each(|to| serve(to, Welcome::Retry));
        }
        let client = stage.client.node();
        client.ip("addr add 10.9.0.210/24 dev eth0");
        client.ip("addr add fd09::210/64 dev eth0 nodad");
        Self { stage, site, _servers: running }
    }

    /// The addresses of the client that may speak to a listener.
    fn sources(&self, to: SocketAddr) -> [IpAddr; 2] {
        let client = self.stage.client.node();
        match to {
            SocketAddr::V4(_) => [client.ipv4().into(), [10, 9, 0, 210].into()],
            SocketAddr::V6(_) => [client.ipv6().into(), [0xfd09, 0, 0, 0, 0, 0, 0, 0x210].into()],
        }
    }

    #[track_caller]
    fn connect(&self, to: SocketAddr) -> Session {
        let [from, _] = self.sources(to);
        let session = self.site.connect(self.stage.client.node(), from, to);
        session.unwrap_or_else(|failure| panic!("{to}: {failure}\n{}", self.stage.balancer.log()))
    }

    /// So many connections, to each of the listeners in turn.
    #[track_caller]
    fn connect_many(&self, to: &[SocketAddr], count: usize) -> Vec<Session> {
        to.iter().cycle().take(count).map(|to| self.connect(*to)).collect()
    }

    /// A file with these of the web servers, in a service that goes by ids and in one that does
    /// not.
    fn file(&self, webs: &[u16]) -> String {
        let node = |number: &u16| self.stage.web(usize::from(*number));
        let named = |n| backend(node(n), &format!(", server-id = {}", server_id(*n)));
        let named: Vec<_> = webs.iter().map(named).collect();
        let plain: Vec<_> = webs.iter().map(|number| backend(node(number), "")).collect();
        let udp = |to: &SocketAddr| format!("{to}/udp");
        let by_ids: Vec<_> = QUIC.iter().chain(&RETRY).map(udp).collect();
        let with = |affinity: &str, text: String| {
            text.replace("listen = [", &format!("affinity = \"{affinity}\"\nlisten = ["))
        };
        self.stage.balancer.preamble()
            + &with("quic", service("quic", &by_ids, "type = \"none\"", &named))
            + &with("flow", service("blind", &BLIND.map(|to| udp(&to)), "type = \"none\"", &plain))
    }

    /// Starts the balancer with a file, and waits until these web servers serve.
    #[track_caller]
    fn start(&mut self, file: &str, webs: &[u16]) {
        self.stage.balancer.write_config(file);
        self.stage.balancer.start();
        self.wait_for("serving", webs);
    }

    #[track_caller]
    fn reload(&self, file: &str) {
        self.stage.balancer.write_config(file);
        self.stage.balancer.lb_ok(&["reload"]);
    }

    #[track_caller]
    fn wait_for(&self, state: &str, webs: &[u16]) {
        for (service, web) in webs.iter().flat_map(|web| [("quic", web), ("blind", web)]) {
            self.stage.balancer.wait_for_state(&format!("{service}/web{web}"), state, PATIENCE);
        }
    }
}

/// Both bytes count.
fn server_id(web: u16) -> u16 {
    web << 8 | (100 - web)
}

fn by_server(sessions: &[Session]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for session in sessions {
        *counts.entry(session.server()).or_default() += 1;
    }
    counts
}

#[test]
fn a_quic_connection_stays_with_its_server_wherever_its_client_goes() {
    if !is_root_or_skips("a_quic_connection_stays_with_its_server_wherever_its_client_goes") {
        return;
    }
    let mut place = Place::new("roams", 3);
    place.start(&place.file(&[1, 2, 3]), &[1, 2, 3]);
    let sessions = place.connect_many(&[QUIC, RETRY].concat(), 12);
    assert!(by_server(&sessions).len() > 1, "{:?}", by_server(&sessions));
    for round in 1..=8 {
        for session in &sessions {
            let from = place.sources(session.source())[round % 2];
            session.move_to(from);
            let asked = session.ask();
            asked.unwrap_or_else(|failure| {
                panic!("{} at {}, move {round}: {failure}", session.server(), session.source())
            });
        }
    }
}

#[test]
fn without_its_connection_ids_a_quic_connection_does_not_survive_a_move() {
    if !is_root_or_skips("without_its_connection_ids_a_quic_connection_does_not_survive_a_move") {
        return;
    }
    let mut place = Place::new("blind", 3);
    place.start(&place.file(&[1, 2, 3]), &[1, 2, 3]);
    let sessions = place.connect_many(&BLIND, 20);
    let mut outcomes = Vec::new();
    for session in &sessions {
        session.ask().expect("nothing has changed yet");
        session.move_to(place.sources(session.source())[1]);
        outcomes.push(session.ask());
    }
    // Each finds another server two times out of three.
    let reset = outcomes.iter().filter(|outcome| **outcome == Err(Failure::Reset)).count();
    assert!(reset > 0, "{outcomes:?}");
    let well = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(reset + well, 20, "{outcomes:?}");
}

#[test]
fn new_quic_connections_are_spread_over_all_servers_that_take_any() {
    if !is_root_or_skips("new_quic_connections_are_spread_over_all_servers_that_take_any") {
        return;
    }
    let mut place = Place::new("spread", 3);
    place.start(&place.file(&[1, 2, 3]), &[1, 2, 3]);
    let all = [QUIC, RETRY].concat();
    let sessions = place.connect_many(&all, 200);
    let counts = by_server(&sessions);
    assert!(counts.len() == 3 && counts.values().all(|count| *count >= 30), "{counts:?}");
    // A ticket is of use to its server alone.
    for session in sessions.iter().take(20) {
        assert_eq!(session.ask_early().as_deref(), Ok(session.server()), "{}", session.source());
    }

    place.stage.balancer.lb_ok(&["drain", "quic/web2"]);
    let new = place.connect_many(&all, 60);
    let counts = by_server(&new);
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), ["web1", "web3"], "{counts:?}");
    for session in sessions.iter().chain(&new) {
        session.ask().unwrap_or_else(|failure| panic!("{}: {failure}", session.server()));
    }
}

#[test]
fn a_quic_handshake_ends_with_the_server_that_it_began_with() {
    if !is_root_or_skips("a_quic_handshake_ends_with_the_server_that_it_began_with") {
        return;
    }
    let mut place = Place::new("handshake", 2);
    place.start(&place.file(&[1, 2]), &[1, 2]);
    place.site.set_open(false);
    let count = 20;
    let targets: Vec<_> = [QUIC, RETRY].concat().into_iter().cycle().take(count).collect();
    let sessions: Vec<Session> = thread::scope(|scope| {
        let begin = |to: &SocketAddr| {
            let (to, place) = (*to, &place);
            scope.spawn(move || place.connect(to))
        };
        let clients: Vec<_> = targets.iter().map(begin).collect();
        wait_until(PATIENCE, "every client has come to a server", || {
            let came = place.site.came();
            if came >= count { Ok(()) } else { Err(came.to_string()) }
        });
        // Before any client tries again, which it would after a second.
        place.stage.balancer.lb_ok(&["drain", "quic/web1"]);
        place.site.set_open(true);
        let join = |client: thread::ScopedJoinHandle<'_, _>| client.join().expect("a connection");
        clients.into_iter().map(join).collect()
    });
    assert!(place.site.came() >= count + count / 2, "those that were sent away came back");
    assert_eq!(by_server(&sessions).len(), 2, "{:?}", by_server(&sessions));
}

/// Connections whose clients ask again and again, and change their addresses between.
struct Roamers {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    thread: Option<JoinHandle<Vec<String>>>,
}

impl Roamers {
    fn start(place: &Place, sessions: Vec<Session>) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&rounds));
        let sessions: Vec<_> = sessions
            .into_iter()
            .map(|session| (place.sources(session.source()), session))
            .collect();
        let thread = thread::spawn(move || {
            let mut failures = Vec::new();
            while !stopped.load(Ordering::SeqCst) {
                let round = count.load(Ordering::SeqCst);
                for (number, (sources, session)) in sessions.iter().enumerate() {
                    // A third of them each time.
                    if (round + number) % 3 == 0 {
                        session.move_to(sources[round % 2]);
                    }
                    if let Err(failure) = session.ask() {
                        let (server, source) = (session.server(), session.source());
                        failures.push(format!("round {round}, {server}, {source}: {failure}"));
                    }
                }
                count.fetch_add(1, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(10));
            }
            failures
        });
        Self { stop, rounds, thread: Some(thread) }
    }

    /// Waits until all have asked so many times more.
    #[track_caller]
    fn go_on(&self, rounds: usize) {
        let before = self.rounds.load(Ordering::SeqCst);
        // The round that is under way has begun before.
        wait_until(Duration::from_secs(60), "all clients have asked", || {
            let more = self.rounds.load(Ordering::SeqCst) - before;
            if more > rounds { Ok(()) } else { Err(more.to_string()) }
        });
    }

    /// Ends it; what went wrong.
    fn finish(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        let thread = self.thread.take().expect("roamers have one thread");
        thread.join().expect("the thread of the roamers panicked")
    }
}

impl Drop for Roamers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

#[test]
fn quic_connections_outlive_changes_of_backends_and_of_the_daemon() {
    if !is_root_or_skips("quic_connections_outlive_changes_of_backends_and_of_the_daemon") {
        return;
    }
    let mut place = Place::new("changes", 4);
    place.start(&place.file(&[1, 2, 3]), &[1, 2, 3]);
    let all = [QUIC, RETRY].concat();
    let sessions = place.connect_many(&all, 24);
    assert_eq!(by_server(&sessions).len(), 3, "{:?}", by_server(&sessions));
    let roamers = Roamers::start(&place, sessions);
    roamers.go_on(3);
    let moves = |arguments: &[&str]| {
        place.stage.balancer.lb_ok(arguments);
        roamers.go_on(3);
    };
    let takers = || by_server(&place.connect_many(&all, 40)).into_keys().count();
    moves(&["drain", "quic/web1"]);
    moves(&["weight", "quic/web2", "5"]);
    moves(&["weight", "quic/web2", "300"]);
    moves(&["drain", "quic/web3"]);
    assert_eq!(takers(), 1, "two of three are drained");
    moves(&["enable", "quic/web1"]);
    moves(&["enable", "quic/web3"]);
    assert_eq!(takers(), 3, "nobody is drained");

    place.reload(&place.file(&[1, 2, 3, 4]));
    place.wait_for("serving", &[4]);
    roamers.go_on(3);
    assert_eq!(takers(), 4, "one was added");
    let added = place.connect_many(&all, 40);

    place.stage.balancer.kill();
    roamers.go_on(6);
    place.stage.balancer.start();
    roamers.go_on(6);
    place.stage.balancer.restart();
    roamers.go_on(3);

    // They are known by their ids still, for the quiet window.
    place.reload(&place.file(&[2, 3]));
    roamers.go_on(3);
    let new = place.connect_many(&all, 40);
    assert_eq!(by_server(&new).into_keys().collect::<Vec<_>>(), ["web2", "web3"]);
    for session in &added {
        session.move_to(place.sources(session.source())[1]);
        session.ask().unwrap_or_else(|failure| panic!("{}: {failure}", session.server()));
    }
    assert_eq!(roamers.finish(), [""; 0], "{}", place.stage.balancer.log());
}

#[test]
fn quic_ids_of_a_drained_server_are_known_for_good_and_those_of_a_removed_one_for_a_while() {
    let name =
        "quic_ids_of_a_drained_server_are_known_for_good_and_those_of_a_removed_one_for_a_while";
    if !is_root_or_skips(name) {
        return;
    }
    let mut place = Place::new("removed", 2);
    let quiet = |text: String| text.replace("[dataplane]", "[dataplane]\nquiet-window = \"1s\"");
    place.start(&quiet(place.file(&[1, 2])), &[1, 2]);
    let sessions = place.connect_many(&QUIC, 12);
    let (old, others): (Vec<_>, Vec<_>) =
        sessions.into_iter().partition(|session| session.server() == "web1");
    assert!(!old.is_empty() && !others.is_empty(), "{} and {}", old.len(), others.len());
    let ask = |session: &Session| {
        session.move_to(place.sources(session.source())[1]);
        session.ask()
    };

    let committed = || place.stage.balancer.log().matches("slots committed").count();
    let before = committed();
    place.stage.balancer.lb_ok(&["drain", "quic/web1"]);
    wait_until(PATIENCE, "the slots are committed", || {
        if committed() > before { Ok(()) } else { Err(place.stage.balancer.log()) }
    });
    // Nothing but the ids leads there any more.
    for session in &old {
        assert_eq!(ask(session), Ok(()));
    }

    place.reload(&quiet(place.file(&[2])));
    wait_until(PATIENCE, "the ids are forgotten", || match ask(&old[0]) {
        Err(Failure::Reset) => Ok(()),
        Err(failure) => panic!("{failure}"),
        Ok(()) => Err("the connection goes on".to_owned()),
    });
    for session in &others {
        assert_eq!(ask(session), Ok(()));
    }
}
