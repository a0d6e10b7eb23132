//! Sixteen f32 lanes, whatever the machine's vectors: one AVX-512 register, two of AVX2, four of
//! NEON or an array.
//!
//! A kernel is written once against [`Simd`] and compiled for each instruction set. Because every set has the
//! same sixteen lanes, adds them up in the same order and fuses multiplication and addition (the scalar one
//! through `f32::mul_add`), all of them give the same bits.
//!
//! A token such as [`Avx512`] exists only where its instructions do; that is what makes its methods sound.
//! Everything between a kernel's `run` and the instructions is `#[inline(always)]`, so that it is compiled
//! with the features of the function that [`dispatch`] enters.

#[cfg(all(target_arch = "x86_64", not(fuzzing)))]
mod avx2;
#[cfg(all(target_arch = "x86_64", not(fuzzing)))]
mod avx512;
#[cfg(all(target_arch = "aarch64", not(fuzzing)))]
mod neon;
mod scalar;

#[cfg(all(target_arch = "x86_64", not(fuzzing)))]
pub(crate) use avx2::Avx2;
#[cfg(all(target_arch = "x86_64", not(fuzzing)))]
pub(crate) use avx512::Avx512;
#[cfg(all(target_arch = "aarch64", not(fuzzing)))]
pub(crate) use neon::Neon;
pub(crate) use scalar::Scalar;

use crate::{Isa, isa};

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Work that can be done with any set of instructions.
pub(crate) trait Kernel {
    /// What comes out.
    type Output;
    /// Does it. Implementations are `#[inline(always)]`.
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// Does `kernel`'s work with the instructions in use.
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    dispatch_on(isa(), kernel)
}

/// Does `kernel`'s work with the instructions named, which the machine must have, or plain ones.
pub(crate) fn dispatch_on<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    #[cfg(all(target_arch = "x86_64", not(fuzzing)))]
    {
        if isa == Isa::Avx512
            && let Some(token) = Avx512::detect()
        {
            return token.enter(kernel);
        }
        if matches!(isa, Isa::Avx2 | Isa::AvxVnni)
            && let Some(token) = Avx2::detect()
        {
            return token.enter(kernel);
        }
    }
    #[cfg(all(target_arch = "aarch64", not(fuzzing)))]
    if isa == Isa::Neon
        && let Some(token) = Neon::detect()
    {
        return token.enter(kernel);
    }
    let _ = isa;
    Scalar.enter(kernel)
}

/// Operations on sixteen lanes.
pub(crate) trait Simd: Copy {
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen groups of four bytes, prepared for dot products.
    type Quads: Copy;
    /// Sixteen sums of dot products with 16-bit integers.
    type Sums: Copy;
    /// Whether there are 32 registers for sixteen lanes each, or only about 8.
    const WIDE: bool;
    /// Rows whose [`Simd::Sums`] there are registers for.
    const QUANT_ROWS: usize;

    /// Runs a kernel in a function that has the instructions' features.
    fn enter<K: Kernel>(self, kernel: K) -> K::Output;

    fn splat(self, x: f32) -> Self::F;
    /// # Safety
    /// `from` must be readable for 16 values.
    unsafe fn load(self, from: *const f32) -> Self::F;
    /// Sixteen f16, widened.
    ///
    /// # Safety
    /// `from` must be readable for 16 values.
    unsafe fn load_f16(self, from: *const u16) -> Self::F;
    /// Sixteen signed bytes, as numbers.
    ///
    /// # Safety
    /// `from` must be readable for 16 values.
    unsafe fn load_i8(self, from: *const i8) -> Self::F;
    /// # Safety
    /// `to` must be writable for 16 values.
    unsafe fn store(self, to: *mut f32, x: Self::F);
    /// Integers within ±127, as signed bytes.
    ///
    /// # Safety
    /// `to` must be writable for 16 values.
    unsafe fn store_i8(self, to: *mut i8, x: Self::F);
    /// Rounded to f16, the nearest and of two the even one.
    ///
    /// # Safety
    /// `to` must be writable for 16 values.
    unsafe fn store_f16(self, to: *mut u16, x: Self::F);

