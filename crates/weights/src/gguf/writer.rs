//! Writing GGUF version 3.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;

use levain_kernels::DType;

use crate::atomic::AtomicFile;
use crate::error::{Problem, WeightsError};
use crate::gguf::header::{DEFAULT_ALIGNMENT, MAGIC};
use crate::gguf::value::ValueType;
use crate::limits::{DIMENSIONS_MAX, METADATA_ENTRIES_MAX, TENSORS_MAX};
use crate::tensor_data::{Pending, TensorData};

const VERSION: u32 = 3;
const ALIGNMENT_KEY: &str = "general.alignment";

/// A metadata value to be written.
#[derive(Debug, Clone, PartialEq)]
pub enum MetadataValue {
    /// Unsigned, 8 bits.
    U8(u8),
    /// Signed, 8 bits.
    I8(i8),
    /// Unsigned, 16 bits.
    U16(u16),
    /// Signed, 16 bits.
    I16(i16),
    /// Unsigned, 32 bits.
    U32(u32),
    /// Signed, 32 bits.
    I32(i32),
    /// Unsigned, 64 bits.
    U64(u64),
    /// Signed, 64 bits.
    I64(i64),
    /// Floating point, 32 bits.
    F32(f32),
    /// Floating point, 64 bits.
    F64(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    String(String),
    /// An array of texts.
    Strings(Vec<String>),
    /// An array of signed 32-bit integers.
    I32s(Vec<i32>),
    /// An array of 32-bit floats.
    F32s(Vec<f32>),
    /// An array of arrays.
    Arrays(Vec<MetadataValue>),
}

impl From<u32> for MetadataValue {
    fn from(value: u32) -> Self {
        Self::U32(value)
    }
}

impl From<f32> for MetadataValue {
    fn from(value: f32) -> Self {
        Self::F32(value)
    }
}

impl From<bool> for MetadataValue {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<&str> for MetadataValue {
    fn from(value: &str) -> Self {
        Self::String(value.to_owned())
    }
}

impl From<Vec<String>> for MetadataValue {
    fn from(value: Vec<String>) -> Self {
        Self::Strings(value)
    }
}

impl MetadataValue {
    fn value_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F32(_) => ValueType::F32,
            Self::F64(_) => ValueType::F64,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Strings(_) | Self::I32s(_) | Self::F32s(_) | Self::Arrays(_) => ValueType::Array,
        }
    }

    /// Appends the value without its type.
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::U8(x) => out.extend(x.to_le_bytes()),
            Self::I8(x) => out.extend(x.to_le_bytes()),
            Self::U16(x) => out.extend(x.to_le_bytes()),
            Self::I16(x) => out.extend(x.to_le_bytes()),
            Self::U32(x) => out.extend(x.to_le_bytes()),
            Self::I32(x) => out.extend(x.to_le_bytes()),
            Self::U64(x) => out.extend(x.to_le_bytes()),
            Self::I64(x) => out.extend(x.to_le_bytes()),
            Self::F32(x) => out.extend(x.to_le_bytes()),
            Self::F64(x) => out.extend(x.to_le_bytes()),
            Self::Bool(x) => out.push(u8::from(*x)),
            Self::String(x) => encode_text(x, out),
            Self::Strings(list) => {
                encode_array(ValueType::String, list.len(), out);
                list.iter().for_each(|x| encode_text(x, out));
            }
            Self::I32s(list) => {
                encode_array(ValueType::I32, list.len(), out);
                list.iter().for_each(|x| out.extend(x.to_le_bytes()));
            }
            Self::F32s(list) => {
                encode_array(ValueType::F32, list.len(), out);
                list.iter().for_each(|x| out.extend(x.to_le_bytes()));
            }
            Self::Arrays(list) => {
                // An array of arrays holds nothing else; other values in it have no place in the format.
                let arrays: Vec<_> = list.iter().filter(|x| x.value_type() == ValueType::Array).collect();
                encode_array(ValueType::Array, arrays.len(), out);
                arrays.iter().for_each(|x| x.encode(out));
            }
        }
    }
}

/// Collects metadata and tensors and writes them as one GGUF file.
#[derive(Debug)]
pub struct GgufWriter<'a> {
    metadata: Vec<(String, MetadataValue)>,
    tensors: Vec<Pending<'a>>,
}

impl<'a> GgufWriter<'a> {
    /// Starts a file for this architecture, such as `llama`.
    pub fn new(architecture: &str) -> Self {
        let metadata = vec![("general.architecture".to_owned(), architecture.into())];
        Self { metadata, tensors: Vec::new() }
    }

