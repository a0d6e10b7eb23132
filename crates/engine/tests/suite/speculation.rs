//! Speculation changes when tokens come, never which.

use std::path::Path;

use levain_engine::{Engine, EngineConfig, EngineError, Request, SamplingParams, Speculation};
use levain_kernels::{DType, dequantize_row};
use levain_weights::{Checkpoint, SafetensorsWriter, TensorData, convert_to_gguf};
use tempfile::TempDir;

use crate::common::{TokenBits, all_free, engine, eventually, fixture, run, start, text};

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
    check_layer(&folder);
    // The same as GGUF, quantised.
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("model.gguf");
    convert_to_gguf(&Checkpoint::open(&folder).unwrap(), &path, DType::Q8_0).unwrap();
    check_layer(&path);
}

fn check_layer(path: &Path) {
    let plain = engine(path, config(Speculation::Off, None));
    for draft_tokens in [Some(1), Some(2), Some(5), None] {
        let drafting = engine(path, config(Speculation::MultiTokenPrediction, draft_tokens));
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

/// `folder`'s model with drafts from the model at `draft`.
fn with_draft(folder: &Path, draft: &Path, config: EngineConfig) -> Engine {
    let open = |path| Checkpoint::open(path).unwrap();
    Engine::load_with_draft(&open(folder), Some(&open(draft)), config).unwrap()
}

#[test]
fn a_model_that_drafts_for_itself_is_always_right() {
    for name in ["llama-3.1", "qwen2.5", "deepseek-v2-tiny", "deepseek-v3-tiny", "llama-odd"] {
        let folder = fixture(name);
        let plain = engine(&folder, config(Speculation::Off, None));
        let drafting = with_draft(&folder, &folder, config(Speculation::DraftModel, Some(4)));
        for wish in wishes() {
            // A prompt longer than a window begins with is cut, so short ones.
            let prompt: Vec<u32> = text(3, 90).iter().map(|token| 3 + token % 290).collect();
            let ask = |request: &mut Request| {
                request.sampling = wish.clone();
                // The first token, and then five a step.
                request.max_tokens = Some(61);
            };
            let expected = run(&plain, &prompt, ask);
            let got = run(&drafting, &prompt, ask);
            assert_eq!(got.answers[0].bits(), expected.answers[0].bits(), "{name}");
            let usage = &got.answers[0].usage;
            assert_eq!((usage.drafted_tokens, usage.accepted_tokens), (48, 48), "{name}: {wish:?}");
        }
    }
}

/// Another model, other weights of the same architecture, and the same model quantised: several sequences at a time,
/// answers that share a prompt, and a cache so small that sequences are sent back.
#[test]
fn whatever_a_model_drafts_answers_are_those_of_plain_decoding() {
    let scratch = tempfile::tempdir().unwrap();
    let quantised = scratch.path().join("q8_0.gguf");
    convert_to_gguf(&Checkpoint::open(&fixture("llama-3.1")).unwrap(), &quantised, DType::Q8_0).unwrap();
    let tight = EngineConfig { context_length: Some(256), kv_cache_tokens: Some(384), ..Default::default() };
    let mut preemptions = 0;
    for (name, draft) in [
        ("llama-3.1", fixture("qwen2.5")),
        ("llama-3.1", fixture("llama-odd")),
        ("llama-3.1", quantised),
        ("deepseek-v3-tiny", fixture("deepseek-v2-tiny")),
        ("deepseek-v2-tiny", fixture("llama-3.1")),
    ] {
        let folder = fixture(name);
        let plain = engine(&folder, config(Speculation::Off, None));
        for draft_tokens in [Some(1), Some(3), Some(8), None] {
            let config = EngineConfig {
                speculation: Speculation::DraftModel,
                draft_tokens,
                threads: 2,
                prompt_chunk_tokens: Some(23),
                ..tight.clone()
            };
            let drafting = with_draft(&folder, &draft, config);
            let ask = |i: u32| {
                move |request: &mut Request| {
                    request.sampling = wishes()[i as usize % 3].clone();
                    request.max_tokens = Some(70 + i);
                    request.n = 1 + i % 2;
                }
            };
            let prompt = |i: u32| -> Vec<u32> {
                text(i % 3, 40 + 15 * i as usize).iter().map(|token| 3 + token % 290).collect()
            };
            let running: Vec<_> = (0..6).map(|i| start(&drafting, &prompt(i), ask(i))).collect();
            for (i, got) in running.into_iter().enumerate() {
                let expected = run(&plain, &prompt(i as u32), ask(i as u32));
                for (got, expected) in got.wait().answers.iter().zip(&expected.answers) {
                    assert_eq!(got.bits(), expected.bits(), "{name}, {draft_tokens:?}: request {i}");
                }
            }
            let stats = drafting.stats();
            assert!(draft_tokens.is_none() || stats.drafted_tokens > 100, "{stats:?}");
            preemptions += stats.preemptions;
            eventually("all blocks are free", || all_free(&drafting));
        }
    }
    // Whether one has to go depends on when each request arrives.
    assert!(preemptions > 0);
}

/// A copy of a checkpoint of F32 tensors, in which `share` of each value is noise of about its tensor's spread.
fn with_other_weights(folder: &Path, share: f32) -> TempDir {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let mut writer = SafetensorsWriter::new();
    let mut random = 7_u32;
    for entry in checkpoint.entries() {
        let tensor = checkpoint.tensor(entry.name).unwrap();
        let mut values = vec![0.0; entry.shape.iter().product()];
        dequantize_row(tensor.dtype, tensor.bytes, &mut values).unwrap();
        let count = values.len() as f32;
        let mean = values.iter().sum::<f32>() / count;
        let spread = (values.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / count).sqrt();
        for value in &mut values {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Evenly spread over so much has this standard deviation.
            let noise = mean + ((random >> 8) as f32 / (1 << 23) as f32 - 1.0) * 3_f32.sqrt() * spread;
            *value += share * (noise - *value);
        }
        writer.tensor(entry.name, DType::F32, entry.shape, TensorData::from_floats(values));
    }
    let out = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("config.json"), out.path().join("config.json")).unwrap();
    writer.write(&out.path().join("model.safetensors")).unwrap();
    out
}

/// Twenty answers of 256 tokens, greedy and sampled ones, several at a time.
fn twenty_answers(engine: &Engine) -> Vec<Vec<TokenBits>> {
    let ask = |i: u32| {
        move |request: &mut Request| {
            request.sampling = SamplingParams { seed: Some(i.into()), ..wishes()[i as usize % 3].clone() };
            request.max_tokens = Some(256);
            request.ignore_eos = true;
        }
    };
    let prompt = |i: u32| -> Vec<u32> {
        let text = text(i, 12 + 3 * i as usize);
        text.iter().map(|token| 3 + token % 290).collect()
    };
    let running: Vec<_> = (0..20).map(|i| start(engine, &prompt(i), ask(i))).collect();
    running.into_iter().map(|answer| answer.wait().answers[0].bits()).collect()
}

/// Drafts of all sources, with weights that are nearly the model's and with others: some, few and none are right.
#[test]
fn long_answers_of_each_architecture_are_those_of_plain_decoding() {
    for name in
        ["llama-3.1", "qwen2.5", "llama-odd", "deepseek-v2-tiny", "deepseek-v3-tiny", "deepseek-v3-mtp"]
    {
        let folder = fixture(name);
        let expected = twenty_answers(&engine(&folder, config(Speculation::Off, None)));
        assert!(expected.iter().all(|answer| answer.len() == 256), "{name}");
        let check = |drafting: &Engine, what: &str, share: std::ops::Range<f64>| {
            assert!(twenty_answers(drafting) == expected, "{name}: {what}");
            let stats = drafting.stats();
            assert!(stats.drafted_tokens > 0, "{name}: {what}");
            let accepted = stats.accepted_tokens as f64 / stats.drafted_tokens as f64;
            assert!(share.contains(&accepted), "{name}: {what}: {accepted}");
        };
        for draft_tokens in [Some(5), None] {
            let mut sources = vec![Speculation::PromptLookup];
            sources.extend((name == "deepseek-v3-mtp").then_some(Speculation::MultiTokenPrediction));
            for speculation in sources {
                let drafting = engine(&folder, config(speculation, draft_tokens));
                check(&drafting, &format!("{speculation:?}, {draft_tokens:?}"), 0.0..1.0);
            }
        }
        for (share, accepted) in [(0.02, 0.1..1.0), (1.0, 0.0..0.1)] {
            let draft = with_other_weights(&folder, share);
            let drafting = with_draft(&folder, draft.path(), config(Speculation::DraftModel, Some(3)));
            check(&drafting, &format!("{share} of noise"), accepted);
        }
    }
}

/// Text that is longer than a window, and more sequences than places for windows.
#[test]
fn windows_are_left_behind_and_taken_over() {
    let folder = fixture("llama-3.1");
    let plain = engine(&folder, config(Speculation::Off, None));
    let few = EngineConfig { max_num_seqs: 2, ..config(Speculation::DraftModel, Some(5)) };
    let drafting = with_draft(&folder, &folder, few);
    let ask = |request: &mut Request| request.max_tokens = Some(150);
    let running: Vec<_> = (0..5).map(|i| start(&drafting, &text(i, 330), ask)).collect();
    for (i, got) in running.into_iter().enumerate() {
        let expected = run(&plain, &text(i as u32, 330), ask);
        assert_eq!(got.wait().answers[0].bits(), expected.answers[0].bits());
    }
    // The model saw the end of these texts only. Of a short one it sees all, whoever had its place before.
    let usage = run(&drafting, &text(9, 60), ask).answers[0].usage;
    assert!(usage.drafted_tokens > 100 && usage.accepted_tokens == usage.drafted_tokens, "{usage:?}");
}

#[test]
fn a_draft_model_is_planned_for_and_has_to_be_there() {
    let folder = fixture("llama-3.1");
    let open = || Checkpoint::open(&folder).unwrap();
    let config = config(Speculation::DraftModel, None);
    let Err(EngineError::NoDraftModel) = Engine::load(&open(), config.clone()) else {
        panic!("no draft model")
    };
    let without = engine(&folder, EngineConfig { speculation: Speculation::Off, ..config.clone() });
    let with = with_draft(&folder, &folder, config.clone());
    let more = with.plan().total() - without.plan().total();
    let windows = 16 * 1024 * without.plan().kv_bytes_per_token;
    assert!(more > without.plan().weights.trunk_bytes + windows, "{more}");
    assert!(with.plan().to_string().contains("drafting"), "{}", with.plan());
    // What fits without it does not fit with it.
    let tight = EngineConfig { memory_limit: Some(without.plan().total() + more / 2), ..config };
    let Err(error) = Engine::load_with_draft(&open(), Some(&open()), tight) else { panic!("it fits") };
    assert!(matches!(error, EngineError::OutOfMemory { .. }), "{error}");
}
