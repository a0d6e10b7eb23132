//! Applicators, multiplied out.

use serde_json::{Map, Value, json};

use super::{Problem, Reader, document::Part};

/// Branches of one node.
const BRANCHES_MAX: usize = 1000;
/// Steps of multiplying out, over the whole schema.
const WORK_MAX: usize = 100_000;
/// How deep required properties are followed to find that two alternatives exclude each other.
const DISJOINT_DEPTH: usize = 4;

/// One way to satisfy a node: parts that hold together, without choices.
#[derive(Debug, Clone, Default)]
pub(super) struct Flat {
    /// Each with the index of the part that applied it.
    pub(super) entries: Vec<(Part, Option<usize>)>,
}

impl Flat {
    /// Whether the entry at `index` is the one at `ancestor` or was applied by it.
    pub(super) fn is_below(&self, index: usize, ancestor: usize) -> bool {
        let mut at = Some(index);
        while let Some(current) = at {
            if current == ancestor {
                return true;
            }
            at = self.entries.get(current).and_then(|(_, parent)| *parent);
        }
        false
    }
}

/// What is left to do of a branch.
#[derive(Clone, Default)]
struct Open {
    flat: Flat,
    todo: Vec<(Part, Option<usize>)>,
    choices: Vec<Choice>,
}

#[derive(Clone)]
struct Choice {
    parent: Option<usize>,
    part: Part,
    keyword: &'static str,
    alternatives: Vec<Vec<Part>>,
}

impl Reader {
    /// The ways to satisfy all of these parts.
    pub(super) fn branches(&mut self, parts: &[Part]) -> Result<Vec<Flat>, Problem> {
        let todo = parts.iter().rev().map(|&part| (part, None)).collect();
        self.branched(Open { todo, ..Open::default() })
    }

    fn branched(&mut self, open: Open) -> Result<Vec<Flat>, Problem> {
        let mut done = Vec::new();
        let mut last = ("", open.todo.last().map(|(part, _)| *part).unwrap_or_default());
        let mut stack = vec![open];
        while let Some(mut open) = stack.pop() {
            self.work += 1;
            if self.work > WORK_MAX || done.len() + stack.len() > BRANCHES_MAX {
                let pointer = self.document.get(last.1).pointer;
                let advice = "its alternatives multiply to too many; make the schema simpler";
                return Err(Problem::new(last.0, &pointer, advice));
            }
            if let Some((part, parent)) = open.todo.pop() {
                if self.unfold(&mut open, part, parent)? {
                    stack.push(open);
                }
            } else if open.choices.is_empty() {
                done.push(open.flat);
            } else {
                let choice = open.choices.remove(0);
                last = (choice.keyword, choice.part);
                let alternatives = if choice.keyword == "oneOf" {
                    self.exclusive(&open, &choice)?
                } else {
                    choice.alternatives
                };
                for alternative in alternatives.into_iter().rev() {
                    let mut next = open.clone();
                    next.todo.extend(alternative.into_iter().rev().map(|part| (part, choice.parent)));
                    stack.push(next);
                }
            }
        }
        Ok(done)
    }

    /// Takes a part into a branch. `false` if nothing satisfies it.
    fn unfold(&mut self, open: &mut Open, part: Part, parent: Option<usize>) -> Result<bool, Problem> {
        if open.flat.entries.iter().any(|(known, _)| *known == part) {
            return Ok(true);
        }
        let value = self.document.value(part);
        let map = match &*value {
            Value::Bool(satisfiable) => return Ok(*satisfiable),
            Value::Object(map) => map,
            _ => return Err(self.malformed(part, "", "an object, true or false")),
        };
        open.flat.entries.push((part, parent));
        let at = Some(open.flat.entries.len() - 1);
        for keyword in ["$ref", "$recursiveRef", "$dynamicRef"] {
            let Some(target) = map.get(keyword) else { continue };
            let target = target.as_str().ok_or_else(|| self.malformed(part, keyword, "a text"))?;
            let name = target.rsplit_once('#').map_or("", |(_, name)| name);
            if keyword == "$dynamicRef" && self.document.is_ambiguous(name) {
                self.give_up(part, keyword, "has several targets; use `$ref`")?;
                continue;
            }
            let target = self.document.resolve(part, keyword, target)?;
            open.todo.push((target, at));
        }
        for inner in self.children(part, map, "allOf")?.into_iter().rev() {
            open.todo.push((inner, at));
        }
        for keyword in ["anyOf", "oneOf"] {
            if map.contains_key(keyword) {
                let alternatives = self.children(part, map, keyword)?;
                let alternatives = alternatives.into_iter().map(|inner| vec![inner]).collect();
                open.choices.push(Choice { parent: at, part, keyword, alternatives });
            }
        }
        if map.contains_key("not") && !is_exclusion(map) {
            let inner = self.document.child(part, &["not"])?;
            match self.negated(inner)? {
                Some(alternatives) => {
                    open.choices.push(Choice { parent: at, part, keyword: "not", alternatives });
                }
                None => self.give_up(
                    part,
                    "not",
                    "can't be enforced here; say what is allowed instead of what is not",
                )?,
            }
        }
        self.conditions(open, part, map, at)?;
        Ok(true)
    }

