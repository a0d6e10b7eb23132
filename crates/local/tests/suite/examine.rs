//! What must hold for any schema, grammar and stream; shared with the fuzz targets.

use levain_chat::ResponseFormat;
use levain_engine::{Constraint, TokenMask};
use levain_local::fuzzing::{Grammars, enforce};
use levain_local::{PromptState, ReasoningSplitter, Section, ThinkTags, ToolParser, ToolPiece, ToolSyntax};
use serde_json::Value;

/// Tokens of an answer that are drawn at most.
const TOKENS_MAX: usize = 48;
/// Longest refusal; it is told to whoever wrote the schema.
const REFUSAL_BYTES_MAX: usize = 1000;

/// A fuzz target's input: what is read, and behind the first NUL what chooses among the ways to go on.
pub(crate) fn halves(input: &[u8]) -> (&[u8], &[u8]) {
    let at = input.iter().position(|&byte| byte == 0).unwrap_or(input.len());
    (&input[..at], input.get(at + 1..).unwrap_or_default())
}

/// Choices that bytes make, again and again from their beginning.
pub(crate) fn choices(bytes: &[u8]) -> impl FnMut(usize) -> usize {
    let mut next = bytes.iter().chain(&[0]).cycle();
    move |below| next.by_ref().take(2).fold(0, |n, &byte| n << 8 | usize::from(byte)) % below.max(1)
}

/// As a fuzz target reads it: the first byte says what the rest is. Tells whether it was taken.
pub(crate) fn grammar_input(grammars: &Grammars, input: &[u8]) -> bool {
    let (text, choice) = halves(input);
    let (Some((kind, text)), mut draws) = (text.split_first(), choices(choice)) else { return false };
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let budget = (kind % 2 == 0).then(|| u32::from(choice.len() as u8));
    let format = match kind / 2 % 3 {
        0 => ResponseFormat::Grammar(text.to_owned()),
        1 => ResponseFormat::Regex(text.to_owned()),
        _ => ResponseFormat::JsonObject,
    };
    grammar(grammars, &format, budget, &mut draws).is_some()
}

/// As a fuzz target reads it. Tells whether it was taken.
pub(crate) fn schema_input(grammars: &Grammars, input: &[u8]) -> bool {
    let (text, choice) = halves(input);
    serde_json::from_slice(text).is_ok_and(|value| schema(grammars, &value, &mut choices(choice)))
}

/// As a fuzz target reads it.
pub(crate) fn stream_input(input: &[u8], check: fn(&str, &[u8]) -> bool) -> bool {
    let (text, widths) = halves(input);
    std::str::from_utf8(text).is_ok_and(|text| check(text, widths))
}

/// Every byte, and a few words that end in the middle of what grammars are made of.
pub(crate) fn vocabulary() -> Vec<Vec<u8>> {
    let words =
        ["<think>", "</think>", "</", "\n\n", "{\"", "\": ", "\"}", "true", "name", "1.5e", "aaaa", "é", ""];
    (0..=255u8).map(|byte| vec![byte]).chain(words.iter().map(|word| word.as_bytes().to_vec())).collect()
}

/// A schema is refused in words or becomes one that a grammar can be made of. Tells whether it did.
pub(crate) fn schema(grammars: &Grammars, schema: &Value, draws: &mut dyn FnMut(usize) -> usize) -> bool {
    let strict = enforce(schema, false);
    let lenient = enforce(schema, true);
    for refusal in [&strict, &lenient].into_iter().filter_map(|result| result.as_ref().err()) {
        assert!(!refusal.is_empty() && refusal.len() < REFUSAL_BYTES_MAX, "{refusal}");
    }
    assert!(strict.is_err() || lenient == strict, "what can be enforced is the same either way");
    let format = |strict| ResponseFormat::JsonSchema { schema: schema.clone(), strict: Some(strict) };
    let taken = strict.is_ok() && grammar(grammars, &format(true), None, draws).is_some();
    if lenient.is_ok() && strict.is_err() {
        grammar(grammars, &format(false), None, draws);
    }
    taken
}

/// A grammar is refused in words, or each token that it allows is taken until it ends or says why it can't go on. `draws`
/// chooses among the tokens. Gives the answer as far as it came and whether it may end there.
pub(crate) fn grammar(
    grammars: &Grammars,
    format: &ResponseFormat,
    budget: Option<u32>,
    draws: &mut dyn FnMut(usize) -> usize,
) -> Option<(Vec<u8>, bool)> {
    let mut constraint = match grammars.compile(format, budget) {
        Ok(constraint) => constraint,
        Err(refusal) => {
            let refusal = refusal.to_string();
            assert!(!refusal.is_empty() && refusal.len() < REFUSAL_BYTES_MAX, "{refusal}");
            return None;
        }
    };
    let words = vocabulary();
    let mut answer = Vec::new();
    for _ in 0..TOKENS_MAX {
        let mut mask = TokenMask::new(words.len());
        if let Err(reason) = constraint.allowed(&mut mask) {
            assert!(!reason.is_empty() && reason.len() < REFUSAL_BYTES_MAX, "{reason}");
            return Some((answer, false));
        }
        let may_stop = constraint.may_stop();
        let allowed: Vec<u32> = (0..words.len() as u32)
            .filter(|&id| mask.is_allowed(id) && !words[id as usize].is_empty())
            .collect();
        if allowed.is_empty() || (may_stop && draws(4) == 0) {
            let json = matches!(format, ResponseFormat::JsonSchema { .. } | ResponseFormat::JsonObject);
            if json && may_stop && budget.is_none() {
                check_json(&answer);
            }
            return Some((answer, may_stop));
        }
        let token = allowed[draws(allowed.len())];
        answer.extend_from_slice(&words[token as usize]);
        take(&mut *constraint, token);
    }
    Some((answer, false))
}

