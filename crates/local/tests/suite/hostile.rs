//! Schemas, grammars and streams from people who mean harm: the fuzz targets' corpora, and many mutants.

use std::path::Path;

use levain_chat::ResponseFormat;
use levain_local::fuzzing::Grammars;
use levain_testkit::mutants::{self, Bounds, mutate_json, mutate_text};
use serde_json::{Value, json};

use crate::{examine, gguf_model};

/// Room for the program, the compiler's stack, and what one grammar may take.
const BOUNDS: Bounds = Bounds { memory_mib: 1024, cpu_ms_each: 50 };
/// Each is compiled, and answers are drawn; `LEVAIN_TEST_MUTANTS` asks for more.
const MUTANTS: usize = 1000;

fn grammars() -> Grammars {
    Grammars::new(&examine::vocabulary()).unwrap()
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| std::fs::read(path).unwrap()).collect()
}

#[test]
fn the_fuzz_corpora_hold() {
    let grammars = grammars();
    let taken = |target: &str, check: &dyn Fn(&[u8]) -> bool| {
        let files = corpus(target);
        (files.iter().filter(|input| check(input)).count(), files.len())
    };
    for (taken, all) in [
        taken("schema_to_grammar", &|input| examine::schema_input(&grammars, input)),
        taken("grammar_step", &|input| examine::grammar_input(&grammars, input)),
        taken("think_splitter", &|input| examine::stream_input(input, examine::thinking)),
        taken("gguf_model", &|input| gguf_model::examine(input)),
        taken("tool_parser", &|input| examine::stream_input(input, examine::tools)),
    ] {
        assert!(taken >= 2 && taken < all, "{taken} of {all}");
    }
}

/// Schemas of the published suite, and those that were written to be difficult.
fn schemas() -> Vec<Value> {
    let suite = include_str!("../fixtures/json-schema-suite/draft2020-12.json");
    let suite: Value = serde_json::from_str(suite).unwrap();
    // Each test is a triple of words, a schema and values.
    let tests = suite.as_object().unwrap().values().flat_map(|tests| tests.as_array().unwrap());
    let mut schemas: Vec<Value> = tests.map(|test| test[1].clone()).collect();
    assert!(schemas.len() > 100, "{}", schemas.len());
    schemas.extend(corpus("schema_to_grammar").iter().filter_map(|input| {
        let (text, _) = examine::halves(input);
        serde_json::from_slice(text).ok()
    }));
    schemas
}

