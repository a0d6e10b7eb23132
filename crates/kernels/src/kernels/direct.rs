//! Products with few columns: weights are unpacked in registers, used for each column and forgotten, so that
//! memory is read once, at the file's bits per weight.
//!
//! Several panels are multiplied side by side: the hardware's prefetchers follow several streams, and a single
//! one does not reach the bandwidth of a core. Callers let each stream go on where it ended.

use super::{Panels, Sums};
use crate::activations::Tile;
use crate::lanes::{LANES, Lanes, unrolled};
use crate::panel::formats::Format;

/// How far ahead of its use a stream's next cache line is asked for, in bytes.
pub(super) const AHEAD: usize = 1024;

/// `16 * P` rows of `sums`, for `N` columns.
///
/// # Safety
/// The processor has `S`'s instructions; the first `P` panels hold `panels.cols` columns of format `F`; `tile` has
/// `N` columns of as many values, grouped as the format wants.
#[inline(always)]
pub(super) unsafe fn product<S: Lanes, F: Format, const P: usize, const N: usize>(
    panels: Panels,
    tile: Tile,
    sums: &mut Sums,
) {
    // SAFETY: the caller's contract.
    let totals = unsafe {
        if F::SUPER {
            blocks_of_256::<S, F, P, N>(panels, tile)
        } else {
            blocks_of_32::<S, F, P, N>(panels, tile)
        }
    };
    for p in 0..P {
        for c in 0..N {
            // SAFETY: each element of `sums` has room for 16 floats a panel.
            unsafe { S::store_f(sums[c].as_mut_ptr().add(p * LANES), totals[p][c]) };
        }
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
    // SAFETY: `q` points to a chunk; what is asked for ahead may be at any address.
    unsafe {
        for line in 0..F::CHUNK_BYTES / 64 {
            S::prefetch(q.wrapping_add(AHEAD + 64 * line));
        }
        let w = F::unpack::<S>(q);
        if F::MIN { w } else { unrolled!(s => S::centre(w[s], F::ZERO)) }
    }
}

/// One scale and perhaps one offset per 32 columns:
/// `sum = (d * a_d) * Σ wa + sum`, then `sum = m * (a_d * Σ a) + sum`, block by block.
#[inline(always)]
unsafe fn blocks_of_32<S: Lanes, F: Format, const P: usize, const N: usize>(
    panels: Panels,
    tile: Tile,
) -> [[S::F; N]; P] {
    // SAFETY: the caller's contract; every pointer stays within its block of panel and tile.
    unsafe {
        let mut totals = [[S::splat_f(0.0); N]; P];
        let layout = panels.layout;
        for group in 0..layout.groups() {
            let group = layout.group(group);
            // All heads first, so that each stream is read in order.
            let (mut d, mut m) = ([[S::splat_f(0.0); 8]; P], [[S::splat_f(0.0); 8]; P]);
            for p in 0..P {
                for i in 0..group.count {
                    let head = panels.start[p].add(group.heads_at + i * F::HEAD_BYTES);
                    d[p][i] = F::scale::<S>(head, 0);
                    if F::MIN {
                        m[p][i] = F::dmin::<S>(head);
                    }
                }
            }
            for i in 0..group.count {
                let b = group.first + i;
                for p in 0..P {
                    let q = panels.start[p].add(group.quants_at + i * F::CHUNK_BYTES);
                    let w = unpack::<S, F>(q);
                    let (d, m) = (d[p][i], m[p][i]);
                    for c in 0..N {
                        let start = if F::MIN {
                            S::splat_i(0)
                        } else {
                            S::start(tile.start32.add(b * N + c), F::ZERO)
                        };
                        let sum = dot::<S, F, N>(start, &w, 0..8, tile.q.add(b * 8 * N + c));
                        let a_d = S::splat_f(tile.d.add(b * N + c).read());
                        totals[p][c] = S::fma(S::mul(d, a_d), S::to_f(sum), totals[p][c]);
                        if F::MIN {
                            let a_sum = S::splat_f(tile.d_sum.add(b * N + c).read());
                            totals[p][c] = S::fma(m, a_sum, totals[p][c]);
                        }
                    }
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
unsafe fn blocks_of_256<S: Lanes, F: Format, const P: usize, const N: usize>(
    panels: Panels,
    tile: Tile,
) -> [[S::F; N]; P] {
    // SAFETY: the caller's contract; every pointer stays within its block of panel and tile.
    unsafe {
        let mut totals = [[S::splat_f(0.0); N]; P];
        let layout = panels.layout;
        for b in 0..panels.cols / 256 {
            let group = layout.group(b);
            let mut scales = [[[S::splat_f(0.0); 8]; 2]; P];
            for p in 0..P {
                let head = panels.start[p].add(group.heads_at);
                scales[p][0] = unrolled!(g => F::scale::<S>(head, g));
                if F::SIXTEENS {
                    scales[p][1] = unrolled!(g => F::scale::<S>(head, g + 8));
                }
            }
            let mut blocks = [[S::splat_f(0.0); N]; P];
            for chunk in 0..8 {
                let at = b * 8 + chunk;
                for p in 0..P {
                    let w = unpack::<S, F>(panels.start[p].add(group.quants_at + chunk * F::CHUNK_BYTES));
                    for c in 0..N {
                        let sum = &mut blocks[p][c];
                        let a = tile.q.add(at * 8 * N + c);
                        if F::SIXTEENS {
                            let [first, second] = starts::<S, F, N>(tile.start16, at, c);
                            let first = dot::<S, F, N>(first, &w, 0..4, a);
                            let second = dot::<S, F, N>(second, &w, 4..8, a);
                            let scales = &scales[p][chunk / 4];
                            *sum = S::fma(scales[2 * (chunk % 4)], S::to_f(first), *sum);
                            *sum = S::fma(scales[2 * (chunk % 4) + 1], S::to_f(second), *sum);
                        } else {
                            let start = tile.start32.add(at * N + c);
                            let start = if F::MIN { S::splat_i(0) } else { S::start(start, F::ZERO) };
                            let dot = dot::<S, F, N>(start, &w, 0..8, a);
                            *sum = S::fma(scales[p][0][chunk], S::to_f(dot), *sum);
                        }
                    }
                }
            }
            for p in 0..P {
                let head = panels.start[p].add(group.heads_at);
                finish::<S, F, N>(head, tile, b, &blocks[p], &mut totals[p]);
            }
        }
        totals
    }
}

/// What the two groups of 16 in chunk `at` start with.
#[inline(always)]
unsafe fn starts<S: Lanes, F: Format, const N: usize>(start16: *const i32, at: usize, c: usize) -> [S::I; 2] {
    // SAFETY: the caller's contract.
    unsafe {
        if F::MIN {
            return [S::splat_i(0); 2];
        }
        let start = start16.add(2 * at * N + c);
        [S::start(start, F::ZERO), S::start(start.add(N), F::ZERO)]
    }
}

/// Adds a block of 256 columns to the totals.
#[inline(always)]
unsafe fn finish<S: Lanes, F: Format, const N: usize>(
    head: *const u8,
    tile: Tile,
    b: usize,
    blocks: &[S::F; N],
    totals: &mut [S::F; N],
) {
    // SAFETY: the caller's contract.
    unsafe {
        let (d, dmin) = (F::d::<S>(head), F::dmin::<S>(head));
        let (pairs, count) = if F::SIXTEENS { (tile.pairs16, 8) } else { (tile.pairs32, 4) };
        let minima = unrolled!(pair => F::min_pair::<S>(head, pair % count));
        for c in 0..N {
            let mut block = S::mul(d, blocks[c]);
            if F::MIN {
                let mut sum = S::splat_i(0);
                for pair in 0..count {
                    let a = S::splat_i(pairs.add((b * count + pair) * N + c).read());
                    sum = S::dot_pairs(sum, minima[pair], a);
                }
                block = S::fnma(dmin, S::to_f(sum), block);
            }
            let a_d = S::splat_f(tile.d.add(b * N + c).read());
            totals[c] = S::fma(a_d, block, totals[c]);
        }
    }
}
