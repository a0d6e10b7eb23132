//! What each step computes.
//!
//! There are no phases: every sequence has tokens, some of which are computed, and each step moves the second number
//! towards the first under one budget of rows. Rows that let an answer grow come first; what the budget leaves goes
//! to prompts, in equal shares for tenants and, within one, for sequences. A sequence that needs a block when there is
//! none sends the youngest one back into the queue; what it had is computed again later, with the same result. The
//! oldest one always goes on, so that all come to their end.

mod from_disk;
mod queue;

use std::ops::Range;

use crate::disk::DiskIndex;
use crate::kv::BlockPool;
use crate::sequence::{Chunk, Sequence, SequenceId, SequenceStatus};
pub(crate) use from_disk::{LetGo, Wanted};
use queue::TenantQueues;

/// Rows of a step, and the positions before each of them, added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StepShape {
    pub(crate) rows: usize,
    pub(crate) positions: usize,
}

impl StepShape {
    pub(crate) fn of(chunks: &[Chunk]) -> Self {
        chunks.iter().fold(Self::default(), |shape, chunk| {
            let rows = chunk.rows();
            let positions = rows * chunk.positions.start + rows * rows / 2;
            Self { rows: shape.rows + rows, positions: shape.positions + positions }
        })
    }
}

/// How many rows one step may compute.
pub(crate) trait Budget {
    /// All rows together.
    fn rows(&self) -> usize;

    /// Rows of prompts beside those of answers, where `deepest` positions at most are before them: it bounds the time
    /// between two of the answers' tokens, and the time until something new is noticed.
    fn prompt_rows(&self, answers: StepShape, deepest: usize) -> usize;
}

/// Fewer tokens of a block than this are computed rather than copied from another block.
const SHARED_TOKENS_MIN: usize = 4;

