//! Answers drawn at random from what a constraint allows, over a small vocabulary of bytes and a few words.

use std::collections::BTreeMap;

use levain_chat::{ProviderError, ResponseFormat, Tool};
use serde_json::{Value, json};

use super::*;
use crate::{
    guide::{Guide, Source},
    tools::{From as Start, ToolParser, ToolPiece, ToolSyntax, call_grammar, trigger},
};

const WORDS: &[&str] = &[
    "<think>",
    "</think>",
    "<think>\n",
    "</",
    "think>",
    "think>{",
    "think>\n\n",
    "\n\n",
    "\n\n\n",
    "<tool_call>",
    "<tool_call>\n",
    "call>\n",
    "</tool_call>",
    "{\"",
    "\": ",
    "\"}",
    "name",
    "arguments",
    "hello",
    " world",
    "true",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>",
    "```json\n",
    "é",
    "",
];

fn vocabulary() -> (Arc<TokenTable>, usize) {
    let mut tokens: Vec<Vec<u8>> = (0..=255u8).map(|byte| vec![byte]).collect();
    tokens.extend(WORDS.iter().map(|word| word.as_bytes().to_vec()));
    (Arc::new(TokenTable::new(tokens.len(), |id| tokens[id as usize].as_slice())), tokens.len())
}

fn json_schema(schema: Value) -> ResponseFormat {
    ResponseFormat::JsonSchema { schema, strict: None }
}

/// A small generator, so that failures repeat.
struct Draw(u64);

impl Draw {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % below
    }
}

/// Draws an answer; `like` marks tokens that are drawn first where they are allowed.
fn answer(
    table: &Arc<TokenTable>,
    constraint: &mut AnswerConstraint,
    draw: &mut Draw,
    most: usize,
    like: &dyn Fn(&[u8], &[u8]) -> bool,
) -> Option<String> {
    let mut text = Vec::new();
    for _ in 0..most {
        let mut mask = TokenMask::new(table.len());
        constraint.allowed(&mut mask).unwrap();
        let may_stop = constraint.may_stop();
        let allowed: Vec<u32> = (0..table.len() as u32)
            .filter(|&id| mask.is_allowed(id) && !table.bytes(id).is_empty())
            .collect();
        let liked: Vec<u32> = allowed.iter().copied().filter(|&id| like(&text, table.bytes(id))).collect();
        if allowed.is_empty() || (may_stop && liked.is_empty() && draw.next(4) == 0) {
            assert!(may_stop, "stuck behind {:?}", String::from_utf8_lossy(&text));
            // Free text may be drawn as bytes that are no characters; a grammar's never.
            return Some(match constraint.body {
                Body::Triggered { .. } => String::from_utf8_lossy(&text).into_owned(),
                _ => String::from_utf8(text).unwrap(),
            });
        }
        let pool = if liked.is_empty() { &allowed } else { &liked };
        let token = pool[draw.next(pool.len())];
        text.extend_from_slice(table.bytes(token));
        constraint.accept(token).unwrap();
    }
    None
}

fn compile(source: Source) -> Result<Compiled, ProviderError> {
    let (table, _) = vocabulary();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(Arc::new(Guide::new(table)).compile(source, None))
}

fn format(format: &ResponseFormat) -> Compiled {
    compile(Source::of_format(format).unwrap().unwrap()).unwrap()
}

fn thinking(prompt: PromptState, budget: Option<u32>) -> Thinking {
    let (table, _) = vocabulary();
    let id = |text: &str| (0..table.len() as u32).find(|&id| table.bytes(id) == text.as_bytes()).unwrap();
    Thinking {
        tags: ThinkTags { open: "<think>".into(), close: "</think>".into() },
        prompt,
        budget,
        closing: [id("\n"), id("</think>"), id("\n\n")].into(),
    }
}

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": false,
    })
}

fn check_person(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
    assert!(value["name"].as_str().is_some_and(|name| name.chars().count() <= 8), "{text}");
    assert!(value["age"].as_u64().is_some_and(|age| age <= 150), "{text}");
    assert!(value["tags"].as_array().is_some_and(|tags| tags.len() <= 3), "{text}");
}

