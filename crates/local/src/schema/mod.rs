//! JSON schemas, read before a grammar is made of them. What a schema asks for is sorted into what can be enforced,
//! what is an annotation, and what can't be enforced; the first is written down again in the few forms that a grammar
//! keeps to the letter and that never lead into a dead end. What no value can satisfy is found here, not while
//! an answer is generated.
//!
//! Applicators (`allOf`, `anyOf`, `$ref`, `if` …) are multiplied out: a *node* is a set of parts that hold together for
//! one value, and its *branches* are the ways to satisfy it, each a flat list of parts without choices.

mod array;
mod branch;
mod check;
mod document;
mod format;
mod negate;
mod object;
mod pattern;
mod prune;
mod scalar;

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use document::{Document, Part};
use pattern::Patterns;

/// Nodes of one schema, that is, different sets of parts that a value may have to satisfy.
const NODES_MAX: usize = 4000;
/// Bytes of the schema as it is written down again.
const WRITTEN_BYTES_MAX: usize = 512 << 10;
/// How deep nodes may lie in each other.
const DEPTH_MAX: usize = 160;

/// Why a schema, or a part of it, can't be enforced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) keyword: String,
    /// Where in the schema, as a JSON pointer.
    pub(crate) pointer: String,
    /// What is wrong, and what to do.
    pub(crate) advice: String,
}

impl Problem {
    fn new(keyword: &str, pointer: &str, advice: impl Into<String>) -> Self {
        Self { keyword: keyword.to_owned(), pointer: pointer.to_owned(), advice: advice.into() }
    }
}

impl Problem {
    /// A problem of the schema as a whole.
    pub(crate) fn whole(advice: &str) -> Self {
        Self::new("", "", advice)
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let short = |text: &str| text.chars().take(160).collect::<String>();
        let place = if self.pointer.is_empty() { "the top level".to_owned() } else { short(&self.pointer) };
        if self.keyword.is_empty() {
            write!(f, "the schema at {place}: {}", self.advice)
        } else {
            write!(f, "`{}` at {place}: {}", self.keyword, self.advice)
        }
    }
}

/// Whether objects may hold keys that the schema does not list, so that one might come twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum FreeKeys {
    /// All keys are listed, and come in their order.
    #[default]
    None,
    /// There is always another key.
    Open,
    /// Keys may run out.
    Tight,
}

/// A schema that a grammar can be made of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Enforced {
    pub(crate) schema: Value,
    pub(crate) keys: FreeKeys,
    /// What the answer is not held to; empty unless that was allowed.
    pub(crate) unenforced: Vec<Problem>,
}

/// Reads a schema. `lenient` drops what can't be enforced and tells it.
///
/// # Errors
/// What can't be enforced, unless `lenient`; what is no schema; what no value satisfies.
pub(crate) fn enforce(schema: &Value, lenient: bool) -> Result<Enforced, Problem> {
    let mut reader = Reader {
        document: Document::new(schema),
        lenient,
        unenforced: Vec::new(),
        patterns: Patterns::default(),
        nodes: HashMap::new(),
        defs: Vec::new(),
        depth: 0,
        work: 0,
        probing: None,
        keys: FreeKeys::None,
    };
    let root = reader.document.root()?;
    let value = reader.node(vec![root])?;
    let schema = prune::prune(value, reader.defs)
        .ok_or_else(|| Problem::new("", "", "no finite value satisfies it; check what it requires"))?;
    if schema.to_string().len() > WRITTEN_BYTES_MAX {
        return Err(Problem::new("", "", "its alternatives multiply to too many; make it simpler"));
    }
    Ok(Enforced { schema, keys: reader.keys, unenforced: reader.unenforced })
}

struct Reader {
    document: Document,
    lenient: bool,
    unenforced: Vec<Problem>,
    patterns: Patterns,
    nodes: HashMap<Vec<Part>, Node>,
    defs: Vec<Option<Value>>,
    depth: usize,
    work: usize,
    /// While it is only asked whether anything satisfies some parts: how deep to look.
    probing: Option<usize>,
    keys: FreeKeys,
}

