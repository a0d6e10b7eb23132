//! Reads tool calls out of a streaming answer. What can't be read as a call comes out as text, and what comes out does
//! not depend on how the stream was cut.
//!
//! What is held back may become the markup of a call. Where the model ends its answer by itself it has not, and
//! [`ToolParser::finish`] hands it out. Where the answer is cut off nobody can tell: then it is dropped with the parser.

use super::{
    CALL_BEGIN, CALL_END, CALLS_BEGIN, CALLS_END, MISTRAL_ARGS, TOOL_CALL_END, TOOL_SEP, ToolPiece,
    ToolSyntax,
    call_object::{CallObject, NAME_BYTES_MAX, Progress},
    json::{JsonScanner, Scan},
};
use crate::reasoning::{floor_char, partial_suffix};

/// White space before a call that is held back, and dropped if the call comes.
const SPACE_BYTES_MAX: usize = 64;
/// Bytes behind a call's object, such as a brace too many, that are dropped if the mark that closes the call follows.
const JUNK_BYTES_MAX: usize = 64;
/// Bytes between the mark that opens a call and its arguments.
const HEADER_BYTES_MAX: usize = NAME_BYTES_MAX + 256;

/// The streaming parser of one answer.
#[derive(Debug)]
pub struct ToolParser {
    syntax: ToolSyntax,
    names: Vec<String>,
    state: State,
    held: String,
    /// Offset of the first held byte in the text that was pushed.
    base: Option<u64>,
    calls: u32,
    text_since_call: bool,
}

#[derive(Debug)]
enum State {
    /// Nothing but white space so far, where a bare object would be a call.
    Lead,
    Text,
    /// White space and an opening mark, together this many bytes, are held.
    Opened {
        mark: usize,
    },
    /// As many held bytes as `read` were given to `call`; the first `mark` of them opened it.
    Object {
        call: Box<CallObject>,
        mark: usize,
        read: usize,
        list: bool,
    },
    /// Arguments of a call whose name stood before them.
    Arguments(JsonScanner),
    /// Arguments that can't be followed any more: everything up to the mark belongs to them.
    Broken,
    /// Behind a call.
    Between {
        list: bool,
    },
}

impl ToolParser {
    /// A parser for answers to a request that offers functions of these names.
    #[must_use]
    pub fn new(syntax: ToolSyntax, names: Vec<String>) -> Self {
        let state = if syntax == ToolSyntax::Llama3 { State::Lead } else { State::Text };
        Self { syntax, names, state, held: String::new(), base: None, calls: 0, text_since_call: false }
    }

    /// Calls that have begun so far.
    #[must_use]
    pub fn calls(&self) -> u32 {
        self.calls
    }

    /// Takes more of the answer, whole characters, whose first byte has the offset `start`.
    pub fn push(&mut self, start: u64, text: &str, out: &mut Vec<ToolPiece>) {
        if text.is_empty() {
            return;
        }
        if self.held.is_empty() {
            self.base = Some(start);
        }
        self.held.push_str(text);
        self.run(out);
    }

    /// Hands out what was held back; the model has ended the answer. Not for an answer that was cut off.
    pub fn finish(&mut self, out: &mut Vec<ToolPiece>) {
        match std::mem::replace(&mut self.state, State::Text) {
            State::Object { call, .. } if call.started() => {}
            State::Broken => {
                let rest = std::mem::take(&mut self.held);
                arguments(rest, out);
            }
            State::Arguments(_) => {}
            State::Between { .. } if self.is_rest_of_call() => {}
            _ if self.calls > 0 && !self.text_since_call && self.held.trim().is_empty() => {}
            _ => self.text(self.held.len(), out),
        }
        self.held.clear();
    }

    fn run(&mut self, out: &mut Vec<ToolPiece>) {
        loop {
            let state = std::mem::replace(&mut self.state, State::Text);
            let (state, again) = match state {
                State::Lead => self.lead(),
                State::Text => self.search(out),
                State::Opened { mark } => self.opened(mark, out),
                State::Object { call, mark, read, list } => self.object(call, mark, read, list, out),
                State::Arguments(scanner) => self.arguments(scanner, out),
                State::Broken => self.broken(out),
                State::Between { list } => self.between(list),
            };
            self.state = state;
            if !again || self.held.is_empty() {
                return;
            }
        }
    }

