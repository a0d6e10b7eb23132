//! What must hold for a whole model in one file before any of it is computed with; shared with the fuzz target.

use std::path::Path;

use levain_engine::{EngineConfig, TokenCost, WeightSizes, plan_for};
use levain_local::vocabulary;
use levain_tokenizer::{ChatTemplate, SpecialTokens, Tokenizer};
use levain_weights::Checkpoint;

const FREE_BYTES: u64 = 1 << 30;

/// Opens a GGUF file, plans for the model and reads its vocabulary and template, as `show`, `fit` and `run` begin. Tells
/// whether it could be run as far as that goes.
pub(crate) fn examine(file: &[u8]) -> bool {
    let Ok(checkpoint) = Checkpoint::from_bytes(Path::new("x.gguf"), file.to_vec()) else { return false };
    let _ = checkpoint.generation_defaults();
    let config = checkpoint.config();
    if let Ok(config) = &config {
        let _ = TokenCost::of(&checkpoint, config);
        let engine = EngineConfig { threads: 1, ..EngineConfig::default() };
        match plan_for(config, WeightSizes::of(&checkpoint, config), &engine, Some(FREE_BYTES)) {
            Ok(plan) => assert!(plan.total() <= FREE_BYTES, "{} bytes are planned", plan.total()),
            Err(error) => assert!(error.to_string().len() < 4096, "{error}"),
        }
    }
    match vocabulary(&checkpoint) {
        Ok(vocabulary) => {
            check_tokenizer(&vocabulary.tokenizer);
            config.is_ok()
        }
        Err(error) => {
            assert!(error.to_string().len() < 1 << 16, "{error}");
            false
        }
    }
}

fn check_tokenizer(tokenizer: &Tokenizer) {
    for text in ["", "Hello, wörld!\n\n 12345 <s></s> 你好", "\0\u{FFFD}\u{10FFFF}   \t"] {
        let Ok(ids) = tokenizer.encode_with_special_tokens(text, SpecialTokens::Parse) else { continue };
        assert!(ids.iter().all(|id| *id < tokenizer.vocab_size()));
        assert!(tokenizer.decode(&ids).is_ok());
    }
    if let Some(source) = tokenizer.chat_template_source() {
        let _ = ChatTemplate::new(source, tokenizer.bos_text(), tokenizer.eos_text());
    }
}