#[test]
fn a_schema_holds_for_any_draw() {
    let (table, _) = vocabulary();
    let body = Body::Guided(format(&json_schema(schema())));
    let mut complete = 0;
    for seed in 0..50 {
        let mut constraint = AnswerConstraint::new(&table, None, body.clone()).unwrap();
        if let Some(text) = answer(&table, &mut constraint, &mut Draw(seed), 400, &|_, _| false) {
            check_person(&text);
            complete += 1;
        }
    }
    assert!(complete >= 45, "white space is bounded, so nearly all draws end: {complete}");
}

#[test]
fn a_schema_holds_behind_thinking() {
    let (table, _) = vocabulary();
    let body = Body::Guided(format(&json_schema(schema())));
    for prompt in [PromptState::Open, PromptState::Before, PromptState::Closed] {
        let mut thought = 0;
        for seed in 0..60 {
            let thinking = thinking(prompt, None);
            let mut constraint = AnswerConstraint::new(&table, Some(thinking.clone()), body.clone()).unwrap();
            // Thinking of random bytes hardly ends by itself: prefer what makes up tags.
            let like = |_: &[u8], bytes: &[u8]| {
                let text = std::str::from_utf8(bytes).unwrap_or_default();
                ["<think>", "</", "think>", "think>{", "</think>", "think>\n\n", "hello"].contains(&text)
            };
            let Some(text) = answer(&table, &mut constraint, &mut Draw(seed), 600, &like) else { continue };
            let mut splitter = ReasoningSplitter::new(Some(thinking.tags), prompt);
            let mut out = Vec::new();
            splitter.push(&text, &mut out);
            splitter.finish(&mut out);
            let section = |wanted| {
                out.iter()
                    .filter(|piece| piece.section == wanted)
                    .map(|piece| piece.text.as_str())
                    .collect::<String>()
            };
            check_person(&section(crate::Section::Answer));
            thought += usize::from(text.contains("</think>"));
        }
        assert!(thought >= 10, "{prompt:?}: {thought} answers were thought about");
    }
}

#[test]
fn a_budget_closes_thinking() {
    let (table, _) = vocabulary();
    for (prompt, budget, text) in [
        (PromptState::Open, 3, "hellohellohello\n</think>"),
        (PromptState::Open, 0, "\n</think>"),
        (PromptState::Before, 2, "<think>hello\n</think>"),
    ] {
        let mut constraint =
            AnswerConstraint::new(&table, Some(thinking(prompt, Some(budget))), Body::Free).unwrap();
        let mut seen = Vec::new();
        let wanted = if prompt == PromptState::Before { "<think>" } else { "hello" };
        let like = |text: &[u8], bytes: &[u8]| {
            bytes == if text.is_empty() { wanted.as_bytes() } else { "hello".as_bytes() }
        };
        for _ in 0..40 {
            let mut mask = TokenMask::new(table.len());
            constraint.allowed(&mut mask).unwrap();
            let ids = || (0..table.len() as u32).filter(|&id| mask.is_allowed(id));
            let token = ids().find(|&id| like(&seen, table.bytes(id))).or_else(|| ids().next()).unwrap();
            constraint.accept(token).unwrap();
            seen.extend_from_slice(table.bytes(token));
        }
        assert!(seen.starts_with(text.as_bytes()), "{:?}", String::from_utf8_lossy(&seen));
    }
    // Half a character is completed first.
    let mut constraint =
        AnswerConstraint::new(&table, Some(thinking(PromptState::Open, Some(1))), Body::Free).unwrap();
    constraint.accept(0xc3).unwrap();
    let mut mask = TokenMask::new(table.len());
    constraint.allowed(&mut mask).unwrap();
    assert!(mask.count() > 1);
    constraint.accept(0xa9).unwrap();
    mask.forbid_all();
    constraint.allowed(&mut mask).unwrap();
    assert!(mask.count() == 1 && mask.is_allowed(u32::from(b'\n')));
}

/// The one token that may come.
fn only(table: &TokenTable, constraint: &mut AnswerConstraint) -> Vec<u8> {
    let mut mask = TokenMask::new(table.len());
    constraint.allowed(&mut mask).unwrap();
    assert!(mask.count() == 1 && !constraint.may_stop());
    let token = (0..table.len() as u32).find(|&id| mask.is_allowed(id)).unwrap();
    constraint.accept(token).unwrap();
    table.bytes(token).to_vec()
}

