//! Hostile schemas, expressions and grammars: each is refused or serves, and nothing outgrows its limit.

use std::fmt::Write;

use levain_chat::ResponseFormat;
use serde_json::{Map, json};

use super::{cache::CACHE_BYTES_MAX, *};

fn guide() -> Arc<Guide> {
    let words: Vec<Vec<u8>> = (0..=255u8)
        .map(|byte| vec![byte])
        .chain([b"aaaa".to_vec(), b"{\"".to_vec(), b"\n\n".to_vec()])
        .collect();
    Arc::new(Guide::new(Arc::new(TokenTable::new(words.len(), |id| words[id as usize].as_slice()))))
}

fn regexes(out: &mut Vec<ResponseFormat>) {
    for n in [1, 10, 100, 1000, 10_000, 1_000_000] {
        for pattern in [
            format!("(a{{0,{n}}}){{0,{n}}}"),
            format!("(a+)+b{{{n}}}"),
            format!("[^x]{{{n}}}"),
            format!(r"\w{{1,{n}}}@\w{{1,{n}}}"),
            format!("(a|b|ab|ba){{{n}}}c"),
            format!("(.*a){{1,{n}}}"),
            format!(".*a.{{{n}}}"),
        ] {
            out.push(ResponseFormat::Regex(pattern));
        }
    }
    for n in [10, 100, 1000, 10_000] {
        out.push(ResponseFormat::Regex("(".repeat(n) + "a" + &")".repeat(n)));
        out.push(ResponseFormat::Regex("(".repeat(n) + "a" + &")*".repeat(n)));
        out.push(ResponseFormat::Regex((0..n).map(|i| format!("w{i}|")).collect()));
        out.push(ResponseFormat::Regex("[[[[a-z]]]]".repeat(n)));
        out.push(ResponseFormat::Regex(r"(?i)ſ\p{L}\p{Greek}".repeat(n / 10)));
    }
    for pattern in
        [r"\b\B", "(?=a)b", "(?<!a)", r"\1", "[z-a]", "a{2,1}", "(?P<x>a)(?P<x>b)", "$^", r"\xff", "\u{0}"]
    {
        out.push(ResponseFormat::Regex(pattern.to_owned()));
    }
}

fn schemas(out: &mut Vec<ResponseFormat>) {
    let mut push = |schema: Value| out.push(ResponseFormat::JsonSchema { schema, strict: None });
    for n in [1_u64, 100, 10_000, 1_000_000_000, u64::MAX] {
        push(json!({"type": "string", "minLength": n}));
        push(json!({"type": "string", "maxLength": n}));
        push(json!({"type": "array", "minItems": n, "items": {"type": "null"}}));
        push(json!({"type": "array", "maxItems": n, "items": {"type": "array", "maxItems": n}}));
        push(json!({"type": "integer", "minimum": n, "multipleOf": 7}));
        push(json!({"type": "object", "minProperties": n}));
    }
    for n in [10, 300, 2500] {
        let name = |i: usize| format!("key{i}");
        let fields: serde_json::Map<_, _> = (0..n).map(|i| (name(i), json!({"type": "string"}))).collect();
        let names: Vec<String> = (0..n).map(name).collect();
        push(json!({"type": "object", "properties": fields, "required": names}));
        push(json!({"type": "object", "properties": fields}));
        push(json!({"enum": names}));
        push(json!({"anyOf": names.iter().map(|name| json!({"const": name})).collect::<Vec<_>>()}));
        push(json!({"type": "object", "patternProperties": {"^(a+)+$": {"type": "string"}}}));
        let either = |i: usize| json!({"anyOf": [{"required": [name(i)]}, {"required": [name(i + 1)]}]});
        push(json!({"type": "object", "allOf": (0..n).map(either).collect::<Vec<_>>()}));
        let bound = |i: usize| json!({"type": "number", "minimum": i as f64 / 3.0});
        push(json!({"allOf": (0..n).map(bound).collect::<Vec<_>>()}));
    }
    for schema in [
        json!({"$ref": "#"}),
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
        json!({"$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"}),
        json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}),
        json!({"type": "string", "pattern": "^(a|b)*$", "maxLength": 100_000}),
        json!({"type": "string", "pattern": r"^\S+@\S+$", "format": "email"}),
        json!({"type": "string", "format": "no such format"}),
        json!({"type": "number", "minimum": -1e308, "maximum": 1e-308}),
        json!({"type": "number", "multipleOf": 1e-300}),
        json!({"type": ["string", "null", "object"], "properties": {"": {"const": "\u{0}\u{7f}"}}}),
        json!({"x-guidance": {"lenient": true}, "not": {}}),
        json!({"x-guidance": {"whitespace_pattern": "(((("}}),
        json!({"unheard-of": true}),
        json!({"properties": 3}),
        json!({"items": [[[[]]]]}),
        json!({}),
    ] {
        push(schema);
    }
}

