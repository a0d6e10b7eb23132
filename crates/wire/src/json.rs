//! JSON from strangers: bounded in depth and size, each key at most once.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// What a document may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Arrays and objects inside one another.
    pub depth_max: usize,
    /// Values in all: numbers, texts, arrays, objects. One takes about 100 bytes of memory.
    pub values_max: usize,
}

impl Limits {
    /// Room for the longest prompts of token ids, and schemas of the deepest kind that is accepted.
    pub const REQUEST: Self = Self { depth_max: 64, values_max: 1 << 19 };
}

/// Reads one document and nothing after it. Refused: invalid UTF-8, a key given twice, numbers outside of f64,
/// halves of surrogate pairs, and whatever `limits` forbid. Uses stack in proportion to `limits.depth_max` only.
///
/// # Errors
/// Says what is wrong and at which line and column.
pub fn parse(bytes: &[u8], limits: Limits) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let left = Cell::new(limits.values_max);
    let value = Strict { depth_left: limits.depth_max, values_left: &left }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// No fewer values and keys than a document has, found without reading it: what lies between its marks.
#[must_use]
pub fn values_at_most(bytes: &[u8]) -> usize {
    let (mut in_text, mut escaped, mut marks) = (false, false, 1usize);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b',' | b':' | b'[' | b'{' if !in_text => marks += 1,
            _ => {}
        }
    }
    marks
}

/// How deeply arrays and objects lie inside one another; a plain value has depth 0.
#[must_use]
pub fn depth(value: &Value) -> usize {
    // Values come from `parse`, which bounds the recursion.
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Bytes of the value's compact text.
#[must_use]
pub fn text_len(value: &Value) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    match serde_json::to_writer(&mut count, value) {
        Ok(()) => count.0,
        Err(_) => usize::MAX,
    }
}

#[derive(Clone, Copy)]
struct Strict<'c> {
    depth_left: usize,
    values_left: &'c Cell<usize>,
}

impl Strict<'_> {
    fn inner<E: serde::de::Error>(self) -> Result<Self, E> {
        match self.depth_left.checked_sub(1) {
            Some(depth_left) => Ok(Self { depth_left, ..self }),
            None => Err(E::custom("arrays and objects lie too deeply inside one another")),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.values_left.get().checked_sub(1) {
            Some(left) => self.values_left.set(left),
            None => return Err(D::Error::custom("the document has too many values")),
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if map.contains_key(&key) {
                let key: String = key.chars().take(64).collect();
                return Err(A::Error::custom(format_args!("the key {key:?} is given twice")));
            }
            let value = access.next_value_seed(inner)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(bytes: &[u8]) -> String {
        parse(bytes, Limits::REQUEST).unwrap_err().to_string()
    }

    #[test]
    fn well_formed_documents_keep_their_values_and_order() {
        let text = r#"{"b":[1,-2,3.5,true,null],"a":{"x":"\u00e9\ud83d\ude00"}}"#;
        let value = parse(text.as_bytes(), Limits::REQUEST).unwrap();
        assert_eq!(value.to_string(), r#"{"b":[1,-2,3.5,true,null],"a":{"x":"é😀"}}"#);
        assert_eq!(depth(&value), 2);
        assert_eq!(text_len(&value), value.to_string().len());
    }

    #[test]
    fn values_are_bounded_from_above_before_they_are_read() {
        for (text, at_least) in [
            (r#"{}"#, 1),
            (r#"[[],{},"a,b:[{\\",1,{"k,":null}]"#, 7),
            (r#""a \"quoted, text\" , and more""#, 1),
            ("1", 1),
        ] {
            let bound = values_at_most(text.as_bytes());
            assert!((at_least..=at_least + 3).contains(&bound), "{text}: {bound}");
        }
        assert!(values_at_most(&b"[".repeat(1000)) >= 1000);
    }

    #[test]
    fn malformed_documents_are_refused() {
        for (bytes, expected) in [
            (&b"{\"a\":1,\"a\":2}"[..], "given twice"),
            (b"{\"a\":{\"b\":1,\"b\":1}}", "given twice"),
            (b"1e999", "out of range"),
            (b"[NaN]", "expected value"),
            (b"[\"\\ud800\"]", "hex escape"),
            (b"[\"\\udc00\"]", "lone leading surrogate"),
            (b"[\"\xff\"]", "invalid unicode"),
            (b"[1] 2", "trailing"),
            (b"", "EOF"),
            (b"[\"a\nb\"]", "control character"),
        ] {
            let refusal = refusal(bytes);
            assert!(refusal.contains(expected), "{refusal}");
        }
    }

    #[test]
    fn depth_and_number_of_values_are_bounded() {
        let deep = |n: usize| [vec![b'['; n], vec![b']'; n]].concat();
        assert!(parse(&deep(64), Limits::REQUEST).is_ok());
        assert!(refusal(&deep(65)).contains("too deeply"));
        // Far deeper than any stack: refused at the 65th bracket.
        assert!(refusal(&vec![b'['; 10_000_000]).contains("too deeply"));
        assert!(refusal(&b"{\"a\":".repeat(1_000_000)).contains("too deeply"));
        let wide = format!("[{}1]", "1,".repeat(1 << 19));
        assert!(refusal(wide.as_bytes()).contains("too many values"));
    }
}
