//! Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).
//!
//! The cache holds one latent and one rotary key a token for all heads. In the absorbed form each head's query is
//! taken into the latent space and its result out of it, so nothing of the cache is expanded. In the expanded form
//! the cache's latents become keys and values of each head, which are narrower: that pays where many rows share
//! them. Both give the same but for rounding.

use std::ops::Range;

use levain_kernels::{FloatBuffer, KeyValueRows, KvCache, Matrix, RopeTable, SeqRows};
use levain_weights::{MlaConfig, ModelConfig};

use crate::ops::{BatchRows, ForwardBatch, HeadRows, Linear, Ops, RmsNorm};

/// How queries come from the residual stream.
#[derive(Debug)]
pub(crate) enum QueryProjection {
    /// `q_proj` `[H·(nope+rope), hidden]`
    Direct(Linear),
    /// Through a bottleneck.
    LowRank(Box<LowRankQuery>),
}

/// A query projection through a bottleneck of rank R.
#[derive(Debug)]
pub(crate) struct LowRankQuery {
    /// `[R, hidden]`
    pub(crate) q_a_proj: Linear,
    /// `[R]`
    pub(crate) q_a_layernorm: RmsNorm,
    /// `[H·(nope+rope), R]`
    pub(crate) q_b_proj: Linear,
}

/// One layer's attention. H heads; C is `kv_lora_rank`.
#[derive(Debug)]
pub(crate) struct Mla {
    pub(crate) query: QueryProjection,
    /// `[C+rope, hidden]`
    pub(crate) kv_a_proj_with_mqa: Linear,
    /// `[C]`
    pub(crate) kv_a_layernorm: RmsNorm,
    /// The key half of `kv_b_proj`, transposed: H matrices `[C, nope]` that take a query into the latent space.
    pub(crate) k_b: Vec<Matrix>,
    /// The value half of `kv_b_proj`: H matrices `[v, C]` that take a result out of it.
    pub(crate) v_b: Vec<Matrix>,
    /// The key half as it is, H matrices `[nope, C]`, where the expanded form is wanted; otherwise empty.
    pub(crate) k_expand: Vec<Matrix>,
    /// `[hidden, H·v]`
    pub(crate) o_proj: Linear,
}

/// What all layers' attention works in.
#[derive(Debug)]
pub(crate) struct MlaBuffers {
    n_heads: usize,
    dims: MlaConfig,
    scale: f32,
    /// `[rows_max, R]`, as projected and after its norm
    q_a: FloatBuffer,
    q_a_normed: FloatBuffer,
    /// `[rows_max, H·(nope+rope)]`
    q: FloatBuffer,
    /// Queries in the latent space with their rotary part, `[rows_max, H·(C+rope)]`
    q_latent: FloatBuffer,
    /// Latent and rotary key, `[rows_max, C+rope]`
    kv_a: FloatBuffer,
    /// The latent alone, before and after its norm, `[rows_max, C]`
    latent: FloatBuffer,
    latent_normed: FloatBuffer,
    /// Results in the latent space, `[rows_max, H·C]`
    attended_latent: FloatBuffer,
    /// `[rows_max, H·v]`
    attended: FloatBuffer,
    expanded: Expanded,
}

/// What the expanded form works in, for one sequence and some of its heads at a time, of which there are G. It grows
/// to the longest prompt.
#[derive(Debug, Default)]
struct Expanded {
    /// The cache's entries `[positions, C+rope]`, and their latents alone `[positions, C]`
    entries: Vec<f32>,
    latents: Vec<f32>,
    /// Each head's keys without their rotary part, and its values: G times `[positions, nope]` and `[positions, v]`
    k_nope: Vec<f32>,
    head_v: Vec<f32>,
    /// The heads side by side: `[positions, G·(nope+rope)]` and `[positions, G·v]`
    k: Vec<f32>,
    v: Vec<f32>,
    /// The sequence's rows of these heads, `[n, G·(nope+rope)]` and `[n, G·v]`
    q: Vec<f32>,
    attended: Vec<f32>,
}

/// Positions of heads whose keys and values are expanded at a time: several heads share the latents' quantisation and
/// keep threads busy, and their memory is bounded.
pub(crate) const EXPANDED_ROWS: usize = 16 << 10;

