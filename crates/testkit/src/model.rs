//! Tiny models made by code: a folder with `config.json`, `model.safetensors`, `tokenizer.json` and
//! `tokenizer_config.json`, as a hub would have it. The weights are random but the same for the same seed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use levain_kernels::DType;
use levain_weights::{Checkpoint, ModelType, SafetensorsWriter, TensorData, WeightsError, convert_to_gguf};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::tokenizer;

/// The shape of a model to be made. Change fields of a preset as a test needs.
#[derive(Debug, Clone)]
pub struct ModelSpec {
    /// The architecture.
    pub model_type: ModelType,
    /// At least [`ModelSpec::VOCAB_MIN`], the tokens that the tokenizer has; more get rows but no text.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head (not for DeepSeek, whose heads have fixed parts here).
    pub head_dim: usize,
    /// Longest context.
    pub max_position_embeddings: usize,
    /// Whether the output head is the embedding.
    pub tie_word_embeddings: bool,
    /// `rope_scaling` of `config.json`.
    pub rope_scaling: Option<Value>,
    /// Stored type: F32, F16 or BF16.
    pub dtype: DType,
    /// Layers for multi-token prediction (DeepSeek-V3 only).
    pub num_nextn_predict_layers: usize,
    /// Decides the weights.
    pub seed: u64,
}

impl ModelSpec {
    /// Tokens of the tiny tokenizer: special ones, one for each byte, and some merges.
    pub const VOCAB_MIN: usize = tokenizer::VOCAB;

    /// A Llama of about 100,000 parameters with an output head of its own.
    pub fn llama() -> Self {
        Self {
            model_type: ModelType::Llama,
            vocab_size: Self::VOCAB_MIN,
            hidden_size: 64,
            intermediate_size: 96,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 16,
            max_position_embeddings: 512,
            tie_word_embeddings: false,
            rope_scaling: None,
            dtype: DType::F32,
            num_nextn_predict_layers: 0,
            seed: 1,
        }
    }

    /// A Qwen2: biases on q, k and v, the output head tied to the embedding.
    pub fn qwen2() -> Self {
        Self { model_type: ModelType::Qwen2, tie_word_embeddings: true, seed: 2, ..Self::llama() }
    }

    /// A DeepSeek-V2: latent attention with a direct query projection, 8 experts by softmax.
    pub fn deepseek_v2() -> Self {
        Self { model_type: ModelType::DeepseekV2, num_key_value_heads: 4, seed: 3, ..Self::llama() }
    }

    /// A DeepSeek-V3: compressed queries, 8 experts in 4 groups by sigmoid.
    pub fn deepseek_v3() -> Self {
        Self { model_type: ModelType::DeepseekV3, num_key_value_heads: 4, seed: 4, ..Self::llama() }
    }

    /// Makes the model in a folder of its own, which is gone when the result is dropped.
    ///
    /// # Errors
    /// If the folder can't be written.
    pub fn build(&self) -> Result<TinyModel, WeightsError> {
        let folder = TempDir::new().map_err(|source| io_error(&std::env::temp_dir(), source))?;
        self.write(folder.path())?;
        Ok(TinyModel { folder })
    }

    /// Writes the model's files into an existing folder.
    ///
    /// # Errors
    /// If a file can't be written.
    pub fn write(&self, folder: &Path) -> Result<(), WeightsError> {
        for (name, json) in [
            ("config.json", self.config_json()),
            ("tokenizer.json", tokenizer::tokenizer_json()),
            ("tokenizer_config.json", tokenizer::tokenizer_config_json()),
        ] {
            let path = folder.join(name);
            fs::write(&path, json.to_string()).map_err(|source| io_error(&path, source))?;
        }
        let mut writer = SafetensorsWriter::new();
        writer.set("format", "pt");
        let mut random = Random(self.seed);
        for (name, shape) in self.tensors() {
            let values = random.tensor(&name, &shape);
            writer.tensor(&name, self.dtype, &shape, TensorData::from_floats(values));
        }
        writer.write(&folder.join("model.safetensors"))
    }

