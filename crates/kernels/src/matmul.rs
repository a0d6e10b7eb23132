//! Products of activations with weight matrices.

use crate::activations::{Grouping, Tiling};
use crate::kernels::{FloatRows, Kernels, STREAMS_MAX, Sums, TILE_MAX};
use crate::lanes::LANES;
use crate::panel::panels;
use crate::workspace::{Inputs, Scratch, Workspace};
use crate::{DType, Isa, Matrix, Pool, isa, silu};

/// Tasks a thread gets when there is enough work: small enough for threads to end together.
const TASKS_PER_THREAD: usize = 12;
/// Products that share one fork and join.
const TARGETS_MAX: usize = 8;
/// Fewer values than this are quantised by the calling thread alone.
const QUANTIZE_ALONE: usize = 1 << 15;

/// One weight matrix of a [`matmul`] call and where its result goes.
#[derive(Debug)]
pub struct Product<'a> {
    /// The weights, `[rows, cols]`.
    pub w: &'a Matrix,
    /// Added to each result row, `[rows]`.
    pub bias: Option<&'a [f32]>,
    /// The result, `[n, rows]`.
    pub y: &'a mut [f32],
    /// Whether the result is added to what `y` holds.
    pub add: bool,
}

/// `y[n, rows] = x[n, cols] · wᵀ` for each product; all share `x`, which is quantised once.
///
/// Each result is computed by the same operations in the same order whatever `n` is, wherever its row stands in
/// `x`, however many threads work and whichever instructions they use.
///
/// # Panics
/// When a slice does not have the length that its shape asks for.
pub fn matmul(pool: &Pool, ws: &mut Workspace, x: &[f32], n: usize, products: &mut [Product<'_>]) {
    matmul_on(isa(), pool, ws, x, n, products);
}

/// The gated feed-forward block of Llama and its kin: `y = down · (silu(gate · x) * (up · x))`, or added to `y`.
///
/// `x` is `[n, gate.cols]`, `y` is `[n, down.rows]`.
///
/// # Panics
/// When the shapes do not fit together.
pub fn gated_mlp(
    pool: &Pool,
    ws: &mut Workspace,
    x: &[f32],
    n: usize,
    gate: &Matrix,
    up: &Matrix,
    down: &Matrix,
    y: &mut [f32],
    add: bool,
) {
    gated_mlp_on(isa(), pool, ws, x, n, [gate, up, down], y, add);
}

/// [`matmul`] with a set of kernels that the processor has.
pub(crate) fn matmul_on(
    isa: Isa,
    pool: &Pool,
    ws: &mut Workspace,
    x: &[f32],
    n: usize,
    products: &mut [Product<'_>],
) {
    let Some(cols) = products.first().map(|product| product.w.cols()) else { return };
    assert_eq!(Some(x.len()), n.checked_mul(cols), "x is [n, cols]");
    for product in products.iter() {
        assert_eq!(product.w.cols(), cols, "products of one call share x");
        assert_eq!(Some(product.y.len()), n.checked_mul(product.w.rows()), "y is [n, rows]");
        assert!(product.bias.is_none_or(|bias| bias.len() == product.w.rows()), "a bias for each row");
    }
    if n == 0 {
        return;
    }
    let kernels = Kernels::of(isa);
    ws.reserve_scratch(pool.threads(), cols);
    let dtypes = products.iter().map(|product| product.w.dtype());
    ws.inputs.fill(kernels, pool, x, n, cols, dtypes);
    let call = Call::new(kernels, &ws.inputs, x, n);
    let scratch = PerWorker(ws.scratch.as_mut_ptr());
    for products in products.chunks_mut(TARGETS_MAX) {
        let mut targets = [None; TARGETS_MAX];
        for (target, product) in targets.iter_mut().zip(products) {
            let Product { w, bias, ref mut y, add } = *product;
            *target = Some(Target { w, bias, y: y.as_mut_ptr(), add });
        }
        call.run(pool, scratch, &targets);
    }
}

/// [`gated_mlp`] with a set of kernels that the processor has; the matrices are gate, up and down.
pub(crate) fn gated_mlp_on(
    isa: Isa,
    pool: &Pool,
    ws: &mut Workspace,
    x: &[f32],
    n: usize,
    [gate, up, down]: [&Matrix; 3],
    y: &mut [f32],
    add: bool,
) {
    let (cols, width) = (gate.cols(), gate.rows());
    assert_eq!(Some(x.len()), n.checked_mul(cols), "x is [n, cols]");
    assert_eq!((up.rows(), up.cols()), (width, cols), "gate and up have equal shapes");
    assert_eq!(down.cols(), width, "down takes what gate gives");
    if n == 0 {
        return;
    }
    let kernels = Kernels::of(isa);
    ws.reserve_scratch(pool.threads(), cols);
    ws.reserve_hidden(n, width);
    ws.inputs.fill(kernels, pool, x, n, cols, [gate.dtype(), up.dtype()].into_iter());
    let call = Call::new(kernels, &ws.inputs, x, n);
    let scratch = PerWorker(ws.scratch.as_mut_ptr());
    let hidden = &mut ws.gate[..n * width];
    let targets = [
        Target { w: gate, bias: None, y: hidden.as_mut_ptr(), add: false },
        Target { w: up, bias: None, y: ws.up.as_mut_ptr(), add: false },
    ];
    for_each_range(pool, call.units(width), &|range, worker| {
        // SAFETY: there is a scratch for each worker, and a worker runs one task at a time.
        let scratch = unsafe { scratch.get(worker) };
        for unit in range {
            // SAFETY: each unit is in one range only; it writes and then reads its own rows of the two hidden
            // buffers, which hold `n` rows of `width` values.
            unsafe {
                call.unit(&targets[0], unit, scratch);
                call.unit(&targets[1], unit, scratch);
                call.activate(isa, &targets, unit);
            }
        }
    });
    // The hidden values are read while the workspace is in use again, so they leave it for the moment.
    let hidden = std::mem::take(&mut ws.gate);
    matmul_on(isa, pool, ws, &hidden[..n * width], n, &mut [Product { w: down, bias: None, y, add }]);
    ws.gate = hidden;
}

/// Runs `f` over ranges that cover `0..count`, with the number of the worker.
fn for_each_range(pool: &Pool, count: usize, f: &(dyn Fn(std::ops::Range<usize>, usize) + Sync)) {
    let tasks = if pool.threads() == 1 { 1 } else { count.min(pool.threads() * TASKS_PER_THREAD) };
    pool.run_on_workers(tasks, &|task, worker| f(task * count / tasks..(task + 1) * count / tasks, worker));
}

impl Inputs {
    /// Quantises `x` in each way that one of the formats asks for.
    fn fill(
        &mut self,
        kernels: &Kernels,
        pool: &Pool,
        x: &[f32],
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
                unsafe { (kernels.quantize)(&x[c * cols..(c + 1) * cols], writer.column(c)) };
            };
            if n == 1 || x.len() < QUANTIZE_ALONE {
                (0..n).for_each(column);
            } else {
                pool.run(n, &column);
            }
        }
    }
}

