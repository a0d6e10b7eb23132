//! The `normalizer`, `pre_tokenizer` and `post_processor` parts of `tokenizer.json`.

use serde_json::Value;

use crate::{
    charsmap::CharsMap,
    error::{Result, TokenizerError},
    normalize::{Normalizer, is_bert_punctuation},
    split::{
        pattern::Pattern,
        pieces::Behavior,
        steps::{GPT2, Prepend, Step, is_punctuation},
    },
    tokenizer::SpecialIds,
};

const NORMALIZERS: &[&str] = &[
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Lowercase",
    "Strip",
    "StripAccents",
    "Replace",
    "Prepend",
    "BertNormalizer",
    "Precompiled",
    "Sequence",
];
const PRE_TOKENIZERS: &[&str] = &[
    "ByteLevel",
    "Split",
    "Whitespace",
    "WhitespaceSplit",
    "Metaspace",
    "Digits",
    "Punctuation",
    "BertPreTokenizer",
    "CharDelimiterSplit",
    "FixedLength",
    "Sequence",
];
const POST_PROCESSORS: &[&str] =
    &["TemplateProcessing", "ByteLevel", "BertProcessing", "RobertaProcessing", "Sequence"];
const BEHAVIORS: &[&str] = &["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"];

/// Calls `read` with kind and fields of `value`, or of each of its parts if it is a `Sequence`.
pub(super) fn each_part(
    place: &str,
    value: Option<&Value>,
    list: &str,
    read: &mut dyn FnMut(&str, &Value) -> Result<()>,
) -> Result<()> {
    let Some(value) = value.filter(|v| !v.is_null()) else { return Ok(()) };
    let Some(kind) = value.get("type").and_then(Value::as_str) else {
        return Err(TokenizerError::malformed(place, "it has no type"));
    };
    if kind != "Sequence" {
        return read(kind, value);
    }
    let Some(parts) = value.get(list).and_then(Value::as_array) else {
        return Err(TokenizerError::malformed(place, format!("its sequence has no {list}")));
    };
    // The JSON reader bounds how deep sequences may be nested.
    parts.iter().try_for_each(|part| each_part(place, Some(part), list, read))
}

pub(super) fn bool_field(value: &Value, name: &str, default: bool) -> bool {
    value.get(name).and_then(Value::as_bool).unwrap_or(default)
}

pub(super) fn str_field(place: &str, value: &Value, name: &str) -> Result<String> {
    match value.get(name).and_then(Value::as_str) {
        Some(text) => Ok(text.to_owned()),
        None => Err(TokenizerError::malformed(place, format!("{name} is missing"))),
    }
}

pub(super) fn single_char(place: &str, value: Option<&Value>, default: char) -> Result<char> {
    let Some(text) = value.and_then(Value::as_str) else { return Ok(default) };
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(only), None) => Ok(only),
        _ => Err(TokenizerError::malformed(place, format!("{text:?} is not one character"))),
    }
}

/// `{"String": "…"}` or `{"Regex": "…"}`.
fn pattern(place: &str, value: &Value) -> Result<Pattern> {
    let pattern = value.get("pattern");
    if let Some(text) = pattern.and_then(|p| p.get("String")).and_then(Value::as_str) {
        return Pattern::literal(text);
    }
    match pattern.and_then(|p| p.get("Regex")).and_then(Value::as_str) {
        Some(regex) => Pattern::new(regex),
        None => Err(TokenizerError::malformed(place, "pattern is missing")),
    }
}

fn behavior(place: &str, value: &Value, default: Behavior) -> Result<Behavior> {
    let Some(name) = value.get("behavior").and_then(Value::as_str) else { return Ok(default) };
    // Files written by the Python library have the names in small letters.
    let plain: String = name.chars().filter(|c| *c != '_').flat_map(char::to_lowercase).collect();
    Ok(match plain.as_str() {
        "removed" => Behavior::Removed,
        "isolated" => Behavior::Isolated,
        "mergedwithprevious" => Behavior::MergedWithPrevious,
        "mergedwithnext" => Behavior::MergedWithNext,
        "contiguous" => Behavior::Contiguous,
        _ => return Err(TokenizerError::unsupported(&format!("{place}.behavior"), name, BEHAVIORS)),
    })
}

