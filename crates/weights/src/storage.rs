//! How tensors are stored: the types the kernels compute with, and the names and sizes of those they don't,
//! so that a file that holds one can still be checked, listed and refused by name.

use levain_kernels::DType;

use crate::error::Problem;

/// The stored type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageType {
    /// A type that the kernels compute with.
    Computable(DType),
    /// A known type that they don't.
    Other {
        /// Its name in the file format.
        name: &'static str,
        /// Values in a block.
        block_len: u32,
        /// Bytes in a block.
        block_bytes: u32,
    },
}

impl StorageType {
    /// The type with this number in GGUF; `None` if no such type was ever defined or it was withdrawn.
    pub fn from_ggml(id: u32) -> Option<Self> {
        if let Some(dtype) = DType::from_ggml(id) {
            return Some(Self::Computable(dtype));
        }
        // Block sizes as in ggml's type table and the `gguf` package's GGML_QUANT_SIZES.
        let (name, block_len, block_bytes) = match id {
            9 => ("Q8_1", 32, 36),
            24 => ("I8", 1, 1),
            25 => ("I16", 1, 2),
            26 => ("I32", 1, 4),
            27 => ("I64", 1, 8),
            28 => ("F64", 1, 8),
            34 => ("TQ1_0", 256, 54),
            40 => ("NVFP4", 64, 36),
            41 => ("Q1_0", 128, 18),
            _ => return None,
        };
        Some(Self::Other { name, block_len, block_bytes })
    }

    /// The type with this name in safetensors.
    pub fn from_safetensors(name: &str) -> Option<Self> {
        let other = |name, block_bytes| Self::Other { name, block_len: 1, block_bytes };
        Some(match name {
            "F32" => Self::Computable(DType::F32),
            "F16" => Self::Computable(DType::F16),
            "BF16" => Self::Computable(DType::BF16),
            "F8_E4M3" => Self::Computable(DType::F8E4M3),
            "F8_E5M2" => other("F8_E5M2", 1),
            "F8_E8M0" => other("F8_E8M0", 1),
            "F64" => other("F64", 8),
            "C64" => other("C64", 8),
            "I64" => other("I64", 8),
            "U64" => other("U64", 8),
            "I32" => other("I32", 4),
            "U32" => other("U32", 4),
            "I16" => other("I16", 2),
            "U16" => other("U16", 2),
            "I8" => other("I8", 1),
            "U8" => other("U8", 1),
            "BOOL" => other("BOOL", 1),
            _ => return None,
        })
    }

    /// The type's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Computable(dtype) => dtype.name(),
            Self::Other { name, .. } => name,
        }
    }

    /// The type the kernels compute with, if they do.
    pub fn dtype(self) -> Option<DType> {
        match self {
            Self::Computable(dtype) => Some(dtype),
            Self::Other { .. } => None,
        }
    }

    /// Bytes of a tensor of this shape, outermost dimension first. A tensor without dimensions holds one value.
    ///
    /// Where this gives a size, any dimensions of the shape can be multiplied, in any order: a dimension of 0 does not
    /// make up for others that are too large.
    pub(crate) fn bytes_of(self, shape: &[usize]) -> Result<u64, Problem> {
        let dimensions = shape.iter().filter(|&&dimension| dimension > 0);
        if dimensions.clone().try_fold(1usize, |n, &dimension| n.checked_mul(dimension)).is_none() {
            return Err(Problem::Overflow);
        }
        let (block_len, block_bytes) = match self {
            Self::Computable(dtype) => (dtype.block_len() as u64, dtype.block_bytes() as u64),
            Self::Other { block_len, block_bytes, .. } => (u64::from(block_len), u64::from(block_bytes)),
        };
        let columns = shape.last().map_or(1, |&c| c as u64);
        if !columns.is_multiple_of(block_len) {
            return Err(Problem::RaggedRow { columns, block_len, type_name: self.name() });
        }
        let rows = shape.iter().rev().skip(1).try_fold(1u64, |n, &d| n.checked_mul(d as u64));
        rows.and_then(|rows| columns.checked_div(block_len)?.checked_mul(rows))
            .and_then(|blocks| blocks.checked_mul(block_bytes))
            .ok_or(Problem::Overflow)
    }
}
