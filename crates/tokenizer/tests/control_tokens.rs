//! What users write never becomes a control token, whatever a template does with it.

mod common;

use levain_tokenizer::{ChatInput, ChatTemplate, SpecialTokens, Tokenizer, TokenizerError};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Control tokens of several families. `<think>` and `<tool_call>` are added tokens that are part of the text.
const CONTROL: &[&str] = &[
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|begin_of_text|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁sep｜>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[INST]",
    "[/INST]",
    "[TOOL_CALLS]",
    "[gMASK]",
    "<sop>",
    "<bos>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|tool|>",
    "<|end|>",
    "<|start|>",
    "<|message|>",
];

#[expect(clippy::unwrap_used, reason = "a fixture of another form is to fail the test")]
fn tokenizer() -> Tokenizer {
    let file: Value = serde_json::from_slice(&common::fixture("trained/gpt2.json")).unwrap();
    let mut file = file["tokenizer"].clone();
    let added = file["added_tokens"].as_array_mut().unwrap();
    for (id, text) in (2000..).zip(CONTROL) {
        // DeepSeek's files do not mark theirs as special.
        added.push(json!({"id": id, "content": text, "special": !text.contains('｜'), "normalized": false}));
    }
    added.push(json!({"id": 3000, "content": "<tool_call>", "special": false}));
    let config = json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}});
    let tokenizer = Tokenizer::from_json(
        &serde_json::to_vec(&file).unwrap(),
        Some(&serde_json::to_vec(&config).unwrap()),
    )
    .unwrap();
    assert!(CONTROL.iter().all(|text| tokenizer.is_control(tokenizer.token_to_id(text).unwrap())));
    tokenizer
}

#[expect(clippy::unwrap_used, reason = "a missing fixture is to fail the test")]
fn templates() -> Vec<(String, String)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat_templates");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|e| e == "jinja"))
        .map(|path| (path.display().to_string(), std::fs::read_to_string(&path).unwrap()))
        .collect()
}

fn input(messages: Value, tools: Option<Value>) -> ChatInput {
    ChatInput { messages, tools, add_generation_prompt: true, ..ChatInput::default() }
}

/// The control tokens of a prompt, and a check that the prompt is its text, run by run.
#[expect(clippy::unwrap_used, reason = "whatever fails here is to fail the test")]
fn control_ids(tokenizer: &Tokenizer, template: &ChatTemplate, input: &ChatInput) -> Option<Vec<u32>> {
    let prompt = template.render(input).ok()?;
    let ids = tokenizer.encode_prompt(&prompt).unwrap();
    let mut rest = prompt.text();
    for run in ids.chunk_by(|a, b| !tokenizer.is_control(*a) && !tokenizer.is_control(*b)) {
        let text = match run {
            [id] if tokenizer.is_control(*id) => tokenizer.token_text(*id).unwrap().to_owned(),
            run => tokenizer.decode(run).unwrap(),
        };
        let (head, tail) = rest.split_at(text.len());
        assert_eq!(head, text);
        if !tokenizer.is_control(run[0]) {
            assert_eq!(tokenizer.encode(head, SpecialTokens::AsText).unwrap(), run, "{head:?}");
        }
        rest = tail;
    }
    assert_eq!(rest, "");
    Some(ids.into_iter().filter(|id| tokenizer.is_control(*id)).collect())
}

/// A conversation with `a` and `b` in every place that a user or a tool can write to.
fn conversation(a: &str, b: &str) -> Vec<ChatInput> {
    let call = json!({"id": "call00001", "type": "function", "function": {"name": a, "arguments": {a: b, "l": [a]}}});
    let tool = json!({"type": "function", "function": {"name": b, "description": a, "parameters": {
        "type": "object", "properties": {b: {"type": "string", "description": b}}, "required": [b]}}});
    let parts = json!([{"type": "text", "text": a}, {"type": "text", "text": b}]);
    vec![
        input(json!([{"role": "user", "content": format!("{a}{b}")}]), None),
        input(json!([{"role": "system", "content": a}, {"role": "user", "content": b}]), None),
        input(json!([{"role": "user", "content": parts}]), None),
        input(
            json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": a}, {"role": "user", "content": b}]),
            None,
        ),
        input(json!([{"role": "user", "content": a}]), Some(json!([tool]))),
        input(
            json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "name": a, "tool_call_id": "call00001", "content": b}]),
            Some(json!([tool])),
        ),
        input(json!([{"role": format!("{a}{b}"), "content": "x"}]), None),
    ]
}

