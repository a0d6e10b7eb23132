//! Names that come from outside and become paths. Everything that could leave the store, or mean two files
//! on one file system and one on another, is refused here.

use crate::HubError;
use crate::error::shorten;

const COMPONENT_BYTES_MAX: usize = 200;
const PATH_BYTES_MAX: usize = 1024;

/// A relative path of plain components with `/` between them, as `origin` gave it.
pub(crate) fn safe_path<'a>(origin: &str, name: &'a str) -> Result<&'a str, HubError> {
    match refusal(name) {
        None => Ok(name),
        Some(reason) => Err(HubError::UnsafeName { origin: origin.to_owned(), name: shorten(name), reason }),
    }
}

fn refusal(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("it is empty");
    }
    if name.len() > PATH_BYTES_MAX {
        return Some("it is too long");
    }
    if name.contains('\\') {
        return Some("it holds a backslash");
    }
    if name.starts_with('/') || name.contains(':') {
        return Some("it is not relative");
    }
    name.split('/').find_map(component_refusal)
}

fn component_refusal(part: &str) -> Option<&'static str> {
    if part.is_empty() || part == "." || part == ".." {
        return Some("it holds an empty part, `.` or `..`");
    }
    if part.len() > COMPONENT_BYTES_MAX {
        return Some("a part of it is too long");
    }
    if part.chars().any(|c| c.is_control() || is_invisible(c)) {
        return Some("it holds control characters");
    }
    if part.ends_with('.') || part.ends_with(' ') || part.starts_with(' ') {
        return Some("a part of it begins or ends with a blank or ends with a dot");
    }
    None
}

/// Characters that make two different names look the same, or turn a name around.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Refuses a list in which two names differ only in case: they'd be one file on many disks.
pub(crate) fn no_case_clash<'a>(origin: &str, names: impl Iterator<Item = &'a str>) -> Result<(), HubError> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if !seen.insert(name.to_lowercase()) {
            return Err(HubError::UnsafeName {
                origin: origin.to_owned(),
                name: shorten(name),
                reason: "another name differs from it in upper and lower case only",
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_pass_and_escapes_do_not() {
        for good in ["config.json", "a/b-1_c.gguf", "Übung.gguf", "1_Pooling/config.json", ".gitattributes"]
        {
            assert!(safe_path("test", good).is_ok(), "{good}");
        }
        let long = "x".repeat(300);
        let deep = "x/".repeat(700) + "x";
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/../b",
            "a/..",
            "/etc/passwd",
            "a//b",
            "a/",
            "a\\b",
            "..\\x",
            "C:x",
            "a\0b",
            "a\nb",
            "a\u{202e}b",
            "x.",
            "x ",
            " x",
            "a/ b",
            "\u{feff}a",
            &long,
            &deep,
        ] {
            assert!(safe_path("test", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn case_clashes_are_found() {
        assert!(no_case_clash("test", ["a", "b", "B"].into_iter()).is_err());
        assert!(no_case_clash("test", ["a", "b", "ab"].into_iter()).is_ok());
    }
}
