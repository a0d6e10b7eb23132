//! Causal attention over the paged cache, for any mix of sequences and numbers of rows.
//!
//! Work is cut into tasks of one sequence, one key head, a tile of query rows and a span of chunks. All query
//! heads of a key head share a tile, so keys and values are read once for all of them; spans are split only
//! where there would be too few tasks for the threads, as when one long sequence decodes.

mod micro;
mod queries;
mod source;
mod task;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::kv::KvCache;
use crate::pool::Pool;
use crate::simd::dispatch_on;
use crate::sizes::{product, sum};
use crate::{Isa, isa};
use source::{Shape, Source};
use task::{Buffer, Call, Goal, Merge, NO_PART, Out, Scratch, Span, State, Tile};

/// Positions whose scores are normalised together; the grain at which a long sequence is split.
const CHUNK: usize = 256;
/// Scores of one row: a chunk, and a line more so that rows do not compete for the same lines of the cache.
const SCORE_STRIDE: usize = CHUNK + 16;
/// Query rows (times heads) of a tile at most: enough to make up for widening keys and values.
const TILE_ROWS_MAX: usize = 192;
/// What a tile's queries, scores and sums may take, so that they stay in a core's cache beside the panels.
const TILE_BYTES: usize = 512 << 10;
/// The same where tiles that large would leave threads idle, for keys in tiles and for keys in rows.
const SMALL_TILE_ROWS: [usize; 2] = [24, 48];
/// Rows of whole register tiles, for keys in tiles and for keys in rows.
const TILE_GRAIN: [usize; 2] = [12, 48];
/// Tasks per thread to aim for, so that threads finish together though tasks differ.
const TASKS_PER_THREAD: usize = 4;
/// Tasks per thread up to which a sequence's chunks are shared out. Fewer, because parts that wait to be folded are
/// written to memory and read again.
const SPANS_PER_THREAD: usize = 2;
/// Memory for parts that wait to be folded; beyond it spans are not split.
const PARTS_BYTES_MAX: usize = 64 << 20;

/// The query rows of one sequence in a call.
#[derive(Clone, Copy, Debug)]
pub struct SeqRows<'a> {
    /// The blocks that hold the sequence's positions, in order.
    pub block_table: &'a [u32],
    /// The first of its rows in `q` and `out`.
    pub first_row: usize,
    /// How many rows follow each other from there.
    pub n_rows: usize,
    /// The position of the first row. Row `i` attends to positions `0..=first_position + i`, whose keys and
    /// values must have been appended.
    pub first_position: usize,
}

/// Keys and values that lie in plain rows, for attention without a cache: DeepSeek's expanded form, for one.
#[derive(Clone, Copy, Debug)]
pub struct KeyValueRows<'a> {
    /// `[positions, n_kv_heads * k_dim]`
    pub k: &'a [f32],
    /// `[positions, n_kv_heads * v_dim]`
    pub v: &'a [f32],
    /// Heads of keys and values.
    pub n_kv_heads: usize,
    /// Values in a key.
    pub k_dim: usize,
    /// Values in a value.
    pub v_dim: usize,
}

/// Scratch memory of [`attention`], kept from call to call so that decoding does not allocate.
#[derive(Default)]
pub struct AttentionWorkspace {
    scratch: Vec<Mutex<Scratch>>,
    parts: Buffer,
    states: Vec<State>,
    items: Vec<Item>,
    tasks: Vec<Task>,
    unfinished: Vec<AtomicUsize>,
}

impl AttentionWorkspace {
    /// An empty workspace; it grows to what the calls need and stays at that.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes it holds at the moment.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let scratch = self.scratch.iter().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).bytes());
        scratch.sum::<usize>() + self.parts.bytes() + self.states.len() * size_of::<State>()
    }
}

impl std::fmt::Debug for AttentionWorkspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AttentionWorkspace").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

/// A tile of rows of one sequence and key head.
#[derive(Clone, Copy)]
struct Item {
    seq: usize,
    head: usize,
    start: usize,
    rows: usize,
    chunks: usize,
    /// Where its parts begin, in rows, if its span is split.
    parts: Option<usize>,
}

/// Chunks `first..end` of an item.
#[derive(Clone, Copy)]
struct Task {
    item: usize,
    first: usize,
    end: usize,
}

