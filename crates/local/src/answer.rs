//! One answer of a chat while it arrives: tokens become thinking, text, calls and log-probabilities.
//!
//! It runs in the engine's sink, so that a stop text ends the sequence at its very token and thinking is timed where
//! it happens. The work for a token is small and never waits.
//!
//! An answer may go on with what has been said already. That is read like the rest of it, so that what follows is known
//! to be thinking, text or arguments, and is left out of what is handed out; but a call that it begins is handed out
//! whole, because half of one is of no use.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use levain_chat::{ChatEvent, FinishReason, TokenLogprob, TopLogprob};
use levain_tokenizer::{DetokenizerState, Tokenizer};

use crate::{
    reasoning::{Piece, PromptState, ReasoningSplitter, Section, ThinkTags},
    stop::{StopMatcher, StopOutput},
    tools::{ToolParser, ToolPiece, ToolSyntax},
};

/// How the answers of a request are read.
#[derive(Debug, Clone)]
pub(crate) struct AnswerShape {
    pub(crate) tags: Option<ThinkTags>,
    pub(crate) prompt: PromptState,
    /// What has been said of the answer already.
    pub(crate) said: String,
    /// The syntax of calls and the functions on offer, if some are.
    pub(crate) tools: Option<(ToolSyntax, Vec<String>)>,
    pub(crate) stops: Vec<String>,
    pub(crate) logprobs: bool,
    /// Control tokens that stand for their own text: marks of think and tool syntax.
    pub(crate) marks: Arc<[u32]>,
}

/// One answer.
pub(crate) struct Answer {
    index: u32,
    tokenizer: Arc<Tokenizer>,
    marks: Arc<[u32]>,
    detokenizer: DetokenizerState,
    splitter: ReasoningSplitter,
    tools: Option<ToolParser>,
    stop: StopMatcher,
    logprobs: bool,
    /// Bytes of text so far, with what was said before.
    offset: u64,
    /// Bytes of what was said before.
    said: u64,
    /// What a call that was begun before adds to the answer.
    early: Vec<ChatEvent>,
    /// Tokens whose text was not handed out yet, with the bytes of the text that they are behind.
    queue: VecDeque<(u64, u64, TokenLogprob)>,
    calls: u32,
    tokens: u64,
    reasoning_tokens: u64,
    first_token: Option<Instant>,
    reasoning_time: Duration,
    stopped: bool,
    pieces: Vec<Piece>,
    tool_pieces: Vec<ToolPiece>,
}

impl Answer {
    pub(crate) fn new(index: u32, tokenizer: &Arc<Tokenizer>, shape: &AnswerShape) -> Self {
        let detokenizer = match shape.said.as_str() {
            "" => DetokenizerState::new(tokenizer),
            _ => DetokenizerState::continuing(tokenizer),
        };
        let mut this = Self {
            index,
            tokenizer: Arc::clone(tokenizer),
            marks: Arc::clone(&shape.marks),
            detokenizer,
            splitter: ReasoningSplitter::new(shape.tags.clone(), shape.prompt),
            tools: shape.tools.clone().map(|(syntax, names)| ToolParser::new(syntax, names)),
            stop: StopMatcher::new(&shape.stops),
            logprobs: shape.logprobs,
            offset: 0,
            said: shape.said.len() as u64,
            early: Vec::new(),
            queue: VecDeque::new(),
            calls: 0,
            tokens: 0,
            reasoning_tokens: 0,
            first_token: None,
            reasoning_time: Duration::ZERO,
            stopped: false,
            pieces: Vec::new(),
            tool_pieces: Vec::new(),
        };
        let mut early = Vec::new();
        this.text(&shape.said, &mut early);
        this.early = early;
        this
    }

    /// Whether a stop text has ended it.
    pub(crate) fn stopped(&self) -> bool {
        self.stopped
    }

    /// Tokens it thought with.
    pub(crate) fn reasoning_tokens(&self) -> u64 {
        self.reasoning_tokens
    }

    /// How long it thought, from its first token to the closing tag.
    pub(crate) fn reasoning_time(&self) -> Duration {
        self.reasoning_time
    }

    /// Takes a token and hands out what it makes certain.
    pub(crate) fn push(
        &mut self,
        id: u32,
        logprob: Option<f32>,
        top: &[(u32, f32)],
        out: &mut Vec<ChatEvent>,
    ) {
        if self.stopped {
            return;
        }
        out.append(&mut self.early);
        let first = *self.first_token.get_or_insert_with(Instant::now);
        let before = self.splitter.is_answering();
        self.tokens += 1;
        if self.splitter.is_thinking() {
            self.queue.clear();
        }
        self.detokenizer.show_control(self.marks.contains(&id));
        let text = self.detokenizer.push(&self.tokenizer, id);
        if self.logprobs {
            let entry = token_logprob(&self.tokenizer, id, logprob, top);
            if !entry.bytes.is_empty() {
                // A token that only begins a character is behind that character.
                let end = self.offset + (text.len() as u64).max(1);
                self.queue.push_back((self.offset, end, entry));
            }
        }
        self.text(&text, out);
        if self.splitter.is_thinking()
            || (!before && self.splitter.is_answering() && self.splitter.has_thought())
        {
            self.reasoning_tokens = self.tokens;
            self.reasoning_time = first.elapsed();
        }
    }

