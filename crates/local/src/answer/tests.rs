//! Complete answers of every format, cut at every byte, in every chunking, and gone on with from every place.

use levain_testkit::model::ModelSpec;

use super::*;

const THINK: &str = "<think>";

/// What a client sees in the end.
#[derive(Debug, Default, Clone, PartialEq)]
struct Seen {
    reasoning: String,
    content: String,
    calls: Vec<(String, String)>,
    finish: Option<FinishReason>,
}

fn tokenizer() -> Arc<Tokenizer> {
    let model = ModelSpec::llama().build().unwrap();
    let json = std::fs::read(model.path().join("tokenizer.json")).unwrap();
    let config = std::fs::read(model.path().join("tokenizer_config.json")).unwrap();
    Arc::new(Tokenizer::from_json(&json, Some(&config)).unwrap())
}

/// A format and answers in it.
struct Case {
    syntax: Option<ToolSyntax>,
    tags: Option<(&'static str, &'static str)>,
    prompt: PromptState,
    answers: Vec<&'static str>,
}

fn cases() -> Vec<Case> {
    use PromptState::{Before, Closed, Open};
    let tags = |open, close| Some((open, close));
    let think = tags(THINK, "</think>");
    let case = |syntax, tags, prompt, answers: &[&'static str]| Case {
        syntax,
        tags,
        prompt,
        answers: answers.to_vec(),
    };
    vec![
        case(
            Some(ToolSyntax::Hermes),
            None,
            Before,
            &[
                "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"city\": \"Orléans 👩‍🔬\"}}\n</tool_call>",
                "Let me look.\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": \"g\", \"arguments\": {\"a\": [1, \"</tool_call>\"]}}\n</tool_call>",
                "<tool_call>{\"arguments\": {\"x\": 1}, \"name\": \"f\"}</tool_call>",
                "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"x\\\": 1}\"}</tool_call>",
                // A brace too many, as small models write it, and broken arguments.
                "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}}\n</tool_call>",
                "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": oops}}\n</tool_call>",
                "a < b, </tool>",
            ],
        ),
        case(
            Some(ToolSyntax::Hermes),
            think,
            Open,
            &[
                "The user wants <tool_call>, é.\n</think>\n\nYes.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>",
                "</think>\n\n<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>",
                "a\n</think>\n</think>\n\nb",
            ],
        ),
        case(
            Some(ToolSyntax::Hermes),
            think,
            Before,
            &[
                "<think>\nhm\n\nhm\n</think>\n\nText.",
                "No thinking.",
                "<think>\nIn the <thick> of it\n</think>x",
            ],
        ),
        case(None, think, Closed, &["</think>\n\nText.", "\n\nText < text."]),
        case(None, tags("<seed:think>", "</seed:think>"), Before, &["<seed:think>é</seed:think>é"]),
        case(None, tags("[THINK]", "[/THINK]"), Before, &["[THINK]a [/b][/THINK]c [x]"]),
        case(None, tags("<thinking>", "</thinking>"), Open, &["<thinking>twice</thinking>\nx"]),
        case(
            Some(ToolSyntax::Llama3),
            None,
            Before,
            &[
                "{\"name\": \"f\", \"parameters\": {\"a\": \"é\"}}",
                "{\"type\": \"function\", \"name\": \"f\", \"parameters\": {\"a\": 1}}; {\"name\": \"g\", \"parameters\": {}}",
                "<|python_tag|>{\"name\": \"f\", \"parameters\": {\"a\": 1}}",
                "Text first. <|python_tag|>{\"name\": \"g\", \"parameters\": {}}",
            ],
        ),
        case(
            Some(ToolSyntax::DeepSeek),
            think,
            Open,
            &[
                "hm\n</think>\n\nI look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": \"é\"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n{\"n\": 2}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            ],
        ),
        case(
            Some(ToolSyntax::DeepSeekV31),
            None,
            Before,
            &[
                "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜><｜tool▁call▁begin｜>g<｜tool▁sep｜>{oops}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            ],
        ),
        case(
            Some(ToolSyntax::Mistral),
            None,
            Before,
            &[
                "Now: [TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": 1}}, {\"name\": \"g\", \"arguments\": {}}]",
                "[TOOL_CALLS]f[ARGS]{\"a\": 1}[TOOL_CALLS]g[ARGS]{}",
            ],
        ),
    ]
}

fn shape(case: &Case) -> AnswerShape {
    AnswerShape {
        tags: case.tags.map(|(open, close)| ThinkTags { open: open.into(), close: close.into() }),
        prompt: case.prompt,
        said: String::new(),
        tools: case.syntax.map(|syntax| (syntax, vec!["f".into(), "g".into()])),
        stops: Vec::new(),
        logprobs: false,
        marks: Arc::new([]),
    }
}

