//! Finding the tokens that may be drawn, and drawing one.

use super::SamplingParams;
use super::scan::{SUM_BLOCK, count_at_least, exp_nonpositive, least_finite, max, sum_exp};

/// Width of the blocks whose maxima bound the k-th greatest entry.
const MAX_BLOCK: usize = 64;
/// Up to so many candidates are sorted. More, where a model is undecided, are counted by weight instead.
const SORTED_MAX: usize = 2048;
/// Classes of weights that are told apart then.
const CLASSES: usize = 1024;
const LAST_CLASS: f32 = (CLASSES - 1) as f32;
/// Entries so far below the greatest, in logits divided by the temperature, share the last class: a vocabulary of them
/// weighs less than a millionth of it.
const DEEPEST: f32 = 26.0;
/// Temperatures below this act as this: the division by it must stay finite.
const TEMPERATURE_MIN: f32 = 1e-6;

/// Scratch for selections from rows of one size. Nothing here grows after [`Selector::new`].
#[derive(Debug)]
pub(super) struct Selector {
    /// (logit, id) of tokens that may still be drawn.
    candidates: Vec<(f32, u32)>,
    /// Maximum of each block of [`MAX_BLOCK`] entries.
    maxima: Vec<f32>,
    /// Sum of exponentials of each block of [`SUM_BLOCK`] entries.
    sums: Vec<f64>,
    /// Sum of the weights of each class of candidates, greatest first.
    class_sums: Vec<f64>,
}

impl Selector {
    pub(super) fn new(vocab_size: usize) -> Self {
        Self {
            candidates: Vec::with_capacity(vocab_size),
            maxima: Vec::with_capacity(vocab_size.div_ceil(MAX_BLOCK)),
            sums: Vec::with_capacity(vocab_size.div_ceil(SUM_BLOCK)),
            class_sums: vec![0.0; CLASSES],
        }
    }

    /// Draws a token from the softmax of `logits` / temperature, cut by top-k, top-p and min-p. `u` is in [0, 1).
    pub(super) fn draw(&mut self, params: &SamplingParams, u: f64, logits: &[f32]) -> Option<u32> {
        let shift = max(logits);
        if shift == f32::NEG_INFINITY {
            return None;
        }
        let scale = 1.0 / params.temperature.max(TEMPERATURE_MIN);
        let top_k = params.top_k as usize;
        let k_cuts = top_k > 0 && top_k < logits.len();
        if !k_cuts && params.top_p >= 1.0 {
            return Some(self.draw_from_all(params.min_p, u, logits, shift, scale));
        }
        let kept = if k_cuts {
            self.gather_top_k(logits, top_k)
        } else {
            let all: f64 = logits.chunks(SUM_BLOCK).map(|block| sum_exp(block, shift, scale)).sum();
            let target = f64::from(params.top_p) * all;
            match self.gather_top_p(target, logits, shift, scale) {
                Some(kept) => kept,
                None => return self.draw_from_many(params.min_p, target, u, logits, shift, scale),
            }
        };
        let candidates = &self.candidates[..kept];
        let weight = |logit: f32| f64::from(exp_nonpositive((logit - shift) * scale));
        // Top-p is measured against what top-k left; without top-k, gathering has already cut by it.
        let mut kept = candidates.len();
        if k_cuts && params.top_p < 1.0 {
            let all: f64 = candidates.iter().map(|c| weight(c.0)).sum();
            kept = nucleus(candidates, f64::from(params.top_p) * all, weight);
        }
        let floor = f64::from(params.min_p);
        let kept = candidates[..kept].iter().take_while(|c| weight(c.0) >= floor).count().max(1);
        let total: f64 = candidates[..kept].iter().map(|c| weight(c.0)).sum();
        let mut left = u * total;
        for &(logit, id) in &candidates[..kept] {
            left -= weight(logit);
            if left < 0.0 {
                return Some(id);
            }
        }
        // Rounding may leave a crumb; it belongs to the last one.
        candidates[..kept].last().map(|c| c.1)
    }

    /// The `k` greatest entries, greatest first, ties by lower id; fewer where fewer are above −∞.
    pub(super) fn greatest(&mut self, logits: &[f32], k: usize) -> &[(f32, u32)] {
        let kept = self.gather_top_k(logits, k);
        &self.candidates[..kept]
    }

