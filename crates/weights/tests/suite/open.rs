//! Finding a checkpoint's files, and sentences for all that is not one.

use std::fs;
use std::path::{Path, PathBuf};

use levain_kernels::DType;
use levain_testkit::model::ModelSpec;
use levain_weights::{
    Checkpoint, GgufWriter, MetadataValue, SafetensorsWriter, StorageType, TensorData, WeightsError,
};
use tempfile::TempDir;

fn message(path: &Path) -> String {
    match Checkpoint::open(path) {
        Ok(_) => panic!("{} opens", path.display()),
        Err(e) => e.to_string(),
    }
}

/// A folder with one file of this content; opening the file must fail with these words.
fn check_file(name: &str, content: &[u8], words: &str) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    let message = message(&path);
    assert!(message.contains(words) && message.contains(name), "{message}");
}

fn check_folder(files: &[(&str, &[u8])], words: &str) {
    let folder = TempDir::new().unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
    let message = message(folder.path());
    assert!(message.contains(words), "{message}");
}

const LFS: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";

#[test]
fn files_of_other_kinds_are_named_with_what_to_do() {
    let pickle = "use the model's .safetensors or .gguf files";
    check_file("pytorch_model.bin", b"PK\x03\x04", pickle);
    check_file("model.pt", b"anything", pickle);
    check_file("model.gguf", b"PK\x03\x04 a zip", pickle);
    check_file("model.safetensors", LFS, "git lfs pull");
    check_file("model.gguf", LFS, "git lfs pull");
    check_file("model.gguf", b"<!DOCTYPE html><html>404", "fetch it again");
    check_file("model.safetensors", b"", "the file is empty");
    check_file("model.gguf", b"GGUF\0\0\0\x03and more", "big-endian");
    check_file("model.gguf", b"GGUF\x01\0\0\0and more", "GGUF version 1;");
    check_file("model.gguf", b"GGUF\x09\0\0\0and more", "GGUF version 9;");
    check_file("model.ggml", b"tjgg\x03\0\0\0", "before GGUF");
    check_file("notes.txt", b"hello", "neither GGUF nor safetensors");
    check_file("model.gguf", b"GGUF\x03\0", "version (at byte 4)");
}

#[test]
fn folders_without_a_model_say_what_they_have() {
    check_folder(&[], "holds no weights");
    check_folder(&[("pytorch_model.bin", b"x"), ("config.json", b"{}")], "(pytorch_model.bin)");
    check_folder(&[("a.gguf", b"x"), ("b.gguf", b"x")], "name one of them: a.gguf, b.gguf");
    check_folder(&[("a.safetensors", b"x"), ("b.safetensors", b"x")], "a.safetensors, b.safetensors");
    assert!(message(Path::new("/nonexistent/model")).starts_with("/nonexistent/model: "));
}

#[test]
fn a_cut_download_says_so() {
    let model = ModelSpec::llama().build().unwrap();
    let gguf = model.gguf(DType::F16).unwrap();
    for path in [model.path().join("model.safetensors"), gguf] {
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let message = message(&path);
        assert!(message.contains("cut short: download it again"), "{message}");
        assert!(message.contains("tensor \""), "{message}");
    }
}

#[test]
fn weights_without_a_description_say_what_is_missing() {
    let model = ModelSpec::llama().build().unwrap();
    fs::remove_file(model.path().join("config.json")).unwrap();
    let checkpoint = Checkpoint::open(&model.path().join("model.safetensors")).unwrap();
    assert!(checkpoint.config().unwrap_err().to_string().contains("no config.json beside the weights"));
}

/// Splits a model into two shards with an index.
fn sharded() -> (TempDir, Vec<String>) {
    let model = ModelSpec::llama().build().unwrap();
    let whole = model.checkpoint().unwrap();
    let folder = TempDir::new().unwrap();
    let names: Vec<String> = whole.tensor_names().map(str::to_owned).collect();
    let mut weight_map = serde_json::Map::new();
    for (number, half) in names.chunks(names.len().div_ceil(2)).enumerate() {
        let file = format!("model-{:05}-of-00002.safetensors", number + 1);
        let mut writer = SafetensorsWriter::new();
        for name in half {
            let view = whole.tensor(name).unwrap();
            writer.tensor(name, view.dtype, &view.shape, TensorData::Bytes(view.bytes.into()));
            weight_map.insert(name.clone(), file.clone().into());
        }
        writer.write(&folder.path().join(file)).unwrap();
    }
    fs::copy(model.path().join("config.json"), folder.path().join("config.json")).unwrap();
    write_index(folder.path(), &weight_map.into());
    for name in &names {
        let ours = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(ours.tensor(name), whole.tensor(name));
    }
    (folder, names)
}

