//! A branch's arrays.

use serde_json::{Map, Value, json};

use super::{Problem, Reader, branch::Flat, document::Part};

/// Items that `prefixItems` may list.
const PREFIX_MAX: usize = 256;
/// `minItems`.
const ITEMS_MAX: u64 = 30_000;

/// How a part describes items: how many one by one, and the keyword of the others.
struct Items {
    listed: (&'static str, usize),
    others: Option<&'static str>,
}

impl Reader {
    fn items(&self, part: Part, map: &Map<String, Value>) -> Result<Items, Problem> {
        let list = |keyword: &'static str| match map.get(keyword) {
            Some(Value::Array(items)) if items.len() <= PREFIX_MAX => Ok((keyword, items.len())),
            Some(_) => Err(self.malformed(part, keyword, "an array of at most 256 schemas")),
            None => Ok((keyword, 0)),
        };
        Ok(match map.get("items") {
            // Before draft 2020-12.
            Some(Value::Array(_)) => Items {
                listed: list("items")?,
                others: map.contains_key("additionalItems").then_some("additionalItems"),
            },
            items => Items { listed: list("prefixItems")?, others: items.is_some().then_some("items") },
        })
    }

    /// The schema that a part has for the item at an index.
    pub(super) fn item_part(
        &mut self,
        part: Part,
        map: &Map<String, Value>,
        at: usize,
    ) -> Result<Option<Part>, Problem> {
        let items = self.items(part, map)?;
        if at < items.listed.1 {
            return self.document.child(part, &[items.listed.0, &at.to_string()]).map(Some);
        }
        items.others.map(|keyword| self.document.child(part, &[keyword])).transpose()
    }

    /// What a branch asks of arrays; `None` if there are none.
    pub(super) fn array(&mut self, flat: &Flat) -> Result<Option<Value>, Problem> {
        let (mut least, mut most): (u64, Option<u64>) = (0, None);
        let mut listed = 0;
        for &(part, _) in &flat.entries {
            let map = self.document.keywords(part);
            let count = self.count(part, &map, "minItems")?.unwrap_or(0);
            if count > ITEMS_MAX {
                self.give_up(
                    part,
                    "minItems",
                    &format!("is above {ITEMS_MAX}, the most that can be enforced"),
                )?;
            } else {
                least = least.max(count);
            }
            if let Some(count) = self.count(part, &map, "maxItems")? {
                most = Some(most.unwrap_or(count).min(count).min(ITEMS_MAX));
            }
            listed = listed.max(self.items(part, &map)?.listed.1);
        }
        self.check_array_keywords(flat, most)?;
        let mut prefix = Vec::new();
        for at in 0..listed {
            if most.is_some_and(|most| at as u64 >= most) {
                break;
            }
            let parts = self.flat_item(flat, at)?;
            let item = self.node(parts)?;
            if item == Value::Bool(false) {
                most = Some(at as u64);
                break;
            }
            prefix.push(item);
        }
        let mut others = Value::Bool(true);
        if most.is_none_or(|most| most > prefix.len() as u64) {
            let parts = self.flat_item(flat, listed)?;
            if parts.is_empty() {
                self.node(parts)?;
            } else {
                others = self.node(parts)?;
            }
            if others == Value::Bool(false) {
                most = Some(prefix.len() as u64);
            }
        }
        if most.is_some_and(|most| most < least) {
            return Ok(None);
        }
        let mut shape = Map::new();
        shape.insert("type".into(), json!("array"));
        if !prefix.is_empty() {
            shape.insert("prefixItems".into(), json!(prefix));
        }
        if others != Value::Bool(true) {
            shape.insert("items".into(), others);
        }
        if least > 0 {
            shape.insert("minItems".into(), json!(least));
        }
        if let Some(most) = most {
            shape.insert("maxItems".into(), json!(most));
        }
        Ok(Some(Value::Object(shape)))
    }

    fn check_array_keywords(&mut self, flat: &Flat, most: Option<u64>) -> Result<(), Problem> {
        for &(part, _) in &flat.entries {
            let map = self.document.keywords(part);
            if map.get("uniqueItems") == Some(&Value::Bool(true)) && most.is_none_or(|most| most > 1) {
                self.give_up(
                    part,
                    "uniqueItems",
                    "can't be enforced; leave it out and drop repeated items yourself",
                )?;
            }
            if map.contains_key("contains") {
                let none_needed =
                    self.count(part, &map, "minContains")? == Some(0) && !map.contains_key("maxContains");
                let inner = self.document.child(part, &["contains"])?;
                let any =
                    *self.document.value(inner) == Value::Bool(true) && !map.contains_key("maxContains");
                if any && !map.contains_key("minContains") && self.has_items(flat)? {
                    continue;
                }
                if !none_needed {
                    let advice = "can't be enforced; describe the items with `items` or `prefixItems`";
                    self.give_up(part, "contains", advice)?;
                }
            }
        }
        Ok(())
    }

    fn has_items(&mut self, flat: &Flat) -> Result<bool, Problem> {
        for &(part, _) in &flat.entries {
            let map = self.document.keywords(part);
            if self.count(part, &map, "minItems")?.is_some_and(|least| least > 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What holds for the item at an index.
    fn flat_item(&mut self, flat: &Flat, at: usize) -> Result<Vec<Part>, Problem> {
        let mut parts = Vec::new();
        let mut evaluated = vec![false; flat.entries.len()];
        for (index, &(part, _)) in flat.entries.iter().enumerate() {
            let map = self.document.keywords(part);
            if let Some(inner) = self.item_part(part, &map, at)? {
                parts.push(inner);
                // What was derived of a `not` looks at a value and evaluates nothing.
                if let Some(slot) = evaluated.get_mut(index) {
                    *slot = self.document.is_original(part);
                }
            }
        }
        for (index, &(part, _)) in flat.entries.iter().enumerate() {
            let map = self.document.keywords(part);
            if map.contains_key("unevaluatedItems")
                && !self.is_evaluated(flat, index, &evaluated, "unevaluatedItems")
            {
                parts.push(self.document.child(part, &["unevaluatedItems"])?);
            }
        }
        Ok(parts)
    }

    /// Whether a part that the entry at `index` applied has looked at an item or a property.
    pub(super) fn is_evaluated(&self, flat: &Flat, index: usize, evaluated: &[bool], keyword: &str) -> bool {
        (0..flat.entries.len()).any(|below| {
            flat.is_below(below, index)
                && (evaluated.get(below).copied().unwrap_or(false)
                    || (below != index
                        && flat
                            .entries
                            .get(below)
                            .is_some_and(|&(part, _)| self.document.keywords(part).contains_key(keyword))))
        })
    }
}
