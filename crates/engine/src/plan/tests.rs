//! Plans for models of known sizes.

use std::path::Path;

use super::*;
use crate::config::{EXPANDED_FROM_DEFAULT, ExpandedPrompts};

const GIB: u64 = 1 << 30;

fn config(name: &str) -> ModelConfig {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    Checkpoint::open(&folder).unwrap().config().unwrap()
}

/// The shape of R1-Distill-Qwen-7B.
fn seven_billion() -> (ModelConfig, WeightSizes) {
    let shape = ModelConfig {
        hidden_size: 3584,
        intermediate_size: 18944,
        num_hidden_layers: 28,
        num_attention_heads: 28,
        num_key_value_heads: 4,
        head_dim: 128,
        vocab_size: 152_064,
        max_position_embeddings: 131_072,
        ..config("qwen2.5")
    };
    (shape, WeightSizes { trunk_bytes: 4_700_000_000, ..WeightSizes::default() })
}

#[test]
fn cache_bytes_follow_the_formula() {
    let (shape, weights) = seven_billion();
    let engine = EngineConfig { context_length: Some(131_072), max_num_seqs: 1, ..EngineConfig::default() };
    let plan = plan_for(&shape, weights, &engine, Some(64 * GIB)).unwrap();
    // 2 · layers · kv heads · head_dim · 2 bytes.
    assert_eq!(plan.kv_bytes_per_token, 2 * 28 * 4 * 128 * 2);
    assert_eq!(plan.kv_bytes, 131_072 * 57_344);
    assert_eq!(plan.context_length, 131_072);
    let text = plan.to_string();
    assert!(text.contains("weights") && text.contains("4.4 GiB") && text.contains("7.0 GiB"), "{text}");
}

#[test]
fn what_does_not_fit_is_refused_with_numbers() {
    let (shape, weights) = seven_billion();
    let engine = EngineConfig { context_length: Some(131_072), ..EngineConfig::default() };
    let Err(EngineError::OutOfMemory { needed, free, cache, .. }) =
        plan_for(&shape, weights, &engine, Some(10 * GIB))
    else {
        panic!("it should not fit")
    };
    assert_eq!((free, cache), (10 * GIB, 131_072 * 57_344));
    assert!(needed > 11 * GIB);
    // Just the bytes it says are enough.
    assert!(plan_for(&shape, weights, &engine, Some(needed + needed / 32)).is_ok());
    // What requests take beside the engine counts as well.
    let serving = EngineConfig { request_bytes: GIB, ..engine };
    assert!(plan_for(&shape, weights, &serving, Some(needed + needed / 32)).is_err());
    let plan = plan_for(&shape, weights, &serving, Some(needed + 2 * GIB)).unwrap();
    assert!(plan.total() > needed && plan.to_string().contains("requests"));
    // Weights alone do not fit.
    let engine = EngineConfig { memory_limit: Some(4 * GIB), ..EngineConfig::default() };
    assert!(matches!(
        plan_for(&shape, weights, &engine, Some(64 * GIB)),
        Err(EngineError::OutOfMemory { .. })
    ));
}

#[test]
fn the_default_context_shrinks_to_what_fits() {
    let (shape, weights) = seven_billion();
    let engine = EngineConfig::default();
    assert_eq!(
        plan_for(&shape, weights, &engine, Some(64 * GIB)).unwrap().context_length,
        CONTEXT_LENGTH_DEFAULT
    );
    let tight = plan_for(&shape, weights, &engine, Some(5 * GIB)).unwrap();
    assert!((CONTEXT_LENGTH_MIN..CONTEXT_LENGTH_DEFAULT).contains(&tight.context_length), "{tight}");
    assert!(tight.total() <= 5 * GIB);
    // A small model's own limit holds.
    let plan = plan_for(&config("llama-3.1"), WeightSizes::default(), &engine, None).unwrap();
    assert_eq!(plan.context_length, 512);
}

#[test]
fn impossible_settings_are_named() {
    let (shape, weights) = seven_billion();
    for (name, engine) in [
        ("max_num_seqs", EngineConfig { max_num_seqs: 0, ..EngineConfig::default() }),
        ("max_num_batched_tokens", EngineConfig { max_num_batched_tokens: 3, ..EngineConfig::default() }),
        ("max_queued_requests", EngineConfig { max_queued_requests: 0, ..EngineConfig::default() }),
        ("context_length", EngineConfig { context_length: Some(200_000), ..EngineConfig::default() }),
        ("context_length", EngineConfig { context_length: Some(0), ..EngineConfig::default() }),
        ("prompt_chunk_tokens", EngineConfig { prompt_chunk_tokens: Some(0), ..EngineConfig::default() }),
        ("threads", EngineConfig { threads: 1 << 20, ..EngineConfig::default() }),
    ] {
        let Err(EngineError::Setting { name: found, .. }) = plan_for(&shape, weights, &engine, None) else {
            panic!("{name} was accepted")
        };
        assert_eq!(name, found);
    }
}

