//! How Python writes values: templates are written for it.

use std::fmt::Write as _;

use minijinja::{Error, ErrorKind, Value, value::ValueKind};

/// Values in values.
pub(super) const DEPTH_MAX: usize = 96;

/// Values in one value that is written. More come from a list repeated without end, not from a conversation.
pub(super) const VALUES_MAX: usize = 100_000;

/// Counts one written value down.
pub(super) fn count(left: usize) -> Result<usize, Error> {
    left.checked_sub(1).ok_or_else(|| {
        Error::new(ErrorKind::OutOfFuel, format!("a value holds more than {VALUES_MAX} values"))
    })
}

pub(super) fn too_deep() -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("a value is nested more than {DEPTH_MAX} deep"))
}

/// A float as `repr` writes it: the shortest digits that read back the same.
pub(super) fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.into();
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{value}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}

/// A float value, as opposed to an integer.
pub(super) fn as_float(value: &Value) -> Option<f64> {
    if value.kind() == ValueKind::Number && !value.is_integer() {
        f64::try_from(value.clone()).ok()
    } else {
        None
    }
}

/// As `str` writes a value.
pub(super) fn str(value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => repr(value),
    }
}

/// As `repr` writes a value.
pub(super) fn repr(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    let mut left = VALUES_MAX;
    write_repr(value, 0, &mut left, &mut out)?;
    Ok(out)
}

fn write_repr(value: &Value, depth: usize, left: &mut usize, out: &mut String) -> Result<(), Error> {
    if depth > DEPTH_MAX {
        return Err(too_deep());
    }
    *left = count(*left)?;
    if let Some(text) = value.as_str() {
        write_quoted(text, out);
        return Ok(());
    }
    if let Some(number) = as_float(value) {
        out.push_str(&float(number));
        return Ok(());
    }
    match value.kind() {
        // A repeated list counts as an iterable here; to Python it is a list.
        ValueKind::Seq | ValueKind::Iterable => {
            let tuple = value.is_tuple();
            out.push(if tuple { '(' } else { '[' });
            let mut count = 0;
            for item in value.try_iter()? {
                if count > 0 {
                    out.push_str(", ");
                }
                write_repr(&item, depth + 1, left, out)?;
                count += 1;
            }
            if tuple && count == 1 {
                out.push(',');
            }
            out.push(if tuple { ')' } else { ']' });
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                write_repr(&key, depth + 1, left, out)?;
                out.push_str(": ");
                write_repr(&value.get_item(&key)?, depth + 1, left, out)?;
            }
            out.push('}');
        }
        _ => {
            let _ = write!(out, "{value}");
        }
    }
    Ok(())
}

fn write_quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str(r"\\"),
            '\n' => out.push_str(r"\n"),
            '\r' => out.push_str(r"\r"),
            '\t' => out.push_str(r"\t"),
            c if c == quote => out.extend(['\\', c]),
            c if (c as u32) < 0x20 || (0x7F..0xA1).contains(&(c as u32)) || c as u32 == 0xAD => {
                let _ = write!(out, r"\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_as_python_prints_them() {
        for (value, expected) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (1e15, "1000000000000000.0"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e100, "1e+100"),
            (-0.0, "-0.0"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(float(value), expected);
        }
    }

    #[test]
    fn containers_as_python_prints_them() {
        let list = vec![Value::from(1), Value::from(2.0), Value::from(()), Value::from(true)];
        let value = Value::from_pairs([("a", Value::from(list)), ("b'", Value::from("it's \"x\"\n"))]);
        assert_eq!(repr(&value).unwrap(), r#"{'a': [1, 2.0, None, True], "b'": 'it\'s "x"\n'}"#);
    }
}
