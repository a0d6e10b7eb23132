//! Ends a streaming text before the first stop text, and holds back only what may still become one.

use crate::reasoning::floor_char;

/// Stop texts a request may name.
pub const STOP_TEXTS_MAX: usize = 16;
/// Bytes of one stop text.
pub const STOP_BYTES_MAX: usize = 1024;

/// What a push or the end has made certain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StopOutput {
    /// Offset of the text's first byte in the text that was pushed.
    pub start: u64,
    /// Text that no stop text can reach any more; may be empty.
    pub text: String,
    /// Whether a stop text was met. It and everything behind it are dropped.
    pub stopped: bool,
}

/// A streaming matcher for several stop texts. The one that is complete first wins, of several that end at the
/// same byte the longest, so that the result does not depend on how the stream was cut.
#[derive(Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
    base: u64,
    stopped: bool,
}

impl StopMatcher {
    /// A matcher; empty stop texts are ignored (requests that name one are refused before).
    #[must_use]
    pub fn new(stops: &[String]) -> Self {
        let mut stops: Vec<String> = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        stops.sort_by_key(|stop| std::cmp::Reverse(stop.len()));
        Self { stops, held: String::new(), base: 0, stopped: false }
    }

    /// Takes a piece of text that begins at `start`. Pieces follow each other without a gap, unless
    /// [`flush`](Self::flush) was called between them.
    pub fn push(&mut self, start: u64, text: &str) -> StopOutput {
        if self.stopped {
            return StopOutput { start: self.base, text: String::new(), stopped: true };
        }
        if self.held.is_empty() {
            self.base = start;
        }
        if self.stops.is_empty() {
            return StopOutput { start, text: text.to_owned(), stopped: false };
        }
        let scanned = self.held.len();
        self.held.push_str(text);
        let bytes = self.held.as_bytes();
        for end in scanned + 1..=bytes.len() {
            let seen = bytes.get(..end).unwrap_or_default();
            if let Some(stop) = self.stops.iter().find(|stop| seen.ends_with(stop.as_bytes())) {
                let cut = end - stop.len();
                self.stopped = true;
                self.held.truncate(floor_char(&self.held, cut));
                return StopOutput { start: self.base, text: std::mem::take(&mut self.held), stopped: true };
            }
        }
        let keep = self
            .stops
            .iter()
            .map(|stop| crate::reasoning::partial_suffix(&self.held, stop))
            .max()
            .unwrap_or(0);
        let rest = self.held.split_off(floor_char(&self.held, self.held.len() - keep));
        let text = std::mem::replace(&mut self.held, rest);
        let start = self.base;
        self.base += text.len() as u64;
        StopOutput { start, text, stopped: false }
    }

    /// Hands out what is held: something that is not text follows, or the stream has ended.
    pub fn flush(&mut self) -> StopOutput {
        let text = std::mem::take(&mut self.held);
        let start = self.base;
        self.base += text.len() as u64;
        StopOutput { start, text, stopped: self.stopped }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(pieces: &[&str], stops: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|&stop| stop.to_owned()).collect();
        let mut matcher = StopMatcher::new(&stops);
        let (mut text, mut offset, mut stopped) = (String::new(), 0, false);
        for piece in pieces {
            let out = matcher.push(offset, piece);
            assert!(out.text.is_empty() || out.start == text.len() as u64, "offsets follow the text");
            text.push_str(&out.text);
            offset += piece.len() as u64;
            stopped |= out.stopped;
            if stopped {
                return (text, true);
            }
        }
        text.push_str(&matcher.flush().text);
        (text, stopped)
    }

    #[test]
    fn holds_back_only_what_may_become_a_stop_text() {
        let mut matcher = StopMatcher::new(&["\n\nUser".to_owned(), "END".to_owned()]);
        assert_eq!(matcher.push(0, "The E").text, "The ");
        assert_eq!(matcher.push(5, "agle\n").text, "Eagle");
        assert_eq!(matcher.push(10, "\nUs").text, "");
        assert_eq!(matcher.push(13, "e it").text, "\n\nUse it");
        let out = matcher.push(17, " END more");
        assert_eq!((out.text.as_str(), out.stopped), (" ", true));
        assert_eq!(matcher.push(26, "x"), StopOutput { start: 17, text: String::new(), stopped: true });
    }

    #[test]
    fn the_first_complete_one_wins_whatever_the_cut() {
        for (text, stops, expected, stopped) in [
            ("abc", &["abc", "b"][..], "a", true),
            ("xabc", &["abc", "bc"], "x", true),
            ("aaab", &["aab"], "a", true),
            ("ababac", &["abac"], "ab", true),
            ("never", &["stop"], "never", false),
            ("sto", &["stop"], "sto", false),
            ("né👩‍🔬stop", &["👩‍🔬"], "né", true),
            ("é", &["\u{e8}"], "é", false),
            ("anything", &[], "anything", false),
        ] {
            for cut in (0..=text.len()).filter(|&cut| text.is_char_boundary(cut)) {
                assert_eq!(
                    run(&[&text[..cut], &text[cut..]], stops),
                    (expected.to_owned(), stopped),
                    "{text:?} cut at {cut}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn cuts_never_change_the_result(text in "[ab]{0,24}", stops in prop::collection::vec("[ab]{1,4}", 0..4)) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let singles: Vec<String> = text.chars().map(String::from).collect();
            let singles: Vec<&str> = singles.iter().map(String::as_str).collect();
            let whole = run(&[&text], &stops);
            prop_assert_eq!(&run(&singles, &stops), &whole);
            prop_assert!(stops.iter().all(|stop| !whole.0.contains(stop)));
            prop_assert!(text.starts_with(&whole.0));
        }
    }
}
