//! The inner loops: a handful of query rows times a handful of vectors, all sums in registers.
//!
//! Every sum runs over its terms one by one, in order and in a register of its own, so a result does not
//! depend on how many rows or vectors a tile holds.

#![expect(
    clippy::needless_range_loop,
    reason = "indices of several arrays of registers read best side by side"
)]

use super::{CHUNK, SCORE_STRIDE};
use crate::kv::layout::{LINE, Q8_LEN};
use crate::simd::{Kernel, LANES, Simd};

/// How the numbers a loop reads are stored.
pub(super) const F32: u8 = 0;
/// Half precision.
pub(super) const F16: u8 = 1;
/// Signed bytes with scales beside.
pub(super) const Q8: u8 = 2;

/// Bytes of sixteen values of a format.
pub(super) const fn vector_bytes(format: u8) -> usize {
    match format {
        F32 => LANES * 4,
        F16 => LANES * 2,
        _ => LANES,
    }
}

/// The rows of the next tile when `left` rows remain: as many as registers hold sums for, in sizes that the
/// loops below exist for.
pub(super) fn tile_rows(left: usize, wide: bool) -> usize {
    let sizes: &[usize] = if wide { &[12, 8, 7, 6, 4, 3, 2] } else { &[6, 4, 3, 2] };
    sizes.iter().copied().find(|size| *size <= left).unwrap_or(1)
}

/// `scores[row][16 * g..][..16] = q[row] · keys[g]` for some rows and groups of sixteen positions.
#[derive(Clone, Copy)]
pub(super) struct Scores<'a> {
    /// `[k_dim][rows]`
    pub(super) q: *const f32,
    pub(super) rows: usize,
    pub(super) k_dim: usize,
    /// Groups of keys, each `[k_dim][16 positions]`.
    pub(super) keys: &'a [*const u8],
    /// For each group, what to ask of memory meanwhile: as many bytes, read soon after.
    pub(super) ahead: &'a [*const u8],
    pub(super) format: u8,
    /// `[rows]` of [`SCORE_STRIDE`], from the first group's first position.
    pub(super) scores: *mut f32,
}

impl Scores<'_> {
    /// # Safety
    /// The pointers must be good for the shapes their fields state.
    #[inline(always)]
    pub(super) unsafe fn run<S: Simd>(self, s: S) {
        // SAFETY: the caller's contract, which holds for each part.
        unsafe {
            match self.format {
                F16 => self.by_rows::<S, F16>(s),
                _ => self.by_rows::<S, F32>(s),
            }
        }
    }

    /// # Safety
    /// As for `run`.
    #[inline(always)]
    unsafe fn by_rows<S: Simd, const FORMAT: u8>(self, s: S) {
        // SAFETY: the caller's contract, which holds for each part.
        unsafe {
            if S::WIDE {
                match self.rows {
                    12 => self.by_groups::<S, FORMAT, 12, 2>(s),
                    8 => self.by_groups::<S, FORMAT, 8, 2>(s),
                    7 => self.by_groups::<S, FORMAT, 7, 2>(s),
                    6 => self.by_groups::<S, FORMAT, 6, 4>(s),
                    4 => self.by_groups::<S, FORMAT, 4, 4>(s),
                    3 => self.by_groups::<S, FORMAT, 3, 4>(s),
                    2 => self.by_groups::<S, FORMAT, 2, 4>(s),
                    _ => self.by_groups::<S, FORMAT, 1, 4>(s),
                }
            } else {
                match self.rows {
                    6 => self.by_groups::<S, FORMAT, 6, 1>(s),
                    4 => self.by_groups::<S, FORMAT, 4, 1>(s),
                    3 => self.by_groups::<S, FORMAT, 3, 2>(s),
                    2 => self.by_groups::<S, FORMAT, 2, 2>(s),
                    _ => self.by_groups::<S, FORMAT, 1, 4>(s),
                }
            }
        }
    }

    /// # Safety
    /// As for `run`.
    #[inline(always)]
    unsafe fn by_groups<S: Simd, const FORMAT: u8, const ROWS: usize, const GROUPS: usize>(self, s: S) {
        // SAFETY: the caller's contract, which holds for each part.
        unsafe {
            let whole = self.keys.as_chunks::<GROUPS>().0.iter().zip(self.ahead.as_chunks::<GROUPS>().0);
            let done = whole.len() * GROUPS;
            let Self { q, k_dim, .. } = self;
            for (index, (keys, ahead)) in whole.enumerate() {
                let scores = self.scores.add(index * GROUPS * LANES);
                s.enter(ScoreTile::<FORMAT, ROWS, GROUPS>::new(q, k_dim, *keys, *ahead, scores));
            }
            for (index, (key, ahead)) in self.keys.iter().zip(self.ahead).enumerate().skip(done) {
                let scores = self.scores.add(index * LANES);
                s.enter(ScoreTile::<FORMAT, ROWS, 1>::new(q, k_dim, [*key], [*ahead], scores));
            }
        }
    }
}

