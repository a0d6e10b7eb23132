//! Activations as products take them: quantised to signed bytes once a call, rounded to BF16, or as they are, in tiles
//! of a few columns.
//!
//! Here a *column* is a row of the caller's `x`, because it is a column of the result's tiles. Groups of 32
//! values share a scale for formats of 32 columns a block, groups of 256 for the others. Within a tile of
//! `width` columns everything is interleaved: the word of four consecutive values of column 0, of column 1, and
//! so on, then the next four values of each. Of floats a word holds two values of BF16, or one, and sixteen words of
//! column 0 come together, sixteen of column 1, and so on.

use std::marker::PhantomData;

use crate::DType;
use crate::lanes::{LANES, Lanes, prefetch_to_read};
use crate::sizes::product;

/// Words of floats of a column that lie together.
pub(crate) const WORDS_TOGETHER: usize = 16;

/// How many values ahead of their use activations are asked for.
const AHEAD: usize = 512;

/// Which formats the activations are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grouping {
    /// One scale per 32 values.
    By32,
    /// One scale per 256 values, with sums of each 16 and 32.
    By256,
    /// Pairs of BF16, without scales.
    Pairs,
    /// The values as they are.
    Values,
}

impl Grouping {
    pub(crate) const ALL: [Self; 4] = [Self::By32, Self::By256, Self::Pairs, Self::Values];

    /// What products with weights of a format take.
    pub(crate) fn of(dtype: DType) -> Self {
        match dtype.block_len() {
            1 if dtype == DType::BF16 => Self::Pairs,
            1 => Self::Values,
            256 => Self::By256,
            _ => Self::By32,
        }
    }

    /// Values that share a scale; those of a word where there is none.
    fn len(self) -> usize {
        match self {
            Self::By32 => 32,
            Self::By256 => 256,
            Self::Pairs | Self::Values => self.word(),
        }
    }

    /// Values in a word.
    fn word(self) -> usize {
        match self {
            Self::By32 | Self::By256 => 4,
            Self::Pairs => 2,
            Self::Values => 1,
        }
    }
}

/// How columns divide into tiles: some wide ones first, then some that are narrower by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tiling {
    tiles: usize,
    wide: usize,
    narrow_width: usize,
}

impl Tiling {
    pub(crate) fn new(n: usize, widest: usize) -> Self {
        let tiles = n.div_ceil(widest);
        Self { tiles, wide: n % tiles.max(1), narrow_width: n / tiles.max(1) }
    }

    pub(crate) fn tiles(self) -> usize {
        self.tiles
    }

    /// The first column of a tile; that of the tile after the last is the number of columns.
    pub(crate) fn start(self, tile: usize) -> usize {
        tile * self.narrow_width + tile.min(self.wide)
    }

    pub(crate) fn width(self, tile: usize) -> usize {
        self.narrow_width + usize::from(tile < self.wide)
    }
}

/// Quantised activations of one call.
#[derive(Debug, Default)]
pub(crate) struct Activations {
    tiling: Tiling,
    cols: usize,
    group: usize,
    word: usize,
    /// Four values a word, or fewer.
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

/// Hands out places to write tiles to; made from an exclusive borrow.
pub(crate) struct Writer<'a> {
    tiling: Tiling,
    cols: usize,
    word: usize,
    start: TileOut,
    activations: PhantomData<&'a mut Activations>,
}

/// Where the values of one tile go.
#[derive(Clone, Copy)]
pub(crate) struct TileOut {
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

// SAFETY: tiles are written by one thread each and share no element.
unsafe impl Send for Writer<'_> {}
// SAFETY: as above.
unsafe impl Sync for Writer<'_> {}

impl Writer<'_> {
    /// How the columns divide into tiles.
    pub(crate) fn tiling(&self) -> Tiling {
        self.tiling
    }

