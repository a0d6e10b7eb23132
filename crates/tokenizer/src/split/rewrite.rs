//! From Oniguruma's dialect to one that automata can match.
//!
//! A pattern is cut into its alternatives, in their order of preference. `X(?!\S)` at the end of an alternative
//! becomes two: `X` at the end of the text, and `X\s` of which the last character is then given back. Whatever can't
//! be said this way is refused by name.

use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, Hir, HirKind};

use crate::error::{Result, TokenizerError};

/// What Oniguruma means by `\w`: the Rust engines count the two joiners, and of the numbers only digits.
const WORD: &str = r"\p{Alphabetic}\p{M}\p{N}\p{Pc}";
/// Groups in groups.
const DEPTH_MAX: usize = 32;

/// One alternative, ready for the automaton.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Alternative {
    pub(crate) pattern: String,
    /// The match's last character is not part of it.
    pub(crate) looks_ahead: bool,
}

/// The alternatives of `pattern`, the preferred first.
pub(crate) fn alternatives(pattern: &str) -> Result<Vec<Alternative>> {
    let mut found = Vec::new();
    Rewriter { whole: pattern }.expand(pattern, 0, &mut found)?;
    Ok(found)
}

/// A piece of a sequence: one character, class, escape or group, with its quantifier.
struct Atom<'p> {
    text: &'p str,
    quantifier: &'p str,
    possessive: bool,
}

struct Rewriter<'p> {
    whole: &'p str,
}

impl<'p> Rewriter<'p> {
    fn refuse(&self, problem: impl Into<String>) -> TokenizerError {
        TokenizerError::Pattern { pattern: self.whole.to_owned(), problem: problem.into() }
    }