fn write_index(folder: &Path, weight_map: &serde_json::Value) {
    let index = serde_json::json!({ "metadata": {"total_size": 1}, "weight_map": weight_map });
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn shards_are_joined_whichever_is_named() {
    let (folder, names) = sharded();
    for name in ["", "model.safetensors.index.json", "model-00002-of-00002.safetensors"] {
        let checkpoint = Checkpoint::open(&folder.path().join(name)).unwrap();
        assert_eq!(checkpoint.tensor_names().count(), names.len());
        assert_eq!(checkpoint.files().len(), 2);
        checkpoint.config().unwrap();
    }
}

#[test]
fn an_index_that_does_not_fit_its_shards_is_refused() {
    let (folder, names) = sharded();
    let file = "model-00001-of-00002.safetensors";
    let check = |weight_map: serde_json::Value, words: &str| {
        write_index(folder.path(), &weight_map);
        let message = message(folder.path());
        assert!(message.contains(words), "{message}");
    };
    check(serde_json::json!({ "no.such": file }), "but it is not there");
    check(serde_json::json!({ names.last().unwrap().as_str(): file }), "but it is not there");
    for evil in ["../evil.safetensors", "/etc/passwd", "a/b", "", "..", "c:\\x", "a\0b"] {
        check(serde_json::json!({ "x": evil }), "not a plain file name");
    }
    let words = "model-00009-of-00002.safetensors: this part of the checkpoint is missing";
    check(serde_json::json!({ "x": "model-00009-of-00002.safetensors" }), words);
    check(serde_json::json!({ "x": 3 }), "is not a text");
    check(serde_json::json!([]), "weight_map");
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let (folder, names) = sharded();
    let (first, second) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    fs::copy(folder.path().join(first), folder.path().join(second)).unwrap();
    let map = serde_json::json!({ names[0].as_str(): first, names[1].as_str(): second });
    write_index(folder.path(), &map);
    assert!(message(folder.path()).contains("the name appears twice"));
}

/// Writes a GGUF model in parts.
fn split(count: u16, claimed: u16) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = |part: u16| folder.path().join(format!("tiny-{:05}-of-{count:05}.gguf", part + 1));
    for part in 0..count {
        let mut writer = GgufWriter::new("llama");
        writer.set("split.no", MetadataValue::U16(part));
        writer.set("split.count", MetadataValue::U16(claimed));
        writer.set("split.tensors.count", MetadataValue::I32(count.into()));
        let name = format!("blk.{part}.attn_q.weight");
        writer.tensor(&name, DType::F32, &[2, 3], TensorData::from_floats(vec![f32::from(part); 6]));
        writer.write(&path(part)).unwrap();
    }
    let first = path(0);
    (folder, first)
}

#[test]
fn parts_of_a_split_gguf_are_joined_whichever_is_named() {
    let (folder, first) = split(3, 3);
    for path in [folder.path().to_owned(), first, folder.path().join("tiny-00003-of-00003.gguf")] {
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!(checkpoint.files().len(), 3);
        let view = checkpoint.require("model.layers.2.self_attn.q_proj.weight", &[2, 3]).unwrap();
        assert_eq!(view.bytes[..4], 2f32.to_le_bytes());
    }
}

#[test]
fn a_split_gguf_with_a_part_missing_or_foreign_is_refused() {
    let (folder, first) = split(3, 3);
    fs::remove_file(folder.path().join("tiny-00002-of-00003.gguf")).unwrap();
    assert!(message(&first).contains("tiny-00002-of-00003.gguf: this part of the checkpoint is missing"));
    fs::copy(&first, folder.path().join("tiny-00002-of-00003.gguf")).unwrap();
    assert!(message(&first).contains("do not belong together"));
    let (_folder, first) = split(2, 3);
    assert!(message(&first).contains("do not belong together"));
}

