//! Writing new keys and values into their slots.

use half::f16;

use super::layout::{Geometry, LANES, Q8_LEN, widen_at};
use super::{KvCache, KvDType};
use crate::pool::Pool;
use crate::simd::{Kernel, Simd, dispatch};
use crate::sizes::product;

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
        assert_eq!(k.len(), product([slots.len(), heads, layout.k_dim]), "keys for {} slots", slots.len());
        assert_eq!(v.len(), product([slots.len(), heads, v_len]), "values for {} slots", slots.len());
        let n_slots = self.n_blocks * layout.block_len;
        assert!(slots.iter().all(|slot| (*slot as usize) < n_slots), "a slot is beyond the cache");

        let rows = Rows { geometry: self.geometry, cache: self.bytes.as_mut_ptr(), layer, slots, k, v };
        let rows = &rows;
        let head_task = |head: usize| dispatch(HeadRows { rows, head });
        if k.len() + v.len() < PARALLEL_VALUES {
            (0..heads).for_each(head_task);
        } else {
            pool.run(heads, &head_task);
        }
    }
}

/// What the tasks of one call share.
struct Rows<'a> {
    geometry: Geometry,
    cache: *mut u8,
    layer: usize,
    slots: &'a [u32],
    k: &'a [f32],
    v: &'a [f32],
}

// SAFETY: each task derives the tiles of its own head from the pointer, and those are disjoint.
unsafe impl Sync for Rows<'_> {}

struct HeadRows<'a> {
    rows: &'a Rows<'a>,
    head: usize,
}

impl Kernel for HeadRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Rows { geometry, cache, layer, slots, k, v } = *self.rows;
        let heads = geometry.layer_bytes / geometry.head_bytes;
        for (row, slot) in slots.iter().enumerate() {
            let (block, position) =
                (*slot as usize / geometry.block_len, *slot as usize % geometry.block_len);
            let start = geometry.tile_offset(block, layer, self.head);
            // SAFETY: `append` checked the slot and the layer, so the tile lies within the cache, which it
            // borrows exclusively; no other task has tiles of this head.
            let tile = unsafe { std::slice::from_raw_parts_mut(cache.add(start), geometry.head_bytes) };
            let at = row * heads + self.head;
            let key = &k[at * geometry.k_dim..][..geometry.k_dim];
            if geometry.values_in_keys {
                store_row(s, &geometry, tile, position, key);
            } else {
                store_key(s, &geometry, tile, position, key);
                store_value(s, &geometry, tile, position, &v[at * geometry.v_dim..][..geometry.v_dim]);
            }
        }
    }
}

#[inline(always)]
fn store_key<S: Simd>(s: S, geometry: &Geometry, tile: &mut [u8], position: usize, key: &[f32]) {
    let group = &mut tile[position / LANES * geometry.k_unit_bytes..][..geometry.k_unit_bytes];
    let lane = position % LANES;
    match geometry.dtype {
        KvDType::F32 => {
            for (row, value) in group.chunks_exact_mut(LANES * 4).zip(key) {
                row[lane * 4..][..4].copy_from_slice(&value.to_le_bytes());
            }
        }
        KvDType::F16 => {
            for (rows, values) in group.chunks_mut(LANES * LANES * 2).zip(key.chunks(LANES)) {
                let halves = narrow(s, values);
                for (row, half) in rows.chunks_exact_mut(LANES * 2).zip(halves) {
                    row[lane * 2..][..2].copy_from_slice(&half.to_le_bytes());
                }
            }
        }
        KvDType::Q8_0 => {
            let (scales, data) = group.split_at_mut(geometry.k_data);
            let blocks = data.chunks_exact_mut(Q8_LEN * LANES).zip(key.chunks(Q8_LEN));
            for (index, (data, values)) in blocks.enumerate() {
                let (scale, quants) = quantize(s, values);
                scales[(index * LANES + lane) * 2..][..2].copy_from_slice(&scale.to_le_bytes());
                for (quads, four) in data.chunks_exact_mut(4 * LANES).zip(quants.as_chunks::<4>().0) {
                    quads[lane * 4..][..4].copy_from_slice(&four.map(|quant| quant.cast_unsigned() ^ 0x80));
                }
            }
        }
    }
}

