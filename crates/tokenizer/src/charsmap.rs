//! SentencePiece's precompiled character map: a trie of prefixes in a double array (darts-clone's layout), and the
//! texts that replace them.

use crate::error::{Result, TokenizerError};

/// Bytes of a map that are accepted; published ones have a quarter of a megabyte.
const MAP_BYTES_MAX: usize = 16 << 20;

/// A compiled map from prefixes to replacements.
#[derive(Debug)]
pub(crate) struct CharsMap {
    units: Vec<u32>,
    /// Texts, each ended by a zero byte.
    replacements: Vec<u8>,
    /// Look at whole clusters of characters first, as `tokenizer.json` has it; else take the longest prefix.
    by_cluster: bool,
}

fn offset(unit: u32) -> u32 {
    (unit >> 10) << ((unit & (1 << 9)) >> 6)
}

fn label(unit: u32) -> u32 {
    unit & ((1 << 31) | 0xFF)
}

fn has_leaf(unit: u32) -> bool {
    unit & (1 << 8) != 0
}

fn value(unit: u32) -> u32 {
    unit & !(1 << 31)
}

impl CharsMap {
    /// Reads the blob: the trie's size in bytes, the trie, the replacements.
    pub(crate) fn new(blob: &[u8], by_cluster: bool) -> Result<Self> {
        let bad = |problem: &str| TokenizerError::malformed("the precompiled character map", problem);
        if blob.len() > MAP_BYTES_MAX {
            return Err(bad("it is larger than 16 MiB"));
        }
        let (size, rest) = blob.split_first_chunk::<4>().ok_or_else(|| bad("it has no header"))?;
        let size = u32::from_le_bytes(*size) as usize;
        if !size.is_multiple_of(4) || size > rest.len() {
            return Err(bad("its trie does not fit into it"));
        }
        let (trie, replacements) = rest.split_at(size);
        let units = trie.as_chunks::<4>().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        Ok(Self { units, replacements: replacements.to_vec(), by_cluster })
    }

    /// Calls `found` with the length and replacement of every prefix of `text` that the map has, shortest first.
    fn prefixes<'m>(&'m self, text: &str, mut found: impl FnMut(usize, &'m str)) {
        let Some(mut node) = self.units.first().map(|unit| offset(*unit)) else { return };
        for (index, byte) in text.bytes().enumerate() {
            if byte == 0 {
                return;
            }
            node ^= u32::from(byte);
            let Some(unit) = self.units.get(node as usize).copied() else { return };
            if label(unit) != u32::from(byte) {
                return;
            }
            node ^= offset(unit);
            if has_leaf(unit)
                && let Some(leaf) = self.units.get(node as usize)
                && let Some(tail) = self.replacements.get(value(*leaf) as usize..)
            {
                let end = tail.iter().position(|b| *b == 0).unwrap_or(tail.len());
                if let Ok(replacement) = std::str::from_utf8(tail.get(..end).unwrap_or_default()) {
                    found(index + 1, replacement);
                }
            }
        }
    }

    pub(crate) fn normalize(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let mut taken = c.len_utf8();
            let mut replacement = None;
            if self.by_cluster {
                self.prefixes(rest.get(..taken).unwrap_or_default(), |_, r| {
                    replacement = replacement.or(Some(r));
                });
            } else {
                self.prefixes(rest, |len, r| {
                    if rest.is_char_boundary(len) {
                        taken = len;
                        replacement = Some(r);
                    }
                });
            }
            match replacement {
                Some(text) => out.push_str(text),
                None => out.push(c),
            }
            rest = rest.get(taken..).unwrap_or_default();
        }
        out
    }
}
