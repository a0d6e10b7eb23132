//! Vector operations on 512-bit registers with VNNI.

use std::arch::x86_64::*;

use super::avx2::prefetch;
use super::{Lanes, codebook, vbmi};
use crate::codebook::{Octets, Quads};

/// AVX-512 F, BW, VL, DQ and VNNI; with or without VBMI.
#[derive(Clone, Copy)]
pub(crate) struct Avx512With<const VBMI: bool>;

/// Without VBMI.
pub(crate) type Avx512 = Avx512With<false>;
/// With VBMI.
pub(crate) type Avx512Vbmi = Avx512With<true>;

/// Methods whose bodies call intrinsics.
macro_rules! intrinsics {
    ($($(#[$attribute:meta])* fn $name:ident($($arg:ident: $kind:ty),*) $(-> $result:ty)? $body:block)*) => {
        $($(#[$attribute])* #[inline(always)]
        unsafe fn $name($($arg: $kind),*) $(-> $result)? {
            // SAFETY: the trait's caller vouches for the instructions and for the pointers.
            unsafe { $body }
        })*
    };
}

impl<const VBMI: bool> Lanes for Avx512With<VBMI> {
    type B = __m512i;
    type I = __m512i;
    type F = __m512;

    // Two registers of rows times six columns: 12 integer and 12 float sums, two weights and a broadcast make
    // 27 of the 32 registers; a seventh column would spill.
    const TILE: usize = 6;
    const DIRECT: usize = 8;

    // One factor is unsigned here, and the start of the sum makes up for it.
    #[inline(always)]
    unsafe fn centre(v: Self::B, _zero: u8) -> Self::B {
        v
    }

    #[inline(always)]
    unsafe fn as_b(v: Self::I) -> Self::B {
        v
    }
    #[inline(always)]
    unsafe fn fields<const STEP: u32>(v: Self::I) -> Self::B {
        // SAFETY: the trait's caller vouches for the instructions.
        unsafe { if VBMI { vbmi::fields::<STEP>(v) } else { codebook::fields::<Self, STEP>(v) } }
    }
    #[inline(always)]
    unsafe fn even_signs(seven: Self::B) -> Self::B {
        // SAFETY: as above.
        unsafe { if VBMI { vbmi::even_signs(seven) } else { codebook::even_signs::<Self>(seven) } }
    }
    #[inline(always)]
    unsafe fn octets<const N: usize>(
        grid: &Octets<N>,
        index: Self::B,
        part: Self::B,
        signs: Self::B,
    ) -> [Self::B; 8] {
        // SAFETY: as above.
        unsafe {
            if VBMI {
                vbmi::octets(grid, index, part, signs)
            } else {
                codebook::octets::<Self, N>(grid, index, part, signs)
            }
        }
    }
    #[inline(always)]
    unsafe fn quads<const N: usize>(
        grid: &Quads<N>,
        index: [Self::B; 2],
        part: [Self::B; 2],
        signs: Self::B,
    ) -> [Self::B; 8] {
        // SAFETY: as above.
        unsafe {
            if VBMI {
                vbmi::quads(grid, index, part, signs)
            } else {
                codebook::quads::<Self, N>(grid, index, part, signs)
            }
        }
    }

    #[inline(always)]
    unsafe fn prefetch<const HINT: u8>(from: *const u8) {
        // SAFETY: a prefetch has no effect on memory and does not fault.
        unsafe { prefetch::<HINT>(from) }
    }

    intrinsics! {
        fn load_b(from: *const u8) -> Self::B { _mm512_loadu_si512(from.cast()) }
        fn store_b(to: *mut u8, v: Self::B) { _mm512_storeu_si512(to.cast(), v) }
        fn splat_b(v: u8) -> Self::B { _mm512_set1_epi8(v as i8) }
        fn and_b(a: Self::B, b: Self::B) -> Self::B { _mm512_and_si512(a, b) }
        fn or_b(a: Self::B, b: Self::B) -> Self::B { _mm512_or_si512(a, b) }
        fn shr_b(v: Self::B, by: u32) -> Self::B { _mm512_srl_epi16(v, _mm_cvtsi32_si128(by as i32)) }
        fn shl_b(v: Self::B, by: u32) -> Self::B { _mm512_sll_epi16(v, _mm_cvtsi32_si128(by as i32)) }
        fn look_up(table: &[i8; 16], index: Self::B) -> Self::B {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, index)
        }

        fn centre_at_128(v: Self::B, zero: u8) -> Self::B {
            if zero == 128 { v } else { _mm512_add_epi8(v, _mm512_set1_epi8((128 - zero) as i8)) }
        }
        fn start(minus_128_sums: *const i32, zero: u8) -> Self::I {
            // The zero is a power of two, so the shift is exact.
            let shift = 7 - zero.trailing_zeros();
            _mm512_set1_epi32(minus_128_sums.read() >> shift)
        }
        fn dot_signed(sum: Self::I, w: Self::B, a: Self::I) -> Self::I { _mm512_dpbusd_epi32(sum, w, a) }
        fn dot_unsigned(sum: Self::I, w: Self::B, a: Self::I) -> Self::I { _mm512_dpbusd_epi32(sum, w, a) }
        fn dot_pairs(sum: Self::I, a: Self::I, b: Self::I) -> Self::I { _mm512_dpwssd_epi32(sum, a, b) }

        fn splat_i(v: i32) -> Self::I { _mm512_set1_epi32(v) }
        fn load_i(from: *const i32) -> Self::I { _mm512_loadu_si512(from.cast()) }
        fn store_i(to: *mut i32, v: Self::I) { _mm512_storeu_si512(to.cast(), v) }
        fn load_u8(from: *const u8) -> Self::I { _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())) }
        fn load_i8(from: *const i8) -> Self::I { _mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())) }
        fn load_u16(from: *const u16) -> Self::I { _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast())) }
        fn store_low_bytes(to: *mut u8, v: Self::I) {
            _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(v));
        }
        fn and_i(a: Self::I, b: Self::I) -> Self::I { _mm512_and_si512(a, b) }
        fn or_i(a: Self::I, b: Self::I) -> Self::I { _mm512_or_si512(a, b) }
        fn add_i(a: Self::I, b: Self::I) -> Self::I { _mm512_add_epi32(a, b) }
        fn max_i(a: Self::I, b: Self::I) -> Self::I { _mm512_max_epi32(a, b) }
        fn largest_i(v: Self::I) -> i32 { _mm512_reduce_max_epi32(v) }
        fn shr_i(v: Self::I, by: u32) -> Self::I { _mm512_srl_epi32(v, _mm_cvtsi32_si128(by as i32)) }
        fn shl_i(v: Self::I, by: u32) -> Self::I { _mm512_sll_epi32(v, _mm_cvtsi32_si128(by as i32)) }

        fn to_f(v: Self::I) -> Self::F { _mm512_cvtepi32_ps(v) }
        fn as_f(v: Self::I) -> Self::F { _mm512_castsi512_ps(v) }
        fn as_i(v: Self::F) -> Self::I { _mm512_castps_si512(v) }
        fn splat_f(v: f32) -> Self::F { _mm512_set1_ps(v) }
        fn load_f(from: *const f32) -> Self::F { _mm512_loadu_ps(from) }
        fn store_f(to: *mut f32, v: Self::F) { _mm512_storeu_ps(to, v) }
        fn load_f16(from: *const u16) -> Self::F { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
        fn load_f8_256ths(from: *const u8) -> Self::F {
            // As in `f8e4m3_to_f32`, without the NaN, which packing refuses: the magnitude becomes that of a
            // half, off by a factor of 256.
            let wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(from.cast()));
            let magnitude = _mm256_slli_epi16::<7>(_mm256_and_si256(wide, _mm256_set1_epi16(0x7f)));
            let sign = _mm256_and_si256(wide, _mm256_set1_epi16(i16::MIN));
            _mm512_cvtph_ps(_mm256_or_si256(magnitude, sign))
        }
        fn load_two_f8_256ths(from: *const u8) -> [Self::F; 2] {
            // As above: the sign, which is there many times, lands in two bits of a half, of which one is its place.
            let wide = _mm512_slli_epi16::<7>(_mm512_cvtepi8_epi16(_mm256_loadu_si256(from.cast())));
            let halves = _mm512_and_si512(wide, _mm512_set1_epi16(0xbfff_u16.cast_signed()));
            [
                _mm512_cvtph_ps(_mm512_castsi512_si256(halves)),
                _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(halves)),
            ]
        }
        fn add(a: Self::F, b: Self::F) -> Self::F { _mm512_add_ps(a, b) }
        fn mul(a: Self::F, b: Self::F) -> Self::F { _mm512_mul_ps(a, b) }
        fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F { _mm512_fmadd_ps(a, b, c) }
        fn fnma(a: Self::F, b: Self::F, c: Self::F) -> Self::F { _mm512_fnmadd_ps(a, b, c) }
    }
}
