//! `config.json` and `generation_config.json`.

use std::path::Path;

use levain_kernels::RopeStyle;
use levain_testkit::model::ModelSpec;
use levain_weights::{
    Checkpoint, GenerationDefaults, ModelConfig, ModelType, RopeScaling, ScoringFunc, TopkMethod,
};
use serde_json::{Value, json};

fn parse(json: &Value) -> Result<ModelConfig, String> {
    ModelConfig::from_json(Path::new("config.json"), json.to_string().as_bytes()).map_err(|e| e.to_string())
}

fn with(base: &ModelSpec, changes: Value) -> Value {
    let mut json = base.config_json();
    for (key, value) in changes.as_object().unwrap() {
        json[key] = value.clone();
    }
    json
}

#[track_caller]
fn refused(base: &ModelSpec, changes: Value, words: &str) {
    let error = parse(&with(base, changes.clone())).expect_err(&format!("{changes} is accepted"));
    assert!(error.starts_with("config.json: ") && error.contains(words), "{changes}: {error}");
}

#[test]
fn impossible_values_are_refused_by_field() {
    let llama = ModelSpec::llama();
    for field in
        ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"]
    {
        refused(&llama, json!({ field: 0 }), &format!("{field}: is 0, expected 1 to"));
        refused(&llama, json!({ field: -1 }), &format!("{field}: is -1, expected a whole number"));
        refused(&llama, json!({ field: "8" }), &format!("{field}: is the text \"8\""));
        refused(&llama, json!({ field: 1.5 }), &format!("{field}: is 1.5"));
        refused(&llama, json!({ field: null }), &format!("{field}: is missing"));
        refused(&llama, json!({ field: u64::MAX }), field);
        refused(&llama, json!({ field: 1e300 }), field);
        refused(&llama, json!({ field: [] }), &format!("{field}: is a list"));
    }
    refused(&llama, json!({"num_key_value_heads": 0}), "num_key_value_heads: is 0");
    refused(&llama, json!({"num_key_value_heads": 3}), "not a multiple of num_key_value_heads = 3");
    refused(&llama, json!({"num_key_value_heads": 8}), "not a multiple of num_key_value_heads = 8");
    refused(&llama, json!({"head_dim": 7}), "head_dim: is 7");
    refused(&llama, json!({"head_dim": null, "num_attention_heads": 3}), "hidden_size: is 64");
    let zero = json!({"head_dim": null, "num_attention_heads": 0});
    refused(&llama, zero, "num_attention_heads: is 0");
    refused(&llama, json!({"rms_norm_eps": 0}), "rms_norm_eps: is 0");
    refused(&llama, json!({"rms_norm_eps": -1e-5}), "rms_norm_eps");
    refused(&llama, json!({"rms_norm_eps": 1e-60}), "rms_norm_eps");
    refused(&llama, json!({"rope_theta": 0}), "rope_theta: is 0");
    refused(&llama, json!({"max_position_embeddings": 1u64 << 40}), "max_position_embeddings");
    refused(&llama, json!({"bos_token_id": 1.5}), "bos_token_id: is 1.5");
    refused(&llama, json!({"eos_token_id": [1, "x"]}), "eos_token_id: is a list");
}

#[test]
fn unknown_variants_are_refused_with_what_is_supported() {
    let llama = ModelSpec::llama();
    refused(
        &llama,
        json!({"model_type": "janus"}),
        "model_type: is \"janus\", which Levain doesn't support; supported: llama, qwen2, deepseek_v2, deepseek_v3",
    );
    refused(&llama, json!({"model_type": null}), "model_type: is missing");
    refused(&llama, json!({"hidden_act": "gelu"}), "supported: silu");
    refused(&llama, json!({"mlp_bias": true}), "mlp_bias");
    refused(&llama, json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor");
    refused(&ModelSpec::qwen2(), json!({"use_sliding_window": true}), "use_sliding_window");
    let layers = json!({"layer_types": ["full_attention", "sliding_attention"]});
    refused(&ModelSpec::qwen2(), layers, "layer_types: is \"sliding_attention\"");
    refused(&llama, json!({"rope_scaling": {"type": "longrope"}}), "rope_scaling.type: is \"longrope\"");
    refused(&llama, json!({"rope_scaling": {"rope_type": "x"}}), "rope_scaling.rope_type: is \"x\"");
    refused(&llama, json!({"rope_parameters": {"rope_type": "x"}}), "rope_parameters.rope_type: is \"x\"");
    refused(&llama, json!({"rope_scaling": 3}), "rope_scaling: is 3, expected an object");
    refused(
        &llama,
        json!({"quantization_config": {"quant_method": "gptq"}}),
        "quantization_config.quant_method",
    );
    let fp8 = json!({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 0]}});
    refused(&ModelSpec::deepseek_v3(), fp8, "weight_block_size");
}

