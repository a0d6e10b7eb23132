//! One stream of tokens that is being grown.

use std::ops::Range;

use crate::kv::{BlockHash, BlockText, PrefixHasher};
use crate::spec::Drafts;

/// Index of a sequence in the scheduler.
pub(crate) type SequenceId = usize;
/// Index of a request in progress.
pub(crate) type JobId = usize;

/// Where a sequence stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SequenceStatus {
    /// An answer that begins when its request's first answer has computed the prompt they share.
    Held,
    /// In a queue, without blocks. One that was preempted is here again.
    Waiting,
    /// Takes part in steps.
    Running,
}

/// One stream of tokens with its place in the KV cache.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) job: JobId,
    /// Which of the request's answers it is.
    pub(crate) answer: u32,
    pub(crate) tenant: u64,
    pub(crate) status: SequenceStatus,
    /// When it came, as a number that the scheduler counts up. The youngest make room where there is none.
    pub(crate) age: u64,
    /// Prompt and answer. Room for the longest answer is reserved when it is made.
    pub(crate) tokens: Vec<u32>,
    pub(crate) prompt_len: usize,
    /// Tokens it may grow to.
    pub(crate) len_max: usize,
    /// Tokens whose keys and values are in the cache. It chases `tokens.len()`.
    pub(crate) num_computed: usize,
    /// Block table: block i holds positions `i * block_len ..`.
    pub(crate) blocks: Vec<u32>,
    /// Blocks that are still to come from the disk; meanwhile nothing of it is computed.
    pub(crate) reading: usize,
    /// Whether it sits out steps because its constraint is still being asked what may come next. Its last token is to
    /// be computed once more then.
    pub(crate) parked: bool,
    /// Whether its blocks may come from the prefix cache.
    pub(crate) may_reuse: bool,
    /// Tokens of the prompt that came from the prefix cache.
    pub(crate) cached_tokens: usize,
    /// From then on it takes its own text from the cache too, which is nobody's merit.
    pub(crate) was_preempted: bool,
    /// Where it may be speculated on.
    pub(crate) drafts: Option<Box<Drafts>>,
    /// Positions that are computed in the expanded form of latent attention, whole blocks. They depend on the prompt
    /// alone, so that it does not matter how it was cut into steps.
    pub(crate) expanded: Range<usize>,
    chain: HashChain,
}

impl Sequence {
    /// A sequence that may grow to `len_max` tokens.
    pub(crate) fn new(
        job: JobId,
        answer: u32,
        tenant: u64,
        prompt: &[u32],
        len_max: usize,
        block_len: usize,
    ) -> Self {
        let mut tokens = Vec::with_capacity(len_max.max(prompt.len()));
        tokens.extend_from_slice(prompt);
        let blocks_max = len_max.max(prompt.len()).div_ceil(block_len);
        let mut chain = HashChain::new(tenant, blocks_max);
        chain.extend(&tokens, block_len, &(0..0));
        Self {
            job,
            answer,
            tenant,
            status: SequenceStatus::Waiting,
            age: 0,
            prompt_len: prompt.len(),
            len_max,
            tokens,
            num_computed: 0,
            blocks: Vec::with_capacity(blocks_max),
            reading: 0,
            parked: false,
            may_reuse: true,
            cached_tokens: 0,
            was_preempted: false,
            expanded: 0..0,
            drafts: None,
            chain,
        }
    }

    /// Computes whole blocks of its prompt from position `from` on in the expanded form.
    pub(crate) fn expand_prompt(&mut self, from: usize, block_len: usize) {
        let expanded = from.next_multiple_of(block_len)..self.prompt_len / block_len * block_len;
        if !expanded.is_empty() {
            self.expanded = expanded;
            self.chain = HashChain::new(self.tenant, self.chain.hashes.capacity());
            self.chain.extend(&self.tokens, block_len, &self.expanded);
        }
    }

    pub(crate) fn prompt(&self) -> &[u32] {
        &self.tokens[..self.prompt_len]
    }

    pub(crate) fn generated(&self) -> &[u32] {
        &self.tokens[self.prompt_len..]
    }

    /// Tokens that are not in the cache yet.
    pub(crate) fn remaining(&self) -> usize {
        self.tokens.len() - self.num_computed
    }

    /// Adds a generated token.
    pub(crate) fn push(&mut self, token: u32, block_len: usize) {
        self.tokens.push(token);
        self.chain.extend(&self.tokens, block_len, &self.expanded);
    }

    /// Tokens drafted for the step that is being made.
    pub(crate) fn drafted(&self) -> &[u32] {
        self.drafts.as_ref().map_or(&[], |drafts| &drafts.tokens)
    }

    /// Hashes of its full blocks, first to last.
    pub(crate) fn hashes(&self) -> &[BlockHash] {
        &self.chain.hashes
    }

    /// The tokens in block `index` of the first `len` tokens, and what is before them; `None` if there is no such
    /// block.
    pub(crate) fn block_text(&self, index: usize, len: usize, block_len: usize) -> Option<BlockText<'_>> {
        let start = index * block_len;
        let end = len.min(start + block_len).min(self.tokens.len());
        let parent = match index.checked_sub(1) {
            None => self.chain.root,
            Some(before) => *self.chain.hashes.get(before)?,
        };
        let expanded = self.expanded.contains(&start);
        Some(BlockText { parent, tokens: self.tokens.get(start..end)?, expanded })
    }
}

/// Hashes of the full blocks of a growing list of tokens.
#[derive(Debug)]
struct HashChain {
    root: BlockHash,
    hasher: PrefixHasher,
    hashes: Vec<BlockHash>,
}

impl HashChain {
    fn new(tenant: u64, blocks_max: usize) -> Self {
        let hasher = PrefixHasher::new(tenant);
        Self { root: hasher.hash(), hasher, hashes: Vec::with_capacity(blocks_max) }
    }

    fn extend(&mut self, tokens: &[u32], block_len: usize, expanded: &Range<usize>) {
        while (self.hashes.len() + 1) * block_len <= tokens.len() {
            let start = self.hashes.len() * block_len;
            self.hasher = self.hasher.next(&tokens[start..start + block_len], expanded.contains(&start));
            self.hashes.push(self.hasher.hash());
        }
    }
}

/// Positions of one sequence that a step computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) sequence: SequenceId,
    pub(crate) positions: Range<usize>,
    /// Drafted tokens behind them that the step verifies.
    pub(crate) drafted: usize,
}

impl Chunk {
    /// Rows of the step.
    pub(crate) fn rows(&self) -> usize {
        self.positions.len() + self.drafted
    }
}