    fn lead(&mut self) -> (State, bool) {
        let rest = self.held.trim_start();
        let blank = self.held.len() - rest.len();
        if blank > SPACE_BYTES_MAX {
            (State::Text, true)
        } else if rest.starts_with('{') {
            (self.new_object(blank, blank, false), true)
        } else {
            let wait = rest.is_empty();
            (if wait { State::Lead } else { State::Text }, !wait)
        }
    }

    fn search(&mut self, out: &mut Vec<ToolPiece>) -> (State, bool) {
        let found = self
            .syntax
            .openers()
            .iter()
            .filter_map(|opener| self.held.find(opener).map(|at| (at, opener.len())))
            .min_by_key(|&(at, len)| (at, std::cmp::Reverse(len)));
        if let Some((at, mark)) = found {
            let before = self.held.get(..at).unwrap_or_default();
            self.text(trailing_space_start(before), out);
            // What is left before the mark is white space, which is dropped if a call follows.
            let space = self.held.len() - self.held.trim_start().len();
            return (State::Opened { mark: space + mark }, true);
        }
        let partial =
            self.syntax.openers().iter().map(|opener| partial_suffix(&self.held, opener)).max().unwrap_or(0);
        let certain = self.held.get(..self.held.len() - partial).unwrap_or_default();
        self.text(trailing_space_start(certain), out);
        (State::Text, false)
    }

    /// Behind an opening mark.
    fn opened(&mut self, mark: usize, out: &mut Vec<ToolPiece>) -> (State, bool) {
        if matches!(self.syntax, ToolSyntax::DeepSeek | ToolSyntax::DeepSeekV31) {
            return self.header(mark, out);
        }
        let inside = self.held.get(mark..).unwrap_or_default();
        let rest = inside.trim_start();
        let at = self.held.len() - rest.len();
        if inside.len() - rest.len() > SPACE_BYTES_MAX {
            return self.not_a_call(mark, out);
        }
        if rest.is_empty() {
            return (State::Opened { mark }, false);
        }
        match (self.syntax, rest.as_bytes().first()) {
            (ToolSyntax::Mistral, Some(b'[')) => {
                let inner = rest.get(1..).unwrap_or_default().trim_start();
                let at = self.held.len() - inner.len();
                match inner.as_bytes().first() {
                    _ if inside.len() - inner.len() > SPACE_BYTES_MAX => self.not_a_call(mark, out),
                    Some(b'{') => (self.new_object(mark, at, true), true),
                    None => (State::Opened { mark }, false),
                    Some(_) => self.not_a_call(mark, out),
                }
            }
            (ToolSyntax::Mistral, Some(_)) => self.named(mark, out),
            (_, Some(b'{')) => (self.new_object(mark, at, false), true),
            _ => self.not_a_call(mark, out),
        }
    }

    /// Mistral's later form: `name[ARGS]{…}`.
    fn named(&mut self, mark: usize, out: &mut Vec<ToolPiece>) -> (State, bool) {
        let inside = self.held.get(mark..).unwrap_or_default();
        if let Some((name, rest)) = inside.split_once(MISTRAL_ARGS) {
            let name = name.trim();
            match rest.trim_start().as_bytes().first() {
                _ if inside.len() - rest.trim_start().len() > HEADER_BYTES_MAX => {}
                Some(b'{') if is_name(name) => {
                    let at = self.held.len() - rest.trim_start().len();
                    return self.start_call(name.to_owned(), at, out);
                }
                None => return (State::Opened { mark }, false),
                Some(_) => {}
            }
            return self.not_a_call(mark, out);
        }
        let partial = partial_suffix(inside, MISTRAL_ARGS);
        let name = inside.get(..inside.len() - partial).unwrap_or_default().trim();
        if inside.len() <= HEADER_BYTES_MAX && is_name(name) {
            (State::Opened { mark }, false)
        } else {
            self.not_a_call(mark, out)
        }
    }

    /// DeepSeek: marks, perhaps a type, the name, perhaps a fence, up to the arguments' brace.
    fn header(&mut self, mark: usize, out: &mut Vec<ToolPiece>) -> (State, bool) {
        match deepseek_header(&self.held) {
            Header::Call { name, at } if at <= HEADER_BYTES_MAX => self.start_call(name, at, out),
            Header::More if self.held.len() <= HEADER_BYTES_MAX => (State::Opened { mark }, false),
            _ => self.not_a_call(mark, out),
        }
    }

    fn start_call(&mut self, name: String, at: usize, out: &mut Vec<ToolPiece>) -> (State, bool) {
        self.take(at);
        self.calls = self.calls.saturating_add(1);
        self.text_since_call = false;
        out.push(ToolPiece::CallStart { name });
        (State::Arguments(JsonScanner::new()), true)
    }

