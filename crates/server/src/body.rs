//! Reads a request's body within bounds of size, time and memory, and parses it away from the async threads.

use std::future::poll_fn;
use std::pin::Pin;

use axum::body::{Body, HttpBody};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, Request};
use levain_chat::into_background;
use levain_wire::json;
use levain_wire::openai::ApiError;
use tokio::time::{Instant, timeout_at};

use crate::guard::bug;
use crate::memory::Memory;
use crate::state::{Call, Shared};

/// Bodies up to this size are parsed where they are read: that takes less time than handing them over is worth.
const SMALL_BYTES: usize = 8 << 10;
/// What a value takes in memory, its key and a list's spare room included.
const VALUE_BYTES: usize = 256;

/// Reads all of a request's body as a call. The memory that it takes counts until the second of the two is dropped.
pub(crate) async fn read<T: Send + 'static>(
    shared: &Shared,
    call: &Call,
    request: Request<Body>,
    parse: fn(&[u8]) -> Result<T, ApiError>,
) -> Result<(T, Memory), ApiError> {
    let tenant = call.principal.tenant.as_deref();
    let mut memory = Memory::new(&shared.memory, tenant);
    let bytes = receive(shared, request, &mut memory).await?;
    let is_small = bytes.len() <= SMALL_BYTES;
    let mut parsed = Memory::new(&shared.memory, tenant);
    let work = move || {
        parsed.grow(json::values_at_most(&bytes).saturating_mul(VALUE_BYTES).saturating_add(bytes.len()))?;
        let done = (parse(&bytes)?, parsed);
        drop((bytes, memory));
        Ok(done)
    };
    if is_small {
        return work();
    }
    let place = shared.parsing.take(tenant).await;
    let work = tokio::task::spawn_blocking(move || {
        into_background();
        let done = work();
        drop(place);
        done
    });
    work.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a body can't be parsed");
        shared.metrics.panicked();
        Err(bug())
    })
}

async fn receive(shared: &Shared, request: Request<Body>, memory: &mut Memory) -> Result<Vec<u8>, ApiError> {
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
            Ok(None) => return Ok(bytes),
            Ok(Some(Err(_))) => return Err(ApiError::refusal("incomplete_body", "the body broke off")),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        let total = bytes.len().saturating_add(data.len());
        if total > limits.body_bytes_max {
            return Err(too_large());
        }
        memory.grow(data.len())?;
        if total > bytes.capacity() {
            bytes.reserve_exact(memory.reserved().max(total) - bytes.len());
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
