//! What an answer may consist of, token by token: free thinking within its budget, then text, a grammar, or calls.

mod keys;
mod resume;

use std::sync::Arc;

use levain_engine::{Constraint, TokenMask};
use llguidance::Matcher;

use crate::{
    guide::{Compiled, broken_off},
    reasoning::{PromptState, ReasoningSplitter, ThinkTags},
    table::{Gate, TokenTable},
};

use keys::KeyGuard;

/// Newlines between the end of thinking and a constrained answer, which a grammar need not know about.
const GAP_TOKENS_MAX: u32 = 2;
/// Tokens by which thinking may overrun its budget so as not to be cut inside a character.
const BUDGET_GRACE_TOKENS: u32 = 8;

/// What follows thinking.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    /// Anything.
    Free,
    /// The grammar, from the first byte to the last.
    Guided(Compiled),
    /// Anything, but behind the gate's text the grammar; `once` allows nothing behind that.
    Triggered { gate: Gate, grammar: Compiled, once: bool },
}

/// How the model thinks.
#[derive(Debug, Clone)]
pub(crate) struct Thinking {
    pub(crate) tags: ThinkTags,
    pub(crate) prompt: PromptState,
    /// Thinking tokens; then the closing tokens are forced, and an answer has to follow. So it has to where a model
    /// with a budget ends in the middle of thinking.
    pub(crate) budget: Option<u32>,
    /// The tokens of the closing tag with a newline before it and a blank line behind it.
    pub(crate) closing: Arc<[u32]>,
}

/// The constraint of one answer.
pub(crate) struct AnswerConstraint {
    table: Arc<TokenTable>,
    thinking: Option<ThinkPhase>,
    body: Body,
    run: Run,
}

struct ThinkPhase {
    tags: ThinkTags,
    splitter: ReasoningSplitter,
    budget: Option<u32>,
    spent: u32,
    closing: Arc<[u32]>,
    /// Whether the model would have ended while thinking.
    broken_off: bool,
    /// Closing tokens forced so far.
    closed: usize,
    /// Waits for the closing tag.
    gate: Gate,
    /// What came so far, while it may still become the opening tag.
    lead: Vec<u8>,
    gap: u32,
    /// Bytes of a character that is not complete.
    partial: Vec<u8>,
}

/// Where the body stands.
enum Run {
    Free,
    Guided(Box<Guided>),
    /// The grammar can't match what came; only a block of thinking can follow from here.
    Dead,
    /// Nothing may follow.
    Over,
}

/// A grammar at work.
struct Guided {
    matcher: Matcher,
    keys: Option<KeyGuard>,
}

impl Guided {
    fn start(grammar: &Compiled) -> Run {
        let keys = KeyGuard::new(grammar.keys, grammar.opening);
        Run::Guided(Box::new(Self { matcher: grammar.start(), keys }))
    }
}

impl AnswerConstraint {
    /// The constraint of one answer, or `None` if it would constrain nothing.
    pub(crate) fn new(table: &Arc<TokenTable>, thinking: Option<Thinking>, body: Body) -> Option<Self> {
        let budget = thinking.as_ref().is_some_and(|thinking| thinking.budget.is_some());
        if matches!(body, Body::Free) && !budget {
            return None;
        }
        let thinking = thinking.map(|thinking| ThinkPhase {
            splitter: ReasoningSplitter::new(Some(thinking.tags.clone()), thinking.prompt),
            budget: thinking.budget,
            spent: 0,
            closing: thinking.closing,
            broken_off: false,
            closed: 0,
            gate: Gate::end_of_thinking(&thinking.tags.close),
            tags: thinking.tags,
            lead: Vec::new(),
            gap: 0,
            partial: Vec::new(),
        });
        let mut this = Self { table: Arc::clone(table), thinking, body, run: Run::Free };
        this.restart();
        Some(this)
    }

    /// Puts the body at its beginning.
    fn restart(&mut self) {
        self.run = match &mut self.body {
            Body::Free => Run::Free,
            Body::Guided(grammar) => Guided::start(grammar),
            Body::Triggered { gate, .. } => {
                gate.reset();
                Run::Free
            }
        };
    }

