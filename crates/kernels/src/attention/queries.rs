//! Queries as the inner loops want them: scaled, and in tiles of as many rows as registers hold sums for.

use super::micro::{Q8, tile_rows, tile_vectors};
use super::task::{Call, Scratch, Tile};
use crate::kv::layout::Q8_LEN;
use crate::simd::{LANES, Simd};

/// The largest quantised query: `256 * high + low` with both signed bytes and `high` not below -127.
const QUERY_MAX: f32 = 32639.0;
/// The tiles of registers that `rows` rows are cut into, as first row and number.
#[inline(always)]
pub(super) fn register_tiles(rows: usize, wide: bool) -> impl Iterator<Item = (usize, usize)> {
    let mut first = 0;
    std::iter::from_fn(move || {
        (first < rows).then(|| {
            let n = tile_rows(rows - first, wide);
            first += n;
            (first - n, n)
        })
    })
}

/// The tiles that `rows` rows are cut into where lanes are rows, as first vector of sixteen and number of them.
#[inline(always)]
pub(super) fn vector_tiles(rows: usize, wide: bool) -> impl Iterator<Item = (usize, usize)> {
    let (mut first, vectors) = (0, rows.div_ceil(LANES));
    std::iter::from_fn(move || {
        (first < vectors).then(|| {
            let n = tile_vectors(vectors - first, wide);
            first += n;
            (first - n, n)
        })
    })
}

/// Copies the tile's queries, scaled, so that the values that meet one key dimension lie side by side.
#[inline(always)]
pub(super) fn pack_queries<S: Simd>(s: S, call: &Call<'_>, tile: &Tile<'_>, scratch: &mut Scratch) {
    let k_dim = call.shape.k_dim;
    let blocks = call.shape.key_blocks();
    if call.shape.keys.is_none() {
        let to = scratch.queries.get(tile.rows.next_multiple_of(LANES) * k_dim);
        for (first, n) in vector_tiles(tile.rows, S::WIDE) {
            let to = &mut to[first * LANES * k_dim..][..n * LANES * k_dim];
            for lane in 0..n * LANES {
                let r = first * LANES + lane;
                if r < tile.rows {
                    let q = &call.q[tile.row_and_head(call, r) * k_dim..][..k_dim];
                    for (to, q) in to[lane..].iter_mut().step_by(n * LANES).zip(q) {
                        *to = q * call.scale;
                    }
                } else {
                    // Lanes without a row are computed too, and not stored.
                    to[lane..].iter_mut().step_by(n * LANES).for_each(|to| *to = 0.0);
                }
            }
        }
        return;
    }
    if call.shape.keys != Some(Q8) {
        let to = scratch.queries.get(tile.rows * k_dim);
        for (first, n) in register_tiles(tile.rows, S::WIDE) {
            for r in 0..n {
                let q = &call.q[tile.row_and_head(call, first + r) * k_dim..][..k_dim];
                let to = &mut to[first * k_dim + r..];
                for (d, q) in q.iter().enumerate() {
                    to[d * n] = q * call.scale;
                }
            }
        }
        return;
    }
    let scales = scratch.queries.get(tile.rows * blocks);
    scratch.quads.resize(tile.rows * blocks * (Q8_LEN / 4) * 2, 0);
    scratch.biases.resize(tile.rows * blocks, 0);
    for (first, n) in register_tiles(tile.rows, S::WIDE) {
        for r in 0..n {
            let q = &call.q[tile.row_and_head(call, first + r) * k_dim..][..k_dim];
            for (block, q) in q.chunks(Q8_LEN).enumerate() {
                let (scale, quants) = quantize_query(q, call.scale);
                let at = first * blocks + block * n + r;
                scales[at] = scale;
                scratch.biases[at] = 128 * quants.iter().map(|q| i32::from(*q)).sum::<i32>();
                for (quad, four) in quants.as_chunks::<4>().0.iter().enumerate() {
                    let at = first * blocks * (Q8_LEN / 4) + (block * (Q8_LEN / 4) + quad) * n + r;
                    scratch.quads[at * 2..][..2].copy_from_slice(&s.query_quad(*four));
                }
            }
        }
    }
}

/// Up to 32 query values times `factor` as integers within ±[`QUERY_MAX`] and their scale. A value that is
/// not finite makes the scale NaN.
#[inline(always)]
fn quantize_query(q: &[f32], factor: f32) -> (f32, [i16; Q8_LEN]) {
    let mut quants = [0; Q8_LEN];
    let mut scaled = [0.0_f32; Q8_LEN];
    let mut largest = 0.0_f32;
    let mut sum = 0.0_f32;
    for (scaled, q) in scaled.iter_mut().zip(q) {
        *scaled = q * factor;
        largest = if scaled.abs() > largest { scaled.abs() } else { largest };
        sum += scaled.abs();
    }
    if !sum.is_finite() {
        // Either a value is not finite, or the sum overflows and every score would.
        return (f32::NAN, quants);
    }
    let inverse = if largest > f32::MIN_POSITIVE { QUERY_MAX / largest } else { 0.0 };
    for (quant, scaled) in quants.iter_mut().zip(scaled) {
        #[expect(clippy::cast_possible_truncation, reason = "within ±32639 up to rounding, and saturating")]
        {
            *quant = (scaled * inverse).round_ties_even().clamp(-QUERY_MAX, QUERY_MAX) as i16;
        }
    }
    (largest / QUERY_MAX, quants)
}
