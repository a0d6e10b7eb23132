//! Who gets in: the matrix of routes and credentials is made from the table of routes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use levain_server::{ApiKey, Limits, ROUTES, Server, ServerConfig, ServerError};
use levain_testkit::provider::{FakeProvider, Step};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{Running, head, serve, until};

const KEY: &str = "key-0123456789";

fn provider() -> Arc<FakeProvider> {
    Arc::new(FakeProvider::new("fake"))
}

async fn with_key() -> Running {
    let api_keys = vec![ApiKey::new("one", KEY).unwrap(), ApiKey::new("two", "another-key-42").unwrap()];
    // Here wrong keys come by the hundred, and from one address.
    let limits = Limits { wrong_key_pause: Duration::ZERO, ..Limits::default() };
    serve(ServerConfig { api_keys, limits, ..ServerConfig::default() }, provider()).await
}

/// A request that succeeds when it is let in.
fn request(method: &str, path: &str, more: &str) -> String {
    let path = path.replace("{*id}", "fake");
    let body = match path.as_str() {
        "/v1/chat/completions" | "/apply-template" => {
            json!({ "model": "fake", "messages": [{ "role": "user", "content": "x" }] })
        }
        "/v1/completions" => json!({ "model": "fake", "prompt": "x", "max_tokens": 1 }),
        "/v1/embeddings" => json!({ "model": "fake", "input": "x" }),
        "/tokenize" => json!({ "content": "x" }),
        "/detokenize" => json!({ "tokens": [120] }),
        _ => json!(null),
    };
    let body = if method == "POST" { body.to_string() } else { String::new() };
    let more = format!("connection: close\r\ncontent-length: {}\r\n{more}", body.len());
    head(method, &path, &more) + &body
}

