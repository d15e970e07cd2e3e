//! What the verbs for a backend's host answer: `decap`, `backend setup`.

use serde::Serialize;

use super::table::{Align, Grid, Text};
use super::words::clean;
use super::{Answer, Screen, Tone};
use crate::backend::Change;
use crate::decap::Attached;
use crate::prefix::Prefix;

/// The end of a tunnel.
#[derive(Clone, Debug, Serialize)]
pub struct DecapStatus {
    /// `lb.decap/1`.
    schema: &'static str,
    /// Where the program is attached; nowhere if it is not.
    interfaces: Vec<Interface>,
    /// Where tunnels may come from.
    from: Vec<Prefix>,
    /// What became of packets.
    outcomes: Vec<Count>,
}

#[derive(Clone, Debug, Serialize)]
struct Interface {
    name: String,
    xdp_mode: &'static str,
}

#[derive(Clone, Debug, Serialize)]
struct Count {
    action: &'static str,
    reason: &'static str,
    packets: u64,
    bytes: u64,
}

impl DecapStatus {
    /// An answer with what is attached.
    pub fn new(attached: Option<&Attached>) -> Self {
        let mut status = Self {
            schema: "lb.decap/1",
            interfaces: Vec::new(),
            from: Vec::new(),
            outcomes: Vec::new(),
        };
        let Some(Attached { interfaces, from, outcomes }) = attached else { return status };
        status.interfaces.extend(interfaces.iter().map(|(name, native)| Interface {
            name: name.clone(),
            xdp_mode: if *native { "native" } else { "generic" },
        }));
        status.from.extend(from);
        status.outcomes.extend(outcomes.iter().map(|(outcome, counter)| {
            let (action, reason) = outcome.name();
            Count { action, reason, packets: counter.packets, bytes: counter.bytes }
        }));
        status
    }
}

impl Answer for DecapStatus {
    fn table(&self, screen: &Screen) -> String {
        if self.interfaces.is_empty() {
            return "not attached\n".to_owned();
        }
        let mut grid = Grid::new(screen, &[("INTERFACE", Align::Left), ("XDP", Align::Left)]);
        for Interface { name, xdp_mode } in &self.interfaces {
            let tone = if *xdp_mode == "native" { Tone::Plain } else { Tone::Odd };
            grid.row([name.as_str().into(), Text((*xdp_mode).to_owned(), tone)]);
        }
        let from: Vec<_> = self.from.iter().map(Prefix::to_string).collect();
        let mut text = format!("{}\nfrom {}\n", grid.text(), from.join(", "));
        let mut grid = Grid::new(
            screen,
            &[
                ("ACTION", Align::Left),
                ("REASON", Align::Left),
                ("PACKETS", Align::Right),
                ("BYTES", Align::Right),
            ],
        );
        let mut seen = false;
        for Count { action, reason, packets, bytes } in &self.outcomes {
            if *packets > 0 {
                seen = true;
                let numbers = [packets.to_string(), bytes.to_string()].map(Text::from);
                grid.row([(*action).into(), (*reason).into()].into_iter().chain(numbers));
            }
        }
        text += "\n";
        text += &if seen { grid.text() } else { "no tunnel packets yet\n".to_owned() };
        text
    }
}

/// What was changed on a backend's host.
#[derive(Clone, Debug, Serialize)]
pub struct Prepared {
    /// `lb.backend-setup/1`.
    schema: &'static str,
    /// Whether nothing was changed.
    dry_run: bool,
    /// A line for each change. People have seen those that were made before they were.
    changes: Vec<String>,
    /// What else is to know.
    notes: Vec<String>,
}

impl Default for Prepared {
    fn default() -> Self {
        Self::new(&[], false, Vec::new())
    }
}

impl Prepared {
    /// An answer with these changes.
    pub fn new(changes: &[Change], dry_run: bool, notes: Vec<String>) -> Self {
        let changes = changes.iter().map(Change::to_string).collect();
        Self { schema: "lb.backend-setup/1", dry_run, changes, notes }
    }
}

impl Answer for Prepared {
    fn table(&self, _screen: &Screen) -> String {
        let mut text = String::new();
        if self.changes.is_empty() {
            text += "nothing to do\n";
        } else if self.dry_run {
            for change in &self.changes {
                text += &format!("{}\n", clean(change));
            }
            text += "nothing was changed: a dry run\n";
        }
        for note in &self.notes {
            text += &format!("{}\n", clean(note));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decap::Attached;
    use crate::output::{Format, text};
    use lb_common::decap::Outcome;
    use lb_common::maps::Counter;

    const SCREEN: Screen = Screen { styled: false, now: jiff::Timestamp::UNIX_EPOCH };

    fn attached() -> Attached {
        Attached {
            interfaces: [("eth0".to_owned(), true), ("eth1".to_owned(), false)].into(),
            from: ["10.9.0.11/32".parse().unwrap(), "fd09::/64".parse().unwrap()].into(),
            outcomes: vec![
                (Outcome::Ipip, Counter { packets: 12, bytes: 1_200 }),
                (Outcome::Gue, Counter::default()),
                (Outcome::NotAllowed, Counter { packets: 3, bytes: 180 }),
            ],
        }
    }

    #[test]
    fn the_end_of_a_tunnel_is_shown_with_what_happened() {
        let shown = DecapStatus::new(Some(&attached())).table(&SCREEN);
        let expected = "INTERFACE  XDP\n\
                        eth0       native\n\
                        eth1       generic\n\
                        \n\
                        from 10.9.0.11/32, fd09::/64\n\
                        \n\
                        ACTION  REASON       PACKETS  BYTES\n\
                        unwrap  ipip              12   1200\n\
                        drop    not-allowed        3    180\n";
        assert_eq!(shown, expected);
        assert_eq!(DecapStatus::new(None).table(&SCREEN), "not attached\n");
    }

    #[test]
    fn programs_get_all_counters_and_a_schema() {
        let json = text(&DecapStatus::new(Some(&attached())), Format::Json, &SCREEN).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["schema"], "lb.decap/1");
        assert_eq!(json["outcomes"][1]["packets"], 0);
        let json = text(&Prepared::default(), Format::Json, &SCREEN).unwrap();
        assert!(json.contains("lb.backend-setup/1"), "{json}");
    }

    #[test]
    fn changes_that_were_made_are_not_shown_twice() {
        let changes = [Change::AddAddress("192.0.2.100".parse().unwrap())];
        let notes = || vec!["a note".to_owned()];
        let dry = Prepared::new(&changes, true, notes()).table(&SCREEN);
        let words = "+ 192.0.2.100/32 on lo\nnothing was changed: a dry run\na note\n";
        assert_eq!(dry, words);
        assert_eq!(Prepared::new(&changes, false, notes()).table(&SCREEN), "a note\n");
        assert_eq!(Prepared::default().table(&SCREEN), "nothing to do\n");
    }
}
