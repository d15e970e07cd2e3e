//! From what the maps hold to what they should hold: the writes, in safe order. Pure.

use std::collections::BTreeMap;

use crate::image::{Change, Image};

/// The writes that turn `current` into `desired`; none if they are equal.
///
/// Leaves are added first (interface, backend, rules, limits, slots, listeners, VIP) and removed last, so that
/// whatever a packet finds on its way leads to something that is there.
pub fn diff(current: &Image, desired: &Image) -> Vec<Change> {
    let mut changes = Vec::new();
    changes.extend(missing(&current.vips, &desired.vips).map(|(vip, _)| Change::RemoveVip(*vip)));
    changes.extend(
        different(&desired.interfaces, &current.interfaces)
            .map(|(ifindex, interface)| Change::SetInterface(*ifindex, *interface)),
    );
    changes.extend(
        different(&desired.backends, &current.backends)
            .map(|(line, backend)| Change::SetBackend(*line, *backend)),
    );
    changes.extend(
        different(&desired.rules, &current.rules).map(|(rule, says)| Change::SetRule(*rule, *says)),
    );
    changes.extend(
        different(&desired.limits, &current.limits)
            .map(|(service, limits)| Change::SetLimits(*service, *limits)),
    );
    changes.extend(
        different(&desired.servers, &current.servers)
            .map(|(key, number)| Change::SetServer(*key, *number)),
    );
    for (base, slots) in &desired.slots {
        let Some(held) = current.slots.get(base) else {
            changes.push(Change::SetRegion(*base, slots.clone()));
            continue;
        };
        if held.is(slots) {
            continue;
        }
        let updates: Vec<(u32, u32)> = (0..)
            .zip(slots.iter())
            .filter(|(offset, raw)| held.get(*offset as usize) != Some(raw))
            .map(|(offset, raw)| (offset, *raw))
            .collect();
        if !updates.is_empty() {
            changes.push(Change::SetSlots(*base, updates));
        }
    }
    if current.listeners != desired.listeners {
        changes.push(Change::SetListeners(desired.listeners.values().copied().collect()));
    }
    changes.extend(
        different(&desired.vips, &current.vips).map(|(vip, entry)| Change::SetVip(*vip, *entry)),
    );
    changes.extend(missing(&current.rules, &desired.rules).map(|(r, _)| Change::RemoveRule(*r)));
    changes.extend(
        missing(&current.limits, &desired.limits).map(|(service, _)| Change::ClearLimits(*service)),
    );
    changes.extend(
        missing(&current.servers, &desired.servers).map(|(key, _)| Change::RemoveServer(*key)),
    );
    changes.extend(
        missing(&current.backends, &desired.backends).map(|(line, _)| Change::ClearBackend(*line)),
    );
    changes.extend(
        missing(&current.interfaces, &desired.interfaces)
            .map(|(ifindex, _)| Change::RemoveInterface(*ifindex)),
    );
    changes
}

/// Entries of `these` that `those` has not, or has with another value.
fn different<'a, K: Ord, V: PartialEq>(
    these: &'a BTreeMap<K, V>,
    those: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    these.iter().filter(|(key, value)| those.get(key) != Some(value))
}

/// Entries of `these` whose key `those` has not.
fn missing<'a, K: Ord, V>(
    these: &'a BTreeMap<K, V>,
    those: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    these.iter().filter(|(key, _)| !those.contains_key(key))
}