enum Node {
    /// Under `$defs`, perhaps not written yet.
    Shared(usize),
    Inline(Value),
}

impl Reader {
    /// The schema of a value that satisfies all of these parts.
    fn node(&mut self, mut parts: Vec<Part>) -> Result<Value, Problem> {
        parts.sort_unstable();
        parts.dedup();
        match self.nodes.get(&parts) {
            Some(Node::Inline(value)) => return Ok(value.clone()),
            Some(Node::Shared(id)) => return Ok(reference(*id)),
            None if parts.is_empty() => {
                self.keys = self.keys.max(FreeKeys::Open);
                return Ok(Value::Bool(true));
            }
            None => {}
        }
        let pointer = parts.first().map(|&part| self.document.get(part).pointer).unwrap_or_default();
        if self.nodes.len() >= NODES_MAX || self.depth >= DEPTH_MAX {
            return Err(Problem::new(
                "",
                &pointer,
                "the schema is too large once its references are followed",
            ));
        }
        let id = self.defs.len();
        self.defs.push(None);
        self.nodes.insert(parts.clone(), Node::Shared(id));
        self.depth += 1;
        let value = self.written(&parts);
        self.depth -= 1;
        let value = value?;
        if is_scalar(&value) {
            self.nodes.insert(parts, Node::Inline(value.clone()));
            // Nothing can have referred to it in the meantime: it has no inner parts.
            return Ok(value);
        }
        if let Some(slot) = self.defs.get_mut(id) {
            *slot = Some(value);
        }
        Ok(reference(id))
    }

    fn written(&mut self, parts: &[Part]) -> Result<Value, Problem> {
        let mut options: Vec<Value> = Vec::new();
        for flat in self.branches(parts)? {
            let Some(shapes) = self.shapes(&flat, parts)? else {
                self.keys = self.keys.max(FreeKeys::Open);
                return Ok(Value::Bool(true));
            };
            for shape in shapes {
                if !options.contains(&shape) {
                    options.push(shape);
                }
            }
        }
        Ok(match options.len() {
            0 => Value::Bool(false),
            1 => options.swap_remove(0),
            _ => json!({"anyOf": options}),
        })
    }

    /// Something that can't be enforced: an error, or a line of the report.
    fn give_up(&mut self, part: Part, keyword: &str, advice: &str) -> Result<(), Problem> {
        let pointer = self.document.get(part).pointer;
        let problem = Problem::new(keyword, &pointer, advice);
        if !self.lenient {
            return Err(problem);
        }
        if !self.unenforced.contains(&problem) {
            self.unenforced.push(problem);
        }
        Ok(())
    }

    /// A keyword's value has the wrong type.
    fn malformed(&self, part: Part, keyword: &str, expected: &str) -> Problem {
        let pointer = self.document.get(part).pointer;
        Problem::new(keyword, &pointer, format!("is not a JSON schema: expected {expected}"))
    }

    /// A keyword that holds a number of things.
    fn count(&self, part: Part, map: &Map<String, Value>, keyword: &str) -> Result<Option<u64>, Problem> {
        let Some(value) = map.get(keyword) else { return Ok(None) };
        let whole = value.as_u64().or_else(|| {
            let number = value.as_f64().filter(|number| number.fract() == 0.0 && *number >= 0.0)?;
            format!("{number}").parse().ok()
        });
        whole.map(Some).ok_or_else(|| self.malformed(part, keyword, "a number from 0 on"))
    }
}

fn reference(id: usize) -> Value {
    json!({"$ref": format!("#/$defs/n{id}")})
}

/// Whether a written schema has no inner schemas that could refer to others.
fn is_scalar(value: &Value) -> bool {
    match value {
        Value::Object(map) => match map.get("anyOf") {
            Some(Value::Array(options)) => options.iter().all(is_scalar),
            _ => {
                map.contains_key("enum")
                    || map.get("type").is_some_and(|kind| kind != "object" && kind != "array")
            }
        },
        _ => true,
    }
}

#[cfg(test)]
mod tests;
