//! Blocks with reference counts, and the prefix cache over the ones that nobody holds.
//!
//! A block that is let go keeps its contents and its name until the space is needed. So the cache is whatever memory is
//! free at the moment, and never costs anyone a block. Where several tenants have contents in it, those with more than
//! an equal share make room first, so that none can push out what is the others'; of a tenant's contents, and of those
//! of all who have as much, what has been unused longest goes first.
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
    /// Neighbours in its list of free blocks, oldest first; [`NONE`] at the ends and for blocks in use.
    before: u32,
    after: u32,
    /// Whose contents it has.
    tenant: u64,
    /// When it was let go, as a number that the pool counts up.
    let_go: u64,
    /// Whether it is in the list of its tenant, not in that of the blocks without contents.
    listed: bool,
    /// The name of the contents, once the block is full and its contents are computed.
    hash: Option<BlockHash>,
}

/// All blocks of a KV cache.
#[derive(Debug)]
pub(crate) struct BlockPool {
    blocks: Vec<Block>,
    /// Free blocks without contents.
    blank: FreeList,
    /// Free blocks with contents, of each tenant that has some.
    tenants: Vec<FreeList>,
    n_let_go: u64,
    n_free: usize,
    /// Free blocks that can be found.
    n_cached: usize,
    by_hash: HashMap<BlockHash, u32>,
    siblings: Siblings,
}

/// Free blocks, linked through [`Block::before`] and [`Block::after`].
#[derive(Debug, Clone, Copy)]
struct FreeList {
    tenant: u64,
    oldest: u32,
    newest: u32,
    len: usize,
}

impl FreeList {
    const fn new(tenant: u64) -> Self {
        Self { tenant, oldest: NONE, newest: NONE, len: 0 }
    }
}

impl BlockPool {
    pub(crate) fn new(n_blocks: usize, block_len: usize) -> Self {
        let block = Block {
            ref_count: 0,
            before: NONE,
            after: NONE,
            tenant: 0,
            let_go: 0,
            listed: false,
            hash: None,
        };
        let mut pool = Self {
            blocks: vec![block; n_blocks],
            blank: FreeList::new(0),
            tenants: Vec::new(),
            n_let_go: 0,
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

    /// Takes a block with one reference and no contents for a tenant; `None` when every block is in use.
    pub(crate) fn allocate(&mut self, tenant: u64) -> Option<u32> {
        let id = match self.blank.oldest {
            NONE => self.least_missed(tenant)?,
            id => id,
        };
        self.unlink(id);
        self.forget(id);
        let block = &mut self.blocks[id as usize];
        block.ref_count = 1;
        block.tenant = tenant;
        Some(id)
    }

    /// The free block with contents that makes room for a tenant's new ones.
    fn least_missed(&self, tenant: u64) -> Option<u32> {
        let n: usize = self.tenants.iter().map(|list| list.len).sum();
        // Whether it is more than an equal share, without a division that rounds.
        let rich = |list: &&FreeList| list.len * self.tenants.len() > n;
        let own = self.tenants.iter().find(|list| list.tenant == tenant);
        let let_go = |list: &&FreeList| self.blocks[list.oldest as usize].let_go;
        let list = own
            .filter(rich)
            .or_else(|| self.tenants.iter().filter(rich).min_by_key(let_go))
            .or(own)
            .or_else(|| self.tenants.iter().min_by_key(let_go))?;
        Some(list.oldest)
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
            self.push_newest(id);
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
        for block in &mut self.blocks {
            block.hash = None;
        }
        while let Some(list) = self.tenants.first() {
            let id = list.oldest;
            self.unlink(id);
            self.push_newest(id);
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

    /// Puts a free block at the end of its list.
    fn push_newest(&mut self, id: u32) {
        self.n_let_go += 1;
        let listed = self.is_cached(id);
        let Block { tenant, .. } = self.blocks[id as usize];
        let list = self.list_of(tenant, listed);
        let before = std::mem::replace(&mut list.newest, id);
        list.len += 1;
        if before == NONE {
            list.oldest = id;
        } else {
            self.blocks[before as usize].after = id;
        }
        let block = &mut self.blocks[id as usize];
        (block.before, block.after, block.let_go, block.listed) = (before, NONE, self.n_let_go, listed);
        self.n_free += 1;
        self.n_cached += usize::from(listed);
    }

    fn unlink(&mut self, id: u32) {
        let Block { before, after, tenant, listed, .. } = self.blocks[id as usize];
        let list = self.list_of(tenant, listed);
        list.len -= 1;
        if before == NONE {
            list.oldest = after;
        }
        if after == NONE {
            list.newest = before;
        }
        if list.len == 0 && listed {
            self.tenants.retain(|list| list.len > 0);
        }
        if before != NONE {
            self.blocks[before as usize].after = after;
        }
        if after != NONE {
            self.blocks[after as usize].before = before;
        }
        let block = &mut self.blocks[id as usize];
        (block.before, block.after) = (NONE, NONE);
        self.n_free -= 1;
        self.n_cached -= usize::from(listed);
    }

    /// The list of a tenant's free blocks with contents, or of all blocks without.
    fn list_of(&mut self, tenant: u64, listed: bool) -> &mut FreeList {
        if !listed {
            return &mut self.blank;
        }
        let index = match self.tenants.iter().position(|list| list.tenant == tenant) {
            Some(index) => index,
            None => {
                self.tenants.push(FreeList::new(tenant));
                self.tenants.len() - 1
            }
        };
        &mut self.tenants[index]
    }
}
