//! Drafts for the next step, made at the end of each.

use std::time::Duration;

use levain_kernels::KernelError;

use super::Worker;
use super::predict::Drafter;
#[cfg(doc)]
use crate::arch::Model;
use crate::error::EngineError;
use crate::sequence::Sequence;
use crate::spec::{DRAFT_TOKENS_MAX, Gate, Turn};

/// Where drafts come from.
#[derive(Debug, Default)]
pub(crate) enum DraftSource {
    #[default]
    Off,
    /// The text so far.
    Lookup,
    /// A layer or a model that predicts.
    Drafter(Box<Drafter>),
}

impl DraftSource {
    /// Bytes of a drafting model's weights that are not packed yet.
    pub(super) fn unpacked_bytes(&self) -> usize {
        match self {
            Self::Drafter(drafter) => drafter.model().map_or(0, |model| model.unpacked_bytes()),
            Self::Off | Self::Lookup => 0,
        }
    }

    /// Packs a drafting model's weights, see [`Model::pack`].
    pub(super) fn pack(&mut self, time: Duration) -> Result<(), KernelError> {
        match self {
            Self::Drafter(drafter) => drafter.model_mut().map_or(Ok(()), |model| model.pack(time)),
            Self::Off | Self::Lookup => Ok(()),
        }
    }

    /// Whether drafts begin with the model's states at the end of each text.
    pub(super) fn begins_with_states(&self) -> bool {
        matches!(self, Self::Drafter(drafter) if drafter.is_layer())
    }
}

impl Worker {
    /// Drafts tokens for the sequences whose next step may verify some.
    pub(super) fn draft(&mut self) -> Result<(), EngineError> {
        // If drafting panics, the source is lost and speculation is off.
        let mut source = std::mem::take(&mut self.source);
        let result = match &mut source {
            DraftSource::Off => Ok(()),
            DraftSource::Lookup => {
                self.look_up();
                Ok(())
            }
            DraftSource::Drafter(drafter) => self.predict(drafter),
        };
        self.source = source;
        result
    }

    fn look_up(&mut self) {
        let sequences = self.scheduler.n_running();
        let gate = &self.gate;
        self.scheduler.for_each_running(|sequence| {
            let Turn::Draft(count @ 1..) = turn(gate, sequence, sequences) else { return };
            let Some(drafts) = sequence.drafts.as_deref_mut() else { return };
            if let Some(ngram) = &mut drafts.ngram {
                ngram.draft(&sequence.tokens, count, &mut drafts.tokens);
            }
        });
    }

    /// Learns from what became of the step's drafts, and forgets them. Returns how many of them were right.
    pub(super) fn note_drafts(&mut self) -> usize {
        let mut accepted = 0;
        for chunk in self.batch.chunks.iter().filter(|chunk| chunk.drafted > 0) {
            let Some(sequence) = self.scheduler.get_mut(chunk.sequence) else { continue };
            let Some(drafts) = sequence.drafts.as_deref_mut() else { continue };
            accepted += drafts.accepted;
            self.gate.note_drafts(&mut drafts.policy, chunk.drafted, drafts.accepted);
            if let (DraftSource::Drafter(drafter), Some(window)) = (&self.source, &mut drafts.window) {
                drafter.note_accepted(window, drafts.tokens.len(), drafts.accepted);
            }
        }
        self.scheduler.for_each_running(|sequence| {
            if let Some(drafts) = sequence.drafts.as_deref_mut() {
                drafts.tokens.clear();
                drafts.accepted = 0;
            }
        });
        accepted
    }
}

/// What to do for a sequence, with `sequences` in a step. Nothing can be verified before an answer has begun, nor
/// behind its end.
pub(super) fn turn(gate: &Gate, sequence: &mut Sequence, sequences: usize) -> Turn {
    let generating = sequence.remaining() == 1 && sequence.tokens.len() > sequence.prompt_len;
    let room = sequence.len_max.saturating_sub(sequence.tokens.len() + 1).min(DRAFT_TOKENS_MAX);
    match sequence.drafts.as_deref_mut() {
        Some(drafts) if generating && room > 0 => gate.turn(&mut drafts.policy, sequences, room),
        _ => Turn::Rest,
    }
}
