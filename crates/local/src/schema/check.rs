//! Whether a given value satisfies a schema: for enumerations, constants and names of properties.

use serde_json::{Value, json};

use super::{Problem, Reader, document::Part, format, scalar};

/// How deep a value's check may go: references may go round in circles.
const DEPTH_MAX: usize = 64;

impl Reader {
    /// Whether a value satisfies a part; `None` if it can't be told.
    pub(super) fn admits(
        &mut self,
        value: &Value,
        part: Part,
        depth: usize,
    ) -> Result<Option<bool>, Problem> {
        if depth > DEPTH_MAX {
            return Ok(None);
        }
        let entry = self.document.get(part);
        let map = match &*entry.value {
            Value::Bool(satisfiable) => return Ok(Some(*satisfiable)),
            Value::Object(map) => map,
            _ => return Err(self.malformed(part, "", "an object, true or false")),
        };
        let mut sure = true;
        for keyword in map.keys() {
            match self.admits_keyword(value, part, keyword, depth + 1)? {
                Some(true) => {}
                Some(false) => return Ok(Some(false)),
                None => sure = false,
            }
        }
        Ok(sure.then_some(true))
    }

    fn all(&mut self, value: &Value, parts: &[Part], depth: usize) -> Result<Vec<Option<bool>>, Problem> {
        parts.iter().map(|&part| self.admits(value, part, depth)).collect()
    }

    fn admits_keyword(
        &mut self,
        value: &Value,
        part: Part,
        keyword: &str,
        depth: usize,
    ) -> Result<Option<bool>, Problem> {
        let map = self.document.keywords(part);
        let Some(asked) = map.get(keyword) else { return Ok(Some(true)) };
        let held = |holds: bool| Ok(Some(holds));
        match keyword {
            "type" => {
                let types = self.types(part, &map)?;
                held(types & scalar::type_of(value) != 0)
            }
            "const" => held(is_equal(value, asked)),
            "enum" => {
                held(asked.as_array().is_some_and(|values| values.iter().any(|one| is_equal(value, one))))
            }
            "allOf" => {
                let parts = self.children(part, &map, keyword)?;
                Ok(every(self.all(value, &parts, depth)?))
            }
            "anyOf" => {
                let parts = self.children(part, &map, keyword)?;
                let answers = self.all(value, &parts, depth)?;
                Ok(if answers.contains(&Some(true)) { Some(true) } else { all_false(&answers) })
            }
            "oneOf" => {
                let parts = self.children(part, &map, keyword)?;
                let answers = self.all(value, &parts, depth)?;
                let certain = answers.iter().all(Option::is_some);
                Ok(certain.then(|| answers.iter().filter(|answer| **answer == Some(true)).count() == 1))
            }
            "not" => {
                let inner = self.document.child(part, &["not"])?;
                Ok(self.admits(value, inner, depth)?.map(|holds| !holds))
            }
            "$ref" => {
                let Some(target) = asked.as_str() else {
                    return Err(self.malformed(part, keyword, "a text"));
                };
                let target = self.document.resolve(part, keyword, target)?;
                self.admits(value, target, depth)
            }
            "if" => {
                let condition = self.document.child(part, &["if"])?;
                let branch = match self.admits(value, condition, depth)? {
                    Some(true) => "then",
                    Some(false) => "else",
                    None => return Ok(None),
                };
                if !map.contains_key(branch) {
                    return held(true);
                }
                let inner = self.document.child(part, &[branch])?;
                self.admits(value, inner, depth)
            }
            "then" | "else" => held(true),
            _ => match value {
                Value::String(text) => self.admits_text(text, part, keyword, asked),
                Value::Number(_) => self.admits_number(value, part, keyword),
                Value::Array(items) => self.admits_items(items, part, keyword, asked, depth),
                Value::Object(_) => self.admits_fields(value, part, keyword, asked, depth),
                _ => held(true),
            },
        }
    }

    fn admits_text(
        &mut self,
        text: &str,
        part: Part,
        keyword: &str,
        asked: &Value,
    ) -> Result<Option<bool>, Problem> {
        let map = self.document.keywords(part);
        let length = text.chars().count() as u64;
        Ok(match keyword {
            "minLength" => Some(self.count(part, &map, keyword)?.is_none_or(|least| length >= least)),
            "maxLength" => Some(self.count(part, &map, keyword)?.is_none_or(|most| length <= most)),
            "pattern" => asked.as_str().and_then(|pattern| self.patterns.matches(pattern, text)),
            "format" => match asked.as_str().and_then(format::pattern) {
                Some(pattern) => self.patterns.matches(&pattern, text),
                None => Some(true),
            },
            _ => Some(true),
        })
    }

