//! Safetensors to GGUF: values, order of rows, and the vocabulary.

use std::fs;

use levain_kernels::{DType, dequantize_row, f8e4m3_to_f32};
use levain_testkit::model::{ModelSpec, TinyModel};
use levain_weights::{
    Checkpoint, GgufOptions, MlaLayout, SafetensorsWriter, TensorData, TensorView, convert_to_gguf_with,
};
use serde_json::{Value, json};

fn floats(view: &TensorView<'_>) -> Vec<f32> {
    let mut out = vec![0.0; view.shape.iter().product()];
    dequantize_row(view.dtype, view.bytes, &mut out).unwrap();
    out
}

fn tensor(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    floats(&checkpoint.tensor(name).unwrap_or_else(|| panic!("no {name}")))
}

fn gguf(model: &TinyModel, mla: MlaLayout) -> Checkpoint {
    let path = model.path().join("out.gguf");
    let options = GgufOptions { dtype: DType::F32, mla, pre_tokenizer: None };
    convert_to_gguf_with(&model.checkpoint().unwrap(), &path, &options).unwrap();
    Checkpoint::open(&path).unwrap()
}

#[test]
fn llama_queries_and_keys_are_interleaved_and_nothing_else() {
    let model = ModelSpec::llama().build().unwrap();
    let (ours, theirs) = (model.checkpoint().unwrap(), gguf(&model, MlaLayout::Split));
    for (name, shape) in ModelSpec::llama().tensors() {
        let (a, b) = (tensor(&ours, &name), tensor(&theirs, &name));
        if name.contains("q_proj") || name.contains("k_proj") {
            let (columns, d) = (shape[1], 16);
            for row in 0..shape[0] {
                let (head, i) = (row / d, row % d);
                let to = head * d + 2 * (i % (d / 2)) + i / (d / 2);
                assert_eq!(a[row * columns..][..columns], b[to * columns..][..columns], "{name} row {row}");
            }
        } else {
            assert_eq!(a, b, "{name}");
        }
    }
}

#[test]
fn qwen2_and_deepseek_keep_their_order() {
    for spec in [ModelSpec::qwen2(), ModelSpec::deepseek_v2(), ModelSpec::deepseek_v3()] {
        let model = spec.build().unwrap();
        let (ours, theirs) = (model.checkpoint().unwrap(), gguf(&model, MlaLayout::Combined));
        for (name, shape) in spec.tensors() {
            let view = theirs.require(&name, &shape).unwrap();
            assert_eq!(floats(&view), tensor(&ours, &name), "{name}");
        }
    }
}

#[test]
fn split_latent_projections_hold_the_combined_one() {
    let spec = ModelSpec::deepseek_v3();
    let model = spec.build().unwrap();
    let (ours, theirs) = (model.checkpoint().unwrap(), gguf(&model, MlaLayout::Split));
    let config = ours.config().unwrap();
    assert_eq!(theirs.config().unwrap().mla, config.mla);
    let mla = config.mla.unwrap();
    let (heads, nope, v, rank) =
        (config.num_attention_heads, mla.qk_nope_head_dim, mla.v_head_dim, mla.kv_lora_rank);
    let prefix = "model.layers.1.self_attn";
    let both = tensor(&ours, &format!("{prefix}.kv_b_proj.weight"));
    let keys = theirs.require(&format!("{prefix}.k_b_proj.weight"), &[heads, rank, nope]).unwrap();
    let values = theirs.require(&format!("{prefix}.v_b_proj.weight"), &[heads, v, rank]).unwrap();
    let (keys, values) = (floats(&keys), floats(&values));
    for head in 0..heads {
        for latent in 0..rank {
            let of_row = |row: usize| both[(head * (nope + v) + row) * rank + latent];
            for i in 0..nope {
                assert_eq!(keys[(head * rank + latent) * nope + i], of_row(i));
            }
            for i in 0..v {
                assert_eq!(values[(head * v + i) * rank + latent], of_row(nope + i));
            }
        }
    }
    assert!(!theirs.contains(&format!("{prefix}.kv_b_proj.weight")));
}

