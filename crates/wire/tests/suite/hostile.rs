//! Bytes from nowhere: every reader answers with a call or a 400, whatever it is given.
//!
//! `fuzz/corpus/request_json` holds the seeds of the fuzz target of the same name; they are replayed and mutated here.

use levain_wire::openai::{ApiError, ChatCall, CompletionCall, DetokenizeCall, EmbeddingCall, TokenizeCall};

fn read_as_everything(body: &[u8]) {
    for error in [
        ChatCall::from_bytes(body).err(),
        CompletionCall::from_bytes(body).err(),
        EmbeddingCall::from_bytes(body).err(),
        TokenizeCall::from_bytes(body).err(),
        DetokenizeCall::from_bytes(body).err(),
    ]
    .into_iter()
    .flatten()
    {
        check(&error);
    }
}

fn check(error: &ApiError) {
    assert_eq!(error.status, 400);
    assert!(error.message.len() < 1024, "{}", error.message);
    assert!(error.param.as_ref().is_none_or(|param| param.len() < 512));
    assert!(serde_json::from_slice::<serde_json::Value>(&error.to_json()).is_ok());
}

fn corpus() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/request_json");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| std::fs::read(path).unwrap()).collect()
}

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
}

#[test]
fn the_corpus_is_replayed() {
    let corpus = corpus();
    assert!(corpus.len() >= 10, "the corpus is missing");
    corpus.iter().for_each(|body| read_as_everything(body));
    assert!(corpus.iter().any(|body| ChatCall::from_bytes(body).is_ok()));
    assert!(corpus.iter().any(|body| CompletionCall::from_bytes(body).is_ok()));
    assert!(corpus.iter().any(|body| EmbeddingCall::from_bytes(body).is_ok()));
}

#[test]
fn mutants_of_the_corpus_are_answered() {
    const BITS: [&[u8]; 20] = [
        b"null",
        b"-1",
        b"1e999",
        b"1e308",
        b"9223372036854775808",
        b"0.5",
        b"\"\"",
        b"[]",
        b"{}",
        b"[[",
        b"{\"a\":",
        b"\"\\ud800\"",
        b"\xff",
        b"\0",
        b",",
        b"true",
        b"18446744073709551616",
        b"-0",
        b"\"\\u0000\"",
        b"NaN",
    ];
    let corpus = corpus();
    let mut random = Random(7);
    for _ in 0..20_000 {
        let mut body = corpus[random.below(corpus.len())].clone();
        for _ in 0..=random.below(3) {
            let at = random.below(body.len() + 1);
            let end = (at + random.below(12)).min(body.len());
            let bit = BITS[random.below(BITS.len())];
            match random.below(4) {
                0 => drop(body.splice(at..end, bit.iter().copied())),
                1 => drop(body.splice(at..at, bit.iter().copied())),
                2 => body.truncate(at),
                _ => {
                    if let Some(byte) = body.get_mut(at) {
                        *byte ^= 1 << random.below(8);
                    }
                }
            }
        }
        read_as_everything(&body);
    }
}

#[test]
fn costly_bodies_are_refused() {
    let chat = |content: &str| format!("{{\"model\":\"m\",\"messages\":{content}}}").into_bytes();
    for body in [
        // Nesting that would end a recursive reader's stack.
        chat(&"[".repeat(1_000_000)),
        chat(&"{\"a\":".repeat(1_000_000)),
        format!("{{\"chat_template_kwargs\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000)).into_bytes(),
        // Values that take far more memory than bytes.
        chat(&format!("[{}0]", "[],".repeat(1_000_000))),
        format!("{{\"model\":\"m\",\"prompt\":[{}0]}}", "0,".repeat(2_000_000)).into_bytes(),
        // Many messages, tools and biases.
        chat(&format!("[{}1]", "{\"role\":\"user\",\"content\":\"x\"},".repeat(5000))),
    ] {
        read_as_everything(&body);
        assert!(ChatCall::from_bytes(&body).is_err());
        assert!(CompletionCall::from_bytes(&body).is_err());
    }
}
