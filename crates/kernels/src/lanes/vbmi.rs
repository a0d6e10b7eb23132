//! Looking up codebooks with byte permutations (AVX-512 VBMI).
//!
//! An index gives the packed codes of an entry, from tables that fit into registers; a multishift spreads the codes
//! over the bytes of their lane, and those with their signs give values by a permutation of a small table.

use std::arch::x86_64::*;

use super::unrolled;
use crate::codebook::{Octets, Quads, SIGNS};

/// For each byte of a vector, where the 8 bits that it is to hold begin in its group of two lanes: `at` for byte 0 of
/// each lane, and `step` more for each further byte.
const fn shifts(at: usize, step: usize) -> [u8; 64] {
    let mut shifts = [0; 64];
    let mut i = 0;
    while i < 64 {
        shifts[i] = ((at + step * (i % 4) + 32 * (i / 4 % 2)) % 64) as u8;
        i += 1;
    }
    shifts
}

/// [`shifts`] for each of the eight vectors of a chunk: vectors `2k` and `2k + 1` begin at `at + 8k`, the latter
/// `odd` bits farther.
const fn shifts_of_chunk(at: usize, odd: usize, step: usize) -> [[u8; 64]; 8] {
    let mut all = [[0; 64]; 8];
    let mut s = 0;
    while s < 8 {
        all[s] = shifts(at + 8 * (s / 2) + odd * (s % 2), step);
        s += 1;
    }
    all
}

/// Octets: codes of 2 bits.
static OCTET_CODES: [[u8; 64]; 8] = shifts_of_chunk(0, 0, 2);
/// The signs of octets, moved to bit 2.
static OCTET_SIGNS: [[u8; 64]; 8] = shifts_of_chunk(64 - 2, 4, 1);
/// Quads: four codes in nibbles of 16 bits; only the first four of these are used, those of two octets.
static QUAD_CODES: [[u8; 64]; 2] = [shifts(0, 4), shifts(16, 4)];
/// The signs of quads, moved to bit 3.
static QUAD_SIGNS: [[u8; 64]; 8] = shifts_of_chunk(64 - 3, 4, 1);

/// Places in two vectors: bytes `from` and `from + 1` of each lane, each followed by that of the second vector.
const fn interleaved(from: usize) -> [u8; 64] {
    let mut places = [0; 64];
    let mut i = 0;
    while i < 64 {
        places[i] = (i / 4 * 4 + from + i % 4 / 2 + 64 * (i % 2)) as u8;
        i += 1;
    }
    places
}
static INTERLEAVED: [[u8; 64]; 2] = [interleaved(0), interleaved(2)];

static FIELDS: [[u8; 64]; 9] = {
    let mut all = [[0; 64]; 9];
    let mut step = 0;
    while step < 9 {
        all[step] = shifts(0, step);
        step += 1;
    }
    all
};

#[inline(always)]
unsafe fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: 64 bytes are there; the caller has AVX-512.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// See [`super::Lanes::fields`].
#[inline(always)]
pub(super) unsafe fn fields<const STEP: u32>(v: __m512i) -> __m512i {
    // SAFETY: the caller has VBMI.
    unsafe { _mm512_multishift_epi64_epi8(load(&FIELDS[STEP as usize]), v) }
}

/// See [`super::Lanes::even_signs`].
#[inline(always)]
pub(super) unsafe fn even_signs(seven: __m512i) -> __m512i {
    let signs = SIGNS.as_ptr();
    // SAFETY: the caller has VBMI; the table has 128 bytes.
    unsafe {
        let (low, high) = (_mm512_loadu_si512(signs.cast()), _mm512_loadu_si512(signs.add(64).cast()));
        _mm512_permutex2var_epi8(low, seven, high)
    }
}

/// Which bytes have an index of 128 and more, and which have each bit of the part.
#[derive(Clone, Copy)]
struct Masks {
    upper: __mmask64,
    part: [__mmask64; 3],
}

