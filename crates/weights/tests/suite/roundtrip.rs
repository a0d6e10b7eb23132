//! What is written is what is read.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use levain_kernels::{DType, quantize_row};
use levain_weights::{
    Array, Checkpoint, GgufWriter, MetadataValue, SafetensorsWriter, TensorData, Value, WeightsError,
};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

fn metadata() -> impl Strategy<Value = MetadataValue> {
    let leaf = prop_oneof![
        any::<u8>().prop_map(MetadataValue::U8),
        any::<i8>().prop_map(MetadataValue::I8),
        any::<u16>().prop_map(MetadataValue::U16),
        any::<i16>().prop_map(MetadataValue::I16),
        any::<u32>().prop_map(MetadataValue::U32),
        any::<i32>().prop_map(MetadataValue::I32),
        any::<u64>().prop_map(MetadataValue::U64),
        any::<i64>().prop_map(MetadataValue::I64),
        any::<f32>().prop_map(MetadataValue::F32),
        any::<f64>().prop_map(MetadataValue::F64),
        any::<bool>().prop_map(MetadataValue::Bool),
        any::<String>().prop_map(MetadataValue::String),
    ];
    prop_oneof![leaf, arrays()]
}

fn arrays() -> impl Strategy<Value = MetadataValue> {
    let flat = prop_oneof![
        vec(any::<String>(), 0..5).prop_map(MetadataValue::Strings),
        vec(any::<i32>(), 0..5).prop_map(MetadataValue::I32s),
        vec(any::<f32>(), 0..5).prop_map(MetadataValue::F32s),
    ];
    flat.prop_recursive(2, 8, 3, |inner| vec(inner, 0..3).prop_map(MetadataValue::Arrays))
}

fn same(written: &MetadataValue, read: Value<'_>) -> bool {
    let array = |expected: usize, same: &dyn Fn(usize, Value<'_>) -> bool| match read {
        Value::Array(array) => array.len() == expected && all(array, same),
        _ => false,
    };
    match written {
        MetadataValue::U8(x) => read == Value::Unsigned((*x).into()),
        MetadataValue::U16(x) => read == Value::Unsigned((*x).into()),
        MetadataValue::U32(x) => read == Value::Unsigned((*x).into()),
        MetadataValue::U64(x) => read == Value::Unsigned(*x),
        MetadataValue::I8(x) => read == Value::Signed((*x).into()),
        MetadataValue::I16(x) => read == Value::Signed((*x).into()),
        MetadataValue::I32(x) => read == Value::Signed((*x).into()),
        MetadataValue::I64(x) => read == Value::Signed(*x),
        MetadataValue::F32(x) => read == Value::Float((*x).into()),
        MetadataValue::F64(x) => read == Value::Float(*x),
        MetadataValue::Bool(x) => read == Value::Bool(*x),
        MetadataValue::String(x) => read == Value::String(x),
        MetadataValue::Strings(list) => array(list.len(), &|i, read| read == Value::String(&list[i])),
        MetadataValue::I32s(list) => array(list.len(), &|i, read| read == Value::Signed(list[i].into())),
        MetadataValue::F32s(list) => array(list.len(), &|i, read| read == Value::Float(list[i].into())),
        MetadataValue::Arrays(list) => array(list.len(), &|i, read| same(&list[i], read)),
    }
}

fn all(array: Array<'_>, same: &dyn Fn(usize, Value<'_>) -> bool) -> bool {
    array.iter().count() == array.len() && array.iter().enumerate().all(|(i, read)| same(i, read))
}

/// A type, a shape that suits it, and the bytes.
fn tensor(types: &'static [DType]) -> impl Strategy<Value = (DType, Vec<usize>, Vec<u8>)> {
    (prop::sample::select(types), vec(1usize..4, 0..3), 1usize..5, any::<u8>()).prop_map(
        |(dtype, mut shape, blocks, fill)| {
            shape.push(blocks * dtype.block_len());
            let rows: usize = shape.iter().rev().skip(1).product();
            let bytes =
                (0..rows * blocks * dtype.block_bytes()).map(|i| fill.wrapping_add(i as u8)).collect();
            (dtype, shape, bytes)
        },
    )
}

