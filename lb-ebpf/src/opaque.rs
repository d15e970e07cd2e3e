//! A frame whose pointers the compiler knows nothing about.
//!
//! Both words of the context that say where a buffer begins and ends have 32 bits, and the verifier
//! makes pointers of them. What the compiler knows to have 32 bits it may carry on in a 32-bit
//! register where two ways meet, which the verifier then takes for a number. Decapsulation, whose
//! offsets are all variable, is where it does.

use core::arch::asm;

use aya_ebpf::helpers::generated::bpf_xdp_get_buff_len;
use aya_ebpf::programs::XdpContext;
use lb_common::Frame;

use crate::frame::XdpFrame;

/// A frame in the driver's buffer.
pub struct OpaqueFrame<'a> {
    ctx: &'a XdpContext,
    frame: XdpFrame<'a>,
}

impl<'a> OpaqueFrame<'a> {
    #[inline(always)]
    pub fn new(ctx: &'a XdpContext) -> Self {
        Self { ctx, frame: XdpFrame::new(ctx) }
    }

    /// Where the first buffer begins, and where it ends.
    #[inline(always)]
    fn ends(&self) -> (usize, usize) {
        let (data, end): (usize, usize);
        // SAFETY: reads two words of our own context; nothing is written.
        unsafe {
            asm!(
                "{0} = *(u32 *)({2} + 0)",
                "{1} = *(u32 *)({2} + 4)",
                out(reg) data,
                lateout(reg) end,
                in(reg) self.ctx.ctx,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        (data, end)
    }

    /// Pointer to `N` bytes from `at` on.
    #[inline(always)]
    fn at<const N: usize>(&self, at: usize) -> Option<*mut [u8; N]> {
        let (data, end) = self.ends();
        let start = data + at;
        if start + N > end {
            return None;
        }
        Some(start as *mut [u8; N])
    }
}

impl Frame for OpaqueFrame<'_> {
    #[inline(always)]
    fn holds(&self, end: usize) -> bool {
        let (first, last) = self.ends();
        if first + end <= last {
            return true;
        }
        // SAFETY: a read-only helper on our own context.
        end as u64 <= unsafe { bpf_xdp_get_buff_len(self.ctx.ctx) }
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        self.frame.ingress()
    }

    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        // SAFETY: `at` checked that the bytes lie before the end of the buffer.
        self.at::<N>(at).map(|bytes| unsafe { *bytes })
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> Option<()> {
        // SAFETY: `at` checked that the bytes lie before the end of the buffer.
        self.at::<N>(at).map(|target| unsafe { *target = bytes })
    }

    #[inline(always)]
    fn grow(&mut self, by: usize) -> Option<()> {
        self.frame.grow(by)
    }

    #[inline(always)]
    fn shrink(&mut self, by: usize) -> Option<()> {
        self.frame.shrink(by)
    }

    #[inline(always)]
    fn resize(&mut self, len: usize) -> Option<()> {
        self.frame.resize(len)
    }
}
