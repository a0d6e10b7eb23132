//! The same request gives the same tokens and the same log-probabilities bit for bit, whatever goes on around it.

use levain_engine::{
    DiskCacheConfig, Engine, EngineConfig, ExpandedPrompts, KvCacheType, Request, SamplingParams, SealKey,
};
use levain_kernels::{DType, Prefetch, PrefetchPolicy};
use levain_weights::{Checkpoint, convert_to_gguf};

use crate::common::{Outcome, TokenBits, all_free, engine, eventually, fixture, ids, run, start, text};

type Bits = (Vec<TokenBits>, Vec<(u32, Option<u32>)>);

fn bits(outcome: &Outcome) -> Bits {
    let prompt = outcome.prompt.iter().map(|entry| (entry.id, entry.logprob.map(f32::to_bits)));
    (outcome.answers[0].bits(), prompt.collect())
}

/// Requests that are compared: greedy and sampled, with and without what restrains sampling.
fn wishes() -> Vec<SamplingParams> {
    let seeded = SamplingParams { temperature: 0.9, seed: Some(7), ..SamplingParams::default() };
    vec![
        SamplingParams::default(),
        seeded.clone(),
        SamplingParams { top_p: 0.8, min_p: 0.02, repetition_penalty: 1.2, frequency_penalty: 0.5, ..seeded },
    ]
}

fn ask(wish: &SamplingParams) -> impl Fn(&mut Request) + '_ {
    move |request| request.sampling = wish.clone()
}

/// Others that come and go while the request runs.
fn crowd(engine: &Engine, n: usize) -> Vec<crate::common::Running> {
    (0..n)
        .map(|i| {
            start(engine, &text(100 + i as u32, 5 + 9 * i), |request| {
                request.sampling =
                    SamplingParams { temperature: 1.0, seed: Some(i as u64), ..SamplingParams::default() };
                request.max_tokens = Some(6 + 3 * i as u32);
                request.tenant = (i % 3) as u64;
            })
        })
        .collect()
}

fn check(folder: &std::path::Path, prompt: &[u32], kv_dtype: KvCacheType) {
    check_with(folder, prompt, &EngineConfig { kv_dtype, ..EngineConfig::default() });
}

fn check_with(folder: &std::path::Path, prompt: &[u32], config: &EngineConfig) {
    let config = EngineConfig { threads: 1, prompt_chunk_tokens: Some(512), ..config.clone() };
    let cold = EngineConfig { prefix_cache: false, ..config.clone() };
    let alone = engine(folder, cold.clone());
    let in_chunks = [(2, 1), (1, 5), (2, 32)].map(|(threads, chunk)| {
        engine(folder, EngineConfig { threads, prompt_chunk_tokens: Some(chunk), ..cold.clone() })
    });
    let busy = engine(folder, EngineConfig { threads: 2, prompt_chunk_tokens: Some(23), ..config.clone() });
    for wish in &wishes() {
        let expected = run(&alone, prompt, ask(wish));
        let scored = |request: &mut Request| {
            ask(wish)(request);
            request.prompt_logprobs = Some(0);
        };
        let with_scores = run(&alone, prompt, scored);
        assert_eq!(bits(&expected).0, bits(&with_scores).0, "scoring the prompt changes nothing");
        for engine in &in_chunks {
            assert_eq!(bits(&run(engine, prompt, scored)), bits(&with_scores), "{:?}", engine.config());
        }

        let others = crowd(&busy, 7);
        let outcome = run(&busy, prompt, ask(wish));
        assert_eq!(bits(&outcome), bits(&expected), "in a batch of 8");
        others.into_iter().for_each(|other| drop(other.wait()));

        let again = run(&busy, prompt, ask(wish));
        assert!(again.answers[0].usage.cached_tokens >= 32, "the prefix is cached");
        assert_eq!(bits(&again), bits(&expected), "after a prefix hit");

        // The answer as part of the next prompt, cold and from blocks that were filled while it was generated.
        let mut next = prompt.to_vec();
        next.extend(&expected.answers[0].tokens);
        next.push(5);
        let cold_next = run(&alone, &next, ask(wish));
        let cached_next = run(&busy, &next, ask(wish));
        assert!(cached_next.answers[0].usage.cached_tokens >= prompt.len() / 32 * 32);
        assert_eq!(bits(&cached_next), bits(&cold_next), "after an answer became a prefix");
    }
}

