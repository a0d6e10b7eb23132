//! Parts a model's output into its thinking and its answer while it streams.
//!
//! Only one block of thinking counts: the one that leads the output, or the one that the chat template has
//! already opened at the end of the prompt. Think tags anywhere later are text of the answer. What comes out
//! does not depend on how the stream was cut.
//!
//! What is held back may become a tag. Where the model ends its answer by itself it has not, and
//! [`ReasoningSplitter::finish`] hands it out. Where the answer is cut off nobody can tell: then it is dropped with the
//! splitter.

/// A pair of tags that enclose thinking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThinkTags {
    /// Opens thinking, for example `<think>`.
    pub open: String,
    /// Closes thinking, for example `</think>`.
    pub close: String,
}

impl ThinkTags {
    /// The pair that a model uses: the first known one that its chat template writes or tests for, or whose tags
    /// are tokens of its vocabulary. `None` for a model that does not think.
    pub fn detect(template: &str, is_token: impl Fn(&str) -> bool) -> Option<Self> {
        KNOWN_TAGS
            .iter()
            .find(|(open, close)| template.contains(close) || (is_token(open) && is_token(close)))
            .map(|(open, close)| Self { open: (*open).to_owned(), close: (*close).to_owned() })
    }

    /// Where a rendered prompt leaves the model: inside thinking, behind it, or before it.
    #[must_use]
    pub fn prompt_state(&self, prompt: &str) -> PromptState {
        let end = prompt.trim_end();
        if end.ends_with(&self.open) {
            PromptState::Open
        } else if end.ends_with(&self.close) {
            PromptState::Closed
        } else {
            PromptState::Before
        }
    }
}

/// Tags seen in published chat templates; the likeliest first.
const KNOWN_TAGS: &[(&str, &str)] = &[
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
];

/// Where the prompt leaves the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptState {
    /// The prompt says nothing about thinking: the model may open a block itself.
    Before,
    /// The prompt ends inside a block: the output begins with thinking.
    Open,
    /// The prompt has closed an empty block: the output begins with the answer.
    Closed,
}

/// Which part of the output a piece belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// Thinking.
    Reasoning,
    /// Everything else.
    Answer,
}

/// A piece of output; `start` is the offset of its first byte in the text that was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Which part.
    pub section: Section,
    /// Offset in bytes.
    pub start: u64,
    /// Never empty.
    pub text: String,
}

/// The streaming state machine. Newlines around the thinking and blank lines before the answer are dropped, as
/// the templates that put a conversation together again expect; everything else comes out byte for byte.
#[derive(Debug)]
pub struct ReasoningSplitter {
    tags: Option<ThinkTags>,
    state: State,
    held: String,
    /// Offset of the first held byte.
    base: u64,
    /// The output follows a block, its own or an empty one of the prompt.
    after_block: bool,
    thought: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing but white space and perhaps a part of the opening tag so far.
    Lead,
    /// Inside the block, nothing but newlines so far.
    ThinkLead,
    Think,
    /// Behind the block, nothing but white space so far.
    Gap,
    Answer,
}

/// White space that may stand before an opening tag; more means that there is no block.
const LEAD_BYTES_MAX: usize = 64;
/// Newlines at the end of thinking that are held back, and dropped if the block closes behind them.
const TRAILING_NEWLINES_MAX: usize = 64;

impl ReasoningSplitter {
    /// A splitter for one answer. Without tags everything is answer.
    #[must_use]
    pub fn new(tags: Option<ThinkTags>, prompt: PromptState) -> Self {
        let state = match (&tags, prompt) {
            (None, _) => State::Answer,
            (Some(_), PromptState::Open) => State::ThinkLead,
            (Some(_), _) => State::Lead,
        };
        Self {
            tags,
            state,
            held: String::new(),
            base: 0,
            after_block: prompt == PromptState::Closed,
            thought: state == State::ThinkLead,
        }
    }

    /// Whether the output is inside thinking now.
    #[must_use]
    pub fn is_thinking(&self) -> bool {
        matches!(self.state, State::ThinkLead | State::Think)
    }

    /// Whether a block of thinking has been left behind, so that what comes is answer.
    #[must_use]
    pub fn is_answering(&self) -> bool {
        matches!(self.state, State::Gap | State::Answer)
    }

    /// Whether there was a block of thinking, or is one.
    pub(crate) fn has_thought(&self) -> bool {
        self.thought
    }

    /// Whether only blank lines have followed the block so far.
    pub(crate) fn is_gap(&self) -> bool {
        self.state == State::Gap
    }

    /// Takes more text, whole characters, and hands out what is certain.
    pub fn push(&mut self, text: &str, out: &mut Vec<Piece>) {
        if self.state == State::Answer {
            self.emit_through(Section::Answer, text, out);
            return;
        }
        let scanned = self.held.len();
        self.held.push_str(text);
        let mut from = scanned;
        while let Some(next) = self.step(from, out) {
            self.state = next;
            self.thought |= self.is_thinking();
            from = 0;
        }
    }

