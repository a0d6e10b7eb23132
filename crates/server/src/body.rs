//! Reads a request's body within bounds of size, time and memory.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, Request};
use levain_wire::openai::ApiError;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use crate::state::Shared;

/// A body in memory; the memory counts until it is dropped.
pub(crate) struct Bytes {
    pub(crate) bytes: Vec<u8>,
    _memory: Vec<OwnedSemaphorePermit>,
}

/// Reads all of it.
pub(crate) async fn read(shared: &Shared, request: Request<Body>) -> Result<Bytes, ApiError> {
    let limits = shared.limits;
    let (parts, mut body) = request.into_parts();
    let too_large = || {
        let message = format!("the body has more than {} bytes, which is the most", limits.body_bytes_max);
        ApiError::with_status(413, "request_too_large", message)
    };
    check_media_type(&parts.headers)?;
    let announced = announced(&parts.headers);
    if announced.is_some_and(|bytes| bytes > limits.body_bytes_max as u64) {
        return Err(too_large());
    }
    let deadline = Instant::now() + limits.body_timeout;
    let mut bytes: Vec<u8> = Vec::new();
    let mut memory = Vec::new();
    let mut reserved = 0usize;
    loop {
        let patience = deadline.min(Instant::now() + limits.body_idle_timeout);
        let next = timeout_at(patience, poll_fn(|context| Pin::new(&mut body).poll_frame(context))).await;
        let frame = match next {
            Err(_) => {
                return Err(ApiError::with_status(
                    408,
                    "request_timeout",
                    "the body did not arrive in time; send it again",
                ));
            }
            Ok(None) => return Ok(Bytes { bytes, _memory: memory }),
            Ok(Some(Err(_))) => return Err(ApiError::refusal("incomplete_body", "the body broke off")),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        let total = bytes.len().saturating_add(data.len());
        if total > limits.body_bytes_max {
            return Err(too_large());
        }
        if total > reserved {
            // Doubling keeps the number of reservations small.
            let wanted = total.max(reserved.saturating_mul(2)).min(limits.body_bytes_max.max(total));
            let kib = u32::try_from((wanted - reserved).div_ceil(1 << 10)).unwrap_or(u32::MAX);
            let permit = Arc::clone(&shared.body_kib).try_acquire_many_owned(kib).map_err(|_| {
                ApiError::with_status(
                    503,
                    "overloaded",
                    "the server reads as many bodies as it may hold; try again in a moment",
                )
            })?;
            memory.push(permit);
            bytes.reserve_exact(wanted - bytes.len());
            reserved = wanted;
        }
        bytes.extend_from_slice(&data);
    }
}

/// JSON is taken under any name, but not what can't be JSON.
fn check_media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let refused = |message: &str| Err(ApiError::with_status(415, "unsupported_media_type", message));
    let given = |name| headers.get_all(name).iter().map(|value| value.as_bytes().to_ascii_lowercase());
    if given(CONTENT_ENCODING).any(|coding| coding != b"identity") {
        return refused("compressed bodies are not read: send the body without a content-encoding");
    }
    if given(CONTENT_TYPE).any(|kind| kind.starts_with(b"multipart/")) {
        return refused("the body must be JSON: send it with content-type: application/json");
    }
    Ok(())
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
