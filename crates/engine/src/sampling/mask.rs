//! A set of tokens.

/// Which tokens may come next: one bit a token.
#[derive(Debug, Clone)]
pub struct TokenMask {
    words: Vec<u32>,
    vocab_size: usize,
}

impl TokenMask {
    /// A mask over `vocab_size` tokens with nothing allowed.
    pub fn new(vocab_size: usize) -> Self {
        Self { words: vec![0; vocab_size.div_ceil(32)], vocab_size }
    }

    /// Number of tokens the mask is over.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Allows a token. Tokens beyond the vocabulary are ignored.
    pub fn allow(&mut self, token: u32) {
        if (token as usize) < self.vocab_size {
            self.words[token as usize / 32] |= 1 << (token % 32);
        }
    }

    /// Forbids a token.
    pub fn forbid(&mut self, token: u32) {
        if (token as usize) < self.vocab_size {
            self.words[token as usize / 32] &= !(1 << (token % 32));
        }
    }

    /// Allows every token.
    pub fn allow_all(&mut self) {
        self.words.fill(u32::MAX);
        self.trim();
    }

    /// Forbids every token.
    pub fn forbid_all(&mut self) {
        self.words.fill(0);
    }

    /// Whether a token is allowed.
    pub fn is_allowed(&self, token: u32) -> bool {
        (token as usize) < self.vocab_size && self.words[token as usize / 32] >> (token % 32) & 1 == 1
    }

    /// Takes over a bit set with 32 tokens a word, lowest bit first. Missing words forbid, surplus bits are ignored.
    pub fn copy_from_words(&mut self, words: &[u32]) {
        let n = words.len().min(self.words.len());
        self.words[..n].copy_from_slice(&words[..n]);
        self.words[n..].fill(0);
        self.trim();
    }

    /// Number of allowed tokens.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Sets the logits of forbidden tokens to −∞.
    pub(crate) fn apply(&self, logits: &mut [f32]) {
        for (word, chunk) in self.words.iter().zip(logits.chunks_mut(32)) {
            if *word == u32::MAX {
                continue;
            }
            if *word == 0 {
                chunk.fill(f32::NEG_INFINITY);
                continue;
            }
            for (bit, logit) in chunk.iter_mut().enumerate() {
                if word >> bit & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }

    /// Clears the bits of the last word that stand for no token.
    fn trim(&mut self) {
        let used = self.vocab_size % 32;
        if used != 0
            && let Some(last) = self.words.last_mut()
        {
            *last &= (1 << used) - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_a_set_of_tokens() {
        let mut mask = TokenMask::new(70);
        assert_eq!(mask.count(), 0);
        mask.allow_all();
        assert_eq!(mask.count(), 70);
        mask.forbid_all();
        for token in [0, 31, 32, 69, 70, u32::MAX] {
            mask.allow(token);
        }
        assert_eq!(mask.count(), 4);
        assert!(mask.is_allowed(69) && !mask.is_allowed(70) && !mask.is_allowed(u32::MAX));
        mask.forbid(31);
        let mut logits = vec![1.0; 70];
        mask.apply(&mut logits);
        let finite: Vec<usize> = (0..70).filter(|&i| logits[i].is_finite()).collect();
        assert_eq!(finite, [0, 32, 69]);
        mask.copy_from_words(&[u32::MAX; 3]);
        assert_eq!(mask.count(), 70);
        mask.copy_from_words(&[1]);
        assert_eq!(mask.count(), 1);
    }
}
