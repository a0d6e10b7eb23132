//! Drafts from what has learnt to predict: the model's own layer for multi-token prediction, or a second model.
//!
//! Both see a row for each position of a sequence that is new to them, and then one row for each further token. The
//! layer's rows begin with the model's states, so it sees what a step has computed or never; a model catches up with
//! the text whenever it is asked.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use levain_kernels::{KvCache, KvLayout, Pool, SeqRows};
use levain_weights::{Checkpoint, ModelConfig};

use super::draft::turn;
use super::{Worker, recycle};
use crate::arch::{AheadOf, LoadOptions, Model};
use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::ops::{BatchRows, ForwardBatch};
use crate::plan;
use crate::sampling::{History, all_finite};
use crate::sequence::SequenceId;
use crate::spec::{DRAFT_TOKENS_MAX, Turn, WINDOW_LEN, WINDOW_START_MAX, Window, Windows};

/// Rows of a first pass beyond which they are what a model has missed, and not what a token costs.
const ROWS_OF_A_TOKEN: usize = DRAFT_TOKENS_MAX + 1;

/// Something that predicts, with its cache.
#[derive(Debug)]
pub(crate) struct Drafter {
    predictor: Predictor,
    kv: KvCache,
    windows: Windows,
    /// The most rows it takes at a time.
    rows_max: usize,
    lists: Lists,
}

enum Predictor {
    /// The model's own layer behind its last.
    Layer,
    /// Another model with the same tokens; its logits are `[logit_rows, vocab]`.
    Model { model: Box<Model>, logits: Vec<f32> },
}

impl fmt::Debug for Predictor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Layer => "Layer",
            Self::Model { .. } => "Model",
        })
    }
}

/// Lists that are reused from pass to pass.
#[derive(Debug, Default)]
struct Lists {
    spans: Vec<Span>,
    drafting: Vec<Drafting>,
    /// Rows of the step, or of the last pass, that the layer goes on from.
    rows: Vec<usize>,
    tokens: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<u32>,
    /// Empty between passes; kept for its memory.
    sequences: Vec<SeqRows<'static>>,
}

/// Positions of a sequence that a pass computes.
#[derive(Debug, Clone, Copy)]
struct Span {
    sequence: SequenceId,
    window: Window,
    first: usize,
    len: usize,
}

/// A sequence that is being drafted for.
#[derive(Debug, Clone, Copy)]
struct Drafting {
    sequence: SequenceId,
    window: Window,
    /// Its last row of the pass.
    row: usize,
    /// That row's position.
    position: usize,
    /// Tokens still to be drafted.
    left: usize,
}

impl Drafter {
    /// With the model's own layer.
    pub(crate) fn layer(
        config: &ModelConfig,
        engine: &EngineConfig,
        all_f32: bool,
    ) -> Result<Self, EngineError> {
        let layout = plan::layer_window_layout(config, engine, all_f32);
        Self::new(Predictor::Layer, layout, engine)
    }

    /// With a model of its own, which is loaded here.
    pub(crate) fn of_model(
        checkpoint: &Checkpoint,
        engine: &EngineConfig,
        pool: Arc<Pool>,
    ) -> Result<Self, EngineError> {
        let config = checkpoint.config()?;
        let layout = plan::draft_window_layout(checkpoint, &config, engine);
        let logit_rows = plan::logit_rows(engine);
        let options = LoadOptions {
            rows_max: engine.max_num_batched_tokens,
            logit_rows_max: logit_rows,
            context_length: WINDOW_LEN,
            expert_cache_bytes: None,
            mtp: false,
            expanded_from: None,
            prefetch: engine.prefetch,
        };
        let model = Box::new(Model::load(checkpoint, &config, pool, &options)?);
        let logits = vec![0.0; logit_rows * model.vocab_size()];
        Self::new(Predictor::Model { model, logits }, layout, engine)
    }

