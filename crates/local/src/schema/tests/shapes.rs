//! Schemas as programs write them: Pydantic, zod, Kubernetes, OpenAPI, GitHub workflows, function calls.

use super::*;

fn enforced() -> Vec<Value> {
    let kinds = json!([
        {"type": "object", "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}}, "required": ["kind"]},
        {"type": "object", "properties": {"kind": {"const": "dog"}, "good": {"type": "boolean"}}, "required": ["kind"]},
    ]);
    let deep = (0..13).fold(
        json!({"type": "integer"}),
        |inner, _| json!({"type": "object", "properties": {"x": inner}, "required": ["x"]}),
    );
    let many: Vec<String> = (0..800).map(|at| format!("value-{at}")).collect();
    let wide: Map<String, Value> =
        (0..60).map(|at| (format!("field{at}"), json!({"type": ["string", "null"]}))).collect();
    vec![
        json!({"$defs": {"A": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"], "title": "A"}},
               "properties": {"a": {"$ref": "#/$defs/A"}, "b": {"anyOf": [{"$ref": "#/$defs/A"}, {"type": "null"}], "default": null}},
               "required": ["a"], "title": "M", "type": "object"}),
        json!({"$defs": {"Node": {"type": "object", "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}},
               "required": ["v", "next"], "additionalProperties": false}}, "$ref": "#/$defs/Node"}),
        json!({"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}, "additionalProperties": false}),
        json!({"oneOf": kinds}),
        json!({"$defs": {"Cat": kinds[0], "Dog": kinds[1]}, "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
               "discriminator": {"propertyName": "kind", "mapping": {"cat": "#/$defs/Cat", "dog": "#/$defs/Dog"}}}),
        json!({"type": "object", "properties": {"pet": {"oneOf": kinds}}, "required": ["pet"]}),
        json!({"type": "object", "properties": {"action": {"enum": ["go", "stop"]}}, "required": ["action"],
               "oneOf": [{"properties": {"action": {"const": "go"}, "loc": {"type": "integer"}}, "required": ["action", "loc"]},
                         {"properties": {"action": {"const": "stop"}}}]}),
        json!({"enum": ["a", 1, null, true, 1.5, {"k": [1]}, ["x", {}]]}),
        json!({"const": {"a": 1, "b": [true, null]}}),
        json!({"enum": many}),
        json!({"type": "object", "patternProperties": {"^x-": {"type": "string"}}, "properties": {"name": {"type": "string"}}, "additionalProperties": false}),
        json!({"type": "object", "patternProperties": {"^[a-z]{2}$": {"type": "string"}}, "additionalProperties": false}),
        json!({"type": "object", "patternProperties": {"^[A-Za-z0-9_-]{1,64}$": {"type": "integer"}}, "additionalProperties": false}),
        json!({"type": "object", "patternProperties": {"^S_": {"type": "string"}, "^I_": {"type": "integer"}}}),
        json!({"type": "object", "patternProperties": {"^.*$": {"type": "string"}}}),
        json!({"type": "object", "patternProperties": {"^n": {"type": "integer", "maximum": 9}}, "properties": {"name": {"minimum": 3}}, "required": ["name"]}),
        json!({"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "number"}}),
        json!({"type": "object", "propertyNames": {"enum": ["red", "green"]}, "additionalProperties": {"type": "number"}}),
        json!({"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}, "additionalProperties": {"type": "boolean"}}),
        json!({"type": "object", "propertyNames": {"minLength": 2, "maxLength": 5}}),
        json!({"type": "object", "properties": {"a": {}, "b": {}}, "dependentRequired": {"a": ["b"]}, "additionalProperties": false}),
        json!({"type": "object", "properties": {"card": {"type": "integer"}, "bill": {"type": "string"}}, "dependencies": {"card": ["bill"]}}),
        json!({"type": "object", "properties": {"a": {"type": "integer"}}, "dependentSchemas": {"a": {"properties": {"b": {"type": "null"}}, "required": ["b"]}}}),
        json!({"type": "object", "properties": {"country": {"enum": ["US", "NL"]}, "zip": {"type": "string"}}, "required": ["country", "zip"],
               "if": {"properties": {"country": {"const": "US"}}}, "then": {"properties": {"zip": {"pattern": "^[0-9]{5}$"}}},
               "else": {"properties": {"zip": {"pattern": "^[0-9]{4}[A-Z]{2}$"}}}}),
        json!({"if": {"type": "string"}, "then": {"maxLength": 3}, "else": {"type": "null"}}),
        json!({"type": "array", "prefixItems": [{"type": "string"}, {"type": "number"}], "items": false, "minItems": 2}),
        json!({"type": "array", "prefixItems": [{"const": 1}], "items": {"type": "null"}, "maxItems": 4}),
        json!({"type": "array", "items": [{"type": "integer"}, {"type": "string"}], "additionalItems": false}),
        json!({"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3}),
        json!({"type": "array", "items": {"type": "string"}, "uniqueItems": false}),
        json!({"type": "array", "items": {"type": "string"}, "uniqueItems": true, "maxItems": 1}),
        json!({"type": "array", "contains": {"type": "null"}, "minContains": 0}),
        json!({"type": "integer", "minimum": -5, "exclusiveMaximum": 7}),
        json!({"type": "integer", "minimum": -9_223_372_036_854_775_808_i64, "maximum": 9_223_372_036_854_775_807_i64}),
        json!({"type": "integer", "minimum": 0, "maximum": u64::MAX}),
        json!({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}),
        json!({"type": "number", "multipleOf": 0.01, "minimum": 0, "maximum": 1}),
        json!({"type": "integer", "multipleOf": 12, "minimum": -30}),
        json!({"allOf": [{"type": "integer", "multipleOf": 4}, {"multipleOf": 6, "minimum": 0, "maximum": 100}]}),
        json!({"type": "number", "minimum": 3, "exclusiveMinimum": true}),
        json!({"type": "string", "format": "date-time"}),
        json!({"type": "string", "format": "uuid", "pattern": "^0"}),
        json!({"type": "string", "pattern": r"^\d{3}-\w+$", "maxLength": 8}),
        json!({"type": "string", "pattern": "^https?://"}),
        json!({"type": "string", "minLength": 2, "maxLength": 4}),
        json!({"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
                         {"type": "object", "properties": {"b": {"type": "string"}}, "required": ["b"]}]}),
        json!({"allOf": [{"$ref": "#/definitions/Base"}, {"properties": {"extra": {"type": "boolean"}}, "required": ["extra"]}],
               "definitions": {"Base": {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}}}),
        json!({"allOf": [{"$ref": "#/$defs/t1"}, {"$ref": "#/$defs/t2"}],
               "$defs": {"t1": {"type": "object", "properties": {"child": {"$ref": "#/$defs/t1"}}}, "t2": {"type": "object", "properties": {"child": {"$ref": "#/$defs/t2"}}}}}),
        json!({"not": {"type": "string"}}),
        json!({"type": ["string", "integer"], "not": {"type": "string"}}),
        json!({"type": "object", "properties": {"a": {"type": "integer"}}, "not": {"required": ["b"]}}),
        json!({"enum": ["a", "b", "c"], "not": {"const": "b"}}),
        json!({"anyOf": [{"type": "string", "maxLength": 3}, {"type": "integer"}], "not": {"type": "integer"}}),
        json!({"type": "object", "properties": {"a": {"type": "integer"}}, "unevaluatedProperties": false}),
        json!({"allOf": [{"properties": {"a": {"type": "integer"}}}], "properties": {"b": {"type": "null"}}, "type": "object", "unevaluatedProperties": false}),
        json!({"$ref": "#/$defs/base", "properties": {"c": {}}, "unevaluatedProperties": false, "$defs": {"base": {"type": "object", "properties": {"a": {}}, "required": ["a"]}}}),
        json!({"type": "array", "prefixItems": [{"type": "null"}], "unevaluatedItems": {"type": "integer"}}),
        json!({"type": "object", "properties": {"any": true, "none": false}, "required": ["any"]}),
        json!({"type": ["object", "null"], "properties": {"x": {"type": ["string", "number", "boolean"]}}}),
        json!({"$schema": "http://json-schema.org/draft-07/schema#", "$id": "https://example.com/x.json", "definitions": {"p": {"type": "integer", "minimum": 1}},
               "type": "object", "properties": {"p": {"$ref": "#/definitions/p"}}}),
        json!({"$id": "https://example.com/root.json", "$ref": "other.json", "$defs": {"o": {"$id": "other.json", "type": "boolean"}}}),
        json!({"$ref": "#item", "$defs": {"i": {"$anchor": "item", "type": "null"}}}),
        json!({"type": "object", "properties": {"a/b": {"type": "null"}, "c~d": {"$ref": "#/properties/a~1b"}, "e%": {"$ref": "#/properties/c~0d"}}}),
        json!({"type": "object", "properties": {"naïve": {"type": "null"}, "日本": {"const": "値"}, "q\"\\\n": {"type": "boolean"}}, "required": ["日本", "q\"\\\n"]}),
        json!({"type": "string", "nullable": true, "maxLength": 2, "example": "x", "deprecated": true, "x-order": 1}),
        json!({"type": "object", "properties": {"replicas": {"type": "integer", "format": "int32"}, "labels": {"type": "object", "additionalProperties": {"type": "string"}},
               "port": {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": true}}, "x-kubernetes-preserve-unknown-fields": true}),
        json!({"type": "object", "minProperties": 1, "properties": {"a": {"type": "null"}, "b": {"type": "null"}, "c": {"type": "null"}}, "additionalProperties": false}),
        json!({"type": "object", "maxProperties": 2, "properties": {"a": {"type": "null"}, "b": {"type": "null"}, "c": {"type": "null"}}, "additionalProperties": false}),
        json!({"type": "object", "minProperties": 2, "properties": {"a": {"type": "null"}, "b": {"type": "null"}}, "additionalProperties": {"type": "boolean"}}),
        json!({"type": "object", "properties": wide, "additionalProperties": false}),
        json!({"anyOf": [{"required": ["a"]}, {"required": ["b"]}], "type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}}, "additionalProperties": false}),
        json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}], "type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}}, "additionalProperties": false}),
        json!({"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
        json!({"oneOf": [{"type": "integer"}, {"type": "number", "multipleOf": 2}]}).as_object().map_or(
            json!({}),
            |_| json!({"oneOf": [{"minimum": 3}, {"type": "null"}], "type": ["integer", "null"]}),
        ),
        deep,
        json!({"type": "object", "additionalProperties": {"type": "array", "items": {"type": "object", "additionalProperties": true}}}),
        json!({"description": "anything"}),
    ]
}

#[test]
fn usual_shapes_are_enforced() {
    let shapes = enforced();
    assert!(shapes.len() >= 70);
    check_all(shapes, |schema| {
        let compiled = compile(schema, None).unwrap_or_else(|error| panic!("{schema}: {error}"));
        assert!(compiled.unenforced.is_empty());
        let judge = Judge::new(schema);
        assert!(check_answers(schema, &compiled, judge.as_ref(), 0..6) > 0, "no answer to {schema} ends");
    });
}

/// What can't be enforced: the keyword, the place, the schema.
fn refused() -> Vec<(&'static str, &'static str, Value)> {
    let within = |inner: Value| json!({"type": "object", "properties": {"x": inner}, "required": ["x"]});
    vec![
        (
            "uniqueItems",
            "/properties/x",
            within(json!({"type": "array", "items": {"type": "integer"}, "uniqueItems": true})),
        ),
        ("contains", "/properties/x", within(json!({"type": "array", "contains": {"type": "null"}}))),
        (
            "contains",
            "/properties/x",
            within(json!({"type": "array", "contains": {"const": 1}, "maxContains": 2})),
        ),
        ("not", "/properties/x", within(json!({"type": "string", "not": {"const": "a"}}))),
        ("not", "/properties/x", within(json!({"type": "string", "not": {"pattern": "^a"}}))),
        ("pattern", "/properties/x", within(json!({"type": "string", "pattern": "^(?!.*x).*$"}))),
        ("pattern", "/properties/x", within(json!({"type": "string", "pattern": r"(a)\1"}))),
        ("pattern", "/properties/x", within(json!({"type": "string", "pattern": r"\bword\b"}))),
        ("multipleOf", "/properties/x", within(json!({"type": "integer", "multipleOf": 123_456_789}))),
        ("if", "/properties/x", within(json!({"if": {"pattern": "^a"}, "then": {"maxLength": 2}}))),
        (
            "oneOf",
            "/properties/x",
            within(json!({"type": "string", "oneOf": [{"pattern": "^a"}, {"pattern": "b$"}]})),
        ),
        (
            "patternProperties",
            "/properties/x",
            within(
                json!({"type": "object", "patternProperties": {"^a": {"type": "null"}, "b$": {"type": "null"}}}),
            ),
        ),
        (
            "propertyNames",
            "/properties/x",
            within(json!({"type": "object", "propertyNames": {"pattern": "^a", "maxLength": 9}})),
        ),
        (
            "minProperties",
            "/properties/x",
            within(
                json!({"type": "object", "minProperties": 3, "properties": {"a": {}, "b": {}, "c": {}, "d": {}, "e": {}, "f": {}, "g": {}}}),
            ),
        ),
        ("$ref", "/properties/x", within(json!({"$ref": "https://example.com/schema"}))).clone(),
    ]
}

#[test]
fn what_cannot_be_enforced_is_refused_in_words_or_told() {
    check_all(refused(), |(keyword, pointer, schema)| {
        let error = compile(schema, None).map(drop).unwrap_err();
        check_refusal(schema, &error);
        assert!(error.contains(&format!("`{keyword}` at {pointer}: ")), "{schema}: {error}");
        assert!(error.contains("strict: false"), "{error}");
        assert_eq!(compile(schema, Some(true)).map(drop).unwrap_err(), error);
        if *keyword == "$ref" {
            return;
        }
        // Leniently the rest is enforced.
        let compiled = compile(schema, Some(false)).unwrap_or_else(|error| panic!("{schema}: {error}"));
        let told = compiled.unenforced.join("\n");
        assert!(told.contains(&format!("`{keyword}` at {pointer}: ")), "{schema}: {told}");
        for seed in 0..3 {
            let Some(text) = draw(&compiled, seed) else { continue };
            check_keys(&text);
            let value: Value = serde_json::from_str(&text).unwrap();
            assert!(value.get("x").is_some(), "{schema}: {text}");
        }
    });
    // What is no schema is refused even so.
    for schema in [
        json!({"type": "what"}),
        json!({"properties": 3}),
        json!({"required": true}),
        json!({"$ref": "#/nowhere"}),
        json!({"enum": 1}),
    ] {
        let error = compile(&schema, Some(false)).map(drop).unwrap_err();
        check_refusal(&schema, &error);
    }
}

#[test]
fn options_of_the_library_do_not_leak_in() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": false, "required": ["a"],
                        "x-guidance": {"whitespace_pattern": "[zZ]{1,9}", "item_separator": "!", "lenient": true}});
    let compiled = compile(&schema, None).unwrap();
    assert!(
        takes(&compiled, r#"{"a":null}"#)
            && takes(&compiled, r#"{"a": null}"#)
            && !takes(&compiled, r#"{z"a":null}"#)
    );
}