#[tokio::test]
async fn every_route_asks_for_a_key_unless_the_table_calls_it_open() {
    let server = with_key().await;
    let good = [
        format!("authorization: Bearer {KEY}\r\n"),
        format!("Authorization: bearer {KEY}\r\n"),
        format!("x-api-key: {KEY}\r\n"),
        "authorization: Bearer another-key-42\r\n".to_owned(),
        format!("authorization: Bearer {KEY}\r\nx-api-key: {KEY}\r\n"),
    ];
    let bad = [
        String::new(),
        "authorization: Bearer wrong-key-000\r\n".to_owned(),
        format!("authorization: Bearer {KEY}x\r\n"),
        format!("authorization: Bearer {}\r\n", &KEY[..KEY.len() - 1]),
        format!("authorization: Basic {KEY}\r\n"),
        format!("authorization: {KEY}\r\n"),
        "authorization: Bearer \r\n".to_owned(),
        "authorization: Bearer\r\n".to_owned(),
        format!("x-api-key: {KEY}\r\nauthorization: Bearer wrong-key-000\r\n"),
        format!("x-api-key: {KEY}\r\nx-api-key: wrong-key-000\r\n"),
        format!("x-api-keys: {KEY}\r\ncookie: key={KEY}\r\n"),
        "x-api-key: ' OR '1'='1\r\n".to_owned(),
        format!("x-api-key: {}\r\n", "k".repeat(8000)),
    ];
    for route in ROUTES {
        for credential in &good {
            let response = server.send(request(route.method, route.path, credential).as_bytes()).await;
            assert_eq!(response.status, 200, "{} {credential}: {response:?}", route.path);
        }
        for credential in &bad {
            let response = server.send(request(route.method, route.path, credential).as_bytes()).await;
            let expected = if route.open { 200 } else { 401 };
            assert_eq!(response.status, expected, "{} {credential}: {response:?}", route.path);
            if !route.open {
                assert_eq!(response.code(), "invalid_api_key");
                assert_eq!(response.header("www-authenticate"), Some("Bearer"));
            }
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn odd_paths_and_methods_are_no_way_around_the_key() {
    let server = with_key().await;
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/health/",
        "/health/../v1/models",
        "/health/..%2fv1/models",
        "/HEALTH",
        "//health",
        "/health%00",
        "/%68ealth",
        "/v1/models/",
        "/v1/models?x=/health",
        "/v1//models",
        "/ready/x",
        "/metrics/",
        "/openapi.json/",
        "/v1/models/fake/health",
        "/admin",
    ] {
        for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "BREW"] {
            let response = server.send(request(method, path, "").as_bytes()).await;
            assert_eq!(response.status, 401, "{method} {path}: {response:?}");
        }
    }
    // The whole address in the request line, with a name of its own.
    for target in ["http://localhost/v1/models", "http://evil.example/health", "http://localhost:80/metrics"]
    {
        let response = server.send(request("GET", target, "").as_bytes()).await;
        assert!([401, 403].contains(&response.status), "{target}: {response:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn five_thousand_hostile_keys() {
    let config = ServerConfig { api_keys: vec![ApiKey::new("one", KEY).unwrap()], ..ServerConfig::default() };
    let server = Server::new(&config, provider()).unwrap();
    let router = server.router();
    let pieces = [
        "'",
        "\"",
        " OR 1=1",
        "--",
        ";",
        "%00",
        "${jndi:",
        "../",
        "\u{e9}",
        "key-",
        "0123456789",
        "\\",
        "{{",
        "\t",
    ];
    for i in 0..5000usize {
        let key: String = (0..=i % 5).map(|k| pieces[(i / (k + 1) + k * 7) % pieces.len()]).collect();
        let Ok(value) = axum::http::HeaderValue::from_bytes(format!("Bearer {key}").as_bytes()) else {
            continue;
        };
        let request = axum::http::Request::get("/v1/models")
            .header("host", "localhost")
            .header("authorization", value)
            .body(axum::body::Body::empty())
            .unwrap();
        let response = tower::ServiceExt::oneshot(router.clone(), request).await.unwrap();
        let expected = if key.trim() == KEY { 200 } else { 401 };
        assert_eq!(response.status(), expected, "{key:?}");
    }
}

#[tokio::test]
async fn names_of_other_machines_are_refused_on_loopback() {
    let allowed_hosts = vec!["levain.internal".to_owned()];
    let server = serve(ServerConfig { allowed_hosts, ..ServerConfig::default() }, provider()).await;
    let ask = async |lines: &str| {
        let text = format!("GET /v1/models HTTP/1.1\r\nconnection: close\r\n{lines}\r\n");
        server.send(text.as_bytes()).await
    };
    for host in [
        "localhost",
        "LOCALHOST:7171",
        "localhost.",
        "127.0.0.1",
        "127.0.0.1:1",
        "[::1]:80",
        "levain.internal",
    ] {
        assert_eq!(ask(&format!("host: {host}\r\n")).await.status, 200, "{host}");
    }
    for host in [
        "evil.example",
        "evil.example:7171",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "",
        "localhost@evil.example",
    ] {
        let response = ask(&format!("host: {host}\r\n")).await;
        assert_eq!(response.status, 403, "{host}: {response:?}");
        assert_eq!(response.code(), "host_not_allowed");
    }
    assert_eq!(ask("").await.status, 403);
    assert_eq!(ask("host: localhost\r\nhost: evil.example\r\n").await.status, 403);
    server.stop().await;
}

#[tokio::test]
async fn pages_elsewhere_may_not_call_unless_they_are_listed() {
    let allowed_origins = vec!["https://chat.example.org".to_owned()];
    let config = ServerConfig {
        allowed_origins,
        api_keys: vec![ApiKey::new("one", KEY).unwrap()],
        ..ServerConfig::default()
    };
    let server = serve(config, provider()).await;
    let ask = async |method: &str, lines: &str| {
        let lines = format!("connection: close\r\ncontent-length: 0\r\n{lines}");
        server.send(head(method, "/v1/models", &lines).as_bytes()).await
    };
    let credential = format!("authorization: Bearer {KEY}\r\n");
    for origin in
        ["https://evil.example", "null", "http://localhost:9999", "https://chat.example.org.evil.example"]
    {
        for method in ["GET", "POST", "OPTIONS"] {
            let lines = format!("origin: {origin}\r\naccess-control-request-method: POST\r\n{credential}");
            let response = ask(method, &lines).await;
            assert_eq!(response.status, 403, "{method} {origin}");
            assert_eq!(response.header("access-control-allow-origin"), None);
        }
    }
    let listed = "origin: https://chat.example.org\r\n";
    let preflight = ask("OPTIONS", &format!("{listed}access-control-request-method: POST\r\n")).await;
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.header("access-control-allow-origin"), Some("https://chat.example.org"));
    assert!(preflight.header("access-control-allow-headers").unwrap().contains("authorization"));
    assert_eq!(preflight.header("access-control-allow-credentials"), None);
    // A question before the request is no way in.
    assert_eq!(ask("GET", listed).await.status, 401);
    let answer = ask("GET", &format!("{listed}{credential}")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://chat.example.org"));
    // The server's own pages, and programs, which send no origin.
    assert_eq!(ask("GET", &format!("origin: http://localhost\r\n{credential}")).await.status, 200);
    let plain = ask("GET", &credential).await;
    assert_eq!((plain.status, plain.header("access-control-allow-origin")), (200, None));
    server.stop().await;
}

#[tokio::test]
async fn other_machines_need_a_key() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let listen: SocketAddr = address.parse().unwrap();
        let open = ServerConfig { listen, ..ServerConfig::default() };
        let error = Server::new(&open, provider()).err().unwrap();
        assert!(matches!(error, ServerError::OpenWithoutKey { .. }));
        assert!(error.to_string().contains("set one"), "{error}");
        let keyed = |key| ServerConfig { api_keys: vec![ApiKey::new("one", key).unwrap()], ..open.clone() };
        assert!(Server::new(&keyed("0123456789abcdef"), provider()).is_ok());
        let error = Server::new(&keyed("0123456789abcde"), provider()).err().unwrap().to_string();
        assert!(error.contains("16 or more") && !error.contains("0123456789"), "{error}");
        assert!(Server::new(&ServerConfig { insecure_no_auth: true, ..open.clone() }, provider()).is_ok());
    }
    let mapped = ServerConfig { listen: "[::ffff:127.0.0.1]:0".parse().unwrap(), ..ServerConfig::default() };
    assert!(Server::new(&mapped, provider()).is_ok());
}

#[tokio::test]
async fn weak_keys_and_taken_ports_are_refused_in_words() {
    for secret in ["", "short", "has a blank in it", "tab\tin\tit..", "ümlautümlaut"] {
        let error = ApiKey::new("mine", secret).unwrap_err().to_string();
        assert!(error.contains("mine") && (secret.is_empty() || !error.contains(secret)), "{error}");
    }
    assert!(!format!("{:?}", ApiKey::new("mine", KEY).unwrap()).contains(KEY));
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = ServerConfig { listen: taken.local_addr().unwrap(), ..ServerConfig::default() };
    let error = Server::new(&config, provider()).unwrap().bind().await.err().unwrap();
    assert!(matches!(error, ServerError::AddressInUse { .. }));
    assert!(error.to_string().contains("is in use: stop the program"), "{error}");
}

#[tokio::test]
async fn callers_have_tenants_of_their_own() {
    use std::sync::Mutex;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let provider = FakeProvider::new("fake").with_script(move |request| {
        log.lock().unwrap().push(request.tenant.clone());
        Ok(vec![])
    });
    let api_keys = vec![ApiKey::new("one", KEY).unwrap(), ApiKey::new("two", "another-key-42").unwrap()];
    let server = serve(ServerConfig { api_keys, ..ServerConfig::default() }, Arc::new(provider)).await;
    for key in [KEY, "another-key-42", KEY] {
        let credential = format!("x-api-key: {key}\r\n");
        server.send(request("POST", "/v1/chat/completions", &credential).as_bytes()).await;
    }
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen[0], seen[2]);
    assert_ne!(seen[0], seen[1]);
    assert!(seen.iter().all(|tenant| tenant.as_ref().is_some_and(|tenant| !KEY.contains(tenant))));
    server.stop().await;
}

