//! Everything that a GGUF file may bring any amount of is counted before it is kept.

use std::path::Path;

use levain_weights::Checkpoint;
use levain_weights::limits::{
    ARRAY_ELEMENTS_MAX, ARRAY_NESTING_MAX, DIMENSIONS_MAX, METADATA_ENTRIES_MAX, STRING_BYTES_MAX,
    TEMPLATE_BYTES_MAX, TENSORS_MAX,
};

const U8: u32 = 0;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

fn text(len: u64) -> Vec<u8> {
    let mut bytes = len.to_le_bytes().to_vec();
    bytes.resize(bytes.len() + usize::try_from(len).unwrap(), b'x');
    bytes
}

fn key(name: &str, value_type: u32) -> Vec<u8> {
    [&(name.len() as u64).to_le_bytes()[..], name.as_bytes(), &value_type.to_le_bytes()].concat()
}

/// The head of an array.
fn array(element_type: u32, len: u64) -> Vec<u8> {
    [&element_type.to_le_bytes()[..], &len.to_le_bytes()].concat()
}

/// A file that claims so many tensors and entries, with these bytes after that.
fn open(tensors: u64, entries: u64, parts: &[Vec<u8>]) -> Result<Checkpoint, String> {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend(tensors.to_le_bytes());
    file.extend(entries.to_le_bytes());
    parts.iter().for_each(|part| file.extend(part));
    Checkpoint::from_bytes(Path::new("x.gguf"), file).map_err(|error| error.to_string())
}

#[track_caller]
fn refused(opened: Result<Checkpoint, String>, field: &str, words: &str) {
    let error = opened.unwrap_err();
    assert!(error.contains(field) && error.contains(words), "{error:.300}");
}

fn above(limit: u64) -> String {
    format!("{} is above the limit of {limit}", limit + 1)
}

#[test]
fn counts_are_bounded_before_anything_is_kept_for_them() {
    refused(open(TENSORS_MAX + 1, 0, &[]), "tensor count", &above(TENSORS_MAX));
    refused(open(0, METADATA_ENTRIES_MAX + 1, &[]), "metadata entry count", &above(METADATA_ENTRIES_MAX));
    // As many as may be, in a file that has none.
    refused(open(TENSORS_MAX, 0, &[]), "name of tensor 0", "cut short");
    refused(open(0, METADATA_ENTRIES_MAX, &[]), "key of metadata entry 0", "cut short");
}

#[test]
fn texts_are_bounded_by_what_they_are() {
    let longest = STRING_BYTES_MAX;
    let entry = |name: &str, len| open(0, 1, &[key(name, STRING), text(len)]);
    entry("a", longest).unwrap();
    refused(entry("a", longest + 1), "a (at", &above(longest));
    let key_of = |len| open(0, 1, &[text(len), U8.to_le_bytes().to_vec(), vec![1]]);
    key_of(longest).unwrap();
    refused(key_of(longest + 1), "key of metadata entry 0", &above(longest));
    let name_of = |len| open(1, 0, &[text(len), vec![0; 24]]);
    refused(name_of(longest + 1), "name of tensor 0", &above(longest));
    for template in ["tokenizer.chat_template", "tokenizer.chat_template.tool_use"] {
        entry(template, TEMPLATE_BYTES_MAX).unwrap();
        refused(entry(template, TEMPLATE_BYTES_MAX + 1), template, &above(TEMPLATE_BYTES_MAX));
    }
    // Those in arrays are no longer.
    let element = |len| open(0, 1, &[key("a", ARRAY), array(STRING, 1), text(len)]);
    element(longest).unwrap();
    refused(element(longest + 1), "a (at", &above(longest));
    // A length is compared with the file before room is made.
    let claimed = STRING_BYTES_MAX.to_le_bytes().to_vec();
    refused(open(0, 1, &[key("a", STRING), claimed]), "a (at", "cut short");
}

#[test]
fn arrays_are_bounded_in_length_and_depth() {
    let len = |element_type, len| open(0, 1, &[key("a", ARRAY), array(element_type, len)]);
    for element_type in [U8, STRING, ARRAY] {
        refused(len(element_type, ARRAY_ELEMENTS_MAX + 1), "a (at", &above(ARRAY_ELEMENTS_MAX));
        refused(len(element_type, ARRAY_ELEMENTS_MAX), "a (at", "cut short");
    }
    let nested = |depth: u32| {
        let mut parts = vec![key("a", ARRAY)];
        parts.extend((1..depth).map(|_| array(ARRAY, 1)));
        parts.push([array(U8, 1), vec![7]].concat());
        open(0, 1, &parts)
    };
    nested(ARRAY_NESTING_MAX).unwrap();
    refused(nested(ARRAY_NESTING_MAX + 1), "a (at", &above(ARRAY_NESTING_MAX.into()));
    refused(nested(100_000), "a (at", &above(ARRAY_NESTING_MAX.into()));
}

#[test]
fn shapes_are_bounded_in_dimensions_and_values() {
    let tensor = |shape: &[u64]| {
        let dimensions = u32::try_from(shape.len()).unwrap().to_le_bytes().to_vec();
        let shape = shape.iter().flat_map(|dimension| dimension.to_le_bytes()).collect();
        open(1, 0, &[text(1), dimensions, shape, vec![0; 12]])
    };
    let most = usize::try_from(DIMENSIONS_MAX).unwrap();
    refused(tensor(&vec![1; most + 1]), "number of dimensions of tensor \"x\"", &above(DIMENSIONS_MAX));
    refused(tensor(&[0, 1]), "shape of tensor \"x\"", "at least 1");
    for shape in [&[1 << 63, 2][..], &[1 << 32, 1 << 32], &[u64::MAX, u64::MAX, 1], &[1 << 62, 1]] {
        refused(tensor(shape), "shape of tensor \"x\"", "overflows");
    }
}

/// A dimension of 0 makes a tensor of no bytes, but its other dimensions are multiplied too.
#[test]
fn a_dimension_of_zero_does_not_make_up_for_others() {
    let open = |shape: &[u64]| {
        let json = serde_json::json!({"t": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}});
        let json = json.to_string();
        let file = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
        Checkpoint::from_bytes(Path::new("x.safetensors"), file).map_err(|error| error.to_string())
    };
    open(&[0, 4]).unwrap();
    open(&[1 << 32, 0, 1 << 30]).unwrap();
    for shape in [[1 << 63, 2, 0, 1], [0, 1 << 63, 2, 1], [2, 0, 1 << 63, 1], [1 << 32, 1 << 16, 1 << 16, 0]]
    {
        refused(open(&shape), "tensor \"t\"", "overflows");
    }
}
