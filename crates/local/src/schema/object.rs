//! A branch's objects. Listed properties come in the order in which the schema lists them; other keys come behind
//! them.

use serde_json::{Map, Value, json};

use super::{
    FreeKeys, Problem, Reader,
    branch::Flat,
    document::Part,
    pattern::{self, KEYS_LISTED_MAX, Keys, Patterns},
};

/// Different `patternProperties` of one object.
const PATTERNS_MAX: usize = 16;
/// Optional properties of which `minProperties` or `maxProperties` admit some: their subsets are written out.
const COUNTED_MAX: usize = 5;

/// What one part says about a property.
#[derive(Debug, Default)]
pub(super) struct Field {
    pub(super) parts: Vec<Part>,
}

/// Keys beyond the listed ones.
struct Free {
    /// Expressions with the parts that hold for their keys.
    patterns: Vec<(String, Vec<Part>)>,
    /// Parts that hold for all other keys; `None` if there are no others.
    others: Option<Vec<Part>>,
}

impl Reader {
    /// What a part has for a property of this name.
    pub(super) fn field_parts(&mut self, part: Part, name: &str) -> Result<Field, Problem> {
        let map = self.document.keywords(part);
        let mut field = Field::default();
        if self.fields(part, &map, "properties")?.is_some_and(|fields| fields.contains_key(name)) {
            field.parts.push(self.document.child(part, &["properties", name])?);
        }
        let patterns: Vec<String> = self
            .fields(part, &map, "patternProperties")?
            .map(|fields| fields.keys().cloned().collect())
            .unwrap_or_default();
        for pattern in patterns {
            match self.patterns.matches(&pattern, name) {
                Some(false) => {}
                Some(true) => field.parts.push(self.document.child(part, &["patternProperties", &pattern])?),
                None => {
                    self.give_up(part, "patternProperties", "an expression is too complex to be enforced")?
                }
            }
        }
        if field.parts.is_empty() && map.contains_key("additionalProperties") {
            field.parts.push(self.document.child(part, &["additionalProperties"])?);
        }
        Ok(field)
    }

