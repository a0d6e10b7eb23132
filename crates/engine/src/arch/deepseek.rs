//! DeepSeek-V2, V3 and R1: latent attention and a mixture of experts after some dense layers.

use levain_kernels::{ExpertStack, FloatBuffer, KvCache, Matrix, RopeTable};
use levain_weights::{MlaConfig, ModelConfig, MoeConfig, TopkMethod};

use super::common::{
    Experts, LowRankQuery, Mla, MlaBuffers, Moe, MoeBuffers, QueryProjection, Router, rope_table,
    softmax_factor,
};
use super::kv_b::LatentWeights;
use super::loader::Loader;
use super::mtp::MtpJoin;
use super::{Arch, LoadOptions};
use crate::error::EngineError;
use crate::experts::{ExpertCache, ExpertId, ExpertStats};
use crate::ops::{ExpertStacks, ForwardBatch, GatedMlp, Ops, RmsNorm};

/// Steps with more rows need most experts anyway, which one prediction a layer says as well as two.
const PREDICT_TWICE_ROWS_MAX: usize = 4;

/// The norms inside latent attention are built with their class's default, not with `rms_norm_eps`.
const INNER_NORM_EPS: f32 = 1e-6;

#[derive(Debug)]
enum Mlp {
    Dense(Box<GatedMlp>),
    Experts(Box<Moe>),
}

/// One layer's weights.
#[derive(Debug)]
struct DecoderLayer {
    /// `[hidden]`
    input_layernorm: RmsNorm,
    self_attn: Mla,
    /// `[hidden]`
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

/// All layers and what they work in.
#[derive(Debug)]
pub(super) struct Deepseek {
    layers: Vec<DecoderLayer>,
    work: Work,
    /// The layer behind the last one, where it is to draft.
    mtp: Option<(MtpJoin, DecoderLayer)>,
}

/// What the layers share.
#[derive(Debug)]
struct Work {
    rope: RopeTable,
    /// `[rows_max, hidden]`
    normed: FloatBuffer,
    attention: MlaBuffers,
    /// `None` where all layers are dense.
    experts: Option<MoeBuffers>,
    /// Where the experts do not all fit into memory.
    cache: Option<ExpertCache>,
}

impl Arch for Deepseek {
    fn expert_stats(&self) -> Option<ExpertStats> {
        self.work.cache.as_ref().map(ExpertCache::stats)
    }

    fn layers(&mut self, ops: &mut Ops, batch: &ForwardBatch<'_>, kv: &mut KvCache, x: &mut [f32]) {
        let Self { layers, work, .. } = self;
        let all = ForwardBatch { wanted: None, ..*batch };
        for (index, layer) in layers.iter().enumerate() {
            let next = layers.get(index + 1);
            let batch = if next.is_some() { &all } else { batch };
            work.layer(ops, batch, kv, index, layer, next, x);
            if batch.n() <= PREDICT_TWICE_ROWS_MAX || matches!(layer.mlp, Mlp::Dense(_)) {
                work.predict(ops, next, batch.n(), x);
                work.read_predicted();
            }
        }
        if let Some(wanted) = batch.wanted {
            wanted.scatter(x, x.len() / batch.n());
        }
    }

    fn each_matrix(&mut self, f: &mut dyn FnMut(&mut Matrix)) {
        self.layers.iter_mut().for_each(|layer| layer.each_matrix(f));
        if let Some((join, layer)) = &mut self.mtp {
            join.each_matrix(f);
            layer.each_matrix(f);
        }
    }

