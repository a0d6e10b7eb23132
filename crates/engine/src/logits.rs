//! The logits of a whole text, for whoever compares models.

use std::sync::Arc;
use std::time::Duration;

use levain_kernels::{Pool, SeqRows};
use levain_weights::Checkpoint;

use crate::arch::{LoadOptions, Model};
use crate::config::{EngineConfig, ExpandedPrompts};
use crate::error::EngineError;
use crate::memory::free_memory;
use crate::ops::{BatchRows, ForwardBatch};
use crate::plan::{self, BLOCK_LEN};

/// Rows of a step.
const STEP_ROWS: usize = 256;
/// Rows whose logits are computed together.
const LOGIT_ROWS: usize = 16;

/// Computes the logits that follow each token of a text and hands them to `each`, position by position, as a row of
/// the vocabulary's size. They are, bit for bit, those that an [`crate::Engine`] with the same `config` samples from.
///
/// # Errors
/// If the model can't be loaded, there is no token or one that the model does not have, or there are more than its
/// context holds.
pub fn logits(
    checkpoint: &Checkpoint,
    config: &EngineConfig,
    tokens: &[u32],
    mut each: impl FnMut(usize, &[f32]),
) -> Result<(), EngineError> {
    let model_config = checkpoint.config()?;
    let vocab_size = model_config.vocab_size;
    if tokens.is_empty() {
        return Err(EngineError::EmptyPrompt);
    }
    if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab_size) {
        return Err(EngineError::TokenOutOfRange { token, vocab_size });
    }
    let expanded_from = config.expanded_from(&model_config);
    let expanded_prompts = expanded_from.map_or(ExpandedPrompts::Never, ExpandedPrompts::From);
    let config = EngineConfig {
        expanded_prompts,
        context_length: Some(tokens.len()),
        max_num_seqs: 1,
        max_num_batched_tokens: STEP_ROWS,
        ..config.clone()
    };
    let plan = plan::plan(checkpoint, &config, free_memory())?;
    let mut kv = plan::allocate(&model_config, &config, &plan)?;
    let options = LoadOptions {
        rows_max: STEP_ROWS,
        logit_rows_max: LOGIT_ROWS,
        context_length: plan.context_length,
        expert_cache_bytes: plan.expert_cache_bytes,
        mtp: plan::loads_mtp(&model_config, &config),
        expanded_from,
        prefetch: config.prefetch,
    };
    let pool = Arc::new(Pool::new(config.resolved_threads()));
    let mut model = Model::load(checkpoint, &model_config, pool, &options)?;
    model.pack(Duration::MAX)?;
    let end = tokens.len() / BLOCK_LEN * BLOCK_LEN;
    let expanded = expanded_from.map_or(0..0, |from| from.next_multiple_of(BLOCK_LEN)..end);
    let table: Vec<u32> = (0..plan.n_blocks() as u32).collect();
    let mut row = vec![0.0; LOGIT_ROWS * vocab_size];
    for (step, tokens) in tokens.chunks(STEP_ROWS).enumerate() {
        let first = step * STEP_ROWS;
        // The blocks lie in order, so a position is its own place in the cache.
        let positions: Vec<u32> = (first..first + tokens.len()).map(|position| position as u32).collect();
        let rows = SeqRows { block_table: &table, first_row: 0, n_rows: tokens.len(), first_position: first };
        let batch = ForwardBatch {
            tokens,
            slots: &positions,
            rows: BatchRows {
                positions: &positions,
                sequences: &[rows],
                expanded: std::slice::from_ref(&expanded),
            },
            wanted: None,
        };
        model.forward(&batch, &mut kv)?;
        for begin in (0..tokens.len()).step_by(LOGIT_ROWS) {
            let end = tokens.len().min(begin + LOGIT_ROWS);
            let rows = &mut row[..(end - begin) * vocab_size];
            model.logits(begin..end, rows)?;
            for (offset, row) in rows.chunks_exact(vocab_size).enumerate() {
                each(first + begin + offset, row);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::path::Path;
    use std::sync::mpsc;

    use super::*;
    use crate::{Engine, Event, Request};

    fn checkpoint(name: &str) -> Checkpoint {
        Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
    }

    /// Longer than a step, so that steps have to fit together.
    fn text() -> Vec<u32> {
        (0..300_u32).map(|i| (i * i + 7 * i) % 250).collect()
    }

    #[test]
    fn they_are_those_that_the_engine_scores_with() {
        let (checkpoint, tokens) = (checkpoint("qwen2.5"), text());
        let config = EngineConfig { threads: 2, ..EngineConfig::default() };
        let mut scores = Vec::new();
        logits(&checkpoint, &config, &tokens, |position, row| {
            assert_eq!(position, scores.len());
            let next = tokens.get(position + 1).map(|&token| row[token as usize]);
            let best = (0..row.len()).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
            scores.push((next, best as u32, row[best]));
        })
        .unwrap();
        assert_eq!(scores.len(), tokens.len());
        let (sender, receiver) = mpsc::channel();
        let engine = Engine::load(&checkpoint, config).unwrap();
        let mut request = Request::new(tokens.clone(), move |event| {
            if let Event::PromptLogprobs { entries, .. } = event {
                entries.into_iter().for_each(|entry| sender.send(entry).unwrap());
            }
            ControlFlow::Continue(())
        });
        request.prompt_logprobs = Some(1);
        request.max_tokens = Some(0);
        let _handle = engine.submit(request).unwrap();
        let scored: Vec<_> = receiver.iter().take(tokens.len()).collect();
        for (entry, (next, best, highest)) in scored[1..].iter().zip(&scores) {
            assert_eq!(entry.top[0].0, *best);
            // Differences of log-probabilities are those of logits.
            let (ours, theirs) = (next.unwrap() - highest, entry.logprob.unwrap() - entry.top[0].1);
            assert!((ours - theirs).abs() <= 1e-5 * (1.0 + highest.abs()), "{ours} {theirs}");
        }
    }

    #[test]
    fn what_no_model_takes_is_refused() {
        let (checkpoint, config) = (checkpoint("qwen2.5"), EngineConfig::default());
        let refused = |tokens: &[u32]| logits(&checkpoint, &config, tokens, |_, _| {}).unwrap_err();
        assert!(matches!(refused(&[]), EngineError::EmptyPrompt));
        assert!(matches!(refused(&[u32::MAX]), EngineError::TokenOutOfRange { .. }));
        assert!(matches!(refused(&vec![1; 1 << 20]), EngineError::Setting { .. }));
    }
}
