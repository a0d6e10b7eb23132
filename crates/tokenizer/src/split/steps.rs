//! The steps of a pre-tokenizer, one after the other.

use regex_syntax::hir::{Class, HirKind};

use super::{
    pattern::Pattern,
    pieces::{Behavior, Pieces},
};
use crate::error::Result;

/// GPT-2's pattern, which `ByteLevel` uses by itself.
pub(crate) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// When a word mark is put in front of a text that has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prepend {
    Always,
    First,
    Never,
}

/// One step of a pre-tokenizer.
pub(crate) enum Step {
    /// Cut by a pattern.
    Split { pattern: Box<Pattern>, behavior: Behavior, invert: bool },
    /// Cut by a property of single characters.
    Chars { is: fn(char) -> bool, behavior: Behavior },
    /// Cut at one character.
    Delimiter { delimiter: char, behavior: Behavior },
    /// Put a blank in front of every piece that has none.
    PrefixSpace,
    /// Blanks become a visible mark; one is put in front; cut before each. A piece that begins with a mark gets
    /// another one only if `doubled`.
    Metaspace { mark: char, prepend: Prepend, doubled: bool, split: bool },
    /// Runs of digits are cut into groups of three from the right; with `whole_words` only those that end a word.
    DigitGroups { is: fn(char) -> bool, whole_words: bool },
    /// Cuts in front of every group of three digits, counted from the right of their run.
    DigitCuts,
    /// Pieces of so many characters.
    FixedLength(usize),
}

impl Step {
    pub(crate) fn pattern(pattern: &str, behavior: Behavior) -> Result<Self> {
        Ok(Self::Split { pattern: Box::new(Pattern::new(pattern)?), behavior, invert: false })
    }

    /// As [`Self::pattern`], but knows the published patterns that look ahead without a limit and says what they mean.
    pub(crate) fn regex(pattern: &str, behavior: Behavior, invert: bool) -> Result<Self> {
        if behavior == Behavior::Isolated && !invert {
            match pattern {
                r"\p{N}{1,3}(?=(?:\p{N}{3})*(?:\P{N}|$))" => {
                    return Ok(Self::DigitGroups { is: char::is_numeric, whole_words: false });
                }
                r"\d{1,3}(?=(?:\d{3})*\b)" => {
                    return Ok(Self::DigitGroups { is: is_decimal, whole_words: true });
                }
                r"(?=(\d{3})+(?!\d))" => return Ok(Self::DigitCuts),
                _ => {}
            }
        }
        Ok(Self::Split { pattern: Box::new(Pattern::new(pattern)?), behavior, invert })
    }

    pub(crate) fn apply(&self, pieces: &mut Pieces<'_>) -> Result<()> {
        match self {
            Self::Split { pattern, behavior, invert } => pieces.split(*behavior, *invert, |text, out| {
                pattern.for_each_match(text, |start, end| out.matched(start, end))
            }),
            Self::Chars { is, behavior } => pieces.split(*behavior, false, |text, out| {
                text.char_indices()
                    .filter(|(_, c)| is(*c))
                    .for_each(|(at, c)| out.matched(at, at + c.len_utf8()));
                Ok(())
            }),
            Self::Delimiter { delimiter, behavior } => pieces.split(*behavior, false, |text, out| {
                text.match_indices(*delimiter).for_each(|(at, m)| out.matched(at, at + m.len()));
                Ok(())
            }),
            Self::PrefixSpace => {
                pieces.rewrite(|_, piece, out| {
                    if !piece.starts_with(' ') {
                        out.push(' ');
                    }
                    out.push_str(piece);
                });
                Ok(())
            }
            Self::Metaspace { mark, prepend, doubled, split } => {
                let at_start = pieces.at_start;
                pieces.rewrite(|index, piece, out| {
                    let marked = !doubled && (piece.starts_with(' ') || piece.starts_with(*mark));
                    let wanted = match prepend {
                        Prepend::Always => true,
                        Prepend::First => at_start && index == 0,
                        Prepend::Never => false,
                    };
                    if wanted && !marked {
                        out.push(*mark);
                    }
                    out.extend(piece.chars().map(|c| if c == ' ' { *mark } else { c }));
                });
                if *split {
                    let step = Self::Delimiter { delimiter: *mark, behavior: Behavior::MergedWithNext };
                    step.apply(pieces)?;
                }
                Ok(())
            }
            Self::DigitGroups { is, whole_words } => pieces.split(Behavior::Isolated, false, |text, out| {
                group_digits(text, *is, *whole_words, |start, end| out.matched(start, end));
                Ok(())
            }),
            Self::DigitCuts => pieces.split(Behavior::Isolated, false, |text, out| {
                let mut from = 0;
                group_digits(text, is_decimal, false, |start, end| {
                    let full = text.get(start..end).is_some_and(|group| group.chars().count() == 3);
                    if full && start > from {
                        out.matched(from, start);
                        from = start;
                    }
                });
                Ok(())
            }),
            Self::FixedLength(length) => pieces.split(Behavior::Isolated, false, |text, out| {
                let mut start = 0;
                for (count, (at, _)) in text.char_indices().enumerate() {
                    if count > 0 && count % length == 0 {
                        out.matched(start, at);
                        start = at;
                    }
                }
                out.matched(start, text.len());
                Ok(())
            }),
        }
    }
}