#[test]
fn llama_f32() {
    let folder = fixture("llama-3.1");
    check(&folder, &ids(&folder, "prompt"), KvCacheType::Auto);
}

#[test]
fn qwen2_f32_with_an_f16_cache() {
    let folder = fixture("qwen2.5");
    check(&folder, &ids(&folder, "prompt"), KvCacheType::F16);
}

#[test]
fn deepseek_v3() {
    let folder = fixture("deepseek-v3-tiny");
    check(&folder, &ids(&folder, "prompt"), KvCacheType::F16);
}

/// A part of the prompt is computed in another form than the rest; what is cached in one form is not taken for the
/// other.
#[test]
fn deepseek_v3_with_a_part_in_the_expanded_form() {
    let folder = fixture("deepseek-v3-tiny");
    let config = EngineConfig { expanded_prompts: ExpandedPrompts::From(32), ..EngineConfig::default() };
    check_with(&folder, &text(8, 100), &config);
}

#[test]
fn quantised_models_with_quantised_caches() {
    let out = tempfile::tempdir().unwrap();
    let source = Checkpoint::open(&fixture("llama-3.1")).unwrap();
    for (dtype, kv_dtype) in [(DType::Q8_0, KvCacheType::Auto), (DType::Q4_0, KvCacheType::Q8_0)] {
        let path = out.path().join(format!("{}.gguf", dtype.name()));
        convert_to_gguf(&source, &path, dtype).unwrap();
        check(&path, &text(3, 40), kv_dtype);
    }
}

/// Whichever way of asking for weights is fixed, and while ways are tried out in turn: in batches, chunks and after hits
/// of the cache, too.
#[test]
fn however_weights_are_asked_for() {
    let out = tempfile::tempdir().unwrap();
    let quantised = out.path().join("q4_0.gguf");
    convert_to_gguf(&Checkpoint::open(&fixture("llama-3.1")).unwrap(), &quantised, DType::Q4_0).unwrap();
    let fixed =
        Prefetch::CANDIDATES.into_iter().chain(["t0:64:3", "t0:0:1"].map(|p| Prefetch::parse(p).unwrap()));
    let policies: Vec<_> = [PrefetchPolicy::First, PrefetchPolicy::Learn, PrefetchPolicy::LearnFrom(1)]
        .into_iter()
        .chain(fixed.map(PrefetchPolicy::Fixed))
        .collect();
    for (folder, prompt) in [(quantised, text(5, 40)), (fixture("deepseek-v3-tiny"), text(6, 40))] {
        let wish = &wishes()[1];
        let answer = |prefetch, threads| {
            let config = EngineConfig { prefetch, threads, prefix_cache: false, ..EngineConfig::default() };
            let engine = engine(&folder, config);
            let outcome = run(&engine, &prompt, |request| {
                ask(wish)(request);
                request.max_tokens = Some(60);
                request.ignore_eos = true;
            });
            (bits(&outcome), engine)
        };
        let (expected, plain) = answer(PrefetchPolicy::Fixed(Prefetch::CANDIDATES[0]), 1);
        assert!(plain.prefetch_choices().is_empty());
        for (index, policy) in policies.iter().enumerate() {
            let (answer, engine) = answer(*policy, 1 + index % 2);
            assert_eq!(answer, expected, "{policy:?}");
            if *policy == PrefetchPolicy::LearnFrom(1) {
                eventually("something was learnt", || !engine.prefetch_choices().is_empty());
                // The same engine, now that it has chosen.
                let again = run(&engine, &prompt, |request| {
                    ask(wish)(request);
                    request.max_tokens = Some(60);
                    request.ignore_eos = true;
                });
                assert_eq!(bits(&again), expected, "after a choice was made");
            }
        }
        for prefetch in [policies[2], PrefetchPolicy::Fixed(Prefetch::CANDIDATES[3])] {
            check_with(&folder, &prompt, &EngineConfig { prefetch, ..EngineConfig::default() });
        }
    }
}

