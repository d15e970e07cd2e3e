//! The shape of a `check` table.

use std::net::IpAddr;
use std::time::Duration;

use toml::de::DeValue;

use super::path;
use crate::config::Tls;
use crate::config::report::Sink;
use crate::config::schema::{self, Kind};
use crate::config::tree::{self, At, Field, Fields, Value};
use crate::config::wording::quoted;

/// `check` of a service or of the defaults.
#[derive(Clone, Default)]
pub struct Check {
    pub kind: Field<Kind>,
    pub port: Field<u32>,
    pub path: Field<String>,
    pub host: Field<String>,
    pub expect: Field<Vec<u16>>,
    pub verify: Field<Tls>,
    pub interval: Field<Duration>,
    pub fast_interval: Field<Duration>,
    pub timeout: Field<Duration>,
    pub rise: Field<u32>,
    pub fall: Field<u32>,
    /// The keys that are there, with their places.
    pub keys: Vec<At<String>>,
}

/// Range of the intervals between probes.
const INTERVAL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(3_600));
/// Range of a probe's timeout.
const TIMEOUT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(60));
/// Longest `rise` and `fall`.
const MAX_STREAK: u32 = 100;

impl Check {
    /// Reads the table.
    pub fn read(sink: &mut Sink, fields: &Fields) -> Self {
        let keys = schema::CHECK.keys.iter().filter_map(|key| {
            fields.get(key).map(|value| At { value: (*key).to_owned(), span: value.span() })
        });
        Self {
            kind: fields.word(sink, "type", schema::KINDS),
            port: fields.number(sink, "port", 1..=65_535),
            path: fields.text(sink, "path", http_path),
            host: fields.text(sink, "host", host),
            expect: fields.read(sink, "expect", expect),
            verify: fields.read(sink, "verify", verify),
            interval: fields.duration(sink, "interval", INTERVAL.0..=INTERVAL.1),
            fast_interval: fields.duration(sink, "fast-interval", INTERVAL.0..=INTERVAL.1),
            timeout: fields.duration(sink, "timeout", TIMEOUT.0..=TIMEOUT.1),
            rise: fields.number(sink, "rise", 1..=MAX_STREAK),
            fall: fields.number(sink, "fall", 1..=MAX_STREAK),
            keys: keys.collect(),
        }
    }
}

/// A request target in origin form: RFC 9112 section 3.2.1.
fn http_path(text: &str) -> Result<(), String> {
    if !text.starts_with('/') {
        return Err("must begin with `/`".to_owned());
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("must hold no spaces, control or non-ASCII characters".to_owned());
    }
    if text.contains('#') {
        return Err("must hold no fragment (`#`)".to_owned());
    }
    if text.len() > 2_000 {
        return Err("must have at most 2000 bytes".to_owned());
    }
    Ok(())
}

/// What can be both a `Host` header and a TLS server name: a DNS name (RFC 1123 section 2.1,
/// underscores allowed as everywhere in practice) or an address.
fn host(text: &str) -> Result<(), String> {
    if text.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    let label = |label: &str| {
        let odd = |byte: u8| !byte.is_ascii_alphanumeric() && byte != b'-' && byte != b'_';
        !label.is_empty()
            && label.len() <= 63
            && !label.bytes().any(odd)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() > 253 || !text.split('.').all(label) {
        return Err("must be a host name or an address, without a port".to_owned());
    }
    Ok(())
}

fn expect<'t>(sink: &mut Sink, value: &'t Value<'t>) -> Option<Vec<u16>> {
    let codes = tree::array(sink, "expect", value, "status codes")?;
    if codes.is_empty() {
        let message = "`expect` is empty: no answer would be good";
        sink.mistake(&value.span(), message).hint("leave it out to accept 200 to 399");
        return None;
    }
    let read = codes.iter().map(|code| tree::number(sink, "expect", code, 100..=599));
    // Every code is read before the list is refused.
    let read: Vec<Option<u32>> = read.collect();
    let narrow = |code: Option<u32>| code.and_then(|code| u16::try_from(code).ok());
    read.into_iter().map(narrow).collect()
}

fn verify<'t>(sink: &mut Sink, value: &'t Value<'t>) -> Option<Tls> {
    const HINT: &str = "it may be \"none\", \"system\" or { ca = \"/path/to/ca.pem\" }";
    match value.get_ref() {
        DeValue::String(text) => match text.as_ref() {
            "none" => Some(Tls::None),
            "system" => Some(Tls::System),
            other => {
                let message = format!("unknown `verify`: {}", quoted(other));
                let hint = match other.starts_with('/') {
                    true => "a file of certificates is written as { ca = \"/path/to/ca.pem\" }",
                    false => HINT,
                };
                sink.mistake(&value.span(), message).hint(hint);
                None
            }
        },
        DeValue::Table(table) => {
            let fields = Fields::of(sink, value.span(), table, &schema::VERIFY);
            if fields.lacks("ca") {
                sink.mistake(&fields.span, "`verify` has no `ca`").hint(HINT);
            }
            path(sink, &fields, "ca", 4_095).given().map(|ca| Tls::Ca(ca.value.clone()))
        }
        _ => {
            let message = "`verify` must be a string or a table";
            sink.mistake(&value.span(), message).hint(HINT);
            None
        }
    }
}
