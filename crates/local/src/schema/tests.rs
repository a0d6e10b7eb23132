//! Every schema is either enforced, so that all answers satisfy it, or refused in words. Answers are drawn at random
//! and judged by an independent validator.

mod keys;
mod shapes;
mod suite;

use std::sync::{Arc, OnceLock};

use levain_chat::{ProviderError, ResponseFormat};
use levain_engine::{Constraint, TokenMask};
use serde_json::Value;

use super::*;
use crate::{
    constraint::{AnswerConstraint, Body},
    guide::{Compiled, Guide, Source},
    table::TokenTable,
};

const WORDS: &[&str] =
    &["{\"", "\": ", "\", \"", "\"}", "],", "true", "null", "ab", "é", "10", "\\u", "a\":", "n\""];

fn guide() -> (Arc<TokenTable>, Arc<Guide>) {
    static GUIDE: OnceLock<(Arc<TokenTable>, Arc<Guide>)> = OnceLock::new();
    GUIDE
        .get_or_init(|| {
            let mut tokens: Vec<Vec<u8>> = (0..=255u8).map(|byte| vec![byte]).collect();
            tokens.extend(WORDS.iter().map(|word| word.as_bytes().to_vec()));
            let table = Arc::new(TokenTable::new(tokens.len(), |id| tokens[id as usize].as_slice()));
            (Arc::clone(&table), Arc::new(Guide::new(table)))
        })
        .clone()
}

/// A grammar of the schema, or the words of its refusal.
fn compile(schema: &Value, strict: Option<bool>) -> Result<Compiled, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let format = ResponseFormat::JsonSchema { schema: schema.clone(), strict };
    let source = match Source::of_format(&format) {
        Ok(source) => source.unwrap(),
        Err(ProviderError::Invalid { message, .. }) => return Err(message),
        Err(error) => panic!("{schema}: {error}"),
    };
    match runtime.block_on(guide().1.compile(source, None)) {
        Ok(compiled) => Ok(compiled),
        Err(ProviderError::Invalid { param, message }) if param == "response_format" => Err(message),
        Err(error) => panic!("{schema}: {error}"),
    }
}

/// Words that a user of this program can't know.
const INTERNAL: [&str; 12] = [
    "guidance",
    "coerce",
    "lark",
    "lexeme",
    "lexer",
    "Unimplemented",
    "ParserLimits",
    "derivre",
    "regex_",
    "args_",
    "schema_0",
    "backtrace",
];

fn check_refusal(schema: &Value, message: &str) {
    assert!(!message.is_empty() && message.len() < 700, "{schema}: {message}");
    for word in INTERNAL {
        assert!(!message.contains(word), "{schema}: {message}");
    }
}

struct Draw(u64);

impl Draw {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % below
    }
}

/// Draws an answer. At first anything comes, then what closes. `None` if it did not end.
fn draw(compiled: &Compiled, seed: u64) -> Option<String> {
    let (table, _) = guide();
    let mut constraint = AnswerConstraint::new(&table, None, Body::Guided(compiled.clone())).unwrap();
    let (mut draw, mut text) = (Draw(seed), Vec::new());
    for step in 0..260 {
        let mut mask = TokenMask::new(table.len());
        constraint.allowed(&mut mask).unwrap_or_else(|error| {
            panic!("{error} behind {:?}", String::from_utf8_lossy(&text));
        });
        let allowed: Vec<u32> = (0..table.len() as u32).filter(|&id| mask.is_allowed(id)).collect();
        let closing = step > 25;
        if allowed.is_empty() || (constraint.may_stop() && (closing || draw.next(3) == 0)) {
            assert!(constraint.may_stop(), "a dead end behind {:?}", String::from_utf8_lossy(&text));
            return Some(String::from_utf8(text).unwrap());
        }
        let in_text = is_in_text(&text);
        let first = |bytes: &[u8]| {
            let close: &[u8] = if in_text { b"\"" } else { b"}]\"," };
            let rank = close.iter().position(|close| bytes == [*close]);
            rank.unwrap_or(if bytes.iter().all(u8::is_ascii_whitespace) { 20 } else { 10 })
        };
        let pool: Vec<u32> = if closing || draw.next(4) == 0 {
            let best = allowed.iter().map(|&id| first(table.bytes(id))).min().unwrap();
            allowed.into_iter().filter(|&id| first(table.bytes(id)) == best).collect()
        } else {
            // Letters rather than the many bytes that begin other characters.
            let plain: Vec<u32> = allowed.iter().copied().filter(|&id| table.bytes(id).is_ascii()).collect();
            if plain.is_empty() { allowed } else { plain }
        };
        let token = pool[draw.next(pool.len())];
        text.extend_from_slice(table.bytes(token));
        constraint.accept(token).unwrap();
    }
    None
}

