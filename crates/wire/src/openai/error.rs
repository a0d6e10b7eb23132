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
}

impl ApiError {
    /// A field with a value that can't be used.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("{param}: {}", message.into());
        Self { param: Some(param), ..Self::refusal("invalid_value", message) }
    }

    /// A field that must be there.
    pub fn missing(param: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("{param} is required");
        Self { param: Some(param), ..Self::refusal("missing_required_parameter", message) }
    }

    /// A field or a value of it that exists in the dialect and is not offered here.
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("{param} is not supported here: {}", message.into());
        Self { param: Some(param), ..Self::refusal("unsupported_parameter", message) }
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
        Self { status, kind, code, param: None, message: message.into() }
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