/// An answer that may end is JSON, though its numbers may be larger than this reader's.
fn check_json(answer: &[u8]) {
    let read = serde_json::from_slice::<Value>(answer).map_err(|error| error.to_string());
    let fine = read.as_ref().err().is_none_or(|error| error.contains("out of range"));
    assert!(fine, "{}: {read:?}", String::from_utf8_lossy(answer));
}

fn take(constraint: &mut dyn Constraint, token: u32) {
    if let Err(reason) = constraint.accept(token) {
        // What is allowed is taken, unless the grammar has become too much.
        assert!(reason.contains("can't go on") && reason.len() < REFUSAL_BYTES_MAX, "{token}: {reason}");
    }
}

/// Cuts a text into pieces of as many characters as `widths` says, again and again.
fn pieces<'t>(text: &'t str, widths: &[u8]) -> Vec<&'t str> {
    let mut ends = text.char_indices().map(|(at, _)| at).skip(1);
    let mut pieces = Vec::new();
    let mut start = 0;
    for width in widths.iter().chain(&[0]).cycle() {
        let end = ends.nth(usize::from(*width)).unwrap_or(text.len());
        pieces.push(&text[start..end]);
        start = end;
        if start == text.len() {
            return pieces;
        }
    }
    pieces
}

/// Thinking and answer of a stream do not depend on how it was cut, and every piece is where it says. Tells whether there
/// was thinking.
pub(crate) fn thinking(text: &str, widths: &[u8]) -> bool {
    let tags = ThinkTags { open: "<think>".to_owned(), close: "</think>".to_owned() };
    let mut thought = false;
    for prompt in [PromptState::Before, PromptState::Open, PromptState::Closed] {
        let whole = split(&tags, prompt, &[text]);
        assert_eq!(split(&tags, prompt, &pieces(text, widths)), whole, "{text:?} after {prompt:?}");
        thought |= !whole.0.is_empty();
    }
    thought
}

fn split(tags: &ThinkTags, prompt: PromptState, pieces: &[&str]) -> (String, String) {
    let mut splitter = ReasoningSplitter::new(Some(tags.clone()), prompt);
    let (mut out, mut stream) = (Vec::new(), String::new());
    for piece in pieces {
        splitter.push(piece, &mut out);
        stream.push_str(piece);
    }
    splitter.finish(&mut out);
    let (mut reasoning, mut answer, mut end) = (String::new(), String::new(), 0);
    for piece in out {
        let start = usize::try_from(piece.start).unwrap();
        assert!(start >= end && !piece.text.is_empty(), "pieces come in order: {piece:?}");
        end = start + piece.text.len();
        assert_eq!(stream.get(start..end), Some(piece.text.as_str()), "offsets are true");
        match piece.section {
            Section::Reasoning => {
                assert!(answer.is_empty(), "thinking never follows the answer");
                reasoning.push_str(&piece.text);
            }
            Section::Answer => answer.push_str(&piece.text),
        }
    }
    (reasoning, answer)
}

/// One thing in an answer.
#[derive(Debug, PartialEq)]
enum Item {
    Text(String),
    Call(String, String),
}

/// Calls and text of a stream do not depend on how it was cut, and text is where it says. Tells whether there was a call.
pub(crate) fn tools(text: &str, widths: &[u8]) -> bool {
    let mut called = false;
    for syntax in ToolSyntax::ALL {
        let whole = parse(syntax, &[text]);
        assert_eq!(parse(syntax, &pieces(text, widths)), whole, "{text:?} in {syntax:?}");
        called |= whole.iter().any(|item| matches!(item, Item::Call(..)));
    }
    called
}

fn parse(syntax: ToolSyntax, pieces: &[&str]) -> Vec<Item> {
    let mut parser = ToolParser::new(syntax, vec!["get_weather".to_owned(), "f".to_owned()]);
    let (mut out, mut stream) = (Vec::new(), String::new());
    for piece in pieces {
        parser.push(stream.len() as u64, piece, &mut out);
        stream.push_str(piece);
    }
    parser.finish(&mut out);
    let mut items: Vec<Item> = Vec::new();
    let mut calls = 0;
    for piece in out {
        match (piece, items.last_mut()) {
            (ToolPiece::Text { start, text }, last) => {
                let start = usize::try_from(start).unwrap();
                assert_eq!(stream.get(start..start + text.len()), Some(text.as_str()), "offsets are true");
                match last {
                    Some(Item::Text(last)) => last.push_str(&text),
                    _ => items.push(Item::Text(text)),
                }
            }
            (ToolPiece::CallStart { name }, _) => {
                calls += 1;
                items.push(Item::Call(name, String::new()));
            }
            (ToolPiece::Arguments(more), Some(Item::Call(_, arguments))) => arguments.push_str(&more),
            (ToolPiece::Arguments(more), last) => panic!("arguments {more:?} behind {last:?}"),
        }
    }
    assert_eq!(parser.calls(), calls);
    items
}
