//! Pages of other origins, as browsers ask for them.

use std::sync::Arc;
use std::time::Duration;

use levain_chat::ChatEvent;
use levain_server::{ApiKey, Limits, Server, ServerConfig, ServerError};
use levain_testkit::provider::{FakeProvider, Step};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::client::{Response, Running, head, post, read, serve};

const KEY: &str = "key-0123456789";
const PAGE: &str = "https://chat.example.org";

fn config(origins: &[&str]) -> ServerConfig {
    let allowed_origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
    ServerConfig { allowed_origins, ..ServerConfig::default() }
}

async fn fake(origins: &[&str]) -> Running {
    serve(config(origins), Arc::new(FakeProvider::new("fake"))).await
}

/// What a page sees of a response: the values that the response gives to it, and whether caches are told.
fn readable_by(response: &Response, origin: &str) -> bool {
    let lines = |name: &str| {
        let values = response.head.lines().filter_map(|line| line.split_once(':'));
        let of = values
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim().to_owned());
        of.collect::<Vec<_>>()
    };
    let varies = lines("vary").iter().flat_map(|value| value.split(',')).any(|name| name.trim() == "origin");
    assert!(varies, "caches are not told: {}", response.head);
    assert!(lines("access-control-allow-credentials").is_empty());
    let allowed = lines("access-control-allow-origin");
    if allowed.is_empty() {
        return false;
    }
    assert_eq!(allowed.len(), 1);
    let exposed = lines("access-control-expose-headers").join(",");
    assert!(exposed.contains("x-request-id") && exposed.contains("retry-after"), "{}", response.head);
    assert!(response.header("x-request-id").is_some());
    allowed[0] == origin || allowed[0] == "*"
}

fn from_page(origin: &str) -> String {
    format!("origin: {origin}\r\nconnection: close\r\n")
}

async fn preflight(server: &Running, origin: &str, more: &str) -> Response {
    let lines = format!("{}access-control-request-method: POST\r\n{more}", from_page(origin));
    server.send(head("OPTIONS", "/v1/chat/completions", &lines).as_bytes()).await
}

fn names(response: &Response, header: &str) -> Vec<String> {
    let value = response.header(header).unwrap_or_default();
    value.split(',').map(|name| name.trim().to_ascii_lowercase()).collect()
}

