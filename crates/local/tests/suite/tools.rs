//! Tool calls of each family, each stream cut at every character.

use levain_local::{ToolParser, ToolPiece, ToolSyntax};
use proptest::prelude::*;

#[derive(Debug, PartialEq, Clone)]
enum Item {
    Text(String),
    Call(String, String),
}

fn text(text: &str) -> Item {
    Item::Text(text.to_owned())
}

fn call(name: &str, arguments: &str) -> Item {
    Item::Call(name.to_owned(), arguments.to_owned())
}

fn parse(syntax: ToolSyntax, pieces: &[&str]) -> Vec<Item> {
    let mut parser = ToolParser::new(syntax, vec!["get_weather".into(), "f".into()]);
    let (mut out, mut stream) = (Vec::new(), String::new());
    for piece in pieces {
        parser.push(stream.len() as u64, piece, &mut out);
        stream.push_str(piece);
    }
    parser.finish(&mut out);
    let mut items: Vec<Item> = Vec::new();
    let mut calls = 0;
    for piece in out {
        match piece {
            ToolPiece::Text { start, text } => {
                let start = usize::try_from(start).unwrap();
                assert_eq!(stream.get(start..start + text.len()), Some(text.as_str()), "offsets are true");
                match items.last_mut() {
                    Some(Item::Text(last)) => last.push_str(&text),
                    _ => items.push(Item::Text(text)),
                }
            }
            ToolPiece::CallStart { name } => {
                calls += 1;
                items.push(Item::Call(name, String::new()));
            }
            ToolPiece::Arguments(fragment) => match items.last_mut() {
                Some(Item::Call(_, arguments)) => arguments.push_str(&fragment),
                other => panic!("arguments behind {other:?}"),
            },
        }
    }
    assert_eq!(parser.calls(), calls);
    items
}

fn check(syntax: ToolSyntax, stream: &str, expected: &[Item]) {
    for cut in (0..=stream.len()).filter(|&cut| stream.is_char_boundary(cut)) {
        let got = parse(syntax, &[&stream[..cut], &stream[cut..]]);
        assert_eq!(got, expected, "{stream:?} cut at {cut}");
    }
    let chars: Vec<String> = stream.chars().map(String::from).collect();
    let chars: Vec<&str> = chars.iter().map(String::as_str).collect();
    assert_eq!(parse(syntax, &chars), expected, "{stream:?} char by char");
}

#[test]
fn hermes() {
    let check = |stream: &str, expected: &[Item]| check(ToolSyntax::Hermes, stream, expected);
    check(
        "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Orléans\"}}\n</tool_call>",
        &[call("get_weather", "{\"city\": \"Orléans\"}")],
    );
    check(
        "Let me look.\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, {\"b\": \"}\"}]}}\n</tool_call>\n",
        &[text("Let me look."), call("f", "{\"a\": [1, {\"b\": \"}\"}]}")],
    );
    check(
        "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n<tool_call>{\"name\":\"get_weather\",\"arguments\":{\"x\":1}}</tool_call>",
        &[call("f", "{}"), call("get_weather", "{\"x\":1}")],
    );
    // Arguments before the name, other keys, no arguments, arguments as a string, two calls in one tag.
    check(
        "<tool_call>{\"id\": 7, \"arguments\": {\"x\": 1}, \"type\": \"function\", \"name\": \"f\"}</tool_call>",
        &[call("f", "{\"x\": 1}")],
    );
    check("<tool_call>{\"name\": \"f\"}</tool_call>", &[call("f", "{}")]);
    check("<tool_call>{\"name\": \"f\", \"parameters\": {\"x\": 1}}</tool_call>", &[call("f", "{\"x\": 1}")]);
    check(
        "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"x\\\": \\\"é\\\"}\"}</tool_call>",
        &[call("f", "{\"x\": \"é\"}")],
    );
    check(
        "<tool_call>{\"name\": \"f\", \"arguments\": \"no JSON\"}</tool_call>",
        &[call("f", "\"no JSON\"")],
    );
    check(
        "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n{\"name\": \"f\", \"arguments\": {\"n\": 2}}\n</tool_call>",
        &[call("f", "{}"), call("f", "{\"n\": 2}")],
    );
    // The closing tag is missing, or text follows.
    check("<tool_call>{\"name\": \"f\", \"arguments\": {}}", &[call("f", "{}")]);
    check(
        "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>\nDone.",
        &[call("f", "{}"), text("\nDone.")],
    );
    // The end comes too early: what was called stays called, what was not comes out as text.
    check("<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"b", &[call("f", "{\"a\": \"b")]);
    for cut in ["<tool", "<tool_call>", "<tool_call>\n{\"na", "<tool_call>{\"name\": \"f\", \"arg"] {
        check(cut, &[text(cut)]);
    }
    // Malformed before anything was handed out: text.
    for stream in [
        "<tool_call>nothing</tool_call>",
        "<tool_call>{\"arguments\": {\"a\": 1}}</tool_call>",
        "<tool_call>{\"name\": 3, \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"\", \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>",
        "<tool_call>{'name': 'f', 'arguments': {}}</tool_call>",
        "a <tool_calls> b < c",
        "```\n<tool_call> is a tag\n```",
    ] {
        check(stream, &[text(stream)]);
    }
    check(
        "<tool_call> <tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>",
        &[text("<tool_call>"), call("f", "{}")],
    );
    // Malformed afterwards: the call keeps what the model wrote.
    check(
        "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": oops}}</tool_call> later",
        &[call("f", "{\"a\": oops}}"), text(" later")],
    );
    check(
        "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1} oops}</tool_call>",
        &[call("f", "{\"a\": 1}")],
    );
    // A little too much behind a call belongs to it if its closing tag follows; a text without that stays text.
    for junk in ["}", "}}\n", "\n```\n", "\n<|im_end|>"] {
        let stream = format!("<tool_call>{{\"name\": \"f\", \"arguments\": {{}}}}{junk}</tool_call> later");
        check(&stream, &[call("f", "{}"), text(" later")]);
    }
    check("<tool_call>{\"name\": \"f\", \"arguments\": {}}}\n</tool", &[call("f", "{}")]);
    check("<tool_call>{\"name\": \"f\", \"arguments\": {}}\nDone.", &[call("f", "{}"), text("Done.")]);
    check(
        "<tool_call>{\"name\": \"f\", \"arguments\": {}}}<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>",
        &[call("f", "{}"), text("}"), call("f", "{}")],
    );
    let long = "long ".repeat(30);
    check(
        &format!("<tool_call>{{\"name\": \"f\", \"arguments\": {{}}}}{long}</tool_call>"),
        &[call("f", "{}"), text(&format!("{long}</tool_call>"))],
    );
    check("just text with \u{a0} spaces  \n", &[text("just text with \u{a0} spaces  \n")]);
    check("\n", &[text("\n")]);
}

