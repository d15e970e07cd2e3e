//! The packet code's look-ups, over the maps.

use core::arch::asm;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::maps::lpm_trie::Key;
use lb_common::choose;
use lb_common::maps::{
    Backend, Control, FirstFragment, FlowKey, FragmentKey, Interface, Limits, Pin,
    RULE_SERVICE_BITS, RuleKey, SLOTS_PER_LINE, ServerKey, Service, SourceKey, Vip,
};
use lb_common::slot::Slot;
use lb_common::tables::{Lap, Record};
use lb_common::{Address, Tables};

use crate::maps::{
    BACKENDS, BUCKETS, CONTROL, FEATURES, FRAGMENTS, INTERFACES, LEASES, LIMITS, OPEN_FLOWS, RULES,
    SERVER_IDS, SERVICES, SLOTS, SOURCES, TURNS, VIPS, records,
};

/// The maps of this program.
pub struct BpfTables;

impl Tables for BpfTables {
    #[inline(always)]
    fn features(&self) -> u32 {
        FEATURES.load()
    }

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
    fn fragment(&self, key: &FragmentKey) -> Option<FirstFragment> {
        // SAFETY: as for `vip`.
        unsafe { FRAGMENTS.get(key).copied() }
    }

    #[inline(always)]
    fn set_fragment(&self, key: &FragmentKey, first: FirstFragment) {
        // Full or busy: the later fragments are dropped, and the packet is lost.
        let _ = FRAGMENTS.insert(key, first, 0);
    }

    #[inline(always)]
    fn turn(&self, service: u32) -> u64 {
        let Some(turns) = TURNS.get_ptr_mut(service) else { return 0 };
        // SAFETY: the kernel gave the pointer, and nothing else writes this CPU's copy.
        unsafe {
            let turn = *turns;
            *turns = turn.wrapping_add(1);
            turn
        }
    }

    #[inline(always)]
    fn least(&self, lap: Lap) -> u32 {
        lb_least(lap.slot_base, lap.backend_base, lap.length, lap.start)
    }

    #[inline(always)]
    fn open_flows(&self, line: u32) -> u64 {
        let Some(open) = OPEN_FLOWS.get_ptr(line) else { return 0 };
        // SAFETY: the kernel gave the pointer; one aligned word, which other CPUs change.
        unsafe { open.read_volatile() }
    }

    #[inline(always)]
    fn count_flow(&self, line: u32, begun: bool) {
        let Some(open) = OPEN_FLOWS.get_ptr_mut(line) else { return };
        let change = if begun { 1_i64 } else { -1 };
        // The kernel's own atomic add (BPF_STX | BPF_ATOMIC | BPF_DW): `core` has none for this
        // target.
        // SAFETY: the kernel gave the pointer to an aligned word, which userspace changes by atomic
        // operations too.
        unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) open, in(reg) change) };
    }

    #[inline(always)]
    fn limits(&self, service: u32) -> Option<Limits> {
        LIMITS.get(service).copied()
    }

    #[inline(always)]
    fn bucket(&self, service: u32) -> u64 {
        let Some(bucket) = BUCKETS.get_ptr(service) else { return 0 };
        // SAFETY: as for `open_flows`.
        unsafe { bucket.read_volatile() }
    }

    #[inline(always)]
    fn set_bucket(&self, service: u32, bucket: u64) {
        if let Some(held) = BUCKETS.get_ptr_mut(service) {
            // SAFETY: as for `open_flows`.
            unsafe { held.write_volatile(bucket) };
        }
    }

    #[inline(always)]
    fn source_bucket(&self, key: &SourceKey) -> u64 {
        // SAFETY: as for `vip`.
        unsafe { SOURCES.get(key).copied() }.unwrap_or(0)
    }

    #[inline(always)]
    fn set_source_bucket(&self, key: &SourceKey, bucket: u64) {
        // Full or busy: the source is let in without having been counted.
        let _ = SOURCES.insert(key, bucket, 0);
    }

    #[inline(always)]
    fn rule(&self, service: u32, source: Address) -> Option<u32> {
        let key = Key::new(RULE_SERVICE_BITS + 128, RuleKey::new(service, source));
        RULES.get(key).copied()
    }

    #[inline(always)]
    fn server(&self, key: &ServerKey) -> Option<u32> {
        // SAFETY: as for `vip`.
        unsafe { SERVER_IDS.get(key).copied() }
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: reads a clock.
        unsafe { bpf_ktime_get_ns() }
    }
}

/// A function of its own also in the kernel, with numbers for arguments: the verifier goes through
/// it once, and not again for each way that leads here.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn lb_least(slot_base: u32, backend_base: u32, length: u32, start: u32) -> u32 {
    choose::least(&BpfTables, Lap { slot_base, backend_base, length, start })
}
