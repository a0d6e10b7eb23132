//! Writing new keys and values into their slots.

use half::f16;

use super::layout::{Geometry, LANES, Q8_LEN};
use super::{KvCache, KvDType};
use crate::pool::Pool;

/// Below this many values a fork/join costs more than it gains.
const PARALLEL_VALUES: usize = 1 << 15;
/// The largest finite f16.
const F16_MAX: f32 = 65504.0;

impl KvCache {
    /// Stores the keys and values of `slots.len()` positions of one layer.
    ///
    /// `k` is `[slots.len(), n_kv_heads * k_dim]` and `v` `[slots.len(), n_kv_heads * v_dim]`, or empty where
    /// values lie in keys. Should a slot occur twice, the later row stays.
    ///
    /// # Panics
    /// If a length does not fit the layout or a slot or the layer does not exist.
    pub fn append(&mut self, pool: &Pool, layer: usize, slots: &[u32], k: &[f32], v: &[f32]) {
        let layout = self.layout;
        let heads = layout.n_kv_heads;
        let v_len = if layout.values_in_keys { 0 } else { layout.v_dim };
        assert!(layer < layout.n_layers, "layer {layer} of {}", layout.n_layers);
        assert_eq!(k.len(), slots.len() * heads * layout.k_dim, "keys for {} slots", slots.len());
        assert_eq!(v.len(), slots.len() * heads * v_len, "values for {} slots", slots.len());
        let n_slots = self.n_blocks * layout.block_len;
        assert!(slots.iter().all(|slot| (*slot as usize) < n_slots), "a slot is beyond the cache");

        let geometry = self.geometry;
        let cache = Tiles(self.bytes.as_mut_ptr());
        let cache = &cache;
        let head_task = |head: usize| {
            for (row, slot) in slots.iter().enumerate() {
                let (block, position) =
                    (*slot as usize / geometry.block_len, *slot as usize % geometry.block_len);
                let start = geometry.tile_offset(block, layer, head);
                // SAFETY: the slot was checked, so the tile lies within the buffer, which is borrowed
                // exclusively; tasks of different heads get different tiles.
                let tile = unsafe { std::slice::from_raw_parts_mut(cache.0.add(start), geometry.head_bytes) };
                let at = row * heads + head;
                let key = &k[at * geometry.k_dim..][..geometry.k_dim];
                if geometry.values_in_keys {
                    geometry.store_row(tile, position, key);
                } else {
                    geometry.store_key(tile, position, key);
                    geometry.store_value(tile, position, &v[at * geometry.v_dim..][..geometry.v_dim]);
                }
            }
        };
        if k.len() + v.len() < PARALLEL_VALUES {
            (0..heads).for_each(head_task);
        } else {
            pool.run(heads, &head_task);
        }
    }
}

struct Tiles(*mut u8);
// SAFETY: each task derives its own disjoint tiles from the pointer.
unsafe impl Sync for Tiles {}

impl Geometry {
    fn store_key(&self, tile: &mut [u8], position: usize, key: &[f32]) {
        let group = &mut tile[position / LANES * self.k_unit_bytes..][..self.k_unit_bytes];
        let lane = position % LANES;
        match self.dtype {
            KvDType::F32 => {
                for (row, value) in group.chunks_exact_mut(LANES * 4).zip(key) {
                    row[lane * 4..][..4].copy_from_slice(&value.to_le_bytes());
                }
            }
            KvDType::F16 => {
                for (row, value) in group.chunks_exact_mut(LANES * 2).zip(key) {
                    row[lane * 2..][..2].copy_from_slice(&to_f16(*value).to_le_bytes());
                }
            }
            KvDType::Q8_0 => {
                let (scales, data) = group.split_at_mut(self.k_data);
                for (index, values) in key.chunks(Q8_LEN).enumerate() {
                    let (scale, quants) = quantize(values);
                    scales[(index * LANES + lane) * 2..][..2].copy_from_slice(&scale.to_le_bytes());
                    for (quad, four) in quants.chunks_exact(4).enumerate() {
                        let at = (index * (Q8_LEN / 4) + quad) * 4 * LANES + lane * 4;
                        for (byte, quant) in data[at..at + 4].iter_mut().zip(four) {
                            *byte = quant.cast_unsigned() ^ 0x80;
                        }
                    }
                }
            }
        }
    }

