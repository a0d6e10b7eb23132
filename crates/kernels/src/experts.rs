//! Mixtures of experts: each row goes through a few of many feed-forward blocks.
//!
//! Rows are grouped by expert, so that an expert's weights are read and unpacked once for all rows routed to it.
//! What a row's experts give is added up in ascending order of their numbers, whatever the batch.

use std::ops::Range;

use crate::call::{Call, PerWorker, Target, for_each_range};
use crate::kernels::Kernels;
use crate::panel::panels;
use crate::prefetch::Prefetch;
use crate::sizes::product;
use crate::workspace::{ExpertScratch, Group, Inputs, Workspace};
use crate::{DType, Isa, KernelError, Matrix, Pool, isa};

/// Fewer values than this are added up by the calling thread alone.
const ADD_ALONE: usize = 1 << 16;

/// Results that are added up at a time, so that sums stay in the first cache.
const ADD_BLOCK: usize = 256;

/// One matrix per expert, all of one shape and format.
#[derive(Debug)]
pub struct ExpertStack {
    experts: Vec<Matrix>,
}

/// Which experts each row goes through.
#[derive(Debug, Clone, Copy)]
pub struct Routing<'a> {
    /// Experts of a row.
    pub per_row: usize,
    /// Numbers of experts, `[n, per_row]`, in any order.
    pub experts: &'a [u32],
    /// What each expert's result is multiplied with, `[n, per_row]`.
    pub weights: &'a [f32],
}

impl ExpertStack {
    /// A stack of matrices, one per expert.
    ///
    /// # Errors
    /// When one differs from the first in shape or format.
    pub fn new(experts: Vec<Matrix>) -> Result<Self, KernelError> {
        let kind = |w: &Matrix| (w.rows(), w.cols(), w.dtype());
        match experts.iter().position(|w| kind(w) != kind(&experts[0])) {
            Some(index) => Err(KernelError::UnequalExperts { index }),
            None => Ok(Self { experts }),
        }
    }

    /// Packs `count` matrices of `rows` by `cols` that lie one after the other in `data`.
    ///
    /// # Errors
    /// As for [`Matrix::pack`].
    pub fn pack(
        dtype: DType,
        count: usize,
        rows: usize,
        cols: usize,
        data: &[u8],
        pool: &Pool,
    ) -> Result<Self, KernelError> {
        let all = rows.checked_mul(count).ok_or(KernelError::BadShape { dtype, rows, cols })?;
        let row_bytes = dtype.row_bytes(cols).ok_or(KernelError::PartialBlock { dtype, cols })?;
        let needed = row_bytes.checked_mul(all).ok_or(KernelError::BadShape { dtype, rows: all, cols })?;
        if data.len() != needed || needed == 0 {
            return Err(KernelError::WrongLength { dtype, rows: all, cols, needed, given: data.len() });
        }
        let experts = data.chunks_exact(rows * row_bytes);
        Ok(Self {
            experts: experts
                .map(|data| Matrix::pack(dtype, rows, cols, data, pool))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Number of experts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.experts.len()
    }

    /// Whether there are no experts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.experts.is_empty()
    }

    /// The weights of an expert, where there is one with this number.
    #[must_use]
    pub fn get(&self, expert: usize) -> Option<&Matrix> {
        self.experts.get(expert)
    }

    /// All of them, to be packed (see [`Matrix::pack_next`]).
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Matrix> {
        self.experts.iter_mut()
    }

    /// Those of some groups.
    fn used(&self, groups: &[Group]) -> impl Iterator<Item = &Matrix> {
        groups.iter().map(|group| &self.experts[group.expert])
    }

    /// Bytes of memory held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.experts.iter().map(Matrix::bytes).sum()
    }
}

/// `y[row] = Σ weight · down(silu(gate · x[row]) * (up · x[row]))` over the experts of each row, or added to `y`.
///
/// `x` is `[n, cols]`, `y` is `[n, down's rows]`. The result of a row depends on nothing but that row, bit for bit.
///
/// # Panics
/// When shapes do not fit together or an expert's number is out of range.
pub fn moe_mlp(
    pool: &Pool,
    ws: &mut Workspace,
    x: &[f32],
    routing: &Routing<'_>,
    [gate, up, down]: [&ExpertStack; 3],
    y: &mut [f32],
    add: bool,
) {
    moe_mlp_on(isa(), pool, ws, x, routing, [gate, up, down], y, add);
}

