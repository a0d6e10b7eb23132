//! Causal attention over the paged cache.

use crate::kv::KvCache;
use crate::pool::Pool;

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

/// Scratch memory of [`attention`], kept from call to call so that decoding does not allocate.
#[derive(Debug, Default)]
pub struct AttentionWorkspace {
    scores: Vec<f32>,
    row: Vec<f32>,
}

impl AttentionWorkspace {
    /// An empty workspace; it grows to what the calls need.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

/// `out = softmax(scale * q · Kᵀ) · V` for each row and head, over the positions up to the row's own.
///
/// `q` is `[n, n_heads * k_dim]`, `out` `[n, n_heads * v_dim]`; query head `h` uses key head
/// `h / (n_heads / n_kv_heads)`. Rows that no sequence names are left alone. A row's result is the same bit
/// for bit however rows are grouped into calls, sequences and threads, and wherever the blocks lie.
///
/// # Panics
/// If a length does not fit the cache's layout, a block does not exist or a block table is too short.
#[expect(clippy::too_many_arguments, reason = "the operation has that many inputs")]
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
    let _ = pool;
    let layout = kv.layout();
    let group = n_heads / layout.n_kv_heads;
    for seq in seqs {
        for row in 0..seq.n_rows {
            let len = seq.first_position + row + 1;
            for head in 0..n_heads {
                let at = (seq.first_row + row) * n_heads + head;
                let q = &q[at * layout.k_dim..][..layout.k_dim];
                let out = &mut out[at * layout.v_dim..][..layout.v_dim];
                let slot = |p: usize| {
                    seq.block_table[p / layout.block_len] * layout.block_len as u32
                        + (p % layout.block_len) as u32
                };
                ws.scores.clear();
                ws.row.resize(layout.k_dim.max(layout.v_dim), 0.0);
                for p in 0..len {
                    let key = &mut ws.row[..layout.k_dim];
                    kv.read_key(layer, head / group, slot(p), key);
                    ws.scores.push(scale * q.iter().zip(key).map(|(q, k)| q * *k).sum::<f32>());
                }
                crate::vector::softmax(&mut ws.scores);
                out.fill(0.0);
                for p in 0..len {
                    let value = &mut ws.row[..layout.v_dim];
                    kv.read_value(layer, head / group, slot(p), value);
                    for (out, v) in out.iter_mut().zip(value) {
                        *out += ws.scores[p] * *v;
                    }
                }
            }
        }
    }
}