    fn is_guided(&self) -> bool {
        matches!(self.body, Body::Guided(_))
    }

    fn allow_body(&mut self, mask: &mut TokenMask) -> Result<(), String> {
        match &mut self.run {
            Run::Free => {
                mask.allow_all();
                if let Body::Triggered { gate, .. } = &self.body {
                    forbid(mask, &gate.overrunning(&self.table));
                }
                Ok(())
            }
            Run::Guided(guided) if guided.matcher.is_stopped() => {
                guided.matcher.get_error().map_or(Ok(()), |error| Err(broken_off(&error)))
            }
            Run::Guided(guided) => {
                let allowed =
                    guided.matcher.compute_mask().map_err(|error| broken_off(&error.to_string()))?;
                mask.copy_from_words(allowed.as_slice());
                if let Some(keys) = &mut guided.keys {
                    keys.filter(mask, &self.table, &guided.matcher);
                }
                Ok(())
            }
            Run::Dead | Run::Over => Ok(()),
        }
    }

    fn accept_body(&mut self, token: u32) -> Result<(), String> {
        match &mut self.run {
            Run::Free => {
                if let Body::Triggered { gate, grammar, .. } = &mut self.body
                    && gate.push(self.table.bytes(token)).is_some()
                {
                    self.run = Guided::start(grammar);
                }
                Ok(())
            }
            Run::Guided(guided) => {
                let Guided { matcher, keys } = &mut **guided;
                matcher.consume_token(token).map_err(|error| broken_off(&error.to_string()))?;
                if let Some(keys) = keys {
                    keys.push(self.table.bytes(token));
                }
                if let Body::Triggered { once, .. } = self.body
                    && matcher.is_stopped()
                    && matcher.stop_reason().is_ok()
                {
                    self.restart();
                    if once {
                        self.run = Run::Over;
                    }
                }
                Ok(())
            }
            Run::Dead | Run::Over => Ok(()),
        }
    }

    fn body_takes(&mut self, token: u32) -> bool {
        match &mut self.run {
            Run::Guided(guided) => {
                let matcher = &mut guided.matcher;
                !matcher.is_stopped() && matcher.validate_tokens(&[token]).is_ok_and(|valid| valid == 1)
            }
            Run::Free => true,
            Run::Dead | Run::Over => false,
        }
    }

    fn body_may_stop(&mut self) -> bool {
        match &mut self.run {
            Run::Free | Run::Over => true,
            Run::Guided(guided) if guided.matcher.is_stopped() => guided.matcher.stop_reason().is_ok(),
            Run::Guided(guided) => guided.matcher.is_accepting().unwrap_or(false),
            Run::Dead => false,
        }
    }

    /// Takes a token while thinking is not left behind. Returns whether it still is not.
    fn accept_thinking(&mut self, phase: &mut ThinkPhase, token: u32) -> Result<bool, String> {
        let table = Arc::clone(&self.table);
        let bytes = table.bytes(token);
        let (was_thinking, was_gap) = (phase.splitter.is_thinking(), phase.splitter.is_answering());
        let forced = phase.forced().is_some();
        phase.push(bytes);
        if phase.splitter.is_thinking() {
            if !was_thinking {
                self.restart();
            }
            phase.spent = phase.spent.saturating_add(1);
            return Ok(true);
        }
        if was_thinking {
            return Ok(phase.splitter.is_gap());
        }
        if was_gap {
            let blank = !bytes.is_empty() && bytes.iter().all(|&byte| byte == b'\n');
            if blank && (forced || !self.body_takes(token)) {
                phase.gap += 1;
                return Ok(true);
            }
            self.accept_body(token)?;
            return Ok(false);
        }
        phase.lead.extend_from_slice(bytes);
        if self.body_takes(token) {
            self.accept_body(token)?;
        } else {
            self.run = Run::Dead;
        }
        Ok(!phase.splitter.is_answering())
    }
}

