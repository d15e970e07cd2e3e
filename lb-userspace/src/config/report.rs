//! Mistakes in a configuration file, with their places, and how they are shown to people.
//!
//! [`Sink`] collects them while the file is read; [`Report`] is what comes of it. What a mistake
//! is, is for `raw` and `check` to say.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Origin, Renderer, Snippet};

/// Something in the file that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// What is wrong, in one line.
    pub message: String,
    /// Line of the file, from 1; 0 where no place in the file is to blame.
    pub line: usize,
    /// Column in that line, in characters, from 1; 0 as above.
    pub column: usize,
    /// What to do about it, in one line.
    pub hint: Option<String>,
    /// The bytes of the file that are wrong.
    span: Range<usize>,
    /// Other places that have to do with it, and what is there.
    related: Vec<(Range<usize>, String)>,
}

impl Mistake {
    /// Adds what to do about it.
    pub(super) fn hint(&mut self, hint: impl Into<String>) -> &mut Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a hint if there is one.
    pub(super) fn hint_if(&mut self, hint: Option<impl Into<String>>) -> &mut Self {
        if let Some(hint) = hint {
            self.hint = Some(hint.into());
        }
        self
    }

    /// Adds another place that has to do with it, and what is there.
    pub(super) fn see(&mut self, span: &Range<usize>, label: impl Into<String>) -> &mut Self {
        self.related.push((span.clone(), label.into()));
        self
    }
}

/// Collects the mistakes of one file.
pub(super) struct Sink<'t> {
    text: &'t str,
    mistakes: Vec<Mistake>,
    warnings: Vec<Mistake>,
}

impl<'t> Sink<'t> {
    /// For a file with this text.
    pub fn new(text: &'t str) -> Self {
        Self { text, mistakes: Vec::new(), warnings: Vec::new() }
    }

    /// Notes a mistake at these bytes of the file; hint and related places may be added.
    pub fn mistake(&mut self, span: &Range<usize>, message: impl Into<String>) -> &mut Mistake {
        let mistake = self.found(span, message.into());
        self.mistakes.push(mistake);
        let last = self.mistakes.len() - 1;
        &mut self.mistakes[last]
    }

    /// Notes something that is allowed but probably not meant.
    pub fn warn(&mut self, span: &Range<usize>, message: impl Into<String>) -> &mut Mistake {
        let warning = self.found(span, message.into());
        self.warnings.push(warning);
        let last = self.warnings.len() - 1;
        &mut self.warnings[last]
    }

    /// Everything, in the order of the file.
    pub fn into_report(self, path: &Path) -> Report {
        Report {
            path: path.to_owned(),
            text: self.text.to_owned(),
            mistakes: in_order(self.mistakes, self.text),
            warnings: in_order(self.warnings, self.text),
        }
    }

    /// Line and column come when all are known.
    fn found(&self, span: &Range<usize>, message: String) -> Mistake {
        let start = self.text.floor_char_boundary(span.start);
        let end = self.text.floor_char_boundary(span.end.max(start));
        let related = Vec::new();
        Mistake { message, line: 0, column: 0, hint: None, span: start..end, related }
    }
}

/// Sorts by place, and counts lines and columns in one pass over the text: there may be as many
/// mistakes in a line as it has bytes.
fn in_order(mut found: Vec<Mistake>, text: &str) -> Vec<Mistake> {
    found.sort_by(|a, b| a.span.start.cmp(&b.span.start).then(a.message.cmp(&b.message)));
    // What is wrong in `[defaults]` is found again for every service that takes it over.
    found.dedup();
    let (mut at, mut line, mut column) = (0, 1, 1);
    for mistake in &mut found {
        let passed = &text[at..mistake.span.start];
        column = match passed.rfind('\n') {
            Some(last) => passed[last + 1..].chars().count() + 1,
            None => column + passed.chars().count(),
        };
        line += passed.matches('\n').count();
        at = mistake.span.start;
        (mistake.line, mistake.column) = (line, column);
    }
    found
}

/// All that is wrong with a configuration file. Displayed, it is the text that `lb check`
/// prints, without colour.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    path: PathBuf,
    text: String,
    mistakes: Vec<Mistake>,
    warnings: Vec<Mistake>,
}

/// Mistakes that are drawn with their lines; more would bury the first ones.
const MOST_DRAWN: usize = 200;
/// Bytes of a line, and of all lines of one drawing, that are still drawn.
const LONGEST_LINE: usize = 1_000;
const LONGEST_DRAWING: usize = 20_000;

/// Bytes of the file that are drawn: where, how, and what is said there.
type Place<'a> = (&'a Range<usize>, AnnotationKind, Option<&'a str>);

