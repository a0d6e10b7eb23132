//! Activations as products take them: quantised to signed bytes once a call, in tiles of a few columns.
//!
//! Here a *column* is a row of the caller's `x`, because it is a column of the result's tiles. Groups of 32
//! values share a scale for formats of 32 columns a block, groups of 256 for the others. Within a tile of
//! `width` columns everything is interleaved: the word of four consecutive values of column 0, of column 1, and
//! so on, then the next four values of each.

use std::marker::PhantomData;

/// Which formats the activations are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grouping {
    /// One scale per 32 values.
    By32,
    /// One scale per 256 values, with sums of each 16 and 32.
    By256,
}

impl Grouping {
    fn len(self) -> usize {
        match self {
            Self::By32 => 32,
            Self::By256 => 256,
        }
    }
}

/// How `n` columns divide into tiles whose widths differ by one at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tiling {
    n: usize,
    tiles: usize,
}

impl Tiling {
    pub(crate) fn new(n: usize, widest: usize) -> Self {
        Self { n, tiles: n.div_ceil(widest) }
    }

    pub(crate) fn tiles(self) -> usize {
        self.tiles
    }

    /// The first column of a tile; that of the tile after the last is `n`.
    pub(crate) fn start(self, tile: usize) -> usize {
        tile * self.n / self.tiles
    }

    /// The tile that holds a column.
    fn tile_of(self, column: usize) -> usize {
        // `start` rounds down, so the tile of a column is the last one that starts at or before it.
        ((column + 1) * self.tiles - 1) / self.n
    }

    pub(crate) fn width(self, tile: usize) -> usize {
        self.start(tile + 1) - self.start(tile)
    }
}

/// Quantised activations of one call.
#[derive(Debug, Default)]
pub(crate) struct Activations {
    tiling: Tiling,
    cols: usize,
    group: usize,
    /// Four values a word.
    q: Vec<i32>,
    /// The scale of each group.
    d: Vec<f32>,
    /// By 32: the scale times the sum of the values, of each group.
    d_sum: Vec<f32>,
    /// -128 times the sum of each 32 values.
    start32: Vec<i32>,
    /// By 256: -128 times the sum of each 16 values.
    start16: Vec<i32>,
    /// By 256: sums of 32 values and of the next 32, in the halves of a word.
    pairs32: Vec<i32>,
    /// By 256: sums of 16 values and of the next 16.
    pairs16: Vec<i32>,
}

/// The activations of one tile, for a kernel.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    pub(crate) q: *const i32,
    pub(crate) d: *const f32,
    pub(crate) d_sum: *const f32,
    pub(crate) start32: *const i32,
    pub(crate) start16: *const i32,
    pub(crate) pairs32: *const i32,
    pub(crate) pairs16: *const i32,
}

/// Hands out places to write columns to; made from an exclusive borrow.
pub(crate) struct Writer<'a> {
    tiling: Tiling,
    cols: usize,
    start: Column,
    activations: PhantomData<&'a mut Activations>,
}

/// Where one column's values go.
#[derive(Clone, Copy)]
pub(crate) struct Column {
    group: usize,
    /// Columns of the tile.
    width: usize,
    q: *mut i32,
    d: *mut f32,
    d_sum: *mut f32,
    start32: *mut i32,
    start16: *mut i32,
    pairs32: *mut i32,
    pairs16: *mut i32,
}

// SAFETY: columns are written by one thread each and share no element.
unsafe impl Send for Writer<'_> {}
// SAFETY: as above.
unsafe impl Sync for Writer<'_> {}

impl Writer<'_> {
    /// Where column `column` goes.
    pub(crate) fn column(&self, column: usize) -> Column {
        let tile = self.tiling.tile_of(column);
        let (start, width) = (self.tiling.start(tile), self.tiling.width(tile));
        let at = |per_value: usize| start * self.cols / per_value + column - start;
        let to = self.start;
        Column {
            group: to.group,
            width,
            q: to.q.wrapping_add(at(4)),
            d: to.d.wrapping_add(at(to.group)),
            d_sum: to.d_sum.wrapping_add(at(32)),
            start32: to.start32.wrapping_add(at(32)),
            start16: to.start16.wrapping_add(at(16)),
            pairs32: to.pairs32.wrapping_add(at(64)),
            pairs16: to.pairs16.wrapping_add(at(32)),
        }
    }
}

