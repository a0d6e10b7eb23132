//! Where keys and values come from, and their conversion into panels of f32 where that pays.

use std::ops::Range;

use super::micro::{F16, F32, Q8, vector_bytes};
use crate::kv::layout::{Geometry, LINE, Q8_LEN, widen_at};
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
    /// How keys lie in tiles, `None` if they lie in rows.
    pub(super) keys: Option<u8>,
    /// How values are stored, `None` if they cannot be read where they are.
    pub(super) values: Option<u8>,
}

impl Shape {
    pub(super) fn of_cache(kv: &KvCache) -> Self {
        let geometry = kv.geometry();
        let format = format_of(geometry.dtype);
        // A latent row's values are read where they are unless a whole vector of them would exceed the row.
        let whole = geometry.v_dim.next_multiple_of(LANES) * vector_bytes(format) / LANES;
        Self {
            n_kv_heads: kv.layout().n_kv_heads,
            k_dim: geometry.k_dim,
            v_dim: geometry.v_dim,
            keys: (!geometry.values_in_keys).then_some(format),
            values: (!geometry.values_in_keys || whole <= geometry.k_unit_bytes).then_some(format),
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

    /// Where the values of the block with `position` lie.
    pub(super) fn value_segment(&self, head: usize, position: usize) -> *const u8 {
        let (tile, _) = self.tile(head, position);
        let apart = self.geometry().filter(|geometry| !geometry.values_in_keys);
        tile[apart.map_or(0, |geometry| geometry.v_start)..].as_ptr()
    }

    /// Bytes from one slice of a block's values to the next, and from one position to the next.
    pub(super) fn value_strides(&self, format: u8) -> (usize, usize) {
        match self.geometry() {
            Some(geometry) if geometry.values_in_keys => (vector_bytes(format), geometry.k_unit_bytes),
            Some(geometry) => (geometry.v_unit_bytes, vector_bytes(format)),
            None => (0, 0),
        }
    }

    /// What is read `later` positions after the keys at `at` of a chunk of `n` positions from `base`: other keys
    /// or the chunk's first values.
    pub(super) fn after_keys(
        &self,
        head: usize,
        base: usize,
        n: usize,
        at: usize,
        later: usize,
    ) -> *const u8 {
        let next = at + later;
        if next < n {
            return self.key_group(head, base + next);
        }
        let (next, Some(geometry)) = (next - n.next_multiple_of(LANES), self.geometry()) else {
            return std::ptr::null();
        };
        if next >= n {
            return self.key_group(head, base + at);
        }
        // A block's values are sliced the other way; in all they are read in the order of memory.
        let part = (geometry.v_scales - geometry.v_start) / geometry.block_len;
        self.value_segment(head, base + next).wrapping_add(next % geometry.block_len * part)
    }

    /// What is read two blocks after the values of the block at `at` of a chunk: other values or the next chunk's
    /// keys, if there are any below position `limit`. Their scales are asked for at once.
    #[inline(always)]
    pub(super) fn after_values<S: Simd>(
        &self,
        s: S,
        head: usize,
        base: usize,
        n: usize,
        at: usize,
        limit: usize,
    ) -> *const u8 {
        let Some(geometry) = self.geometry() else { return std::ptr::null() };
        let next = at + 2 * geometry.block_len;
        if next < n {
            let (tile, _) = self.tile(head, base + next);
            for line in (geometry.v_scales..geometry.head_bytes).step_by(LINE) {
                s.prefetch(tile[line..].as_ptr());
            }
            return tile[geometry.v_start..].as_ptr();
        }
        if base + next < limit {
            return self.key_group(head, base + next);
        }
        self.value_segment(head, base + at)
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
        if geometry.values_in_keys {
            for position in 0..n {
                let (tile, place) = self.tile(head, first + position);
                for unit in 0..geometry.v_dim.div_ceil(Q8_LEN) {
                    let at = place * geometry.k_unit_bytes + geometry.k_data + unit * 2;
                    to[unit * stride + position] = widen_at(tile, at);
                }
            }
            return;
        }
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

    /// Writes the keys of positions `range` of a chunk of `n` from `base` as f32 groups
    /// `[range / 16][k_dim][16 positions]`, from tiles in F16. (F32 is read in place, Q8_0 has its own product.)
    #[inline(always)]
    pub(super) fn keys_to_panel<S: Simd>(
        &self,
        s: S,
        head: usize,
        base: usize,
        n: usize,
        range: Range<usize>,
        to: &mut [f32],
    ) {
        let groups = to.chunks_exact_mut(self.dims().0 * LANES);
        for (group, at) in groups.zip(range.step_by(LANES)) {
            let from = self.key_group(head, base + at).cast::<u16>();
            let ahead = self.after_keys(head, base, n, at, 4 * LANES);
            for (d, two) in group.chunks_mut(2 * LANES).enumerate() {
                s.prefetch(ahead.wrapping_add(d * LINE));
                for (half, lanes) in two.chunks_exact_mut(LANES).enumerate() {
                    // SAFETY: a group holds `k_dim` vectors of sixteen.
                    s.store_slice(lanes, unsafe { s.load_f16(from.add((d * 2 + half) * LANES)) });
                }
            }
        }
    }

    /// Writes keys that lie in rows as f32 rows of `stride`, from position `first` on as many as there are below
    /// `end`. The rows after those are left alone. Asks for those that are read next, below position `limit`.
    #[inline(always)]
    pub(super) fn keys_to_rows<S: Simd>(
        &self,
        s: S,
        head: usize,
        first: usize,
        end: usize,
        limit: usize,
        to: &mut [f32],
        stride: usize,
    ) {
        for (to, position) in to.chunks_exact_mut(stride).zip(first..end) {
            let row = self.key_row(head, position);
            let later = if position + LANES < limit { position + LANES } else { position };
            let ahead = self.key_row(head, later).data.as_ptr();
            let bytes = vector_bytes(row.format);
            for (index, to) in to[..row.len.next_multiple_of(LANES)].chunks_exact_mut(LANES).enumerate() {
                s.prefetch(ahead.wrapping_add(index * bytes));
                s.store_slice(to, row.load(s, index * LANES));
            }
        }
    }

    /// Writes the values of positions `range` of a chunk of `n` from `base`, of a sequence that ends at `limit`, as
    /// f32 slices `[v_dim / 16][stride][16 dims]`.
    #[inline(always)]
    pub(super) fn values_to_panel<S: Simd>(
        &self,
        s: S,
        head: usize,
        base: usize,
        n: usize,
        limit: usize,
        range: Range<usize>,
        to: &mut [f32],
        stride: usize,
    ) {
        let slices = self.dims().1.div_ceil(LANES);
        if let Some(geometry) = self.geometry().filter(|geometry| !geometry.values_in_keys) {
            // Block by block and slice by slice, the way the tiles lie in memory.
            for start in range.clone().step_by(geometry.block_len) {
                let (tile, _) = self.tile(head, base + start);
                let ahead = self.after_values(s, head, base, n, start, limit);
                for slice in 0..slices {
                    let to = &mut to[(slice * stride + start - range.start) * LANES..];
                    let n = geometry.block_len.min(range.end - start);
                    let ahead = ahead.wrapping_add(slice * geometry.v_unit_bytes);
                    tile_values(s, geometry, tile, slice, ahead, &mut to[..n * LANES]);
                }
            }
            return;
        }
        for (position, at) in range.enumerate() {
            let row = self.value_row(head, base + at);
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

/// A slice of values from the start of a tile on, `to.len() / 16` positions, as f32, and as many bytes from `ahead`
/// asked for meanwhile.
#[inline(always)]
fn tile_values<S: Simd>(
    s: S,
    geometry: &Geometry,
    tile: &[u8],
    slice: usize,
    ahead: *const u8,
    to: &mut [f32],
) {
    let bytes = geometry.v_unit_bytes / geometry.block_len;
    let from = &tile[geometry.v_start + slice * geometry.v_unit_bytes..][..to.len() / LANES * bytes];
    let scales = geometry.v_scales + slice * LANES / Q8_LEN * geometry.block_len * 2;
    for (position, (from, to)) in from.chunks_exact(bytes).zip(to.chunks_exact_mut(LANES)).enumerate() {
        if (position * bytes).is_multiple_of(LINE) {
            s.prefetch(ahead.wrapping_add(position * bytes));
        }
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
