//! `lb services`, and the services in `lb status`.

use serde::Serialize;

use super::table::{Align, Grid, Text};
use super::words::count;
use super::{Answer, Screen, Tone};
use crate::api::{ServiceState, ServiceView};
use crate::config::{Forward, Scheduler};

/// The services of a node.
#[derive(Clone, Debug, Serialize)]
pub struct Services {
    /// `lb.services/1`.
    schema: &'static str,
    /// By name.
    services: Vec<ServiceView>,
}

impl Services {
    /// An answer with these services.
    pub const fn new(services: Vec<ServiceView>) -> Self {
        Self { schema: "lb.services/1", services }
    }
}

impl Answer for Services {
    fn table(&self, screen: &Screen) -> String {
        services(&self.services, screen)
    }
}

/// The table of services.
pub(super) fn services(services: &[ServiceView], screen: &Screen) -> String {
    if services.is_empty() {
        return "no services\n".to_owned();
    }
    let mut grid = Grid::new(
        screen,
        &[
            ("SERVICE", Align::Left),
            ("LISTEN", Align::Left),
            ("STATE", Align::Left),
            ("SERVING", Align::Right),
            ("SCHEDULER", Align::Left),
            ("FORWARD", Align::Left),
            ("PACKETS", Align::Right),
            ("BYTES", Align::Right),
        ],
    );
    for service in services {
        grid.row([
            service.name.as_str().into(),
            service.listen.join("\n").into(),
            state(service.state),
            format!("{}/{}", service.serving, service.backends.len()).into(),
            scheduler(service.scheduler).into(),
            forward(service.forward).into(),
            count(service.packets).into(),
            count(service.bytes).into(),
        ]);
    }
    grid.text()
}

fn state(state: ServiceState) -> Text {
    let (word, tone) = match state {
        ServiceState::Up => ("up", Tone::Good),
        ServiceState::Degraded => ("degraded", Tone::Odd),
        ServiceState::Down => ("DOWN", Tone::Bad),
    };
    Text(word.to_owned(), tone)
}

const fn scheduler(scheduler: Scheduler) -> &'static str {
    match scheduler {
        Scheduler::Maglev => "maglev",
        Scheduler::RoundRobin => "round-robin",
        Scheduler::LeastConn => "least-conn",
    }
}

const fn forward(forward: Forward) -> &'static str {
    match forward {
        Forward::L2 => "l2",
    }
}
