//! Takes out of a written schema what no finite value satisfies: references that go round in circles, and what needs
//! them.

use serde_json::{Map, Value, json};

/// The schema with its definitions; `None` if nothing satisfies it.
pub(super) fn prune(root: Value, defs: Vec<Option<Value>>) -> Option<Value> {
    let defs: Vec<Value> = defs.into_iter().map(|def| def.unwrap_or(Value::Bool(false))).collect();
    let mut finite = vec![false; defs.len()];
    loop {
        let before = finite.clone();
        for (at, def) in defs.iter().enumerate() {
            if !before.get(at).copied().unwrap_or(false) && is_finite(def, &before) {
                finite.iter_mut().skip(at).take(1).for_each(|slot| *slot = true);
            }
        }
        if finite == before {
            break;
        }
    }
    let root = without(&root, &finite);
    if root == Value::Bool(false) {
        return None;
    }
    let mut used = vec![false; defs.len()];
    let mut kept = Map::new();
    let mut queue = targets(&root);
    while let Some(id) = queue.pop() {
        let seen = used.get_mut(id).is_none_or(|slot| std::mem::replace(slot, true));
        let Some(def) = defs.get(id).filter(|_| !seen) else { continue };
        let def = without(def, &finite);
        queue.extend(targets(&def));
        kept.insert(format!("n{id}"), def);
    }
    let mut schema = match root {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    if !kept.is_empty() {
        schema.insert("$defs".into(), Value::Object(kept));
    }
    Some(Value::Object(schema))
}

fn target(value: &Value) -> Option<usize> {
    value.get("$ref")?.as_str()?.strip_prefix("#/$defs/n")?.parse().ok()
}

fn targets(value: &Value) -> Vec<usize> {
    let inner: Vec<&Value> = match value {
        Value::Object(map) if map.contains_key("enum") => Vec::new(),
        Value::Object(map) => map.values().collect(),
        Value::Array(items) => items.iter().collect(),
        _ => Vec::new(),
    };
    target(value).into_iter().chain(inner.into_iter().flat_map(targets)).collect()
}

fn is_finite(value: &Value, finite: &[bool]) -> bool {
    if let Some(id) = target(value) {
        return finite.get(id).copied().unwrap_or(false);
    }
    let map = match value {
        Value::Bool(satisfiable) => return *satisfiable,
        Value::Object(map) => map,
        _ => return false,
    };
    if let Some(Value::Array(options)) = map.get("anyOf") {
        return options.iter().any(|option| is_finite(option, finite));
    }
    let count = |keyword: &str| map.get(keyword).and_then(Value::as_u64).unwrap_or(0);
    let inner = |keyword: &str| map.get(keyword).is_none_or(|inner| is_finite(inner, finite));
    match map.get("type").and_then(Value::as_str) {
        Some("array") => {
            let least = count("minItems");
            let prefix =
                map.get("prefixItems").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            prefix.iter().zip(0..least).all(|(item, _)| is_finite(item, finite))
                && (least <= prefix.len() as u64 || inner("items"))
        }
        Some("object") => {
            let required =
                map.get("required").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let properties = map.get("properties").and_then(Value::as_object);
            let listed = required.iter().filter_map(Value::as_str).all(|name| {
                properties.and_then(|fields| fields.get(name)).is_none_or(|field| is_finite(field, finite))
            });
            let more = count("minProperties") > required.len() as u64;
            let patterns = map.get("patternProperties").and_then(Value::as_object);
            let free = inner("additionalProperties")
                || patterns.is_some_and(|fields| fields.values().any(|field| is_finite(field, finite)));
            listed && (!more || free || properties.is_some_and(|fields| fields.len() > required.len()))
        }
        _ => true,
    }
}

/// A written schema with `false` in place of what is not finite.
fn without(value: &Value, finite: &[bool]) -> Value {
    if !is_finite(value, finite) {
        return Value::Bool(false);
    }
    let Value::Object(map) = value else { return value.clone() };
    if map.contains_key("enum") || map.contains_key("$ref") {
        return value.clone();
    }
    let mut out = Map::new();
    for (keyword, inner) in map {
        let inner = match (keyword.as_str(), inner) {
            ("anyOf", Value::Array(options)) => {
                let options: Vec<Value> = options
                    .iter()
                    .map(|option| without(option, finite))
                    .filter(|option| *option != Value::Bool(false))
                    .collect();
                if let [one] = options.as_slice() {
                    return one.clone();
                }
                json!(options)
            }
            ("prefixItems", Value::Array(items)) => items.iter().map(|item| without(item, finite)).collect(),
            ("properties" | "patternProperties", Value::Object(fields)) => Value::Object(
                fields.iter().map(|(name, field)| (name.clone(), without(field, finite))).collect(),
            ),
            ("items" | "additionalProperties", inner) => without(inner, finite),
            (_, inner) => inner.clone(),
        };
        out.insert(keyword.clone(), inner);
    }
    Value::Object(out)
}
