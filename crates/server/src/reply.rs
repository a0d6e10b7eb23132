//! Responses.

use axum::body::Body;
use axum::http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use levain_chat::Place;
use levain_wire::openai::ApiError;

use crate::held::Held;
use crate::memory::Memory;

/// A refusal as a response.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) ApiError);

impl<E: Into<ApiError>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if error.status >= 500 {
            let detail = error.detail.as_deref();
            tracing::warn!(
                status = error.status,
                code = error.code,
                detail,
                "refused or failed: {}",
                error.message
            );
        }
        let mut response = with_type(status, "application/json", error.to_json());
        let mut set = |name: HeaderName, value: &'static str| {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        };
        match error.status {
            401 => set(WWW_AUTHENTICATE, "Bearer"),
            // What is left of the body is not worth reading.
            408 | 413 => set(CONNECTION, "close"),
            429 | 503 => set(RETRY_AFTER, "1"),
            _ => {}
        }
        response
    }
}

/// JSON text as a response that holds a request's place and memory until the client has taken it.
///
/// # Errors
/// As [`Memory::grow`].
pub(crate) fn held(body: Vec<u8>, place: Place, mut memory: Memory) -> Result<Response, ApiError> {
    memory.grow(body.len())?;
    Ok(with_type(StatusCode::OK, "application/json", Body::new(Held::new(body, place, memory))))
}

/// JSON text as a response.
pub(crate) fn json(body: Vec<u8>) -> Response {
    with_type(StatusCode::OK, "application/json", body)
}

pub(crate) fn with_type(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// The head of a stream of events; proxies must neither store nor gather it.
pub(crate) fn events(body: Body) -> Response {
    let mut response = with_type(StatusCode::OK, "text/event-stream", body);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The path exists and the method does not.
pub(crate) fn wrong_method(allowed: &'static str) -> Response {
    let message = format!("this path takes {allowed} only");
    let mut response = Refusal(ApiError::with_status(405, "method_not_allowed", message)).into_response();
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}
