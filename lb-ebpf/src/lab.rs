//! What the test bed needs of the kernel and the product does not: kept out of the product's
//! object.
#![no_std]
#![no_main]

mod bench;
mod frame;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

/// Lets everything pass.
///
/// A veth device takes frames that its peer sends by `XDP_TX` only while it has a native program
/// of its own, and drops them without a word otherwise. The bed attaches this one to the switch's
/// end of a balancer's cable.
#[xdp(frags)]
fn lab_pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
