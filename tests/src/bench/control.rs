//! What the daemon's own work costs: a thousand services loaded at once, a backend that goes down
//! and comes back, and what is done every second. Wall-clock time of the same functions that the
//! daemon calls, over real maps.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_common::Mac;
use lb_userspace::api::{SilentView, StatusView};
use lb_userspace::config::{self, Config, NodeChoice};
use lb_userspace::dataplane::Dataplane;
use lb_userspace::dataplane::bpf::Bpf;
use lb_userspace::image::Image;
use lb_userspace::plan::{self, Plan, Rings};
use lb_userspace::reconcile::diff;
use lb_userspace::state::{BackendId, Health, Link, NextHop, State, Status};
use lb_userspace::transition::{Transitions, is_census_needed};
use lb_userspace::view::Known;

use super::report::{median, sorted};

/// How long one step took.
#[derive(Clone, Debug)]
pub struct Step {
    /// What was done.
    pub name: String,
    /// The median, of those that were done often.
    pub median: Duration,
    /// Shortest and longest.
    pub spread: (Duration, Duration),
}

/// Backends of each service.
const BACKENDS: u32 = 100;
/// How often a backend goes down and comes back.
const FLAPS: usize = 51;

/// Measures with one service and with a thousand.
pub fn run(bpffs: &Path, filter: &str) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for services in [1, 1_000] {
        let group = format!("control/{services}");
        if group.contains(filter) || filter.starts_with(&group) {
            eprintln!("{group}");
            measure(bpffs, services, &group, &mut steps)?;
        }
    }
    Ok(steps)
}

fn measure(bpffs: &Path, services: u32, group: &str, steps: &mut Vec<Step>) -> Result<()> {
    let mut times = Times(BTreeMap::new());
    let text = file(services);
    let begun = Instant::now();
    let loaded = config::parse(Path::new("bench.toml"), &text, &NodeChoice::Any);
    times.note("0 read the file", begun);
    let config = loaded.map_err(|report| anyhow::anyhow!("{report}"))?.config;
    let mut state = everything_up(&config);

    let begun = Instant::now();
    let wanted = plan::wanted(&config);
    let mut bpf =
        Bpf::open(&bpffs.join(format!("control-{services}")), wanted, plan::features(&config))?;
    times.note("1 load: make maps and programs", begun);
    let mut held = bpf.image()?;
    let mut rings = Rings::default();
    let mut transitions = Transitions::default();

    let all = Instant::now();
    let begun = Instant::now();
    let mut planned = plan::plan(&config, &state, &held, wanted, &mut rings)?;
    times.note("1 load: plan", begun);
    let begun = Instant::now();
    let changes = diff(&held, &planned.image);
    times.note("1 load: compare", begun);
    let begun = Instant::now();
    bpf.apply(&changes)?;
    times.note("1 load: write", begun);
    held = planned.image.clone();
    transitions.note(&changes, 1);
    times.note("1 load: all but the maps' making", all);

    let begun = Instant::now();
    ensure!(bpf.image_like(&held)? == held, "the maps do not hold what was planned");
    times.note("3 every 30 s: read and compare the maps", begun);
    let begun = Instant::now();
    let again = plan::plan(&config, &state, &held, wanted, &mut rings)?;
    ensure!(diff(&held, &again.image).is_empty(), "a second plan differs");
    times.note("3 every 30 s: plan everything again", begun);

    let id = BackendId { service: "s7".to_owned(), backend: "b7".to_owned() };
    let id = if services == 1 { BackendId { service: "s0".to_owned(), ..id } } else { id };
    let named = BTreeSet::from([id.service.clone()]);
    for turn in 0..2 * FLAPS {
        let (status, what) =
            if turn % 2 == 0 { (Status::Down, "down") } else { (Status::Up, "up") };
        let health = state.health.get_mut(&id).context("the backend is known")?;
        health.status = status;
        let all = Instant::now();
        let part = plan::part(&planned, &config, &state, &named, &mut rings);
        let part = part.context("the service has to move")?;
        times.note(&format!("2 backend {what}: plan and compare"), all);
        let begun = Instant::now();
        bpf.apply(part.changes())?;
        times.note(&format!("2 backend {what}: write"), begun);
        part.put_into(&mut held);
        part.put_into(&mut planned.image);
        transitions.note(part.changes(), 2 + turn as u64);
        part.into_layout(&mut planned.layout);
        times.note(&format!("2 backend {what}: all"), all);
    }
    ensure!(bpf.image()? == held, "the maps do not hold what was planned");
    let whole = plan::plan(&config, &state, &held, wanted, &mut Rings::default())?;
    ensure!(whole.image == held, "planned in parts, and planned as a whole, are not the same");
    each_second(&planned, &held, &mut transitions, &mut times);
    for _ in 0..3 {
        let begun = Instant::now();
        let view = status(&config, &state, &planned, &bpf)?;
        ensure!(view.services.len() == services as usize, "the status leaves services out");
        times.note("5 lb status", begun);
    }
    steps.extend(times.steps(group));
    Ok(())
}

