//! The engine's thread: schedule, compute, sample, tell; and sleep when there is nothing to do.

mod disk;
mod draft;
mod masks;
mod output;
mod pace;
mod packing;
mod predict;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use levain_kernels::{KvCache, SeqRows};
use levain_weights::Intact;

use crate::arch::Model;
use crate::config::EngineConfig;
use crate::engine::{Shared, Shutdown, lock};
use crate::error::EngineError;
use crate::job::{Job, Submission, panic_message};
use crate::ops::{BatchRows, ForwardBatch, WantedRows};
use crate::plan::{self, BLOCK_LEN, MemoryPlan};
use crate::request::FinishReason;
use crate::sampling::Sampler;
use crate::scheduler::{Scheduler, StepShape};
use crate::sequence::{Chunk, JobId, SequenceId, SequenceStatus};
use crate::spec::Gate;
use crate::stats::{EngineStats, StepStats};
use masks::Masks;
use output::{Output, first_wanted};
use pace::Pace;

pub(crate) use draft::DraftSource;
pub(crate) use masks::Constrained;
pub(crate) use packing::Packing;
pub(crate) use predict::Drafter;

/// All state of the engine; one thread owns it.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    model: Model,
    kv: KvCache,
    scheduler: Scheduler,
    jobs: Vec<Option<Job>>,
    sampling: Sampling,
    batch: Batch,
    pace: Pace,
    source: DraftSource,
    gate: Gate,
    stats: EngineStats,
    /// Where there is a prefix cache on the disk.
    disk: Option<disk::Spill>,
    /// The threads beside this one that ask output constraints.
    masks: Masks,
    /// Until when this step waits for them.
    patience: Instant,
    /// Everyone who takes part waits for the disk or for a constraint.
    stalled: bool,
    /// What is wrong with the weights, once it is known: no request can be answered.
    broken: Option<EngineError>,
    /// Whether the files that weights are read from are whole.
    intact: Intact,
}

/// What choosing tokens works with.
struct Sampling {
    sampler: Sampler,
    /// Logits of the rows that are looked at together, `[logit_rows, vocab]`.
    logits: Vec<f32>,
    /// A row's logits as the model gave them, kept where they are needed after sampling has changed them, `[vocab]`.
    raw: Vec<f32>,
    logit_rows: usize,
}

impl Sampling {
    fn new(vocab: usize, logit_rows: usize) -> Self {
        Self {
            sampler: Sampler::new(vocab),
            logits: vec![0.0; logit_rows * vocab],
            raw: vec![0.0; vocab],
            logit_rows,
        }
    }
}

/// The lists that make up a step. They are reused, so that a step allocates nothing.
#[derive(Default)]
struct Batch {
    chunks: Vec<Chunk>,
    tokens: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<u32>,
    /// Empty between steps; kept for its memory.
    sequences: Vec<SeqRows<'static>>,
    expanded: Vec<Range<usize>>,
    wanted: Wanted,
    outputs: Vec<Output>,
    /// Answers that share the row being sampled.
    sharing: Vec<SequenceId>,
}

/// The rows of a step whose results are wanted, in the lists that [`WantedRows`] is made of.
#[derive(Default)]
struct Wanted {
    indices: Vec<usize>,
    positions: Vec<u32>,
    /// Empty between steps; kept for its memory.
    sequences: Vec<SeqRows<'static>>,
    expanded: Vec<Range<usize>>,
}

