//! Speculative decoding: tokens are drafted cheaply and verified together in one step.
//!
//! A drafted token is accepted when it is the very token that the sampler chooses from the model's logits. Logits
//! do not depend on how many rows a step has, and the sampler's choice only on logits, seed and position: so the
//! answer is the one that plain decoding gives, token for token, greedy or sampled, whatever the drafts are.
//!
//! Drafts come from the text itself ([`NgramDrafter`]), from the model's own layer for multi-token prediction, or
//! from a second model; `worker/draft.rs` and `worker/predict.rs` make them. [`Gate`] decides how many.

mod gate;
mod ngram;
mod sequence;
mod windows;

pub(crate) use gate::{DraftPolicy, Gate, Turn};
pub(crate) use ngram::NgramDrafter;
pub(crate) use sequence::{DRAFT_TOKENS_MAX, Drafts, MakeDrafts};
pub(crate) use windows::{WINDOW_LEN, WINDOW_START_MAX, Window, Windows};
