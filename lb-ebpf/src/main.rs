//! The XDP programs: thin shells that run `lb-common`'s packet code over the kernel's buffers
//! and maps, count the verdict and carry it out.
//!
//! [`lb_entry`] is attached to the interfaces. What is rare is left to the other programs,
//! reached by tail calls: they cost nothing while nobody needs them. All are aware of
//! multi-buffer frames: headers are in the first buffer, the rest is never looked at.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod frame;
mod maps;
mod tables;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::warn;
use lb_common::answer::answer;
use lb_common::error::judge_error;
use lb_common::fragment::{Told, judge_fragment, tell};
use lb_common::judge::{judge, judge_guarded, judge_transition};
use lb_common::refuse::refuse;
use lb_common::rewrite::apply;
use lb_common::too_big::too_big;
use lb_common::{Drop, Pass, Program, Step, Verdict};

use crate::frame::XdpFrame;
use crate::maps::PROGRAMS;
use crate::tables::BpfTables;

/// The program that is attached: whole TCP and UDP packets in slots that are steady.
#[xdp(frags)]
fn lb_entry(ctx: XdpContext) -> u32 {
    let frame = XdpFrame::new(&ctx);
    let step = judge::<false, _, _>(&frame, &BpfTables);
    next(&ctx, frame, step)
}

/// The same where services need tunnels.
#[xdp(frags)]
fn lb_entry_tunnels(ctx: XdpContext) -> u32 {
    let frame = XdpFrame::new(&ctx);
    let step = judge::<true, _, _>(&frame, &BpfTables);
    next(&ctx, frame, step)
}

/// Slots that are not steady, and IPv6 with extension headers.
#[xdp(frags)]
fn lb_transition(ctx: XdpContext) -> u32 {
    let frame = XdpFrame::new(&ctx);
    let step = judge_transition(&frame, &BpfTables);
    next(&ctx, frame, step)
}

/// Services that do not let everybody in.
#[xdp(frags)]
fn lb_guard(ctx: XdpContext) -> u32 {
    let frame = XdpFrame::new(&ctx);
    let step = judge_guarded(&frame, &BpfTables);
    next(&ctx, frame, step)
}

/// Packets that do not fit into their tunnel.
#[xdp(frags)]
fn lb_too_big(ctx: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(&ctx);
    let bytes = bytes(&ctx);
    let verdict = too_big(&mut frame, &BpfTables);
    finish(&ctx, bytes, verdict)
}

/// Fragments.
#[xdp(frags)]
fn lb_fragment(ctx: XdpContext) -> u32 {
    let frame = XdpFrame::new(&ctx);
    let told = told(&ctx);
    match told.certain() {
        Some(Step::Done(verdict)) => finish(&ctx, bytes(&ctx), verdict),
        Some(step) => next(&ctx, frame, step),
        None => {
            let step = judge_fragment(&frame, &BpfTables, told);
            next(&ctx, frame, step)
        }
    }
}

/// A function of its own also in the kernel: of a program with as many ways out as both halves have,
/// the compiler makes what the verifier does not understand.
#[inline(never)]
fn told(ctx: &XdpContext) -> Told {
    tell(&XdpFrame::new(ctx), &BpfTables)
}

/// ICMP errors about what backends sent.
#[xdp(frags)]
fn lb_error(ctx: XdpContext) -> u32 {
    let frame = XdpFrame::new(&ctx);
    let step = judge_error(&frame, &BpfTables);
    next(&ctx, frame, step)
}

/// ARP, neighbour discovery and echo for VIPs.
#[xdp(frags)]
fn lb_answer(ctx: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(&ctx);
    let bytes = bytes(&ctx);
    match answer(&mut frame, &BpfTables) {
        Step::Done(verdict) => finish(&ctx, bytes, verdict),
        Step::Then(program) => call(&ctx, bytes, program),
    }
}

/// Flows that nobody takes.
#[xdp(frags)]
fn lb_refuse(ctx: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(&ctx);
    let bytes = bytes(&ctx);
    let verdict = refuse(&mut frame, &BpfTables);
    finish(&ctx, bytes, verdict)
}

#[inline(always)]
fn next(ctx: &XdpContext, mut frame: XdpFrame<'_>, step: Step) -> u32 {
    let bytes = bytes(ctx);
    match step {
        Step::Done(verdict) => {
            let verdict = apply(&mut frame, verdict);
            finish(ctx, bytes, verdict)
        }
        Step::Then(program) => call(ctx, bytes, program),
    }
}

/// Leaves a frame, as it came, to another program.
#[inline(always)]
fn call(ctx: &XdpContext, bytes: u64, program: Program) -> u32 {
    // SAFETY: no value in scope needs dropping, and the maps stay as they are.
    unsafe { PROGRAMS.tail_call(ctx, program as u32) };
    finish(ctx, bytes, Verdict::Pass(Pass::NoProgram))
}

/// What the counters count: bytes in the first buffer.
#[inline(always)]
fn bytes(ctx: &XdpContext) -> u64 {
    (ctx.data_end() - ctx.data()) as u64
}

/// Counts a verdict and says it in XDP's words.
#[inline(always)]
fn finish(ctx: &XdpContext, bytes: u64, verdict: Verdict) -> u32 {
    maps::count(verdict, bytes);
    match verdict {
        Verdict::Pass(_) => xdp_action::XDP_PASS,
        Verdict::Drop(reason) => {
            if matches!(reason, Drop::StaleSlot) && maps::may_log() {
                // Userspace promises that this never happens: it writes backends before slots.
                warn!(ctx, "a slot names a backend that is not there");
            }
            xdp_action::XDP_DROP
        }
        Verdict::Answer(_) => xdp_action::XDP_TX,
        Verdict::Forward(route) => match route.redirect {
            None => xdp_action::XDP_TX,
            // SAFETY: the helper takes any number; an interface that is gone drops the frame.
            Some(ifindex) => unsafe { bpf_redirect(ifindex, 0) as u32 },
        },
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