#[test]
fn no_content_becomes_a_control_token() {
    let tokenizer = tokenizer();
    let mut compared = 0;
    for (name, source) in templates() {
        let template = tokenizer.chat_template(Some(&source)).unwrap();
        let neutral: Vec<_> =
            conversation("word", "other").iter().map(|i| control_ids(&tokenizer, &template, i)).collect();
        for token in CONTROL.iter().chain(&["<s>", "</s>"]) {
            let middle = token.char_indices().nth(token.chars().count() / 2).unwrap().0;
            let last = token.char_indices().next_back().unwrap().0;
            let first = token.chars().next().unwrap().len_utf8();
            for (a, b) in [
                ((*token).to_owned(), "x".to_owned()),
                (token[..middle].to_owned(), token[middle..].to_owned()),
                (token[..last].to_owned(), token[last..].to_owned()),
                (format!("{token}{}", &token[..first]), token[first..].to_owned()),
                (format!("{}</think>{}", &token[..middle], &token[middle..]), format!("{token}\n{token}")),
            ] {
                for (case, expected) in conversation(&a, &b).iter().zip(&neutral) {
                    let found = control_ids(&tokenizer, &template, case);
                    let (Some(found), Some(expected)) = (found, expected) else { continue };
                    assert_eq!(&found, expected, "{name}: {a:?} {b:?}");
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 5000, "{compared}");
}

#[test]
fn a_template_may_compose_control_tokens_of_roles() {
    let tokenizer = tokenizer();
    let template = tokenizer
        .chat_template(Some(
            "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}",
        ))
        .unwrap();
    let case =
        input(json!([{"role": "user", "content": "<|user|>"}, {"role": "assistant", "content": "|>"}]), None);
    let names: Vec<_> = control_ids(&tokenizer, &template, &case)
        .unwrap()
        .into_iter()
        .map(|id| tokenizer.token_text(id).unwrap())
        .collect();
    assert_eq!(names, ["<|user|>", "<|end|>", "<|assistant|>", "<|end|>"]);
}

#[test]
fn joining_and_replacing_in_a_template_makes_no_control_token() {
    let tokenizer = tokenizer();
    for (source, content) in [
        ("{{ messages[0].content | replace('<think>', '') }}", "<|im_<think>start|>"),
        ("{{ messages[0].content.split('~') | join('') }}", "<|im_~start|>"),
        ("{% for c in messages[0].content %}{{ c }}{% endfor %}", "<|im_start|><s>[INST]"),
        ("{{ messages[0].content | lower }}", "<|IM_START|>"),
        ("{{ messages[0].content[1:] }}", "x<|im_start|>"),
        ("{{ messages[0].content[::-1] }}", ">|trats_mi|<"),
        ("<|im_start{{ messages[0].content }}", "|>"),
        ("<|im_{{ messages[0].content }}|>", "start|"),
        ("{{ messages | tojson }}", "<|im_start|>"),
        ("{{ messages }}", "<|im_start|>"),
        ("{{ '%s' | format(messages[0].content) }}", "<|im_start|>"),
        ("{{ messages[0].content | title | upper | trim | list | last }}", "<|im_start|>"),
    ] {
        let template = tokenizer.chat_template(Some(source)).unwrap();
        let case = input(json!([{"role": "user", "content": content}]), None);
        let prompt = template.render(&case).unwrap_or_else(|e| panic!("{source}: {e}"));
        let ids = tokenizer.encode_prompt(&prompt).unwrap();
        assert!(ids.iter().all(|id| !tokenizer.is_control(*id)), "{source}: {:?}", prompt.text());
    }
}

#[test]
fn tests_of_content_in_templates_go_on_working() {
    let tokenizer = tokenizer();
    let template = tokenizer
        .chat_template(Some(
            "{% set c = messages[0].content %}{% if '</think>' in c %}{{ c.split('</think>')[-1] | trim }}{% endif %}\
             {{ c.startswith('<tool_response>') }} {{ c | length }}",
        ))
        .unwrap();
    let text = |content: &str| {
        let case = input(json!([{"role": "user", "content": content}]), None);
        template.render(&case).unwrap().text().to_owned()
    };
    assert_eq!(text("<think>a</think> <s>b"), "<s>bFalse 21");
    assert_eq!(text("<tool_response>|\u{10F000}"), "True 18");
}

#[test]
fn a_prompt_for_another_tokenizer_is_refused() {
    let tokenizer = tokenizer();
    let template = ChatTemplate::new("{{ messages[0].content }}", "<s>", "</s>").unwrap();
    let prompt = template.render(&input(json!([{"content": "<|im_end|>"}]), None)).unwrap();
    assert!(matches!(tokenizer.encode_prompt(&prompt), Err(TokenizerError::Unguarded { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_pieces_stay_text(pieces in proptest::collection::vec("<|>|\\||｜|im_|start|end|s|/|\\[|INST|\\]|User|▁|<\\|im_|_of_turn>|\\PC", 1..12)) {
        static MADE: std::sync::LazyLock<Tokenizer> = std::sync::LazyLock::new(tokenizer);
        let tokenizer = &*MADE;
        let parts: Vec<Value> = pieces.iter().map(|p| json!({"type": "text", "text": p})).collect();
        let source = "{% for p in messages[0].content %}{{ p.text }}{% endfor %}";
        let template = tokenizer.chat_template(Some(source)).unwrap();
        let prompt = template.render(&input(json!([{"role": "user", "content": parts}]), None)).unwrap();
        prop_assert_eq!(prompt.text(), pieces.concat());
        let ids = tokenizer.encode_prompt(&prompt).unwrap();
        prop_assert!(ids.iter().all(|id| !tokenizer.is_control(*id)));
        prop_assert_eq!(&ids, &tokenizer.encode(prompt.text(), SpecialTokens::AsText).unwrap());
        prop_assert_eq!(tokenizer.decode(&ids).unwrap(), prompt.text());
    }
}

#[test]
fn a_prompt_is_cut_and_goes_on_without_new_control_tokens() {
    let tokenizer = tokenizer();
    let source = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}<think>\n";
    let template = tokenizer.chat_template(Some(source)).unwrap();
    let messages =
        json!([{"role": "user", "content": "MARK<think>"}, {"role": "assistant", "content": "MARK"}]);
    let input = ChatInput { messages, ..ChatInput::default() };
    let mut prompt = template.render(&input).unwrap();
    assert!(!prompt.strip_end("</think>") && prompt.strip_end("<think>"));
    assert_eq!(prompt.text(), "<|im_start|>MARK<think><|im_end|><|im_start|>MARK<|im_end|>");
    assert!(!prompt.end_before("ELSEWHERE") && prompt.end_before("MARK"));
    assert_eq!(prompt.text(), "<|im_start|>MARK<think><|im_end|><|im_start|>");
    prompt.push_answer("a<|im_end|><|im_");
    prompt.push_answer("start|>");
    prompt.push_template("<|im_end|>");
    assert_eq!(
        prompt.text(),
        "<|im_start|>MARK<think><|im_end|><|im_start|>a<|im_end|><|im_start|><|im_end|>"
    );
    let tokens = tokenizer.encode_prompt(&prompt).unwrap();
    let control: Vec<&str> = tokens
        .iter()
        .filter(|&&id| tokenizer.is_control(id))
        .filter_map(|&id| tokenizer.token_text(id))
        .collect();
    assert_eq!(control, ["<|im_start|>", "<|im_end|>", "<|im_start|>", "<|im_end|>"]);
}
