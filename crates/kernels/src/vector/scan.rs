//! Passes over a row of logits, up to several hundred thousand of them: softmax, the largest, the k largest.

use crate::simd::{Kernel, LANES, Simd, dispatch};

/// Values whose exponentials are added up in f32 before they join the total in f64.
const BLOCK: usize = 1024;

/// `x = exp(x - max) / sum`. An empty slice stays empty; a slice of negative infinities becomes NaN.
pub fn softmax(x: &mut [f32]) {
    let largest = max(x);
    // SAFETY: the slice is borrowed exclusively.
    let total = dispatch(unsafe { Exponentials::new(x.as_mut_ptr(), x.len(), largest, true) });
    let inverse = (1.0 / total) as f32;
    dispatch(Scale { x, factor: inverse });
}

/// `ln(sum(exp(x)))`, what a logit lacks to be a log-probability. Negative infinity for an empty slice.
#[must_use]
pub fn log_sum_exp(x: &[f32]) -> f32 {
    let largest = max(x);
    if !largest.is_finite() {
        return largest;
    }
    // SAFETY: the slice is borrowed, and nothing is kept.
    let total = dispatch(unsafe { Exponentials::new(x.as_ptr().cast_mut(), x.len(), largest, false) });
    (f64::from(largest) + total.ln()) as f32
}

/// The sum of `exp(x - largest)`, and the terms over `x` if they are to be kept.
struct Exponentials {
    x: *mut f32,
    len: usize,
    largest: f32,
    keep: bool,
}

impl Exponentials {
    /// # Safety
    /// `x` points to `len` values, which nobody writes as long as this lives; they may be written here if they are kept,
    /// and then nobody else reads them.
    unsafe fn new(x: *mut f32, len: usize, largest: f32, keep: bool) -> Self {
        Self { x, len, largest, keep }
    }
}

impl Kernel for Exponentials {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let largest = s.splat(self.largest);
        let mut total = 0.0;
        for start in (0..self.len).step_by(BLOCK) {
            let mut sum = s.splat(0.0);
            let end = (start + BLOCK).min(self.len);
            for at in (start..end).step_by(LANES) {
                let n = LANES.min(end - at);
                // SAFETY: `at + n` is at most `len`, and the slice ends with this statement.
                let x =
                    s.load_slice(unsafe { std::slice::from_raw_parts(self.x.add(at), n) }, f32::NEG_INFINITY);
                let power = s.exp(s.sub(x, largest));
                sum = s.add(sum, power);
                if self.keep {
                    // SAFETY: as above; values are kept only where the caller had a mutable slice.
                    s.store_slice(unsafe { std::slice::from_raw_parts_mut(self.x.add(at), n) }, power);
                }
            }
            total += f64::from(s.sum(sum));
        }
        total
    }
}

struct Scale<'a> {
    x: &'a mut [f32],
    factor: f32,
}

impl Kernel for Scale<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let factor = s.splat(self.factor);
        for x in self.x.chunks_mut(LANES) {
            s.store_slice(x, s.mul(s.load_slice(x, 0.0), factor));
        }
    }
}

/// The largest value, negative infinity for an empty slice. NaN is passed over.
#[must_use]
pub fn max(x: &[f32]) -> f32 {
    dispatch(Max(x))
}

struct Max<'a>(&'a [f32]);

impl Kernel for Max<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut largest = [s.splat(f32::NEG_INFINITY); 4];
        for four in self.0.chunks(4 * LANES) {
            for (largest, x) in largest.iter_mut().zip(four.chunks(LANES)) {
                *largest = s.max(s.load_slice(x, f32::NEG_INFINITY), *largest);
            }
        }
        s.largest(s.max(s.max(largest[0], largest[1]), s.max(largest[2], largest[3])))
    }
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
    if k == 0 {
        return;
    }
    dispatch(TopK { x, k, out });
    out.sort_unstable_by(best_first);
    out.truncate(k);
}

fn best_first(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    // Zero of either sign is the same value; NaN never gets here.
    b.1.partial_cmp(&a.1).unwrap_or(std::cmp::Ordering::Equal).then(a.0.cmp(&b.0))
}

/// Gathers the `k` largest values and some more: candidates are kept up to twice `k` and then cut to the best
/// `k`, of which the least becomes the value to beat, so nearly all of a long row is passed by a comparison.
struct TopK<'a> {
    x: &'a [f32],
    k: usize,
    out: &'a mut Vec<(u32, f32)>,
}

impl Kernel for TopK<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let TopK { x, k, out } = self;
        let room = k.saturating_mul(2).max(LANES * 2);
        let mut to_beat = None;
        for (index, lanes) in x.chunks(LANES).enumerate() {
            // Later equals lose, so a value must be greater; before there is one to beat, all pass.
            if let Some(least) = to_beat
                && !s.any_greater(s.load_slice(lanes, f32::NEG_INFINITY), s.splat(least))
            {
                continue;
            }
            for (lane, value) in lanes.iter().enumerate() {
                if !value.is_nan() && to_beat.is_none_or(|least| *value > least) {
                    out.push(((index * LANES + lane) as u32, *value));
                }
            }
            if out.len() > room - LANES && out.len() > k {
                out.select_nth_unstable_by(k - 1, best_first);
                out.truncate(k);
                to_beat = Some(out[k - 1].1);
            }
        }
    }
}