struct ScoreTile<const FORMAT: u8, const ROWS: usize, const GROUPS: usize> {
    q: *const f32,
    k_dim: usize,
    keys: [*const u8; GROUPS],
    ahead: [*const u8; GROUPS],
    scores: *mut f32,
}

impl<const FORMAT: u8, const ROWS: usize, const GROUPS: usize> ScoreTile<FORMAT, ROWS, GROUPS> {
    /// # Safety
    /// `q` holds `k_dim` times `ROWS` values, each of `keys` `k_dim` vectors of sixteen in that format, and `scores` has
    /// room for those of `GROUPS` groups in each of the rows. `ahead` is only asked for, never read.
    #[inline(always)]
    unsafe fn new(
        q: *const f32,
        k_dim: usize,
        keys: [*const u8; GROUPS],
        ahead: [*const u8; GROUPS],
        scores: *mut f32,
    ) -> Self {
        Self { q, k_dim, keys, ahead, scores }
    }
}

impl<const FORMAT: u8, const ROWS: usize, const GROUPS: usize> Kernel for ScoreTile<FORMAT, ROWS, GROUPS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut sums = [[s.splat(0.0); GROUPS]; ROWS];
        for start in (0..self.k_dim).step_by(STEP) {
            for g in 0..GROUPS {
                prefetch_step::<S, FORMAT>(s, self.ahead[g].wrapping_add(start * vector_bytes(FORMAT)));
            }
            for d in start..self.k_dim.min(start + STEP) {
                let mut keys = [s.splat(0.0); GROUPS];
                for g in 0..GROUPS {
                    // SAFETY: a group holds `k_dim` vectors of sixteen.
                    keys[g] = unsafe { load::<S, FORMAT>(s, self.keys[g].add(d * vector_bytes(FORMAT))) };
                }
                for r in 0..ROWS {
                    // SAFETY: `q` holds `k_dim` times `ROWS` values.
                    let q = s.splat(unsafe { *self.q.add(d * ROWS + r) });
                    for g in 0..GROUPS {
                        sums[r][g] = s.mul_add(q, keys[g], sums[r][g]);
                    }
                }
            }
        }
        for r in 0..ROWS {
            for g in 0..GROUPS {
                // SAFETY: promised to `Scores::run`.
                unsafe { s.store(self.scores.add(r * SCORE_STRIDE + g * LANES), sums[r][g]) };
            }
        }
    }
}

/// Vectors between two looks ahead: in each format they fill whole lines of the cache.
const STEP: usize = 4;

/// Asks for the lines of [`STEP`] vectors.
#[inline(always)]
fn prefetch_step<S: Simd, const FORMAT: u8>(s: S, at: *const u8) {
    for line in (0..STEP * vector_bytes(FORMAT)).step_by(LINE) {
        s.prefetch(at.wrapping_add(line));
    }
}

