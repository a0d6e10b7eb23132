//! Tokens to text, one at a time.

use crate::tokenizer::Tokenizer;

/// Turns tokens into text as they come. What it gives out are whole characters; the bytes of an unfinished one wait.
///
/// The pieces joined, with [`Detokenizer::flush`] at the end, are exactly the text of all tokens together.
pub struct Detokenizer<'t> {
    tokenizer: &'t Tokenizer,
    state: DetokenizerState,
}

impl<'t> Detokenizer<'t> {
    /// Starts a text. Control tokens are left out.
    pub fn new(tokenizer: &'t Tokenizer) -> Self {
        Self { tokenizer, state: DetokenizerState::new(tokenizer) }
    }

    /// As [`Self::new`], with the names of control tokens in the text.
    pub fn showing_control(tokenizer: &'t Tokenizer) -> Self {
        Self { tokenizer, state: DetokenizerState { show_control: true, ..DetokenizerState::new(tokenizer) } }
    }

    /// Takes a token and gives the text that is now certain, which may be empty. An unknown id adds nothing.
    pub fn push(&mut self, id: u32) -> String {
        self.state.push(self.tokenizer, id)
    }

    /// Ends the text: bytes that wait for the rest of a character become U+FFFD.
    pub fn flush(&mut self) -> String {
        self.state.flush()
    }
}

/// A [`Detokenizer`] that does not hold on to its tokenizer, for those who keep both in one place.
#[derive(Debug, Clone)]
pub struct DetokenizerState {
    pending: Vec<u8>,
    /// Blanks still to be taken from the beginning.
    strip_leading: usize,
    /// Blanks that may prove to be the end.
    strip_trailing: usize,
    held_blanks: usize,
    show_control: bool,
}

impl DetokenizerState {
    /// Starts a text.
    pub fn new(tokenizer: &Tokenizer) -> Self {
        Self {
            pending: Vec::new(),
            strip_leading: tokenizer.joining.strip_leading,
            strip_trailing: tokenizer.joining.strip_trailing,
            held_blanks: 0,
            show_control: false,
        }
    }

    /// Starts in the middle of a text: nothing is taken from its beginning. For what follows a prompt.
    pub fn continuing(tokenizer: &Tokenizer) -> Self {
        Self { strip_leading: 0, ..Self::new(tokenizer) }
    }

    /// Whether the names of control tokens appear in the text.
    pub fn show_control(&mut self, show: bool) {
        self.show_control = show;
    }

    /// As [`Detokenizer::push`].
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        let bytes = if self.show_control {
            tokenizer.token_bytes_with_control(id)
        } else {
            tokenizer.token_bytes(id)
        };
        self.pending.extend_from_slice(bytes.unwrap_or_default());
        let text = self.take(false);
        self.trim(text)
    }

    /// As [`Detokenizer::flush`].
    pub fn flush(&mut self) -> String {
        let text = self.take(true);
        let mut text = self.trim(text);
        let kept = self.held_blanks.saturating_sub(self.strip_trailing);
        text.extend(std::iter::repeat_n(' ', kept));
        self.held_blanks = 0;
        text
    }

    /// The characters that are complete; at the `end` also what is left of one.
    fn take(&mut self, end: bool) -> String {
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                    let Some(bad) = error.error_len() else {
                        rest = after;
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = after.get(bad..).unwrap_or_default();
                }
            }
        }
        if end && !rest.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            rest = &[];
        }
        self.pending = rest.to_vec();
        text
    }

    /// Takes away the blanks that the tokenizer puts at the ends of a text.
    fn trim(&mut self, mut text: String) -> String {
        if self.strip_leading > 0 && !text.is_empty() {
            let blanks = text.bytes().take(self.strip_leading).take_while(|b| *b == b' ').count();
            self.strip_leading = if blanks == text.len() { self.strip_leading - blanks } else { 0 };
            text.drain(..blanks);
        }
        if self.strip_trailing > 0 && !text.is_empty() {
            let blanks = text.len() - text.trim_end_matches(' ').len();
            if blanks == text.len() {
                self.held_blanks += blanks;
                text.clear();
            } else {
                text.insert_str(0, &" ".repeat(self.held_blanks));
                text.truncate(text.len() - blanks);
                self.held_blanks = blanks;
            }
        }
        text
    }
}
