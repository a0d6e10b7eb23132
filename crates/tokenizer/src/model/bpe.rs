//! Byte-pair encoding with ranked merges (Sennrich et al. 2016, arXiv:1508.07909).
//!
//! The pair of lowest rank is merged first, of equal ones the leftmost. Short pieces are scanned for it again and
//! again; long ones keep the pairs in a heap, so that a piece of n symbols takes O(n log n).

use std::{cmp::Reverse, collections::BinaryHeap};

use hashbrown::HashMap;

use crate::{
    error::{Result, TokenizerError},
    vocab::Vocab,
};

/// Pieces of up to so many symbols are scanned, longer ones use the heap.
const SCAN_MAX: usize = 24;
/// Stands for "no symbol".
const NONE: u32 = u32::MAX;

/// What a pair of symbols becomes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Merge {
    pub(crate) rank: u32,
    pub(crate) merged: u32,
}

/// The first symbols of a piece.
pub(crate) enum Symbols {
    /// One per byte, found by the byte.
    Bytes(Box<[Option<u32>; 256]>),
    /// One per character, found by its text; the fields are those of `tokenizer.json`.
    Chars {
        /// Tokens of the bytes, for characters without a token.
        byte_fallback: Option<Box<[Option<u32>; 256]>>,
        unk: Option<u32>,
        /// Several unknown characters in a row become one token.
        fuse_unk: bool,
        /// Text in front of every symbol of a piece but the first.
        continuing_prefix: String,
        /// Text behind the last symbol of a piece.
        word_suffix: String,
    },
}

/// A byte-pair encoder.
pub(crate) struct Bpe {
    pub(crate) symbols: Symbols,
    pub(crate) merges: HashMap<(u32, u32), Merge>,
    /// A piece that is a token as a whole is that token.
    pub(crate) ignore_merges: bool,
}

impl Bpe {
    pub(crate) fn encode(&self, vocab: &Vocab, piece: &str, out: &mut Vec<u32>) -> Result<()> {
        if self.ignore_merges
            && let Some(id) = self.whole(vocab, piece)
        {
            out.push(id);
            return Ok(());
        }
        let start = out.len();
        match &self.symbols {
            Symbols::Bytes(table) => {
                // A byte without a token is left out, as in the published implementations.
                out.extend(piece.bytes().filter_map(|b| table.get(usize::from(b)).copied().flatten()));
            }
            Symbols::Chars { .. } => self.push_chars(vocab, piece, out),
        }
        let count = out.len() - start;
        let merged = match out.get_mut(start..) {
            Some(symbols) if count <= SCAN_MAX => self.merge_by_scan(symbols),
            Some(symbols) => self.merge_by_heap(symbols)?,
            None => 0,
        };
        out.truncate(start + merged);
        Ok(())
    }

    fn whole(&self, vocab: &Vocab, piece: &str) -> Option<u32> {
        match &self.symbols {
            Symbols::Bytes(_) => vocab.id_of_piece(piece.as_bytes()),
            Symbols::Chars { .. } => vocab.id_of_piece_text(piece),
        }
    }

    fn push_chars(&self, vocab: &Vocab, piece: &str, out: &mut Vec<u32>) {
        let Symbols::Chars { byte_fallback, unk, fuse_unk, continuing_prefix, word_suffix } = &self.symbols
        else {
            return;
        };
        let plain = continuing_prefix.is_empty() && word_suffix.is_empty();
        let mut unknown_before = false;
        let mut spelled = String::new();
        let mut buffer = [0; 4];
        let mut chars = piece.chars().peekable();
        let mut first = true;
        while let Some(c) = chars.next() {
            let symbol: &str = c.encode_utf8(&mut buffer);
            let symbol = if plain {
                symbol
            } else {
                spelled.clear();
                if !first {
                    spelled.push_str(continuing_prefix);
                }
                spelled.push_str(symbol);
                if chars.peek().is_none() {
                    spelled.push_str(word_suffix);
                }
                &spelled
            };
            first = false;
            if let Some(id) = vocab.id_of_piece_text(symbol) {
                out.push(id);
                unknown_before = false;
                continue;
            }
            if let Some(table) = byte_fallback {
                let bytes: Option<Vec<u32>> =
                    symbol.bytes().map(|b| table.get(usize::from(b)).copied().flatten()).collect();
                if let Some(bytes) = bytes {
                    out.extend(bytes);
                    unknown_before = false;
                    continue;
                }
            }
            if let Some(unk) = unk {
                if !(*fuse_unk && unknown_before) {
                    out.push(*unk);
                }
                unknown_before = true;
            }
        }
    }

    fn merge_of(&self, left: u32, right: u32) -> Option<Merge> {
        self.merges.get(&(left, right)).copied()
    }

