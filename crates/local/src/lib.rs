//! The engine as a [`Provider`](levain_chat::Provider): chat template → tokens → engine → text, thinking and
//! tool calls.

mod constraint;
mod guide;
mod reasoning;
mod stop;
mod table;
mod tools;

pub use reasoning::{Piece, PromptState, ReasoningSplitter, Section, ThinkTags};
pub use stop::{STOP_BYTES_MAX, STOP_TEXTS_MAX, StopMatcher, StopOutput};
pub use tools::{ToolParser, ToolPiece, ToolSyntax};
