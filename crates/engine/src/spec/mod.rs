//! Speculative decoding: tokens are drafted cheaply and verified together in one step.
//!
//! A drafted token is accepted when it is the very token that the sampler chooses from the model's logits. Logits
//! do not depend on how many rows a step has, and the sampler's choice only on logits, seed and position: so the
//! answer is the one that plain decoding gives, token for token, greedy or sampled, whatever the drafts are.

mod ngram;
mod policy;
mod sequence;

pub(crate) use ngram::NgramDrafter;
pub(crate) use policy::{DraftPolicy, StepTimes};
pub(crate) use sequence::{DRAFT_TOKENS_MAX, Drafts};
