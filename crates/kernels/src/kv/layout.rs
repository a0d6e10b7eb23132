//! Where in a block each number lies.
//!
//! A block holds, for each layer, for each head, one *tile*. Attention multiplies a query with keys lane by
//! lane, one lane a position, and adds up values lane by lane, one lane a dimension, so a tile is:
//!
//! | stored as | keys | values |
//! |---|---|---|
//! | F32, F16 | `[block_len / 16][k_dim][16 positions]` | `[v_dim / 16][block_len][16 dims]` |
//! | Q8_0 | per 16 positions: scales `[k_dim / 32][16 positions]` (f16), then `[k_dim / 4][16 positions][4 dims]` bytes with 128 added | `[v_dim / 16][block_len][16 dims]` signed bytes, then scales `[v_dim / 32][block_len]` (f16) |
//! | any, values in keys | rows `[block_len][k_dim]`; in Q8_0 each row's signed bytes, then its scales (f16) | the first `v_dim` of the row |
//!
//! Divisions round up and the rest is zero. Latent rows serve as keys and as values, whose lanes run in
//! different directions; they are turned in scratch memory, which pays because many query heads share them.

use super::{KvDType, KvLayout};
use crate::KernelError;

/// Lanes of the widest vectors: positions that are multiplied together.
pub(crate) const LANES: usize = 16;
/// Values that share a scale in Q8_0.
pub(crate) const Q8_LEN: usize = 32;
/// Bytes of a cache line, to which scale areas are padded.
pub(crate) const LINE: usize = 64;
/// Larger than any published model has; keeps the arithmetic of a tile far from overflow.
const DIM_MAX: usize = 1 << 16;

/// Byte sizes and offsets within a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    pub(crate) dtype: KvDType,
    pub(crate) block_len: usize,
    pub(crate) k_dim: usize,
    pub(crate) v_dim: usize,
    pub(crate) values_in_keys: bool,
    /// Keys of 16 positions; for latent rows, one row.
    pub(crate) k_unit_bytes: usize,
    /// Where data begins in a group of keys, after the scales. For latent rows, where scales begin.
    pub(crate) k_data: usize,
    /// Where values begin in a tile.
    pub(crate) v_start: usize,
    /// One slice of values: 16 dims of all the block's positions.
    pub(crate) v_unit_bytes: usize,
    /// Where the scales of values begin in a tile, for Q8_0.
    pub(crate) v_scales: usize,
    /// One head of one layer in one block.
    pub(crate) head_bytes: usize,
    pub(crate) layer_bytes: usize,
    pub(crate) block_bytes: usize,
}

impl Geometry {
    pub(crate) fn new(layout: &KvLayout) -> Result<Self, KernelError> {
        let refuse = |field, value, want| Err(KernelError::KvLayout { field, value, want });
        let KvLayout { dtype, n_layers, n_kv_heads, k_dim, v_dim, values_in_keys, block_len } = *layout;
        if !block_len.is_power_of_two() || !(16..=256).contains(&block_len) {
            return refuse("block_len", block_len, "16, 32, 64, 128 or 256");
        }
        for (field, value) in [("k_dim", k_dim), ("v_dim", v_dim), ("n_kv_heads", n_kv_heads)] {
            if value == 0 || value > DIM_MAX {
                return refuse(field, value, "between 1 and 65536");
            }
        }
        if n_layers == 0 || n_layers > DIM_MAX {
            return refuse("n_layers", n_layers, "between 1 and 65536");
        }
        if values_in_keys && v_dim > k_dim {
            return refuse("v_dim", v_dim, "at most k_dim where values lie in keys");
        }
        let k_scales = k_dim.div_ceil(Q8_LEN);
        let value_bytes = match dtype {
            KvDType::F32 => 4,
            KvDType::F16 => 2,
            KvDType::Q8_0 => 1,
        };
        let (k_unit_bytes, k_data) = match (dtype, values_in_keys) {
            (KvDType::F32 | KvDType::F16, false) => (k_dim * LANES * value_bytes, 0),
            (KvDType::Q8_0, false) => {
                let k_data = (k_scales * LANES * 2).next_multiple_of(LINE);
                (k_data + k_scales * Q8_LEN * LANES, k_data)
            }
            (KvDType::F32 | KvDType::F16, true) => (k_dim * value_bytes, 0),
            (KvDType::Q8_0, true) => (k_scales * (Q8_LEN + 2), k_scales * Q8_LEN),
        };
        let k_units = if values_in_keys { block_len } else { block_len / LANES };
        let v_start = (k_units * k_unit_bytes).next_multiple_of(LINE);
        let v_unit_bytes = block_len * LANES * value_bytes;
        let (v_slices, v_scale_bytes) = match (dtype, values_in_keys) {
            (_, true) => (0, 0),
            (KvDType::Q8_0, false) => (v_dim.div_ceil(Q8_LEN) * 2, v_dim.div_ceil(Q8_LEN) * block_len * 2),
            (KvDType::F32 | KvDType::F16, false) => (v_dim.div_ceil(LANES), 0),
        };
        let v_scales = v_start + v_slices * v_unit_bytes;
        let head_bytes = (v_scales + v_scale_bytes).next_multiple_of(LINE);
        let layer_bytes = head_bytes.checked_mul(n_kv_heads);
        let block_bytes = layer_bytes.and_then(|bytes| bytes.checked_mul(n_layers));
        let (Some(layer_bytes), Some(block_bytes)) = (layer_bytes, block_bytes) else {
            return refuse("n_layers", n_layers, "a block that fits the address space");
        };
        Ok(Self {
            dtype,
            block_len,
            k_dim,
            v_dim,
            values_in_keys,
            k_unit_bytes,
            k_data,
            v_start,
            v_unit_bytes,
            v_scales,
            head_bytes,
            layer_bytes,
            block_bytes,
        })
    }