    /// Draws from the whole row, in order of ids, without gathering anything.
    fn draw_from_all(&mut self, min_p: f32, u: f64, logits: &[f32], shift: f32, scale: f32) -> u32 {
        // A token at least min_p times as likely as the best has exp((x − max)·scale) ≥ min_p.
        let weight = |x: f32| {
            let w = exp_nonpositive((x - shift) * scale);
            if w >= min_p { f64::from(w) } else { 0.0 }
        };
        let block_sum = |block: &[f32]| {
            if min_p > 0.0 { block.iter().map(|&x| weight(x)).sum() } else { sum_exp(block, shift, scale) }
        };
        self.sums.clear();
        self.sums.extend(logits.chunks(SUM_BLOCK).map(block_sum));
        let mut left = u * self.sums.iter().sum::<f64>();
        let mut last = 0;
        for (index, (block, &sum)) in logits.chunks(SUM_BLOCK).zip(&self.sums).enumerate() {
            if sum == 0.0 {
                continue;
            }
            if left >= sum {
                left -= sum;
                last = index;
                continue;
            }
            for (offset, &x) in block.iter().enumerate() {
                let w = weight(x);
                left -= w;
                if left < 0.0 && w > 0.0 {
                    return (index * SUM_BLOCK + offset) as u32;
                }
            }
            last = index;
        }
        // Rounding may leave a crumb at the end of a block: it belongs to the last token there that can be drawn.
        let block = &logits[last * SUM_BLOCK..(last * SUM_BLOCK + SUM_BLOCK).min(logits.len())];
        let offset = block.iter().rposition(|&x| weight(x) > 0.0).unwrap_or(0);
        (last * SUM_BLOCK + offset) as u32
    }

    /// Puts the `k` greatest entries to the front of the candidates, in order, and returns how many there are.
    fn gather_top_k(&mut self, logits: &[f32], k: usize) -> usize {
        self.maxima.clear();
        self.maxima.extend(logits.chunks(MAX_BLOCK).map(max));
        // At least k entries are as great as the k-th greatest block maximum: smaller ones cannot be among the k.
        let mut threshold = f32::NEG_INFINITY;
        if k <= self.maxima.len() {
            let (_, kth, _) = self.maxima.select_nth_unstable_by(k.max(1) - 1, |a, b| b.total_cmp(a));
            threshold = *kth;
        }
        self.gather(logits, threshold);
        let kept = k.min(self.candidates.len());
        self.sort_first(kept);
        kept
    }

    /// Puts the nucleus, the fewest greatest entries whose weights sum to `target`, to the front of the candidates, in
    /// order, and returns how many there are. `None` where it may be too many.
    fn gather_top_p(&mut self, target: f64, logits: &[f32], shift: f32, scale: f32) -> Option<usize> {
        let weight = |logit: f32| f64::from(exp_nonpositive((logit - shift) * scale));
        for depth in [8.0, 16.0, f32::INFINITY] {
            // Gather generously below the threshold; what lies above it is complete.
            let threshold = if depth.is_finite() { shift - depth / scale } else { f32::NEG_INFINITY };
            if count_at_least(logits, threshold) > SORTED_MAX {
                return None;
            }
            self.gather(logits, threshold);
            let mass: f64 = self.candidates.iter().map(|c| weight(c.0)).sum();
            if mass >= target {
                break;
            }
        }
        let mut sorted = 64;
        loop {
            sorted = sorted.min(self.candidates.len());
            self.sort_first(sorted);
            let front = &self.candidates[..sorted];
            let kept = nucleus(front, target, weight);
            if kept < sorted || sorted == self.candidates.len() {
                return Some(kept);
            }
            sorted *= 4;
        }
    }

    /// Draws from the nucleus without gathering or sorting it: weights are added up by class, and only the classes in
    /// which the nucleus ends and the draw falls are sorted.
    fn draw_from_many(
        &mut self,
        min_p: f32,
        target: f64,
        u: f64,
        logits: &[f32],
        shift: f32,
        scale: f32,
    ) -> Option<u32> {
        let classes = Classes::new(shift, least_finite(logits).max(shift - DEEPEST / scale));
        // The greatest has weight 1, so that something is left.
        let weight = |logit: f32| {
            let weight = exp_nonpositive((logit - shift) * scale);
            if weight >= min_p { weight } else { 0.0 }
        };
        self.class_sums.fill(0.0);
        for block in logits.chunks(MAX_BLOCK) {
            // Computed for a block at a time, which the compiler can vectorise, and then added up.
            let (mut weights, mut numbers) = ([0.0; MAX_BLOCK], [0; MAX_BLOCK]);
            for ((to, number), &x) in weights.iter_mut().zip(&mut numbers).zip(block) {
                (*to, *number) = (weight(x), classes.of(x));
            }
            for (weight, number) in weights.iter().zip(numbers).take(block.len()) {
                self.class_sums[number as usize] += f64::from(*weight);
            }
        }
        let all: f64 = self.class_sums.iter().sum();
        let (total, last) = self.walk(target.min(all), true, logits, classes, weight);
        let (_, drawn) = self.walk(u * total, false, logits, classes, weight);
        drawn.or(last)
    }

