//! The fuzz targets' corpora, replayed.

use std::fs;
use std::path::{Path, PathBuf};

use levain_weights::{Checkpoint, GenerationDefaults, ModelConfig};

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Files whose names say that they are sound open; the rest may do as they like, short of panicking.
fn replay(target: &str, extension: &str, sound: &[&str]) {
    let files = corpus(target);
    for name in sound {
        assert!(files.iter().any(|(path, _)| path.ends_with(name)), "{name} is not in the corpus");
    }
    for (path, bytes) in files {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let opened = Checkpoint::from_bytes(&path.with_extension(extension), bytes);
        if let Ok(checkpoint) = &opened {
            let _ = (checkpoint.config(), checkpoint.generation_defaults());
            assert!(checkpoint.tensor_names().all(|tensor| checkpoint.contains(tensor)));
        }
        if sound.contains(&name.as_str()) {
            opened.unwrap();
        }
    }
}

#[test]
fn gguf_header() {
    let sound = ["llama.gguf", "llama-v2.gguf", "deepseek2.gguf", "every-type.gguf", "no-tensors.gguf"];
    replay("gguf_header", "gguf", &sound);
}

#[test]
fn safetensors_header() {
    replay(
        "safetensors_header",
        "safetensors",
        &["plain.safetensors", "empty.safetensors", "fp8.safetensors"],
    );
}

#[test]
fn config_json() {
    let sound = ["llama-3.1.json", "qwen2.5.json", "deepseek-v3.json", "rope-parameters.json"];
    for (path, bytes) in corpus("config_json") {
        let config = ModelConfig::from_json(&path, &bytes);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(config.is_ok() || !sound.contains(&name.as_str()), "{config:?}");
        let _ = GenerationDefaults::from_json(&path, &bytes);
    }
}

#[test]
fn files_of_the_gguf_package_hold_what_it_wrote() {
    let bytes =
        |name: &str| corpus("gguf_header").into_iter().find(|(path, _)| path.ends_with(name)).unwrap().1;
    let checkpoint = Checkpoint::from_bytes(Path::new("x.gguf"), bytes("llama-v2.gguf")).unwrap();
    assert_eq!(checkpoint.metadata().unwrap().version(), 2);
    let view = checkpoint.require("model.embed_tokens.weight", &[8, 32]).unwrap();
    assert_eq!(view.bytes[255 * 4..], 255f32.to_le_bytes());
    let config = checkpoint.config().unwrap();
    assert_eq!((config.vocab_size, config.eos_token_ids), (8, vec![2]));
    let checkpoint = Checkpoint::from_bytes(Path::new("x.gguf"), bytes("deepseek2.gguf")).unwrap();
    let config = checkpoint.config().unwrap();
    assert_eq!(config.mla.unwrap().qk_nope_head_dim, 16);
    let expert = checkpoint.require("model.layers.0.mlp.experts.3.up_proj.weight", &[8, 32]).unwrap();
    assert_eq!(expert.bytes.len(), 512);
    let checkpoint = Checkpoint::from_bytes(Path::new("x.gguf"), bytes("every-type.gguf")).unwrap();
    let meta = checkpoint.metadata().unwrap();
    assert_eq!(meta.unsigned("a.u64").unwrap(), Some(1 << 63));
    assert_eq!(meta.string("a.s").unwrap(), Some("grüße"));
    assert_eq!(meta.array("a.arr").unwrap().unwrap().len(), 2);
}
