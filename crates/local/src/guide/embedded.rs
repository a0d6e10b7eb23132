//! JSON schemas inside a caller's grammar (`%json {…}`): they are read as any other schema is, so that what bounds and
//! names a schema's faults holds for them too.

use serde_json::{Deserializer, Value};

/// Schemas in one grammar.
const SCHEMAS_MAX: usize = 16;
const MARK: &str = "%json";

/// A grammar without its schemas, each of which has a reference in its place, and the schemas under these names.
pub(super) fn extract(grammar: &str) -> Result<(String, Vec<(String, Value)>), String> {
    let (mut rules, mut schemas) = (String::with_capacity(grammar.len()), Vec::new());
    let mut rest = grammar;
    loop {
        let Some(at) = find(rest) else {
            rules.push_str(rest);
            return Ok((rules, schemas));
        };
        rules.push_str(&rest[..at]);
        let text = &rest[at + MARK.len()..];
        let mut values = Deserializer::from_str(text).into_iter::<Value>();
        let schema = match values.next() {
            Some(Ok(schema)) => schema,
            Some(Err(error)) => return Err(format!("what follows `{MARK}` is no JSON schema: {error}")),
            None => return Err(format!("a JSON schema has to follow `{MARK}`")),
        };
        if schemas.len() == SCHEMAS_MAX {
            return Err(format!("a grammar may have {SCHEMAS_MAX} schemas"));
        }
        let name = format!("json_{}", schemas.len());
        rules.push_str(&format!(" @{name} "));
        schemas.push((name, schema));
        rest = &text[values.byte_offset()..];
    }
}

/// Where the next schema's mark is, outside of texts, expressions and comments.
fn find(grammar: &str) -> Option<usize> {
    let bytes = grammar.as_bytes();
    let (mut at, mut inside) = (0, None);
    while let Some(&byte) = bytes.get(at) {
        match (inside, byte) {
            (Some(b'\n'), b'\n') => inside = None,
            (Some(b'"' | b'/'), b'\\') => at += 1,
            (Some(end), byte) if end == byte || byte == b'\n' => inside = None,
            (Some(_), _) => {}
            (None, b'/') if bytes.get(at + 1) == Some(&b'/') => inside = Some(b'\n'),
            (None, b'"' | b'/') => inside = Some(byte),
            (None, b'#') => inside = Some(b'\n'),
            (None, b'%') if bytes[at..].starts_with(MARK.as_bytes()) => return Some(at),
            (None, _) => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn schemas_are_taken_out_and_nothing_else() {
        let grammar = "start: \"%json {\" a /%json \\/ \\\"/ // %json {}\n# %json\na: %json {\"type\": \"integer\"} | b\nb: %json true";
        let (rules, schemas) = extract(grammar).unwrap();
        assert_eq!(
            rules,
            "start: \"%json {\" a /%json \\/ \\\"/ // %json {}\n# %json\na:  @json_0  | b\nb:  @json_1 "
        );
        assert_eq!(schemas, [("json_0".into(), json!({"type": "integer"})), ("json_1".into(), json!(true))]);
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        for (grammar, words) in [
            ("start: %json", "has to follow"),
            ("start: %json {\"a\"", "no JSON schema"),
            ("start: %json {'a': 1}", "no JSON schema"),
            (&format!("start: {}", "%json {} ".repeat(17)), "may have 16"),
            (&format!("start: %json {}", "[".repeat(10_000)), "no JSON schema"),
        ] {
            let refusal = extract(grammar).unwrap_err();
            assert!(refusal.contains(words), "{refusal}");
        }
        assert_eq!(extract("").unwrap().0, "");
    }
}
