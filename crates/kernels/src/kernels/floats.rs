//! Products with float weights: each result is two chains of fused multiply-adds, one over the even and one over the
//! odd columns, because a single one would wait for itself.

use super::direct::AHEAD;
use super::{FloatRows, Panels, Sums};
use crate::lanes::{LANES, Lanes};

/// Columns that share a scale in `F8E4M3` weights.
pub(crate) const F8_BLOCK: usize = 128;

/// A float format: 16 rows' values of a column become a vector.
pub(super) trait Values: 'static {
    /// Bytes of a value.
    const BYTES: usize;
    /// Whether each [`F8_BLOCK`] columns have a scale.
    const SCALED: bool;

    /// # Safety
    /// The processor has `S`'s instructions and `from` points to 16 values.
    unsafe fn load<S: Lanes>(from: *const u8) -> S::F;
}

macro_rules! values {
    ($name:ident, $bytes:literal, $scaled:literal, $from:ident => $load:expr) => {
        pub(super) struct $name;
        impl Values for $name {
            const BYTES: usize = $bytes;
            const SCALED: bool = $scaled;

            #[inline(always)]
            unsafe fn load<S: Lanes>($from: *const u8) -> S::F {
                // SAFETY: the caller's contract.
                unsafe { $load }
            }
        }
    };
}

values!(F32, 4, false, from => S::load_f(from.cast()));
values!(F16, 2, false, from => S::load_f16(from.cast()));
values!(F8, 1, true, from => S::load_f8(from));

/// The rows of `sums` for `N` columns, `P` panels at a time.
///
/// # Safety
/// The processor has `S`'s instructions; the panels hold `w.cols` columns of `V`, and `x` as many values in each of
/// `N` rows.
#[inline(always)]
pub(super) unsafe fn product<S: Lanes, V: Values, const P: usize, const N: usize>(
    w: Panels,
    x: FloatRows,
    sums: &mut Sums,
) {
    for first in (0..w.count).step_by(P) {
        // SAFETY: the caller's contract; where there are fewer panels, others stand in.
        unsafe { side_by_side::<S, V, P, N>(w, first, x, sums) };
    }
}

/// Panels `first..first + P` of [`product`].
#[inline(always)]
unsafe fn side_by_side<S: Lanes, V: Values, const P: usize, const N: usize>(
    w: Panels,
    first: usize,
    x: FloatRows,
    sums: &mut Sums,
) {
    let block = if V::SCALED { F8_BLOCK } else { w.cols };
    // SAFETY: the caller's contract; every pointer stays within its panel or row.
    unsafe {
        let mut totals = [[S::splat_f(0.0); N]; P];
        let mut from = 0;
        while from < w.cols {
            let to = w.cols.min(from + block);
            let (mut even, mut odd) = ([[S::splat_f(0.0); N]; P], [[S::splat_f(0.0); N]; P]);
            let pairs = (to - from) / 2;
            for pair in 0..pairs {
                let k = from + 2 * pair;
                for p in 0..P {
                    S::prefetch(w.start[first + p].wrapping_add(k * LANES * V::BYTES + AHEAD));
                }
                even = column::<S, V, P, N>(w, first, x, k, even);
                odd = column::<S, V, P, N>(w, first, x, k + 1, odd);
            }
            if from + 2 * pairs < to {
                even = column::<S, V, P, N>(w, first, x, to - 1, even);
            }
            let mut blocks = [[S::splat_f(0.0); N]; P];
            for p in 0..P {
                for c in 0..N {
                    blocks[p][c] = S::add(even[p][c], odd[p][c]);
                }
            }
            if !V::SCALED {
                totals = blocks;
                break;
            }
            for p in 0..P {
                let scale = S::splat_f(w.scales[first + p].add(from / block).read());
                for c in 0..N {
                    totals[p][c] = S::fma(scale, blocks[p][c], totals[p][c]);
                }
            }
            from = to;
        }
        for p in 0..P {
            for c in 0..N {
                S::store_f(sums[c].as_mut_ptr().add((first + p) * LANES), totals[p][c]);
            }
        }
    }
}

/// Adds the products with column `k` of the weights.
#[inline(always)]
unsafe fn column<S: Lanes, V: Values, const P: usize, const N: usize>(
    w: Panels,
    first: usize,
    x: FloatRows,
    k: usize,
    mut sums: [[S::F; N]; P],
) -> [[S::F; N]; P] {
    // SAFETY: the caller's contract.
    unsafe {
        for p in 0..P {
            let w = V::load::<S>(w.start[first + p].add(k * LANES * V::BYTES));
            for c in 0..N {
                sums[p][c] = S::fma(w, S::splat_f(x.x.add(c * x.cols + k).read()), sums[p][c]);
            }
        }
        sums
    }
}