fn is_in_text(text: &[u8]) -> bool {
    let (mut inside, mut escaped) = (false, false);
    for &byte in text {
        inside ^= byte == b'"' && !escaped;
        escaped = inside && byte == b'\\' && !escaped;
    }
    inside
}

/// Whether the grammar takes a text as a whole.
fn takes(compiled: &Compiled, text: &str) -> bool {
    let (table, _) = guide();
    let mut constraint = AnswerConstraint::new(&table, None, Body::Guided(compiled.clone())).unwrap();
    for byte in text.bytes() {
        let mut mask = TokenMask::new(table.len());
        if constraint.allowed(&mut mask).is_err() || !mask.is_allowed(u32::from(byte)) {
            return false;
        }
        constraint.accept(u32::from(byte)).unwrap();
    }
    constraint.may_stop()
}

/// An independent judge of instances; `None` if it can't read the schema.
struct Judge {
    schemas: boon::Schemas,
    index: boon::SchemaIndex,
}

impl Judge {
    fn new(schema: &Value) -> Option<Self> {
        let mut schemas = boon::Schemas::new();
        let mut compiler = boon::Compiler::new();
        compiler.enable_format_assertions();
        compiler.add_resource("http://levain.test/schema.json", schema.clone()).ok()?;
        let index = compiler.compile("http://levain.test/schema.json", &mut schemas).ok()?;
        Some(Self { schemas, index })
    }

    fn admits(&self, value: &Value) -> bool {
        self.schemas.validate(value, self.index).is_ok()
    }
}

/// Draws answers and has them judged; returns how many ended.
fn check_answers(
    schema: &Value,
    compiled: &Compiled,
    judge: Option<&Judge>,
    seeds: std::ops::Range<u64>,
) -> usize {
    let mut ended = 0;
    for seed in seeds {
        let Some(text) = draw(compiled, seed) else { continue };
        ended += 1;
        check_keys(&text);
        let value: Value = match serde_json::from_str(&text) {
            Ok(value) => value,
            // Beyond the range of numbers in memory, and JSON all the same.
            Err(error) if error.to_string().contains("out of range") => continue,
            Err(error) => panic!("{schema}: {text}: {error}"),
        };
        if let Some(judge) = judge {
            assert!(judge.admits(&value), "{schema}: {text}");
        }
    }
    ended
}

/// Runs a check of each of many; all failures are seen at once.
fn check_all<T: std::fmt::Debug>(all: impl IntoIterator<Item = T>, check: impl Fn(&T)) {
    let failed: Vec<String> = all
        .into_iter()
        .filter(|one| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(one))).is_err())
        .map(|one| format!("{one:?}").chars().take(300).collect())
        .collect();
    assert!(failed.is_empty(), "{} fail: {failed:#?}", failed.len());
}

/// Validators don't see keys that come twice: readers of JSON drop them.
fn check_keys(text: &str) {
    let mut open: Vec<Vec<String>> = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}', '"']) {
        let tail = &rest[at..];
        match tail.as_bytes()[0] {
            b'{' => open.push(Vec::new()),
            b'}' => {
                open.pop();
            }
            _ => {
                let mut stream = serde_json::Deserializer::from_str(tail).into_iter::<String>();
                let word = stream.next().unwrap().unwrap();
                rest = &tail[stream.byte_offset()..];
                if rest.trim_start().starts_with(':') {
                    let keys = open.last_mut().unwrap();
                    assert!(!keys.contains(&word), "the key {word:?} comes twice in {text}");
                    keys.push(word);
                }
                continue;
            }
        }
        rest = &tail[1..];
    }
}
