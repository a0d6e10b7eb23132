//! Regular expressions of schemas: whether they can be enforced, what they match, and which keys they leave.

use std::collections::HashMap;

use llguidance::{
    derivre::{Regex, RegexAst, RegexBuilder},
    regex_to_lark,
};
use regex_syntax::hir::{
    Hir, HirKind, Look,
    literal::{ExtractKind, Extractor},
};

/// Work that one question about an expression may take.
const FUEL: u64 = 20_000;
/// Nodes of an expression with its bounded repetitions written out: about as many states has its automaton at least.
const STATES_MAX: u64 = 10_000;
/// Keys that are written out one by one where an expression has only so many.
pub(super) const KEYS_LISTED_MAX: usize = 64;

/// Why an expression can't be enforced, for users; `None` if it can.
pub(super) fn fault(pattern: &str) -> Option<&'static str> {
    let Ok(hir) = parse(pattern) else {
        let around = ["(?=", "(?!", "(?<=", "(?<!"].iter().any(|mark| pattern.contains(mark));
        return Some(if around {
            "look-ahead and look-behind can't be enforced; rewrite the expression without them"
        } else {
            "can't be read as a regular expression; back-references and look-around are not supported"
        });
    };
    if states(&hir) > STATES_MAX {
        return Some("repeats too often; use smaller bounds");
    }
    if !anchors_at_ends(&hir) {
        return Some("has `^`, `$` or `\\b` in the middle; anchor the expression only at its ends");
    }
    let mut builder = RegexBuilder::new();
    let sought = builder.mk(&search(pattern));
    match sought.and_then(|sought| builder.to_regex_limited(sought, FUEL)) {
        Ok(_) => None,
        Err(_) => Some("is too complex to be enforced; make it simpler"),
    }
}

fn parse(pattern: &str) -> Result<Hir, ()> {
    regex_syntax::Parser::new().parse(&regex_to_lark(pattern, "dw")).map_err(|_| ())
}

fn search(pattern: &str) -> RegexAst {
    RegexAst::SearchRegex(regex_to_lark(pattern, "dw"))
}

/// What the grammar of a bounded repetition costs, multiplied out.
fn states(hir: &Hir) -> u64 {
    match hir.kind() {
        HirKind::Repetition(repetition) => {
            let times = u64::from(repetition.max.unwrap_or(repetition.min).max(1));
            states(&repetition.sub).saturating_mul(times)
        }
        HirKind::Capture(capture) => states(&capture.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => {
            parts.iter().fold(1, |sum, part| sum.saturating_add(states(part)))
        }
        HirKind::Literal(literal) => literal.0.len() as u64,
        _ => 1,
    }
}

fn has_look(hir: &Hir) -> bool {
    !hir.properties().look_set().is_empty()
}

fn anchors_at_ends(hir: &Hir) -> bool {
    let (start, body, end) = parts(hir);
    let _ = (start, end);
    body.iter().all(|part| !has_look(part))
        || matches!(body.as_slice(), [one] if matches!(inner(one).kind(), HirKind::Alternation(options) if options.iter().all(anchors_at_ends)))
}

/// Groups don't matter.
fn inner(hir: &Hir) -> &Hir {
    match hir.kind() {
        HirKind::Capture(capture) => inner(&capture.sub),
        _ => hir,
    }
}

/// Whether the expression is anchored at its start, what it consists of, and whether it is anchored at its end.
fn parts(hir: &Hir) -> (bool, Vec<Hir>, bool) {
    let hir = inner(hir);
    let mut body: Vec<Hir> = match hir.kind() {
        HirKind::Concat(parts) => parts.clone(),
        _ => vec![hir.clone()],
    };
    let is = |part: Option<&Hir>, look: Look| {
        part.is_some_and(|part| matches!(part.kind(), HirKind::Look(at) if *at == look))
    };
    let (mut start, mut end) = (false, false);
    while is(body.first(), Look::Start) {
        start = true;
        body.remove(0);
    }
    while is(body.last(), Look::End) {
        end = true;
        body.pop();
    }
    (start, body, end)
}

/// What a key's expression leaves for further keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Keys {
    /// Whatever a key begins with, there is always another one that begins so.
    Open,
    /// These keys and no others.
    Listed(Vec<String>),
    /// Keys may run out.
    Tight,
}