fn gather(events: Vec<ChatEvent>) -> Seen {
    let mut seen = Seen::default();
    for event in events {
        match event {
            ChatEvent::Reasoning { text, .. } => seen.reasoning.push_str(&text),
            ChatEvent::Text { text, .. } => seen.content.push_str(&text),
            ChatEvent::ToolCallStart { call, name, .. } => {
                assert_eq!(call as usize, seen.calls.len());
                seen.calls.push((name, String::new()));
            }
            ChatEvent::ToolCallArguments { fragment, .. } => seen.calls.last_mut().unwrap().1 += &fragment,
            ChatEvent::Finish { reason, .. } => assert_eq!(seen.finish.replace(reason), None),
            ChatEvent::Logprobs { .. } | ChatEvent::Unenforced(_) | ChatEvent::Usage(_) => {}
        }
    }
    seen
}

/// Pieces of text as if each were a token's.
fn read<'t>(
    tokenizer: &Arc<Tokenizer>,
    shape: &AnswerShape,
    pieces: impl IntoIterator<Item = &'t str>,
    reason: FinishReason,
) -> Seen {
    let (mut answer, mut out) = (Answer::new(0, tokenizer, shape), Vec::new());
    out.append(&mut answer.early);
    for piece in pieces {
        if !answer.stopped() {
            answer.text(piece, &mut out);
        }
    }
    answer.finish(reason, &mut out);
    gather(out)
}

/// Tokens of one byte each, so that characters are cut too.
fn read_bytes(tokenizer: &Arc<Tokenizer>, shape: &AnswerShape, bytes: &[u8], reason: FinishReason) -> Seen {
    let id = |byte: u8| (0..tokenizer.vocab_size()).find(|&id| tokenizer.token_bytes(id) == Some(&[byte]));
    let (mut answer, mut out) = (Answer::new(0, tokenizer, shape), Vec::new());
    for &byte in bytes {
        answer.push(id(byte).unwrap(), None, &[], &mut out);
    }
    answer.finish(reason, &mut out);
    gather(out)
}

fn boundaries(text: &str) -> Vec<usize> {
    (0..=text.len()).filter(|&at| text.is_char_boundary(at)).collect()
}

/// What was cut says no more than the whole, and nothing else.
fn assert_begins(whole: &Seen, cut: &Seen, label: &str) {
    assert!(whole.reasoning.starts_with(&cut.reasoning), "{label}: {cut:?}");
    assert!(whole.content.starts_with(&cut.content), "{label}: {cut:?}");
    assert!(cut.calls.len() <= whole.calls.len(), "{label}: {cut:?}");
    for (at, ((name, arguments), (whole_name, whole_arguments))) in
        cut.calls.iter().zip(&whole.calls).enumerate()
    {
        assert!(name == whole_name && whole_arguments.starts_with(arguments.as_str()), "{label}: {cut:?}");
        assert!(arguments == whole_arguments || at + 1 == cut.calls.len(), "only the last is cut: {cut:?}");
        assert!(!arguments.is_empty(), "a call comes with the beginning of its arguments: {cut:?}");
    }
    assert_eq!(cut.finish, Some(FinishReason::Length), "{label}");
}