/// What the daemon does every second, apart from going through records.
fn each_second(planned: &Plan, held: &Image, transitions: &mut Transitions, times: &mut Times) {
    for second in 0..FLAPS as u64 {
        let begun = Instant::now();
        let due = transitions.due(held, 200 + second, Duration::from_secs(7_200));
        let census = is_census_needed(held, &planned.layout);
        assert!(due.is_empty() && census, "nothing is due, and something is remembered");
        times.note("4 every second: commits and census", begun);
    }
}

fn status(config: &Config, state: &State, plan: &Plan, bpf: &Bpf) -> Result<StatusView> {
    let known = Known {
        config,
        loaded: jiff::Timestamp::UNIX_EPOCH,
        rejected: None,
        started: jiff::Timestamp::UNIX_EPOCH,
        state,
        plan,
        modes: &[],
        trouble: None,
        detached: &[],
        silent: SilentView::default(),
        untold: &[],
        warming: false,
        flows: &|_, _| None,
        dataplane: bpf,
    };
    known.status()
}

/// A file of so many services.
fn file(services: u32) -> String {
    let mut text = "version = 1\n[node.lb1]\ninterfaces = [\"lo\"]\n".to_owned();
    for service in 0..services {
        let (high, low) = (service >> 8, service & 0xff);
        let _ = write!(text, "[service.s{service}]\nlisten = [\"172.16.{high}.{low}:443\"]\n");
        let _ = writeln!(text, "[service.s{service}.backend]");
        for backend in 1..=BACKENDS {
            let _ = writeln!(text, "b{backend} = {{ address = \"10.{high}.{low}.{backend}\" }}");
        }
    }
    text
}

/// All backends up, and their next hops known.
fn everything_up(config: &Config) -> State {
    let mut state = State::default();
    let mac = |address: IpAddr| match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            Mac::new([2, 1, a, b, c, d])
        }
        IpAddr::V6(_) => Mac::new([2, 1, 0, 0, 0, 6]),
    };
    let source = Mac::new([2, 0, 0, 0, 0, 0x11]);
    for (name, service) in &config.services {
        for (backend, file) in &service.backends {
            let id = BackendId { service: name.clone(), backend: backend.clone() };
            let health = Health {
                status: Status::Up,
                last: "connected in 1 ms".to_owned(),
                passed: true,
                since: jiff::Timestamp::UNIX_EPOCH,
            };
            state.health.insert(id, health);
            let (interface, mac) = ("lo".to_owned(), mac(file.address));
            let hop = NextHop::Resolved {
                ifindex: 1,
                interface,
                mac,
                source,
                gateway: None,
                local: None,
                mtu: 1_500,
            };
            state.next_hops.insert(file.address, hop);
        }
    }
    state
        .interfaces
        .insert(1, Link { ifindex: 1, name: "lo".to_owned(), mac: source, up: true, mtu: 1_500 });
    state
}

/// What was measured, by step.
struct Times(BTreeMap<String, Vec<f64>>);

impl Times {
    fn note(&mut self, name: &str, begun: Instant) {
        self.0.entry(name.to_owned()).or_default().push(begun.elapsed().as_secs_f64());
    }

    fn steps(self, group: &str) -> Vec<Step> {
        let step = |(name, samples): (String, Vec<f64>)| {
            let samples = sorted(samples);
            let (least, most) = (samples[0], samples[samples.len() - 1]);
            Step {
                name: format!("{group}: {}", name.split_at(2).1),
                median: Duration::from_secs_f64(median(&samples)),
                spread: (Duration::from_secs_f64(least), Duration::from_secs_f64(most)),
            }
        };
        self.0.into_iter().map(step).collect()
    }
}
