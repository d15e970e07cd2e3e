//! The packet code's look-ups, over the maps.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use lb_common::maps::{Backend, Control, FlowKey, Interface, Pin, SLOTS_PER_LINE, Service, Vip};
use lb_common::slot::Slot;
use lb_common::tables::Record;
use lb_common::{Address, Tables};

use crate::maps::{BACKENDS, CONTROL, INTERFACES, LEASES, SERVICES, SLOTS, VIPS, records};

/// The maps of this program.
pub struct BpfTables;

impl Tables for BpfTables {
    #[inline(always)]
    fn control(&self) -> Option<Control> {
        let control = CONTROL.get_ptr(0)?;
        // SAFETY: the kernel gave the pointer. Volatile: userspace switches the bank at any time,
        // and bank and seed must be of one read.
        let services = unsafe { (&raw const (*control).services).read_volatile() };
        // SAFETY: as before; the key does not change while packets are balanced.
        Some(Control { services, ..unsafe { *control } })
    }

    #[inline(always)]
    fn service(&self, bucket: u32) -> Option<Service> {
        SERVICES.get(bucket).copied()
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<Slot> {
        let line = SLOTS.get_ptr(index / SLOTS_PER_LINE)?;
        // SAFETY: the kernel gave the line, and the index is masked to its length. Volatile:
        // userspace stores into it at any time, and the slot must be one read.
        let raw = unsafe {
            (&raw const (*line).slots)
                .cast::<u32>()
                .add((index % SLOTS_PER_LINE) as usize)
                .read_volatile()
        };
        Some(Slot::from_raw(raw))
    }

    #[inline(always)]
    fn backend(&self, line: u32) -> Option<Backend> {
        BACKENDS.get(line).copied()
    }

    #[inline(always)]
    fn vip(&self, address: Address) -> Option<Vip> {
        // SAFETY: the value is copied at once; an entry that is being replaced stays readable
        // until the program ends.
        unsafe { VIPS.get(address).copied() }
    }

    #[inline(always)]
    fn lease(&self, lease: u32) -> Option<u64> {
        let lease = LEASES.get_ptr(lease)?;
        // SAFETY: the kernel gave the pointer; one aligned word.
        Some(unsafe { (&raw const (*lease).deadline).read_volatile() })
    }

    #[inline(always)]
    fn interface(&self, ifindex: u32) -> Option<Interface> {
        // SAFETY: as for `vip`.
        unsafe { INTERFACES.get(ifindex).copied() }
    }

    #[inline(always)]
    fn recorded(&self, record: Record, key: &FlowKey) -> Option<Pin> {
        // SAFETY: as for `vip`.
        unsafe { records(record).get(key).copied() }
    }

    #[inline(always)]
    fn record(&self, record: Record, key: &FlowKey, pin: Pin) {
        // Full or busy: the flow is found by its slot, as if it had not been seen.
        let _ = records(record).insert(key, pin, 0);
    }

    #[inline(always)]
    fn forget(&self, record: Record, key: &FlowKey) {
        let _ = records(record).remove(key);
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: reads a clock.
        unsafe { bpf_ktime_get_ns() }
    }
}
