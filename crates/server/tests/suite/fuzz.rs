//! Random requests to every route: an answer or a refusal, never a failure.

use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use levain_server::{ROUTES, Server, ServerConfig};
use levain_testkit::provider::FakeProvider;
use serde_json::{Map, Value, json};
use tower::ServiceExt;

const REQUESTS: usize = 10_000;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n.max(1) as u64).unwrap()
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.below(if depth > 3 { 14 } else { 17 }) {
            0 => Value::Null,
            1 => json!(true),
            2 => json!(false),
            3 => json!(-1),
            4 => json!(0),
            5 => json!(1),
            6 => json!(self.below(40)),
            7 => json!(u64::MAX),
            8 => json!(i64::MIN),
            9 => json!(0.5),
            10 => json!(1e308),
            11 => json!(""),
            12 => json!(
                ["fake", "none", "auto", "high", "text", "json_object", "base64", "mean"][self.below(8)]
            ),
            13 => json!("\u{0}\u{202e}x".repeat(self.below(50))),
            14 => (0..self.below(5)).map(|_| self.value(depth + 1)).collect(),
            15 => {
                let names = ["type", "role", "content", "name", "function", "text", "url", "5", "x"];
                let fields = (0..self.below(4))
                    .map(|_| (names[self.below(names.len())].to_owned(), self.value(depth + 1)));
                Value::Object(fields.collect::<Map<String, Value>>())
            }
            _ => json!([{ "role": "user", "content": self.value(depth + 1) }]),
        }
    }
}

#[tokio::test]
async fn random_parameters_never_fail_the_server() {
    let provider = FakeProvider::new("fake");
    let gauge = provider.gauge();
    let server = Server::new(&ServerConfig::default(), Arc::new(provider)).unwrap();
    let router = server.router();
    let mut random = Random(11);
    let (mut accepted, mut refused) = (0, 0);
    let routes: Vec<_> =
        ROUTES.iter().filter_map(|route| route.body.map(|body| (route.path, body.0))).collect();
    for _ in 0..REQUESTS {
        let (path, fields) = routes[random.below(routes.len())];
        let mut body = json!({
            "model": "fake", "messages": [{ "role": "user", "content": "x" }], "prompt": "x", "input": "x",
            "content": "x", "tokens": [1],
        });
        let map = body.as_object_mut().unwrap();
        map.retain(|name, _| fields.iter().copied().flatten().any(|field| field.name == name));
        if path == "/tokenize" {
            map.remove("prompt");
        }
        for _ in 0..random.below(4) {
            let names: Vec<&str> = fields.iter().copied().flatten().map(|field| field.name).collect();
            let name = names[random.below(names.len())];
            map.insert(name.to_owned(), random.value(0));
        }
        let text = body.to_string();
        let request = Request::post(path).header("host", "localhost").body(Body::from(text.clone())).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let answer = axum::body::to_bytes(response.into_body(), 64 << 20).await.unwrap();
        match status {
            200 => accepted += 1,
            400 | 404 => {
                refused += 1;
                let error: Value = serde_json::from_slice(&answer).unwrap();
                assert!(error["error"]["message"].as_str().is_some_and(|text| text.len() < 1024), "{text}");
            }
            _ => panic!("{status} for {path} {text}"),
        }
        assert!(!answer.windows(13).any(|window| window == b"\"internal_err"), "{text}");
    }
    assert!(accepted > REQUESTS / 20 && refused > REQUESTS / 20, "{accepted} accepted, {refused} refused");
    assert_eq!(gauge.open(), 0);
}