#[inline(always)]
fn store_value<S: Simd>(s: S, geometry: &Geometry, tile: &mut [u8], position: usize, value: &[f32]) {
    let (data, scales) = tile[geometry.v_start..].split_at_mut(geometry.v_scales - geometry.v_start);
    let slices = data.chunks_exact_mut(geometry.v_unit_bytes);
    match geometry.dtype {
        KvDType::F32 => {
            for (slice, values) in slices.zip(value.chunks(LANES)) {
                copy_f32(&mut slice[position * LANES * 4..][..LANES * 4], values);
            }
        }
        KvDType::F16 => {
            for (slice, values) in slices.zip(value.chunks(LANES)) {
                copy_f16(&mut slice[position * LANES * 2..][..LANES * 2], narrow(s, values));
            }
        }
        KvDType::Q8_0 => {
            for (index, values) in value.chunks(Q8_LEN).enumerate() {
                let (scale, quants) = quantize(s, values);
                let at = (index * geometry.block_len + position) * 2;
                scales[at..at + 2].copy_from_slice(&scale.to_le_bytes());
                for (half, quants) in quants.as_chunks::<LANES>().0.iter().enumerate() {
                    let at = (index * 2 + half) * geometry.v_unit_bytes + position * LANES;
                    data[at..at + LANES].copy_from_slice(&quants.map(i8::cast_unsigned));
                }
            }
        }
    }
}

/// Stores a latent row, key and value in one.
#[inline(always)]
fn store_row<S: Simd>(s: S, geometry: &Geometry, tile: &mut [u8], position: usize, key: &[f32]) {
    let row = &mut tile[position * geometry.k_unit_bytes..][..geometry.k_unit_bytes];
    match geometry.dtype {
        KvDType::F32 => copy_f32(row, key),
        KvDType::F16 => {
            for (bytes, values) in row.chunks_mut(LANES * 2).zip(key.chunks(LANES)) {
                copy_f16(bytes, narrow(s, values));
            }
        }
        KvDType::Q8_0 => {
            let (data, scales) = row.split_at_mut(geometry.k_data);
            let blocks = data.chunks_exact_mut(Q8_LEN).zip(scales.chunks_exact_mut(2));
            for ((data, scale_bytes), values) in blocks.zip(key.chunks(Q8_LEN)) {
                let (scale, quants) = quantize(s, values);
                scale_bytes.copy_from_slice(&scale.to_le_bytes());
                data.copy_from_slice(&quants.map(i8::cast_unsigned));
            }
        }
    }
}

#[inline(always)]
fn copy_f32(bytes: &mut [u8], values: &[f32]) {
    for (bytes, value) in bytes.chunks_exact_mut(4).zip(values) {
        bytes.copy_from_slice(&value.to_le_bytes());
    }
}

#[inline(always)]
fn copy_f16(bytes: &mut [u8], halves: [u16; LANES]) {
    for (bytes, half) in bytes.chunks_exact_mut(2).zip(halves) {
        bytes.copy_from_slice(&half.to_le_bytes());
    }
}

/// Up to sixteen values as f16, without overflowing to infinity; NaN stays NaN.
#[inline(always)]
fn narrow<S: Simd>(s: S, values: &[f32]) -> [u16; LANES] {
    let clamped = s.min(s.splat(F16_MAX), s.max(s.splat(-F16_MAX), s.load_slice(values, 0.0)));
    let mut halves = [0; LANES];
    // SAFETY: the array has sixteen values.
    unsafe { s.store_f16(halves.as_mut_ptr(), clamped) };
    halves
}

/// Up to 32 values as 8-bit integers and a scale in f16, rounding to the nearest. The scale is rounded first,
/// so that the integers make up for its rounding. With a value that is not finite, the scale is NaN.
#[inline(always)]
fn quantize<S: Simd>(s: S, values: &[f32]) -> (u16, [i8; Q8_LEN]) {
    let mut quants = [0; Q8_LEN];
    let zero = s.splat(0.0);
    let halves = [s.load_slice(values, 0.0), s.load_slice(values.get(LANES..).unwrap_or_default(), 0.0)];
    // Zero times a value is zero unless the value is not finite.
    let check = s.sum(s.add(s.mul(halves[0], zero), s.mul(halves[1], zero)));
    if check.is_nan() {
        return (f16::NAN.to_bits(), quants);
    }
    let magnitudes = halves.map(|x| s.max(x, s.sub(zero, x)));
    let largest = s.largest(s.max(magnitudes[0], magnitudes[1]));
    let [scale, ..] = narrow(s, &[largest / 127.0]);
    let widened = widen_at(&scale.to_le_bytes(), 0);
    let inverse = s.splat(if widened == 0.0 { 0.0 } else { 1.0 / widened });
    let limit = s.splat(127.0);
    for (quants, x) in quants.chunks_exact_mut(LANES).zip(halves) {
        let rounded = s.round(s.mul(x, inverse));
        let clamped = s.min(limit, s.max(s.sub(zero, limit), rounded));
        // SAFETY: the chunk has sixteen values.
        unsafe { s.store_i8(quants.as_mut_ptr(), clamped) };
    }
    (scale, quants)
}
