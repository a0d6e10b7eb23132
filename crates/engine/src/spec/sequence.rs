//! What a sequence carries along for speculation.

use super::{DraftPolicy, NgramDrafter, Window};

/// The most tokens drafted for one step.
pub(crate) const DRAFT_TOKENS_MAX: usize = 8;

/// Makes what a sequence of up to so many tokens carries along.
pub(crate) type MakeDrafts = fn(usize) -> Drafts;

/// Drafts of one sequence and what became of them.
#[derive(Debug)]
pub(crate) struct Drafts {
    /// Where drafts come from the text.
    pub(crate) ngram: Option<NgramDrafter>,
    /// What a drafting layer or model has of the sequence.
    pub(crate) window: Option<Window>,
    pub(crate) policy: DraftPolicy,
    /// Tokens drafted for the next step; empty while one is made.
    pub(crate) tokens: Vec<u32>,
    /// How many of them the step has accepted so far.
    pub(crate) accepted: usize,
    /// Tokens that steps have verified so far.
    pub(crate) drafted_total: usize,
    /// Those of them that were right.
    pub(crate) accepted_total: usize,
}

impl Drafts {
    /// Without a drafter of its own.
    pub(crate) fn new() -> Self {
        Self {
            ngram: None,
            window: None,
            policy: DraftPolicy::default(),
            tokens: Vec::with_capacity(DRAFT_TOKENS_MAX),
            accepted: 0,
            drafted_total: 0,
            accepted_total: 0,
        }
    }

    /// From a text of up to `len_max` tokens.
    pub(crate) fn by_lookup(len_max: usize) -> Self {
        Self { ngram: Some(NgramDrafter::new(len_max)), ..Self::new() }
    }
}
