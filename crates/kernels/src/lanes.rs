//! The vector operations that matrix products are written in, one implementation per instruction set.
//!
//! A lane is an output row: sixteen of them make a vector of floats or 32-bit integers, and a vector of 64 bytes
//! holds four consecutive weights of each. Everything above this module is written once, so that each
//! instruction set computes the same operations in the same order. All of it is `#[inline(always)]`, so that it
//! is compiled with the features of the entry functions in `kernels`.

#[cfg(all(target_arch = "x86_64", not(fuzzing)))]
mod avx2;
#[cfg(all(target_arch = "x86_64", not(fuzzing)))]
mod avx512;
mod codebook;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(all(target_arch = "x86_64", not(fuzzing)))]
mod vbmi;

#[cfg(all(target_arch = "x86_64", not(fuzzing)))]
pub(crate) use avx2::Avx2;
#[cfg(all(target_arch = "x86_64", not(fuzzing)))]
pub(crate) use avx512::{Avx512, Avx512Vbmi};
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::{Neon, dot as neon_dot};
pub(crate) use scalar::Scalar;

use crate::codebook::{Octets, Quads};

/// Hints of [`Lanes::prefetch`], see [`crate::prefetch::Hint`].
pub(crate) const NTA: u8 = 0;
pub(crate) const T0: u8 = 1;
pub(crate) const T1: u8 = 2;
/// How far ahead of its use a cache line is asked for with [`NTA`], in bytes; part of the instruction there.
pub(crate) const NTA_AHEAD: usize = 4096;

/// Rows that are computed side by side.
pub(crate) const LANES: usize = 16;

/// An array of eight, each element written out: closures and iterators are not sure to be compiled with the
/// instructions of the function that they end up in.
macro_rules! unrolled {
    ($s:ident => $each:expr) => {
        [
            unrolled!(@one 0, $s, $each),
            unrolled!(@one 1, $s, $each),
            unrolled!(@one 2, $s, $each),
            unrolled!(@one 3, $s, $each),
            unrolled!(@one 4, $s, $each),
            unrolled!(@one 5, $s, $each),
            unrolled!(@one 6, $s, $each),
            unrolled!(@one 7, $s, $each),
        ]
    };
    (@one $value:literal, $s:ident, $each:expr) => {{
        let $s: usize = $value;
        $each
    }};
}
pub(crate) use unrolled;

