//! Doors for fuzz targets and tests of mutants into what the crate hides. No part of the interface.

use std::io;
use std::sync::Arc;

use levain_chat::{ProviderError, ResponseFormat};
use levain_engine::Constraint;
use serde_json::Value;

use crate::constraint::{AnswerConstraint, Body, Thinking};
use crate::guide::{Guide, Source, check_schema};
use crate::reasoning::{PromptState, ThinkTags};
use crate::schema;
use crate::table::TokenTable;

/// As a schema's compiler has it.
const STACK_BYTES: usize = 64 << 20;

/// Compiles grammars over a vocabulary.
pub struct Grammars {
    table: Arc<TokenTable>,
    guide: Arc<Guide>,
    runtime: tokio::runtime::Runtime,
}

impl Grammars {
    /// For a vocabulary of these tokens.
    ///
    /// # Errors
    /// If the system gives no runtime.
    pub fn new(words: &[Vec<u8>]) -> io::Result<Self> {
        let word = |id: u32| words.get(id as usize).map(Vec::as_slice).unwrap_or_default();
        let table = Arc::new(TokenTable::new(words.len(), word));
        let guide = Arc::new(Guide::new(Arc::clone(&table)));
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        Ok(Self { table, guide, runtime })
    }

    /// The constraint of an answer in `format`; with a budget, behind thinking of so many tokens.
    ///
    /// # Errors
    /// A format that is refused.
    pub fn compile(
        &self,
        format: &ResponseFormat,
        budget: Option<u32>,
    ) -> Result<Box<dyn Constraint>, ProviderError> {
        let body = match Source::of_format(format)? {
            Some(source) => Body::Guided(self.runtime.block_on(self.guide.compile(source, None))?),
            None => Body::Free,
        };
        let tags = ThinkTags { open: "<think>".to_owned(), close: "</think>".to_owned() };
        let closing = self.table.spell("\n</think>\n\n").unwrap_or_default().into();
        let thinking = budget.map(|budget| Thinking {
            tags,
            prompt: if budget % 2 == 0 { PromptState::Open } else { PromptState::Before },
            budget: Some(budget),
            closing,
        });
        let free = || ProviderError::Internal("nothing is constrained".to_owned());
        let constraint = AnswerConstraint::new(&self.table, thinking, body).ok_or_else(free)?;
        Ok(Box::new(constraint))
    }
}

/// The schema that a grammar is made of.
///
/// # Errors
/// What is told to whoever wrote the schema.
pub fn enforce(schema: &Value, lenient: bool) -> Result<Value, String> {
    check_schema("response_format", schema).map_err(|error| error.to_string())?;
    let work = || schema::enforce(schema, lenient).map(|enforced| enforced.schema);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
        let enforced = thread.map_err(|error| error.to_string())?.join();
        // A panic is the caller's to see.
        enforced
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            .map_err(|problem| problem.to_string())
    })
}