    /// Where a head's tile begins in the cache.
    pub(crate) fn tile_offset(&self, block: usize, layer: usize, head: usize) -> usize {
        block * self.block_bytes + layer * self.layer_bytes + head * self.head_bytes
    }

    /// Dimension `d` of the key at `position` of a tile.
    pub(crate) fn key_value(&self, tile: &[u8], position: usize, d: usize) -> f32 {
        if self.values_in_keys {
            let row = &tile[position * self.k_unit_bytes..][..self.k_unit_bytes];
            return match self.dtype {
                KvDType::F32 => read_f32(row, d),
                KvDType::F16 => read_f16(row, d),
                KvDType::Q8_0 => f32::from(row[d].cast_signed()) * read_f16(&row[self.k_data..], d / Q8_LEN),
            };
        }
        let group = &tile[position / LANES * self.k_unit_bytes..][..self.k_unit_bytes];
        let lane = position % LANES;
        match self.dtype {
            KvDType::F32 => read_f32(group, d * LANES + lane),
            KvDType::F16 => read_f16(group, d * LANES + lane),
            KvDType::Q8_0 => {
                let byte = group[self.k_data + d / 4 * 4 * LANES + lane * 4 + d % 4];
                (f32::from(byte) - 128.0) * read_f16(group, d / Q8_LEN * LANES + lane)
            }
        }
    }

    /// Dimension `d` of the value at `position` of a tile.
    pub(crate) fn value_value(&self, tile: &[u8], position: usize, d: usize) -> f32 {
        if self.values_in_keys {
            return self.key_value(tile, position, d);
        }
        let slice = &tile[self.v_start + d / LANES * self.v_unit_bytes..][..self.v_unit_bytes];
        let at = position * LANES + d % LANES;
        match self.dtype {
            KvDType::F32 => read_f32(slice, at),
            KvDType::F16 => read_f16(slice, at),
            KvDType::Q8_0 => {
                let scale = read_f16(&tile[self.v_scales..], d / Q8_LEN * self.block_len + position);
                f32::from(slice[at].cast_signed()) * scale
            }
        }
    }
}

fn read_f32(bytes: &[u8], index: usize) -> f32 {
    let at = index * 4;
    f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn read_f16(bytes: &[u8], index: usize) -> f32 {
    widen_at(bytes, index * 2)
}

/// The f16 that begins at byte `at`.
#[inline(always)]
pub(crate) fn widen_at(bytes: &[u8], at: usize) -> f32 {
    widen(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

/// An f16 as f32, without asking for the processor's features each time as `half` does.
#[inline(always)]
fn widen(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff) << 13;
    // In place, the exponent is short by the difference of the biases, 112; multiplying makes up for it and
    // normalises subnormal numbers. Only infinity and NaN must be told apart.
    let widened = if bits & 0x7c00 == 0x7c00 {
        magnitude | 0x7f80_0000
    } else {
        (f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23)).to_bits()
    };
    f32::from_bits(widened | sign)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_f16_widens_exactly() {
        for bits in 0..=u16::MAX {
            let (got, want) = (super::widen(bits), half::f16::from_bits(bits).to_f32());
            assert!(
                got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{bits:#x}: {got} for {want}"
            );
        }
    }
}