    fn store_value(&self, tile: &mut [u8], position: usize, value: &[f32]) {
        let (data, scales) = tile[self.v_start..].split_at_mut(self.v_scales - self.v_start);
        let slices = data.chunks_exact_mut(self.v_unit_bytes);
        match self.dtype {
            KvDType::F32 => {
                for (slice, values) in slices.zip(value.chunks(LANES)) {
                    let row = &mut slice[position * LANES * 4..][..LANES * 4];
                    for (bytes, value) in row.chunks_exact_mut(4).zip(values) {
                        bytes.copy_from_slice(&value.to_le_bytes());
                    }
                }
            }
            KvDType::F16 => {
                for (slice, values) in slices.zip(value.chunks(LANES)) {
                    let row = &mut slice[position * LANES * 2..][..LANES * 2];
                    for (bytes, value) in row.chunks_exact_mut(2).zip(values) {
                        bytes.copy_from_slice(&to_f16(*value).to_le_bytes());
                    }
                }
            }
            KvDType::Q8_0 => {
                for (index, values) in value.chunks(Q8_LEN).enumerate() {
                    let (scale, quants) = quantize(values);
                    let at = (index * self.block_len + position) * 2;
                    scales[at..at + 2].copy_from_slice(&scale.to_le_bytes());
                    for (half, quants) in quants.chunks_exact(LANES).enumerate() {
                        let at = (index * 2 + half) * self.v_unit_bytes + position * LANES;
                        for (byte, quant) in data[at..at + LANES].iter_mut().zip(quants) {
                            *byte = quant.cast_unsigned();
                        }
                    }
                }
            }
        }
    }

    /// Stores a latent row, key and value in one.
    fn store_row(&self, tile: &mut [u8], position: usize, key: &[f32]) {
        let row = &mut tile[position * self.k_unit_bytes..][..self.k_unit_bytes];
        match self.dtype {
            KvDType::F32 => {
                for (bytes, value) in row.chunks_exact_mut(4).zip(key) {
                    bytes.copy_from_slice(&value.to_le_bytes());
                }
            }
            KvDType::F16 => {
                for (bytes, value) in row.chunks_exact_mut(2).zip(key) {
                    bytes.copy_from_slice(&to_f16(*value).to_le_bytes());
                }
            }
            KvDType::Q8_0 => {
                let (data, scales) = row.split_at_mut(self.k_data);
                for (index, values) in key.chunks(Q8_LEN).enumerate() {
                    let (scale, quants) = quantize(values);
                    scales[index * 2..][..2].copy_from_slice(&scale.to_le_bytes());
                    for (byte, quant) in data[index * Q8_LEN..][..Q8_LEN].iter_mut().zip(quants) {
                        *byte = quant.cast_unsigned();
                    }
                }
            }
        }
    }
}

/// To f16 without overflowing to infinity; NaN stays NaN.
fn to_f16(value: f32) -> f16 {
    f16::from_f32(value.clamp(-F16_MAX, F16_MAX))
}

/// Up to 32 values as 8-bit integers and a scale, rounding to the nearest. The scale is rounded first, so
/// that the integers make up for its rounding.
fn quantize(values: &[f32]) -> (f16, [i8; Q8_LEN]) {
    let mut quants = [0; Q8_LEN];
    if values.iter().any(|value| !value.is_finite()) {
        return (f16::NAN, quants);
    }
    let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    // A scale below the smallest normal f16 would lose precision; such values are next to nothing beside
    // any other key or value.
    let scale = to_f16(largest / 127.0);
    let inverse = if scale == f16::ZERO { 0.0 } else { 1.0 / scale.to_f32() };
    for (quant, value) in quants.iter_mut().zip(values) {
        #[expect(clippy::cast_possible_truncation, reason = "clamped to the range of i8")]
        {
            *quant = (value * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
        }
    }
    (scale, quants)
}
