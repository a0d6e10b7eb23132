//! Products with few columns: weights are unpacked in registers, used for each column and forgotten, so that
//! memory is read once, at the file's bits per weight.
//!
//! Whether one panel is read from its start to its end before the next, or several take turns, is a choice (see
//! [`crate::prefetch`]): a Zen 5 loses a third of its bandwidth with several, whose streams its prefetchers lose track
//! of; with one, Intel's servers do, whose prefetchers stop at each page.

use std::hint::black_box;
use std::mem::MaybeUninit;

use super::{PANELS_MAX, Panels, Sums};
use crate::activations::Tile;
use crate::lanes::{LANES, Lanes, NTA, NTA_AHEAD, unrolled};
use crate::panel::formats::Format;

/// The rows of `sums` for `N` columns, panel by panel.
///
/// # Safety
/// The processor has `S`'s instructions; the panels hold `panels.cols` columns of format `F`; `tile` has `N` columns
/// of as many values, grouped as the format wants.
#[inline(always)]
pub(super) unsafe fn product<S: Lanes, F: Format, const N: usize, const HINT: u8>(
    panels: Panels,
    tile: Tile,
    sums: &mut Sums,
) {
    for p in 0..panels.count {
        // SAFETY: the caller's contract.
        unsafe { one_panel::<S, F, N, HINT>(&panels, p, tile, sums) };
    }
}

/// How far ahead of its use a cache line is asked for: with the non-temporal hint a constant, so that it is part of the
/// instruction.
#[inline(always)]
pub(super) fn ahead_of<const HINT: u8>(panels: &Panels) -> usize {
    if HINT == NTA { NTA_AHEAD } else { panels.ahead }
}

/// Panel `p` of [`product`].
#[inline(always)]
unsafe fn one_panel<S: Lanes, F: Format, const N: usize, const HINT: u8>(
    panels: &Panels,
    p: usize,
    tile: Tile,
    sums: &mut Sums,
) {
    // SAFETY: the caller's contract; every pointer stays within its panel, tile and row of sums.
    unsafe {
        let (panel, layout, ahead) = (panels.start[p], panels.layout, ahead_of::<HINT>(panels));
        let mut totals = [S::splat_f(0.0); N];
        // Eight, which is hidden so that the loop over chunks stays one: written out, the compiler loads from several
        // chunks in turn and not in their order, prefetchers lose track, and a third of the bandwidth is lost.
        let chunks = black_box(8);
        for index in 0..layout.groups() {
            let group = layout.group(index);
            let (heads, quants) = (panel.add(group.heads_at), panel.add(group.quants_at));
            for line in 0..(group.count * F::HEAD_BYTES).div_ceil(64) {
                S::prefetch::<HINT>(heads.wrapping_add(ahead + 64 * line));
            }
            if F::SUPER {
                totals =
                    block_of_256::<S, F, N, HINT>(heads, quants, ahead, tile, group.first, chunks, totals);
                continue;
            }
            for i in 0..group.count {
                let (head, q) = (heads.add(i * F::HEAD_BYTES), quants.add(i * F::CHUNK_BYTES));
                totals = block_of_32::<S, F, N, HINT>(head, q, ahead, tile, group.first + i, totals);
            }
        }
        for c in 0..N {
            S::store_f(sums[c].as_mut_ptr().add(p * LANES), totals[c]);
        }
    }
}

