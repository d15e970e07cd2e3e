//! Typed access to the tables of a parsed TOML document, with the place of every value.
//!
//! Every reader reports what it cannot use and goes on. Rules between values are not its
//! business.

use std::net::IpAddr;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeInteger, DeString, DeTable, DeValue};

use super::duration;
use super::listen::parse_address;
use super::report::Sink;
use super::schema::{Schema, Words, meant};
use super::wording::{listed, quoted};

/// A value and the bytes of the file that say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub span: Range<usize>,
}

/// What a table has under a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Field<T> {
    /// Nothing.
    #[default]
    Absent,
    /// Something that cannot be used and has been reported: say no more about it.
    Wrong,
    /// A value.
    Given(At<T>),
}

impl<T> Field<T> {
    /// The value with its place, if it is there and can be used.
    pub fn given(&self) -> Option<&At<T>> {
        match self {
            Self::Given(at) => Some(at),
            Self::Absent | Self::Wrong => None,
        }
    }

    /// Whether it was reported.
    pub fn is_wrong(&self) -> bool {
        matches!(self, Self::Wrong)
    }

    /// This one, or where there is nothing the other one.
    pub fn or<'f>(&'f self, other: &'f Self) -> &'f Self {
        match self {
            Self::Absent => other,
            Self::Wrong | Self::Given(_) => self,
        }
    }

    fn from_option(given: Option<At<T>>) -> Self {
        given.map_or(Self::Wrong, Self::Given)
    }
}

impl<T: Clone> Field<T> {
    /// The value, or this one.
    pub fn value_or(&self, default: T) -> T {
        self.given().map_or(default, |at| at.value.clone())
    }

    /// The value, or its type's default.
    pub fn value_or_default(&self) -> T
    where
        T: Default,
    {
        self.value_or(T::default())
    }
}

/// A key of the file, as [`DeTable`] stores it.
pub type Key<'t> = Spanned<DeString<'t>>;
/// A value of the file, as [`DeTable`] stores it.
pub type Value<'t> = Spanned<DeValue<'t>>;

/// A table with a fixed set of keys.
#[derive(Clone)]
pub struct Fields<'t> {
    /// Where it begins: its header, braces, or the key that makes it.
    pub span: Range<usize>,
    table: &'t DeTable<'t>,
    /// Known keys that unknown ones were probably meant to be.
    meant: Vec<&'static str>,
}

impl<'t> Fields<'t> {
    /// Opens the table under `key`; reports it if it is none, and every key that `schema` does
    /// not know.
    pub fn open(sink: &mut Sink, key: &str, value: &'t Value<'t>, schema: &Schema) -> Option<Self> {
        let table = table(sink, key, value)?;
        Some(Self::of(sink, value.span(), table, schema))
    }

    /// The same for a table that is already known to be one.
    pub fn of(
        sink: &mut Sink,
        span: Range<usize>,
        table: &'t DeTable<'t>,
        schema: &Schema,
    ) -> Self {
        let mut meant = Vec::new();
        for (key, _) in table.iter() {
            let name: &str = key.get_ref();
            if schema.keys.contains(&name) {
                continue;
            }
            match schema.later.iter().find(|(later, _)| *later == name) {
                Some((_, what)) => {
                    let message = format!("{} is not supported by this version", quoted(name));
                    let hint = format!("remove it: it is for {what}");
                    sink.mistake(&key.span(), message).hint(hint);
                }
                None => {
                    let message = format!("unknown key {} in {}", quoted(name), schema.of);
                    let unknown = schema.unknown(name);
                    meant.extend(unknown.meant);
                    sink.mistake(&key.span(), message).hint(unknown.hint);
                }
            }
        }
        Self { span, table, meant }
    }

    /// What is under `key`, untyped.
    pub fn get(&self, key: &str) -> Option<&'t Value<'t>> {
        self.table.get(key)
    }

    /// Whether nothing is under `key`, nor under a misspelt one, which was reported.
    pub fn lacks(&self, key: &str) -> bool {
        self.get(key).is_none() && !self.meant.contains(&key)
    }

    /// Reads what is under `key`; `read` returns `None` once it has reported.
    pub fn read<T>(
        &self,
        sink: &mut Sink,
        key: &str,
        read: impl FnOnce(&mut Sink, &'t Value<'t>) -> Option<T>,
    ) -> Field<T> {
        match self.get(key) {
            None => Field::Absent,
            Some(value) => Field::from_option(
                read(sink, value).map(|read| At { value: read, span: value.span() }),
            ),
        }
    }

    /// A string for which `check` finds nothing wrong.
    pub fn text(
        &self,
        sink: &mut Sink,
        key: &str,
        check: impl FnOnce(&str) -> Result<(), String>,
    ) -> Field<String> {
        self.read(sink, key, |sink, value| {
            let text = string(sink, key, value)?;
            match check(text) {
                Ok(()) => Some(text.to_owned()),
                Err(wrong) => {
                    sink.mistake(&value.span(), format!("`{key}` {wrong}, got {}", quoted(text)));
                    None
                }
            }
        })
    }

    /// A whole number in `range`.
    pub fn number(&self, sink: &mut Sink, key: &str, range: RangeInclusive<u32>) -> Field<u32> {
        self.read(sink, key, |sink, value| number(sink, key, value, range))
    }

    /// `true` or `false`.
    pub fn truth(&self, sink: &mut Sink, key: &str) -> Field<bool> {
        self.read(sink, key, |sink, value| {
            let truth = value.get_ref().as_bool();
            if truth.is_none() {
                let text = value.get_ref().as_str();
                let unquoted = text.is_some_and(|text| text == "true" || text == "false");
                wrong_type(sink, key, value, "`true` or `false`")
                    .hint_if(unquoted.then_some("write it without quotes"));
            }
            truth
        })
    }

