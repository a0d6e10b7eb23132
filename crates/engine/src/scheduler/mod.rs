//! What each step computes.
//!
//! There are no phases: every sequence has tokens, some of which are computed, and each step moves the second number
//! towards the first under one budget of rows. Rows that let an answer grow come first; what the budget leaves goes
//! to prompts, in shares. A sequence that needs a block when there is none sends the one that was admitted last back
//! into the queue; what it had is computed again later, with the same result.

mod queue;

use std::ops::Range;

use crate::kv::BlockPool;
use crate::sequence::{Chunk, Sequence, SequenceId, SequenceStatus};
use queue::TenantQueues;

/// Rows that one step may compute.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepBudget {
    /// All rows together.
    pub(crate) rows: usize,
    /// Rows of prompts in a step in which answers grow: it bounds the time between two of their tokens.
    pub(crate) prompt_rows_beside_answers: usize,
    /// Rows of prompts in a step without answers: it bounds the time until something new is noticed.
    pub(crate) prompt_rows_alone: usize,
}

/// All sequences, and the blocks they hold.
#[derive(Debug)]
pub(crate) struct Scheduler {
    sequences: Vec<Option<Sequence>>,
    vacant: Vec<SequenceId>,
    queues: TenantQueues,
    /// Sequences that take part, in order of admission.
    running: Vec<SequenceId>,
    /// Sequences in this step that have more than one row to compute.
    growing: Vec<SequenceId>,
    /// Who of those gets the first share of the next step.
    rotation: usize,
    pool: BlockPool,
    block_len: usize,
    max_num_seqs: usize,
    reuse_prefixes: bool,
    preemptions: u64,
    cached_tokens: u64,
}

impl Scheduler {
    pub(crate) fn new(n_blocks: usize, block_len: usize, max_num_seqs: usize, reuse_prefixes: bool) -> Self {
        Self {
            sequences: Vec::new(),
            vacant: Vec::new(),
            queues: TenantQueues::default(),
            running: Vec::with_capacity(max_num_seqs),
            growing: Vec::with_capacity(max_num_seqs),
            rotation: 0,
            pool: BlockPool::new(n_blocks),
            block_len,
            max_num_seqs,
            reuse_prefixes,
            preemptions: 0,
            cached_tokens: 0,
        }
    }

    pub(crate) fn pool(&self) -> &BlockPool {
        &self.pool
    }

    pub(crate) fn n_running(&self) -> usize {
        self.running.len()
    }

    /// Calls `f` for each sequence that takes part.
    pub(crate) fn for_each_running(&mut self, mut f: impl FnMut(&mut Sequence)) {
        for &id in &self.running {
            if let Some(sequence) = self.sequences.get_mut(id).and_then(Option::as_mut) {
                f(sequence);
            }
        }
    }

    /// Calls `f` with the number of each sequence that takes part.
    pub(crate) fn for_each_running_id(&self, f: impl FnMut(SequenceId)) {
        self.running.iter().copied().for_each(f);
    }

    pub(crate) fn n_waiting(&self) -> usize {
        self.queues.len()
    }

    /// Tokens that were taken from the prefix cache so far.
    pub(crate) fn cached_tokens(&self) -> u64 {
        self.cached_tokens
    }

    pub(crate) fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// Takes a sequence in: into the queue, or aside if it is [`SequenceStatus::Held`].
    pub(crate) fn add(&mut self, mut sequence: Sequence) -> SequenceId {
        sequence.may_reuse &= self.reuse_prefixes;
        let (tenant, status) = (sequence.tenant, sequence.status);
        let id = match self.vacant.pop() {
            Some(id) => {
                self.sequences[id] = Some(sequence);
                id
            }
            None => {
                self.sequences.push(Some(sequence));
                self.sequences.len() - 1
            }
        };
        if status == SequenceStatus::Waiting {
            self.queues.push_back(tenant, id);
        }
        id
    }

    pub(crate) fn get(&self, id: SequenceId) -> Option<&Sequence> {
        self.sequences.get(id)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: SequenceId) -> Option<&mut Sequence> {
        self.sequences.get_mut(id)?.as_mut()
    }

    /// Takes a sequence out, whatever it is doing, and lets its blocks go.
    pub(crate) fn finish(&mut self, id: SequenceId) -> Option<Sequence> {
        let mut sequence = self.sequences.get_mut(id)?.take()?;
        match sequence.status {
            SequenceStatus::Running => self.running.retain(|&other| other != id),
            SequenceStatus::Waiting => self.queues.remove(sequence.tenant, id),
            SequenceStatus::Held => {}
        }
        release(&mut self.pool, &mut sequence);
        self.vacant.push(id);
        Some(sequence)
    }

