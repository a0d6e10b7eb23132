//! A JSON scanner that is fed byte by byte: it finds where a value ends, nothing more.

/// Containers inside each other that are followed; deeper JSON counts as malformed.
const DEPTH_MAX: usize = 128;

/// What one more byte meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scan {
    /// The value goes on.
    More,
    /// This byte is the value's last.
    Done,
    /// The value ended before this byte (only numbers and literals end so).
    DoneBefore,
    /// This byte can't stand here.
    Malformed,
}

/// Scans one value. Raw control characters inside strings are let through: models write them, and where a
/// string ends is clear all the same.
#[derive(Debug, Clone)]
pub(crate) struct JsonScanner {
    /// True for an object, false for an array.
    stack: Vec<bool>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Value,
    FirstItemOrEnd,
    FirstKeyOrEnd,
    Key,
    Colon,
    CommaOrEnd,
    Text {
        key: bool,
        escape: Escape,
    },
    /// Bytes of a number or literal so far, as a small automaton.
    Scalar(Scalar),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    No,
    Begun,
    /// Hexadecimal digits still to come.
    Unicode(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scalar {
    Minus,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    Literal { rest: &'static [u8] },
}

impl JsonScanner {
    pub(crate) fn new() -> Self {
        Self { stack: Vec::new(), state: State::Value }
    }

    pub(crate) fn push(&mut self, byte: u8) -> Scan {
        let white = matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
        match self.state {
            State::Text { key, escape } => return self.text(byte, key, escape),
            State::Scalar(scalar) => return self.scalar(byte, scalar),
            _ if white => return Scan::More,
            State::Value => return self.begin(byte),
            State::FirstItemOrEnd if byte == b']' => return self.close(),
            State::FirstItemOrEnd => return self.begin(byte),
            State::FirstKeyOrEnd if byte == b'}' => return self.close(),
            State::FirstKeyOrEnd | State::Key if byte == b'"' => {
                self.state = State::Text { key: true, escape: Escape::No };
            }
            State::Colon if byte == b':' => self.state = State::Value,
            State::CommaOrEnd => {
                let object = self.stack.last().copied().unwrap_or(false);
                match byte {
                    b',' => self.state = if object { State::Key } else { State::Value },
                    b'}' if object => return self.close(),
                    b']' if !object => return self.close(),
                    _ => return Scan::Malformed,
                }
            }
            State::FirstKeyOrEnd | State::Key | State::Colon => return Scan::Malformed,
        }
        Scan::More
    }

    fn begin(&mut self, byte: u8) -> Scan {
        self.state = match byte {
            b'{' | b'[' => {
                if self.stack.len() == DEPTH_MAX {
                    return Scan::Malformed;
                }
                self.stack.push(byte == b'{');
                if byte == b'{' { State::FirstKeyOrEnd } else { State::FirstItemOrEnd }
            }
            b'"' => State::Text { key: false, escape: Escape::No },
            b'-' => State::Scalar(Scalar::Minus),
            b'0' => State::Scalar(Scalar::Zero),
            b'1'..=b'9' => State::Scalar(Scalar::Digits),
            b't' => State::Scalar(Scalar::Literal { rest: b"rue" }),
            b'f' => State::Scalar(Scalar::Literal { rest: b"alse" }),
            b'n' => State::Scalar(Scalar::Literal { rest: b"ull" }),
            _ => return Scan::Malformed,
        };
        Scan::More
    }

    fn text(&mut self, byte: u8, key: bool, escape: Escape) -> Scan {
        let next = match (escape, byte) {
            (Escape::No, b'"') if key => {
                self.state = State::Colon;
                return Scan::More;
            }
            (Escape::No, b'"') => return self.value_done(),
            (Escape::No, b'\\') => Escape::Begun,
            (Escape::No, _) => Escape::No,
            (Escape::Begun, b'u') => Escape::Unicode(4),
            (Escape::Begun, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Escape::No,
            (Escape::Unicode(left), byte) if byte.is_ascii_hexdigit() => {
                if left == 1 {
                    Escape::No
                } else {
                    Escape::Unicode(left - 1)
                }
            }
            _ => return Scan::Malformed,
        };
        self.state = State::Text { key, escape: next };
        Scan::More
    }

    fn scalar(&mut self, byte: u8, scalar: Scalar) -> Scan {
        let next = match (scalar, byte) {
            (Scalar::Literal { rest: [expected, rest @ ..] }, byte) if byte == *expected => {
                if rest.is_empty() {
                    return self.value_done();
                }
                Scalar::Literal { rest }
            }
            (Scalar::Minus, b'0') => Scalar::Zero,
            (Scalar::Minus | Scalar::Digits, b'1'..=b'9') | (Scalar::Digits, b'0') => Scalar::Digits,
            (Scalar::Zero | Scalar::Digits, b'.') => Scalar::Point,
            (Scalar::Point | Scalar::Fraction, b'0'..=b'9') => Scalar::Fraction,
            (Scalar::Zero | Scalar::Digits | Scalar::Fraction, b'e' | b'E') => Scalar::Exponent,
            (Scalar::Exponent, b'+' | b'-') => Scalar::ExponentSign,
            (Scalar::Exponent | Scalar::ExponentSign | Scalar::ExponentDigits, b'0'..=b'9') => {
                Scalar::ExponentDigits
            }
            (Scalar::Zero | Scalar::Digits | Scalar::Fraction | Scalar::ExponentDigits, _) => {
                return if self.stack.is_empty() {
                    Scan::DoneBefore
                } else {
                    self.state = State::CommaOrEnd;
                    self.push(byte)
                };
            }
            _ => return Scan::Malformed,
        };
        self.state = State::Scalar(next);
        Scan::More
    }

    fn close(&mut self) -> Scan {
        self.stack.pop();
        self.value_done()
    }

    fn value_done(&mut self) -> Scan {
        self.state = State::CommaOrEnd;
        if self.stack.is_empty() { Scan::Done } else { Scan::More }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn end_of(text: &str) -> Option<usize> {
        let mut scanner = JsonScanner::new();
        for (at, byte) in text.bytes().enumerate() {
            match scanner.push(byte) {
                Scan::More => {}
                Scan::Done => return Some(at + 1),
                Scan::DoneBefore => return Some(at),
                Scan::Malformed => return None,
            }
        }
        None
    }

    #[test]
    fn finds_the_end_of_a_value() {
        for (text, end) in [
            (r#"{"a": [1, 2.5e-3, {"b": "}\"]"}], "c": null} tail"#, Some(44)),
            (r#"{} "#, Some(2)),
            ("[]x", Some(2)),
            (r#"{"a":0}"#, Some(7)),
            ("-12.5,", Some(5)),
            ("true,", Some(4)),
            (r#""\u00e9\n""#, Some(10)),
            ("\"raw\nnewline\"", Some(13)),
            ("{,}", None),
            (r#"{"a" 1}"#, None),
            (r#"{"a":01}"#, None),
            (r#"{"a":1]"#, None),
            ("[1,]", None),
            (r#"{"a":1,}"#, None),
            (r#""\x""#, None),
            ("nul!", None),
            ("1.x", None),
            ("{'a':1}", None),
        ] {
            assert_eq!(end_of(text), end, "{text}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        assert_eq!(end_of(&"[".repeat(100_000)), None);
        let deep = format!("{}{}", "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX));
        assert_eq!(end_of(&deep), Some(deep.len()));
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            (-1e20..1e20f64).prop_map(Into::into),
            ".*".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::vec((".{0,5}", inner), 0..4)
                    .prop_map(|pairs| pairs.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(value in any_json(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let text = text.unwrap();
            prop_assert_eq!(end_of(&format!("{text};")), Some(text.len()));
        }

        #[test]
        fn what_serde_json_accepts_it_accepts(text in r#"[\[\]{}",:0-9.eE+\- \\antrufls]{0,12}"#) {
            if serde_json::from_str::<serde_json::Value>(&text).is_ok() {
                prop_assert!(end_of(&format!("{text};")).is_some(), "{text}");
            }
        }
    }
}
