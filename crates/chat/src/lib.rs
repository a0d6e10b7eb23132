//! The vocabulary that every other crate speaks: messages, requests, events, and the [`Provider`] that turns
//! one into the other. It knows no vendor, no wire format and no engine.

mod background;
mod error;
mod event;
mod message;
mod places;
mod provider;
mod request;

pub use background::into_background;
pub use error::{ErrorClass, ProviderError};
pub use event::{ChatEvent, FinishReason, TokenLogprob, TopLogprob, Usage};
pub use message::{Message, Part, Role, ToolCall};
pub use places::{Place, Places};
pub use provider::{
    BoxFuture, ChatStream, CompletionEvent, CompletionStream, Embedding, ExpertLoad, ModelInfo, Provider,
    ProviderLoad, RenderedPrompt,
};
pub use request::{
    ChatRequest, CompletionPrompt, CompletionRequest, EmbeddingInput, EmbeddingRequest, Pooling,
    ReasoningEffort, ResponseFormat, Sampling, Tool, ToolChoice, Turn,
};
