//! `lb explain`: the stages that a packet of the flow passes, numbered, up to its verdict.

use super::words::clean;
use super::{Answer, Screen, Tone};
use crate::api::{ExplainChoice, ExplainService, ExplainSlot, ExplainView};
use crate::config::{Affinity, Scheduler};

impl Answer for ExplainView {
    fn table(&self, screen: &Screen) -> String {
        let mut stages = vec![("flow", clean(&self.flow))];
        stages.push(match &self.service {
            Some(service) => {
                ("service", format!("{} on {}", clean(&service.name), clean(&service.listener)))
            }
            None => ("service", "none has this address, port and protocol".to_owned()),
        });
        if let Some(hash) = self.hash {
            stages.push(("hash", format!("{hash:#010x}")));
        }
        if let Some(slot) = &self.slot {
            stages.push(("slot", place(slot, self.service.as_ref())));
        }
        if let Some(backend) = &self.backend {
            stages.push((
                "backend",
                format!(
                    "{} at {}, next hop {} via {}",
                    clean(&backend.id),
                    backend.address,
                    clean(&backend.mac),
                    clean(&backend.interface)
                ),
            ));
        } else if !self.choices.is_empty() {
            stages.push(("backend", format!("one of {}", choices(&self.choices))));
        } else if self.service.is_some() {
            stages.push(("backend", "none takes it".to_owned()));
        }
        let other = |established: &String| match &self.backend {
            Some(backend) => backend.id != *established,
            None => !self.choices.is_empty(),
        };
        if let Some(established) = self.established.as_ref().filter(|id| other(id)) {
            let words = format!("if the flow is there already, {} has it", clean(established));
            stages.push(("but", words));
        }
        stages.push(("verdict", verdict(self, screen)));

        let mut text = String::new();
        for (number, (stage, words)) in (1..).zip(stages) {
            text += &format!("{number} {stage:<8} {words}\n");
        }
        for note in &self.notes {
            text += &format!("* {}\n", clean(note));
        }
        text
    }
}

/// `web/web1 (2 of 4 turns), web/web2 (1 of 4 turns), ...`.
fn choices(choices: &[ExplainChoice]) -> String {
    let lap: u32 = choices.iter().map(|choice| choice.turns).sum();
    let words = |choice: &ExplainChoice| {
        let open = choice.open.map(|open| format!("{open} open flows, ")).unwrap_or_default();
        format!("{} ({open}{} of {lap} turns)", clean(&choice.id), choice.turns)
    };
    choices.iter().map(words).collect::<Vec<_>>().join(", ")
}

/// The slot, and for whom it is.
fn place(slot: &ExplainSlot, service: Option<&ExplainService>) -> String {
    let name = |backend: &Option<String>| match backend {
        Some(backend) => clean(backend),
        None => "no backend".to_owned(),
    };
    let mut text = format!("{} of {}: ", slot.index, slot.count);
    let goes_by = service.map(|service| (service.scheduler, service.affinity)).unwrap_or_default();
    match goes_by {
        (Scheduler::RoundRobin | Scheduler::LeastConn, _) => {
            return text + &name(&slot.base) + ", for packets of old flows that nobody remembers";
        }
        (Scheduler::Maglev, Affinity::Quic) => {
            return text + &name(&slot.current) + ", for packets that name no server";
        }
        (Scheduler::Maglev, Affinity::Flow | Affinity::ClientIp | Affinity::None) => {}
    }
    if slot.current == slot.base {
        text += &name(&slot.current);
    } else {
        text += &format!(
            "new flows go to {}, flows from before the latest changes to {}",
            name(&slot.current),
            name(&slot.base)
        );
    }
    if slot.watched {
        text += "; some of its flows may be remembered and stay elsewhere";
    }
    text
}

fn verdict(view: &ExplainView, screen: &Screen) -> String {
    let (words, tone) = match view.action.as_str() {
        "forward" => ("forward", Tone::Good),
        "pass" => ("pass to the kernel", Tone::Plain),
        "drop" => ("DROP", Tone::Bad),
        other => (other, Tone::Plain),
    };
    format!("{}, {}", screen.paint(&clean(words), tone), clean(&view.reason))
}
