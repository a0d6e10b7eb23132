//! Speculation changes when tokens come, never which.

use levain_engine::{EngineConfig, Request, SamplingParams, Speculation};

use crate::common::{all_free, engine, eventually, fixture, run, start, text};

fn config(speculation: Speculation, draft_tokens: Option<usize>) -> EngineConfig {
    EngineConfig { speculation, draft_tokens, threads: 2, ..EngineConfig::default() }
}

fn wishes() -> Vec<SamplingParams> {
    let sampled = SamplingParams { temperature: 0.7, seed: Some(3), ..SamplingParams::default() };
    let penalised = SamplingParams { frequency_penalty: 0.4, top_p: 0.9, ..sampled.clone() };
    vec![SamplingParams::default(), sampled, penalised]
}

#[test]
fn answers_are_those_of_plain_decoding() {
    for name in ["llama-3.1", "qwen2.5"] {
        let folder = fixture(name);
        let plain = engine(&folder, config(Speculation::Off, None));
        for draft_tokens in [Some(1), Some(3), Some(8), None] {
            let drafting = engine(&folder, config(Speculation::PromptLookup, draft_tokens));
            for seed in 0..7 {
                let mut prompt = text(seed, 9 + seed as usize);
                prompt.extend(prompt.clone());
                for wish in wishes() {
                    let ask = |request: &mut Request| {
                        request.sampling = wish.clone();
                        request.max_tokens = Some(60 + seed);
                    };
                    let expected = run(&plain, &prompt, ask);
                    let got = run(&drafting, &prompt, ask);
                    assert_eq!(got.answers[0].bits(), expected.answers[0].bits());
                    assert_eq!(
                        format!("{:?}", got.answers[0].reason),
                        format!("{:?}", expected.answers[0].reason)
                    );
                }
            }
            let stats = drafting.stats();
            assert!(stats.drafted_tokens > 0 && stats.accepted_tokens > 0, "{stats:?}");
            assert!(stats.accepted_tokens <= stats.drafted_tokens);
        }
    }
}

#[test]
fn the_models_own_layer_drafts() {
    let folder = fixture("deepseek-v3-mtp");
    let plain = engine(&folder, config(Speculation::Off, None));
    for draft_tokens in [Some(1), Some(2), Some(5), None] {
        let drafting = engine(&folder, config(Speculation::MultiTokenPrediction, draft_tokens));
        for (seed, wish) in (0..9).zip(wishes().into_iter().cycle()) {
            let ask = |request: &mut Request| {
                request.sampling = wish.clone();
                request.max_tokens = Some(40 + seed);
            };
            let prompt: Vec<u32> =
                text(seed, 30 + seed as usize).iter().map(|token| 3 + token % 290).collect();
            let expected = run(&plain, &prompt, ask);
            let others: Vec<_> = (0..3).map(|_| start(&drafting, &prompt[..20], ask)).collect();
            let got = run(&drafting, &prompt, ask);
            assert_eq!(got.answers[0].bits(), expected.answers[0].bits());
            others.into_iter().for_each(|other| drop(other.wait()));
        }
        let stats = drafting.stats();
        assert!(stats.drafted_tokens > 0, "{stats:?}");
        eventually("all blocks are free", || all_free(&drafting));
    }
}

#[test]
fn speculation_shares_steps_blocks_and_prefixes() {
    let folder = fixture("llama-3.1");
    let plain = engine(&folder, config(Speculation::Off, None));
    // A cache so small that sequences are sent back.
    let tight = EngineConfig {
        context_length: Some(128),
        kv_cache_tokens: Some(192),
        ..config(Speculation::PromptLookup, Some(5))
    };
    let drafting = engine(&folder, tight);
    let ask = |i: u32| {
        move |request: &mut Request| {
            request.sampling = wishes()[i as usize % 3].clone();
            request.max_tokens = Some(80);
            request.n = 1 + i % 2;
        }
    };
    let running: Vec<_> = (0..6).map(|i| start(&drafting, &text(i % 3, 35), ask(i))).collect();
    for (i, got) in running.into_iter().enumerate() {
        let expected = run(&plain, &text(i as u32 % 3, 35), ask(i as u32));
        for (got, expected) in got.wait().answers.iter().zip(&expected.answers) {
            assert_eq!(got.bits(), expected.bits(), "request {i}");
        }
    }
    eventually("all blocks are free", || all_free(&drafting));
}
