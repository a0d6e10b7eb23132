//! What becomes of a step's rows: tokens, log-probabilities, embeddings.

use std::ops::Range;

use super::masks::Turn;
use super::predict::first_of_layer;
use super::{Batch, Sampling, Worker};
use crate::error::EngineError;
use crate::job::{Job, guarded};
use crate::plan::BLOCK_LEN;
use crate::request::{Event, FinishReason, Pooling, RequestKind, TokenLogprob};
use crate::sampling::{History, all_finite};
use crate::sequence::{Chunk, Sequence, SequenceId, SequenceStatus};

/// A row whose logits are wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    /// Row of the step.
    row: usize,
    sequence: SequenceId,
    position: usize,
    purpose: Purpose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To say how likely the prompt's next token was.
    Score,
    /// To choose the next token.
    Sample,
    /// To choose the token after a drafted one, if that was right.
    Verify,
}

/// A chosen token.
struct Choice {
    token: u32,
    logprob: Option<f32>,
    top: Vec<(u32, f32)>,
}

/// The first position of a chunk, or the end of its rows, from which on somebody will ask for what the model makes of
/// it: for logits, for an embedding, or for a layer that drafts from the model's states.
pub(super) fn first_wanted(
    chunk: &Chunk,
    sequence: &Sequence,
    job: Option<&Job>,
    layer_drafts: bool,
) -> usize {
    let Range { start, end } = chunk.positions;
    let nothing = start + chunk.rows();
    let Some(job) = job else { return nothing };
    let reaches = end == sequence.tokens.len();
    if let RequestKind::Embed(pooling) = job.wish.kind {
        return match pooling {
            Pooling::Mean => start,
            Pooling::Last if reaches => end - 1,
            Pooling::Last => nothing,
        };
    }
    let mut first = if reaches && job.wish.max_tokens > 0 { end - 1 } else { nothing };
    if job.wish.prompt_logprobs.is_some() && sequence.answer == 0 {
        let scored = job.scored.saturating_sub(1).max(start);
        if scored < end.min(sequence.prompt_len - 1) {
            first = first.min(scored);
        }
    }
    if layer_drafts && sequence.drafts.is_some() {
        first = first.min(first_of_layer(start, end, sequence.prompt_len));
    }
    first
}

impl Worker {
    /// Does with each row of the step what its request is for.
    ///
    /// # Errors
    /// As for [`Model::logits`](crate::arch::Model::logits); the rows that are left have no outputs then.
    pub(super) fn outputs(&mut self) -> Result<(), EngineError> {
        let mut batch = std::mem::take(&mut self.batch);
        self.list_outputs(&mut batch);
        let vocab = self.model.vocab_size();
        let mut logits = std::mem::take(&mut self.sampling.logits);
        let mut result = Ok(());
        for group in batch.outputs.chunks(self.sampling.logit_rows) {
            let logits = &mut logits[..group.len() * vocab];
            result = self.model.logits(group.iter().map(|output| output.row), logits);
            // The head may still come from the file: no token is chosen by what was lost.
            if result.is_ok() {
                result = self.check_files();
            }
            if result.is_err() {
                break;
            }
            for (output, row) in group.iter().zip(logits.chunks_exact_mut(vocab)) {
                match output.purpose {
                    Purpose::Score => self.score(output, row),
                    Purpose::Sample => self.sample(output, row, &mut batch.sharing),
                    Purpose::Verify => self.verify(output, row, &mut batch.sharing),
                }
            }
        }
        self.sampling.logits = logits;
        if result.is_ok() {
            for chunk in &batch.chunks {
                self.end_without_tokens(chunk);
            }
        }
        self.batch = batch;
        result
    }

