//! What programs ask of a checkpoint's headers, when the headers say anything: sizes, plans, costs, and loading.

use std::path::Path;

use levain_engine::{Engine, EngineConfig, TokenCost, WeightSizes, plan_for};
use levain_kernels::DType;
use levain_testkit::fields::{self, Layout};
use levain_testkit::model::ModelSpec;
use levain_weights::Checkpoint;

use crate::common::run;

/// Goes as far with a file as it lets: opened, described, planned for, loaded, and asked something.
fn use_it(path: &Path, file: Vec<u8>) -> u32 {
    let Ok(checkpoint) = Checkpoint::from_bytes(path, file) else { return 0 };
    let Ok(config) = checkpoint.config() else { return 1 };
    let engine = EngineConfig { threads: 1, context_length: Some(64), ..EngineConfig::default() };
    let single = engine.clone().for_single_answers();
    let weights = WeightSizes::of(&checkpoint, &config);
    let _ = TokenCost::of(&checkpoint, &config).prompt_operations(u64::MAX);
    for free in [None, Some(0), Some(u64::MAX)] {
        if let Ok(plan) = plan_for(&config, weights, &single, free) {
            let _ = plan.to_string();
        }
    }
    match Engine::load(&checkpoint, engine) {
        Ok(engine) => {
            // Whatever the answer is, or why there is none.
            let outcome = run(&engine, &[1, 2, 3], |request| request.max_tokens = Some(2));
            assert!(outcome.answers.iter().all(|answer| answer.reason.is_some()));
            3
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            2
        }
    }
}

/// Tries each integer of a header with each value at which sizes wrap, and counts how far files came.
fn reached(path: &Path, layout: fn(&[u8]) -> Layout) -> [usize; 4] {
    let file = std::fs::read(path).unwrap();
    let mut reached = [0; 4];
    for field in layout(&file).integers {
        for value in fields::boundary_values(&file, field) {
            let mut changed = file.clone();
            fields::put(&mut changed, field, value);
            let at = format!("{} at {} := {value}", path.display(), field.offset);
            let came = std::panic::catch_unwind(|| use_it(path, changed)).unwrap_or_else(|_| panic!("{at}"));
            reached[came as usize] += 1;
        }
    }
    reached
}

#[test]
fn no_integer_of_a_header_brings_down_who_asks_about_it() {
    for spec in [ModelSpec::llama(), ModelSpec::deepseek_v3()] {
        let model = spec.build().unwrap();
        let gguf = reached(&model.gguf(DType::F16).unwrap(), fields::gguf);
        let safetensors = reached(&model.path().join("model.safetensors"), fields::safetensors);
        eprintln!("refused, undescribed, refused by the engine, answered: {gguf:?} {safetensors:?}");
        // Some numbers say nothing that a model depends on, and others do.
        assert!(gguf[0] > 100 && gguf[2] > 0 && gguf[3] > 0, "{gguf:?}");
        assert!(safetensors[0] > 100, "{safetensors:?}");
    }
}
