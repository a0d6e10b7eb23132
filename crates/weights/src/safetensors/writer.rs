//! Writing safetensors.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::Path;

use levain_kernels::DType;
use serde_json::{Map, Value, json};

use crate::atomic::AtomicFile;
use crate::error::{Problem, WeightsError};
use crate::tensor_data::{Pending, TensorData};

/// Collects tensors and writes them as one safetensors file.
#[derive(Debug, Default)]
pub struct SafetensorsWriter<'a> {
    metadata: BTreeMap<String, String>,
    tensors: Vec<Pending<'a>>,
}

impl<'a> SafetensorsWriter<'a> {
    /// Starts a file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a free text in the header.
    pub fn set(&mut self, key: &str, value: &str) {
        self.metadata.insert(key.to_owned(), value.to_owned());
    }

    /// Adds a tensor; `shape` has the outermost dimension first. Of the block formats safetensors has only
    /// F32, F16, BF16 and F8_E4M3.
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
    /// As [`SafetensorsWriter::write`].
    pub fn write_to(&self, path: &Path, out: &mut impl Write) -> Result<(), WeightsError> {
        let io = |e| WeightsError::io(path, e);
        // Wide values first, so that all of them are aligned in a file whose header is.
        let mut order: Vec<&Pending<'_>> = self.tensors.iter().collect();
        order.sort_by_key(|tensor| std::cmp::Reverse(tensor.dtype.block_bytes()));
        let header = self.header(path, &order)?;
        out.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
        out.write_all(&header).map_err(io)?;
        order.into_iter().try_for_each(|tensor| tensor.write(path, out))
    }

    fn header(&self, path: &Path, order: &[&Pending<'_>]) -> Result<Vec<u8>, WeightsError> {
        let mut header = Map::new();
        if !self.metadata.is_empty() {
            header.insert("__metadata__".to_owned(), json!(self.metadata));
        }
        let mut names = HashSet::from(["__metadata__"]);
        let mut offset = 0u64;
        for tensor in order {
            if !names.insert(&tensor.name) {
                return Err(tensor.unwritable(path, Problem::Duplicate));
            }
            if !matches!(tensor.dtype, DType::F32 | DType::F16 | DType::BF16 | DType::F8E4M3) {
                let expected = "F32, F16, BF16 or F8_E4M3";
                let problem = Problem::WrongType { found: tensor.dtype.name(), expected };
                return Err(tensor.unwritable(path, problem));
            }
            let bytes = tensor.bytes(path)?;
            let end = offset.checked_add(bytes).ok_or_else(|| tensor.unwritable(path, Problem::Overflow))?;
            let entry =
                json!({"dtype": tensor.dtype.name(), "shape": tensor.shape, "data_offsets": [offset, end]});
            header.insert(tensor.name.clone(), entry);
            offset = end;
        }
        let mut text = Value::Object(header).to_string().into_bytes();
        while !text.len().is_multiple_of(8) {
            text.push(b' ');
        }
        Ok(text)
    }
}