    /// The contents of `config.json`.
    pub fn config_json(&self) -> Value {
        let mut config = json!({
            "model_type": self.model_type.name(),
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "rope_scaling": self.rope_scaling,
            "hidden_act": "silu",
            "tie_word_embeddings": self.tie_word_embeddings,
            "bos_token_id": tokenizer::BOS,
            "eos_token_id": tokenizer::EOS,
        });
        let more = match self.model_type {
            ModelType::DeepseekV2 => json!({
                "q_lora_rank": null, "scoring_func": "softmax", "topk_method": "greedy",
                "n_group": 1, "topk_group": 1, "norm_topk_prob": false, "routed_scaling_factor": 1.0,
                "n_shared_experts": 2,
            }),
            ModelType::DeepseekV3 => json!({
                "q_lora_rank": Q_RANK, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
                "n_group": 4, "topk_group": 2, "norm_topk_prob": true, "routed_scaling_factor": 2.5,
                "n_shared_experts": 1, "num_nextn_predict_layers": self.num_nextn_predict_layers,
            }),
            _ => json!({ "head_dim": self.head_dim }),
        };
        merge(&mut config, more);
        if self.is_deepseek() {
            merge(
                &mut config,
                json!({
                    "kv_lora_rank": KV_RANK, "qk_nope_head_dim": NOPE, "qk_rope_head_dim": ROPE,
                    "v_head_dim": V, "n_routed_experts": EXPERTS, "num_experts_per_tok": 2,
                    "moe_intermediate_size": EXPERT_WIDTH, "first_k_dense_replace": 1, "moe_layer_freq": 1,
                }),
            );
        }
        config
    }

    fn is_deepseek(&self) -> bool {
        matches!(self.model_type, ModelType::DeepseekV2 | ModelType::DeepseekV3)
    }

    /// All tensors with their shapes, outermost dimension first.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut list = Vec::new();
        let mut add = |name: String, shape: &[usize]| list.push((name, shape.to_vec()));
        let hidden = self.hidden_size;
        add("model.embed_tokens.weight".to_owned(), &[self.vocab_size, hidden]);
        for layer in 0..self.num_hidden_layers + self.num_nextn_predict_layers {
            let prefix = format!("model.layers.{layer}");
            add(format!("{prefix}.input_layernorm.weight"), &[hidden]);
            add(format!("{prefix}.post_attention_layernorm.weight"), &[hidden]);
            if self.is_deepseek() {
                self.latent_attention(&prefix, &mut add);
            } else {
                self.plain_attention(&prefix, &mut add);
            }
            if self.is_deepseek() && layer >= 1 {
                self.experts(&prefix, &mut add);
            } else {
                gated_mlp(&format!("{prefix}.mlp"), hidden, self.intermediate_size, &mut add);
            }
            if layer >= self.num_hidden_layers {
                for norm in ["enorm", "hnorm", "shared_head.norm"] {
                    add(format!("{prefix}.{norm}.weight"), &[hidden]);
                }
                add(format!("{prefix}.eh_proj.weight"), &[hidden, 2 * hidden]);
                add(format!("{prefix}.embed_tokens.weight"), &[self.vocab_size, hidden]);
                add(format!("{prefix}.shared_head.head.weight"), &[self.vocab_size, hidden]);
            }
        }
        add("model.norm.weight".to_owned(), &[hidden]);
        if !self.tie_word_embeddings {
            add("lm_head.weight".to_owned(), &[self.vocab_size, hidden]);
        }
        list
    }

    fn plain_attention(&self, prefix: &str, add: &mut dyn FnMut(String, &[usize])) {
        let q = self.num_attention_heads * self.head_dim;
        let kv = self.num_key_value_heads * self.head_dim;
        for (name, rows) in [("q", q), ("k", kv), ("v", kv)] {
            add(format!("{prefix}.self_attn.{name}_proj.weight"), &[rows, self.hidden_size]);
            if self.model_type == ModelType::Qwen2 {
                add(format!("{prefix}.self_attn.{name}_proj.bias"), &[rows]);
            }
        }
        add(format!("{prefix}.self_attn.o_proj.weight"), &[self.hidden_size, q]);
    }

    fn latent_attention(&self, prefix: &str, add: &mut dyn FnMut(String, &[usize])) {
        let (heads, hidden) = (self.num_attention_heads, self.hidden_size);
        let q = heads * (NOPE + ROPE);
        if self.model_type == ModelType::DeepseekV3 {
            add(format!("{prefix}.self_attn.q_a_proj.weight"), &[Q_RANK, hidden]);
            add(format!("{prefix}.self_attn.q_a_layernorm.weight"), &[Q_RANK]);
            add(format!("{prefix}.self_attn.q_b_proj.weight"), &[q, Q_RANK]);
        } else {
            add(format!("{prefix}.self_attn.q_proj.weight"), &[q, hidden]);
        }
        add(format!("{prefix}.self_attn.kv_a_proj_with_mqa.weight"), &[KV_RANK + ROPE, hidden]);
        add(format!("{prefix}.self_attn.kv_a_layernorm.weight"), &[KV_RANK]);
        add(format!("{prefix}.self_attn.kv_b_proj.weight"), &[heads * (NOPE + V), KV_RANK]);
        add(format!("{prefix}.self_attn.o_proj.weight"), &[hidden, heads * V]);
    }

    fn experts(&self, prefix: &str, add: &mut dyn FnMut(String, &[usize])) {
        let hidden = self.hidden_size;
        add(format!("{prefix}.mlp.gate.weight"), &[EXPERTS, hidden]);
        let shared = if self.model_type == ModelType::DeepseekV3 {
            add(format!("{prefix}.mlp.gate.e_score_correction_bias"), &[EXPERTS]);
            EXPERT_WIDTH
        } else {
            2 * EXPERT_WIDTH
        };
        for expert in 0..EXPERTS {
            gated_mlp(&format!("{prefix}.mlp.experts.{expert}"), hidden, EXPERT_WIDTH, add);
        }
        gated_mlp(&format!("{prefix}.mlp.shared_experts"), hidden, shared, add);
    }
}

