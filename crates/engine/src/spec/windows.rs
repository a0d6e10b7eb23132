//! The small cache of a drafting layer or model.
//!
//! What drafts has a cache apart from the model's: a window of each sequence's latest positions, numbered from the
//! window's start. So its memory does not grow with the context, a long prompt costs it no more than a short one,
//! and preemption, shared prefixes and forks are none of its business. Positions that it has missed it never sees;
//! that makes drafts worse, never answers.

use levain_kernels::{KernelError, KvLayout};

/// Positions in a window. One that is full begins again with the latest of its text.
pub(crate) const WINDOW_LEN: usize = 1024;
/// The most positions that a window begins with.
pub(crate) const WINDOW_START_MAX: usize = 256;

/// A sequence's window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    slot: usize,
    ticket: u64,
    /// Position in the text at which it starts.
    pub(crate) start: usize,
    /// Positions from there on that are computed.
    pub(crate) len: usize,
}

impl Window {
    /// The same with everything computed up to this position of the text.
    pub(crate) fn up_to(self, end: usize) -> Self {
        Self { len: end - self.start, ..self }
    }

    /// The position in the text that comes next.
    pub(crate) fn end(&self) -> usize {
        self.start + self.len
    }
}

/// Whose a place for a window is.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    ticket: u64,
    /// When it was last asked for, in calls.
    used: u64,
}

/// Which part of the cache is whose window.
#[derive(Debug)]
pub(crate) struct Windows {
    /// Numbers of all blocks in order; a window's are a part of it.
    blocks: Vec<u32>,
    slots: Vec<Slot>,
    calls: u64,
}

impl Windows {
    /// For `count` sequences at a time, in a cache whose blocks' length divides [`WINDOW_LEN`].
    pub(crate) fn new(count: usize, block_len: usize) -> Self {
        let n_blocks = Self::n_blocks(count, block_len);
        Self { blocks: (0..n_blocks as u32).collect(), slots: vec![Slot::default(); count], calls: 0 }
    }

    /// Blocks that the cache has to have.
    pub(crate) fn n_blocks(count: usize, block_len: usize) -> usize {
        count * WINDOW_LEN.div_ceil(block_len)
    }

    /// Bytes of the cache.
    pub(crate) fn bytes(count: usize, layout: &KvLayout) -> Result<u64, KernelError> {
        let block = layout.bytes_per_block()? as u64;
        Ok(block.saturating_mul(Self::n_blocks(count, layout.block_len) as u64))
    }

    /// Whether the window has not been given to another sequence.
    pub(crate) fn holds(&mut self, window: &Window) -> bool {
        self.calls += 1;
        let slot = &mut self.slots[window.slot];
        slot.used = self.calls;
        slot.ticket == window.ticket
    }

    /// An empty window, in the place of the one that has not been asked for for the longest time.
    pub(crate) fn open(&mut self, start: usize) -> Window {
        self.calls += 1;
        let oldest = self.slots.iter().enumerate().min_by_key(|(_, slot)| slot.used);
        let slot = oldest.map_or(0, |(index, _)| index);
        // The number of the call is new, so it can be the ticket.
        self.slots[slot] = Slot { ticket: self.calls, used: self.calls };
        Window { slot, ticket: self.calls, start, len: 0 }
    }

    /// The window's blocks, and the slot of its first position in the cache.
    pub(crate) fn place(&self, window: &Window) -> (&[u32], usize) {
        let per_window = self.blocks.len() / self.slots.len();
        let first = window.slot * per_window;
        (&self.blocks[first..first + per_window], window.slot * WINDOW_LEN)
    }
}

#[cfg(test)]
mod tests {
    use levain_kernels::KvDType;

    use super::*;

    #[test]
    fn the_window_that_nobody_asks_for_goes_first() {
        let layout = KvLayout {
            dtype: KvDType::F32,
            n_layers: 1,
            n_kv_heads: 1,
            k_dim: 8,
            v_dim: 8,
            values_in_keys: false,
            block_len: 32,
        };
        let mut windows = Windows::new(2, 32);
        let block = layout.bytes_per_block().unwrap() as u64;
        assert_eq!(Windows::bytes(2, &layout).unwrap(), 2 * (1024 / 32) * block);
        let (a, b) = (windows.open(5), windows.open(9));
        assert!(windows.holds(&b) && windows.holds(&a));
        assert_ne!(windows.place(&a), windows.place(&b));
        let c = windows.open(40);
        assert!(windows.holds(&a) && windows.holds(&c) && !windows.holds(&b));
        assert_eq!((c.start, c.end()), (40, 40));
        let (blocks, slot) = windows.place(&c);
        assert_eq!((blocks.len(), blocks[0] as usize * 32), (WINDOW_LEN / 32, slot));
    }
}