#[tokio::test]
async fn clients_send_whatever_headers_they_have() {
    let server = fake(&[PAGE]).await;
    // The official client for JavaScript, others' clients, tracing, users' own.
    let wanted = "authorization,content-type,openai-organization,openai-project,x-stainless-arch,x-stainless-lang,\
                  x-stainless-os,x-stainless-package-version,x-stainless-retry-count,x-stainless-runtime,\
                  x-stainless-runtime-version,x-stainless-timeout,x-stainless-helper-method,x-stainless-poll-helper,\
                  idempotency-key,x-api-key,anthropic-version,anthropic-beta,\
                  anthropic-dangerous-direct-browser-access,http-referer,x-title,traceparent,tracestate,baggage,\
                  cache-control,x-requested-with,helicone-auth,x-my-team";
    let response = preflight(&server, PAGE, &format!("access-control-request-headers: {wanted}\r\n")).await;
    assert_eq!(response.status, 204);
    assert!(readable_by(&response, PAGE));
    let allowed = names(&response, "access-control-allow-headers");
    for name in wanted.split(',') {
        assert!(allowed.contains(&name.trim().to_owned()), "{name} is not allowed: {allowed:?}");
    }
    for name in ["GET", "POST"] {
        assert!(names(&response, "access-control-allow-methods").contains(&name.to_ascii_lowercase()));
    }
    assert!(response.header("access-control-max-age").unwrap().parse::<u32>().unwrap() > 0);
    assert_eq!(response.header("access-control-allow-private-network"), None);
    // Where nothing is asked for, the usual ones; what is no name is left out, and nothing can be smuggled in.
    let plain = preflight(&server, PAGE, "access-control-request-headers: , x y,\u{e9},b@d, *\r\n").await;
    let allowed = names(&plain, "access-control-allow-headers");
    assert!(
        ["authorization", "content-type", "x-api-key"]
            .iter()
            .all(|name| allowed.contains(&(*name).to_owned()))
    );
    assert!(!allowed.iter().any(|name| name.contains(' ') || name.contains('@')), "{allowed:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_preflight_needs_no_key_and_does_nothing() {
    let provider = FakeProvider::new("fake");
    let gauge = provider.gauge();
    let mut config = config(&[PAGE]);
    config.api_keys = vec![ApiKey::new("one", KEY).unwrap()];
    let server = serve(config, Arc::new(provider)).await;
    let private = "access-control-request-private-network: true\r\n";
    let response = preflight(&server, PAGE, private).await;
    assert_eq!((response.status, response.body.len()), (204, 0));
    assert_eq!(response.header("access-control-allow-private-network"), Some("true"));
    for foreign in ["https://evil.example", "null", "https://chat.example.org.evil.example", ""] {
        let response = preflight(&server, foreign, private).await;
        assert_eq!(response.status, 403, "{foreign}");
        assert!(!readable_by(&response, foreign));
        assert_eq!(response.header("access-control-allow-private-network"), None);
        assert_eq!(response.header("access-control-allow-headers"), None);
    }
    // OPTIONS without the question is a request like any other.
    let options = server.send(head("OPTIONS", "/v1/models", &from_page(PAGE)).as_bytes()).await;
    assert_eq!(options.status, 401);
    assert!(readable_by(&options, PAGE));
    assert_eq!(gauge.opened(), 0);
    server.stop().await;
}

#[tokio::test]
async fn pages_can_read_every_refusal() {
    let mut config = config(&[PAGE]);
    config.api_keys = vec![ApiKey::new("one", KEY).unwrap()];
    config.limits = Limits {
        body_bytes_max: 1 << 10,
        body_idle_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let script = |request: &levain_chat::ChatRequest| match request.n {
        2 => Err(levain_chat::ProviderError::Overloaded),
        3 => Ok(vec![Step::Panic]),
        _ => Ok(vec![Step::Event(ChatEvent::Text { index: 0, text: "hi".into() })]),
    };
    let server = serve(config, Arc::new(FakeProvider::new("fake").with_script(script))).await;
    let page = from_page(PAGE);
    let keyed = format!("{page}authorization: Bearer {KEY}\r\n");
    let chat = |n: u32, stream: bool| json!({ "messages": [{ "role": "user", "content": "x" }], "n": n, "stream": stream });
    let path = "/v1/chat/completions";
    let fields: String = (0..70).map(|i| format!("x-{i}: y\r\n")).collect();
    let body =
        |length: usize, more: &str| head("POST", path, &format!("{keyed}content-length: {length}\r\n{more}"));
    for (status, request) in [
        (200, post(path, &chat(1, false), &keyed)),
        (200, post(path, &chat(1, true), &keyed)),
        (200, head("GET", "/health", &page)),
        (400, post(path, &json!({ "messages": 5 }), &keyed)),
        (400, body(1, "") + "{"),
        (401, head("GET", "/v1/models", &page)),
        (401, post(path, &chat(1, false), &page)),
        (403, format!("GET /v1/models HTTP/1.1\r\nhost: evil.example\r\n{keyed}\r\n")),
        (404, head("GET", "/v1/nothing", &keyed)),
        (404, head("GET", "/v1/models/nothing", &keyed)),
        (404, post(path, &json!({ "model": "y", "messages": [{ "role": "user", "content": "x" }] }), &keyed)),
        (405, head("DELETE", "/v1/models", &keyed)),
        (405, head("GET", path, &keyed)),
        (408, body(100, "") + "{"),
        (413, body(2000, "")),
        (415, body(2, "content-encoding: gzip\r\n") + "{}"),
        (415, body(2, "content-type: multipart/form-data; boundary=x\r\n") + "{}"),
        (429, post(path, &chat(2, false), &keyed)),
        (429, post(path, &chat(2, true), &keyed)),
        (431, head("GET", "/v1/models", &(keyed.clone() + &fields))),
        (431, head("GET", &format!("/v1/models/{}", "x".repeat(40_000)), &keyed)),
        (500, post(path, &chat(3, false), &keyed)),
        (200, post(path, &chat(3, true), &keyed)),
    ] {
        let response = server.send(request.as_bytes()).await;
        assert_eq!(response.status, status, "{request:.200}: {response:?}");
        assert!(readable_by(&response, PAGE), "{request:.200}: {}", response.head);
        if status >= 400 {
            assert!(!response.code().is_empty() && !response.json()["error"]["message"].is_null());
        }
        // The same of a page that may not call: nothing, and no work.
        let foreign = request.replace(PAGE, "https://evil.example");
        let response = server.send(foreign.as_bytes()).await;
        assert!([403, 431].contains(&response.status), "{response:?}");
        assert!(!readable_by(&response, PAGE));
    }
    server.stop().await;
}

#[tokio::test]
async fn foreign_pages_start_no_work() {
    let provider = FakeProvider::new("fake");
    let gauge = provider.gauge();
    let server = serve(config(&[PAGE]), Arc::new(provider)).await;
    let body = json!({ "messages": [{ "role": "user", "content": "x" }] });
    for origins in [
        "origin: https://evil.example\r\n",
        "origin: null\r\n",
        "origin: \r\n",
        "origin: https://chat.example.org\r\norigin: https://evil.example\r\n",
    ] {
        // Browsers send such a request without asking before.
        let simple = post("/v1/chat/completions", &body, &format!("connection: close\r\n{origins}"))
            .replace("application/json", "text/plain");
        let response = server.send(simple.as_bytes()).await;
        assert_eq!((response.status, response.code().as_str()), (403, "origin_not_allowed"));
        assert_eq!(response.header("access-control-allow-origin"), None);
    }
    assert_eq!(gauge.opened(), 0);
    server.stop().await;
}

#[tokio::test]
async fn a_full_server_and_one_that_ends_say_so_to_pages() {
    let mut config = config(&[PAGE]);
    config.limits.requests_max = 1;
    config.limits.drain_timeout = Duration::from_millis(200);
    let provider = FakeProvider::new("fake").with_script(|_| Ok(vec![Step::Hang]));
    let gauge = provider.gauge();
    let server = serve(config, Arc::new(provider)).await;
    let body = json!({ "messages": [{ "role": "user", "content": "x" }], "stream": true });
    let mut held = server.connect().await;
    held.write_all(post("/v1/chat/completions", &body, "").as_bytes()).await.unwrap();
    crate::client::until("the slot is taken", || gauge.open() == 1).await;
    let full = server.send(post("/v1/chat/completions", &body, &from_page(PAGE)).as_bytes()).await;
    assert_eq!((full.status, full.code().as_str()), (429, "rate_limit_exceeded"));
    assert!(readable_by(&full, PAGE));
    let mut waiting = server.connect().await;
    waiting.write_all(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n").await.unwrap();
    let ending = server.shut_down();
    // Its head was not whole when the end was asked for.
    waiting.write_all(format!("{}\r\n", from_page(PAGE)).as_bytes()).await.unwrap();
    if let Some(response) = try_read(&mut waiting).await {
        assert_eq!((response.status, response.code().as_str()), (503, "shutting_down"));
        assert!(readable_by(&response, PAGE));
    }
    ending.await.unwrap();
}

/// The response, unless the connection was closed first.
async fn try_read(stream: &mut tokio::net::TcpStream) -> Option<Response> {
    let mut byte = [0];
    let open = stream.peek(&mut byte).await.is_ok_and(|read| read > 0);
    if open { Some(read(stream).await) } else { None }
}

#[tokio::test]
async fn one_connection_too_many_is_told_in_json() {
    let mut config = config(&["*"]);
    config.limits.connections_max = 1;
    let server = serve(config, Arc::new(FakeProvider::new("fake"))).await;
    let mut held = server.connect().await;
    held.write_all(head("GET", "/health", "").as_bytes()).await.unwrap();
    assert_eq!(read(&mut held).await.status, 200);
    if let Some(response) = try_read(&mut server.connect().await).await {
        assert_eq!((response.status, response.code().as_str()), (503, "overloaded"));
        assert_eq!(response.header("access-control-allow-origin"), Some("*"));
    }
    drop(held);
    server.stop().await;
}

#[tokio::test]
async fn origins_in_every_form() {
    let server =
        fake(&["HTTP://Localhost:3000/", "https://example.org:443", "app://obsidian.md", "null"]).await;
    for origin in
        ["http://localhost:3000", "https://example.org", "app://obsidian.md", "null", "https://EXAMPLE.org"]
    {
        let response = server.send(head("GET", "/health", &from_page(origin)).as_bytes()).await;
        assert_eq!(response.status, 200, "{origin}");
        assert!(readable_by(&response, origin), "{origin}: {}", response.head);
    }
    for origin in
        ["http://localhost:3001", "http://localhost:30000", "https://localhost:3000", "http://example.org"]
    {
        let response = server.send(head("GET", "/health", &from_page(origin)).as_bytes()).await;
        assert_eq!(response.status, 403, "{origin}");
        assert!(!readable_by(&response, origin));
    }
    server.stop().await;
    let all = fake(&["*"]).await;
    for origin in ["https://anything.example", "null", "chrome-extension://abc"] {
        let response = all.send(head("GET", "/health", &from_page(origin)).as_bytes()).await;
        assert_eq!(response.header("access-control-allow-origin"), Some("*"), "{origin}");
        let response = preflight(&all, origin, "access-control-request-headers: x-stainless-os\r\n").await;
        assert_eq!(response.status, 204);
        assert!(readable_by(&response, origin));
        assert!(names(&response, "access-control-allow-headers").contains(&"authorization".to_owned()));
    }
    all.stop().await;
}

#[tokio::test]
async fn what_is_no_origin_is_refused_at_the_start() {
    for origin in
        ["", "example.org", "https://example.org/chat", "https://*.example.org", "file:///x", "http://a b"]
    {
        let Err(error) = Server::new(&config(&[PAGE, origin]), Arc::new(FakeProvider::new("fake"))) else {
            panic!("{origin:?} is taken");
        };
        assert!(matches!(error, ServerError::BadOrigin { .. }));
        let words = error.to_string();
        assert!(
            words.contains(&format!("{origin:?}")) && words.contains("write it like https://"),
            "{words}"
        );
    }
}