/// As [`product`], chunk by chunk of all panels in turn, so that as many streams are read side by side. The operations of
/// each row are the same in the same order. Scales and sums live on the stack, which costs nothing that can be measured.
///
/// # Safety
/// As for [`product`].
#[inline(always)]
pub(super) unsafe fn in_turn<S: Lanes, F: Format, const N: usize, const HINT: u8>(
    panels: Panels,
    tile: Tile,
    sums: &mut Sums,
) {
    // SAFETY: the caller's contract; every pointer stays within its panel, tile and row of sums.
    unsafe {
        let (count, layout) = (panels.count.min(PANELS_MAX), panels.layout);
        let mut totals = [[S::splat_f(0.0); N]; PANELS_MAX];
        let mut blocks = totals;
        let mut scales = [const { MaybeUninit::<[[S::F; 8]; 2]>::uninit() }; PANELS_MAX];
        // As above.
        let chunks = black_box(8);
        for index in 0..layout.groups() {
            let group = layout.group(index);
            let ahead = panels.ahead_in_turn(group.heads_at);
            for p in 0..count {
                let heads = panels.start[p].add(group.heads_at);
                for line in 0..(group.count * F::HEAD_BYTES).div_ceil(64) {
                    S::prefetch::<HINT>(heads.wrapping_add(ahead + 64 * line));
                }
                if F::SUPER {
                    blocks[p] = block_start::<S, F, N>(heads, tile, group.first);
                    scales[p].write(block_scales::<S, F>(heads));
                }
            }
            if F::SUPER {
                for chunk in 0..chunks {
                    let at = group.quants_at + chunk * F::CHUNK_BYTES;
                    let ahead = panels.ahead_in_turn(at);
                    for p in 0..count {
                        // Written above.
                        let scales = chunk_scales::<S, F>(scales[p].as_ptr().cast(), chunk);
                        let q = panels.start[p].add(at);
                        let at = group.first * 8 + chunk;
                        blocks[p] = one_chunk::<S, F, N, HINT>(q, ahead, scales, tile, at, blocks[p]);
                    }
                }
                for p in 0..count {
                    totals[p] = block_end::<S, N>(tile, group.first, blocks[p], totals[p]);
                }
                continue;
            }
            for i in 0..group.count {
                let at = group.quants_at + i * F::CHUNK_BYTES;
                let ahead = panels.ahead_in_turn(at);
                for p in 0..count {
                    let head = panels.start[p].add(group.heads_at + i * F::HEAD_BYTES);
                    let q = panels.start[p].add(at);
                    totals[p] =
                        block_of_32::<S, F, N, HINT>(head, q, ahead, tile, group.first + i, totals[p]);
                }
            }
        }
        for p in 0..count {
            for c in 0..N {
                S::store_f(sums[c].as_mut_ptr().add(p * LANES), totals[p][c]);
            }
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
unsafe fn unpack<S: Lanes, F: Format, const HINT: u8>(q: *const u8, ahead: usize) -> [S::B; 8] {
    // SAFETY: `q` points to a chunk; what is asked for ahead may be at any address.
    unsafe {
        for line in 0..F::CHUNK_BYTES.div_ceil(64) {
            S::prefetch::<HINT>(q.wrapping_add(ahead + 64 * line));
        }
        let w = F::unpack::<S>(q);
        if F::MIN { w } else { unrolled!(s => S::centre(w[s], F::ZERO)) }
    }
}

/// Block `b`, with one scale and perhaps one offset per 32 columns:
/// `sum = (d * a_d) * Σ wa + sum`, then `sum = m * (a_d * Σ a) + sum`.
#[inline(always)]
unsafe fn block_of_32<S: Lanes, F: Format, const N: usize, const HINT: u8>(
    head: *const u8,
    q: *const u8,
    ahead: usize,
    tile: Tile,
    b: usize,
    mut totals: [S::F; N],
) -> [S::F; N] {
    // SAFETY: the caller's contract; every pointer stays within its block of panel and tile.
    unsafe {
        let d = F::scale::<S>(head, 0);
        let w = unpack::<S, F, HINT>(q, ahead);
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
unsafe fn block_of_256<S: Lanes, F: Format, const N: usize, const HINT: u8>(
    head: *const u8,
    quants: *const u8,
    ahead: usize,
    tile: Tile,
    b: usize,
    chunks: usize,
    totals: [S::F; N],
) -> [S::F; N] {
    // SAFETY: the caller's contract; every pointer stays within its block of panel and tile.
    unsafe {
        let mut blocks = block_start::<S, F, N>(head, tile, b);
        let scales = block_scales::<S, F>(head);
        for chunk in 0..chunks {
            let scales = chunk_scales::<S, F>(scales.as_flattened().as_ptr(), chunk);
            let q = quants.add(chunk * F::CHUNK_BYTES);
            blocks = one_chunk::<S, F, N, HINT>(q, ahead, scales, tile, b * 8 + chunk, blocks);
        }
        block_end::<S, N>(tile, b, blocks, totals)
    }
}

/// Where the sums of block `b` begin.
#[inline(always)]
unsafe fn block_start<S: Lanes, F: Format, const N: usize>(
    head: *const u8,
    tile: Tile,
    b: usize,
) -> [S::F; N] {
    // SAFETY: the caller's contract.
    unsafe { if F::MIN { minima::<S, F, N>(head, tile, b) } else { [S::splat_f(0.0); N] } }
}

/// The scales of a block's groups.
#[inline(always)]
unsafe fn block_scales<S: Lanes, F: Format>(head: *const u8) -> [[S::F; 8]; 2] {
    // SAFETY: the caller's contract.
    unsafe {
        let d = F::d::<S>(head);
        let mut scales = [unrolled!(g => S::mul(d, F::scale::<S>(head, g))); 2];
        if F::SIXTEENS {
            scales[1] = unrolled!(g => S::mul(d, F::scale::<S>(head, g + 8)));
        }
        scales
    }
}

/// Those of a chunk, of which `scales` has all of the block's.
#[inline(always)]
unsafe fn chunk_scales<S: Lanes, F: Format>(scales: *const S::F, chunk: usize) -> [S::F; 2] {
    // SAFETY: the caller's contract.
    unsafe {
        if F::SIXTEENS {
            [scales.add(2 * chunk).read(), scales.add(2 * chunk + 1).read()]
        } else {
            [scales.add(chunk).read(); 2]
        }
    }
}

/// Adds the sums of block `b` to the totals.
#[inline(always)]
unsafe fn block_end<S: Lanes, const N: usize>(
    tile: Tile,
    b: usize,
    blocks: [S::F; N],
    mut totals: [S::F; N],
) -> [S::F; N] {
    for c in 0..N {
        // SAFETY: the caller's contract.
        unsafe {
            let a_d = S::splat_f(tile.d.add(b * N + c).read());
            totals[c] = S::fma(a_d, blocks[c], totals[c]);
        }
    }
    totals
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
unsafe fn one_chunk<S: Lanes, F: Format, const N: usize, const HINT: u8>(
    q: *const u8,
    ahead: usize,
    scales: [S::F; 2],
    tile: Tile,
    at: usize,
    mut blocks: [S::F; N],
) -> [S::F; N] {
    // SAFETY: the caller's contract; every pointer stays within its block of panel and tile.
    unsafe {
        let w = unpack::<S, F, HINT>(q, ahead);
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