/// All sequences, and the blocks they hold.
#[derive(Debug)]
pub(crate) struct Scheduler {
    sequences: Vec<Option<Sequence>>,
    vacant: Vec<SequenceId>,
    queues: TenantQueues,
    /// Sequences that take part, oldest first.
    running: Vec<SequenceId>,
    /// Sequences in this step that have more than one row to compute, and their parts of the rows.
    growing: Vec<(SequenceId, f64)>,
    /// Blocks to be copied before the next step, from and to.
    copies: Vec<(u32, u32)>,
    /// How many sequences have come.
    n_added: u64,
    /// Who of those gets the first share of the next step.
    rotation: usize,
    pool: BlockPool,
    block_len: usize,
    max_num_seqs: usize,
    reuse_prefixes: bool,
    /// Which blocks are on the disk, where some are kept there.
    disk: Option<DiskIndex>,
    /// Seconds for computing a block, if known.
    block_seconds: Option<f64>,
    wanted: Vec<Wanted>,
    let_go: Vec<LetGo>,
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
            copies: Vec::with_capacity(max_num_seqs),
            n_added: 0,
            rotation: 0,
            pool: BlockPool::new(n_blocks, block_len),
            block_len,
            max_num_seqs,
            reuse_prefixes,
            disk: None,
            block_seconds: None,
            wanted: Vec::new(),
            let_go: Vec::new(),
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
        sequence.age = self.n_added;
        self.n_added += 1;
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
        self.release(&mut sequence);
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
            let to = self.pool.allocate(sequence.tenant)?;
            sequence.blocks.push(to);
            copy = Some((sources[shared], to));
        }
        sequence.num_computed = n_tokens;
        sequence.status = SequenceStatus::Running;
        self.enlist(held);
        Some(Fork { copy })
    }

    /// Puts a held sequence into the queue, to compute its prompt itself.
    pub(crate) fn release_held(&mut self, id: SequenceId) {
        let Some(sequence) = self.sequences.get_mut(id).and_then(Option::as_mut) else { return };
        sequence.status = SequenceStatus::Waiting;
        self.queues.push_front(sequence.tenant, id);
    }

    /// Chooses what the next step computes and gives it blocks.
    pub(crate) fn schedule(&mut self, budget: &impl Budget, chunks: &mut Vec<Chunk>) {
        chunks.clear();
        self.admit();
        self.schedule_answers(budget.rows(), chunks);
        self.schedule_prompts(budget, chunks);
        // Prompts may stand in each other's way when answers have taken the blocks they counted on.
        while chunks.is_empty() && self.running.len() > 1 && !self.waits() {
            self.preempt_last();
            self.schedule_answers(budget.rows(), chunks);
            self.schedule_prompts(budget, chunks);
        }
    }

    /// Whether a sequence that takes part waits for something from outside.
    pub(crate) fn waits(&self) -> bool {
        self.running_sequences().any(|sequence| sequence.reading > 0 || sequence.parked)
    }

    /// Lets a sequence sit out steps until [`Scheduler::unpark`]. Its last token is to be computed once more: nobody
    /// keeps logits.
    pub(crate) fn park(&mut self, id: SequenceId) {
        let Some(sequence) = self.get_mut(id) else { return };
        sequence.num_computed = sequence.num_computed.min(sequence.tokens.len() - 1);
        sequence.parked = true;
    }

    /// Lets the sequences go on that sat out steps and need not any more.
    pub(crate) fn unpark(&mut self, goes_on: impl Fn(&Sequence) -> bool) {
        for sequence in self.sequences.iter_mut().flatten() {
            sequence.parked = sequence.parked && !goes_on(sequence);
        }
    }

    /// Blocks whose contents are to be copied before the chosen rows are computed, from and to, in this order.
    pub(crate) fn take_copies(&mut self) -> impl Iterator<Item = (u32, u32)> {
        self.copies.drain(..)
    }

    /// Notes that positions of a sequence are computed, and gives the blocks it filled their names.
    ///
    /// Where another block has the same contents already, the sequence goes on with that one.
    pub(crate) fn commit(&mut self, id: SequenceId, positions: Range<usize>) {
        let Some(sequence) = self.sequences.get_mut(id).and_then(Option::as_mut) else { return };
        let filled = positions.start / self.block_len..positions.end / self.block_len;
        sequence.num_computed = positions.end;
        if !self.reuse_prefixes {
            return;
        }
        for index in filled {
            if !knows_before(&self.pool, sequence, index) {
                break;
            }
            let own = sequence.blocks[index];
            let named = self.pool.name(own, sequence.hashes()[index]);
            if named != own {
                self.pool.retain(named);
                self.pool.release(own);
                sequence.blocks[index] = named;
            } else if let Some(text) = sequence.block_text(index, positions.end, self.block_len) {
                self.pool.list(own, &text);
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
            let Some((computed, len, parked)) =
                self.get(id).map(|s| (s.num_computed, s.tokens.len(), s.parked))
            else {
                break;
            };
            if len - computed == 1 && !parked {
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
                chunks.push(Chunk { sequence: id, positions: computed..len, drafted });
            }
            index += 1;
        }
    }

    /// Lets waiting sequences in while there is room for all they have to compute.
    fn admit(&mut self) {
        while let Some((tenant, id)) = self.queues.peek(|tenant| self.n_running_of(tenant)) {
            if !self.has_room(id) && !self.make_room(tenant, id) {
                break;
            }
            self.queues.pop(tenant);
            self.enlist(id);
            self.take_cached(id);
            if let Some(sequence) = self.get_mut(id) {
                sequence.status = SequenceStatus::Running;
            }
        }
    }

    fn has_room(&self, id: SequenceId) -> bool {
        self.running.is_empty() || (self.running.len() < self.max_num_seqs && self.fits(id))
    }

    /// Sends the youngest sequences of tenants that have several back into the queue until there is room for one of a
    /// tenant that has none, and says whether there is. What they had computed stays cached while it can.
    fn make_room(&mut self, tenant: u64, id: SequenceId) -> bool {
        if self.n_running_of(tenant) > 0 {
            return false;
        }
        let lacking = self.get(id).map_or(0, |sequence| self.lacking(sequence));
        let movable = |s: &&Sequence| self.n_running_of(s.tenant) > 1;
        let held: usize = self.running_sequences().filter(movable).map(|s| s.blocks.len()).sum();
        if lacking + self.running.len() > self.pool.n_free() + held {
            return false;
        }
        while !self.has_room(id) {
            let youngest = self.running.iter().copied().max_by_key(|&id| {
                let tenant = self.get(id).map_or(0, |s| s.tenant);
                self.n_running_of(tenant)
            });
            let several = |id| self.get(id).is_some_and(|s| self.n_running_of(s.tenant) > 1);
            let Some(youngest) = youngest.filter(|&id| several(id)) else { return false };
            self.running.retain(|&other| other != youngest);
            self.send_back(youngest);
        }
        true
    }

    fn running_sequences(&self) -> impl Iterator<Item = &Sequence> {
        self.running.iter().filter_map(|&id| self.get(id))
    }

    fn n_running_of(&self, tenant: u64) -> usize {
        self.running_sequences().filter(|sequence| sequence.tenant == tenant).count()
    }

    /// Puts a sequence among those that take part, by its age.
    fn enlist(&mut self, id: SequenceId) {
        let age = |id: SequenceId| self.get(id).map_or(u64::MAX, |sequence| sequence.age);
        let place = self.running.partition_point(|&other| age(other) < age(id));
        self.running.insert(place, id);
    }

    /// Shares what the budget leaves among the sequences that have several rows to compute.
    fn schedule_prompts(&mut self, budget: &impl Budget, chunks: &mut Vec<Chunk>) {
        let mut growing = std::mem::take(&mut self.growing);
        self.list_growing(chunks, &mut growing);
        let mut deepest = 0;
        for &(id, _) in &growing {
            self.take_cached(id);
            deepest = deepest.max(self.get(id).map_or(0, |sequence| sequence.num_computed));
        }
        let n = growing.len();
        if n > 0 {
            let answers = StepShape::of(chunks);
            let rows = budget.prompt_rows(answers, deepest);
            let mut rows_left = rows.min(budget.rows().saturating_sub(answers.rows));
            let mut parts_left: f64 = growing.iter().map(|&(_, part)| part).sum();
            for turn in 0..n {
                let (id, part) = growing[(turn + self.rotation) % n];
                // Half a row more, so that shares which are whole numbers but for rounding stay whole.
                let share = (rows_left as f64 * part / parts_left + 0.5) as usize;
                parts_left -= part;
                rows_left -= self.schedule_prompt(id, share.max(1).min(rows_left), chunks);
            }
        }
        self.rotation = if n == 0 { 0 } else { (self.rotation + 1) % n };
        self.growing = growing;
    }

    /// Gives a sequence at most so many rows, and says how many it got.
    fn schedule_prompt(&mut self, id: SequenceId, rows: usize, chunks: &mut Vec<Chunk>) -> usize {
        // One that has just begun to wait for the disk gets none.
        let Some(sequence) = self.get(id).filter(|sequence| sequence.reading == 0) else { return 0 };
        let (computed, len) = (sequence.num_computed, sequence.tokens.len());
        let end = self.reserve(id, len.min(computed + rows));
        if end <= computed {
            return 0;
        }
        chunks.push(Chunk { sequence: id, positions: computed..end, drafted: 0 });
        end - computed
    }

    /// Lists the sequences that no chunk belongs to, with their parts: each tenant has one in all.
    fn list_growing(&self, chunks: &[Chunk], growing: &mut Vec<(SequenceId, f64)>) {
        growing.clear();
        let scheduled = |id| chunks.iter().any(|chunk: &Chunk| chunk.sequence == id);
        let waits = |id| self.get(id).is_some_and(|sequence| sequence.reading > 0 || sequence.parked);
        let idle = self.running.iter().filter(|&&id| !scheduled(id) && !waits(id));
        growing.extend(idle.map(|&id| (id, 0.0)));
        let tenant = |id| self.get(id).map_or(0, |sequence| sequence.tenant);
        for index in 0..growing.len() {
            let own = tenant(growing[index].0);
            let n = growing.iter().filter(|&&(id, _)| tenant(id) == own).count();
            growing[index].1 = 1.0 / n as f64;
        }
    }

    /// Gives a sequence blocks for `len` tokens and returns for how many it has blocks then, at most `len`.
    pub(crate) fn reserve(&mut self, id: SequenceId, len: usize) -> usize {
        let Some(sequence) = self.sequences.get_mut(id).and_then(Option::as_mut) else { return 0 };
        while sequence.blocks.len() * self.block_len < len {
            match self.pool.allocate(sequence.tenant) {
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
        let start = sequence.num_computed;
        while sequence.num_computed + self.block_len < sequence.tokens.len() {
            let Some(block) = self.pool.find(&sequence.hashes()[sequence.blocks.len()]) else { break };
            sequence.blocks.push(block);
            sequence.num_computed += self.block_len;
        }
        let n_tokens = sequence.num_computed - start;
        self.note_cached(id, n_tokens);
        if !self.want_from_disk(id) {
            self.take_beginning(id);
        }
    }

    /// Moves a sequence on over part of a block, of which another block has the same beginning.
    fn take_beginning(&mut self, id: SequenceId) {
        let Some(sequence) = self.sequences.get_mut(id).and_then(Option::as_mut) else { return };
        let text = sequence.block_text(sequence.blocks.len(), sequence.tokens.len() - 1, self.block_len);
        let Some((from, n_tokens)) = text.and_then(|text| self.pool.find_beginning(&text)) else { return };
        if n_tokens < SHARED_TOKENS_MIN {
            return;
        }
        // Held meanwhile, so that it is not the block that is given out.
        self.pool.retain(from);
        let to = self.pool.allocate(sequence.tenant);
        self.pool.release(from);
        let Some(to) = to else { return };
        self.copies.push((from, to));
        sequence.blocks.push(to);
        sequence.num_computed += n_tokens;
        self.note_cached(id, n_tokens);
    }

    /// Counts tokens that a sequence did not have to compute.
    fn note_cached(&mut self, id: SequenceId, n_tokens: usize) {
        self.cached_tokens += n_tokens as u64;
        if let Some(sequence) = self.get_mut(id).filter(|sequence| !sequence.was_preempted) {
            sequence.cached_tokens += n_tokens;
        }
    }

    /// Whether a waiting sequence can compute all its tokens in the blocks that are free and not spoken for, with
    /// one left over for each sequence that runs.
    fn fits(&self, id: SequenceId) -> bool {
        let Some(sequence) = self.get(id) else { return true };
        let spoken_for: usize = self.running_sequences().map(|s| self.lacking(s)).sum();
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

    /// Sends the youngest sequence back into the queue and says which one it was.
    fn preempt_last(&mut self) -> Option<SequenceId> {
        let id = self.running.pop()?;
        self.send_back(id);
        Some(id)
    }

    /// Puts a sequence that no longer takes part back into the queue, without its blocks.
    fn send_back(&mut self, id: SequenceId) {
        let Some(mut sequence) = self.sequences.get_mut(id).and_then(Option::take) else { return };
        self.release(&mut sequence);
        sequence.num_computed = 0;
        sequence.was_preempted = true;
        sequence.status = SequenceStatus::Waiting;
        self.queues.push_front(sequence.tenant, id);
        self.preemptions += 1;
        self.sequences[id] = Some(sequence);
    }

    /// Lets a sequence's blocks go, last first, so that the beginning of its text stays cached longest. What it has
    /// computed of a block that is not full can be found by its beginning, unless others have as much of it.
    fn release(&mut self, sequence: &mut Sequence) {
        let index = sequence.num_computed / self.block_len;
        let part = sequence.num_computed % self.block_len;
        if self.reuse_prefixes
            && part >= SHARED_TOKENS_MIN
            && knows_before(&self.pool, sequence, index)
            && let Some(text) = sequence.block_text(index, sequence.num_computed, self.block_len)
            && let Some(&block) = sequence.blocks.get(index)
            && self.pool.find_beginning(&text).is_none_or(|(_, n_tokens)| n_tokens < part)
        {
            self.pool.list(block, &text);
        }
        self.note_let_go(sequence);
        sequence.reading = 0;
        while let Some(block) = sequence.blocks.pop() {
            self.pool.release(block);
        }
    }
}

/// Whether all blocks of a sequence before this one have their names: what follows others can't be found.
fn knows_before(pool: &BlockPool, sequence: &Sequence, index: usize) -> bool {
    let Some(before) = index.checked_sub(1) else { return true };
    let block = sequence.blocks.get(before);
    block.is_some_and(|&block| pool.name_of(block).as_ref() == sequence.hashes().get(before))
}

/// What the caller of [`Scheduler::fork`] has to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fork {
    /// Copy this block's contents to that one.
    pub(crate) copy: Option<(u32, u32)>,
}

#[cfg(test)]
mod tests;
