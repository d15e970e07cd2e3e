//! An array map, mapped into memory: words that the program and we read and write at the same
//! time, each in one access.

use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use aya::Pod;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A mapping of an array map that was created with `BPF_F_MMAPABLE`. Entries are `size_of::<T>`
/// bytes apart, which has to be a multiple of eight: the kernel pads them to that.
pub struct Mapped<T> {
    base: NonNull<u8>,
    entries: u32,
    bytes: NonZeroUsize,
    entry: std::marker::PhantomData<T>,
}

impl<T: Pod> Mapped<T> {
    const WORDS: usize = size_of::<T>() / 8;

    /// Maps all `entries` of the map behind `fd`.
    pub fn new(fd: impl AsFd, entries: u32) -> Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() <= 64) };
        let bytes = NonZeroUsize::new(entries as usize * size_of::<T>())
            .context("a map without entries cannot be mapped")?;
        let flags = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh shared mapping at an address of the kernel's choice. The kernel
        // refuses more bytes than the map has.
        let base = unsafe { mmap(None, bytes, flags, MapFlags::MAP_SHARED, fd, 0) }
            .context("failed to map an array map into memory")?;
        Ok(Self { base: base.cast(), entries, bytes, entry: std::marker::PhantomData })
    }

    /// Number of entries.
    pub fn len(&self) -> u32 {
        self.entries
    }

    fn words(&self, index: u32) -> Result<&[AtomicU64]> {
        ensure!(index < self.entries, "entry {index} is behind the map's {} entries", self.entries);
        // SAFETY: inside the mapping, which is page-aligned and lives as long as `self`; the
        // kernel side writes words as well, so they are only ever used as atomics.
        Ok(unsafe {
            let first = self.base.as_ptr().cast::<AtomicU64>().add(index as usize * Self::WORDS);
            std::slice::from_raw_parts(first, Self::WORDS)
        })
    }

    /// An entry, word by word.
    pub fn get(&self, index: u32) -> Result<T> {
        let words: Vec<u64> =
            self.words(index)?.iter().map(|word| word.load(Ordering::Relaxed)).collect();
        // SAFETY: `T` is plain old data of just these words' size; the read needs no alignment.
        Ok(unsafe { words.as_ptr().cast::<T>().read_unaligned() })
    }

    /// Stores an entry, word by word, only those that differ.
    pub fn set(&self, index: u32, value: &T) -> Result<()> {
        let source = std::ptr::from_ref(value).cast::<u64>();
        for (n, word) in self.words(index)?.iter().enumerate() {
            // SAFETY: word `n` of a value that has `WORDS` of them and no padding.
            let new = unsafe { source.add(n).read_unaligned() };
            if word.load(Ordering::Relaxed) != new {
                word.store(new, Ordering::Release);
            }
        }
        Ok(())
    }

    /// The map as 32-bit words, for values that consist of them.
    pub fn half_word(&self, index: usize) -> Result<&AtomicU32> {
        ensure!(index < self.bytes.get() / 4, "word {index} is behind the map's end");
        // SAFETY: inside the mapping, aligned, and only ever used as an atomic.
        Ok(unsafe { &*self.base.as_ptr().cast::<AtomicU32>().add(index) })
    }

    /// Some of them in a row.
    pub fn half_words(&self, from: usize, count: usize) -> Result<&[AtomicU32]> {
        let end = from.checked_add(count).filter(|end| *end <= self.bytes.get() / 4);
        ensure!(end.is_some(), "words {from} to {} are behind the map's end", from + count);
        // SAFETY: as for `half_word`, and the end was checked above.
        Ok(unsafe {
            std::slice::from_raw_parts(self.base.as_ptr().cast::<AtomicU32>().add(from), count)
        })
    }

    /// One word of an entry.
    pub fn word(&self, index: u32, word: usize) -> Result<&AtomicU64> {
        self.words(index)?.get(word).context("the entry has no such word")
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and nothing borrows from it any more.
        if let Err(error) = unsafe { munmap(self.base.cast(), self.bytes.get()) } {
            tracing::warn!(%error, "failed to unmap an array map");
        }
    }
}

// SAFETY: the mapping belongs to no thread, and its words are atomics.
unsafe impl<T> Send for Mapped<T> {}
