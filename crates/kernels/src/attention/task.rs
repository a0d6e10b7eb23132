//! One task: a tile of query rows of one key head against a span of chunks.
//!
//! The softmax is computed chunk by chunk (Milakov & Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022,
//! arXiv:2205.14135). Chunks begin at fixed positions, and a chunk's part in a row's result depends on the
//! row and the chunk alone; the parts are folded in the order of the chunks. That is why the result is the
//! same for any split of the work.

use super::micro::{F16, F32, Mix, Q8, QuantScores, RowScores, Scores, tile_rows, vector_bytes};
use super::queries::{pack_queries, register_tiles, vector_tiles};
use super::source::{Shape, Source};
use super::{CHUNK, SCORE_STRIDE};
use crate::kv::layout::Q8_LEN;
use crate::simd::{Kernel, LANES, Simd};

/// From this many rows on, keys and values in F16 and Q8_0 are widened once instead of by every loop.
const PANEL_ROWS: usize = 36;
/// Panels of keys or of values stay below this, so that both stay in a core's cache.
const PANEL_BYTES: usize = 160 << 10;

/// Sixteen f32 on a cache line of their own.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LANES]);

/// Memory of f32 on cache lines that only ever grows.
#[derive(Default)]
pub(super) struct Buffer(Vec<Line>);

impl Buffer {
    /// The first `len` values, whatever they hold.
    pub(super) fn get(&mut self, len: usize) -> &mut [f32] {
        let lines = len.div_ceil(LANES);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0.0; LANES]));
        }
        // SAFETY: a line is sixteen f32 without padding.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), len) }
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.len() * size_of::<Line>()
    }

    fn len(&self) -> usize {
        self.0.len() * LANES
    }
}

/// The memory one worker needs for a task.
#[derive(Default)]
pub(super) struct Scratch {
    /// Queries, or for Q8_0 keys their scales.
    pub(super) queries: Buffer,
    /// Quantised queries, and their biases.
    pub(super) quads: Vec<u32>,
    pub(super) biases: Vec<i32>,
    scores: Buffer,
    keys: Buffer,
    values: Buffer,
    /// The current chunk's part.
    part: Buffer,
    /// What the chunks so far amount to.
    folded: Buffer,
    /// `[rows]` maximum and sum of each of these.
    part_state: Vec<State>,
    folded_state: Vec<State>,
}

impl Scratch {
    /// How much each part holds.
    pub(super) fn lengths(&self) -> [usize; 10] {
        let Self { queries, quads, biases, scores, keys, values, part, folded, part_state, folded_state } =
            self;
        let vectors = [quads.capacity(), biases.capacity(), part_state.capacity(), folded_state.capacity()];
        let [a, b, c, d] = vectors;
        [queries.len(), scores.len(), keys.len(), values.len(), part.len(), folded.len(), a, b, c, d]
    }

    /// Grows each part to so much and no more, or workers would drive each other on.
    pub(super) fn grow(&mut self, lengths: [usize; 10]) {
        let [in_queries, in_scores, in_keys, in_values, in_part, in_folded, a, b, c, d] = lengths;
        self.queries.get(in_queries);
        self.scores.get(in_scores);
        self.keys.get(in_keys);
        self.values.get(in_values);
        self.part.get(in_part);
        self.folded.get(in_folded);
        self.quads.reserve_exact(a.saturating_sub(self.quads.len()));
        self.biases.reserve_exact(b.saturating_sub(self.biases.len()));
        self.part_state.reserve_exact(c.saturating_sub(self.part_state.len()));
        self.folded_state.reserve_exact(d.saturating_sub(self.folded_state.len()));
    }

    pub(super) fn bytes(&self) -> usize {
        let [queries, scores, keys, values, part, folded, quads, biases, part_state, folded_state] =
            self.lengths();
        (queries + scores + keys + values + part + folded + quads + biases) * size_of::<f32>()
            + (part_state + folded_state) * size_of::<State>()
    }
}

/// A row's running softmax: the largest score (in powers of two) and the sum of weights relative to it.
#[derive(Clone, Copy, Default)]
pub(super) struct State {
    largest: f32,
    sum: f32,
}

/// The part of one chunk, or of none.
pub(super) const NO_PART: State = State { largest: f32::NEG_INFINITY, sum: 0.0 };

/// Everything the tasks of a call share.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) q: &'a [f32],
    pub(super) n_heads: usize,
    pub(super) shape: Shape,
    /// The caller's scale times the logarithm that turns powers of e into powers of two.
    pub(super) scale: f32,
    pub(super) out: Out,
}

