//! Products with many columns: a stretch of 32 rows is unpacked to bytes once, then multiplied with every tile of
//! columns while it stays in the first cache.

use std::hint::black_box;
use std::ops::Range;

use super::Panels;
use super::words::STRETCH_WORDS;
use crate::DType;
use crate::activations::Tile;
use crate::blocks::Shape;
use crate::lanes::{LANES, Lanes, NTA_AHEAD, unrolled};
use crate::panel::CHUNK;
use crate::panel::formats::Format;

/// Columns of weights that are unpacked together: 24 KiB, which with their scales, a tile of activations and its sums
/// fit into a first-level cache of 32 KiB and more. A whole number of groups.
pub(crate) const STRETCH: usize = 768;

/// Columns of weights of a format that are unpacked together.
pub(crate) fn stretch_of(dtype: DType) -> usize {
    match dtype {
        DType::BF16 => 2 * STRETCH_WORDS,
        dtype if dtype.is_float() => STRETCH_WORDS,
        _ => STRETCH,
    }
}

/// A stretch of 32 unpacked rows, in scratch memory.
#[derive(Clone, Copy)]
pub(crate) struct Unpacked {
    /// Weights: for each four columns, or each word of floats, 64 bytes of the first 16 rows and 64 of the others.
    pub(crate) w: *mut u8,
    /// Scales of groups: 32 floats for each.
    pub(crate) scales: *mut f32,
    /// Scales of minima (blocks of 256) or offsets (blocks of 32), 32 floats for each.
    pub(crate) dmin: *mut f32,
    /// Minima, in pairs of 16 bits, 32 integers for each.
    pub(crate) minima: *mut i32,
}

/// Elements that [`Unpacked`] needs for a stretch of any format.
pub(crate) struct UnpackedSizes {
    pub(crate) w: usize,
    pub(crate) scales: usize,
    pub(crate) dmin: usize,
    pub(crate) minima: usize,
}

pub(crate) const UNPACKED: UnpackedSizes = {
    let rows = 2 * LANES;
    UnpackedSizes {
        w: rows * if STRETCH > 4 * STRETCH_WORDS { STRETCH } else { 4 * STRETCH_WORDS },
        scales: rows * STRETCH / 16,
        dmin: rows * STRETCH / 32,
        minima: rows * STRETCH / 32,
    }
};

/// The shape of a format's products: whether blocks hold 256 columns, 16 share a scale, there is a minimum.
pub(super) fn shape(dtype: DType) -> (bool, bool, bool) {
    let min = matches!(dtype, DType::Q4_1 | DType::Q5_1 | DType::Q2_K | DType::Q4_K | DType::Q5_K);
    (dtype.block_len() == 256, Shape::of(dtype).group == 16, min)
}

/// Unpacks groups `range` of the first two panels as 32 rows.
///
/// # Safety
/// The processor has `S`'s instructions; the two panels hold these groups in format `F`, and they are no more than
/// a stretch.
#[inline(always)]
pub(super) unsafe fn unpack<S: Lanes, F: Format, const HINT: u8>(
    panels: Panels,
    range: Range<usize>,
    to: Unpacked,
) {
    // SAFETY: the caller's contract; every pointer stays within its block.
    unsafe {
        let layout = panels.layout;
        let chunks = if F::SUPER { 8 } else { 1 };
        let first = layout.group(range.start).first;
        for half in 0..2 {
            for group in range.clone() {
                let group = layout.group(group);
                let at = group.first - first;
                for chunk in 0..group.count * chunks {
                    let q = panels.start[half].add(group.quants_at + chunk * F::CHUNK_BYTES);
                    for line in 0..F::CHUNK_BYTES.div_ceil(64) {
                        S::prefetch::<HINT>(q.wrapping_add(NTA_AHEAD + 64 * line));
                    }
                    let w = F::unpack::<S>(q);
                    let to = to.w.add(((at * chunks + chunk) * 16 + half) * 64);
                    let _: [(); 8] = unrolled!(s => {
                        S::store_b(to.add(s * 128), if F::MIN { w[s] } else { S::centre_at_128(w[s], F::ZERO) });
                    });
                }
                for i in 0..group.count {
                    let head = panels.start[half].add(group.heads_at + i * F::HEAD_BYTES);
                    unpack_head::<S, F>(head, at + i, half, to);
                }
            }
        }
    }
}

