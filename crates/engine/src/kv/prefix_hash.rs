//! The name of a block's contents.

use sha2::{Digest, Sha256};

/// Names the contents of a full block: its own tokens, all tokens before it, and whose they are.
///
/// A block found by its hash is used without looking at its tokens, so a collision would hand one caller another's
/// prompt. SHA-256 is long enough that nobody finds one, by chance or on purpose.
pub(crate) type BlockHash = [u8; 32];

/// Extends a chain of block hashes by one block at a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PrefixHasher {
    last: BlockHash,
}

impl PrefixHasher {
    /// The beginning of a tenant's chain. No block of one tenant has the hash of another's.
    pub(crate) fn new(tenant: u64) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"levain prefix 1");
        hash.update(tenant.to_le_bytes());
        Self { last: hash.finalize().into() }
    }

    /// The chain's hash after one more full block. Blocks that were computed in the expanded form of latent attention
    /// differ in their last bits from others, so they have other names.
    pub(crate) fn next(self, tokens: &[u32], expanded: bool) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.last);
        hash.update([u8::from(expanded)]);
        for token in tokens {
            hash.update(token.to_le_bytes());
        }
        Self { last: hash.finalize().into() }
    }

    /// The hash of the block that was added last.
    pub(crate) fn hash(self) -> BlockHash {
        self.last
    }
}
