//! Zeroed memory on a page boundary, for caches and weights too large to be touched at allocation.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
#[cfg(all(target_os = "linux", not(miri)))]
use std::sync::atomic::{AtomicUsize, Ordering};

/// Alignment of every buffer: a page, so that tiles start on cache lines.
const PAGE: usize = 4096;
/// Alignment of large buffers: that of the pages that [`PageBuffer::prefer_huge_pages`] asks for.
const HUGE_PAGE: usize = 2 << 20;
/// Smaller buffers are left with ordinary pages.
#[cfg(all(target_os = "linux", not(miri)))]
const HUGE_BYTES_MIN: usize = 4 << 20;
/// Buffers on huge pages in a process's life: each takes up to three entries in the system's table of mappings, of
/// which a process may have some 65 thousand, and a model may have as many experts.
#[cfg(all(target_os = "linux", not(miri)))]
const HUGE_BUFFERS_MAX: usize = 8192;
#[cfg(all(target_os = "linux", not(miri)))]
static HUGE_BUFFERS: AtomicUsize = AtomicUsize::new(0);
/// What any allocator gives by itself. Asked for more, the standard library zeroes the memory by writing to it, and
/// with that takes every page at once and on one thread; so the boundary is found by hand.
const PLAIN_ALIGN: usize = 16;

/// Bytes that start on a page boundary. The system hands the pages out when they are first written, so a
/// buffer that is never filled costs address space only.
#[derive(Debug)]
pub(crate) struct PageBuffer {
    start: NonNull<u8>,
    len: usize,
    /// What was allocated: the buffer lies in it.
    block: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the buffer owns its memory, like a `Vec<u8>`.
unsafe impl Send for PageBuffer {}
// SAFETY: shared access only reads.
unsafe impl Sync for PageBuffer {}

impl PageBuffer {
    /// No bytes, which takes no memory.
    const fn empty() -> Self {
        let start = NonNull::<u64>::dangling().cast();
        Self { start, len: 0, block: start, layout: Layout::new::<()>() }
    }

    /// `len` zero bytes, or `None` where the system has not got them.
    pub(crate) fn zeroed(len: usize) -> Option<Self> {
        let align = if len >= HUGE_PAGE { HUGE_PAGE } else { PAGE };
        let layout = Layout::from_size_align(len.checked_add(align)?, PLAIN_ALIGN).ok()?;
        // SAFETY: the layout's size is not zero.
        let block = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let offset = block.as_ptr().align_offset(align);
        if offset >= align {
            // Only where addresses are not numbers, as in evaluation at compile time.
            // SAFETY: allocated above with this layout.
            unsafe { dealloc(block.as_ptr(), layout) };
            return None;
        }
        // SAFETY: `offset` is below `align`, so `len` bytes of the block's `len + align` follow.
        let start = unsafe { block.add(offset) };
        Some(Self { start, len, block, layout })
    }

    /// Asks for pages of 2 MiB for a buffer that is about to be filled: taking a few of them is much less work than
    /// taking many small ones. Where the system refuses it has small ones.
    pub(crate) fn prefer_huge_pages(&mut self) {
        #[cfg(all(target_os = "linux", not(miri)))]
        if self.len >= HUGE_BYTES_MIN && HUGE_BUFFERS.fetch_add(1, Ordering::Relaxed) < HUGE_BUFFERS_MAX {
            let whole = self.len / HUGE_PAGE * HUGE_PAGE;
            // SAFETY: the range lies in memory that this buffer owns and starts on a page; the advice changes what
            // pages it is made of and not what it holds.
            let _ = unsafe { libc::madvise(self.start.as_ptr().cast(), whole, libc::MADV_HUGEPAGE) };
        }
    }
}

impl Default for PageBuffer {
    fn default() -> Self {
        Self::empty()
    }
}

impl Drop for PageBuffer {
    fn drop(&mut self) {
        if self.layout.size() > 0 {
            // SAFETY: allocated in `zeroed` with this very layout.
            unsafe { dealloc(self.block.as_ptr(), self.layout) };
        }
    }
}

impl Deref for PageBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes were allocated and zeroed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for PageBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// Zeroed floats that start on a page boundary, so that the rows of panels which threads write end on cache lines:
/// a line that two of them share travels to and fro between their caches.
#[derive(Debug, Default)]
pub struct FloatBuffer(PageBuffer);

impl FloatBuffer {
    /// `len` zeros. Memory is taken as it is written.
    ///
    /// # Panics
    /// Where the system has not got the address space, as a `Vec` does.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let bytes = len.checked_mul(size_of::<f32>()).and_then(PageBuffer::zeroed);
        match bytes {
            Some(bytes) => Self(bytes),
            None => handle_alloc_error(Layout::new::<f32>()),
        }
    }

    /// Has room for `len` values; those there were are gone where it had to grow.
    pub(crate) fn reserve(&mut self, len: usize) {
        if self.len() < len {
            *self = Self::zeroed(len);
        }
    }
}

impl Deref for FloatBuffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: the buffer starts on a page boundary and holds whole values; any bytes are floats.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() / size_of::<f32>()) }
    }
}

impl DerefMut for FloatBuffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        let len = self.0.len() / size_of::<f32>();
        // SAFETY: as in `deref`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_zeroed_aligned_and_writable() {
        for len in [0, 1, 4095, 4096, 1 << 20, (2 << 20) + 1, (17 << 20) + 5] {
            let mut buffer = PageBuffer::zeroed(len).unwrap();
            assert_eq!(buffer.as_ptr() as usize % PAGE, 0);
            buffer.prefer_huge_pages();
            assert!(buffer.iter().all(|byte| *byte == 0));
            buffer.fill(7);
            assert_eq!(buffer.iter().map(|byte| usize::from(*byte)).sum::<usize>(), 7 * len);
        }
    }

    #[test]
    #[cfg(all(target_os = "linux", not(miri)))]
    fn takes_no_memory_before_it_is_written() {
        const LEN: usize = 512 << 20;
        let resident_bytes = || {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * PAGE
        };
        let before = resident_bytes();
        let mut buffer = PageBuffer::zeroed(LEN).unwrap();
        buffer.prefer_huge_pages();
        // Other tests run beside this one and take some.
        assert!(resident_bytes() < before + LEN / 2);
        buffer[LEN - 1] = 1;
        assert_eq!((buffer[0], buffer[LEN - 1]), (0, 1));
        assert!(resident_bytes() < before + LEN / 2);
    }

    #[test]
    fn more_than_there_is_gives_none() {
        assert!(PageBuffer::zeroed(usize::MAX).is_none());
        assert!(PageBuffer::zeroed(isize::MAX as usize - 8192).is_none());
    }
}
