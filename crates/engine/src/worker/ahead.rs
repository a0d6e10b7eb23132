//! Drafts from the model's own layer for multi-token prediction, made at the end of a step for the next.

use std::time::Instant;

use levain_kernels::{SeqRows, vector};

use super::{Worker, batch_class, recycle};
use crate::arch::AheadOf;
use crate::error::EngineError;
use crate::ops::ForwardBatch;
use crate::plan::BLOCK_LEN;
use crate::sequence::SequenceId;
use crate::spec::DRAFT_TOKENS_MAX;

/// Lists that are reused from step to step.
#[derive(Debug, Default)]
pub(super) struct AheadLists {
    /// Rows of the step, or of the last prediction, that a prediction goes on from.
    rows: Vec<usize>,
    drafting: Vec<Drafting>,
}

/// A sequence that is being drafted for.
#[derive(Debug, Clone, Copy)]
struct Drafting {
    sequence: SequenceId,
    /// Its last row of the prediction.
    row: usize,
    /// That row's position.
    position: usize,
    /// Tokens still to be drafted.
    left: usize,
}

impl Worker {
    /// Lets the layer see the step's rows, so that its cache keeps up, and drafts for the sequences that can use it.
    pub(super) fn draft_ahead(&mut self) -> Result<(), EngineError> {
        let Some(mut lists) = self.ahead.take() else { return Ok(()) };
        let result = self.draft_with(&mut lists);
        self.ahead = Some(lists);
        result
    }

    fn draft_with(&mut self, lists: &mut AheadLists) -> Result<(), EngineError> {
        let start = Instant::now();
        self.list_rows(lists);
        if lists.rows.is_empty() {
            return Ok(());
        }
        self.predict(AheadOf::Step(&lists.rows), &lists.drafting, true)?;
        let mut drafted = 0;
        while !lists.drafting.is_empty() {
            drafted += self.take_drafts(&mut lists.drafting);
            lists.drafting.retain(|drafting| drafting.left > 0);
            let scheduler = &mut self.scheduler;
            lists.drafting.retain(|d| scheduler.reserve(d.sequence, d.position + 2) == d.position + 2);
            if lists.drafting.is_empty() {
                break;
            }
            lists.rows.clear();
            for (index, drafting) in lists.drafting.iter_mut().enumerate() {
                lists.rows.push(drafting.row);
                (drafting.row, drafting.position) = (index, drafting.position + 1);
            }
            self.predict(AheadOf::Prediction(&lists.rows), &lists.drafting, false)?;
        }
        if drafted > 0 {
            let times = &mut self.step_times[batch_class(self.scheduler.n_running())];
            times.note_drafting(drafted, start.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// Lists the step's rows whose next token is known, and whom to draft for.
    fn list_rows(&mut self, lists: &mut AheadLists) {
        lists.rows.clear();
        lists.drafting.clear();
        let times = self.step_times[batch_class(self.scheduler.n_running())];
        let mut first_row = 0;
        let mut n = 0;
        for chunk in &mut self.batch.chunks {
            let row = first_row;
            first_row += chunk.rows();
            let Some(sequence) = self.scheduler.get_mut(chunk.sequence) else { continue };
            let (start, end) = (chunk.positions.start, sequence.num_computed);
            let generating = sequence.remaining() == 1 && sequence.tokens.len() > sequence.prompt_len;
            let room = sequence.len_max.saturating_sub(sequence.tokens.len() + 1).min(DRAFT_TOKENS_MAX);
            let next_known = sequence.tokens.len() > end;
            let Some(drafts) = sequence.drafts.as_deref_mut() else { continue };
            let count = match (generating, self.draft_tokens) {
                (false, _) => 0,
                (true, Some(fixed)) => fixed.min(room),
                (true, None) => drafts.policy.length(&times, room),
            };
            // While drafting does not pay the layer is left alone too.
            chunk.ahead =
                if !next_known || (generating && count == 0) { 0 } else { end.saturating_sub(start) };
            if chunk.ahead == 0 {
                continue;
            }
            lists.rows.extend(row..row + chunk.ahead);
            n += chunk.ahead;
            if count > 0 {
                let sequence = chunk.sequence;
                lists.drafting.push(Drafting { sequence, row: n - 1, position: end - 1, left: count });
            }
        }
    }

    /// Runs the layer: over the listed rows of the step, or over one row for each sequence that is drafted for.
    fn predict(&mut self, rows: AheadOf<'_>, drafting: &[Drafting], step: bool) -> Result<(), EngineError> {
        let batch = &mut self.batch;
        batch.tokens.clear();
        batch.positions.clear();
        batch.slots.clear();
        let mut sequences: Vec<SeqRows<'_>> = recycle(std::mem::take(&mut batch.sequences));
        let (tokens, positions, slots) = (&mut batch.tokens, &mut batch.positions, &mut batch.slots);
        let slot =
            |blocks: &[u32], p: usize| blocks[p / BLOCK_LEN] * BLOCK_LEN as u32 + (p % BLOCK_LEN) as u32;
        if step {
            for chunk in batch.chunks.iter().filter(|chunk| chunk.ahead > 0) {
                let Some(sequence) = self.scheduler.get(chunk.sequence) else { continue };
                let (first_row, first_position) = (tokens.len(), chunk.positions.start);
                let places = first_position..first_position + chunk.ahead;
                sequences.push(SeqRows {
                    block_table: &sequence.blocks,
                    first_row,
                    n_rows: chunk.ahead,
                    first_position,
                });
                tokens.extend_from_slice(&sequence.tokens[places.start + 1..places.end + 1]);
                positions.extend(places.clone().map(|p| p as u32));
                slots.extend(places.map(|p| slot(&sequence.blocks, p)));
            }
        } else {
            for drafting in drafting {
                let Some(sequence) = self.scheduler.get(drafting.sequence) else { continue };
                let (first_row, first_position) = (tokens.len(), drafting.position);
                let block_table = &sequence.blocks;
                sequences.push(SeqRows { block_table, first_row, n_rows: 1, first_position });
                tokens.push(sequence.drafted().last().copied().unwrap_or(0));
                positions.push(first_position as u32);
                slots.push(slot(block_table, first_position));
            }
        }
        let forward = ForwardBatch { tokens, positions, slots, sequences: &sequences, expanded_ends: &[] };
        let result = self.model.predict_ahead(&forward, &mut self.kv, rows);
        batch.sequences = recycle(sequences);
        result.map(|_| ())
    }

    /// Takes the likeliest token of each row that is drafted from, and returns how many.
    fn take_drafts(&mut self, drafting: &mut [Drafting]) -> usize {
        let vocab = self.model.vocab_size();
        let mut rows = [0; 16];
        for group in drafting.chunks_mut(self.sampling.logit_rows.min(rows.len())) {
            for (row, drafting) in rows.iter_mut().zip(group.iter()) {
                *row = drafting.row;
            }
            let logits = &mut self.sampling.logits[..group.len() * vocab];
            self.model.ahead_logits(&rows[..group.len()], logits);
            for (drafting, logits) in group.iter_mut().zip(logits.chunks_exact(vocab)) {
                drafting.left -= 1;
                let best = vector::argmax(logits).unwrap_or(0);
                let sequence = self.scheduler.get_mut(drafting.sequence);
                if let Some(drafts) = sequence.and_then(|sequence| sequence.drafts.as_deref_mut()) {
                    drafts.tokens.push(best as u32);
                }
            }
        }
        drafting.len()
    }
}
