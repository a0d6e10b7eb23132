//! Vector operations on pairs of 256-bit registers, with dot products where there are any.

use std::arch::x86_64::*;

use super::{Lanes, NTA, T0};

/// AVX2, FMA and F16C; with `VNNI` the dot products of AVX-VNNI, too.
#[derive(Clone, Copy)]
pub(crate) struct Avx2<const VNNI: bool>;

/// Methods whose bodies call intrinsics.
macro_rules! intrinsics {
    ($(fn $name:ident($($arg:ident: $kind:ty),*) $(-> $result:ty)? $body:block)*) => {
        $(#[inline(always)]
        unsafe fn $name($($arg: $kind),*) $(-> $result)? {
            // SAFETY: the trait's caller vouches for the instructions and for the pointers.
            unsafe { $body }
        })*
    };
}

/// Adds four byte products per lane: the first factor unsigned, and without VNNI pairs of products within 16 bits.
#[inline(always)]
unsafe fn dot<const VNNI: bool>(sum: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
    // SAFETY: the caller has AVX2, and AVX-VNNI where it says so.
    unsafe {
        if VNNI {
            return _mm256_dpbusd_avx_epi32(sum, unsigned, signed);
        }
        let pairs = _mm256_maddubs_epi16(unsigned, signed);
        _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
}

/// Asks for a cache line.
///
/// # Safety
/// None is needed: it has no effect on memory and does not fault.
#[inline(always)]
pub(super) unsafe fn prefetch<const HINT: u8>(from: *const u8) {
    // SAFETY: as above.
    unsafe {
        match HINT {
            NTA => _mm_prefetch::<_MM_HINT_NTA>(from.cast()),
            T0 => _mm_prefetch::<_MM_HINT_T0>(from.cast()),
            _ => _mm_prefetch::<_MM_HINT_T1>(from.cast()),
        }
    }
}

impl<const VNNI: bool> Lanes for Avx2<VNNI> {
    type B = [__m256i; 2];
    type I = [__m256i; 2];
    type F = [__m256; 2];

    const TILE: usize = 3;
    const DIRECT: usize = 2;

    #[inline(always)]
    unsafe fn prefetch<const HINT: u8>(from: *const u8) {
        // SAFETY: a prefetch has no effect on memory and does not fault.
        unsafe { prefetch::<HINT>(from) }
    }

    intrinsics! {
        fn load_b(from: *const u8) -> Self::B {
            [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())]
        }
        fn store_b(to: *mut u8, v: Self::B) {
            _mm256_storeu_si256(to.cast(), v[0]);
            _mm256_storeu_si256(to.add(32).cast(), v[1]);
        }
        fn splat_b(v: u8) -> Self::B { [_mm256_set1_epi8(v as i8); 2] }
        fn and_b(a: Self::B, b: Self::B) -> Self::B {
            [_mm256_and_si256(a[0], b[0]), _mm256_and_si256(a[1], b[1])]
        }
        fn or_b(a: Self::B, b: Self::B) -> Self::B {
            [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])]
        }
        fn shr_b(v: Self::B, by: u32) -> Self::B {
            let by = _mm_cvtsi32_si128(by as i32);
            [_mm256_srl_epi16(v[0], by), _mm256_srl_epi16(v[1], by)]
        }
        fn shl_b(v: Self::B, by: u32) -> Self::B {
            let by = _mm_cvtsi32_si128(by as i32);
            [_mm256_sll_epi16(v[0], by), _mm256_sll_epi16(v[1], by)]
        }
        fn look_up(table: &[i8; 16], index: Self::B) -> Self::B {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            [_mm256_shuffle_epi8(table, index[0]), _mm256_shuffle_epi8(table, index[1])]
        }

        fn centre(v: Self::B, zero: u8) -> Self::B {
            if VNNI {
                // One factor is unsigned there, and the start of the sum makes up for it.
                return v;
            }
            let zero = _mm256_set1_epi8(zero as i8);
            [_mm256_sub_epi8(v[0], zero), _mm256_sub_epi8(v[1], zero)]
        }
        fn centre_at_128(v: Self::B, zero: u8) -> Self::B {
            if VNNI {
                let more = _mm256_set1_epi8(128_u8.wrapping_sub(zero) as i8);
                return [_mm256_add_epi8(v[0], more), _mm256_add_epi8(v[1], more)];
            }
            Self::centre(v, zero)
        }
        fn start(minus_128_sums: *const i32, zero: u8) -> Self::I {
            // The zero is a power of two, so the shift is exact.
            let start = if VNNI { minus_128_sums.read() >> (7 - zero.trailing_zeros()) } else { 0 };
            [_mm256_set1_epi32(start); 2]
        }
        fn dot_signed(sum: Self::I, w: Self::B, a: Self::I) -> Self::I {
            if VNNI {
                return Self::dot_unsigned(sum, w, a);
            }
            // The sign moves from the weight to the activation, which is never -128; two products of at most
            // 128 * 127 fit into 16 bits.
            [
                dot::<false>(sum[0], _mm256_abs_epi8(w[0]), _mm256_sign_epi8(a[0], w[0])),
                dot::<false>(sum[1], _mm256_abs_epi8(w[1]), _mm256_sign_epi8(a[1], w[1])),
            ]
        }
        fn dot_unsigned(sum: Self::I, w: Self::B, a: Self::I) -> Self::I {
            [dot::<VNNI>(sum[0], w[0], a[0]), dot::<VNNI>(sum[1], w[1], a[1])]
        }
        fn dot_pairs(sum: Self::I, a: Self::I, b: Self::I) -> Self::I {
            if VNNI {
                return [
                    _mm256_dpwssd_avx_epi32(sum[0], a[0], b[0]),
                    _mm256_dpwssd_avx_epi32(sum[1], a[1], b[1]),
                ];
            }
            [
                _mm256_add_epi32(sum[0], _mm256_madd_epi16(a[0], b[0])),
                _mm256_add_epi32(sum[1], _mm256_madd_epi16(a[1], b[1])),
            ]
        }

        fn splat_i(v: i32) -> Self::I { [_mm256_set1_epi32(v); 2] }
        fn load_i(from: *const i32) -> Self::I {
            [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(8).cast())]
        }
        fn store_i(to: *mut i32, v: Self::I) {
            _mm256_storeu_si256(to.cast(), v[0]);
            _mm256_storeu_si256(to.add(8).cast(), v[1]);
        }
        fn load_u8(from: *const u8) -> Self::I {
            let bytes = _mm_loadu_si128(from.cast());
            [_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(bytes))]
        }
        fn load_i8(from: *const i8) -> Self::I {
            let bytes = _mm_loadu_si128(from.cast());
            [_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes))]
        }
        fn load_u16(from: *const u16) -> Self::I {
            [
                _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast())),
                _mm256_cvtepu16_epi32(_mm_loadu_si128(from.add(8).cast())),
            ]
        }
        fn store_low_bytes(to: *mut u8, v: Self::I) {
            // Bytes 0, 4, 8 and 12 of each quarter go to its front, then the quarters' fronts together.
            let low = _mm256_setr_epi8(
                0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
            );
            let order = _mm256_setr_epi32(0, 4, 1, 1, 1, 1, 1, 1);
            for (half, v) in v.into_iter().enumerate() {
                let bytes = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(v, low), order);
                _mm_storel_epi64(to.add(8 * half).cast(), _mm256_castsi256_si128(bytes));
            }
        }
        fn and_i(a: Self::I, b: Self::I) -> Self::I { Self::and_b(a, b) }
        fn or_i(a: Self::I, b: Self::I) -> Self::I { Self::or_b(a, b) }
        fn add_i(a: Self::I, b: Self::I) -> Self::I {
            [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])]
        }
        fn max_i(a: Self::I, b: Self::I) -> Self::I {
            [_mm256_max_epi32(a[0], b[0]), _mm256_max_epi32(a[1], b[1])]
        }
        fn largest_i(v: Self::I) -> i32 {
            let mut lanes = [0; 16];
            Self::store_i(lanes.as_mut_ptr(), v);
            lanes.into_iter().fold(i32::MIN, i32::max)
        }
        fn shr_i(v: Self::I, by: u32) -> Self::I {
            let by = _mm_cvtsi32_si128(by as i32);
            [_mm256_srl_epi32(v[0], by), _mm256_srl_epi32(v[1], by)]
        }
        fn shl_i(v: Self::I, by: u32) -> Self::I {
            let by = _mm_cvtsi32_si128(by as i32);
            [_mm256_sll_epi32(v[0], by), _mm256_sll_epi32(v[1], by)]
        }

        fn to_f(v: Self::I) -> Self::F { [_mm256_cvtepi32_ps(v[0]), _mm256_cvtepi32_ps(v[1])] }
        fn as_f(v: Self::I) -> Self::F { [_mm256_castsi256_ps(v[0]), _mm256_castsi256_ps(v[1])] }
        fn as_i(v: Self::F) -> Self::I { [_mm256_castps_si256(v[0]), _mm256_castps_si256(v[1])] }
        fn splat_f(v: f32) -> Self::F { [_mm256_set1_ps(v); 2] }
        fn load_f(from: *const f32) -> Self::F { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
        fn store_f(to: *mut f32, v: Self::F) {
            _mm256_storeu_ps(to, v[0]);
            _mm256_storeu_ps(to.add(8), v[1]);
        }
        fn load_f16(from: *const u16) -> Self::F {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast())),
            ]
        }
        fn load_f8_256ths(from: *const u8) -> Self::F {
            // As in `f8e4m3_to_f32`, without the NaN, which packing refuses: the magnitude becomes that of a
            // half, off by a factor of 256.
            let wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(from.cast()));
            let magnitude = _mm256_slli_epi16::<7>(_mm256_and_si256(wide, _mm256_set1_epi16(0x7f)));
            let sign = _mm256_and_si256(wide, _mm256_set1_epi16(i16::MIN));
            let half = _mm256_or_si256(magnitude, sign);
            [
                _mm256_cvtph_ps(_mm256_castsi256_si128(half)),
                _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(half)),
            ]
        }
        fn add(a: Self::F, b: Self::F) -> Self::F { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
        fn mul(a: Self::F, b: Self::F) -> Self::F { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
        fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
            [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
        }
        fn fnma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
            [_mm256_fnmadd_ps(a[0], b[0], c[0]), _mm256_fnmadd_ps(a[1], b[1], c[1])]
        }
    }
}
