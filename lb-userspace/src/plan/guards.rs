//! What guarded services let in, as the maps say it.

use std::time::Duration;

use lb_common::Address;
use lb_common::maps::{
    LIMITS_ADMIT, LIMITS_RULES, Limits, RULE_ALLOW, RULE_DENY, RULE_SERVICE_BITS, RuleKey,
};

use crate::config::{Config, Prefix, Rate, Service};
use crate::image::{Features, Rule};

use super::ways;

/// What programs a configuration needs.
pub fn features(config: &Config) -> Features {
    Features { guards: config.services.values().any(is_guarded), tunnels: ways::tunnels(config) }
}

/// Whether a service does not let everybody in.
pub(super) fn is_guarded(service: &Service) -> bool {
    !service.sources.is_empty() || service.limit.flows.or(service.limit.source).is_some()
}

pub(super) fn limits(service: &Service) -> Limits {
    let flag = |flag: u64, set: bool| if set { flag } else { 0 };
    let (interval, tolerance) = bucket(service.limit.flows);
    let (source_interval, source_tolerance) = bucket(service.limit.source);
    Limits {
        interval,
        tolerance,
        source_interval,
        source_tolerance,
        flags: flag(LIMITS_RULES, !service.sources.is_empty())
            | flag(LIMITS_ADMIT, service.admits_unnamed()),
    }
}

pub(super) fn rules(id: u32, service: &Service) -> impl Iterator<Item = (Rule, u32)> {
    service.sources.iter().map(move |rule| {
        let says = if rule.allow { RULE_ALLOW } else { RULE_DENY };
        (key(id, rule.prefix), says)
    })
}

/// A prefix as the trie has it: IPv4 as IPv4-mapped, behind 96 bits that are all the same.
fn key(id: u32, prefix: Prefix) -> Rule {
    let mapped = if prefix.address.is_ipv4() { 96 } else { 0 };
    let length = RULE_SERVICE_BITS + mapped + u32::from(prefix.length);
    (length, RuleKey::new(id, Address::from(prefix.address)))
}

/// Interval and tolerance of a rate, in nanoseconds.
fn bucket(rate: Option<Rate>) -> (u64, u64) {
    let Some(rate) = rate else { return (0, 0) };
    let interval = Duration::from_secs(1).as_nanos() as u64 / u64::from(rate.per_second.max(1));
    (interval, interval * u64::from(rate.burst.saturating_sub(1)))
}
