//! Blocks by the text before them, to find one that begins as a sequence goes on.

use std::collections::HashMap;

use super::BlockHash;

const NONE: u32 = u32::MAX;

/// The tokens of a block, or of its beginning, and the text they follow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockText<'a> {
    /// The name of everything before.
    pub(crate) parent: BlockHash,
    /// At most as many as a block holds.
    pub(crate) tokens: &'a [u32],
    /// Whether they are computed in the expanded form of latent attention.
    pub(crate) expanded: bool,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    parent: BlockHash,
    /// Tokens whose contents are in the block; 0 where it is not listed.
    n_tokens: usize,
    expanded: bool,
    /// Others with the same parent.
    previous: u32,
    next: u32,
}

/// Lists of blocks with the same text before them. Everything is allocated when it is made.
#[derive(Debug)]
pub(super) struct Siblings {
    block_len: usize,
    first: HashMap<BlockHash, u32>,
    entries: Vec<Entry>,
    /// `[n_blocks, block_len]`
    tokens: Vec<u32>,
}

impl Siblings {
    pub(super) fn new(n_blocks: usize, block_len: usize) -> Self {
        let entry = Entry { parent: [0; 32], n_tokens: 0, expanded: false, previous: NONE, next: NONE };
        Self {
            block_len,
            first: HashMap::with_capacity(n_blocks.saturating_mul(2)),
            entries: vec![entry; n_blocks],
            tokens: vec![0; n_blocks.saturating_mul(block_len)],
        }
    }

    /// Whether a block is listed.
    pub(super) fn lists(&self, id: u32) -> bool {
        self.entries[id as usize].n_tokens > 0
    }

    /// Lists a block that holds what is computed of `text`.
    pub(super) fn list(&mut self, id: u32, text: &BlockText<'_>) {
        self.unlist(id);
        let n_tokens = text.tokens.len().min(self.block_len);
        if n_tokens == 0 {
            return;
        }
        let next = self.first.insert(text.parent, id).unwrap_or(NONE);
        if next != NONE {
            self.entries[next as usize].previous = id;
        }
        let (parent, expanded) = (text.parent, text.expanded);
        self.entries[id as usize] = Entry { parent, n_tokens, expanded, previous: NONE, next };
        let start = id as usize * self.block_len;
        self.tokens[start..start + n_tokens].copy_from_slice(&text.tokens[..n_tokens]);
    }

    pub(super) fn unlist(&mut self, id: u32) {
        let Entry { parent, n_tokens, previous, next, .. } = self.entries[id as usize];
        if n_tokens == 0 {
            return;
        }
        if next != NONE {
            self.entries[next as usize].previous = previous;
        }
        match (previous, next) {
            (NONE, NONE) => drop(self.first.remove(&parent)),
            (NONE, next) => drop(self.first.insert(parent, next)),
            (previous, next) => self.entries[previous as usize].next = next,
        }
        self.entries[id as usize].n_tokens = 0;
    }

    pub(super) fn clear(&mut self) {
        self.first.clear();
        self.entries.iter_mut().for_each(|entry| entry.n_tokens = 0);
    }

    /// The block that has most tokens in common with the beginning of `text`, and how many.
    pub(super) fn longest(&self, text: &BlockText<'_>) -> Option<(u32, usize)> {
        let mut best = None;
        let mut id = self.first.get(&text.parent).copied().unwrap_or(NONE);
        while id != NONE {
            let entry = &self.entries[id as usize];
            let tokens = &self.tokens[id as usize * self.block_len..][..entry.n_tokens];
            let same = tokens.iter().zip(text.tokens).take_while(|(a, b)| a == b).count();
            if entry.expanded == text.expanded && same > best.map_or(0, |(_, n)| n) {
                best = Some((id, same));
            }
            id = entry.next;
        }
        best
    }
}