/// `out = softmax(scale * q · Kᵀ) · V` for each row and head, over the positions up to the row's own.
///
/// `q` is `[n, n_heads * k_dim]`, `out` `[n, n_heads * v_dim]`; query head `h` uses key head
/// `h / (n_heads / n_kv_heads)`. Rows that no sequence names are left alone. A row's result is the same bit
/// for bit however rows are grouped into calls, sequences and threads, and wherever the blocks lie.
///
/// # Panics
/// If a length does not fit the cache's layout, a block does not exist, a block table is too short or two
/// sequences share a row.
pub fn attention(
    pool: &Pool,
    ws: &mut AttentionWorkspace,
    q: &[f32],
    kv: &KvCache,
    layer: usize,
    seqs: &[SeqRows<'_>],
    n_heads: usize,
    scale: f32,
    out: &mut [f32],
) {
    attention_on(isa(), pool, ws, q, kv, layer, seqs, n_heads, scale, out);
}

#[expect(clippy::too_many_arguments, reason = "the operation has that many inputs")]
fn attention_on(
    isa: Isa,
    pool: &Pool,
    ws: &mut AttentionWorkspace,
    q: &[f32],
    kv: &KvCache,
    layer: usize,
    seqs: &[SeqRows<'_>],
    n_heads: usize,
    scale: f32,
    out: &mut [f32],
) {
    let layout = kv.layout();
    assert!(layer < layout.n_layers, "layer {layer} of {}", layout.n_layers);
    for seq in seqs {
        let blocks = sum(seq.first_position, seq.n_rows).div_ceil(layout.block_len);
        assert!(blocks <= seq.block_table.len(), "a block table reaches all positions");
        let table = &seq.block_table[..blocks];
        assert!(table.iter().all(|block| (*block as usize) < kv.n_blocks()), "every block exists");
    }
    run(isa, pool, ws, Inputs { q, seqs, n_heads, scale, out }, Shape::of_cache(kv), |seq| Source::Cache {
        kv,
        layer,
        table: seq.block_table,
    });
}

/// [`attention`] of one sequence over plain rows of keys and values: row `i` of `q` attends to positions
/// `0..=first_position + i`.
///
/// # Panics
/// If a length does not fit.
pub fn attention_over_rows(
    pool: &Pool,
    ws: &mut AttentionWorkspace,
    q: &[f32],
    rows: &KeyValueRows<'_>,
    first_position: usize,
    n_heads: usize,
    scale: f32,
    out: &mut [f32],
) {
    attention_over_rows_on(isa(), pool, ws, q, rows, first_position, n_heads, scale, out);
}

fn attention_over_rows_on(
    isa: Isa,
    pool: &Pool,
    ws: &mut AttentionWorkspace,
    q: &[f32],
    rows: &KeyValueRows<'_>,
    first_position: usize,
    n_heads: usize,
    scale: f32,
    out: &mut [f32],
) {
    let KeyValueRows { k, v, n_kv_heads, k_dim, v_dim } = *rows;
    assert!(k_dim > 0 && v_dim > 0 && n_kv_heads > 0 && n_heads > 0, "no dimension is zero");
    let n_rows = q.len() / product([n_heads, k_dim]);
    let positions = sum(first_position, n_rows);
    assert!(k.len() >= product([positions, n_kv_heads, k_dim]), "keys reach all positions");
    assert!(v.len() >= product([positions, n_kv_heads, v_dim]), "values reach all positions");
    let seq = SeqRows { block_table: &[], first_row: 0, n_rows, first_position };
    let shape = Shape { n_kv_heads, k_dim, v_dim, keys: None, values: None };
    run(isa, pool, ws, Inputs { q, seqs: &[seq], n_heads, scale, out }, shape, |_| Source::Rows {
        k,
        v,
        k_dim,
        v_dim,
        n_heads: n_kv_heads,
    });
}

struct Inputs<'a> {
    q: &'a [f32],
    seqs: &'a [SeqRows<'a>],
    n_heads: usize,
    scale: f32,
    out: &'a mut [f32],
}