#[inline(always)]
unsafe fn masks<const N: usize>(index: __m512i, part: __m512i) -> Masks {
    // SAFETY: the caller has AVX-512.
    unsafe {
        let mut masks = Masks { upper: _mm512_movepi8_mask(index), part: [0; 3] };
        if N > 1 {
            masks.part[0] = _mm512_test_epi8_mask(part, _mm512_set1_epi8(1));
        }
        if N > 2 {
            masks.part[1] = _mm512_test_epi8_mask(part, _mm512_set1_epi8(2));
        }
        if N > 4 {
            masks.part[2] = _mm512_test_epi8_mask(part, _mm512_set1_epi8(4));
        }
        masks
    }
}

/// The bytes of a table of `N` parts at an index and a part.
#[inline(always)]
unsafe fn look_up<const N: usize>(table: &[[u8; 256]; N], index: __m512i, masks: Masks) -> __m512i {
    // SAFETY: the caller has VBMI; each part has 256 bytes.
    unsafe {
        let mut found = [_mm512_setzero_si512(); N];
        for part in 0..N {
            let at = table[part].as_ptr();
            let lower = _mm512_permutex2var_epi8(
                _mm512_loadu_si512(at.cast()),
                index,
                _mm512_loadu_si512(at.add(64).cast()),
            );
            let upper = _mm512_permutex2var_epi8(
                _mm512_loadu_si512(at.add(128).cast()),
                index,
                _mm512_loadu_si512(at.add(192).cast()),
            );
            found[part] = _mm512_mask_blend_epi8(masks.upper, lower, upper);
        }
        let (mut left, mut bit) = (N, 0);
        while left > 1 {
            left /= 2;
            for i in 0..left {
                found[i] = _mm512_mask_blend_epi8(masks.part[bit], found[2 * i], found[2 * i + 1]);
            }
            bit += 1;
        }
        found[0]
    }
}

/// Values of codes in the lowest bits, which `mask` has, and signs in the bit above.
#[inline(always)]
unsafe fn values(table: __m512i, mask: __m512i, codes: __m512i, signs: __m512i) -> __m512i {
    // SAFETY: the caller has VBMI. 0xca takes `codes` where the mask is set and `signs` elsewhere.
    unsafe { _mm512_permutexvar_epi8(_mm512_ternarylogic_epi32::<0xca>(mask, codes, signs), table) }
}

/// See [`super::Lanes::octets`].
#[inline(always)]
pub(super) unsafe fn octets<const N: usize>(
    grid: &Octets<N>,
    index: __m512i,
    part: __m512i,
    signs: __m512i,
) -> [__m512i; 8] {
    // SAFETY: the caller has VBMI.
    unsafe {
        let masks = masks::<N>(index, part);
        let codes = [look_up(&grid.low, index, masks), look_up(&grid.high, index, masks)];
        let (table, mask) = (load(&grid.values), _mm512_set1_epi8(3));
        unrolled!(s => {
            let codes = _mm512_multishift_epi64_epi8(load(&OCTET_CODES[s]), codes[s % 2]);
            values(table, mask, codes, _mm512_multishift_epi64_epi8(load(&OCTET_SIGNS[s]), signs))
        })
    }
}

/// See [`super::Lanes::quads`].
#[inline(always)]
pub(super) unsafe fn quads<const N: usize>(
    grid: &Quads<N>,
    index: [__m512i; 2],
    part: [__m512i; 2],
    signs: __m512i,
) -> [__m512i; 8] {
    // SAFETY: the caller has VBMI.
    unsafe {
        let mut codes = [[_mm512_setzero_si512(); 2]; 2];
        for half in 0..2 {
            let masks = masks::<N>(index[half], part[half]);
            let low = look_up(&grid.low, index[half], masks);
            let high = look_up(&grid.high, index[half], masks);
            codes[half] = [
                _mm512_permutex2var_epi8(low, load(&INTERLEAVED[0]), high),
                _mm512_permutex2var_epi8(low, load(&INTERLEAVED[1]), high),
            ];
        }
        let (table, mask) = (load(&grid.values), _mm512_set1_epi8(7));
        unrolled!(s => {
            let codes =
                _mm512_multishift_epi64_epi8(load(&QUAD_CODES[s / 2 % 2]), codes[s % 2][s / 4]);
            values(table, mask, codes, _mm512_multishift_epi64_epi8(load(&QUAD_SIGNS[s]), signs))
        })
    }
}