impl Worker {
    pub(crate) fn new(
        shared: Arc<Shared>,
        model: Model,
        kv: KvCache,
        source: DraftSource,
        config: &EngineConfig,
        plan: &MemoryPlan,
    ) -> Self {
        let (rows, seqs) = (config.max_num_batched_tokens, config.max_num_seqs);
        let (vocab, logit_rows) = (model.vocab_size(), plan::logit_rows(config));
        let batch = Batch {
            chunks: Vec::with_capacity(seqs),
            tokens: Vec::with_capacity(rows),
            positions: Vec::with_capacity(rows),
            slots: Vec::with_capacity(rows),
            sequences: Vec::with_capacity(seqs),
            expanded: Vec::with_capacity(seqs),
            wanted: Wanted {
                indices: Vec::with_capacity(rows),
                positions: Vec::with_capacity(rows),
                sequences: Vec::with_capacity(seqs),
                expanded: Vec::with_capacity(seqs),
            },
            outputs: Vec::with_capacity(rows),
            sharing: Vec::with_capacity(crate::request::ANSWERS_MAX as usize),
        };
        let scheduler = Scheduler::new(plan.n_blocks(), BLOCK_LEN, seqs, config.prefix_cache);
        let n_blocks = scheduler.pool().n_blocks();
        let stats = EngineStats { total_blocks: n_blocks, free_blocks: n_blocks, ..EngineStats::default() };
        let mut worker = Self {
            masks: Masks::new(Arc::clone(&shared)),
            patience: Instant::now(),
            shared,
            kv,
            scheduler,
            jobs: Vec::new(),
            sampling: Sampling::new(vocab, logit_rows),
            batch,
            // Where experts come from the disk, a few rows of a prompt take nearly as long as many: all experts are
            // read for them.
            pace: Pace::new(
                rows,
                config.prompt_chunk_tokens.or(plan.expert_cache_bytes.map(|_| rows)),
                seqs,
                model.attention_part(),
                model.expanded_from(),
            ),
            source,
            gate: Gate::new(config.draft_tokens),
            stats,
            disk: None,
            stalled: false,
            broken: None,
            intact: Intact::default(),
            model,
        };
        worker.stats.unpacked_bytes = worker.unpacked_bytes() as u64;
        *lock(&worker.shared.stats) = worker.stats;
        if !worker.has_to_pack() {
            worker.shared.packing.ended(Ok(()));
        }
        worker
    }

    /// Gives up if these files lose parts or change before all weights are packed.
    pub(crate) fn watch(&mut self, intact: Intact) {
        if self.has_to_pack() {
            self.intact = intact;
        }
    }

