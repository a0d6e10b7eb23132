//! A text and how it is cut so far.

use std::{borrow::Cow, ops::Range};

use crate::error::Result;

/// What becomes of the matches of a split. The names are those of `tokenizer.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behavior {
    Removed,
    Isolated,
    MergedWithPrevious,
    MergedWithNext,
    Contiguous,
}

/// A stretch of a piece and whether the pattern matched it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) is_match: bool,
}

/// The stretches of one piece, filled match by match; the gaps are filled in.
pub(crate) struct Stretches {
    list: Vec<Stretch>,
    covered: usize,
}

impl Stretches {
    pub(crate) fn matched(&mut self, start: usize, end: usize) {
        if start > self.covered {
            self.list.push(Stretch { start: self.covered, end: start, is_match: false });
        }
        self.list.push(Stretch { start, end, is_match: true });
        self.covered = end;
    }
}

/// A text cut into pieces, left to right.
pub(crate) struct Pieces<'t> {
    text: Cow<'t, str>,
    ranges: Vec<Range<usize>>,
    /// Whether the first piece is the very beginning of what the user gave.
    pub(crate) at_start: bool,
}

impl<'t> Pieces<'t> {
    pub(crate) fn new(text: Cow<'t, str>, at_start: bool) -> Self {
        let whole = 0..text.len();
        let ranges = if text.is_empty() { Vec::new() } else { vec![whole] };
        Self { text, ranges, at_start }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.ranges.iter().map(|range| self.text.get(range.clone()).unwrap_or_default())
    }

    /// Cuts every piece by the matches that `find` reports.
    pub(crate) fn split(
        &mut self,
        behavior: Behavior,
        invert: bool,
        mut find: impl FnMut(&str, &mut Stretches) -> Result<()>,
    ) -> Result<()> {
        let mut cut = Vec::with_capacity(self.ranges.len());
        let mut stretches = Stretches { list: Vec::new(), covered: 0 };
        for range in &self.ranges {
            let piece = self.text.get(range.clone()).unwrap_or_default();
            stretches.list.clear();
            stretches.covered = 0;
            find(piece, &mut stretches)?;
            if stretches.covered < piece.len() {
                let rest = Stretch { start: stretches.covered, end: piece.len(), is_match: false };
                stretches.list.push(rest);
            }
            if invert {
                stretches.list.iter_mut().for_each(|s| s.is_match = !s.is_match);
            }
            arrange(&stretches.list, behavior, range.start, &mut cut);
        }
        self.ranges = cut;
        Ok(())
    }

    /// Replaces the text of every piece.
    pub(crate) fn rewrite(&mut self, mut write: impl FnMut(usize, &str, &mut String)) {
        let mut text = String::with_capacity(self.text.len() + self.ranges.len());
        let mut ranges = Vec::with_capacity(self.ranges.len());
        for (index, range) in self.ranges.iter().enumerate() {
            let start = text.len();
            write(index, self.text.get(range.clone()).unwrap_or_default(), &mut text);
            if text.len() > start {
                ranges.push(start..text.len());
            }
        }
        self.text = Cow::Owned(text);
        self.ranges = ranges;
    }
}

fn arrange(stretches: &[Stretch], behavior: Behavior, base: usize, out: &mut Vec<Range<usize>>) {
    let first = out.len();
    let range = |s: &Stretch| base + s.start..base + s.end;
    let mut before_matched = false;
    match behavior {
        Behavior::Removed => out.extend(stretches.iter().filter(|s| !s.is_match).map(range)),
        Behavior::Isolated => out.extend(stretches.iter().map(range)),
        Behavior::Contiguous | Behavior::MergedWithPrevious => {
            for stretch in stretches {
                let joins = if behavior == Behavior::Contiguous {
                    stretch.is_match == before_matched
                } else {
                    stretch.is_match && !before_matched
                };
                before_matched = stretch.is_match;
                if joins
                    && out.len() > first
                    && let Some(last) = out.last_mut()
                {
                    last.end = base + stretch.end;
                } else {
                    out.push(range(stretch));
                }
            }
        }
        Behavior::MergedWithNext => {
            for stretch in stretches.iter().rev() {
                let joins = stretch.is_match && !before_matched;
                before_matched = stretch.is_match;
                if joins
                    && out.len() > first
                    && let Some(last) = out.last_mut()
                {
                    last.start = base + stretch.start;
                } else {
                    out.push(range(stretch));
                }
            }
            if let Some(new) = out.get_mut(first..) {
                new.reverse();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaviors_as_published() {
        // The example of the Hugging Face documentation: "-" in "the-final--countdown".
        let check = |behavior, expected: &[&str]| {
            let mut pieces = Pieces::new("the-final--countdown".into(), true);
            pieces
                .split(behavior, false, |text, out| {
                    text.match_indices('-').for_each(|(at, m)| out.matched(at, at + m.len()));
                    Ok(())
                })
                .unwrap();
            assert_eq!(pieces.iter().collect::<Vec<_>>(), expected, "{behavior:?}");
        };
        check(Behavior::Removed, &["the", "final", "countdown"]);
        check(Behavior::Isolated, &["the", "-", "final", "-", "-", "countdown"]);
        check(Behavior::MergedWithPrevious, &["the-", "final-", "-", "countdown"]);
        check(Behavior::MergedWithNext, &["the", "-final", "-", "-countdown"]);
        check(Behavior::Contiguous, &["the", "-", "final", "--", "countdown"]);
    }
}
