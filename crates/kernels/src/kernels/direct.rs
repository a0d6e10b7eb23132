//! Products with few columns: weights are unpacked in registers, used for each column and forgotten, so that
//! memory is read once, at the file's bits per weight.

use super::{Panel, Sums};
use crate::activations::Tile;
use crate::lanes::{Lanes, unrolled};
use crate::panel::CHUNK;
use crate::panel::formats::Format;

/// How far ahead weights are asked for, in bytes: the hardware's own prefetching stops at page boundaries.
const AHEAD: usize = 4096;

/// The first 16 rows of `sums`, for `N` columns.
///
/// # Safety
/// The processor has `S`'s instructions; `panel` holds `panel.cols` columns of format `F`; `tile` has `N`
/// columns of as many values, grouped as the format wants.
#[inline(always)]
pub(super) unsafe fn product<S: Lanes, F: Format, const N: usize>(panel: Panel, tile: Tile, sums: &mut Sums) {
    // SAFETY: the caller's contract.
    let totals = unsafe {
        if F::SUPER { blocks_of_256::<S, F, N>(panel, tile) } else { blocks_of_32::<S, F, N>(panel, tile) }
    };
    for c in 0..N {
        // SAFETY: each element of `sums` has room for 32 floats.
        unsafe { S::store_f(sums[c].as_mut_ptr(), totals[c]) };
    }
}

#[inline(always)]
unsafe fn prefetch<S: Lanes>(from: *const u8, bytes: usize) {
    let mut at = 0;
    while at < bytes {
        // SAFETY: prefetching is harmless at any address.
        unsafe { S::prefetch(from.wrapping_add(AHEAD + at)) };
        at += 64;
    }
}

/// Adds the products of vectors `FROM..TO` of a chunk to `sum`.
#[inline(always)]
unsafe fn dot<S: Lanes, F: Format, const N: usize>(
    mut sum: S::I,
    w: &[S::B; 8],
    range: std::ops::Range<usize>,
    q: *const i32,
) -> S::I {
    for s in range {
        // SAFETY: `q` points to the chunk's activations of this column, `N` words apart.
        unsafe {
            let a = S::splat_i(q.add(s * N).read());
            sum = if F::MIN { S::dot_unsigned(sum, w[s], a) } else { S::dot_signed(sum, w[s], a) };
        }
    }
    sum
}

#[inline(always)]
unsafe fn unpack<S: Lanes, F: Format>(q: *const u8) -> [S::B; 8] {
    // SAFETY: `q` points to a chunk.
    unsafe {
        let w = F::unpack::<S>(q);
        if F::MIN { w } else { unrolled!(s => S::centre(w[s], F::ZERO)) }
    }
}

/// One scale and perhaps one offset per 32 columns:
/// `sum = (d * a_d) * Σ wa + sum`, then `sum = m * (a_d * Σ a) + sum`, block by block.
#[inline(always)]
unsafe fn blocks_of_32<S: Lanes, F: Format, const N: usize>(panel: Panel, tile: Tile) -> [S::F; N] {
    // SAFETY: the caller's contract; every pointer stays within its block of panel and tile.
    unsafe {
        let mut totals = [S::splat_f(0.0); N];
        let quants = panel.start.add(panel.layout.quants_at);
        for b in 0..panel.cols / CHUNK {
            let q = quants.add(b * panel.layout.quant_bytes);
            let head = panel.start.add(b * panel.layout.head_bytes);
            prefetch::<S>(q, panel.layout.quant_bytes);
            let w = unpack::<S, F>(q);
            let (d, m) = (F::scale::<S>(head, 0), F::dmin::<S>(head));
            for c in 0..N {
                let start =
                    if F::MIN { S::splat_i(0) } else { S::start(tile.start32.add(b * N + c), F::ZERO) };
                let sum = dot::<S, F, N>(start, &w, 0..8, tile.q.add(b * 8 * N + c));
                let a_d = S::splat_f(tile.d.add(b * N + c).read());
                totals[c] = S::fma(S::mul(d, a_d), S::to_f(sum), totals[c]);
                if F::MIN {
                    let a_sum = S::splat_f(tile.d_sum.add(b * N + c).read());
                    totals[c] = S::fma(m, a_sum, totals[c]);
                }
            }
        }
        totals
    }
}

