//! Reads `{"name": …, "arguments": {…}}` while it streams and hands the arguments out as they come.

use super::{
    ToolPiece,
    json::{JsonScanner, Scan},
};

/// Bytes of a function name.
pub(crate) const NAME_BYTES_MAX: usize = 256;
/// The keys that may stand before the name in a call without a mark around it. With any other an object is an answer in
/// JSON, which must not wait for its end to be told from a call.
const KEYS_BEFORE_NAME: [&str; 5] = ["name", "arguments", "parameters", "type", "id"];
/// Bytes of a key, or of a value that is neither name nor arguments.
const OTHER_BYTES_MAX: usize = 4096;
/// Bytes of arguments that are held while the name is unknown or while they are a quoted string.
const HELD_ARGUMENTS_BYTES_MAX: usize = 1 << 20;

/// How a call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It goes on.
    More,
    /// It is complete.
    Done,
    /// It can't be read. [`CallObject::started`] says whether its beginning was handed out.
    Malformed,
}

/// One call. Feed it from the opening brace on.
#[derive(Debug)]
pub(crate) struct CallObject {
    state: State,
    scanner: JsonScanner,
    /// The key or value that is being read and kept.
    raw: Vec<u8>,
    key: String,
    name: Option<String>,
    /// Arguments that were not handed out yet.
    arguments: Vec<u8>,
    started: bool,
    arguments_seen: bool,
    /// Names that make a call; `None` accepts any.
    known: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Brace,
    FirstKeyOrEnd,
    Key,
    InKey,
    Colon,
    BeforeValue,
    InName,
    InArguments,
    /// A string that holds JSON, as some models write it.
    InQuotedArguments,
    InOther,
    AfterValue,
}

impl CallObject {
    pub(crate) fn new(known: Option<Vec<String>>) -> Self {
        Self {
            state: State::Brace,
            scanner: JsonScanner::new(),
            raw: Vec::new(),
            key: String::new(),
            name: None,
            arguments: Vec::new(),
            started: false,
            arguments_seen: false,
            known,
        }
    }

    /// Whether the call was handed out, so that it can't be taken back.
    pub(crate) fn started(&self) -> bool {
        self.started
    }

    /// Whether it is inside arguments that are handed out as they come.
    pub(crate) fn in_arguments(&self) -> bool {
        self.state == State::InArguments
    }

    /// Reads as much of `text` as belongs to the call. Returns how many bytes that was.
    pub(crate) fn push(&mut self, text: &str, out: &mut Vec<ToolPiece>) -> (usize, Progress) {
        let mut read = 0;
        let mut progress = Progress::More;
        for &byte in text.as_bytes() {
            progress = self.byte(byte);
            if progress == Progress::Malformed {
                break;
            }
            read += 1;
            if progress == Progress::Done {
                break;
            }
        }
        if progress == Progress::Done && !self.arguments_seen {
            // Without a mark around it, an object is a call only if it has arguments.
            if self.name.is_none() || self.known.is_some() {
                return (read, Progress::Malformed);
            }
            self.arguments.extend_from_slice(b"{}");
        }
        if let Some(name) = &self.name
            && !self.arguments.is_empty()
        {
            if !self.started {
                self.started = true;
                out.push(ToolPiece::CallStart { name: name.clone() });
            }
            let bytes = std::mem::take(&mut self.arguments);
            out.push(ToolPiece::Arguments(String::from_utf8_lossy(&bytes).into_owned()));
        }
        let unnamed = progress == Progress::Done && self.name.is_none();
        (read, if unnamed { Progress::Malformed } else { progress })
    }

    fn byte(&mut self, byte: u8) -> Progress {
        let white = matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
        match self.state {
            State::InKey => return self.in_key(byte),
            State::InName | State::InArguments | State::InQuotedArguments | State::InOther => {
                return self.in_value(byte);
            }
            _ if white => return Progress::More,
            State::Brace if byte == b'{' => self.state = State::FirstKeyOrEnd,
            State::FirstKeyOrEnd | State::AfterValue if byte == b'}' => return Progress::Done,
            State::FirstKeyOrEnd | State::Key if byte == b'"' => {
                self.state = State::InKey;
                self.begin(byte);
            }
            State::Colon if byte == b':' => self.state = State::BeforeValue,
            State::BeforeValue => return self.begin_value(byte),
            State::AfterValue if byte == b',' => self.state = State::Key,
            _ => return Progress::Malformed,
        }
        Progress::More
    }

