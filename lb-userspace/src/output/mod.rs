//! What a person or a program sees of an answer: every answer is one struct that becomes a
//! table or JSON. Pure: the terminal's abilities and the time come in with [`Screen`].

mod backends;
mod decap;
mod diff;
mod explain;
mod flows;
mod outcomes;
mod services;
mod status;
mod table;
#[cfg(test)]
mod tests;
mod words;

use jiff::Timestamp;
use serde::Serialize;

pub use backends::{Backends, ChangedBackend};
pub use decap::{DecapStatus, Prepared};
pub use outcomes::{Checked, Detached, Reloaded, Versions};
pub use services::Services;
pub use words::clean;

/// How answers are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns, for people.
    #[default]
    Table,
    /// One JSON object with a `schema`, for programs.
    Json,
}

/// What is printed on.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    /// Whether colours and bold type may be used: a terminal whose user did not refuse them.
    pub styled: bool,
    /// What relative times are relative to.
    pub now: Timestamp,
}

/// An answer: serialised it is what programs get, and `table` is what people get.
pub trait Answer: Serialize {
    /// The answer for people, lines that end in a line feed.
    fn table(&self, screen: &Screen) -> String;
}

/// The text of an answer in a format, ending in a line feed.
///
/// # Errors
/// When the answer cannot be put into JSON.
pub fn text(answer: &impl Answer, format: Format, screen: &Screen) -> serde_json::Result<String> {
    match format {
        Format::Table => Ok(answer.table(screen)),
        Format::Json => serde_json::to_string_pretty(answer).map(|json| json + "\n"),
    }
}

/// How good or bad a word is; shown by colour on top of the word, never by colour alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tone {
    Plain,
    Good,
    Odd,
    Bad,
}

impl Screen {
    /// `text` in the tone's colour, where colours may be used.
    fn paint(&self, text: &str, tone: Tone) -> String {
        // ECMA-48, select graphic rendition: bold, and the colours 1 to 3.
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Good => "32",
            Tone::Odd => "33",
            Tone::Bad => "1;31",
        };
        if self.styled { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// `text` as a heading.
    fn heading(&self, text: &str) -> String {
        if self.styled { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }
}