    /// Lets a held sequence go on by sharing what `leader` has computed of their prompt.
    ///
    /// The prompt's full blocks are shared, and a last part of a block is copied by the caller. Where there is no
    /// room to run, the sequence joins the queue instead and `None` comes back.
    pub(crate) fn fork(&mut self, leader: SequenceId, held: SequenceId) -> Option<Fork> {
        let n_tokens = self.get(leader)?.prompt_len;
        let (shared, partial) = (n_tokens / self.block_len, n_tokens % self.block_len);
        let room = self.running.len() < self.max_num_seqs && (partial == 0 || self.pool.n_free() > 0);
        let sources: Vec<u32> = self.get(leader)?.blocks.iter().take(shared + 1).copied().collect();
        let sequence = self.sequences.get_mut(held)?.as_mut()?;
        if !room {
            sequence.status = SequenceStatus::Waiting;
            self.queues.push_front(sequence.tenant, held);
            return None;
        }
        for &block in &sources[..shared] {
            self.pool.retain(block);
            sequence.blocks.push(block);
        }
        let mut copy = None;
        if partial > 0 {
            let to = self.pool.allocate()?;
            sequence.blocks.push(to);
            copy = Some((sources[shared], to));
        }
        sequence.num_computed = n_tokens;
        sequence.status = SequenceStatus::Running;
        self.running.push(held);
        Some(Fork { copy })
    }

    /// Puts a held sequence into the queue, to compute its prompt itself.
    pub(crate) fn release_held(&mut self, id: SequenceId) {
        let Some(sequence) = self.sequences.get_mut(id).and_then(Option::as_mut) else { return };
        sequence.status = SequenceStatus::Waiting;
        self.queues.push_front(sequence.tenant, id);
    }

    /// Chooses what the next step computes and gives it blocks.
    pub(crate) fn schedule(&mut self, budget: StepBudget, chunks: &mut Vec<Chunk>) {
        chunks.clear();
        self.schedule_answers(budget.rows, chunks);
        self.admit();
        let beside = !chunks.is_empty();
        let rows = if beside { budget.prompt_rows_beside_answers } else { budget.prompt_rows_alone };
        let used: usize = chunks.iter().map(Chunk::rows).sum();
        let rows = rows.min(budget.rows.saturating_sub(used));
        self.schedule_prompts(rows, chunks);
        // Prompts may stand in each other's way when answers have taken the blocks they counted on.
        while chunks.is_empty() && self.running.len() > 1 {
            self.preempt_last();
            self.schedule_answers(budget.rows, chunks);
            self.schedule_prompts(rows, chunks);
        }
    }

    /// Notes that positions of a sequence are computed, and gives the blocks it filled their names.
    pub(crate) fn commit(&mut self, id: SequenceId, positions: Range<usize>) {
        let Some(sequence) = self.sequences.get_mut(id).and_then(Option::as_mut) else { return };
        let filled = positions.start / self.block_len..positions.end / self.block_len;
        sequence.num_computed = positions.end;
        if self.reuse_prefixes {
            for index in filled {
                self.pool.name(sequence.blocks[index], sequence.hashes()[index]);
            }
        }
    }

    /// Forgets all cached prefixes: after a failed step nothing in the cache is trusted.
    pub(crate) fn forget_prefixes(&mut self) {
        self.pool.forget_all();
    }

    /// One row for each running sequence that lacks just one, and rows for its drafted tokens where there is room.
    fn schedule_answers(&mut self, rows: usize, chunks: &mut Vec<Chunk>) {
        let (mut index, mut used) = (0, 0);
        while index < self.running.len() && used < rows {
            let id = self.running[index];
            let Some((computed, len)) = self.get(id).map(|s| (s.num_computed, s.tokens.len())) else { break };
            if len - computed == 1 {
                let mut ready = self.reserve(id, len) == len;
                while !ready && self.preempt_last() != Some(id) {
                    ready = self.reserve(id, len) == len;
                }
                if !ready {
                    // It was the last one itself and is back in the queue.
                    break;
                }
                // Drafts take only what nobody else needs.
                let others = self.running.len() - index - 1;
                let room = rows.saturating_sub(used + 1 + others);
                let drafted = self.get(id).map_or(0, |s| s.drafted().len()).min(room);
                let drafted = self.reserve(id, len + drafted) - len;
                used += 1 + drafted;
                chunks.push(Chunk { sequence: id, positions: computed..len, drafted, ahead: 0 });
            }
            index += 1;
        }
    }

    /// Lets waiting sequences in while there is room for all they have to compute.
    fn admit(&mut self) {
        while self.running.len() < self.max_num_seqs {
            let Some(id) = self.queues.peek() else { break };
            if !self.running.is_empty() && !self.fits(id) {
                break;
            }
            self.queues.pop();
            self.running.push(id);
            self.take_cached(id);
            if let Some(sequence) = self.get_mut(id) {
                sequence.status = SequenceStatus::Running;
            }
        }
    }