/// [`moe_mlp`] with a set of kernels that the processor has.
pub(crate) fn moe_mlp_on(
    isa: Isa,
    pool: &Pool,
    ws: &mut Workspace,
    x: &[f32],
    routing: &Routing<'_>,
    [gate, up, down]: [&ExpertStack; 3],
    y: &mut [f32],
    add: bool,
) {
    let count = gate.len();
    assert!(count > 0 && up.len() == count && down.len() == count, "as many experts in each stack");
    let (cols, width, rows) = (gate.experts[0].cols(), gate.experts[0].rows(), down.experts[0].rows());
    assert_eq!((up.experts[0].rows(), up.experts[0].cols()), (width, cols), "gate and up have equal shapes");
    assert_eq!(down.experts[0].cols(), width, "down takes what gate gives");
    let n = x.len() / cols;
    assert_eq!(x.len(), product([n, cols]), "x is [n, cols]");
    assert_eq!(y.len(), product([n, rows]), "y is [n, rows]");
    assert_eq!(Some(routing.experts.len()), n.checked_mul(routing.per_row), "experts are [n, per_row]");
    assert_eq!(routing.weights.len(), routing.experts.len(), "a weight for each expert");
    assert!(routing.experts.iter().all(|expert| (*expert as usize) < count), "numbers of experts");
    if n == 0 {
        return;
    }
    let entries = routing.experts.len();
    assert!(u32::try_from(entries).is_ok(), "entries are counted in 32 bits");
    let kernels = Kernels::of(isa);
    ws.reserve_scratch(pool.threads());
    ws.reserve_hidden(entries, width);
    let scratch = PerWorker(ws.scratch.as_mut_ptr());
    let experts = &mut ws.experts;
    experts.group(routing, n, count, product([entries, rows]));
    let dtypes = [gate.experts[0].dtype(), up.experts[0].dtype()];
    let (groups, indices) = (&experts.groups, &experts.rows);
    fill(kernels, pool, &mut experts.inputs, groups, cols, dtypes, &|entry| {
        &x[indices[entry] as usize * cols..]
    });

    let hidden = Rows { start: ws.gate.as_mut_ptr(), width };
    let other = Rows { start: ws.up.as_mut_ptr(), width };
    let inputs = &experts.inputs;
    let sample = ws.prefetch.sample(n, gate.used(groups).chain(up.used(groups)));
    let prefetch = dtypes.map(|dtype| ws.prefetch.of(dtype, sample));
    let turns = Call::turns(pool, prefetch[0], groups.len() * panels(width));
    for_each_part(pool, kernels, groups, (turns, width), &|index, units, worker| {
        let group = groups[index];
        let call = Call::new(kernels, &inputs[index], group.count, turns);
        let targets = [
            hidden.target(&gate.experts[group.expert], group, prefetch[0]),
            other.target(&up.experts[group.expert], group, prefetch[1]),
        ];
        // SAFETY: each unit of each group is worked on once, and groups write different rows of the buffers,
        // which hold a row for each entry. There is a scratch for each worker.
        unsafe {
            let scratch = scratch.get(worker);
            call.gated(isa, &targets, units, scratch);
        }
    });
    ws.prefetch.end(sample);

    let hidden = &ws.gate[..entries * width];
    let dtypes = [down.experts[0].dtype(); 2];
    fill(kernels, pool, &mut experts.inputs, groups, width, dtypes, &|entry| &hidden[entry * width..]);
    let outputs = Rows { start: experts.outputs.as_mut_ptr(), width: rows };
    let inputs = &experts.inputs;
    let sample = ws.prefetch.sample(n, down.used(groups));
    let prefetch = ws.prefetch.of(dtypes[0], sample);
    let turns = Call::turns(pool, prefetch, groups.len() * panels(rows));
    for_each_part(pool, kernels, groups, (turns, rows), &|index, units, worker| {
        let group = groups[index];
        let call = Call::new(kernels, &inputs[index], group.count, turns);
        let target = outputs.target(&down.experts[group.expert], group, prefetch);
        // SAFETY: as above.
        unsafe { call.part(&target, units, scratch.get(worker)) };
    });
    ws.prefetch.end(sample);
    experts.add_up(pool, routing.per_row, y, rows, add);
}

/// A buffer of rows that several threads write to, each its own part.
#[derive(Clone, Copy)]
struct Rows {
    start: *mut f32,
    width: usize,
}

// SAFETY: whoever writes through a target vouches for its part being its own.
unsafe impl Send for Rows {}
// SAFETY: as above.
unsafe impl Sync for Rows {}

impl Rows {
    /// The rows of a group's entries as the result of `w`.
    fn target(self, w: &Matrix, group: Group, prefetch: Prefetch) -> Target<'_> {
        Target { w, bias: None, y: self.row(group.first), add: false, prefetch }
    }

    fn row(self, row: usize) -> *mut f32 {
        self.start.wrapping_add(row * self.width)
    }
}

