//! Models whose weights are not what their description says: an error that names the tensor or the field.

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;

use levain_engine::{Engine, EngineConfig};
use levain_kernels::DType;
use levain_testkit::model::ModelSpec;
use levain_weights::{Checkpoint, SafetensorsWriter, TensorData, convert_to_gguf};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::run;

/// What a test does to a tensor: another name and shape and as many values, or nothing at all.
type Edit<'a> = &'a dyn Fn(&str, &[usize]) -> Option<(String, Vec<usize>)>;

/// A model's folder with its tensors changed.
fn edited(source: &Path, edit: Edit<'_>) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(source.join("config.json"), folder.path().join("config.json")).unwrap();
    let checkpoint = Checkpoint::open(source).unwrap();
    let mut writer = SafetensorsWriter::new();
    for entry in checkpoint.entries() {
        if let Some((name, shape)) = edit(entry.name, entry.shape) {
            let count = shape.iter().product();
            writer.tensor(&name, DType::F32, &shape, TensorData::from_floats(vec![0.25; count]));
        }
    }
    writer.write(&folder.path().join("model.safetensors")).unwrap();
    folder
}

fn refusal(path: &Path) -> String {
    let config = EngineConfig { threads: 1, context_length: Some(64), ..EngineConfig::default() };
    let loaded = Checkpoint::open(path).map_err(Into::into).and_then(|c| Engine::load(&c, config));
    loaded.map(|_| ()).expect_err(&format!("{} is accepted", path.display())).to_string()
}

/// A scale that is no number is found when the weights are packed, or by the first request that needs it; whichever
/// is first, every request ends with the reason and the engine goes on telling it.
#[test]
fn weights_that_are_no_numbers_end_requests_with_the_reason() {
    let source = ModelSpec::llama().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for damaged in ["token_embd.weight", "blk.0.attn_k.weight", "blk.1.ffn_down.weight"] {
        convert_to_gguf(&source.checkpoint().unwrap(), &path, DType::Q8_0).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let at = {
            let checkpoint = Checkpoint::open(&path).unwrap();
            let entry = checkpoint.entries().find(|entry| entry.source_name == damaged).unwrap();
            let tensor = checkpoint.tensor(entry.name).unwrap().bytes;
            bytes.windows(tensor.len()).position(|window| window == tensor).unwrap()
        };
        // The scale of the first block becomes an infinity.
        bytes[at..at + 2].copy_from_slice(&[0x00, 0x7c]);
        fs::write(&path, bytes).unwrap();
        let config = EngineConfig { threads: 2, ..EngineConfig::default() };
        let engine = Engine::load(&Checkpoint::open(&path).unwrap(), config).unwrap();
        let ask = || run(&engine, &[1, 2, 3], |_| {}).answers.remove(0).error();
        let first = ask();
        assert!(first.contains("not a finite number"), "{damaged}: {first}");
        let error = engine.wait_until_packed().unwrap_err().to_string();
        assert!(error.contains("Q8_0") && error.contains("row 0"), "{damaged}: {error}");
        assert_eq!((ask(), ask()), (error.clone(), error), "{damaged}");
    }
}

/// Somebody cuts a model's file while it is in use: the process lives, and nobody is answered by what is left.
#[test]
#[cfg(target_os = "linux")]
fn a_file_that_is_cut_while_in_use_ends_requests_with_the_reason() {
    let source = ModelSpec::llama().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let config = EngineConfig { threads: 2, ..EngineConfig::default() };
    let cut = |part: u64| {
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(file.metadata().unwrap().len() / 4 * part).unwrap();
    };
    let answer = |engine: &Engine| run(engine, &[1, 2, 3], |_| {}).answers.remove(0);
    for part in 0..4 {
        convert_to_gguf(&source.checkpoint().unwrap(), &path, DType::Q8_0).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        cut(part);
        let error = match Engine::load(&checkpoint, config.clone()) {
            Err(error) => error.to_string(),
            Ok(engine) => {
                let first = answer(&engine).error();
                assert_eq!(engine.wait_until_packed().unwrap_err().to_string(), first);
                assert_eq!(answer(&engine).error(), first);
                first
            }
        };
        assert!(error.contains("was cut short") && error.contains("model.gguf"), "{part}: {error}");
    }
    // What has been read is not missed.
    convert_to_gguf(&source.checkpoint().unwrap(), &path, DType::Q8_0).unwrap();
    let engine = Engine::load(&Checkpoint::open(&path).unwrap(), config).unwrap();
    let before = answer(&engine).tokens;
    engine.wait_until_packed().unwrap();
    cut(0);
    assert_eq!(answer(&engine).tokens, before);
}