impl MlaBuffers {
    /// `softmax_factor` is what YaRN multiplies the softmax scale by.
    pub(crate) fn new(config: &ModelConfig, dims: &MlaConfig, rows_max: usize, softmax_factor: f64) -> Self {
        let heads = config.num_attention_heads;
        let key = dims.qk_nope_head_dim + dims.qk_rope_head_dim;
        let buffer = |width: usize| FloatBuffer::zeroed(rows_max * width);
        Self {
            n_heads: heads,
            scale: ((key as f64).powf(-0.5) * softmax_factor) as f32,
            q_a: buffer(dims.q_lora_rank.unwrap_or(0)),
            q_a_normed: buffer(dims.q_lora_rank.unwrap_or(0)),
            q: buffer(heads * key),
            q_latent: buffer(heads * (dims.kv_lora_rank + dims.qk_rope_head_dim)),
            kv_a: buffer(dims.kv_lora_rank + dims.qk_rope_head_dim),
            latent: buffer(dims.kv_lora_rank),
            latent_normed: buffer(dims.kv_lora_rank),
            attended_latent: buffer(heads * dims.kv_lora_rank),
            attended: buffer(heads * dims.v_head_dim),
            dims: dims.clone(),
            expanded: Expanded::default(),
        }
    }
}

impl Mla {
    /// Calls `f` with each matrix that may not be packed yet; what comes from `kv_b_proj` is packed at load.
    pub(crate) fn each_matrix(&mut self, f: &mut dyn FnMut(&mut Matrix)) {
        match &mut self.query {
            QueryProjection::Direct(q_proj) => f(&mut q_proj.weight),
            QueryProjection::LowRank(query) => {
                f(&mut query.q_a_proj.weight);
                f(&mut query.q_b_proj.weight);
            }
        }
        f(&mut self.kv_a_proj_with_mqa.weight);
        f(&mut self.o_proj.weight);
    }

    /// Adds the attention of `normed` `[n, hidden]` to the residual stream `x`, and its keys to the cache. Where
    /// not all rows are wanted, those that are come out at the beginning of `x`.
    pub(crate) fn forward(
        &self,
        ops: &mut Ops,
        buffers: &mut MlaBuffers,
        rope: &RopeTable,
        batch: &ForwardBatch<'_>,
        kv: &mut KvCache,
        layer: usize,
        normed: &mut [f32],
        x: &mut [f32],
    ) {
        let n = batch.n();
        let heads = buffers.n_heads;
        let hidden = x.len() / n;
        let MlaConfig {
            kv_lora_rank: c, qk_nope_head_dim: nope, qk_rope_head_dim: rot, v_head_dim: v, ..
        } = buffers.dims;
        let kv_a = &mut buffers.kv_a[..n * (c + rot)];
        ops.linear(normed, n, [(&self.kv_a_proj_with_mqa, &mut *kv_a)]);
        // The norm is on the latent only, not on the rotary key beside it.
        let latent = &mut buffers.latent[..n * c];
        for (latent, row) in latent.chunks_exact_mut(c).zip(kv_a.chunks_exact(c + rot)) {
            latent.copy_from_slice(&row[..c]);
        }
        let latent_normed = &mut buffers.latent_normed[..n * c];
        ops.norm(&self.kv_a_layernorm, latent, n, latent_normed);
        for (latent, row) in latent_normed.chunks_exact(c).zip(kv_a.chunks_exact_mut(c + rot)) {
            row[..c].copy_from_slice(latent);
        }
        ops.rope(rope, kv_a, 1, c + rot, c, batch.rows.positions);
        ops.append(kv, layer, batch.slots, kv_a, &[]);

        let rows = match batch.wanted {
            None => batch.rows,
            Some(wanted) if wanted.rows.n() == 0 => return,
            Some(wanted) => {
                wanted.gather(x, hidden);
                wanted.gather(normed, hidden);
                wanted.rows
            }
        };
        let n = rows.n();
        self.queries(ops, buffers, n, &normed[..n * hidden]);
        let q = &mut buffers.q[..n * heads * (nope + rot)];
        ops.rope(rope, q, heads, nope + rot, nope, rows.positions);
        let split = !self.k_expand.is_empty() && expanded_parts(rows).next().is_some();
        let absorbed: Vec<SeqRows<'_>>;
        let sequences = if split {
            absorbed = absorbed_parts(rows).collect();
            absorbed.as_slice()
        } else {
            rows.sequences
        };
        if !sequences.is_empty() {
            self.absorb(ops, buffers, kv, layer, sequences, n);
        }
        if split {
            for sequence in expanded_parts(rows) {
                self.expand(ops, buffers, kv, layer, &sequence);
            }
        }
        ops.linear_add(&self.o_proj, &buffers.attended[..n * heads * v], n, &mut x[..n * hidden]);
    }

