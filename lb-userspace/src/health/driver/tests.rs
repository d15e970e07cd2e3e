//! Scripted findings under a clock that the test moves, and whole supervisors against loopback.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;

const TEMPO: Tempo = Tempo {
    interval: Duration::from_secs(10),
    fast_interval: Duration::from_secs(1),
    timeout: Duration::from_secs(1),
    rise: 2,
    fall: 3,
};

/// Answers from a list, then the last one for ever, and notes when it was asked.
struct Script {
    answers: VecDeque<&'static str>,
    asked: mpsc::UnboundedSender<Instant>,
}

impl Ask for Script {
    async fn ask(&mut self, _timeout: Duration) -> Finding {
        self.asked.send(Instant::now()).ok();
        let what = if self.answers.len() > 1 {
            self.answers.pop_front().unwrap()
        } else {
            self.answers[0]
        };
        // Different each time, as real times are.
        let took = Duration::from_micros(100 * self.answers.len() as u64);
        Finding {
            passed: what == "200 OK",
            what: what.to_owned(),
            words: format!("{what} in {took:?}"),
            took,
        }
    }
}

struct Bench {
    events: mpsc::Receiver<Event>,
    asked: mpsc::UnboundedReceiver<Instant>,
    tempo: watch::Sender<Tempo>,
}

impl Bench {
    fn start(initial: Status, answers: &[&'static str]) -> Self {
        let (events_in, events) = mpsc::channel(100);
        let (asked_in, asked) = mpsc::unbounded_channel();
        let (tempo, receiver) = watch::channel(TEMPO);
        let watcher = Watcher {
            backend: "web/web1".parse().unwrap(),
            prober: Script { answers: answers.iter().copied().collect(), asked: asked_in },
            tempo: receiver,
            events: events_in,
            machine: Machine::new(initial, Timestamp::now()),
            pace: Pace::new(1),
            told: None,
        };
        tokio::spawn(watcher.run());
        Self { events, asked, tempo }
    }

    /// Everything told within `time`: status, passed, and the words without the time.
    async fn told(&mut self, time: Duration) -> Vec<(Status, bool, String)> {
        tokio::time::sleep(time).await;
        let mut all = Vec::new();
        while let Ok(Event::Health { health, .. }) = self.events.try_recv() {
            let what = health.last.split(" in ").next().unwrap().to_owned();
            all.push((health.status, health.passed, what));
        }
        all
    }

    async fn gap(&mut self) -> Duration {
        let first = self.asked.recv().await.unwrap();
        self.asked.recv().await.unwrap() - first
    }
}

fn news(status: Status, what: &str) -> (Status, bool, String) {
    (status, what == "200 OK", what.to_owned())
}

#[tokio::test(start_paused = true)]
async fn news_are_told_once_and_repetitions_are_not() {
    let mut bench = Bench::start(
        Status::Unknown,
        &["refused", "refused", "refused", "refused", "reset", "200 OK", "200 OK", "200 OK"],
    );
    let told = bench.told(Duration::from_secs(200)).await;
    let expected = [
        news(Status::Unknown, "refused"),
        news(Status::Down, "refused"),
        news(Status::Down, "reset"),
        news(Status::Down, "200 OK"),
        news(Status::Up, "200 OK"),
    ];
    assert_eq!(told, expected);
}

#[tokio::test(start_paused = true)]
async fn an_adopted_backend_stays_up_until_it_has_failed_often_enough() {
    let mut bench = Bench::start(Status::Up, &["refused"]);
    let told = bench.told(Duration::from_secs(60)).await;
    assert_eq!(told, [news(Status::Up, "refused"), news(Status::Down, "refused")]);
}

#[tokio::test(start_paused = true)]
async fn probes_come_fast_while_unsettled_and_slowly_afterwards() {
    let mut bench = Bench::start(Status::Unknown, &["200 OK"]);
    let fast = bench.gap().await;
    assert!((900..=1_100).contains(&fast.as_millis()), "{fast:?}");
    let settled = bench.gap().await;
    assert!((9_000..=11_000).contains(&settled.as_millis()), "{settled:?}");
}

#[tokio::test(start_paused = true)]
async fn a_shorter_interval_counts_at_once() {
    let mut bench = Bench::start(Status::Up, &["200 OK"]);
    bench.asked.recv().await.unwrap();
    let changed = Instant::now();
    bench.tempo.send(Tempo { interval: Duration::from_millis(100), ..TEMPO }).unwrap();
    let next = bench.asked.recv().await.unwrap();
    assert!(next - changed <= Duration::from_millis(111), "{:?}", next - changed);
}

fn target(name: &str, port: u16, probe: Probe) -> Target {
    Target {
        backend: BackendId { service: "web".to_owned(), backend: name.to_owned() },
        address: Ipv4Addr::LOCALHOST.into(),
        check: Check {
            probe,
            port,
            interval: Duration::from_millis(50),
            fast_interval: Duration::from_millis(10),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 2,
        },
        initial: Status::Unknown,
    }
}

async fn health(events: &mut mpsc::Receiver<Event>) -> (String, Health) {
    let event = timeout(Duration::from_secs(10), events.recv()).await;
    match event.expect("nothing told for 10 s") {
        Some(Event::Health { backend, health }) => (backend.backend, health),
        other => panic!("{other:?}"),
    }
}

async fn until(events: &mut mpsc::Receiver<Event>, status: Status) -> Health {
    loop {
        let (_, health) = health(events).await;
        if health.status == status {
            return health;
        }
    }
}

#[tokio::test]
async fn a_server_that_stops_and_returns_is_followed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (events_in, mut events) = mpsc::channel(10);
    let mut supervisor = Supervisor::new(events_in);
    supervisor.set_targets(vec![target("web1", address.port(), Probe::Tcp)]);
    let up = until(&mut events, Status::Up).await;
    assert!(up.passed && up.last.starts_with("connected in "), "{up:?}");
    drop(listener);
    let down = until(&mut events, Status::Down).await;
    assert_eq!((down.passed, down.last.as_str()), (false, "connection refused"));
    assert!(down.since > up.since);
    let _listener = TcpListener::bind(address).await.unwrap();
    until(&mut events, Status::Up).await;
    supervisor.shutdown().await;
}

