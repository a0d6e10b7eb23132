//! Counts what is allocated between two tokens.
//!
//! Allocations of all threads count, those of the test's runner too: it allocates to tell that a test has ended, or has
//! taken more than a minute. So each program has one test, and several share the work.

#![expect(clippy::unwrap_used, reason = "only tests call this")]

use std::alloc::System;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::sync_channel;

use levain_engine::{Engine, EngineConfig, Event, Request, SamplingParams, Speculation};
use levain_weights::Checkpoint;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

pub(crate) fn open(name: &str) -> Checkpoint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    Checkpoint::open(&folder).unwrap()
}

/// Four sequences at a time allocate nothing once all are under way.
pub(crate) fn check(engine: &Engine, name: &str) {
    let sampled = SamplingParams {
        temperature: 0.8,
        top_p: 0.9,
        repetition_penalty: 1.1,
        frequency_penalty: 0.1,
        seed: Some(1),
        ..SamplingParams::default()
    };
    let top_k = SamplingParams { temperature: 0.8, top_k: 20, seed: Some(2), ..SamplingParams::default() };
    // Four sequences at a time, first for the buffers to reach their sizes, then measured.
    for measured in [false, true] {
        let (done, ended) = sync_channel(8);
        let mut handles = Vec::new();
        for (index, sampling) in [SamplingParams::default(), sampled.clone(), top_k.clone(), sampled.clone()]
            .into_iter()
            .enumerate()
        {
            let done = done.clone();
            let mut before = 0;
            let mut request = Request::new(vec![5 + index as u32; 9], move |event| {
                match event {
                    // By the hundredth token all four have been taken in.
                    Event::Token { index: 100, .. } => before = GLOBAL.stats().allocations,
                    Event::Token { index: 399, .. } => {
                        done.send(GLOBAL.stats().allocations - before).unwrap();
                    }
                    _ => {}
                }
                ControlFlow::Continue(())
            });
            request.sampling = sampling;
            request.max_tokens = Some(450);
            handles.push(engine.submit(request).unwrap());
        }
        for _ in 0..4 {
            let allocations = ended.recv().unwrap();
            assert!(!measured || allocations == 0, "{name}: {allocations} allocations in 300 tokens");
        }
    }
}

/// A setting that drafts as many tokens each time, so that nothing depends on speed.
pub(crate) fn drafting(threads: usize, speculation: Speculation) -> EngineConfig {
    EngineConfig { threads, speculation, draft_tokens: Some(4), ..EngineConfig::default() }
}
