//! Files, templates and texts from people who mean harm.

#![expect(clippy::unwrap_used, reason = "a fixture of another form is to fail the test")]

#[path = "../common/mod.rs"]
mod common;
mod examine;
mod mutants;

use std::path::Path;

use levain_tokenizer::{ChatInput, ChatTemplate, SpecialTokens, Tokenizer, TokenizerError};
use proptest::prelude::*;
use serde_json::{Value, json};

fn trained(name: &str) -> Value {
    let file: Value = serde_json::from_slice(&common::fixture(&format!("trained/{name}.json"))).unwrap();
    file["tokenizer"].clone()
}

fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::from_json(&serde_json::to_vec(&trained(name)).unwrap(), None).unwrap()
}

/// The files of a fuzz target's corpus.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files: Vec<Vec<u8>> =
        std::fs::read_dir(folder).unwrap().map(|e| std::fs::read(e.unwrap().path()).unwrap()).collect();
    assert!(!files.is_empty());
    files
}

#[test]
fn the_fuzz_corpora_hold() {
    let read = corpus("tokenizer_json").iter().filter(|bytes| examine::tokenizer_json(bytes)).count();
    assert!(read >= 3, "{read}");
    for (name, lossless) in
        [("llama3", true), ("llama2-first", false), ("unigram", false), ("bert-uncased", false)]
    {
        let tokenizer = tokenizer(name);
        for bytes in corpus("tokenizer_encode") {
            examine::encode(&tokenizer, lossless, &bytes);
        }
    }
    let compiled = corpus("chat_template")
        .iter()
        .filter(|b| examine::chat_template(&String::from_utf8_lossy(b)))
        .count();
    assert!(compiled >= 3, "{compiled}");
}

/// Texts that made other tokenizers slow. The split patterns count their steps and give an error after 512 for each
/// byte; a quadratic one would need thousands.
#[test]
fn no_text_is_slow() {
    const BYTES: usize = 50_000;
    let atoms = [
        " ",
        "^",
        "👩\u{200D}",
        "\0",
        "a",
        "1",
        "\n",
        "\r\n",
        " \n",
        "\t ",
        "é",
        "漢",
        "'",
        "'s",
        "<",
        "<|",
        "|>",
        "A",
        "aA",
        "\u{301}",
        "\u{A0}",
        "_",
        "a ",
        " a",
        "1a",
        "<s",
        "▁",
        "##",
        ".",
        "\u{FFFD}",
    ];
    let names = ["gpt2", "llama3", "qwen2", "deepseek-v3", "deepseek-llm", "gpt4o", "digits-from-the-right"];
    for name in names.into_iter().chain(["llama2-legacy", "llama2-first", "unigram", "bert-uncased"]) {
        let tokenizer = tokenizer(name);
        for atom in atoms {
            let text = atom.repeat(BYTES / atom.len());
            let ids = tokenizer.encode(&text, SpecialTokens::AsText).unwrap();
            if names.contains(&name) && name != "qwen2" {
                assert_eq!(tokenizer.decode(&ids).unwrap(), text, "{name} {atom:?}");
            }
        }
    }
}

#[test]
fn a_pattern_that_reads_on_and_gives_up_is_stopped() {
    let mut file = trained("gpt2");
    // At each character it reads to the end in the hope of a b.
    file["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "a*b|a"}, "behavior": "Isolated"},
        {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]});
    let tokenizer = Tokenizer::from_json(&serde_json::to_vec(&file).unwrap(), None).unwrap();
    assert_eq!(tokenizer.encode("aab", SpecialTokens::AsText).unwrap().len(), 3);
    let error = tokenizer.encode(&"a".repeat(100_000), SpecialTokens::AsText).unwrap_err();
    assert!(matches!(error, TokenizerError::Work { .. }), "{error}");
}