    fn expand(&self, pattern: &str, depth: usize, found: &mut Vec<Alternative>) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err(self.refuse(format!("groups are nested more than {DEPTH_MAX} deep")));
        }
        for alternative in self.split_alternatives(pattern)? {
            let atoms = self.atoms(alternative)?;
            // A whole alternative in parentheses may itself hold alternatives that look ahead.
            if let [Atom { text, quantifier: "", .. }] = atoms.as_slice()
                && let Some(inner) = plain_group(text)
            {
                self.expand(inner, depth + 1, found)?;
                continue;
            }
            let (body, look) = match atoms.split_last() {
                Some((last, rest)) if last.text.starts_with("(?!") || last.text.starts_with("(?=") => {
                    (rest, Some(last))
                }
                _ => (atoms.as_slice(), None),
            };
            let body = self.sequence(body)?;
            let Some(look) = look else {
                found.push(Alternative { pattern: body, looks_ahead: false });
                continue;
            };
            if body.is_empty() || !look.quantifier.is_empty() {
                return Err(self.refuse("it looks ahead without matching anything before"));
            }
            let negative = look.text.starts_with("(?!");
            let inner = look.text.get(3..look.text.len() - 1).unwrap_or_default();
            let (inner, or_end) = match inner.strip_suffix("|$").or_else(|| inner.strip_suffix(r"|\z")) {
                Some(rest) => (rest, true),
                None => (inner, false),
            };
            if negative && or_end {
                return Err(self.refuse(format!("it looks ahead with {}", look.text)));
            }
            let mut class = self.single_class(inner).ok_or_else(|| {
                self.refuse(format!(
                    "it looks ahead with {}: only single characters are supported",
                    look.text
                ))
            })?;
            if negative {
                class.negate();
            }
            if negative || or_end {
                found.push(Alternative { pattern: format!(r"(?:{body})\z"), looks_ahead: false });
            }
            if !class.ranges().is_empty() {
                let next = print_class(&class);
                found.push(Alternative { pattern: format!("(?:{body}){next}"), looks_ahead: true });
            }
        }
        Ok(())
    }

    /// Cuts at every `|` that is in no group and in no class.
    fn split_alternatives<'t>(&self, pattern: &'t str) -> Result<Vec<&'t str>> {
        let mut parts = Vec::new();
        let mut start = 0;
        let mut at = 0;
        while at < pattern.len() {
            let rest = pattern.get(at..).unwrap_or_default();
            if rest.starts_with('|') {
                parts.push(pattern.get(start..at).unwrap_or_default());
                start = at + 1;
                at = start;
            } else {
                at += self.unit_len(rest)?;
            }
        }
        parts.push(pattern.get(start..).unwrap_or_default());
        Ok(parts)
    }

    /// Bytes of the character, escape, class or group that `text` starts with.
    fn unit_len(&self, text: &str) -> Result<usize> {
        let mut chars = text.chars();
        match chars.next() {
            None => Ok(0),
            Some('\\') => self.escape_len(text),
            Some('[') => self.class_len(text),
            Some('(') => {
                let mut depth = 0usize;
                let mut at = 0;
                while at < text.len() {
                    let rest = text.get(at..).unwrap_or_default();
                    match rest.as_bytes().first() {
                        Some(b'(') => {
                            depth += 1;
                            at += 1;
                        }
                        Some(b')') => {
                            depth -= 1;
                            at += 1;
                            if depth == 0 {
                                return Ok(at);
                            }
                        }
                        Some(b'\\') => at += self.escape_len(rest)?,
                        Some(b'[') => at += self.class_len(rest)?,
                        _ => at += rest.chars().next().map_or(1, char::len_utf8),
                    }
                }
                Err(self.refuse("a parenthesis is never closed"))
            }
            Some(')') => Err(self.refuse("a parenthesis closes that was never opened")),
            Some(c) => Ok(c.len_utf8()),
        }
    }

    fn escape_len(&self, text: &str) -> Result<usize> {
        let mut chars = text.chars().skip(1);
        let Some(kind) = chars.next() else {
            return Err(self.refuse("it ends in a backslash"));
        };
        let braced = matches!(kind, 'p' | 'P' | 'x' | 'u' | 'U') && chars.next() == Some('{');
        if braced {
            return text.find('}').map(|at| at + 1).ok_or_else(|| self.refuse("a brace is never closed"));
        }
        let more = match kind {
            'p' | 'P' => 1,
            'x' => 2,
            'u' => 4,
            _ => 0,
        };
        let len = 1 + kind.len_utf8() + more;
        if text.is_char_boundary(len.min(text.len())) && len <= text.len() {
            Ok(len)
        } else {
            Err(self.refuse("an escape is cut short"))
        }
    }

    fn class_len(&self, text: &str) -> Result<usize> {
        let mut depth = 0usize;
        let mut at = 0;
        while at < text.len() {
            let rest = text.get(at..).unwrap_or_default();
            match rest.as_bytes().first() {
                Some(b'[') => {
                    if rest.starts_with("[:") {
                        return Err(self.refuse("it uses a POSIX class; write a Unicode property instead"));
                    }
                    depth += 1;
                    at += 1;
                    // A bracket in first place closes nothing.
                    let rest = text.get(at..).unwrap_or_default();
                    at += if rest.starts_with("^]") {
                        2
                    } else {
                        usize::from(rest.starts_with('^') || rest.starts_with(']'))
                    };
                }
                Some(b']') => {
                    depth -= 1;
                    at += 1;
                    if depth == 0 {
                        return Ok(at);
                    }
                }
                Some(b'\\') => at += self.escape_len(rest)?,
                _ => at += rest.chars().next().map_or(1, char::len_utf8),
            }
        }
        Err(self.refuse("a bracket is never closed"))
    }

    fn atoms<'t>(&self, sequence: &'t str) -> Result<Vec<Atom<'t>>> {
        let mut atoms = Vec::new();
        let mut rest = sequence;
        while !rest.is_empty() {
            let (text, after) = rest.split_at(self.unit_len(rest)?);
            let brace = if after.starts_with('{') { after.find('}').map(|at| at + 1) } else { None };
            let len = match after.as_bytes().first() {
                Some(b'?' | b'*' | b'+') => 1,
                _ => brace.unwrap_or(0),
            };
            let (mut quantifier, mut after_quantifier) = after.split_at(len);
            let mut possessive = false;
            if len > 0 && after_quantifier.starts_with('+') && brace.is_none() {
                possessive = true;
                after_quantifier = after_quantifier.get(1..).unwrap_or_default();
            } else if len > 0 && after_quantifier.starts_with('?') {
                quantifier = after.get(..len + 1).unwrap_or_default();
                after_quantifier = after.get(len + 1..).unwrap_or_default();
            } else if len > 0 && after_quantifier.starts_with('+') {
                // `X{1,3}+` repeats the counted group: the two quantifiers stand one behind the other.
                quantifier = after.get(..len + 1).unwrap_or_default();
                after_quantifier = after.get(len + 1..).unwrap_or_default();
            }
            atoms.push(Atom { text, quantifier, possessive });
            rest = after_quantifier;
        }
        Ok(atoms)
    }

    fn sequence(&self, atoms: &[Atom<'_>]) -> Result<String> {
        let mut out = String::new();
        for (index, atom) in atoms.iter().enumerate() {
            if atom.possessive
                && !self.possessive_is_greedy(atom, atoms.get(index + 1..).unwrap_or_default())?
            {
                return Err(self.refuse(format!(
                    "the possessive {}{}+ gives a match that an automaton can't find",
                    atom.text, atom.quantifier
                )));
            }
            self.translate(atom.text, &mut out)?;
            out.push_str(atom.quantifier);
        }
        Ok(out)
    }

    /// Whether giving nothing back makes no difference: what follows can't start with what was taken, or may be empty.
    fn possessive_is_greedy(&self, atom: &Atom<'_>, rest: &[Atom<'_>]) -> Result<bool> {
        let Some(taken) = self.single_class(atom.text) else { return Ok(false) };
        for next in rest {
            let hir = self.parse(&format!("{}{}", self.translated(next.text)?, next.quantifier))?;
            let Some(first) = self.single_class(next.text) else {
                return Ok(false);
            };
            let mut common = taken.clone();
            common.intersect(&first);
            if !common.ranges().is_empty() {
                // What follows may take the same characters: harmless only if nothing after it is required.
                return Ok(rest.iter().all(|a| a.quantifier.starts_with(['*', '?'])));
            }
            if hir.properties().minimum_len() != Some(0) {
                return Ok(true);
            }
        }
        Ok(true)
    }

    /// The set of characters, if `text` matches exactly one character.
    fn single_class(&self, text: &str) -> Option<ClassUnicode> {
        let hir = self.parse(&self.translated(text).ok()?).ok()?;
        match hir.kind() {
            HirKind::Class(Class::Unicode(class)) => Some(class.clone()),
            HirKind::Literal(literal) => {
                let mut chars = std::str::from_utf8(&literal.0).ok()?.chars();
                let only = chars.next()?;
                chars.next().is_none().then(|| ClassUnicode::new([ClassUnicodeRange::new(only, only)]))
            }
            _ => None,
        }
    }

    fn parse(&self, pattern: &str) -> Result<Hir> {
        regex_syntax::ParserBuilder::new()
            .nest_limit(64)
            .build()
            .parse(pattern)
            .map_err(|error| self.refuse(error.to_string()))
    }

    fn translated(&self, text: &str) -> Result<String> {
        let mut out = String::new();
        self.translate(text, &mut out)?;
        Ok(out)
    }

    /// Writes one unit in the automaton's dialect.
    fn translate(&self, unit: &str, out: &mut String) -> Result<()> {
        let mut at = 0;
        let mut class_depth = 0usize;
        let mut before = '\0';
        while at < unit.len() {
            let rest = unit.get(at..).unwrap_or_default();
            let Some(c) = rest.chars().next() else { break };
            let mut len = c.len_utf8();
            match c {
                '\\' => {
                    len = self.escape_len(rest)?;
                    let escape = rest.get(..len).unwrap_or_default();
                    self.translate_escape(escape, class_depth > 0, out)?;
                }
                '[' => {
                    class_depth += 1;
                    out.push('[');
                    let inner = rest.get(1..).unwrap_or_default();
                    let negated = inner.starts_with('^');
                    if negated {
                        out.push('^');
                        len += 1;
                    }
                    if inner.get(usize::from(negated)..).is_some_and(|i| i.starts_with(']')) {
                        out.push_str(r"\]");
                        len += 1;
                    }
                }
                ']' => {
                    class_depth = class_depth.saturating_sub(1);
                    out.push(']');
                }
                '-' | '~' if class_depth > 0 && before == c => out.push_str(&format!(r"\x{:02X}", c as u32)),
                '(' if class_depth == 0 => {
                    for (start, name) in [
                        ("(?=", "a look-ahead"),
                        ("(?!", "a look-ahead"),
                        ("(?<=", "a look-behind"),
                        ("(?<!", "a look-behind"),
                        ("(?>", "an atomic group"),
                        ("(?(", "a condition"),
                        ("(?~", "an absence operator"),
                        ("(?#", "a comment"),
                    ] {
                        if rest.starts_with(start) {
                            return Err(self.refuse(format!(
                                "{name} ({start}…) in this place can't be matched in linear time"
                            )));
                        }
                    }
                    if is_bare_flags(rest) {
                        return Err(
                            self.refuse("flags without a group, such as (?i), are not supported: (?i:…) is")
                        );
                    }
                    out.push('(');
                }
                '?' | '*' | '+' if class_depth == 0 && is_possessive(unit, at) => {
                    return Err(self.refuse("a possessive quantifier inside of a group is not supported"));
                }
                _ => out.push(c),
            }
            before = c;
            at += len;
        }
        Ok(())
    }

    fn translate_escape(&self, escape: &str, in_class: bool, out: &mut String) -> Result<()> {
        let kind = escape.chars().nth(1).unwrap_or('\\');
        match kind {
            'w' if in_class => out.push_str(WORD),
            'w' => out.push_str(&format!("[{WORD}]")),
            'W' => out.push_str(&format!("[^{WORD}]")),
            'h' => out.push_str("[0-9a-fA-F]"),
            'H' => out.push_str("[^0-9a-fA-F]"),
            'u' => out.push_str(&format!(
                r"\x{{{}}}",
                escape.get(2..).unwrap_or_default().trim_matches(['{', '}'])
            )),
            'R' | 'X' | 'K' | 'G' | 'k' | 'g' | '1'..='9' => {
                return Err(self.refuse(format!("{escape} can't be matched in linear time")));
            }
            'b' | 'B' => return Err(self.refuse(format!("the word boundary {escape} is not supported"))),
            'e' => out.push_str(r"\x1B"),
            'Z' => out.push_str(r"(?:\n?\z)"),
            c if c.is_alphanumeric() => out.push_str(escape),
            c => out.push_str(&format!(r"\x{{{:X}}}", c as u32)),
        }
        Ok(())
    }
}