impl Activations {
    /// Makes room for `n` columns of `cols` values and returns what fills it.
    pub(crate) fn prepare(&mut self, grouping: Grouping, n: usize, cols: usize, widest: usize) -> Writer<'_> {
        self.tiling = Tiling::new(n, widest);
        self.cols = cols;
        self.group = grouping.len();
        grow(&mut self.q, n * cols / 4);
        grow(&mut self.d, n * cols / self.group);
        grow(&mut self.start32, n * cols / 32);
        match grouping {
            Grouping::By32 => grow(&mut self.d_sum, n * cols / 32),
            Grouping::By256 => {
                grow(&mut self.start16, n * cols / 16);
                grow(&mut self.pairs32, n * cols / 64);
                grow(&mut self.pairs16, n * cols / 32);
            }
        }
        let start = Column {
            group: self.group,
            width: 0,
            q: self.q.as_mut_ptr(),
            d: self.d.as_mut_ptr(),
            d_sum: self.d_sum.as_mut_ptr(),
            start32: self.start32.as_mut_ptr(),
            start16: self.start16.as_mut_ptr(),
            pairs32: self.pairs32.as_mut_ptr(),
            pairs16: self.pairs16.as_mut_ptr(),
        };
        Writer { tiling: self.tiling, cols, start, activations: PhantomData }
    }

    pub(crate) fn tiling(&self) -> Tiling {
        self.tiling
    }

    /// The activations of a tile from column `k` of the weights on; fields of the other grouping point nowhere.
    pub(crate) fn tile(&self, tile: usize, k: usize) -> Tile {
        let values = self.tiling.start(tile) * self.cols + self.tiling.width(tile) * k;
        Tile {
            q: self.q.as_ptr().wrapping_add(values / 4),
            d: self.d.as_ptr().wrapping_add(values / self.group),
            d_sum: self.d_sum.as_ptr().wrapping_add(values / 32),
            start32: self.start32.as_ptr().wrapping_add(values / 32),
            start16: self.start16.as_ptr().wrapping_add(values / 16),
            pairs32: self.pairs32.as_ptr().wrapping_add(values / 64),
            pairs16: self.pairs16.as_ptr().wrapping_add(values / 32),
        }
    }
}

fn grow<T: Copy + Default>(vec: &mut Vec<T>, len: usize) {
    if vec.len() < len {
        vec.resize(len, T::default());
    }
}

/// Quantises one row of `x` into its column.
///
/// # Safety
/// `to` comes from a [`Writer`] prepared for rows of `x`'s length and no other thread writes this column.
#[inline(always)]
pub(crate) unsafe fn quantize(x: &[f32], to: Column) {
    let mut q = [0_i8; 256];
    for (group, x) in x.chunks_exact(to.group).enumerate() {
        let q = &mut q[..to.group];
        let d = quantize_group(x, q);
        // SAFETY: the column has room for one scale a group, one start per 32 values, and so on; elements of
        // a column are `width` apart.
        unsafe {
            to.d.add(group * to.width).write(d);
            let words = to.q.add(group * to.group / 4 * to.width);
            for (i, word) in q.as_chunks::<4>().0.iter().enumerate() {
                words.add(i * to.width).write(i32::from_le_bytes(word.map(|v| v as u8)));
            }
            write_sums(q, group, d, to);
        }
    }
}

/// # Safety
/// As for [`quantize`].
#[inline(always)]
unsafe fn write_sums(q: &[i8], group: usize, d: f32, to: Column) {
    let mut sums = [0_i32; 16];
    for (sum, q) in sums.iter_mut().zip(q.as_chunks::<16>().0) {
        *sum = q.iter().map(|v| i32::from(*v)).sum();
    }
    let sum32 = |i: usize| sums[2 * i] + sums[2 * i + 1];
    let pair = |low: i32, high: i32| low & 0xffff | high << 16;
    // SAFETY: the caller's contract.
    unsafe {
        if to.group == 32 {
            to.d_sum.add(group * to.width).write(d * sum32(0) as f32);
            to.start32.add(group * to.width).write(-128 * sum32(0));
            return;
        }
        for i in 0..8 {
            to.start32.add((8 * group + i) * to.width).write(-128 * sum32(i));
            to.pairs16.add((8 * group + i) * to.width).write(pair(sums[2 * i], sums[2 * i + 1]));
        }
        for (i, sum) in sums.iter().enumerate() {
            to.start16.add((16 * group + i) * to.width).write(-128 * sum);
        }
        for i in 0..4 {
            to.pairs32.add((4 * group + i) * to.width).write(pair(sum32(2 * i), sum32(2 * i + 1)));
        }
    }
}

/// Quantises to -127..=127 and returns the scale; a NaN anywhere makes the scale NaN, so that it shows in the
/// result.
#[inline(always)]
fn quantize_group(x: &[f32], q: &mut [i8]) -> f32 {
    // Among floats without sign, larger bits are larger values, and NaN is the largest.
    let mut peak = 0_u32;
    for x in x {
        peak = peak.max(x.to_bits() & 0x7fff_ffff);
    }
    let peak = f32::from_bits(peak);
    // Below this, the inverse overflows; what is so small counts as nothing.
    if peak < 1e-30 {
        q.fill(0);
        return 0.0;
    }
    let inverse = 127.0 / peak;
    for (q, x) in q.iter_mut().zip(x) {
        // Adding 1.5 * 2^23 leaves the integer, rounded to nearest even, in the lowest bits.
        *q = (x * inverse + 12_582_912.0).to_bits() as i8;
    }
    peak / 127.0
}
