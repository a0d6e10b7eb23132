//! Element-wise work between matrix products: norms, activations, sums, softmax, the sampler's scans.

use crate::pool::Pool;

/// `y[r] = x[r] / sqrt(mean(x[r]²) + eps) * weight` for each of `n` rows (Zhang & Sennrich 2019,
/// arXiv:1910.07467).
///
/// `x` and `y` are `[n, weight.len()]`.
///
/// # Panics
/// If a length does not fit.
pub fn rms_norm(pool: &Pool, x: &[f32], n: usize, weight: &[f32], eps: f32, y: &mut [f32]) {
    let _ = pool;
    let dim = weight.len();
    assert_eq!(x.len(), n * dim, "x is [n, dim]");
    assert_eq!(y.len(), n * dim, "y is [n, dim]");
    if dim == 0 {
        return;
    }
    for (x, y) in x.chunks_exact(dim).zip(y.chunks_exact_mut(dim)) {
        let squares: f32 = x.iter().map(|v| v * v).sum();
        let scale = 1.0 / (squares / dim as f32 + eps).sqrt();
        for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
            *y = x * scale * w;
        }
    }
}

/// [`rms_norm`] of `x` over itself.
///
/// # Panics
/// If `x` is not `[n, weight.len()]`.
pub fn rms_norm_in_place(pool: &Pool, x: &mut [f32], n: usize, weight: &[f32], eps: f32) {
    let _ = pool;
    let dim = weight.len();
    assert_eq!(x.len(), n * dim, "x is [n, dim]");
    if dim == 0 {
        return;
    }
    for x in x.chunks_exact_mut(dim) {
        let squares: f32 = x.iter().map(|v| v * v).sum();
        let scale = 1.0 / (squares / dim as f32 + eps).sqrt();
        for (x, w) in x.iter_mut().zip(weight) {
            *x = *x * scale * w;
        }
    }
}

/// `y += x`.
///
/// # Panics
/// If the lengths differ.
pub fn add(pool: &Pool, y: &mut [f32], x: &[f32]) {
    let _ = pool;
    assert_eq!(x.len(), y.len(), "equal lengths");
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

/// `y = silu(gate) * up` with `silu(x) = x / (1 + exp(-x))`.
///
/// # Panics
/// If the lengths differ.
pub fn silu_mul(pool: &Pool, gate: &[f32], up: &[f32], y: &mut [f32]) {
    let _ = pool;
    assert!(gate.len() == up.len() && up.len() == y.len(), "equal lengths");
    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
        *y = gate / (1.0 + (-gate).exp()) * up;
    }
}

/// `x = 1 / (1 + exp(-x))`.
pub fn sigmoid(x: &mut [f32]) {
    for x in x {
        *x = 1.0 / (1.0 + (-*x).exp());
    }
}

/// `x = exp(x - max) / sum`. An empty slice stays empty; a slice of negative infinities becomes NaN.
pub fn softmax(x: &mut [f32]) {
    let largest = max(x);
    let mut sum = 0.0;
    for x in x.iter_mut() {
        *x = (*x - largest).exp();
        sum += *x;
    }
    for x in x {
        *x /= sum;
    }
}

/// `ln(sum(exp(x)))`, what a logit lacks to be a log-probability. Negative infinity for an empty slice.
#[must_use]
pub fn log_sum_exp(x: &[f32]) -> f32 {
    let largest = max(x);
    if !largest.is_finite() {
        return largest;
    }
    let sum: f32 = x.iter().map(|x| (x - largest).exp()).sum();
    largest + sum.ln()
}

/// The largest value, negative infinity for an empty slice. NaN is passed over.
#[must_use]
pub fn max(x: &[f32]) -> f32 {
    x.iter().fold(f32::NEG_INFINITY, |largest, x| if *x > largest { *x } else { largest })
}

/// The index of the largest value, the first of equals. NaN is passed over; `None` if nothing else is there.
#[must_use]
pub fn argmax(x: &[f32]) -> Option<usize> {
    let largest = max(x);
    x.iter().position(|x| *x == largest)
}

/// The `k` largest values with their indices, largest first and of equals the lower index first. NaN is
/// passed over. `out` is overwritten and its capacity reused.
pub fn top_k(x: &[f32], k: usize, out: &mut Vec<(u32, f32)>) {
    out.clear();
    out.extend(x.iter().enumerate().filter(|(_, x)| !x.is_nan()).map(|(i, x)| (i as u32, *x)));
    out.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    out.truncate(k);
}
