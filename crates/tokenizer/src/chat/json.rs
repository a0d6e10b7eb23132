//! `tojson`, to the byte as Python's `json.dumps` writes: prompts that models were trained on hold its output.

use std::{cell::Cell, fmt::Write as _};

use minijinja::{
    Error, ErrorKind, Value,
    value::{Kwargs, Rest, ValueKind},
};

use super::python::{self, DEPTH_MAX, VALUES_MAX, too_deep};

struct Style {
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    item: String,
    key: String,
    /// Values that may still be written.
    left: Cell<usize>,
}

/// The filter: `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let option = |index: usize, name: &str| -> Result<Option<Value>, Error> {
        let named: Option<Value> = kwargs.get(name)?;
        Ok(named.or_else(|| args.get(index).cloned()).filter(|v| !v.is_none() && !v.is_undefined()))
    };
    let indent = match option(1, "indent")? {
        None => None,
        Some(text) if text.as_str().is_some() => text.as_str().map(str::to_owned),
        Some(count) => Some(" ".repeat(usize::try_from(count)?.min(64))),
    };
    let mut style = Style {
        ensure_ascii: option(0, "ensure_ascii")?.is_some_and(|v| v.is_true()),
        sort_keys: option(3, "sort_keys")?.is_some_and(|v| v.is_true()),
        item: if indent.is_some() { "," } else { ", " }.to_owned(),
        key: ": ".to_owned(),
        indent,
        left: Cell::new(VALUES_MAX),
    };
    if let Some(separators) = option(2, "separators")? {
        let text = |index: usize| -> Result<String, Error> {
            separators
                .get_item_by_index(index)?
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "separators are two strings"))
        };
        (style.item, style.key) = (text(0)?, text(1)?);
    }
    kwargs.assert_all_used()?;
    let mut out = String::new();
    style.write(value, 0, &mut out)?;
    Ok(Value::from(out))
}

impl Style {
    fn new_line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
    }

    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(too_deep());
        }
        self.left.set(python::count(self.left.get())?);
        if let Some(text) = value.as_str() {
            self.write_text(text, out);
            return Ok(());
        }
        if let Some(number) = python::as_float(value) {
            out.push_str(&float(number));
            return Ok(());
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => {
                let _ = write!(out, "{value}");
            }
            ValueKind::Seq | ValueKind::Iterable => {
                let items = bounded(value.try_iter()?)?;
                self.write_list('[', ']', &items, depth, out, |this, item, out| {
                    this.write(item, depth + 1, out)
                })?;
            }
            ValueKind::Map => {
                let mut entries = Vec::new();
                for key in bounded(value.try_iter()?)? {
                    entries.push((key_text(&key)?, value.get_item(&key)?));
                }
                if self.sort_keys {
                    entries.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.write_list('{', '}', &entries, depth, out, |this, (key, item), out| {
                    this.write_text(key, out);
                    out.push_str(&this.key);
                    this.write(item, depth + 1, out)
                })?;
            }
            other => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("a value of type {other} can't be written as JSON"),
                ));
            }
        }
        Ok(())
    }

    fn write_list<T>(
        &self,
        open: char,
        close: char,
        items: &[T],
        depth: usize,
        out: &mut String,
        write: impl Fn(&Self, &T, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(open);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                out.push_str(&self.item);
            }
            self.new_line(depth + 1, out);
            write(self, item, out)?;
        }
        if !items.is_empty() {
            self.new_line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn write_text(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if (c as u32) < 0x20
                    || (self.ensure_ascii && !c.is_ascii() && !super::guard::is_reserved(c)) =>
                {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                // DEL is ASCII and printed as it is, as Python does.
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// The items, if they are so few that they may be written.
fn bounded(items: impl Iterator<Item = Value>) -> Result<Vec<Value>, Error> {
    let items: Vec<Value> = items.take(VALUES_MAX + 1).collect();
    if items.len() > VALUES_MAX {
        return Err(Error::new(ErrorKind::OutOfFuel, format!("a list has more than {VALUES_MAX} items")));
    }
    Ok(items)
}

fn float(value: f64) -> String {
    if value.is_nan() {
        "NaN".into()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity" } else { "-Infinity" }.into()
    } else {
        python::float(value)
    }
}

fn key_text(key: &Value) -> Result<String, Error> {
    if let Some(text) = key.as_str() {
        return Ok(text.to_owned());
    }
    if let Some(number) = python::as_float(key) {
        return Ok(float(number));
    }
    match key.kind() {
        ValueKind::None => Ok("null".into()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.into()),
        ValueKind::Number => Ok(key.to_string()),
        other => Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("a key of type {other} can't be written as JSON"),
        )),
    }
}