    /// `if`, `dependentRequired`, `dependentSchemas` and `dependencies`.
    fn conditions(
        &mut self,
        open: &mut Open,
        part: Part,
        map: &Map<String, Value>,
        at: Option<usize>,
    ) -> Result<(), Problem> {
        if map.contains_key("if") && (map.contains_key("then") || map.contains_key("else")) {
            let condition = self.document.child(part, &["if"])?;
            let branch = |this: &mut Self, keyword: &str| {
                map.contains_key(keyword).then(|| this.document.child(part, &[keyword])).transpose()
            };
            let (then, otherwise) = (branch(self, "then")?, branch(self, "else")?);
            match self.negated(condition)? {
                Some(unmet) => {
                    let mut alternatives = vec![[condition].into_iter().chain(then).collect()];
                    alternatives.extend(unmet.into_iter().map(|mut parts| {
                        parts.extend(otherwise);
                        parts
                    }));
                    open.choices.push(Choice { parent: at, part, keyword: "if", alternatives });
                }
                None => self.give_up(
                    part,
                    "if",
                    "only conditions on constants, types and required properties can be enforced; use `anyOf`",
                )?,
            }
        }
        let pointer = self.document.get(part).pointer;
        for keyword in ["dependentRequired", "dependentSchemas", "dependencies"] {
            let Some(value) = map.get(keyword) else { continue };
            let fields = value.as_object().ok_or_else(|| self.malformed(part, keyword, "an object"))?;
            for (name, wanted) in fields {
                let mut absent = Map::new();
                absent.insert(name.clone(), Value::Bool(false));
                let absent = self.document.derived(&pointer, json!({"properties": absent}))?;
                let present = match wanted {
                    Value::Array(names) => self.document.derived(&pointer, json!({"required": names}))?,
                    _ => self.document.child(part, &[keyword, name])?,
                };
                let given = self.document.derived(&pointer, json!({"required": [name]}))?;
                let alternatives = vec![vec![given, present], vec![absent]];
                open.choices.push(Choice { parent: at, part, keyword, alternatives });
            }
        }
        Ok(())
    }

    /// The schemas of a keyword that holds a list of them.
    pub(super) fn children(
        &mut self,
        part: Part,
        map: &Map<String, Value>,
        keyword: &str,
    ) -> Result<Vec<Part>, Problem> {
        let Some(value) = map.get(keyword) else { return Ok(Vec::new()) };
        let items = value.as_array().ok_or_else(|| self.malformed(part, keyword, "an array of schemas"))?;
        (0..items.len()).map(|at| self.document.child(part, &[keyword, &at.to_string()])).collect()
    }

    /// The alternatives of a `oneOf`, each without what others of them admit too.
    fn exclusive(&mut self, open: &Open, choice: &Choice) -> Result<Vec<Vec<Part>>, Problem> {
        let depth = match self.probing {
            None => DISJOINT_DEPTH,
            Some(0) => return Ok(choice.alternatives.clone()),
            Some(depth) => depth - 1,
        };
        let options: Vec<Part> = choice.alternatives.iter().flatten().copied().collect();
        let pointer = self.document.get(choice.part).pointer;
        let mut exclusive: Vec<Vec<Part>> = options.iter().map(|&part| vec![part]).collect();
        for (i, &a) in options.iter().enumerate() {
            for (j, &b) in options.iter().enumerate().skip(i + 1) {
                let todo = vec![(b, choice.parent), (a, choice.parent)];
                if self.is_dead(Open { flat: open.flat.clone(), todo, choices: Vec::new() }, depth) {
                    continue;
                }
                for (at, other) in [(i, b), (j, a)] {
                    if self.negated(other)?.is_none() {
                        let advice = format!(
                            "alternatives {i} and {j} may both hold; set them apart by a required property with a \
                             `const` of its own, or use `anyOf`"
                        );
                        self.give_up(choice.part, "oneOf", &advice)?;
                        return Ok(choice.alternatives.clone());
                    }
                    let value = self.document.value(other);
                    let not = self.document.derived(&pointer, json!({"not": *value}))?;
                    if let Some(parts) = exclusive.get_mut(at) {
                        parts.push(not);
                    }
                }
            }
        }
        Ok(exclusive)
    }

    /// Whether it is plain that no value satisfies all of these parts.
    pub(super) fn is_empty(&mut self, parts: &[Part], depth: usize) -> bool {
        self.is_dead(
            Open { todo: parts.iter().map(|&part| (part, None)).collect(), ..Open::default() },
            depth,
        )
    }

    fn is_dead(&mut self, open: Open, depth: usize) -> bool {
        // What can't be told or enforced is not plain; it is no finding of the schema either.
        let lenient = std::mem::replace(&mut self.lenient, false);
        let probing = self.probing.replace(depth);
        let dead = self
            .branched(open)
            .is_ok_and(|flats| flats.iter().all(|flat| self.is_flat_empty(flat, depth).unwrap_or(false)));
        self.probing = probing;
        self.lenient = lenient;
        dead
    }
}

/// Whether a `not` only excludes values or types: it is then looked at where values and types are gathered.
pub(super) fn is_exclusion(map: &Map<String, Value>) -> bool {
    map.get("not").and_then(Value::as_object).is_some_and(|not| {
        not.len() == 1 && ["enum", "const", "type"].iter().any(|key| not.contains_key(*key))
    })
}