#[test]
fn a_type_that_cant_be_computed_is_named_when_it_is_used() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    let mut writer = GgufWriter::new("llama");
    writer.tensor("blk.0.attn_q.weight", DType::F32, &[2, 3], TensorData::from_floats(vec![0.0; 6]));
    writer.write(&path).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    // The type follows the name, the number of dimensions and two dimensions. I32 has F32's size.
    let name = b"blk.0.attn_q.weight";
    let at = bytes.windows(name.len()).position(|w| w == name).unwrap() + name.len() + 4 + 16;
    bytes[at] = 26;
    fs::write(&path, bytes).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let name = "model.layers.0.self_attn.q_proj.weight";
    assert!(checkpoint.contains(name));
    assert!(checkpoint.tensor(name).is_none());
    assert_eq!(checkpoint.entries().next().unwrap().storage.name(), "I32");
    let error = checkpoint.require(name, &[2, 3]).unwrap_err();
    assert!(matches!(&error, WeightsError::UnsupportedType { .. }));
    let words = "tensor blk.0.attn_q.weight has type I32, which Levain can't compute yet";
    assert!(error.to_string().contains(words), "{error}");
    let error = checkpoint.optional(name, &[3, 2]).unwrap_err().to_string();
    assert!(error.contains("shape [2, 3]") && error.contains("says [3, 2]"), "{error}");
    let error = checkpoint.require("lm_head.weight", &[1]).unwrap_err().to_string();
    assert!(error.contains("lm_head.weight is missing"), "{error}");
}

#[test]
fn every_type_of_ggml_has_a_name_and_a_size() {
    let known = [0u32, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25]
        .into_iter()
        .chain([26, 27, 28, 29, 30, 34, 35, 39, 40, 41]);
    for id in known {
        assert!(StorageType::from_ggml(id).is_some(), "type {id}");
    }
    // Withdrawn types and those that never were.
    for id in [4, 5, 31, 32, 33, 36, 37, 38, 42, 99, u32::MAX] {
        assert_eq!(StorageType::from_ggml(id), None, "type {id}");
    }
}

#[test]
fn released_tensors_can_still_be_read() {
    let model = ModelSpec::llama().build().unwrap();
    let checkpoint = model.checkpoint().unwrap();
    let name = "model.embed_tokens.weight";
    let before = checkpoint.tensor(name).unwrap().bytes.to_vec();
    checkpoint.release(name).unwrap();
    checkpoint.will_need(name).unwrap();
    checkpoint.release("no.such").unwrap();
    assert_eq!(checkpoint.tensor(name).unwrap().bytes, before);
}

#[test]
fn single_experts_are_found_in_stacked_and_fused_tensors() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    let mut writer = GgufWriter::new("deepseek2");
    let values = |n: usize| TensorData::from_floats((0..n).map(|i| i as f32).collect());
    writer.tensor("blk.1.ffn_down_exps.weight", DType::F32, &[3, 2, 4], values(24));
    writer.tensor("blk.1.ffn_gate_up_exps.weight", DType::F32, &[3, 4, 2], values(24));
    writer.write(&path).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let first = |name: &str, shape: &[usize]| {
        let name = format!("model.layers.1.mlp.experts.{name}.weight");
        let view = checkpoint.require(&name, shape).unwrap();
        f32::from_le_bytes(view.bytes[..4].try_into().unwrap())
    };
    assert_eq!(first("2.down_proj", &[2, 4]), 16.0);
    assert_eq!(first("1.gate_proj", &[2, 2]), 8.0);
    assert_eq!(first("1.up_proj", &[2, 2]), 12.0);
    for name in ["3.down_proj", "-1.down_proj", "x.up_proj", "99999999999999999999.up_proj", "1.other"] {
        assert!(!checkpoint.contains(&format!("model.layers.1.mlp.experts.{name}.weight")), "{name}");
    }
}

/// Bytes of mapped files that are in this process's memory now.
#[cfg(target_os = "linux")]
fn resident_file_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssFile:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
#[cfg(target_os = "linux")]
fn released_tensors_leave_memory() {
    use levain_kernels::StoredWeights;

    const LEN: usize = 32 << 20;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut writer = SafetensorsWriter::new();
    writer.tensor("t", DType::F8E4M3, &[LEN], TensorData::Bytes(vec![1; LEN].into()));
    writer.write(&path).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let before = resident_file_bytes();
    let sum = |bytes: &[u8]| bytes.iter().map(|&b| u64::from(b)).sum::<u64>();
    assert_eq!(sum(checkpoint.tensor("t").unwrap().bytes), LEN as u64);
    assert!(resident_file_bytes() >= before + LEN as u64 / 2, "the pages come in as they are read");
    checkpoint.release("t").unwrap();
    assert!(resident_file_bytes() <= before + LEN as u64 / 8, "and go when the tensor is released");
    let stored = checkpoint.stored("t", &[LEN]).unwrap();
    drop(checkpoint);
    assert_eq!(sum(stored.bytes()), LEN as u64, "a tensor's bytes outlive the checkpoint");
    stored.let_go(0..LEN / 2);
    assert!(resident_file_bytes() <= before + LEN as u64 * 5 / 8, "half of them go when half is let go");
    stored.let_go(LEN / 2..usize::MAX);
    stored.let_go(usize::MAX - 1..usize::MAX);
    assert!(resident_file_bytes() <= before + LEN as u64 / 8, "and the others with the rest");
    assert_eq!(sum(stored.bytes()), LEN as u64);
}

