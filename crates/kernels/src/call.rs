//! What the tasks of a product call do, and how work is cut into tasks.

use std::ops::Range;

use crate::activations::{Activations, Grouping};
use crate::kernels::{Kernels, PANELS_MAX, Panels, TILE_MAX, stretch_of};
use crate::lanes::{LANES, prefetch_to_read, prefetch_to_second_cache, prefetch_to_write};
use crate::panel::{group_columns, panels};
use crate::prefetch::Prefetch;
use crate::workspace::{Inputs, Scratch, TILE_SUMS, TILES_MAX};
use crate::{DType, Isa, Matrix, Pool, silu};

/// Tasks a thread gets when there is enough work: small enough for threads to end together.
const TASKS_PER_THREAD: usize = 12;
/// Products that share one fork and join.
pub(crate) const TARGETS_MAX: usize = 8;
/// Units of work that a thread gets, at least, before several panels make up one.
const UNITS_PER_THREAD: usize = 4;
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
        let mut wanted = [false; 4];
        for dtype in dtypes {
            wanted[Grouping::of(dtype) as usize] = true;
        }
        let widest = if n <= kernels.direct_max { n } else { kernels.tile };
        for grouping in Grouping::ALL {
            if !wanted[grouping as usize] {
                continue;
            }
            let activations = &mut self.0[grouping as usize];
            let writer = activations.prepare(grouping, n, cols, widest);
            let tiling = writer.tiling();
            let tile = |tile: usize| {
                let (start, width) = (tiling.start(tile), tiling.width(tile));
                let mut rows = [std::ptr::null(); TILE_MAX];
                for (c, to) in rows.iter_mut().enumerate().take(width) {
                    *to = row(start + c)[..cols].as_ptr();
                }
                // SAFETY: the tiles were prepared for rows of `cols` values, and each is written once.
                unsafe { (kernels.quantize)(&rows[..width], cols, writer.tile(tile)) };
            };
            // A thread takes whole tiles: the columns of one share cache lines.
            match pool {
                Some(pool) if tiling.tiles() > 1 && n * cols >= QUANTIZE_ALONE => {
                    for_each_range(pool, tiling.tiles(), &|tiles, _| tiles.for_each(tile));
                }
                _ => (0..tiling.tiles()).for_each(tile),
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
    /// How the weights are asked for.
    pub(crate) prefetch: Prefetch,
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

/// The sums of a tile, `[width][32]`.
#[derive(Clone, Copy)]
struct TileSums {
    /// Which of the tiles whose sums are kept.
    index: usize,
    column: usize,
    width: usize,
    totals: *mut f32,
}

impl TileSums {
    /// # Safety
    /// The sums are there, and nobody writes them meanwhile.
    unsafe fn sums<'a>(self) -> &'a [f32] {
        // SAFETY: the caller's contract.
        unsafe { std::slice::from_raw_parts(self.totals, self.width * 2 * LANES) }
    }

    /// # Safety
    /// The sums are there, and nobody else uses them meanwhile.
    unsafe fn sums_mut<'a>(self) -> &'a mut [f32] {
        // SAFETY: the caller's contract.
        unsafe { std::slice::from_raw_parts_mut(self.totals, self.width * 2 * LANES) }
    }
}

/// What all tasks of a call share.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    kernels: &'a Kernels,
    inputs: &'a Inputs,
    n: usize,
    /// Panels that are computed together, a unit of work.
    unit: usize,
}

impl<'a> Call<'a> {
    /// A call in which `turns` panels make up a unit where weights are unpacked in registers.
    pub(crate) fn new(kernels: &'a Kernels, inputs: &'a Inputs, n: usize, turns: usize) -> Self {
        Self { kernels, inputs, n, unit: Self::unit_panels(kernels, n, turns) }
    }

    /// Panels that take turns: as many as `prefetch` says, or fewer where threads would go without, given the panels of
    /// all that is computed together.
    pub(crate) fn turns(pool: &Pool, prefetch: Prefetch, panels: usize) -> usize {
        (panels / (pool.threads() * UNITS_PER_THREAD)).clamp(1, prefetch.panels())
    }

    /// Panels that are computed together at the least.
    fn unit_panels(kernels: &Kernels, n: usize, turns: usize) -> usize {
        if n <= kernels.direct_max { turns } else { 2 }
    }

    /// Units that cover `rows` rows of weights in a call with `n` columns.
    pub(crate) fn units_of(kernels: &Kernels, n: usize, turns: usize, rows: usize) -> usize {
        panels(rows).div_ceil(Self::unit_panels(kernels, n, turns))
    }

    /// Units that cover `rows` rows of weights.
    pub(crate) fn units(&self, rows: usize) -> usize {
        panels(rows).div_ceil(self.unit)
    }

    /// Computes all targets in one fork and join.
    ///
    /// # Safety
    /// `scratch` has one for each of the pool's threads, and each target has room for the rows of its weights in each
    /// row of the call; nobody else uses either meanwhile.
    pub(crate) unsafe fn run(
        &self,
        pool: &Pool,
        scratch: PerWorker,
        targets: &[Option<Target<'_>>; TARGETS_MAX],
    ) {
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

    /// Computes the rows of some units for all columns.
    ///
    /// # Safety
    /// The target has `n` columns of as many rows as its weights, and nobody else uses the units' rows of it.
    pub(crate) unsafe fn part(&self, target: &Target<'_>, units: Range<usize>, scratch: &mut Scratch) {
        let panels = self.panels(target, &units);
        let unpacked = self.n > self.kernels.direct_max;
        let turns = target.prefetch.panels();
        let step = match (unpacked, turns) {
            (true, _) => 2,
            // One after the other, with as few calls as may be.
            (false, 1) => PANELS_MAX,
            (false, turns) => turns,
        };
        if !unpacked {
            // What lies further on is asked for on the way there.
            for first in panels.clone().take(turns).filter_map(|panel| target.w.packed_panel(panel)) {
                for at in (0..target.prefetch.distance()).step_by(64) {
                    prefetch_to_read(first.wrapping_add(at));
                }
            }
        }
        for first in panels.clone().step_by(step) {
            // SAFETY: the caller's contract; the numbers are those of panels of the units.
            unsafe { self.step(target, first..panels.end.min(first + step), scratch) };
        }
    }

    /// Computes the rows of some panels, as many as a kernel takes.
    ///
    /// # Safety
    /// As for [`Call::part`].
    unsafe fn step(&self, target: &Target<'_>, range: Range<usize>, scratch: &mut Scratch) {
        let dtype = target.w.dtype();
        let ahead = target.prefetch.distance();
        let panels = target.w.panels(range.clone(), ahead, &mut scratch.rooms[0]);
        let sums = &mut *scratch.sums;
        let activations = self.activations(dtype);
        if self.n <= self.kernels.direct_max {
            // SAFETY: the kernels are those of this processor; the activations were made for this call, in one
            // tile of `n` columns.
            unsafe {
                (self.kernels.direct)(dtype, self.n, target.prefetch.way())(
                    panels,
                    activations.tile(0, 0),
                    sums,
                );
                target.store(sums.as_flattened(), PANELS_MAX, &range, 0, self.n);
            }
            return;
        }
        let next = panels.start.map(|start| start.wrapping_add(2 * panels.layout.stride));
        for tiles in self.tiles(activations) {
            // SAFETY: as above; what is stored are the sums of the tile's columns and the panels' rows.
            unsafe {
                self.stretches((target, panels), tiles, scratch, 0, Some(&range), next, &mut |tile| {
                    self.store(target, tile, &range);
                });
            }
        }
    }

    /// The tiles, in as many runs as it takes for the sums of one to be kept.
    fn tiles(&self, activations: &Activations) -> impl Iterator<Item = Range<usize>> + use<> {
        let tiles = activations.tiling().tiles();
        (0..tiles).step_by(TILES_MAX).map(move |first| first..tiles.min(first + TILES_MAX))
    }

    /// The activations for weights of a format.
    fn activations(&self, dtype: DType) -> &'a Activations {
        &self.inputs.0[Grouping::of(dtype) as usize]
    }

    /// Computes the sums of two of a target's panels' rows for some tiles of columns, stretch by stretch of the weights,
    /// and calls `done` with each tile's. Where these panels' numbers are given, their sums are going to be stored.
    ///
    /// # Safety
    /// The panels are the target's, with as many columns as the activations of this call, of which there are no more
    /// than [`TILES_MAX`] of these tiles. `slot` is 0 or 1.
    unsafe fn stretches(
        &self,
        (target, panels): (&Target<'_>, Panels),
        tiles: Range<usize>,
        scratch: &mut Scratch,
        slot: usize,
        stored: Option<&Range<usize>>,
        next: [*const u8; PANELS_MAX],
        done: &mut dyn FnMut(TileSums),
    ) {
        let (cols, dtype) = (panels.cols, target.w.dtype());
        let activations = self.activations(dtype);
        let tiling = activations.tiling();
        let unpack = (self.kernels.unpack)(dtype, target.prefetch.way());
        let unpacked = scratch.unpacked();
        let widest = tiling.width(0);
        let wide = (self.kernels.product32)(dtype, widest);
        let narrow = (self.kernels.product32)(dtype, tiling.width(tiling.tiles() - 1));
        let columns_at_once = stretch_of(dtype);
        for k in (0..cols).step_by(columns_at_once) {
            let group = group_columns(dtype);
            let stretch = |k: usize| k / group..panels.layout.groups().min((k + columns_at_once) / group);
            let last = k + columns_at_once >= cols;
            // SAFETY: the kernels are those of this processor; the groups are there and make up one stretch.
            unsafe { unpack(panels, stretch(k), unpacked) };
            // What is unpacked next is asked for bit by bit meanwhile.
            let (packed, next) = if last { (next, 0) } else { (panels.start, k + columns_at_once) };
            let bytes = panels.layout.bytes(stretch(next));
            let each = bytes.len().div_ceil(64 * tiles.len()) * 64;
            let mut ahead = bytes.start;
            for (index, tile) in tiles.clone().enumerate() {
                let (column, width) = (tiling.start(tile), tiling.width(tile));
                let product = if width == widest { wide } else { narrow };
                let totals = scratch.totals(slot, index);
                for at in (ahead..bytes.end.min(ahead + each)).step_by(64) {
                    prefetch_to_second_cache(packed[0].wrapping_add(at));
                    prefetch_to_second_cache(packed[1].wrapping_add(at));
                }
                ahead += each;
                if last && let Some(range) = stored {
                    target.prefetch(range, column, width);
                }
                let a = activations.tile(tile, k);
                // SAFETY: the activations were made for this call, and there are sums for each tile.
                unsafe { product(unpacked, columns_at_once.min(cols - k), a, totals, k == 0) };
                if last {
                    done(TileSums { index, column, width, totals });
                }
            }
        }
    }

    /// Stores a tile's sums of two panels.
    ///
    /// # Safety
    /// As for [`Target::store`]; the sums are there.
    unsafe fn store(&self, target: &Target<'_>, tile: TileSums, range: &Range<usize>) {
        let (row, rows) = (range.start * LANES, target.w.rows());
        // SAFETY: the caller's contract; 32 rows are stored where as many are left.
        unsafe {
            if row + 2 * LANES > rows {
                target.store(tile.sums(), 2, range, tile.column, tile.width);
                return;
            }
            let bias = target.bias.and_then(|bias| bias[row..].first_chunk());
            let y = target.y.add(tile.column * rows + row);
            (self.kernels.store)(tile.sums().as_ptr(), tile.width, y, rows, bias, target.add);
        }
    }

    /// `gate = silu(gate · x) * (up · x)` for the rows of some units of two weights of one shape; the up projection's
    /// target is used where it is needed.
    ///
    /// # Safety
    /// As for [`Call::part`], for both targets, which are apart.
    pub(crate) unsafe fn gated(
        &self,
        isa: Isa,
        targets: &[Target<'_>; 2],
        units: Range<usize>,
        scratch: &mut Scratch,
    ) {
        let [gate, up] = targets;
        if self.n <= self.kernels.direct_max {
            // SAFETY: the caller's contract.
            unsafe {
                self.part(gate, units.clone(), scratch);
                self.part(up, units.clone(), scratch);
                self.activate(isa, targets, &units);
            }
            return;
        }
        let panels = self.panels(gate, &units);
        for first in panels.clone().step_by(2) {
            let range = first..panels.end.min(first + 2);
            let ahead = gate.prefetch.distance();
            let gates = gate.w.panels(range.clone(), ahead, &mut scratch.rooms[0]);
            let ups = up.w.panels(range.clone(), ahead, &mut scratch.rooms[1]);
            let then = ups.start.map(|start| start.wrapping_add(2 * ups.layout.stride));
            // All ways of grouping have the same tiles.
            for tiles in self.tiles(self.activations(gate.w.dtype())) {
                let totals = scratch.totals(1, 0);
                // SAFETY: the caller's contract; a tile's sums of the up projection lie in the second slot, at the
                // same place.
                unsafe {
                    self.stretches((up, ups), tiles.clone(), scratch, 1, None, gates.start, &mut |_| {});
                    self.stretches((gate, gates), tiles, scratch, 0, Some(&range), then, &mut |tile| {
                        let up = TileSums { totals: totals.add(tile.index * TILE_SUMS), ..tile };
                        silu::silu_mul(isa, tile.sums_mut(), up.sums());
                        self.store(gate, tile, &range);
                    });
                }
            }
        }
    }

    /// `gate = silu(gate) * up` for the rows of some units.
    ///
    /// # Safety
    /// Both targets hold `n` rows of results, and nobody else uses these units' part of them.
    unsafe fn activate(&self, isa: Isa, [gate, up]: &[Target<'_>; 2], units: &Range<usize>) {
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
    /// Asks for the memory that [`Target::store`] is going to write.
    fn prefetch(&self, range: &Range<usize>, column: usize, width: usize) {
        let rows = self.w.rows();
        for c in column..column + width {
            for panel in range.clone() {
                prefetch_to_write(self.y.wrapping_add(c * rows + panel * LANES));
            }
        }
    }

    /// Stores the rows of panels `range` for `width` columns from `column` on; `sums` is `[width][panels][16]`.
    ///
    /// # Safety
    /// The target has those columns and panels, and nobody else uses their rows of it.
    unsafe fn store(&self, sums: &[f32], panels: usize, range: &Range<usize>, column: usize, width: usize) {
        let rows = self.w.rows();
        for (c, sums) in sums.chunks_exact(panels * LANES).enumerate().take(width) {
            for (sums, panel) in sums.as_chunks::<LANES>().0.iter().zip(range.clone()) {
                let row = panel * LANES;
                // SAFETY: the caller's contract.
                let y = unsafe { self.y.add((column + c) * rows + row) };
                if rows - row >= LANES {
                    // SAFETY: as above; all 16 rows are there.
                    self.store_rows(unsafe { &mut *y.cast::<[f32; LANES]>() }, sums, row);
                } else {
                    // SAFETY: as above, for the rows that are there.
                    self.store_rows(unsafe { std::slice::from_raw_parts_mut(y, rows - row) }, sums, row);
                }
            }
        }
    }

    /// Stores rows from `row` on of one column.
    #[inline(always)]
    fn store_rows(&self, y: &mut [f32], sums: &[f32; LANES], row: usize) {
        let bias = self.bias.map(|bias| &bias[row..row + y.len()]);
        match (bias, self.add) {
            (None, false) => y.copy_from_slice(&sums[..y.len()]),
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
