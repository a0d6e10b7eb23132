//! The header of a safetensors file, checked in full before anything is used.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::cursor::Cursor;
use crate::error::{Fault, Problem};
use crate::limits::{SAFETENSORS_HEADER_BYTES_MAX, STRING_BYTES_MAX, TENSORS_MAX};
use crate::storage::StorageType;

/// Most dimensions of a tensor. Vision models need 4; the format itself sets no limit.
const DIMENSIONS_MAX: usize = 8;
/// Bytes of the number before the JSON.
const PREFIX_BYTES: u64 = 8;

/// A checked header.
#[derive(Debug)]
pub(crate) struct Header {
    /// Free texts under `__metadata__`.
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) tensors: Vec<TensorInfo>,
}

/// A tensor's entry, checked against the file's length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorInfo {
    pub(crate) name: String,
    pub(crate) storage: StorageType,
    pub(crate) shape: Vec<usize>,
    /// Where the data starts, in bytes from the start of the file.
    pub(crate) start: usize,
    /// Bytes of data.
    pub(crate) len: usize,
}

/// Reads and checks the header of a whole file. Time and memory are bounded by the file's length.
pub(crate) fn parse(file: &[u8]) -> Result<Header, Fault> {
    let mut cursor = Cursor::new(file, 0);
    let len = cursor.count("header length", SAFETENSORS_HEADER_BYTES_MAX)?;
    let json = cursor.take(len, "header")?;
    if json.first() != Some(&b'{') {
        let value = json.first().copied().unwrap_or(0).into();
        let expected = "the character {";
        return Err(Fault::new("header", PREFIX_BYTES, Problem::Unexpected { value, expected }));
    }
    let raw: RawHeader = serde_json::from_slice(json).map_err(|e| {
        let offset = offset_of(json, e.line(), e.column());
        Fault::new("header", offset, Problem::Json(e.to_string()))
    })?;
    let data_start = cursor.offset();
    let mut tensors = Vec::with_capacity(raw.tensors.len());
    let mut entries: Vec<(String, RawTensor)> = raw.tensors;
    entries.sort_by_key(|(_, t)| t.data_offsets);
    let available = cursor.remaining();
    let mut previous_end = 0u64;
    for (name, t) in entries {
        let fault = |problem| Fault::new(format!("tensor {name:?}"), name_offset(json, &name), problem);
        let storage = StorageType::from_safetensors(&t.dtype).ok_or_else(|| {
            let dtype: String = t.dtype.chars().take(40).collect();
            fault(Problem::Json(format!("dtype {dtype:?} is not one that this version knows")))
        })?;
        let (begin, end) = t.data_offsets;
        let shape: Option<Vec<usize>> = t.shape.0.iter().map(|&d| usize::try_from(d).ok()).collect();
        let shape = shape.ok_or_else(|| fault(Problem::Overflow))?;
        let expected = storage.bytes_of(&shape).map_err(fault)?;
        if begin < previous_end {
            return Err(fault(Problem::Overlap { previous_end }));
        }
        if begin > previous_end {
            return Err(fault(Problem::Gap { bytes: begin.saturating_sub(previous_end) }));
        }
        let found = end.checked_sub(begin).ok_or_else(|| fault(Problem::Overflow))?;
        if found != expected {
            return Err(fault(Problem::SizeMismatch { expected, found }));
        }
        if end > available {
            let available = available.saturating_sub(begin);
            return Err(fault(Problem::Truncated { needed: found, available }));
        }
        let start = data_start.checked_add(begin).and_then(|start| usize::try_from(start).ok());
        let (Some(start), Ok(len)) = (start, usize::try_from(found)) else {
            return Err(fault(Problem::Overflow));
        };
        previous_end = end;
        tensors.push(TensorInfo { name, storage, shape, start, len });
    }
    if available > previous_end {
        let bytes = available.saturating_sub(previous_end);
        let at = data_start.saturating_add(previous_end);
        return Err(Fault::new("end of file", at, Problem::TrailingBytes { bytes }));
    }
    Ok(Header { metadata: raw.metadata, tensors })
}

/// The header as it stands in the file.
struct RawHeader {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, RawTensor)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: String,
    shape: Shape,
    data_offsets: (u64, u64),
}

/// Dimensions, of which no more than the limit are ever stored.
struct Shape(Vec<u64>);

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = RawHeader;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with an entry for each tensor")
            }
            // A map type would keep the last of two entries with one name; here that is an error.
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut raw = RawHeader { metadata: BTreeMap::new(), tensors: Vec::new() };
                let mut seen = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name.len() as u64 > STRING_BYTES_MAX {
                        return Err(A::Error::custom(format_args!("a name of {} bytes", name.len())));
                    }
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format_args!("the name {name:?} appears twice")));
                    }
                    if name == "__metadata__" {
                        raw.metadata = map.next_value()?;
                        continue;
                    }
                    if raw.tensors.len() as u64 >= TENSORS_MAX {
                        return Err(A::Error::custom(format_args!("more than {TENSORS_MAX} tensors")));
                    }
                    raw.tensors.push((name, map.next_value()?));
                }
                Ok(raw)
            }
        }
        deserializer.deserialize_map(HeaderVisitor)
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ShapeVisitor;
        impl<'de> Visitor<'de> for ShapeVisitor {
            type Value = Shape;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of dimensions")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
                let mut dimensions = Vec::new();
                while let Some(dimension) = seq.next_element()? {
                    if dimensions.len() >= DIMENSIONS_MAX {
                        return Err(A::Error::custom(format_args!("more than {DIMENSIONS_MAX} dimensions")));
                    }
                    dimensions.push(dimension);
                }
                Ok(Shape(dimensions))
            }
        }
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

/// The byte that a JSON error's line and column mean, from the start of the file.
fn offset_of(json: &[u8], line: usize, column: usize) -> u64 {
    let before: usize =
        json.split_inclusive(|&b| b == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    PREFIX_BYTES.saturating_add(before as u64).saturating_add(column.saturating_sub(1) as u64)
}

/// Where a tensor's name stands in the file; the header's start if it is written with escapes.
fn name_offset(json: &[u8], name: &str) -> u64 {
    let quoted = format!("\"{name}\"");
    let at = json.windows(quoted.len()).position(|window| window == quoted.as_bytes());
    PREFIX_BYTES.saturating_add(at.unwrap_or(0) as u64)
}