#[test]
fn what_is_not_json_is_refused() {
    for text in ["", "{", "[]", "NaN", "{\"a\": NaN}", "{\"hidden_size\": 1e999}", "\u{feff}{}"] {
        let error =
            ModelConfig::from_json(Path::new("config.json"), text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("is not valid JSON"), "{text}: {error}");
    }
    let deep = "[".repeat(100_000);
    assert!(ModelConfig::from_json(Path::new("config.json"), deep.as_bytes()).is_err());
}

#[test]
fn the_three_spellings_of_rope_scaling_mean_the_same() {
    let values = json!({"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192});
    let spelled = |key: &str, kind: &str, theta: bool| {
        let mut scaling = values.clone();
        scaling[kind] = "llama3".into();
        let mut json = with(&ModelSpec::llama(), json!({"rope_scaling": null, "rope_theta": 5e5}));
        if theta {
            json.as_object_mut().unwrap().remove("rope_theta");
            scaling["rope_theta"] = 5e5.into();
        }
        json[key] = scaling;
        parse(&json).unwrap().rope
    };
    let rope = spelled("rope_scaling", "rope_type", false);
    assert_eq!(rope.theta, 5e5);
    assert_eq!(rope.style, RopeStyle::HalfSplit);
    assert_eq!(
        rope.scaling,
        RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        }
    );
    assert_eq!(spelled("rope_scaling", "type", false), rope);
    assert_eq!(spelled("rope_parameters", "rope_type", true), rope);
}

#[test]
fn rope_scaling_values_are_checked() {
    let refused = |scaling: Value, words: &str| {
        refused(&ModelSpec::llama(), json!({ "rope_scaling": scaling }), words);
    };
    refused(json!({"type": "linear"}), "rope_scaling.factor: is missing");
    refused(json!({"type": "linear", "factor": 0.0}), "rope_scaling.factor: is 0");
    refused(json!({"type": "yarn", "factor": 1e9}), "rope_scaling.factor");
    refused(json!({"type": "yarn", "factor": 4, "beta_fast": 0.5}), "rope_scaling.beta_fast");
    refused(json!({"type": "yarn", "factor": 4, "mscale": -1}), "rope_scaling.mscale");
    let llama3 = json!({"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4,
        "original_max_position_embeddings": 8192});
    refused(llama3, "rope_scaling.high_freq_factor");
}

#[test]
fn yarn_factors_are_those_of_the_published_models() {
    let scaling = |scale: f64| RopeScaling::Yarn {
        factor: 40.0,
        original_max_position_embeddings: 4096,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: None,
        mscale: Some(scale),
        mscale_all_dim: Some(scale),
        truncate: true,
    };
    // 192^-0.5 times this is 0.1352338 for R1 and 0.1147214 for V2-Lite.
    for (scale, expected) in [(1.0, 0.135_233_8), (0.707, 0.114_721_4)] {
        let scale = scaling(scale);
        assert_eq!(scale.attention_factor(), 1.0);
        assert!((scale.softmax_factor() / 192f64.sqrt() - expected).abs() < 5e-8);
    }
    let json =
        json!({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}});
    let plain = parse(&with(&ModelSpec::qwen2(), json)).unwrap().rope.scaling;
    assert!((plain.attention_factor() - (0.1 * 4f64.ln() + 1.0)).abs() < 1e-12);
    assert_eq!(plain.softmax_factor(), 1.0);
    assert_eq!(RopeScaling::None.attention_factor(), 1.0);
}

