//! What must hold for any credential, host and origin; shared with the fuzz target.

use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::{HeaderName, HeaderValue, Request};
use levain_server::{ApiKey, Server, ServerConfig};
use levain_testkit::provider::FakeProvider;
use serde_json::Value;
use tower::ServiceExt;

const KEY: &str = "key-0123456789abcdef";

/// A server with one key.
pub(crate) struct Gate {
    runtime: tokio::runtime::Runtime,
    router: axum::Router,
}

impl Gate {
    pub(crate) fn new() -> Self {
        let config =
            ServerConfig { api_keys: vec![ApiKey::new("one", KEY).unwrap()], ..ServerConfig::default() };
        let server = Server::new(&config, Arc::new(FakeProvider::new("fake"))).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, router: server.router() }
    }

    /// Lines of headers: `a` authorization, `x` x-api-key, `h` host, `o` origin, each followed by its value. A request is
    /// let in only with this server's key, under a name of this machine, and from no other page. Tells whether it was.
    pub(crate) fn check(&self, input: &[u8]) -> bool {
        let mut given = Given::default();
        let mut request = Request::get("/v1/models");
        for line in input.split(|&byte| byte == b'\n') {
            let Some((kind, value)) = line.split_first() else { continue };
            let Ok(header) = HeaderValue::from_bytes(value) else { continue };
            let name = match kind {
                b'a' => AUTHORIZATION,
                b'x' => HeaderName::from_static("x-api-key"),
                b'h' => HOST,
                b'o' => ORIGIN,
                _ => continue,
            };
            given.note(*kind, value);
            request = request.header(name, header);
        }
        if given.hosts.is_empty() {
            given.note(b'h', b"localhost");
            request = request.header(HOST, "localhost");
        }
        let request = request.body(Body::empty()).unwrap();
        let (status, answer) = self.runtime.block_on(async {
            let response = self.router.clone().oneshot(request).await.unwrap();
            let status = response.status().as_u16();
            (status, axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap())
        });
        if status == 200 {
            assert!(given.is_keyed() && given.is_local() && given.is_own_page(), "{given:?} was let in");
            return true;
        }
        assert!(matches!(status, 401 | 403 | 431), "{status}");
        assert!(status != 401 || !given.is_keyed(), "the key was refused: {given:?}");
        let error: Value = serde_json::from_slice(&answer).unwrap();
        let message = error["error"]["message"].as_str().unwrap();
        assert!(!message.is_empty() && message.len() < 1024 && !message.contains(KEY), "{message}");
        false
    }
}

/// What a request says of itself.
#[derive(Debug, Default)]
struct Given {
    /// `None` for one that is not well-formed.
    keys: Vec<Option<Vec<u8>>>,
    hosts: Vec<String>,
    origins: Vec<String>,
}

impl Given {
    fn note(&mut self, kind: u8, value: &[u8]) {
        let text = || String::from_utf8_lossy(value).to_ascii_lowercase();
        match kind {
            b'a' => {
                let bearer = value.len() > 7 && value[..7].eq_ignore_ascii_case(b"bearer ");
                self.keys
                    .push(bearer.then(|| value[7..].trim_ascii().to_vec()).filter(|key| !key.is_empty()));
            }
            b'x' => self.keys.push(Some(value.to_vec())),
            b'h' => self.hosts.push(text()),
            _ => self.origins.push(text()),
        }
    }

    fn is_keyed(&self) -> bool {
        !self.keys.is_empty() && self.keys.iter().all(|key| key.as_deref() == Some(KEY.as_bytes()))
    }

    fn is_local(&self) -> bool {
        let [host] = self.hosts.as_slice() else { return false };
        let host = host.rsplit('@').next().unwrap();
        ["localhost", "127.0.0.1", "[::1]"].iter().any(|name| {
            let rest = host.strip_prefix(name).map(|rest| rest.trim_start_matches('.'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        })
    }

    fn is_own_page(&self) -> bool {
        match (self.origins.as_slice(), self.hosts.as_slice()) {
            ([], _) => true,
            ([origin], [host]) => {
                ["http://", "https://"].iter().any(|scheme| *origin == format!("{scheme}{host}"))
            }
            _ => false,
        }
    }
}

#[test]
fn the_fuzz_corpus_holds() {
    let gate = Gate::new();
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/key_header");
    let files: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    let let_in = files.iter().filter(|path| gate.check(&std::fs::read(path).unwrap())).count();
    // The key in each of its forms, alone or twice, and with the names of this machine.
    assert!(let_in == 6 && files.len() > 2 * let_in, "{let_in} of {}", files.len());
}