fn grammars(out: &mut Vec<ResponseFormat>) {
    for text in [
        "start: start start | \"a\"",
        "start: a\na: b\nb: a",
        "start: a*\na: \"x\"*",
        "start: (((\"a\"*)*)*)*",
        "start: A\nA: A \"x\"",
        "start: /(.|\\n)*/ \"end\"",
        "start: /.*/ /.*/ /.*/ /.*/",
        "start: \"\"",
        "start: <|im_end|>",
        "start: <[3]>",
        "start: @other",
        "start: %json {}",
        "%llguidance {\"allow_invalid_utf8\": true}\nstart: /.*/",
        "%import common.NUMBER\nstart: NUMBER",
        "start: \"a\"{1000000}",
        "start[temperature=1e9, max_tokens=3]: /a*/",
        "{\"grammars\": []}",
        "\u{0}",
        "start: \"\\ud800\"",
    ] {
        out.push(ResponseFormat::Grammar(text.to_owned()));
    }
    for n in [10, 100, 1000, 5000] {
        out.push(ResponseFormat::Grammar(format!("start: {}\"a\"{}", "(".repeat(n), ")".repeat(n))));
        out.push(ResponseFormat::Grammar(format!("start: {}\"a\"{}", "(".repeat(n), ")*".repeat(n))));
        let mut chain = String::from("start: r0\n");
        for i in 0..n {
            let _ = writeln!(chain, "r{i}: r{} | r{} \"x\"", i + 1, i + 1);
        }
        let _ = writeln!(chain, "r{n}: \"y\"");
        out.push(ResponseFormat::Grammar(chain));
        out.push(ResponseFormat::Grammar(format!("start: {}", "\"a\" | ".repeat(n) + "\"b\"")));
        out.push(ResponseFormat::Grammar(format!("start: {}\"b\"", "/[ab]*/ ".repeat(n))));
    }
}

#[test]
fn hostile_input_is_refused_or_serves() {
    let mut formats = Vec::new();
    regexes(&mut formats);
    schemas(&mut formats);
    grammars(&mut formats);
    let guide = guide();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (mut served, mut refused) = (0, 0);
    for format in &formats {
        let compiled = Source::of_format(format)
            .and_then(|source| runtime.block_on(guide.compile(source.unwrap(), None)));
        match compiled {
            Ok(compiled) => {
                served += 1;
                let mut matcher = compiled.start();
                for _ in 0..8 {
                    let Ok(mask) = matcher.compute_mask_or_eos() else { break };
                    let Some(token) = mask.first_bit_set() else { break };
                    if matcher.is_stopped() || matcher.consume_token(u32::try_from(token).unwrap()).is_err() {
                        break;
                    }
                }
            }
            Err(ProviderError::Invalid { param, message }) => {
                assert!(
                    param == "response_format" && !message.is_empty() && message.len() <= 500,
                    "{message}"
                );
                refused += 1;
            }
            Err(error) => panic!("{format:?}: {error}"),
        }
        assert!(guide.cache.lock().unwrap().bytes <= CACHE_BYTES_MAX);
    }
    assert!(served > 50 && refused > 30);
}

#[test]
fn what_was_compiled_is_found_again() {
    let guide = guide();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let compile = |text: &str| {
        let source = Source::of_format(&ResponseFormat::Regex(text.to_owned())).unwrap().unwrap();
        runtime.block_on(guide.compile(source, None)).unwrap()
    };
    let first = compile("[ab]+");
    assert!(Arc::ptr_eq(&first.matcher, &compile("[ab]+").matcher));
    assert!(!Arc::ptr_eq(&first.matcher, &compile("[ac]+").matcher));
    // What runs has state of its own.
    let mut running = first.start();
    running.consume_token(u32::from(b'a')).unwrap();
    assert!(!compile("[ab]+").start().is_accepting().unwrap() && running.is_accepting().unwrap());
}