/// What was computed before a restart is taken from the disk, by the same tenant, and changes nothing.
#[test]
fn blocks_from_the_disk_give_the_same_answer() {
    let root = tempfile::tempdir().unwrap();
    let folder = fixture("llama-3.1");
    let prompt = text(77, 300);
    for kv_dtype in [KvCacheType::Auto, KvCacheType::F16, KvCacheType::Q8_0] {
        let cold = EngineConfig { kv_dtype, threads: 1, prefix_cache: false, ..EngineConfig::default() };
        let disk_cache = DiskCacheConfig {
            folder: root.path().join("kv"),
            bytes_max: 1 << 30,
            key: SealKey::default(),
            always_read: true,
        };
        let kept = EngineConfig {
            prefix_cache: true,
            threads: 2,
            prompt_chunk_tokens: Some(37),
            disk_cache: Some(disk_cache),
            ..cold.clone()
        };
        let alone = engine(&folder, cold);
        for wish in &wishes() {
            let expected = run(&alone, &prompt, ask(wish));
            let first = run(&engine(&folder, kept.clone()), &prompt, ask(wish));
            assert_eq!(bits(&first), bits(&expected));
            // Another engine, as after a restart.
            let restarted = engine(&folder, kept.clone());
            let crowd = crowd(&restarted, 3);
            let again = run(&restarted, &prompt, ask(wish));
            assert_eq!(bits(&again), bits(&expected), "from the disk");
            assert_eq!(again.answers[0].usage.cached_tokens, prompt.len() / 32 * 32);
            assert!(restarted.stats().disk_cache.unwrap().read_blocks >= 9);
            crowd.into_iter().for_each(|other| drop(other.wait()));
            // The answer has become part of a prompt.
            let mut next = prompt.clone();
            next.extend(&expected.answers[0].tokens);
            next.push(5);
            drop(restarted);
            let later = run(&engine(&folder, kept.clone()), &next, ask(wish));
            assert_eq!(bits(&later), bits(&run(&alone, &next, ask(wish))));
            assert!(later.answers[0].usage.cached_tokens >= 320);
        }
        // What another tenant computed is not used, though it is the same.
        let restarted = engine(&folder, kept);
        let theirs = run(&restarted, &prompt, |request| request.tenant = 4);
        assert_eq!(theirs.answers[0].usage.cached_tokens, 0);
        assert_eq!(restarted.stats().disk_cache.unwrap().read_blocks, 0);
    }
}

#[test]
fn damaged_blocks_on_the_disk_are_computed_again() {
    let root = tempfile::tempdir().unwrap();
    let folder = fixture("llama-3.1");
    let prompt = text(78, 200);
    let disk_cache = Some(DiskCacheConfig {
        folder: root.path().to_owned(),
        bytes_max: 1 << 30,
        key: SealKey::default(),
        always_read: true,
    });
    let config = EngineConfig { disk_cache, ..EngineConfig::default() };
    let expected = run(&engine(&folder, config.clone()), &prompt, |_| {});
    let mut files: Vec<_> =
        std::fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files = std::fs::read_dir(&files[0]).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 6);
    for file in &files {
        let mut bytes = std::fs::read(file).unwrap();
        let at = bytes.len() - 100;
        bytes[at] ^= 4;
        std::fs::write(file, bytes).unwrap();
    }
    let restarted = engine(&folder, config);
    let again = run(&restarted, &prompt, |_| {});
    assert_eq!(bits(&again), bits(&expected));
    assert_eq!(again.answers[0].usage.cached_tokens, 0);
    assert_eq!(restarted.stats().disk_cache.unwrap().refused_blocks, 1);
}