#[test]
fn f32_weights_get_an_f32_cache_unless_told_otherwise() {
    let shape = config("llama-3.1");
    let f32 = WeightSizes { all_f32: true, ..WeightSizes::default() };
    let dtype = |weights, kv_dtype| {
        plan_for(&shape, weights, &EngineConfig { kv_dtype, ..EngineConfig::default() }, None)
            .unwrap()
            .kv_dtype
    };
    assert_eq!(dtype(f32, KvCacheType::Auto), KvDType::F32);
    assert_eq!(dtype(WeightSizes::default(), KvCacheType::Auto), KvDType::F16);
    assert_eq!(dtype(f32, KvCacheType::Q8_0), KvDType::Q8_0);
}

#[test]
fn the_expanded_form_is_paid_for_where_it_is_asked_for() {
    let shape = config("deepseek-v3-tiny");
    let mla = shape.mla.clone().unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/deepseek-v3-tiny");
    let weights = WeightSizes::of(&Checkpoint::open(&folder).unwrap(), &shape);
    let scratch = |expanded_prompts, max_num_seqs| {
        let engine = EngineConfig { expanded_prompts, max_num_seqs, ..EngineConfig::default() };
        plan_for(&shape, weights, &engine, None).unwrap().scratch_bytes
    };
    // In F32, as it is stored.
    let keys = shape.num_attention_heads * mla.qk_nope_head_dim.next_multiple_of(16) * mla.kv_lora_rank * 4;
    assert_eq!(weights.key_expansion_bytes, (shape.num_hidden_layers * keys) as u64);
    let [never, automatic, some] = [ExpandedPrompts::Never, ExpandedPrompts::Auto, ExpandedPrompts::From(64)];
    let (with, without) = (scratch(some, 16), scratch(never, 16));
    assert!(with > without + weights.key_expansion_bytes);
    // Left alone it is for one sequence at a time, and for contexts that are long enough.
    assert_eq!(scratch(automatic, 16), without);
    assert_eq!(scratch(automatic, 1), scratch(never, 1));
    let long = ModelConfig { max_position_embeddings: 8192, ..shape.clone() };
    let from = |engine: &EngineConfig| engine.expanded_from(&long);
    let one = EngineConfig { max_num_seqs: 1, ..EngineConfig::default() };
    assert_eq!(from(&one), Some(EXPANDED_FROM_DEFAULT));
    assert_eq!(from(&EngineConfig { context_length: Some(EXPANDED_FROM_DEFAULT), ..one.clone() }), None);
    assert_eq!(from(&EngineConfig { max_num_seqs: 2, ..one.clone() }), None);
    assert_eq!(one.expanded_from(&config("llama-3.1")), None);
}

/// The layer for multi-token prediction has experts too, and they are read from the disk like the others.
#[test]
fn what_is_needed_at_least_is_enough_with_experts_from_the_disk() {
    let mut shape = config("deepseek-v3-mtp");
    if let Some(moe) = &mut shape.moe {
        moe.n_routed_experts = 256;
    }
    let weights = WeightSizes {
        trunk_bytes: GIB,
        expert_bytes: 30 * GIB,
        mtp_bytes: 11 * GIB,
        mtp_expert_bytes: 10 * GIB,
        ..WeightSizes::default()
    };
    for (speculation, kept) in [(Speculation::Off, GIB), (Speculation::MultiTokenPrediction, 2 * GIB)] {
        let engine = EngineConfig { speculation, ..EngineConfig::default() };
        let resident = plan_for(&shape, weights, &engine, None).unwrap();
        let drafting = if speculation == Speculation::Off { 0 } else { 11 * GIB };
        assert_eq!(resident.resident_weights(), 31 * GIB + drafting);
        let limited = |limit| {
            let engine = EngineConfig { memory_limit: Some(limit), ..engine.clone() };
            plan_for(&shape, weights, &engine, Some(64 * GIB))
        };
        let plan = limited(16 * GIB).unwrap();
        assert!(plan.total() <= 16 * GIB && plan.total() > 15 * GIB, "{plan}");
        assert_eq!(plan.resident_weights(), kept + plan.expert_cache_bytes.unwrap());
        let Err(EngineError::OutOfMemory { needed, free, .. }) = limited(GIB) else { panic!("it fits") };
        assert!(free == GIB && needed > kept, "{needed}");
        assert!(limited(needed).is_ok() && limited(needed - needed / 32).is_err());
    }
    let found = WeightSizes::of(
        &Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/deepseek-v3-mtp"))
            .unwrap(),
        &shape,
    );
    assert!(found.mtp_expert_bytes > 0 && found.mtp_bytes > found.mtp_expert_bytes, "{found:?}");
}
