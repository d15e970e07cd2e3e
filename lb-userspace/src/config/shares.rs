//! Slots of the services' tables, against numbers and weights of their backends.

use lb_common::maps::MAX_BACKENDS_PER_SERVICE;

use super::raw;
use super::report::Sink;
use super::tree::{At, Field};
use super::wording::quoted;

/// Slots of a service where the file says nothing (Eisenbud et al. 2016, section 5.3).
pub const DEFAULT_SLOTS: u32 = 65_537;
/// Weight of a backend where the file says nothing.
pub const DEFAULT_WEIGHT: u32 = 100;
/// Slots for each backend, at least: keeps shares within about 1 % of the weights.
const SLOTS_PER_BACKEND: usize = 100;
/// Slots of all services together: 4 GiB of memory.
const MAX_ALL_SLOTS: u64 = 1 << 30;

/// The numbers of slots by themselves, and all together.
pub fn slots(sink: &mut Sink, file: &raw::File) {
    let everywhere = &file.dataplane.slots;
    let own = || file.services.iter().map(|service| &service.slots);
    for given in own().chain([everywhere]).filter_map(Field::given) {
        prime(sink, given);
    }
    let used = || own().map(|own| own.or(everywhere));
    // Every service begins on a line of 16.
    let padded = |slots: &Field<u32>| u64::from(slots.value_or(DEFAULT_SLOTS)).next_multiple_of(16);
    let all: u64 = used().map(padded).sum();
    if let Some(largest) = used().filter_map(Field::given).max_by_key(|given| given.value)
        && all > MAX_ALL_SLOTS
    {
        let message = format!(
            "{} services with up to {} slots each need {} GiB of memory: at most 4",
            file.services.len(),
            largest.value,
            (all * 4).div_ceil(1 << 30)
        );
        sink.mistake(&largest.span, message).hint("choose a smaller prime");
    }
}

fn prime(sink: &mut Sink, given: &At<u32>) {
    let number = given.value;
    if is_prime(number) {
        return;
    }
    let below = (2..number).rev().find(|number| is_prime(*number)).unwrap_or(2);
    let above = (number..).find(|number| is_prime(*number)).unwrap_or(number);
    let hint = format!("primes near it are {below} and {above}");
    sink.mistake(&given.span, format!("`slots` must be a prime, got {number}")).hint(hint);
}

fn is_prime(number: u32) -> bool {
    number >= 2
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}

/// Numbers and weights of a service's backends against its slots: its own, or those of
/// `[dataplane]`.
pub fn shares(sink: &mut Sink, raw: &raw::Service, slots: &Field<u32>) {
    let number = raw.backends.len();
    let name = quoted(&raw.name.value);
    if number > MAX_BACKENDS_PER_SERVICE as usize {
        let message = format!(
            "a service has at most {MAX_BACKENDS_PER_SERVICE} backends, {name} has {number}"
        );
        sink.mistake(&raw.name.span, message);
        return;
    }
    let table = slots.value_or(DEFAULT_SLOTS);
    let least = number * SLOTS_PER_BACKEND;
    let too_many = !slots.is_wrong() && (table as usize) < least;
    if too_many {
        let message =
            format!("service {name} has {number} backends, which is too many for {table} slots");
        let hint = match raw.slots.given() {
            Some(_) => format!("`slots` must be a prime of at least {least} (100 a backend)"),
            None => format!(
                "`slots` of the service, or of [dataplane], must be a prime of at least {least} \
                 (100 a backend)"
            ),
        };
        let mistake = sink.mistake(&raw.name.span, message).hint(hint);
        if let Some(given) = slots.given() {
            mistake.see(&given.span, "the number of slots");
        }
    }
    let in_doubt = |backend: &raw::Backend| backend.weight.is_wrong() || backend.backup.is_wrong();
    if raw.backends.iter().any(in_doubt) {
        return;
    }
    let (backups, others): (Vec<_>, Vec<_>) =
        raw.backends.iter().partition(|backend| backend.backup.value_or_default());
    if let (Some(first), []) = (backups.first(), others.as_slice()) {
        let message = format!("every backend of service {name} is a backup");
        let span = first.backup.given().map_or(&first.name.span, |backup| &backup.span);
        let hint = "a backup serves only while no other backend does: leave `backup` out for \
                    those that are to serve at any time";
        sink.mistake(span, message).hint(hint);
    }
    // They share the slots one group at a time: backups only where none of the others serves.
    let (others_are, of) = match backups.is_empty() {
        true => (format!("backend of service {name}"), "the service"),
        false => (
            format!("backend of service {name} that is no backup"),
            "the service's backends that are no backups",
        ),
    };
    let backups_are = format!("backup of service {name}");
    let table = (!slots.is_wrong() && !too_many).then_some(table);
    let others = Group { members: others, each: others_are, of };
    let backups = Group { members: backups, each: backups_are, of: "the service's backups" };
    for group in [others, backups] {
        weights(sink, &group, table);
    }
}

/// Backends that share the slots of a service among themselves.
struct Group<'f> {
    members: Vec<&'f raw::Backend>,
    /// What one of them is called.
    each: String,
    /// Whose weights add up.
    of: &'static str,
}

/// The weights of a group's members against each other, and against the slots if their number
/// is fit for that.
fn weights(sink: &mut Sink, group: &Group, table: Option<u32>) {
    let Some(first) = group.members.first() else {
        return;
    };
    let weights = group.members.iter().map(|backend| backend.weight.value_or(DEFAULT_WEIGHT));
    let sum: u64 = weights.map(u64::from).sum();
    if sum == 0 {
        let message = format!("every {} has weight 0: none would take a flow", group.each);
        let span = first.weight.given().map_or(&first.name.span, |weight| &weight.span);
        sink.mistake(span, message)
            .hint("give at least one of them a weight, or drain them by `admin`");
        return;
    }
    let Some(table) = table else {
        return;
    };
    for weight in group.members.iter().filter_map(|backend| backend.weight.given()) {
        if weight.value > 0 && u64::from(weight.value) * u64::from(table) < sum {
            let message = format!(
                "weight {} is impossible: its share of {table} slots is less than one",
                weight.value
            );
            let hint =
                format!("the weights of {} add up to {sum}: bring them closer together", group.of);
            sink.mistake(&weight.span, message).hint(hint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primes_are_told_from_other_numbers() {
        let primes: Vec<u32> = (0..30).filter(|number| is_prime(*number)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert!(is_prime(65_537) && is_prime(4_194_301) && !is_prime(65_535));
    }
}
