//! Element-wise work between matrix products: norms, activations, sums, softmax, the sampler's scans.
//!
//! Sums run over sixteen lanes in a fixed order and rows are never split, so results depend neither on the
//! threads nor on the instruction set.

mod scan;

use crate::pool::Pool;
use crate::simd::{Kernel, LANES, Simd, dispatch};
use crate::sizes::product;

pub use scan::{argmax, log_sum_exp, max, softmax, top_k};

/// Below this many values a fork/join costs more than it gains.
const PARALLEL_VALUES: usize = 1 << 15;
/// Values a task takes when the work is divided without regard to rows.
const TASK_VALUES: usize = 1 << 13;

/// Calls `f(first, part)` for parts of `y` of `part_len` values, `first` being a part's first index, on
/// several threads if there is enough to do.
fn for_each_part(pool: &Pool, y: &mut [f32], part_len: usize, f: &(dyn Fn(usize, &mut [f32]) + Sync)) {
    struct Start(*mut f32);
    // SAFETY: each task makes its own part from the pointer, and parts do not overlap.
    unsafe impl Sync for Start {}

    let len = y.len();
    if len < PARALLEL_VALUES || part_len >= len {
        for (index, part) in y.chunks_mut(part_len.max(1)).enumerate() {
            f(index * part_len, part);
        }
        return;
    }
    let start = Start(y.as_mut_ptr());
    let start = &start;
    pool.run(len.div_ceil(part_len), &|task| {
        let first = task * part_len;
        // SAFETY: the part lies within `y`, which is borrowed exclusively until `run` returns.
        f(first, unsafe { std::slice::from_raw_parts_mut(start.0.add(first), part_len.min(len - first)) });
    });
}

/// Rows that make a task of about [`TASK_VALUES`], in values.
fn rows_per_part(dim: usize) -> usize {
    TASK_VALUES.div_ceil(dim) * dim
}

/// `y[r] = x[r] / sqrt(mean(x[r]²) + eps) * weight` for each of `n` rows (Zhang & Sennrich 2019,
/// arXiv:1910.07467).
///
/// `x` and `y` are `[n, weight.len()]`.
///
/// # Panics
/// If a length does not fit.
pub fn rms_norm(pool: &Pool, x: &[f32], n: usize, weight: &[f32], eps: f32, y: &mut [f32]) {
    let dim = weight.len();
    assert_eq!(x.len(), product([n, dim]), "x is [n, dim]");
    assert_eq!(y.len(), x.len(), "y is [n, dim]");
    if dim == 0 {
        return;
    }
    for_each_part(pool, y, rows_per_part(dim), &|first, y| {
        y.copy_from_slice(&x[first..][..y.len()]);
        dispatch(RmsNorm { x: y, weight, eps });
    });
}

/// [`rms_norm`] of `x` over itself.
///
/// # Panics
/// If `x` is not `[n, weight.len()]`.
pub fn rms_norm_in_place(pool: &Pool, x: &mut [f32], n: usize, weight: &[f32], eps: f32) {
    let dim = weight.len();
    assert_eq!(x.len(), product([n, dim]), "x is [n, dim]");
    if dim == 0 {
        return;
    }
    for_each_part(pool, x, rows_per_part(dim), &|_, x| dispatch(RmsNorm { x, weight, eps }));
}

struct RmsNorm<'a> {
    x: &'a mut [f32],
    weight: &'a [f32],
    eps: f32,
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for x in self.x.chunks_exact_mut(self.weight.len()) {
            // Four sums, so that additions need not wait for each other.
            let mut sums = [s.splat(0.0); 4];
            for four in x.chunks(4 * LANES) {
                for (sum, x) in sums.iter_mut().zip(four.chunks(LANES)) {
                    let x = s.load_slice(x, 0.0);
                    *sum = s.mul_add(x, x, *sum);
                }
            }
            let squares = s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])));
            let scale = s.splat(1.0 / (squares / self.weight.len() as f32 + self.eps).sqrt());
            for (x, weight) in x.chunks_mut(LANES).zip(self.weight.chunks(LANES)) {
                let scaled = s.mul(s.load_slice(x, 0.0), scale);
                s.store_slice(x, s.mul(scaled, s.load_slice(weight, 0.0)));
            }
        }
    }
}

/// `y += x`.
///
/// # Panics
/// If the lengths differ.
pub fn add(pool: &Pool, y: &mut [f32], x: &[f32]) {
    assert_eq!(x.len(), y.len(), "equal lengths");
    for_each_part(pool, y, TASK_VALUES, &|first, y| dispatch(Add { y, x: &x[first..] }));
}

struct Add<'a> {
    y: &'a mut [f32],
    x: &'a [f32],
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (y, x) in self.y.chunks_mut(LANES).zip(self.x.chunks(LANES)) {
            s.store_slice(y, s.add(s.load_slice(y, 0.0), s.load_slice(x, 0.0)));
        }
    }
}

/// `y = silu(gate) * up` with `silu(x) = x / (1 + exp(-x))`, within 4e-7 of the true value relatively.
///
/// # Panics
/// If the lengths differ.
pub fn silu_mul(pool: &Pool, gate: &[f32], up: &[f32], y: &mut [f32]) {
    assert!(gate.len() == up.len() && up.len() == y.len(), "equal lengths");
    for_each_part(pool, y, TASK_VALUES, &|first, y| {
        dispatch(SiluMul { gate: &gate[first..], up: &up[first..], y });
    });
}

struct SiluMul<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for SiluMul<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let inputs = self.gate.chunks(LANES).zip(self.up.chunks(LANES));
        for (y, (gate, up)) in self.y.chunks_mut(LANES).zip(inputs) {
            let gate = s.load_slice(gate, 0.0);
            let silu = s.div(gate, one_plus_exp_minus(s, gate));
            s.store_slice(y, s.mul(silu, s.load_slice(up, 0.0)));
        }
    }
}

/// `1 + exp(-x)`, infinite where the power exceeds f32.
#[inline(always)]
fn one_plus_exp_minus<S: Simd>(s: S, x: S::F) -> S::F {
    let minus = s.sub(s.splat(0.0), x);
    // `exp` stops growing at e^88; a very large argument divided by that would not come near zero.
    let power = s.select_less(s.splat(88.0), minus, s.splat(f32::INFINITY), s.exp(minus));
    s.add(s.splat(1.0), power)
}

/// `x = 1 / (1 + exp(-x))`, within 4e-7 of the true value relatively.
pub fn sigmoid(x: &mut [f32]) {
    dispatch(Sigmoid(x));
}

struct Sigmoid<'a>(&'a mut [f32]);

impl Kernel for Sigmoid<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for x in self.0.chunks_mut(LANES) {
            let y = s.div(s.splat(1.0), one_plus_exp_minus(s, s.load_slice(x, 0.0)));
            s.store_slice(x, y);
        }
    }
}

#[cfg(test)]
mod tests;
