//! What a backend's host needs to take clients' packets out of tunnels: kept out of the balancer's
//! object, so that the balancer's maps are not made there.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod frame;
mod opaque;

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, xdp_action};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::programs::XdpContext;
use lb_common::Address;
use lb_common::decap::{Outcome, Sources, decap};
use lb_common::maps::Counter;
use lb_common::maps::decap::{ALLOW, ALLOWED_ENTRIES, COUNTERS};

use crate::opaque::OpaqueFrame;

#[map]
static ALLOWED: LpmTrie<Address, u32> =
    LpmTrie::with_max_entries(ALLOWED_ENTRIES, BPF_F_NO_PREALLOC);

#[map]
static OUTCOMES: PerCpuArray<Counter> = PerCpuArray::with_max_entries(COUNTERS, 0);

/// The maps of this program.
struct BpfSources;

impl Sources for BpfSources {
    #[inline(always)]
    fn allows(&self, source: Address) -> bool {
        ALLOWED.get(Key::new(128, source)).is_some_and(|says| *says == ALLOW)
    }
}

/// Takes tunnels' outer headers off, and lets everything else pass.
#[xdp(frags)]
fn lb_decap(ctx: XdpContext) -> u32 {
    // What the counters count: bytes in the first buffer, as the frame came in.
    let bytes = (ctx.data_end() - ctx.data()) as u64;
    let outcome = decap(&mut OpaqueFrame::new(&ctx), &BpfSources);
    count(outcome, bytes);
    if outcome.passes() { xdp_action::XDP_PASS } else { xdp_action::XDP_DROP }
}

#[inline(always)]
fn count(outcome: Outcome, bytes: u64) {
    if let Some(counter) = outcome.index().and_then(|index| OUTCOMES.get_ptr_mut(index)) {
        // SAFETY: the kernel gave the pointer, and nothing else writes this CPU's copy while
        // the program runs on it.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += bytes;
        }
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