#[test]
fn fp8_weights_are_multiplied_by_their_blocks_scales() {
    let mut spec = ModelSpec::deepseek_v3();
    (spec.num_hidden_layers, spec.hidden_size, spec.intermediate_size) = (1, 320, 288);
    let model = spec.build().unwrap();
    let name = "model.layers.0.mlp.down_proj.weight";
    // Blocks of 128 x 128 leave ragged edges on both sides of [320, 288].
    let bytes: Vec<u8> =
        (0..320 * 288u32).map(|i| (i % 0x7f) as u8 | if i % 3 == 0 { 0x80 } else { 0 }).collect();
    let scales: Vec<f32> = (0..9u8).map(|i| 0.25 + f32::from(i)).collect();
    let whole = model.checkpoint().unwrap();
    let mut writer = SafetensorsWriter::new();
    for other in whole.tensor_names().filter(|other| *other != name) {
        let view = whole.tensor(other).unwrap();
        writer.tensor(other, view.dtype, &view.shape, TensorData::Bytes(view.bytes.to_vec().into()));
    }
    writer.tensor(name, DType::F8E4M3, &[320, 288], TensorData::Bytes(bytes.clone().into()));
    let scale_name = format!("{name}_scale_inv");
    writer.tensor(&scale_name, DType::F32, &[3, 3], TensorData::from_floats(scales.clone()));
    writer.write(&model.path().join("model.safetensors")).unwrap();
    let mut config = spec.config_json();
    config["quantization_config"] =
        json!({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]});
    fs::write(model.path().join("config.json"), config.to_string()).unwrap();

    let theirs = gguf(&model, MlaLayout::Split);
    let found = floats(&theirs.require(name, &[320, 288]).unwrap());
    for (i, x) in found.into_iter().enumerate() {
        let (row, column) = (i / 288, i % 288);
        assert_eq!(x, f8e4m3_to_f32(bytes[i]) * scales[row / 128 * 3 + column / 128], "[{row}, {column}]");
    }
    assert!(!theirs.contains(&scale_name));
}

#[test]
fn quantised_forms_stay_within_their_precision() {
    let spec = ModelSpec { hidden_size: 256, intermediate_size: 256, ..ModelSpec::llama() };
    let model = spec.build().unwrap();
    let ours = model.checkpoint().unwrap();
    // Root mean square of the error over that of the values.
    let bounds = [
        (DType::F16, 3e-4),
        (DType::BF16, 3e-3),
        (DType::Q8_0, 6e-3),
        (DType::Q6_K, 0.03),
        (DType::Q5_K, 0.05),
        (DType::Q4_K, 0.1),
        (DType::Q4_0, 0.1),
        (DType::Q4_1, 0.1),
        (DType::Q3_K, 0.2),
        (DType::Q2_K, 0.4),
    ];
    for (dtype, bound) in bounds {
        let theirs = Checkpoint::open(&model.gguf(dtype).unwrap()).unwrap();
        let name = "model.layers.0.mlp.up_proj.weight";
        let view = theirs.require(name, &[256, 256]).unwrap();
        assert_eq!(view.dtype, dtype);
        let (a, b) = (tensor(&ours, name), floats(&view));
        let size: f32 = a.iter().map(|x| x * x).sum();
        let error = (a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / size).sqrt();
        assert!(error <= bound && error > 0.0, "{dtype}: {error}");
        let norm = theirs.require("model.norm.weight", &[256]).unwrap();
        assert_eq!(norm.dtype, DType::F32);
    }
    // Rows of 64 values don't divide into blocks of 256.
    let narrow = ModelSpec::llama().build().unwrap();
    let theirs = Checkpoint::open(&narrow.gguf(DType::Q4_K).unwrap()).unwrap();
    assert_eq!(theirs.tensor("lm_head.weight").unwrap().dtype, DType::F16);
}

