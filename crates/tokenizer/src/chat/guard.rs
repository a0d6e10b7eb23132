//! Keeps what users wrote apart from control tokens, all the way through a template.
//!
//! A template may cut, join and rearrange what it is given, so that a control token could come about from pieces.
//! Therefore a character that every control token has (`|` in `<|im_end|>`) is replaced by a stand-in from a private
//! plane of Unicode wherever it occurs in the input, one for one, and put back after the prompt's own control tokens
//! have been found. A template's own tests of its input (`'</think>' in content`) go on working: characters in text
//! that equals one of its string literals stay, unless that would complete a control token.

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::{Map, Value};

use super::python::DEPTH_MAX;
use crate::error::{Result, TokenizerError};

/// The characters that stand in for others.
const FIRST: u32 = 0x10_F000;
/// Announces a character from this range that was in the input itself.
const ESCAPE: char = '\u{10F7FF}';
const LAST: u32 = 0x10_F7FF;

/// Whether the character has a meaning of its own here.
pub(super) fn is_reserved(c: char) -> bool {
    (FIRST..=LAST).contains(&u32::from(c))
}

/// Knows the control tokens of a model and what a template looks for in its input.
pub(super) struct Guard {
    control: Vec<String>,
    /// The characters that may be replaced; the place tells the stand-in.
    slots: Vec<char>,
    /// Those that are replaced wherever they occur.
    everywhere: Vec<char>,
    /// For each control token the character that is replaced in it.
    breakers: Vec<char>,
    /// Control tokens of letters alone, which no published model has: kept out of what is given and where two
    /// given texts meet, but not where a template changes the case of letters.
    wordlike: Vec<String>,
    find_control: Option<AhoCorasick>,
    find_literals: Option<AhoCorasick>,
}

impl Guard {
    pub(super) fn new(control: Vec<String>, literals: &[String]) -> Result<Self> {
        let bad = |problem: String| TokenizerError::TemplateSyntax { problem };
        let (mut slots, mut everywhere, mut breakers, mut wordlike) = (vec![], vec![], vec![], vec![]);
        for token in &control {
            let is_mark = |c: &char| !c.is_alphanumeric() && !c.is_whitespace() && *c != '_';
            let usual = token.chars().find(|c| matches!(c, '|' | '｜'));
            let first = usual.or_else(|| token.chars().find(is_mark));
            // Where the template writes the beginning of a token, what comes from outside must not complete it.
            let last = usual.or_else(|| token.chars().rfind(is_mark));
            let Some(breaker) = first.or_else(|| token.chars().next()) else { continue };
            let end = last.or_else(|| token.chars().next_back()).unwrap_or(breaker);
            breakers.push(breaker);
            for c in [breaker, end] {
                if !slots.contains(&c) {
                    slots.push(c);
                }
                if first.is_some() && !everywhere.contains(&c) {
                    everywhere.push(c);
                }
            }
            if first.is_none() {
                wordlike.push(token.clone());
            }
        }
        if slots.len() >= (LAST - FIRST) as usize {
            return Err(TokenizerError::TooLarge {
                part: "first characters of control tokens".into(),
                found: slots.len() as u64,
                limit: u64::from(LAST - FIRST) - 1,
            });
        }
        // A literal that is part of a control token, or holds one, protects nothing.
        let kept: Vec<&String> = literals
            .iter()
            .filter(|l| l.contains(everywhere.as_slice()) && l.chars().any(char::is_alphanumeric))
            .filter(|l| !control.iter().any(|t| t.contains(l.as_str()) || l.contains(t.as_str())))
            .collect();
        let automaton = |patterns: Vec<&String>, kind: MatchKind| {
            if patterns.is_empty() {
                return Ok(None);
            }
            AhoCorasick::builder().match_kind(kind).build(patterns).map(Some).map_err(|e| bad(e.to_string()))
        };
        let find_control = automaton(control.iter().collect(), MatchKind::Standard)?;
        let find_literals = automaton(kept, MatchKind::LeftmostLongest)?;
        Ok(Self { slots, everywhere, breakers, wordlike, find_control, find_literals, control })
    }

    pub(super) fn covers(&self, token: &str) -> bool {
        self.control.iter().any(|known| known == token)
    }

    fn stand_in(&self, c: char) -> Option<char> {
        let slot = self.slots.iter().position(|s| *s == c)?;
        char::from_u32(FIRST + slot as u32)
    }

