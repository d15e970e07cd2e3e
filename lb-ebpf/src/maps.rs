//! The maps. Their layout and capacities are `lb_common::maps`'s business.

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::LpmTrie;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray};
use lb_common::maps::{
    Backend, Control, Counter, DEFAULT_BACKEND_LINES, DEFAULT_HALF_OPEN, DEFAULT_PINS,
    DEFAULT_SLOT_LINES, DEFAULT_SOURCES, FirstFragment, FlowKey, FragmentKey, INTERFACE_ENTRIES,
    Interface, Lease, Limits, MAX_FRAGMENTS, MAX_LEASES, MAX_PROGRAMS, MAX_RULES, MAX_SERVER_IDS,
    MAX_SERVICES, MAX_VIPS, Pin, RuleKey, SERVICE_BUCKETS, ServerKey, Service, SlotLine, SourceKey,
    VERDICT_COUNTERS, Vip,
};
use lb_common::tables::Record;
use lb_common::{Address, Verdict};

#[map]
pub static CONTROL: Array<Control> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
pub static SERVICES: Array<Service> = Array::with_max_entries(2 * SERVICE_BUCKETS, BPF_F_MMAPABLE);

#[map]
pub static SLOTS: Array<SlotLine> = Array::with_max_entries(DEFAULT_SLOT_LINES, BPF_F_MMAPABLE);

#[map]
pub static BACKENDS: Array<Backend> =
    Array::with_max_entries(DEFAULT_BACKEND_LINES, BPF_F_MMAPABLE);

#[map]
pub static LEASES: Array<Lease> = Array::with_max_entries(MAX_LEASES, BPF_F_MMAPABLE);

#[map]
pub static VIPS: HashMap<Address, Vip> = HashMap::with_max_entries(MAX_VIPS, BPF_F_NO_PREALLOC);

#[map]
pub static INTERFACES: HashMap<u32, Interface> = HashMap::with_max_entries(INTERFACE_ENTRIES, 0);

#[map]
static PINS_CURRENT: LruHashMap<FlowKey, Pin> = LruHashMap::with_max_entries(DEFAULT_PINS, 0);

#[map]
static PINS_BASE: LruHashMap<FlowKey, Pin> = LruHashMap::with_max_entries(DEFAULT_PINS, 0);

#[map]
static HALF_OPEN: LruHashMap<FlowKey, Pin> = LruHashMap::with_max_entries(DEFAULT_HALF_OPEN, 0);

#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FirstFragment> =
    LruHashMap::with_max_entries(MAX_FRAGMENTS, 0);

/// Where a kind of record is kept.
#[inline(always)]
pub fn records(record: Record) -> &'static LruHashMap<FlowKey, Pin> {
    match record {
        Record::HalfOpen => &HALF_OPEN,
        Record::Current => &PINS_CURRENT,
        Record::Base => &PINS_BASE,
    }
}

#[map]
pub static OPEN_FLOWS: Array<u64> = Array::with_max_entries(DEFAULT_BACKEND_LINES, BPF_F_MMAPABLE);

#[map]
pub static TURNS: PerCpuArray<u64> = PerCpuArray::with_max_entries(MAX_SERVICES, 0);

#[map]
pub static LIMITS: Array<Limits> = Array::with_max_entries(MAX_SERVICES, BPF_F_MMAPABLE);

#[map]
pub static BUCKETS: Array<u64> = Array::with_max_entries(MAX_SERVICES, 0);

#[map]
pub static SOURCES: LruHashMap<SourceKey, u64> = LruHashMap::with_max_entries(DEFAULT_SOURCES, 0);

#[map]
pub static RULES: LpmTrie<RuleKey, u32> = LpmTrie::with_max_entries(MAX_RULES, BPF_F_NO_PREALLOC);

#[map]
pub static SERVER_IDS: HashMap<ServerKey, u32> =
    HashMap::with_max_entries(MAX_SERVER_IDS, BPF_F_NO_PREALLOC);

/// What some service needs, `FEATURE_...`: userspace says so when it loads the programs, and the
/// verifier takes out what is never reached then.
#[unsafe(no_mangle)]
pub static FEATURES: Global<u32> = Global::new(0);

#[map]
pub static BACKEND_COUNTERS: PerCpuArray<Counter> =
    PerCpuArray::with_max_entries(DEFAULT_BACKEND_LINES, 0);

#[map]
pub static VERDICTS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(VERDICT_COUNTERS, 0);

#[map]
pub static PROGRAMS: ProgramArray = ProgramArray::with_max_entries(MAX_PROGRAMS, 0);

/// Adds a frame to its verdict's counter.
#[inline(always)]
pub fn count(verdict: Verdict, bytes: u64) {
    let counter = match verdict {
        Verdict::Forward(route) => BACKEND_COUNTERS.get_ptr_mut(route.line),
        other => other.index().and_then(|index| VERDICTS.get_ptr_mut(index)),
    };
    if let Some(counter) = counter {
        // SAFETY: the kernel gave the pointer, and nothing else writes this CPU's copy while
        // the program runs on it.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += bytes;
        }
    }
}

/// When this CPU last wrote into the log; private to the program.
#[map]
static LOGGED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Whether the log may be written into: once a second, however many packets have a reason.
#[inline(always)]
pub fn may_log() -> bool {
    let Some(logged) = LOGGED.get_ptr_mut(0) else { return false };
    // SAFETY: reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the kernel gave the pointer, and nothing else writes this CPU's copy.
    unsafe {
        if now - *logged < 1_000_000_000 {
            return false;
        }
        *logged = now;
    }
    true
}