impl Call<'_> {
    /// Query heads of a key head.
    #[inline(always)]
    pub(super) fn group(&self) -> usize {
        self.n_heads / self.shape.n_kv_heads
    }
}

/// The output, of which each task writes its own rows and heads.
#[derive(Clone, Copy)]
pub(super) struct Out(*mut f32);

impl Out {
    /// # Safety
    /// There is room for `v_dim` values of each head of each row of the call that this becomes part of, and nobody else
    /// uses them as long as its tasks run. No two tasks have a tile with the same head of the same row.
    pub(super) unsafe fn new(start: *mut f32) -> Self {
        Self(start)
    }
}

// SAFETY: tasks write disjoint parts.
unsafe impl Sync for Out {}
// SAFETY: as above.
unsafe impl Send for Out {}

/// A tile of rows: rows of a sequence and the query heads of one key head, flattened with heads innermost.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    pub(super) source: Source<'a>,
    pub(super) first_row: usize,
    pub(super) first_position: usize,
    pub(super) head: usize,
    /// Flattened rows `start..start + rows`.
    pub(super) start: usize,
    pub(super) rows: usize,
}

impl Tile<'_> {
    /// Positions that flattened row `r` of the tile attends to.
    #[inline(always)]
    pub(super) fn limit(&self, call: &Call<'_>, r: usize) -> usize {
        self.first_position + (self.start + r) / call.group() + 1
    }

    /// Where flattened row `r` of the tile lies among all rows and heads.
    #[inline(always)]
    pub(super) fn row_and_head(&self, call: &Call<'_>, r: usize) -> usize {
        let group = call.group();
        let t = self.start + r;
        (self.first_row + t / group) * call.n_heads + self.head * group + t % group
    }
}

/// What becomes of the parts.
pub(super) enum Goal<'a> {
    /// They are folded, and the result is written out.
    Finish,
    /// They are kept, `[chunks][rows]`, to be folded when all are there.
    Keep { parts: &'a mut [f32], states: &'a mut [State] },
}

/// Chunks `first..end` of a tile.
pub(super) struct Span<'a> {
    pub(super) call: &'a Call<'a>,
    pub(super) tile: Tile<'a>,
    pub(super) first: usize,
    pub(super) end: usize,
    pub(super) scratch: &'a mut Scratch,
    pub(super) goal: Goal<'a>,
}

impl Kernel for Span<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Span { call, tile, first, end, scratch, mut goal } = self;
        let rows = tile.rows;
        let len = rows * call.shape.slices() * LANES;
        pack_queries(s, call, &tile, scratch);
        scratch.part_state.resize(rows, NO_PART);
        scratch.folded_state.clear();
        scratch.folded_state.resize(rows, NO_PART);
        for chunk in first..end {
            one_chunk(s, call, &tile, chunk, scratch);
            match &mut goal {
                Goal::Finish => fold(
                    s,
                    scratch.folded.get(len),
                    &mut scratch.folded_state,
                    scratch.part.get(len),
                    &scratch.part_state,
                ),
                Goal::Keep { parts, states } => {
                    let index = chunk - first;
                    parts[index * len..][..len].copy_from_slice(scratch.part.get(len));
                    states[index * rows..][..rows].copy_from_slice(&scratch.part_state);
                }
            }
        }
        if matches!(goal, Goal::Finish) {
            write_out(s, call, &tile, scratch.folded.get(len), &scratch.folded_state);
        }
    }
}

/// Folds parts that were kept, in order, and writes the result.
pub(super) struct Merge<'a> {
    pub(super) call: &'a Call<'a>,
    pub(super) tile: Tile<'a>,
    pub(super) scratch: &'a mut Scratch,
    pub(super) parts: &'a [f32],
    pub(super) states: &'a [State],
}

impl Kernel for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.tile.rows;
        let len = rows * self.call.shape.slices() * LANES;
        let folded = self.scratch.folded.get(len);
        self.scratch.folded_state.clear();
        self.scratch.folded_state.resize(rows, NO_PART);
        for (part, states) in self.parts.chunks_exact(len).zip(self.states.chunks_exact(rows)) {
            fold(s, folded, &mut self.scratch.folded_state, part, states);
        }
        write_out(s, self.call, &self.tile, folded, &self.scratch.folded_state);
    }
}

