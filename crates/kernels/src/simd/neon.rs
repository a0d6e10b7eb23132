//! Sixteen lanes in four 128-bit registers.

use std::arch::aarch64::*;

use super::{Kernel, LANES, Simd};
use crate::lanes::neon_dot;
use crate::{Isa, cpu_features};

/// Proof that NEON and its dot products are there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neon(());

impl Neon {
    pub(crate) fn detect() -> Option<Self> {
        cpu_features().supports(Isa::Neon).then_some(Self(()))
    }
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn enter<K: Kernel>(token: Neon, kernel: K) -> K::Output {
    kernel.run(token)
}

/// Calls instructions that the token vouches for.
macro_rules! proven {
    ($call:expr) => {
        // SAFETY: a token exists only where the features were detected.
        unsafe { $call }
    };
}

/// The same for each of the four registers.
macro_rules! each {
    ($i:ident => $call:expr) => {
        proven!([
            {
                const $i: usize = 0;
                $call
            },
            {
                const $i: usize = 1;
                $call
            },
            {
                const $i: usize = 2;
                $call
            },
            {
                const $i: usize = 3;
                $call
            },
        ])
    };
}

type Four = [float32x4_t; 4];

impl Simd for Neon {
    type F = Four;
    /// Less 128, as signed bytes.
    type Quads = [int8x16_t; 4];
    /// Products with the high bytes of queries, then with the low ones.
    type Sums = [[int32x4_t; 4]; 2];
    const WIDE: bool = false;
    const QUANT_ROWS: usize = 3;

