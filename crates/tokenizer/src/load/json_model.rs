//! The `model` part of `tokenizer.json`.

use std::fmt;

use hashbrown::HashMap;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

use super::json::Slot;
use crate::{
    bytes::{byte_to_char, parse_byte_token},
    error::{Result, TokenizerError},
    model::{
        Model,
        bpe::{Bpe, Merge, Symbols},
        unigram::Unigram,
        wordpiece::WordPiece,
    },
    vocab::Vocab,
};

/// Characters of a piece that WordPiece looks at if the file does not say.
const WORD_CHARS_MAX: usize = 100;

/// The fields of all models; each uses some.
#[derive(Deserialize)]
pub(super) struct ModelFile {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    vocab: VocabFile,
    #[serde(default)]
    merges: Vec<MergeFile>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    unk_id: Option<u32>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    dropout: Option<f32>,
    #[serde(default)]
    max_input_chars_per_word: Option<usize>,
}

/// A map from text to id, or a list of texts with their scores.
enum VocabFile {
    Ids(Vec<(String, u32)>),
    Scores(Vec<(String, f64)>),
}

impl<'de> Deserialize<'de> for VocabFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = VocabFile;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a map from tokens to ids or a list of tokens with scores")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<VocabFile, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(VocabFile::Ids(entries))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<VocabFile, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = seq.next_element()? {
                    entries.push(entry);
                }
                Ok(VocabFile::Scores(entries))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// `"a b"` or `["a", "b"]`.
struct MergeFile {
    text: String,
    left_bytes: usize,
}

impl MergeFile {
    fn parts(&self) -> (&str, &str) {
        let (left, right) = self.text.split_at_checked(self.left_bytes).unwrap_or_default();
        (left, right)
    }
}