#[test]
fn an_answer_follows_thinking_that_was_cut_or_broke_off() {
    let (table, _) = vocabulary();
    let hello = (0..table.len() as u32).find(|&id| table.bytes(id) == b"hello").unwrap();
    let digits = Body::Guided(format(&ResponseFormat::Regex("[0-9]{3}".into())));
    for (budget, body) in [(1, Body::Free), (50, Body::Free), (50, digits)] {
        let guided = matches!(body, Body::Guided(_));
        let thinking = Some(thinking(PromptState::Open, Some(budget)));
        let mut constraint = AnswerConstraint::new(&table, thinking, body).unwrap();
        constraint.accept(hello).unwrap();
        if budget > 1 {
            // The model chooses to end here.
            let mut mask = TokenMask::new(table.len());
            constraint.allowed(&mut mask).unwrap();
            assert!(mask.count() > 1 && constraint.may_stop() && !constraint.ends());
        }
        let closing: Vec<u8> = (0..3).flat_map(|_| only(&table, &mut constraint)).collect();
        assert_eq!(closing, b"\n</think>\n\n");
        assert!(!constraint.may_stop());
        let mut mask = TokenMask::new(table.len());
        constraint.allowed(&mut mask).unwrap();
        let is_allowed = |byte: u8| mask.is_allowed(u32::from(byte));
        assert!(is_allowed(b'1') && is_allowed(b'a') != guided && (guided || !is_allowed(b'\n')));
        for byte in *b"123" {
            constraint.accept(u32::from(byte)).unwrap();
        }
        assert!(constraint.may_stop() && constraint.ends());
    }
    // Without a budget nothing is cut, and a model that ends has ended.
    let body = Body::Guided(format(&ResponseFormat::Regex("[0-9]".into())));
    let mut constraint =
        AnswerConstraint::new(&table, Some(thinking(PromptState::Open, None)), body).unwrap();
    constraint.accept(hello).unwrap();
    assert!(!constraint.may_stop() && constraint.ends());
}

#[test]
fn without_work_there_is_no_constraint() {
    let (table, _) = vocabulary();
    assert!(AnswerConstraint::new(&table, None, Body::Free).is_none());
    assert!(AnswerConstraint::new(&table, Some(thinking(PromptState::Open, None)), Body::Free).is_none());
}