/// # Safety
/// As for [`unpack`]; `head` is that of block `b` of the stretch.
#[inline(always)]
unsafe fn unpack_head<S: Lanes, F: Format>(head: *const u8, b: usize, half: usize, to: Unpacked) {
    let at = |i: usize| (2 * i + half) * LANES;
    // SAFETY: the caller's contract; every pointer stays within its block.
    unsafe {
        if !F::SUPER {
            S::store_f(to.scales.add(at(b)), F::scale::<S>(head, 0));
            if F::MIN {
                S::store_f(to.dmin.add(at(b)), F::dmin::<S>(head));
            }
            return;
        }
        let groups = if F::SIXTEENS { 16 } else { 8 };
        let d = F::d::<S>(head);
        let _: [(); 8] = unrolled!(g => {
            S::store_f(to.scales.add(at(b * groups + g)), S::mul(d, F::scale::<S>(head, g)));
        });
        if F::SIXTEENS {
            let _: [(); 8] = unrolled!(g => {
                S::store_f(to.scales.add(at(b * groups + 8 + g)), S::mul(d, F::scale::<S>(head, 8 + g)));
            });
        }
        if F::MIN {
            S::store_f(to.dmin.add(at(b)), F::dmin::<S>(head));
            for p in 0..groups / 2 {
                S::store_i(to.minima.add(at(b * groups / 2 + p)), F::min_pair::<S>(head, p));
            }
        }
    }
}

/// Adds a stretch to `totals`, `[N][32]`, or starts them where it is the first, by the same operations in the same
/// order as [`super::direct::product`].
///
/// # Safety
/// The processor has `S`'s instructions; `w` holds `cols` columns of a format of this shape, `a` is a tile of `N`
/// columns of as many values, grouped as the format wants, and `totals` has room for them.
#[inline(always)]
pub(super) unsafe fn product<
    S: Lanes,
    const SUPER: bool,
    const SIXTEENS: bool,
    const MIN: bool,
    const N: usize,
>(
    w: Unpacked,
    cols: usize,
    a: Tile,
    totals: *mut f32,
    first: bool,
) {
    // SAFETY: the caller's contract.
    unsafe {
        if first {
            for at in 0..2 * N {
                S::store_f(totals.add(at * LANES), S::splat_f(0.0));
            }
        }
        if SUPER {
            blocks_of_256::<S, SIXTEENS, MIN, N>(w, cols, a, totals);
        } else {
            blocks_of_32::<S, MIN, N>(w, cols, a, totals);
        }
    }
}

/// Stores `sums`, `[width][32]`, with the bias or added to what is there, to 32 rows of `width` columns that are `rows`
/// values apart.
///
/// # Safety
/// The processor has `S`'s instructions; the sums and the rows of `y` are there, and nobody else uses them meanwhile.
#[inline(always)]
pub(super) unsafe fn store<S: Lanes>(
    sums: *const f32,
    width: usize,
    y: *mut f32,
    rows: usize,
    bias: Option<&[f32; 2 * LANES]>,
    add: bool,
) {
    for c in 0..width {
        for half in 0..2 {
            // SAFETY: the caller's contract.
            unsafe {
                let to = y.add(c * rows + half * LANES);
                let mut sum = S::load_f(sums.add((2 * c + half) * LANES));
                if let Some(bias) = bias {
                    sum = S::add(sum, S::load_f(bias.as_ptr().add(half * LANES)));
                }
                if add {
                    sum = S::add(S::load_f(to), sum);
                }
                S::store_f(to, sum);
            }
        }
    }
}

/// `STEPS` times four columns of weights for two vectors of rows and `N` columns of activations.
#[inline(always)]
unsafe fn dots<S: Lanes, const MIN: bool, const N: usize, const STEPS: usize>(
    w: *const u8,
    q: *const i32,
    start: *const i32,
) -> [[S::I; N]; 2] {
    // SAFETY: the caller points to `STEPS` steps of weights and activations and to `N` starts.
    unsafe {
        let mut sums = [[S::splat_i(0); N]; 2];
        if !MIN {
            for c in 0..N {
                sums[0][c] = S::start(start.add(c), 128);
                sums[1][c] = sums[0][c];
            }
        }
        for s in 0..STEPS {
            let (w0, w1) = (S::load_b(w.add(s * 128)), S::load_b(w.add(s * 128 + 64)));
            for c in 0..N {
                let a = S::splat_i(q.add(s * N + c).read());
                if MIN {
                    sums[0][c] = S::dot_unsigned(sums[0][c], w0, a);
                    sums[1][c] = S::dot_unsigned(sums[1][c], w1, a);
                } else {
                    sums[0][c] = S::dot_signed(sums[0][c], w0, a);
                    sums[1][c] = S::dot_signed(sums[1][c], w1, a);
                }
            }
        }
        sums
    }
}