/// A model in a temporary folder.
#[derive(Debug)]
pub struct TinyModel {
    folder: TempDir,
}

impl TinyModel {
    /// The folder with all files.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Opens the weights.
    ///
    /// # Errors
    /// If they can't be read.
    pub fn checkpoint(&self) -> Result<Checkpoint, WeightsError> {
        Checkpoint::open(self.path())
    }

    /// Writes the same model as GGUF into a folder `gguf` within and returns the file's path.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn gguf(&self, dtype: DType) -> Result<PathBuf, WeightsError> {
        let folder = self.path().join("gguf");
        fs::create_dir_all(&folder).map_err(|source| io_error(&folder, source))?;
        let path = folder.join(format!("model-{}.gguf", dtype.name()));
        convert_to_gguf(&self.checkpoint()?, &path, dtype)?;
        Ok(path)
    }
}

/// DeepSeek's dimensions, small but all different.
const Q_RANK: usize = 48;
const KV_RANK: usize = 32;
const NOPE: usize = 24;
const ROPE: usize = 8;
const V: usize = 16;
const EXPERTS: usize = 8;
const EXPERT_WIDTH: usize = 40;

fn gated_mlp(prefix: &str, hidden: usize, width: usize, add: &mut dyn FnMut(String, &[usize])) {
    add(format!("{prefix}.gate_proj.weight"), &[width, hidden]);
    add(format!("{prefix}.up_proj.weight"), &[width, hidden]);
    add(format!("{prefix}.down_proj.weight"), &[hidden, width]);
}

fn merge(object: &mut Value, more: Value) {
    if let (Value::Object(object), Value::Object(more)) = (object, more) {
        object.extend(more);
    }
}

fn io_error(file: &Path, source: io::Error) -> WeightsError {
    WeightsError::Io { file: file.to_owned(), source }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From -1 to 1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    /// Values that keep activations at about the same size from layer to layer: norms near 1, biases small,
    /// matrices with a variance of one over their columns, doubled so that logits are well apart.
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Vec<f32> {
        let count = shape.iter().product();
        let (centre, reach) = match shape {
            [_] if name.ends_with("norm.weight") => (1.0, 0.1),
            [_] => (0.0, 0.1),
            [.., columns] => (0.0, (6.0 / *columns as f32).sqrt()),
            [] => (0.0, 1.0),
        };
        (0..count).map(|_| centre + reach * self.unit()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presets() -> Vec<ModelSpec> {
        let mtp = ModelSpec { num_nextn_predict_layers: 1, ..ModelSpec::deepseek_v3() };
        vec![ModelSpec::llama(), ModelSpec::qwen2(), ModelSpec::deepseek_v2(), ModelSpec::deepseek_v3(), mtp]
    }

    #[test]
    fn presets_open_with_every_tensor_in_its_shape() {
        for spec in presets() {
            let model = spec.build().unwrap();
            let checkpoint = model.checkpoint().unwrap();
            assert_eq!(checkpoint.config().unwrap().model_type, spec.model_type);
            for (name, shape) in spec.tensors() {
                checkpoint.require(&name, &shape).unwrap();
            }
        }
    }

    #[test]
    fn presets_convert_to_gguf_with_the_same_description() {
        for spec in presets() {
            let model = spec.build().unwrap();
            let ours = model.checkpoint().unwrap().config().unwrap();
            let path = model.gguf(DType::Q8_0).unwrap();
            let theirs = Checkpoint::open(&path).unwrap().config().unwrap();
            assert_eq!(ours.mla, theirs.mla);
            assert_eq!(ours.moe, theirs.moe);
            assert_eq!(ours.num_hidden_layers, theirs.num_hidden_layers);
            assert_eq!(ours.num_nextn_predict_layers, theirs.num_nextn_predict_layers);
            assert_eq!(ours.vocab_size, theirs.vocab_size);
            assert_eq!(ours.attention_bias, theirs.attention_bias);
            assert_eq!(ours.tie_word_embeddings, theirs.tie_word_embeddings);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_file() {
        let read =
            |spec: &ModelSpec| fs::read(spec.build().unwrap().path().join("model.safetensors")).unwrap();
        let spec = ModelSpec::llama();
        assert_eq!(read(&spec), read(&spec));
        assert_ne!(read(&spec), read(&ModelSpec { seed: 9, ..spec.clone() }));
    }
}
