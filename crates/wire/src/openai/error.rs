//! The error object of the dialect: `{"error": {message, type, param, code}}`.

use levain_chat::{ErrorClass, ProviderError};
use serde::Serialize;

/// An error as an OpenAI client expects it, with its HTTP status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// The dialect's `type`.
    pub kind: &'static str,
    /// Short and stable, for programs.
    pub code: &'static str,
    /// Path of the field at fault, for example `messages[2].content`.
    pub param: Option<String>,
    /// For people: what is wrong and what to do.
    pub message: String,
    /// For the log of whoever serves, never for clients: it may name files.
    pub detail: Option<String>,
}

impl ApiError {
    /// A field with a value that can't be used.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("Invalid '{param}': {}", message.into());
        Self::field("invalid_value", param, message)
    }

    /// A field whose value is none of a few words.
    pub fn none_of(param: impl Into<String>, got: &str, words: &[&str]) -> Self {
        let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let message = format!("Invalid value: {got}. Supported values are: {}.", words.join(", "));
        Self::field("invalid_value", param, message)
    }

    /// A field that must be there.
    pub fn missing(param: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("Missing required parameter: '{param}'.");
        Self::field("missing_required_parameter", param, message)
    }

    /// A field that exists in the dialect and is not offered here.
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("Unsupported parameter: '{param}' is not supported here: {}", message.into());
        Self::field("unsupported_parameter", param, message)
    }

    /// A value that exists in the dialect and is not offered here.
    pub fn unsupported_value(param: impl Into<String>, message: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("Unsupported value of '{param}': {}", message.into());
        Self::field("unsupported_value", param, message)
    }

    /// A refusal of one field, in full.
    pub(super) fn field(code: &'static str, param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::refusal(code, message) }
    }

    /// Names the field that holds the prompt, where a provider could not know its name in this call.
    #[must_use]
    pub fn about(mut self, prompt: &str) -> Self {
        let unnamed = self.param.is_none() && self.code == "context_length_exceeded";
        if unnamed || self.param.as_deref() == Some("prompt") {
            self.message = self.message.replacen("'prompt'", &format!("'{prompt}'"), 1);
            self.param = Some(prompt.to_owned());
        }
        self
    }

    /// A refusal that concerns no single field.
    pub fn refusal(code: &'static str, message: impl Into<String>) -> Self {
        Self::with_status(400, code, message)
    }

    /// Any status; `type` follows from it.
    pub fn with_status(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        let kind = match status {
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        Self { status, kind, code, param: None, message: message.into(), detail: None }
    }

    /// The body of the response.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Body<'a> {
            error: Inner<'a>,
        }
        #[derive(Serialize)]
        struct Inner<'a> {
            message: &'a str,
            r#type: &'a str,
            param: Option<&'a str>,
            code: &'a str,
        }
        let inner = Inner {
            message: &self.message,
            r#type: self.kind,
            param: self.param.as_deref(),
            code: self.code,
        };
        super::frame::json(&Body { error: inner })
    }
}

impl From<&ProviderError> for ApiError {
    fn from(error: &ProviderError) -> Self {
        match error {
            ProviderError::Invalid { param, message } => return Self::invalid(&**param, message),
            ProviderError::Unsupported { param, message } => return Self::unsupported(&**param, message),
            ProviderError::Internal(detail) => {
                let words = "the server met a failure of its own, of which its log says more";
                let error = Self::with_status(500, error.code(), words);
                return Self { detail: Some(detail.clone()), ..error };
            }
            _ => {}
        }
        let status = match error.class() {
            ErrorClass::UserInput => 400,
            ErrorClass::Auth => 401,
            ErrorClass::Budget => 402,
            ErrorClass::NotFound => 404,
            ErrorClass::RateLimited => 429,
            ErrorClass::Transient => 503,
            ErrorClass::Bug => 500,
        };
        Self {
            param: error.param().map(str::to_owned),
            ..Self::with_status(status, error.code(), error.to_string())
        }
    }
}

impl From<ProviderError> for ApiError {
    fn from(error: ProviderError) -> Self {
        Self::from(&error)
    }
}
