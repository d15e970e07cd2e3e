//! `lb status`: one screen, what is wrong before what is well.

use super::services::{guards, services};
use super::table::{Align, Grid};
use super::words::{ago, clean, count, indented, since};
use super::{Answer, Screen, Tone};
use crate::api::{ConfigView, InterfaceView, SilentView, StatusView, VerdictView};

impl Answer for StatusView {
    fn table(&self, screen: &Screen) -> String {
        let mut text = format!(
            "{}  up {}  version {}\n",
            screen.heading(&clean(&self.node)),
            since(self.started, screen.now),
            clean(&self.version)
        );
        text += &config(&self.config, screen);
        text += &interfaces(&self.interfaces, screen);
        text += &problems(&self.problems, screen);
        text += "\n";
        text += &services(&self.services, screen);
        text += &guards(&self.services, &self.verdicts);
        text += "\n";
        text += &verdicts(&self.verdicts, screen);
        text += &silent(&self.silent, screen);
        text
    }
}

fn config(config: &ConfigView, screen: &Screen) -> String {
    let digest: String = config.digest.chars().take(12).collect();
    let mut text = format!(
        "config  {}  sha256 {}  loaded {}\n",
        clean(&config.path),
        clean(&digest),
        ago(config.loaded, screen.now)
    );
    if let Some(rejection) = &config.rejected {
        text += &screen.paint("REJECTED", Tone::Bad);
        text += &format!(
            "  {}: the file was refused, the configuration above still runs\n",
            ago(rejection.at, screen.now)
        );
        text += &indented(&rejection.report, "    ");
    }
    text
}

fn interfaces(interfaces: &[InterfaceView], screen: &Screen) -> String {
    if interfaces.is_empty() {
        let words = "NOT ATTACHED to any interface: nothing is balanced";
        return format!("xdp     {}\n", screen.paint(words, Tone::Bad));
    }
    let mut text = String::new();
    for interface in interfaces {
        let mode = match interface.xdp_mode.as_str() {
            "generic" => screen.paint("GENERIC (behind the driver, slow)", Tone::Odd),
            mode => clean(mode),
        };
        let link = if interface.up { "up".to_owned() } else { screen.paint("DOWN", Tone::Bad) };
        let (name, mac) = (clean(&interface.name), clean(&interface.mac));
        text += &format!("xdp     {name}  {mode}  {link}  {mac}\n");
    }
    text
}

fn problems(problems: &[String], screen: &Screen) -> String {
    if problems.is_empty() {
        return format!("{}\n", screen.paint("no problems", Tone::Good));
    }
    let mut text = format!("{}\n", screen.paint("PROBLEMS", Tone::Bad));
    for problem in problems {
        text += &format!("  ! {}\n", clean(problem));
    }
    text
}

fn verdicts(verdicts: &[VerdictView], screen: &Screen) -> String {
    if verdicts.is_empty() {
        return "no frames passed, dropped or answered yet\n".to_owned();
    }
    let mut grid = Grid::new(
        screen,
        &[
            ("VERDICT", Align::Left),
            ("REASON", Align::Left),
            ("PACKETS", Align::Right),
            ("BYTES", Align::Right),
        ],
    );
    for verdict in verdicts {
        grid.row([
            verdict.action.as_str().into(),
            verdict.reason.as_str().into(),
            count(verdict.packets).into(),
            count(verdict.bytes).into(),
        ]);
    }
    grid.text()
}

/// Nothing, as long as there was nobody to tell.
fn silent(silent: &SilentView, screen: &Screen) -> String {
    if *silent == SilentView::default() {
        return String::new();
    }
    let failed = format!("{} failed", silent.failed);
    let failed = if silent.failed == 0 { failed } else { screen.paint(&failed, Tone::Odd) };
    format!("\nsilent clients: {} prodded, {failed}\n", silent.prodded)
}