    /// Where tile `tile` goes.
    pub(crate) fn tile(&self, tile: usize) -> TileOut {
        let (start, width) = (self.tiling.start(tile), self.tiling.width(tile));
        let at = |per_value: usize| start * self.cols / per_value;
        let to = self.start;
        TileOut {
            group: to.group,
            width,
            q: to.q.wrapping_add(at(self.word)),
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
        let cols = match grouping {
            Grouping::By32 | Grouping::By256 => cols,
            Grouping::Pairs | Grouping::Values => cols.next_multiple_of(grouping.word() * WORDS_TOGETHER),
        };
        self.tiling = Tiling::new(n, widest);
        self.cols = cols;
        self.group = grouping.len();
        self.word = grouping.word();
        // Columns that fill up the last words take room that no slice of the caller's vouches for.
        let values = product([n, cols]);
        grow(&mut self.q, values / self.word);
        if matches!(grouping, Grouping::By32 | Grouping::By256) {
            grow(&mut self.d, values / self.group);
            grow(&mut self.start32, values / 32);
        }
        match grouping {
            Grouping::Pairs | Grouping::Values => {}
            Grouping::By32 => grow(&mut self.d_sum, values / 32),
            Grouping::By256 => {
                grow(&mut self.start16, values / 16);
                grow(&mut self.pairs32, values / 64);
                grow(&mut self.pairs16, values / 32);
            }
        }
        let start = TileOut {
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
        Writer { tiling: self.tiling, cols, word: self.word, start, activations: PhantomData }
    }

    pub(crate) fn tiling(&self) -> Tiling {
        self.tiling
    }

    /// The activations of a tile from column `k` of the weights on; fields of the other grouping point nowhere.
    pub(crate) fn tile(&self, tile: usize, k: usize) -> Tile {
        let values = self.tiling.start(tile) * self.cols + self.tiling.width(tile) * k;
        let groups = if self.group == 256 { values / 256 } else { values / 32 };
        Tile {
            q: self.q.as_ptr().wrapping_add(values >> self.word.max(1).trailing_zeros()),
            d: self.d.as_ptr().wrapping_add(groups),
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

/// Quantises the rows of a tile, as many as it has columns, group by group, so that what lies together is written
/// together.
///
/// # Safety
/// The processor has `S`'s instructions; `to` comes from a [`Writer`] prepared for rows of `cols` values, each row has
/// as many, and no other thread writes this tile.
#[inline(always)]
pub(crate) unsafe fn quantize<S: Lanes>(rows: &[*const f32], cols: usize, to: TileOut) {
    // SAFETY: the caller's contract.
    unsafe {
        match to.group {
            1 => words::<1>(rows, cols, to),
            2 => words::<2>(rows, cols, to),
            32 => groups::<S, 32, 2>(rows, cols, to),
            _ => groups::<S, 256, 16>(rows, cols, to),
        }
    }
}

/// Words of floats, sixteen of each row after the other; a row that ends within them is filled up with zeros.
///
/// # Safety
/// As for [`quantize`].
#[inline(always)]
unsafe fn words<const COLUMNS: usize>(rows: &[*const f32], cols: usize, to: TileOut) {
    for (c, row) in rows.iter().enumerate() {
        // SAFETY: the row has `cols` values.
        let row = unsafe { std::slice::from_raw_parts(*row, cols) };
        for (part, values) in row.chunks(WORDS_TOGETHER * COLUMNS).enumerate() {
            let mut words = [0; WORDS_TOGETHER];
            if values.len() == WORDS_TOGETHER * COLUMNS {
                put::<COLUMNS>(values, &mut words);
            } else {
                let mut whole = [0.0; 2 * WORDS_TOGETHER];
                whole[..values.len()].copy_from_slice(values);
                put::<COLUMNS>(&whole[..WORDS_TOGETHER * COLUMNS], &mut words);
            }
            // SAFETY: the tile has room for as many words, sixteen of each of its columns together.
            unsafe {
                to.q.add((part * to.width + c) * WORDS_TOGETHER).cast::<[u32; WORDS_TOGETHER]>().write(words)
            };
        }
    }
}

/// Values as words: as they are, or two of them rounded to BF16.
#[inline(always)]
fn put<const COLUMNS: usize>(values: &[f32], words: &mut [u32; WORDS_TOGETHER]) {
    if COLUMNS == 1 {
        words.iter_mut().zip(values).for_each(|(word, value)| *word = value.to_bits());
        return;
    }
    for (word, pair) in words.iter_mut().zip(values.as_chunks::<2>().0) {
        *word = round_to_bf16(pair[0]) | round_to_bf16(pair[1]) << 16;
    }
}

/// The nearest BF16, of two the even one; without branches, so that it is done for many values at once.
#[inline(always)]
fn round_to_bf16(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if bits & 0x7fff_ffff > 0x7f80_0000 { bits >> 16 | 0x40 } else { rounded }
}

/// Groups of `LEN` values, which are `SIXTEENS` times sixteen.
///
/// # Safety
/// As for [`quantize`].
#[inline(always)]
unsafe fn groups<S: Lanes, const LEN: usize, const SIXTEENS: usize>(
    rows: &[*const f32],
    cols: usize,
    to: TileOut,
) {
    for group in 0..cols / LEN {
        for (c, row) in rows.iter().enumerate() {
            // SAFETY: rows have `cols` values; the tile has room for one scale a group, one start per 32 values, and
            // so on, and elements of a column are `width` apart.
            unsafe {
                let x = row.add(group * LEN);
                // Of each row little is read at a time, too little for the machine to see where it goes on.
                for at in (0..LEN).step_by(LANES) {
                    prefetch_to_read(x.wrapping_add(AHEAD + at).cast());
                }
                let mut q = Quantised([0; 256]);
                let d = quantize_group::<S, LEN>(x, &mut q);
                to.d.add(group * to.width + c).write(d);
                let words = to.q.add(group * LEN / 4 * to.width + c);
                for (i, word) in q.0.as_chunks::<4>().0.iter().enumerate().take(LEN / 4) {
                    words.add(i * to.width).write(i32::from_le_bytes(*word));
                }
                let mut sums = [0; SIXTEENS];
                for (sums, q) in sums.chunks_mut(4).zip(q.0.as_chunks::<64>().0) {
                    // Ones make a dot product a sum, of each four.
                    let quads = S::dot_unsigned(S::splat_i(0), S::splat_b(1), S::load_i(q.as_ptr().cast()));
                    let mut fours = [0; LANES];
                    S::store_i(fours.as_mut_ptr(), quads);
                    for (sum, fours) in sums.iter_mut().zip(fours.as_chunks::<4>().0) {
                        *sum = fours[0] + fours[1] + fours[2] + fours[3];
                    }
                }
                write_sums(&sums, group, c, d, to);
            }
        }
    }
}

/// Signed bytes of a group, in whole vectors.
#[repr(align(64))]
struct Quantised([u8; 256]);

/// # Safety
/// As for [`quantize`].
#[inline(always)]
unsafe fn write_sums<const SIXTEENS: usize>(
    sums: &[i32; SIXTEENS],
    group: usize,
    c: usize,
    d: f32,
    to: TileOut,
) {
    let sum32 = |i: usize| sums[2 * i] + sums[2 * i + 1];
    let pair = |low: i32, high: i32| low & 0xffff | high << 16;
    // SAFETY: the caller's contract.
    unsafe {
        if SIXTEENS == 2 {
            to.d_sum.add(group * to.width + c).write(d * sum32(0) as f32);
            to.start32.add(group * to.width + c).write(-128 * sum32(0));
            return;
        }
        for i in 0..8 {
            to.start32.add((8 * group + i) * to.width + c).write(-128 * sum32(i));
            to.pairs16.add((8 * group + i) * to.width + c).write(pair(sums[2 * i], sums[2 * i + 1]));
        }
        for (i, sum) in sums.iter().enumerate() {
            to.start16.add((16 * group + i) * to.width + c).write(-128 * sum);
        }
        for i in 0..4 {
            to.pairs32.add((4 * group + i) * to.width + c).write(pair(sum32(2 * i), sum32(2 * i + 1)));
        }
    }
}

/// Quantises to -127..=127 and returns the scale; a NaN anywhere makes the scale NaN, so that it shows in the result.
///
/// # Safety
/// The processor has `S`'s instructions; `x` points to `LEN` values.
#[inline(always)]
unsafe fn quantize_group<S: Lanes, const LEN: usize>(x: *const f32, q: &mut Quantised) -> f32 {
    // SAFETY: the caller's contract; there is room for 256 bytes.
    unsafe {
        // Among floats without sign, larger bits are larger values, and NaN is the largest.
        let magnitude = S::splat_i(0x7fff_ffff);
        let mut peaks = S::splat_i(0);
        for at in (0..LEN).step_by(LANES) {
            peaks = S::max_i(peaks, S::and_i(S::load_i(x.add(at).cast()), magnitude));
        }
        let peak = f32::from_bits(S::largest_i(peaks).cast_unsigned());
        // Below this, the inverse overflows; what is so small counts as nothing.
        if peak < 1e-30 {
            return 0.0;
        }
        let inverse = S::splat_f(127.0 / peak);
        // Adding 1.5 * 2^23 leaves the integer, rounded to nearest even, in the lowest bits.
        let round = S::splat_f(12_582_912.0);
        for at in (0..LEN).step_by(LANES) {
            let rounded = S::add(S::mul(S::load_f(x.add(at)), inverse), round);
            S::store_low_bytes(q.0.as_mut_ptr().add(at), S::as_i(rounded));
        }
        peak / 127.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_all_columns_and_are_of_two_widths() {
        for widest in 1..=8 {
            for n in 0..100 {
                let tiling = Tiling::new(n, widest);
                let widths: Vec<usize> = (0..tiling.tiles()).map(|tile| tiling.width(tile)).collect();
                assert!(widths.is_sorted_by(|a, b| a >= b), "the wide ones come first: {widths:?}");
                assert!(widths.iter().all(|width| (1..=widest).contains(width)), "{n} {widest}: {widths:?}");
                assert!(widths.first().zip(widths.last()).is_none_or(|(wide, narrow)| wide - narrow <= 1));
                let mut start = 0;
                for (tile, width) in widths.iter().enumerate() {
                    assert_eq!(tiling.start(tile), start);
                    start += width;
                }
                assert_eq!((tiling.start(tiling.tiles()), start), (n, n));
            }
        }
    }
}
