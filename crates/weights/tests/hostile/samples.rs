//! Small valid files to start from.

use std::path::{Path, PathBuf};

use levain_kernels::DType;
use levain_testkit::model::ModelSpec;
use levain_weights::{GgufWriter, MetadataValue, SafetensorsWriter, TensorData};
use serde_json::json;

pub(crate) struct Sample {
    /// Tells the format.
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
}

fn tiny(spec: ModelSpec) -> ModelSpec {
    ModelSpec { hidden_size: 32, head_dim: 8, intermediate_size: 32, num_hidden_layers: 2, ..spec }
}

/// A llama with vocabulary and rope factors, a DeepSeek with experts, and one with metadata of every type.
pub(crate) fn gguf() -> Vec<Sample> {
    let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
    let llama = ModelSpec { rope_scaling: Some(scaling), ..tiny(ModelSpec::llama()) };
    let deepseek = ModelSpec { num_nextn_predict_layers: 1, ..tiny(ModelSpec::deepseek_v3()) };
    let mut samples: Vec<Sample> = [(llama, DType::Q8_0), (deepseek, DType::F16)]
        .into_iter()
        .map(|(spec, dtype)| {
            let model = spec.build().unwrap();
            let bytes = std::fs::read(model.gguf(dtype).unwrap()).unwrap();
            Sample { path: PathBuf::from("sample.gguf"), bytes }
        })
        .collect();
    samples.push(Sample { path: PathBuf::from("sample.gguf"), bytes: every_type() });
    samples
}

pub(crate) fn safetensors() -> Vec<Sample> {
    let path = || PathBuf::from("sample.safetensors");
    let read = |spec: ModelSpec| {
        let model = tiny(spec).build().unwrap();
        std::fs::read(model.path().join("model.safetensors")).unwrap()
    };
    vec![
        Sample { path: path(), bytes: read(ModelSpec::llama()) },
        Sample { path: path(), bytes: read(ModelSpec::deepseek_v2()) },
        Sample { path: path(), bytes: every_shape() },
    ]
}

fn every_type() -> Vec<u8> {
    let mut w = GgufWriter::new("qwen2");
    w.set("general.alignment", 64u32);
    w.set("a.u8", MetadataValue::U8(200));
    w.set("a.i8", MetadataValue::I8(-3));
    w.set("a.u16", MetadataValue::U16(60_000));
    w.set("a.i16", MetadataValue::I16(-30_000));
    w.set("a.i32", MetadataValue::I32(-5));
    w.set("a.u64", MetadataValue::U64(u64::MAX));
    w.set("a.i64", MetadataValue::I64(i64::MIN));
    w.set("a.f64", MetadataValue::F64(f64::NAN));
    w.set("a.bool", true);
    w.set("a.text", "grüße");
    let inner = MetadataValue::Strings(vec!["x".to_owned(), String::new()]);
    let middle = MetadataValue::Arrays(vec![inner, MetadataValue::I32s(vec![1, 2, 3])]);
    w.set("a.nested", MetadataValue::Arrays(vec![middle.clone(), middle]));
    w.set("a.floats", MetadataValue::F32s(vec![0.5, f32::INFINITY]));
    for (key, value) in [("block_count", 1u32), ("context_length", 64), ("embedding_length", 32)] {
        w.set(&format!("qwen2.{key}"), value);
    }
    for (key, value) in [("feed_forward_length", 32u32), ("attention.head_count", 4)] {
        w.set(&format!("qwen2.{key}"), value);
    }
    w.set("qwen2.attention.layer_norm_rms_epsilon", 1e-6f32);
    w.set("qwen2.rope.scaling.type", "yarn");
    w.set("qwen2.rope.scaling.factor", 4.0f32);
    w.tensor("token_embd.weight", DType::Q4_0, &[64, 32], TensorData::from_floats(vec![0.1; 64 * 32]));
    for (i, dtype) in DType::ALL.into_iter().enumerate() {
        if dtype.ggml_id().is_some() {
            let zeros = vec![0; 2 * dtype.row_bytes(256).unwrap()];
            w.tensor(&format!("odd.{i}"), dtype, &[2, 1, 256], TensorData::Bytes(zeros.into()));
        }
    }
    let mut out = Vec::new();
    w.write_to(Path::new("sample.gguf"), &mut out).unwrap();
    out
}

fn every_shape() -> Vec<u8> {
    let mut w = SafetensorsWriter::new();
    w.set("format", "pt");
    w.set("note", "a \"quoted\" text");
    let shapes: [&[usize]; 5] = [&[], &[3], &[2, 3], &[2, 1, 2, 2], &[0, 4]];
    for (i, shape) in shapes.into_iter().enumerate() {
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::F8E4M3] {
            let bytes = vec![1; shape.iter().product::<usize>() * dtype.block_bytes()];
            w.tensor(&format!("t{i}.{}", dtype.name()), dtype, shape, TensorData::Bytes(bytes.into()));
        }
    }
    let mut out = Vec::new();
    w.write_to(Path::new("sample.safetensors"), &mut out).unwrap();
    out
}
