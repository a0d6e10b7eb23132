//! Tokens that are matched in the text before anything else happens to it.

use aho_corasick::{AhoCorasick, Input, MatchKind};

use crate::{
    error::{Result, TokenizerError},
    split::steps::CharSet,
};

/// Bytes of all added tokens together.
const ADDED_BYTES_MAX: usize = 4 << 20;

/// A token that is matched whole. The fields are those of `tokenizer.json`.
#[derive(Debug, Clone, Default)]
pub(crate) struct AddedToken {
    pub(crate) id: u32,
    pub(crate) text: String,
    /// Steers the model: matched only where control tokens are asked for.
    pub(crate) control: bool,
    /// Takes the blanks before it along.
    pub(crate) lstrip: bool,
    /// Takes the blanks behind it along.
    pub(crate) rstrip: bool,
    /// Matches only between characters that are of no word.
    pub(crate) single_word: bool,
    /// Matched after normalization.
    pub(crate) normalized: bool,
}

/// A stretch of text, or a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fragment {
    Text { start: usize, end: usize },
    Token { id: u32 },
}

/// Finds added tokens: the leftmost, of several at one place the longest.
#[derive(Default)]
pub(crate) struct AddedTokens {
    tokens: Vec<AddedToken>,
    /// Finds all tokens, and which they are.
    all: Option<(AhoCorasick, Vec<u32>)>,
    /// Finds those that are matched in a user's text too.
    plain: Option<(AhoCorasick, Vec<u32>)>,
}

impl AddedTokens {
    pub(crate) fn new(tokens: Vec<AddedToken>) -> Result<Self> {
        let tokens: Vec<AddedToken> = tokens.into_iter().filter(|t| !t.text.is_empty()).collect();
        let bytes: usize = tokens.iter().map(|t| t.text.len()).sum();
        if bytes > ADDED_BYTES_MAX {
            return Err(TokenizerError::TooLarge {
                part: "the text of all added tokens (bytes)".into(),
                found: bytes as u64,
                limit: ADDED_BYTES_MAX as u64,
            });
        }
        let automaton = |with_control: bool| {
            let chosen: Vec<(u32, &AddedToken)> =
                (0..).zip(&tokens).filter(|(_, t)| with_control || !t.control).collect();
            if chosen.is_empty() {
                return Ok(None);
            }
            AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(chosen.iter().map(|(_, t)| &t.text))
                .map(|found| Some((found, chosen.iter().map(|(index, _)| *index).collect())))
                .map_err(|error| TokenizerError::malformed("added_tokens", error.to_string()))
        };
        let (all, plain) = (automaton(true)?, automaton(false)?);
        Ok(Self { tokens, all, plain })
    }

    /// Cuts `text` at the tokens it holds and appends the parts to `out`. Control tokens are seen only with `control`.
    pub(crate) fn split(&self, text: &str, control: bool, out: &mut Vec<Fragment>) {
        let mut start = 0;
        let mut at = 0;
        let automaton = if control { &self.all } else { &self.plain };
        while let Some((automaton, indices)) = automaton {
            let Some(found) = automaton.find(Input::new(text).range(at..)) else { break };
            let index = indices.get(found.pattern().as_usize()).copied().unwrap_or(u32::MAX);
            let Some(token) = self.tokens.get(index as usize) else { break };
            let (mut from, mut to) = (found.start(), found.end());
            at = to;
            if token.single_word && !stands_alone(text, from, to) {
                continue;
            }
            if token.lstrip {
                from = text.get(..from).unwrap_or_default().trim_end().len().max(start);
            }
            if token.rstrip {
                let rest = text.get(to..).unwrap_or_default();
                to += rest.len() - rest.trim_start().len();
                at = to;
            }
            if from > start {
                out.push(Fragment::Text { start, end: from });
            }
            out.push(Fragment::Token { id: token.id });
            start = to;
        }
        if start < text.len() {
            out.push(Fragment::Text { start, end: text.len() });
        }
    }
}

fn stands_alone(text: &str, start: usize, end: usize) -> bool {
    let before = text.get(..start).and_then(|t| t.chars().next_back());
    let after = text.get(end..).and_then(|t| t.chars().next());
    !before.is_some_and(is_word) && !after.is_some_and(is_word)
}

fn is_word(c: char) -> bool {
    static SET: std::sync::LazyLock<CharSet> = std::sync::LazyLock::new(|| CharSet::new(r"\w"));
    SET.contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: u32, text: &str) -> AddedToken {
        AddedToken { id, text: text.to_owned(), ..AddedToken::default() }
    }

    fn split(tokens: Vec<AddedToken>, text: &str, control: bool) -> Vec<String> {
        let mut out = Vec::new();
        AddedTokens::new(tokens).unwrap().split(text, control, &mut out);
        out.iter()
            .map(|f| match f {
                Fragment::Text { start, end } => text[*start..*end].to_owned(),
                Fragment::Token { id } => format!("#{id}"),
            })
            .collect()
    }

    #[test]
    fn the_leftmost_and_longest_wins() {
        let tokens = vec![token(1, "<a>"), token(2, "<a><b>"), token(3, "b>")];
        assert_eq!(split(tokens, "x<a><b><a>b>y", true), ["x", "#2", "#1", "#3", "y"]);
    }

    #[test]
    fn control_tokens_are_text_unless_asked_for() {
        let tokens = vec![AddedToken { control: true, ..token(1, "<|end|>") }, token(2, "<think>")];
        assert_eq!(split(tokens.clone(), "a<|end|><think>", false), ["a<|end|>", "#2"]);
        assert_eq!(split(tokens, "a<|end|><think>", true), ["a", "#1", "#2"]);
    }

    #[test]
    fn strips_and_single_words() {
        let tokens = vec![
            AddedToken { lstrip: true, ..token(1, "<m>") },
            AddedToken { rstrip: true, ..token(2, "<r>") },
            AddedToken { single_word: true, ..token(3, "in") },
        ];
        assert_eq!(
            split(tokens, "a \n<m> b<r> \t c in inside", true),
            ["a", "#1", " b", "#2", "c ", "#3", " inside"]
        );
    }
}
