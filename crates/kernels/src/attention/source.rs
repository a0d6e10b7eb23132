//! Where keys and values come from, and their conversion into panels of f32 where that pays.

use super::micro::{F16, F32, Q8, vector_bytes};
use crate::kv::layout::{Geometry, Q8_LEN, widen_at};
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
        let tiled = (!geometry.values_in_keys).then_some(format_of(geometry.dtype));
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
    /// `[n / 16][k_dim][16 positions]`. Lanes beyond the last position hold zero or what the cache holds.
    #[inline(always)]
    pub(super) fn keys_to_panel<S: Simd>(&self, s: S, head: usize, first: usize, n: usize, to: &mut [f32]) {
        let k_dim = self.dims().0;
        let groups = to.chunks_exact_mut(k_dim * LANES);
        for (group, start) in groups.zip((first..first + n).step_by(LANES)) {
            if self.geometry().is_some_and(|geometry| !geometry.values_in_keys) {
                let from = self.key_group(head, start).cast::<u16>();
                for (d, lanes) in group.chunks_exact_mut(LANES).enumerate() {
                    // SAFETY: panels are made of tiles in F16 only (F32 is read in place, Q8_0 has its own
                    // product), whose groups hold `k_dim` vectors of sixteen.
                    s.store_slice(lanes, unsafe { s.load_f16(from.add(d * LANES)) });
                }
                continue;
            }
            let rows: [_; LANES] =
                std::array::from_fn(|row| (start + row < first + n).then(|| self.key_row(head, start + row)));
            for (index, to) in group.chunks_mut(LANES * LANES).enumerate() {
                let mut block = [s.splat(0.0); LANES];
                for (vector, row) in block.iter_mut().zip(&rows) {
                    if let Some(row) = row {
                        *vector = row.load(s, index * LANES);
                    }
                }
                s.transpose(&mut block);
                for (to, vector) in to.chunks_exact_mut(LANES).zip(block) {
                    s.store_slice(to, vector);
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
        let slices = self.dims().1.div_ceil(LANES);
        if let Some(geometry) = self.geometry().filter(|geometry| !geometry.values_in_keys) {
            // Block by block and slice by slice, the way the tiles lie in memory.
            for start in (0..n).step_by(geometry.block_len) {
                let (tile, _) = self.tile(head, first + start);
                for slice in 0..slices {
                    let to = &mut to[(slice * stride + start) * LANES..];
                    let n = geometry.block_len.min(n - start);
                    tile_values(s, geometry, tile, slice, &mut to[..n * LANES]);
                }
            }
            return;
        }
        for position in 0..n {
            let row = self.value_row(head, first + position);
            for slice in 0..slices {
                let at = (slice * stride + position) * LANES;
                s.store_slice(&mut to[at..at + LANES], row.load(s, slice * LANES));
            }
        }
    }

    fn dims(&self) -> (usize, usize) {
        match self {
            Self::Cache { kv, .. } => (kv.geometry().k_dim, kv.geometry().v_dim),
            Self::Rows { k_dim, v_dim, .. } => (*k_dim, *v_dim),
        }
    }

    /// The key at `position`, of sources whose keys are rows.
    #[inline(always)]
    fn key_row(&self, head: usize, position: usize) -> Row<'_> {
        match *self {
            Self::Cache { kv, .. } => {
                let geometry = kv.geometry();
                let (tile, place) = self.tile(head, position);
                latent_row(geometry, tile, place, geometry.k_dim)
            }
            Self::Rows { k, k_dim, n_heads, .. } => {
                Row::plain(&k[(position * n_heads + head) * k_dim..][..k_dim])
            }
        }
    }

    /// The value at `position`, of sources whose values are rows.
    #[inline(always)]
    fn value_row(&self, head: usize, position: usize) -> Row<'_> {
        match *self {
            Self::Cache { kv, .. } => {
                let geometry = kv.geometry();
                let (tile, place) = self.tile(head, position);
                latent_row(geometry, tile, place, geometry.v_dim)
            }
            Self::Rows { v, v_dim, n_heads, .. } => {
                Row::plain(&v[(position * n_heads + head) * v_dim..][..v_dim])
            }
        }
    }
}

