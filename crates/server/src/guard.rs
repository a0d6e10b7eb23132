//! What every request passes before and after its handler, unknown paths included.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use levain_wire::openai::ApiError;

use crate::access::Principal;
use crate::config::Limits;
use crate::cors::{self, Page};
use crate::metrics::Metrics;
use crate::reply::Refusal;
use crate::routes::{self, Route};
use crate::state::{Call, Shared};

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_BYTES_MAX: usize = 128;
/// What a proxy's log calls a request whose client left before the response.
const CLIENT_LEFT: u16 = 499;

/// Checks the request, runs its handler, and counts and logs the response.
pub(crate) async fn guard(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers()).unwrap_or_else(|| shared.id("req_"));
    let route = routes::find(request.uri().path());
    let mut record = Record {
        metrics: &shared.metrics,
        route: route.map_or("unknown", |route| route.path),
        method: method_name(request.method()),
        status: CLIENT_LEFT,
        started: Instant::now(),
        id: &id,
    };
    let page = shared.access.page(request.headers());
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    if !route.is_some_and(|route| route.open) {
        shared.access.wait(request.headers(), peer).await;
    }
    let mut response = match check(&shared, &request, route, &page, peer) {
        Err(error) => Refusal(error).into_response(),
        Ok(Pass::Preflight) => cors::preflight(request.headers()),
        Ok(Pass::Request(principal)) => {
            request.extensions_mut().insert(Call { principal, id: id.clone(), started: record.started });
            match AssertUnwindSafe(next.run(request)).catch_unwind().await {
                Ok(response) => response,
                Err(_) => {
                    shared.metrics.panicked();
                    Refusal(bug()).into_response()
                }
            }
        }
    };
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    cors::mark(headers, page);
    if shared.is_draining() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    record.status = response.status().as_u16();
    drop(record);
    response
}

/// What a bug looks like from outside: no text of ours, which could hold anything.
pub(crate) fn bug() -> ApiError {
    ApiError::with_status(
        500,
        "internal_error",
        "the server met a bug in itself; the request id helps to find it",
    )
}

/// What a checked request is.
enum Pass {
    /// A browser's question before the real request.
    Preflight,
    /// The real request.
    Request(Principal),
}

/// Size, host, origin, key and shutdown, in this order.
fn check(
    shared: &Shared,
    request: &Request<Body>,
    route: Option<&Route>,
    page: &Page,
    peer: Option<IpAddr>,
) -> Result<Pass, ApiError> {
    let headers = request.headers();
    check_size(shared, request)?;
    shared.access.check_host(request.uri(), headers)?;
    match page {
        Page::Foreign => {
            return Err(ApiError::with_status(
                403,
                "origin_not_allowed",
                "pages of this origin may not call here: start the server with --allow-origin and the origin",
            ));
        }
        Page::Allowed(_) if cors::is_preflight(request) => return Ok(Pass::Preflight),
        Page::Allowed(_) | Page::Own => {}
    }
    let open = route.is_some_and(|route| route.open);
    let principal = if open { Principal::default() } else { shared.access.principal(headers, peer)? };
    if shared.is_draining() && !open {
        return Err(crate::state::shutting_down());
    }
    Ok(Pass::Request(principal))
}

/// Connections take heads up to twice these bounds, so that what is a little too large is refused in words.
fn check_size(shared: &Shared, request: &Request<Body>) -> Result<(), ApiError> {
    let Limits { headers_max, header_bytes_max, .. } = shared.limits;
    let headers = request.headers();
    let line = request.uri().path().len() + request.uri().query().map_or(0, str::len);
    // A colon, a blank and the end of the line.
    let fields: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if headers.len() <= headers_max && line + fields <= header_bytes_max {
        return Ok(());
    }
    let message = format!(
        "the request's head has {} header fields and {} bytes, and {headers_max} and {header_bytes_max} are the most",
        headers.len(),
        line + fields
    );
    Err(ApiError::with_status(431, "headers_too_large", message))
}

/// The caller's own id, if it is harmless in a log.
fn request_id(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(REQUEST_ID)?.to_str().ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let fine = !text.is_empty() && text.len() <= REQUEST_ID_BYTES_MAX && text.bytes().all(plain);
    fine.then(|| text.to_owned())
}

/// Methods from outside can be any word; counters and logs know these.
fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// Counts and logs the request when it is dropped, so that requests whose client left count too.
struct Record<'s> {
    metrics: &'s Metrics,
    route: &'static str,
    method: &'static str,
    status: u16,
    started: Instant,
    id: &'s str,
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        let Self { route, method, status, .. } = *self;
        let time = self.started.elapsed();
        self.metrics.request(route, method, status, time);
        tracing::info!(request_id = self.id, method, route, status, ms = time.as_secs_f64() * 1e3, "request");
    }
}