/// Vector operations of one instruction set.
///
/// # Safety
/// Every method may be called only where the processor has the instructions, and pointers must be valid for
/// what is read or written: 64 bytes or 16 lanes. Alignment is not required.
pub(crate) trait Lanes: Copy + 'static {
    /// 64 bytes: four weights of each of 16 rows.
    type B: Copy;
    /// 16 integers of 32 bits.
    type I: Copy;
    /// 16 floats of 32 bits.
    type F: Copy;

    /// Widest tile of the general product, in columns.
    const TILE: usize;
    /// Most columns for which unpacking weights in registers is quicker than unpacking to memory first.
    const DIRECT: usize;

    unsafe fn load_b(from: *const u8) -> Self::B;
    unsafe fn store_b(to: *mut u8, v: Self::B);
    unsafe fn splat_b(v: u8) -> Self::B;
    unsafe fn and_b(a: Self::B, b: Self::B) -> Self::B;
    unsafe fn or_b(a: Self::B, b: Self::B) -> Self::B;
    /// Shifts right; what crosses from one byte into another is for the caller to mask.
    unsafe fn shr_b(v: Self::B, by: u32) -> Self::B;
    /// Shifts left; as [`Lanes::shr_b`].
    unsafe fn shl_b(v: Self::B, by: u32) -> Self::B;
    /// Replaces each byte, 0 to 15, by that byte of the table.
    unsafe fn look_up(table: &[i8; 16], index: Self::B) -> Self::B;

    /// Weights whose value is `v - zero`, in the form that [`Lanes::dot_signed`] wants after
    /// [`Lanes::start`] with the same zero, a power of two.
    unsafe fn centre(v: Self::B, zero: u8) -> Self::B;
    /// As [`Lanes::centre`], in the form that goes with a start for a zero of 128.
    unsafe fn centre_at_128(v: Self::B, zero: u8) -> Self::B;
    /// The sum that a group starts with, given -128 times the sum of its activations.
    unsafe fn start(minus_128_sums: *const i32, zero: u8) -> Self::I;
    /// Adds the products of four centred weights with four signed bytes, none of them -128, in each lane.
    unsafe fn dot_signed(sum: Self::I, w: Self::B, a: Self::I) -> Self::I;
    /// Adds the products of four weights from 0 to 127 with four signed bytes in each lane.
    unsafe fn dot_unsigned(sum: Self::I, w: Self::B, a: Self::I) -> Self::I;
    /// Adds the products of two 16-bit integers in each lane.
    unsafe fn dot_pairs(sum: Self::I, a: Self::I, b: Self::I) -> Self::I;

    unsafe fn splat_i(v: i32) -> Self::I;
    unsafe fn load_i(from: *const i32) -> Self::I;
    unsafe fn store_i(to: *mut i32, v: Self::I);
    unsafe fn load_u8(from: *const u8) -> Self::I;
    unsafe fn load_i8(from: *const i8) -> Self::I;
    unsafe fn load_u16(from: *const u16) -> Self::I;
    /// Writes the lowest byte of each lane, 16 bytes.
    unsafe fn store_low_bytes(to: *mut u8, v: Self::I);
    unsafe fn and_i(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn or_i(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn add_i(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn max_i(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn largest_i(v: Self::I) -> i32;
    unsafe fn shr_i(v: Self::I, by: u32) -> Self::I;
    unsafe fn shl_i(v: Self::I, by: u32) -> Self::I;

    unsafe fn to_f(v: Self::I) -> Self::F;
    /// The same bits seen as floats.
    unsafe fn as_f(v: Self::I) -> Self::F;
    /// The same bits seen as integers.
    unsafe fn as_i(v: Self::F) -> Self::I;
    unsafe fn splat_f(v: f32) -> Self::F;
    unsafe fn load_f(from: *const f32) -> Self::F;
    unsafe fn store_f(to: *mut f32, v: Self::F);
    /// 16 half-precision floats.
    unsafe fn load_f16(from: *const u16) -> Self::F;
    /// 16 8-bit floats of 4 exponent and 3 mantissa bits, each divided by 256.
    unsafe fn load_f8_256ths(from: *const u8) -> Self::F;
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a * b`, rounded once.
    unsafe fn fnma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;

    /// 32 of them.
    #[inline(always)]
    unsafe fn load_two_f8_256ths(from: *const u8) -> [Self::F; 2] {
        // SAFETY: the caller's contract, for twice 16 values.
        unsafe { [Self::load_f8_256ths(from), Self::load_f8_256ths(from.add(LANES))] }
    }
    /// The same bits seen as bytes.
    #[inline(always)]
    unsafe fn as_b(v: Self::I) -> Self::B {
        let mut lanes = [0; LANES];
        // SAFETY: the array has room for a vector.
        unsafe {
            Self::store_i(lanes.as_mut_ptr(), v);
            Self::load_b(lanes.as_ptr().cast())
        }
    }
    /// The lowest 8 bits of each lane, those from bit `STEP` on, from twice that and from three times that, as the
    /// lane's four bytes. Of each, bits from `STEP` on are for the caller to mask.
    #[inline(always)]
    unsafe fn fields<const STEP: u32>(v: Self::I) -> Self::B {
        // SAFETY: the caller's contract.
        unsafe { codebook::fields::<Self, STEP>(v) }
    }
    /// Eight signs for the lowest seven bits of each byte, as in [`crate::codebook::SIGNS`].
    #[inline(always)]
    unsafe fn even_signs(seven: Self::B) -> Self::B {
        // SAFETY: the caller's contract.
        unsafe { codebook::even_signs::<Self>(seven) }
    }
    /// Looks up a codebook's entries of eight values, plus 128: byte `k` of each lane gives an entry's index in its
    /// part of the codebook, the part, and the signs, for columns `8k` to `8k + 7`. Vector `s` of the result holds
    /// columns `4s` to `4s + 3`.
    #[inline(always)]
    unsafe fn octets<const N: usize>(
        grid: &Octets<N>,
        index: Self::B,
        part: Self::B,
        signs: Self::B,
    ) -> [Self::B; 8] {
        // SAFETY: the caller's contract.
        unsafe { codebook::octets::<Self, N>(grid, index, part, signs) }
    }
    /// As [`Lanes::octets`] with two entries of four values: those of the lower four columns of each eight, and
    /// those of the upper.
    #[inline(always)]
    unsafe fn quads<const N: usize>(
        grid: &Quads<N>,
        index: [Self::B; 2],
        part: [Self::B; 2],
        signs: Self::B,
    ) -> [Self::B; 8] {
        // SAFETY: the caller's contract.
        unsafe { codebook::quads::<Self, N>(grid, index, part, signs) }
    }

    /// Asks for a cache line of weights, at any address, by [`NTA`], [`T0`] or [`T1`].
    unsafe fn prefetch<const HINT: u8>(from: *const u8);
}

/// Asks for a cache line that is going to be read, at any address.
pub(crate) fn prefetch_to_read(from: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch has no effect on memory and does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = from;
}

/// Asks for a cache line that is going to be read a while later, at any address.
pub(crate) fn prefetch_to_second_cache(from: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch has no effect on memory and does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = from;
}

/// Asks for a cache line that is going to be written, at any address.
pub(crate) fn prefetch_to_write(to: *const f32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        // SAFETY: a prefetch has no effect on memory and does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(to.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = to;
}
