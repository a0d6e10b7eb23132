//! From logits to a token.
//!
//! The order is fixed: constraint, logit bias, repetition penalty, presence and frequency penalties, temperature,
//! top-k, top-p, min-p, draw. Nothing is sorted but the few tokens that can still be drawn, and nothing is allocated:
//! a vocabulary has 150 thousand entries and this runs for every token.

mod mask;
mod params;
pub(crate) mod rng;
mod scan;
mod select;

pub use mask::TokenMask;
pub use params::{LOGIT_BIAS_MAX, SamplingParams};

use select::Selector;

/// What a sequence has so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct History<'a> {
    pub(crate) prompt: &'a [u32],
    pub(crate) generated: &'a [u32],
}

/// Scratch for choosing tokens, for a vocabulary of one size.
#[derive(Debug)]
pub(crate) struct Sampler {
    /// One entry a token: bit 31 says that it stands in prompt or answer, the rest counts it in the answer. All
    /// zero between calls.
    counts: Vec<u32>,
    selector: Selector,
}

const SEEN: u32 = 1 << 31;

impl Sampler {
    pub(crate) fn new(vocab_size: usize) -> Self {
        Self { counts: vec![0; vocab_size], selector: Selector::new(vocab_size) }
    }

    /// Chooses a token from `logits` `[vocab]`, which it changes. `None` when nothing may be chosen.
    ///
    /// `answer` and the history's length pick the random number, see [`rng`].
    pub(crate) fn sample(
        &mut self,
        params: &SamplingParams,
        seed: u64,
        answer: u32,
        history: History<'_>,
        mask: Option<&TokenMask>,
        logits: &mut [f32],
    ) -> Option<u32> {
        if let Some(mask) = mask {
            mask.apply(logits);
        }
        for &(token, bias) in &params.logit_bias {
            logits[token as usize] += bias;
        }
        if params.has_penalties() {
            self.penalise(params, history, logits);
        }
        if params.is_greedy() {
            return scan::argmax(logits);
        }
        let position = history.prompt.len() + history.generated.len();
        let u = rng::uniform(seed, answer, position);
        self.selector.draw(params, u, logits)
    }

    /// The log-probability of `token` under `logits`, and the `top` likeliest tokens, best first.
    pub(crate) fn logprobs(&mut self, logits: &[f32], token: u32, top: usize) -> (f32, Vec<(u32, f32)>) {
        let log_sum = scan::log_sum_exp(logits);
        let logprob = |logit: f32| (f64::from(logit) - log_sum) as f32;
        let mut likeliest = Vec::new();
        if top > 0 {
            let best = self.selector.greatest(logits, top);
            likeliest.extend(best.iter().map(|&(logit, id)| (id, logprob(logit))));
        }
        (logprob(logits[token as usize]), likeliest)
    }

    fn penalise(&mut self, params: &SamplingParams, history: History<'_>, logits: &mut [f32]) {
        for &token in history.prompt {
            self.counts[token as usize] |= SEEN;
        }
        for &token in history.generated {
            let count = &mut self.counts[token as usize];
            *count = (*count | SEEN) + 1;
        }
        for &token in history.prompt.iter().chain(history.generated) {
            let count = std::mem::take(&mut self.counts[token as usize]);
            // A token met before has been dealt with: its count is zero again.
            if count == 0 {
                continue;
            }
            let logit = &mut logits[token as usize];
            if *logit > 0.0 {
                *logit /= params.repetition_penalty;
            } else {
                *logit *= params.repetition_penalty;
            }
            let times = count & !SEEN;
            if times > 0 {
                *logit -= params.presence_penalty + params.frequency_penalty * times as f32;
            }
        }
    }
}

pub(crate) use scan::all_finite;

#[cfg(test)]
mod tests;