    fn admits_number(&mut self, value: &Value, part: Part, keyword: &str) -> Result<Option<bool>, Problem> {
        if !["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"].contains(&keyword) {
            return Ok(Some(true));
        }
        let map = self.document.keywords(part);
        let mut range = scalar::Range::default();
        self.narrow(&mut range, part, &map)?;
        Ok(range.admits(value))
    }

    fn admits_items(
        &mut self,
        items: &[Value],
        part: Part,
        keyword: &str,
        asked: &Value,
        depth: usize,
    ) -> Result<Option<bool>, Problem> {
        let map = self.document.keywords(part);
        let count = items.len() as u64;
        Ok(match keyword {
            "minItems" => Some(self.count(part, &map, keyword)?.is_none_or(|least| count >= least)),
            "maxItems" => Some(self.count(part, &map, keyword)?.is_none_or(|most| count <= most)),
            "uniqueItems" => Some(
                asked != &Value::Bool(true)
                    || items
                        .iter()
                        .enumerate()
                        .all(|(at, item)| items.iter().skip(at + 1).all(|other| !is_equal(item, other))),
            ),
            "items" | "prefixItems" | "additionalItems" => {
                let mut answers = Vec::new();
                for (at, item) in items.iter().enumerate() {
                    if let Some(inner) = self.item_part(part, &map, at)? {
                        answers.push(self.admits(item, inner, depth)?);
                    }
                }
                every(answers)
            }
            "contains" | "minContains" | "maxContains" => {
                if !map.contains_key("contains") {
                    return Ok(Some(true));
                }
                let inner = self.document.child(part, &["contains"])?;
                let mut found = 0;
                for item in items {
                    match self.admits(item, inner, depth)? {
                        Some(true) => found += 1,
                        Some(false) => {}
                        None => return Ok(None),
                    }
                }
                let least = self.count(part, &map, "minContains")?.unwrap_or(1);
                let most = self.count(part, &map, "maxContains")?;
                Some(found >= least && most.is_none_or(|most| found <= most))
            }
            "unevaluatedItems" => None,
            _ => Some(true),
        })
    }

    fn admits_fields(
        &mut self,
        value: &Value,
        part: Part,
        keyword: &str,
        asked: &Value,
        depth: usize,
    ) -> Result<Option<bool>, Problem> {
        let Some(fields) = value.as_object() else { return Ok(Some(true)) };
        let map = self.document.keywords(part);
        let count = fields.len() as u64;
        Ok(match keyword {
            "minProperties" => Some(self.count(part, &map, keyword)?.is_none_or(|least| count >= least)),
            "maxProperties" => Some(self.count(part, &map, keyword)?.is_none_or(|most| count <= most)),
            "required" => {
                let names = self.required(part, &map)?;
                Some(names.iter().all(|name| fields.contains_key(name)))
            }
            "properties" | "patternProperties" | "additionalProperties" => {
                let mut answers = Vec::new();
                for (name, inner) in fields {
                    for applied in self.field_parts(part, name)?.parts {
                        answers.push(self.admits(inner, applied, depth)?);
                    }
                }
                every(answers)
            }
            "propertyNames" => {
                let inner = self.document.child(part, &["propertyNames"])?;
                let mut answers = Vec::new();
                for name in fields.keys() {
                    answers.push(self.admits(&json!(name), inner, depth)?);
                }
                every(answers)
            }
            "dependentRequired" | "dependentSchemas" | "dependencies" => {
                let mut answers = Vec::new();
                for (name, wanted) in asked.as_object().into_iter().flatten() {
                    if !fields.contains_key(name) {
                        continue;
                    }
                    if let Value::Array(names) = wanted {
                        let present =
                            names.iter().filter_map(Value::as_str).all(|name| fields.contains_key(name));
                        answers.push(Some(present));
                    } else {
                        let inner = self.document.child(part, &[keyword, name])?;
                        answers.push(self.admits(value, inner, depth)?);
                    }
                }
                every(answers)
            }
            "unevaluatedProperties" => None,
            _ => Some(true),
        })
    }
}

fn every(answers: Vec<Option<bool>>) -> Option<bool> {
    if answers.contains(&Some(false)) {
        return Some(false);
    }
    answers.iter().all(Option::is_some).then_some(true)
}

fn all_false(answers: &[Option<bool>]) -> Option<bool> {
    answers.iter().all(|answer| *answer == Some(false)).then_some(false)
}

/// Equality of JSON values: numbers are equal as numbers.
pub(super) fn is_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => {
            x == y || (x.as_f64() == y.as_f64() && (x.is_f64() || y.is_f64()))
        }
        (Value::Array(x), Value::Array(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(x, y)| is_equal(x, y))
        }
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(name, x)| y.get(name).is_some_and(|y| is_equal(x, y)))
        }
        _ => a == b,
    }
}
