//! Sixteen lanes in plain Rust: the meaning of the others.

use half::f16;

use super::{Kernel, LANES, Simd};

/// Works everywhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar;

#[inline(always)]
fn each(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Scalar {
    type F = [f32; LANES];
    type Quads = [u8; 64];
    type Sums = [i32; LANES];
    const WIDE: bool = false;
    const QUANT_ROWS: usize = 6;

    #[inline(always)]
    fn enter<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::F {
        // SAFETY: the caller vouches for 16 values; an array of f32 has their alignment or none is needed.
        unsafe { from.cast::<Self::F>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> Self::F {
        // SAFETY: as in `load`.
        let bits = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        bits.map(|bits| f16::from_bits(bits).to_f32())
    }

    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> Self::F {
        // SAFETY: as in `load`.
        unsafe { from.cast::<[i8; LANES]>().read_unaligned() }.map(f32::from)
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: Self::F) {
        // SAFETY: the caller vouches for room for 16 values.
        unsafe { to.cast::<Self::F>().write_unaligned(x) }
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "callers pass integers within ±127")]
    unsafe fn store_i8(self, to: *mut i8, x: Self::F) {
        // SAFETY: as in `store`.
        unsafe { to.cast::<[i8; LANES]>().write_unaligned(x.map(|x| x as i8)) }
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16, x: Self::F) {
        let bits = x.map(|x| f16::from_f32(x).to_bits());
        // SAFETY: as in `store`.
        unsafe { to.cast::<[u16; LANES]>().write_unaligned(bits) }
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        each(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        each(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        each(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        each(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        each(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        each(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn select_less(self, x: Self::F, y: Self::F, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| if x[i] < y[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn any_greater(self, x: Self::F, y: Self::F) -> bool {
        x.iter().zip(&y).any(|(x, y)| x > y)
    }

    #[inline(always)]
    fn round(self, x: Self::F) -> Self::F {
        x.map(f32::round_ties_even)
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "saturates, and callers pass -126 to 127 or NaN")]
    fn exp2_of_integer(self, x: Self::F) -> Self::F {
        x.map(|x| f32::from_bits(((x as i32 + 127) << 23).cast_unsigned()))
    }

    #[inline(always)]
    fn sum(self, mut x: Self::F) -> f32 {
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                x[i] += x[i + half];
            }
        }
        x[0]
    }

    #[inline(always)]
    fn largest(self, mut x: Self::F) -> f32 {
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                x[i] = if x[i] > x[i + half] { x[i] } else { x[i + half] };
            }
        }
        x[0]
    }

    #[inline(always)]
    unsafe fn load_quads(self, from: *const u8) -> Self::Quads {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { from.cast::<Self::Quads>().read_unaligned() }
    }

    #[inline(always)]
    fn query_quad(self, q: [i16; 4]) -> [u32; 2] {
        let pair = |a: i16, b: i16| u32::from(a.cast_unsigned()) | u32::from(b.cast_unsigned()) << 16;
        [pair(q[0], q[1]), pair(q[2], q[3])]
    }

    #[inline(always)]
    fn zero_sums(self) -> Self::Sums {
        [0; LANES]
    }

    #[inline(always)]
    unsafe fn dot_quads(self, sums: Self::Sums, k: Self::Quads, q: *const u32) -> Self::Sums {
        // SAFETY: the caller vouches for two words.
        let words = unsafe { [*q, *q.add(1)] };
        let part = |word: u32| [(word as u16).cast_signed(), ((word >> 16) as u16).cast_signed()];
        let ([a, b], [c, d]) = (part(words[0]), part(words[1]));
        let q = [i32::from(a), i32::from(b), i32::from(c), i32::from(d)];
        std::array::from_fn(|i| sums[i] + (0..4).map(|j| i32::from(k[i * 4 + j]) * q[j]).sum::<i32>())
    }

    #[inline(always)]
    fn centred_sums(self, sums: Self::Sums, bias: i32) -> Self::F {
        sums.map(|sum| (sum - bias) as f32)
    }

    #[inline(always)]
    fn transpose(self, rows: &mut [Self::F; LANES]) {
        let columns = *rows;
        *rows = std::array::from_fn(|i| std::array::from_fn(|j| columns[j][i]));
    }
}
