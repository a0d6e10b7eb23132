//! The KV cache: keys and values of every layer, in blocks of a fixed number of positions.
//!
//! A sequence's positions lie in whatever blocks its block table names, so blocks are shared, copied and
//! spilled without moving anything else: one block is one run of bytes that holds its positions for all
//! layers and heads. How the bytes within a block are arranged is this crate's own affair, chosen so that
//! attention reads them straight through (`kv/layout.rs`).

mod append;
pub(crate) mod layout;

use crate::KernelError;
use crate::buffer::PageBuffer;
pub(crate) use layout::Geometry;

/// Positions to a block unless there is a reason for another number.
pub const BLOCK_LEN: usize = 32;

/// What the cache's numbers are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvDType {
    /// 4 bytes a value, exact.
    F32,
    /// 2 bytes a value. What exceeds the format's range is stored as its largest value, ±65504.
    F16,
    /// 8-bit integers with one scale for 32 values: 1.0625 bytes a value. A block of 32 with a value that is
    /// not finite reads back as NaN throughout.
    Q8_0,
}

/// The shape of a cache, from which its bytes follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// How numbers are stored.
    pub dtype: KvDType,
    /// Layers that keep keys and values.
    pub n_layers: usize,
    /// Heads of keys and values in a layer; 1 for latent attention.
    pub n_kv_heads: usize,
    /// Values in a key. For latent attention the latent and the rotary part together.
    pub k_dim: usize,
    /// Values in a value.
    pub v_dim: usize,
    /// Latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1): a value is the first `v_dim` values of
    /// its key, and nothing is stored for it.
    pub values_in_keys: bool,
    /// Positions in a block: 16, 32, 64, 128 or 256.
    pub block_len: usize,
}

impl KvLayout {
    /// Bytes of one block, all layers together.
    ///
    /// # Errors
    /// [`KernelError::KvLayout`] if a field is out of its range or the sizes exceed the address space.
    pub fn bytes_per_block(&self) -> Result<usize, KernelError> {
        Ok(Geometry::new(self)?.block_bytes)
    }
}

/// Keys and values of all layers for `n_blocks * block_len` positions.
///
/// A *slot* is a position's place: `block * block_len + offset`. Memory is taken from the system as slots are
/// written, not before.
pub struct KvCache {
    layout: KvLayout,
    geometry: Geometry,
    n_blocks: usize,
    bytes: PageBuffer,
}

impl KvCache {
    /// An empty cache of `n_blocks` blocks.
    ///
    /// # Errors
    /// [`KernelError::KvLayout`] for an impossible layout, [`KernelError::NoMemoryForCache`] if the
    /// system has not got the address space.
    pub fn new(layout: KvLayout, n_blocks: usize) -> Result<Self, KernelError> {
        let geometry = Geometry::new(&layout)?;
        let too_many = KernelError::KvLayout { field: "n_blocks", value: n_blocks, want: "fewer blocks" };
        let slots = n_blocks.checked_mul(layout.block_len).ok_or(too_many.clone())?;
        if u32::try_from(slots).is_err() {
            return Err(too_many);
        }
        let bytes = n_blocks.checked_mul(geometry.block_bytes).ok_or(too_many)?;
        let mut bytes = PageBuffer::zeroed(bytes).ok_or(KernelError::NoMemoryForCache { bytes })?;
        // Blocks are read in short runs all over the cache; looking up small pages would slow that down.
        bytes.prefer_huge_pages();
        Ok(Self { layout, geometry, n_blocks, bytes })
    }

    /// The layout the cache was made with.
    #[must_use]
    pub fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// Blocks in the cache.
    #[must_use]
    pub fn n_blocks(&self) -> usize {
        self.n_blocks
    }

    /// Bytes of one block, all layers together.
    #[must_use]
    pub fn bytes_per_block(&self) -> usize {
        self.geometry.block_bytes
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// One head's keys and values of one layer in one block.
    pub(crate) fn tile(&self, block: usize, layer: usize, head: usize) -> &[u8] {
        let start = self.geometry.tile_offset(block, layer, head);
        &self.bytes[start..start + self.geometry.head_bytes]
    }

    /// The bytes of a block, to be spilled and later given to [`KvCache::write_block`] of a cache with an
    /// equal layout.
    ///
    /// # Panics
    /// If there is no such block.
    #[must_use]
    pub fn block(&self, block: usize) -> &[u8] {
        assert!(block < self.n_blocks, "block {block} of {}", self.n_blocks);
        let len = self.geometry.block_bytes;
        &self.bytes[block * len..(block + 1) * len]
    }

    /// Overwrites a block with bytes that [`KvCache::block`] returned.
    ///
    /// # Panics
    /// If there is no such block or `bytes` is not [`KvCache::bytes_per_block`] long.
    pub fn write_block(&mut self, block: usize, bytes: &[u8]) {
        assert!(block < self.n_blocks, "block {block} of {}", self.n_blocks);
        let len = self.geometry.block_bytes;
        self.bytes[block * len..(block + 1) * len].copy_from_slice(bytes);
    }

    /// Copies block `from` over block `to`.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn copy_block(&mut self, from: usize, to: usize) {
        assert!(from.max(to) < self.n_blocks, "blocks {from} and {to} of {}", self.n_blocks);
        let len = self.geometry.block_bytes;
        self.bytes.copy_within(from * len..(from + 1) * len, to * len);
    }

    /// The key stored for one head in a slot, as attention sees it. For tests and inspection.
    ///
    /// # Panics
    /// If `layer`, `head` or `slot` does not exist or `out` is not `k_dim` long.
    pub fn read_key(&self, layer: usize, head: usize, slot: u32, out: &mut [f32]) {
        let (tile, position) = self.locate(layer, head, slot);
        assert_eq!(out.len(), self.layout.k_dim, "a key has k_dim values");
        for (d, value) in out.iter_mut().enumerate() {
            *value = self.geometry.key_value(tile, position, d);
        }
    }

    /// The value stored for one head in a slot, as attention sees it. For tests and inspection.
    ///
    /// # Panics
    /// If `layer`, `head` or `slot` does not exist or `out` is not `v_dim` long.
    pub fn read_value(&self, layer: usize, head: usize, slot: u32, out: &mut [f32]) {
        let (tile, position) = self.locate(layer, head, slot);
        assert_eq!(out.len(), self.layout.v_dim, "a value has v_dim values");
        for (d, value) in out.iter_mut().enumerate() {
            *value = self.geometry.value_value(tile, position, d);
        }
    }

    fn locate(&self, layer: usize, head: usize, slot: u32) -> (&[u8], usize) {
        let layout = &self.layout;
        assert!(layer < layout.n_layers, "layer {layer} of {}", layout.n_layers);
        assert!(head < layout.n_kv_heads, "head {head} of {}", layout.n_kv_heads);
        let block = slot as usize / layout.block_len;
        assert!(block < self.n_blocks, "slot {slot} in block {block} of {}", self.n_blocks);
        (self.tile(block, layer, head), slot as usize % layout.block_len)
    }
}

impl std::fmt::Debug for KvCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KvCache")
            .field("layout", &self.layout)
            .field("n_blocks", &self.n_blocks)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
