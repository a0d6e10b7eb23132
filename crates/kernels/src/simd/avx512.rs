//! Sixteen lanes in one 512-bit register.

use std::arch::x86_64::*;

use super::avx2::{largest_of_8, sum_of_8};
use super::{Kernel, LANES, Simd};
use crate::{Isa, cpu_features};

/// Proof that AVX-512 F, BW, VL, DQ and VNNI are there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        cpu_features().supports(Isa::Avx512).then_some(Self(()))
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn enter<K: Kernel>(token: Avx512, kernel: K) -> K::Output {
    kernel.run(token)
}

/// Calls instructions that the token vouches for.
macro_rules! proven {
    ($call:expr) => {
        // SAFETY: a token exists only where the features were detected.
        unsafe { $call }
    };
}

impl Simd for Avx512 {
    type F = __m512;
    type Quads = __m512i;
    /// Products with the high and with the low bytes.
    type Sums = [__m512i; 2];
    const WIDE: bool = true;
    const QUANT_ROWS: usize = 12;

    #[inline(always)]
    fn enter<K: Kernel>(self, kernel: K) -> K::Output {
        proven!(enter(self, kernel))
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        proven!(_mm512_set1_ps(x))
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::F {
        proven!(_mm512_loadu_ps(from))
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> Self::F {
        proven!(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast())))
    }

    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> Self::F {
        proven!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: Self::F) {
        proven!(_mm512_storeu_ps(to, x))
    }

    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8, x: Self::F) {
        proven!(_mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x))))
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16, x: Self::F) {
        proven!(_mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x)))
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        proven!(_mm_prefetch::<_MM_HINT_T0>(at.cast()));
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        proven!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        proven!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        proven!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        proven!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        proven!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        proven!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        proven!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn select_less(self, x: Self::F, y: Self::F, a: Self::F, b: Self::F) -> Self::F {
        proven!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, y), b, a))
    }

    #[inline(always)]
    fn any_greater(self, x: Self::F, y: Self::F) -> bool {
        proven!(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, y)) != 0
    }

    #[inline(always)]
    fn round(self, x: Self::F) -> Self::F {
        proven!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x))
    }

    #[inline(always)]
    fn exp2_of_integer(self, x: Self::F) -> Self::F {
        proven!({
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(x), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        })
    }

    #[inline(always)]
    fn sum(self, x: Self::F) -> f32 {
        proven!(sum_of_8(_mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x))))
    }

    #[inline(always)]
    fn largest(self, x: Self::F) -> f32 {
        proven!(largest_of_8(_mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x))))
    }

    #[inline(always)]
    unsafe fn load_quads(self, from: *const u8) -> Self::Quads {
        proven!(_mm512_loadu_si512(from.cast()))
    }

    /// Splits `q` into `256 * high + low`, each a signed byte, because VNNI multiplies bytes.
    #[inline(always)]
    fn query_quad(self, q: [i16; 4]) -> [u32; 2] {
        let low = q.map(|q| q as u8);
        let high = q.map(|q| ((i32::from(q) - i32::from(q as i8)) >> 8) as u8);
        [u32::from_le_bytes(high), u32::from_le_bytes(low)]
    }

    #[inline(always)]
    fn zero_sums(self) -> Self::Sums {
        [proven!(_mm512_setzero_si512()); 2]
    }

    #[inline(always)]
    unsafe fn dot_quads(self, sums: Self::Sums, k: Self::Quads, q: *const u32) -> Self::Sums {
        proven!([
            _mm512_dpbusd_epi32(sums[0], k, _mm512_set1_epi32((*q).cast_signed())),
            _mm512_dpbusd_epi32(sums[1], k, _mm512_set1_epi32((*q.add(1)).cast_signed())),
        ])
    }

    #[inline(always)]
    fn centred_sums(self, sums: Self::Sums, bias: i32) -> Self::F {
        proven!({
            let whole = _mm512_add_epi32(_mm512_slli_epi32::<8>(sums[0]), sums[1]);
            _mm512_cvtepi32_ps(_mm512_sub_epi32(whole, _mm512_set1_epi32(bias)))
        })
    }

    #[inline(always)]
    fn transpose(self, rows: &mut [Self::F; LANES]) {
        proven!({
            let mut t = *rows;
            // Pairs of rows, then pairs of pairs within each 128-bit quarter.
            for i in 0..8 {
                t[2 * i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
                t[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
            }
            for i in 0..4 {
                let [a, b, c, d] = [t[4 * i], t[4 * i + 1], t[4 * i + 2], t[4 * i + 3]];
                rows[4 * i] = _mm512_shuffle_ps::<0x44>(a, c);
                rows[4 * i + 1] = _mm512_shuffle_ps::<0xee>(a, c);
                rows[4 * i + 2] = _mm512_shuffle_ps::<0x44>(b, d);
                rows[4 * i + 3] = _mm512_shuffle_ps::<0xee>(b, d);
            }
            // Now the quarters.
            for i in 0..4 {
                t[i] = _mm512_shuffle_f32x4::<0x88>(rows[i], rows[i + 4]);
                t[i + 4] = _mm512_shuffle_f32x4::<0xdd>(rows[i], rows[i + 4]);
                t[i + 8] = _mm512_shuffle_f32x4::<0x88>(rows[i + 8], rows[i + 12]);
                t[i + 12] = _mm512_shuffle_f32x4::<0xdd>(rows[i + 8], rows[i + 12]);
            }
            for i in 0..4 {
                rows[i] = _mm512_shuffle_f32x4::<0x88>(t[i], t[i + 8]);
                rows[i + 8] = _mm512_shuffle_f32x4::<0xdd>(t[i], t[i + 8]);
                rows[i + 4] = _mm512_shuffle_f32x4::<0x88>(t[i + 4], t[i + 12]);
                rows[i + 12] = _mm512_shuffle_f32x4::<0xdd>(t[i + 4], t[i + 12]);
            }
        })
    }
}
