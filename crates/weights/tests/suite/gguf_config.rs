//! The model description from GGUF metadata.

use std::path::Path;

use levain_kernels::{DType, RopeStyle};
use levain_weights::{
    Checkpoint, GgufWriter, MetadataValue, ModelConfig, ModelType, RopeScaling, ScoringFunc, TensorData,
    TopkMethod,
};

type Keys = Vec<(&'static str, MetadataValue)>;

fn llama() -> Keys {
    vec![
        ("block_count", 2u32.into()),
        ("context_length", 128u32.into()),
        ("embedding_length", 32u32.into()),
        ("feed_forward_length", 64u32.into()),
        ("attention.head_count", 4u32.into()),
        ("attention.head_count_kv", 2u32.into()),
        ("attention.layer_norm_rms_epsilon", 1e-5f32.into()),
        ("rope.dimension_count", 8u32.into()),
    ]
}

fn deepseek() -> Keys {
    let mut keys = llama();
    keys.retain(|(key, _)| *key != "attention.head_count_kv");
    keys.extend([
        ("attention.kv_lora_rank", 16u32.into()),
        ("attention.key_length", 24u32.into()),
        ("attention.value_length", 12u32.into()),
        ("expert_count", 8u32.into()),
        ("expert_used_count", 2u32.into()),
        ("expert_shared_count", 1u32.into()),
        ("expert_feed_forward_length", 16u32.into()),
        ("leading_dense_block_count", 1u32.into()),
        ("expert_weights_scale", 2.5f32.into()),
        ("expert_weights_norm", true.into()),
    ]);
    keys
}

fn open(arch: &str, keys: &Keys, tensors: &[(&str, usize)]) -> Result<ModelConfig, String> {
    let mut writer = GgufWriter::new(arch);
    for (key, value) in keys {
        let key = if key.starts_with("tokenizer.") { (*key).to_owned() } else { format!("{arch}.{key}") };
        writer.set(&key, value.clone());
    }
    let floats = |n: usize| TensorData::from_floats(vec![1.0; n]);
    writer.tensor("token_embd.weight", DType::F32, &[50, 32], floats(50 * 32));
    for &(name, len) in tensors {
        writer.tensor(name, DType::F32, &[len], floats(len));
    }
    let mut bytes = Vec::new();
    writer.write_to(Path::new("m.gguf"), &mut bytes).map_err(|e| e.to_string())?;
    let checkpoint = Checkpoint::from_bytes(Path::new("m.gguf"), bytes).map_err(|e| e.to_string())?;
    checkpoint.config().map_err(|e| e.to_string())
}

fn set(mut keys: Keys, changes: &[(&'static str, MetadataValue)]) -> Keys {
    for (key, value) in changes {
        keys.retain(|(known, _)| known != key);
        keys.push((key, value.clone()));
    }
    keys
}

#[test]
fn llama_and_qwen2_differ_in_rope_style_and_bias() {
    let llama_config = open("llama", &llama(), &[("output.weight", 4)]).unwrap();
    assert_eq!(llama_config.model_type, ModelType::Llama);
    assert_eq!(llama_config.rope.style, RopeStyle::Interleaved);
    assert_eq!(llama_config.vocab_size, 50);
    assert!(!llama_config.tie_word_embeddings && !llama_config.attention_bias);
    let qwen = open("qwen2", &llama(), &[("blk.0.attn_q.bias", 32)]).unwrap();
    assert_eq!(qwen.rope.style, RopeStyle::HalfSplit);
    assert!(qwen.tie_word_embeddings && qwen.attention_bias);
}

#[test]
fn rope_scaling_is_read_in_all_forms() {
    let scaling = |changes: &[(&'static str, MetadataValue)], tensors: &[(&str, usize)]| {
        open("llama", &set(llama(), changes), tensors).map(|config| config.rope.scaling)
    };
    assert_eq!(scaling(&[], &[]), Ok(RopeScaling::None));
    assert_eq!(scaling(&[("rope.scaling.type", "none".into())], &[]), Ok(RopeScaling::None));
    let linear = Ok(RopeScaling::Linear { factor: 4.0 });
    assert_eq!(scaling(&[("rope.scale_linear", 4f32.into())], &[]), linear);
    let keys = [("rope.scaling.type", "linear".into()), ("rope.scaling.factor", 4f32.into())];
    assert_eq!(scaling(&keys, &[]), linear);
    let factors = Ok(RopeScaling::FreqFactors(vec![1.0; 4]));
    assert_eq!(scaling(&[], &[("rope_freqs.weight", 4)]), factors);
    assert!(scaling(&[], &[("rope_freqs.weight", 3)]).unwrap_err().contains("rope_freqs.weight"));
    let both = scaling(&keys, &[("rope_freqs.weight", 4)]).unwrap_err();
    assert!(both.contains("frequency factors and scaling"), "{both}");
    let keys = [
        ("rope.scaling.type", "yarn".into()),
        ("rope.scaling.factor", 4f32.into()),
        ("rope.scaling.original_context_length", 32u32.into()),
    ];
    let yarn = scaling(&keys, &[]).unwrap();
    assert!((yarn.attention_factor() - (0.1 * 4f64.ln() + 1.0)).abs() < 1e-12);
    let odd = scaling(&[("rope.scaling.type", "longrope".into())], &[]).unwrap_err();
    assert!(odd.contains("llama.rope.scaling.type: is \"longrope\""), "{odd}");
}

#[test]
fn old_and_new_deepseek_files_describe_the_same_model() {
    let old = open("deepseek2", &deepseek(), &[]).unwrap();
    assert_eq!(old.model_type, ModelType::DeepseekV2);
    let mla = old.mla.clone().unwrap();
    assert_eq!((mla.qk_nope_head_dim, mla.qk_rope_head_dim, mla.v_head_dim), (16, 8, 12));
    let moe = old.moe.clone().unwrap();
    assert_eq!((moe.scoring_func, moe.topk_method), (ScoringFunc::Softmax, TopkMethod::Greedy));
    let changes = [
        ("attention.head_count_kv", 1u32.into()),
        ("attention.key_length", 24u32.into()),
        ("attention.value_length", 16u32.into()),
        ("attention.key_length_mla", 24u32.into()),
        ("attention.value_length_mla", 12u32.into()),
    ];
    assert_eq!(open("deepseek2", &set(deepseek(), &changes), &[]).unwrap(), old);
}

#[test]
fn deepseek_yarn_keeps_cosine_and_scales_softmax() {
    let changes = [
        ("rope.scaling.type", "yarn".into()),
        ("rope.scaling.factor", 40f32.into()),
        ("rope.scaling.original_context_length", 4096u32.into()),
        ("rope.scaling.yarn_log_multiplier", 0.0707f32.into()),
    ];
    let scaling = open("deepseek2", &set(deepseek(), &changes), &[]).unwrap().rope.scaling;
    assert_eq!(scaling.attention_factor(), 1.0);
    assert!((scaling.softmax_factor() - 1.589_626).abs() < 1e-5);
}

#[test]
fn files_without_groups_are_those_of_the_published_models() {
    let experts = |count: u32, gating: u32| {
        let changes = [("expert_count", count.into()), ("expert_gating_func", gating.into())];
        let moe = open("deepseek2", &set(deepseek(), &changes), &[]).unwrap().moe.unwrap();
        (moe.n_group, moe.topk_group, moe.topk_method)
    };
    assert_eq!(experts(256, 2), (8, 4, TopkMethod::NoauxTc));
    assert_eq!(experts(160, 1), (8, 3, TopkMethod::GroupLimitedGreedy));
    assert_eq!(experts(64, 1), (1, 1, TopkMethod::Greedy));
}

#[test]
fn prediction_layers_are_counted_among_the_blocks() {
    let changes = [("block_count", 5u32.into()), ("nextn_predict_layers", 1u32.into())];
    let config = open("deepseek2", &set(deepseek(), &changes), &[]).unwrap();
    assert_eq!((config.num_hidden_layers, config.num_nextn_predict_layers), (4, 1));
}

#[test]
fn impossible_metadata_are_refused_by_key() {
    let refused = |arch: &str, keys: Keys, words: &str| {
        let error = open(arch, &keys, &[]).unwrap_err();
        assert!(error.starts_with("m.gguf: ") && error.contains(words), "{error}");
    };
    refused("mamba", llama(), "general.architecture: is \"mamba\"");
    let l = |key, value| set(llama(), &[(key, value)]);
    refused("llama", l("attention.head_count", 0u32.into()), "llama.attention.head_count: is 0");
    refused("llama", l("attention.head_count", 5u32.into()), "embedding_length: is 32");
    refused("llama", l("attention.head_count_kv", 3u32.into()), "llama.attention.head_count: is 4");
    let nan = l("attention.layer_norm_rms_epsilon", f32::NAN.into());
    refused("llama", nan, "llama.attention.layer_norm_rms_epsilon: is NaN");
    refused("llama", l("block_count", "2".into()), "llama.block_count (at byte");
    refused("llama", l("block_count", MetadataValue::I32(-2)), "llama.block_count");
    refused("llama", l("block_count", MetadataValue::U64(u64::MAX)), "llama.block_count: is");
    refused("llama", l("rope.dimension_count", 7u32.into()), "llama.rope.dimension_count: is 7");
    refused("llama", l("rope.dimension_count", 64u32.into()), "llama.rope.dimension_count: is 64");
    refused("llama", l("expert_count", 8u32.into()), "a mixture of experts");
    refused("llama", l("attention.sliding_window", 64u32.into()), "llama.attention.sliding_window");
    refused("llama", l("rope.freq_base", f32::INFINITY.into()), "llama.rope.freq_base: is inf");
    refused("llama", l("tokenizer.ggml.eot_token_id", "2".into()), "tokenizer.ggml.eot_token_id");
    let uneven = MetadataValue::I32s(vec![4, 2]);
    refused("llama", l("attention.head_count", uneven), "differ from layer to layer");
    let mut without = deepseek();
    without.retain(|(key, _)| *key != "expert_shared_count");
    assert_eq!(open("deepseek2", &without, &[]).unwrap().moe.unwrap().n_shared_experts, 0);
    let error = open("deepseek2", &without, &[("blk.1.ffn_up_shexp.weight", 32)]).unwrap_err();
    assert!(error.contains("deepseek2.expert_shared_count: is missing"), "{error}");
    refused("llama", l("context_length", 0u32.into()), "llama.context_length: is 0");
    let mut keys = llama();
    keys.remove(0);
    refused("llama", keys, "llama.block_count: is missing");
    let d = |key, value| set(deepseek(), &[(key, value)]);
    refused("deepseek2", d("expert_gating_func", 3u32.into()), "deepseek2.expert_gating_func: is \"3\"");
    refused("deepseek2", d("expert_group_count", 2u32.into()), "expert_group_used_count: is missing");
    refused("deepseek2", d("attention.key_length", 8u32.into()), "more than the 8 rotated dimensions");
    refused("deepseek2", d("expert_used_count", 9u32.into()), "deepseek2.expert_used_count: is 9");
}

/// The keys of latent attention and of the experts, one by one.
#[test]
fn impossible_metadata_of_deepseek_are_refused_by_key() {
    let refused = |key: &'static str, value: MetadataValue| {
        let mut keys =
            set(deepseek(), &[("rope.scaling.type", "yarn".into()), ("rope.scaling.factor", 40f32.into())]);
        keys.extend([("expert_group_count", 2u32.into()), ("expert_group_used_count", 1u32.into())]);
        let keys = set(keys, &[(key, value.clone())]);
        let error = open("deepseek2", &keys, &[]).expect_err(&format!("{key} = {value:?} is accepted"));
        let named = error.starts_with("m.gguf: ") && error.contains(key);
        // What the file gives as a sum is checked by its parts.
        assert!(
            named || key == "attention.key_length" && error.contains("rope.dimension_count"),
            "{key}: {error}"
        );
    };
    let sizes = [
        "attention.kv_lora_rank",
        "attention.key_length",
        "attention.value_length",
        "expert_feed_forward_length",
    ];
    let counts = ["expert_used_count", "block_count", "attention.head_count", "embedding_length"];
    let optional =
        ["expert_count", "expert_shared_count", "leading_dense_block_count", "nextn_predict_layers"];
    let groups = ["expert_group_count", "expert_group_used_count"];
    for key in sizes.into_iter().chain(counts).chain(optional).chain(groups) {
        refused(key, "8".into());
        refused(key, MetadataValue::I32(-2));
        refused(key, MetadataValue::F32(8.0));
        refused(key, MetadataValue::Bool(true));
        refused(key, MetadataValue::U64(u64::MAX));
        refused(key, MetadataValue::U32(u32::MAX));
        if sizes.contains(&key) || counts.contains(&key) {
            refused(key, 0u32.into());
        }
    }
    for key in ["rope.freq_base", "rope.scaling.factor", "expert_weights_scale"] {
        for value in [f32::NAN, f32::INFINITY, -1.0, 1e30] {
            refused(key, value.into());
        }
        refused(key, "1".into());
    }
    for key in ["rope.scaling.yarn_beta_slow", "rope.scaling.yarn_beta_fast"] {
        refused(key, f32::NAN.into());
        refused(key, (-1f32).into());
    }
    for value in ["4".into(), MetadataValue::I32(-1), MetadataValue::F32(4.0)] {
        refused("attention.head_count_kv", value);
    }
    refused("rope.scaling.attn_factor", 1e6f32.into());
    refused("rope.scaling.yarn_ext_factor", 0.5f32.into());
    refused("rope.scaling.type", "longrope".into());
    refused("rope.scaling.original_context_length", 0u32.into());
    refused("expert_gating_func", 7u32.into());
    refused("expert_weights_norm", 1u32.into());
    // In newer files, whose own keys describe the heads, the older ones describe the cache.
    let newer = |change: (&'static str, MetadataValue)| {
        let keys = [
            ("attention.head_count_kv", 1u32.into()),
            ("attention.key_length", 24u32.into()),
            ("attention.value_length", 16u32.into()),
            ("attention.key_length_mla", 24u32.into()),
            ("attention.value_length_mla", 12u32.into()),
        ];
        open("deepseek2", &set(set(deepseek(), &keys), &[change]), &[])
    };
    for key in ["attention.key_length", "attention.value_length"] {
        for value in [0u32.into(), 25u32.into(), "24".into(), MetadataValue::U64(u64::MAX)] {
            let error = newer((key, value)).unwrap_err();
            assert!(error.contains(&format!("deepseek2.{key}")), "{error}");
        }
    }
    for key in ["attention.key_length_mla", "attention.value_length_mla"] {
        for value in [0u32.into(), u32::MAX.into(), "24".into()] {
            let error = newer((key, value)).unwrap_err();
            assert!(error.contains(&format!("deepseek2.{key}")), "{error}");
        }
    }
    // Three groups of eight experts, and more experts than the kept groups have.
    let d = |changes: &[(&'static str, MetadataValue)]| open("deepseek2", &set(deepseek(), changes), &[]);
    let groups =
        |n: u32, used: u32| [("expert_group_count", n.into()), ("expert_group_used_count", used.into())];
    assert!(d(&groups(3, 1)).unwrap_err().contains("expert_count: is 8"));
    assert!(d(&groups(4, 5)).unwrap_err().contains("expert_group_used_count: is 5"));
    assert!(d(&groups(8, 1)).unwrap_err().contains("expert_used_count: is 2, expected 1 to 1"));
}

#[test]
fn recommended_sampling_is_read() {
    let mut writer = GgufWriter::new("llama");
    writer.set("general.sampling.temp", 0.6f32);
    writer.set("general.sampling.top_k", MetadataValue::I32(20));
    writer.set("tokenizer.ggml.eos_token_id", 2u32);
    writer.set("tokenizer.ggml.eot_token_id", 7u32);
    let mut bytes = Vec::new();
    writer.write_to(Path::new("m.gguf"), &mut bytes).unwrap();
    let checkpoint = Checkpoint::from_bytes(Path::new("m.gguf"), bytes).unwrap();
    let defaults = checkpoint.generation_defaults().unwrap();
    assert_eq!((defaults.temperature, defaults.top_k), (Some(0.6), Some(20)));
    assert_eq!(defaults.eos_token_ids, [2, 7]);
    let error = checkpoint.config().unwrap_err().to_string();
    assert!(error.contains("a vocabulary but no weights"), "{error}");
}

/// Converters write -1, 4294967295 and other numbers that no token has for "none"; each key is told by its own name.
#[test]
fn token_ids_that_no_token_has_stand_for_none() {
    let keys = [
        "tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.eot_token_id",
        "tokenizer.ggml.eom_token_id",
    ];
    for none in [
        u32::MAX.into(),
        MetadataValue::I32(-1),
        MetadataValue::U64(u64::MAX),
        MetadataValue::I32(i32::MIN),
        50u32.into(),
    ] {
        let changes: Vec<_> = keys.iter().map(|&key| (key, none.clone())).collect();
        let config = open("llama", &set(llama(), &changes), &[]).unwrap();
        assert_eq!((config.bos_token_id, config.eos_token_ids), (None, vec![]), "{none:?}");
    }
    let one = set(llama(), &[(keys[1], MetadataValue::I32(49)), (keys[2], u32::MAX.into())]);
    assert_eq!(open("llama", &one, &[]).unwrap().eos_token_ids, [49]);
    for key in keys {
        let error = open("llama", &set(llama(), &[(key, 0.5f32.into())]), &[]).unwrap_err();
        assert!(error.contains(key), "{error}");
    }
}

/// What llama.cpp takes where a key is absent, or says that nothing is set.
#[test]
fn keys_that_may_be_absent_have_the_usual_meaning() {
    let mut keys = llama();
    keys.retain(|(key, _)| !matches!(*key, "attention.head_count_kv" | "rope.dimension_count"));
    let config = open("llama", &keys, &[]).unwrap();
    assert_eq!((config.num_key_value_heads, config.rope.dim, config.rope.theta), (4, 8, 10_000.0));
    assert!(config.eos_token_ids.is_empty() && config.bos_token_id.is_none());
    let each = MetadataValue::I32s(vec![64, 64]);
    let config = open("llama", &set(llama(), &[("feed_forward_length", each)]), &[]).unwrap();
    assert_eq!(config.intermediate_size, 64);
    for scaling in ["linear", "yarn", "none"] {
        for factor in [None, Some(0f32)] {
            let mut changes: Keys = vec![("rope.scaling.type", scaling.into())];
            changes.extend(factor.map(|factor| ("rope.scaling.factor", factor.into())));
            let config = open("llama", &set(llama(), &changes), &[]).unwrap();
            assert_eq!(config.rope.scaling, RopeScaling::None, "{scaling} {factor:?}");
        }
    }
    for (key, neutral) in [("logit_scale", 1f32), ("attention.scale", 0.0), ("embedding_scale", 0.0)] {
        assert!(open("llama", &set(llama(), &[(key, neutral.into())]), &[]).is_ok(), "{key}");
        assert!(open("llama", &set(llama(), &[(key, 2f32.into())]), &[]).is_err(), "{key}");
    }
}