    /// Shares `rows` among the sequences that have several rows to compute.
    fn schedule_prompts(&mut self, rows: usize, chunks: &mut Vec<Chunk>) {
        let mut growing = std::mem::take(&mut self.growing);
        growing.clear();
        let scheduled = |id| chunks.iter().any(|chunk: &Chunk| chunk.sequence == id);
        growing.extend(self.running.iter().copied().filter(|&id| !scheduled(id)));
        let n = growing.len();
        let mut rows_left = rows;
        for turn in 0..n {
            if rows_left == 0 {
                break;
            }
            let id = growing[(turn + self.rotation) % n];
            self.take_cached(id);
            let Some((computed, len)) = self.get(id).map(|s| (s.num_computed, s.tokens.len())) else {
                continue;
            };
            let share = (rows_left / (n - turn)).max(1);
            let end = self.reserve(id, len.min(computed + share));
            if end > computed {
                rows_left -= end - computed;
                chunks.push(Chunk { sequence: id, positions: computed..end, drafted: 0, ahead: 0 });
            }
        }
        self.rotation = if n == 0 { 0 } else { (self.rotation + 1) % n };
        self.growing = growing;
    }

    /// Gives a sequence blocks for `len` tokens and returns for how many it has blocks then, at most `len`.
    pub(crate) fn reserve(&mut self, id: SequenceId, len: usize) -> usize {
        let Some(sequence) = self.sequences.get_mut(id).and_then(Option::as_mut) else { return 0 };
        while sequence.blocks.len() * self.block_len < len {
            match self.pool.allocate() {
                Some(block) => sequence.blocks.push(block),
                None => break,
            }
        }
        len.min(sequence.blocks.len() * self.block_len)
    }

    /// Moves a sequence on over blocks that are cached, from where it stands if that is the start of a block.
    ///
    /// The last token is always computed: its logits are what comes next.
    fn take_cached(&mut self, id: SequenceId) {
        let Some(sequence) = self.sequences.get_mut(id).and_then(Option::as_mut) else { return };
        if !sequence.may_reuse || sequence.num_computed != sequence.blocks.len() * self.block_len {
            return;
        }
        while sequence.num_computed + self.block_len < sequence.tokens.len() {
            let Some(block) = self.pool.find(&sequence.hashes()[sequence.blocks.len()]) else { break };
            sequence.blocks.push(block);
            sequence.num_computed += self.block_len;
            self.cached_tokens += self.block_len as u64;
            if !sequence.was_preempted {
                sequence.cached_tokens += self.block_len;
            }
        }
    }

    /// Whether a waiting sequence can compute all its tokens in the blocks that are free and not spoken for, with
    /// one left over for each sequence that runs.
    fn fits(&self, id: SequenceId) -> bool {
        let Some(sequence) = self.get(id) else { return true };
        let spoken_for: usize =
            self.running.iter().filter_map(|&id| self.get(id)).map(|s| self.lacking(s)).sum();
        // Blocks that others hold anyway cost nothing; cached ones that nobody holds cost a free block.
        let mut shared = 0;
        if sequence.may_reuse {
            shared = sequence.hashes().iter().take_while(|hash| self.pool.is_held(hash)).count();
        }
        self.lacking(sequence).saturating_sub(shared) + spoken_for + self.running.len() <= self.pool.n_free()
    }

    /// Blocks that a sequence needs for the tokens it has and does not hold.
    fn lacking(&self, sequence: &Sequence) -> usize {
        (sequence.tokens.len().div_ceil(self.block_len)).saturating_sub(sequence.blocks.len())
    }

    /// Sends the sequence that was admitted last back into the queue and says which one it was.
    fn preempt_last(&mut self) -> Option<SequenceId> {
        let id = self.running.pop()?;
        let sequence = self.sequences.get_mut(id)?.as_mut()?;
        release(&mut self.pool, sequence);
        sequence.num_computed = 0;
        sequence.was_preempted = true;
        sequence.status = SequenceStatus::Waiting;
        self.queues.push_front(sequence.tenant, id);
        self.preemptions += 1;
        Some(id)
    }
}

/// What the caller of [`Scheduler::fork`] has to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fork {
    /// Copy this block's contents to that one.
    pub(crate) copy: Option<(u32, u32)>,
}

/// Lets a sequence's blocks go, last first, so that the beginning of its text stays cached longest.
fn release(pool: &mut BlockPool, sequence: &mut Sequence) {
    while let Some(block) = sequence.blocks.pop() {
        pool.release(block);
    }
}

#[cfg(test)]
mod tests;
