//! Vector operations on four 128-bit registers with dot products.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Lanes, NTA, T0};

/// NEON with dot products.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

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

/// The same for each of the four registers; closures are not sure to be compiled with the instructions of the
/// function that they end up in.
macro_rules! each {
    ($i:ident => $call:expr) => {
        [
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
        ]
    };
}

/// Adds four products of signed bytes per lane. The intrinsic is not in stable Rust yet.
///
/// # Safety
/// The processor has dot products.
#[inline(always)]
pub(crate) unsafe fn dot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction is there, and reads and writes these registers only.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

impl Lanes for Neon {
    /// Register `i` holds the weights of rows `4i` to `4i + 3`.
    type B = [uint8x16_t; 4];
    type I = [int32x4_t; 4];
    type F = [float32x4_t; 4];

    // Two vectors of rows times three columns make 24 sums; a fourth column would spill.
    const TILE: usize = 3;
    const DIRECT: usize = 2;

    #[inline(always)]
    unsafe fn prefetch<const HINT: u8>(from: *const u8) {
        // SAFETY: a prefetch has no effect on memory and does not fault.
        unsafe {
            match HINT {
                NTA => asm!("prfm pldl1strm, [{0}]", in(reg) from, options(nomem, nostack, preserves_flags)),
                T0 => asm!("prfm pldl1keep, [{0}]", in(reg) from, options(nomem, nostack, preserves_flags)),
                _ => asm!("prfm pldl2keep, [{0}]", in(reg) from, options(nomem, nostack, preserves_flags)),
            }
        }
    }

    intrinsics! {
        fn load_b(from: *const u8) -> Self::B { each!(I => vld1q_u8(from.add(16 * I))) }
        fn store_b(to: *mut u8, v: Self::B) { each!(I => vst1q_u8(to.add(16 * I), v[I])); }
        fn splat_b(v: u8) -> Self::B { [vdupq_n_u8(v); 4] }
        fn and_b(a: Self::B, b: Self::B) -> Self::B { each!(I => vandq_u8(a[I], b[I])) }
        fn or_b(a: Self::B, b: Self::B) -> Self::B { each!(I => vorrq_u8(a[I], b[I])) }
        fn shr_b(v: Self::B, by: u32) -> Self::B {
            let by = vdupq_n_s8(-(by as i8));
            each!(I => vshlq_u8(v[I], by))
        }
        fn shl_b(v: Self::B, by: u32) -> Self::B {
            let by = vdupq_n_s8(by as i8);
            each!(I => vshlq_u8(v[I], by))
        }
        fn look_up(table: &[i8; 16], index: Self::B) -> Self::B {
            let table = vld1q_u8(table.as_ptr().cast());
            each!(I => vqtbl1q_u8(table, index[I]))
        }

        fn centre(v: Self::B, zero: u8) -> Self::B {
            let zero = vdupq_n_u8(zero);
            each!(I => vsubq_u8(v[I], zero))
        }
        fn centre_at_128(v: Self::B, zero: u8) -> Self::B { Self::centre(v, zero) }
        fn start(_minus_128_sums: *const i32, _zero: u8) -> Self::I { [vdupq_n_s32(0); 4] }
        fn dot_signed(sum: Self::I, w: Self::B, a: Self::I) -> Self::I {
            each!(I => dot(sum[I], vreinterpretq_s8_u8(w[I]), vreinterpretq_s8_s32(a[I])))
        }
        // Weights up to 127 are the same number with a sign.
        fn dot_unsigned(sum: Self::I, w: Self::B, a: Self::I) -> Self::I { Self::dot_signed(sum, w, a) }
        fn dot_pairs(sum: Self::I, a: Self::I, b: Self::I) -> Self::I {
            each!(I => {
                let (a, b) = (vreinterpretq_s16_s32(a[I]), vreinterpretq_s16_s32(b[I]));
                let (low, high) = (vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b));
                vaddq_s32(sum[I], vpaddq_s32(low, high))
            })
        }