/// Computes the part of one chunk for all rows of the tile into `scratch.part` and `scratch.part_state`.
#[inline(always)]
fn one_chunk<S: Simd>(s: S, call: &Call<'_>, tile: &Tile<'_>, chunk: usize, scratch: &mut Scratch) {
    let base = chunk * CHUNK;
    // Positions of this chunk that some row sees, and how many of them row `r` sees.
    let n = (tile.limit(call, tile.rows - 1) - base).min(CHUNK);
    let seen = |r: usize| tile.limit(call, r).saturating_sub(base).min(n);
    score_chunk(s, call, tile, base, n, &seen, scratch);
    let scores = scratch.scores.get(tile.rows * SCORE_STRIDE);
    for (r, state) in scratch.part_state.iter_mut().enumerate() {
        *state = weigh(s, &mut scores[r * SCORE_STRIDE..][..SCORE_STRIDE], seen(r));
    }
    mix_chunk(s, call, tile, base, n, &seen, scratch);
}

/// Positions per panel for a head dimension: a power of two, so that panels divide a chunk.
fn panel_positions(dim: usize) -> usize {
    let mut positions = CHUNK;
    while positions > 2 * LANES && positions * dim * size_of::<f32>() > PANEL_BYTES {
        positions /= 2;
    }
    positions
}

/// Scores of all rows against the `n` positions from `base`.
#[inline(always)]
fn score_chunk<S: Simd>(
    s: S,
    call: &Call<'_>,
    tile: &Tile<'_>,
    base: usize,
    n: usize,
    seen: &impl Fn(usize) -> usize,
    scratch: &mut Scratch,
) {
    let shape = &call.shape;
    let Some(mut format) = shape.keys else { return score_rows(s, call, tile, base, n, seen, scratch) };
    let panels = format == F16 && tile.rows >= PANEL_ROWS;
    let run_len = if panels { panel_positions(shape.k_dim) } else { CHUNK };
    let scores = scratch.scores.get(tile.rows * SCORE_STRIDE).as_mut_ptr();
    for start in (0..n).step_by(run_len) {
        let len = run_len.min(n - start);
        let groups = len.div_ceil(LANES);
        let (mut keys, mut ahead) = ([std::ptr::null::<u8>(); CHUNK / LANES], [std::ptr::null(); 4]);
        let keys = &mut keys[..groups];
        if panels {
            format = F32;
            let panel = scratch.keys.get(run_len * shape.k_dim);
            tile.source.keys_to_panel(s, tile.head, base, n, start..start + len, panel);
            for (key, group) in keys.iter_mut().zip(panel.chunks_exact(shape.k_dim * LANES)) {
                *key = group.as_ptr().cast();
            }
        } else {
            for (g, key) in keys.iter_mut().enumerate() {
                *key = tile.source.key_group(tile.head, base + start + g * LANES);
            }
        }
        // Groups outermost, four at a time: they stay in the nearest cache while the rows pass by.
        for (index, keys) in keys.chunks(4).enumerate() {
            let at = start + index * 4 * LANES;
            ahead[..keys.len()].copy_from_slice(keys);
            if !panels {
                for (g, ahead) in ahead[..keys.len()].iter_mut().enumerate() {
                    *ahead = tile.source.after_keys(tile.head, base, n, at + g * LANES, 4 * LANES);
                }
            }
            for (first, rows) in register_tiles(tile.rows, S::WIDE) {
                let visible = seen(first + rows - 1).saturating_sub(at).div_ceil(LANES).min(keys.len());
                let keys = &keys[..visible];
                // The first rows to pass ask for what comes next.
                let ahead = if first == 0 { &ahead[..visible] } else { keys };
                // SAFETY: a row of scores has room for a whole chunk.
                let scores = unsafe { scores.add(first * SCORE_STRIDE + at) };
                // SAFETY: keys point to whole groups of the format, and the queries were packed for these
                // very register tiles.
                unsafe {
                    if format == Q8 {
                        let blocks = shape.key_blocks();
                        let quads = first * blocks * (Q8_LEN / 4) * 2;
                        QuantScores {
                            quads: scratch.quads.as_ptr().add(quads),
                            scales: scratch.queries.get(tile.rows * blocks).as_ptr().add(first * blocks),
                            biases: scratch.biases.as_ptr().add(first * blocks),
                            rows,
                            blocks,
                            keys,
                            ahead,
                            k_data: tile.source.geometry().map_or(0, |geometry| geometry.k_data),
                            scores,
                        }
                        .run(s);
                    } else {
                        let q =
                            scratch.queries.get(tile.rows * shape.k_dim).as_ptr().add(first * shape.k_dim);
                        Scores { q, rows, k_dim: shape.k_dim, keys, ahead, format, scores }.run(s);
                    }
                }
            }
        }
    }
}