/// Reports the groups of three, counted from the right, of every run of digits.
fn group_digits(text: &str, is: fn(char) -> bool, whole_words: bool, mut found: impl FnMut(usize, usize)) {
    let mut run: Vec<usize> = Vec::new();
    let mut flush = |run: &mut Vec<usize>, end: usize| {
        let mut at = 0;
        let mut size = match run.len() % 3 {
            0 => 3,
            rest => rest,
        };
        while at < run.len() {
            let start = run.get(at).copied().unwrap_or(end);
            found(start, run.get(at + size).copied().unwrap_or(end));
            at += size;
            size = 3;
        }
        run.clear();
    };
    for (at, c) in text.char_indices() {
        if is(c) {
            run.push(at);
        } else {
            if whole_words && is_word(c) {
                run.clear();
            }
            flush(&mut run, at);
        }
    }
    flush(&mut run, text.len());
}

/// Sorted ranges of characters: a property that the standard library lacks.
pub(crate) struct CharSet(Vec<(char, char)>);

impl CharSet {
    /// The characters of a class in the notation of patterns.
    pub(crate) fn new(class: &str) -> Self {
        let ranges = match regex_syntax::parse(class).map(|hir| hir.into_kind()) {
            Ok(HirKind::Class(Class::Unicode(class))) => {
                class.ranges().iter().map(|r| (r.start(), r.end())).collect()
            }
            _ => Vec::new(),
        };
        Self(ranges)
    }

    pub(crate) fn contains(&self, c: char) -> bool {
        self.0
            .binary_search_by(|(start, end)| {
                if *end < c {
                    std::cmp::Ordering::Less
                } else if *start > c {
                    std::cmp::Ordering::Greater
                } else {
                    std::cmp::Ordering::Equal
                }
            })
            .is_ok()
    }
}

/// Punctuation as BERT and `tokenizer.json` mean it: all of ASCII's marks and Unicode's category P.
pub(crate) fn is_punctuation(c: char) -> bool {
    static SET: std::sync::LazyLock<CharSet> = std::sync::LazyLock::new(|| CharSet::new(r"\p{P}"));
    c.is_ascii_punctuation() || (!c.is_ascii() && SET.contains(c))
}

/// Characters of words, as patterns mean them by `\w`.
fn is_word(c: char) -> bool {
    static SET: std::sync::LazyLock<CharSet> =
        std::sync::LazyLock::new(|| CharSet::new(r"[\p{Alphabetic}\p{M}\p{N}\p{Pc}]"));
    c.is_ascii_alphanumeric() || c == '_' || (!c.is_ascii() && SET.contains(c))
}

/// Digits in the narrow sense, Unicode's category Nd.
pub(crate) fn is_decimal(c: char) -> bool {
    static SET: std::sync::LazyLock<CharSet> = std::sync::LazyLock::new(|| CharSet::new(r"\p{Nd}"));
    c.is_ascii_digit() || (!c.is_ascii() && SET.contains(c))
}

/// Marks of all kinds, Unicode's category M.
pub(crate) fn is_mark(c: char) -> bool {
    static SET: std::sync::LazyLock<CharSet> = std::sync::LazyLock::new(|| CharSet::new(r"\p{M}"));
    !c.is_ascii() && SET.contains(c)
}

/// Marks that take no room of their own, Unicode's category Mn.
pub(crate) fn is_nonspacing_mark(c: char) -> bool {
    static SET: std::sync::LazyLock<CharSet> = std::sync::LazyLock::new(|| CharSet::new(r"\p{Mn}"));
    !c.is_ascii() && SET.contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(text: &str, whole_words: bool) -> Vec<&str> {
        let mut out = Vec::new();
        group_digits(text, is_decimal, whole_words, |start, end| out.push(&text[start..end]));
        out
    }

    #[test]
    fn digits_are_grouped_from_the_right() {
        assert_eq!(groups("1234567 12 123a1234", false), ["1", "234", "567", "12", "123", "1", "234"]);
        assert_eq!(groups("1234567 12 123a1234", true), ["1", "234", "567", "12", "1", "234"]);
        assert_eq!(groups("no digits", false), [""; 0]);
    }
}
