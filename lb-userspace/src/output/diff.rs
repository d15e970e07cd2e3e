//! `lb diff` and `lb reload --dry-run`: what a file would change.

use super::table::{Align, Grid, Text};
use super::words::{clean, share};
use super::{Answer, Screen, Tone};
use crate::api::{DiffView, Fate, ServiceDiff};

/// What the numbers of flows leave out.
const NOTE: &str = "FLOWS are open ones that are remembered now: AFFECTED ones stay with a backend \
                    that gets no new flows any more, LOST ones are refused or sent elsewhere\n";

impl Answer for DiffView {
    fn table(&self, screen: &Screen) -> String {
        let digest: String = self.digest.chars().take(12).collect();
        let (path, digest) = (clean(&self.path), clean(&digest));
        let mut text = match (self.changed, self.changes.is_empty()) {
            (false, _) => format!("{path}: sha256 {digest} runs already\n"),
            (true, true) => format!("{path}: sha256 {digest} says the same in other words\n"),
            (true, false) => format!("{path}: sha256 {digest} would change this:\n"),
        };
        for change in &self.changes {
            text += &format!("  {}\n", clean(change));
        }
        if !self.fixed.is_empty() {
            text += &format!(
                "{}: {} cannot change while the daemon runs: restart it\n",
                screen.paint("WOULD BE REFUSED", Tone::Bad),
                clean(&self.fixed.join(", "))
            );
        }
        if self.grows {
            text += "the maps are too small: they would be copied into larger ones\n";
        }
        for line in &self.dropped_overrides {
            text += &format!("override: {}\n", clean(line));
        }
        for line in &self.warnings {
            text += &format!("warning: {}\n", clean(line));
        }
        text + &services(&self.services, screen)
    }
}

/// The services that something would happen to.
fn services(services: &[ServiceDiff], screen: &Screen) -> String {
    let touched: Vec<_> = services.iter().filter(|service| is_touched(service)).collect();
    if touched.is_empty() {
        return "no slot would move, and no remembered flow\n".to_owned();
    }
    let mut grid = Grid::new(
        screen,
        &[
            ("SERVICE", Align::Left),
            ("SLOTS MOVED", Align::Right),
            ("ONCE ALL ARE UP", Align::Right),
            ("OLD FLOWS", Align::Left),
            ("FLOWS", Align::Right),
            ("AFFECTED", Align::Right),
            ("LOST", Align::Right),
        ],
    );
    for service in touched {
        let slots = |moved: u32| format!("{moved} ({})", share(moved, service.slots)).into();
        grid.row([
            service.service.as_str().into(),
            slots(service.moved),
            slots(service.moved_later),
            old_flows(service),
            service.flows.to_string().into(),
            some(service.affected, Tone::Odd),
            some(service.lost, Tone::Bad),
        ]);
    }
    grid.text() + NOTE
}

const fn is_touched(service: &ServiceDiff) -> bool {
    !matches!(service.fate, Fate::Stays)
        || service.moved + service.moved_later > 0
        || service.affected + service.lost > 0
}

fn old_flows(service: &ServiceDiff) -> Text {
    match (service.fate, service.keeps_flows) {
        (Fate::Stays, true) => "stay".into(),
        (Fate::Stays, false) => Text("move too".to_owned(), Tone::Odd),
        (Fate::Comes, _) => "new service".into(),
        (Fate::Goes, _) => Text("service goes".to_owned(), Tone::Odd),
    }
}

fn some(number: u64, tone: Tone) -> Text {
    if number == 0 { "-".into() } else { Text(number.to_string(), tone) }
}
