//! Packed weights: panels of sixteen rows, interleaved so that a vector register holds a value of each.
//!
//! A panel of a quantised format is a run of *groups* of 256 columns (the last may have fewer): the *heads* of the
//! group's blocks, which are scales and minima in their compact form, and from the next cache line on the
//! *quants*. Everything is read once, from front to back. Each chunk of quants holds 32 columns of the 16 rows in
//! planes (`codebook_pack` has those of the codebook formats, whose quants follow without a gap):
//!
//! - a nibble plane, 4 vectors of 64 bytes: byte `4 * row + i` of vector `v` holds columns `8v + i` (low nibble)
//!   and `8v + 4 + i` (high nibble);
//! - a 2-bit plane, 2 vectors: bits `2j` and `2j + 1` of vector `v` hold column `16v + 4j + i`;
//! - a 1-bit plane, 1 vector: bit `j` holds column `4j + i`;
//! - a byte plane, 8 vectors: vector `v` holds column `4v + i`.
//!
//! No bit is added to those of the file, save for rows that fill up the last panel. A panel of floats holds the
//! 16 rows' values of one column, then of the next; of BF16, each row's values of two columns, then of the next two.

pub(crate) mod codebook_formats;
mod codebook_pack;
pub(crate) mod formats;
mod pack;
mod row;

pub(crate) use pack::RowFormat;
pub(crate) use row::read_block;

use std::ops::Range;

use crate::DType;
use crate::lanes::LANES;

/// Columns in a chunk of quants.
pub(crate) const CHUNK: usize = 32;

/// Columns in a group of blocks of quants.
pub(crate) const GROUP: usize = 256;

/// Words of floats in a group: columns, or pairs of them (BF16).
pub(crate) const GROUP_WORDS: usize = 128;

/// How the panels of a matrix are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Blocks of a row; for float formats columns, or pairs of them (BF16).
    blocks: usize,
    /// Blocks of a group.
    group_blocks: usize,
    /// Bytes of scales and minima of a block, for 16 rows.
    pub(crate) head_bytes: usize,
    /// The quants of a group begin at a multiple of this.
    alignment: usize,
    /// Bytes of quants of a chunk, for 16 rows; of a column for float formats, of two columns for BF16.
    pub(crate) quant_bytes: usize,
    /// Bytes from one group to the next.
    group_bytes: usize,
    /// Bytes from one panel to the next; a multiple of a cache line.
    pub(crate) stride: usize,
}

/// Where the blocks of a group lie in a panel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group {
    /// The first block.
    pub(crate) first: usize,
    /// Number of blocks.
    pub(crate) count: usize,
    /// Bytes from the start of the panel to the first head; heads follow each other.
    pub(crate) heads_at: usize,
    /// Bytes from the start of the panel to the first chunk; chunks follow each other.
    pub(crate) quants_at: usize,
}

impl Layout {
    /// The layout for rows of `cols` values, or `None` where sizes overflow.
    pub(crate) fn new(dtype: DType, cols: usize) -> Option<Self> {
        let (head_bytes, quant_bytes) = match dtype {
            DType::F32 => (0, 64),
            DType::F16 => (0, 32),
            DType::BF16 => (0, 64),
            DType::F8E4M3 => (0, 16),
            DType::Q4_0 | DType::IQ4_NL => (32, 256),
            DType::Q4_1 => (64, 256),
            DType::Q5_0 => (32, 320),
            DType::Q5_1 => (64, 320),
            DType::Q8_0 => (32, 512),
            DType::Q2_K => (320, 128),
            DType::Q3_K => (224, 192),
            DType::Q4_K => (256, 256),
            DType::Q5_K => (256, 320),
            DType::Q6_K => (288, 384),
            DType::Q8_K => (64, 512),
            DType::IQ4_XS => (128, 256),
            DType::IQ1_S => (32, 96),
            DType::IQ1_M => (128, 96),
            DType::IQ2_XXS | DType::TQ2_0 => (32, 128),
            DType::IQ2_XS => (160, 128),
            DType::IQ2_S => (160, 144),
            DType::IQ3_XXS => (32, 192),
            DType::IQ3_S => (96, 208),
            DType::MXFP4 => (16, 256),
        };
        // Gaps of half a cache line would take more than a 30th of these; the vectors that cross lines cost less.
        let alignment = if dtype.has_codebook() || dtype == DType::TQ2_0 { 1 } else { 64 };
        if dtype.is_float() {
            // A block is what a word of 32 bits holds.
            let columns = if dtype == DType::BF16 { 2 } else { 1 };
            let (blocks, group_blocks) = (cols.div_ceil(columns), GROUP_WORDS);
            let group_bytes = group_blocks * quant_bytes;
            let stride = blocks.checked_mul(quant_bytes)?.checked_next_multiple_of(64)?;
            return Some(Self {
                blocks,
                group_blocks,
                head_bytes,
                alignment,
                quant_bytes,
                group_bytes,
                stride,
            });
        }
        let blocks = cols / dtype.block_len();
        let group_blocks = GROUP / dtype.block_len();
        let group_bytes =
            (group_blocks * head_bytes).next_multiple_of(alignment) + GROUP / CHUNK * quant_bytes;
        let groups = (blocks / group_blocks).checked_mul(group_bytes)?;
        let rest = blocks % group_blocks;
        let rest = (rest * head_bytes).next_multiple_of(alignment) + rest * quant_bytes;
        let stride = groups.checked_add(rest)?.checked_next_multiple_of(64)?;
        Some(Self { blocks, group_blocks, head_bytes, alignment, quant_bytes, group_bytes, stride })
    }

    /// Groups of a row.
    #[inline(always)]
    pub(crate) fn groups(&self) -> usize {
        self.blocks.div_ceil(self.group_blocks)
    }

    /// Where group `index` lies.
    #[inline(always)]
    pub(crate) fn group(&self, index: usize) -> Group {
        let first = index * self.group_blocks;
        let count = self.group_blocks.min(self.blocks - first);
        let heads_at = index * self.group_bytes;
        let quants_at = heads_at + (count * self.head_bytes).next_multiple_of(self.alignment);
        Group { first, count, heads_at, quants_at }
    }

    /// Where some groups lie in a panel.
    pub(crate) fn bytes(&self, groups: Range<usize>) -> Range<usize> {
        let end = if groups.end < self.groups() { groups.end * self.group_bytes } else { self.stride };
        groups.start * self.group_bytes..end
    }

    /// Bytes from the start of a panel to the head and to the quants of a block of `chunks` chunks.
    pub(crate) fn block(&self, index: usize, chunks: usize) -> (usize, usize) {
        let group = self.group(index / self.group_blocks);
        let i = index - group.first;
        (group.heads_at + i * self.head_bytes, group.quants_at + i * chunks * self.quant_bytes)
    }
}

/// Columns of a group of a format.
pub(crate) fn group_columns(dtype: DType) -> usize {
    match dtype {
        DType::BF16 => 2 * GROUP_WORDS,
        dtype if dtype.is_float() => GROUP_WORDS,
        _ => GROUP,
    }
}

/// Panels that hold `rows` rows.
pub(crate) fn panels(rows: usize) -> usize {
    rows.div_ceil(LANES)
}
