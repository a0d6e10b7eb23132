//! Products with BF16 weights, and activations rounded to BF16: a pair of columns at a time, the odd one first, each
//! multiplied and added with one rounding, as AVX-512's `vdpbf16ps` does. A product of two BF16 has no more digits than
//! f32 holds, so fused multiply-adds of f32 give the same bits, but for numbers below 2^-126, which count as nothing
//! there.
//!
//! Each stretch of columns is summed in two chains, over the even and the odd pairs, because a single one would wait
//! for itself.

use std::ops::Range;

use super::direct::AHEAD;
use super::tile::Unpacked;
use super::{Panels, Sums};
use crate::activations::Tile;
use crate::lanes::{LANES, Lanes};

/// Columns of weights that are multiplied together: 32 KiB of 32 rows, which with a tile of activations and its sums fit
/// into a first-level cache of 48 KiB. A whole number of groups.
pub(crate) const PAIRS_STRETCH: usize = 512;

/// How pairs are multiplied.
pub(super) trait PairDot<S: Lanes> {
    /// Adds to each lane the products of its two BF16 of both.
    ///
    /// # Safety
    /// The processor has the instructions.
    unsafe fn dot(sum: S::F, w: S::I, x: S::I) -> S::F;
}

/// With fused multiply-adds of f32.
pub(super) struct Fused;

impl<S: Lanes> PairDot<S> for Fused {
    #[inline(always)]
    unsafe fn dot(sum: S::F, w: S::I, x: S::I) -> S::F {
        // SAFETY: the caller's contract.
        unsafe {
            let odd = S::splat_i(0xffff_0000_u32.cast_signed());
            let sum = S::fma(S::as_f(S::and_i(w, odd)), S::as_f(S::and_i(x, odd)), sum);
            S::fma(S::as_f(S::shl_i(w, 16)), S::as_f(S::shl_i(x, 16)), sum)
        }
    }
}

/// With the instruction for it.
#[cfg(target_arch = "x86_64")]
pub(super) struct Bf16Dot;

#[cfg(target_arch = "x86_64")]
impl PairDot<crate::lanes::Avx512> for Bf16Dot {
    #[inline(always)]
    unsafe fn dot(
        sum: std::arch::x86_64::__m512,
        w: std::arch::x86_64::__m512i,
        x: std::arch::x86_64::__m512i,
    ) -> std::arch::x86_64::__m512 {
        use std::arch::x86_64::{__m512bh, __m512i, _mm512_dpbf16_ps};
        // SAFETY: the caller's contract; both are 64 bytes in which each bit pattern is a value.
        unsafe {
            let pairs = |v: __m512i| std::mem::transmute::<__m512i, __m512bh>(v);
            _mm512_dpbf16_ps(sum, pairs(w), pairs(x))
        }
    }
}

/// `count` pairs of `P` panels, whose pairs are `stride` bytes apart, for `N` columns.
///
/// # Safety
/// The processor has `S`'s and `D`'s instructions; `w` points to the first pair of each panel, `x` to a tile of `N`
/// columns of as many pairs.
#[inline(always)]
unsafe fn chains<S: Lanes, D: PairDot<S>, const P: usize, const N: usize, const FETCH: bool>(
    w: [*const u8; P],
    stride: usize,
    x: *const i32,
    count: usize,
) -> [[S::F; N]; P] {
    // SAFETY: the caller's contract; what is asked for ahead may be at any address.
    unsafe {
        let mut even = [[S::splat_f(0.0); N]; P];
        let mut odd = even;
        for pair in (0..count / 2 * 2).step_by(2) {
            for (chain, sums) in [(0, &mut even), (1, &mut odd)] {
                let at = pair + chain;
                for p in 0..P {
                    let from = w[p].add(at * stride);
                    if FETCH {
                        S::prefetch(from.wrapping_add(AHEAD));
                    }
                    let weights = S::load_i(from.cast());
                    for c in 0..N {
                        sums[p][c] = D::dot(sums[p][c], weights, S::splat_i(x.add(at * N + c).read()));
                    }
                }
            }
        }
        if count % 2 == 1 {
            for p in 0..P {
                let weights = S::load_i(w[p].add((count - 1) * stride).cast());
                for c in 0..N {
                    even[p][c] = D::dot(even[p][c], weights, S::splat_i(x.add((count - 1) * N + c).read()));
                }
            }
        }
        for p in 0..P {
            for c in 0..N {
                even[p][c] = S::add(even[p][c], odd[p][c]);
            }
        }
        even
    }
}

/// The rows of `sums` for `N` columns, panel by panel.
///
/// # Safety
/// As for [`super::direct::product`], with panels of pairs and a tile of them.
#[inline(always)]
pub(super) unsafe fn direct<S: Lanes, D: PairDot<S>, const N: usize>(
    panels: Panels,
    tile: Tile,
    sums: &mut Sums,
) {
    let pairs = panels.cols.div_ceil(2);
    for p in 0..panels.count {
        // SAFETY: the caller's contract.
        unsafe {
            let mut totals = [S::splat_f(0.0); N];
            for first in (0..pairs).step_by(PAIRS_STRETCH / 2) {
                let count = (pairs - first).min(PAIRS_STRETCH / 2);
                let w = [panels.start[p].add(first * 4 * LANES)];
                let [part] = chains::<S, D, 1, N, true>(w, 4 * LANES, tile.q.add(first * N), count);
                for c in 0..N {
                    totals[c] = S::add(totals[c], part[c]);
                }
            }
            for c in 0..N {
                S::store_f(sums[c].as_mut_ptr().add(p * LANES), totals[c]);
            }
        }
    }
}

/// Puts the pairs of two panels beside each other.
///
/// # Safety
/// As for [`super::tile::unpack`], with panels of pairs.
#[inline(always)]
pub(super) unsafe fn unpack<S: Lanes>(panels: Panels, range: Range<usize>, to: Unpacked) {
    // SAFETY: the caller's contract; every pointer stays within its panel and the stretch.
    unsafe {
        let first = panels.layout.group(range.start).first;
        for half in 0..2 {
            for group in range.clone() {
                let group = panels.layout.group(group);
                for i in 0..group.count {
                    let from = panels.start[half].add((group.first + i) * 4 * LANES);
                    S::prefetch(from.wrapping_add(AHEAD));
                    let at = (group.first - first + i) * 2 + half;
                    S::store_b(to.w.add(at * 4 * LANES), S::load_b(from));
                }
            }
        }
    }
}

/// Adds a stretch to `totals`, `[N][32]`, or starts them where it is the first, as [`direct`] does.
///
/// # Safety
/// As for [`super::tile::product`], with pairs.
#[inline(always)]
pub(super) unsafe fn product<S: Lanes, D: PairDot<S>, const N: usize>(
    w: Unpacked,
    cols: usize,
    a: Tile,
    totals: *mut f32,
    first: bool,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let start = [w.w.cast_const(), w.w.add(4 * LANES).cast_const()];
        let parts = chains::<S, D, 2, N, false>(start, 8 * LANES, a.q, cols.div_ceil(2));
        for c in 0..N {
            for half in 0..2 {
                let total = totals.add((2 * c + half) * LANES);
                let before = if first { S::splat_f(0.0) } else { S::load_f(total) };
                S::store_f(total, S::add(before, parts[half][c]));
            }
        }
    }
}