impl<'de> Deserialize<'de> for MergeFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = MergeFile;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("two tokens with a blank between them, or a list of two")
            }

            fn visit_str<E: serde::de::Error>(self, line: &str) -> std::result::Result<MergeFile, E> {
                match line.split_once(' ') {
                    Some((left, right)) if !right.contains(' ') => {
                        Ok(MergeFile { text: format!("{left}{right}"), left_bytes: left.len() })
                    }
                    _ => Err(E::custom(format!("the merge {line:?} is not two tokens"))),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<MergeFile, A::Error> {
                let mut next = |index| {
                    seq.next_element::<String>()?
                        .ok_or_else(|| serde::de::Error::invalid_length(index, &"two tokens"))
                };
                let (left, right) = (next(0)?, next(1)?);
                Ok(MergeFile { text: left.clone() + &right, left_bytes: left.len() })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

const KNOWN: &[&str] = &["BPE", "Unigram", "WordPiece", "WordLevel"];

impl ModelFile {
    fn kind(&self) -> &str {
        match &self.kind {
            Some(kind) => kind,
            // Files of the first versions do not say.
            None if matches!(self.vocab, VocabFile::Scores(_)) => "Unigram",
            None if !self.merges.is_empty() => "BPE",
            None if self.continuing_subword_prefix.is_some() => "WordPiece",
            None => "WordLevel",
        }
    }

    /// Text and id of every entry.
    pub(super) fn entries(&self) -> Result<Vec<(String, u32)>> {
        let fits = (self.kind() == "Unigram") == matches!(self.vocab, VocabFile::Scores(_));
        if !KNOWN.contains(&self.kind()) {
            return Err(TokenizerError::unsupported("model.type", self.kind(), KNOWN));
        }
        if !fits {
            return Err(TokenizerError::malformed("model.vocab", "it is of another model's form"));
        }
        if self.dropout.is_some_and(|dropout| dropout > 0.0) {
            return Err(TokenizerError::unsupported(
                "model.dropout",
                "a random tokenization",
                &["null", "0.0"],
            ));
        }
        Ok(match &self.vocab {
            VocabFile::Ids(entries) => entries.clone(),
            VocabFile::Scores(entries) => entries.iter().map(|(text, _)| text.clone()).zip(0..).collect(),
        })
    }

    /// The text of the unknown token.
    pub(super) fn unknown(&self, entries: &[(String, u32)]) -> Option<String> {
        match (&self.unk_token, self.unk_id) {
            (Some(text), _) => Some(text.clone()),
            (None, Some(id)) => entries.get(id as usize).map(|(text, _)| text.clone()),
            (None, None) => None,
        }
    }
}

/// Makes the model. `slots` are the places of `vocab`.
pub(super) fn build(file: ModelFile, vocab: &Vocab, slots: &[Slot], byte_level: bool) -> Result<Model> {
    let unk = slots.iter().position(|s| s.is_unknown).map(|id| id as u32);
    match file.kind() {
        "Unigram" => unigram(&file, slots, unk),
        "WordPiece" => Ok(Model::WordPiece(WordPiece {
            unk,
            continuing_prefix: file.continuing_subword_prefix.unwrap_or_else(|| "##".into()),
            first_prefix: String::new(),
            piece_chars_max: file.max_input_chars_per_word.unwrap_or(WORD_CHARS_MAX),
        })),
        "WordLevel" => Ok(Model::WordLevel { unk }),
        _ => bpe(file, vocab, unk, byte_level).map(Model::Bpe),
    }
}

fn byte_tokens(vocab: &Vocab) -> Box<[Option<u32>; 256]> {
    let mut table = Box::new([None; 256]);
    for (byte, slot) in (0..=255u8).zip(table.iter_mut()) {
        *slot = vocab.id_of_text(&format!("<0x{byte:02X}>"));
    }
    table
}

fn bpe(file: ModelFile, vocab: &Vocab, unk: Option<u32>, byte_level: bool) -> Result<Bpe> {
    let continuing_prefix = file.continuing_subword_prefix.unwrap_or_default();
    let word_suffix = file.end_of_word_suffix.unwrap_or_default();
    let mut merges = HashMap::with_capacity(file.merges.len());
    let mut joined = String::new();
    for (rank, merge) in (0u32..).zip(&file.merges) {
        let (left, right) = merge.parts();
        joined.clear();
        joined.push_str(left);
        joined.push_str(right.strip_prefix(continuing_prefix.as_str()).unwrap_or(right));
        let id = |text: &str| {
            vocab.id_of_text(text).ok_or_else(|| {
                TokenizerError::malformed("model.merges", format!("{text:?} of merge {rank} is no token"))
            })
        };
        // Of equal pairs the last counts, as in the reference implementation.
        merges.insert((id(left)?, id(right)?), Merge { rank, merged: id(&joined)? });
    }
    let plain = continuing_prefix.is_empty() && word_suffix.is_empty();
    let symbols = if byte_level && plain {
        let mut table = Box::new([None; 256]);
        for (byte, slot) in (0..=255u8).zip(table.iter_mut()) {
            *slot = vocab.id_of_text(byte_to_char(byte).encode_utf8(&mut [0; 4])).or(unk);
        }
        Symbols::Bytes(table)
    } else if byte_level {
        return Err(TokenizerError::unsupported(
            "model.continuing_subword_prefix and model.end_of_word_suffix",
            "affixes beside ByteLevel",
            &["null"],
        ));
    } else {
        Symbols::Chars {
            byte_fallback: file.byte_fallback.then(|| byte_tokens(vocab)),
            unk,
            fuse_unk: file.fuse_unk,
            continuing_prefix,
            word_suffix,
        }
    };
    Ok(Bpe { symbols, merges, ignore_merges: file.ignore_merges })
}

fn unigram(file: &ModelFile, slots: &[Slot], unk: Option<u32>) -> Result<Model> {
    let VocabFile::Scores(entries) = &file.vocab else {
        return Err(TokenizerError::malformed("model.vocab", "it is of another model's form"));
    };
    if entries.iter().any(|(_, score)| score.is_nan()) {
        return Err(TokenizerError::malformed("model.vocab", "a score is not a number"));
    }
    let worst = entries.iter().map(|(_, score)| *score).fold(f64::INFINITY, f64::min);
    // What a user's text must not become is left out: control tokens, the unknown token, and with fallback the bytes.
    let tokens = (0u32..).zip(entries.iter().zip(slots)).filter_map(|(id, ((text, score), slot))| {
        let byte = file.byte_fallback && parse_byte_token(text).is_some();
        (slot.is_piece && !byte).then_some((text.as_str(), id, *score))
    });
    let bytes = file.byte_fallback.then(|| {
        let mut table = Box::new([None; 256]);
        for (id, (text, _)) in (0u32..).zip(entries) {
            if let Some(slot) = parse_byte_token(text).and_then(|b| table.get_mut(usize::from(b))) {
                *slot = Some(id);
            }
        }
        table
    });
    Ok(Model::Unigram(Unigram::new(tokens, if worst.is_finite() { worst } else { 0.0 }, unk, bytes)?))
}