pub(super) fn normalizers(value: Option<&Value>, out: &mut Vec<Normalizer>) -> Result<()> {
    each_part("normalizer", value, "normalizers", &mut |kind, part| {
        out.push(match kind {
            "NFC" => Normalizer::Nfc,
            "NFD" => Normalizer::Nfd,
            "NFKC" => Normalizer::Nfkc,
            "NFKD" => Normalizer::Nfkd,
            "Lowercase" => Normalizer::Lowercase,
            "Strip" => Normalizer::Strip {
                left: bool_field(part, "strip_left", true),
                right: bool_field(part, "strip_right", true),
            },
            "StripAccents" => Normalizer::StripAccents,
            "Replace" => Normalizer::Replace {
                pattern: Box::new(pattern("normalizer", part)?),
                content: str_field("normalizer", part, "content")?,
            },
            "Prepend" => Normalizer::Prepend(str_field("normalizer", part, "prepend")?),
            "BertNormalizer" => {
                let lowercase = bool_field(part, "lowercase", true);
                Normalizer::Bert {
                    clean_text: bool_field(part, "clean_text", true),
                    chinese: bool_field(part, "handle_chinese_chars", true),
                    strip_accents: bool_field(part, "strip_accents", lowercase),
                    lowercase,
                }
            }
            "Precompiled" => {
                let blob = str_field("normalizer", part, "precompiled_charsmap")?;
                let blob = base64(&blob).ok_or_else(|| {
                    TokenizerError::malformed("normalizer.precompiled_charsmap", "it is no base64")
                })?;
                Normalizer::Precompiled(CharsMap::new(&blob, true)?)
            }
            other => return Err(TokenizerError::unsupported("normalizer", other, NORMALIZERS)),
        });
        Ok(())
    })
}

/// The steps of a pre-tokenizer, and whether its pieces are spelled in bytes.
#[derive(Default)]
pub(super) struct PreTokenizer {
    pub(super) steps: Vec<Step>,
    pub(super) byte_level: bool,
}

pub(super) fn pre_tokenizer(value: Option<&Value>, out: &mut PreTokenizer) -> Result<()> {
    each_part("pre_tokenizer", value, "pretokenizers", &mut |kind, part| {
        if out.byte_level {
            return Err(TokenizerError::unsupported(
                "pre_tokenizer",
                format!("{kind} after ByteLevel"),
                &["ByteLevel in last place"],
            ));
        }
        let steps = &mut out.steps;
        match kind {
            "ByteLevel" => {
                if bool_field(part, "add_prefix_space", true) {
                    steps.push(Step::PrefixSpace);
                }
                if bool_field(part, "use_regex", true) {
                    steps.push(Step::pattern(GPT2, Behavior::Isolated)?);
                }
                out.byte_level = true;
            }
            "Split" => {
                let behavior = behavior("pre_tokenizer", part, Behavior::Isolated)?;
                let invert = bool_field(part, "invert", false);
                let regex = part.get("pattern").and_then(|p| p.get("Regex")).and_then(Value::as_str);
                steps.push(match regex {
                    Some(regex) => Step::regex(regex, behavior, invert)?,
                    None => {
                        Step::Split { pattern: Box::new(pattern("pre_tokenizer", part)?), behavior, invert }
                    }
                });
            }
            "Whitespace" => steps.push(Step::Split {
                pattern: Box::new(Pattern::words()?),
                behavior: Behavior::Removed,
                invert: true,
            }),
            "WhitespaceSplit" => {
                steps.push(Step::Chars { is: char::is_whitespace, behavior: Behavior::Removed });
            }
            "Metaspace" => {
                let prepend = match part.get("prepend_scheme").and_then(Value::as_str) {
                    Some("first") => Prepend::First,
                    Some("never") => Prepend::Never,
                    Some("always") => Prepend::Always,
                    Some(other) => {
                        return Err(TokenizerError::unsupported(
                            "pre_tokenizer.prepend_scheme",
                            other,
                            &["first", "never", "always"],
                        ));
                    }
                    None if bool_field(part, "add_prefix_space", true) => Prepend::Always,
                    None => Prepend::Never,
                };
                steps.push(Step::Metaspace {
                    mark: single_char("pre_tokenizer.replacement", part.get("replacement"), '▁')?,
                    prepend,
                    doubled: false,
                    split: bool_field(part, "split", true),
                });
            }
            "Digits" => {
                let each = bool_field(part, "individual_digits", false);
                let behavior = if each { Behavior::Isolated } else { Behavior::Contiguous };
                steps.push(Step::Chars { is: char::is_numeric, behavior });
            }
            "Punctuation" => steps.push(Step::Chars {
                is: is_punctuation,
                behavior: behavior("pre_tokenizer", part, Behavior::Isolated)?,
            }),
            "BertPreTokenizer" => {
                steps.push(Step::Chars { is: char::is_whitespace, behavior: Behavior::Removed });
                steps.push(Step::Chars { is: is_bert_punctuation, behavior: Behavior::Isolated });
            }
            "CharDelimiterSplit" => steps.push(Step::Delimiter {
                delimiter: single_char("pre_tokenizer.delimiter", part.get("delimiter"), ' ')?,
                behavior: Behavior::Removed,
            }),
            "FixedLength" => {
                let length = part.get("length").and_then(Value::as_u64).unwrap_or(5);
                match usize::try_from(length) {
                    Ok(length) if length > 0 => steps.push(Step::FixedLength(length)),
                    _ => return Err(TokenizerError::malformed("pre_tokenizer.length", "it is zero")),
                }
            }
            other => return Err(TokenizerError::unsupported("pre_tokenizer", other, PRE_TOKENIZERS)),
        }
        Ok(())
    })
}

