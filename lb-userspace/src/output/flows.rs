//! `lb flows list` and `lb flows count`.

use super::table::{Align, Grid, Text};
use super::words::span;
use super::{Answer, Screen, Tone};
use crate::api::{FlowCountView, FlowKind, FlowState, FlowTally, FlowView, FlowsView};

/// What a number of flows must not be taken for.
const NOTE: &str = "remembered flows only: those whose slot alone tells their backend are not, so \
                    that of a maglev service this is not the number of connections\n";

impl Answer for FlowsView {
    fn table(&self, screen: &Screen) -> String {
        if self.flows.is_empty() {
            return format!("no flows\n{NOTE}");
        }
        let mut grid = Grid::new(
            screen,
            &[
                ("PROTO", Align::Left),
                ("SOURCE", Align::Left),
                ("DESTINATION", Align::Left),
                ("SERVICE", Align::Left),
                ("BACKEND", Align::Left),
                ("KIND", Align::Left),
                ("STATE", Align::Left),
                ("IDLE", Align::Right),
            ],
        );
        for flow in &self.flows {
            grid.row([
                flow.protocol.to_string().into(),
                flow.source.to_string().into(),
                flow.destination.to_string().into(),
                flow.service.as_str().into(),
                backend(&flow.backend, flow.leaving),
                kind(flow.kind).into(),
                state(flow).into(),
                span(flow.idle).into(),
            ]);
        }
        let mut text = grid.text();
        if self.truncated {
            let shown = self.flows.len();
            text += &format!("{shown} of {} flows: --limit shows more\n", self.total);
        }
        text + NOTE
    }
}

/// A backend that is no longer in the file is told by its address.
fn backend(name: &str, leaving: bool) -> Text {
    if leaving { Text(format!("{name} (leaving)"), Tone::Odd) } else { name.into() }
}

const fn kind(kind: FlowKind) -> &'static str {
    match kind {
        FlowKind::HalfOpen => "half-open",
        FlowKind::Current => "new",
        FlowKind::Base => "old",
    }
}

const fn state(flow: &FlowView) -> &'static str {
    match flow.state {
        FlowState::Opening => "opening",
        FlowState::Open => "open",
        FlowState::Closing => "closing",
    }
}

impl Answer for FlowCountView {
    fn table(&self, screen: &Screen) -> String {
        let mut grid = Grid::new(
            screen,
            &[
                ("SERVICE", Align::Left),
                ("BACKEND", Align::Left),
                ("FLOWS", Align::Right),
                ("HALF-OPEN", Align::Right),
                ("NEW", Align::Right),
                ("OLD", Align::Right),
                ("OPEN", Align::Right),
                ("CLOSING", Align::Right),
            ],
        );
        let mut row = |service: &str, backend: Text, tally: &FlowTally| {
            let FlowTally { flows, half_open, current, base, open, closing } = *tally;
            let [flows, half_open, current, base, open, closing] =
                [flows, half_open, current, base, open, closing].map(|n| Text::from(n.to_string()));
            grid.row([service.into(), backend, flows, half_open, current, base, open, closing]);
        };
        for service in &self.services {
            for of in &service.backends {
                row(&service.service, backend(&of.backend, of.leaving), &of.tally);
            }
            // What one backend has is all there is.
            if service.backends.len() != 1 {
                row(&service.service, "all".into(), &service.tally);
            }
        }
        if self.services.len() != 1 {
            row("all", "".into(), &self.total);
        }
        grid.text() + NOTE
    }
}