impl Report {
    /// For a mistake that has no place in the file, such as a file that cannot be read.
    pub(super) fn without_place(path: &Path, message: String, hint: Option<String>) -> Self {
        let (span, related) = (0..0, Vec::new());
        let mistake = Mistake { message, line: 0, column: 0, hint, span, related };
        let (text, mistakes, warnings) = (String::new(), vec![mistake], Vec::new());
        Self { path: path.to_owned(), text, mistakes, warnings }
    }

    /// The mistakes, in the order of the file; at least one in a report that is an error.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }

    /// What is allowed but probably not meant, a line each: `lb.toml:7:3: ...`.
    pub fn warnings(&self) -> Vec<String> {
        let path = self.path.display();
        let line = |warning: &Mistake| {
            let Mistake { message, line, column, hint, .. } = warning;
            let hint = hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
            format!("{path}:{line}:{column}: {message}{hint}")
        };
        self.warnings.iter().map(line).collect()
    }

    /// The mistakes and warnings for people: each with its line, a caret and a hint, and a last
    /// line with their number. `colour` adds ANSI escapes.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let renderer = renderer.decor_style(DecorStyle::Ascii);
        let mut out = String::new();
        for (level, found) in [(Level::ERROR, &self.mistakes), (Level::WARNING, &self.warnings)] {
            for mistake in found.iter().take(MOST_DRAWN) {
                out.push_str(&renderer.render(&[self.draw(level.clone(), mistake)]));
                out.push_str("\n\n");
            }
        }
        let hidden = self.mistakes.len().saturating_sub(MOST_DRAWN);
        let more = if hidden > 0 { format!(" ({hidden} not shown)") } else { String::new() };
        let warnings = match self.warnings.len() {
            0 => String::new(),
            number => format!(", {}", counted(number, "warning")),
        };
        let mistakes = counted(self.mistakes.len(), "mistake");
        out.push_str(&format!("{}: {mistakes}{more}{warnings}", self.path.display()));
        out
    }

    fn draw<'a>(&'a self, level: Level<'a>, mistake: &'a Mistake) -> Group<'a> {
        let title = level.primary_title(mistake.message.as_str());
        let path = self.path.display().to_string();
        let mut group = match self.snippets(mistake).as_slice() {
            [] if mistake.line == 0 => title.element(Origin::path(path)),
            [] => {
                let origin = Origin::path(path).line(mistake.line).char_column(mistake.column);
                title.element(origin)
            }
            snippets => title.elements(snippets.iter().cloned().map(|one| one.path(path.clone()))),
        };
        if let Some(hint) = &mistake.hint {
            group = group.element(Level::HELP.message(hint.as_str()));
        }
        group
    }

    /// The lines that are drawn: one piece of the file, or where that would be too long one for
    /// each place; none for a place whose line is too long.
    fn snippets<'a>(&'a self, mistake: &'a Mistake) -> Vec<Snippet<'a, Annotation<'a>>> {
        if mistake.line == 0 {
            return Vec::new();
        }
        let primary = (&mistake.span, AnnotationKind::Primary, None);
        let related = mistake.related.iter();
        let related =
            related.map(|(at, label)| (at, AnnotationKind::Context, Some(label.as_str())));
        let places: Vec<Place<'a>> = std::iter::once(primary).chain(related).collect();
        match self.snippet(&places) {
            Some(snippet) => vec![snippet],
            None => places.iter().filter_map(|place| self.snippet(&[*place])).collect(),
        }
    }

    /// The lines from the first to the last of some places; `None` if that is too much to draw.
    fn snippet<'a>(&'a self, places: &[Place<'a>]) -> Option<Snippet<'a, Annotation<'a>>> {
        let start = places.iter().map(|place| place.0.start).min()?;
        let end = places.iter().map(|place| place.0.start).max()?;
        let start = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let end = self.text[end..].find('\n').map_or(self.text.len(), |at| end + at);
        let lines = &self.text[start..end];
        if lines.len() > LONGEST_DRAWING || lines.lines().any(|line| line.len() > LONGEST_LINE) {
            return None;
        }
        let first = self.text[..start].matches('\n').count() + 1;
        let annotations = places.iter().map(|(span, kind, label)| {
            // The first line of a longer value is enough to see which one it is.
            let line = self.text[(*span).clone()].lines().next().unwrap_or_default();
            kind.span(span.start - start..span.start + line.len() - start).label(*label)
        });
        Some(Snippet::source(lines).line_start(first).annotations(annotations))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Report {}

/// `1 mistake`, `2 mistakes`.
fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