    /// Lists the rows whose logits are wanted, and adds up those that go into embeddings.
    fn list_outputs(&mut self, batch: &mut Batch) {
        batch.outputs.clear();
        let mut first_row = 0;
        for chunk in &batch.chunks {
            let rows = first_row..first_row + chunk.rows();
            first_row = rows.end;
            let Some(sequence) = self.scheduler.get(chunk.sequence) else { continue };
            let Some(job) = self.jobs.get_mut(sequence.job).and_then(Option::as_mut) else { continue };
            let (reached, prompt_len) = (sequence.remaining() == 0, sequence.prompt_len);
            if let RequestKind::Embed(pooling) = job.wish.kind {
                let first = match pooling {
                    Pooling::Mean => rows.start,
                    Pooling::Last if reached => rows.end - 1,
                    Pooling::Last => continue,
                };
                if chunk.positions.start == 0 || pooling == Pooling::Last {
                    // A sequence that was preempted begins again.
                    (job.pooled, job.n_pooled) = (vec![0.0; self.model.hidden_size()], 0);
                }
                for row in first..rows.end {
                    pool(job, self.model.hidden_states(std::iter::once(row)));
                }
                continue;
            }
            let output = |row, position, purpose| Output { row, sequence: chunk.sequence, position, purpose };
            if job.wish.prompt_logprobs.is_some() && sequence.answer == 0 {
                // Position p predicts token p + 1; what was scored before a preemption is not scored again.
                let wanted = |p: &usize| p + 1 < prompt_len && p + 1 >= job.scored;
                for position in chunk.positions.clone().filter(wanted) {
                    let row = rows.start + position - chunk.positions.start;
                    batch.outputs.push(output(row, position, Purpose::Score));
                }
            }
            if reached && job.wish.max_tokens > 0 {
                let last = rows.start + chunk.positions.len() - 1;
                batch.outputs.push(output(last, chunk.positions.end - 1, Purpose::Sample));
                for draft in 0..chunk.drafted {
                    let position = chunk.positions.end + draft;
                    batch.outputs.push(output(last + 1 + draft, position, Purpose::Verify));
                }
            }
        }
    }

    /// Notes how likely a prompt's token was.
    fn score(&mut self, output: &Output, row: &[f32]) {
        let Some(sequence) = self.scheduler.get(output.sequence) else { return };
        let Some(job) = self.jobs.get_mut(sequence.job).and_then(Option::as_mut) else { return };
        let Some(top) = job.wish.prompt_logprobs else { return };
        if !all_finite(row) {
            let error = EngineError::NonFiniteLogits { position: output.position };
            self.finish(output.sequence, FinishReason::Error(error));
            return;
        }
        let next = output.position + 1;
        if job.scored == 0 {
            job.scores.push(TokenLogprob { id: sequence.tokens[0], logprob: None, top: Vec::new() });
        }
        let id = sequence.tokens[next];
        let (logprob, top) = self.sampling.sampler.logprobs(row, id, top);
        job.scores.push(TokenLogprob { id, logprob: Some(logprob), top });
        job.scored = next + 1;
    }

    /// Chooses a sequence's next token, and those of the answers that share its prompt.
    fn sample(&mut self, output: &Output, row: &mut [f32], sharing: &mut Vec<SequenceId>) {
        let id = output.sequence;
        if !all_finite(row) {
            let error = EngineError::NonFiniteLogits { position: output.position };
            self.finish(id, FinishReason::Error(error));
            return;
        }
        sharing.clear();
        sharing.push(id);
        self.fork(id, sharing);
        let keep = sharing.len() > 1 || self.looks_twice(id);
        if keep {
            self.sampling.raw.copy_from_slice(row);
        }
        for (index, &id) in sharing.iter().enumerate() {
            if index > 0 {
                row.copy_from_slice(&self.sampling.raw);
            }
            if !self.has_spoken(id) {
                self.scheduler.park(id);
                continue;
            }
            match self.choose(id, row) {
                Ok(choice) => self.accept(id, choice),
                Err(reason) => self.finish(id, reason),
            }
        }
    }

    /// Whether what may come next is known, now or before the step's patience is at its end.
    fn has_spoken(&mut self, id: SequenceId) -> bool {
        let Some(sequence) = self.scheduler.get(id) else { return true };
        let job = self.jobs.get_mut(sequence.job).and_then(Option::as_mut);
        let constrained = job.and_then(|job| job.constraints.get_mut(sequence.answer as usize));
        constrained.is_none_or(|constrained| constrained.wait(self.patience).is_some())
    }

