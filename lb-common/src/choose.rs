//! The backend of a new flow, in services that do not leave it to the flow's hash.

use crate::maps::{
    BACKEND_OPEN, BACKEND_RESET, BACKEND_RESOLVED, SERVICE_LEAST_CONN, SERVICE_ROUND_ROBIN, Service,
};
use crate::slot::Slot;
use crate::tables::Tables;

/// Backends that are compared for the fewest open flows: all of a service with no more than that,
/// else so many in a row, from another one each time.
pub const CANDIDATES: u32 = 32;

/// The backend of a new flow; 0 for none.
#[inline(always)]
pub fn choose<T: Tables>(tables: &T, service: &Service, slot: Slot) -> u32 {
    if service.flags & SERVICE_ROUND_ROBIN != 0 {
        in_turn(tables, service)
    } else if service.flags & SERVICE_LEAST_CONN != 0 {
        least(tables, service)
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

/// The backend with the fewest open flows for its share. Where some have equally many, those that
/// come first win, and another one comes first each time.
#[inline(always)]
fn least<T: Tables>(tables: &T, service: &Service) -> u32 {
    let mut place = start(tables, service);
    let (mut best, mut best_flows, mut best_share) = (0, 0, 0);
    let mut seen = 0;
    while seen < CANDIDATES && seen < service.lap {
        seen += 1;
        let Some(slot) = tables.slot(service.slot_base + place) else { return best };
        place += 1;
        if place >= service.lap {
            place = 0;
        }
        let number = slot.current();
        let line = service.backend_base + number;
        let Some(backend) = tables.backend(line) else { continue };
        if number == 0 || !takes_flows(backend.next_hop) || backend.share == 0 {
            continue;
        }
        // Below nought for a moment, where a flow ended that had been taken off already.
        let open = tables.open_flows(line);
        let flows = if open as i64 > 0 { open + 1 } else { 1 };
        // flows / share < best_flows / best_share, without dividing.
        if best == 0 || flows * best_share < best_flows * backend.share as u64 {
            (best, best_flows, best_share) = (number, flows, backend.share as u64);
        }
    }
    best
}

/// The next place in the service's lap.
#[inline(always)]
fn start<T: Tables>(tables: &T, service: &Service) -> u32 {
    if service.lap == 0 { 0 } else { (tables.turn(service.id) % service.lap as u64) as u32 }
}