/// Sixteen values in one of the formats, a scale of Q8 not yet applied.
///
/// # Safety
/// `from` must be readable for [`vector_bytes`].
#[inline(always)]
unsafe fn load<S: Simd, const FORMAT: u8>(s: S, from: *const u8) -> S::F {
    // SAFETY: promised by the caller.
    unsafe {
        match FORMAT {
            F32 => s.load(from.cast()),
            F16 => s.load_f16(from.cast()),
            _ => s.load_i8(from.cast()),
        }
    }
}

/// Vectors of sixteen rows in a tile of [`RowScores`], when `left` remain.
pub(super) fn tile_vectors(left: usize, wide: bool) -> usize {
    if wide { left.min(3) } else { 1 }
}

/// Scores of some vectors of sixteen query rows against sixteen keys that lie in rows. A vector's lanes are query
/// rows, so keys need not be turned.
#[derive(Clone, Copy)]
pub(super) struct RowScores {
    /// `[k_dim][vectors][16]`
    pub(super) q: *const f32,
    pub(super) vectors: usize,
    pub(super) k_dim: usize,
    /// `[16 positions]` of `stride`.
    pub(super) keys: *const f32,
    pub(super) stride: usize,
    /// `[rows]` of [`SCORE_STRIDE`], from the first key's position.
    pub(super) scores: *mut f32,
    /// Of the `16 * vectors` rows those that are there.
    pub(super) rows: usize,
}

impl RowScores {
    /// # Safety
    /// The pointers must be good for the shapes their fields state.
    #[inline(always)]
    pub(super) unsafe fn run<S: Simd>(self, s: S) {
        // SAFETY: the caller's contract, which holds for each part.
        unsafe {
            if S::WIDE {
                match self.vectors {
                    3 => s.enter(RowTile::<3, 8>::new(self)),
                    2 => s.enter(RowTile::<2, 8>::new(self)),
                    _ => s.enter(RowTile::<1, 8>::new(self)),
                }
            } else {
                s.enter(RowTile::<1, 4>::new(self));
            }
        }
    }
}

struct RowTile<const VECTORS: usize, const KEYS: usize>(RowScores);

impl<const VECTORS: usize, const KEYS: usize> RowTile<VECTORS, KEYS> {
    /// # Safety
    /// The pointers of `of` are good for the shapes that its fields state, with `VECTORS` vectors.
    #[inline(always)]
    unsafe fn new(of: RowScores) -> Self {
        Self(of)
    }
}

impl<const VECTORS: usize, const KEYS: usize> Kernel for RowTile<VECTORS, KEYS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let of = self.0;
        let mut turned = [[s.splat(0.0); LANES]; VECTORS];
        for first in (0..LANES).step_by(KEYS) {
            let mut sums = [[s.splat(0.0); VECTORS]; KEYS];
            for d in 0..of.k_dim {
                let mut q = [s.splat(0.0); VECTORS];
                for v in 0..VECTORS {
                    // SAFETY: `q` holds `k_dim` times `VECTORS` vectors.
                    q[v] = unsafe { s.load(of.q.add((d * VECTORS + v) * LANES)) };
                }
                for k in 0..KEYS {
                    // SAFETY: sixteen keys of `k_dim` values.
                    let key = s.splat(unsafe { *of.keys.add((first + k) * of.stride + d) });
                    for v in 0..VECTORS {
                        sums[k][v] = s.mul_add(q[v], key, sums[k][v]);
                    }
                }
            }
            for k in 0..KEYS {
                for v in 0..VECTORS {
                    turned[v][first + k] = sums[k][v];
                }
            }
        }
        for v in 0..VECTORS {
            s.transpose(&mut turned[v]);
            for r in 0..LANES.min(of.rows.saturating_sub(v * LANES)) {
                // SAFETY: each row has room for sixteen scores.
                unsafe { s.store(of.scores.add((v * LANES + r) * SCORE_STRIDE), turned[v][r]) };
            }
        }
    }
}