    fn predict_ahead(
        &mut self,
        ops: &mut Ops,
        batch: &ForwardBatch<'_>,
        kv: &mut KvCache,
        embedded: &[f32],
        states: &[f32],
        x: &mut [f32],
    ) -> Option<&RmsNorm> {
        let Self { work, mtp, .. } = self;
        let (join, layer) = mtp.as_mut()?;
        join.join(ops, batch.n(), embedded, states, x);
        // Its cache holds nothing but this layer.
        work.layer(ops, batch, kv, 0, layer, None, x);
        Some(&join.norm)
    }
}

impl DecoderLayer {
    fn each_matrix(&mut self, f: &mut dyn FnMut(&mut Matrix)) {
        self.self_attn.each_matrix(f);
        match &mut self.mlp {
            Mlp::Dense(mlp) => mlp.each_matrix(f),
            Mlp::Experts(moe) => moe.each_matrix(f),
        }
    }
}

impl Work {
    /// Takes the residual stream `x` through one layer; `next` is the one after it. Where not all rows are wanted,
    /// those that are come out at the beginning of `x`.
    fn layer(
        &mut self,
        ops: &mut Ops,
        batch: &ForwardBatch<'_>,
        kv: &mut KvCache,
        index: usize,
        layer: &DecoderLayer,
        next: Option<&DecoderLayer>,
        x: &mut [f32],
    ) {
        let n = batch.n();
        let Self { rope, normed, attention, .. } = self;
        let normed = &mut normed[..x.len()];
        ops.norm(&layer.input_layernorm, x, n, normed);
        layer.self_attn.forward(ops, attention, rope, batch, kv, index, normed, x);
        let hidden = x.len() / n;
        let n = batch.wanted.map_or(n, |wanted| wanted.rows.n());
        if n == 0 {
            return;
        }
        let x = &mut x[..n * hidden];
        if matches!(layer.mlp, Mlp::Experts(_)) {
            // Read while this layer's experts are computed, after those of them that are missing.
            self.predict(ops, next, n, x);
        }
        let Self { normed, experts, cache, .. } = self;
        let normed = &mut normed[..x.len()];
        ops.norm(&layer.post_attention_layernorm, x, n, normed);
        match (&layer.mlp, experts.as_mut()) {
            (Mlp::Experts(moe), Some(buffers)) => moe.forward(ops, buffers, cache.as_mut(), n, normed, x),
            (Mlp::Dense(mlp), _) => ops.gated_mlp_add(mlp, normed, n, x),
            // Buffers are there whenever a layer has experts.
            (Mlp::Experts(_), None) => {}
        }
    }

    /// Notes which experts the next layer will probably choose, given the residual stream `x` as it is now.
    fn predict(&mut self, ops: &mut Ops, next: Option<&DecoderLayer>, n: usize, x: &[f32]) {
        let (Some(cache), Some(buffers), Some(next)) = (&mut self.cache, &mut self.experts, next) else {
            return;
        };
        if let Mlp::Experts(moe) = &next.mlp {
            // What is still to be added to it is not known yet; the choice is mostly the same without.
            let normed = &mut self.normed[..x.len()];
            ops.norm(&next.post_attention_layernorm, x, n, normed);
            moe.predict(ops, buffers, cache, n, normed);
        }
    }

    /// Begins to read what was predicted last.
    fn read_predicted(&mut self) {
        if let Some(cache) = &mut self.cache {
            cache.read_predicted();
        }
    }
}

/// Loads the layers for steps of up to `rows_max` rows and positions below `context_length`.
pub(super) fn load(
    loader: &mut Loader<'_>,
    config: &ModelConfig,
    options: &LoadOptions,
) -> Result<Deepseek, EngineError> {
    let Some(mla) = &config.mla else {
        let what = "a DeepSeek model without latent attention (`kv_lora_rank`)".to_owned();
        return Err(EngineError::Unsupported { what });
    };
    let hidden = config.hidden_size;
    let rows_max = options.rows_max;
    let mut cache = match options.expert_cache_bytes {
        Some(bytes) => {
            Some(ExpertCache::new(loader.reader()?, usize::try_from(bytes).unwrap_or(usize::MAX))?)
        }
        None => None,
    };
    let layers = (0..config.num_hidden_layers)
        .map(|index| load_layer(loader, config, mla, options, cache.as_mut(), index))
        .collect::<Result<_, _>>()?;
    let mtp = match options.mtp {
        true => {
            let index = config.num_hidden_layers;
            let p = format!("model.layers.{index}");
            let join = MtpJoin::load(loader, &p, hidden, config.rms_norm_eps, rows_max)?;
            Some((join, load_layer(loader, config, mla, options, cache.as_mut(), index)?))
        }
        false => None,
    };
    let work = Work {
        rope: rope_table(&config.rope, options.context_length)?,
        normed: FloatBuffer::zeroed(rows_max * hidden),
        attention: MlaBuffers::new(config, mla, rows_max, softmax_factor(&config.rope.scaling)),
        experts: config.moe.as_ref().map(|moe| MoeBuffers::new(moe, hidden, rows_max)),
        cache,
    };
    Ok(Deepseek { layers, work, mtp })
}

fn load_layer(
    loader: &mut Loader<'_>,
    config: &ModelConfig,
    mla: &MlaConfig,
    options: &LoadOptions,
    cache: Option<&mut ExpertCache>,
    index: usize,
) -> Result<DecoderLayer, EngineError> {
    let (hidden, eps) = (config.hidden_size, config.rms_norm_eps);
    let p = format!("model.layers.{index}");
    let moe = config.moe.as_ref().filter(|moe| moe.is_moe_layer(index));
    Ok(DecoderLayer {
        input_layernorm: loader.norm(&format!("{p}.input_layernorm"), hidden, eps)?,
        self_attn: load_attention(loader, config, mla, options, &format!("{p}.self_attn"))?,
        post_attention_layernorm: loader.norm(&format!("{p}.post_attention_layernorm"), hidden, eps)?,
        mlp: match moe {
            Some(moe) => {
                let p = format!("{p}.mlp");
                Mlp::Experts(Box::new(load_experts(loader, moe, cache, index as u32, &p, hidden)?))
            }
            None => {
                let mlp = loader.gated_mlp(&format!("{p}.mlp"), hidden, config.intermediate_size)?;
                Mlp::Dense(Box::new(mlp))
            }
        },
    })
}

fn load_attention(
    loader: &mut Loader<'_>,
    config: &ModelConfig,
    mla: &MlaConfig,
    options: &LoadOptions,
    p: &str,
) -> Result<Mla, EngineError> {
    let (hidden, heads, bias) = (config.hidden_size, config.num_attention_heads, config.attention_bias);
    let q_dim = heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim);
    let query = match mla.q_lora_rank {
        None => QueryProjection::Direct(loader.linear(&format!("{p}.q_proj"), q_dim, hidden, false)?),
        Some(rank) => QueryProjection::LowRank(Box::new(LowRankQuery {
            q_a_proj: loader.linear(&format!("{p}.q_a_proj"), rank, hidden, bias)?,
            q_a_layernorm: loader.norm(&format!("{p}.q_a_layernorm"), rank, INNER_NORM_EPS)?,
            q_b_proj: loader.linear(&format!("{p}.q_b_proj"), q_dim, rank, false)?,
        })),
    };
    let LatentWeights { k_b, v_b, k_expand } =
        LatentWeights::load(loader, heads, mla, p, options.expanded_from.is_some())?;
    let kv_dim = mla.kv_lora_rank + mla.qk_rope_head_dim;
    Ok(Mla {
        query,
        kv_a_proj_with_mqa: loader.linear(&format!("{p}.kv_a_proj_with_mqa"), kv_dim, hidden, bias)?,
        kv_a_layernorm: loader.norm(&format!("{p}.kv_a_layernorm"), mla.kv_lora_rank, INNER_NORM_EPS)?,
        k_b,
        v_b,
        k_expand,
        o_proj: loader.linear(&format!("{p}.o_proj"), hidden, heads * mla.v_head_dim, bias)?,
    })
}

