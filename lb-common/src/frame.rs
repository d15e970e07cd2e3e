//! Access to a frame's bytes, by value and bounds-checked: the same packet code runs over an
//! XDP buffer in the kernel and over a `Vec<u8>` on the host.

/// A received frame, from the first byte of its Ethernet header.
pub trait Frame {
    /// Whether the frame has at least `end` bytes, those in later buffers included.
    fn holds(&self, end: usize) -> bool;

    /// Index of the interface it came in by.
    fn ingress(&self) -> u32;

    /// The `N` bytes from `at` on; `None` where the first buffer ends before.
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]>;

    /// The same, for code that comes long after the first reads: a compiler that keeps the buffer's
    /// bounds for it would spill them in a form that the kernel's verifier does not know again.
    fn read_late<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.read(at)
    }

    /// Overwrites the bytes from `at` on; `None` (nothing written) where the first buffer ends
    /// before.
    #[must_use = "bytes that did not fit were not written"]
    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> Option<()>;

    /// Makes the frame longer by moving its beginning to the front by `by` bytes, which are whatever
    /// was there. `None` (nothing changed) where there is no room.
    #[must_use = "a frame that has no room keeps its length"]
    fn grow(&mut self, by: usize) -> Option<()>;

    /// Makes the frame shorter by moving its beginning to the back by `by` bytes. `None` (nothing
    /// changed) where less than an Ethernet header would be left.
    #[must_use = "a frame that cannot lose so much keeps its length"]
    fn shrink(&mut self, by: usize) -> Option<()>;

    /// Makes the frame `len` bytes long by moving its end; what is new is zero. `None` (nothing
    /// changed) where there is no room.
    #[must_use = "a frame that has no room keeps its length"]
    fn resize(&mut self, len: usize) -> Option<()>;
}

#[cfg(any(feature = "builder", test))]
mod memory {
    use super::Frame;
    use alloc::vec::Vec;

    /// A frame in memory.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct MemoryFrame {
        /// The bytes from the Ethernet header on.
        pub bytes: Vec<u8>,
        /// Index of the interface it came in by.
        pub ingress: u32,
    }

    impl Frame for MemoryFrame {
        fn holds(&self, end: usize) -> bool {
            end <= self.bytes.len()
        }

        fn ingress(&self) -> u32 {
            self.ingress
        }

        fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
            self.bytes.get(at..)?.first_chunk().copied()
        }

        fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> Option<()> {
            *self.bytes.get_mut(at..)?.first_chunk_mut()? = bytes;
            Some(())
        }

        fn grow(&mut self, by: usize) -> Option<()> {
            self.bytes.splice(0..0, core::iter::repeat_n(0, by));
            Some(())
        }

        fn shrink(&mut self, by: usize) -> Option<()> {
            // The kernel wants that much to be left.
            if self.bytes.len() < by + 14 {
                return None;
            }
            self.bytes.drain(..by);
            Some(())
        }

        fn resize(&mut self, len: usize) -> Option<()> {
            self.bytes.resize(len, 0);
            Some(())
        }
    }
}

#[cfg(any(feature = "builder", test))]
pub use memory::MemoryFrame;
