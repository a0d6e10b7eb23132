//! Ten thousand mutants of vocabularies and of templates, with little memory and time for each.

use levain_testkit::mutants::{self, Bounds, mutate_json, mutate_text};
use serde_json::{Value, json};

use crate::{corpus, examine, trained};

/// The samples take a few MiB each as tokenizers; the rest is the program itself.
const BOUNDS: Bounds = Bounds { memory_mib: 512, cpu_ms_each: 20 };
const MUTANTS: usize = 10_000;

/// What vocabularies say: kinds of parts, their fields, and values that matter.
fn vocabulary_words() -> Vec<Value> {
    let texts = [
        "type",
        "model",
        "vocab",
        "merges",
        "unk_token",
        "unk_id",
        "byte_fallback",
        "fuse_unk",
        "dropout",
        "continuing_subword_prefix",
        "end_of_word_suffix",
        "ignore_merges",
        "added_tokens",
        "id",
        "content",
        "special",
        "single_word",
        "lstrip",
        "rstrip",
        "normalized",
        "normalizer",
        "normalizers",
        "pre_tokenizer",
        "pretokenizers",
        "post_processor",
        "processors",
        "decoder",
        "decoders",
        "pattern",
        "Regex",
        "String",
        "behavior",
        "invert",
        "prepend_scheme",
        "replacement",
        "split",
        "add_prefix_space",
        "use_regex",
        "trim_offsets",
        "individual_digits",
        "precompiled_charsmap",
        "start",
        "stop",
        "cleanup",
        "BPE",
        "WordPiece",
        "WordLevel",
        "Unigram",
        "Sequence",
        "Split",
        "ByteLevel",
        "Metaspace",
        "Digits",
        "Punctuation",
        "Whitespace",
        "WhitespaceSplit",
        "BertPreTokenizer",
        "CharDelimiterSplit",
        "NFC",
        "NFD",
        "NFKC",
        "NFKD",
        "Lowercase",
        "Strip",
        "StripAccents",
        "Prepend",
        "Replace",
        "Precompiled",
        "BertNormalizer",
        "TemplateProcessing",
        "BertProcessing",
        "RobertaProcessing",
        "Fuse",
        "ByteFallback",
        "Removed",
        "Isolated",
        "MergedWithPrevious",
        "MergedWithNext",
        "Contiguous",
        "first",
        "always",
        "never",
        r"\p{L}+|\p{N}{1,3}",
        r"(?i:'s|'t)|\s+(?!\S)|\s+",
        "(a+)+$",
        "(",
        "[^",
        "a{1000}{1000}",
        "<0x41>",
        "▁",
        "Ġ",
        "##",
        "a b",
        " ",
        "",
    ];
    let mut words: Vec<Value> = texts.into_iter().map(Value::from).collect();
    words.extend([
        json!(-1),
        json!(u32::MAX),
        json!(1_000_000),
        json!(0),
        json!(true),
        json!(null),
        json!([["a", 1]]),
    ]);
    words.extend([
        json!({}),
        json!([]),
        json!({"type": "ByteLevel"}),
        json!({"String": ""}),
        json!({"Regex": ".*"}),
    ]);
    words
}

#[test]
fn mutated_vocabularies_are_read_or_refused() {
    let mut samples: Vec<Value> =
        ["word-level", "unigram", "bpe-unk", "bert-uncased", "llama2-first", "clip"].map(trained).into();
    samples.extend(corpus("tokenizer_json").iter().filter_map(|bytes| serde_json::from_slice(bytes).ok()));
    let words = vocabulary_words();
    let test = "mutants::mutated_vocabularies_are_read_or_refused";
    let mutants = mutants::count(MUTANTS);
    let read = mutants::run(test, BOUNDS, mutants, |random| {
        let donor = random.pick(&samples);
        let mut file = random.pick(&samples).clone();
        mutate_json(random, &mut file, donor, &words);
        examine::tokenizer_json(&serde_json::to_vec(&file).unwrap())
    });
    // Else the mutants would only show that what is broken at once is refused.
    assert!(read > mutants / 10, "{read}");
}

/// What templates are made of.
const TEMPLATE_WORDS: &[&str] = &[
    "{{",
    "}}",
    "{%",
    "%}",
    "{%-",
    "-%}",
    "{#",
    "#}",
    "if",
    "elif",
    "else",
    "endif",
    "for",
    "in",
    "endfor",
    "set",
    "endset",
    "macro",
    "endmacro",
    "call",
    "endcall",
    "filter",
    "endfilter",
    "raw",
    "endraw",
    "block",
    "generation",
    "endgeneration",
    "break",
    "continue",
    "loop",
    "loop.index0",
    "loop.last",
    "namespace",
    "ns.x",
    "range(99999)",
    "messages",
    "message",
    "message.content",
    "message['role']",
    "tools",
    "tool_calls",
    "arguments",
    "add_generation_prompt",
    "bos_token",
    "eos_token",
    "raise_exception('x')",
    "strftime_now('%Y')",
    "none",
    "true",
    "false",
    "undefined",
    "is",
    "defined",
    "mapping",
    "sequence",
    "string",
    "not",
    "and",
    "or",
    "~",
    "+",
    "-",
    "*",
    "/",
    "//",
    "%",
    "**",
    "==",
    "<",
    "[::-1]",
    "[1:]",
    "[-1]",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "|",
    "tojson",
    "tojson(indent=999999)",
    "length",
    "trim",
    "upper",
    "replace('a', 'aa')",
    "join('x')",
    "split('x')",
    "items",
    "dictsort",
    "selectattr('role')",
    "map(attribute='role')",
    "list",
    "batch(2)",
    "default('x')",
    "first",
    "last",
    "startswith('x')",
    "strip()",
    "'x'",
    "\"x\"",
    "1",
    "0",
    "99999999999",
    "1e308",
    "'<think>'",
    "'</think>'",
];

#[test]
fn mutated_templates_render_or_are_refused() {
    let sources: Vec<String> =
        corpus("chat_template").into_iter().map(|bytes| String::from_utf8(bytes).unwrap()).collect();
    let test = "mutants::mutated_templates_render_or_are_refused";
    let mutants = mutants::count(MUTANTS);
    let compiled = mutants::run(test, BOUNDS, mutants, |random| {
        let (source, donor) = (random.pick(&sources), random.pick(&sources));
        examine::chat_template(&mutate_text(random, source, donor, TEMPLATE_WORDS))
    });
    assert!(compiled > mutants / 10, "{compiled}");
}
