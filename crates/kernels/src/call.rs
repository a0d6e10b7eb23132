//! What the tasks of a product call do, and how work is cut into tasks.

use std::ops::Range;

use crate::activations::{Grouping, Tiling};
use crate::kernels::{FloatRows, Kernels, STREAMS_MAX, Sums, TILE_MAX};
use crate::lanes::LANES;
use crate::panel::panels;
use crate::workspace::{Inputs, Scratch};
use crate::{DType, Isa, Matrix, Pool, silu};

/// Tasks a thread gets when there is enough work: small enough for threads to end together.
const TASKS_PER_THREAD: usize = 12;
/// Products that share one fork and join.
pub(crate) const TARGETS_MAX: usize = 8;
/// Fewer values than this are quantised by the calling thread alone.
const QUANTIZE_ALONE: usize = 1 << 15;

/// Runs `f` over ranges that cover `0..count`, with the number of the worker.
pub(crate) fn for_each_range(pool: &Pool, count: usize, f: &(dyn Fn(Range<usize>, usize) + Sync)) {
    let tasks = if pool.threads() == 1 { 1 } else { count.min(pool.threads() * TASKS_PER_THREAD) };
    pool.run_on_workers(tasks, &|task, worker| f(task * count / tasks..(task + 1) * count / tasks, worker));
}

impl Inputs {
    /// Quantises `n` rows of `cols` values in each way that one of the formats asks for; without a pool on the
    /// calling thread.
    pub(crate) fn fill<'x>(
        &mut self,
        kernels: &Kernels,
        pool: Option<&Pool>,
        row: &(dyn Fn(usize) -> &'x [f32] + Sync),
        n: usize,
        cols: usize,
        dtypes: impl Iterator<Item = DType>,
    ) {
        let (mut by32, mut by256) = (false, false);
        for dtype in dtypes {
            by32 |= dtype.block_len() == 32;
            by256 |= dtype.block_len() == 256;
        }
        let widest = if n <= kernels.direct_max { n } else { kernels.tile };
        for (wanted, activations, grouping) in
            [(by32, &mut self.by32, Grouping::By32), (by256, &mut self.by256, Grouping::By256)]
        {
            if !wanted {
                continue;
            }
            let writer = activations.prepare(grouping, n, cols, widest);
            let column = |c: usize| {
                // SAFETY: the columns were prepared for rows of `cols` values, and each is written once.
                unsafe { (kernels.quantize)(&row(c)[..cols], writer.column(c)) };
            };
            match pool {
                Some(pool) if n > 1 && n * cols >= QUANTIZE_ALONE => pool.run(n, &column),
                _ => (0..n).for_each(column),
            }
        }
    }
}

/// Where a product's results go.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) w: &'a Matrix,
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) y: *mut f32,
    pub(crate) add: bool,
}

// SAFETY: threads write different rows of `y`; see `Call::pair`.
unsafe impl Send for Target<'_> {}
// SAFETY: as above.
unsafe impl Sync for Target<'_> {}

/// Scratch memory, one for each worker.
#[derive(Clone, Copy)]
pub(crate) struct PerWorker(pub(crate) *mut Scratch);

// SAFETY: see `PerWorker::get`.
unsafe impl Send for PerWorker {}
// SAFETY: see `PerWorker::get`.
unsafe impl Sync for PerWorker {}

impl PerWorker {
    /// # Safety
    /// There are more than `worker` scratches, and nobody else uses this one meanwhile.
    pub(crate) unsafe fn get<'a>(self, worker: usize) -> &'a mut Scratch {
        // SAFETY: the caller's contract.
        unsafe { &mut *self.0.add(worker) }
    }
}

/// What all tasks of a call share.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    kernels: &'a Kernels,
    inputs: &'a Inputs,
    x: &'a [f32],
    n: usize,
    /// Panels that are computed together, a unit of work.
    unit: usize,
}

impl<'a> Call<'a> {
    pub(crate) fn new(kernels: &'a Kernels, inputs: &'a Inputs, x: &'a [f32], n: usize) -> Self {
        Self { kernels, inputs, x, n, unit: Self::unit_panels(kernels, n) }
    }

    /// Panels that kernels take together for `n` columns.
    fn unit_panels(kernels: &Kernels, n: usize) -> usize {
        if n <= kernels.direct_max { (kernels.streams)(n) } else { 2 }
    }

    /// Units that cover `rows` rows of weights in a call with `n` columns.
    pub(crate) fn units_of(kernels: &Kernels, n: usize, rows: usize) -> usize {
        panels(rows).div_ceil(Self::unit_panels(kernels, n))
    }

    /// Units that cover `rows` rows of weights.
    pub(crate) fn units(&self, rows: usize) -> usize {
        panels(rows).div_ceil(self.unit)
    }