    /// Adds up the weights, greatest first, until the sum reaches `target`, or exceeds it where it is not to be
    /// `reached`. Returns the sum and the entry it ends with.
    fn walk(
        &mut self,
        target: f64,
        reached: bool,
        logits: &[f32],
        classes: Classes,
        weight: impl Fn(f32) -> f32,
    ) -> (f64, Option<u32>) {
        let ends = |sum: f64| if reached { sum >= target } else { sum > target };
        let (mut sum, mut last) = (0.0, None);
        for index in 0..CLASSES {
            let class_sum = self.class_sums[index];
            if class_sum == 0.0 || !ends(sum + class_sum) {
                sum += class_sum;
                continue;
            }
            self.gather_class(logits, classes, index as u32);
            self.candidates.sort_unstable_by(better);
            for &(logit, id) in &self.candidates {
                let w = f64::from(weight(logit));
                if w > 0.0 {
                    (sum, last) = (sum + w, Some(id));
                }
                if ends(sum) {
                    return (sum, last);
                }
            }
            // Rounding may leave a crumb to the next class.
        }
        (sum, last)
    }

    /// Takes the entries of a class, but never −∞, as candidates.
    fn gather_class(&mut self, logits: &[f32], classes: Classes, class: u32) {
        self.candidates.clear();
        for (index, block) in logits.chunks(MAX_BLOCK).enumerate() {
            let mut numbers = [u32::MAX; MAX_BLOCK];
            let mut found = false;
            for (number, &x) in numbers.iter_mut().zip(block) {
                *number = classes.of(x);
                found |= *number == class;
            }
            if !found {
                continue;
            }
            for (offset, (&x, number)) in block.iter().zip(numbers).enumerate() {
                if number == class && x > f32::NEG_INFINITY {
                    self.candidates.push((x + 0.0, (index * MAX_BLOCK + offset) as u32));
                }
            }
        }
    }

    /// Takes the entries of at least `threshold`, but never −∞, as candidates.
    fn gather(&mut self, logits: &[f32], threshold: f32) {
        self.candidates.clear();
        for (index, block) in logits.chunks(MAX_BLOCK).enumerate() {
            if max(block) < threshold {
                continue;
            }
            for (offset, &x) in block.iter().enumerate() {
                if x >= threshold && x > f32::NEG_INFINITY {
                    // Adding zero makes −0 a plain 0, so that both compare alike.
                    self.candidates.push((x + 0.0, (index * MAX_BLOCK + offset) as u32));
                }
            }
        }
    }

    /// Brings the `k` best candidates to the front, best first.
    fn sort_first(&mut self, k: usize) {
        if k == 0 {
            return;
        }
        if k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(k - 1, better);
        }
        self.candidates[..k].sort_unstable_by(better);
    }
}

/// Classes of logits: a greater one never has a later class, since subtraction and multiplication round in order.
#[derive(Clone, Copy)]
struct Classes {
    greatest: f32,
    step: f32,
}

impl Classes {
    fn new(greatest: f32, least: f32) -> Self {
        let range = (greatest - least).max(f32::MIN_POSITIVE);
        Self { greatest, step: (CLASSES as f32 / range).min(f32::MAX) }
    }

    /// That of a logit; the last one for all that is further down.
    fn of(self, logit: f32) -> u32 {
        let place = (self.greatest - logit) * self.step;
        // What is not a number, as 0 times ∞, is in the first class.
        let place = if place > 0.0 { place } else { 0.0 };
        let place = if place < LAST_CLASS { place } else { LAST_CLASS };
        // Adding 2²³ leaves the rounded integer in the low bits.
        (place + 8_388_608.0).to_bits() & 0x7f_ffff
    }
}

/// Greater logits first, equal ones by id.
fn better(a: &(f32, u32), b: &(f32, u32)) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Length of the shortest prefix of `sorted` whose weights sum to at least `target`; all of it where none does.
fn nucleus(sorted: &[(f32, u32)], target: f64, weight: impl Fn(f32) -> f64) -> usize {
    let mut mass = 0.0;
    for (index, candidate) in sorted.iter().enumerate() {
        mass += weight(candidate.0);
        if mass >= target {
            return index + 1;
        }
    }
    sorted.len()
}