    fn begin(&mut self, byte: u8) -> Scan {
        self.scanner = JsonScanner::new();
        self.raw.clear();
        self.raw.push(byte);
        self.scanner.push(byte)
    }

    fn begin_value(&mut self, byte: u8) -> Progress {
        let arguments = matches!(self.key.as_str(), "arguments" | "parameters") && !self.arguments_seen;
        self.state = match byte {
            b'"' if self.key == "name" && self.name.is_none() => State::InName,
            b'{' if arguments => State::InArguments,
            b'"' if arguments => State::InQuotedArguments,
            _ if arguments || self.key == "name" => return Progress::Malformed,
            _ => State::InOther,
        };
        match self.begin(byte) {
            Scan::Malformed => return Progress::Malformed,
            _ if self.state == State::InArguments => {
                self.arguments_seen = true;
                self.raw.clear();
                self.arguments.push(byte);
            }
            _ => {}
        }
        Progress::More
    }

    fn in_key(&mut self, byte: u8) -> Progress {
        self.raw.push(byte);
        let is_call_key = |key: &&str| format!("\"{key}\"").as_bytes().starts_with(&self.raw);
        if self.known.is_some() && self.name.is_none() && !KEYS_BEFORE_NAME.iter().any(is_call_key) {
            return Progress::Malformed;
        }
        match self.scanner.push(byte) {
            Scan::More if self.raw.len() <= OTHER_BYTES_MAX => Progress::More,
            Scan::Done => match serde_json::from_slice(&self.raw) {
                Ok(key) => {
                    self.key = key;
                    self.state = State::Colon;
                    Progress::More
                }
                Err(_) => Progress::Malformed,
            },
            _ => Progress::Malformed,
        }
    }

    fn in_value(&mut self, byte: u8) -> Progress {
        let scan = self.scanner.push(byte);
        let (kept, most) = match self.state {
            State::InArguments if self.name.is_some() => (&mut self.arguments, usize::MAX),
            State::InArguments => (&mut self.arguments, HELD_ARGUMENTS_BYTES_MAX),
            State::InQuotedArguments => (&mut self.raw, HELD_ARGUMENTS_BYTES_MAX),
            State::InName => (&mut self.raw, NAME_BYTES_MAX),
            _ => (&mut self.raw, OTHER_BYTES_MAX),
        };
        match scan {
            Scan::More | Scan::Done if kept.len() >= most => return Progress::Malformed,
            Scan::More | Scan::Done => kept.push(byte),
            Scan::DoneBefore => {}
            Scan::Malformed => return Progress::Malformed,
        }
        if scan == Scan::More {
            return Progress::More;
        }
        let state = std::mem::replace(&mut self.state, State::AfterValue);
        match state {
            State::InName => match serde_json::from_slice::<String>(&self.raw) {
                Ok(name) if self.accepts(&name) => self.name = Some(name),
                _ => return Progress::Malformed,
            },
            State::InQuotedArguments => {
                self.arguments_seen = true;
                let inner = serde_json::from_slice::<String>(&self.raw).ok().filter(|inner| {
                    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(inner).is_ok()
                });
                match inner {
                    Some(inner) => self.arguments.extend_from_slice(inner.as_bytes()),
                    None => self.arguments.append(&mut self.raw),
                }
            }
            _ => {}
        }
        self.raw.clear();
        if scan == Scan::DoneBefore { self.byte(byte) } else { Progress::More }
    }

    fn accepts(&self, name: &str) -> bool {
        !name.is_empty() && self.known.as_ref().is_none_or(|known| known.iter().any(|known| known == name))
    }
}
