//! OpenAI's dialect, as a server speaks it: bodies of requests to calls, events to bodies and server-sent events.

mod chat;
mod chat_out;
mod completion_out;
mod error;
mod frame;
mod list_out;
mod message;
mod native;
mod part;
mod prompt;
mod reader;
mod sampling;
pub mod table;
mod tools;
mod turn;
mod usage;

pub use chat::ChatCall;
pub use chat_out::{ChatChunks, ChatCollector};
pub use completion_out::{CompletionChunks, CompletionCollector, CompletionShape};
pub use error::ApiError;
pub use frame::{DONE, KEEP_ALIVE};
pub use list_out::{embeddings_json, model_json, models_json};
pub use native::{DetokenizeCall, TokenizeCall, detokenize_json, render_json, tokenize_json};
pub use prompt::{CompletionCall, EmbeddingCall, EncodingFormat};
pub use usage::Head;
