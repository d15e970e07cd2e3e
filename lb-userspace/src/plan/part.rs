//! Planning some services anew while all others stay as they are: what an event costs depends on
//! what it is about, not on how many services there are. Pure.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::maps::{ServerKey, Service};

use super::{Layout, Plan, Rings, ServiceLayout, layout, listener_key, plan_service, want};
use crate::config::{self, Config};
use crate::image::{Change, Image};
use crate::reconcile::diff;
use crate::state::State;

/// Some services, planned anew.
#[derive(Clone, Debug)]
pub struct Part {
    before: Image,
    after: Image,
    layout: Layout,
    changes: Vec<Change>,
}

/// Plans some services anew, for maps that hold what was planned last by the same configuration.
/// `None` if one of them cannot stay where it is: then everything is to be planned.
pub fn part(
    planned: &Plan,
    config: &Config,
    state: &State,
    services: &BTreeSet<String>,
    rings: &mut Rings,
) -> Option<Part> {
    let held = &planned.image;
    let mut before = Image { hash_key: held.hash_key, ..Image::default() };
    let mut after = before.clone();
    let mut places = BTreeMap::new();
    let services = services.iter().filter_map(|name| config.services.get_key_value(name));
    for (name, service) in services {
        let place = layout::again(service, planned.layout.services.get(name)?, held)?;
        take_out(held, service, &place, &mut before);
        let want = want(name, service, &place, state);
        rings.make(std::slice::from_ref(&want));
        plan_service(&want, service, &place, state, held, rings, &mut after);
        places.insert(name.clone(), place);
    }
    let mut changes = diff(&before, &after);
    for change in &mut changes {
        // All at once, those that are not among these too.
        if let Change::SetListeners(listeners) = change {
            let others =
                held.listeners.iter().filter(|(key, _)| !before.listeners.contains_key(key));
            listeners.extend(others.map(|(_, entry)| *entry));
            listeners.sort_by_key(Service::key);
        }
    }
    Some(Part { before, after, layout: Layout { services: places }, changes })
}

impl Part {
    /// The writes that put it into the maps.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// An image with these services as they are now.
    pub fn put_into(&self, image: &mut Image) {
        let (before, after) = (&self.before, &self.after);
        replace(&mut image.listeners, &before.listeners, &after.listeners);
        replace(&mut image.slots, &before.slots, &after.slots);
        replace(&mut image.backends, &before.backends, &after.backends);
        replace(&mut image.limits, &before.limits, &after.limits);
        replace(&mut image.rules, &before.rules, &after.rules);
        replace(&mut image.servers, &before.servers, &after.servers);
        replace(&mut image.vips, &before.vips, &after.vips);
    }

    /// Where the services' numbers are now.
    pub fn into_layout(self, layout: &mut Layout) {
        layout.services.extend(self.layout.services);
    }
}

/// Copies what an image holds of a service.
fn take_out(held: &Image, service: &config::Service, place: &ServiceLayout, to: &mut Image) {
    for listener in &service.listen {
        if let Some((key, entry)) = held.listeners.get_key_value(&listener_key(listener)) {
            to.listeners.insert(*key, *entry);
            to.vips.extend(held.vips.get_key_value(&entry.vip).map(|(vip, entry)| (*vip, *entry)));
        }
    }
    let slots = held.slots.get_key_value(&place.slot_base);
    to.slots.extend(slots.map(|(base, slots)| (*base, slots.clone())));
    let lines = place.backend_base..place.backend_base + place.backend_lines;
    to.backends.extend(held.backends.range(lines));
    let server = |server| ServerKey { service: place.id, server };
    to.servers.extend(held.servers.range(server(0)..=server(u32::MAX)));
    if let Some(limits) = held.limits.get(&place.id) {
        to.limits.insert(place.id, *limits);
        to.rules.extend(held.rules.iter().filter(|((_, key), _)| key.service == place.id));
    }
}

fn replace<K: Ord + Copy, V: Clone>(
    held: &mut BTreeMap<K, V>,
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
) {
    for key in before.keys().filter(|key| !after.contains_key(key)) {
        held.remove(key);
    }
    held.extend(after.iter().map(|(key, value)| (*key, value.clone())));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dataplane::Dataplane;
    use crate::dataplane::memory::Memory;
    use crate::plan::plan;
    use crate::plan::tests::{CAPACITY, World, worlds};

    /// The world with backends of one service up and down as chance has it.
    fn flapped(world: &World, service: u8, up: u8) -> World {
        let mut world = world.clone();
        let backends = world.services.get_mut(&service).into_iter().flatten();
        for (n, (_, (_, is_up, _))) in backends.enumerate() {
            *is_up = up >> (n % 8) & 1 != 0;
        }
        world
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_part_planned_anew_is_what_planning_everything_gives(
            from in worlds(), to in worlds(),
            flaps in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            in_turn in any::<bool>(),
        ) {
            let config = |world: &World| {
                let mut config = world.config();
                for service in config.services.values_mut().filter(|_| in_turn) {
                    service.scheduler = config::Scheduler::RoundRobin;
                }
                config
            };
            let mut memory = Memory::new(CAPACITY, [3, 5]);
            let mut rings = Rings::default();
            let mut planned = None;
            for world in [&from, &to] {
                let held = memory.image().expect("memory can be read");
                let plan = plan(&config(world), &world.state(), &held, CAPACITY, &mut rings);
                let plan = plan.expect("a small world fits");
                memory.apply(&diff(&held, &plan.image)).expect("the changes can be made");
                planned = Some(plan);
            }
            let mut planned = planned.expect("two were planned");
            let mut world = to;
            for (which, up) in flaps {
                let names: Vec<u8> = world.services.keys().copied().collect();
                prop_assume!(!names.is_empty());
                let service = *which.get(&names);
                world = flapped(&world, service, up);
                let held = memory.image().expect("memory can be read");
                let whole =
                    plan(&config(&world), &world.state(), &held, CAPACITY, &mut Rings::default())
                        .expect("a small world fits");
                let named = BTreeSet::from([format!("s{service}")]);
                let part = part(&planned, &config(&world), &world.state(), &named, &mut rings)
                    .expect("the service stays where it is");
                prop_assert_eq!(part.changes(), &diff(&held, &whole.image)[..]);
                memory.apply(part.changes()).expect("the changes can be made");
                part.put_into(&mut planned.image);
                part.into_layout(&mut planned.layout);
                prop_assert_eq!(&planned.image, &whole.image);
                prop_assert_eq!(&planned.layout.services[&format!("s{service}")].numbers,
                    &whole.layout.services[&format!("s{service}")].numbers);
            }
        }
    }
}
