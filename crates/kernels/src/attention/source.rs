//! Where keys and values come from, and their conversion into panels of f32 where that pays.

use super::micro::{F16, F32, Q8};
use crate::kv::layout::{Geometry, Q8_LEN};
use crate::kv::{KvCache, KvDType};
use crate::simd::{LANES, Simd};

/// The keys and values of one sequence.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// A layer of the cache, through a block table.
    Cache { kv: &'a KvCache, layer: usize, table: &'a [u32] },
    /// Rows one after the other: `[positions, n_heads * dim]`.
    Rows { k: &'a [f32], v: &'a [f32], k_dim: usize, v_dim: usize, n_heads: usize },
}

/// What attention needs to know of a source's arrangement.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) n_kv_heads: usize,
    pub(super) k_dim: usize,
    pub(super) v_dim: usize,
    /// How keys lie in tiles, `None` if they must be turned in scratch memory first.
    pub(super) keys: Option<u8>,
    /// How values lie in tiles.
    pub(super) values: Option<u8>,
}

impl Shape {
    pub(super) fn of_cache(kv: &KvCache) -> Self {
        let geometry = kv.geometry();
        let format = match geometry.dtype {
            KvDType::F32 => F32,
            KvDType::F16 => F16,
            KvDType::Q8_0 => Q8,
        };
        let tiled = (!geometry.values_in_keys).then_some(format);
        Self {
            n_kv_heads: kv.layout().n_kv_heads,
            k_dim: geometry.k_dim,
            v_dim: geometry.v_dim,
            keys: tiled,
            values: tiled,
        }
    }

    /// Slices of sixteen value dimensions.
    pub(super) fn slices(&self) -> usize {
        self.v_dim.div_ceil(LANES)
    }

    /// Blocks of 32 key dimensions.
    pub(super) fn key_blocks(&self) -> usize {
        self.k_dim.div_ceil(Q8_LEN)
    }
}

impl Source<'_> {
    /// The geometry of a cache; rows have none.
    pub(super) fn geometry(&self) -> Option<&Geometry> {
        match self {
            Self::Cache { kv, .. } => Some(kv.geometry()),
            Self::Rows { .. } => None,
        }
    }

    /// The tile of one head that holds `position`, and the position's place in it.
    #[inline(always)]
    fn tile(&self, head: usize, position: usize) -> (&[u8], usize) {
        match self {
            Self::Cache { kv, layer, table } => {
                let block_len = kv.geometry().block_len;
                let block = table[position / block_len] as usize;
                (kv.tile(block, *layer, head), position % block_len)
            }
            Self::Rows { .. } => (&[], 0),
        }
    }

    /// The group of sixteen keys that starts at `position`, as it lies in its tile.
    pub(super) fn key_group(&self, head: usize, position: usize) -> *const u8 {
        let (tile, place) = self.tile(head, position);
        let unit = self.geometry().map_or(0, |geometry| geometry.k_unit_bytes);
        tile[place / LANES * unit..].as_ptr()
    }

    /// Where the values of the block with `position` lie, and how many positions they are.
    pub(super) fn value_segment(&self, head: usize, position: usize) -> *const u8 {
        let (tile, _) = self.tile(head, position);
        let start = self.geometry().map_or(0, |geometry| geometry.v_start);
        tile[start..].as_ptr()
    }

    /// Writes the values' scales of `n` positions from `first` as `[v_dim / 32]` of `stride`.
    #[inline(always)]
    pub(super) fn value_scales<S: Simd>(
        &self,
        s: S,
        head: usize,
        first: usize,
        n: usize,
        to: &mut [f32],
        stride: usize,
    ) {
        let Some(geometry) = self.geometry() else { return };
        for position in (0..n).step_by(LANES) {
            let (tile, place) = self.tile(head, first + position);
            for unit in 0..geometry.v_dim.div_ceil(Q8_LEN) {
                let from = &tile[geometry.v_scales + (unit * geometry.block_len + place) * 2..][..LANES * 2];
                // SAFETY: the slice holds sixteen f16.
                let scales = unsafe { s.load_f16(from.as_ptr().cast()) };
                s.store_slice(&mut to[unit * stride + position..], scales);
            }
        }
    }

    /// Writes the keys of `n` positions from `first`, a multiple of 16, as f32 groups
    /// `[n / 16][k_dim][16 positions]`. Lanes beyond the last position hold anything.
    #[inline(always)]
    pub(super) fn keys_to_panel<S: Simd>(&self, s: S, head: usize, first: usize, n: usize, to: &mut [f32]) {
        match *self {
            Self::Cache { kv, .. } => {
                let geometry = kv.geometry();
                let groups = to.chunks_exact_mut(geometry.k_dim * LANES);
                for (group, start) in groups.zip((first..first + n).step_by(LANES)) {
                    if geometry.values_in_keys {
                        let rows = (first + n - start).min(LANES);
                        turn(s, geometry.k_dim, rows, group, |row, d, to| {
                            let (tile, place) = self.tile(head, start + row);
                            row_values(s, geometry, tile, place, d, to);
                        });
                    } else {
                        let from = self.key_group(head, start).cast::<u16>();
                        for (d, lanes) in group.chunks_exact_mut(LANES).enumerate() {
                            // SAFETY: panels are made of tiles in F16 only (F32 is read in place, Q8_0 has its
                            // own product), whose groups hold `k_dim` vectors of sixteen.
                            s.store_slice(lanes, unsafe { s.load_f16(from.add(d * LANES)) });
                        }
                    }
                }
            }
            Self::Rows { k, k_dim, n_heads, .. } => {
                let groups = to.chunks_exact_mut(k_dim * LANES);
                for (group, start) in groups.zip((first..first + n).step_by(LANES)) {
                    let rows = (first + n - start).min(LANES);
                    turn(s, k_dim, rows, group, |row, d, to| {
                        let from = &k[((start + row) * n_heads + head) * k_dim..][..k_dim][d..];
                        let n = from.len().min(LANES);
                        to[..n].copy_from_slice(&from[..n]);
                    });
                }
            }
        }
    }

    /// Writes the values of `n` positions from `first` as f32 slices `[v_dim / 16][stride][16 dims]`.
    #[inline(always)]
    pub(super) fn values_to_panel<S: Simd>(
        &self,
        s: S,
        head: usize,
        first: usize,
        n: usize,
        to: &mut [f32],
        stride: usize,
    ) {
        let v_dim = match *self {
            Self::Cache { kv, .. } => kv.geometry().v_dim,
            Self::Rows { v_dim, .. } => v_dim,
        };
        for (slice, to) in to.chunks_exact_mut(stride * LANES).enumerate().take(v_dim.div_ceil(LANES)) {
            let d = slice * LANES;
            for (position, to) in to.chunks_exact_mut(LANES).enumerate().take(n) {
                match *self {
                    Self::Cache { kv, .. } => {
                        let geometry = kv.geometry();
                        let (tile, place) = self.tile(head, first + position);
                        if geometry.values_in_keys {
                            row_values(s, geometry, tile, place, d, to);
                        } else {
                            tile_values(s, geometry, tile, place, slice, to);
                        }
                    }
                    Self::Rows { v, v_dim, n_heads, .. } => {
                        let from = &v[((first + position) * n_heads + head) * v_dim..][..v_dim][d..];
                        let n = from.len().min(LANES);
                        to[..n].copy_from_slice(&from[..n]);
                        to[n..].fill(0.0);
                    }
                }
            }
        }
    }
}

