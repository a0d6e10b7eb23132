//! Python's methods of strings, lists and dictionaries, as far as templates use them.

use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Tuple, ValueKind},
};

use super::environment::charge;

/// Called for `value.method(args)` where the engine knows no such method.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    charge(
        state,
        value.as_str().map_or(0, str::len)
            + args.iter().filter_map(|a| a.as_str()).map(str::len).sum::<usize>(),
    )?;
    let own = match value.as_str() {
        Some(text) => text_method(text, method, args)?,
        None if value.kind() == ValueKind::Seq => list_method(value, method, args)?,
        None => None,
    };
    match own {
        Some(result) => Ok(result),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn text_arg<'a>(args: &'a [Value], index: usize, method: &str) -> Result<&'a str, Error> {
    args.get(index).and_then(Value::as_str).ok_or_else(|| {
        Error::new(ErrorKind::InvalidOperation, format!("{method} needs a string as argument {}", index + 1))
    })
}

fn text_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "removeprefix" => {
            let prefix = text_arg(args, 0, method)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let suffix = text_arg(args, 0, method)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "partition" | "rpartition" => {
            let separator = text_arg(args, 0, method)?;
            if separator.is_empty() {
                return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
            }
            let parts = if method == "partition" {
                text.split_once(separator).map_or([text, "", ""], |(a, b)| [a, separator, b])
            } else {
                text.rsplit_once(separator).map_or(["", "", text], |(a, b)| [a, separator, b])
            };
            Value::from_object(Tuple::from(parts.map(Value::from).to_vec()))
        }
        "rsplit" => {
            let limit = args.get(1).cloned().map(i64::try_from).transpose()?.unwrap_or(-1);
            let limit = usize::try_from(limit).map_or(usize::MAX, |n| n.saturating_add(1));
            let mut parts: Vec<&str> = match args.first().and_then(Value::as_str) {
                Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
                Some(separator) => text.rsplitn(limit, separator).collect(),
                None if limit == usize::MAX => text.split_whitespace().rev().collect(),
                None => return Err(Error::new(ErrorKind::InvalidOperation, "rsplit needs a separator")),
            };
            parts.reverse();
            Value::from(parts.into_iter().map(Value::from).collect::<Vec<_>>())
        }
        "index" => {
            let part = text_arg(args, 0, method)?;
            match text.find(part) {
                Some(at) => Value::from(text.get(..at).map_or(0, |t| t.chars().count())),
                None => return Err(Error::new(ErrorKind::InvalidOperation, "substring not found")),
            }
        }
        "title" => {
            let mut out = String::with_capacity(text.len());
            let mut in_word = false;
            for c in text.chars() {
                if in_word {
                    out.extend(c.to_lowercase());
                } else {
                    out.extend(c.to_uppercase());
                }
                in_word = c.is_alphabetic();
            }
            Value::from(out)
        }
        "casefold" => Value::from(text.to_lowercase()),
        "zfill" => {
            let width = usize::try_from(args.first().cloned().unwrap_or_default())?.min(1024);
            let (sign, digits) = match text.strip_prefix(['-', '+']) {
                Some(digits) => (text.get(..1).unwrap_or_default(), digits),
                None => ("", text),
            };
            let missing = width.saturating_sub(text.chars().count());
            Value::from(format!("{sign}{}{digits}", "0".repeat(missing)))
        }
        _ => return Ok(None),
    }))
}

fn list_method(list: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match (method, args) {
        ("index", [wanted]) => match list.try_iter()?.position(|item| item == *wanted) {
            Some(at) => Ok(Some(Value::from(at))),
            None => Err(Error::new(ErrorKind::InvalidOperation, "the value is not in the list")),
        },
        ("copy", []) => Ok(Some(list.clone())),
        _ => Ok(None),
    }
}
