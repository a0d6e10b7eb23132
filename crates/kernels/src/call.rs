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

// SAFETY: threads write different rows of `y`; see `Call::part`.
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
                let part = range.start.max(first)..range.end.min(first + count);
                if !part.is_empty() {
                    // SAFETY: each unit is in one range only, and writes its own rows of `y`.
                    unsafe { self.part(target, part.start - first..part.end - first, scratch) };
                }
                first += count;
            }
        });
    }

    /// Panels of a range of units.
    fn panels(&self, target: &Target<'_>, units: &Range<usize>) -> Range<usize> {
        units.start * self.unit..panels(target.w.rows()).min(units.end * self.unit)
    }

    /// Computes the rows of some units for all columns. The panels are cut into as many runs as kernels take side
    /// by side, so that each stream of weights goes on where it ended.
    ///
    /// # Safety
    /// The target has `n` columns of as many rows as its weights, and nobody else uses the units' rows of it.
    pub(crate) unsafe fn part(&self, target: &Target<'_>, units: Range<usize>, scratch: &mut Scratch) {
        let panels = self.panels(target, &units);
        let run = panels.len().div_ceil(self.unit);
        for step in 0..run {
            let mut indices = [panels.start + step; STREAMS_MAX];
            let mut stored = [None; STREAMS_MAX];
            for stream in 0..self.unit {
                let index = panels.start + stream * run + step;
                if index < panels.end {
                    indices[stream] = index;
                    stored[stream] = Some(index);
                }
            }
            // SAFETY: the caller's contract; the numbers are those of panels of the units.
            unsafe { self.step(target, indices, stored, scratch) };
        }
    }

    /// Computes the rows of panels `indices` and stores those of `stored`.
    ///
    /// # Safety
    /// As for [`Call::part`].
    unsafe fn step(
        &self,
        target: &Target<'_>,
        indices: [usize; STREAMS_MAX],
        stored: [Option<usize>; STREAMS_MAX],
        scratch: &mut Scratch,
    ) {
        let (dtype, cols) = (target.w.dtype(), target.w.cols());
        let panels = target.w.panels(indices);
        let mut sums: Sums = [[0.0; STREAMS_MAX * LANES]; TILE_MAX];
        if dtype.is_float() {
            let tiling = Tiling::new(self.n, self.kernels.tile);
            for tile in 0..tiling.tiles() {
                let (column, width) = (tiling.start(tile), tiling.width(tile));
                let rows = FloatRows { x: self.x[column * cols..].as_ptr(), cols };
                // SAFETY: the kernels are those of this processor; panels and rows have `cols` columns. No kernel
                // takes fewer panels than a unit has.
                unsafe {
                    (self.kernels.float)(dtype, width)(panels, rows, &mut sums);
                    target.store(&sums, stored, column, width);
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
                target.store(&sums, stored, 0, self.n);
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
                target.store(&sums, stored, column, width);
            }
        }
    }

    /// `gate = silu(gate) * up` for the rows of some units.
    ///
    /// # Safety
    /// Both targets hold `n` rows of results, and nobody else uses these units' part of them.
    pub(crate) unsafe fn activate(&self, isa: Isa, [gate, up]: &[Target<'_>; 2], units: &Range<usize>) {
        let width = gate.w.rows();
        let panels = self.panels(gate, units);
        let (from, to) = (panels.start * LANES, width.min(panels.end * LANES));
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
    /// Stores panels' rows of `width` columns from `column` on.
    ///
    /// # Safety
    /// The target has those columns and panels, and nobody else uses their rows of it.
    unsafe fn store(&self, sums: &Sums, stored: [Option<usize>; STREAMS_MAX], column: usize, width: usize) {
        let rows = self.w.rows();
        for (c, sums) in sums.iter().enumerate().take(width) {
            for (sums, panel) in sums.chunks_exact(LANES).zip(stored) {
                let Some(row) = panel.map(|panel| panel * LANES) else { continue };
                let count = LANES.min(rows - row);
                // SAFETY: the caller's contract; `row + count` is within the rows.
                let y =
                    unsafe { std::slice::from_raw_parts_mut(self.y.add((column + c) * rows + row), count) };
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
}