    /// Sets a metadata entry, replacing an earlier one of that key.
    pub fn set(&mut self, key: &str, value: impl Into<MetadataValue>) {
        let value = value.into();
        match self.metadata.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value,
            None => self.metadata.push((key.to_owned(), value)),
        }
    }

    /// Adds a tensor under its GGUF name; `shape` has the outermost dimension first.
    pub fn tensor(&mut self, name: &str, dtype: DType, shape: &[usize], data: TensorData<'a>) {
        self.tensors.push(Pending { name: name.to_owned(), dtype, shape: shape.to_vec(), data });
    }

    /// Writes the file. It appears under its name only when it is complete and on disk.
    ///
    /// # Errors
    /// If the system refuses, a name appears twice, or a tensor can't be stored in its type.
    pub fn write(&self, path: &Path) -> Result<(), WeightsError> {
        let mut file = AtomicFile::create(path)?;
        self.write_to(path, &mut file)?;
        file.commit()
    }

    /// Writes to any destination; `path` is for messages.
    ///
    /// # Errors
    /// As [`GgufWriter::write`].
    pub fn write_to(&self, path: &Path, out: &mut impl Write) -> Result<(), WeightsError> {
        let io = |e| WeightsError::io(path, e);
        let alignment = self.alignment(path)?;
        let (header, sizes) = self.header(path, alignment)?;
        out.write_all(&header).map_err(io)?;
        for (tensor, bytes) in self.tensors.iter().zip(sizes) {
            tensor.write(path, out)?;
            pad(out, bytes, alignment).map_err(io)?;
        }
        Ok(())
    }

    fn alignment(&self, path: &Path) -> Result<u64, WeightsError> {
        match self.metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY) {
            None => Ok(DEFAULT_ALIGNMENT),
            Some((_, MetadataValue::U32(value))) if value.is_power_of_two() => Ok((*value).into()),
            Some(_) => Err(WeightsError::Unwritable {
                file: path.to_owned(),
                field: ALIGNMENT_KEY.to_owned(),
                problem: Problem::Unexpected { value: 0, expected: "a power of two of type U32" },
            }),
        }
    }

    /// Everything before the tensor data, padded, and each tensor's size.
    fn header(&self, path: &Path, alignment: u64) -> Result<(Vec<u8>, Vec<u64>), WeightsError> {
        for (field, count, limit) in [
            ("metadata", self.metadata.len(), METADATA_ENTRIES_MAX),
            ("tensors", self.tensors.len(), TENSORS_MAX),
        ] {
            let value = count as u64;
            if value > limit {
                let problem = Problem::TooLarge { value, limit };
                let field = field.to_owned();
                return Err(WeightsError::Unwritable { file: path.to_owned(), field, problem });
            }
        }
        let mut out = Vec::new();
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            encode_text(key, &mut out);
            out.extend((value.value_type() as u32).to_le_bytes());
            value.encode(&mut out);
        }
        let mut sizes = Vec::with_capacity(self.tensors.len());
        let mut names = HashSet::new();
        let mut offset = 0u64;
        for tensor in &self.tensors {
            if !names.insert(&tensor.name) {
                return Err(tensor.unwritable(path, Problem::Duplicate));
            }
            let dimensions = u32::try_from(tensor.shape.len()).unwrap_or(u32::MAX);
            if u64::from(dimensions) > DIMENSIONS_MAX {
                return Err(tensor.unwritable(
                    path,
                    Problem::TooLarge { value: dimensions.into(), limit: DIMENSIONS_MAX },
                ));
            }
            let Some(id) = tensor.dtype.ggml_id() else {
                let problem =
                    Problem::WrongType { found: tensor.dtype.name(), expected: "a type that GGUF has" };
                return Err(tensor.unwritable(path, problem));
            };
            let bytes = tensor.bytes(path)?;
            if bytes == 0 {
                let expected = "at least one value";
                return Err(tensor.unwritable(path, Problem::Unexpected { value: 0, expected }));
            }
            encode_text(&tensor.name, &mut out);
            out.extend(dimensions.to_le_bytes());
            for &dimension in tensor.shape.iter().rev() {
                out.extend((dimension as u64).to_le_bytes());
            }
            out.extend(id.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset = offset
                .checked_add(bytes)
                .and_then(|end| end.checked_next_multiple_of(alignment))
                .ok_or_else(|| tensor.unwritable(path, Problem::Overflow))?;
            sizes.push(bytes);
        }
        while !(out.len() as u64).is_multiple_of(alignment) {
            out.push(0);
        }
        Ok((out, sizes))
    }
}

fn encode_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn encode_array(element_type: ValueType, len: usize, out: &mut Vec<u8>) {
    out.extend((element_type as u32).to_le_bytes());
    out.extend((len as u64).to_le_bytes());
}

fn pad(out: &mut impl Write, written: u64, alignment: u64) -> std::io::Result<()> {
    let padding = written.next_multiple_of(alignment).saturating_sub(written);
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), padding), out)?;
    Ok(())
}
