//! WordPiece: the longest token first, from the left (Wu et al. 2016, arXiv:1609.08144).

use crate::vocab::Vocab;

/// A greedy longest-match encoder.
pub(crate) struct WordPiece {
    pub(crate) unk: Option<u32>,
    /// Text in front of every token of a piece but the first.
    pub(crate) continuing_prefix: String,
    /// Text in front of the first token of a piece.
    pub(crate) first_prefix: String,
    /// Longer pieces are unknown as a whole.
    pub(crate) piece_chars_max: usize,
}

impl WordPiece {
    pub(crate) fn encode(&self, vocab: &Vocab, piece: &str, out: &mut Vec<u32>) {
        let start = out.len();
        if piece.chars().count() > self.piece_chars_max || !self.spell(vocab, piece, out) {
            out.truncate(start);
            out.extend(self.unk);
        }
    }

    fn spell(&self, vocab: &Vocab, piece: &str, out: &mut Vec<u32>) -> bool {
        let mut rest = piece;
        let mut candidate = String::new();
        while !rest.is_empty() {
            let first = rest.len() == piece.len();
            let prefix = if first { &self.first_prefix } else { &self.continuing_prefix };
            candidate.clear();
            candidate.push_str(prefix);
            let longest = vocab.longest_text().saturating_sub(prefix.len()).min(rest.len());
            let end = (0..=longest).rev().find(|end| rest.is_char_boundary(*end)).unwrap_or(0);
            candidate.push_str(rest.get(..end).unwrap_or_default());
            let found = loop {
                if candidate.len() <= prefix.len() {
                    break None;
                }
                if let Some(id) = vocab.id_of_piece_text(&candidate) {
                    break Some(id);
                }
                candidate.pop();
            };
            let Some(id) = found else { return false };
            out.push(id);
            rest = rest.get(candidate.len() - prefix.len()..).unwrap_or_default();
        }
        true
    }
}