    /// A duration in `range`.
    pub fn duration(
        &self,
        sink: &mut Sink,
        key: &str,
        range: RangeInclusive<Duration>,
    ) -> Field<Duration> {
        self.read(sink, key, |sink, value| read_duration(sink, key, value, range))
    }

    /// One of some words.
    pub fn word<T: Copy>(&self, sink: &mut Sink, key: &str, words: &Words<T>) -> Field<T> {
        self.read(sink, key, |sink, value| {
            let text = string(sink, key, value)?;
            let known = || words.iter().filter(|(_, meaning)| meaning.is_ok()).map(|word| word.0);
            match words.iter().find(|(word, _)| *word == text) {
                Some((_, Ok(meaning))) => Some(*meaning),
                Some((_, Err(needs))) => {
                    let message =
                        format!("`{key}` = {} is not supported by this version", quoted(text));
                    let hint = format!("it needs {needs}; this version has {}", listed(known()));
                    sink.mistake(&value.span(), message).hint(hint);
                    None
                }
                None => {
                    let hint = match meant(text, known()) {
                        Some(word) => format!("did you mean \"{word}\"?"),
                        None => format!("it may be one of {}", listed(known())),
                    };
                    let message = format!("unknown `{key}`: {}", quoted(text));
                    sink.mistake(&value.span(), message).hint(hint);
                    None
                }
            }
        })
    }

    /// An IP address.
    pub fn address(&self, sink: &mut Sink, key: &str) -> Field<IpAddr> {
        self.read(sink, key, |sink, value| {
            let text = string(sink, key, value)?;
            match parse_address(text) {
                Ok(address) => Some(address),
                Err(wrong) => {
                    sink.mistake(&value.span(), wrong.message).hint_if(wrong.hint);
                    None
                }
            }
        })
    }
}

/// The entries of a table, or of an array, in the order of the file.
pub fn in_order<'t>(table: &'t DeTable<'t>) -> Vec<(&'t Key<'t>, &'t Value<'t>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// A table; else reports that the value of `key` is none.
pub fn table<'t>(sink: &mut Sink, key: &str, value: &'t Value<'t>) -> Option<&'t DeTable<'t>> {
    let table = value.get_ref().as_table();
    if table.is_none() {
        wrong_type(sink, key, value, "a table");
    }
    table
}

/// A string; else reports that the value of `key` is none.
pub fn string<'t>(sink: &mut Sink, key: &str, value: &'t Value<'t>) -> Option<&'t str> {
    let string = value.get_ref().as_str();
    if string.is_none() {
        wrong_type(sink, key, value, "a string");
    }
    string
}

/// The elements of an array; else reports that the value of `key` is none.
pub fn array<'t>(
    sink: &mut Sink,
    key: &str,
    value: &'t Value<'t>,
    of: &str,
) -> Option<&'t [Value<'t>]> {
    match value.get_ref() {
        DeValue::Array(array) => Some(array),
        DeValue::String(_) => {
            let message = format!("`{key}` must be an array of {of}, found a string");
            sink.mistake(&value.span(), message).hint("put it in brackets: [\"...\"]");
            None
        }
        _ => {
            wrong_type(sink, key, value, &format!("an array of {of}"));
            None
        }
    }
}

/// A whole number in `range`; else reports the value of `key`.
pub fn number(
    sink: &mut Sink,
    key: &str,
    value: &Value,
    range: RangeInclusive<u32>,
) -> Option<u32> {
    let Some(integer) = value.get_ref().as_integer() else {
        let unquoted = value.get_ref().as_str().is_some_and(|text| text.parse::<u32>().is_ok());
        wrong_type(sink, key, value, "a whole number")
            .hint_if(unquoted.then_some("write it without quotes"));
        return None;
    };
    match u32::from_str_radix(integer.as_str(), integer.radix()) {
        Ok(number) if range.contains(&number) => Some(number),
        Ok(_) | Err(_) => {
            let (least, most) = (range.start(), range.end());
            let number = shown(integer);
            let message = format!("`{key}` must be {least} to {most}, got {number}");
            sink.mistake(&value.span(), message);
            None
        }
    }
}

/// A number as a message shows it.
fn shown(integer: &DeInteger) -> String {
    let text = integer.to_string();
    if text.len() > 24 { "a number far beyond that".to_owned() } else { text }
}

fn read_duration(
    sink: &mut Sink,
    key: &str,
    value: &Value,
    range: RangeInclusive<Duration>,
) -> Option<Duration> {
    const EXAMPLES: &str = "a duration is a whole number and ms, s, m, h or d: \"500ms\", \"2s\"";
    if let DeValue::Integer(_) | DeValue::Float(_) = value.get_ref() {
        wrong_type(sink, key, value, "a duration with a unit, in quotes").hint(EXAMPLES);
        return None;
    }
    let text = string(sink, key, value)?;
    let read = match duration::parse(text) {
        Ok(read) => read,
        Err(wrong) => {
            let message = format!("`{key}` = {} {wrong}", quoted(text));
            sink.mistake(&value.span(), message).hint(EXAMPLES);
            return None;
        }
    };
    if range.contains(&read) {
        return Some(read);
    }
    let (least, most) = (duration::show(*range.start()), duration::show(*range.end()));
    let message = format!("`{key}` must be {least} to {most}, got {}", quoted(text));
    sink.mistake(&value.span(), message);
    None
}

fn wrong_type<'s>(
    sink: &'s mut Sink,
    key: &str,
    value: &Value,
    wanted: &str,
) -> &'s mut super::report::Mistake {
    let found = match value.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "a truth value",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    };
    sink.mistake(&value.span(), format!("{} must be {wanted}, found {found}", quoted(key)))
}
