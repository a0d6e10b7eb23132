//! Drafts from the text itself: what followed the last time that the same few tokens stood there.
//!
//! Known as prompt lookup decoding. It costs a table look-up a token and pays where an answer repeats its prompt
//! or itself: code that is edited, quotations, tables, JSON.

use std::collections::HashMap;

/// Lengths of the runs that are looked up, longest first: a longer match is likelier to go on the same way.
const RUNS: [usize; 2] = [4, 2];

/// Where each run of tokens was last followed by something.
#[derive(Debug)]
pub(crate) struct NgramDrafter {
    /// Hash of a run and its length → position after its latest occurrence.
    after: HashMap<u64, u32>,
    /// Tokens whose runs are in the table.
    indexed: usize,
}

impl NgramDrafter {
    /// For a text of up to `len_max` tokens.
    pub(crate) fn new(len_max: usize) -> Self {
        Self { after: HashMap::with_capacity(len_max.saturating_mul(RUNS.len())), indexed: 0 }
    }

    /// Appends to `draft` up to `count` tokens that may follow `tokens`. The text must be the one of the last
    /// call, grown.
    pub(crate) fn draft(&mut self, tokens: &[u32], count: usize, draft: &mut Vec<u32>) {
        // The runs that end at the last token are left out: they would find themselves.
        for end in self.indexed.max(1)..tokens.len() {
            for run in RUNS.into_iter().filter(|&run| run <= end) {
                self.after.insert(key(&tokens[end - run..end]), end as u32);
            }
        }
        self.indexed = self.indexed.max(tokens.len());
        for run in RUNS.into_iter().filter(|&run| run < tokens.len()) {
            let suffix = &tokens[tokens.len() - run..];
            let Some(&after) = self.after.get(&key(suffix)) else { continue };
            let after = after as usize;
            // Hashes may collide: look at the tokens.
            if tokens[after - run..after] == *suffix {
                draft.extend(tokens[after..].iter().take(count));
                return;
            }
        }
    }
}

/// FNV-1a over whole tokens, with the length.
fn key(run: &[u32]) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325 ^ run.len() as u64;
    run.iter().fold(start, |hash, &token| (hash ^ u64::from(token)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(tokens: &[u32], count: usize) -> Vec<u32> {
        let mut draft = Vec::new();
        NgramDrafter::new(tokens.len()).draft(tokens, count, &mut draft);
        draft
    }

    #[test]
    fn what_followed_before_is_drafted() {
        assert_eq!(draft(&[1, 2, 3, 4, 5, 9, 1, 2], 3), [3, 4, 5]);
        assert_eq!(draft(&[1, 2, 3, 4, 5, 9, 1, 2], 99), [3, 4, 5, 9, 1, 2]);
    }

    #[test]
    fn the_longest_run_wins_and_then_the_latest() {
        assert_eq!(draft(&[6, 7, 1, 2, 30, 8, 1, 2, 40, 6, 7, 1, 2], 1), [30]);
        assert_eq!(draft(&[6, 1, 2, 30, 8, 1, 2, 40, 9, 1, 2], 1), [40]);
    }

    #[test]
    fn nothing_is_drafted_without_a_match() {
        assert!(draft(&[], 4).is_empty());
        assert!(draft(&[1], 4).is_empty());
        assert!(draft(&[1, 2, 3, 4], 4).is_empty());
    }

    #[test]
    fn a_growing_text_gives_the_same_as_a_whole_one() {
        let text: Vec<u32> = (0..400u32).map(|i| (i * i / 7) % 11).collect();
        let mut growing = NgramDrafter::new(text.len());
        for len in 0..text.len() {
            let mut got = Vec::new();
            growing.draft(&text[..len], 6, &mut got);
            assert_eq!(got, draft(&text[..len], 6), "at {len}");
        }
    }
}