/// [`score_chunk`] for keys that lie in rows.
#[inline(always)]
fn score_rows<S: Simd>(
    s: S,
    call: &Call<'_>,
    tile: &Tile<'_>,
    base: usize,
    n: usize,
    seen: &impl Fn(usize) -> usize,
    scratch: &mut Scratch,
) {
    let k_dim = call.shape.k_dim;
    // An odd number of lines, so that rows do not compete for the same places of the cache.
    let stride = (k_dim.div_ceil(LANES) | 1) * LANES;
    let keys = scratch.keys.get(LANES * stride);
    let limit = tile.limit(call, tile.rows - 1);
    let q = scratch.queries.get(tile.rows.next_multiple_of(LANES) * k_dim).as_ptr();
    let scores = scratch.scores.get(tile.rows * SCORE_STRIDE).as_mut_ptr();
    for start in (0..n).step_by(LANES) {
        tile.source.keys_to_rows(s, tile.head, base + start, base + n, limit, keys, stride);
        for (first, vectors) in vector_tiles(tile.rows, S::WIDE) {
            let (first, after) = (first * LANES, (first + vectors) * LANES);
            if seen(after.min(tile.rows) - 1) <= start {
                continue;
            }
            // SAFETY: the queries were packed for these very tiles, the buffer holds sixteen keys, and each row
            // has scores for a whole chunk.
            unsafe {
                RowScores {
                    q: q.add(first * k_dim),
                    vectors,
                    k_dim,
                    keys: keys.as_ptr(),
                    stride,
                    scores: scores.add(first * SCORE_STRIDE + start),
                    rows: tile.rows - first,
                }
                .run(s);
            }
        }
    }
}

/// Turns a row's first `n` scores into weights relative to the largest of them.
#[inline(always)]
fn weigh<S: Simd>(s: S, scores: &mut [f32], n: usize) -> State {
    if n == 0 {
        return NO_PART;
    }
    let lowest = s.splat(f32::NEG_INFINITY);
    let mut largest = lowest;
    let whole = n / LANES * LANES;
    for lanes in scores[..whole].chunks_exact(LANES) {
        largest = s.max(s.load_slice(lanes, 0.0), largest);
    }
    let last = s.load_slice(&scores[whole..n], f32::NEG_INFINITY);
    largest = s.max(last, largest);
    let state = s.largest(largest);
    let largest = s.splat(state);
    let mut sum = s.splat(0.0);
    for lanes in scores[..whole].chunks_exact_mut(LANES) {
        let weights = s.exp2(s.sub(s.load_slice(lanes, 0.0), largest));
        s.store_slice(lanes, weights);
        sum = s.add(sum, weights);
    }
    if whole < n {
        // Lanes beyond the last position weigh nothing.
        let weights = s.exp2(s.sub(last, largest));
        s.store_slice(&mut scores[whole..n], weights);
        sum = s.add(sum, weights);
    }
    State { largest: state, sum: s.sum(sum) }
}

