//! The OpenAPI description, made from the table of routes and the tables of fields.

use levain_wire::openai::table::schema;
use serde_json::{Map, Value, json};

use crate::routes::ROUTES;

/// The description of all routes, OpenAPI 3.1.
#[must_use]
pub fn describe() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let error = json!({ "$ref": "#/components/responses/Error" });
        let mut operation = json!({
            "summary": route.summary,
            "responses": { "200": { "description": "Done" }, "default": error },
        });
        if let Some(map) = operation.as_object_mut() {
            if let Some((fields, required)) = route.body {
                let content = json!({ "application/json": { "schema": schema(fields, required) } });
                map.insert("requestBody".to_owned(), json!({ "required": true, "content": content }));
            }
            if route.open {
                map.insert("security".to_owned(), json!([]));
            }
            if route.path.contains("{*id}") {
                let parameter =
                    json!({ "name": "id", "in": "path", "required": true, "schema": { "type": "string" } });
                map.insert("parameters".to_owned(), json!([parameter]));
            }
        }
        // OpenAPI has no way to write that a parameter may have slashes.
        let path = route.path.replace("{*id}", "{id}");
        let entry = paths.entry(path).or_insert_with(|| json!({}));
        if let Some(map) = entry.as_object_mut() {
            map.insert(route.method.to_ascii_lowercase(), operation);
        }
    }
    let error = json!({
        "type": "object",
        "required": ["message", "type", "param", "code"],
        "properties": {
            "message": { "type": "string", "description": "What is wrong and what to do" },
            "type": { "type": "string" },
            "param": { "type": ["string", "null"], "description": "Path of the field at fault" },
            "code": { "type": "string", "description": "Short and stable, for programs" },
        },
    });
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Levain", "version": env!("CARGO_PKG_VERSION") },
        "security": [{ "bearer": [] }, { "key": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer" },
                "key": { "type": "apiKey", "in": "header", "name": "x-api-key" },
            },
            "responses": {
                "Error": {
                    "description": "A refusal or a failure",
                    "content": { "application/json": {
                        "schema": { "type": "object", "properties": { "error": error } },
                    } },
                },
            },
        },
    })
}
