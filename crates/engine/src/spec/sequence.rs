//! What a sequence carries along for speculation.

use super::{DraftPolicy, NgramDrafter};

/// The most tokens drafted for one step.
pub(crate) const DRAFT_TOKENS_MAX: usize = 8;

/// Drafts of one sequence and what became of them.
#[derive(Debug)]
pub(crate) struct Drafts {
    pub(crate) ngram: NgramDrafter,
    pub(crate) policy: DraftPolicy,
    /// Tokens drafted for the step that is being made; empty between steps.
    pub(crate) tokens: Vec<u32>,
    /// How many of them the step has accepted so far.
    pub(crate) accepted: usize,
}

impl Drafts {
    /// For a sequence of up to `len_max` tokens.
    pub(crate) fn new(len_max: usize) -> Self {
        Self {
            ngram: NgramDrafter::new(len_max),
            policy: DraftPolicy::default(),
            tokens: Vec::with_capacity(DRAFT_TOKENS_MAX),
            accepted: 0,
        }
    }
}
