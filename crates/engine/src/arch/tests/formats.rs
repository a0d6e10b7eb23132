//! Models in the forms in which they are published, resident and with experts from the disk.

use levain_kernels::{DType, dequantize_row, quantize_row};
use levain_testkit::model::ModelSpec;
use levain_weights::{
    Checkpoint, GgufWriter, MetadataValue, SafetensorsWriter, TensorData, TensorEntry, Value,
};
use tempfile::TempDir;

use super::*;

/// A V3 none of whose dimensions is a multiple of 128, some below and some above.
fn ragged() -> ModelSpec {
    ModelSpec { hidden_size: 200, intermediate_size: 300, num_hidden_layers: 3, ..ModelSpec::deepseek_v3() }
}

fn values(checkpoint: &Checkpoint, entry: &TensorEntry<'_>) -> Vec<f32> {
    let tensor = checkpoint.tensor(entry.name).unwrap();
    let mut values = vec![0.0; entry.shape.iter().product()];
    dequantize_row(tensor.dtype, tensor.bytes, &mut values).unwrap();
    values
}

/// Matrices that DeepSeek publishes in 8 bits.
fn is_f8(name: &str, shape: &[usize]) -> bool {
    let kept = ["embed_tokens", "lm_head", "mlp.gate."].iter().any(|kept| name.contains(kept));
    shape.len() == 2 && !kept
}

/// The model with FP8 weights and scales, and the same numbers as F32.
fn in_eight_bits(spec: &ModelSpec) -> [TempDir; 2] {
    let source = spec.build().unwrap();
    let checkpoint = source.checkpoint().unwrap();
    let (mut small, mut large) = (SafetensorsWriter::new(), SafetensorsWriter::new());
    for entry in checkpoint.entries() {
        let mut values = values(&checkpoint, &entry);
        let &[rows, cols] = entry.shape else {
            small.tensor(entry.name, DType::F32, entry.shape, TensorData::from_floats(values.clone()));
            large.tensor(entry.name, DType::F32, entry.shape, TensorData::from_floats(values));
            continue;
        };
        if !is_f8(entry.name, entry.shape) {
            small.tensor(entry.name, DType::F32, entry.shape, TensorData::from_floats(values.clone()));
            large.tensor(entry.name, DType::F32, entry.shape, TensorData::from_floats(values));
            continue;
        }
        let across = cols.div_ceil(128);
        let block = |index: usize| index / cols / 128 * across + index % cols / 128;
        let mut scales = vec![0.0_f32; rows.div_ceil(128) * across];
        for (index, value) in values.iter().enumerate() {
            scales[block(index)] = scales[block(index)].max(value.abs() / 448.0);
        }
        values.iter_mut().enumerate().for_each(|(index, value)| *value /= scales[block(index)]);
        let mut bytes = vec![0; values.len()];
        quantize_row(DType::F8E4M3, &values, &mut bytes).unwrap();
        dequantize_row(DType::F8E4M3, &bytes, &mut values).unwrap();
        values.iter_mut().enumerate().for_each(|(index, value)| *value *= scales[block(index)]);
        small.tensor(entry.name, DType::F8E4M3, entry.shape, TensorData::Bytes(bytes.into()));
        let shape = [rows.div_ceil(128), across];
        let name = format!("{}_scale_inv", entry.name);
        small.tensor(&name, DType::F32, &shape, TensorData::from_floats(scales));
        large.tensor(entry.name, DType::F32, entry.shape, TensorData::from_floats(values));
    }
    [small, large].map(|writer| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(source.path().join("config.json"), folder.path().join("config.json")).unwrap();
        writer.write(&folder.path().join("model.safetensors")).unwrap();
        folder
    })
}

fn text(len: u32) -> Vec<u32> {
    (0..len).map(|i| 3 + i * 37 % 200).collect()
}