/// `(?i)`, which holds for what follows, across alternatives.
fn is_bare_flags(group: &str) -> bool {
    let Some((flags, _)) = group.strip_prefix("(?").and_then(|g| g.split_once(')')) else { return false };
    flags.chars().all(|c| c.is_ascii_alphabetic() || c == '-')
}

/// Whether the quantifier at `at` is followed by a possessive `+`.
fn is_possessive(unit: &str, at: usize) -> bool {
    let bytes = unit.as_bytes();
    // `(?` opens a group and is no quantifier.
    at > 0 && bytes.get(at - 1) != Some(&b'(') && bytes.get(at + 1) == Some(&b'+')
}

/// The inside of `(…)` or `(?:…)`.
fn plain_group(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('(')?.strip_suffix(')')?;
    match inner.strip_prefix("?:") {
        Some(inner) => Some(inner),
        None if inner.starts_with('?') => None,
        None => Some(inner),
    }
}

fn print_class(class: &ClassUnicode) -> String {
    let mut out = String::from("[");
    for range in class.ranges() {
        out.push_str(&format!(r"\x{{{:X}}}-\x{{{:X}}}", range.start() as u32, range.end() as u32));
    }
    out.push(']');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(pattern: &str) -> Vec<(String, bool)> {
        alternatives(pattern).unwrap().into_iter().map(|a| (a.pattern, a.looks_ahead)).collect()
    }

    #[test]
    fn a_negative_look_at_the_next_character_becomes_two_alternatives() {
        let found = rewritten(r"a|\s+(?!\S)|\s+");
        assert_eq!(found.len(), 4);
        assert_eq!(found[1], (r"(?:\s+)\z".to_owned(), false));
        assert!(found[2].1 && found[2].0.starts_with(r"(?:\s+)["));
        assert_eq!(found[3], (r"\s+".to_owned(), false));
    }

    #[test]
    fn possessive_quantifiers_pass_only_where_they_change_nothing() {
        assert_eq!(rewritten(r"[^\r\n\p{L}\p{N}]?+\p{L}+")[0].0, r"[^\r\n\p{L}\p{N}]?\p{L}+");
        assert_eq!(rewritten(r" ?[^\s\p{L}]++[\r\n]*+")[0].0, r" ?[^\s\p{L}]+[\r\n]*");
        assert!(alternatives(r"\p{L}++a").is_err());
        assert!(alternatives(r"(?:a++b)c").is_err());
    }

    #[test]
    fn what_needs_backtracking_is_refused() {
        for pattern in [
            r"(?<=a)b",
            r"(a)\1",
            r"a(?=b)c",
            r"(?>a+)b",
            r"a(?!bc)",
            "(",
            "[a",
            r"\",
            r"(?:a(?=b))+",
            r"\bfoo",
            ")",
        ] {
            assert!(alternatives(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn nested_alternatives_are_opened() {
        assert_eq!(rewritten(r"(?:a|(b|c))").len(), 3);
        assert_eq!(rewritten(r"(?i:'s|'t)|x").len(), 2);
    }
}
