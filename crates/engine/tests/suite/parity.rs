//! The engine's answers against those of Hugging Face transformers.

use std::path::Path;

use levain_engine::{EngineConfig, FinishReason, KvCacheType};
use levain_kernels::{DType, dequantize_row};
use levain_weights::{Checkpoint, GgufOptions, MlaLayout, convert_to_gguf_with};

use crate::common::{engine, fixture, ids, run};

/// ln softmax of each row of a reference's logits, at the tokens that followed.
fn reference_logprobs(name: &str, tensor: &str, next: &[u32]) -> Vec<f64> {
    let checkpoint = Checkpoint::open(&fixture(name).join("expected.safetensors")).unwrap();
    let tensor = checkpoint.tensor(tensor).unwrap();
    let mut logits = vec![0.0_f32; tensor.shape.iter().product()];
    dequantize_row(tensor.dtype, tensor.bytes, &mut logits).unwrap();
    logits
        .chunks(tensor.shape[1])
        .zip(next)
        .map(|(row, &id)| {
            f64::from(row[id as usize]) - row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln()
        })
        .collect()
}

/// Largest and mean difference of the prompt's log-probabilities from the reference's.
fn difference_on_prompt(name: &str, path: &Path) -> (f64, f64) {
    let prompt = ids(&fixture(name), "prompt");
    let engine = engine(path, EngineConfig { kv_dtype: KvCacheType::F32, ..EngineConfig::default() });
    let outcome = run(&engine, &prompt, |request| {
        request.max_tokens = Some(0);
        request.prompt_logprobs = Some(0);
    });
    let expected = reference_logprobs(name, "logits", &prompt[1..]);
    let found = outcome.prompt[1..].iter().map(|entry| f64::from(entry.logprob.unwrap()));
    let differences: Vec<f64> = found.zip(expected).map(|(a, b)| (a - b).abs()).collect();
    let mean = differences.iter().sum::<f64>() / differences.len() as f64;
    (differences.into_iter().fold(0.0, f64::max), mean)
}

/// Written as GGUF a model gives the same, and quantised nearly the same: rotary pairs are reordered, scaling is
/// stored as factors, and `kv_b_proj` has two layouts.
#[test]
fn gguf_files_agree_with_their_source() {
    let out = tempfile::tempdir().unwrap();
    for (name, layouts) in [
        ("llama-3.1", &[MlaLayout::Split][..]),
        ("qwen2.5", &[MlaLayout::Split]),
        ("deepseek-v2-tiny", &[MlaLayout::Combined, MlaLayout::Split]),
        ("deepseek-v3-tiny", &[MlaLayout::Combined, MlaLayout::Split]),
    ] {
        let source = Checkpoint::open(&fixture(name)).unwrap();
        for &mla in layouts {
            // Rounding may tip a router's close decision, which changes one position much and the others little.
            for (dtype, largest, mean) in [
                (DType::F32, 1e-4, 1e-5),
                (DType::F16, 0.01, 0.003),
                (DType::BF16, 2.0, 0.02),
                (DType::Q8_0, 2.0, 0.1),
            ] {
                let path = out.path().join(format!("{name}-{mla:?}-{}.gguf", dtype.name()));
                let options = GgufOptions { dtype, mla, pre_tokenizer: None };
                convert_to_gguf_with(&source, &path, &options).unwrap();
                let found = difference_on_prompt(name, &path);
                assert!(found.0 < largest && found.1 < mean, "{}: {found:?}", path.display());
            }
        }
    }
}

fn check(name: &str) {
    let (prompt, greedy) = (ids(&fixture(name), "prompt"), ids(&fixture(name), "greedy"));
    let engine =
        engine(&fixture(name), EngineConfig { prompt_chunk_tokens: Some(11), ..EngineConfig::default() });
    let outcome = run(&engine, &prompt, |request| {
        request.max_tokens = Some(greedy.len() as u32);
        request.prompt_logprobs = Some(2);
    });
    let answer = &outcome.answers[0];
    assert_eq!(answer.tokens, greedy);
    assert!(matches!(answer.reason, Some(FinishReason::Length)));
    assert_eq!((answer.usage.prompt_tokens, answer.usage.completion_tokens), (prompt.len(), greedy.len()));
    let expected = reference_logprobs(name, "greedy_logits", &greedy);
    for ((logprob, top), expected) in answer.logprobs.iter().zip(expected) {
        assert!((f64::from(logprob.unwrap()) - expected).abs() < 1e-4);
        assert_eq!(top[0].1, logprob.unwrap());
    }
    assert_eq!(outcome.prompt.iter().map(|entry| entry.id).collect::<Vec<_>>(), prompt);
    assert_eq!(outcome.prompt[0].logprob, None);
    let expected = reference_logprobs(name, "logits", &prompt[1..]);
    for (entry, expected) in outcome.prompt[1..].iter().zip(expected) {
        assert!((f64::from(entry.logprob.unwrap()) - expected).abs() < 1e-4);
        assert_eq!(entry.top.len(), 2);
    }
}

#[test]
fn llama() {
    check("llama-3.1");
}

#[test]
fn qwen2() {
    check("qwen2.5");
}

#[test]
fn deepseek_v2() {
    check("deepseek-v2-tiny");
}

#[test]
fn deepseek_v3() {
    check("deepseek-v3-tiny");
}