    /// Computes the attention of the `sequences`' rows in the absorbed form, from `buffers.q` `[n, H·(nope+rope)]` into
    /// `buffers.attended`.
    fn absorb(
        &self,
        ops: &mut Ops,
        buffers: &mut MlaBuffers,
        kv: &KvCache,
        layer: usize,
        sequences: &[SeqRows<'_>],
        n: usize,
    ) {
        let MlaBuffers { n_heads, dims, scale, q, q_latent, attended_latent, attended, .. } = buffers;
        let heads = *n_heads;
        let MlaConfig {
            kv_lora_rank: c, qk_nope_head_dim: nope, qk_rope_head_dim: rot, v_head_dim: v, ..
        } = *dims;
        let q = &q[..n * heads * (nope + rot)];
        let q_latent = &mut q_latent[..n * heads * (c + rot)];
        let (stride, latent_stride) = (HeadRows { stride: nope + rot }, HeadRows { stride: c + rot });
        ops.linear_per_head(&self.k_b, q, stride, q_latent, latent_stride, n);
        for (latent, q) in q_latent.chunks_exact_mut(c + rot).zip(q.chunks_exact(nope + rot)) {
            latent[c..].copy_from_slice(&q[nope..]);
        }
        let attended_latent = &mut attended_latent[..n * heads * c];
        ops.attention(q_latent, kv, layer, sequences, heads, *scale, attended_latent);
        let attended = &mut attended[..n * heads * v];
        let (stride, latent_stride) = (HeadRows { stride: v }, HeadRows { stride: c });
        ops.linear_per_head(&self.v_b, attended_latent, latent_stride, attended, stride, n);
    }

    /// Computes the attention of one sequence's rows in the expanded form, from `buffers.q` into `buffers.attended`.
    fn expand(
        &self,
        ops: &mut Ops,
        buffers: &mut MlaBuffers,
        kv: &KvCache,
        layer: usize,
        sequence: &SeqRows<'_>,
    ) {
        let MlaBuffers { n_heads, dims, scale, q, attended, expanded, .. } = buffers;
        let MlaConfig {
            kv_lora_rank: c, qk_nope_head_dim: nope, qk_rope_head_dim: rot, v_head_dim: v, ..
        } = *dims;
        let SeqRows { block_table, first_row, n_rows, first_position } = *sequence;
        let positions = first_position + n_rows;
        let block_len = kv.layout().block_len;
        expanded.entries.resize(positions * (c + rot), 0.0);
        expanded.latents.resize(positions * c, 0.0);
        let parts = (&mut expanded.entries[..], c + rot, &mut expanded.latents[..], c);
        ops.for_rows(parts, |position, entry, latent| {
            let slot = block_table[position / block_len] as usize * block_len + position % block_len;
            kv.read_key(layer, 0, slot as u32, entry);
            latent.copy_from_slice(&entry[..c]);
        });
        let group = (EXPANDED_ROWS / positions).clamp(1, *n_heads);
        for first in (0..*n_heads).step_by(group) {
            let heads = first..(first + group).min(*n_heads);
            let g = heads.len();
            let Expanded { entries, latents, k_nope, head_v, k, v: values, q: q_heads, attended: results } =
                &mut *expanded;
            k_nope.resize(g * positions * nope, 0.0);
            head_v.resize(g * positions * v, 0.0);
            k.resize(positions * g * (nope + rot), 0.0);
            values.resize(positions * g * v, 0.0);
            let keys = self.k_expand[heads.clone()].iter().zip(k_nope.chunks_exact_mut(positions * nope));
            let weights = keys.chain(self.v_b[heads].iter().zip(head_v.chunks_exact_mut(positions * v)));
            ops.project_each(weights, latents, positions);
            let parts = (&mut k[..], g * (nope + rot), &mut values[..], g * v);
            ops.for_rows(parts, |position, k, values| {
                let rotary = &entries[position * (c + rot) + c..][..rot];
                for (head, k) in k.chunks_exact_mut(nope + rot).enumerate() {
                    k[..nope].copy_from_slice(&k_nope[(head * positions + position) * nope..][..nope]);
                    k[nope..].copy_from_slice(rotary);
                }
                for (head, values) in values.chunks_exact_mut(v).enumerate() {
                    values.copy_from_slice(&head_v[(head * positions + position) * v..][..v]);
                }
            });
            q_heads.clear();
            for row in q.chunks_exact(*n_heads * (nope + rot)).skip(first_row).take(n_rows) {
                q_heads.extend_from_slice(&row[first * (nope + rot)..][..g * (nope + rot)]);
            }
            results.resize(n_rows * g * v, 0.0);
            let rows = KeyValueRows { k, v: values, n_kv_heads: g, k_dim: nope + rot, v_dim: v };
            ops.attention_over_rows(q_heads, &rows, first_position, g, *scale, results);
            let rows = attended.chunks_exact_mut(*n_heads * v).skip(first_row).take(n_rows);
            for (row, result) in rows.zip(results.chunks_exact(g * v)) {
                row[first * v..][..g * v].copy_from_slice(result);
            }
        }
    }

    /// Fills `buffers.q`.
    fn queries(&self, ops: &mut Ops, buffers: &mut MlaBuffers, n: usize, normed: &[f32]) {
        let MlaBuffers { n_heads, dims, q_a, q_a_normed, q, .. } = buffers;
        let q = &mut q[..n * *n_heads * (dims.qk_nope_head_dim + dims.qk_rope_head_dim)];
        match &self.query {
            QueryProjection::Direct(q_proj) => ops.linear(normed, n, [(q_proj, q)]),
            QueryProjection::LowRank(query) => {
                let LowRankQuery { q_a_proj, q_a_layernorm, q_b_proj } = &**query;
                let rank = q_a_layernorm.weight.len();
                let (q_a, q_a_normed) = (&mut q_a[..n * rank], &mut q_a_normed[..n * rank]);
                ops.linear(normed, n, [(q_a_proj, &mut *q_a)]);
                ops.norm(q_a_layernorm, q_a, n, q_a_normed);
                ops.linear(q_a_normed, n, [(q_b_proj, q)]);
            }
        }
    }
}

/// The rows of `sequence` that lie in `positions`.
fn part<'a>(sequence: &SeqRows<'a>, positions: Range<usize>) -> SeqRows<'a> {
    let (first, end) = (sequence.first_position, sequence.first_position + sequence.n_rows);
    let (start, end) = (positions.start.clamp(first, end), positions.end.clamp(first, end));
    SeqRows {
        first_row: sequence.first_row + (start - first),
        n_rows: end.saturating_sub(start),
        first_position: start,
        ..*sequence
    }
}

fn with_expanded<'a>(rows: BatchRows<'a>) -> impl Iterator<Item = (&'a SeqRows<'a>, Range<usize>)> {
    rows.sequences.iter().zip(rows.expanded.iter().cloned().chain(std::iter::repeat(0..0)))
}

/// The rows of each sequence that are computed in the expanded form.
fn expanded_parts<'a>(rows: BatchRows<'a>) -> impl Iterator<Item = SeqRows<'a>> {
    with_expanded(rows).map(|(rows, expanded)| part(rows, expanded)).filter(|rows| rows.n_rows > 0)
}

/// The rows of each sequence that are computed in the absorbed form.
fn absorbed_parts<'a>(rows: BatchRows<'a>) -> impl Iterator<Item = SeqRows<'a>> {
    with_expanded(rows)
        .flat_map(|(rows, expanded)| [part(rows, 0..expanded.start), part(rows, expanded.end..usize::MAX)])
        .filter(|rows| rows.n_rows > 0)
}