    /// The mark is text after all; what stands behind it may still hold a call.
    fn not_a_call(&mut self, mark: usize, out: &mut Vec<ToolPiece>) -> (State, bool) {
        if mark == 0 {
            // There was no mark: the object itself is text. Its first byte can't begin a call again.
            let first = self.held.chars().next().map_or(0, char::len_utf8);
            self.text(first, out);
        } else {
            self.text(mark, out);
        }
        (State::Text, true)
    }

    fn new_object(&self, mark: usize, read: usize, list: bool) -> State {
        // A bare object is a call only if it names a function on offer.
        let bare = self.syntax == ToolSyntax::Llama3;
        let call = Box::new(CallObject::new(bare.then(|| self.names.clone())));
        State::Object { call, mark, read, list }
    }

    fn object(
        &mut self,
        mut call: Box<CallObject>,
        mark: usize,
        read: usize,
        list: bool,
        out: &mut Vec<ToolPiece>,
    ) -> (State, bool) {
        let fresh = !call.started();
        let (len, progress) = call.push(self.held.get(read..).unwrap_or_default(), out);
        let read = read + len;
        if call.started() {
            if fresh {
                self.calls = self.calls.saturating_add(1);
                self.text_since_call = false;
            }
            self.take(read);
        }
        match progress {
            Progress::More => {
                let read = if call.started() { 0 } else { read };
                (State::Object { call, mark, read, list }, false)
            }
            Progress::Done => (State::Between { list }, true),
            Progress::Malformed if call.started() => {
                (if call.in_arguments() { State::Broken } else { State::Between { list } }, true)
            }
            Progress::Malformed => self.not_a_call(mark, out),
        }
    }

    fn arguments(&mut self, mut scanner: JsonScanner, out: &mut Vec<ToolPiece>) -> (State, bool) {
        let mut end = None;
        for (at, &byte) in self.held.as_bytes().iter().enumerate() {
            match scanner.push(byte) {
                Scan::More => {}
                Scan::Done => {
                    end = Some((at + 1, State::Between { list: false }));
                    break;
                }
                Scan::DoneBefore | Scan::Malformed => {
                    end = Some((at, State::Broken));
                    break;
                }
            }
        }
        let (len, state) = end.unwrap_or((self.held.len(), State::Arguments(scanner)));
        let text = self.take(len);
        arguments(text, out);
        (state, true)
    }

    fn broken(&mut self, out: &mut Vec<ToolPiece>) -> (State, bool) {
        let mark = match self.syntax {
            ToolSyntax::Hermes => TOOL_CALL_END,
            ToolSyntax::DeepSeek | ToolSyntax::DeepSeekV31 => CALL_END,
            ToolSyntax::Llama3 | ToolSyntax::Mistral => {
                let text = self.take(self.held.len());
                arguments(text, out);
                return (State::Broken, false);
            }
        };
        if let Some(at) = self.held.find(mark) {
            let text = self.take(at);
            arguments(text, out);
            return (State::Between { list: false }, true);
        }
        let text = self.take(self.held.len() - partial_suffix(&self.held, mark));
        arguments(text, out);
        (State::Broken, false)
    }

    fn between(&mut self, list: bool) -> (State, bool) {
        let space = self.held.len() - self.held.trim_start().len();
        self.take(space);
        if self.held.is_empty() {
            return (State::Between { list }, false);
        }
        let closers: &[(&str, bool)] = match self.syntax {
            // The second value says whether the answer's text goes on behind the mark.
            ToolSyntax::Hermes => &[(TOOL_CALL_END, true)],
            ToolSyntax::DeepSeek | ToolSyntax::DeepSeekV31 => {
                &[("```", false), (CALL_END, false), (CALLS_END, true)]
            }
            ToolSyntax::Llama3 => &[(";", false)],
            ToolSyntax::Mistral if list => &[(",", false), ("]", true)],
            ToolSyntax::Mistral => &[],
        };
        for &(mark, text_follows) in closers {
            if self.held.starts_with(mark) {
                self.take(mark.len());
                return (if text_follows { State::Text } else { State::Between { list } }, true);
            }
        }
        let object = self.held.starts_with('{')
            && (list || matches!(self.syntax, ToolSyntax::Hermes | ToolSyntax::Llama3));
        if object {
            return (self.new_object(0, 0, list), true);
        }
        if closers.iter().any(|(mark, _)| mark.starts_with(&self.held)) {
            return (State::Between { list }, false);
        }
        self.junk(list)
    }

