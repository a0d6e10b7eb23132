//! Split patterns in linear time.
//!
//! Published tokenizers describe their splits by regular expressions of backtracking engines. Here they run on a
//! lazily built automaton, so no text can make them slow. The one thing automata lack, looking ahead, is used by
//! published patterns in two ways, and both are rewritten: an alternative that ends in `(?!\S)` (or looks at any
//! other single character), and groups of three digits counted from the right (see [`super::digits`]).

use regex_automata::{
    Anchored, Input, MatchKind,
    hybrid::dfa::{Cache, DFA},
    nfa::thompson,
    util::{pool::Pool, primitives::PatternID, syntax},
};

use super::rewrite::{self, Alternative};
use crate::error::{Result, TokenizerError};

/// Steps allowed per byte of text, over all matches in it. Published patterns need fewer than ten.
const STEPS_PER_BYTE_MAX: u64 = 512;
/// Steps that are always allowed.
const STEPS_FREE: u64 = 1 << 16;
/// Bytes of a pattern's text.
const PATTERN_BYTES_MAX: usize = 1 << 16;
/// Bytes that a compiled pattern may take before its states are built.
const NFA_BYTES_MAX: usize = 16 << 20;
/// Bytes of automaton states kept between texts, for each thread that encodes at the same time.
const STATE_BYTES_MAX: usize = 8 << 20;

type MakeCaches = Box<dyn Fn() -> (Cache, Cache) + Send + Sync>;

/// A compiled split pattern.
pub(crate) struct Pattern {
    forward: DFA,
    reverse: DFA,
    /// For each alternative: whether its last character was only looked at.
    looks_ahead: Vec<bool>,
    caches: Pool<(Cache, Cache), MakeCaches>,
}

impl Pattern {
    /// Compiles a pattern written for Oniguruma, the dialect of `tokenizer.json`.
    pub(crate) fn new(pattern: &str) -> Result<Self> {
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(TokenizerError::TooLarge {
                part: "a split pattern".into(),
                found: pattern.len() as u64,
                limit: PATTERN_BYTES_MAX as u64,
            });
        }
        Self::compile(pattern, &rewrite::alternatives(pattern)?)
    }

    /// Compiles a pattern that matches `text` and nothing else.
    pub(crate) fn literal(text: &str) -> Result<Self> {
        let escaped = regex_syntax::escape(text);
        Self::compile(&escaped, &[Alternative { pattern: escaped.clone(), looks_ahead: false }])
    }

    /// Words and runs of other characters, as the `Whitespace` pre-tokenizer finds them: here `\w` has the meaning that
    /// the Rust engines give it.
    pub(crate) fn words() -> Result<Self> {
        let pattern = r"\w+|[^\w\s]+";
        Self::compile(pattern, &[Alternative { pattern: pattern.to_owned(), looks_ahead: false }])
    }

    fn compile(original: &str, alternatives: &[Alternative]) -> Result<Self> {
        let refuse = |problem: String| TokenizerError::Pattern { pattern: original.to_owned(), problem };
        let patterns: Vec<&str> = alternatives.iter().map(|a| a.pattern.as_str()).collect();
        let build = |reverse: bool| {
            let config = DFA::config()
                .match_kind(if reverse { MatchKind::All } else { MatchKind::LeftmostFirst })
                .cache_capacity(STATE_BYTES_MAX)
                .starts_for_each_pattern(reverse)
                .skip_cache_capacity_check(true);
            DFA::builder()
                .configure(config)
                .syntax(syntax::Config::new().multi_line(true).nest_limit(64))
                .thompson(thompson::Config::new().reverse(reverse).nfa_size_limit(Some(NFA_BYTES_MAX)))
                .build_many(&patterns)
                .map_err(|error| {
                    let mut text = error.to_string();
                    let mut cause = std::error::Error::source(&error);
                    while let Some(inner) = cause {
                        text = format!("{text}: {inner}");
                        cause = inner.source();
                    }
                    refuse(text)
                })
        };
        let (forward, reverse) = (build(false)?, build(true)?);
        let (for_forward, for_reverse) = (forward.clone(), reverse.clone());
        let make: MakeCaches = Box::new(move || (for_forward.create_cache(), for_reverse.create_cache()));
        let looks_ahead = alternatives.iter().map(|a| a.looks_ahead).collect();
        Ok(Self { forward, reverse, looks_ahead, caches: Pool::new(make) })
    }

    /// Calls `found` with the start and end of every match in `text`, left to right; empty matches are passed over.
    pub(crate) fn for_each_match(&self, text: &str, mut found: impl FnMut(usize, usize)) -> Result<()> {
        let mut caches = self.caches.get();
        let (forward, reverse) = &mut *caches;
        let mut search = Search {
            pattern: self,
            text,
            steps: 0,
            steps_max: (text.len() as u64).saturating_mul(STEPS_PER_BYTE_MAX).saturating_add(STEPS_FREE),
        };
        let mut at = 0;
        while at < text.len() {
            // Most patterns cover the text without gaps: try here first, which also saves finding the start.
            let (start, end) = match search.find_end(forward, at, Anchored::Yes)? {
                Some(end) => (at, end),
                None => match search.find_end(forward, at, Anchored::No)? {
                    None => break,
                    Some(end) => (search.find_start(reverse, at, end)?, end),
                },
            };
            let end = search.without_lookahead(end);
            if end > start {
                found(start, end);
                at = end;
            } else {
                // An empty match: go on behind the next character.
                let from = start.max(at);
                at = from + text.get(from..).and_then(|t| t.chars().next()).map_or(1, char::len_utf8);
            }
        }
        Ok(())
    }
}

