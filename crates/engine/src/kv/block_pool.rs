//! Blocks with reference counts, and the prefix cache over the ones that nobody holds.
//!
//! A block that is let go keeps its contents and its name until the space is needed; the one that has been unused
//! longest goes first. So the cache is whatever memory is free at the moment, and never costs anyone a block.
//!
//! Whoever holds a named block holds the named blocks of the text before it too, and lets them go after it. So the
//! end of a text is always older than its beginning and goes first: no text is cut at its root.

use std::collections::HashMap;

use super::BlockHash;
use super::siblings::{BlockText, Siblings};

const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Block {
    ref_count: u32,
    /// Neighbours in the list of free blocks, oldest first; [`NONE`] at the ends and for blocks in use.
    before: u32,
    after: u32,
    /// The name of the contents, once the block is full and its contents are computed.
    hash: Option<BlockHash>,
}

/// All blocks of a KV cache.
#[derive(Debug)]
pub(crate) struct BlockPool {
    blocks: Vec<Block>,
    /// Ends of the list of free blocks.
    oldest: u32,
    newest: u32,
    n_free: usize,
    /// Free blocks that can be found.
    n_cached: usize,
    by_hash: HashMap<BlockHash, u32>,
    siblings: Siblings,
}

impl BlockPool {
    pub(crate) fn new(n_blocks: usize, block_len: usize) -> Self {
        let block = Block { ref_count: 0, before: NONE, after: NONE, hash: None };
        let mut pool = Self {
            blocks: vec![block; n_blocks],
            oldest: NONE,
            newest: NONE,
            n_free: 0,
            n_cached: 0,
            // Twice the room, so that the table never grows or rehashes to another size later.
            by_hash: HashMap::with_capacity(n_blocks.saturating_mul(2)),
            siblings: Siblings::new(n_blocks, block_len),
        };
        for id in 0..n_blocks as u32 {
            pool.push_newest(id);
        }
        pool
    }

    pub(crate) fn n_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that nobody holds, cached contents included.
    pub(crate) fn n_free(&self) -> usize {
        self.n_free
    }

    /// Free blocks whose contents can still be found.
    pub(crate) fn n_cached(&self) -> usize {
        self.n_cached
    }

    /// Takes a block with one reference and no contents; `None` when every block is in use.
    pub(crate) fn allocate(&mut self) -> Option<u32> {
        let id = self.oldest;
        if id == NONE {
            return None;
        }
        self.unlink(id);
        self.forget(id);
        self.blocks[id as usize].ref_count = 1;
        Some(id)
    }

    /// Takes one more reference to the block with these contents, if there is one.
    pub(crate) fn find(&mut self, hash: &BlockHash) -> Option<u32> {
        let id = *self.by_hash.get(hash)?;
        self.retain(id);
        Some(id)
    }

    /// The block, held or not, whose contents begin as `text` does for longest, and for how many tokens.
    pub(crate) fn find_beginning(&self, text: &BlockText<'_>) -> Option<(u32, usize)> {
        self.siblings.longest(text)
    }

    /// The name of a block's contents.
    pub(crate) fn name_of(&self, id: u32) -> Option<BlockHash> {
        self.blocks[id as usize].hash
    }

    /// Whether someone holds a block with these contents.
    pub(crate) fn is_held(&self, hash: &BlockHash) -> bool {
        self.by_hash.get(hash).is_some_and(|&id| self.blocks[id as usize].ref_count > 0)
    }

    /// Takes one more reference.
    pub(crate) fn retain(&mut self, id: u32) {
        if self.blocks[id as usize].ref_count == 0 {
            self.unlink(id);
        }
        self.blocks[id as usize].ref_count += 1;
    }

    /// Lets one reference go.
    pub(crate) fn release(&mut self, id: u32) {
        let block = &mut self.blocks[id as usize];
        debug_assert!(block.ref_count > 0, "block {id} is released once too often");
        block.ref_count -= 1;
        if block.ref_count == 0 {
            if self.is_cached(id) {
                self.push_newest(id);
            } else {
                self.push_oldest(id);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn has(&self, hash: &BlockHash) -> bool {
        self.by_hash.contains_key(hash)
    }

    #[cfg(test)]
    pub(crate) fn ref_count(&self, id: u32) -> u32 {
        self.blocks[id as usize].ref_count
    }

    /// Names the contents of a block in use and returns the block that has the name then: where another one has the
    /// same contents already, that one keeps it and this one remains nameless.
    pub(crate) fn name(&mut self, id: u32, hash: BlockHash) -> u32 {
        if self.blocks[id as usize].hash.is_some() {
            return id;
        }
        let named = *self.by_hash.entry(hash).or_insert(id);
        if named == id {
            self.blocks[id as usize].hash = Some(hash);
        }
        named
    }

    /// Lets the contents of a block in use, full or not, be found by their beginning.
    pub(crate) fn list(&mut self, id: u32, text: &BlockText<'_>) {
        self.siblings.list(id, text);
    }

    /// Forgets all contents, so that nothing computed before is used again.
    pub(crate) fn forget_all(&mut self) {
        self.by_hash.clear();
        self.siblings.clear();
        self.n_cached = 0;
        for block in &mut self.blocks {
            block.hash = None;
        }
    }

    fn forget(&mut self, id: u32) {
        if let Some(hash) = self.blocks[id as usize].hash.take() {
            self.by_hash.remove(&hash);
        }
        self.siblings.unlist(id);
    }

    fn is_cached(&self, id: u32) -> bool {
        self.blocks[id as usize].hash.is_some() || self.siblings.lists(id)
    }

    fn push_newest(&mut self, id: u32) {
        let before = std::mem::replace(&mut self.newest, id);
        self.blocks[id as usize].before = before;
        self.blocks[id as usize].after = NONE;
        match before {
            NONE => self.oldest = id,
            _ => self.blocks[before as usize].after = id,
        }
        self.n_free += 1;
        self.n_cached += usize::from(self.is_cached(id));
    }

    fn push_oldest(&mut self, id: u32) {
        let after = std::mem::replace(&mut self.oldest, id);
        self.blocks[id as usize].before = NONE;
        self.blocks[id as usize].after = after;
        match after {
            NONE => self.newest = id,
            _ => self.blocks[after as usize].before = id,
        }
        self.n_free += 1;
        self.n_cached += usize::from(self.is_cached(id));
    }

    fn unlink(&mut self, id: u32) {
        let Block { before, after, .. } = self.blocks[id as usize];
        match before {
            NONE => self.oldest = after,
            _ => self.blocks[before as usize].after = after,
        }
        match after {
            NONE => self.newest = before,
            _ => self.blocks[after as usize].before = before,
        }
        self.blocks[id as usize].before = NONE;
        self.blocks[id as usize].after = NONE;
        self.n_free -= 1;
        self.n_cached -= usize::from(self.is_cached(id));
    }
}