/// A slice of values from the start of a tile on, `to.len() / 16` positions, as f32.
#[inline(always)]
fn tile_values<S: Simd>(s: S, geometry: &Geometry, tile: &[u8], slice: usize, to: &mut [f32]) {
    let bytes = geometry.v_unit_bytes / geometry.block_len;
    let from = &tile[geometry.v_start + slice * geometry.v_unit_bytes..][..to.len() / LANES * bytes];
    let scales = geometry.v_scales + slice * LANES / Q8_LEN * geometry.block_len * 2;
    for (position, (from, to)) in from.chunks_exact(bytes).zip(to.chunks_exact_mut(LANES)).enumerate() {
        // SAFETY: the chunk holds sixteen values of the format.
        let values = unsafe {
            match geometry.dtype {
                KvDType::F32 => s.load(from.as_ptr().cast()),
                KvDType::F16 => s.load_f16(from.as_ptr().cast()),
                KvDType::Q8_0 => {
                    let scale = widen_at(tile, scales + position * 2);
                    s.mul(s.load_i8(from.as_ptr().cast()), s.splat(scale))
                }
            }
        };
        s.store_slice(to, values);
    }
}

fn format_of(dtype: KvDType) -> u8 {
    match dtype {
        KvDType::F32 => F32,
        KvDType::F16 => F16,
        KvDType::Q8_0 => Q8,
    }
}

#[inline(always)]
fn latent_row<'a>(geometry: &Geometry, tile: &'a [u8], place: usize, len: usize) -> Row<'a> {
    let row = &tile[place * geometry.k_unit_bytes..][..geometry.k_unit_bytes];
    let format = format_of(geometry.dtype);
    let (data, scales) = if format == Q8 { row.split_at(geometry.k_data) } else { row.split_at(row.len()) };
    // Q8_0 is padded to whole vectors, so all of them can be loaded.
    let len = if format == Q8 { len.next_multiple_of(LANES) } else { len };
    Row { format, data, scales, len }
}

/// The numbers of one position, sixteen at a time.
struct Row<'a> {
    format: u8,
    data: &'a [u8],
    scales: &'a [u8],
    /// How many there are.
    len: usize,
}

impl<'a> Row<'a> {
    fn plain(values: &'a [f32]) -> Self {
        // SAFETY: f32 may be read as bytes.
        let data = unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) };
        Self { format: F32, data, scales: &[], len: values.len() }
    }

    /// Sixteen values from dimension `d` on, zero beyond the end.
    #[inline(always)]
    fn load<S: Simd>(&self, s: S, d: usize) -> S::F {
        let bytes = vector_bytes(self.format);
        let from = &self.data[d / LANES * bytes..];
        if d + LANES > self.len {
            // Only plain rows and latent ones in F32 and F16 end within a vector.
            let n = self.len - d;
            let mut copy = [0_u8; LANES * 4];
            copy[..n * bytes / LANES].copy_from_slice(&from[..n * bytes / LANES]);
            // SAFETY: the copy holds sixteen values of either format.
            return unsafe {
                if self.format == F16 {
                    s.load_f16(copy.as_ptr().cast())
                } else {
                    s.load(copy.as_ptr().cast())
                }
            };
        }
        let from = from[..bytes].as_ptr();
        // SAFETY: the slice holds sixteen values of the format.
        unsafe {
            match self.format {
                F32 => s.load(from.cast()),
                F16 => s.load_f16(from.cast()),
                _ => {
                    let scale = widen_at(self.scales, d / Q8_LEN * 2);
                    s.mul(s.load_i8(from.cast()), s.splat(scale))
                }
            }
        }
    }
}
