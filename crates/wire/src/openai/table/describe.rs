//! The tables as JSON schemas and as text.

use serde_json::{Map, Value, json};

use super::Kind::{Any, Array, Flag, Integer, Number, Object, Text};
use super::Takes::{Honoured, Noted, Only, Refused};
use super::{Field, Shape};

impl Field {
    /// What becomes of it, as a sentence.
    #[must_use]
    pub fn description(&self) -> String {
        match self.takes {
            Honoured(what) => what.to_owned(),
            Noted(why) => format!("accepted and without effect: {why}"),
            Only(values, why) => format!("only {}. {why}", values.join(" or ")),
            Refused(why) => format!("refused: {why}"),
        }
    }

    /// Its JSON type.
    #[must_use]
    pub fn kind_name(&self) -> Option<&'static str> {
        match self.kind {
            Text => Some("string"),
            Flag => Some("boolean"),
            Integer => Some("integer"),
            Number => Some("number"),
            Array => Some("array"),
            Object => Some("object"),
            Any => None,
        }
    }

    fn property(&self) -> Value {
        let mut property = json!({ "description": self.description() });
        let inner: Vec<Value> = self.shapes.iter().map(|shape| object(&[shape.fields], shape)).collect();
        let Some(map) = property.as_object_mut() else { return property };
        if let Some(kind) = self.kind_name() {
            map.insert("type".to_owned(), json!([kind, "null"]));
        }
        match (self.kind, inner.is_empty()) {
            (_, true) => {}
            (Array, false) => drop(map.insert("items".to_owned(), json!({ "anyOf": inner }))),
            (Object, false) => {
                map.remove("type");
                let none = [json!({ "type": "null" })];
                map.insert("anyOf".to_owned(), inner.into_iter().chain(none).collect());
            }
            (_, false) => {
                let plain = json!({ "type": ["string", "null"] });
                let one = inner.first().cloned().unwrap_or_default();
                // A field of one shape is a string or an object, of several an array of them.
                let many = json!({ "type": "array", "items": { "anyOf": inner } });
                let many = if self.shapes.len() == 1 { one } else { many };
                map.insert("anyOf".to_owned(), json!([plain, many]));
            }
        }
        property
    }
}

fn object(tables: &[&[Field]], shape: &Shape) -> Value {
    let mut schema = schema(tables, shape.required);
    if let Some(map) = schema.as_object_mut() {
        map.insert("title".to_owned(), shape.name.into());
    }
    schema
}

/// Tables as a JSON schema of one object.
#[must_use]
pub fn schema(tables: &[&[Field]], required: &[&str]) -> Value {
    let offered = tables.iter().copied().flatten().filter(|field| !matches!(field.takes, Refused(_)));
    let properties: Map<String, Value> =
        offered.map(|field| (field.name.to_owned(), field.property())).collect();
    json!({
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": false,
    })
}

/// Tables as rows of Markdown.
#[must_use]
pub fn markdown(tables: &[&[Field]]) -> String {
    let mut text = "| field | type | what becomes of it |\n|---|---|---|\n".to_owned();
    for field in tables.iter().copied().flatten() {
        let kind = field.kind_name().unwrap_or("any");
        let description = field.description().replace('|', "\\|").replace('<', "&lt;");
        text.push_str(&format!("| `{}` | {kind} | {description} |\n", field.name));
    }
    text
}
