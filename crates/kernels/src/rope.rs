//! Rotary position embedding (Su et al. 2021, arXiv:2104.09864).
//!
//! Pair `i` of a head's rotated part turns by `position * inv_freq[i]`. Angles and their cosines are computed
//! in f64: in f32 the angle of position 100,000 would be off by several thousandths.

use crate::pool::Pool;
use crate::simd::{Kernel, Simd, dispatch};
use crate::sizes::{product, sum};

/// Which two dimensions make a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopeStyle {
    /// Dimension `i` with `i + dim / 2`, as Hugging Face's `rotate_half` and GPT-NeoX.
    HalfSplit,
    /// Dimension `2i` with `2i + 1`, as the paper and the published DeepSeek and Llama code.
    Interleaved,
}

/// Positions per step of the coarse table.
const FINE: usize = 256;
/// Pairs turned at a time; their cosines stay on the stack.
const PAIRS: usize = 64;
/// Below this many values a fork/join costs more than it gains.
const PARALLEL_VALUES: usize = 1 << 14;

/// Cosines and sines for positions `0..max_positions`.
///
/// An angle is the sum of a coarse one, `position / 256 * 256`, and a fine one, `position % 256`, and the
/// addition theorems give its cosine and sine. Thus 128k positions take less than a megabyte instead of 64.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// `[max_positions / 256][pairs]` (cos, sin), times the attention factor.
    coarse: Vec<(f64, f64)>,
    /// `[256][pairs]` (cos, sin).
    fine: Vec<(f64, f64)>,
    pairs: usize,
    max_positions: usize,
    style: RopeStyle,
}

impl RopeTable {
    /// A table for `inv_freq.len()` pairs. `attention_factor` multiplies cosine and sine, as YaRN wants it
    /// (Peng et al. 2023, arXiv:2309.00071, section 3.4); 1.0 for plain rope.
    #[must_use]
    pub fn new(inv_freq: &[f64], max_positions: usize, attention_factor: f32, style: RopeStyle) -> Self {
        let table = |steps: usize, stride: usize, factor: f64| {
            let angles = (0..steps).flat_map(|step| inv_freq.iter().map(move |f| (step * stride) as f64 * f));
            angles.map(|angle| (angle.cos() * factor, angle.sin() * factor)).collect()
        };
        Self {
            coarse: table(max_positions.div_ceil(FINE), FINE, f64::from(attention_factor)),
            fine: table(FINE.min(max_positions), 1, 1.0),
            pairs: inv_freq.len(),
            max_positions,
            style,
        }
    }

    /// Dimensions that turn: twice the number of frequencies.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.pairs * 2
    }

    /// Positions the table reaches to.
    #[must_use]
    pub fn max_positions(&self) -> usize {
        self.max_positions
    }

    /// Turns dimensions `rot_offset..rot_offset + dim` of each head of each row in place.
    ///
    /// `x` is `[positions.len(), n_heads * head_dim]`.
    ///
    /// # Panics
    /// If a length does not fit or a position is beyond the table.
    pub fn apply(
        &self,
        pool: &Pool,
        x: &mut [f32],
        n_heads: usize,
        head_dim: usize,
        rot_offset: usize,
        positions: &[u32],
    ) {
        let row_len = product([n_heads, head_dim]);
        assert_eq!(x.len(), product([positions.len(), row_len]), "x is [rows, n_heads * head_dim]");
        assert!(sum(rot_offset, self.dim()) <= head_dim, "the rotated part lies within the head");
        assert!(
            positions.iter().all(|p| (*p as usize) < self.max_positions),
            "a position is beyond the table's {}",
            self.max_positions
        );
        if row_len == 0 {
            return;
        }
        let turn = |rows: &mut [f32], positions: &[u32]| {
            for (row, position) in rows.chunks_exact_mut(row_len).zip(positions) {
                dispatch(TurnRow { table: self, row, head_dim, rot_offset, position: *position as usize });
            }
        };
        if x.len() < PARALLEL_VALUES {
            turn(x, positions);
            return;
        }
        let rows = (PARALLEL_VALUES / 4).div_ceil(row_len);
        let start = Start(x.as_mut_ptr());
        let start = &start;
        pool.run(positions.len().div_ceil(rows), &|task| {
            let positions = &positions[task * rows..];
            let positions = &positions[..positions.len().min(rows)];
            let len = positions.len() * row_len;
            // SAFETY: tasks take rows of their own from `x`, which is borrowed exclusively until `run` ends.
            turn(
                unsafe { std::slice::from_raw_parts_mut(start.0.add(task * rows * row_len), len) },
                positions,
            );
        });
    }

    #[inline(always)]
    fn turn_row(&self, row: &mut [f32], head_dim: usize, rot_offset: usize, position: usize) {
        let coarse = &self.coarse[position / FINE * self.pairs..][..self.pairs];
        let fine = &self.fine[position % FINE * self.pairs..][..self.pairs];
        let (mut cosines, mut sines) = ([0.0_f32; PAIRS], [0.0_f32; PAIRS]);
        for first in (0..self.pairs).step_by(PAIRS) {
            let n = PAIRS.min(self.pairs - first);
            let (cosines, sines) = (&mut cosines[..n], &mut sines[..n]);
            let angles = coarse[first..].iter().zip(&fine[first..]);
            for ((cos, sin), ((cos_a, sin_a), (cos_b, sin_b))) in
                cosines.iter_mut().zip(sines.iter_mut()).zip(angles)
            {
                *cos = (cos_a * cos_b - sin_a * sin_b) as f32;
                *sin = (sin_a * cos_b + cos_a * sin_b) as f32;
            }
            let (cosines, sines) = (&*cosines, &*sines);
            for head in row.chunks_exact_mut(head_dim) {
                let head = &mut head[rot_offset..rot_offset + self.dim()];
                match self.style {
                    RopeStyle::HalfSplit => {
                        let (low, high) = head.split_at_mut(self.pairs);
                        let pairs = low[first..].iter_mut().zip(&mut high[first..]);
                        for ((x, y), (cos, sin)) in pairs.zip(cosines.iter().zip(sines)) {
                            (*x, *y) = (*x * cos - *y * sin, *x * sin + *y * cos);
                        }
                    }
                    RopeStyle::Interleaved => {
                        let pairs = head.as_chunks_mut::<2>().0[first..].iter_mut();
                        for ([x, y], (cos, sin)) in pairs.zip(cosines.iter().zip(sines)) {
                            (*x, *y) = (*x * cos - *y * sin, *x * sin + *y * cos);
                        }
                    }
                }
            }
        }
    }
}

struct Start(*mut f32);
// SAFETY: tasks derive disjoint rows from the pointer.
unsafe impl Sync for Start {}

/// Plain arithmetic, compiled for each instruction set.
struct TurnRow<'a> {
    table: &'a RopeTable,
    row: &'a mut [f32],
    head_dim: usize,
    rot_offset: usize,
    position: usize,
}

impl Kernel for TurnRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        self.table.turn_row(self.row, self.head_dim, self.rot_offset, self.position);
    }
}

#[cfg(test)]
mod tests;