/// [`Scores`] for keys in Q8_0: exact integer products with queries of 16 bits, scaled per 32 dimensions.
#[derive(Clone, Copy)]
pub(super) struct QuantScores<'a> {
    /// `[k_dim / 4][rows][2]` words.
    pub(super) quads: *const u32,
    /// `[k_dim / 32][rows]`
    pub(super) scales: *const f32,
    /// `[k_dim / 32][rows]`: 128 times the sum of the quantised query, which the keys' offset adds.
    pub(super) biases: *const i32,
    pub(super) rows: usize,
    /// Blocks of 32 dimensions.
    pub(super) blocks: usize,
    /// Groups of keys with their scales first, data from `k_data`.
    pub(super) keys: &'a [*const u8],
    /// As in [`Scores`].
    pub(super) ahead: &'a [*const u8],
    pub(super) k_data: usize,
    /// As in [`Scores`].
    pub(super) scores: *mut f32,
}

impl QuantScores<'_> {
    /// # Safety
    /// The pointers must be good for the shapes their fields state.
    #[inline(always)]
    pub(super) unsafe fn run<S: Simd>(self, s: S) {
        // SAFETY: the caller's contract, which holds for each part.
        unsafe {
            match self.rows {
                12 if S::WIDE => self.by_groups::<S, 12, 12>(s),
                8 if S::WIDE => self.by_groups::<S, 8, 8>(s),
                7 if S::WIDE => self.by_groups::<S, 7, 7>(s),
                6 if S::QUANT_ROWS < 6 => self.by_groups::<S, 6, 3>(s),
                6 => self.by_groups::<S, 6, 6>(s),
                4 if S::QUANT_ROWS < 4 => self.by_groups::<S, 4, 2>(s),
                4 => self.by_groups::<S, 4, 4>(s),
                3 => self.by_groups::<S, 3, 3>(s),
                2 => self.by_groups::<S, 2, 2>(s),
                _ => self.by_groups::<S, 1, 1>(s),
            }
        }
    }

    /// # Safety
    /// As for `run`.
    #[inline(always)]
    unsafe fn by_groups<S: Simd, const ROWS: usize, const AT_ONCE: usize>(self, s: S) {
        // SAFETY: the caller's contract, which holds for each part.
        unsafe {
            for (index, (keys, ahead)) in self.keys.iter().zip(self.ahead).enumerate() {
                let scores = self.scores.add(index * LANES);
                s.enter(QuantTile::<ROWS, AT_ONCE>::new(self, *keys, *ahead, scores));
            }
        }
    }
}

/// Some rows, of which sums of `AT_ONCE` are kept in registers.
struct QuantTile<'a, const ROWS: usize, const AT_ONCE: usize> {
    of: QuantScores<'a>,
    keys: *const u8,
    ahead: *const u8,
    scores: *mut f32,
}

impl<'a, const ROWS: usize, const AT_ONCE: usize> QuantTile<'a, ROWS, AT_ONCE> {
    /// # Safety
    /// The pointers of `of` are good for the shapes that its fields state, with `ROWS` rows; `keys` is one of its groups,
    /// and `scores` has room for that group's in each row. `ahead` is only asked for, never read.
    #[inline(always)]
    unsafe fn new(of: QuantScores<'a>, keys: *const u8, ahead: *const u8, scores: *mut f32) -> Self {
        Self { of, keys, ahead, scores }
    }
}

