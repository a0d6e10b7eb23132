//! Looking up codebooks without vector instructions for it, for the instruction sets that have none.

use super::{LANES, Lanes, unrolled};
use crate::codebook::{Octets, Quads, SIGNS};

#[inline(always)]
unsafe fn to_bytes<S: Lanes>(v: S::B) -> [u8; 64] {
    let mut bytes = [0; 64];
    // SAFETY: the array has room for a vector.
    unsafe { S::store_b(bytes.as_mut_ptr(), v) };
    bytes
}

/// See [`Lanes::fields`].
#[inline(always)]
pub(super) unsafe fn fields<S: Lanes, const STEP: u32>(v: S::I) -> S::B {
    let mask = (1 << STEP) - 1;
    // SAFETY: the caller has the instructions.
    unsafe {
        let first = S::and_i(v, S::splat_i(mask));
        let second = S::and_i(S::shl_i(v, 8 - STEP), S::splat_i(mask << 8));
        let third = S::and_i(S::shl_i(v, 16 - 2 * STEP), S::splat_i(mask << 16));
        let fourth = S::and_i(S::shl_i(v, 24 - 3 * STEP), S::splat_i(mask << 24));
        S::as_b(S::or_i(S::or_i(first, second), S::or_i(third, fourth)))
    }
}

/// See [`Lanes::even_signs`].
#[inline(always)]
pub(super) unsafe fn even_signs<S: Lanes>(seven: S::B) -> S::B {
    // SAFETY: the array has room for a vector.
    unsafe {
        let mut bytes = to_bytes::<S>(seven);
        for byte in &mut bytes {
            *byte = SIGNS[usize::from(*byte & 127)];
        }
        S::load_b(bytes.as_ptr())
    }
}

// These two hold no vectors, so that they need not be compiled anew within each kernel.

#[inline(never)]
fn octets_of_bytes<const N: usize>(
    grid: &Octets<N>,
    [index, part, signs]: &[[u8; 64]; 3],
) -> [[u32; LANES]; 8] {
    let mut vectors = [[0; LANES]; 8];
    for at in 0..64 {
        let (lane, k) = (at / 4, at % 4);
        let word = grid.entry(usize::from(part[at]), index[at], signs[at]);
        vectors[2 * k][lane] = word as u32;
        vectors[2 * k + 1][lane] = (word >> 32) as u32;
    }
    vectors
}

#[inline(never)]
fn quads_of_bytes<const N: usize>(
    grid: &Quads<N>,
    index: &[[u8; 64]; 2],
    part: &[[u8; 64]; 2],
    signs: &[u8; 64],
) -> [[u32; LANES]; 8] {
    let mut vectors = [[0; LANES]; 8];
    for at in 0..64 {
        let (lane, k) = (at / 4, at % 4);
        vectors[2 * k][lane] = grid.entry(usize::from(part[0][at]), index[0][at], signs[at]);
        vectors[2 * k + 1][lane] = grid.entry(usize::from(part[1][at]), index[1][at], signs[at] >> 4);
    }
    vectors
}

/// See [`Lanes::octets`].
#[inline(always)]
pub(super) unsafe fn octets<S: Lanes, const N: usize>(
    grid: &Octets<N>,
    index: S::B,
    part: S::B,
    signs: S::B,
) -> [S::B; 8] {
    // SAFETY: the arrays have room for a vector.
    unsafe {
        let vectors =
            octets_of_bytes(grid, &[to_bytes::<S>(index), to_bytes::<S>(part), to_bytes::<S>(signs)]);
        unrolled!(s => S::load_b(vectors[s].as_ptr().cast()))
    }
}

/// See [`Lanes::quads`].
#[inline(always)]
pub(super) unsafe fn quads<S: Lanes, const N: usize>(
    grid: &Quads<N>,
    index: [S::B; 2],
    part: [S::B; 2],
    signs: S::B,
) -> [S::B; 8] {
    // SAFETY: the arrays have room for a vector.
    unsafe {
        let index = [to_bytes::<S>(index[0]), to_bytes::<S>(index[1])];
        let part = [to_bytes::<S>(part[0]), to_bytes::<S>(part[1])];
        let vectors = quads_of_bytes(grid, &index, &part, &to_bytes::<S>(signs));
        unrolled!(s => S::load_b(vectors[s].as_ptr().cast()))
    }
}
