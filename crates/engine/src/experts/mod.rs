//! Experts of a model that is larger than the memory it may use.
//!
//! The trunk stays resident. Of the routed experts as many stay as there is room for, those used most; the others
//! are read from the disk when a token needs them, or a little before, when the next layer's router, given what is
//! there of its input, says that it will. An expert is packed exactly as if it were resident, so results are the same
//! to the bit.

mod cache;
mod ceiling;
mod fetch;
mod uses;

use std::time::Duration;

pub(crate) use cache::{ExpertCache, ExpertPlace, MatrixPlace};
pub use ceiling::{DiskSpeed, measure_disk};
pub(crate) use fetch::BUFFERS;

/// What streaming experts has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExpertStats {
    /// Uses of an expert that was in memory.
    pub hits: u64,
    /// Uses of an expert that was not.
    pub misses: u64,
    /// Of those, reads that had begun before the expert was asked for.
    pub read_ahead: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Of these, bytes read ahead that were not needed after all.
    pub bytes_in_vain: u64,
    /// Time during which at least one read was under way.
    pub reading: Duration,
    /// Time for which computation waited for reads.
    pub waited: Duration,
    /// Bytes of experts in memory.
    pub resident_bytes: u64,
}

/// An expert: its layer and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ExpertId {
    pub(crate) layer: u32,
    pub(crate) expert: u32,
}

#[cfg(test)]
mod tests;