impl<const ROWS: usize, const AT_ONCE: usize> Kernel for QuantTile<'_, ROWS, AT_ONCE> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        const QUADS: usize = Q8_LEN / 4;
        let of = self.of;
        for line in (0..of.k_data).step_by(LINE) {
            s.prefetch(self.ahead.wrapping_add(line));
        }
        for block in 0..of.blocks {
            // SAFETY: a group begins with sixteen scales for each block.
            let key_scales = unsafe { s.load_f16(self.keys.add(block * LANES * 2).cast()) };
            for first in (0..ROWS).step_by(AT_ONCE) {
                let mut sums = [s.zero_sums(); AT_ONCE];
                for quad in block * QUADS..(block + 1) * QUADS {
                    if first == 0 {
                        s.prefetch(self.ahead.wrapping_add(of.k_data + quad * 4 * LANES));
                    }
                    // SAFETY: a group holds 64 bytes for each four dimensions, padded to whole blocks.
                    let keys = unsafe { s.load_quads(self.keys.add(of.k_data + quad * 4 * LANES)) };
                    for r in 0..AT_ONCE {
                        // SAFETY: the queries are padded to whole blocks too.
                        let q = unsafe { of.quads.add((quad * ROWS + first + r) * 2) };
                        // SAFETY: as above.
                        sums[r] = unsafe { s.dot_quads(sums[r], keys, q) };
                    }
                }
                for r in 0..AT_ONCE {
                    // SAFETY: one scale and one bias for each block and row; a row of scores for each row.
                    unsafe {
                        let at = block * ROWS + first + r;
                        let scaled = s.mul(s.centred_sums(sums[r], *of.biases.add(at)), key_scales);
                        let score = self.scores.add((first + r) * SCORE_STRIDE);
                        let before = if block == 0 { s.splat(0.0) } else { s.load(score) };
                        s.store(score, s.mul_add(scaled, s.splat(*of.scales.add(at)), before));
                    }
                }
            }
        }
    }
}

/// `sums[row][16 * slice..][..16] (+)= Σ weights[row][position] * values[position]` for some rows, over
/// positions `from..to` of a segment.
#[derive(Clone, Copy)]
pub(super) struct Mix {
    /// `[rows]` of [`SCORE_STRIDE`], from the segment's first position.
    pub(super) weights: *const f32,
    pub(super) rows: usize,
    /// The segment: `[slices][positions][16 dims]`, a slice `slice_bytes` after the one before.
    pub(super) values: *const u8,
    /// What to ask of memory meanwhile: as many bytes, read soon after.
    pub(super) ahead: *const u8,
    pub(super) slice_bytes: usize,
    /// From one position's sixteen values to the next one's.
    pub(super) position_bytes: usize,
    pub(super) slices: usize,
    pub(super) format: u8,
    /// For Q8: `[slices / 2]` of [`CHUNK`] scales, from the segment's first position.
    pub(super) scales: *const f32,
    pub(super) from: usize,
    pub(super) to: usize,
    /// `[rows][slices][16]`
    pub(super) sums: *mut f32,
    /// Whether to go on from what `sums` holds, rather than from zero.
    pub(super) resume: bool,
}

impl Mix {
    /// # Safety
    /// The pointers must be good for the shapes their fields state.
    #[inline(always)]
    pub(super) unsafe fn run<S: Simd>(self, s: S) {
        // SAFETY: the caller's contract, which holds for each part.
        unsafe {
            match self.format {
                F32 => self.by_rows::<S, F32>(s),
                F16 => self.by_rows::<S, F16>(s),
                _ => self.by_rows::<S, Q8>(s),
            }
        }
    }

    /// # Safety
    /// As for `run`.
    #[inline(always)]
    unsafe fn by_rows<S: Simd, const FORMAT: u8>(self, s: S) {
        // SAFETY: the caller's contract, which holds for each part.
        unsafe {
            if S::WIDE {
                match self.rows {
                    12 => self.by_slices::<S, FORMAT, 12, 2>(s),
                    8 => self.by_slices::<S, FORMAT, 8, 2>(s),
                    7 => self.by_slices::<S, FORMAT, 7, 2>(s),
                    6 => self.by_slices::<S, FORMAT, 6, 4>(s),
                    4 => self.by_slices::<S, FORMAT, 4, 4>(s),
                    3 => self.by_slices::<S, FORMAT, 3, 4>(s),
                    2 => self.by_slices::<S, FORMAT, 2, 8>(s),
                    _ => self.by_slices::<S, FORMAT, 1, 8>(s),
                }
            } else {
                match self.rows {
                    6 => self.by_slices::<S, FORMAT, 6, 1>(s),
                    4 => self.by_slices::<S, FORMAT, 4, 1>(s),
                    3 => self.by_slices::<S, FORMAT, 3, 2>(s),
                    2 => self.by_slices::<S, FORMAT, 2, 2>(s),
                    _ => self.by_slices::<S, FORMAT, 1, 4>(s),
                }
            }
        }
    }