#[test]
fn parts_that_are_not_supported_are_named() {
    for (part, value, name) in [
        ("pre_tokenizer", json!({"type": "UnicodeScripts"}), "UnicodeScripts"),
        ("normalizer", json!({"type": "Nmt"}), "Nmt"),
        ("decoder", json!({"type": "CTC"}), "CTC"),
        ("post_processor", json!({"type": "Mystery"}), "Mystery"),
        (
            "pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "(a)\\1"}, "behavior": "Isolated"}),
            "\\1",
        ),
        (
            "pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "(?<=a)b"}, "behavior": "Isolated"}),
            "look-behind",
        ),
        (
            "pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "(?i)a|b"}, "behavior": "Isolated"}),
            "(?i)",
        ),
        (
            "pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "((a{900}){900}){900}"}, "behavior": "Isolated"}),
            "limit",
        ),
    ] {
        let mut file = trained("gpt2");
        file[part] = value;
        let error = Tokenizer::from_json(&serde_json::to_vec(&file).unwrap(), None)
            .err()
            .map(|e| e.to_string())
            .unwrap_or_default();
        assert!(error.contains(name), "{name}: {error}");
    }
}

#[test]
fn a_small_file_can_not_ask_for_much_memory() {
    let mut file = trained("gpt2");
    file["added_tokens"][0]["id"] = json!(4_000_000_000u32);
    assert!(Tokenizer::from_json(&serde_json::to_vec(&file).unwrap(), None).is_err());
    file["added_tokens"][0]["id"] = json!(10_000_000);
    assert!(Tokenizer::from_json(&serde_json::to_vec(&file).unwrap(), None).is_err());
}

fn render(source: &str) -> Result<String, TokenizerError> {
    let input = ChatInput { messages: json!([{"role": "user", "content": "x"}]), ..ChatInput::default() };
    ChatTemplate::new(source, "", "")?.render(&input).map(|prompt| prompt.text().to_owned())
}

#[test]
fn hostile_templates_end_in_an_error() {
    for source in [
        "{% for i in range(1000000000) %}x{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{{ 'x' * 1000000000 }}",
        "{{ ['x'] * 1000000000 }}",
        "{{ [[1] * 1000] * 1000000 }}",
        "{{ ([[1] * 1000] * 1000000) | tojson }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x='xxxxxxxx') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x='xxxxxxxx') %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(40) %}{% set ns.x = ns.x.replace('a', 'aab') %}{% set ns.x = ns.x.replace('b', 'bba') %}{% endfor %}",
        "{% set x = 'y' * 1000000 %}{% for i in range(90000) %}{{ x.find('z') }}{% endfor %}",
        "{% set x = 'y' * 10000000 %}{% for i in range(90000) %}{% if 'z' in x %}{% endif %}{% endfor %}",
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% include 'secret' %}",
        "{% extends 'secret' %}",
        "{% import 'secret' as s %}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ 1 / 0 }}",
        "{{ unknown_function() }}",
        "{{ strftime_now('%Y') }}",
    ] {
        let found = render(source);
        assert!(found.is_err(), "{source}: {} bytes", found.unwrap().len());
    }
    let deep = format!("{}x{}", "{% if true %}".repeat(5000), "{% endif %}".repeat(5000));
    assert!(render(&deep).is_err());
    assert!(render(&format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000))).is_err());
    assert!(render(&"x".repeat(2 << 20)).is_err());
}

#[test]
fn deep_input_is_refused() {
    let mut deep = json!("x");
    for _ in 0..2000 {
        deep = json!([deep]);
    }
    let template = ChatTemplate::new("{{ messages | tojson }}", "", "").unwrap();
    let input = ChatInput { messages: deep.clone(), ..ChatInput::default() };
    assert!(template.render(&input).is_err());
    // The nested value is taken apart without recursion, for the sake of the test's own stack.
    while let Value::Array(mut inner) = deep {
        deep = inner.pop().unwrap();
    }
}

