//! Reading fields of a JSON object; each failure names the file and the field.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{ConfigProblem, WeightsError};

/// An object and the path that leads to it in the file, such as `rope_scaling.`.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    file: &'a Path,
    prefix: &'static str,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(file: &'a Path, prefix: &'static str, map: &'a Map<String, Value>) -> Self {
        Self { file, prefix, map }
    }

    pub(crate) fn error(&self, name: &str, problem: ConfigProblem) -> WeightsError {
        WeightsError::config(self.file, format!("{}{name}", self.prefix), problem)
    }

    /// The value of a field; `null` counts as absent, as Hugging Face writes it for "not set".
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    fn typed<T>(
        &self,
        name: &str,
        expected: &'static str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, WeightsError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        convert(value)
            .map(Some)
            .ok_or_else(|| self.error(name, ConfigProblem::WrongType { found: describe(value), expected }))
    }

    pub(crate) fn require<T>(&self, name: &str, value: Option<T>) -> Result<T, WeightsError> {
        value.ok_or_else(|| self.error(name, ConfigProblem::Missing))
    }

    pub(crate) fn usize(&self, name: &str) -> Result<Option<usize>, WeightsError> {
        self.typed(name, "a whole number that is not negative", whole)
    }

    pub(crate) fn u32(&self, name: &str) -> Result<Option<u32>, WeightsError> {
        self.typed(name, "a whole number of at most 32 bits", |value| u32::try_from(whole(value)?).ok())
    }

    pub(crate) fn f64(&self, name: &str) -> Result<Option<f64>, WeightsError> {
        self.typed(name, "a number", Value::as_f64)
    }

    pub(crate) fn bool(&self, name: &str) -> Result<Option<bool>, WeightsError> {
        self.typed(name, "true or false", Value::as_bool)
    }

    pub(crate) fn string(&self, name: &str) -> Result<Option<&'a str>, WeightsError> {
        self.typed(name, "a text", Value::as_str)
    }

    pub(crate) fn list(&self, name: &str) -> Result<Option<&'a Vec<Value>>, WeightsError> {
        self.typed(name, "a list", Value::as_array)
    }

    pub(crate) fn object(
        &self,
        name: &str,
        prefix: &'static str,
    ) -> Result<Option<Fields<'a>>, WeightsError> {
        let file = self.file;
        self.typed(name, "an object", |value| Some(Fields { file, prefix, map: value.as_object()? }))
    }

    /// One token id or a list of them. What no vocabulary holds, such as -1 or null, stands for "none".
    pub(crate) fn token_ids(&self, name: &str) -> Result<Vec<u32>, WeightsError> {
        let ids = self.typed(name, "a token id or a list of token ids", |value| match value {
            Value::Array(list) => list.iter().map(token_id).collect::<Option<Vec<_>>>(),
            value => token_id(value).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default().into_iter().flatten().collect())
    }
}

fn token_id(value: &Value) -> Option<Option<u32>> {
    if value.is_null() {
        return Some(None);
    }
    (value.as_f64()?.fract() == 0.0).then(|| u32::try_from(whole(value)?).ok())
}

/// A whole number, also when it is written as 4096.0.
fn whole(value: &Value) -> Option<usize> {
    if let Some(number) = value.as_u64() {
        return usize::try_from(number).ok();
    }
    let number = value.as_f64()?;
    // 2^53: above it floats skip whole numbers.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be whole and in range"
    )]
    ((0.0..=9_007_199_254_740_992.0).contains(&number) && number.fract() == 0.0).then_some(number as usize)
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("the text {:?}", text.chars().take(60).collect::<String>()),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// Parses a JSON object from a file's bytes.
pub(crate) fn parse_object(file: &Path, bytes: &[u8]) -> Result<Map<String, Value>, WeightsError> {
    serde_json::from_slice(bytes)
        .map_err(|e| WeightsError::config(file, "the file", ConfigProblem::Json(e.to_string())))
}