#[tokio::test]
async fn a_caller_takes_no_more_than_half_of_the_places() {
    let provider = FakeProvider::new("fake").with_script(|_| Ok(vec![Step::Wait(Duration::from_secs(600))]));
    let gauge = provider.gauge();
    let api_keys = vec![ApiKey::new("one", KEY).unwrap(), ApiKey::new("two", "another-key-42").unwrap()];
    let limits = Limits { requests_max: 4, drain_timeout: Duration::from_millis(1), ..Limits::default() };
    let server =
        serve(ServerConfig { api_keys, limits, ..ServerConfig::default() }, Arc::new(provider)).await;
    let [one, two] = [KEY, "another-key-42"].map(|key| format!("x-api-key: {key}\r\n"));
    let mut held = Vec::new();
    for open in 1..=2 {
        let mut stream = server.connect().await;
        stream.write_all(request("POST", "/v1/chat/completions", &one).as_bytes()).await.unwrap();
        held.push(stream);
        until("it is being answered", || gauge.open() == open).await;
    }
    assert_eq!(server.send(request("POST", "/tokenize", &one).as_bytes()).await.status, 429);
    assert_eq!(server.send(request("POST", "/tokenize", &two).as_bytes()).await.status, 200);
    drop(held);
    server.stop().await;
}

