//! `lb backends`, and the backend that an edit changed.

use serde::Serialize;

use super::table::{Align, Grid, Text};
use super::words::{ago, clean, count, share, since};
use super::{Answer, Screen, Tone};
use crate::api::{BackendState, BackendView, ServiceView};
use crate::config::{AdminState, Scheduler};
use crate::state::Status;

/// Backends of one or all services.
#[derive(Clone, Debug, Serialize)]
pub struct Backends {
    /// `lb.backends/1`.
    schema: &'static str,
    /// By service and name.
    backends: Vec<BackendView>,
    /// For each backend, how many slots, or turns in a lap, its service has.
    #[serde(skip)]
    service_slots: Vec<u32>,
    /// Backends that are no longer in the file, in words.
    #[serde(skip)]
    leaving: String,
}

impl Backends {
    /// An answer with all backends of these services.
    pub fn new(services: Vec<ServiceView>) -> Self {
        let mut answer = Self {
            schema: "lb.backends/1",
            backends: Vec::new(),
            service_slots: Vec::new(),
            leaving: String::new(),
        };
        for service in services {
            for gone in &service.leaving {
                answer.leaving += &format!(
                    "{}: {} is no longer in the file and keeps its old flows: {} remembered",
                    service.name,
                    gone.address,
                    flows(gone.flows)
                );
                answer.leaving += &match service.scheduler {
                    Scheduler::Maglev => {
                        let slots = share(gone.slots, service.slots);
                        format!(", {slots} of the slots not committed\n")
                    }
                    Scheduler::RoundRobin | Scheduler::LeastConn => "\n".to_owned(),
                };
            }
            let slots = service.lap.unwrap_or(service.slots);
            answer.service_slots.extend(service.backends.iter().map(|_| slots));
            answer.backends.extend(service.backends);
        }
        answer
    }
}

impl Answer for Backends {
    fn table(&self, screen: &Screen) -> String {
        let shown = |(backend, of): (_, &u32)| {
            let backend: &BackendView = backend;
            (backend, backend.slots.map_or("-".to_owned(), |slots| share(slots, *of)))
        };
        let rows = self.backends.iter().zip(&self.service_slots).map(shown);
        backends(rows.collect(), screen) + &self.leaving
    }
}

/// A backend after an edit.
#[derive(Clone, Debug, Serialize)]
pub struct ChangedBackend {
    /// `lb.backend/1`.
    schema: &'static str,
    /// What it is now.
    #[serde(flatten)]
    backend: BackendView,
}

impl ChangedBackend {
    /// An answer with this backend.
    pub const fn new(backend: BackendView) -> Self {
        Self { schema: "lb.backend/1", backend }
    }
}

impl Answer for ChangedBackend {
    fn table(&self, screen: &Screen) -> String {
        let slots = self.backend.slots.map_or("-".to_owned(), |slots| slots.to_string());
        backends(vec![(&self.backend, slots)], screen)
    }
}

/// The table of backends, each with its slots in words, and below it what operators changed.
fn backends(rows: Vec<(&BackendView, String)>, screen: &Screen) -> String {
    if rows.is_empty() {
        return "no backends\n".to_owned();
    }
    // Only where some service goes by them.
    let counts = rows.iter().any(|(backend, _)| backend.open.is_some());
    let mut header = vec![
        ("BACKEND", Align::Left),
        ("ADDRESS", Align::Left),
        ("STATE", Align::Left),
        ("WEIGHT", Align::Right),
        ("CHECK", Align::Left),
        ("NEXT HOP", Align::Left),
        ("SLOTS", Align::Right),
        ("FLOWS", Align::Right),
        ("PKTS", Align::Right),
        ("BYTES", Align::Right),
    ];
    if counts {
        header.insert(OPEN, ("OPEN", Align::Right));
    }
    let mut grid = Grid::new(screen, &header);
    let mut notes = String::new();
    for (backend, slots) in rows {
        let mut cells: Vec<Text> = vec![
            backend.id.to_string().into(),
            backend.address.to_string().into(),
            state(backend),
            weight(backend).into(),
            check(backend, screen),
            backend.next_hop.as_str().into(),
            slots.into(),
            flows(backend.flows).into(),
            count(backend.packets).into(),
            count(backend.bytes).into(),
        ];
        if counts {
            cells.insert(OPEN, backend.open.map_or("-".to_owned(), count).into());
        }
        grid.row(cells);
        notes += &note(backend, screen);
    }
    grid.text() + &notes
}

/// Where the column of open flows is, if it is there.
const OPEN: usize = 7;

/// Remembered flows; nothing where none are, as it is while nothing changes.
pub(super) fn flows(flows: Option<u64>) -> String {
    match flows {
        Some(0) | None => "-".to_owned(),
        Some(some) => count(some),
    }
}

fn state(backend: &BackendView) -> Text {
    let (word, tone) = match backend.state {
        BackendState::Serving => ("serving", Tone::Good),
        BackendState::Standby => ("standby", Tone::Plain),
        BackendState::Draining => ("draining", Tone::Odd),
        BackendState::Disabled => ("disabled", Tone::Odd),
        BackendState::Down => ("DOWN", Tone::Bad),
        BackendState::Checking => ("checking", Tone::Odd),
        BackendState::Unreachable => ("UNREACHABLE", Tone::Bad),
    };
    let overridden = backend.overridden.as_ref().is_some_and(|over| over.admin.is_some());
    let mut text = format!("{word}{}", if overridden { "*" } else { "" });
    if backend.backup && backend.state != BackendState::Standby {
        text += ", a backup";
    }
    if let Some(grown) = backend.growing {
        text += &format!(", slow start, {grown} %");
    }
    Text(text, tone)
}

/// The weight in force; a star and the file's weight where an operator changed it.
fn weight(backend: &BackendView) -> String {
    match &backend.overridden {
        Some(over) if over.weight.is_some() => {
            format!("{}* ({})", backend.weight, backend.file_weight)
        }
        Some(_) | None => backend.weight.to_string(),
    }
}

/// `up 3d4h, 200 OK in 3 ms`.
fn check(backend: &BackendView, screen: &Screen) -> Text {
    if backend.admin == AdminState::Disable {
        return "not checked".into();
    }
    let (word, tone) = match backend.health {
        Status::Up => ("up", Tone::Plain),
        Status::Down => ("down", Tone::Bad),
        Status::Unknown => ("unknown", Tone::Odd),
    };
    let mut text = word.to_owned();
    if let Some(then) = backend.since {
        text += &format!(" {}", since(then, screen.now));
    }
    if !backend.check.is_empty() {
        text += &format!(", {}", clean(&backend.check));
    }
    Text(text, tone)
}

/// What an operator changed about a backend, who and when; nothing where nobody did.
fn note(backend: &BackendView, screen: &Screen) -> String {
    let Some(over) = &backend.overridden else { return String::new() };
    let admin =
        over.admin.map(|admin| format!("admin {admin} (the file says {})", backend.file_admin));
    let weight = over
        .weight
        .map(|weight| format!("weight {weight} (the file says {})", backend.file_weight));
    let changes: Vec<String> = admin.into_iter().chain(weight).collect();
    let reason = over.reason.as_ref().map(|text| format!(": {}", clean(text))).unwrap_or_default();
    format!(
        "* {}: {}, by {} {}{reason}\n",
        backend.id,
        changes.join(", "),
        clean(&over.by),
        ago(over.at, screen.now)
    )
}