#[test]
fn llama() {
    let check = |stream: &str, expected: &[Item]| check(ToolSyntax::Llama3, stream, expected);
    check("{\"name\": \"f\", \"parameters\": {\"a\": \"b\"}}", &[call("f", "{\"a\": \"b\"}")]);
    check("\n\n{\"name\": \"f\", \"parameters\": {}}\n", &[call("f", "{}")]);
    check(
        "<|python_tag|>{\"type\": \"function\", \"name\": \"f\", \"parameters\": {\"a\": 1}}",
        &[call("f", "{\"a\": 1}")],
    );
    check(
        "{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"get_weather\", \"parameters\": {}}",
        &[call("f", "{}"), call("get_weather", "{}")],
    );
    check(
        "Text first. <|python_tag|>{\"name\": \"f\", \"parameters\": {}}",
        &[text("Text first."), call("f", "{}")],
    );
    for stream in [
        "{\"name\": \"Ada\", \"parameters\": {}}",
        "{\"name\": \"f\"}",
        "{\"name\": \"f\", \"born\": 1815}",
        "{\"answer\": 42}",
        "{ not JSON",
        "{",
        "Text {\"name\": \"f\", \"parameters\": {}}",
        "<|python_tag|>f.call(x=\"1\")",
    ] {
        check(stream, &[text(stream)]);
    }
}

/// An answer in JSON streams as soon as a key shows that it is no call.
#[test]
fn an_answer_in_json_does_not_wait_for_its_end() {
    let mut parser = ToolParser::new(ToolSyntax::Llama3, vec!["f".into()]);
    let mut out = Vec::new();
    parser.push(0, "{\"n", &mut out);
    assert_eq!(out, []);
    parser.push(3, "ext\": ", &mut out);
    let said: String = out
        .into_iter()
        .map(|piece| match piece {
            ToolPiece::Text { text, .. } => text,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(said, "{\"next\":");
}

#[test]
fn deepseek() {
    for syntax in [ToolSyntax::DeepSeek, ToolSyntax::DeepSeekV31] {
        let check = |stream: &str, expected: &[Item]| check(syntax, stream, expected);
        check(
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{\"city\": \"Paris\"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            &[call("get_weather", "{\"city\": \"Paris\"}")],
        );
        check(
            "I look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"n\": 2}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            &[text("I look."), call("f", "{}"), call("f", "{\"n\": 2}")],
        );
        check(
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            &[call("f", "{\"a\": 1}"), call("f", "{}")],
        );
        // Without the outer mark, without the fence, cut short, with text behind.
        check("<｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": 1}", &[call("f", "{\"a\": 1}")]);
        check("<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n{\"a\"", &[call("f", "{\"a\"")]);
        check(
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>Done",
            &[call("f", "{}"), text("Done")],
        );
        check(
            "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{oops}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            &[call("f", "{oops}")],
        );
        for stream in [
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁calls▁begin｜>what?",
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get",
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```python\nprint()\n```",
            "<｜tool▁call▁begin｜>f<｜tool▁sep｜>text",
            "<｜tool▁call▁begin｜><｜tool▁sep｜>{}",
        ] {
            check(stream, &[text(stream)]);
        }
    }
}