    /// Hands out what was held back; the model has ended the output. Not for an output that was cut off.
    pub fn finish(&mut self, out: &mut Vec<Piece>) {
        match self.state {
            State::Lead if !(self.after_block && self.held.trim().is_empty()) => {
                self.begin_answer(out);
            }
            State::Gap if !self.held.trim().is_empty() => self.begin_answer(out),
            State::ThinkLead | State::Think => self.take(self.held.len(), Some(Section::Reasoning), out),
            State::Lead | State::Gap | State::Answer => {}
        }
        self.held.clear();
    }

    /// One transition, if the held text decides it. The bytes before `from` were seen by this state before.
    fn step(&mut self, from: usize, out: &mut Vec<Piece>) -> Option<State> {
        let tags = self.tags.as_ref()?;
        match self.state {
            State::Lead => {
                let rest = self.held.trim_start();
                let blank = self.held.len() - rest.len();
                if blank <= LEAD_BYTES_MAX {
                    if rest.starts_with(&tags.open) {
                        self.take(blank + tags.open.len(), None, out);
                        return Some(State::ThinkLead);
                    }
                    // A closing tag ends what was never begun: thinking that was turned off.
                    if rest.starts_with(&tags.close) {
                        self.take(blank + tags.close.len(), None, out);
                        self.after_block = true;
                        return Some(State::Gap);
                    }
                    if tags.open.starts_with(rest) || tags.close.starts_with(rest) {
                        return None;
                    }
                }
                self.begin_answer(out);
                Some(State::Answer)
            }
            State::ThinkLead => {
                let blank = self.held.len() - self.held.trim_start_matches('\n').len();
                self.take(blank, None, out);
                let tags = self.tags.as_ref()?;
                if self.held.starts_with(&tags.open) {
                    // Some models repeat the tag that the template has opened for them.
                    self.take(tags.open.len(), None, out);
                    return Some(State::ThinkLead);
                }
                if tags.open.starts_with(&self.held) {
                    return None;
                }
                Some(State::Think)
            }
            State::Think => {
                let close = &tags.close;
                let resume = floor_char(&self.held, from.saturating_sub(close.len()));
                if let Some(at) = self.held.get(resume..).and_then(|tail| tail.find(close.as_str())) {
                    let (at, close_len) = (at + resume, close.len());
                    let text = self.held.get(..at).unwrap_or_default();
                    let kept = trailing_newlines_start(text);
                    self.take(kept, Some(Section::Reasoning), out);
                    self.take(at - kept + close_len, None, out);
                    self.after_block = true;
                    return Some(State::Gap);
                }
                let partial = partial_suffix(&self.held, close);
                let text = self.held.get(..self.held.len() - partial).unwrap_or_default();
                let kept = trailing_newlines_start(text);
                self.take(kept, Some(Section::Reasoning), out);
                None
            }
            State::Gap => {
                if self.held.get(from..).unwrap_or_default().trim_start().is_empty() {
                    return None;
                }
                let rest = self.held.trim_start();
                if rest.starts_with(&tags.close) {
                    // Said twice.
                    self.take(self.held.len() - rest.len() + tags.close.len(), None, out);
                    return Some(State::Gap);
                }
                if tags.close.starts_with(rest) {
                    return None;
                }
                self.begin_answer(out);
                Some(State::Answer)
            }
            State::Answer => None,
        }
    }

    /// Hands the held text out as answer, without blank lines at its head if it follows a block.
    fn begin_answer(&mut self, out: &mut Vec<Piece>) {
        if self.after_block {
            let blank = self.held.len() - self.held.trim_start().len();
            let lines = self.held.get(..blank).and_then(|head| head.rfind('\n')).map_or(0, |at| at + 1);
            self.take(lines, None, out);
        }
        self.take(self.held.len(), Some(Section::Answer), out);
    }

    /// Removes the first `len` held bytes and hands them out, or drops them.
    fn take(&mut self, len: usize, section: Option<Section>, out: &mut Vec<Piece>) {
        if len == 0 {
            return;
        }
        let rest = self.held.split_off(floor_char(&self.held, len));
        let text = std::mem::replace(&mut self.held, rest);
        let start = self.base;
        self.base += text.len() as u64;
        if let Some(section) = section
            && !text.is_empty()
        {
            out.push(Piece { section, start, text });
        }
    }

    fn emit_through(&mut self, section: Section, text: &str, out: &mut Vec<Piece>) {
        if !text.is_empty() {
            out.push(Piece { section, start: self.base, text: text.to_owned() });
            self.base += text.len() as u64;
        }
    }
}

/// Where the newlines at the end of `text` begin that are held back.
fn trailing_newlines_start(text: &str) -> usize {
    let newlines = text.bytes().rev().take(TRAILING_NEWLINES_MAX).take_while(|&byte| byte == b'\n').count();
    text.len() - newlines
}

/// The length of the longest end of `text` with which `pattern` begins without being complete.
pub(crate) fn partial_suffix(text: &str, pattern: &str) -> usize {
    let (text, pattern) = (text.as_bytes(), pattern.as_bytes());
    let longest = text.len().min(pattern.len().saturating_sub(1));
    (1..=longest).rev().find(|&len| text.ends_with(pattern.get(..len).unwrap_or_default())).unwrap_or(0)
}

/// The last character boundary at or before `at`.
pub(crate) fn floor_char(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