/// The end of a match, as the automaton reports it.
#[derive(Clone, Copy)]
struct MatchEnd {
    pattern: PatternID,
    at: usize,
}

struct Search<'a> {
    pattern: &'a Pattern,
    text: &'a str,
    steps: u64,
    steps_max: u64,
}

impl Search<'_> {
    fn out_of_states(&self) -> TokenizerError {
        TokenizerError::Work { steps: self.steps }
    }

    fn step_from(&mut self, steps: usize) -> Result<()> {
        self.steps = self.steps.saturating_add(steps as u64);
        if self.steps > self.steps_max { Err(self.out_of_states()) } else { Ok(()) }
    }

    /// Where the leftmost match from `at` on ends; of several, the earliest alternative's.
    fn find_end(&mut self, cache: &mut Cache, at: usize, anchored: Anchored) -> Result<Option<MatchEnd>> {
        let dfa = &self.pattern.forward;
        let bytes = self.text.as_bytes();
        let input = Input::new(bytes).range(at..).anchored(anchored);
        let mut state = dfa.start_state_forward(cache, &input).map_err(|_| self.out_of_states())?;
        let mut last = None;
        let mut position = at;
        for &byte in bytes.get(at..).unwrap_or_default() {
            state = dfa.next_state(cache, state, byte).map_err(|_| self.out_of_states())?;
            if state.is_tagged() {
                if state.is_match() {
                    last = Some(MatchEnd { pattern: dfa.match_pattern(cache, state, 0), at: position });
                } else if state.is_dead() {
                    self.step_from(position - at + 1)?;
                    return Ok(last);
                } else if state.is_quit() {
                    return Err(self.out_of_states());
                }
            }
            position += 1;
        }
        self.step_from(position - at + 1)?;
        state = dfa.next_eoi_state(cache, state).map_err(|_| self.out_of_states())?;
        if state.is_match() {
            last = Some(MatchEnd { pattern: dfa.match_pattern(cache, state, 0), at: position });
        }
        Ok(last)
    }

    /// Where the match that ends at `end` starts, not before `from`.
    fn find_start(&mut self, cache: &mut Cache, from: usize, end: MatchEnd) -> Result<usize> {
        let input =
            Input::new(self.text.as_bytes()).range(from..end.at).anchored(Anchored::Pattern(end.pattern));
        self.step_from(end.at - from)?;
        let found = self.pattern.reverse.try_search_rev(cache, &input).map_err(|_| self.out_of_states())?;
        Ok(found.map_or(end.at, |half| half.offset()))
    }

    /// Drops the last character of the match if the alternative only looked at it.
    fn without_lookahead(&self, end: MatchEnd) -> usize {
        if self.pattern.looks_ahead.get(end.pattern.as_usize()).copied() != Some(true) {
            return end.at;
        }
        let last = self.text.get(..end.at).and_then(|t| t.chars().next_back()).map_or(0, char::len_utf8);
        end.at - last
    }
}
