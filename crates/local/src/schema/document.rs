//! A schema's parts by number: places in the document, and schemas that were derived from them.

use std::{
    collections::HashMap,
    ops::Deref,
    sync::{Arc, OnceLock},
};

use serde_json::{Map, Value};

use super::Problem;

/// Parts that one schema may have, derived ones included.
const PARTS_MAX: usize = 20_000;

/// A part's number.
pub(super) type Part = usize;

/// A part of a schema.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) value: Arc<Value>,
    /// Where it stands, as a JSON pointer; of a derived part, what it was derived from.
    pub(super) pointer: Arc<str>,
    /// Whether it stands in the document as it is.
    is_original: bool,
}

/// The keywords of a part; none if it is not an object.
pub(super) struct Keywords(Arc<Value>);

impl Deref for Keywords {
    type Target = Map<String, Value>;

    fn deref(&self) -> &Self::Target {
        static NONE: OnceLock<Map<String, Value>> = OnceLock::new();
        self.0.as_object().unwrap_or_else(|| NONE.get_or_init(Map::new))
    }
}

/// The document and what was looked up in it.
#[derive(Debug)]
pub(super) struct Document {
    root: Arc<Value>,
    entries: Vec<Entry>,
    known: HashMap<String, Part>,
    /// Pointers of the schemas with an `$id`, with the URI.
    resources: Vec<(String, String)>,
    /// Pointers of anchors by the pointer of their resource and their name.
    anchors: HashMap<(String, String), String>,
}

/// Keywords whose values are data, in which nothing is a schema.
const DATA: [&str; 5] = ["const", "enum", "default", "examples", "example"];

impl Document {
    pub(super) fn new(schema: &Value) -> Self {
        let mut this = Self {
            root: Arc::new(schema.clone()),
            entries: Vec::new(),
            known: HashMap::new(),
            resources: vec![(String::new(), String::new())],
            anchors: HashMap::new(),
        };
        this.scan(schema, String::new(), &(String::new(), String::new()));
        this
    }

