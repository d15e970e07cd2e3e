//! Tables without borders: columns two spaces apart, numbers to the right.

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};

use super::words::clean;
use super::{Screen, Tone};

/// Which way a column is aligned.
#[derive(Clone, Copy, Debug)]
pub(super) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table in the making.
pub(super) struct Grid {
    table: Table,
    columns: Vec<Align>,
    styled: bool,
}

/// The text of a cell and its tone.
pub(super) struct Text(pub String, pub Tone);

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text, Tone::Plain)
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.to_owned(), Tone::Plain)
    }
}

impl Grid {
    /// A table with a header and no rows.
    pub(super) fn new(screen: &Screen, header: &[(&str, Align)]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        // Whether escapes are used is decided by the screen, not by comfy-table.
        if screen.styled {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.style_text_only();
        let cells: Vec<Cell> = header
            .iter()
            .map(|(name, align)| {
                let cell = Cell::new(name).set_alignment(alignment(*align));
                if screen.styled { cell.add_attribute(Attribute::Bold) } else { cell }
            })
            .collect();
        table.set_header(cells);
        let columns = header.iter().map(|(_, align)| *align).collect();
        Self { table, columns, styled: screen.styled }
    }

    /// Adds a row; line feeds in a cell make it higher, other control characters are escaped.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = Text>) {
        let cells: Vec<Cell> = cells
            .into_iter()
            .zip(&self.columns)
            .map(|(Text(text, tone), align)| {
                let lines: Vec<String> = text.split('\n').map(clean).collect();
                let cell = Cell::new(lines.join("\n")).set_alignment(alignment(*align));
                if !self.styled {
                    return cell;
                }
                match tone {
                    Tone::Plain => cell,
                    Tone::Good => cell.fg(Color::DarkGreen),
                    Tone::Odd => cell.fg(Color::DarkYellow),
                    Tone::Bad => cell.fg(Color::DarkRed).add_attribute(Attribute::Bold),
                }
            })
            .collect();
        self.table.add_row(cells);
    }

    /// The lines, without spaces at their ends, each ending in a line feed.
    pub(super) fn text(mut self) -> String {
        for column in self.table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        self.table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

const fn alignment(align: Align) -> CellAlignment {
    match align {
        Align::Left => CellAlignment::Left,
        Align::Right => CellAlignment::Right,
    }
}