/// Somebody writes to a model's file while its weights are read: what is read then may be of either model.
#[test]
fn a_file_that_is_changed_while_in_use_ends_requests_with_the_reason() {
    let source = ModelSpec::llama().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let config = EngineConfig { threads: 2, ..EngineConfig::default() };
    let file = || fs::OpenOptions::new().write(true).open(&path).unwrap();
    let opened = || {
        convert_to_gguf(&source.checkpoint().unwrap(), &path, DType::Q8_0).unwrap();
        // Clocks of file systems are coarse; this one was written long ago.
        file().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        Checkpoint::open(&path).unwrap()
    };
    let checkpoint = opened();
    let mut written = file();
    written.seek(SeekFrom::End(-8)).unwrap();
    written.write_all(&[1; 8]).unwrap();
    let error = Engine::load(&checkpoint, config.clone()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("changed while in use") && error.contains("model.gguf"), "{error}");
    // One that is replaced as a whole is still there for those who have it open.
    let checkpoint = opened();
    convert_to_gguf(&source.checkpoint().unwrap(), &path, DType::F16).unwrap();
    let engine = Engine::load(&checkpoint, config).unwrap();
    engine.wait_until_packed().unwrap();
    assert_eq!(run(&engine, &[1, 2, 3], |_| {}).answers[0].tokens.len(), 24);
}

fn specs() -> Vec<ModelSpec> {
    vec![ModelSpec::llama(), ModelSpec::qwen2(), ModelSpec::deepseek_v2(), ModelSpec::deepseek_v3()]
}

#[test]
fn each_missing_tensor_is_named() {
    for spec in specs() {
        let source = spec.build().unwrap();
        let same = edited(source.path(), &|name, shape| Some((name.to_owned(), shape.to_vec())));
        Engine::load(&Checkpoint::open(same.path()).unwrap(), EngineConfig::default()).unwrap();
        for (missing, _) in spec.tensors() {
            let keep =
                |name: &str, shape: &[usize]| (name != missing).then(|| (name.to_owned(), shape.to_vec()));
            let error = refusal(edited(source.path(), &keep).path());
            assert!(error.contains(&missing), "{missing}: {error}");
            let rename = |name: &str, shape: &[usize]| {
                let name = if name == missing { name.replace("weight", "wait") } else { name.to_owned() };
                Some((name, shape.to_vec()))
            };
            if missing.ends_with("weight") {
                let error = refusal(edited(source.path(), &rename).path());
                assert!(error.contains(&missing), "{missing} renamed: {error}");
            }
        }
    }
}

#[test]
fn each_tensor_of_another_shape_is_named() {
    for spec in specs() {
        let source = spec.build().unwrap();
        for (wrong, shape) in spec.tensors() {
            let mut shapes = vec![[&[1], shape.as_slice()].concat()];
            for at in 0..shape.len() {
                for change in [|n: usize| n + 1, |n: usize| n - 1, |n: usize| 2 * n] {
                    let mut other = shape.clone();
                    other[at] = change(other[at]);
                    shapes.push(other);
                }
            }
            if let &[rows, cols] = shape.as_slice()
                && rows != cols
            {
                shapes.push(vec![cols, rows]);
            }
            // One of each kind for all layers and experts; every kind has its own code.
            if wrong.contains(".experts.") && !wrong.contains(".experts.3.") {
                continue;
            }
            for other in shapes {
                let edit = |name: &str, shape: &[usize]| {
                    Some((name.to_owned(), if name == wrong { other.clone() } else { shape.to_vec() }))
                };
                let error = refusal(edited(source.path(), &edit).path());
                assert!(error.contains(&wrong), "{wrong} as {other:?}: {error}");
            }
        }
    }
}

