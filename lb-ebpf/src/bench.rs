//! Programs for `cargo xtask bench`.
//!
//! `BPF_PROG_TEST_RUN` feeds a program its own output when it repeats. So [`bench_driver`] runs
//! first in every repetition: it restores what forwarding changes in the frame, picks the next
//! flow, and tail-calls the program under test. The floor programs are called by it in the same
//! way: what a program costs above them is what it does.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::generated::bpf_xdp_get_buff_len;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, ProgramArray};
use aya_ebpf::programs::XdpContext;
use lb_common::parse::{self, Content};

use crate::frame::XdpFrame;
use lb_common::Frame as _;

/// What the driver does in every repetition; userspace writes it, and reads where the walk is.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Walk {
    /// Repetitions so far.
    pub step: u64,
    /// Number of flows less one; the number is a power of two.
    pub mask: u64,
    /// The frame's first twelve bytes, and four of zero.
    pub macs: [u64; 2],
    /// Where the last four bytes of the source address stand in the frame.
    pub address_at: u32,
    /// Where the source port stands.
    pub port_at: u32,
    /// Length of the frame: what was put in front of it is taken off.
    pub length: u32,
    /// Its EtherType, as it stands there.
    pub ether_type: u32,
}

#[map]
static WALK: Array<Walk> = Array::with_max_entries(1, 0);

/// The program under test.
#[map]
static TARGET: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Restores the frame, picks a flow, and calls the program under test.
#[xdp(frags)]
fn bench_driver(ctx: XdpContext) -> u32 {
    match prepare(&ctx) {
        Some(()) => {
            // SAFETY: nothing in scope needs dropping.
            unsafe { TARGET.tail_call(&ctx, 0) };
            xdp_action::XDP_ABORTED
        }
        None => xdp_action::XDP_ABORTED,
    }
}

#[inline(always)]
fn prepare(ctx: &XdpContext) -> Option<()> {
    let walk = WALK.get_ptr_mut(0)?;
    let mut frame = XdpFrame::new(ctx);
    // SAFETY: the kernel gave the pointer, and one CPU runs the benchmark.
    let walk = unsafe { &mut *walk };
    // An odd factor visits all flows once before the first comes back, in no order that a
    // prefetcher could guess.
    let flow = walk.step.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20 & walk.mask;
    walk.step += 1;
    let longer = bytes(ctx).wrapping_sub(walk.length);
    if longer != 0 {
        frame.shrink((longer & 0x3f) as usize)?;
        frame.write(12, (walk.ether_type as u16).to_le_bytes())?;
    }
    let [first, second] = walk.macs;
    frame.write(0, first.to_le_bytes())?;
    frame.write(8, (second as u32).to_le_bytes())?;
    // Sixteen flows share an address, as those of a browser do.
    frame.write(
        (walk.address_at & 0x3f) as usize,
        (0xc600_0000_u32 | (flow >> 4) as u32).to_be_bytes(),
    )?;
    frame.write((walk.port_at & 0x3f) as usize, (0x8000 | (flow & 0xf) as u16).to_be_bytes())
}

#[inline(always)]
fn bytes(ctx: &XdpContext) -> u32 {
    // By the helper: the verifier allows no difference of pointers in 32 bits.
    // SAFETY: a read-only helper on our own context.
    unsafe { bpf_xdp_get_buff_len(ctx.ctx) as u32 }
}

/// Floor: swaps the MACs and transmits.
#[xdp(frags)]
fn bench_swap(ctx: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(&ctx);
    let swapped = frame.read::<12>(0).and_then(|macs| {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = macs;
        frame.write(0, [g, h, i, j, k, l, a, b, c, d, e, f])
    });
    match swapped {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}

/// Floor: parses as the product does, and transmits the frame as it is.
#[xdp(frags)]
fn bench_parse(ctx: XdpContext) -> u32 {
    let frame = XdpFrame::new(&ctx);
    let content = parse::link(&frame).map(|link| parse::content(&frame, &link));
    match content {
        Some(Content::Segment(segment)) if frame.holds(segment.end) => {
            // Everything that was parsed is used, or the compiler would not parse it.
            let flow = segment.flow;
            let [a, b] = flow.source.0;
            let [c, d] = flow.destination.0;
            let used = a | b | c | d | u64::from(flow.ports) | segment.claimed as u64;
            if used == 0 { xdp_action::XDP_ABORTED } else { xdp_action::XDP_TX }
        }
        _ => xdp_action::XDP_ABORTED,
    }
}