#[test]
fn the_least_recently_used_goes_first() {
    let guide = guide();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let source = Source::of_format(&ResponseFormat::Regex("a".to_owned())).unwrap().unwrap();
    let compiled = runtime.block_on(guide.compile(source, None)).unwrap();
    let mut cache = Cache::default();
    for key in ["a", "b", "c"] {
        cache.insert(key.to_owned(), compiled.clone(), CACHE_BYTES_MAX / 3);
    }
    assert!(cache.get("a").is_some());
    cache.insert("d".to_owned(), compiled.clone(), CACHE_BYTES_MAX / 3);
    let kept: Vec<&str> = cache.entries.iter().map(|(key, ..)| key.as_str()).collect();
    assert_eq!(kept, ["c", "a", "d"]);
    cache.insert("e".to_owned(), compiled, CACHE_BYTES_MAX + 1);
    assert!(cache.get("e").is_none() && cache.bytes <= CACHE_BYTES_MAX);
}

/// Each of these once kept a thread busy for seconds, or held hundreds of megabytes.
#[test]
fn work_is_counted_before_it_is_done() {
    let guide = guide();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let large = |n: u64| json!({"type": "array", "items": {"type": "integer", "multipleOf": n}});
    let mut schemas: Vec<(Value, &str)> = vec![
        (json!({"type": "integer", "multipleOf": 999_983}), "multipleOf"),
        (json!({"type": "number", "multipleOf": 0.000_999_983}), "multipleOf"),
        (json!({"type": "number", "multipleOf": 1e-9}), "multipleOf"),
        (json!({"allOf": [{"type": "integer", "multipleOf": 1009}, {"multipleOf": 1013}]}), "multipleOf"),
        (
            json!({"properties": {"n": {"type": "integer", "multipleOf": 123_457, "minimum": 0}}}),
            "multipleOf",
        ),
        (large(1_000_003), "multipleOf"),
        (json!({"type": "string", "pattern": "^(a{1,200}){1,200}$"}), "pattern"),
        (json!({"type": "string", "pattern": "^([a-z]{1,99}-){1,300}x$"}), "pattern"),
        (json!({"type": "string", "pattern": "(.*a.{900}){20}"}), "pattern"),
        (json!({"type": "string", "minLength": 1_000_000_000}), "minLength"),
        (json!({"type": "array", "minItems": 1_000_000_000}), "minItems"),
        (json!({"type": "object", "minProperties": 1_000_000_000}), "minProperties"),
        (
            json!({"patternProperties": {"^(a|b{1,400}){1,400}$": {}}, "additionalProperties": false}),
            "patternProperties",
        ),
    ];
    let any = |n: usize| -> Vec<Value> {
        (0..n).map(|at| json!({"properties": {format!("p{at}"): {"const": at}}})).collect()
    };
    let product: Vec<Value> = (0..12).map(|at| json!({"anyOf": [{"minLength": at}, {"maxLength": 99 - at}, {"required": [format!("q{at}")]}]})).collect();
    schemas.push((json!({"allOf": product}), "anyOf"));
    let unions: Vec<Value> = (0..9).map(|_| json!({"anyOf": any(9)})).collect();
    schemas.push((json!({"allOf": unions}), "anyOf"));
    let dependent: Map<String, Value> =
        (0..20).map(|at| (format!("a{at}"), json!([format!("b{at}")]))).collect();
    schemas.push((json!({"type": "object", "dependentRequired": dependent}), "dependentRequired"));
    for (schema, keyword) in schemas {
        let format = ResponseFormat::JsonSchema { schema: schema.clone(), strict: None };
        let source = Source::of_format(&format).unwrap().unwrap();
        let error = runtime.block_on(guide.compile(source, None)).unwrap_err();
        let ProviderError::Invalid { message, .. } = error else { panic!("{schema}: {error}") };
        assert!(message.contains(&format!("`{keyword}`")), "{schema}: {message}");
        // Nothing was built for it.
        assert!(guide.places.free() == PLACES && guide.cache.lock().unwrap().entries.is_empty());
    }
}