#[test]
fn the_vocabulary_comes_along() {
    let spec = ModelSpec { vocab_size: ModelSpec::VOCAB_MIN + 3, ..ModelSpec::llama() };
    let model = spec.build().unwrap();
    let theirs = gguf(&model, MlaLayout::Split);
    let meta = theirs.metadata().unwrap();
    let tokens = meta.strings("tokenizer.ggml.tokens").unwrap().unwrap();
    let types = meta.integers("tokenizer.ggml.token_type").unwrap().unwrap();
    assert_eq!((tokens.len(), types.len()), (spec.vocab_size, spec.vocab_size));
    assert_eq!((tokens[0].as_str(), types[0]), ("<s>", 3));
    assert_eq!((tokens[ModelSpec::VOCAB_MIN].as_str(), types[ModelSpec::VOCAB_MIN]), ("[PAD272]", 5));
    let merges = meta.strings("tokenizer.ggml.merges").unwrap().unwrap();
    assert_eq!(merges[2], "Ġt he");
    let json: Value =
        serde_json::from_slice(&fs::read(model.path().join("tokenizer.json")).unwrap()).unwrap();
    for (token, id) in json["model"]["vocab"].as_object().unwrap() {
        assert_eq!(&tokens[id.as_u64().unwrap() as usize], token);
    }
    assert_eq!(meta.string("tokenizer.ggml.pre").unwrap(), Some("gpt-2"));
    assert_eq!(meta.bool("tokenizer.ggml.add_bos_token").unwrap(), Some(true));
    assert!(meta.string("tokenizer.chat_template").unwrap().unwrap().contains("add_generation_prompt"));
    assert_eq!(meta.u32("tokenizer.ggml.eos_token_id").unwrap(), Some(1));
}

#[test]
fn llama3_scaling_becomes_a_divisor_for_each_frequency() {
    let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128});
    let spec = ModelSpec { rope_scaling: Some(scaling), head_dim: 32, ..ModelSpec::llama() };
    let theirs = gguf(&spec.build().unwrap(), MlaLayout::Split);
    let factors = floats(&theirs.require("rope_freqs.weight", &[16]).unwrap());
    let mut kinds = [0; 3];
    for (i, factor) in factors.iter().enumerate() {
        let f = 10_000f64.powf(-(i as f64) / 16.0);
        let wavelength = 2.0 * std::f64::consts::PI / f;
        let smooth = (128.0 / wavelength - 1.0) / 3.0;
        let (kind, scaled) = match wavelength {
            w if w < 128.0 / 4.0 => (0, f),
            w if w > 128.0 => (1, f / 8.0),
            _ => (2, (1.0 - smooth) * f / 8.0 + smooth * f),
        };
        kinds[kind] += 1;
        assert!((f / f64::from(*factor) / scaled - 1.0).abs() < 1e-6, "{i}: {factor}");
    }
    assert!(kinds.iter().all(|&n| n > 0), "{kinds:?}");
}

#[test]
fn what_gguf_has_no_place_for_is_refused_by_name() {
    let model = ModelSpec::llama().build().unwrap();
    let whole = model.checkpoint().unwrap();
    let mut writer = SafetensorsWriter::new();
    for name in whole.tensor_names() {
        let view = whole.tensor(name).unwrap();
        writer.tensor(name, view.dtype, &view.shape, TensorData::Bytes(view.bytes.to_vec().into()));
    }
    writer.tensor("vision.weight", DType::F32, &[1], TensorData::from_floats(vec![1.0]));
    writer.write(&model.path().join("model.safetensors")).unwrap();
    let error = model.gguf(DType::F32).unwrap_err().to_string();
    assert!(error.contains("vision.weight"), "{error}");
    let left: Vec<_> = fs::read_dir(model.path().join("gguf")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