fn config() -> EngineConfig {
    EngineConfig {
        threads: 2,
        context_length: Some(96),
        expanded_prompts: ExpandedPrompts::From(0),
        ..EngineConfig::default()
    }
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Under caps from next to nothing to everything, token by token, in chunks and all at once.
fn check_streamed(path: &Path, text: &[u32]) {
    let resident = Run::new(path, &config()).in_chunks(text, text.len());
    for (bytes, chunk) in [(0, 1), (60_000, 3), (200_000, 1), (200_000, text.len()), (400_000, 7)] {
        let mut run = Run::with_experts(path, &config(), Some(bytes));
        for pass in 0..2 {
            let logits = run.in_chunks(text, chunk);
            assert!(same_bits(&resident, &logits), "{}: {bytes}, {chunk}, {pass}", path.display());
        }
        let stats = run.model.expert_stats().unwrap();
        assert!(stats.misses > 0 && stats.resident_bytes <= bytes.max(100_000), "{stats:?}");
        assert!(stats.bytes_in_vain < stats.bytes_read && !stats.reading.is_zero(), "{stats:?}");
    }
}

#[test]
fn eight_bit_weights_count_as_their_values_in_both_forms_of_attention() {
    let [small, large] = in_eight_bits(&ragged());
    let text = text(61);
    let logits = |folder: &TempDir, chunk, expanded| {
        let mut run = Run::new(folder.path(), &config());
        run.expanded = 0..expanded;
        run.in_chunks(&text, chunk)
    };
    let reference = logits(&large, text.len(), 0);
    for expanded in [0, 20, 96] {
        let whole = logits(&small, text.len(), expanded);
        let difference = largest_difference(&whole, &reference);
        assert!(difference < 2e-3, "expanded to {expanded}: {difference}");
        for chunk in [1, 7, 32] {
            assert!(same_bits(&whole, &logits(&small, chunk, expanded)), "{expanded}, chunks of {chunk}");
        }
    }
    // The scales of each block count.
    assert!(reference.iter().any(|logit| logit.abs() > 0.5));
}

#[test]
fn eight_bit_experts_from_the_disk_give_the_same_logits() {
    let [small, _] = in_eight_bits(&ragged());
    check_streamed(small.path(), &text(45));
}

/// A split GGUF whose layers hold their experts in different formats, as mixed quantisations do.
#[test]
fn experts_of_mixed_formats_in_parts_of_a_file_give_the_same_logits() {
    let folder = tempfile::tempdir().unwrap();
    let spec = ModelSpec { num_hidden_layers: 4, hidden_size: 256, ..ModelSpec::deepseek_v2() };
    let model = spec.build().unwrap();
    let whole = Checkpoint::open(&model.gguf(DType::F32).unwrap()).unwrap();
    let meta = whole.metadata().unwrap();
    let name = |part: u16| folder.path().join(format!("mixed-{part:05}-of-00003.gguf"));
    let layer = |name: &str| name.strip_prefix("blk.")?.split('.').next()?.parse::<u16>().ok();
    for part in 0..3 {
        let mut writer = GgufWriter::new("deepseek2");
        for key in meta.keys().filter(|key| part == 0 && *key != "general.architecture") {
            let value = match meta.get(key).unwrap() {
                Value::Unsigned(n) => MetadataValue::U64(n),
                Value::Signed(n) => MetadataValue::I64(n),
                Value::Float(x) => MetadataValue::F64(x),
                Value::Bool(flag) => MetadataValue::Bool(flag),
                Value::String(text) => MetadataValue::String(text.to_owned()),
                // The tokenizer's lists.
                _ => continue,
            };
            writer.set(key, value);
        }
        writer.set("split.no", MetadataValue::U16(part));
        writer.set("split.count", MetadataValue::U16(3));
        writer.set("split.tensors.count", MetadataValue::I32(whole.entries().count() as i32));
        for entry in whole.entries() {
            let at = layer(entry.source_name);
            if at.map_or(0, |layer| layer % 3) != part {
                continue;
            }
            let dtype = match (entry.source_name.contains("_exps."), at) {
                (true, Some(1)) if !entry.source_name.contains("down") => DType::Q4_K,
                (true, Some(2)) if !entry.source_name.contains("down") => DType::Q6_K,
                (true, _) => DType::F16,
                _ => DType::F32,
            };
            let values = TensorData::from_floats(values(&whole, &entry));
            writer.tensor(entry.source_name, dtype, entry.shape, values);
        }
        writer.write(&name(part + 1)).unwrap();
    }
    check_streamed(&name(2), &text(45));
}
