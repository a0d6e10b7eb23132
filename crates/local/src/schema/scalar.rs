//! A branch's types, values, numbers and texts.

use serde_json::{Map, Number, Value, json};

use super::{
    Problem, Reader, branch::Flat, branch::is_exclusion, document::Part, format, pattern, pattern::Patterns,
};

/// Sets of types. A number is whole or not.
pub(super) type Types = u8;
const NULL: Types = 1;
const BOOLEAN: Types = 2;
const WHOLE: Types = 4;
const FRACTION: Types = 8;
const STRING: Types = 16;
pub(super) const ARRAY: Types = 32;
pub(super) const OBJECT: Types = 64;
const ALL: Types = 127;

/// Whole numbers beyond are not told apart by every reader, so that they can't be promised.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
/// `multipleOf` in units of its last decimal: the grammar has about as many states.
const MULTIPLE_MAX: i128 = 2000;
/// Decimals of `multipleOf`.
const DECIMALS_MAX: u32 = 6;
/// Expressions that one text may have to match.
const PATTERNS_MAX: usize = 4;
/// `minLength` and `maxLength`; the grammar counts.
const LENGTH_MAX: u64 = 50_000;

pub(super) fn type_of(value: &Value) -> Types {
    match value {
        Value::Null => NULL,
        Value::Bool(_) => BOOLEAN,
        Value::Number(number) if number.as_f64().is_some_and(|number| number.fract() == 0.0) => WHOLE,
        Value::Number(_) => FRACTION,
        Value::String(_) => STRING,
        Value::Array(_) => ARRAY,
        Value::Object(_) => OBJECT,
    }
}

/// What a number may be.
#[derive(Debug, Clone, Default)]
pub(super) struct Range {
    /// Each with whether it is excluded itself.
    low: Option<(f64, bool)>,
    high: Option<(f64, bool)>,
    /// A multiple of this many units of the decimal.
    step: Option<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    units: i128,
    decimals: u32,
}

impl Range {
    fn is_free(&self) -> bool {
        self.low.is_none() && self.high.is_none() && self.step.is_none()
    }

    /// Whether a number is within it; `None` if that is a matter of rounding.
    pub(super) fn admits(&self, value: &Value) -> Option<bool> {
        let number = value.as_f64()?;
        if number.abs() > EXACT_MAX {
            return None;
        }
        let within = self.low.is_none_or(|(low, out)| if out { number > low } else { number >= low })
            && self.high.is_none_or(|(high, out)| if out { number < high } else { number <= high });
        let Some(step) = self.step.filter(|_| within) else { return Some(within) };
        let (units, decimals) = decimal(&value.to_string())?;
        let scale = |units: i128, by: u32| units.checked_mul(10_i128.checked_pow(by)?);
        let most = decimals.max(step.decimals);
        let units = scale(units, most - decimals)?;
        Some(units % scale(step.units, most - step.decimals)? == 0)
    }

    /// Narrows the bounds to multiples; `false` if there are none. Without bounds there always are.
    fn settle(&mut self, whole_only: bool) -> bool {
        let step = match (self.step, whole_only) {
            (Some(step), true) => Some(step.whole()),
            (step, _) => step,
        };
        let unit = match step {
            Some(step) => step.size(),
            None if whole_only => 1.0,
            None => {
                // Bounds that are excluded move inwards by as little as the grammar writes.
                self.low = self.low.map(|(low, out)| (if out { low + gap(low) } else { low }, false));
                self.high = self.high.map(|(high, out)| (if out { high - gap(high) } else { high }, false));
                return match (self.low, self.high) {
                    (Some((low, _)), Some((high, _))) => low <= high,
                    _ => true,
                };
            }
        };
        self.step = step;
        let low = self.low.map(|(low, out)| {
            let at = (low / unit).ceil();
            if out && at * unit <= low { at + 1.0 } else { at }
        });
        let high = self.high.map(|(high, out)| {
            let at = (high / unit).floor();
            if out && at * unit >= high { at - 1.0 } else { at }
        });
        // Bounds become multiples themselves.
        let multiple = |at: f64| match step {
            Some(step) => at * step.units as f64 / 10_f64.powi(i32::try_from(step.decimals).unwrap_or(0)),
            None => at,
        };
        self.low = low.map(|at| (multiple(at), false));
        self.high = high.map(|at| (multiple(at), false));
        match (low, high) {
            (Some(low), Some(high)) => low <= high,
            _ => true,
        }
    }
}