fn for_each(mut check: impl FnMut(&Arc<Tokenizer>, &AnswerShape, &'static str, &Seen)) {
    let tokenizer = tokenizer();
    for case in cases() {
        for &text in &case.answers {
            let shape = shape(&case);
            let whole = read(&tokenizer, &shape, [text], FinishReason::Stop);
            let all = format!("{}{}", whole.reasoning, whole.content);
            let marks =
                ["tool_call>\n{", "</think", "｜", "[TOOL_CALLS", "\"name\"", "python_tag", "[THINK]"];
            assert!(!marks.iter().any(|mark| all.contains(mark)), "{text}: {whole:?}");
            check(&tokenizer, &shape, text, &whole);
        }
    }
}

#[test]
fn a_cut_answer_is_the_beginning_of_the_whole_one_however_it_streams() {
    for_each(|tokenizer, shape, text, whole| {
        for cut in boundaries(text) {
            let begun = &text[..cut];
            let label = format!("{begun:?} of {text:?}");
            let seen = read(tokenizer, shape, [begun], FinishReason::Length);
            assert_begins(whole, &seen, &label);
            let chars: Vec<&str> = boundaries(begun).windows(2).map(|w| &begun[w[0]..w[1]]).collect();
            for width in 1..=7 {
                let pieces: Vec<String> = chars.chunks(width).map(|chunk| chunk.concat()).collect();
                let pieces = pieces.iter().map(String::as_str);
                assert_eq!(read(tokenizer, shape, pieces, FinishReason::Length), seen, "{label} by {width}");
            }
            for at in boundaries(begun) {
                let pieces = [&begun[..at], &begun[at..]];
                assert_eq!(read(tokenizer, shape, pieces, FinishReason::Length), seen, "{label} at {at}");
            }
        }
    });
}

#[test]
fn half_a_character_is_never_handed_out() {
    for_each(|tokenizer, shape, text, whole| {
        for cut in 0..text.len() {
            let seen = read_bytes(tokenizer, shape, &text.as_bytes()[..cut], FinishReason::Length);
            assert_begins(whole, &seen, &format!("{cut} bytes of {text:?}"));
        }
        assert_eq!(&read_bytes(tokenizer, shape, text.as_bytes(), FinishReason::Stop), whole);
    });
}

#[test]
fn an_answer_goes_on_from_every_place() {
    for_each(|tokenizer, shape, text, whole| {
        for cut in boundaries(text) {
            let shape = AnswerShape { said: text[..cut].to_owned(), ..shape.clone() };
            let rest = &text[cut..];
            let seen = read(tokenizer, &shape, [rest], FinishReason::Stop);
            let label = format!("{rest:?} behind {:?}", shape.said);
            assert!(whole.reasoning.ends_with(&seen.reasoning), "{label}: {seen:?}");
            assert!(whole.content.ends_with(&seen.content), "{label}: {seen:?}");
            assert_eq!(seen.calls, whole.calls, "{label}: calls are whole");
            let chars: Vec<&str> = boundaries(rest).windows(2).map(|w| &rest[w[0]..w[1]]).collect();
            assert_eq!(read(tokenizer, &shape, chars, FinishReason::Stop), seen, "{label} char by char");
            // Together nothing is said twice or left out, but for what stands between thinking and text.
            let before = read(
                tokenizer,
                &AnswerShape { said: String::new(), ..shape.clone() },
                [&text[..cut]],
                FinishReason::Length,
            );
            assert!(before.reasoning.len() + seen.reasoning.len() <= whole.reasoning.len(), "{label}");
            assert!(before.content.len() + seen.content.len() <= whole.content.len(), "{label}");
            if whole.calls.is_empty() && whole.reasoning.is_empty() && !whole.content.starts_with('T') {
                assert!(
                    rest.ends_with(&seen.content) && seen.content.len() >= rest.trim_start().len(),
                    "{label}"
                );
            }
        }
    });
}

#[test]
fn stop_texts_end_content_alone() {
    let tokenizer = tokenizer();
    let case = Case {
        syntax: Some(ToolSyntax::Hermes),
        tags: Some((THINK, "</think>")),
        prompt: PromptState::Open,
        answers: vec![],
    };
    let call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"END\"}}\n</tool_call>";
    for (stop, text, content, calls, reason) in [
        // Not in thinking, not in a call, not in the marks around them.
        ("END", format!("END\n</think>\n\nText.\n{call}"), "Text.", 1, FinishReason::ToolCalls),
        ("<", format!("a < b\n</think>\n\nText.\n{call}"), "Text.", 1, FinishReason::ToolCalls),
        ("<tool", format!("hm</think>Text.\n{call}"), "Text.", 1, FinishReason::ToolCalls),
        ("</think>", "hm</think>\n\nText.".to_owned(), "Text.", 0, FinishReason::Stop),
        // In the text before a call, with the call never begun; in what only looked like a mark.
        ("xt", format!("hm</think>Text.\n{call}"), "Te", 0, FinishReason::Stop),
        ("ol>", "hm</think>a <tool> b".to_owned(), "a <to", 0, FinishReason::Stop),
        ("<", "hm</think>a <tool> b".to_owned(), "a ", 0, FinishReason::Stop),
    ] {
        let shape = AnswerShape { stops: vec![stop.to_owned()], ..shape(&case) };
        let whole = read(&tokenizer, &shape, [text.as_str()], FinishReason::Stop);
        assert_eq!((whole.content.as_str(), whole.calls.len()), (content, calls), "{stop:?} in {text:?}");
        assert_eq!(whole.finish, Some(reason), "{stop:?} in {text:?}");
        for width in 1..5 {
            let chars: Vec<char> = text.chars().collect();
            let pieces: Vec<String> = chars.chunks(width).map(|chunk| chunk.iter().collect()).collect();
            let seen = read(&tokenizer, &shape, pieces.iter().map(String::as_str), FinishReason::Stop);
            assert_eq!(seen, whole, "{stop:?} in {text:?} by {width}");
        }
    }
}
