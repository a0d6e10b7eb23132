//! Pages of other origins: which may call, and what their browsers are told (the CORS protocol of the Fetch
//! standard). Answers never allow credentials: keys travel in headers that the page sets itself, not in cookies.

use std::collections::BTreeSet;

use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HOST, HeaderName, ORIGIN, VARY,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::error::ServerError;

const ANY: &str = "*";
const REQUEST_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// Allowed even where a browser does not ask for them by name. `*` would not cover `authorization`.
const USUAL_HEADERS: &[&str] = &["authorization", "content-type", "x-api-key", "x-request-id"];
/// More than any route takes, so that a page can read why a method is refused.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
const EXPOSED_HEADERS: &str = "x-request-id, retry-after, allow, www-authenticate";
/// Seconds that a browser may remember the answer to a preflight.
const MAX_AGE: &str = "600";

/// The page that a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Page {
    /// None, or one of this server's own.
    Own,
    /// One that may call and read answers that carry this as the allowed origin.
    Allowed(HeaderValue),
    /// One that may not.
    Foreign,
}

/// The origins whose pages may call.
#[derive(Debug)]
pub(crate) struct Origins {
    any: bool,
    listed: Vec<String>,
}

impl Origins {
    /// `*` allows all origins, `null` pages without one, such as those opened from files.
    pub(crate) fn new(given: &[String]) -> Result<Self, ServerError> {
        let mut origins = Self { any: false, listed: Vec::new() };
        for origin in given {
            if origin.trim() == ANY {
                origins.any = true;
                continue;
            }
            let normal =
                normal(origin).map_err(|reason| ServerError::BadOrigin { origin: origin.clone(), reason })?;
            origins.listed.push(normal);
        }
        Ok(origins)
    }

    pub(crate) fn any(&self) -> bool {
        self.any
    }

    pub(crate) fn page(&self, headers: &HeaderMap) -> Page {
        let mut given = headers.get_all(ORIGIN).iter();
        let Some(origin) = given.next() else { return Page::Own };
        if given.next().is_some() {
            return Page::Foreign;
        }
        if self.any {
            return Page::Allowed(HeaderValue::from_static(ANY));
        }
        let text = origin.to_str().unwrap_or_default();
        if self.listed.iter().any(|listed| listed.eq_ignore_ascii_case(text)) {
            return Page::Allowed(origin.clone());
        }
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let mut own = ["http://", "https://"].iter().filter_map(|scheme| text.strip_prefix(scheme));
        let is_own = !host.is_empty() && own.any(|rest| rest.eq_ignore_ascii_case(host));
        if is_own { Page::Own } else { Page::Foreign }
    }
}

/// An origin as browsers write it: lower case, no slash at the end, no port where it is the scheme's own.
fn normal(given: &str) -> Result<String, &'static str> {
    let text = given.trim().to_ascii_lowercase();
    if text == "null" {
        return Ok(text);
    }
    if text.contains('*') {
        return Err("a * stands alone, for all origins");
    }
    if !text.is_ascii() {
        return Err("browsers write hosts in ASCII, for example xn--bcher-kva.example");
    }
    let text = text.strip_suffix('/').unwrap_or(&text);
    let Some((scheme, authority)) = text.split_once("://") else {
        return Err("it does not begin with a scheme such as https://");
    };
    if scheme == "file" {
        return Err("pages opened from files have the origin null");
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.chars().all(plain) {
        return Err("its scheme can't be read");
    }
    if authority.contains(['/', '?', '#', '\\']) {
        return Err("an origin ends after the host and the port, without a path");
    }
    if authority.contains('@') {
        return Err("an origin names no user");
    }
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    let authority = authority.strip_suffix(default_port).unwrap_or(authority);
    match authority.parse::<Authority>() {
        Ok(parsed) if parsed.as_str() == parsed.host() || parsed.port_u16().is_some() => {
            Ok(format!("{scheme}://{authority}"))
        }
        _ => Err("its host or port can't be read"),
    }
}

/// A browser's question before the real request.
pub(crate) fn is_preflight<B>(request: &Request<B>) -> bool {
    request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a preflight of a page that may call.
pub(crate) fn preflight(request: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed_headers(request));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
    if request.get(REQUEST_PRIVATE_NETWORK).is_some_and(|asked| asked == "true") {
        headers.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
    }
    for name in [ACCESS_CONTROL_REQUEST_METHOD, ACCESS_CONTROL_REQUEST_HEADERS, REQUEST_PRIVATE_NETWORK] {
        headers.append(VARY, name.into());
    }
    response
}

/// Whatever headers the page wants to send: clients add their own with every version, and none that is not known here
/// has an effect.
fn allowed_headers(request: &HeaderMap) -> HeaderValue {
    let asked =
        request.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter().filter_map(|names| names.to_str().ok());
    let asked =
        asked.flat_map(|names| names.split(',')).filter_map(|name| name.trim().parse::<HeaderName>().ok());
    let mut names: BTreeSet<String> = asked.map(|name| name.as_str().to_owned()).collect();
    names.extend(USUAL_HEADERS.iter().map(|name| (*name).to_owned()));
    let names: Vec<String> = names.into_iter().collect();
    HeaderValue::try_from(names.join(", ")).unwrap_or_else(|_| HeaderValue::from_static("authorization"))
}

/// What every response says, whatever it is: caches must not give one page's to another.
pub(crate) fn mark(headers: &mut HeaderMap, page: Page) {
    headers.append(VARY, ORIGIN.into());
    if let Page::Allowed(origin) = page {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED_HEADERS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_brought_to_the_form_of_browsers() {
        for (given, expected) in [
            ("https://chat.example.org", "https://chat.example.org"),
            (" HTTPS://Chat.Example.org/ ", "https://chat.example.org"),
            ("http://localhost:3000/", "http://localhost:3000"),
            ("https://example.org:443", "https://example.org"),
            ("http://example.org:80/", "http://example.org"),
            ("http://example.org:443", "http://example.org:443"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("app://obsidian.md", "app://obsidian.md"),
            ("chrome-extension://abcdef", "chrome-extension://abcdef"),
            ("NULL", "null"),
        ] {
            assert_eq!(normal(given).as_deref(), Ok(expected), "{given}");
        }
        for (given, says) in [
            ("", "scheme"),
            ("/", "scheme"),
            ("localhost:3000", "scheme"),
            ("https://", "scheme"),
            ("https:///", "host"),
            ("://example.org", "scheme"),
            ("1http://example.org", "scheme"),
            ("https://example.org/chat", "path"),
            ("https://example.org?x", "path"),
            ("https://me@example.org", "user"),
            ("https://*.example.org", "alone"),
            ("http://localhost:*", "alone"),
            ("http://localhost:99999", "port"),
            ("http://local host", "host"),
            ("https://bücher.example", "ASCII"),
            ("file:///home", "null"),
            ("https://a.example,https://b.example", "path"),
        ] {
            let reason = normal(given).unwrap_err();
            assert!(reason.contains(says), "{given}: {reason}");
        }
    }
}
