//! What writers take as a tensor's contents.

use std::borrow::Cow;
use std::fmt;
use std::io::Write;
use std::path::Path;

use levain_kernels::{DType, quantize_row};

use crate::error::{Problem, WeightsError};
use crate::storage::StorageType;

/// Fills one row of a tensor with floats.
pub type RowSource<'a> = dyn Fn(usize, &mut [f32]) -> Result<(), WeightsError> + 'a;

/// The contents of a tensor to be written.
pub enum TensorData<'a> {
    /// All bytes, in the tensor's block format.
    Bytes(Cow<'a, [u8]>),
    /// Rows of floats, asked for one at a time and in order, quantised as they are written.
    Rows(Box<RowSource<'a>>),
}

impl TensorData<'static> {
    /// Floats in row order.
    pub fn from_floats(values: Vec<f32>) -> Self {
        Self::Rows(Box::new(move |row, out| {
            let start = row.saturating_mul(out.len());
            match values.get(start..start.saturating_add(out.len())) {
                Some(values) => out.copy_from_slice(values),
                // The writer has no row for these; it compares the sizes before it asks.
                None => out.fill(0.0),
            }
            Ok(())
        }))
    }
}

impl fmt::Debug for TensorData<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Rows(_) => f.write_str("rows"),
        }
    }
}

/// A tensor that waits to be written.
#[derive(Debug)]
pub(crate) struct Pending<'a> {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    /// Outermost dimension first.
    pub(crate) shape: Vec<usize>,
    pub(crate) data: TensorData<'a>,
}

impl Pending<'_> {
    /// Bytes in the file; fails if the shape does not fit the type or the data.
    pub(crate) fn bytes(&self, file: &Path) -> Result<u64, WeightsError> {
        let problem = match StorageType::Computable(self.dtype).bytes_of(&self.shape) {
            Ok(expected) => match &self.data {
                TensorData::Bytes(bytes) if bytes.len() as u64 != expected => {
                    Problem::SizeMismatch { expected, found: bytes.len() as u64 }
                }
                _ => return Ok(expected),
            },
            Err(problem) => problem,
        };
        Err(self.unwritable(file, problem))
    }

    pub(crate) fn unwritable(&self, file: &Path, problem: Problem) -> WeightsError {
        WeightsError::Unwritable { file: file.to_owned(), field: format!("tensor {:?}", self.name), problem }
    }

    pub(crate) fn write(&self, file: &Path, out: &mut impl Write) -> Result<(), WeightsError> {
        let io = |e| WeightsError::io(file, e);
        let fill = match &self.data {
            TensorData::Bytes(bytes) => return out.write_all(bytes).map_err(io),
            TensorData::Rows(fill) => fill,
        };
        let columns = self.shape.last().copied().unwrap_or(1);
        let rows: usize = self.shape.iter().rev().skip(1).product();
        let row_bytes = self.dtype.row_bytes(columns).unwrap_or(0);
        let mut floats = vec![0.0; columns];
        let mut bytes = vec![0; row_bytes];
        for row in 0..rows {
            fill(row, &mut floats)?;
            quantize_row(self.dtype, &floats, &mut bytes)
                .map_err(|source| WeightsError::Quantise { file: file.to_owned(), source })?;
            out.write_all(&bytes).map_err(io)?;
        }
        Ok(())
    }
}