fn run<'a>(
    isa: Isa,
    pool: &Pool,
    ws: &mut AttentionWorkspace,
    inputs: Inputs<'a>,
    shape: Shape,
    source: impl Fn(&SeqRows<'a>) -> Source<'a> + Sync,
) {
    let Inputs { q, seqs, n_heads, scale, out } = inputs;
    assert!(
        n_heads > 0 && n_heads.is_multiple_of(shape.n_kv_heads),
        "heads divide into groups of equal size"
    );
    let [q_row, out_row] = [shape.k_dim, shape.v_dim].map(|dim| product([n_heads, dim]));
    check_rows(seqs, q.len(), q_row, out.len(), out_row);
    let AttentionWorkspace { scratch, parts, states, items, tasks, unfinished } = ws;
    let n_parts = plan(seqs, n_heads / shape.n_kv_heads, &shape, pool.threads(), items, tasks);
    scratch.resize_with(scratch.len().max(pool.threads()), Mutex::default);
    level(scratch);
    unfinished.clear();
    unfinished.resize_with(items.len(), AtomicUsize::default);
    for task in &*tasks {
        *unfinished[task.item].get_mut() += 1;
    }
    let row_len = shape.slices() * 16;
    let parts = Shared(parts.get(n_parts * row_len).as_mut_ptr());
    if states.len() < n_parts {
        states.resize(n_parts, NO_PART);
    }
    let states = Shared(states.as_mut_ptr());
    // SAFETY: there is room for all heads of all rows, which the tasks below divide among them; no two of the
    // sequences share a row, as was checked.
    let out = unsafe { Out::new(out.as_mut_ptr()) };
    let call = Call { q, n_heads, shape, scale: scale * std::f32::consts::LOG2_E, out };
    let (items, tasks, unfinished, scratch) = (&*items, &*tasks, &*unfinished, &*scratch);
    let (parts, states) = (&parts, &states);
    pool.run_on_workers(tasks.len(), &|index, worker| {
        let Task { item: item_index, first, end } = tasks[index];
        let item = items[item_index];
        let seq = &seqs[item.seq];
        let tile = Tile {
            source: source(seq),
            first_row: seq.first_row,
            first_position: seq.first_position,
            head: item.head,
            start: item.start,
            rows: item.rows,
        };
        let mut guard = scratch[worker].lock().unwrap_or_else(PoisonError::into_inner);
        let scratch = &mut *guard;
        let Some(at) = item.parts else {
            dispatch_on(isa, Span { call: &call, tile, first, end, scratch, goal: Goal::Finish });
            return;
        };
        let mine = at + first * item.rows;
        let n = (end - first) * item.rows;
        // SAFETY: every item has parts of its own, and every task of it its own chunks.
        let (parts_mine, states_mine) = unsafe {
            (
                std::slice::from_raw_parts_mut(parts.0.add(mine * row_len), n * row_len),
                std::slice::from_raw_parts_mut(states.0.add(mine), n),
            )
        };
        let goal = Goal::Keep { parts: parts_mine, states: states_mine };
        dispatch_on(isa, Span { call: &call, tile, first, end, scratch, goal });
        // Whoever finishes an item's last span folds all of its parts.
        if unfinished[item_index].fetch_sub(1, Ordering::AcqRel) == 1 {
            let n = item.chunks * item.rows;
            // SAFETY: all spans of the item are done, which the counter makes visible, and nobody else reads.
            let (parts, states) = unsafe {
                (
                    std::slice::from_raw_parts(parts.0.add(at * row_len), n * row_len),
                    std::slice::from_raw_parts(states.0.add(at), n),
                )
            };
            dispatch_on(isa, Merge { call: &call, tile, scratch, parts, states });
        }
    });
}

/// Gives every worker's scratch what any has needed so far: which worker gets which task is chance, and none is to
/// allocate because its turn came late.
fn level(scratch: &mut [Mutex<Scratch>]) {
    let most = scratch.iter_mut().fold([0; 10], |most, scratch| {
        let lengths = scratch.get_mut().unwrap_or_else(PoisonError::into_inner).lengths();
        std::array::from_fn(|part| most[part].max(lengths[part]))
    });
    for scratch in scratch {
        scratch.get_mut().unwrap_or_else(PoisonError::into_inner).grow(most);
    }
}

struct Shared<T>(*mut T);
// SAFETY: tasks use disjoint parts, handed on through a counter.
unsafe impl<T: Send> Sync for Shared<T> {}

