//! The one place with pointers into a packet, and their bounds checks.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_xdp_get_buff_len;
use aya_ebpf::helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail};
use aya_ebpf::programs::XdpContext;
use lb_common::Frame;

/// A frame in the driver's buffer.
pub struct XdpFrame<'a> {
    ctx: &'a XdpContext,
}

impl<'a> XdpFrame<'a> {
    #[inline(always)]
    pub fn new(ctx: &'a XdpContext) -> Self {
        Self { ctx }
    }

    /// Pointer to `N` bytes from `at` on.
    #[inline(always)]
    fn at<const N: usize>(&self, at: usize) -> Option<*mut [u8; N]> {
        let start = self.ctx.data() + at;
        if start + N > self.ctx.data_end() {
            return None;
        }
        Some(start as *mut [u8; N])
    }
}

impl Frame for XdpFrame<'_> {
    #[inline(always)]
    fn holds(&self, end: usize) -> bool {
        if self.ctx.data() + end <= self.ctx.data_end() {
            return true;
        }
        // SAFETY: a read-only helper on our own context.
        end as u64 <= unsafe { bpf_xdp_get_buff_len(self.ctx.ctx) }
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        self.ctx.ingress_ifindex() as u32
    }

    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        // SAFETY: `at` checked that the bytes lie before the end of the buffer.
        self.at::<N>(at).map(|bytes| unsafe { *bytes })
    }

    #[inline(always)]
    fn read_late<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        // SAFETY: the kernel's own context; volatile, so that the bounds are loaded here.
        let (data, end) = unsafe {
            let ctx = self.ctx.ctx;
            ((&raw const (*ctx).data).read_volatile(), (&raw const (*ctx).data_end).read_volatile())
        };
        let start = data as usize + at;
        if start + N > end as usize {
            return None;
        }
        // SAFETY: the bytes lie before the end of the buffer, which was just checked.
        Some(unsafe { *(start as *const [u8; N]) })
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> Option<()> {
        // SAFETY: `at` checked that the bytes lie before the end of the buffer.
        self.at::<N>(at).map(|target| unsafe { *target = bytes })
    }

    #[inline(always)]
    fn grow(&mut self, by: usize) -> Option<()> {
        // SAFETY: moves the beginning of our own frame; every later access is checked anew.
        let failed = unsafe { bpf_xdp_adjust_head(self.ctx.as_ptr().cast(), -(by as i32)) };
        if failed == 0 { Some(()) } else { None }
    }

    #[inline(always)]
    fn shrink(&mut self, by: usize) -> Option<()> {
        // SAFETY: moves the beginning of our own frame; every later access is checked anew.
        let failed = unsafe { bpf_xdp_adjust_head(self.ctx.as_ptr().cast(), by as i32) };
        if failed == 0 { Some(()) } else { None }
    }

    #[inline(always)]
    fn resize(&mut self, len: usize) -> Option<()> {
        // By the helper: the verifier knows the difference of two packet pointers as a 64-bit
        // number only, and the compiler would rather subtract 32 bits.
        // SAFETY: a read-only helper on our own context.
        let now = unsafe { bpf_xdp_get_buff_len(self.ctx.ctx) };
        let delta = len as i32 - now as i32;
        // SAFETY: moves the end of our own frame; every later access is checked anew.
        let failed = unsafe { bpf_xdp_adjust_tail(self.ctx.as_ptr().cast(), delta) };
        if failed == 0 { Some(()) } else { None }
    }
}
