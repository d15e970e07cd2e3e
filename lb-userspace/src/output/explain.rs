//! `lb explain`: the stages that a packet of the flow passes, numbered, up to its verdict.

use super::words::clean;
use super::{Answer, Screen, Tone};
use crate::api::{ExplainSlot, ExplainView};

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
            stages.push(("slot", place(slot)));
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
        } else if self.service.is_some() {
            stages.push(("backend", "none takes it".to_owned()));
        }
        if let (Some(backend), Some(established)) = (&self.backend, &self.established)
            && backend.id != *established
        {
            let words = format!("if the flow is there already, {} has it", clean(established));
            stages.push(("but", words));
        }
        stages.push(("verdict", verdict(self, screen)));

        let mut text = String::new();
        for (number, (stage, words)) in (1..).zip(stages) {
            text += &format!("{number} {stage:<8} {words}\n");
        }
        text
    }
}

fn place(slot: &ExplainSlot) -> String {
    let name = |backend: &Option<String>| match backend {
        Some(backend) => clean(backend),
        None => "no backend".to_owned(),
    };
    let mut text = format!("{} of {}: ", slot.index, slot.count);
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