/// The same weights under other names.
fn renamed(spec: &ModelSpec, name: impl Fn(&str) -> Option<String>) -> TempDir {
    let model = spec.build().unwrap();
    let whole = model.checkpoint().unwrap();
    let folder = TempDir::new().unwrap();
    let mut writer = SafetensorsWriter::new();
    for old in whole.tensor_names() {
        let Some(new) = name(old) else { continue };
        let view = whole.tensor(old).unwrap();
        writer.tensor(&new, view.dtype, &view.shape, TensorData::Bytes(view.bytes.into()));
    }
    writer.write(&folder.path().join("model.safetensors")).unwrap();
    fs::copy(model.path().join("config.json"), folder.path().join("config.json")).unwrap();
    folder
}

#[test]
fn tensors_are_found_whatever_precedes_their_names() {
    for spec in [ModelSpec::llama(), ModelSpec::qwen2(), ModelSpec::deepseek_v3()] {
        for prefix in ["", "language_model.model.", "model.language_model.", "transformer.", "module.model."]
        {
            let folder = renamed(&spec, |name| {
                Some(match name.strip_prefix("model.") {
                    Some(rest) => format!("{prefix}{rest}"),
                    None if prefix == "language_model.model." => format!("language_model.{name}"),
                    None => name.to_owned(),
                })
            });
            let checkpoint = Checkpoint::open(folder.path()).unwrap();
            for (name, shape) in spec.tensors() {
                checkpoint.require(&name, &shape).unwrap_or_else(|error| panic!("{prefix}: {error}"));
            }
        }
    }
}

#[test]
fn a_tied_embedding_is_found_under_either_name() {
    let spec = ModelSpec::qwen2();
    let head = |name: &str| Some(name.replace("model.embed_tokens.", "lm_head."));
    let folder = renamed(&spec, head);
    let shape = [spec.vocab_size, spec.hidden_size];
    Checkpoint::open(folder.path()).unwrap().require("model.embed_tokens.weight", &shape).unwrap();
    // Where they are two tensors one can't stand for the other.
    let without = |name: &str| (name != "model.embed_tokens.weight").then(|| name.to_owned());
    let folder = renamed(&ModelSpec::llama(), without);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let error = checkpoint.require("model.embed_tokens.weight", &shape).unwrap_err().to_string();
    assert!(error.contains("model.embed_tokens.weight is missing"), "{error}");
}

#[test]
fn shards_without_an_index_are_joined() {
    let (folder, names) = sharded();
    fs::remove_file(folder.path().join("model.safetensors.index.json")).unwrap();
    fs::write(folder.path().join("consolidated.safetensors"), "").unwrap();
    for name in ["", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
        let checkpoint = Checkpoint::open(&folder.path().join(name)).unwrap();
        assert_eq!((checkpoint.tensor_names().count(), checkpoint.files().len()), (names.len(), 2));
        checkpoint.config().unwrap();
    }
    fs::remove_file(folder.path().join("model-00002-of-00002.safetensors")).unwrap();
    let missing = "model-00002-of-00002.safetensors: this part of the checkpoint is missing";
    assert!(message(folder.path()).contains(missing));
    assert!(message(&folder.path().join("model-00001-of-00002.safetensors")).contains(missing));
}

#[test]
fn a_whole_file_goes_before_an_index_and_any_index_will_do() {
    let (folder, names) = sharded();
    let index = folder.path().join("model.safetensors.index.json");
    fs::rename(&index, folder.path().join("x.safetensors.index.json")).unwrap();
    assert_eq!(Checkpoint::open(folder.path()).unwrap().tensor_names().count(), names.len());
    let whole = ModelSpec::llama().build().unwrap();
    fs::copy(whole.path().join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    assert_eq!(Checkpoint::open(folder.path()).unwrap().files().len(), 1);
}

#[test]
fn an_adapter_is_told_from_a_model() {
    check_folder(&[("adapter_model.safetensors", b"x"), ("adapter_config.json", b"{}")], "merge_and_unload");
}