    fn fields<'a>(
        &self,
        part: Part,
        map: &'a Map<String, Value>,
        keyword: &str,
    ) -> Result<Option<&'a Map<String, Value>>, Problem> {
        match map.get(keyword) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(fields)),
            Some(_) => Err(self.malformed(part, keyword, "an object of schemas")),
        }
    }

    pub(super) fn required(&self, part: Part, map: &Map<String, Value>) -> Result<Vec<String>, Problem> {
        let wrong = || self.malformed(part, "required", "an array of names");
        match map.get("required") {
            None => Ok(Vec::new()),
            Some(Value::Array(names)) => {
                names.iter().map(|name| name.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
            }
            Some(_) => Err(wrong()),
        }
    }

    pub(super) fn flat_required(&self, flat: &Flat) -> Result<Vec<String>, Problem> {
        let mut names: Vec<String> = Vec::new();
        for &(part, _) in &flat.entries {
            for name in self.required(part, &self.document.keywords(part))? {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        Ok(names)
    }

    /// What holds for a property of this name in a branch.
    pub(super) fn flat_field(&mut self, flat: &Flat, name: &str) -> Result<Field, Problem> {
        let mut field = Field::default();
        let mut evaluated = Vec::new();
        for &(part, _) in &flat.entries {
            let own = self.field_parts(part, name)?;
            // What was derived of a `not` looks at a property and evaluates nothing.
            evaluated.push(!own.parts.is_empty() && self.document.is_original(part));
            field.parts.extend(own.parts);
            if self.document.keywords(part).contains_key("propertyNames") {
                let names = self.document.child(part, &["propertyNames"])?;
                match self.admits(&json!(name), names, 0)? {
                    Some(true) => {}
                    Some(false) => field.parts.push(self.document.derived("", Value::Bool(false))?),
                    None => self.give_up(
                        part,
                        "propertyNames",
                        "can't be enforced; list the names as `properties`",
                    )?,
                }
            }
        }
        field.parts.extend(self.unevaluated(flat, &evaluated)?);
        Ok(field)
    }

    fn unevaluated(&mut self, flat: &Flat, evaluated: &[bool]) -> Result<Vec<Part>, Problem> {
        let mut parts = Vec::new();
        for (index, &(part, _)) in flat.entries.iter().enumerate() {
            let keyword = "unevaluatedProperties";
            if self.document.keywords(part).contains_key(keyword)
                && !self.is_evaluated(flat, index, evaluated, keyword)
            {
                parts.push(self.document.child(part, &[keyword])?);
            }
        }
        Ok(parts)
    }

    /// What a branch asks of objects, as alternatives.
    pub(super) fn object(&mut self, flat: &Flat) -> Result<Vec<Value>, Problem> {
        let mut names: Vec<String> = Vec::new();
        let (mut least, mut most): (u64, Option<u64>) = (0, None);
        let mut counting = (0, "minProperties");
        for &(part, _) in &flat.entries {
            let map = self.document.keywords(part);
            let own = self
                .fields(part, &map, "properties")?
                .map(|fields| fields.keys().cloned().collect::<Vec<_>>());
            names.extend(own.unwrap_or_default());
            if let Some(count) = self.count(part, &map, "minProperties")? {
                (least, counting) = (least.max(count), (part, "minProperties"));
            }
            if let Some(count) = self.count(part, &map, "maxProperties")? {
                (most, counting) = (Some(most.unwrap_or(count).min(count)), (part, "maxProperties"));
            }
        }
        let required = self.flat_required(flat)?;
        names.extend(required.iter().cloned());
        let mut free = self.free(flat, &mut names)?;
        let mut properties: Vec<(String, Value)> = Vec::new();
        for name in names {
            if properties.iter().any(|(known, _)| *known == name) {
                continue;
            }
            let parts = self.flat_field(flat, &name)?.parts;
            let value = self.node(parts)?;
            if value == Value::Bool(false) && required.contains(&name) {
                return Ok(Vec::new());
            }
            properties.push((name, value));
        }
        let mut patterns = Map::new();
        for (pattern, parts) in std::mem::take(&mut free.patterns) {
            let value = self.node(parts)?;
            patterns.insert(pattern, value);
        }
        let others = match free.others {
            Some(parts) => self.node(parts)?,
            None => Value::Bool(false),
        };
        let free = self.free_keys(&patterns, &others);
        let shape = Shape { properties, required, patterns, others };
        self.counted(shape, free, (least, most), counting)
    }

    /// Keys beyond the listed ones. Where there are only a few, they are added to `names` instead.
    fn free(&mut self, flat: &Flat, names: &mut Vec<String>) -> Result<Free, Problem> {
        let mut expressions: Vec<String> = Vec::new();
        for &(part, _) in &flat.entries {
            let map = self.document.keywords(part);
            let Some(fields) = self.fields(part, &map, "patternProperties")? else { continue };
            for expression in fields.keys() {
                if expressions.contains(expression) {
                    continue;
                }
                if let Some(why) = pattern::fault(expression) {
                    self.give_up(part, "patternProperties", &format!("the expression {expression:?} {why}"))?;
                    continue;
                }
                if let Keys::Listed(listed) = pattern::keys(expression) {
                    names.extend(listed);
                    continue;
                }
                let mut overlaps = expressions.len() >= PATTERNS_MAX;
                for known in &expressions {
                    overlaps |= Patterns::are_disjoint(known, expression) != Some(true);
                }
                if overlaps {
                    let advice = "the expressions may match the same key; make them exclude each other";
                    self.give_up(part, "patternProperties", advice)?;
                    continue;
                }
                expressions.push(expression.clone());
            }
        }
        let mut patterns = Vec::new();
        for expression in expressions {
            let parts = self.free_parts(flat, Some(&expression))?;
            patterns.push((expression, parts));
        }
        let others = Some(self.free_parts(flat, None)?);
        self.named(flat, Free { patterns, others }, names)
    }

    /// What holds for keys that match an expression, or none.
    fn free_parts(&mut self, flat: &Flat, expression: Option<&str>) -> Result<Vec<Part>, Problem> {
        let (mut parts, mut evaluated) = (Vec::new(), Vec::new());
        for &(part, _) in &flat.entries {
            let map = self.document.keywords(part);
            let fields = self.fields(part, &map, "patternProperties")?;
            let own = match expression
                .filter(|expression| fields.is_some_and(|fields| fields.contains_key(*expression)))
            {
                Some(expression) => Some(self.document.child(part, &["patternProperties", expression])?),
                None if map.contains_key("additionalProperties") => {
                    Some(self.document.child(part, &["additionalProperties"])?)
                }
                None => None,
            };
            evaluated.push(own.is_some() && self.document.is_original(part));
            parts.extend(own);
        }
        parts.extend(self.unevaluated(flat, &evaluated)?);
        Ok(parts)
    }

    /// Applies `propertyNames` to the keys that are not listed.
    fn named(&mut self, flat: &Flat, mut free: Free, names: &mut Vec<String>) -> Result<Free, Problem> {
        let (mut naming, mut owner) = (Vec::new(), None);
        for &(part, _) in &flat.entries {
            if self.document.keywords(part).contains_key("propertyNames") {
                naming.push(self.document.child(part, &["propertyNames"])?);
                owner = owner.or(Some(part));
            }
        }
        let Some(first) = owner else { return Ok(free) };
        // Names are always texts.
        let text = self.document.derived("", json!({"type": "string"}))?;
        naming.push(text);
        let flats = self.branches(&naming)?;
        let mut rules = Vec::new();
        for names_flat in &flats {
            if let Some(values) = self.values(names_flat, &naming)? {
                if values.len() > KEYS_LISTED_MAX * 4 {
                    self.give_up(first, "propertyNames", "names too many keys; list fewer")?;
                }
                names.extend(values.iter().filter_map(Value::as_str).map(str::to_owned));
            } else if self.flat_types(names_flat)? != 0 {
                rules.extend(self.text_rules(names_flat)?);
            }
        }
        let nothing_else = rules.is_empty();
        let rule = match rules.as_slice() {
            [] => None,
            [(patterns, least, most)] => match (patterns.as_slice(), least, most) {
                ([], 0, None) => return Ok(free),
                ([one], 0, None) => Some(one.clone()),
                ([], least, most) => Some(format!(
                    "^(?s:.{{{least},{}}})$",
                    most.map(|most| most.to_string()).unwrap_or_default()
                )),
                _ => None,
            },
            _ => None,
        };
        let open_patterns = !free.patterns.is_empty();
        match rule {
            _ if nothing_else => {
                free.patterns.clear();
                free.others = None;
            }
            Some(rule) if !open_patterns => match (pattern::keys(&rule), free.others.take()) {
                (Keys::Listed(listed), _) => names.extend(listed),
                (_, Some(parts)) => free.patterns.push((rule, parts)),
                (_, None) => {}
            },
            _ => {
                let advice = "can be enforced as one `pattern`, a length, or an `enum`, and not beside \
                              `patternProperties`; describe the keys with `patternProperties` alone";
                self.give_up(first, "propertyNames", advice)?;
            }
        }
        Ok(free)
    }

    fn free_keys(&mut self, patterns: &Map<String, Value>, others: &Value) -> FreeKeys {
        let mut satisfiable = patterns.iter().filter(|(_, value)| **value != Value::Bool(false)).peekable();
        let keys = if *others == Value::Bool(false) {
            if satisfiable.peek().is_none() {
                FreeKeys::None
            } else if satisfiable.all(|(pattern, _)| pattern::keys(pattern) == Keys::Open) {
                FreeKeys::Open
            } else {
                FreeKeys::Tight
            }
        } else if satisfiable.count() == patterns.len() {
            FreeKeys::Open
        } else {
            FreeKeys::Tight
        };
        self.keys = self.keys.max(keys);
        keys
    }

    /// Applies `minProperties` and `maxProperties`.
    fn counted(
        &mut self,
        mut shape: Shape,
        free: FreeKeys,
        (mut least, mut most): (u64, Option<u64>),
        (part, keyword): (Part, &str),
    ) -> Result<Vec<Value>, Problem> {
        let needed = shape.required.len() as u64;
        let optional: Vec<String> = shape
            .properties
            .iter()
            .filter(|(name, value)| *value != Value::Bool(false) && !shape.required.contains(name))
            .map(|(name, _)| name.clone())
            .collect();
        let listed = needed + optional.len() as u64;
        if most.is_some_and(|most| most < needed || most < least) {
            return Ok(Vec::new());
        }
        if least <= needed {
            least = 0;
        }
        if free == FreeKeys::None {
            most = most.filter(|most| *most < listed);
            if least > listed {
                return Ok(Vec::new());
            }
            if least == listed && least > 0 {
                shape.required.extend(optional);
                return Ok(vec![shape.written(0, most)]);
            }
        }
        if free == FreeKeys::Tight && least > listed + KEYS_LISTED_MAX as u64 {
            self.give_up(part, keyword, "asks for more keys than there may be; ask for fewer")?;
            least = 0;
        }
        if least > 10_000 {
            self.give_up(part, keyword, "is above 10000, the most that can be enforced")?;
            least = 0;
        }
        if most == Some(needed) {
            for (name, value) in &mut shape.properties {
                if optional.contains(name) {
                    *value = Value::Bool(false);
                }
            }
            shape.patterns.values_mut().for_each(|value| *value = Value::Bool(false));
            shape.others = Value::Bool(false);
            return Ok(vec![shape.written(0, None)]);
        }
        if (least == 0 && most.is_none()) || optional.is_empty() {
            return Ok(vec![shape.written(least, most)]);
        }
        if optional.len() > COUNTED_MAX {
            let one = free == FreeKeys::None
                && ((least == needed + 1 && most.is_none()) || (most == Some(needed + 1)));
            if !one {
                let advice = format!(
                    "can be enforced beside at most {COUNTED_MAX} optional properties; list more of them under \
                     `required`, or leave it out"
                );
                self.give_up(part, keyword, &advice)?;
                return Ok(vec![shape.written(0, None)]);
            }
            return Ok(vec![shape.written(least, most)]);
        }
        let mut alternatives = Vec::new();
        for chosen in 0_u32..1 << optional.len() {
            let present = needed + u64::from(chosen.count_ones());
            let too_few = free == FreeKeys::None && present < least;
            if too_few || most.is_some_and(|most| present > most) {
                continue;
            }
            let mut one = shape.clone();
            for (at, name) in optional.iter().enumerate() {
                if chosen & (1 << at) != 0 {
                    one.required.push(name.clone());
                } else if let Some((_, value)) = one.properties.iter_mut().find(|(known, _)| known == name) {
                    *value = Value::Bool(false);
                }
            }
            if most == Some(present) {
                one.patterns.values_mut().for_each(|value| *value = Value::Bool(false));
                one.others = Value::Bool(false);
                alternatives.push(one.written(0, None));
            } else {
                let least = if least <= present { 0 } else { least };
                alternatives.push(one.written(least, most));
            }
        }
        Ok(alternatives)
    }
}

#[derive(Clone)]
struct Shape {
    properties: Vec<(String, Value)>,
    required: Vec<String>,
    patterns: Map<String, Value>,
    others: Value,
}

impl Shape {
    fn written(self, least: u64, most: Option<u64>) -> Value {
        let mut map = Map::new();
        map.insert("type".into(), json!("object"));
        if !self.properties.is_empty() {
            map.insert("properties".into(), Value::Object(self.properties.into_iter().collect()));
        }
        if !self.required.is_empty() {
            map.insert("required".into(), json!(self.required));
        }
        if !self.patterns.is_empty() {
            map.insert("patternProperties".into(), Value::Object(self.patterns));
        }
        if self.others != Value::Bool(true) {
            map.insert("additionalProperties".into(), self.others);
        }
        if least > 0 {
            map.insert("minProperties".into(), json!(least));
        }
        if let Some(most) = most {
            map.insert("maxProperties".into(), json!(most));
        }
        Value::Object(map)
    }
}
