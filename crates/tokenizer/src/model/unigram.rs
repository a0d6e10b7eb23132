//! The unigram model: of all ways to cut a piece into tokens the most probable (Kudo 2018, arXiv:1804.10959),
//! found by Viterbi's algorithm over a trie of the tokens.

use hashbrown::HashMap;

use crate::error::{Result, TokenizerError};

/// How much worse than the worst token an unknown character is.
const UNKNOWN_PENALTY: f64 = 10.0;
/// Bytes of one token: bounds the work per character.
const TOKEN_BYTES_MAX: usize = 1024;

/// A most-probable-path encoder.
pub(crate) struct Unigram {
    /// Children of trie nodes, by node and byte.
    children: HashMap<(u32, u8), u32>,
    /// The token that ends at a node, with its log probability.
    ends: Vec<Option<(u32, f64)>>,
    unk: Option<u32>,
    unk_score: f64,
    bytes: Option<Box<[Option<u32>; 256]>>,
    fuse_unk: bool,
}

/// The best way to reach a place.
#[derive(Clone, Copy)]
struct Best {
    score: f64,
    start: usize,
    token: Option<u32>,
}

impl Unigram {
    /// `tokens` yields what may be matched: text, id, log probability. `worst` is the lowest score of all tokens.
    pub(crate) fn new<'t>(
        tokens: impl Iterator<Item = (&'t str, u32, f64)>,
        worst: f64,
        unk: Option<u32>,
        bytes: Option<Box<[Option<u32>; 256]>>,
    ) -> Result<Self> {
        let mut children = HashMap::new();
        let mut ends: Vec<Option<(u32, f64)>> = vec![None];
        for (text, id, score) in tokens {
            if text.len() > TOKEN_BYTES_MAX {
                return Err(TokenizerError::TooLarge {
                    part: format!("token {id} of a unigram model (bytes)"),
                    found: text.len() as u64,
                    limit: TOKEN_BYTES_MAX as u64,
                });
            }
            let mut node = 0u32;
            for byte in text.bytes() {
                let fresh = ends.len() as u32;
                node = *children.entry((node, byte)).or_insert(fresh);
                if node == fresh {
                    ends.push(None);
                }
            }
            if node != 0
                && let Some(end) = ends.get_mut(node as usize)
            {
                *end = end.or(Some((id, score)));
            }
        }
        Ok(Self { children, ends, unk, unk_score: worst - UNKNOWN_PENALTY, bytes, fuse_unk: true })
    }

    pub(crate) fn encode(&self, piece: &str, out: &mut Vec<u32>) -> Result<()> {
        let bytes = piece.as_bytes();
        let mut best: Vec<Option<Best>> = vec![None; bytes.len() + 1];
        best[0] = Some(Best { score: 0.0, start: 0, token: None });
        for (at, c) in piece.char_indices() {
            let Some(here) = best.get(at).copied().flatten() else { continue };
            let mut single = false;
            let mut node = 0u32;
            for (offset, byte) in bytes.get(at..).unwrap_or_default().iter().enumerate() {
                let Some(child) = self.children.get(&(node, *byte)) else { break };
                node = *child;
                if let Some((id, score)) = self.ends.get(node as usize).copied().flatten() {
                    let end = at + offset + 1;
                    single |= offset + 1 == c.len_utf8();
                    improve(&mut best, end, Best { score: here.score + score, start: at, token: Some(id) });
                }
            }
            if !single {
                let step = Best { score: here.score + self.unk_score, start: at, token: None };
                improve(&mut best, at + c.len_utf8(), step);
            }
        }
        // Back from the end.
        let first = out.len();
        let mut at = bytes.len();
        let mut unknown_end: Option<usize> = None;
        while at > 0 {
            let Some(step) = best.get(at).copied().flatten() else { break };
            match step.token {
                Some(id) => {
                    self.unknown(bytes, at, unknown_end.take(), out)?;
                    out.push(id);
                }
                None if self.fuse_unk => unknown_end = Some(unknown_end.unwrap_or(at)),
                None => self.unknown(bytes, step.start, Some(at), out)?,
            }
            at = step.start;
        }
        self.unknown(bytes, 0, unknown_end, out)?;
        if let Some(new) = out.get_mut(first..) {
            new.reverse();
        }
        Ok(())
    }

    /// Writes the tokens of unknown text, last one first.
    fn unknown(&self, bytes: &[u8], start: usize, end: Option<usize>, out: &mut Vec<u32>) -> Result<()> {
        let Some(end) = end else { return Ok(()) };
        let text = bytes.get(start..end).unwrap_or_default();
        if let Some(table) = &self.bytes {
            let spelled: Option<Vec<u32>> =
                text.iter().rev().map(|b| table.get(usize::from(*b)).copied().flatten()).collect();
            if let Some(spelled) = spelled {
                out.extend(spelled);
                return Ok(());
            }
        }
        match self.unk {
            Some(unk) => out.push(unk),
            None => {
                return Err(TokenizerError::Unencodable { what: String::from_utf8_lossy(text).into_owned() });
            }
        }
        Ok(())
    }
}

fn improve(best: &mut [Option<Best>], end: usize, step: Best) {
    if let Some(slot) = best.get_mut(end)
        && slot.is_none_or(|old| step.score > old.score)
    {
        *slot = Some(step);
    }
}