#[test]
fn reserved_variables_can_not_be_set() {
    let template = ChatTemplate::new("{{ messages }}", "", "").unwrap();
    for name in ["messages", "tools", "raise_exception", "bos_token"] {
        let kwargs = [(name.to_owned(), json!("x"))].into_iter().collect();
        let input = ChatInput { messages: json!([]), kwargs, ..ChatInput::default() };
        assert!(template.render(&input).is_err(), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any part of a good file changed to anything: an error or a tokenizer that works.
    #[test]
    fn mutated_files_are_read_or_refused(seed in any::<u64>(), which in 0usize..4, edits in 1usize..4) {
        let name = ["word-level", "unigram", "bpe-unk", "bert-uncased"][which];
        let mut bytes = serde_json::to_vec(&trained(name)).unwrap();
        let mut state = seed | 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        for _ in 0..edits {
            let at = next() % bytes.len();
            match next() % 5 {
                0 => bytes[at] = (next() % 256) as u8,
                1 => { bytes.remove(at); }
                2 => bytes.truncate(at.max(1)),
                3 => {
                    // Another number in the place of one.
                    if let Some(digit) = bytes[at..].iter().position(u8::is_ascii_digit) {
                        bytes.splice(at + digit..at + digit, b"99".iter().copied());
                    }
                }
                _ => {
                    let len = (next() % 40).min(bytes.len() - at);
                    let part = bytes[at..at + len].to_vec();
                    let to = next() % bytes.len();
                    bytes.splice(to..to, part);
                }
            }
        }
        examine::tokenizer_json(&bytes);
    }
}

/// Sources that made compilers of templates run out of stack: each is refused in words.
#[test]
fn a_source_nested_without_end_is_refused() {
    const BYTES: usize = 200_000;
    let chain =
        |open: &str, link: &str, close: &str| open.to_owned() + &link.repeat(BYTES / link.len()) + close;
    let sources = [
        chain("{{ ", "not ", "1 }}"),
        chain("{{ ", "-", "1 }}"),
        chain("{{ 1", " and 1", " }}"),
        chain("{{ 1", " or 1", " }}"),
        chain("{{ a", ".b", " }}"),
        chain("{{ a", "()", " }}"),
        chain("{{ a", "[0]", " }}"),
        chain("{{ a", "|upper", " }}"),
        chain("{{ a", " ~ a", " }}"),
        chain("{{ 1", " + 1", " }}"),
        chain("{{ 1", " ** 1", " }}"),
        chain("{{ 1", " < 1", " }}"),
        chain("{{ 1", " is odd", " }}"),
        chain("{{ 1", " if 1 else 1", " }}"),
        chain("{{ ", "(", " }}"),
        chain("{{ ", "[", " }}"),
        chain("{{ ", "{'a':", " }}"),
        chain("{% set a = ", "not ", "1 %}"),
        chain("{% if 1 %}", "{% elif 1 %}", "{% endif %}"),
        chain("", "{% if 1 %}", ""),
        chain("", "{% for a in b %}", ""),
        chain("{% raw %}{#{% endraw %}{{ ", "not ", "1 }}"),
    ];
    for source in sources {
        let refused = ChatTemplate::new(&source, "", "");
        let Err(TokenizerError::TemplateSyntax { problem }) = refused else {
            panic!("{}: {:?}", &source[..40], refused.is_ok())
        };
        assert!(problem.len() < 300, "{problem}");
    }
    // The largest that is accepted compiles without passing the stack.
    for (open, link, close) in [("{{ ", "not ", "1 }}"), ("{{ 1", " ~ 1", " }}"), ("{{ a", ".b", " }}")] {
        let source = open.to_owned() + &link.repeat(990) + close;
        assert!(ChatTemplate::new(&source, "", "").is_ok(), "{open}");
    }
    let branches = "{% if 0 %}".to_owned() + &"{% elif 0 %}".repeat(500) + "{% endif %}";
    assert!(ChatTemplate::new(&branches, "", "").is_ok());
}
