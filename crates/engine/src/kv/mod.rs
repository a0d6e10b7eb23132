//! Which blocks of the KV cache belong to whom. The bytes are the kernels' business; here are only numbers.

mod block_pool;
mod prefix_hash;
mod siblings;

pub(crate) use block_pool::BlockPool;
pub(crate) use prefix_hash::{BlockHash, PrefixHasher};
pub(crate) use siblings::BlockText;

#[cfg(test)]
mod tests;