#[test]
fn each_missing_tensor_of_a_gguf_file_is_named() {
    for spec in specs() {
        let model = spec.build().unwrap();
        let path = model.gguf(DType::F16).unwrap();
        let whole = fs::read(&path).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        let names: Vec<(String, String)> =
            checkpoint.entries().map(|e| (e.source_name.to_owned(), e.name.to_owned())).collect();
        for (name, canonical) in names {
            // Under another name of the same length it is missing under its own. The name's length comes first.
            let field = [&(name.len() as u64).to_le_bytes()[..], name.as_bytes()].concat();
            let at = whole.windows(field.len()).position(|bytes| bytes == field).unwrap() + 8;
            let mut bytes = whole.clone();
            bytes[at..at + 3].copy_from_slice(b"xyz");
            let file = path.with_file_name("changed.gguf");
            fs::write(&file, bytes).unwrap();
            // A head that is not there is the embedding.
            if name == "output.weight" {
                continue;
            }
            let error = refusal(&file);
            let kind = match canonical.rsplit('.').nth(1).unwrap() {
                // Without the half that tells the layout the whole is missed.
                "k_b_proj" => "kv_b_proj",
                kind => kind,
            };
            let vocabulary = name == "token_embd.weight" && error.contains("a vocabulary but no weights");
            // Whether there are biases is told by the first; without it the others have no place.
            let biases = name == "blk.0.attn_q.bias" && error.contains("_proj.bias` has no place");
            assert!(vocabulary || biases || error.contains(kind), "{name}: {error}");
        }
    }
}

#[test]
fn files_cut_short_are_refused() {
    for spec in specs() {
        let model = spec.build().unwrap();
        for path in [model.path().join("model.safetensors"), model.gguf(DType::Q8_0).unwrap()] {
            let whole = fs::read(&path).unwrap();
            for len in [1, 7, 8, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
                fs::write(&path, &whole[..len]).unwrap();
                let error = refusal(&path);
                assert!(error.contains(&path.display().to_string()), "{len}: {error}");
            }
            fs::write(&path, &whole).unwrap();
        }
    }
}

/// A description that contradicts the weights is refused before anything large is made for it.
#[test]
fn each_contradicted_field_is_refused() {
    for spec in [ModelSpec::deepseek_v2(), ModelSpec::deepseek_v3()] {
        let model = spec.build().unwrap();
        let file = model.path().join("config.json");
        let base: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        let experts = json!({"n_group": 1, "topk_group": 1});
        let with = |changes: &[(&str, Value)]| {
            let mut config = base.clone();
            for (name, value) in changes {
                config[name] = value.clone();
            }
            config
        };
        let mut cases: Vec<(Value, &str)> = Vec::new();
        for (field, value, words) in [
            ("hidden_size", 68, "shape"),
            ("intermediate_size", 100, "shape"),
            ("moe_intermediate_size", 44, "shape"),
            ("num_hidden_layers", 3, "model.layers.2."),
            ("num_hidden_layers", 4000, "model.layers.2."),
            ("num_attention_heads", 8, "num_key_value_heads: is 4"),
            ("kv_lora_rank", 64, "shape"),
            ("qk_nope_head_dim", 32, "shape"),
            ("qk_rope_head_dim", 16, "shape"),
            ("v_head_dim", 24, "shape"),
            ("vocab_size", 5000, "shape"),
            ("n_shared_experts", 4, "shape"),
            ("n_shared_experts", 16_000, "shape"),
            ("first_k_dense_replace", 0, "model.layers.0.mlp"),
            ("first_k_dense_replace", 2, "model.layers.1.mlp"),
            ("moe_layer_freq", 2, "model.layers.1.mlp"),
        ] {
            cases.push((with(&[(field, value.into())]), words));
        }
        for (count, words) in [(4, "n_routed_experts"), (16, "gate.weight"), (16_384, "gate.weight")] {
            let group = |name: &str| (name.to_owned(), experts[name].clone());
            let (n, k) = (group("n_group"), group("topk_group"));
            let changes = [("n_routed_experts", json!(count)), (n.0.as_str(), n.1), (k.0.as_str(), k.1)];
            cases.push((with(&changes), words));
        }
        cases.push((with(&[("num_hidden_layers", 1.into())]), "`num_hidden_layers` is 1"));
        let heads = [("num_attention_heads", 8.into()), ("num_key_value_heads", 8.into())];
        cases.push((with(&heads), "shape"));
        for none in [json!(0), json!(null)] {
            cases.push((with(&[("n_shared_experts", none)]), "`n_shared_experts` is 0"));
        }
        for (config, words) in cases {
            fs::write(&file, config.to_string()).unwrap();
            let error = refusal(model.path());
            assert!(error.contains(words), "{words}: {error}");
        }
        fs::write(&file, base.to_string()).unwrap();
    }
}
