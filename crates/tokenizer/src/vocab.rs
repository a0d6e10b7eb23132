//! The vocabulary: for each id the text as published, what it adds to an answer, and what kind of token it is.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::error::{Result, TokenizerError};

/// The most tokens that a vocabulary may have.
pub(crate) const TOKENS_MAX: usize = 1 << 24;
/// The most bytes that the texts of all tokens may have together.
const TEXT_BYTES_MAX: usize = 1 << 29;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of text.
    Normal,
    /// Stands for text that the vocabulary can't spell.
    Unknown,
    /// Steers the model; never part of an answer's text and never made from a user's text.
    Control,
    /// Added whole to the vocabulary: matched before anything is split, part of the text.
    Added,
    /// Has an id and no use.
    Unused,
    /// One byte, for text that no other token spells.
    Byte,
}

/// One growing text with the ends of its parts.
#[derive(Default)]
struct Arena {
    text: Vec<u8>,
    ends: Vec<u32>,
}

impl Arena {
    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.text.len() + bytes.len();
        if end > TEXT_BYTES_MAX {
            return Err(TokenizerError::TooLarge {
                part: "the text of all tokens".into(),
                found: end as u64,
                limit: TEXT_BYTES_MAX as u64,
            });
        }
        self.text.extend_from_slice(bytes);
        self.ends.push(end as u32);
        Ok(())
    }

    fn get(&self, index: u32) -> Option<&[u8]> {
        let index = index as usize;
        let end = *self.ends.get(index)? as usize;
        let start = if index == 0 { 0 } else { *self.ends.get(index - 1)? as usize };
        self.text.get(start..end)
    }
}

/// All tokens of a model, found by id, by published text and by the bytes they stand for.
pub(crate) struct Vocab {
    texts: Arena,
    outputs: Arena,
    kinds: Vec<TokenKind>,
    pieces: Vec<bool>,
    by_text: HashTable<u32>,
    by_output: HashTable<u32>,
    hasher: DefaultHashBuilder,
    longest_output: usize,
    longest_text: usize,
}

impl Vocab {
    pub(crate) fn with_capacity(tokens: usize) -> Self {
        let tokens = tokens.min(TOKENS_MAX);
        Self {
            texts: Arena { text: Vec::new(), ends: Vec::with_capacity(tokens) },
            outputs: Arena { text: Vec::new(), ends: Vec::with_capacity(tokens) },
            kinds: Vec::with_capacity(tokens),
            pieces: Vec::with_capacity(tokens),
            by_text: HashTable::with_capacity(tokens),
            by_output: HashTable::with_capacity(tokens),
            hasher: DefaultHashBuilder::default(),
            longest_output: 0,
            longest_text: 0,
        }
    }

    /// Adds the token with the next id. `output` is what it contributes to a text; with `piece` a user's text may be
    /// spelled with it.
    ///
    /// Of several tokens with one text the first is found by it.
    pub(crate) fn push(&mut self, text: &str, output: &[u8], kind: TokenKind, piece: bool) -> Result<u32> {
        if self.kinds.len() >= TOKENS_MAX {
            return Err(TokenizerError::TooLarge {
                part: "the vocabulary".into(),
                found: self.kinds.len() as u64 + 1,
                limit: TOKENS_MAX as u64,
            });
        }
        let id = self.kinds.len() as u32;
        self.texts.push(text.as_bytes())?;
        self.outputs.push(output)?;
        self.kinds.push(kind);
        self.pieces.push(piece);
        self.longest_text = self.longest_text.max(text.len());
        let Self { texts, outputs, hasher, by_text, by_output, .. } = self;
        insert(by_text, texts, hasher, text.as_bytes(), id);
        if piece && !output.is_empty() {
            insert(by_output, outputs, hasher, output, id);
            self.longest_output = self.longest_output.max(output.len());
        }
        Ok(id)
    }

    pub(crate) fn len(&self) -> u32 {
        self.kinds.len() as u32
    }

    /// The id with this published text.
    pub(crate) fn id_of_text(&self, text: &str) -> Option<u32> {
        find(&self.by_text, &self.texts, &self.hasher, text.as_bytes())
    }

    /// The piece that stands for exactly these bytes.
    pub(crate) fn id_of_piece(&self, piece: &[u8]) -> Option<u32> {
        if piece.len() > self.longest_output {
            return None;
        }
        find(&self.by_output, &self.outputs, &self.hasher, piece)
    }

    /// The piece with this published text.
    pub(crate) fn id_of_piece_text(&self, text: &str) -> Option<u32> {
        if text.len() > self.longest_text {
            return None;
        }
        let id = self.id_of_text(text)?;
        self.is_piece(id).then_some(id)
    }

    /// Bytes of the longest published text: nothing longer need be looked up.
    pub(crate) fn longest_text(&self) -> usize {
        self.longest_text
    }

    pub(crate) fn text(&self, id: u32) -> Option<&str> {
        std::str::from_utf8(self.texts.get(id)?).ok()
    }

    pub(crate) fn output(&self, id: u32) -> Option<&[u8]> {
        self.outputs.get(id)
    }

    /// Whether a user's text may be spelled with this token; the others are reached by rules of their own.
    pub(crate) fn is_piece(&self, id: u32) -> bool {
        self.pieces.get(id as usize).copied().unwrap_or(false)
    }

    pub(crate) fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }
}

fn find(table: &HashTable<u32>, arena: &Arena, hasher: &DefaultHashBuilder, key: &[u8]) -> Option<u32> {
    table.find(hasher.hash_one(key), |id| arena.get(*id) == Some(key)).copied()
}

fn insert(table: &mut HashTable<u32>, arena: &Arena, hasher: &DefaultHashBuilder, key: &[u8], id: u32) {
    let hash = hasher.hash_one(key);
    if table.find(hash, |other| arena.get(*other) == Some(key)).is_none() {
        table.insert_unique(hash, id, |other| hasher.hash_one(arena.get(*other).unwrap_or_default()));
    }
}
