//! How many new flows a service lets in: the rules for a `limit` table.

use super::raw;
use super::report::Sink;
use super::tree::Field;
use super::wording::quoted;
use super::{Affinity, Limit, Protocol, Rate};

/// The limit of a service, whose flows are told apart by `affinity`.
pub fn limit(sink: &mut Sink, raw: &raw::Service, affinity: Affinity) -> Limit {
    let raw::Limit { flows, flows_burst, source, source_burst, .. } = &raw.limit;
    let limit = Limit {
        flows: rate(sink, ("flows", flows), ("flows-burst", flows_burst)),
        source: rate(sink, ("source", source), ("source-burst", source_burst)),
    };
    let mut listen = raw.listen.iter();
    let udp = listen.find(|listener| listener.value.protocol == Protocol::Udp);
    let why = match (affinity, udp) {
        (Affinity::None, _) => "its `affinity` is `none`",
        // Its datagrams go by their source's hash: none is remembered.
        (Affinity::ClientIp, Some(_)) => "its `affinity` is `client-ip`, and it has a UDP listener",
        (Affinity::ClientIp, None) | (Affinity::Flow | Affinity::Quic, _) => return limit,
    };
    if let Some(place) = &raw.limit.place
        && limit != Limit::default()
    {
        let message = format!(
            "`limit` is for new flows, which service {} does not tell from old ones: {why}",
            quoted(&raw.name.value)
        );
        let hint = "leave it out, or set `affinity = \"flow\"` in the service";
        let mistake = sink.mistake(place, message).hint(hint);
        if let (Affinity::ClientIp, Some(udp)) = (affinity, udp) {
            mistake.see(&udp.span, "this one is UDP");
        }
    }
    limit
}

/// A rate and its burst, each with its key.
fn rate(
    sink: &mut Sink,
    (key, rate): (&str, &Field<u32>),
    (burst_key, burst): (&str, &Field<u32>),
) -> Option<Rate> {
    match (rate, burst) {
        (Field::Given(rate), _) => {
            Some(Rate { per_second: rate.value, burst: burst.value_or(rate.value) })
        }
        (Field::Absent, Field::Given(burst)) => {
            let message = format!("`{burst_key}` has no effect without `{key}`");
            let hint = format!("write {key} = ..., the new flows a second, next to it");
            sink.mistake(&burst.span, message).hint(hint);
            None
        }
        (Field::Absent, Field::Absent | Field::Wrong) | (Field::Wrong, _) => None,
    }
}