    /// Merges in place and gives the number of symbols left.
    fn merge_by_scan(&self, symbols: &mut [u32]) -> usize {
        // ranks[i] belongs to the pair (i, i + 1).
        let mut merges = [None; SCAN_MAX];
        let mut count = symbols.len();
        for i in 0..count.saturating_sub(1) {
            merges[i] = self.merge_of(symbols[i], symbols[i + 1]);
        }
        loop {
            let mut best: Option<(u32, usize, u32)> = None;
            for (i, merge) in merges.iter().enumerate().take(count.saturating_sub(1)) {
                if let Some(merge) = merge
                    && best.is_none_or(|(rank, ..)| merge.rank < rank)
                {
                    best = Some((merge.rank, i, merge.merged));
                }
            }
            let Some((_, at, merged)) = best else { return count };
            symbols[at] = merged;
            symbols.copy_within(at + 2..count, at + 1);
            merges.copy_within(at + 1..count.saturating_sub(1), at);
            count -= 1;
            if at > 0 {
                merges[at - 1] = self.merge_of(symbols[at - 1], symbols[at]);
            }
            merges[at] = if at + 1 < count { self.merge_of(symbols[at], symbols[at + 1]) } else { None };
        }
    }

    /// As [`Self::merge_by_scan`], for long pieces.
    fn merge_by_heap(&self, symbols: &mut [u32]) -> Result<usize> {
        let count = symbols.len();
        let Ok(length) = u32::try_from(count) else {
            return Err(TokenizerError::TooLarge {
                part: "a piece of text".into(),
                found: count as u64,
                limit: u64::from(u32::MAX),
            });
        };
        // A list of the symbols that are left: previous and next of each place. Merged-away places hold `NONE`.
        let mut previous: Vec<u32> = (0..length).map(|i| i.wrapping_sub(1)).collect();
        let mut next: Vec<u32> = (1..=length).map(|i| if i == length { NONE } else { i }).collect();
        // Pairs by rank, then place. A rank belongs to one pair, so it also tells whether the pair still stands there.
        let entry = |merge: Merge, at: u32| Reverse((u64::from(merge.rank) << 32) | u64::from(at));
        let mut queue: BinaryHeap<Reverse<u64>> = (0u32..)
            .zip(symbols.windows(2))
            .filter_map(|(at, pair)| self.merge_of(*pair.first()?, *pair.get(1)?).map(|m| entry(m, at)))
            .collect::<Vec<_>>()
            .into();
        while let Some(Reverse(key)) = queue.pop() {
            let (rank, at) = ((key >> 32) as u32, key as u32);
            let place = at as usize;
            let after = next[place];
            if symbols[place] == NONE || after == NONE {
                continue;
            }
            // The pair may have been taken apart since it was queued.
            let pair = self.merge_of(symbols[place], symbols[after as usize]);
            let Some(merge) = pair.filter(|merge| merge.rank == rank) else { continue };
            symbols[place] = merge.merged;
            symbols[after as usize] = NONE;
            let behind = next[after as usize];
            next[place] = behind;
            if behind != NONE {
                previous[behind as usize] = at;
                queue.extend(self.merge_of(merge.merged, symbols[behind as usize]).map(|m| entry(m, at)));
            }
            let before = previous[place];
            if before != NONE {
                queue.extend(self.merge_of(symbols[before as usize], merge.merged).map(|m| entry(m, before)));
            }
        }
        let mut at = 0u32;
        let mut written = 0;
        while at != NONE {
            symbols[written] = symbols[at as usize];
            written += 1;
            at = next[at as usize];
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Merges by definition: the best pair of all, again and again.
    fn by_definition(bpe: &Bpe, symbols: &[u32]) -> Vec<u32> {
        let mut symbols = symbols.to_vec();
        loop {
            let best = symbols
                .windows(2)
                .enumerate()
                .filter_map(|(i, p)| bpe.merge_of(p[0], p[1]).map(|m| (m.rank, i, m.merged)))
                .min();
            let Some((_, at, merged)) = best else { return symbols };
            symbols.splice(at..at + 2, [merged]);
        }
    }

    fn random_bpe(pairs: &[(u32, u32)]) -> Bpe {
        let mut merges = HashMap::new();
        for (rank, (a, b)) in pairs.iter().enumerate() {
            let merged = 4 + rank as u32;
            merges.entry((a % merged, b % merged)).or_insert(Merge { rank: rank as u32, merged });
        }
        Bpe { symbols: Symbols::Bytes(Box::new([None; 256])), merges, ignore_merges: false }
    }

    proptest! {
        #[test]
        fn scan_and_heap_find_what_the_definition_says(
            pairs in proptest::collection::vec((0u32..40, 0u32..40), 1..40),
            symbols in proptest::collection::vec(0u32..4, 0..SCAN_MAX),
        ) {
            let bpe = random_bpe(&pairs);
            let expected = by_definition(&bpe, &symbols);
            let mut scanned = symbols.clone();
            let n = bpe.merge_by_scan(&mut scanned);
            prop_assert_eq!(&scanned[..n], &expected[..]);
            let mut heaped = symbols;
            let n = if heaped.is_empty() { 0 } else { bpe.merge_by_heap(&mut heaped).unwrap() };
            prop_assert_eq!(&heaped[..n], &expected[..]);
        }
    }
}