    /// Behind a call stands what should not: it belongs to the call if the mark that closes it follows soon.
    fn junk(&mut self, list: bool) -> (State, bool) {
        let ends = self.syntax.call_ends();
        let Some(longest) = ends.iter().map(|end| end.len()).max() else { return (State::Text, true) };
        let window = floor_char(&self.held, JUNK_BYTES_MAX + longest);
        let first = |marks: &[&str]| {
            let near = self.held.get(..window).unwrap_or_default();
            marks.iter().filter_map(|mark| near.find(mark)).min()
        };
        match (first(ends), first(self.syntax.openers())) {
            (Some(end), opener) if opener.is_none_or(|opener| end < opener) => {
                self.take(end);
                (State::Between { list }, true)
            }
            (_, Some(_)) => (State::Text, true),
            _ if self.held.len() < JUNK_BYTES_MAX + longest => (State::Between { list }, false),
            _ => (State::Text, true),
        }
    }

    /// Whether nothing is held but what a call may leave behind: braces too many, and a part of its closing mark.
    fn is_rest_of_call(&self) -> bool {
        let ends = self.syntax.call_ends().iter();
        let partial = ends.map(|end| partial_suffix(&self.held, end)).max().unwrap_or(0);
        let rest = self.held.get(..self.held.len() - partial).unwrap_or_default();
        rest.chars().all(|c| c.is_whitespace() || matches!(c, '}' | ']' | '`' | ';' | ','))
    }

    /// Hands the first `len` held bytes out as text.
    fn text(&mut self, len: usize, out: &mut Vec<ToolPiece>) {
        let start = self.base.unwrap_or_default();
        let text = self.take(len);
        if !text.is_empty() {
            self.text_since_call = true;
            out.push(ToolPiece::Text { start, text });
        }
    }

    fn take(&mut self, len: usize) -> String {
        let rest = self.held.split_off(floor_char(&self.held, len));
        let text = std::mem::replace(&mut self.held, rest);
        if let Some(base) = &mut self.base {
            *base += text.len() as u64;
        }
        text
    }
}

enum Header {
    More,
    Malformed,
    /// The arguments begin at this byte.
    Call {
        name: String,
        at: usize,
    },
}

/// Reads `[calls begin] call begin [type sep] name [fence]`. `held` begins with white space and one of the
/// opening marks.
fn deepseek_header(held: &str) -> Header {
    let marked = held.trim_start();
    let rest = marked.strip_prefix(CALLS_BEGIN).unwrap_or(marked).trim_start();
    let Some(rest) = rest.strip_prefix(CALL_BEGIN) else {
        return if CALL_BEGIN.starts_with(rest) { Header::More } else { Header::Malformed };
    };
    let Some((first, rest)) = rest.split_once(TOOL_SEP) else { return Header::More };
    let brace = |rest: &str, name: &str| {
        let body = rest.trim_start();
        match body.as_bytes().first() {
            None => Header::More,
            Some(b'{') if is_name(name) => {
                Header::Call { name: name.to_owned(), at: held.len() - body.len() }
            }
            Some(_) => Header::Malformed,
        }
    };
    let body = rest.trim_start();
    if body.is_empty() || body.starts_with('{') {
        return brace(rest, first.trim());
    }
    let Some((name, rest)) = rest.split_once('\n') else { return Header::More };
    let body = rest.trim_start();
    match body.strip_prefix("```json").or_else(|| body.strip_prefix("```")) {
        // Three ticks may still become the longer fence.
        Some(rest) if "json".starts_with(rest) => Header::More,
        Some(rest) => brace(rest, name.trim()),
        None if "```".starts_with(body) => Header::More,
        None => brace(rest, name.trim()),
    }
}

/// Whether a text can be a function's name. Any printable text can: whether there is such a function is for the
/// caller to say.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.contains(|c: char| c.is_whitespace() || c == '{')
}

/// Where the white space at the end of `text` begins that is held back.
fn trailing_space_start(text: &str) -> usize {
    let space = text.len() - text.trim_end().len();
    if space <= SPACE_BYTES_MAX {
        return text.len() - space;
    }
    let mut at = text.len() - SPACE_BYTES_MAX;
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}

fn arguments(text: String, out: &mut Vec<ToolPiece>) {
    if !text.is_empty() {
        out.push(ToolPiece::Arguments(text));
    }
}
