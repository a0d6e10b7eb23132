//! The engine as a [`Provider`](levain_chat::Provider): chat template → tokens → engine → text, thinking and
//! tool calls.
//!
//! [`LocalModel`] loads a checkpoint with its vocabulary, template and habits; [`LocalProvider`] answers requests with
//! one or several of them. What a request asks for is honoured or refused before anything is generated.
//!
//! - Thinking is parted from the answer by [`ReasoningSplitter`], timed and counted where it happens, and closed by
//!   force when its budget is spent.
//! - Tool calls are read in the family's own syntax ([`ToolSyntax`]) as they stream, and held to it by a grammar.
//! - JSON schemas, regular expressions and Lark grammars hold for the whole answer, behind thinking too. Only
//!   `max_tokens` can end such an answer early; its finish reason then is `Length`.
//! - Stop texts end the answer, not the thinking before it, and are not looked for inside tool calls.

mod answer;
mod chat;
mod complete;
mod constraint;
mod error;
mod files;
#[doc(hidden)]
pub mod fuzzing;
mod guide;
mod limits;
mod messages;
mod model;
mod preparing;
mod provider;
mod reasoning;
mod sampling;
mod sandbox;
mod schema;
mod stop;
mod stream;
mod table;
mod template;
mod tools;
mod turn;

pub use error::LocalError;
pub use files::{Vocabulary, file_vocabulary, folder_vocabulary, read_chat_template, vocabulary};
pub use guide::{GRAMMAR_BYTES_MAX, SCHEMA_DEPTH_MAX};
pub use model::{LocalModel, LocalOptions, check_draft_vocabulary};
pub use provider::LocalProvider;
pub use reasoning::{Piece, PromptState, ReasoningSplitter, Section, ThinkTags};
pub use sandbox::{TemplateWorker, run_template_worker};
pub use stop::{STOP_BYTES_MAX, STOP_TEXTS_MAX, StopMatcher, StopOutput};
pub use stream::UNREAD_BYTES_MAX;
pub use template::{PromptRenderer, bare_template};
pub use tools::{ToolParser, ToolPiece, ToolSyntax};