    fn new(predictor: Predictor, layout: KvLayout, engine: &EngineConfig) -> Result<Self, EngineError> {
        let (rows, seqs) = (engine.max_num_batched_tokens, engine.max_num_seqs);
        let lists = Lists {
            spans: Vec::with_capacity(seqs),
            drafting: Vec::with_capacity(seqs),
            rows: Vec::with_capacity(rows),
            tokens: Vec::with_capacity(rows),
            positions: Vec::with_capacity(rows),
            slots: Vec::with_capacity(rows),
            sequences: Vec::with_capacity(seqs),
        };
        let kv = KvCache::new(layout, Windows::n_blocks(seqs, layout.block_len))?;
        let windows = Windows::new(seqs, layout.block_len);
        Ok(Self { predictor, kv, windows, rows_max: rows, lists })
    }

    /// The model that drafts, where it is one of its own.
    pub(super) fn model(&self) -> Option<&Model> {
        match &self.predictor {
            Predictor::Model { model, .. } => Some(model),
            Predictor::Layer => None,
        }
    }

    /// [`Drafter::model`], to be changed.
    pub(super) fn model_mut(&mut self) -> Option<&mut Model> {
        match &mut self.predictor {
            Predictor::Model { model, .. } => Some(model),
            Predictor::Layer => None,
        }
    }

    /// Whether it is the model's own layer, which goes on from the model's states.
    pub(super) fn is_layer(&self) -> bool {
        matches!(self.predictor, Predictor::Layer)
    }

    /// Keeps what a model has computed of its own drafts where they were right; the last one it has not seen. The
    /// layer guessed states too, and will see the true ones.
    pub(super) fn note_accepted(&self, window: &mut Window, drafted: usize, accepted: usize) {
        if matches!(self.predictor, Predictor::Model { .. }) {
            window.len += accepted.min(drafted.saturating_sub(1));
        }
    }
}

/// The first position that the layer sees of those from `start` to `end` that a step has computed: of a long prompt
/// the end is enough.
pub(super) fn first_of_layer(start: usize, end: usize, prompt_len: usize) -> usize {
    start.max(end.max(prompt_len).saturating_sub(WINDOW_START_MAX))
}

