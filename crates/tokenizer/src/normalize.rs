//! What is done to a text before it is split.

use std::borrow::Cow;

use icu_normalizer::{ComposingNormalizerBorrowed, DecomposingNormalizerBorrowed};

use crate::{
    charsmap::CharsMap,
    error::Result,
    split::{
        pattern::Pattern,
        steps::{is_mark, is_nonspacing_mark, is_punctuation},
    },
};

/// One step of a normalizer. The names are those of `tokenizer.json`.
pub(crate) enum Normalizer {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
    Lowercase,
    Strip {
        left: bool,
        right: bool,
    },
    StripAccents,
    Replace {
        pattern: Box<Pattern>,
        content: String,
    },
    Prepend(String),
    Bert {
        clean_text: bool,
        chinese: bool,
        strip_accents: bool,
        lowercase: bool,
    },
    Precompiled(CharsMap),
    /// SentencePiece's treatment of blanks: runs become one, those at the ends go.
    CollapseBlanks,
}

impl Normalizer {
    pub(crate) fn apply<'t>(&self, text: Cow<'t, str>) -> Result<Cow<'t, str>> {
        Ok(match self {
            Self::Nfc => Cow::Owned(ComposingNormalizerBorrowed::new_nfc().normalize(&text).into_owned()),
            Self::Nfd => Cow::Owned(DecomposingNormalizerBorrowed::new_nfd().normalize(&text).into_owned()),
            Self::Nfkc => Cow::Owned(ComposingNormalizerBorrowed::new_nfkc().normalize(&text).into_owned()),
            Self::Nfkd => Cow::Owned(DecomposingNormalizerBorrowed::new_nfkd().normalize(&text).into_owned()),
            Self::Lowercase => Cow::Owned(lowercase(&text)),
            Self::Strip { left, right } => {
                let mut rest: &str = &text;
                if *left {
                    rest = rest.trim_start();
                }
                if *right {
                    rest = rest.trim_end();
                }
                Cow::Owned(rest.to_owned())
            }
            Self::StripAccents => Cow::Owned(text.chars().filter(|c| !is_mark(*c)).collect()),
            Self::Replace { pattern, content } => {
                let mut out = String::with_capacity(text.len());
                let mut copied = 0;
                pattern.for_each_match(&text, |start, end| {
                    out.push_str(text.get(copied..start).unwrap_or_default());
                    out.push_str(content);
                    copied = end;
                })?;
                out.push_str(text.get(copied..).unwrap_or_default());
                Cow::Owned(out)
            }
            Self::Prepend(prefix) if text.is_empty() || prefix.is_empty() => text,
            Self::Prepend(prefix) => Cow::Owned(format!("{prefix}{text}")),
            Self::Bert { clean_text, chinese, strip_accents, lowercase: lower } => {
                let mut text = text.into_owned();
                if *clean_text {
                    text = text.chars().filter(|c| !is_bert_control(*c)).map(blank_for_whitespace).collect();
                }
                if *chinese {
                    text = space_out_chinese(&text);
                }
                if *strip_accents {
                    let apart = DecomposingNormalizerBorrowed::new_nfd().normalize(&text).into_owned();
                    text = apart.chars().filter(|c| !is_nonspacing_mark(*c)).collect();
                }
                if *lower {
                    text = lowercase(&text);
                }
                Cow::Owned(text)
            }
            Self::Precompiled(map) => Cow::Owned(map.normalize(&text)),
            Self::CollapseBlanks => {
                let words: Vec<&str> = text.split(' ').filter(|w| !w.is_empty()).collect();
                Cow::Owned(words.join(" "))
            }
        })
    }
}

/// Character by character: the final sigma is not treated apart.
fn lowercase(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

fn is_bert_control(c: char) -> bool {
    if matches!(c, '\t' | '\n' | '\r') {
        return false;
    }
    static OTHER: std::sync::LazyLock<crate::split::steps::CharSet> =
        std::sync::LazyLock::new(|| crate::split::steps::CharSet::new(r"[\p{Cc}\p{Cf}\p{Co}]"));
    c == '\0' || c == '\u{FFFD}' || OTHER.contains(c)
}

fn blank_for_whitespace(c: char) -> char {
    if c.is_whitespace() { ' ' } else { c }
}

/// Whether BERT cuts around this character.
pub(crate) fn is_bert_punctuation(c: char) -> bool {
    is_punctuation(c)
}

fn is_chinese(c: char) -> bool {
    matches!(u32::from(c),
        0x4E00..=0x9FFF | 0x3400..=0x4DBF | 0x20000..=0x2A6DF | 0x2A700..=0x2B73F
        | 0x2B740..=0x2B81F | 0x2B920..=0x2CEAF | 0xF900..=0xFAFF | 0x2F800..=0x2FA1F)
}

fn space_out_chinese(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_chinese(c) {
            out.extend([' ', c, ' ']);
        } else {
            out.push(c);
        }
    }
    out
}