/// Integer scales per 16 or 32 columns under one per 256. For each block, starting at zero:
/// `block = scale * Σ wa + block`, group by group; `block = d * block`; where there are minima,
/// `block = block - dmin * Σ min Σ a`; `sum = a_d * block + sum`.
#[inline(always)]
unsafe fn blocks_of_256<S: Lanes, F: Format, const N: usize>(panel: Panel, tile: Tile) -> [S::F; N] {
    // SAFETY: the caller's contract; every pointer stays within its block of panel and tile.
    unsafe {
        let mut totals = [S::splat_f(0.0); N];
        let quants = panel.start.add(panel.layout.quants_at);
        for b in 0..panel.cols / 256 {
            let head = panel.start.add(b * panel.layout.head_bytes);
            prefetch::<S>(head, panel.layout.head_bytes);
            let scales = [unrolled!(g => F::scale::<S>(head, g)), {
                if F::SIXTEENS { unrolled!(g => F::scale::<S>(head, g + 8)) } else { [S::splat_f(0.0); 8] }
            }];
            let mut blocks = [S::splat_f(0.0); N];
            for chunk in 0..8 {
                let q = quants.add((b * 8 + chunk) * panel.layout.quant_bytes);
                prefetch::<S>(q, panel.layout.quant_bytes);
                let w = unpack::<S, F>(q);
                for c in 0..N {
                    let a = tile.q.add((b * 8 + chunk) * 8 * N + c);
                    let zero = S::splat_i(0);
                    if F::SIXTEENS {
                        let start = tile.start16.wrapping_add((b * 8 + chunk) * 2 * N + c);
                        let first = if F::MIN { zero } else { S::start(start, F::ZERO) };
                        let second = if F::MIN { zero } else { S::start(start.wrapping_add(N), F::ZERO) };
                        let first = dot::<S, F, N>(first, &w, 0..4, a);
                        let second = dot::<S, F, N>(second, &w, 4..8, a);
                        let g = 2 * chunk;
                        blocks[c] = S::fma(scales[g / 8][g % 8], S::to_f(first), blocks[c]);
                        blocks[c] = S::fma(scales[g / 8][g % 8 + 1], S::to_f(second), blocks[c]);
                    } else {
                        let start = tile.start32.add((b * 8 + chunk) * N + c);
                        let start = if F::MIN { zero } else { S::start(start, F::ZERO) };
                        let sum = dot::<S, F, N>(start, &w, 0..8, a);
                        blocks[c] = S::fma(scales[0][chunk], S::to_f(sum), blocks[c]);
                    }
                }
            }
            let (d, dmin) = (F::d::<S>(head), F::dmin::<S>(head));
            let minima = unrolled!(p => F::min_pair::<S>(head, if F::SIXTEENS { p } else { p % 4 }));
            for c in 0..N {
                let mut block = S::mul(d, blocks[c]);
                if F::MIN {
                    let mut sum = S::splat_i(0);
                    let (pairs, count) = if F::SIXTEENS { (tile.pairs16, 8) } else { (tile.pairs32, 4) };
                    for (p, min) in minima.iter().enumerate().take(count) {
                        let a = S::splat_i(pairs.add((b * count + p) * N + c).read());
                        sum = S::dot_pairs(sum, *min, a);
                    }
                    block = S::fnma(dmin, S::to_f(sum), block);
                }
                let a_d = S::splat_f(tile.d.add(b * N + c).read());
                totals[c] = S::fma(a_d, block, totals[c]);
            }
        }
        totals
    }
}
