//! Scratch memory that products reuse from call to call.

use crate::activations::{Activations, Grouping};
use crate::kernels::{PANELS_MAX, Sums, TILE_MAX, UNPACKED, Unpacked};
use crate::lanes::LANES;
use crate::prefetch::{Chooser, PrefetchChoice, PrefetchPolicy};
use crate::sizes::product;
use crate::stored::PanelRoom;
use crate::{FloatBuffer, KernelError};

/// Scratch memory for products; it grows to what the largest call needs and then stays, so that a decode step
/// allocates nothing once each kind of call has been made.
#[derive(Debug, Default)]
pub struct Workspace {
    pub(crate) inputs: Inputs,
    pub(crate) scratch: Vec<Scratch>,
    /// Results of the gate and the up projection.
    pub(crate) gate: FloatBuffer,
    pub(crate) up: FloatBuffer,
    pub(crate) experts: ExpertScratch,
    pub(crate) prefetch: Chooser,
    max_rows: usize,
    max_cols: usize,
}

/// What a mixture of experts needs beside the rest. A *group* is an expert that is used, with the rows routed
/// to it; an *entry* is one row of a group.
#[derive(Debug, Default)]
pub(crate) struct ExpertScratch {
    pub(crate) groups: Vec<Group>,
    /// Where each expert's entries start; scratch of the sorting.
    pub(crate) counts: Vec<u32>,
    /// The row of `x` of each entry.
    pub(crate) rows: Vec<u32>,
    /// For each row of `x`, its entries in ascending order of experts, and their weights.
    pub(crate) entries: Vec<(u32, f32)>,
    /// Activations of each group.
    pub(crate) inputs: Vec<Inputs>,
    /// What each entry adds to its row.
    pub(crate) outputs: FloatBuffer,
}

/// An expert and its entries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    pub(crate) expert: usize,
    pub(crate) first: usize,
    pub(crate) count: usize,
}

/// The activations of a call, in each form that its weights ask for, by [`Grouping`].
#[derive(Debug, Default)]
pub(crate) struct Inputs(pub(crate) [Activations; Grouping::ALL.len()]);

/// Tiles whose sums a thread keeps while it goes through the stretches of its rows: together with the activations of
/// a stretch they stay in the second cache.
pub(crate) const TILES_MAX: usize = 88;
/// Sums of a tile: 32 rows for each column.
pub(crate) const TILE_SUMS: usize = TILE_MAX * 2 * LANES;

/// What one thread unpacks weights into, and the sums that it keeps.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// What a kernel that unpacks in registers gives.
    pub(crate) sums: Box<Sums>,
    /// `[2][TILES_MAX][TILE_MAX][32]`.
    totals: Vec<Line>,
    w: Vec<Line>,
    scales: Vec<Line>,
    dmin: Vec<Line>,
    minima: Vec<Line>,
    /// Panels of weights that are not packed yet, of two matrices.
    pub(crate) rooms: [PanelRoom; 2],
}

/// A cache line, for alignment.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "kernels write to it through pointers")] [u8; 64]);

/// Zeroed lines for so many bytes.
fn lines(bytes: usize) -> Vec<Line> {
    vec![Line([0; 64]); bytes.div_ceil(64)]
}

impl Workspace {
    /// Scratch for inputs of up to `max_rows` rows of `max_cols` values; larger calls make it grow.
    #[must_use]
    pub fn new(max_rows: usize, max_cols: usize) -> Self {
        Self { max_rows, max_cols, ..Self::default() }
    }

    /// The same, and weights are asked for as `policy` says.
    #[must_use]
    pub fn with_prefetch(self, policy: PrefetchPolicy) -> Self {
        Self { prefetch: Chooser::new(policy), ..self }
    }

    /// Tells that a decode step begins, for [`PrefetchPolicy::Learn`]. `true` if a choice was made in the one before.
    pub fn begin_step(&mut self) -> bool {
        self.prefetch.begin_step()
    }

    /// What was learnt so far about how to ask for weights.
    pub fn prefetch_choices(&self) -> impl Iterator<Item = PrefetchChoice> {
        self.prefetch.choices()
    }

    /// Takes over what was learnt by another one.
    pub fn follow_prefetch(&mut self, other: &Self) {
        self.prefetch.follow(&other.prefetch);
    }

    /// What was wrong with weights that were not packed yet; the results of all calls since the last time are void
    /// then.
    pub fn take_failure(&mut self) -> Option<KernelError> {
        self.rooms().filter_map(PanelRoom::take_failure).last()
    }

    /// Gives back what only weights need that are not packed yet.
    pub fn forget_unpacked(&mut self) {
        self.rooms().for_each(PanelRoom::clear);
    }

    fn rooms(&mut self) -> impl Iterator<Item = &mut PanelRoom> {
        self.scratch.iter_mut().flat_map(|scratch| &mut scratch.rooms)
    }

    /// One scratch per thread.
    pub(crate) fn reserve_scratch(&mut self, threads: usize) {
        if self.scratch.len() < threads {
            self.scratch.resize_with(threads, Scratch::new);
        }
    }

    /// Room for the intermediate results of a gated feed-forward block.
    pub(crate) fn reserve_hidden(&mut self, n: usize, width: usize) {
        let needed = product([n, width]);
        // Room for the largest call, if such a call could be.
        let rows = if width <= self.max_cols { self.max_rows } else { 0 };
        let len =
            rows.checked_mul(width).filter(|len| isize::try_from(*len).is_ok()).unwrap_or(0).max(needed);
        self.gate.reserve(len);
        self.up.reserve(len);
    }
}

impl Scratch {
    fn new() -> Self {
        Self {
            sums: Box::new([[0.0; PANELS_MAX * LANES]; TILE_MAX]),
            totals: lines(2 * TILES_MAX * TILE_SUMS * 4),
            w: lines(UNPACKED.w),
            scales: lines(UNPACKED.scales * 4),
            dmin: lines(UNPACKED.dmin * 4),
            minima: lines(UNPACKED.minima * 4),
            rooms: Default::default(),
        }
    }

    /// The sums of tile `index` of those that are kept in a slot, 0 or 1; `[TILE_MAX][32]`.
    pub(crate) fn totals(&mut self, slot: usize, index: usize) -> *mut f32 {
        self.totals.as_mut_ptr().cast::<f32>().wrapping_add((slot * TILES_MAX + index) * TILE_SUMS)
    }

    pub(crate) fn unpacked(&mut self) -> Unpacked {
        Unpacked {
            w: self.w.as_mut_ptr().cast(),
            scales: self.scales.as_mut_ptr().cast(),
            dmin: self.dmin.as_mut_ptr().cast(),
            minima: self.minima.as_mut_ptr().cast(),
        }
    }
}