    /// Computes all targets in one fork and join.
    pub(crate) fn run(&self, pool: &Pool, scratch: PerWorker, targets: &[Option<Target<'_>>; TARGETS_MAX]) {
        let units: usize = targets.iter().flatten().map(|target| self.units(target.w.rows())).sum();
        for_each_range(pool, units, &|range, worker| {
            // SAFETY: there is a scratch for each worker, and a worker runs one task at a time.
            let scratch = unsafe { scratch.get(worker) };
            let mut first = 0;
            for target in targets.iter().flatten() {
                let count = self.units(target.w.rows());
                for unit in range.start.max(first)..range.end.min(first + count) {
                    // SAFETY: each unit is in one range only, and writes its own rows of `y`.
                    unsafe { self.unit(target, unit - first, scratch) };
                }
                first += count;
            }
        });
    }

    /// Computes the rows of one unit for all columns.
    ///
    /// # Safety
    /// The target has `n` columns of as many rows as its weights, and nobody else uses this unit's rows of it.
    pub(crate) unsafe fn unit(&self, target: &Target<'_>, unit: usize, scratch: &mut Scratch) {
        let (dtype, cols) = (target.w.dtype(), target.w.cols());
        let (first, count) = (unit * self.unit, self.unit);
        let panels = target.w.panels(first);
        let mut sums: Sums = [[0.0; STREAMS_MAX * LANES]; TILE_MAX];
        if dtype.is_float() {
            let tiling = Tiling::new(self.n, self.kernels.tile);
            for tile in 0..tiling.tiles() {
                let (column, width) = (tiling.start(tile), tiling.width(tile));
                let rows = FloatRows { x: self.x[column * cols..].as_ptr(), cols };
                let product = (self.kernels.float)(dtype, width);
                // SAFETY: the kernels are those of this processor; panels and rows have `cols` columns. No kernel
                // takes fewer panels than a unit has.
                unsafe {
                    product(panels, rows, &mut sums);
                    target.store(&sums, first, count, column, width);
                }
            }
            return;
        }
        let activations = if dtype.block_len() == 256 { &self.inputs.by256 } else { &self.inputs.by32 };
        if self.n <= self.kernels.direct_max {
            // SAFETY: the kernels are those of this processor; the activations were made for this call, in one
            // tile of `n` columns.
            unsafe {
                (self.kernels.direct)(dtype, self.n)(panels, activations.tile(0), &mut sums);
                target.store(&sums, first, count, 0, self.n);
            }
            return;
        }
        let unpacked = scratch.unpacked();
        // SAFETY: scratch was reserved for this many columns.
        unsafe { (self.kernels.unpack)(dtype)(panels, unpacked) };
        let tiling = activations.tiling();
        for tile in 0..tiling.tiles() {
            let (column, width) = (tiling.start(tile), tiling.width(tile));
            let product = (self.kernels.product32)(dtype, width);
            // SAFETY: as above.
            unsafe {
                product(unpacked, cols, activations.tile(tile), &mut sums);
                target.store(&sums, first, count, column, width);
            }
        }
    }

    /// `gate = silu(gate) * up` for the rows of one unit.
    ///
    /// # Safety
    /// Both targets hold `n` rows of results, and nobody else uses this unit's part of them.
    pub(crate) unsafe fn activate(&self, isa: Isa, [gate, up]: &[Target<'_>; 2], unit: usize) {
        let width = gate.w.rows();
        let rows = self.unit * LANES;
        let (from, to) = (unit * rows, width.min((unit + 1) * rows));
        for c in 0..self.n {
            // SAFETY: the caller's contract; the two buffers are apart.
            let (gate, up) = unsafe {
                (
                    std::slice::from_raw_parts_mut(gate.y.add(c * width + from), to - from),
                    std::slice::from_raw_parts(up.y.add(c * width + from), to - from),
                )
            };
            silu::silu_mul(isa, gate, up);
        }
    }
}

impl Target<'_> {
    /// Stores the rows of up to `count` panels from `first` on, of `width` columns from `column` on.
    ///
    /// # Safety
    /// The target has those columns, and nobody else uses these rows of it.
    unsafe fn store(&self, sums: &Sums, first: usize, count: usize, column: usize, width: usize) {
        let (row, rows) = (first * LANES, self.w.rows());
        if row >= rows {
            return;
        }
        let count = (count * LANES).min(rows - row);
        for (c, sums) in sums.iter().enumerate().take(width) {
            // SAFETY: the caller's contract; `row + count` is within the rows.
            let y = unsafe { std::slice::from_raw_parts_mut(self.y.add((column + c) * rows + row), count) };
            let bias = self.bias.map(|bias| &bias[row..row + count]);
            match (bias, self.add) {
                (None, false) => y.copy_from_slice(&sums[..count]),
                (None, true) => y.iter_mut().zip(sums).for_each(|(y, sum)| *y += sum),
                (Some(bias), false) => {
                    y.iter_mut().zip(sums).zip(bias).for_each(|((y, sum), bias)| *y = sum + bias);
                }
                (Some(bias), true) => {
                    y.iter_mut().zip(sums).zip(bias).for_each(|((y, sum), bias)| *y += sum + bias);
                }
            }
        }
    }
}
