//! Keys that come twice, and keys that run out.

use super::*;

fn digits() -> Value {
    json!({"type": "integer", "minimum": 0, "maximum": 9})
}

#[test]
fn no_key_comes_twice() {
    for schema in [
        json!({"type": "object", "additionalProperties": digits(), "minProperties": 4, "maxProperties": 4}),
        json!({"type": "object", "additionalProperties": digits(), "properties": {"a": digits()}, "minProperties": 3}),
        json!({"type": "object", "patternProperties": {"^[ab]$": digits()}, "additionalProperties": false, "minProperties": 2}),
        json!({"type": "object", "patternProperties": {"^[a-c][a-z]{2}$": digits()}, "additionalProperties": false, "minProperties": 3}),
        json!({"type": "object", "patternProperties": {"^a*b$": digits()}, "additionalProperties": false, "minProperties": 4}),
        json!({"type": "object", "patternProperties": {"^.{1,2}$": digits()}, "additionalProperties": false, "minProperties": 5}),
        json!({"type": "object", "propertyNames": {"maxLength": 2}, "additionalProperties": digits(), "minProperties": 4}),
        json!({"type": "object", "propertyNames": {"enum": ["x", "y", "z"]}, "additionalProperties": digits(), "minProperties": 2}),
        json!({"type": "object", "required": ["k"], "additionalProperties": {"type": "object", "additionalProperties": digits(), "minProperties": 3}}),
        json!({"type": "object", "properties": {"\"\\\n\u{7f}é": digits()}, "additionalProperties": digits(), "minProperties": 3}),
        json!({"anyOf": [
            {"type": "object", "patternProperties": {"^[a-c]$": digits()}, "additionalProperties": false},
            {"type": "object", "patternProperties": {"^[a-z]{1,9}$": {"type": "null"}}, "additionalProperties": false},
        ]}),
        json!({"type": "object"}),
        json!({}),
    ] {
        let compiled = compile(&schema, None).unwrap_or_else(|error| panic!("{schema}: {error}"));
        let judge = Judge::new(&schema).unwrap();
        assert!(check_answers(&schema, &compiled, Some(&judge), 0..12) > 0, "{schema}");
    }
    let open = compile(&json!({"type": "object", "additionalProperties": digits()}), None).unwrap();
    assert!(takes(&open, r#"{"a":1,"b":2}"#) && !takes(&open, r#"{"a":1,"a":2}"#));
    // Written in another way it is the same key.
    assert!(!takes(&open, r#"{"a":1,"\u0061":2}"#) && takes(&open, r#"{"\u0001":1,"\n":2}"#));
    assert!(!takes(&open, r#"{"\n":1,"\u000a":2}"#));
    // Another object has keys of its own.
    let nested = compile(&json!({"type": "array", "items": {"type": "object"}}), None).unwrap();
    assert!(
        takes(&nested, r#"[{"a":{"a":1}},{"a":2}]"#) && !takes(&nested, r#"[{"a":{"a":1,"b":[],"a":2}}]"#)
    );
}

#[test]
fn keys_that_run_out_are_no_dead_end() {
    // 100 keys, of which ten begin with each digit.
    let schema = json!({
        "type": "object", "patternProperties": {"^[0-9]{2}$": {"type": "null"}}, "additionalProperties": false,
    });
    let compiled = compile(&schema, None).unwrap();
    let all: Vec<String> = (0..100).map(|at| format!("\"{at:02}\":null")).collect();
    assert!(takes(&compiled, &format!("{{{}}}", all.join(","))));
    // No comma may follow the last one, no digit lead where all are used.
    assert!(!takes(&compiled, &format!("{{{},\"00\":null}}", all.join(","))));
    let (table, _) = guide();
    let mut constraint = AnswerConstraint::new(&table, None, Body::Guided(compiled)).unwrap();
    for byte in format!("{{{},\"", all[..10].join(",")).bytes() {
        constraint.accept(u32::from(byte)).unwrap();
        let mut mask = TokenMask::new(table.len());
        constraint.allowed(&mut mask).unwrap();
    }
    let mut mask = TokenMask::new(table.len());
    constraint.allowed(&mut mask).unwrap();
    assert!(!mask.is_allowed(u32::from(b'0')) && mask.is_allowed(u32::from(b'1')));
}

/// Cases in which keys, values or items run out while an answer is generated.
#[test]
fn what_runs_out_is_known_before() {
    let object = |inner: Value| json!({"type": "object", "properties": {"a": inner}, "required": ["a"]});
    for schema in [
        object(json!({"type": "integer", "minimum": 1, "maximum": 4, "multipleOf": 5})),
        object(json!({"type": "number", "minimum": 0.11, "maximum": 0.19, "multipleOf": 0.1})),
        object(json!({"type": "string", "pattern": "^a+$", "minLength": 2, "maxLength": 1})),
        object(json!({"type": "string", "pattern": "^a{3}$", "maxLength": 2})),
        object(json!({"type": "string", "allOf": [{"pattern": "^a"}, {"pattern": "^b"}]})),
        object(json!({"enum": ["x"], "type": "integer"})),
        object(json!({"allOf": [{"const": 1}, {"const": 2}]})),
        object(json!({"type": "array", "items": false, "minItems": 1})),
        object(json!({"type": "array", "prefixItems": [{"type": "null"}, false], "minItems": 2})),
        object(json!({"$ref": "#"})),
        object(json!({"type": "array", "items": {"$ref": "#"}, "minItems": 1})),
        object(json!({"type": "object", "propertyNames": {"enum": ["x"]}, "minProperties": 2})),
        json!({"type": "object", "patternProperties": {"^a$": {}}, "additionalProperties": false, "minProperties": 2}),
        json!({"type": "object", "minProperties": 3, "properties": {"a": {}, "b": {}}, "additionalProperties": false}),
        json!({"type": "object", "required": ["a", "b"], "maxProperties": 1}),
        json!({"type": "object", "required": ["a"], "additionalProperties": false}),
        json!({"not": {}}),
        json!({"allOf": [{"type": "string"}, {"type": "null"}]}),
    ] {
        let error = compile(&schema, None).map(drop).unwrap_err();
        check_refusal(&schema, &error);
        assert!(error.contains("satisfies"), "{schema}: {error}");
    }
    // What can't be is left out where it need not be.
    for schema in [
        json!({"type": "object", "properties": {"n": digits()}, "required": ["n"], "additionalProperties": false,
               "patternProperties": {"^n$": {"type": "integer"}}}),
        json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/never"}, "b": digits()},
               "$defs": {"never": {"type": "array", "items": {"$ref": "#/$defs/never"}, "minItems": 1}}}),
        json!({"type": "object", "properties": {"a": {"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 6}}}),
        json!({"anyOf": [{"type": "array", "items": false, "minItems": 1}, digits()]}),
    ] {
        let compiled = compile(&schema, None).unwrap_or_else(|error| panic!("{schema}: {error}"));
        let judge = Judge::new(&schema).unwrap();
        assert!(check_answers(&schema, &compiled, Some(&judge), 0..8) > 0, "{schema}");
    }
}