    pub(crate) fn run(mut self) {
        while self.take_inbox() {
            self.end_cancelled();
            self.take_arrivals();
            self.unpark();
            self.spill();
            if self.is_idle() {
                self.pack_while_idle();
                self.publish_stats();
                continue;
            }
            let before = Instant::now();
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.step(before))) {
                let message = panic_message(payload.as_ref());
                tracing::error!(message, "a step of the engine panicked; its requests end with an error");
                self.fail_step(&EngineError::Panicked { message });
            }
            self.pack_after_step(before);
            self.publish_stats();
        }
        lock(&self.shared.inbox).closed = true;
        self.shared.packing.ended(Ok(()));
        self.spill_rest();
        self.publish_stats();
    }

    /// Takes new requests in, waiting for some where there is nothing to do. `false` when it is time to end.
    fn take_inbox(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut inbox = lock(&shared.inbox);
        loop {
            let idle = self.is_idle();
            match inbox.shutdown {
                Some(Shutdown::Cancel) => {
                    let submissions = std::mem::take(&mut inbox.submissions);
                    inbox.closed = true;
                    drop(inbox);
                    submissions.into_iter().for_each(|submission| self.take(submission));
                    self.jobs.iter().flatten().for_each(Job::cancel);
                    self.end_cancelled();
                    return false;
                }
                Some(Shutdown::Drain) if idle && inbox.submissions.is_empty() => return false,
                _ => {}
            }
            let nothing_to_do = (idle || self.stalled) && !inbox.news && !self.has_to_pack();
            if !inbox.submissions.is_empty() || !nothing_to_do {
                break;
            }
            inbox = shared.bell.wait(inbox).unwrap_or_else(PoisonError::into_inner);
        }
        inbox.news = false;
        self.stalled = false;
        // Draining keeps the list's memory, and an empty list costs nothing.
        let mut submissions = std::mem::take(&mut inbox.submissions);
        for submission in submissions.drain(..) {
            self.take(submission);
        }
        inbox.submissions = submissions;
        inbox.waiting = self.n_queued();
        true
    }

    fn take(&mut self, submission: Submission) {
        let Submission { mut job, sequences } = submission;
        let id = match self.jobs.iter().position(Option::is_none) {
            Some(id) => id,
            None => {
                self.jobs.push(None);
                self.jobs.len() - 1
            }
        };
        for mut sequence in sequences {
            sequence.job = id;
            let answer = sequence.answer as usize;
            let sequence = self.scheduler.add(sequence);
            if let Some(answer) = job.answers.get_mut(answer) {
                answer.sequence = Some(sequence);
            }
        }
        // Constraints have said what may come first by the time that the prompt is computed.
        for (answer, constrained) in job.constraints.iter_mut().enumerate() {
            let sequence = job.answers.get(answer).and_then(|answer| answer.sequence);
            let tenant = sequence.and_then(|id| self.scheduler.get(id)).map_or(0, |sequence| sequence.tenant);
            self.masks.begin(constrained, None, tenant);
        }
        self.jobs[id] = Some(job);
    }

    /// Lets answers go on whose constraints have spoken.
    fn unpark(&mut self) {
        let jobs = &self.jobs;
        self.scheduler.unpark(|sequence| {
            let job = jobs.get(sequence.job).and_then(Option::as_ref);
            let constrained = job.and_then(|job| job.constraints.get(sequence.answer as usize));
            constrained.is_none_or(Constrained::is_here)
        });
    }

    fn end_cancelled(&mut self) {
        for id in 0..self.jobs.len() {
            if self.jobs[id].as_ref().is_some_and(Job::is_cancelled) {
                self.end_job(id, || FinishReason::Cancelled);
            }
        }
    }

    /// Ends all answers of a request.
    fn end_job(&mut self, id: JobId, reason: impl Fn() -> FinishReason) {
        let n = self.jobs[id].as_ref().map_or(0, |job| job.answers.len());
        for answer in 0..n {
            let sequence = self.jobs[id].as_ref().and_then(|job| job.answers.get(answer)?.sequence);
            if let Some(sequence) = sequence {
                self.finish(sequence, reason());
            }
        }
    }

    /// Ends one answer and lets everything of it go.
    fn finish(&mut self, id: SequenceId, reason: FinishReason) {
        let Some(sequence) = self.scheduler.finish(id) else { return };
        self.note_used(&sequence);
        let Some(job) = self.jobs.get_mut(sequence.job).and_then(Option::as_mut) else { return };
        let panicked =
            matches!(reason, FinishReason::Error(EngineError::Panicked { .. })) || job.sink_panicked();
        self.stats.panics += u64::from(panicked);
        let held = sequence.answer == 0 && matches!(reason, FinishReason::Error(_));
        if job.finish(&sequence, reason) {
            self.jobs[sequence.job] = None;
        } else if held {
            // Answers that waited for this one's prompt have to compute it themselves now.
            for other in job.answers.iter().filter_map(|answer| answer.sequence) {
                if self.scheduler.get(other).is_some_and(|s| s.status == SequenceStatus::Held) {
                    self.scheduler.release_held(other);
                }
            }
        }
    }

    /// Ends every request that took part in a step that failed, and puts everything that the step may have left
    /// half done in order again.
    fn fail_step(&mut self, error: &EngineError) {
        self.note_failure(error);
        let mut failed: Vec<SequenceId> = self.batch.chunks.iter().map(|chunk| chunk.sequence).collect();
        if failed.is_empty() {
            // It failed while the lists were in use elsewhere, and they are lost.
            self.scheduler.for_each_running_id(|id| failed.push(id));
        }
        self.batch.chunks.clear();
        self.sampling = Sampling::new(self.model.vocab_size(), self.sampling.logit_rows);
        self.scheduler.forget_prefixes();
        for id in failed {
            self.finish(id, FinishReason::Error(error.again()));
        }
        // Nor what they left behind.
        self.scheduler.forget_prefixes();
    }

    fn step(&mut self, start: Instant) {
        self.scheduler.schedule(&self.pace, &mut self.batch.chunks);
        for (from, to) in self.scheduler.take_copies() {
            self.kv.copy_block(from as usize, to as usize);
        }
        self.ask_disk();
        lock(&self.shared.inbox).waiting = self.n_queued();
        if self.batch.chunks.is_empty() && self.scheduler.waits() {
            self.stalled = true;
            return;
        }
        if self.batch.chunks.is_empty() {
            // Cannot happen: the cache holds at least one context. Waiting for it to pass would be an endless loop.
            for id in 0..self.jobs.len() {
                let message = "no sequence could be given a block".to_owned();
                self.end_job(id, || FinishReason::Error(EngineError::Panicked { message: message.clone() }));
            }
            return;
        }
        if let Some(error) = self.broken.as_ref().map(EngineError::again) {
            // It was logged when it was found.
            self.fail_step(&error);
            return;
        }
        let computed = self.forward(start).and_then(|()| self.check_files());
        if let Err(error) = computed {
            tracing::error!(%error, "a step of the engine failed; its requests end with an error");
            self.fail_step(&error);
            return;
        }
        let computed = Instant::now();
        let mut step = StepStats::default();
        let mut drafted = 0;
        for chunk in &self.batch.chunks {
            let is_answer = chunk.positions.len() == 1
                && self.scheduler.get(chunk.sequence).is_some_and(|s| chunk.positions.start >= s.prompt_len);
            let rows = if is_answer { &mut step.answer_rows } else { &mut step.prompt_rows };
            *rows += chunk.rows();
            drafted += chunk.drafted;
            let sequence = self.scheduler.get_mut(chunk.sequence);
            if let Some(drafts) = sequence.and_then(|sequence| sequence.drafts.as_deref_mut()) {
                drafts.drafted_total += chunk.drafted;
            }
            self.scheduler.commit(chunk.sequence, chunk.positions.clone());
        }
        self.patience = masks::patience(computed.saturating_duration_since(start));
        if let Err(error) = self.outputs() {
            tracing::error!(%error, "a step of the engine failed; its requests end with an error");
            self.fail_step(&error);
            return;
        }
        let accepted = self.note_drafts();
        let end = Instant::now();
        step.forward_time = computed.saturating_duration_since(start);
        step.output_time = end.saturating_duration_since(computed);
        let took = end.saturating_duration_since(start);
        // What a step takes while weights come from the file says nothing about those to come.
        let packed = self.unpacked_bytes() == 0;
        if packed {
            self.pace.note(StepShape::of(&self.batch.chunks), step.answer_rows > 0, took);
        }
        self.stats.steps += 1;
        self.stats.prompt_rows += step.prompt_rows as u64;
        self.stats.answer_rows += step.answer_rows as u64;
        self.stats.drafted_tokens += drafted as u64;
        self.stats.last_step = step;
        let (sequences, seconds) =
            (self.batch.chunks.len(), end.saturating_duration_since(start).as_secs_f64());
        match step.prompt_rows {
            _ if !packed => {}
            0 => self.gate.note_step(sequences, drafted, accepted, seconds),
            _ => self.gate.note_time(sequences, seconds),
        }
        if let Err(error) = self.draft() {
            tracing::error!(%error, "drafting failed; the requests of its step end with an error");
            self.fail_step(&error);
        }
    }

    /// Requests of which nothing has been computed.
    fn n_queued(&self) -> usize {
        let runs = |sequence: &Option<SequenceId>| {
            sequence
                .and_then(|id| self.scheduler.get(id))
                .is_some_and(|s| s.status == SequenceStatus::Running)
        };
        let waits =
            |job: &&Job| !job.has_started() && !job.answers.iter().any(|answer| runs(&answer.sequence));
        self.jobs.iter().flatten().filter(waits).count()
    }

    /// Whether nobody has anything to be computed now.
    fn is_idle(&self) -> bool {
        self.scheduler.n_running() + self.scheduler.n_waiting() == 0
    }

    /// Computes the rows of the chosen chunks.
    fn forward(&mut self, now: Instant) -> Result<(), EngineError> {
        let Batch { chunks, tokens, positions, slots, sequences, expanded, wanted, .. } = &mut self.batch;
        tokens.clear();
        positions.clear();
        slots.clear();
        expanded.clear();
        wanted.indices.clear();
        wanted.positions.clear();
        wanted.expanded.clear();
        let mut rows: Vec<SeqRows<'_>> = recycle(std::mem::take(sequences));
        let mut wanted_rows: Vec<SeqRows<'_>> = recycle(std::mem::take(&mut wanted.sequences));
        let drafts_from_states = self.source.begins_with_states();
        for chunk in chunks.iter() {
            let Some(sequence) = self.scheduler.get(chunk.sequence) else { continue };
            let job = self.jobs.get_mut(sequence.job).and_then(Option::as_mut);
            let first_wanted = first_wanted(chunk, sequence, job.as_deref(), drafts_from_states);
            if let Some(job) = job {
                job.note_started(sequence.answer, now);
            }
            let n_rows = chunk.rows();
            let (first_row, first_position) = (tokens.len(), chunk.positions.start);
            expanded.push(sequence.expanded.clone());
            rows.push(SeqRows { block_table: &sequence.blocks, first_row, n_rows, first_position });
            tokens.extend_from_slice(&sequence.tokens[chunk.positions.clone()]);
            tokens.extend_from_slice(&sequence.drafted()[..chunk.drafted]);
            for position in chunk.positions.start..chunk.positions.end + chunk.drafted {
                positions.push(position as u32);
                slots.push(
                    sequence.blocks[position / BLOCK_LEN] * BLOCK_LEN as u32 + (position % BLOCK_LEN) as u32,
                );
            }
            let skipped = first_wanted - first_position;
            if skipped < n_rows {
                wanted_rows.push(SeqRows {
                    block_table: &sequence.blocks,
                    first_row: wanted.indices.len(),
                    n_rows: n_rows - skipped,
                    first_position: first_wanted,
                });
                wanted.indices.extend(first_row + skipped..first_row + n_rows);
                wanted.positions.extend_from_slice(&positions[first_row + skipped..]);
                wanted.expanded.push(sequence.expanded.clone());
            }
        }
        let some = WantedRows {
            indices: &wanted.indices,
            rows: BatchRows {
                positions: &wanted.positions,
                sequences: &wanted_rows,
                expanded: &wanted.expanded,
            },
        };
        let batch = ForwardBatch {
            tokens,
            slots,
            rows: BatchRows { positions, sequences: &rows, expanded },
            wanted: (some.rows.n() < tokens.len()).then_some(some),
        };
        let result = self.model.forward(&batch, &mut self.kv);
        *sequences = recycle(rows);
        wanted.sequences = recycle(wanted_rows);
        result
    }

    fn publish_stats(&mut self) {
        let pool = self.scheduler.pool();
        self.stats.running = self.scheduler.n_running();
        self.stats.waiting = self.scheduler.n_waiting();
        self.stats.free_blocks = pool.n_free();
        self.stats.cached_blocks = pool.n_cached();
        self.stats.cached_tokens = self.scheduler.cached_tokens();
        self.stats.preemptions = self.scheduler.preemptions();
        self.stats.experts = self.model.expert_stats();
        self.stats.disk_cache = self.disk.as_ref().map(disk::Spill::stats);
        if let Some(choices) = self.model.take_prefetch_news() {
            *lock(&self.shared.prefetch) = choices;
        }
        lock(&self.shared.inbox).waiting = self.n_queued();
        *lock(&self.shared.stats) = self.stats;
    }
}

/// An empty list with another lifetime and, as the standard library collects in place, the same memory.
fn recycle<'a>(mut list: Vec<SeqRows<'_>>) -> Vec<SeqRows<'a>> {
    list.clear();
    list.into_iter()
        .map(|rows| SeqRows {
            block_table: &[],
            first_row: 0,
            n_rows: 0,
            first_position: rows.first_position,
        })
        .collect()
}

#[cfg(test)]
mod tests;