        fn splat_i(v: i32) -> Self::I { [vdupq_n_s32(v); 4] }
        fn load_i(from: *const i32) -> Self::I { each!(I => vld1q_s32(from.add(4 * I))) }
        fn store_i(to: *mut i32, v: Self::I) { each!(I => vst1q_s32(to.add(4 * I), v[I])); }
        fn load_u8(from: *const u8) -> Self::I {
            let v = vld1q_u8(from);
            let (low, high) = (vmovl_u8(vget_low_u8(v)), vmovl_high_u8(v));
            let wide = [
                vmovl_u16(vget_low_u16(low)),
                vmovl_high_u16(low),
                vmovl_u16(vget_low_u16(high)),
                vmovl_high_u16(high),
            ];
            each!(I => vreinterpretq_s32_u32(wide[I]))
        }
        fn load_i8(from: *const i8) -> Self::I {
            let v = vld1q_s8(from);
            let (low, high) = (vmovl_s8(vget_low_s8(v)), vmovl_high_s8(v));
            [
                vmovl_s16(vget_low_s16(low)),
                vmovl_high_s16(low),
                vmovl_s16(vget_low_s16(high)),
                vmovl_high_s16(high),
            ]
        }
        fn load_u16(from: *const u16) -> Self::I {
            each!(I => vreinterpretq_s32_u32(vmovl_u16(vld1_u16(from.add(4 * I)))))
        }
        fn store_low_bytes(to: *mut u8, v: Self::I) {
            let w = each!(I => vreinterpretq_u16_s32(v[I]));
            let (low, high) = (vuzp1q_u16(w[0], w[1]), vuzp1q_u16(w[2], w[3]));
            vst1q_u8(to, vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high)));
        }
        fn as_b(v: Self::I) -> Self::B { each!(I => vreinterpretq_u8_s32(v[I])) }
        fn and_i(a: Self::I, b: Self::I) -> Self::I { each!(I => vandq_s32(a[I], b[I])) }
        fn or_i(a: Self::I, b: Self::I) -> Self::I { each!(I => vorrq_s32(a[I], b[I])) }
        fn add_i(a: Self::I, b: Self::I) -> Self::I { each!(I => vaddq_s32(a[I], b[I])) }
        fn max_i(a: Self::I, b: Self::I) -> Self::I { each!(I => vmaxq_s32(a[I], b[I])) }
        fn largest_i(v: Self::I) -> i32 {
            vmaxvq_s32(vmaxq_s32(vmaxq_s32(v[0], v[1]), vmaxq_s32(v[2], v[3])))
        }
        fn shr_i(v: Self::I, by: u32) -> Self::I {
            let by = vdupq_n_s32(-(by as i32));
            each!(I => vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(v[I]), by)))
        }
        fn shl_i(v: Self::I, by: u32) -> Self::I {
            let by = vdupq_n_s32(by as i32);
            each!(I => vshlq_s32(v[I], by))
        }

        fn to_f(v: Self::I) -> Self::F { each!(I => vcvtq_f32_s32(v[I])) }
        fn as_f(v: Self::I) -> Self::F { each!(I => vreinterpretq_f32_s32(v[I])) }
        fn as_i(v: Self::F) -> Self::I { each!(I => vreinterpretq_s32_f32(v[I])) }
        fn splat_f(v: f32) -> Self::F { [vdupq_n_f32(v); 4] }
        fn load_f(from: *const f32) -> Self::F { each!(I => vld1q_f32(from.add(4 * I))) }
        fn store_f(to: *mut f32, v: Self::F) { each!(I => vst1q_f32(to.add(4 * I), v[I])); }
        fn load_f16(from: *const u16) -> Self::F {
            each!(I => vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from.add(4 * I)))))
        }
        fn load_f8_256ths(from: *const u8) -> Self::F {
            // As in `f8e4m3_to_f32`, without the NaN, which packing refuses: the magnitude becomes that of a
            // half, off by a factor of 256.
            let v = vld1q_s8(from.cast());
            let halves = [vmovl_s8(vget_low_s8(v)), vmovl_high_s8(v)];
            each!(I => {
                let quarter = if I % 2 == 0 { vget_low_s16(halves[I / 2]) } else { vget_high_s16(halves[I / 2]) };
                let magnitude = vshl_n_s16::<7>(vand_s16(quarter, vdup_n_s16(0x7f)));
                let half = vorr_s16(magnitude, vand_s16(quarter, vdup_n_s16(i16::MIN)));
                vcvt_f32_f16(vreinterpret_f16_s16(half))
            })
        }
        fn add(a: Self::F, b: Self::F) -> Self::F { each!(I => vaddq_f32(a[I], b[I])) }
        fn mul(a: Self::F, b: Self::F) -> Self::F { each!(I => vmulq_f32(a[I], b[I])) }
        fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F { each!(I => vfmaq_f32(c[I], a[I], b[I])) }
        fn fnma(a: Self::F, b: Self::F, c: Self::F) -> Self::F { each!(I => vfmsq_f32(c[I], a[I], b[I])) }
    }
}
