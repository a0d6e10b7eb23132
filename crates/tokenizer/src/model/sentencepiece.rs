//! SentencePiece's own byte-pair encoding: of all neighbours that form a token the one with the best score is merged
//! first (Kudo and Richardson 2018, arXiv:1808.06226). Text that no token spells falls back to bytes.

use std::{cmp::Ordering, collections::BinaryHeap};

use crate::{
    error::{Result, TokenizerError},
    vocab::Vocab,
};

/// Stands for "no symbol".
const NONE: u32 = u32::MAX;

/// An encoder by scores.
pub(crate) struct SentencePiece {
    pub(crate) scores: Vec<f32>,
    pub(crate) bytes: Box<[Option<u32>; 256]>,
    pub(crate) unk: Option<u32>,
}

struct Candidate {
    score: f32,
    left: u32,
    right: u32,
    /// Bytes of both together: tells whether they are still what they were.
    size: u32,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        // The best score, then the leftmost.
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

/// A stretch of the piece that may become a token.
#[derive(Clone, Copy)]
struct Symbol {
    start: u32,
    len: u32,
    previous: u32,
    next: u32,
}

impl SentencePiece {
    pub(crate) fn encode(&self, vocab: &Vocab, piece: &str, out: &mut Vec<u32>) -> Result<()> {
        if u32::try_from(piece.len()).is_err() {
            return Err(TokenizerError::TooLarge {
                part: "a piece of text".into(),
                found: piece.len() as u64,
                limit: u64::from(u32::MAX),
            });
        }
        let mut symbols: Vec<Symbol> = piece
            .char_indices()
            .enumerate()
            .map(|(i, (at, c))| Symbol {
                start: at as u32,
                len: c.len_utf8() as u32,
                previous: (i as u32).wrapping_sub(1),
                next: i as u32 + 1,
            })
            .collect();
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        let mut queue = BinaryHeap::new();
        for right in 1..symbols.len() as u32 {
            self.propose(vocab, piece, &symbols, right - 1, right, &mut queue);
        }
        while let Some(Candidate { left, right, size, .. }) = queue.pop() {
            let (l, r) = (symbols[left as usize], symbols[right as usize]);
            if l.len == 0 || r.len == 0 || l.len + r.len != size {
                continue;
            }
            symbols[left as usize].len = size;
            symbols[left as usize].next = r.next;
            symbols[right as usize].len = 0;
            if r.next != NONE {
                symbols[r.next as usize].previous = left;
            }
            if l.previous != NONE {
                self.propose(vocab, piece, &symbols, l.previous, left, &mut queue);
            }
            if r.next != NONE {
                self.propose(vocab, piece, &symbols, left, r.next, &mut queue);
            }
        }
        for symbol in symbols.iter().filter(|s| s.len > 0) {
            let text =
                piece.get(symbol.start as usize..(symbol.start + symbol.len) as usize).unwrap_or_default();
            if let Some(id) = vocab.id_of_piece_text(text) {
                out.push(id);
                continue;
            }
            for byte in text.bytes() {
                out.extend(self.bytes.get(usize::from(byte)).copied().flatten().or(self.unk));
            }
        }
        Ok(())
    }

    fn propose(
        &self,
        vocab: &Vocab,
        piece: &str,
        symbols: &[Symbol],
        left: u32,
        right: u32,
        queue: &mut BinaryHeap<Candidate>,
    ) {
        let (l, r) = (symbols[left as usize], symbols[right as usize]);
        let size = l.len + r.len;
        let text = piece.get(l.start as usize..(l.start + size) as usize).unwrap_or_default();
        if let Some(id) = vocab.id_of_piece_text(text) {
            let score = self.scores.get(id as usize).copied().unwrap_or(0.0);
            queue.push(Candidate { score, left, right, size });
        }
    }
}
