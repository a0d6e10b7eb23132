//! Mutants of JSON that stay JSON.

use serde_json::{Map, Value, json};

use super::Random;

/// Levels that a value may be wrapped in.
const WRAPS_MAX: usize = 60;

/// Changes a document in one to three places. `words` are values and keys that mean something in its language; `donor` is
/// another document of that language, parts of which are transplanted.
pub fn mutate_json(random: &mut Random, document: &mut Value, donor: &Value, words: &[Value]) {
    for _ in 0..=random.below(3) {
        let part = somewhere(random, donor).clone();
        let node = somewhere_mut(random, document);
        match random.below(10) {
            0 | 1 => *node = random.pick(words).clone(),
            2 => *node = scalar(random),
            3 => *node = part,
            4 => remove(random, node),
            5 => add(random, node, part, words),
            6 => swap(random, node),
            7 => wrap(random, node),
            _ => nudge(random, node),
        }
    }
}

/// A part of a document; small ones deep inside are no likelier than large ones further out.
fn somewhere<'a>(random: &mut Random, document: &'a Value) -> &'a Value {
    let mut node = document;
    while random.below(4) > 0 {
        let child = match node {
            Value::Array(items) => items.get(random.below(items.len())),
            Value::Object(fields) => fields.values().nth(random.below(fields.len())),
            _ => None,
        };
        match child {
            Some(child) => node = child,
            None => break,
        }
    }
    node
}

fn somewhere_mut<'a>(random: &mut Random, document: &'a mut Value) -> &'a mut Value {
    let mut node = document;
    loop {
        let children = match &*node {
            Value::Array(items) => items.len(),
            Value::Object(fields) => fields.len(),
            _ => 0,
        };
        if children == 0 || random.below(4) == 0 {
            return node;
        }
        let at = random.below(children);
        node = match node {
            Value::Array(items) => &mut items[at],
            Value::Object(fields) => fields.values_mut().nth(at).expect("so many were counted"),
            _ => unreachable!("others have no children"),
        };
    }
}

fn scalar(random: &mut Random) -> Value {
    let bit = random.below(64);
    match random.below(14) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(false),
        3 => json!([]),
        4 => json!({}),
        5 => json!(""),
        6 => json!(-1),
        7 => json!(1_u64 << bit),
        8 => json!((1_u64 << bit).wrapping_sub(1)),
        9 => json!(i64::MIN),
        10 => json!(*random.pick(&[0.5, -0.0, 1e308, 1e-308, 5e-324, 1e18])),
        11 => json!("\u{0}\u{202e}\u{10ffff}é\u{301}"),
        12 => json!("x".repeat(1 << random.below(12))),
        _ => json!(random.below(70_000)),
    }
}

fn remove(random: &mut Random, node: &mut Value) {
    match node {
        Value::Array(items) if !items.is_empty() => drop(items.remove(random.below(items.len()))),
        Value::Object(fields) if !fields.is_empty() => {
            let key = fields.keys().nth(random.below(fields.len())).cloned();
            key.and_then(|key| fields.remove(&key));
        }
        _ => *node = Value::Null,
    }
}

fn add(random: &mut Random, node: &mut Value, part: Value, words: &[Value]) {
    match node {
        Value::Array(items) => {
            let copies = if random.below(8) == 0 { 100 } else { 1 };
            let at = random.below(items.len() + 1);
            drop(items.splice(at..at, std::iter::repeat_n(part, copies)));
        }
        Value::Object(fields) => {
            let word = words.iter().filter_map(Value::as_str).nth(random.below(words.len()));
            fields.insert(word.unwrap_or("x").to_owned(), part);
        }
        _ => *node = json!([node.take(), part]),
    }
}

fn swap(random: &mut Random, node: &mut Value) {
    match node {
        Value::Array(items) if items.len() > 1 => {
            let (a, b) = (random.below(items.len()), random.below(items.len()));
            items.swap(a, b);
        }
        Value::Object(fields) if fields.len() > 1 => {
            let keys: Vec<String> = fields.keys().cloned().collect();
            let (a, b) = (random.pick(&keys), random.pick(&keys));
            let (old_a, old_b) = (fields.get(a).cloned(), fields.get(b).cloned());
            fields.extend(
                old_b
                    .map(|value| (a.clone(), value))
                    .into_iter()
                    .chain(old_a.map(|value| (b.clone(), value))),
            );
        }
        _ => *node = scalar(random),
    }
}

fn wrap(random: &mut Random, node: &mut Value) {
    let levels = if random.below(4) == 0 { 1 + random.below(WRAPS_MAX) } else { 1 };
    for _ in 0..levels {
        let inner = node.take();
        *node = match random.below(2) {
            0 => json!([inner]),
            _ => Value::Object(Map::from_iter([("x".to_owned(), inner)])),
        };
    }
}

/// Changes a leaf a little; of a container, its order.
fn nudge(random: &mut Random, node: &mut Value) {
    match node {
        Value::String(text) => {
            let at =
                text.char_indices().map(|(at, _)| at).nth(random.below(text.chars().count())).unwrap_or(0);
            match random.below(4) {
                0 => text.truncate(at),
                1 => drop((!text.is_empty()).then(|| text.remove(at))),
                2 => text.insert_str(
                    at,
                    random.pick::<&str>(&["\\", "/", "~", "#", "(", "*", "\u{0}", "é", "{9}", "|"]),
                ),
                _ => text.insert_str(at, &text.clone()),
            }
        }
        Value::Number(number) => {
            let n = number.as_i64().unwrap_or(0);
            *node = match random.below(4) {
                0 => json!(n.wrapping_add(1)),
                1 => json!(n.wrapping_sub(1)),
                2 => json!(n.wrapping_neg()),
                _ => json!(number.as_f64().unwrap_or(0.0) * 1e10),
            };
        }
        Value::Bool(flag) => *flag = !*flag,
        Value::Null => *node = scalar(random),
        _ => swap(random, node),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_mutants_are_new_and_all_are_json() {
        let document = json!({"type": "object", "list": [1, 2, {"a": "text"}], "flag": true, "none": null});
        let words = [json!("type"), json!("string"), json!(3)];
        let mut random = Random::new(1);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            let mut mutant = document.clone();
            mutate_json(&mut random, &mut mutant, &document, &words);
            let text = mutant.to_string();
            assert!(serde_json::from_str::<Value>(&text).is_ok(), "{text}");
            seen.insert(text);
        }
        assert!(seen.len() > 500, "{}", seen.len());
    }
}