impl Worker {
    /// Lets the drafter see what is new, and draft for the sequences that can use it.
    pub(super) fn predict(&mut self, drafter: &mut Drafter) -> Result<(), EngineError> {
        let start = Instant::now();
        let sequences = self.scheduler.n_running();
        let lists = &mut drafter.lists;
        lists.spans.clear();
        lists.drafting.clear();
        lists.rows.clear();
        match drafter.predictor {
            Predictor::Layer => self.list_step_rows(drafter, sequences),
            Predictor::Model { .. } => self.list_missed_rows(drafter, sequences),
        }
        let rows: usize = drafter.lists.spans.iter().map(|span| span.len).sum();
        if rows == 0 {
            return Ok(());
        }
        self.pass(drafter, true)?;
        let mut start = start;
        if rows > ROWS_OF_A_TOKEN * sequences || drafter.lists.drafting.is_empty() {
            self.gate.note_missed(rows, start.elapsed().as_secs_f64());
            start = Instant::now();
        }
        let mut drafted = 0;
        while !drafter.lists.drafting.is_empty() {
            drafted += self.take_drafts(drafter);
            let Lists { spans, drafting, rows, .. } = &mut drafter.lists;
            drafting.retain(|drafting| drafting.left > 0);
            if drafting.is_empty() {
                break;
            }
            spans.clear();
            rows.clear();
            for (index, drafting) in drafting.iter_mut().enumerate() {
                rows.push(drafting.row);
                (drafting.row, drafting.position) = (index, drafting.position + 1);
                let &mut Drafting { sequence, window, position: first, .. } = drafting;
                spans.push(Span { sequence, window, first, len: 1 });
            }
            self.pass(drafter, false)?;
        }
        if drafted > 0 {
            self.gate.note_drafting(sequences, drafted, start.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// Lists the step's rows whose next token is known, for the layer, and whom to draft for.
    fn list_step_rows(&mut self, drafter: &mut Drafter, sequences: usize) {
        let Drafter { windows, lists, .. } = drafter;
        let mut first_row = 0;
        for chunk in &self.batch.chunks {
            let row = first_row;
            first_row += chunk.rows();
            let Some(sequence) = self.scheduler.get_mut(chunk.sequence) else { continue };
            // The layer needs the next token of each row.
            let end = sequence.num_computed.min(sequence.tokens.len() - 1);
            let first = first_of_layer(chunk.positions.start, end, sequence.prompt_len);
            let in_prompt = sequence.tokens.len() == sequence.prompt_len;
            let count = match turn(&self.gate, sequence, sequences) {
                Turn::Draft(count) => count,
                Turn::Rest if in_prompt => 0,
                // While drafting does not pay the layer is left alone too.
                Turn::Rest => continue,
            };
            let Some(drafts) = sequence.drafts.as_deref_mut().filter(|_| first < end) else { continue };
            let fits = |window: &Window| window.len + (end - first) + DRAFT_TOKENS_MAX <= WINDOW_LEN;
            let window = match drafts.window.filter(|window| windows.holds(window)) {
                Some(window) if window.end() == first && fits(&window) => window,
                _ => windows.open(first),
            };
            let window = window.up_to(end);
            drafts.window = Some(window);
            let n = lists.rows.len();
            lists.rows.extend(row + (first - chunk.positions.start)..row + (end - chunk.positions.start));
            lists.spans.push(Span { sequence: chunk.sequence, window, first, len: end - first });
            if count > 0 {
                let (row, position) = (n + (end - first) - 1, end - 1);
                lists.drafting.push(Drafting {
                    sequence: chunk.sequence,
                    window,
                    row,
                    position,
                    left: count,
                });
            }
        }
    }

    /// Lists the positions of running answers that a model has not seen, and whom to draft for.
    fn list_missed_rows(&mut self, drafter: &mut Drafter, sequences: usize) {
        let Drafter { windows, lists, rows_max, .. } = drafter;
        let mut rows = 0;
        for chunk in &self.batch.chunks {
            let Some(sequence) = self.scheduler.get_mut(chunk.sequence) else { continue };
            let Turn::Draft(count @ 1..) = turn(&self.gate, sequence, sequences) else { continue };
            let len = sequence.tokens.len();
            let Some(drafts) = sequence.drafts.as_deref_mut() else { continue };
            let affordable = self.gate.window_start(len);
            let fits = |window: &Window| {
                let (seen, missed) = (len - window.start, len - window.end());
                // One that began small, because nothing was known yet, gives way to a larger one.
                let small = window.start > 0 && 4 * seen <= affordable;
                seen + DRAFT_TOKENS_MAX <= WINDOW_LEN && missed <= affordable && !small
            };
            let window = match drafts.window.filter(|window| windows.holds(window)) {
                Some(window) if fits(&window) => window,
                _ => windows.open(len - affordable),
            };
            let first = window.end();
            let end = len.min(first + (*rows_max - rows));
            let window = window.up_to(end);
            drafts.window = Some(window);
            if first == end {
                continue;
            }
            rows += end - first;
            lists.spans.push(Span { sequence: chunk.sequence, window, first, len: end - first });
            // One that is still behind goes on in the next turn.
            if end == len {
                let (sequence, row, position) = (chunk.sequence, rows - 1, end - 1);
                lists.drafting.push(Drafting { sequence, window, row, position, left: count });
            }
        }
    }

    /// Computes the listed positions: `first` of the step's rows or of the text, or one row behind the last pass.
    fn pass(&mut self, drafter: &mut Drafter, first: bool) -> Result<(), EngineError> {
        let Drafter { predictor, kv, windows, lists, .. } = drafter;
        let Lists { spans, rows, tokens, positions, slots, sequences, .. } = lists;
        tokens.clear();
        positions.clear();
        slots.clear();
        // The layer's row at a position takes the token behind it; tokens that a model does not have are rare, and
        // any other does as well.
        let (shift, vocab) = match predictor {
            Predictor::Layer => (1, self.model.vocab_size()),
            Predictor::Model { model, .. } => (0, model.vocab_size()),
        };
        let mut all: Vec<SeqRows<'_>> = recycle(std::mem::take(sequences));
        for span in spans.iter() {
            let Some(sequence) = self.scheduler.get(span.sequence) else { continue };
            let (block_table, slot) = windows.place(&span.window);
            let (first_row, first_position) = (tokens.len(), span.first - span.window.start);
            all.push(SeqRows { block_table, first_row, n_rows: span.len, first_position });
            let text = sequence.tokens.iter().chain(sequence.drafted()).skip(span.first + shift);
            let known = |&token: &u32| if (token as usize) < vocab { token } else { 0 };
            tokens.extend(text.take(span.len).map(known));
            for position in first_position..first_position + span.len {
                positions.push(position as u32);
                slots.push((slot + position) as u32);
            }
        }
        let batch = ForwardBatch {
            tokens,
            slots,
            rows: BatchRows { positions, sequences: &all, expanded: &[] },
            wanted: None,
        };
        let result = match predictor {
            Predictor::Layer => {
                let rows = if first { AheadOf::Step(rows) } else { AheadOf::Prediction(rows) };
                self.model.predict_ahead(&batch, kv, rows).map(|_| ())
            }
            Predictor::Model { model, .. } => model.forward(&batch, kv),
        };
        *sequences = recycle(all);
        result
    }

    /// Takes a token from each row that is drafted from, and returns how many.
    fn take_drafts(&mut self, drafter: &mut Drafter) -> usize {
        let vocab = self.model.vocab_size();
        let mut taken = 0;
        let mut rows = [0; 16];
        let mut row = std::mem::take(&mut self.sampling.raw);
        let mut own = std::mem::take(&mut self.sampling.logits);
        for group in drafter.lists.drafting.chunks_mut(self.sampling.logit_rows.min(rows.len())) {
            let rows = &mut rows[..group.len()];
            for (row, drafting) in rows.iter_mut().zip(group.iter()) {
                *row = drafting.row;
            }
            let (logits, n) = match &mut drafter.predictor {
                Predictor::Layer => {
                    self.model.ahead_logits(rows, &mut own[..rows.len() * vocab]);
                    (&own, vocab)
                }
                Predictor::Model { model, logits } => {
                    let n = model.vocab_size();
                    if model.logits(rows.iter().copied(), &mut logits[..rows.len() * n]).is_err() {
                        // Its weights are damaged, which packing them will say.
                        group.iter_mut().for_each(|drafting| drafting.left = 0);
                        continue;
                    }
                    (&*logits, n)
                }
            };
            for (drafting, logits) in group.iter_mut().zip(logits.chunks_exact(n)) {
                let same = n.min(vocab);
                row[..same].copy_from_slice(&logits[..same]);
                row[same..].fill(f32::NEG_INFINITY);
                let token =
                    if all_finite(&row[..same]) { self.guess(drafting.sequence, &mut row) } else { None };
                drafting.left = if token.is_some() { drafting.left - 1 } else { 0 };
                taken += usize::from(token.is_some());
            }
        }
        (self.sampling.raw, self.sampling.logits) = (row, own);
        taken
    }

    /// Drafts the token that the sampler would choose from these logits: with the sequence's own parameters and
    /// random numbers, so that logits which are nearly the model's give nearly always the model's token. `None`
    /// where the answer would end.
    fn guess(&mut self, id: SequenceId, row: &mut [f32]) -> Option<u32> {
        let sequence = self.scheduler.get_mut(id)?;
        let wish = &self.jobs.get(sequence.job)?.as_ref()?.wish;
        let drafts = sequence.drafts.as_deref_mut()?;
        // What was drafted before counts as generated; there is room for it.
        let len = sequence.tokens.len();
        sequence.tokens.extend_from_slice(&drafts.tokens);
        let (prompt, generated) = sequence.tokens.split_at(sequence.prompt_len);
        let history = History { prompt, generated };
        let sampler = &mut self.sampling.sampler;
        let token = sampler.sample(&wish.sampling, wish.seed, sequence.answer, history, None, row);
        sequence.tokens.truncate(len);
        let token = token.filter(|token| !wish.stop_token_ids.contains(token))?;
        drafts.tokens.push(token);
        Some(token)
    }
}