    #[inline(always)]
    fn enter<K: Kernel>(self, kernel: K) -> K::Output {
        proven!(enter(self, kernel))
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Four {
        [proven!(vdupq_n_f32(x)); 4]
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Four {
        each!(I => vld1q_f32(from.add(4 * I)))
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> Four {
        each!(I => vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from.add(4 * I)))))
    }

    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> Four {
        proven!({
            let bytes = vld1q_s8(from);
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            [
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                vcvtq_f32_s32(vmovl_high_s16(low)),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                vcvtq_f32_s32(vmovl_high_s16(high)),
            ]
        })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: Four) {
        each!(I => vst1q_f32(to.add(4 * I), x[I]));
    }

    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8, x: Four) {
        proven!({
            let narrow = |a, b| vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(a)), vqmovn_s32(vcvtnq_s32_f32(b)));
            let (low, high) = (narrow(x[0], x[1]), narrow(x[2], x[3]));
            vst1q_s8(to, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
        })
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16, x: Four) {
        each!(I => vst1_u16(to.add(4 * I), vreinterpret_u16_f16(vcvt_f16_f32(x[I]))));
    }

    #[inline(always)]
    fn add(self, a: Four, b: Four) -> Four {
        each!(I => vaddq_f32(a[I], b[I]))
    }

    #[inline(always)]
    fn sub(self, a: Four, b: Four) -> Four {
        each!(I => vsubq_f32(a[I], b[I]))
    }

    #[inline(always)]
    fn mul(self, a: Four, b: Four) -> Four {
        each!(I => vmulq_f32(a[I], b[I]))
    }

    #[inline(always)]
    fn div(self, a: Four, b: Four) -> Four {
        each!(I => vdivq_f32(a[I], b[I]))
    }

    #[inline(always)]
    fn mul_add(self, a: Four, b: Four, c: Four) -> Four {
        each!(I => vfmaq_f32(c[I], a[I], b[I]))
    }

    #[inline(always)]
    fn max(self, a: Four, b: Four) -> Four {
        each!(I => larger(a[I], b[I]))
    }

    #[inline(always)]
    fn min(self, a: Four, b: Four) -> Four {
        each!(I => vbslq_f32(vcltq_f32(a[I], b[I]), a[I], b[I]))
    }

    #[inline(always)]
    fn select_less(self, x: Four, y: Four, a: Four, b: Four) -> Four {
        each!(I => vbslq_f32(vcltq_f32(x[I], y[I]), a[I], b[I]))
    }

    #[inline(always)]
    fn any_greater(self, x: Four, y: Four) -> bool {
        let greater = each!(I => vcgtq_f32(x[I], y[I]));
        proven!({
            let any = vorrq_u32(vorrq_u32(greater[0], greater[1]), vorrq_u32(greater[2], greater[3]));
            vmaxvq_u32(any) != 0
        })
    }

    #[inline(always)]
    fn round(self, x: Four) -> Four {
        each!(I => vrndnq_f32(x[I]))
    }

    #[inline(always)]
    fn exp2_of_integer(self, x: Four) -> Four {
        each!(I => {
            let biased = vaddq_s32(vcvtnq_s32_f32(x[I]), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
        })
    }

    #[inline(always)]
    fn sum(self, x: Four) -> f32 {
        proven!({
            let four = vaddq_f32(vaddq_f32(x[0], x[2]), vaddq_f32(x[1], x[3]));
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        })
    }

    #[inline(always)]
    fn largest(self, x: Four) -> f32 {
        proven!({
            let four = larger(larger(x[0], x[2]), larger(x[1], x[3]));
            let two = larger(four, vextq_f32::<2>(four, four));
            vgetq_lane_f32::<0>(larger(two, vextq_f32::<1>(two, two)))
        })
    }

    #[inline(always)]
    unsafe fn load_quads(self, from: *const u8) -> Self::Quads {
        each!(I => vreinterpretq_s8_u8(veorq_u8(vld1q_u8(from.add(16 * I)), vdupq_n_u8(128))))
    }

    /// Splits `q` into `256 * high + low`, each a signed byte, because dot products are of bytes.
    #[inline(always)]
    fn query_quad(self, q: [i16; 4]) -> [u32; 2] {
        let low = q.map(|q| q as u8);
        let high = q.map(|q| ((i32::from(q) - i32::from(q as i8)) >> 8) as u8);
        [u32::from_le_bytes(high), u32::from_le_bytes(low)]
    }

    #[inline(always)]
    fn zero_sums(self) -> Self::Sums {
        [[proven!(vdupq_n_s32(0)); 4]; 2]
    }

    #[inline(always)]
    unsafe fn dot_quads(self, sums: Self::Sums, k: Self::Quads, q: *const u32) -> Self::Sums {
        let (high, low) =
            proven!((vreinterpretq_s8_u32(vdupq_n_u32(*q)), vreinterpretq_s8_u32(vdupq_n_u32(*q.add(1))),));
        [each!(I => neon_dot(sums[0][I], k[I], high)), each!(I => neon_dot(sums[1][I], k[I], low))]
    }

    #[inline(always)]
    fn centred_sums(self, sums: Self::Sums, _bias: i32) -> Four {
        each!(I => vcvtq_f32_s32(vaddq_s32(vshlq_n_s32::<8>(sums[0][I]), sums[1][I])))
    }

    #[inline(always)]
    fn transpose(self, rows: &mut [Four; LANES]) {
        // Sixteen 4 by 4 squares, each turned; those off the diagonal change places.
        let from = *rows;
        for i in 0..4 {
            for j in 0..4 {
                let square = [from[4 * i][j], from[4 * i + 1][j], from[4 * i + 2][j], from[4 * i + 3][j]];
                let turned = transpose_4(square);
                for k in 0..4 {
                    rows[4 * j + k][i] = turned[k];
                }
            }
        }
    }
}

/// The larger of each lane, `b` where either is NaN; the processor's own maximum would give the NaN.
///
/// # Safety
/// NEON must be there.
#[inline(always)]
unsafe fn larger(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: promised by the caller.
    unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
}

#[inline(always)]
fn transpose_4(rows: [float32x4_t; 4]) -> [float32x4_t; 4] {
    // SAFETY: called from `Neon::transpose` only, whose token vouches for the feature.
    unsafe {
        // Pairs of rows, lane by lane, then pairs of pairs.
        let (a, b) = (vzip1q_f32(rows[0], rows[2]), vzip2q_f32(rows[0], rows[2]));
        let (c, d) = (vzip1q_f32(rows[1], rows[3]), vzip2q_f32(rows[1], rows[3]));
        [vzip1q_f32(a, c), vzip2q_f32(a, c), vzip1q_f32(b, d), vzip2q_f32(b, d)]
    }
}