    /// Goes on from a drafted token where it is the token that was chosen in its place.
    fn verify(&mut self, output: &Output, row: &mut [f32], sharing: &mut Vec<SequenceId>) {
        let position = output.position;
        let Some(sequence) = self.scheduler.get_mut(output.sequence) else { return };
        if self.jobs.get(sequence.job).and_then(Option::as_ref).is_none_or(Job::is_cancelled) {
            // The caller has seen enough: what it asked to be the last token is.
            return;
        }
        let chosen = sequence.tokens.get(position).copied();
        let Some(drafts) = sequence.drafts.as_deref_mut() else { return };
        let right = chosen.is_some() && drafts.tokens.get(drafts.accepted).copied() == chosen;
        // A wrong draft makes the rows behind it worthless: the sequence does not reach their positions.
        if !right || sequence.num_computed != position {
            return;
        }
        drafts.accepted += 1;
        drafts.accepted_total += 1;
        self.stats.accepted_tokens += 1;
        self.scheduler.commit(output.sequence, position..position + 1);
        self.sample(output, row, sharing);
    }

    /// Whether the logits are needed again after a token was chosen: for log-probabilities, or to choose another.
    fn looks_twice(&self, id: SequenceId) -> bool {
        let job = self.scheduler.get(id).and_then(|sequence| self.jobs.get(sequence.job)?.as_ref());
        job.is_some_and(|job| job.wish.logprobs.is_some() || !job.constraints.is_empty())
    }

    /// Lets held answers join the first one, whose prompt is computed, and adds those that can run to `sharing`.
    fn fork(&mut self, leader: SequenceId, sharing: &mut Vec<SequenceId>) {
        let Some(sequence) = self.scheduler.get(leader) else { return };
        let n = self.jobs.get(sequence.job).and_then(Option::as_ref).map_or(1, |job| job.answers.len());
        if sequence.answer != 0 || n == 1 || !sequence.generated().is_empty() {
            return;
        }
        let job_id = sequence.job;
        for answer in 1..n {
            let Some(job) = self.jobs.get_mut(job_id).and_then(Option::as_mut) else { return };
            let Some(id) = job.answers.get(answer).and_then(|answer| answer.sequence) else { continue };
            if self.scheduler.get(id).is_none_or(|s| s.status != SequenceStatus::Held) {
                continue;
            }
            if let Some(fork) = self.scheduler.fork(leader, id) {
                if let Some((from, to)) = fork.copy {
                    self.kv.copy_block(from as usize, to as usize);
                }
                job.note_started(answer as u32, std::time::Instant::now());
                sharing.push(id);
            }
        }
    }

    /// Chooses the next token from `row`, which it changes, or says why the answer ends.
    fn choose(&mut self, id: SequenceId, row: &mut [f32]) -> Result<Choice, FinishReason> {
        let Some(sequence) = self.scheduler.get(id) else { return Err(FinishReason::Cancelled) };
        let Some(job) = self.jobs.get_mut(sequence.job).and_then(Option::as_mut) else {
            return Err(FinishReason::Cancelled);
        };
        job.flush_scores();
        let sampling = &mut self.sampling;
        let forced = job.injector.pop(sequence.answer).filter(|&token| (token as usize) < row.len());
        let token = match forced {
            Some(token) => token,
            None => {
                let token = draw(job, sequence, sampling, row)?;
                let goes_on = job.wish.stop_token_ids.contains(&token)
                    && match turn(job, sequence) {
                        Some(turn) => !guarded(|| Ok(turn.constraint.ends())).map_err(FinishReason::Error)?,
                        None => false,
                    };
                if goes_on {
                    if let Some(turn) = turn(job, sequence) {
                        turn.ask();
                    }
                    row.copy_from_slice(&sampling.raw);
                    draw(job, sequence, sampling, row)?
                } else {
                    token
                }
            }
        };
        let mut choice = Choice { token, logprob: None, top: Vec::new() };
        if let Some(top) = job.wish.logprobs {
            let (logprob, top) = sampling.sampler.logprobs(&sampling.raw, token, top);
            (choice.logprob, choice.top) = (Some(logprob), top);
        }
        Ok(choice)
    }

    /// Adds a chosen token to its answer and tells the caller; ends the answer where that was the last.
    fn accept(&mut self, id: SequenceId, choice: Choice) {
        let Some(sequence) = self.scheduler.get_mut(id) else { return };
        let answer = sequence.answer;
        let Some(job) = self.jobs.get_mut(sequence.job).and_then(Option::as_mut) else { return };
        let Choice { token, logprob, top } = choice;
        let index = job.count_token(answer);
        self.stats.generated_tokens += 1;
        if job.wish.stop_token_ids.contains(&token) {
            self.finish(id, FinishReason::Stop(Some(token)));
            return;
        }
        sequence.push(token, BLOCK_LEN);
        job.emit(Event::Token { answer, index, id: token, logprob, top });
        if index as usize + 1 >= job.wish.max_tokens {
            self.finish(id, FinishReason::Length);
        } else if let Some(constrained) = job.constraints.get_mut(answer as usize) {
            self.masks.begin(constrained, Some(token), sequence.tenant);
        }
    }

