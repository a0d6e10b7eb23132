//! Takes the fields out of an object one by one, each checked; what is left over at the end is judged by a table.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::error::ApiError;
use super::table::{Field, Takes};
use crate::json::{self, Limits};

/// An object that is being read.
pub(super) struct Reader {
    map: Map<String, Value>,
    path: String,
}

impl Reader {
    /// The body of a request.
    pub(super) fn body(bytes: &[u8]) -> Result<Self, ApiError> {
        let value = json::parse(bytes, Limits::REQUEST).map_err(|error| {
            ApiError::refusal("invalid_json", format!("the body is not valid JSON: {error}"))
        })?;
        match value {
            Value::Object(map) => Ok(Self { map, path: String::new() }),
            _ => Err(ApiError::refusal("invalid_json", "the body must be a JSON object")),
        }
    }

    /// An object inside, found at `path`.
    pub(super) fn object(value: Value, path: impl Into<String>) -> Result<Self, ApiError> {
        let path = path.into();
        match value {
            Value::Object(map) => Ok(Self { map, path }),
            other => Err(wrong_type(path, "an object", &other)),
        }
    }

    /// The full path of one of this object's fields.
    pub(super) fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// The field as it is; `null` means absent everywhere in this dialect.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.map.swap_remove(name).filter(|value| !value.is_null())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|value| !value.is_null())
    }

    pub(super) fn required(&mut self, name: &str) -> Result<Value, ApiError> {
        self.take(name).ok_or_else(|| ApiError::missing(self.path(name)))
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(self.path(name), "a string", &other)),
        }
    }

    pub(super) fn required_text(&mut self, name: &str) -> Result<String, ApiError> {
        self.text(name)?.ok_or_else(|| ApiError::missing(self.path(name)))
    }

    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(wrong_type(self.path(name), "true or false", &other)),
        }
    }

    /// A whole number in the given range.
    pub(super) fn integer(
        &mut self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_i64() {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(ApiError::invalid(
                self.path(name),
                format!(
                    "expected a whole number from {} to {}, got {}",
                    range.start(),
                    range.end(),
                    shown(&value)
                ),
            )),
        }
    }

    /// A whole number in the given range.
    pub(super) fn count(&mut self, name: &str, range: RangeInclusive<u32>) -> Result<Option<u32>, ApiError> {
        let range = i64::from(*range.start())..=i64::from(*range.end());
        // The range lies inside u32.
        Ok(self.integer(name, range)?.and_then(|number| u32::try_from(number).ok()))
    }

    /// A number in the given range.
    pub(super) fn number(&mut self, name: &str, range: RangeInclusive<f32>) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        number_in(&value, &range).map(Some).ok_or_else(|| {
            let (low, high) = (range.start(), range.end());
            ApiError::invalid(
                self.path(name),
                format!("expected a number from {low} to {high}, got {}", shown(&value)),
            )
        })
    }

    /// What is left.
    pub(super) fn into_map(self) -> Map<String, Value> {
        self.map
    }

    /// Judges what was not taken: fields that can't change the answer pass, everything else is refused by name.
    pub(super) fn finish(self, table: &[Field]) -> Result<(), ApiError> {
        for (name, value) in &self.map {
            if value.is_null() {
                continue;
            }
            match table.iter().find(|field| field.name == name).map(|field| &field.takes) {
                Some(Takes::Noted(_)) => {}
                Some(Takes::Only(allowed, why)) => {
                    let value = value.to_string();
                    if !allowed.contains(&value.as_str()) {
                        return Err(ApiError::unsupported(self.path(name), *why));
                    }
                }
                Some(Takes::Refused(why)) => return Err(ApiError::unsupported(self.path(name), *why)),
                Some(Takes::Honoured(_)) | None => {
                    let names = table.iter().map(|field| field.name);
                    return Err(self.unknown(name, names));
                }
            }
        }
        Ok(())
    }

    /// Refuses whatever was not taken, but for nulls.
    pub(super) fn finish_all(self, known: &[&str]) -> Result<(), ApiError> {
        match self.map.iter().find(|(_, value)| !value.is_null()) {
            Some((name, _)) => Err(self.unknown(name, known.iter().copied())),
            None => Ok(()),
        }
    }

    fn unknown<'a>(&self, name: &str, known: impl Iterator<Item = &'a str>) -> ApiError {
        let name: String = name.chars().take(64).collect();
        let nearest = known
            .map(|candidate| (distance(&name, candidate), candidate))
            .filter(|(distance, candidate)| *distance > 0 && *distance <= 1 + candidate.len() / 4)
            .min();
        let hint = nearest.map_or_else(String::new, |(_, name)| format!("; did you mean {name:?}?"));
        ApiError {
            param: Some(self.path(&name)),
            ..ApiError::refusal("unknown_parameter", format!("unknown field {:?}{hint}", self.path(&name)))
        }
    }
}

/// A finite number in the range.
pub(super) fn number_in(value: &Value, range: &RangeInclusive<f32>) -> Option<f32> {
    let number = value.as_f64()?;
    let inside = (f64::from(*range.start())..=f64::from(*range.end())).contains(&number);
    #[expect(clippy::cast_possible_truncation, reason = "the range is one of f32; rounding is meant")]
    inside.then_some(number as f32)
}

pub(super) fn wrong_type(path: impl Into<String>, expected: &str, got: &Value) -> ApiError {
    let got = match got {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    ApiError::invalid(path, format!("expected {expected}, got {got}"))
}

/// A value for an error sentence: short whatever it is.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) => quoted(text),
        other => other.to_string(),
    }
}

/// A text for an error sentence: quoted, escaped and cut.
pub(super) fn quoted(text: &str) -> String {
    let cut: String = text.chars().take(64).collect();
    format!("{cut:?}")
}

/// Levenshtein's distance in characters; both names are short.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row.get(j + 1).copied().unwrap_or(0);
            let cost = (diagonal + usize::from(x != *y)).min(above + 1).min(left + 1);
            if let Some(cell) = row.get_mut(j) {
                *cell = left;
            }
            diagonal = above;
            left = cost;
        }
        if let Some(cell) = row.get_mut(b.len()) {
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [("", "", 0), ("abc", "abc", 0), ("abc", "", 3), ("kitten", "sitting", 3)] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }
}
