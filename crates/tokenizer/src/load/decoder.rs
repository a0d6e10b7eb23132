//! The `decoder` part of `tokenizer.json`: what each token adds to a text.

use serde_json::Value;

use super::json_parts::{bool_field, each_part, single_char, str_field};
use crate::{
    bytes::{CharToByte, parse_byte_token},
    error::{Result, TokenizerError},
    tokenizer::Joining,
};

const KNOWN: &[&str] = &[
    "ByteLevel",
    "ByteFallback",
    "Metaspace",
    "Replace",
    "Fuse",
    "Strip",
    "WordPiece",
    "BPEDecoder",
    "Sequence",
];

enum Op {
    Bytes(CharToByte),
    ByteTokens,
    Replace {
        from: String,
        to: String,
    },
    /// Takes characters from both ends of the token.
    Strip {
        content: char,
        start: usize,
        stop: usize,
    },
    WordPiece {
        prefix: String,
        cleanup: bool,
    },
    /// A blank in front of every token.
    Apart,
}

/// What is done to the text of a token, in order.
pub(super) struct Decoder {
    ops: Vec<Op>,
    joining: Joining,
}

impl Decoder {
    pub(super) fn read(value: Option<&Value>) -> Result<Self> {
        let mut this = Self { ops: Vec::new(), joining: Joining::default() };
        let mut fused = false;
        let mut any = false;
        each_part("decoder", value, "decoders", &mut |kind, part| {
            any = true;
            this.read_part(kind, part, &mut fused)
        })?;
        if !any {
            this.ops.push(Op::Apart);
            this.joining.strip_leading = 1;
        }
        Ok(this)
    }

    fn read_part(&mut self, kind: &str, part: &Value, fused: &mut bool) -> Result<()> {
        match kind {
            "ByteLevel" => self.ops.push(Op::Bytes(CharToByte::new())),
            "ByteFallback" => self.ops.push(Op::ByteTokens),
            "Metaspace" => {
                let mark = single_char("decoder.replacement", part.get("replacement"), '▁')?;
                let scheme = part.get("prepend_scheme").and_then(Value::as_str);
                let never = scheme == Some("never")
                    || (scheme.is_none() && !bool_field(part, "add_prefix_space", true));
                self.ops.push(Op::Replace { from: mark.to_string(), to: " ".into() });
                self.joining.strip_leading = usize::from(!never);
            }
            "Replace" => {
                let from = part
                    .get("pattern")
                    .and_then(|p| p.get("String"))
                    .and_then(Value::as_str)
                    .ok_or_else(|| {
                        TokenizerError::unsupported("decoder.pattern", "a regular expression", &["String"])
                    })?;
                if *fused && from.chars().count() > 1 {
                    return Err(TokenizerError::unsupported(
                        "decoder",
                        "Replace of several characters after Fuse",
                        &["Replace before Fuse"],
                    ));
                }
                let to = str_field("decoder", part, "content")?;
                self.ops.push(Op::Replace { from: from.to_owned(), to });
            }
            "Fuse" => *fused = true,
            "Strip" => {
                let content = single_char("decoder.content", part.get("content"), ' ')?;
                let count = |name: &str| {
                    part.get(name).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
                };
                let (start, stop) = (count("start"), count("stop"));
                if !*fused {
                    self.ops.push(Op::Strip { content, start, stop });
                } else if content == ' ' {
                    self.joining = Joining { strip_leading: start, strip_trailing: stop };
                } else {
                    return Err(TokenizerError::unsupported("decoder.content", content, &["a blank"]));
                }
            }
            "WordPiece" => {
                let prefix = part.get("prefix").and_then(Value::as_str).unwrap_or("##").to_owned();
                self.ops.push(Op::WordPiece { prefix, cleanup: bool_field(part, "cleanup", true) });
                self.joining.strip_leading = 1;
            }
            "BPEDecoder" => {
                let suffix = part.get("suffix").and_then(Value::as_str).unwrap_or("</w>").to_owned();
                self.ops.push(Op::Replace { from: suffix, to: " ".into() });
                self.joining.strip_trailing = 1;
            }
            other => return Err(TokenizerError::unsupported("decoder", other, KNOWN)),
        }
        Ok(())
    }

    pub(super) fn joining(&self) -> Joining {
        self.joining
    }

    /// What a token with this text adds; `None` if it is the text itself.
    pub(super) fn output(&self, text: &str) -> Option<Vec<u8>> {
        let mut text = text.to_owned();
        for op in &self.ops {
            match op {
                Op::Bytes(table) => {
                    if let Some(bytes) = table.decode(&text) {
                        return Some(bytes);
                    }
                }
                Op::ByteTokens => {
                    if let Some(byte) = parse_byte_token(&text) {
                        return Some(vec![byte]);
                    }
                }
                Op::Replace { from, .. } if from.is_empty() => {}
                Op::Replace { from, to } => text = text.replace(from.as_str(), to),
                Op::Strip { content, start, stop } => {
                    for _ in 0..*start {
                        match text.strip_prefix(*content) {
                            Some(rest) => text = rest.to_owned(),
                            None => break,
                        }
                    }
                    for _ in 0..*stop {
                        match text.strip_suffix(*content) {
                            Some(rest) => text = rest.to_owned(),
                            None => break,
                        }
                    }
                }
                Op::WordPiece { prefix, cleanup } => {
                    text = match text.strip_prefix(prefix.as_str()) {
                        Some(rest) => rest.to_owned(),
                        None => format!(" {text}"),
                    };
                    if *cleanup {
                        text = clean_up(&text);
                    }
                }
                Op::Apart => text.insert(0, ' '),
            }
        }
        Some(text.into_bytes())
    }
}

/// Closes up what English writes without a blank.
fn clean_up(text: &str) -> String {
    let mut text = text.to_owned();
    for (from, to) in [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" do not", " don't"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ] {
        text = text.replace(from, to);
    }
    text
}