const GGUF_TYPES: &[DType] = &[DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_1, DType::Q6_K];
const SAFETENSORS_TYPES: &[DType] = &[DType::F32, DType::F16, DType::BF16, DType::F8E4M3];

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gguf(
        entries in btree_map("[a-z]{1,6}\\.\\PC{0,12}", metadata(), 0..8),
        tensors in btree_map("\\PC{0,12}", tensor(GGUF_TYPES), 0..6),
        alignment in prop::sample::select(vec![None, Some(1u32), Some(8), Some(32), Some(256)]),
    ) {
        let entries: BTreeMap<_, _> =
            entries.into_iter().filter(|(key, _)| !key.starts_with("general.") && !key.starts_with("split.")).collect();
        let mut writer = GgufWriter::new("llama");
        if let Some(alignment) = alignment {
            writer.set("general.alignment", alignment);
        }
        for (key, value) in &entries {
            writer.set(key, value.clone());
        }
        for (name, (dtype, shape, bytes)) in &tensors {
            writer.tensor(name, *dtype, shape, TensorData::Bytes(bytes.into()));
        }
        let mut file = Vec::new();
        writer.write_to(Path::new("x.gguf"), &mut file).unwrap();
        let read = Checkpoint::from_bytes(Path::new("x.gguf"), file).unwrap();
        let meta = read.metadata().unwrap();
        for (key, value) in &entries {
            let read = meta.get(key).unwrap();
            // NaN is not itself, but it is written and read as NaN.
            let nan = matches!(read, Value::Float(x) if x.is_nan());
            prop_assert!(nan || same(value, read) || format!("{value:?}").contains("NaN"), "{key}: {value:?}");
        }
        prop_assert_eq!(read.tensor_names().count(), tensors.len());
        for (name, (dtype, shape, bytes)) in &tensors {
            let view = read.tensor(name).unwrap();
            prop_assert_eq!((view.dtype, &view.shape, view.bytes), (*dtype, shape, bytes.as_slice()));
        }
    }

    #[test]
    fn safetensors(
        texts in btree_map(any::<String>(), any::<String>(), 0..4),
        tensors in btree_map(any::<String>(), tensor(SAFETENSORS_TYPES), 0..6),
    ) {
        let mut writer = SafetensorsWriter::new();
        for (key, value) in &texts {
            writer.set(key, value);
        }
        for (name, (dtype, shape, bytes)) in &tensors {
            writer.tensor(name, *dtype, shape, TensorData::Bytes(bytes.into()));
        }
        let mut file = Vec::new();
        writer.write_to(Path::new("x.safetensors"), &mut file).unwrap();
        let read = Checkpoint::from_bytes(Path::new("x.safetensors"), file).unwrap();
        prop_assert_eq!(read.safetensors_metadata(), &texts);
        prop_assert_eq!(read.tensor_names().count(), tensors.len());
        for (name, (dtype, shape, bytes)) in &tensors {
            let view = read.tensor(name).unwrap();
            prop_assert_eq!((view.dtype, &view.shape, view.bytes), (*dtype, shape, bytes.as_slice()));
        }
    }
}

#[test]
fn rows_are_quantised_as_they_are_written() {
    let values: Vec<f32> = (0..6 * 32).map(|i| (i as f32 * 0.37).sin()).collect();
    let mut expected = vec![0; 6 * 34];
    quantize_row(DType::Q8_0, &values, &mut expected).unwrap();
    let mut writer = GgufWriter::new("llama");
    writer.tensor("t", DType::Q8_0, &[2, 3, 32], TensorData::from_floats(values));
    let mut file = Vec::new();
    writer.write_to(Path::new("x.gguf"), &mut file).unwrap();
    let read = Checkpoint::from_bytes(Path::new("x.gguf"), file).unwrap();
    assert_eq!(read.tensor("t").unwrap().bytes, expected);
}

#[test]
fn what_a_format_cant_hold_is_refused() {
    let refused = |dtype: DType, shape: &[usize], bytes: usize, words: &str| {
        let mut writer = GgufWriter::new("llama");
        writer.tensor("t", dtype, shape, TensorData::Bytes(vec![0; bytes].into()));
        let error = writer.write_to(Path::new("x.gguf"), &mut Vec::new()).unwrap_err().to_string();
        assert!(error.starts_with("can't write x.gguf: tensor \"t\": ") && error.contains(words), "{error}");
    };
    refused(DType::F32, &[2, 3], 23, "needs 24 bytes, the offsets give 23");
    refused(DType::Q8_0, &[2, 33], 70, "not a multiple of the 32 values");
    refused(DType::F8E4M3, &[2], 2, "a type that GGUF has");
    refused(DType::F32, &[1, 1, 1, 1, 1], 4, "above the limit of 4");
    refused(DType::F32, &[0], 0, "at least one value");
    refused(DType::F32, &[usize::MAX, 2], 0, "overflows");
    let mut writer = SafetensorsWriter::new();
    writer.tensor("t", DType::Q8_0, &[32], TensorData::Bytes(vec![0; 34].into()));
    let error = writer.write_to(Path::new("x.safetensors"), &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("has type Q8_0, expected F32, F16, BF16 or F8_E4M3"), "{error}");
    let mut writer = SafetensorsWriter::new();
    writer.tensor("t", DType::F32, &[], TensorData::from_floats(vec![1.0]));
    writer.tensor("t", DType::F32, &[], TensorData::from_floats(vec![1.0]));
    let error = writer.write_to(Path::new("x.safetensors"), &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("the name appears twice"), "{error}");
}

#[test]
fn a_write_that_fails_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, b"old").unwrap();
    let mut writer = SafetensorsWriter::new();
    let failing = |row: usize, _: &mut [f32]| match row {
        0 => Ok(()),
        _ => Err(WeightsError::MissingTensor { file: "x".into(), name: "row 1".to_owned() }),
    };
    writer.tensor("t", DType::F32, &[2, 4], TensorData::Rows(Box::new(failing)));
    assert!(writer.write(&path).unwrap_err().to_string().contains("row 1"));
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let mut writer = SafetensorsWriter::new();
    writer.tensor("t", DType::F32, &[1], TensorData::from_floats(vec![1.0]));
    writer.write(&path).unwrap();
    assert_eq!(Checkpoint::open(&path).unwrap().tensor_names().count(), 1);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