    /// # Safety
    /// As for `run`.
    #[inline(always)]
    unsafe fn by_slices<S: Simd, const FORMAT: u8, const ROWS: usize, const SLICES: usize>(self, s: S) {
        // SAFETY: the caller's contract, which holds for each part.
        unsafe {
            let mut slice = 0;
            while slice + SLICES <= self.slices {
                s.enter(MixTile::<FORMAT, ROWS, SLICES>::new(self, slice));
                slice += SLICES;
            }
            while slice < self.slices {
                s.enter(MixTile::<FORMAT, ROWS, 1>::new(self, slice));
                slice += 1;
            }
        }
    }
}

struct MixTile<const FORMAT: u8, const ROWS: usize, const SLICES: usize> {
    of: Mix,
    slice: usize,
}

impl<const FORMAT: u8, const ROWS: usize, const SLICES: usize> MixTile<FORMAT, ROWS, SLICES> {
    /// # Safety
    /// The pointers of `of` are good for the shapes that its fields state, with `ROWS` rows and values in that format, and
    /// it has `SLICES` slices from number `slice` on.
    #[inline(always)]
    unsafe fn new(of: Mix, slice: usize) -> Self {
        Self { of, slice }
    }
}

impl<const FORMAT: u8, const ROWS: usize, const SLICES: usize> Kernel for MixTile<FORMAT, ROWS, SLICES> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let of = self.of;
        let row_len = of.slices * LANES;
        // SAFETY: there are `slices` slices, of which this tile takes `SLICES` from `slice` on.
        let out = unsafe { of.sums.add(self.slice * LANES) };
        let mut sums = [[s.splat(0.0); SLICES]; ROWS];
        if of.resume {
            for r in 0..ROWS {
                for j in 0..SLICES {
                    // SAFETY: each row has `row_len` sums.
                    sums[r][j] = unsafe { s.load(out.add(r * row_len + j * LANES)) };
                }
            }
        }
        for start in (of.from..of.to).step_by(STEP) {
            for j in 0..SLICES {
                let at = (self.slice + j) * of.slice_bytes + start * of.position_bytes;
                prefetch_step::<S, FORMAT>(s, of.ahead.wrapping_add(at));
            }
            for position in start..of.to.min(start + STEP) {
                let mut vectors = [s.splat(0.0); SLICES];
                for j in 0..SLICES {
                    let at = (self.slice + j) * of.slice_bytes + position * of.position_bytes;
                    // SAFETY: the segment holds the position in all slices.
                    vectors[j] = unsafe { load::<S, FORMAT>(s, of.values.add(at)) };
                    if FORMAT == Q8 {
                        // SAFETY: two slices share the scales of a segment.
                        let scale = unsafe { *of.scales.add((self.slice + j) / 2 * CHUNK + position) };
                        vectors[j] = s.mul(vectors[j], s.splat(scale));
                    }
                }
                for r in 0..ROWS {
                    // SAFETY: each row has a weight for each position.
                    let weight = s.splat(unsafe { *of.weights.add(r * SCORE_STRIDE + position) });
                    for j in 0..SLICES {
                        sums[r][j] = s.mul_add(weight, vectors[j], sums[r][j]);
                    }
                }
            }
        }
        for r in 0..ROWS {
            for j in 0..SLICES {
                // SAFETY: as for loading.
                unsafe { s.store(out.add(r * row_len + j * LANES), sums[r][j]) };
            }
        }
    }
}