fn load_experts(
    loader: &mut Loader<'_>,
    moe: &MoeConfig,
    cache: Option<&mut ExpertCache>,
    layer: u32,
    p: &str,
    hidden: usize,
) -> Result<Moe, EngineError> {
    let experts = moe.n_routed_experts;
    let name = |index| format!("{p}.experts.{index}");
    if loader.contains(&format!("{}.gate_proj.weight", name(experts))) {
        return Err(EngineError::ModelField {
            field: "n_routed_experts",
            value: experts.to_string(),
            expected: "as many as there are experts in the weights, which have more",
        });
    }
    let bias = format!("{p}.gate.e_score_correction_bias");
    let router = Router {
        gate: loader.f32_matrix(&format!("{p}.gate.weight"), experts, hidden)?,
        correction_bias: match moe.topk_method {
            TopkMethod::NoauxTc => Some(loader.vector(&bias, experts)?),
            TopkMethod::Greedy | TopkMethod::GroupLimitedGreedy => None,
        },
        config: moe.clone(),
    };
    let width = moe.moe_intermediate_size;
    let experts = match cache {
        Some(cache) => {
            for expert in 0..experts as u32 {
                let place = loader.expert_place(&name(expert as usize), hidden, width)?;
                cache.insert_place(ExpertId { layer, expert }, place);
            }
            Experts::Streamed(layer)
        }
        None => {
            let mut stack = |projection, rows, cols| -> Result<ExpertStack, EngineError> {
                let matrix =
                    |index| loader.matrix(&format!("{}.{projection}.weight", name(index)), rows, cols);
                Ok(ExpertStack::new((0..experts).map(matrix).collect::<Result<_, _>>()?)?)
            };
            Experts::Resident(ExpertStacks {
                gate_proj: stack("gate_proj", width, hidden)?,
                up_proj: stack("up_proj", width, hidden)?,
                down_proj: stack("down_proj", hidden, width)?,
            })
        }
    };
    let shared = format!("{p}.shared_experts");
    let shared_experts = match moe.n_shared_experts {
        0 if loader.contains(&format!("{shared}.gate_proj.weight")) => {
            return Err(EngineError::ModelField {
                field: "n_shared_experts",
                value: "0".to_owned(),
                expected: "as many as there are shared experts in the weights, which have some",
            });
        }
        0 => None,
        n => Some(loader.gated_mlp(&shared, hidden, n * width)?),
    };
    Ok(Moe { router, experts, shared_experts })
}