/// Checks that all rows lie within `q` and `out` and that no two sequences write the same one.
fn check_rows(seqs: &[SeqRows<'_>], q_len: usize, q_row: usize, out_len: usize, out_row: usize) {
    let rows = q_len / q_row;
    assert_eq!(product([rows, q_row]), q_len, "q is [n, n_heads * k_dim]");
    assert_eq!(out_len, product([rows, out_row]), "out is [n, n_heads * v_dim]");
    let mut end = 0;
    for (index, seq) in seqs.iter().enumerate() {
        let (first, after) = (seq.first_row, sum(seq.first_row, seq.n_rows));
        assert!(after <= rows, "a sequence's rows lie within q");
        // Callers list sequences in the order of their rows; any other order is compared in full.
        let apart = |other: &SeqRows<'_>| other.first_row + other.n_rows <= first || after <= other.first_row;
        assert!(first >= end || seqs[..index].iter().all(apart), "sequences do not share rows");
        end = end.max(after);
    }
}

/// Cuts the work into items and tasks, long ones first, and returns for how many rows parts are to be kept.
fn plan(
    seqs: &[SeqRows<'_>],
    group: usize,
    shape: &Shape,
    threads: usize,
    items: &mut Vec<Item>,
    tasks: &mut Vec<Task>,
) -> usize {
    let wanted = |per_thread| if threads == 1 { 1 } else { threads * per_thread };
    let row_bytes = (shape.k_dim + SCORE_STRIDE + 2 * shape.v_dim) * size_of::<f32>();
    let in_rows = usize::from(shape.keys.is_none());
    let (grain, small) = (TILE_GRAIN[in_rows], SMALL_TILE_ROWS[in_rows]);
    let tile_rows = (TILE_BYTES / row_bytes / grain * grain).clamp(small, TILE_ROWS_MAX);
    cut_rows(seqs, group, shape.n_kv_heads, tile_rows, grain, items);
    if items.iter().map(|item| item.chunks).sum::<usize>() < wanted(TASKS_PER_THREAD) {
        cut_rows(seqs, group, shape.n_kv_heads, small, grain, items);
    }
    let mut spans = wanted(SPANS_PER_THREAD).div_ceil(items.len().max(1));
    // A block may be listed any number of times, so these products are of sizes that no memory vouches for.
    let kept = items.iter().map(|item| item.chunks.saturating_mul(item.rows)).fold(0, usize::saturating_add);
    if spans > 1 && kept.saturating_mul(shape.slices()).saturating_mul(64) > PARTS_BYTES_MAX {
        cut_rows(seqs, group, shape.n_kv_heads, small, grain, items);
        spans = 1;
    }
    items.sort_by_key(|item| std::cmp::Reverse(item.chunks * item.rows));
    tasks.clear();
    let mut n_parts = 0;
    for (index, item) in items.iter_mut().enumerate() {
        let per_span = item.chunks.div_ceil(spans);
        if per_span < item.chunks {
            item.parts = Some(n_parts);
            n_parts += item.chunks * item.rows;
        }
        let firsts = (0..item.chunks).step_by(per_span);
        tasks.extend(firsts.map(|first| Task {
            item: index,
            first,
            end: (first + per_span).min(item.chunks),
        }));
    }
    n_parts
}

/// Cuts each sequence's rows into tiles of nearly equal size.
fn cut_rows(
    seqs: &[SeqRows<'_>],
    group: usize,
    heads: usize,
    tile_rows: usize,
    grain: usize,
    items: &mut Vec<Item>,
) {
    items.clear();
    for (index, seq) in seqs.iter().enumerate() {
        let all = seq.n_rows * group;
        let tiles = all.div_ceil(tile_rows);
        if tiles == 0 {
            continue;
        }
        // Whole register tiles where there are several.
        let rows = if tiles == 1 { all } else { all.div_ceil(tiles).next_multiple_of(grain) };
        for start in (0..all).step_by(rows) {
            let rows = rows.min(all - start);
            let positions = seq.first_position + (start + rows - 1) / group + 1;
            let item =
                Item { seq: index, head: 0, start, rows, chunks: positions.div_ceil(CHUNK), parts: None };
            items.extend((0..heads).map(|head| Item { head, ..item }));
        }
    }
}

#[cfg(test)]
mod tests;
