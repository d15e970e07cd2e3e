//! What becomes of a service's `check` and that of the defaults.

use std::time::Duration;

use super::raw;
use super::report::Sink;
use super::schema::Kind;
use super::tree::{At, Field};
use super::wording::quoted;
use super::{Check, Listener, Probe, Protocol, Tls, duration};

/// A check's timing where the file says nothing.
pub const INTERVAL: Duration = Duration::from_secs(2);
/// As above.
pub const FAST_INTERVAL: Duration = Duration::from_millis(500);
/// As above.
pub const TIMEOUT: Duration = Duration::from_secs(1);
/// Successes in a row where the file says nothing.
pub const RISE: u32 = 2;
/// Failures in a row where the file says nothing.
pub const FALL: u32 = 3;

/// The check of a service: its own keys over those of the defaults, one by one.
pub fn check(sink: &mut Sink, service: &raw::Service, defaults: &raw::Check) -> Check {
    let own = &service.policy.check;
    let chosen = own.kind.or(&defaults.kind);
    let kind = chosen.value_or(match udp_only(&service.listen) {
        true => Kind::None,
        false => Kind::Tcp,
    });
    if !chosen.is_wrong() {
        useless(sink, own, kind);
    }
    let port = match (kind, own.port.or(&defaults.port)) {
        (_, Field::Given(port)) => u16::try_from(port.value).ok(),
        (Kind::None, _) | (_, Field::Wrong) => Some(0),
        (Kind::Tcp | Kind::Http | Kind::Https, Field::Absent) => {
            port_of(&service.listen).or_else(|| {
                if !service.listen.is_empty() && !chosen.is_wrong() {
                    let message = format!(
                        "there is no port to check service {} on: its listeners take any port",
                        quoted(&service.name.value)
                    );
                    let hint = "write check = { port = ... }, or check = { type = \"none\" }";
                    sink.mistake(&service.listen[0].span, message).hint(hint);
                }
                None
            })
        }
    };
    let interval = own.interval.or(&defaults.interval).value_or(INTERVAL);
    let timeout = own.timeout.or(&defaults.timeout).value_or(TIMEOUT);
    if kind != Kind::None {
        pace(sink, own, defaults, interval, timeout);
    }
    Check {
        probe: probe(kind, own, defaults),
        port: port.unwrap_or(0),
        interval,
        // A service that is probed more often than the default fast interval says need not
        // say that one too.
        fast_interval: own
            .fast_interval
            .or(&defaults.fast_interval)
            .value_or(FAST_INTERVAL)
            .min(interval),
        timeout,
        rise: own.rise.or(&defaults.rise).value_or(RISE),
        fall: own.fall.or(&defaults.fall).value_or(FALL),
    }
}

/// Keys of the defaults' check that its own type has no use for. Without a type they are meant
/// for the services that have one.
pub fn contradictions(sink: &mut Sink, defaults: &raw::Check) {
    if let Some(kind) = defaults.kind.given() {
        useless(sink, defaults, kind.value);
    }
}

fn probe(kind: Kind, own: &raw::Check, defaults: &raw::Check) -> Probe {
    let http = |tls| Probe::Http {
        path: own.path.or(&defaults.path).value_or("/".to_owned()),
        host: own.host.or(&defaults.host).given().map(|host| host.value.clone()),
        expect: own.expect.or(&defaults.expect).value_or(Vec::new()),
        tls,
    };
    match kind {
        Kind::None => Probe::None,
        Kind::Tcp => Probe::Tcp,
        Kind::Http => http(None),
        Kind::Https => http(Some(own.verify.or(&defaults.verify).value_or(Tls::System))),
    }
}

/// Reports the keys of a check that its type has no use for.
fn useless(sink: &mut Sink, check: &raw::Check, kind: Kind) {
    for At { value: key, span } in &check.keys {
        let needs = match key.as_str() {
            "path" | "host" | "expect" => "`type = \"http\"` or \"https\"",
            "verify" => "`type = \"https\"`",
            _ => "a type other than \"none\"",
        };
        let of_use = match kind {
            Kind::None => key == "type",
            Kind::Tcp => !["path", "host", "expect", "verify"].contains(&key.as_str()),
            Kind::Http => key != "verify",
            Kind::Https => true,
        };
        if of_use {
            continue;
        }
        let message = format!("`{key}` has no effect on a check of type `{}`", kind.word());
        match kind {
            // A check that is switched off for a while keeps its settings.
            Kind::None => sink.warn(span, message),
            Kind::Tcp | Kind::Http | Kind::Https => sink.mistake(span, message),
        }
        .hint(format!("it needs {needs}"));
    }
}

/// Warns of times that do not go together, at the key that was written last.
fn pace(
    sink: &mut Sink,
    own: &raw::Check,
    defaults: &raw::Check,
    interval: Duration,
    timeout: Duration,
) {
    let at = [&own.timeout, &own.interval, &defaults.timeout, &defaults.interval];
    let at = at.into_iter().find_map(Field::given);
    if let Some(at) = at.filter(|_| timeout > interval) {
        let (timeout, interval) = (duration::show(timeout), duration::show(interval));
        let message =
            format!("the check's timeout ({timeout}) is longer than its interval ({interval})");
        sink.warn(&at.span, message).hint("a probe that hangs delays the next one");
    }
    for check in [own, defaults] {
        if let (Some(fast), Some(normal)) = (check.fast_interval.given(), check.interval.given())
            && fast.value > normal.value
        {
            let message = "`fast-interval` is longer than `interval`, which is used instead";
            sink.warn(&fast.span, message);
        }
    }
}

/// The port that a probe, which speaks TCP, asks unless told otherwise.
fn port_of(listen: &[At<Listener>]) -> Option<u16> {
    let of = |protocol: Protocol| {
        let mut same = listen.iter().filter(move |at| at.value.protocol == protocol);
        same.find_map(|at| at.value.port)
    };
    of(Protocol::Tcp).or_else(|| of(Protocol::Udp)).map(std::num::NonZeroU16::get)
}

fn udp_only(listen: &[At<Listener>]) -> bool {
    !listen.is_empty() && listen.iter().all(|at| at.value.protocol == Protocol::Udp)
}