/// Quantises the rows of each group.
fn fill<'x>(
    kernels: &Kernels,
    pool: &Pool,
    inputs: &mut Vec<Inputs>,
    groups: &[Group],
    cols: usize,
    dtypes: [DType; 2],
    row: &(dyn Fn(usize) -> &'x [f32] + Sync),
) {
    if inputs.len() < groups.len() {
        inputs.resize_with(groups.len(), Inputs::default);
    }
    let fill = |group: &Group, inputs: &mut Inputs| {
        inputs.fill(kernels, None, &|c| row(group.first + c), group.count, cols, dtypes.into_iter());
    };
    let entries: usize = groups.iter().map(|group| group.count).sum();
    if entries * cols < ADD_ALONE {
        groups.iter().zip(inputs).for_each(|(group, inputs)| fill(group, inputs));
        return;
    }
    let inputs = InputsOut(inputs.as_mut_ptr());
    pool.run(groups.len(), &|index| {
        // SAFETY: there are inputs for each group, and each group is worked on once.
        fill(&groups[index], unsafe { inputs.get(index) });
    });
}

/// Inputs of groups, each for one task.
#[derive(Clone, Copy)]
struct InputsOut(*mut Inputs);

// SAFETY: see `InputsOut::get`.
unsafe impl Send for InputsOut {}
// SAFETY: see `InputsOut::get`.
unsafe impl Sync for InputsOut {}

impl InputsOut {
    /// # Safety
    /// There are more than `index` inputs, and nobody else uses this one meanwhile.
    unsafe fn get<'a>(self, index: usize) -> &'a mut Inputs {
        // SAFETY: the caller's contract.
        unsafe { &mut *self.0.add(index) }
    }
}

/// Runs `f(group, units, worker)` for all units of all groups, in one fork and join; `turns` panels make up a unit.
fn for_each_part(
    pool: &Pool,
    kernels: &Kernels,
    groups: &[Group],
    (turns, rows): (usize, usize),
    f: &(dyn Fn(usize, Range<usize>, usize) + Sync),
) {
    let units = |group: &Group| Call::units_of(kernels, group.count, turns, rows);
    let total = groups.iter().map(units).sum();
    for_each_range(pool, total, &|range, worker| {
        let mut first = 0;
        for (index, group) in groups.iter().enumerate() {
            let count = units(group);
            let part = range.start.max(first)..range.end.min(first + count);
            if !part.is_empty() {
                f(index, part.start - first..part.end - first, worker);
            }
            first += count;
        }
    });
}

impl ExpertScratch {
    /// Sorts the routing by expert.
    fn group(&mut self, routing: &Routing<'_>, n: usize, experts: usize, outputs: usize) {
        self.groups.clear();
        self.rows.clear();
        self.entries.clear();
        self.entries.resize(routing.experts.len(), (0, 0.0));
        self.outputs.reserve(outputs);
        self.counts.clear();
        self.counts.resize(experts + 1, 0);
        for expert in routing.experts {
            self.counts[*expert as usize + 1] += 1;
        }
        for expert in 0..experts {
            let (first, count) = (self.counts[expert] as usize, self.counts[expert + 1] as usize);
            self.counts[expert + 1] += self.counts[expert];
            if count > 0 {
                self.groups.push(Group { expert, first, count });
            }
        }
        self.rows.resize(routing.experts.len(), 0);
        let slots = routing
            .experts
            .chunks_exact(routing.per_row.max(1))
            .zip(routing.weights.chunks(routing.per_row.max(1)));
        for ((row, (experts, weights)), entries) in
            (0..n as u32).zip(slots).zip(self.entries.chunks_exact_mut(routing.per_row.max(1)))
        {
            for ((expert, weight), entry) in experts.iter().zip(weights).zip(&mut *entries) {
                let next = &mut self.counts[*expert as usize];
                self.rows[*next as usize] = row;
                *entry = (*next, *weight);
                *next += 1;
            }
            // Entries are numbered by ascending expert.
            entries.sort_unstable_by_key(|entry| entry.0);
        }
    }

    /// Adds up each row's entries, in order.
    fn add_up(&self, pool: &Pool, per_row: usize, y: &mut [f32], rows: usize, add: bool) {
        let n = y.len() / rows;
        let out = Rows { start: y.as_mut_ptr(), width: rows };
        let row = |row: usize| {
            // SAFETY: `y` holds `n` rows and each is worked on once.
            let y = unsafe { std::slice::from_raw_parts_mut(out.row(row), rows) };
            if !add {
                y.fill(0.0);
            }
            for start in (0..rows).step_by(ADD_BLOCK) {
                let block = start..rows.min(start + ADD_BLOCK);
                let mut sums = [0.0; ADD_BLOCK];
                let sums = &mut sums[..block.len()];
                for (entry, weight) in &self.entries[row * per_row..(row + 1) * per_row] {
                    let output = &self.outputs[*entry as usize * rows..][block.clone()];
                    sums.iter_mut().zip(output).for_each(|(sum, output)| *sum += weight * output);
                }
                y[block].iter_mut().zip(sums).for_each(|(y, sum)| *y += *sum);
            }
        };
        if n == 1 || y.len() * per_row < ADD_ALONE {
            (0..n).for_each(row);
        } else {
            pool.run(n, &row);
        }
    }
}

#[cfg(test)]
mod tests;