#[test]
fn grammars_cost_a_bounded_step_or_end_with_advice() {
    let guide = guide();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let grammars = [
        "start: s\ns: s s | s s s | /[a-z ]/ | \"\\n\"",
        "start: s\ns: s s | /[a-z]/",
        "start: s\ns: s s s | \"a\" | \"b\"",
        "start: s\ns: a b | b a | /./\na: s | s s\nb: s | s s s",
        "start: e\ne: e \"+\" e | e \"*\" e | e e | \"a\"",
        "start: s\ns: s \"a\" s \"a\" s | s s | \"a\"",
        "start: x x x x x x\nx: x x | /[ab]/",
        "start: s\ns: (s | t) (s | t) | \"a\"\nt: (t | s) (s | t) (t | s) | \"a\"",
        "start: s*\ns: s* /[a-c]/ s*",
        "start: (a | b | c)*\na: (a | b) \"a\"\nb: (b | c | \"a\") \"a\"\nc: (c | a | \"a\") c? \"a\"",
        "start: s\ns: s s | s \"aaaa\" s | /a*/ \"a\"",
    ];
    let mut ended = 0;
    for text in grammars {
        let source = Source::of_format(&ResponseFormat::Grammar(text.to_owned())).unwrap().unwrap();
        let compiled = match runtime.block_on(guide.compile(source, None)) {
            Ok(compiled) => compiled,
            Err(error) => {
                assert!(matches!(error, ProviderError::Invalid { .. }), "{text}: {error}");
                ended += 1;
                continue;
            }
        };
        let mut matcher = compiled.start();
        for _ in 0..120 {
            let step = matcher.compute_mask().and_then(|_| {
                let items = matcher.last_step_stats()?.all_items;
                assert!(items <= 2 * limits(true).step_max_items, "{text}: {items} items in a step");
                matcher.consume_token(u32::from(b'a'))
            });
            if let Err(error) = step {
                let told = broken_off(&error.to_string());
                assert!(told.contains("simpler") || matcher.is_stopped(), "{text}: {told}");
                ended += 1;
                break;
            }
        }
    }
    assert!(ended >= 5, "{ended}");
}

#[test]
fn nobody_takes_all_places() {
    let guide = guide();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let held = guide.places.take(Some("a")).await;
        // The same caller waits; another one does not.
        let mut second = Box::pin(guide.places.take(Some("a")));
        assert!(futures::poll!(&mut second).is_pending());
        assert!(futures::poll!(Box::pin(guide.places.take(None))).is_ready());
        drop(held);
        drop(second.await);
        assert!(guide.places.free() == PLACES);
    });
}

#[test]
fn a_schema_in_a_grammar_is_bounded_as_any_schema_is() {
    let guide = guide();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let compile = |grammar: &str| {
        let source = Source::of_format(&ResponseFormat::Grammar(grammar.to_owned()))?;
        runtime.block_on(guide.compile(source.unwrap(), None))
    };
    let compiled = compile("start: \"a\" %json {\"type\": \"integer\"} \"!\"").unwrap();
    let mut matcher = compiled.start();
    for (byte, allowed) in
        [(b'b', false), (b'a', true), (b'!', false), (b'7', true), (b'x', false), (b'!', true)]
    {
        let token = (0..guide.table.len() as u32).find(|&id| guide.table.bytes(id) == [byte]);
        let Some(token) = token else { panic!("the vocabulary has no {byte}") };
        let takes = matcher.validate_tokens(&[token]).unwrap() == 1;
        assert_eq!(takes, allowed, "{}", byte as char);
        if takes {
            matcher.consume_token(token).unwrap();
        }
    }
    for (schema, word) in [
        (json!({"type": "integer", "multipleOf": 999_983}), "multipleOf"),
        (json!({"type": "array", "uniqueItems": true}), "uniqueItems"),
        (json!({"type": "string", "pattern": "(a{1,100}){1,100}{1,100}"}), "pattern"),
    ] {
        let error = compile(&format!("start: %json {schema}")).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}