    /// Sends what is left of a chunk's prompt scores, and ends sequences that were never to generate.
    fn end_without_tokens(&mut self, chunk: &Chunk) {
        let Some(sequence) = self.scheduler.get(chunk.sequence) else { return };
        let reached = sequence.remaining() == 0;
        let Some(job) = self.jobs.get_mut(sequence.job).and_then(Option::as_mut) else { return };
        if job.wish.max_tokens > 0 {
            job.flush_scores();
            return;
        }
        if reached && job.wish.prompt_logprobs.is_some() && job.scored == 0 {
            score_first(job, sequence);
        }
        job.flush_scores();
        if !reached {
            return;
        }
        if let RequestKind::Embed(_) = job.wish.kind {
            let reason = match embedding(job) {
                Some(vector) => {
                    job.emit(Event::Embedding(vector));
                    FinishReason::Stop(None)
                }
                None => {
                    let position = sequence.prompt_len - 1;
                    FinishReason::Error(EngineError::NonFiniteLogits { position })
                }
            };
            self.finish(chunk.sequence, reason);
        } else {
            let n = job.answers.len();
            for answer in 0..n {
                let job = self.jobs.get(self.scheduler.get(chunk.sequence).map_or(usize::MAX, |s| s.job));
                let sibling = job.and_then(|job| job.as_ref()?.answers.get(n - 1 - answer)?.sequence);
                if let Some(sibling) = sibling {
                    self.finish(sibling, FinishReason::Length);
                }
            }
        }
    }
}

/// Draws a token from `row`, which it changes, as far as the answer's constraint allows, or says why the answer ends.
fn draw(
    job: &mut Job,
    sequence: &Sequence,
    sampling: &mut Sampling,
    row: &mut [f32],
) -> Result<u32, FinishReason> {
    let Job { wish, constraints, .. } = job;
    let mut mask = None;
    if let Some(constrained) = constraints.get_mut(sequence.answer as usize) {
        // Who calls has made sure that it has spoken.
        let turn = constrained.turn().ok_or(FinishReason::Cancelled)?;
        let may_stop = turn.may_stop().map_err(FinishReason::Error)?;
        for &stop in &wish.stop_token_ids {
            if may_stop { turn.mask.allow(stop) } else { turn.mask.forbid(stop) }
        }
        if may_stop && turn.mask.count() == 0 {
            return Err(FinishReason::Stop(None));
        }
        mask = Some(&turn.mask);
    }
    let history = History { prompt: sequence.prompt(), generated: sequence.generated() };
    let chosen = sampling.sampler.sample(&wish.sampling, wish.seed, sequence.answer, history, mask, row);
    chosen.ok_or_else(|| {
        let reason = "no token is allowed here".to_owned();
        FinishReason::Error(EngineError::Constraint { reason })
    })
}

/// An answer's constraint, which has spoken.
fn turn<'a>(job: &'a mut Job, sequence: &Sequence) -> Option<&'a mut Turn> {
    job.constraints.get_mut(sequence.answer as usize)?.turn()
}

/// A prompt of one token has a first token and nothing that predicts another.
fn score_first(job: &mut Job, sequence: &Sequence) {
    job.scores.push(TokenLogprob { id: sequence.tokens[0], logprob: None, top: Vec::new() });
    job.scored = 1;
}

fn pool(job: &mut Job, hidden_state: &[f32]) {
    for (sum, &x) in job.pooled.iter_mut().zip(hidden_state) {
        *sum += f64::from(x);
    }
    job.n_pooled += 1;
}

/// The pooled vector with Euclidean length 1; `None` where it is not finite.
fn embedding(job: &mut Job) -> Option<Vec<f32>> {
    let n = job.n_pooled.max(1) as f64;
    let norm = job.pooled.iter().map(|x| (x / n).powi(2)).sum::<f64>().sqrt();
    if !norm.is_finite() {
        return None;
    }
    let scale = if norm > 0.0 { 1.0 / (n * norm) } else { 0.0 };
    Some(job.pooled.iter().map(|x| (x * scale) as f32).collect())
}