impl Constraint for AnswerConstraint {
    fn allowed(&mut self, mask: &mut TokenMask) -> Result<(), String> {
        let Some(phase) = &self.thinking else { return self.allow_body(mask) };
        if let Some(token) = phase.forced() {
            mask.allow(token);
            return Ok(());
        }
        if phase.splitter.is_thinking() {
            if phase.is_spent() {
                return Err("thinking can't be closed".to_owned());
            }
            mask.allow_all();
            if !matches!(self.body, Body::Free) {
                forbid(mask, &phase.gate.overrunning(&self.table));
            }
            return Ok(());
        }
        let gap = phase.splitter.is_answering() && phase.gap < GAP_TOKENS_MAX;
        let opening = (!phase.splitter.is_answering()).then(|| phase.opening_tokens(&self.table));
        let owes_answer = phase.closed > 0 && !self.is_guided();
        self.allow_body(mask)?;
        if owes_answer {
            forbid(mask, self.table.newlines());
        }
        if self.is_guided() {
            if gap {
                let short = |token: &&u32| self.table.bytes(**token).len() <= 2;
                self.table.newlines().iter().filter(short).for_each(|&token| mask.allow(token));
            }
            opening.iter().flat_map(|tokens| tokens.iter()).for_each(|&token| mask.allow(token));
        }
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        let Some(mut phase) = self.thinking.take() else { return self.accept_body(token) };
        if self.accept_thinking(&mut phase, token)? {
            self.thinking = Some(phase);
        }
        Ok(())
    }

    fn may_stop(&mut self) -> bool {
        match &self.thinking {
            Some(phase) if phase.forced().is_some() => false,
            Some(phase) if phase.splitter.is_thinking() => {
                (phase.budget.is_some() || !self.is_guided()) && !phase.is_spent()
            }
            // Thinking was cut, so that an answer would come.
            Some(phase) if phase.closed > 0 && !self.is_guided() => false,
            _ => self.body_may_stop(),
        }
    }

    fn ends(&mut self) -> bool {
        match &mut self.thinking {
            Some(phase) if phase.splitter.is_thinking() && phase.budget.is_some() => {
                phase.broken_off = true;
                false
            }
            _ => true,
        }
    }
}

impl ThinkPhase {
    fn push(&mut self, bytes: &[u8]) {
        self.closed += usize::from(self.forced().is_some());
        if self.splitter.is_thinking() {
            self.gate.push(bytes);
        }
        // Tags are whole characters, so that halves of others can't hide one.
        self.splitter.push(&String::from_utf8_lossy(bytes), &mut Vec::new());
        self.partial.extend_from_slice(bytes);
        match std::str::from_utf8(&self.partial) {
            Err(error) if error.error_len().is_none() => {
                self.partial.drain(..error.valid_up_to());
            }
            _ => self.partial.clear(),
        }
    }

    /// The closing token that has to come next, if one has to. The blank line behind the tag is one of them.
    fn forced(&self) -> Option<u32> {
        let begun = self.splitter.is_thinking() || self.closed > 0;
        self.closing.get(self.closed).copied().filter(|_| begun && self.is_spent())
    }

    fn is_spent(&self) -> bool {
        let Some(budget) = self.budget else { return false };
        self.closed > 0
            || self.broken_off
            || self.spent >= budget.saturating_add(BUDGET_GRACE_TOKENS)
            || (self.spent >= budget && self.partial.is_empty())
    }

    /// Tokens that carry on what may become the opening tag.
    fn opening_tokens(&self, table: &TokenTable) -> Arc<[u32]> {
        let open = self.tags.open.as_bytes();
        let Some(rest) = open.strip_prefix(self.lead.as_slice()) else { return Arc::new([]) };
        table.matching(&format!("open {}", self.tags.open), self.lead.len(), |bytes| {
            let newlines = |tail: &[u8]| tail.iter().all(|&byte| byte == b'\n');
            !bytes.is_empty() && (rest.starts_with(bytes) || bytes.strip_prefix(rest).is_some_and(newlines))
        })
    }
}

fn forbid(mask: &mut TokenMask, tokens: &[u32]) {
    tokens.iter().for_each(|&token| mask.forbid(token));
}

#[cfg(test)]
mod tests;