#[test]
fn deepseek_fields_are_read_and_checked() {
    let v3 = ModelSpec::deepseek_v3();
    let config = parse(&v3.config_json()).unwrap();
    let moe = config.moe.unwrap();
    assert_eq!(moe.scoring_func, ScoringFunc::Sigmoid);
    assert_eq!(moe.topk_method, TopkMethod::NoauxTc);
    assert!(!moe.is_moe_layer(0) && moe.is_moe_layer(1));
    assert_eq!(config.rope.style, RopeStyle::Interleaved);
    assert_eq!(config.rope.dim, config.mla.as_ref().unwrap().qk_rope_head_dim);
    assert_eq!(parse(&ModelSpec::deepseek_v2().config_json()).unwrap().mla.unwrap().q_lora_rank, None);

    refused(&v3, json!({"scoring_func": "tanh"}), "scoring_func: is \"tanh\"");
    refused(&v3, json!({"topk_method": "best"}), "topk_method");
    refused(&v3, json!({"n_group": 3}), "n_routed_experts: is 8, which is not a multiple of n_group = 3");
    refused(&v3, json!({"n_group": 0}), "n_group: is 0");
    refused(&v3, json!({"topk_group": 5}), "topk_group: is 5, expected 1 to 4");
    refused(&v3, json!({"num_experts_per_tok": 9}), "num_experts_per_tok: is 9");
    // Two groups of two experts can't give five.
    refused(&v3, json!({"num_experts_per_tok": 5}), "num_experts_per_tok: is 5, expected 1 to 4");
    refused(&v3, json!({"routed_scaling_factor": 0}), "routed_scaling_factor");
    refused(&v3, json!({"kv_lora_rank": null}), "kv_lora_rank: is missing");
    refused(&v3, json!({"qk_rope_head_dim": 7}), "head_dim: is 7");
    refused(&v3, json!({"first_k_dense_replace": 9}), "first_k_dense_replace");
    refused(&v3, json!({"moe_layer_freq": 0}), "moe_layer_freq: is 0");
    refused(&v3, json!({"attention_bias": true}), "attention_bias");
}