/// Adds up the values of the `n` positions from `base`, weighted, for all rows.
#[inline(always)]
fn mix_chunk<S: Simd>(
    s: S,
    call: &Call<'_>,
    tile: &Tile<'_>,
    base: usize,
    n: usize,
    seen: &impl Fn(usize) -> usize,
    scratch: &mut Scratch,
) {
    let shape = &call.shape;
    let row_len = shape.slices() * LANES;
    // A panel of latent values costs more than widening them in the loops, for any number of rows that fit a tile.
    let panels = shape.keys.is_some() && tile.rows >= PANEL_ROWS;
    let in_place = match (shape.values, tile.source.geometry()) {
        (Some(format), Some(geometry)) if format == F32 || !panels => Some((format, geometry)),
        _ => None,
    };
    let run_len = in_place.map_or_else(|| panel_positions(shape.v_dim), |(_, geometry)| geometry.block_len);
    let sums = scratch.part.get(tile.rows * row_len).as_mut_ptr();
    let weights = scratch.scores.get(tile.rows * SCORE_STRIDE).as_ptr();
    let panel = scratch.values.get(run_len.max(CHUNK) * row_len);
    let limit = tile.limit(call, tile.rows - 1);
    for start in (0..n).step_by(run_len) {
        let len = run_len.min(n - start);
        let (values, mut ahead, format, slice_bytes, position_bytes);
        if let Some((stored, _)) = in_place {
            format = stored;
            values = tile.source.value_segment(tile.head, base + start);
            ahead = values;
            if shape.keys.is_some() {
                ahead = tile.source.after_values(s, tile.head, base, n, start, limit);
            }
            (slice_bytes, position_bytes) = tile.source.value_strides(format);
            if format == Q8 {
                tile.source.value_scales(s, tile.head, base + start, len, panel, CHUNK);
            }
        } else {
            let range = start..start + len;
            tile.source.values_to_panel(s, tile.head, base, n, limit, range, panel, run_len);
            values = panel.as_ptr().cast();
            ahead = values;
            format = F32;
            (slice_bytes, position_bytes) = (run_len * vector_bytes(F32), vector_bytes(F32));
        }
        for (first, rows) in register_tiles(tile.rows, S::WIDE) {
            let reach = |r: usize| seen(r).saturating_sub(start).min(len);
            let common = reach(first);
            let mix = Mix {
                // SAFETY: each row has its weights and its sums.
                weights: unsafe { weights.add(first * SCORE_STRIDE + start) },
                rows,
                values,
                // The first rows to pass ask for what comes next.
                ahead: if first == 0 { ahead } else { values },
                slice_bytes,
                position_bytes,
                slices: shape.slices(),
                format,
                scales: panel.as_ptr(),
                from: 0,
                to: common,
                // SAFETY: as above.
                sums: unsafe { sums.add(first * row_len) },
                resume: start > 0,
            };
            // SAFETY: the segment holds `len` positions of all slices in the format stated.
            unsafe { mix.run(s) };
            // Rows further down the diagonal see a few positions more. They get them apart, since even a
            // weight of zero would let another row's NaN in.
            let mut r = first;
            while r < first + rows {
                let alike = (r..first + rows).take_while(|other| reach(*other) == reach(r)).count();
                let n = tile_rows(alike, S::WIDE);
                if reach(r) > common {
                    // SAFETY: as above, for some of the rows.
                    unsafe {
                        Mix {
                            weights: weights.add(r * SCORE_STRIDE + start),
                            rows: n,
                            from: common,
                            to: reach(r),
                            sums: sums.add(r * row_len),
                            resume: true,
                            ..mix
                        }
                        .run(s);
                    }
                }
                r += n;
            }
        }
    }
}

/// Adds a chunk's part to what the chunks before it amount to.
#[inline(always)]
fn fold<S: Simd>(s: S, folded: &mut [f32], states: &mut [State], part: &[f32], part_states: &[State]) {
    let row_len = folded.len() / states.len().max(1);
    let rows = folded.chunks_exact_mut(row_len).zip(part.chunks_exact(row_len));
    for ((folded, part), (state, other)) in rows.zip(states.iter_mut().zip(part_states)) {
        // A sum of zero marks a part that is not there; one that is there holds a weight of one.
        if other.sum == 0.0 {
            continue;
        }
        if state.sum == 0.0 {
            folded.copy_from_slice(part);
            *state = *other;
            continue;
        }
        let largest = if other.largest > state.largest { other.largest } else { state.largest };
        let powers = s.exp2(s.load_slice(&[state.largest - largest, other.largest - largest], 0.0));
        let [keep, add, ..] = s.to_array(powers);
        *state = State { largest, sum: state.sum * keep + other.sum * add };
        let (keep, add) = (s.splat(keep), s.splat(add));
        for (folded, part) in folded.chunks_exact_mut(LANES).zip(part.chunks_exact(LANES)) {
            let kept = s.mul(s.load_slice(folded, 0.0), keep);
            s.store_slice(folded, s.mul_add(s.load_slice(part, 0.0), add, kept));
        }
    }
}

/// Divides by the sums and writes each row to its place.
#[inline(always)]
fn write_out<S: Simd>(s: S, call: &Call<'_>, tile: &Tile<'_>, folded: &[f32], states: &[State]) {
    let v_dim = call.shape.v_dim;
    let row_len = call.shape.slices() * LANES;
    for (r, (folded, state)) in folded.chunks_exact(row_len).zip(states).enumerate() {
        let at = tile.row_and_head(call, r) * v_dim;
        // SAFETY: the output has room for every row and head, and only this task writes this one.
        let out = unsafe { std::slice::from_raw_parts_mut(call.out.0.add(at), v_dim) };
        let inverse = s.splat(1.0 / state.sum);
        for (out, folded) in out.chunks_mut(LANES).zip(folded.chunks_exact(LANES)) {
            s.store_slice(out, s.mul(s.load_slice(folded, 0.0), inverse));
        }
    }
}
