//! Text to tokens and back, and conversations to prompts.
//!
//! A [`Tokenizer`] comes from a `tokenizer.json` ([`Tokenizer::from_json`]) or from the vocabulary of a GGUF file
//! ([`Tokenizer::from_gguf`]). A [`Detokenizer`] turns tokens into text as they come. A [`ChatTemplate`] renders a
//! conversation, and [`Tokenizer::encode_prompt`] turns that into tokens, so that what users wrote can never become a
//! control token.
//!
//! Files, templates and texts come from strangers: everything is bounded, nothing backtracks, nothing recurses without
//! a limit.

mod added;
mod bytes;
mod charsmap;
mod chat;
mod detokenizer;
mod error;
mod load;
mod model;
mod normalize;
mod split;
mod tokenizer;
mod vocab;

pub use chat::{
    ChatInput, ChatTemplate, CompiledTemplate, Date, MakeRenderer, RenderFailure, RenderJob, RenderedChat,
    TemplateRenderer,
};
pub use detokenizer::{Detokenizer, DetokenizerState};
pub use error::{Result, TokenizerError};
pub use load::gguf::GgufVocab;
pub use tokenizer::{SpecialTokens, Tokenizer};
pub use vocab::TokenKind;

/// The names of pre-tokenizers (`tokenizer.ggml.pre`) that [`Tokenizer::from_gguf`] knows.
pub fn gguf_pre_tokenizers() -> Vec<&'static str> {
    split::presets::names()
}