#[tokio::test]
async fn who_tries_keys_waits_and_who_has_one_does_not() {
    let api_keys = vec![ApiKey::new("one", KEY).unwrap()];
    let limits = Limits { wrong_key_pause: Duration::from_secs(3600), ..Limits::default() };
    let server = serve(ServerConfig { api_keys, limits, ..ServerConfig::default() }, provider()).await;
    let good = format!("x-api-key: {KEY}\r\n");
    assert_eq!(server.send(request("GET", "/v1/models", &good).as_bytes()).await.status, 200);
    for i in 0..10 {
        let wrong = format!("x-api-key: a-wrong-key-{i}\r\n");
        assert_eq!(server.send(request("GET", "/v1/models", &wrong).as_bytes()).await.status, 401);
    }
    let mut waits = server.connect().await;
    waits.write_all(request("GET", "/v1/models", "x-api-key: a-wrong-key\r\n").as_bytes()).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(200), waits.read_u8()).await.is_err());
    assert_eq!(server.send(request("GET", "/v1/models", &good).as_bytes()).await.status, 200);
    assert_eq!(server.send(request("GET", "/health", "").as_bytes()).await.status, 200);
    drop(waits);
    server.stop().await;
}

#[tokio::test]
async fn without_a_key_other_machines_are_served_under_addresses_and_known_names_only() {
    let config = |allowed: &[&str]| ServerConfig {
        listen: "0.0.0.0:0".parse().unwrap(),
        insecure_no_auth: true,
        allowed_hosts: allowed.iter().map(|&name| name.to_owned()).collect(),
        ..ServerConfig::default()
    };
    let ask = async |server: &Running, host: &str| {
        let text = format!("GET /v1/models HTTP/1.1\r\nconnection: close\r\nhost: {host}\r\n\r\n");
        server.send(text.as_bytes()).await.status
    };
    let server = serve(config(&[]), provider()).await;
    for host in ["localhost", "192.0.2.7:7171", "127.0.0.1", "[2001:db8::1]:80"] {
        assert_eq!(ask(&server, host).await, 200, "{host}");
    }
    for host in ["evil.example", "192.0.2.7.evil.example", "box", "[evil]"] {
        assert_eq!(ask(&server, host).await, 403, "{host}");
    }
    server.stop().await;
    let server = serve(config(&["box"]), provider()).await;
    assert_eq!((ask(&server, "box:80").await, ask(&server, "other").await), (200, 403));
    server.stop().await;
}