/// The distance of numbers beside a bound, as far as numbers are promised to come close to it.
fn gap(bound: f64) -> f64 {
    if bound.abs() < 1e8 { 1e-7 } else { bound.abs() * 1e-14 }
}

impl Step {
    fn size(self) -> f64 {
        self.units as f64 / 10_f64.powi(i32::try_from(self.decimals).unwrap_or(0))
    }

    /// The multiples that are whole numbers.
    fn whole(self) -> Self {
        let one = 10_i128.pow(self.decimals.min(DECIMALS_MAX));
        Self { units: self.units / gcd(self.units, one), decimals: 0 }
    }

    fn both(self, other: Self) -> Option<Self> {
        let decimals = self.decimals.max(other.decimals);
        let scaled = |step: Self| step.units.checked_mul(10_i128.checked_pow(decimals - step.decimals)?);
        let (a, b) = (scaled(self)?, scaled(other)?);
        Some(Self { units: (a / gcd(a, b)).checked_mul(b)?, decimals })
    }
}

fn gcd(a: i128, b: i128) -> i128 {
    if b == 0 { a.max(1) } else { gcd(b, a % b) }
}

/// A decimal as units and decimals; `None` beyond what can be counted.
fn decimal(text: &str) -> Option<(i128, u32)> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut units: i128 = format!("{whole}{fraction}").parse().ok()?;
    let mut decimals = i32::try_from(fraction.len()).ok()?.checked_sub(exponent)?;
    while decimals > 0 && units % 10 == 0 {
        units /= 10;
        decimals -= 1;
    }
    if decimals < 0 {
        units = units.checked_mul(10_i128.checked_pow(decimals.unsigned_abs())?)?;
        decimals = 0;
    }
    Some((units, u32::try_from(decimals).ok()?))
}

impl Reader {
    /// The types that a part's `type` names.
    pub(super) fn types(&self, part: Part, map: &Map<String, Value>) -> Result<Types, Problem> {
        let one = |name: &Value| match name.as_str() {
            Some("null") => Ok(NULL),
            Some("boolean") => Ok(BOOLEAN),
            Some("integer") => Ok(WHOLE),
            Some("number") => Ok(WHOLE | FRACTION),
            Some("string") => Ok(STRING),
            Some("array") => Ok(ARRAY),
            Some("object") => Ok(OBJECT),
            _ => Err(self.malformed(part, "type", "null, boolean, integer, number, string, array or object")),
        };
        match map.get("type") {
            None => Ok(ALL),
            Some(Value::Array(names)) => names.iter().try_fold(0, |types, name| Ok(types | one(name)?)),
            Some(name) => one(name),
        }
    }

    /// The types that a branch leaves.
    pub(super) fn flat_types(&self, flat: &Flat) -> Result<Types, Problem> {
        flat.entries.iter().try_fold(ALL, |types, &(part, _)| {
            let map = self.document.keywords(part);
            let not = map.get("not").and_then(Value::as_object);
            let not = not.filter(|not| is_exclusion(&map) && not.contains_key("type"));
            let excluded = not.map_or(Ok(0), |not| self.types(part, not))?;
            Ok(types & self.types(part, &map)? & !excluded)
        })
    }

    /// The values that a branch enumerates, if it does, as far as they satisfy all of the node's parts.
    pub(super) fn values(&mut self, flat: &Flat, parts: &[Part]) -> Result<Option<Vec<Value>>, Problem> {
        let mut values: Option<Vec<Value>> = None;
        for &(part, _) in &flat.entries {
            let map = self.document.keywords(part);
            let own = match (map.get("enum"), map.get("const")) {
                (_, Some(value)) => vec![value.clone()],
                (Some(Value::Array(values)), None) => values.clone(),
                (Some(_), None) => return Err(self.malformed(part, "enum", "an array")),
                (None, None) => continue,
            };
            if values.as_ref().is_none_or(|known| own.len() < known.len()) {
                values = Some(own);
            }
        }
        let Some(values) = values else { return Ok(None) };
        let mut kept = Vec::new();
        for value in values {
            let mut holds = true;
            for part in flat.entries.iter().map(|(part, _)| *part).chain(parts.iter().copied()) {
                holds = holds && self.admits(&value, part, 0)?.unwrap_or(false);
            }
            if holds {
                kept.push(value);
            }
        }
        Ok(Some(kept))
    }