    /// Hands out what was held back, and why the answer ended. Where it was cut off, half a character and what may be
    /// the beginning of a tag or of a call are dropped: they would come out as text that nobody meant.
    pub(crate) fn finish(&mut self, reason: FinishReason, out: &mut Vec<ChatEvent>) {
        out.append(&mut self.early);
        let ended = reason == FinishReason::Stop;
        if ended && !self.stopped {
            let rest = self.detokenizer.flush();
            self.text(&rest, out);
            self.splitter.finish(&mut self.pieces);
            self.drain_pieces(out);
        }
        if ended
            && !self.stopped
            && let Some(mut tools) = self.tools.take()
        {
            tools.finish(&mut self.tool_pieces);
            self.drain_tool_pieces(out);
            self.tools = Some(tools);
        }
        if !self.stopped {
            let rest = self.stop.flush();
            self.emit_text(rest, out);
        }
        let reason = match reason {
            FinishReason::Stop if self.calls > 0 => FinishReason::ToolCalls,
            other => other,
        };
        out.push(ChatEvent::Finish { index: self.index, reason });
    }

    fn text(&mut self, text: &str, out: &mut Vec<ChatEvent>) {
        if !text.is_empty() {
            self.offset += text.len() as u64;
            self.splitter.push(text, &mut self.pieces);
            self.drain_pieces(out);
        }
    }

    fn drain_pieces(&mut self, out: &mut Vec<ChatEvent>) {
        for piece in std::mem::take(&mut self.pieces) {
            if self.stopped {
                return;
            }
            match (piece.section, &mut self.tools) {
                (Section::Reasoning, _) => {
                    let (_, text) = self.unsaid(piece.start, &piece.text);
                    if !text.is_empty() {
                        out.push(ChatEvent::Reasoning { index: self.index, text: text.to_owned() });
                    }
                }
                (Section::Answer, Some(tools)) => {
                    tools.push(piece.start, &piece.text, &mut self.tool_pieces);
                    self.drain_tool_pieces(out);
                }
                (Section::Answer, None) => self.answer_text(piece.start, &piece.text, out),
            }
        }
    }

    fn drain_tool_pieces(&mut self, out: &mut Vec<ChatEvent>) {
        let index = self.index;
        for piece in std::mem::take(&mut self.tool_pieces) {
            if self.stopped {
                return;
            }
            match piece {
                ToolPiece::Text { start, text } => self.answer_text(start, &text, out),
                ToolPiece::CallStart { name } => {
                    let rest = self.stop.flush();
                    self.emit_text(rest, out);
                    out.push(ChatEvent::ToolCallStart { index, call: self.calls, id: call_id(), name });
                    self.calls += 1;
                }
                ToolPiece::Arguments(fragment) => {
                    let call = self.calls.saturating_sub(1);
                    out.push(ChatEvent::ToolCallArguments { index, call, fragment });
                }
            }
        }
    }

    /// The part of a piece that was not said before, with its offset.
    fn unsaid<'t>(&self, start: u64, text: &'t str) -> (u64, &'t str) {
        let known = usize::try_from(self.said.saturating_sub(start)).unwrap_or(usize::MAX).min(text.len());
        (start + known as u64, text.get(known..).unwrap_or_default())
    }

    fn answer_text(&mut self, start: u64, text: &str, out: &mut Vec<ChatEvent>) {
        let (start, text) = self.unsaid(start, text);
        if text.is_empty() {
            return;
        }
        let certain = self.stop.push(start, text);
        self.stopped |= certain.stopped;
        self.emit_text(certain, out);
    }

    fn emit_text(&mut self, certain: StopOutput, out: &mut Vec<ChatEvent>) {
        if certain.text.is_empty() {
            return;
        }
        let index = self.index;
        let (start, end) = (certain.start, certain.start + certain.text.len() as u64);
        out.push(ChatEvent::Text { index, text: certain.text });
        let mut tokens = Vec::new();
        while self.queue.front().is_some_and(|&(from, ..)| from < end) {
            // A token whose text ends before this one's beginning was behind a tag or a call.
            if let Some((_, to, token)) = self.queue.pop_front()
                && to > start
            {
                tokens.push(token);
            }
        }
        if !tokens.is_empty() {
            out.push(ChatEvent::Logprobs { index, tokens });
        }
    }
}

/// A token with its bytes and those of its rivals.
pub(crate) fn token_logprob(
    tokenizer: &Tokenizer,
    id: u32,
    logprob: Option<f32>,
    top: &[(u32, f32)],
) -> TokenLogprob {
    let rival = |&(id, logprob): &(u32, f32)| TopLogprob {
        id,
        bytes: tokenizer.token_bytes_with_control(id).unwrap_or_default().to_vec(),
        logprob,
    };
    TokenLogprob {
        id,
        bytes: tokenizer.token_bytes(id).unwrap_or_default().to_vec(),
        logprob,
        top: top.iter().map(rival).collect(),
    }
}

/// An id that no other call of this process has, and that can't be guessed from one.
fn call_id() -> String {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let count = CALLS.fetch_add(1, Ordering::Relaxed);
    format!("call_{:016x}{:08x}", RandomState::new().hash_one(count), count & 0xffff_ffff)
}

#[cfg(test)]
mod tests;
