//! What every request passes before and after its handler, unknown paths included.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, CONNECTION, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use levain_wire::openai::ApiError;

use crate::access::Principal;
use crate::metrics::Metrics;
use crate::reply::Refusal;
use crate::routes::{self, Route};
use crate::state::{Call, Shared};

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
    let origin = request.headers().get("origin").cloned();
    let mut allowed_origin = None;
    let mut response = match check(&shared, &request, route) {
        Err(error) => Refusal(error).into_response(),
        Ok((checked, preflight)) => {
            allowed_origin = checked.cross_origin.then_some(origin).flatten();
            if preflight {
                preflight_response()
            } else {
                let principal = checked.principal;
                let call = Call { principal, id: id.clone(), started: record.started };
                request.extensions_mut().insert(call);
                match AssertUnwindSafe(next.run(request)).catch_unwind().await {
                    Ok(response) => response,
                    Err(_) => {
                        shared.metrics.panicked();
                        Refusal(bug()).into_response()
                    }
                }
            }
        }
    };
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(origin) = allowed_origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("x-request-id, retry-after"));
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
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

struct Checked {
    principal: Principal,
    cross_origin: bool,
}

/// Host, origin, key and shutdown, in this order. The flag tells a browser's question before the real request.
fn check(
    shared: &Shared,
    request: &Request<Body>,
    route: Option<&Route>,
) -> Result<(Checked, bool), ApiError> {
    let headers = request.headers();
    shared.access.check_host(request.uri(), headers)?;
    let cross_origin = shared.access.check_origin(headers)?.is_some();
    if cross_origin
        && request.method() == Method::OPTIONS
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    {
        return Ok((Checked { principal: Principal::default(), cross_origin }, true));
    }
    let open = route.is_some_and(|route| route.open);
    let principal = if open { Principal::default() } else { shared.access.principal(headers)? };
    if shared.is_draining() && !open {
        return Err(crate::state::shutting_down());
    }
    Ok((Checked { principal, cross_origin }, false))
}

fn preflight_response() -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
        (ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type, x-api-key, x-request-id"),
        (ACCESS_CONTROL_MAX_AGE, "600"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
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