#[inline(always)]
unsafe fn blocks_of_32<S: Lanes, const MIN: bool, const N: usize>(
    w: Unpacked,
    cols: usize,
    a: Tile,
    kept: *mut f32,
) {
    // SAFETY: the caller's contract; every pointer stays within its block.
    unsafe {
        let mut totals = [[S::splat_f(0.0); N]; 2];
        for c in 0..N {
            totals[0][c] = S::load_f(kept.add(2 * c * LANES));
            totals[1][c] = S::load_f(kept.add((2 * c + 1) * LANES));
        }
        for b in 0..cols / CHUNK {
            let weights = w.w.add(b * 1024);
            let dots = dots::<S, MIN, N, 8>(weights, a.q.add(b * 8 * N), a.start32.add(b * N));
            for half in 0..2 {
                let d = S::load_f(w.scales.add((2 * b + half) * LANES));
                for c in 0..N {
                    let a_d = S::splat_f(a.d.add(b * N + c).read());
                    totals[half][c] = S::fma(S::mul(d, a_d), S::to_f(dots[half][c]), totals[half][c]);
                }
                if MIN {
                    let m = S::load_f(w.dmin.add((2 * b + half) * LANES));
                    for c in 0..N {
                        let a_sum = S::splat_f(a.d_sum.add(b * N + c).read());
                        totals[half][c] = S::fma(m, a_sum, totals[half][c]);
                    }
                }
            }
        }
        for c in 0..N {
            S::store_f(kept.add(2 * c * LANES), totals[0][c]);
            S::store_f(kept.add((2 * c + 1) * LANES), totals[1][c]);
        }
    }
}

/// Totals stay in memory: a block's sums take the registers. They begin with what minima take, so that the products
/// that follow keep the processor busy meanwhile.
#[inline(always)]
unsafe fn blocks_of_256<S: Lanes, const SIXTEENS: bool, const MIN: bool, const N: usize>(
    w: Unpacked,
    cols: usize,
    a: Tile,
    totals: *mut f32,
) {
    let groups = if SIXTEENS { 16 } else { 8 };
    // SAFETY: the caller's contract; every pointer stays within its block.
    unsafe {
        for b in 0..cols / 256 {
            // Where they are is hidden: the compiler would keep them in registers from block to block, and spill them.
            let totals = black_box(totals);
            let mut blocks = [[S::splat_f(0.0); N]; 2];
            if MIN {
                blocks = minima::<S, SIXTEENS, N>(w, a, b);
            }
            for g in 0..groups {
                let group = b * groups + g;
                let dots = if SIXTEENS {
                    let start = a.start16.wrapping_add(group * N);
                    dots::<S, MIN, N, 4>(w.w.add(group * 512), a.q.add(group * 4 * N), start)
                } else {
                    let start = a.start32.wrapping_add(group * N);
                    dots::<S, MIN, N, 8>(w.w.add(group * 1024), a.q.add(group * 8 * N), start)
                };
                for half in 0..2 {
                    let scale = S::load_f(w.scales.add((2 * group + half) * LANES));
                    for c in 0..N {
                        blocks[half][c] = S::fma(scale, S::to_f(dots[half][c]), blocks[half][c]);
                    }
                }
            }
            for c in 0..N {
                let a_d = S::splat_f(a.d.add(b * N + c).read());
                for half in 0..2 {
                    let total = totals.add((2 * c + half) * LANES);
                    S::store_f(total, S::fma(a_d, blocks[half][c], S::load_f(total)));
                }
            }
        }
    }
}

/// What minima take from block `b`: where its sums begin.
#[inline(always)]
unsafe fn minima<S: Lanes, const SIXTEENS: bool, const N: usize>(
    w: Unpacked,
    a: Tile,
    b: usize,
) -> [[S::F; N]; 2] {
    // SAFETY: the caller's contract.
    unsafe {
        let (pairs, count) = if SIXTEENS { (a.pairs16, 8) } else { (a.pairs32, 4) };
        let mut sums = [[S::splat_i(0); N]; 2];
        for p in 0..count {
            let pair = b * count + p;
            let minima =
                [S::load_i(w.minima.add(2 * pair * LANES)), S::load_i(w.minima.add((2 * pair + 1) * LANES))];
            for c in 0..N {
                let a = S::splat_i(pairs.add(pair * N + c).read());
                for half in 0..2 {
                    sums[half][c] = S::dot_pairs(sums[half][c], minima[half], a);
                }
            }
        }
        let mut blocks = [[S::splat_f(0.0); N]; 2];
        for half in 0..2 {
            let dmin = S::load_f(w.dmin.add((2 * b + half) * LANES));
            for c in 0..N {
                blocks[half][c] = S::fnma(dmin, S::to_f(sums[half][c]), blocks[half][c]);
            }
        }
        blocks
    }
}
