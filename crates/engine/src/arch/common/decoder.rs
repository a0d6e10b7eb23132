//! The dense decoder that Llama and its kin share: grouped-query attention and a gated MLP, each behind a norm and
//! added to the residual stream.

use levain_kernels::{FloatBuffer, KvCache, Matrix, RopeTable};
use levain_weights::ModelConfig;

use crate::arch::Arch;
use crate::ops::{ForwardBatch, GatedMlp, Linear, Ops, RmsNorm};

/// One layer's weights. H query heads, G key and value heads of D values each.
#[derive(Debug)]
pub(crate) struct DecoderLayer {
    /// `[hidden]`
    pub(crate) input_layernorm: RmsNorm,
    /// `[H·D, hidden]`
    pub(crate) q_proj: Linear,
    /// `[G·D, hidden]`
    pub(crate) k_proj: Linear,
    /// `[G·D, hidden]`
    pub(crate) v_proj: Linear,
    /// `[hidden, H·D]`
    pub(crate) o_proj: Linear,
    /// `[hidden]`
    pub(crate) post_attention_layernorm: RmsNorm,
    pub(crate) mlp: GatedMlp,
}

/// All layers and the buffers they work in.
#[derive(Debug)]
pub(crate) struct Decoder {
    layers: Vec<DecoderLayer>,
    rope: RopeTable,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    /// Input of attention and MLP after their norms, `[rows_max, hidden]`.
    normed: FloatBuffer,
    /// `[rows_max, H·D]`
    q: FloatBuffer,
    /// `[rows_max, G·D]`
    k: FloatBuffer,
    /// `[rows_max, G·D]`
    v: FloatBuffer,
    /// Output of attention, `[rows_max, H·D]`.
    attended: FloatBuffer,
}

impl Decoder {
    pub(crate) fn new(
        layers: Vec<DecoderLayer>,
        rope: RopeTable,
        config: &ModelConfig,
        rows_max: usize,
    ) -> Self {
        let q_len = rows_max * config.num_attention_heads * config.head_dim;
        let kv_len = rows_max * config.num_key_value_heads * config.head_dim;
        Self {
            layers,
            rope,
            n_heads: config.num_attention_heads,
            n_kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            normed: FloatBuffer::zeroed(rows_max * config.hidden_size),
            q: FloatBuffer::zeroed(q_len),
            k: FloatBuffer::zeroed(kv_len),
            v: FloatBuffer::zeroed(kv_len),
            attended: FloatBuffer::zeroed(q_len),
        }
    }
}

impl Arch for Decoder {
    fn layers(&mut self, ops: &mut Ops, batch: &ForwardBatch<'_>, kv: &mut KvCache, x: &mut [f32]) {
        let n = batch.n();
        let (n_heads, n_kv_heads, head_dim) = (self.n_heads, self.n_kv_heads, self.head_dim);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let hidden = x.len() / n;
        let k = &mut self.k[..n * n_kv_heads * head_dim];
        let v = &mut self.v[..n * n_kv_heads * head_dim];
        for (index, layer) in self.layers.iter().enumerate() {
            let wanted = batch.wanted.filter(|_| index + 1 == self.layers.len());
            let rows = wanted.map_or(batch.rows, |wanted| wanted.rows);
            let q = &mut self.q[..rows.n() * n_heads * head_dim];
            let normed = &mut self.normed[..n * hidden];
            ops.norm(&layer.input_layernorm, x, n, normed);
            let (keys, values) = ((&layer.k_proj, &mut *k), (&layer.v_proj, &mut *v));
            match wanted {
                None => ops.linear(normed, n, [(&layer.q_proj, &mut *q), keys, values]),
                Some(_) => ops.linear(normed, n, [keys, values]),
            }
            ops.rope(&self.rope, k, n_kv_heads, head_dim, 0, batch.rows.positions);
            ops.append(kv, index, batch.slots, k, v);
            if let Some(wanted) = wanted {
                if rows.n() == 0 {
                    break;
                }
                wanted.gather(x, hidden);
                wanted.gather(normed, hidden);
                ops.linear(&normed[..rows.n() * hidden], rows.n(), [(&layer.q_proj, &mut *q)]);
            }
            let (x, normed) = (&mut x[..rows.n() * hidden], &mut normed[..rows.n() * hidden]);
            let attended = &mut self.attended[..q.len()];
            ops.rope(&self.rope, q, n_heads, head_dim, 0, rows.positions);
            ops.attention(q, kv, index, rows.sequences, n_heads, scale, attended);
            ops.linear_add(&layer.o_proj, attended, rows.n(), x);
            ops.norm(&layer.post_attention_layernorm, x, rows.n(), normed);
            ops.gated_mlp_add(&layer.mlp, normed, rows.n(), x);
        }
        if let Some(wanted) = batch.wanted {
            wanted.scatter(x, hidden);
        }
    }

    fn each_matrix(&mut self, f: &mut dyn FnMut(&mut Matrix)) {
        for layer in &mut self.layers {
            let DecoderLayer { q_proj, k_proj, v_proj, o_proj, mlp, .. } = layer;
            [q_proj, k_proj, v_proj, o_proj].into_iter().for_each(|linear| f(&mut linear.weight));
            mlp.each_matrix(f);
        }
    }
}
