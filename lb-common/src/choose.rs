//! The backend of a new flow, in services that do not leave it to the flow's hash.

use crate::maps::{
    BACKEND_OPEN, BACKEND_RESET, BACKEND_RESOLVED, SERVICE_LEAST_CONN, SERVICE_ROUND_ROBIN, Service,
};
use crate::slot::Slot;
use crate::tables::{Lap, Tables};

/// Backends that are compared for the fewest open flows: all of a service with no more than that,
/// else so many in a row, from another one each time.
pub const CANDIDATES: u32 = 32;

/// The backend of a new flow; 0 for none.
#[inline(always)]
pub fn choose<T: Tables>(tables: &T, service: &Service, slot: Slot) -> u32 {
    if service.flags & SERVICE_ROUND_ROBIN != 0 {
        in_turn(tables, service)
    } else if service.flags & SERVICE_LEAST_CONN != 0 {
        let lap = Lap {
            slot_base: service.slot_base,
            backend_base: service.backend_base,
            length: service.lap,
            start: start(tables, service),
        };
        tables.least(lap)
    } else {
        slot.current()
    }
}

/// Whether a backend takes new flows.
#[inline(always)]
pub fn is_open<T: Tables>(tables: &T, service: &Service, number: u32) -> bool {
    match tables.backend(service.backend_base + number) {
        Some(backend) => takes_flows(backend.next_hop),
        None => false,
    }
}

#[inline(always)]
const fn takes_flows(next_hop: u64) -> bool {
    const MASK: u64 = BACKEND_OPEN | BACKEND_RESOLVED | BACKEND_RESET;
    next_hop & MASK == BACKEND_OPEN | BACKEND_RESOLVED
}

/// One slot after the other, each CPU by itself: exact on a CPU, and what all CPUs together give
/// is apart by at most one for each of them.
#[inline(always)]
fn in_turn<T: Tables>(tables: &T, service: &Service) -> u32 {
    let place = start(tables, service);
    match tables.slot(service.slot_base + place) {
        Some(slot) => slot.current(),
        None => 0,
    }
}

/// The backend with the fewest open flows for its share; 0 for none. Where some have equally many,
/// those that come first win, and another one comes first each time.
#[inline(always)]
pub fn least<T: Tables>(tables: &T, lap: Lap) -> u32 {
    let Some(mut best) = candidate(tables, lap, lap.start) else { return 0 };
    let mut seen = 1;
    while seen < CANDIDATES && seen < lap.length {
        // Counted from the start each time: of a number that goes round, the verifier would follow
        // every value.
        let place = lap.start + seen;
        let place = if place >= lap.length { place - lap.length } else { place };
        seen += 1;
        let Some(other) = candidate(tables, lap, place) else { break };
        // flows / share of one below the other's, without dividing.
        if other.flows * best.share < best.flows * other.share {
            best = other;
        }
    }
    if best.share == 0 { 0 } else { best.number }
}

/// A backend that may be chosen.
#[derive(Clone, Copy)]
struct Candidate {
    number: u32,
    /// Open flows, the new one included.
    flows: u64,
    /// 0 if it takes none.
    share: u64,
}

#[inline(always)]
fn candidate<T: Tables>(tables: &T, lap: Lap, place: u32) -> Option<Candidate> {
    let number = tables.slot(lap.slot_base + place)?.current();
    let line = lap.backend_base + number;
    let backend = tables.backend(line)?;
    let share = if takes_flows(backend.next_hop) { backend.share as u64 } else { 0 };
    // Below nought for a moment, where a flow ended that had been taken off already.
    let open = tables.open_flows(line) as i64;
    Some(Candidate { number, flows: open.max(0) as u64 + 1, share })
}

/// The next place in the service's lap.
#[inline(always)]
fn start<T: Tables>(tables: &T, service: &Service) -> u32 {
    if service.lap == 0 { 0 } else { (tables.turn(service.id) % service.lap as u64) as u32 }
}
