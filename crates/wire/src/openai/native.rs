//! The small calls beside the dialect: text to tokens and back, and what the model really sees.

use levain_chat::RenderedPrompt;
use serde::Serialize;
use serde_json::Value;

use super::error::ApiError;
use super::frame;
use super::prompt::token_ids;
use super::reader::{Reader, wrong_type};
use super::table::{DETOKENIZE, TOKENIZE};

/// `POST /tokenize`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizeCall {
    /// `None`: the first on offer.
    pub model: Option<String>,
    /// The text.
    pub content: String,
    /// Begin as a prompt of the model begins.
    pub add_special: bool,
    /// The text may name special tokens; `None`: as the server is set up.
    pub parse_special: Option<bool>,
}

impl TokenizeCall {
    /// Reads the body.
    ///
    /// # Errors
    /// Names the field at fault.
    pub fn from_bytes(body: &[u8]) -> Result<Self, ApiError> {
        let mut reader = Reader::body(body)?;
        let model = reader.text("model")?;
        let content = one_of(&mut reader, ["content", "prompt"], Reader::text)?
            .ok_or_else(|| ApiError::missing("content"))?;
        let add_special = one_of(&mut reader, ["add_special", "add_special_tokens"], Reader::flag)?;
        let parse_special = reader.flag("parse_special")?;
        reader.finish(&[TOKENIZE])?;
        Ok(Self { model, content, add_special: add_special.unwrap_or(false), parse_special })
    }
}

/// `POST /detokenize`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetokenizeCall {
    /// `None`: the first on offer.
    pub model: Option<String>,
    /// Token ids.
    pub tokens: Vec<u32>,
}

impl DetokenizeCall {
    /// Reads the body.
    ///
    /// # Errors
    /// Names the field at fault.
    pub fn from_bytes(body: &[u8]) -> Result<Self, ApiError> {
        let mut reader = Reader::body(body)?;
        let model = reader.text("model")?;
        let tokens = match reader.required("tokens")? {
            Value::Array(items) if items.is_empty() => Vec::new(),
            Value::Array(items) => token_ids(items, "tokens")?,
            other => return Err(wrong_type("tokens", "an array of token ids", &other)),
        };
        reader.finish(&[DETOKENIZE])?;
        Ok(Self { model, tokens })
    }
}

fn one_of<T>(
    reader: &mut Reader,
    names: [&str; 2],
    read: fn(&mut Reader, &str) -> Result<Option<T>, ApiError>,
) -> Result<Option<T>, ApiError> {
    let [first, second] = names;
    match (read(reader, first)?, read(reader, second)?) {
        (Some(_), Some(_)) => {
            Err(ApiError::invalid(second, format!("it is another name of {first}: send one of them")))
        }
        (a, b) => Ok(a.or(b)),
    }
}

/// The answer of `POST /tokenize`.
#[must_use]
pub fn tokenize_json(model: &str, tokens: &[u32]) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        model: &'a str,
        tokens: &'a [u32],
        count: usize,
    }
    frame::json(&Body { model, tokens, count: tokens.len() })
}

/// The answer of `POST /detokenize`.
#[must_use]
pub fn detokenize_json(model: &str, content: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        model: &'a str,
        content: &'a str,
    }
    frame::json(&Body { model, content })
}

/// The answer of `POST /apply-template`.
#[must_use]
pub fn render_json(model: &str, rendered: &RenderedPrompt) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        model: &'a str,
        prompt: &'a str,
        tokens: &'a [u32],
    }
    frame::json(&Body { model, prompt: &rendered.text, tokens: &rendered.tokens })
}
