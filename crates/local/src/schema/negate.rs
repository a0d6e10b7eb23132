//! What holds where a schema does not.

use serde_json::{Value, json};

use super::{Problem, Reader, document::Part};

/// Keywords that say nothing about a value.
pub(super) const ANNOTATIONS: [&str; 16] = [
    "title",
    "description",
    "default",
    "examples",
    "example",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$comment",
    "$schema",
    "$id",
    "$anchor",
    "$defs",
    "definitions",
    "nullable",
    "discriminator",
];

impl Reader {
    /// Parts of which any alternative means that `part` does not hold, together all ways in which it may not;
    /// `None` if that can't be said with schemas.
    pub(super) fn negated(&mut self, part: Part) -> Result<Option<Vec<Vec<Part>>>, Problem> {
        let entry = self.document.get(part);
        let map = match &*entry.value {
            Value::Bool(true) => return Ok(Some(Vec::new())),
            Value::Bool(false) => return Ok(Some(vec![Vec::new()])),
            Value::Object(map) => map,
            _ => return Err(self.malformed(part, "", "an object, true or false")),
        };
        let mut ways: Vec<Vec<Part>> = Vec::new();
        let mut one = |this: &mut Self, value: Value| -> Result<(), Problem> {
            ways.push(vec![this.document.derived(&entry.pointer, value)?]);
            Ok(())
        };
        for (keyword, value) in map {
            let number = value.as_f64();
            let count = value.as_u64();
            match (keyword.as_str(), value) {
                ("type", _) => one(self, json!({"not": {"type": value}}))?,
                ("enum", Value::Array(_)) => one(self, json!({"not": {"enum": value}}))?,
                ("const", _) => one(self, json!({"not": {"enum": [value]}}))?,
                ("required", Value::Array(names)) => {
                    for name in names.iter().filter_map(Value::as_str) {
                        one(self, json!({"type": "object", "properties": {name: false}}))?;
                    }
                }
                ("properties", Value::Object(fields)) => {
                    for (name, inner) in fields.iter().filter(|(_, inner)| **inner != Value::Bool(true)) {
                        one(
                            self,
                            json!({"type": "object", "required": [name], "properties": {name: {"not": inner}}}),
                        )?;
                    }
                }
                ("allOf", Value::Array(options)) => {
                    for inner in options {
                        one(self, json!({"not": inner}))?;
                    }
                }
                ("anyOf", Value::Array(options)) => {
                    let all: Vec<Value> = options.iter().map(|inner| json!({"not": inner})).collect();
                    one(self, json!({"allOf": all}))?;
                }
                ("not", inner) => one(self, inner.clone())?,
                ("$ref", Value::String(target)) => {
                    let target = self.document.resolve(part, "$ref", target)?;
                    let target = self.document.value(target);
                    one(self, json!({"not": *target}))?;
                }
                ("minimum", _) if number.is_some() => {
                    one(self, json!({"type": "number", "exclusiveMaximum": value}))?
                }
                ("maximum", _) if number.is_some() => {
                    one(self, json!({"type": "number", "exclusiveMinimum": value}))?
                }
                ("exclusiveMinimum", _) if number.is_some() => {
                    one(self, json!({"type": "number", "maximum": value}))?
                }
                ("exclusiveMaximum", _) if number.is_some() => {
                    one(self, json!({"type": "number", "minimum": value}))?
                }
                ("minLength", _) if count.is_some() => {
                    if let Some(most) = count.and_then(|least| least.checked_sub(1)) {
                        one(self, json!({"type": "string", "maxLength": most}))?;
                    }
                }
                ("maxLength", _) if count.is_some() => {
                    one(self, json!({"type": "string", "minLength": count.unwrap_or(0).saturating_add(1)}))?;
                }
                ("minItems", _) if count.is_some() => {
                    if let Some(most) = count.and_then(|least| least.checked_sub(1)) {
                        one(self, json!({"type": "array", "maxItems": most}))?;
                    }
                }
                ("maxItems", _) if count.is_some() => {
                    one(self, json!({"type": "array", "minItems": count.unwrap_or(0).saturating_add(1)}))?;
                }
                (keyword, _) if ANNOTATIONS.contains(&keyword) => {}
                _ => return Ok(None),
            }
        }
        Ok(Some(ways))
    }
}
