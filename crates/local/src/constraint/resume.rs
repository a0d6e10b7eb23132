//! An answer that goes on with what has been said already.

use std::sync::Arc;

use super::{AnswerConstraint, Run};

impl AnswerConstraint {
    /// Takes what the prompt has said of the answer, of which nothing counts as generated.
    ///
    /// # Errors
    /// If nothing that is allowed can begin so.
    pub(crate) fn resume(&mut self, said: &str) -> Result<(), String> {
        let tokens = Arc::clone(&self.table)
            .spell(said)
            .ok_or_else(|| "this model's vocabulary can't spell it character by character".to_owned())?;
        // A spent budget would force the closing tag into what was said.
        let budget = self.thinking.as_mut().and_then(|phase| phase.budget.take());
        for token in tokens {
            let taken = levain_engine::Constraint::accept(self, token);
            let dead = matches!(self.run, Run::Dead)
                && self.thinking.as_ref().is_none_or(|phase| phase.splitter.is_answering());
            if taken.is_err() || dead {
                return Err(
                    "its text is not the beginning of anything that the format, or the call of a function \
                            that is required, allows"
                        .to_owned(),
                );
            }
        }
        if let Some(phase) = &mut self.thinking {
            phase.budget = budget;
            phase.spent = 0;
        }
        Ok(())
    }
}