/// Sixteen values of one position in a tile.
#[inline(always)]
fn tile_values<S: Simd>(s: S, geometry: &Geometry, tile: &[u8], place: usize, slice: usize, to: &mut [f32]) {
    let from = &tile[geometry.v_start + slice * geometry.v_unit_bytes..][..geometry.v_unit_bytes];
    let at = place * (geometry.v_unit_bytes / geometry.block_len);
    let from = &from[at..][..geometry.v_unit_bytes / geometry.block_len];
    // SAFETY: the slice holds sixteen values of the cache's format.
    let values = unsafe {
        match geometry.dtype {
            KvDType::F32 => s.load(from.as_ptr().cast()),
            KvDType::F16 => s.load_f16(from.as_ptr().cast()),
            KvDType::Q8_0 => {
                let scale = geometry.value_scale(tile, place, slice * LANES);
                s.mul(s.load_i8(from.as_ptr().cast()), s.splat(scale))
            }
        }
    };
    s.store_slice(to, values);
}

/// Up to sixteen values of a latent row from dimension `d` on, zero beyond its end.
#[inline(always)]
fn row_values<S: Simd>(s: S, geometry: &Geometry, tile: &[u8], place: usize, d: usize, to: &mut [f32]) {
    if d + LANES > geometry.k_dim {
        for (j, to) in to[..LANES].iter_mut().enumerate() {
            *to = if d + j < geometry.k_dim { geometry.key_value(tile, place, d + j) } else { 0.0 };
        }
        return;
    }
    let row = &tile[place * geometry.k_unit_bytes..][..geometry.k_unit_bytes];
    // SAFETY: sixteen values from `d` on lie within the row.
    let values = unsafe {
        match geometry.dtype {
            KvDType::F32 => s.load(row[d * 4..][..LANES * 4].as_ptr().cast()),
            KvDType::F16 => s.load_f16(row[d * 2..][..LANES * 2].as_ptr().cast()),
            KvDType::Q8_0 => {
                let scale = geometry.row_scale(row, d);
                s.mul(s.load_i8(row[d..][..LANES].as_ptr().cast()), s.splat(scale))
            }
        }
    };
    s.store_slice(to, values);
}

/// Turns sixteen rows of `dim` values, read sixteen at a time by `read(row, d, to)`, into `[dim][16 rows]`.
#[inline(always)]
fn turn<S: Simd>(s: S, dim: usize, rows: usize, to: &mut [f32], read: impl Fn(usize, usize, &mut [f32])) {
    for d in (0..dim).step_by(LANES) {
        let mut block = [s.splat(0.0); LANES];
        let mut lanes = [0.0; LANES];
        for (row, vector) in block.iter_mut().enumerate().take(rows) {
            read(row, d, &mut lanes);
            *vector = s.load_slice(&lanes, 0.0);
        }
        s.transpose(&mut block);
        for (to, vector) in to[d * LANES..].chunks_exact_mut(LANES).zip(block) {
            s.store_slice(to, vector);
        }
    }
}