    /// Asks for the cache line at `at` ahead of its use; any address will do. Does nothing where that is not
    /// worth an instruction.
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        let _ = at;
    }

    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger; `b` where either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The smaller; `b` where either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a` where `x < y`, else `b`.
    fn select_less(self, x: Self::F, y: Self::F, a: Self::F, b: Self::F) -> Self::F;
    /// Whether any lane of `x` is greater than that of `y`.
    fn any_greater(self, x: Self::F, y: Self::F) -> bool;
    /// To the nearest integer, of two the even one.
    fn round(self, x: Self::F) -> Self::F;
    /// 2 to the power of an integer between -126 and 127.
    fn exp2_of_integer(self, x: Self::F) -> Self::F;

    /// The sum of the lanes: those eight apart first, then four, two and one.
    fn sum(self, x: Self::F) -> f32;
    /// The largest lane; which of several where some are NaN is not said.
    fn largest(self, x: Self::F) -> f32;

    /// # Safety
    /// `from` must be readable for 64 bytes.
    unsafe fn load_quads(self, from: *const u8) -> Self::Quads;
    /// How the second factor of [`Simd::dot_quads`] is to be written down.
    fn query_quad(self, q: [i16; 4]) -> [u32; 2];
    fn zero_sums(self) -> Self::Sums;
    /// Adds to each lane the dot product of its four bytes, unsigned, with four integers within ±32639.
    ///
    /// # Safety
    /// `q` must be readable for two words, written by [`Simd::query_quad`].
    unsafe fn dot_quads(self, sums: Self::Sums, k: Self::Quads, q: *const u32) -> Self::Sums;
    /// The sums as numbers, had 128 been taken from each byte; `bias` is 128 times the sum of all the integers
    /// that the bytes were multiplied with.
    fn centred_sums(self, sums: Self::Sums, bias: i32) -> Self::F;

    /// Sixteen rows of sixteen, turned: lane `i` of row `j` becomes lane `j` of row `i`.
    fn transpose(self, rows: &mut [Self::F; LANES]);

    #[inline(always)]
    fn to_array(self, x: Self::F) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        // SAFETY: the array has 16 values.
        unsafe { self.store(lanes.as_mut_ptr(), x) };
        lanes
    }

    /// The first sixteen values of `x`, or all there are and `fill`.
    #[inline(always)]
    fn load_slice(self, x: &[f32], fill: f32) -> Self::F {
        if x.len() >= LANES {
            // SAFETY: 16 values are there.
            return unsafe { self.load(x.as_ptr()) };
        }
        let mut lanes = [fill; LANES];
        lanes[..x.len()].copy_from_slice(x);
        // SAFETY: the array has 16 values.
        unsafe { self.load(lanes.as_ptr()) }
    }

    /// Writes the first sixteen values of `to`, or as many as it has.
    #[inline(always)]
    fn store_slice(self, to: &mut [f32], x: Self::F) {
        if to.len() >= LANES {
            // SAFETY: there is room for 16 values.
            unsafe { self.store(to.as_mut_ptr(), x) };
        } else {
            let n = to.len();
            to.copy_from_slice(&self.to_array(x)[..n]);
        }
    }

    /// `2^x`, within 2e-7 of the true value relatively; zero below -126, 2^127 at most, NaN for NaN.
    #[inline(always)]
    fn exp2(self, x: Self::F) -> Self::F {
        let clamped = self.min(self.splat(127.0), self.max(self.splat(-126.0), x));
        let whole = self.round(clamped);
        let part = self.sub(clamped, whole);
        let power = self.mul(exp2_part(self, part), self.exp2_of_integer(whole));
        self.select_less(x, self.splat(-126.0), self.splat(0.0), power)
    }

    /// `e^x`, within 2e-7 of the true value relatively; zero below -87.33, 1.7e38 at most, NaN for NaN.
    #[inline(always)]
    fn exp(self, x: Self::F) -> Self::F {
        // ln 2 in two parts (Cody & Waite 1980): the first has few bits, so its multiples are exact.
        let (ln2_high, ln2_low) = (self.splat(-0.693_359_4), self.splat(2.121_944_4e-4));
        let clamped = self.min(self.splat(88.0), self.max(self.splat(EXP_MIN), x));
        let whole = self.round(self.mul(clamped, self.splat(std::f32::consts::LOG2_E)));
        let part = self.mul_add(whole, ln2_low, self.mul_add(whole, ln2_high, clamped));
        let power = self.mul(
            exp2_part(self, self.mul(part, self.splat(std::f32::consts::LOG2_E))),
            self.exp2_of_integer(whole),
        );
        self.select_less(x, self.splat(EXP_MIN), self.splat(0.0), power)
    }
}

/// `ln(2^-126)`, below which results would be subnormal.
const EXP_MIN: f32 = -87.336_54;

/// `2^x` for x within ±0.5: the Taylor series to the seventh power, whose remainder there is below 4e-9.
#[inline(always)]
fn exp2_part<S: Simd>(s: S, x: S::F) -> S::F {
    // ln(2)^n / n!
    const COEFFICIENTS: [f32; 8] = [
        1.525_273_4e-5,
        1.540_353_e-4,
        1.333_355_8e-3,
        9.618_129e-3,
        5.550_411e-2,
        2.402_265e-1,
        std::f32::consts::LN_2,
        1.0,
    ];
    let mut sum = s.splat(COEFFICIENTS[0]);
    for c in &COEFFICIENTS[1..] {
        sum = s.mul_add(sum, x, s.splat(*c));
    }
    sum
}

#[cfg(test)]
pub(crate) mod tests;
