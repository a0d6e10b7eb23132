//! Which blocks of the KV cache belong to whom. The bytes are the kernels' business; here are only numbers.

mod block_pool;
mod prefix_hash;

pub(crate) use block_pool::BlockPool;
pub(crate) use prefix_hash::{BlockHash, PrefixHasher};

#[cfg(test)]
mod tests;