#[tokio::test]
async fn a_target_keeps_its_health_when_only_its_tempo_changes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (events_in, mut events) = mpsc::channel(10);
    let mut supervisor = Supervisor::new(events_in);
    let first = target("web1", port, Probe::Tcp);
    supervisor.set_targets(vec![first.clone()]);
    until(&mut events, Status::Up).await;

    let mut slower = first.clone();
    slower.check.interval = Duration::from_millis(60);
    slower.check.rise = 5;
    supervisor.set_targets(vec![slower]);
    let silence = timeout(Duration::from_millis(300), events.recv()).await;
    assert!(silence.is_err(), "a kept target told {silence:?}");

    let mut other = first;
    other.check.probe = Probe::Http { path: "/".to_owned(), host: None, expect: vec![], tls: None };
    supervisor.set_targets(vec![other]);
    let restarted = health(&mut events).await.1;
    assert_eq!(restarted.status, Status::Unknown);
    supervisor.shutdown().await;
}

#[tokio::test]
async fn a_removed_target_is_probed_no_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (events_in, mut events) = mpsc::channel(10);
    let mut supervisor = Supervisor::new(events_in);
    supervisor.set_targets(vec![target("web1", port, Probe::Tcp)]);
    until(&mut events, Status::Up).await;
    supervisor.set_targets(vec![]);
    // One probe may have been on its way; after that, nobody connects.
    while timeout(Duration::from_millis(200), listener.accept()).await.is_ok() {}
    let more = timeout(Duration::from_millis(300), listener.accept()).await;
    assert!(more.is_err(), "a removed target was probed");
    supervisor.shutdown().await;
    assert!(events.recv().await.is_none(), "a task outlived the supervisor");
}

#[tokio::test]
async fn a_backend_without_a_probe_counts_as_up_and_says_so_once() {
    let (events_in, mut events) = mpsc::channel(10);
    let mut supervisor = Supervisor::new(events_in);
    supervisor.set_targets(vec![target("web1", 1, Probe::None)]);
    let (name, health) = health(&mut events).await;
    assert_eq!((name.as_str(), health.status, health.passed), ("web1", Status::Up, true));
    assert!(timeout(Duration::from_millis(100), events.recv()).await.is_err());
    supervisor.shutdown().await;
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_controller_that_no_longer_listens() {
    let (events_in, events) = mpsc::channel(1);
    let mut supervisor = Supervisor::new(events_in);
    // The queue holds one event, and nobody takes it: the second task waits for ever.
    supervisor.set_targets(vec![target("a", 1, Probe::None), target("b", 1, Probe::None)]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    timeout(Duration::from_secs(5), supervisor.shutdown()).await.expect("shutdown hung");
    drop(events);
}
