//! The JSON Schema Test Suite.

use serde_json::Map;

use super::*;

type Cases = std::collections::BTreeMap<String, Vec<(String, Value, Vec<(Value, bool)>)>>;

fn fixture(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn cases() -> Cases {
    let all = fixture(include_str!("../../../tests/fixtures/json-schema-suite/draft2020-12.json"));
    let group = |group: &Value| {
        let tests = group[2].as_array().unwrap().iter();
        let tests = tests.map(|test| (test[0].clone(), test[1].as_bool().unwrap())).collect();
        (group[0].as_str().unwrap().to_owned(), group[1].clone(), tests)
    };
    let file = |(name, groups): (&String, &Value)| {
        (name.clone(), groups.as_array().unwrap().iter().map(group).collect())
    };
    all.as_object().unwrap().iter().map(file).collect()
}

/// The instance as the grammar writes it: listed properties in the order in which the schema lists them.
fn ordered(instance: &Value, order: &str) -> Value {
    match instance {
        Value::Object(fields) => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort_by_key(|name| {
                order.find(&format!("{}:", Value::from(name.as_str()))).unwrap_or(usize::MAX)
            });
            let sorted: Map<String, Value> =
                names.into_iter().map(|name| (name.clone(), ordered(&fields[name], order))).collect();
            Value::Object(sorted)
        }
        Value::Array(items) => items.iter().map(|item| ordered(item, order)).collect(),
        other => other.clone(),
    }
}

#[test]
fn the_suite_is_enforced_or_refused() {
    let counts = std::cell::RefCell::new([0; 5]);
    let missed = std::cell::RefCell::new(Vec::new());
    let groups = cases().into_iter().flat_map(|(keyword, groups)| {
        groups
            .into_iter()
            .map(move |(description, schema, tests)| (format!("{keyword}, {description}"), schema, tests))
    });
    check_all(groups, |(name, schema, tests)| {
        let compiled = match compile(schema, None) {
            Ok(compiled) => compiled,
            Err(message) => {
                check_refusal(schema, &message);
                counts.borrow_mut()[1] += 1;
                return;
            }
        };
        let judge = Judge::new(schema);
        let ended = check_answers(schema, &compiled, judge.as_ref(), 0..3);
        assert!(ended > 0, "{name}: no answer to {schema} ends");
        let order = format!("{schema}");
        for (instance, is_valid) in tests {
            let ways = [instance.to_string(), ordered(instance, &order).to_string()];
            let takes = ways.iter().any(|text| takes(&compiled, text));
            assert!(*is_valid || !takes, "{name}: {schema} takes {instance}");
            counts.borrow_mut()[2] += usize::from(*is_valid);
            counts.borrow_mut()[3] += usize::from(takes);
            if *is_valid && !takes {
                missed.borrow_mut().push(format!("{name}: {instance}"));
            }
        }
        counts.borrow_mut()[0] += 1;
        counts.borrow_mut()[4] += ended;
    });
    let ([enforced, refused, valid, taken, drawn], missed) = (counts.into_inner(), missed.into_inner());
    println!("{enforced} enforced, {refused} refused; {taken} of {valid} valid instances, {drawn} answers");
    for line in &missed {
        println!("missed: {line}");
    }
    assert!(enforced >= 200 && drawn >= 500, "{enforced} enforced, {drawn} drawn");
    assert!(taken * 100 >= valid * 90, "{taken} of {valid} valid instances are taken");
}

#[test]
fn formats_are_enforced_or_annotations() {
    let formats = fixture(include_str!("../../../tests/fixtures/json-schema-suite/formats.json"));
    for (name, cases) in formats.as_object().unwrap() {
        let schema = json!({"type": "string", "format": name});
        let compiled = compile(&schema, None).unwrap();
        let judge = Judge::new(&schema).unwrap();
        assert!(check_answers(&schema, &compiled, Some(&judge), 0..20) > 0, "{name}");
        let (mut valid, mut taken) = (0, 0);
        for case in cases.as_array().unwrap() {
            let takes = takes(&compiled, &case[0].to_string());
            assert!(case[1] == true || !takes, "{name} takes {}", case[0]);
            valid += usize::from(case[1] == true);
            taken += usize::from(case[1] == true && takes);
        }
        assert!(taken * 3 >= valid, "{name}: {taken} of {valid}");
    }
    for name in ["path", "password", "binary", "uri-reference", "color", "int32", "regex", "x", ""] {
        let schema = json!({"type": "string", "format": name, "maxLength": 3});
        let compiled = compile(&schema, None).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(takes(&compiled, "\"a b\""), "{name}");
    }
}