    /// Finds the names that references can use.
    fn scan(&mut self, value: &Value, pointer: String, resource: &(String, String)) {
        match value {
            Value::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    self.scan(item, format!("{pointer}/{at}"), resource);
                }
            }
            Value::Object(map) => {
                let mut resource = resource.clone();
                if let Some(Value::String(id)) = map.get("$id") {
                    match id.strip_prefix('#') {
                        // Draft 6 and 7 write anchors so.
                        Some(name) => {
                            self.anchors.insert((resource.0.clone(), name.to_owned()), pointer.clone());
                        }
                        None => {
                            let uri = join(&resource.1, id.trim_end_matches('#'));
                            resource = (pointer.clone(), uri.clone());
                            self.resources.push((pointer.clone(), uri));
                        }
                    }
                }
                for key in ["$anchor", "$dynamicAnchor"] {
                    if let Some(Value::String(name)) = map.get(key) {
                        self.anchors.insert((resource.0.clone(), name.clone()), pointer.clone());
                    }
                }
                for (key, inner) in map {
                    if !DATA.contains(&key.as_str()) {
                        self.scan(inner, format!("{pointer}/{}", escaped(key)), &resource);
                    }
                }
            }
            _ => {}
        }
    }

    pub(super) fn get(&self, part: Part) -> Entry {
        self.entries.get(part).cloned().unwrap_or_else(|| Entry {
            value: Arc::new(Value::Bool(true)),
            pointer: "".into(),
            is_original: false,
        })
    }

    pub(super) fn value(&self, part: Part) -> Arc<Value> {
        self.get(part).value
    }

    pub(super) fn keywords(&self, part: Part) -> Keywords {
        Keywords(self.value(part))
    }

    pub(super) fn is_original(&self, part: Part) -> bool {
        self.get(part).is_original
    }

    fn add(&mut self, key: String, entry: Entry) -> Result<Part, Problem> {
        if let Some(&part) = self.known.get(&key) {
            return Ok(part);
        }
        if self.entries.len() >= PARTS_MAX {
            let advice = "the schema expands into too many parts; make it simpler";
            return Err(Problem::new("", &entry.pointer, advice));
        }
        self.entries.push(entry);
        self.known.insert(key, self.entries.len() - 1);
        Ok(self.entries.len() - 1)
    }

    pub(super) fn root(&mut self) -> Result<Part, Problem> {
        let entry = Entry { value: Arc::clone(&self.root), pointer: "".into(), is_original: true };
        self.add(String::new(), entry)
    }

    /// The part below another one's keyword.
    pub(super) fn child(&mut self, part: Part, path: &[&str]) -> Result<Part, Problem> {
        let entry = self.get(part);
        let mut pointer = entry.pointer.to_string();
        for name in path {
            pointer = format!("{pointer}/{}", escaped(name));
        }
        if let Some(&known) = self.known.get(&pointer).filter(|_| entry.is_original) {
            return Ok(known);
        }
        let mut value = &*entry.value;
        for name in path {
            let inner = match value {
                Value::Array(items) => name.parse::<usize>().ok().and_then(|at| items.get(at)),
                Value::Object(map) => map.get(*name),
                _ => None,
            };
            value = inner.unwrap_or(&Value::Null);
        }
        // A derived part's children are found by what they are, too.
        let key = if entry.is_original { pointer.clone() } else { format!("{pointer}\n{value}") };
        let value = Arc::new(value.clone());
        self.add(key, Entry { value, pointer: pointer.into(), is_original: entry.is_original })
    }

    /// A schema that was derived from the part at `pointer`.
    pub(super) fn derived(&mut self, pointer: &str, value: Value) -> Result<Part, Problem> {
        let key = format!("{pointer}\n{value}");
        self.add(key, Entry { value: Arc::new(value), pointer: pointer.into(), is_original: false })
    }

    /// What a reference at a part means.
    pub(super) fn resolve(&mut self, part: Part, keyword: &str, reference: &str) -> Result<Part, Problem> {
        let from = self.get(part).pointer;
        let refuse = |why: &str| Problem::new(keyword, &from, why);
        let own = self
            .resources
            .iter()
            .filter(|(pointer, _)| is_within(&from, pointer))
            .max_by_key(|(pointer, _)| pointer.len())
            .cloned()
            .unwrap_or_default();
        let (uri, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let base = if uri.is_empty() {
            own.0
        } else {
            let wanted = join(&own.1, uri);
            let found = self.resources.iter().find(|(_, known)| *known == wanted);
            found.map(|(pointer, _)| pointer.clone()).ok_or_else(|| {
                refuse("refers to another document, and none is fetched; put the definition under `$defs`")
            })?
        };
        let fragment = unescaped_percent(fragment);
        let pointer = if fragment.is_empty() || fragment.starts_with('/') {
            format!("{base}{fragment}")
        } else {
            let anchor = self.anchors.get(&(base, fragment));
            anchor.cloned().ok_or_else(|| refuse("refers to an anchor that the schema does not have"))?
        };
        let Some(value) = self.root.pointer(&pointer).cloned() else {
            return Err(refuse("refers to a place that the schema does not have"));
        };
        // Written as `child` writes it.
        let pointer = pointer.split('/').skip(1).fold(String::new(), |out, name| {
            format!("{out}/{}", escaped(&name.replace("~1", "/").replace("~0", "~")))
        });
        self.add(
            pointer.clone(),
            Entry { value: Arc::new(value), pointer: pointer.into(), is_original: true },
        )
    }

    /// Whether an anchor of this name stands in more than one place.
    pub(super) fn is_ambiguous(&self, name: &str) -> bool {
        self.anchors.keys().filter(|(_, known)| known == name).count() > 1
    }
}

/// A name as it stands in a JSON pointer.
pub(super) fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn is_within(pointer: &str, root: &str) -> bool {
    pointer.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A URI against a base (RFC 3986, section 5.2, as far as identifiers of schemas need it).
fn join(base: &str, uri: &str) -> String {
    let has_scheme = uri.split_once(':').is_some_and(|(scheme, _)| {
        !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    });
    if has_scheme {
        return uri.to_owned();
    }
    let authority = base.find("://").and_then(|at| {
        let start = at + 3;
        base.get(start..).map(|rest| rest.find('/').map_or(base.len(), |end| start + end))
    });
    if uri.starts_with('/') {
        return format!("{}{uri}", base.get(..authority.unwrap_or(0)).unwrap_or_default());
    }
    let folder = base.rfind('/').filter(|&at| at >= authority.unwrap_or(0)).map_or(0, |at| at + 1);
    format!("{}{uri}", base.get(..folder).unwrap_or_default())
}

fn unescaped_percent(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, more)) = rest.split_first() {
        let hex = (first == b'%')
            .then(|| more.get(..2).and_then(|two| std::str::from_utf8(two).ok()))
            .flatten()
            .and_then(|two| u8::from_str_radix(two, 16).ok());
        match hex {
            Some(byte) => {
                bytes.push(byte);
                rest = more.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