/// The numbers of latent attention and of the experts, one by one.
#[test]
fn impossible_values_of_deepseek_are_refused_by_field() {
    let sizes =
        ["kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "moe_intermediate_size"];
    let counts = ["n_routed_experts", "num_experts_per_tok", "n_group", "topk_group", "moe_layer_freq"];
    let optional = ["n_shared_experts", "first_k_dense_replace", "num_nextn_predict_layers"];
    for spec in [ModelSpec::deepseek_v2(), ModelSpec::deepseek_v3()] {
        for field in sizes.into_iter().chain(counts).chain(["q_lora_rank"]).chain(optional) {
            let named = format!("{field}: ");
            refused(&spec, json!({ field: -1 }), &named);
            refused(&spec, json!({ field: "8" }), &named);
            refused(&spec, json!({ field: 1.5 }), &named);
            refused(&spec, json!({ field: [8] }), &named);
            refused(&spec, json!({ field: true }), &named);
            for huge in [json!(u64::MAX), json!(i64::MAX), json!(1u64 << 40), json!(1e300), json!(1e15)] {
                refused(&spec, json!({ field: huge }), field);
            }
            if !optional.contains(&field) {
                refused(&spec, json!({ field: 0 }), field);
            }
        }
        for field in sizes.into_iter().chain(["num_experts_per_tok"]) {
            refused(&spec, json!({ field: null }), &format!("{field}: is missing"));
        }
        for scale in [json!(0), json!(-2.5), json!(1e9), json!("2.5"), json!(1e-60)] {
            refused(&spec, json!({"routed_scaling_factor": scale}), "routed_scaling_factor: ");
        }
        refused(&spec, json!({"norm_topk_prob": "yes"}), "norm_topk_prob: ");
        for (field, supported) in [
            ("scoring_func", "supported: softmax, sigmoid"),
            ("topk_method", "supported: greedy, group_limited_greedy, noaux_tc"),
            ("hidden_act", "supported: silu"),
        ] {
            refused(&spec, json!({ field: "other" }), &format!("{field}: is \"other\""));
            refused(&spec, json!({ field: "other" }), supported);
            refused(&spec, json!({ field: 3 }), &format!("{field}: is 3"));
        }
        let block =
            |size: Value| json!({"quantization_config": {"quant_method": "fp8", "weight_block_size": size}});
        for size in
            [json!([64, 64]), json!([128]), json!([0, 128]), json!(128), json!([-1, 128]), json!(null)]
        {
            refused(&spec, block(size), "quantization_config.weight_block_size: ");
        }
        parse(&with(&spec, block(json!([128, 128])))).unwrap();
    }
    for field in ["n_group", "topk_group"] {
        refused(&ModelSpec::deepseek_v3(), json!({ field: null }), &format!("{field}: is missing"));
    }
    // What follows from other fields has to agree with them, or to be of the right type at least.
    let v3 = ModelSpec::deepseek_v3();
    for value in [json!(0), json!(1), json!(8), json!(-1), json!("4"), json!([4]), json!(true)] {
        refused(&v3, json!({"num_key_value_heads": value}), "num_key_value_heads: is ");
    }
    for value in [json!(-1), json!("8"), json!(1.5)] {
        refused(&v3, json!({"head_dim": value}), "head_dim: is ");
        refused(&v3, json!({"layer_types": value}), "layer_types: is ");
    }
    // With its rotary part it would be wider than any key of a cache.
    refused(&v3, json!({"kv_lora_rank": 65536}), "kv_lora_rank: is 65536, expected 1 to 32768");
}

/// Where a field is absent, transformers takes the published model's value.
#[test]
fn absent_fields_of_deepseek_have_the_published_values() {
    for (spec, scale, dense) in [(ModelSpec::deepseek_v3(), 2.5, 3), (ModelSpec::deepseek_v2(), 1.0, 0)] {
        let spec = ModelSpec { num_hidden_layers: 4, ..spec };
        let changes = json!({"routed_scaling_factor": null, "first_k_dense_replace": null});
        let moe = parse(&with(&spec, changes)).unwrap().moe.unwrap();
        assert_eq!((moe.routed_scaling_factor, moe.first_k_dense_replace), (scale, dense));
    }
}

#[test]
fn contradictory_rope_settings_are_refused() {
    let v3 = ModelSpec::deepseek_v3();
    let yarn = json!({"type": "yarn", "factor": 40, "original_max_position_embeddings": 16});
    let other = json!({"type": "yarn", "factor": 4, "original_max_position_embeddings": 16});
    refused(
        &v3,
        json!({"rope_scaling": yarn, "rope_parameters": other}),
        "rope_scaling: contradicts rope_parameters",
    );
    let theta = json!({"rope_theta": 10000, "rope_parameters": {"rope_type": "default", "rope_theta": 5}});
    refused(&v3, theta, "rope_theta: contradicts rope_parameters.rope_theta");
    let types = json!({"rope_scaling": {"type": "yarn", "rope_type": "linear", "factor": 4}});
    refused(&v3, types, "rope_scaling.type: contradicts rope_type");
    // Said twice is not contradicted.
    let same = parse(&with(&v3, json!({"rope_scaling": yarn, "rope_parameters": yarn}))).unwrap();
    assert_eq!(same, parse(&with(&v3, json!({"rope_scaling": yarn}))).unwrap());
    for (changes, field) in [
        (json!({"factor": 0}), "rope_scaling.factor"),
        (json!({"factor": -40}), "rope_scaling.factor"),
        (json!({"factor": null}), "rope_scaling.factor"),
        (json!({"original_max_position_embeddings": 0}), "rope_scaling.original_max_position_embeddings"),
        (json!({"beta_fast": 0.5}), "rope_scaling.beta_fast"),
        (json!({"beta_slow": 0}), "rope_scaling.beta_slow"),
        (json!({"mscale": -1}), "rope_scaling.mscale"),
        (json!({"mscale_all_dim": 1e9}), "rope_scaling.mscale_all_dim"),
        (json!({"attention_factor": 0}), "rope_scaling.attention_factor"),
        (json!({"attention_factor": 1e6}), "rope_scaling.attention_factor"),
        (json!({"type": "longrope"}), "rope_scaling.type"),
        (json!({"type": null}), "rope_scaling.rope_type: is missing"),
    ] {
        let mut scaling = yarn.clone();
        scaling.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        refused(&v3, json!({ "rope_scaling": scaling }), field);
    }
}

#[test]
fn the_distilled_models_unusual_values_are_kept() {
    let json = json!({"rope_theta": 10000, "tie_word_embeddings": false});
    let config = parse(&with(&ModelSpec::qwen2(), json)).unwrap();
    assert_eq!(config.model_type, ModelType::Qwen2);
    assert_eq!(config.rope.theta, 10_000.0);
    assert!(!config.tie_word_embeddings && config.attention_bias);
    assert!(!parse(&ModelSpec::llama().config_json()).unwrap().attention_bias);
}

#[test]
fn answers_end_at_the_tokens_of_both_files() {
    let model = ModelSpec::llama().build().unwrap();
    let file = model.path().join("generation_config.json");
    let open = || Checkpoint::open(model.path()).unwrap();
    assert_eq!(open().generation_defaults().unwrap(), GenerationDefaults::default());
    assert_eq!(open().config().unwrap().eos_token_ids, [1]);
    let text = r#"{"bos_token_id": 0, "eos_token_id": [4, 1], "do_sample": true, "temperature": 0.6,
        "top_p": 0.95, "top_k": 40, "repetition_penalty": 1.05, "transformers_version": "4"}"#;
    std::fs::write(&file, text).unwrap();
    let defaults = open().generation_defaults().unwrap();
    assert_eq!((defaults.temperature, defaults.top_p, defaults.top_k), (Some(0.6), Some(0.95), Some(40)));
    assert_eq!((defaults.repetition_penalty, defaults.do_sample), (Some(1.05), Some(true)));
    assert_eq!(open().config().unwrap().eos_token_ids, [1, 4]);
    for (text, words) in [
        (r#"{"temperature": -1}"#, "temperature: is -1, expected 0 to 100"),
        (r#"{"top_p": 0}"#, "top_p"),
        (r#"{"top_p": 1.5}"#, "top_p"),
        (r#"{"repetition_penalty": 0}"#, "repetition_penalty"),
        (r#"{"top_k": -1}"#, "top_k"),
        ("nonsense", "not valid JSON"),
    ] {
        std::fs::write(&file, text).unwrap();
        let error = open().generation_defaults().unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("generation_config.json"), "{error}");
    }
}

#[test]
fn token_ids_that_no_token_has_stand_for_none() {
    let llama = ModelSpec::llama();
    let nones = [
        json!(-1),
        json!(null),
        json!([]),
        json!([null, -1]),
        json!(999_999),
        json!(u32::MAX),
        json!(u64::MAX),
    ];
    for none in nones {
        let config = parse(&with(&llama, json!({"bos_token_id": none, "eos_token_id": none}))).unwrap();
        assert_eq!((config.bos_token_id, config.eos_token_ids), (None, vec![]), "{none}");
    }
    let config = parse(&with(&llama, json!({"eos_token_id": [-1, 3, 999_999, 1]}))).unwrap();
    assert_eq!(config.eos_token_ids, [3, 1]);
}

#[test]
fn absent_fields_mean_what_transformers_takes() {
    for (spec, context) in [
        (ModelSpec::llama(), 2048),
        (ModelSpec::qwen2(), 32_768),
        (ModelSpec::deepseek_v2(), 2048),
        (ModelSpec::deepseek_v3(), 4096),
    ] {
        let config =
            parse(&with(&spec, json!({"max_position_embeddings": null, "rope_theta": null}))).unwrap();
        assert_eq!((config.max_position_embeddings, config.rope.theta), (context, 10_000.0));
    }
    let by_class = json!({"model_type": null, "architectures": ["Qwen2ForCausalLM"]});
    assert_eq!(parse(&with(&ModelSpec::qwen2(), by_class)).unwrap().model_type, ModelType::Qwen2);
}

/// Models that read pictures too describe their language model inside.
#[test]
fn a_nested_description_is_read() {
    let inner = ModelSpec::qwen2().config_json();
    let flat = parse(&inner).unwrap();
    for name in ["text_config", "language_config", "llm_config"] {
        let outer = json!({"model_type": "llava", "vision_config": {"hidden_size": 9}, name: inner});
        assert_eq!(parse(&outer).unwrap(), flat, "{name}");
    }
    // As published: only what differs from the class's defaults, and some of it outside.
    let sparse = json!({
        "model_type": "multi_modality", "eos_token_id": 7, "tie_word_embeddings": true,
        "language_config": {"model_type": "llama", "num_hidden_layers": 30, "vocab_size": 102_400},
    });
    let config = parse(&sparse).unwrap();
    assert_eq!((config.hidden_size, config.intermediate_size, config.num_hidden_layers), (4096, 11_008, 30));
    assert_eq!((config.num_attention_heads, config.vocab_size), (32, 102_400));
    assert_eq!((config.eos_token_ids, config.tie_word_embeddings), (vec![7], true));
    let error = parse(&json!({"model_type": "x", "text_config": {"model_type": "gemma"}})).unwrap_err();
    assert!(error.contains("text_config.model_type: is \"gemma\""), "{error}");
}