/// Blocks that had to go for others' sake come back from the disk.
#[test]
fn a_cache_that_is_too_small_is_spilled_to_the_disk() {
    let root = tempfile::tempdir().unwrap();
    let folder = fixture("llama-3.1");
    let disk_cache = Some(DiskCacheConfig {
        folder: root.path().to_owned(),
        bytes_max: 1 << 30,
        key: SealKey::default(),
        always_read: true,
    });
    let tight =
        EngineConfig { context_length: Some(256), kv_cache_tokens: Some(256), ..EngineConfig::default() };
    let roomy = engine(&folder, EngineConfig { prefix_cache: false, ..tight.clone() });
    let tight = engine(&folder, EngineConfig { disk_cache, ..tight });
    for _ in 0..3 {
        for i in 0..4 {
            let prompt = text(i, 200);
            let outcome = run(&tight, &prompt, |_| {});
            assert_eq!(bits(&outcome), bits(&run(&roomy, &prompt, |_| {})), "prompt {i}");
            let least = 6 * (u64::from(i) + 1);
            let written = || tight.stats().disk_cache.unwrap().written_blocks >= least;
            eventually("the blocks are on the disk", written);
        }
    }
    assert!(
        tight.stats().disk_cache.unwrap().read_blocks >= 6 * 4,
        "two blocks of eight stay in memory at most"
    );
    eventually("all blocks are free", || all_free(&tight));
}

#[test]
fn preempted_sequences_go_on_as_if_nothing_had_been() {
    for prefix_cache in [false, true] {
        // 400 blocks and 4.
        let roomy = EngineConfig {
            prefix_cache,
            context_length: Some(128),
            kv_cache_tokens: Some(12_800),
            threads: 2,
            ..EngineConfig::default()
        };
        let tight = EngineConfig { kv_cache_tokens: Some(128), ..roomy.clone() };
        let folder = fixture("llama-3.1");
        let (roomy, tight) = (engine(&folder, roomy), engine(&folder, tight));
        let ask = |i: u32| {
            move |request: &mut Request| {
                let seed = Some(u64::from(i));
                request.sampling = SamplingParams { temperature: 0.8, seed, ..SamplingParams::default() };
                request.max_tokens = Some(70);
                request.prompt_logprobs = (i == 2).then_some(1);
            }
        };
        let prompts: Vec<_> = (0..6).map(|i| text(i, 20 + 5 * i as usize)).collect();
        let running: Vec<_> = (0..6).map(|i| start(&tight, &prompts[i as usize], ask(i))).collect();
        for (i, outcome) in running.into_iter().map(|running| running.wait()).enumerate() {
            let expected = run(&roomy, &prompts[i], ask(i as u32));
            assert_eq!(bits(&outcome), bits(&expected), "sequence {i}");
        }
        assert!(tight.stats().preemptions > 0, "the cache was to be too small");
        eventually("all blocks are free", || all_free(&tight));
        assert_eq!(roomy.stats().preemptions, 0);
    }
}

#[test]
fn several_answers_are_what_each_would_be_alone() {
    let folder = fixture("qwen2.5");
    let prompt = ids(&folder, "prompt");
    let wish = SamplingParams { temperature: 1.0, seed: Some(99), ..SamplingParams::default() };
    let many = |max_num_seqs: usize, n: u32| {
        let engine = engine(&folder, EngineConfig { max_num_seqs, ..EngineConfig::default() });
        let outcome = run(&engine, &prompt, |request| {
            ask(&wish)(request);
            request.n = n;
        });
        eventually("all blocks are free", || all_free(&engine));
        (outcome, engine.stats())
    };
    let (together, stats) = many(16, 5);
    // The prompt is computed once.
    assert_eq!(stats.prompt_rows, prompt.len() as u64);
    // Where only two may run, the others come later and compute what is not cached again.
    let (in_turn, _) = many(2, 5);
    for (a, b) in together.answers.iter().zip(&in_turn.answers) {
        assert_eq!(a.bits(), b.bits());
    }
    let (single, _) = many(16, 1);
    assert_eq!(single.answers[0].bits(), together.answers[0].bits());
    for a in 0..5 {
        for b in a + 1..5 {
            assert_ne!(together.answers[a].tokens, together.answers[b].tokens, "answers {a} and {b}");
        }
    }
}