    /// Whether it is plain that nothing satisfies a branch.
    pub(super) fn is_flat_empty(&mut self, flat: &Flat, depth: usize) -> Result<bool, Problem> {
        if let Some(values) = self.values(flat, &[])? {
            return Ok(values.is_empty());
        }
        let types = self.flat_types(flat)?;
        if types == 0 {
            return Ok(true);
        }
        if types & !(WHOLE | FRACTION) == 0 {
            let mut range = self.range(flat)?;
            return Ok(!range.settle(types == WHOLE));
        }
        if types != OBJECT || depth == 0 {
            return Ok(false);
        }
        for name in self.flat_required(flat)? {
            let parts = self.flat_field(flat, &name)?.parts;
            if !parts.is_empty() && self.is_empty(&parts, depth - 1) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A branch in written form, one schema for each type; `None` if it admits everything.
    pub(super) fn shapes(&mut self, flat: &Flat, parts: &[Part]) -> Result<Option<Vec<Value>>, Problem> {
        if let Some(values) = self.values(flat, parts)? {
            return self.enumerated(flat, values).map(Some);
        }
        let mut types = self.flat_types(flat)?;
        if types & (WHOLE | FRACTION) == FRACTION {
            // Numbers that are not whole can't be told from others; without them fewer values come.
            types &= !FRACTION;
            if types == 0 {
                let part = flat.entries.first().map(|(part, _)| *part).unwrap_or_default();
                self.give_up(part, "not", "numbers without whole ones can't be enforced; allow both")?;
                types = WHOLE | FRACTION;
            }
        }
        let mut excluded: Vec<(Part, Value)> = Vec::new();
        for &(part, _) in &flat.entries {
            let map = self.document.keywords(part);
            if is_exclusion(&map) {
                let not = map.get("not").cloned().unwrap_or_default();
                let values = match (not.get("enum"), not.get("const")) {
                    (Some(Value::Array(values)), _) => values.clone(),
                    (_, Some(value)) => vec![value.clone()],
                    _ => Vec::new(),
                };
                excluded.extend(values.into_iter().map(|value| (part, value)));
            }
        }
        let mut booleans = vec![true, false];
        for (part, value) in excluded {
            match &value {
                Value::Null => types &= !NULL,
                Value::Bool(value) => booleans.retain(|kept| kept != value),
                _ if types & type_of(&value) != 0 => {
                    self.give_up(
                        part,
                        "not",
                        "can exclude values only from an `enum`; list what is allowed",
                    )?;
                }
                _ => {}
            }
        }
        let mut shapes = Vec::new();
        let mut is_free = types == ALL && booleans.len() == 2;
        if types & NULL != 0 {
            shapes.push(json!({"type": "null"}));
        }
        if types & BOOLEAN != 0 {
            match booleans.as_slice() {
                [_, _] => shapes.push(json!({"type": "boolean"})),
                some => shapes.extend(some.iter().map(|value| json!({"enum": [value]}))),
            }
        }
        if types & (WHOLE | FRACTION) != 0 {
            let mut range = self.range(flat)?;
            is_free &= range.is_free();
            if let Some(shape) = self.number(flat, &mut range, types & FRACTION == 0)? {
                shapes.push(shape);
            }
        }
        if types & STRING != 0 {
            let shape = self.text(flat)?;
            is_free &= shape.as_ref() == Some(&json!({"type": "string"}));
            shapes.extend(shape);
        }
        if types & ARRAY != 0 {
            let shape = self.array(flat)?;
            is_free &= shape.as_ref() == Some(&json!({"type": "array"}));
            shapes.extend(shape);
        }
        if types & OBJECT != 0 {
            let object = self.object(flat)?;
            is_free &= object.as_slice() == [json!({"type": "object"})];
            shapes.extend(object);
        }
        Ok((!is_free).then_some(shapes))
    }

    fn enumerated(&mut self, flat: &Flat, values: Vec<Value>) -> Result<Vec<Value>, Problem> {
        let part = flat.entries.first().map(|(part, _)| *part).unwrap_or_default();
        let mut kept = Vec::new();
        for value in values {
            if has_inexact_number(&value) {
                self.give_up(
                    part,
                    "enum",
                    "holds a number beyond 2^53, which readers of JSON round; use a text",
                )?;
                return Ok(vec![json!({"type": "number"})]);
            }
            kept.push(value);
        }
        Ok(if kept.is_empty() { Vec::new() } else { vec![json!({"enum": kept})] })
    }

    /// What a branch asks of numbers.
    fn range(&mut self, flat: &Flat) -> Result<Range, Problem> {
        let mut range = Range::default();
        for &(part, _) in &flat.entries {
            let map = self.document.keywords(part);
            self.narrow(&mut range, part, &map)?;
        }
        Ok(range)
    }

    /// Narrows a range by a part's keywords.
    pub(super) fn narrow(
        &mut self,
        range: &mut Range,
        part: Part,
        map: &Map<String, Value>,
    ) -> Result<(), Problem> {
        let bound = |this: &Self, keyword: &str| match map.get(keyword) {
            Some(Value::Number(number)) => Ok(Some(number.clone())),
            // Draft 4 has booleans beside `minimum` and `maximum`.
            None | Some(Value::Bool(_)) if keyword.starts_with("exclusive") => Ok(None),
            None => Ok(None),
            Some(_) => Err(this.malformed(part, keyword, "a number")),
        };
        let flag = |keyword: &str| map.get(keyword) == Some(&Value::Bool(true));
        let lows =
            [(bound(self, "minimum")?, flag("exclusiveMinimum")), (bound(self, "exclusiveMinimum")?, true)];
        for (number, out) in lows.into_iter().filter_map(|(number, out)| Some((number?, out))) {
            let low = inward(&number, false);
            if range.low.is_none_or(|(known, known_out)| low > known || (low == known && out && !known_out)) {
                range.low = Some((low, out));
            }
        }
        let highs =
            [(bound(self, "maximum")?, flag("exclusiveMaximum")), (bound(self, "exclusiveMaximum")?, true)];
        for (number, out) in highs.into_iter().filter_map(|(number, out)| Some((number?, out))) {
            let high = inward(&number, true);
            if range
                .high
                .is_none_or(|(known, known_out)| high < known || (high == known && out && !known_out))
            {
                range.high = Some((high, out));
            }
        }
        let Some(number) = bound(self, "multipleOf")? else { return Ok(()) };
        if number.as_f64().is_none_or(|number| number <= 0.0) {
            return Err(self.malformed(part, "multipleOf", "a number above 0"));
        }
        let step = decimal(&number.to_string()).map(|(units, decimals)| Step { units, decimals });
        let step = match (range.step, step) {
            (Some(known), Some(step)) => known.both(step),
            (None, step) => step,
            (Some(_), None) => None,
        };
        match step.filter(|step| step.units <= MULTIPLE_MAX && step.decimals <= DECIMALS_MAX) {
            Some(step) => range.step = Some(step),
            None => {
                let advice = format!(
                    "has too many digits to be enforced; at most {MULTIPLE_MAX} (in units of its last decimal), and \
                     {DECIMALS_MAX} decimals, are possible"
                );
                self.give_up(part, "multipleOf", &advice)?;
            }
        }
        Ok(())
    }

    fn number(&mut self, flat: &Flat, range: &mut Range, whole_only: bool) -> Result<Option<Value>, Problem> {
        if !range.settle(whole_only) {
            return Ok(None);
        }
        let part = flat.entries.first().map(|(part, _)| *part).unwrap_or_default();
        let mut shape = Map::new();
        shape.insert("type".into(), json!(if whole_only { "integer" } else { "number" }));
        let bounds =
            [(range.low, "minimum", "exclusiveMinimum"), (range.high, "maximum", "exclusiveMaximum")];
        for (bound, keyword, exclusive) in bounds {
            let Some((bound, out)) = bound else { continue };
            if bound.abs() > 1e18 {
                let harmless = (keyword == "maximum") == (bound > 0.0);
                if !harmless {
                    self.give_up(part, keyword, "is too far from zero to be enforced")?;
                    continue;
                }
                let most = if bound > 0.0 { 999_999_999_999_999_999_i64 } else { -999_999_999_999_999_999 };
                shape.insert(keyword.into(), json!(most));
                continue;
            }
            let value = if bound.fract() == 0.0 { json!(bound as i64) } else { json!(bound) };
            shape.insert(if out { exclusive } else { keyword }.into(), value);
        }
        if let Some(step) = range.step.filter(|step| *step != Step { units: 1, decimals: 0 } || !whole_only) {
            let text = step.size();
            let value = if step.decimals == 0 { json!(step.units as i64) } else { json!(text) };
            shape.insert("multipleOf".into(), value);
        }
        Ok(Some(Value::Object(shape)))
    }

    /// What a branch asks of texts; `None` if there are none.
    fn text(&mut self, flat: &Flat) -> Result<Option<Value>, Problem> {
        let Some((patterns, least, most)) = self.text_rules(flat)? else { return Ok(None) };
        let mut shape = Map::new();
        shape.insert("type".into(), json!("string"));
        if least > 0 {
            shape.insert("minLength".into(), json!(least));
        }
        if let Some(most) = most {
            shape.insert("maxLength".into(), json!(most));
        }
        match patterns.as_slice() {
            [] => {}
            [one] => {
                shape.insert("pattern".into(), json!(one));
            }
            several => {
                let all: Vec<Value> =
                    several.iter().map(|pattern| json!({"type": "string", "pattern": pattern})).collect();
                shape.insert("allOf".into(), json!(all));
            }
        }
        Ok(Some(Value::Object(shape)))
    }

    /// The expressions and the length of texts; `None` if no text satisfies them.
    #[expect(clippy::type_complexity, reason = "three plain values that go on together")]
    pub(super) fn text_rules(
        &mut self,
        flat: &Flat,
    ) -> Result<Option<(Vec<String>, u64, Option<u64>)>, Problem> {
        let mut patterns: Vec<String> = Vec::new();
        let (mut least, mut most): (u64, Option<u64>) = (0, None);
        let mut last = (0, "pattern");
        for &(part, _) in &flat.entries {
            let map = self.document.keywords(part);
            let lengths = [
                ("minLength", self.count(part, &map, "minLength")?),
                ("maxLength", self.count(part, &map, "maxLength")?),
            ];
            for (keyword, length) in lengths {
                let Some(length) = length else { continue };
                if length > LENGTH_MAX {
                    if keyword == "minLength" {
                        self.give_up(
                            part,
                            keyword,
                            &format!("is above {LENGTH_MAX}, the most that can be enforced"),
                        )?;
                        continue;
                    }
                    // Less than what is allowed is allowed.
                    most = Some(most.unwrap_or(LENGTH_MAX).min(LENGTH_MAX));
                } else if keyword == "minLength" {
                    least = least.max(length);
                } else {
                    most = Some(most.unwrap_or(length).min(length));
                }
            }
            let mut add = |pattern: String| {
                if !patterns.contains(&pattern) {
                    patterns.push(pattern);
                }
            };
            match map.get("pattern") {
                None => {}
                Some(Value::String(pattern)) => match pattern::fault(pattern) {
                    None => {
                        last = (part, "pattern");
                        add(pattern.clone());
                    }
                    Some(why) => self.give_up(part, "pattern", why)?,
                },
                Some(_) => return Err(self.malformed(part, "pattern", "a text")),
            }
            match map.get("format") {
                None => {}
                Some(Value::String(name)) => {
                    if let Some(pattern) = format::pattern(name) {
                        last = (part, "format");
                        add(pattern);
                    }
                }
                Some(_) => return Err(self.malformed(part, "format", "a text")),
            }
        }
        if most.is_some_and(|most| most < least) {
            return Ok(None);
        }
        if patterns.len() > PATTERNS_MAX {
            self.give_up(last.0, last.1, "too many expressions hold for one text; merge them")?;
            patterns.truncate(PATTERNS_MAX);
        }
        if !patterns.is_empty() {
            match Patterns::can_match(&patterns, (least, most)) {
                Some(true) => {}
                Some(false) => return Ok(None),
                None => {
                    self.give_up(
                        last.0,
                        last.1,
                        "is too complex together with the text's length; make it simpler",
                    )?;
                    patterns.clear();
                }
            }
        }
        Ok(Some((patterns, least, most)))
    }
}

/// A bound as a float that lies on the bound or within it.
fn inward(number: &Number, is_high: bool) -> f64 {
    let float = number.as_f64().unwrap_or_default();
    let exact = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    let Some(exact) = exact else { return float };
    // Whole floats below 2^64 are exact as i128.
    let rounded = float as i128;
    match rounded.cmp(&exact) {
        std::cmp::Ordering::Greater if is_high => float.next_down(),
        std::cmp::Ordering::Less if !is_high => float.next_up(),
        _ => float,
    }
}

fn has_inexact_number(value: &Value) -> bool {
    match value {
        Value::Number(number) => number
            .as_f64()
            .is_none_or(|number| number.abs() >= EXACT_MAX || (number != 0.0 && number.abs() < 1e-12)),
        Value::Array(items) => items.iter().any(has_inexact_number),
        Value::Object(fields) => fields.values().any(has_inexact_number),
        _ => false,
    }
}