/// Which keys an expression admits.
pub(super) fn keys(pattern: &str) -> Keys {
    let Ok(hir) = parse(pattern) else { return Keys::Tight };
    if is_open(&hir) {
        return Keys::Open;
    }
    let (start, body, end) = parts(&hir);
    if !start || !end || body.iter().any(has_look) {
        return Keys::Tight;
    }
    let mut extractor = Extractor::new();
    extractor.kind(ExtractKind::Prefix).limit_class(36).limit_repeat(4).limit_literal_len(256);
    extractor.limit_total(KEYS_LISTED_MAX);
    let words = extractor.extract(&Hir::concat(body));
    let Some(literals) = words.literals().filter(|_| words.is_exact()) else { return Keys::Tight };
    let mut listed: Vec<String> = Vec::new();
    for literal in literals {
        let Ok(word) = std::str::from_utf8(literal.as_bytes()) else { return Keys::Tight };
        if !listed.iter().any(|known| known == word) {
            listed.push(word.to_owned());
        }
    }
    Keys::Listed(listed)
}

fn is_open(hir: &Hir) -> bool {
    let (_, body, end) = parts(hir);
    if let [one] = body.as_slice()
        && let HirKind::Alternation(options) = inner(one).kind()
    {
        return if end { options.iter().all(ends_in_loop) } else { options.iter().all(is_open) };
    }
    // Behind the match may stand anything.
    if !end {
        return !body.iter().any(has_look);
    }
    !body.iter().any(has_look) && body.last().is_some_and(ends_in_loop)
}

fn ends_in_loop(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Repetition(repetition) => {
            repetition.max.is_none() && repetition.sub.properties().maximum_len() != Some(0)
        }
        HirKind::Capture(capture) => ends_in_loop(&capture.sub),
        HirKind::Concat(parts) => parts.last().is_some_and(ends_in_loop),
        HirKind::Alternation(options) => options.iter().all(ends_in_loop),
        _ => false,
    }
}

/// Answers questions about expressions, and remembers them.
#[derive(Default)]
pub(super) struct Patterns {
    compiled: HashMap<String, Option<Regex>>,
}

impl Patterns {
    /// Whether an expression matches a text; `None` if it can't be told.
    pub(super) fn matches(&mut self, pattern: &str, text: &str) -> Option<bool> {
        let regex = self.compiled.entry(pattern.to_owned()).or_insert_with(|| {
            let mut builder = RegexBuilder::new();
            let sought = builder.mk(&search(pattern)).ok()?;
            builder.to_regex_limited(sought, FUEL).ok()
        });
        regex.as_mut().map(|regex| regex.is_match(text))
    }

    /// Whether texts of these expressions exist; `None` if it can't be told within bounds.
    pub(super) fn can_match(patterns: &[String], length: (u64, Option<u64>)) -> Option<bool> {
        let mut all: Vec<RegexAst> = patterns.iter().map(|pattern| search(pattern)).collect();
        let most = length.1.map(|most| most.to_string()).unwrap_or_default();
        all.push(RegexAst::Regex(format!("(?s:.{{{},{most}}})", length.0)));
        let mut builder = RegexBuilder::new();
        let both = builder.mk(&RegexAst::And(all)).ok()?;
        builder.to_regex_limited(both, FUEL).ok().map(|mut regex| !regex.always_empty())
    }

    /// Whether no text matches both expressions; `None` if it can't be told.
    pub(super) fn are_disjoint(a: &str, b: &str) -> Option<bool> {
        Self::can_match(&[a.to_owned(), b.to_owned()], (0, None)).map(|can| !can)
    }
}
