//! Vector operations in plain Rust: the specification of the others.

use half::f16;

use super::{LANES, Lanes};
use crate::f8e4m3_to_f32;

/// Plain Rust, for any processor.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

#[inline(always)]
fn zip<T: Copy, U: Copy, R>(a: [T; LANES], b: [U; LANES], f: impl Fn(T, U) -> R) -> [R; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

#[inline(always)]
fn zip_bytes(a: [u8; 64], b: [u8; 64], f: impl Fn(u8, u8) -> u8) -> [u8; 64] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

#[inline(always)]
fn dot(sum: [i32; LANES], w: [u8; 64], a: [i32; LANES], value: impl Fn(u8) -> i32) -> [i32; LANES] {
    std::array::from_fn(|lane| {
        let bytes = a[lane].to_le_bytes();
        (0..4).fold(sum[lane], |sum, i| sum.wrapping_add(value(w[4 * lane + i]) * i32::from(bytes[i] as i8)))
    })
}

impl Lanes for Scalar {
    type B = [u8; 64];
    type I = [i32; LANES];
    type F = [f32; LANES];

    const TILE: usize = 1;
    const DIRECT: usize = 1;

    #[inline(always)]
    unsafe fn load_b(from: *const u8) -> Self::B {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { from.cast::<Self::B>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_b(to: *mut u8, v: Self::B) {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { to.cast::<Self::B>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn splat_b(v: u8) -> Self::B {
        [v; 64]
    }
    #[inline(always)]
    unsafe fn and_b(a: Self::B, b: Self::B) -> Self::B {
        zip_bytes(a, b, |a, b| a & b)
    }
    #[inline(always)]
    unsafe fn or_b(a: Self::B, b: Self::B) -> Self::B {
        zip_bytes(a, b, |a, b| a | b)
    }
    #[inline(always)]
    unsafe fn shr_b(v: Self::B, by: u32) -> Self::B {
        v.map(|v| v >> by)
    }
    #[inline(always)]
    unsafe fn shl_b(v: Self::B, by: u32) -> Self::B {
        v.map(|v| v << by)
    }
    #[inline(always)]
    unsafe fn look_up(table: &[i8; 16], index: Self::B) -> Self::B {
        index.map(|index| table[usize::from(index & 15)] as u8)
    }

    #[inline(always)]
    unsafe fn centre(v: Self::B, zero: u8) -> Self::B {
        v.map(|v| v.wrapping_sub(zero))
    }
    #[inline(always)]
    unsafe fn centre_at_128(v: Self::B, zero: u8) -> Self::B {
        v.map(|v| v.wrapping_sub(zero))
    }
    #[inline(always)]
    unsafe fn start(_minus_128_sums: *const i32, _zero: u8) -> Self::I {
        [0; LANES]
    }
    #[inline(always)]
    unsafe fn dot_signed(sum: Self::I, w: Self::B, a: Self::I) -> Self::I {
        dot(sum, w, a, |w| i32::from(w as i8))
    }
    #[inline(always)]
    unsafe fn dot_unsigned(sum: Self::I, w: Self::B, a: Self::I) -> Self::I {
        dot(sum, w, a, i32::from)
    }
    #[inline(always)]
    unsafe fn dot_pairs(sum: Self::I, a: Self::I, b: Self::I) -> Self::I {
        std::array::from_fn(|i| {
            let (a, b) = (a[i], b[i]);
            sum[i] + i32::from(a as i16) * i32::from(b as i16) + (a >> 16) * (b >> 16)
        })
    }

    #[inline(always)]
    unsafe fn splat_i(v: i32) -> Self::I {
        [v; LANES]
    }
    #[inline(always)]
    unsafe fn load_i(from: *const i32) -> Self::I {
        // SAFETY: the caller vouches for 16 integers.
        unsafe { from.cast::<Self::I>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_i(to: *mut i32, v: Self::I) {
        // SAFETY: the caller vouches for 16 integers.
        unsafe { to.cast::<Self::I>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> Self::I {
        // SAFETY: the caller vouches for 16 bytes.
        unsafe { from.cast::<[u8; LANES]>().read_unaligned() }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self::I {
        // SAFETY: the caller vouches for 16 bytes.
        unsafe { from.cast::<[i8; LANES]>().read_unaligned() }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn load_u16(from: *const u16) -> Self::I {
        // SAFETY: the caller vouches for 16 integers of 16 bits.
        unsafe { from.cast::<[u16; LANES]>().read_unaligned() }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn store_low_bytes(to: *mut u8, v: Self::I) {
        // SAFETY: the trait's caller points to 16 bytes.
        unsafe { to.cast::<[u8; LANES]>().write(v.map(|v| v as u8)) };
    }
    #[inline(always)]
    unsafe fn and_i(a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, |a, b| a & b)
    }
    #[inline(always)]
    unsafe fn or_i(a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, |a, b| a | b)
    }
    #[inline(always)]
    unsafe fn add_i(a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, i32::wrapping_add)
    }
    #[inline(always)]
    unsafe fn max_i(a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, i32::max)
    }
    #[inline(always)]
    unsafe fn largest_i(v: Self::I) -> i32 {
        v.into_iter().fold(i32::MIN, i32::max)
    }
    #[inline(always)]
    unsafe fn shr_i(v: Self::I, by: u32) -> Self::I {
        v.map(|v| (v as u32 >> by) as i32)
    }
    #[inline(always)]
    unsafe fn shl_i(v: Self::I, by: u32) -> Self::I {
        v.map(|v| v << by)
    }

    #[inline(always)]
    unsafe fn to_f(v: Self::I) -> Self::F {
        v.map(|v| v as f32)
    }
    #[inline(always)]
    unsafe fn as_f(v: Self::I) -> Self::F {
        v.map(|v| f32::from_bits(v as u32))
    }
    #[inline(always)]
    unsafe fn as_i(v: Self::F) -> Self::I {
        v.map(|v| v.to_bits().cast_signed())
    }
    #[inline(always)]
    unsafe fn splat_f(v: f32) -> Self::F {
        [v; LANES]
    }
    #[inline(always)]
    unsafe fn load_f(from: *const f32) -> Self::F {
        // SAFETY: the caller vouches for 16 floats.
        unsafe { from.cast::<Self::F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_f(to: *mut f32, v: Self::F) {
        // SAFETY: the caller vouches for 16 floats.
        unsafe { to.cast::<Self::F>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self::F {
        // SAFETY: the caller vouches for 16 halves.
        unsafe { from.cast::<[u16; LANES]>().read_unaligned() }.map(|v| f16::from_bits(v).to_f32())
    }
    #[inline(always)]
    unsafe fn load_f8_256ths(from: *const u8) -> Self::F {
        // SAFETY: the caller vouches for 16 bytes.
        unsafe { from.cast::<[u8; LANES]>().read_unaligned() }.map(|v| f8e4m3_to_f32(v) / 256.0)
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn fnma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| (-a[i]).mul_add(b[i], c[i]))
    }

    #[inline(always)]
    unsafe fn prefetch<const HINT: u8>(_from: *const u8) {}
}
