//! Products with few columns: weights are unpacked in registers, used for each column and forgotten, so that
//! memory is read once, at the file's bits per weight.
//!
//! One panel is read from its start to its end before the next: a thread that reads several at once gets a third less
//! out of memory on a Zen 5, whose prefetchers lose track of them.

use std::hint::black_box;

use super::{Panels, Sums};
use crate::activations::Tile;
use crate::lanes::{LANES, Lanes, unrolled};
use crate::panel::Layout;
use crate::panel::formats::Format;

/// How far ahead of its use a cache line is asked for, in bytes.
pub(crate) const AHEAD: usize = 4096;

/// The rows of `sums` for `N` columns, panel by panel.
///
/// # Safety
/// The processor has `S`'s instructions; the panels hold `panels.cols` columns of format `F`; `tile` has `N` columns
/// of as many values, grouped as the format wants.
#[inline(always)]
pub(super) unsafe fn product<S: Lanes, F: Format, const N: usize>(
    panels: Panels,
    tile: Tile,
    sums: &mut Sums,
) {
    for p in 0..panels.count {
        // SAFETY: the caller's contract.
        unsafe { one_panel::<S, F, N>(panels.start[p], panels.layout, tile, sums, p) };
    }
}

/// Panel `p` of [`product`].
#[inline(always)]
unsafe fn one_panel<S: Lanes, F: Format, const N: usize>(
    panel: *const u8,
    layout: Layout,
    tile: Tile,
    sums: &mut Sums,
    p: usize,
) {
    // SAFETY: the caller's contract; every pointer stays within its panel, tile and row of sums.
    unsafe {
        let mut totals = [S::splat_f(0.0); N];
        // Eight, which is hidden so that the loop over chunks stays one: written out, the compiler loads from several
        // chunks in turn and not in their order, prefetchers lose track, and a third of the bandwidth is lost.
        let chunks = black_box(8);
        for index in 0..layout.groups() {
            let group = layout.group(index);
            let (heads, quants) = (panel.add(group.heads_at), panel.add(group.quants_at));
            for line in 0..(group.count * F::HEAD_BYTES).div_ceil(64) {
                S::prefetch(heads.wrapping_add(AHEAD + 64 * line));
            }
            if F::SUPER {
                totals = block_of_256::<S, F, N>(heads, quants, tile, group.first, chunks, totals);
                continue;
            }
            for i in 0..group.count {
                let (head, q) = (heads.add(i * F::HEAD_BYTES), quants.add(i * F::CHUNK_BYTES));
                totals = block_of_32::<S, F, N>(head, q, tile, group.first + i, totals);
            }
        }
        for c in 0..N {
            S::store_f(sums[c].as_mut_ptr().add(p * LANES), totals[c]);
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
        for line in 0..F::CHUNK_BYTES.div_ceil(64) {
            S::prefetch(q.wrapping_add(AHEAD + 64 * line));
        }
        let w = F::unpack::<S>(q);
        if F::MIN { w } else { unrolled!(s => S::centre(w[s], F::ZERO)) }
    }
}

/// Block `b`, with one scale and perhaps one offset per 32 columns:
/// `sum = (d * a_d) * Σ wa + sum`, then `sum = m * (a_d * Σ a) + sum`.
#[inline(always)]
unsafe fn block_of_32<S: Lanes, F: Format, const N: usize>(
    head: *const u8,
    q: *const u8,
    tile: Tile,
    b: usize,
    mut totals: [S::F; N],
) -> [S::F; N] {
    // SAFETY: the caller's contract; every pointer stays within its block of panel and tile.
    unsafe {
        let d = F::scale::<S>(head, 0);
        let w = unpack::<S, F>(q);
        for c in 0..N {
            let start = if F::MIN { S::splat_i(0) } else { S::start(tile.start32.add(b * N + c), F::ZERO) };
            let sum = dot::<S, F, N>(start, &w, 0..8, tile.q.add(b * 8 * N + c));
            let a_d = S::splat_f(tile.d.add(b * N + c).read());
            totals[c] = S::fma(S::mul(d, a_d), S::to_f(sum), totals[c]);
        }
        if F::MIN {
            let m = F::dmin::<S>(head);
            for c in 0..N {
                let a_sum = S::splat_f(tile.d_sum.add(b * N + c).read());
                totals[c] = S::fma(m, a_sum, totals[c]);
            }
        }
        totals
    }
}

/// Block `b` of eight `chunks`, with integer scales per 16 or 32 columns under one per 256. Starting at zero, or where
/// there are minima at `block = 0 - dmin * Σ min Σ a`: `block = (d * scale) * Σ wa + block`, group by group, and
/// `sum = a_d * block + sum`. Scales are products of a half and a small integer, so no bit of them is lost.
#[inline(always)]
unsafe fn block_of_256<S: Lanes, F: Format, const N: usize>(
    head: *const u8,
    quants: *const u8,
    tile: Tile,
    b: usize,
    chunks: usize,
    mut totals: [S::F; N],
) -> [S::F; N] {
    // SAFETY: the caller's contract; every pointer stays within its block of panel and tile.
    unsafe {
        let mut blocks = [S::splat_f(0.0); N];
        if F::MIN {
            blocks = minima::<S, F, N>(head, tile, b);
        }
        let d = F::d::<S>(head);
        let mut scales = [unrolled!(g => S::mul(d, F::scale::<S>(head, g))); 2];
        if F::SIXTEENS {
            scales[1] = unrolled!(g => S::mul(d, F::scale::<S>(head, g + 8)));
        }
        let scale = |g: usize| scales.as_flattened().as_ptr().add(g).read();
        for chunk in 0..chunks {
            let scales =
                if F::SIXTEENS { [scale(2 * chunk), scale(2 * chunk + 1)] } else { [scale(chunk); 2] };
            let q = quants.add(chunk * F::CHUNK_BYTES);
            blocks = one_chunk::<S, F, N>(q, scales, tile, b * 8 + chunk, blocks);
        }
        for c in 0..N {
            let a_d = S::splat_f(tile.d.add(b * N + c).read());
            totals[c] = S::fma(a_d, blocks[c], totals[c]);
        }
        totals
    }
}

/// What minima take from block `b`: where its sums begin.
#[inline(always)]
unsafe fn minima<S: Lanes, F: Format, const N: usize>(head: *const u8, tile: Tile, b: usize) -> [S::F; N] {
    // SAFETY: the caller's contract.
    unsafe {
        let (pairs, count) = if F::SIXTEENS { (tile.pairs16, 8) } else { (tile.pairs32, 4) };
        let mut sums = [S::splat_i(0); N];
        let _: [(); 8] = unrolled!(pair => {
            if pair < count {
                let minima = F::min_pair::<S>(head, pair);
                for c in 0..N {
                    let a = S::splat_i(pairs.add((b * count + pair) * N + c).read());
                    sums[c] = S::dot_pairs(sums[c], minima, a);
                }
            }
        });
        let dmin = F::dmin::<S>(head);
        let mut blocks = [S::splat_f(0.0); N];
        for c in 0..N {
            blocks[c] = S::fnma(dmin, S::to_f(sums[c]), blocks[c]);
        }
        blocks
    }
}

/// Adds a chunk of a block of 256 columns: `at` counts chunks from the start of the row.
#[inline(always)]
unsafe fn one_chunk<S: Lanes, F: Format, const N: usize>(
    q: *const u8,
    scales: [S::F; 2],
    tile: Tile,
    at: usize,
    mut blocks: [S::F; N],
) -> [S::F; N] {
    // SAFETY: the caller's contract; every pointer stays within its block of panel and tile.
    unsafe {
        let w = unpack::<S, F>(q);
        for c in 0..N {
            let a = tile.q.add(at * 8 * N + c);
            if F::SIXTEENS {
                let [first, second] = starts::<S, F, N>(tile.start16, at, c);
                let first = dot::<S, F, N>(first, &w, 0..4, a);
                let second = dot::<S, F, N>(second, &w, 4..8, a);
                blocks[c] = S::fma(scales[0], S::to_f(first), blocks[c]);
                blocks[c] = S::fma(scales[1], S::to_f(second), blocks[c]);
            } else {
                let start = tile.start32.add(at * N + c);
                let start = if F::MIN { S::splat_i(0) } else { S::start(start, F::ZERO) };
                let dot = dot::<S, F, N>(start, &w, 0..8, a);
                blocks[c] = S::fma(scales[0], S::to_f(dot), blocks[c]);
            }
        }
        blocks
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
