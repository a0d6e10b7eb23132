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
            ApiError::refusal(
                "invalid_json",
                format!("We could not parse the JSON body of your request: {error}"),
            )
        })?;
        match value {
            Value::Object(map) => Ok(Self { map, path: String::new() }),
            other => Err(ApiError::refusal(
                "invalid_json",
                format!("Invalid type of the body: expected an object, but got {} instead.", kind(&other)),
            )),
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

    /// Looks at a field without taking it.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
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
            Some(other) => Err(wrong_type(self.path(name), "a boolean", &other)),
        }
    }

    /// A whole number in the given range.
    pub(super) fn integer(
        &mut self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let path = self.path(name);
        if whole(&value).is_some_and(|number| range.contains(&number)) {
            return Ok(whole(&value));
        }
        Err(match value.as_f64() {
            None => wrong_type(path, "an integer", &value),
            Some(number) if number.fract() != 0.0 => wrong_type(path, "an integer", &value),
            Some(number) => {
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "bounds are far below 2^53, and so is the doubt"
                )]
                let low = number < *range.start() as f64;
                out_of_range(path, "integer", (range.start(), range.end()), low, &value)
            }
        })
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
        in_range(&value, &range, self.path(name)).map(Some)
    }

    /// What is left.
    pub(super) fn into_map(self) -> Map<String, Value> {
        self.map
    }

    /// Judges what was not taken: fields that can't change the answer pass, everything else is refused by name.
    pub(super) fn finish(self, tables: &[&[Field]]) -> Result<(), ApiError> {
        let fields = || tables.iter().copied().flatten();
        for (name, value) in &self.map {
            if value.is_null() {
                continue;
            }
            match fields().find(|field| field.name == name).map(|field| &field.takes) {
                Some(Takes::Noted(_)) => {}
                Some(Takes::Only(allowed, why)) => {
                    if !allowed.iter().any(|allowed| same(value, allowed)) {
                        let offered = allowed.join(" or ");
                        let message = format!("only {offered} is offered, got {}. {why}", shown(value));
                        return Err(ApiError::unsupported_value(self.path(name), message));
                    }
                }
                Some(Takes::Refused(why)) => return Err(ApiError::unsupported(self.path(name), *why)),
                Some(Takes::Honoured(_)) | None => {
                    let names = fields().map(|field| field.name);
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
        let hint = nearest.map_or_else(|| ".".to_owned(), |(_, name)| format!("; did you mean {name:?}?"));
        ApiError {
            param: Some(self.path(&name)),
            ..ApiError::refusal(
                "unknown_parameter",
                format!("Unknown parameter: '{}'{hint}", self.path(&name)),
            )
        }
    }
}

/// A whole number however it is written: `1` or `1.0`.
pub(super) fn whole(value: &Value) -> Option<i64> {
    /// Up to here every whole number has a form of its own in f64.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    value.as_i64().or_else(|| {
        let number = value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() <= EXACT_MAX)?;
        #[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
        Some(number as i64)
    })
}

/// A finite number in the range.
pub(super) fn in_range(value: &Value, range: &RangeInclusive<f32>, path: String) -> Result<f32, ApiError> {
    let Some(number) = value.as_f64() else { return Err(wrong_type(path, "a decimal", value)) };
    if (f64::from(*range.start())..=f64::from(*range.end())).contains(&number) {
        #[expect(clippy::cast_possible_truncation, reason = "the range is one of f32; rounding is meant")]
        return Ok(number as f32);
    }
    let low = number < f64::from(*range.start());
    Err(out_of_range(path, "decimal", (range.start(), range.end()), low, value))
}

fn out_of_range<T: std::fmt::Display>(
    path: String,
    what: &str,
    (least, most): (T, T),
    low: bool,
    got: &Value,
) -> ApiError {
    let (code, words, bound) = match (what, low) {
        ("integer", true) => ("integer_below_min_value", "below minimum", format!(">= {least}")),
        ("integer", false) => ("integer_above_max_value", "above maximum", format!("<= {most}")),
        (_, true) => ("decimal_below_min_value", "below minimum", format!(">= {least}")),
        (_, false) => ("decimal_above_max_value", "above maximum", format!("<= {most}")),
    };
    let message = format!(
        "Invalid '{path}': {what} {words} value. Expected a value {bound}, but got {} instead.",
        shown(got)
    );
    ApiError::field(code, path, message)
}

/// Whether a value is the one that a table writes as JSON text.
fn same(value: &Value, text: &str) -> bool {
    match value.as_f64() {
        Some(number) => text.parse() == Ok(number),
        None => serde_json::from_str::<Value>(text).is_ok_and(|allowed| allowed == *value),
    }
}

pub(super) fn wrong_type(path: impl Into<String>, expected: &str, got: &Value) -> ApiError {
    let path = path.into();
    let message = format!("Invalid type for '{path}': expected {expected}, but got {} instead.", kind(got));
    ApiError::field("invalid_type", path, message)
}

/// An array with fewer or more items than may be.
pub(super) fn wrong_length(path: &str, most: usize, got: usize) -> ApiError {
    let (code, message) = if got == 0 {
        ("empty_array", "empty array. Expected an array with minimum length 1".to_owned())
    } else {
        ("array_above_max_length", format!("array too long. Expected an array with maximum length {most}"))
    };
    let message = format!("Invalid '{path}': {message}, but got an array with length {got} instead.");
    ApiError::field(code, path, message)
}

/// A string that is empty or has more bytes than may be.
pub(super) fn wrong_text(path: impl Into<String>, most: usize, got: usize) -> ApiError {
    let path = path.into();
    let (code, message) = if got == 0 {
        ("empty_string", "empty string. Expected a string with minimum length 1".to_owned())
    } else {
        ("string_above_max_length", format!("string too long. Expected a string with maximum length {most}"))
    };
    let message = format!("Invalid '{path}': {message}, but got a string with length {got} instead.");
    ApiError::field(code, path, message)
}

/// The JSON type of a value, in the dialect's words.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() && whole(value).is_none() => "a decimal number",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
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
