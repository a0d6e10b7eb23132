//! Sixteen lanes in two 256-bit registers.

use std::arch::x86_64::*;

use super::{Kernel, LANES, Simd};
use crate::{Isa, cpu_features};

/// Proof that AVX2, FMA and F16C are there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn detect() -> Option<Self> {
        cpu_features().supports(Isa::Avx2).then_some(Self(()))
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn enter<K: Kernel>(token: Avx2, kernel: K) -> K::Output {
    kernel.run(token)
}

/// Calls instructions that the token vouches for.
macro_rules! proven {
    ($call:expr) => {
        // SAFETY: a token exists only where the features were detected.
        unsafe { $call }
    };
}

type Pair = [__m256; 2];

impl Simd for Avx2 {
    type F = Pair;
    /// Of both registers the even bytes, then the odd ones, as 16-bit numbers.
    type Quads = [__m256i; 4];
    type Sums = [__m256i; 2];
    const WIDE: bool = false;
    const QUANT_ROWS: usize = 6;

    #[inline(always)]
    fn enter<K: Kernel>(self, kernel: K) -> K::Output {
        proven!(enter(self, kernel))
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Pair {
        [proven!(_mm256_set1_ps(x)); 2]
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Pair {
        proven!([_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))])
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> Pair {
        proven!([
            _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
            _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast())),
        ])
    }

    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> Pair {
        proven!([
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.add(8).cast()))),
        ])
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: Pair) {
        proven!({
            _mm256_storeu_ps(to, x[0]);
            _mm256_storeu_ps(to.add(8), x[1]);
        })
    }

    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8, x: Pair) {
        proven!({
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(x[0]), _mm256_cvtps_epi32(x[1]));
            // Packing works on halves, so the middle quarters come out exchanged.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.cast(), bytes);
        })
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16, x: Pair) {
        proven!({
            _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[0]));
            _mm_storeu_si128(to.add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[1]));
        })
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        proven!(_mm_prefetch::<_MM_HINT_T0>(at.cast()));
    }

    #[inline(always)]
    fn add(self, a: Pair, b: Pair) -> Pair {
        proven!([_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn sub(self, a: Pair, b: Pair) -> Pair {
        proven!([_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn mul(self, a: Pair, b: Pair) -> Pair {
        proven!([_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn div(self, a: Pair, b: Pair) -> Pair {
        proven!([_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn mul_add(self, a: Pair, b: Pair, c: Pair) -> Pair {
        proven!([_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])])
    }

    #[inline(always)]
    fn max(self, a: Pair, b: Pair) -> Pair {
        proven!([_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn min(self, a: Pair, b: Pair) -> Pair {
        proven!([_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn select_less(self, x: Pair, y: Pair, a: Pair, b: Pair) -> Pair {
        proven!([
            _mm256_blendv_ps(b[0], a[0], _mm256_cmp_ps::<_CMP_LT_OQ>(x[0], y[0])),
            _mm256_blendv_ps(b[1], a[1], _mm256_cmp_ps::<_CMP_LT_OQ>(x[1], y[1])),
        ])
    }

    #[inline(always)]
    fn any_greater(self, x: Pair, y: Pair) -> bool {
        proven!({
            let low = _mm256_cmp_ps::<_CMP_GT_OQ>(x[0], y[0]);
            let high = _mm256_cmp_ps::<_CMP_GT_OQ>(x[1], y[1]);
            _mm256_movemask_ps(_mm256_or_ps(low, high)) != 0
        })
    }

    #[inline(always)]
    fn round(self, x: Pair) -> Pair {
        const MODE: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        proven!([_mm256_round_ps::<MODE>(x[0]), _mm256_round_ps::<MODE>(x[1])])
    }

    #[inline(always)]
    fn exp2_of_integer(self, x: Pair) -> Pair {
        proven!({
            let bias = _mm256_set1_epi32(127);
            let [low, high] = [
                _mm256_add_epi32(_mm256_cvtps_epi32(x[0]), bias),
                _mm256_add_epi32(_mm256_cvtps_epi32(x[1]), bias),
            ];
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(high)),
            ]
        })
    }

    #[inline(always)]
    fn sum(self, x: Pair) -> f32 {
        proven!(sum_of_8(_mm256_add_ps(x[0], x[1])))
    }

    #[inline(always)]
    fn largest(self, x: Pair) -> f32 {
        proven!(largest_of_8(_mm256_max_ps(x[0], x[1])))
    }

    #[inline(always)]
    unsafe fn load_quads(self, from: *const u8) -> Self::Quads {
        proven!({
            let low = _mm256_loadu_si256(from.cast());
            let high = _mm256_loadu_si256(from.add(32).cast());
            let even = _mm256_set1_epi16(0xff);
            [
                _mm256_and_si256(low, even),
                _mm256_and_si256(high, even),
                _mm256_srli_epi16::<8>(low),
                _mm256_srli_epi16::<8>(high),
            ]
        })
    }

    /// The even ones of four, then the odd ones, to go with [`Avx2::load_quads`].
    #[inline(always)]
    fn query_quad(self, q: [i16; 4]) -> [u32; 2] {
        let pair = |a: i16, b: i16| u32::from(a.cast_unsigned()) | u32::from(b.cast_unsigned()) << 16;
        [pair(q[0], q[2]), pair(q[1], q[3])]
    }

    #[inline(always)]
    fn zero_sums(self) -> Self::Sums {
        [proven!(_mm256_setzero_si256()); 2]
    }

    #[inline(always)]
    unsafe fn dot_quads(self, sums: Self::Sums, k: Self::Quads, q: *const u32) -> Self::Sums {
        proven!({
            let even = _mm256_set1_epi32((*q).cast_signed());
            let odd = _mm256_set1_epi32((*q.add(1)).cast_signed());
            let low = _mm256_add_epi32(_mm256_madd_epi16(k[0], even), _mm256_madd_epi16(k[2], odd));
            let high = _mm256_add_epi32(_mm256_madd_epi16(k[1], even), _mm256_madd_epi16(k[3], odd));
            [_mm256_add_epi32(sums[0], low), _mm256_add_epi32(sums[1], high)]
        })
    }

    #[inline(always)]
    fn centred_sums(self, sums: Self::Sums, bias: i32) -> Pair {
        proven!({
            let bias = _mm256_set1_epi32(bias);
            [
                _mm256_cvtepi32_ps(_mm256_sub_epi32(sums[0], bias)),
                _mm256_cvtepi32_ps(_mm256_sub_epi32(sums[1], bias)),
            ]
        })
    }

    #[inline(always)]
    fn transpose(self, rows: &mut [Pair; LANES]) {
        // Four 8 by 8 quarters; those off the diagonal change places.
        let quarter = |rows: &[Pair; LANES], first: usize, half: usize| {
            let mut q: [__m256; 8] = std::array::from_fn(|i| rows[first + i][half]);
            transpose_8(&mut q);
            q
        };
        let quarters =
            [[quarter(rows, 0, 0), quarter(rows, 0, 1)], [quarter(rows, 8, 0), quarter(rows, 8, 1)]];
        for i in 0..8 {
            rows[i] = [quarters[0][0][i], quarters[1][0][i]];
            rows[i + 8] = [quarters[0][1][i], quarters[1][1][i]];
        }
    }
}

/// # Safety
/// AVX must be there.
#[inline(always)]
pub(super) unsafe fn sum_of_8(x: __m256) -> f32 {
    // SAFETY: promised by the caller.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}

/// # Safety
/// AVX must be there.
#[inline(always)]
pub(super) unsafe fn largest_of_8(x: __m256) -> f32 {
    // SAFETY: promised by the caller.
    unsafe {
        let four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}

#[inline(always)]
fn transpose_8(rows: &mut [__m256; 8]) {
    // SAFETY: called from `Avx2::transpose` only, whose token vouches for the feature.
    unsafe {
        let mut t = *rows;
        for i in 0..4 {
            t[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
            t[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
        }
        for i in 0..2 {
            let [a, b, c, d] = [t[4 * i], t[4 * i + 1], t[4 * i + 2], t[4 * i + 3]];
            rows[4 * i] = _mm256_shuffle_ps::<0x44>(a, c);
            rows[4 * i + 1] = _mm256_shuffle_ps::<0xee>(a, c);
            rows[4 * i + 2] = _mm256_shuffle_ps::<0x44>(b, d);
            rows[4 * i + 3] = _mm256_shuffle_ps::<0xee>(b, d);
        }
        for i in 0..4 {
            t[i] = _mm256_permute2f128_ps::<0x20>(rows[i], rows[i + 4]);
            t[i + 4] = _mm256_permute2f128_ps::<0x31>(rows[i], rows[i + 4]);
        }
        *rows = t;
    }
}
