//! The engine's answers against those of Hugging Face transformers.

use crate::common::{engine, fixture, ids, run};
use levain_engine::{EngineConfig, FinishReason};
use levain_kernels::dequantize_row;
use levain_weights::Checkpoint;

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