fn tools() -> Vec<Tool> {
    let tool = |name: &str, parameters: Value| Tool {
        name: name.to_owned(),
        description: None,
        parameters,
        strict: None,
    };
    vec![
        tool("f", json!({"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]})),
        tool("get_weather", json!({"properties": {"days": {"type": "integer", "minimum": 0, "maximum": 9}}})),
    ]
}

const SYNTAXES: [ToolSyntax; 5] = [
    ToolSyntax::Hermes,
    ToolSyntax::Llama3,
    ToolSyntax::DeepSeek,
    ToolSyntax::DeepSeekV31,
    ToolSyntax::Mistral,
];

fn parse(syntax: ToolSyntax, text: &str) -> Vec<(String, Value)> {
    let mut parser = ToolParser::new(syntax, vec!["f".into(), "get_weather".into()]);
    let mut out = Vec::new();
    parser.push(0, text, &mut out);
    parser.finish(&mut out);
    let mut calls: Vec<(String, String)> = Vec::new();
    for piece in out {
        match piece {
            ToolPiece::Text { text: other, .. } => panic!("{other:?} in {text:?}"),
            ToolPiece::CallStart { name } => calls.push((name, String::new())),
            ToolPiece::Arguments(fragment) => calls.last_mut().unwrap().1.push_str(&fragment),
        }
    }
    calls.into_iter().map(|(name, arguments)| (name, serde_json::from_str(&arguments).unwrap())).collect()
}

fn check_call((name, arguments): &(String, Value)) {
    let object = arguments.as_object().unwrap();
    match name.as_str() {
        "f" => assert!(object.len() == 1 && (object["n"] == 1 || object["n"] == 2), "{arguments}"),
        "get_weather" => {
            assert!(object.keys().all(|key| key == "days"), "{arguments}");
            assert!(object.get("days").is_none_or(|days| days.as_u64().is_some_and(|days| days <= 9)));
        }
        other => panic!("no tool {other:?}"),
    }
}

#[test]
fn forced_calls_parse_in_every_syntax() {
    let (table, _) = vocabulary();
    let tools = tools();
    let offered: Vec<&Tool> = tools.iter().collect();
    for syntax in SYNTAXES {
        for parallel in [false, true] {
            let grammar = call_grammar(syntax, &offered, |_| true, parallel, Start::Mark).unwrap();
            let source =
                Source::of_rules("tools", format!("start: calls\n{}", grammar.rules), grammar.schemas, None);
            let body = Body::Guided(compile(source).unwrap());
            let mut counts = BTreeMap::new();
            for seed in 0..12 {
                let mut constraint = AnswerConstraint::new(&table, None, body.clone()).unwrap();
                let Some(text) = answer(&table, &mut constraint, &mut Draw(seed), 600, &|_, _| false) else {
                    continue;
                };
                let calls = parse(syntax, &text);
                calls.iter().for_each(check_call);
                *counts.entry(calls.len()).or_insert(0) += 1;
            }
            let several = counts.keys().any(|&calls| calls > 1);
            assert!(!counts.contains_key(&0) && !counts.is_empty(), "{syntax:?}: {counts:?}");
            assert_eq!(several, parallel && syntax.parallel(), "{syntax:?}: {counts:?}");
        }
    }
}

#[test]
fn calls_that_the_model_opens_are_held_to_the_syntax() {
    let (table, _) = vocabulary();
    let tools = tools();
    let offered: Vec<&Tool> = tools.iter().collect();
    for syntax in [ToolSyntax::Hermes, ToolSyntax::DeepSeek, ToolSyntax::DeepSeekV31, ToolSyntax::Llama3] {
        for once in [false, true] {
            let grammar = call_grammar(syntax, &offered, |_| true, true, Start::Trigger).unwrap();
            let rules = format!("start: calls\n{}", grammar.rules);
            let mut source = Source::of_rules("tools", rules, grammar.schemas, None);
            source.opening = trigger(syntax);
            let grammar = compile(source).unwrap();
            let gate = Gate::new(trigger(syntax), syntax == ToolSyntax::Llama3);
            let body = Body::Triggered { gate, grammar, once };
            let mut called = 0;
            for seed in 0..20 {
                let mut constraint = AnswerConstraint::new(&table, None, body.clone()).unwrap();
                // The model writes "hello", then opens a call, with tokens of any cut.
                let opener = trigger(syntax);
                let lead = if syntax == ToolSyntax::Llama3 { "" } else { "hello" };
                let script = format!("{lead}{opener}");
                let like = |text: &[u8], bytes: &[u8]| {
                    script.as_bytes().strip_prefix(text).is_some_and(|rest| rest.starts_with(bytes))
                        && !bytes.is_empty()
                };
                let Some(text) = answer(&table, &mut constraint, &mut Draw(seed), 300, &like) else {
                    continue;
                };
                let Some(at) = text.find(opener) else { continue };
                let end = match syntax {
                    ToolSyntax::Hermes => text.find("</tool_call>").unwrap() + "</tool_call>".len(),
                    ToolSyntax::Llama3 => text.len(),
                    _ => text.find("<｜tool▁call▁end｜>").unwrap() + "<｜tool▁call▁end｜>".len(),
                };
                if once {
                    assert_eq!(end, text.len(), "nothing follows: {text:?}");
                }
                if syntax == ToolSyntax::Llama3 && !once {
                    continue;
                }
                let calls = parse(syntax, &text[at..end]);
                assert_eq!(calls.len(), 1);
                check_call(&calls[0]);
                called += 1;
            }
            assert!(called > 5 || (syntax == ToolSyntax::Llama3 && !once), "{syntax:?}: {called}");
        }
    }
}

#[test]
fn a_call_may_stand_in_place_of_a_schema() {
    let (table, _) = vocabulary();
    let tools = tools();
    let offered: Vec<&Tool> = tools.iter().collect();
    let grammar = call_grammar(ToolSyntax::Hermes, &offered, |_| true, false, Start::Mark).unwrap();
    let content = Source::of_format(&json_schema(schema())).unwrap();
    let rules = format!("start: calls | content\n{}content: @content\n", grammar.rules);
    let body = Body::Guided(compile(Source::of_rules("tools", rules, grammar.schemas, content)).unwrap());
    let (mut called, mut answered) = (0, 0);
    for seed in 0..40 {
        let mut constraint = AnswerConstraint::new(&table, None, body.clone()).unwrap();
        let Some(text) = answer(&table, &mut constraint, &mut Draw(seed), 600, &|_, _| false) else {
            continue;
        };
        if text.starts_with('<') {
            parse(ToolSyntax::Hermes, &text).iter().for_each(check_call);
            called += 1;
        } else {
            check_person(&text);
            answered += 1;
        }
    }
    assert!(called > 0 && answered > 0, "{called} calls, {answered} answers");
}

#[test]
fn other_formats_hold_too() {
    let (table, _) = vocabulary();
    let check = |format_: &ResponseFormat, holds: &dyn Fn(&str) -> bool| {
        let body = Body::Guided(format(format_));
        let mut complete = 0;
        for seed in 0..20 {
            let mut constraint = AnswerConstraint::new(&table, None, body.clone()).unwrap();
            if let Some(text) = answer(&table, &mut constraint, &mut Draw(seed), 300, &|_, _| false) {
                assert!(holds(&text), "{text:?} for {format_:?}");
                complete += 1;
            }
        }
        assert!(complete > 0, "{format_:?}");
    };
    check(&ResponseFormat::JsonObject, &|text| {
        // As text: a number beyond the range of f64 is JSON all the same.
        serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok_and(|raw| raw.get().starts_with('{'))
    });
    check(&ResponseFormat::Regex("[ab]{2,5}-[0-9]".into()), &|text| {
        let (head, tail) = text.split_once('-').unwrap();
        (2..=5).contains(&head.len()) && head.chars().all(|c| "ab".contains(c)) && tail.parse::<u8>().is_ok()
    });
    check(&ResponseFormat::Grammar("start: \"yes\" | \"no\" (\" \" \"never\")?".into()), &|text| {
        ["yes", "no", "no never"].contains(&text)
    });
}

#[test]
fn what_cannot_be_guaranteed_is_refused() {
    let deep = (0..40).fold(json!({"type": "string"}), |inner, _| json!({"type": "array", "items": inner}));
    let large = json!({"type": "object", "description": "x".repeat(70_000)});
    for (format, says) in [
        (json_schema(deep), "deeper"),
        (json_schema(large), "bytes"),
        (json_schema(json!([1])), "object"),
        (json_schema(json!({"type": "object", "patternProperties": {"(": {}}})), ""),
        (json_schema(json!({"type": "string", "not": {"const": "a"}})), "`not`"),
        (json_schema(json!({"type": "what"})), ""),
        (json_schema(json!({"$ref": "#/nowhere"})), ""),
        (json_schema(json!({"$ref": "https://example.com/schema"})), ""),
        (json_schema(json!({"type": "array", "uniqueItems": true})), ""),
        (json_schema(json!({"type": "integer", "minimum": 5, "maximum": 1})), ""),
        (json_schema(json!({"type": "string", "pattern": "(a"})), ""),
        (json_schema(json!(false)), ""),
        (ResponseFormat::Regex("(".into()), ""),
        (ResponseFormat::Regex("x".repeat(70_000)), "bytes"),
        (ResponseFormat::Regex(r"(a)\1".into()), ""),
        (ResponseFormat::Grammar("start: nowhere".into()), ""),
        (ResponseFormat::Grammar(String::new()), ""),
        (ResponseFormat::Grammar("start: %json {\"type\": \"what\"}".into()), ""),
        (ResponseFormat::Grammar("start: \"".into()), ""),
    ] {
        let result = Source::of_format(&format).and_then(|source| compile(source.unwrap()));
        let Err(ProviderError::Invalid { param, message }) = result else {
            panic!("{format:?} gave {result:?}");
        };
        assert!(param.starts_with("response_format"), "{param}");
        assert!(message.contains(says) && !message.is_empty() && message.len() < 500, "{message}");
    }
}