pub(super) fn post_processor(value: Option<&Value>, special: &mut SpecialIds) -> Result<()> {
    each_part("post_processor", value, "processors", &mut |kind, part| {
        match kind {
            "ByteLevel" => {}
            "TemplateProcessing" => template_processing(part, special)?,
            "BertProcessing" | "RobertaProcessing" => {
                let id = |name: &str| {
                    let id = part.get(name).and_then(|pair| pair.get(1)).and_then(Value::as_u64);
                    id.and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
                        TokenizerError::malformed("post_processor", format!("{name} has no id"))
                    })
                };
                special.before = vec![id("cls")?];
                special.after = vec![id("sep")?];
            }
            other => return Err(TokenizerError::unsupported("post_processor", other, POST_PROCESSORS)),
        }
        Ok(())
    })
}

fn template_processing(part: &Value, special: &mut SpecialIds) -> Result<()> {
    let place = "post_processor";
    let Some(single) = part.get("single").and_then(Value::as_array) else {
        return Err(TokenizerError::malformed(place, "its template has no single"));
    };
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let mut behind = false;
    for piece in single {
        if piece.get("Sequence").is_some() {
            behind = true;
            continue;
        }
        let name = piece
            .get("SpecialToken")
            .and_then(|token| token.get("id"))
            .and_then(Value::as_str)
            .ok_or_else(|| TokenizerError::malformed(place, "a piece of its template is unknown"))?;
        let ids = part
            .get("special_tokens")
            .and_then(|tokens| tokens.get(name))
            .and_then(|token| token.get("ids"))
            .and_then(Value::as_array)
            .ok_or_else(|| TokenizerError::malformed(place, format!("{name:?} has no ids")))?;
        for id in ids {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let id =
                id.ok_or_else(|| TokenizerError::malformed(place, format!("an id of {name:?} is none")))?;
            if behind { &mut after } else { &mut before }.push(id);
        }
    }
    (special.before, special.after) = (before, after);
    Ok(())
}

/// Standard base64 with padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in text.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = ((bits << 6) | u32::from(value)) & 0xFFFF;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_published() {
        for (text, bytes) in
            [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmFy", "foobar")]
        {
            assert_eq!(base64(text).unwrap(), bytes.as_bytes());
        }
        assert_eq!(base64("Zm9v!"), None);
    }
}