#[test]
fn mistral() {
    let check = |stream: &str, expected: &[Item]| check(ToolSyntax::Mistral, stream, expected);
    check(
        "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": 1}}, {\"name\": \"f\", \"arguments\": {}}]",
        &[call("f", "{\"a\": 1}"), call("f", "{}")],
    );
    check("[TOOL_CALLS]f[ARGS]{\"a\": 1}", &[call("f", "{\"a\": 1}")]);
    check("[TOOL_CALLS]f[ARGS]{}[TOOL_CALLS]f[ARGS]{\"b\": 2}", &[call("f", "{}"), call("f", "{\"b\": 2}")]);
    for stream in
        ["[TOOL_CALLS]", "[TOOL_CALLS][1]", "[TOOL_CALLS] not a name", "[TOOL_CALLS]f[ARGS]1", "[TOOL"]
    {
        check(stream, &[text(stream)]);
    }
}

#[test]
fn limits_hold_without_losing_text() {
    let blanks = " ".repeat(100);
    let stream = format!("<tool_call>{blanks}{{\"name\": \"f\", \"arguments\": {{}}}}</tool_call>");
    check(ToolSyntax::Hermes, &stream, &[text(&stream)]);
    let name = "n".repeat(300);
    let stream = format!("<tool_call>{{\"name\": \"{name}\", \"arguments\": {{}}}}</tool_call>");
    check(ToolSyntax::Hermes, &stream, &[text(&stream)]);
    let stream = format!("<｜tool▁call▁begin｜>{}<｜tool▁sep｜>{{}}", "n".repeat(600));
    check(ToolSyntax::DeepSeek, &stream, &[text(&stream)]);
    let stream = format!("{}x", "<tool_call>".repeat(50));
    check(ToolSyntax::Hermes, &stream, &[text(&stream)]);
    let deep = format!("<tool_call>{{\"name\": \"f\", \"arguments\": {{\"a\": {}", "[".repeat(10_000));
    let items = parse(ToolSyntax::Hermes, &[&deep]);
    assert_eq!(items, [call("f", &deep["<tool_call>{\"name\": \"f\", \"arguments\": ".len()..])]);
}

#[test]
fn the_template_tells_the_syntax() {
    for (template, syntax) in [
        ("{% if tools %}<tool_call>{% endif %}", Some(ToolSyntax::Hermes)),
        ("<tool_call><function=name>", None),
        ("<｜tool▁calls▁begin｜> ```json", Some(ToolSyntax::DeepSeek)),
        ("<｜tool▁calls▁begin｜>", Some(ToolSyntax::DeepSeekV31)),
        ("[TOOL_CALLS]", Some(ToolSyntax::Mistral)),
        ("<|start_header_id|> \"parameters\": ", Some(ToolSyntax::Llama3)),
        ("<|im_start|>{{ message.content }}", None),
    ] {
        assert_eq!(ToolSyntax::detect(template), syntax, "{template}");
    }
}

const WORDS: &[&str] = &[
    "<tool_call>",
    "</tool_call>",
    "{",
    "}",
    "\"",
    "\"name\"",
    "\"arguments\"",
    ": ",
    ", ",
    "\"f\"",
    "[",
    "]",
    "1",
    " ",
    "\n",
    "\\",
    "<",
    "é",
    "<|python_tag|>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>",
    "```json\n",
    "f",
    "x",
];

proptest! {
    /// No stream panics, loses its order or depends on its cuts; text that is no call survives.
    #[test]
    fn any_stream(words in prop::collection::vec(prop::sample::select(WORDS), 0..24), syntax in 0..5usize) {
        let syntax = [
            ToolSyntax::Hermes, ToolSyntax::Llama3, ToolSyntax::DeepSeek, ToolSyntax::DeepSeekV31, ToolSyntax::Mistral,
        ][syntax];
        let stream = words.concat();
        let whole = parse(syntax, &[&stream]);
        prop_assert_eq!(&parse(syntax, &words), &whole);
        let chars: Vec<String> = stream.chars().map(String::from).collect();
        let chars: Vec<&str> = chars.iter().map(String::as_str).collect();
        prop_assert_eq!(&parse(syntax, &chars), &whole);
        if !whole.iter().any(|item| matches!(item, Item::Call(..))) {
            prop_assert_eq!(whole, if stream.is_empty() { vec![] } else { vec![Item::Text(stream)] });
        }
    }
}
