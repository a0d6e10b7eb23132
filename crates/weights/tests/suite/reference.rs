//! Real files, where they are at hand: the folder `shared` beside the repository, or the one that
//! `LEVAIN_SHARED` names.

use std::path::{Path, PathBuf};

use levain_weights::{Checkpoint, Format, ModelType};

fn shared(path: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("LEVAIN_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let path = folder.join(path);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is not there", path.display());
    None
}

#[test]
fn reference_models_open() {
    let models = [
        ("llama-3.1", Some(ModelType::Llama), 30),
        ("qwen2.5", Some(ModelType::Qwen2), 38),
        ("deepseek-v2-lite", Some(ModelType::DeepseekV2), 83),
        ("deepseek-v3", Some(ModelType::DeepseekV3), 269),
        ("deepseek-v3-fp8", Some(ModelType::DeepseekV3), 93),
        // Its part for text.
        ("janus-pro", Some(ModelType::Llama), 322),
    ];
    for (name, model_type, tensors) in models {
        let Some(path) = shared(&format!("fixtures/reference/{name}")) else { return };
        // The folder holds expected outputs as safetensors too: the model is the one called so.
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!(checkpoint.format(), Format::Safetensors);
        assert_eq!(checkpoint.config().ok().map(|config| config.model_type), model_type, "{name}");
        if model_type.is_some() {
            assert_eq!(checkpoint.tensor_names().count(), tensors, "{name}");
        }
        for tensor in checkpoint.tensor_names() {
            assert!(checkpoint.tensor(tensor).is_some(), "{name}: {tensor}");
        }
    }
}

#[test]
fn vocabularies_open_without_weights() {
    for (name, tokens, merges) in
        [("llama-bpe", 128_256, 280_147), ("qwen2", 151_936, 151_387), ("deepseek-llm", 102_400, 99_757)]
    {
        let Some(path) = shared(&format!("fixtures/tokenizers/ggml-vocab-{name}.gguf")) else { return };
        let checkpoint = Checkpoint::open(&path).unwrap();
        let meta = checkpoint.metadata().unwrap();
        let list = meta.strings("tokenizer.ggml.tokens").unwrap().unwrap();
        assert_eq!(list.len(), tokens);
        assert_eq!(meta.strings("tokenizer.ggml.merges").unwrap().unwrap().len(), merges);
        assert_eq!(meta.integers("tokenizer.ggml.token_type").unwrap().unwrap().len(), tokens);
        let error = checkpoint.config().unwrap_err().to_string();
        assert!(error.contains("a vocabulary but no weights"), "{error}");
    }
}