fn schema_words() -> Vec<Value> {
    let texts = [
        "type",
        "string",
        "number",
        "integer",
        "object",
        "array",
        "boolean",
        "null",
        "properties",
        "required",
        "additionalProperties",
        "patternProperties",
        "propertyNames",
        "minProperties",
        "maxProperties",
        "dependentRequired",
        "dependentSchemas",
        "unevaluatedProperties",
        "items",
        "prefixItems",
        "contains",
        "minContains",
        "maxContains",
        "minItems",
        "maxItems",
        "uniqueItems",
        "unevaluatedItems",
        "minLength",
        "maxLength",
        "pattern",
        "format",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "enum",
        "const",
        "allOf",
        "anyOf",
        "oneOf",
        "not",
        "if",
        "then",
        "else",
        "$ref",
        "$defs",
        "$id",
        "$anchor",
        "$dynamicRef",
        "#",
        "#/$defs/a",
        "#/properties/x",
        "a",
        "x",
        "email",
        "uuid",
        "date-time",
        "ipv4",
        "^[a-z]{2,5}$",
        "(a+)+$",
        r"^\p{L}*$",
        "x-guidance",
        "description",
        "default",
    ];
    let mut words: Vec<Value> = texts.into_iter().map(Value::from).collect();
    words.extend([
        json!({"type": "string"}),
        json!({"$ref": "#"}),
        json!({"not": {}}),
        json!({"enum": [1, "a", null]}),
    ]);
    words.extend([
        json!({"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        json!({"minimum": 0.1}),
        json!(["a"]),
    ]);
    words
}

#[test]
fn mutated_schemas_serve_or_are_refused() {
    let (schemas, words) = (schemas(), schema_words());
    let grammars = grammars();
    let mutants = mutants::count(MUTANTS);
    let test = "hostile::mutated_schemas_serve_or_are_refused";
    let served = mutants::run(test, BOUNDS, mutants, |random| {
        let donor = random.pick(&schemas);
        let mut schema = random.pick(&schemas).clone();
        mutate_json(random, &mut schema, donor, &words);
        let mut draws = |below: usize| random.below(below);
        examine::schema(&grammars, &schema, &mut draws)
    });
    assert!(served > mutants / 10, "{served}");
}

const GRAMMARS: &[&str] = &[
    "start: expr\nexpr: term ((\"+\" | \"-\") term)*\nterm: factor ((\"*\" | \"/\") factor)*\nfactor: NUMBER | \"(\" expr \")\"\nNUMBER: /[0-9]{1,6}/\n",
    "start: line+\nline: KEY \"=\" value \"\\n\"\nKEY: /[a-z_]{1,12}/\nvalue: STRING | NUMBER | \"true\"\nSTRING: /\"[^\"\\n]*\"/\nNUMBER: /-?[0-9]+/\n",
    "start: a | b\na: \"x\"{2,5} b?\nb: /[^x]/ a*\n",
    "%ignore /[ ]+/\nstart: (\"SELECT\"i COLUMN (\",\" COLUMN)* \"FROM\" COLUMN)\nCOLUMN: /[a-z]+/\n",
    "start: \"é\" /\\p{L}+/ (\"a\" | \"aa\" | \"aaaa\")+\n",
    "start: s\ns: s s | \"a\"\n",
    "start: obj\nobj: %json {\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"integer\"}}}\n",
];
const REGEXES: &[&str] = &[
    r"[A-Z][a-z]+( [A-Z][a-z]+){0,3}",
    r"(\d{4})-(\d{2})-(\d{2})",
    r"(?i)yes|no|maybe",
    r"[^\s@]+@[^\s@]+\.[a-z]{2,}",
    r"(a|b)*c{3,9}\w?",
    r"\p{Greek}{1,5}[^x]{2}",
];
const GRAMMAR_WORDS: &[&str] = &[
    "start",
    ":",
    "|",
    "*",
    "+",
    "?",
    "(",
    ")",
    "{2,5}",
    "{0,100000}",
    "{,3}",
    "\"a\"",
    "\"\"",
    "\"x\"i",
    "/a/",
    "/[^a]*/",
    "/(?i)b/",
    "\n",
    "%ignore",
    "%import common.NUMBER",
    "%json {}",
    "%llguidance {}",
    "[temperature=0.5]",
    "[max_tokens=2]",
    "[capture]",
    "[lazy]",
    "[suffix=\"x\"]",
    "<[3]>",
    "<|end|>",
    "@x",
    "s",
    "a",
    "b",
    "NUMBER",
    "EOF",
    "\\",
    "[a-z]",
    "[^",
    "]",
    "\\p{L}",
    "\\b",
    "\\d",
    "^",
    "$",
    ".",
    "(?=a)",
    "(?:",
    "{",
    "}",
    "&",
    "~",
];

#[test]
fn mutated_grammars_serve_or_are_refused() {
    let grammars = grammars();
    let mutants = mutants::count(MUTANTS);
    let test = "hostile::mutated_grammars_serve_or_are_refused";
    let served = mutants::run(test, BOUNDS, mutants, |random| {
        let lark = random.below(3) > 0;
        let samples = if lark { GRAMMARS } else { REGEXES };
        let (sample, donor) = (random.pick(samples), random.pick(samples));
        let text = mutate_text(random, sample, donor, GRAMMAR_WORDS);
        let format = if lark { ResponseFormat::Grammar(text) } else { ResponseFormat::Regex(text) };
        let budget = (random.below(4) == 0).then(|| random.below(20) as u32);
        let mut draws = |below: usize| random.below(below);
        examine::grammar(&grammars, &format, budget, &mut draws).is_some()
    });
    assert!(served > mutants / 10, "{served}");
}