/// Where a product's results go.
#[derive(Clone, Copy)]
struct Target<'a> {
    w: &'a Matrix,
    bias: Option<&'a [f32]>,
    y: *mut f32,
    add: bool,
}

// SAFETY: threads write different rows of `y`; see `Call::pair`.
unsafe impl Send for Target<'_> {}
// SAFETY: as above.
unsafe impl Sync for Target<'_> {}

/// Scratch memory, one for each worker.
#[derive(Clone, Copy)]
struct PerWorker(*mut Scratch);

// SAFETY: see `PerWorker::get`.
unsafe impl Send for PerWorker {}
// SAFETY: see `PerWorker::get`.
unsafe impl Sync for PerWorker {}

impl PerWorker {
    /// # Safety
    /// There are more than `worker` scratches, and nobody else uses this one meanwhile.
    unsafe fn get<'a>(self, worker: usize) -> &'a mut Scratch {
        // SAFETY: the caller's contract.
        unsafe { &mut *self.0.add(worker) }
    }
}

/// What all tasks of a call share.
#[derive(Clone, Copy)]
struct Call<'a> {
    kernels: &'a Kernels,
    inputs: &'a Inputs,
    x: &'a [f32],
    n: usize,
    /// Panels that are computed together, a unit of work.
    unit: usize,
}

impl<'a> Call<'a> {
    fn new(kernels: &'a Kernels, inputs: &'a Inputs, x: &'a [f32], n: usize) -> Self {
        let unit = if n <= kernels.direct_max { (kernels.streams)(n) } else { 2 };
        Self { kernels, inputs, x, n, unit }
    }

    /// Units that cover `rows` rows of weights.
    fn units(&self, rows: usize) -> usize {
        panels(rows).div_ceil(self.unit)
    }

    /// Computes all targets in one fork and join.
    fn run(&self, pool: &Pool, scratch: PerWorker, targets: &[Option<Target<'_>>; TARGETS_MAX]) {
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
    unsafe fn unit(&self, target: &Target<'_>, unit: usize, scratch: &mut Scratch) {
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
    unsafe fn activate(&self, isa: Isa, [gate, up]: &[Target<'_>; 2], unit: usize) {
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

#[cfg(test)]
mod tests;