    /// Replaces what could become a control token in `text`. With `thinking`, control tokens that mark reasoning may
    /// stay: templates cut an assistant's earlier reasoning away by them.
    pub(super) fn protect(&self, text: &str, thinking: bool) -> String {
        if !text.contains(self.slots.as_slice()) && !text.chars().any(is_reserved) {
            return text.to_owned();
        }
        let literals: Vec<(usize, usize)> = match &self.find_literals {
            Some(automaton) => automaton.find_iter(text).map(|m| (m.start(), m.end())).collect(),
            None => Vec::new(),
        };
        // Places of characters that are replaced whatever literal they are in, and of those that stay.
        let (mut forced, mut thoughts) = (Vec::new(), Vec::new());
        if let Some(automaton) = &self.find_control {
            for found in automaton.find_overlapping_iter(text) {
                let index = found.pattern().as_usize();
                let token = self.control.get(index).map_or("", String::as_str);
                if thinking && is_think_tag(token) {
                    thoughts.push((found.start(), found.end()));
                } else if let Some(breaker) = self.breakers.get(index) {
                    forced.extend(token.match_indices(*breaker).map(|(at, _)| found.start() + at));
                }
            }
        }
        for token in &self.wordlike {
            for (len, _) in token.char_indices().skip(1) {
                if text.ends_with(token.get(..len).unwrap_or_default()) {
                    forced.push(text.len() - len);
                }
                let tail = token.get(len..).unwrap_or_default();
                if text.starts_with(tail) && !tail.is_empty() {
                    forced.push(tail.len() - token.chars().next_back().map_or(0, char::len_utf8));
                }
            }
        }
        forced.sort_unstable();
        thoughts.sort_unstable();
        let mut out = String::with_capacity(text.len() + 16);
        let (mut literal, mut thought, mut next_forced) = (0, 0, 0);
        for (at, c) in text.char_indices() {
            while literals.get(literal).is_some_and(|(_, end)| *end <= at) {
                literal += 1;
            }
            while thoughts.get(thought).is_some_and(|(_, end)| *end <= at) {
                thought += 1;
            }
            while forced.get(next_forced).is_some_and(|place| *place < at) {
                next_forced += 1;
            }
            let inside = |spans: &[(usize, usize)], index: usize| {
                spans.get(index).is_some_and(|(start, end)| (*start..*end).contains(&at))
            };
            let must = forced.get(next_forced) == Some(&at);
            let may =
                self.everywhere.contains(&c) && !inside(&literals, literal) && !inside(&thoughts, thought);
            if is_reserved(c) {
                out.extend([ESCAPE, c]);
            } else if let Some(stand_in) = self.stand_in(c).filter(|_| must || may) {
                out.push(stand_in);
            } else {
                out.push(c);
            }
        }
        out
    }

    /// Undoes [`Self::protect`].
    pub(super) fn restore(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            if c == ESCAPE {
                out.extend(chars.next());
            } else if is_reserved(c) {
                let slot = (u32::from(c) - FIRST) as usize;
                out.push(self.slots.get(slot).copied().unwrap_or(c));
            } else {
                out.push(c);
            }
        }
        out
    }

    /// The value as templates see it, with every string protected, keys too.
    pub(super) fn protect_value(&self, value: &Value, thinking: bool, depth: usize) -> Result<Value> {
        if depth > DEPTH_MAX {
            return Err(TokenizerError::TemplateFailed {
                problem: format!("the input is nested more than {DEPTH_MAX} deep"),
            });
        }
        Ok(match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
            Value::String(text) => self.protect(text, thinking).into(),
            Value::Array(items) => items
                .iter()
                .map(|item| self.protect_value(item, thinking, depth + 1))
                .collect::<Result<Vec<_>>>()?
                .into(),
            Value::Object(fields) => {
                let thinking = match fields.get("role").and_then(Value::as_str) {
                    Some(role) => role == "assistant",
                    None => thinking,
                };
                let mut protected = Map::with_capacity(fields.len());
                for (key, item) in fields {
                    let thinking = thinking && REASONING_FIELDS.contains(&key.as_str());
                    protected
                        .insert(self.protect(key, false), self.protect_value(item, thinking, depth + 1)?);
                }
                protected.into()
            }
        })
    }
}

/// The fields of an assistant's message that may hold its reasoning.
const REASONING_FIELDS: &[&str] = &["content", "text", "reasoning_content", "reasoning", "thinking"];

/// Whether the token begins or ends a model's reasoning.
fn is_think_tag(token: &str) -> bool {
    token.to_ascii_lowercase().contains("think")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn guard(control: &[&str], literals: &[&str]) -> Guard {
        let own = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        Guard::new(own(control), &own(literals)).unwrap()
    }

    #[test]
    fn literals_of_the_template_stay_and_control_tokens_do_not() {
        let guard = guard(&["<s>", "<|im_end|>", "[INST]"], &["</think>", "<|im_end|>", "<|", "x"]);
        let protected = guard.protect("a</think>b <s> <|im_end|> [INST] <", false);
        assert!(protected.contains("</think>"));
        for token in ["<s>", "<|im_end|>", "[INST]"] {
            assert!(!protected.contains(token), "{protected:?}");
        }
        assert_eq!(guard.restore(&protected), "a</think>b <s> <|im_end|> [INST] <");
        assert_eq!(protected.chars().count(), "a</think>b <s> <|im_end|> [INST] <".chars().count());
    }

    #[test]
    fn pieces_can_not_be_put_together() {
        let guard = guard(&["<|im_end|>", "<s>", "STOP"], &[]);
        for (left, right) in [("<|im_", "end|>"), ("<", "s>"), ("<s", ">"), ("ST", "OP"), ("<|im_end|", ">")]
        {
            let joined = guard.protect(left, false) + &guard.protect(right, false);
            for token in ["<|im_end|>", "<s>", "STOP"] {
                assert!(!joined.contains(token), "{left:?} + {right:?}");
            }
            assert_eq!(guard.restore(&joined), format!("{left}{right}"));
        }
    }

    #[test]
    fn a_control_token_for_thinking_stays_in_what_an_assistant_said() {
        let guard = guard(&["</think>"], &[]);
        let message = serde_json::json!([
            {"role": "assistant", "content": "a</think>b"}, {"role": "user", "content": "a</think>b"}]);
        let out = guard.protect_value(&message, false, 0).unwrap();
        let content = |index: usize| out[index]["content"].as_str().unwrap().to_owned();
        assert_eq!(content(0), "a</think>b");
        assert_ne!(content(1), "a</think>b");
    }

    proptest! {
        #[test]
        fn whatever_is_protected_comes_back(text in "(<|s|>|\\||end|\\PC|[\u{10F000}-\u{10F7FF}]){0,40}") {
            let guard = guard(&["<s>", "<|end|>", "send"], &["s>|"]);
            let protected = guard.protect(&text, false);
            prop_assert_eq!(guard.restore(&protected), text);
            for token in ["<s>", "<|end|>", "send"] {
                prop_assert!(!protected.contains(token));
            }
        }
    }
}
