//! Weight matrices, packed once at load.

use crate::{DType, KernelError, Pool, dequantize_row};

/// Weights of shape `[rows, cols]`; a product computes one output value per row.
#[derive(Debug, Clone)]
pub struct Matrix {
    dtype: DType,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    data: Vec<u8>,
}

impl Matrix {
    /// Packs `rows` rows of `cols` values stored as `dtype`.
    ///
    /// # Errors
    /// When the shape is empty or overflows, a row is not a whole number of blocks, or `data` has the wrong length.
    pub fn pack(
        dtype: DType,
        rows: usize,
        cols: usize,
        data: &[u8],
        _pool: &Pool,
    ) -> Result<Self, KernelError> {
        if rows == 0 || cols == 0 {
            return Err(KernelError::BadShape { dtype, rows, cols });
        }
        let row_bytes = dtype.row_bytes(cols).ok_or(KernelError::PartialBlock { dtype, cols })?;
        let needed = row_bytes.checked_mul(rows).ok_or(KernelError::BadShape { dtype, rows, cols })?;
        if data.len() != needed {
            return Err(KernelError::WrongLength { dtype, rows, cols, needed, given: data.len() });
        }
        Ok(Self { dtype, rows, cols, row_bytes, data: data.to_vec() })
    }

    /// Output values of a product.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input values of a product.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The format of the weights.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes of memory held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Writes row `row` as floats, the same values that [`dequantize_row`] gives; used for embeddings.
    ///
    /// # Panics
    /// When `row` is out of range or `out` is not `cols` long.
    pub fn row_to_f32(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        assert_eq!(out.len(), self.cols, "room for a row");
        let bytes = &self.data[row * self.row_bytes..][..self.row_bytes];
        let done = dequantize_row(self.dtype, bytes, out);
        debug_assert!(done.is_ok(), "checked when packed");
    }
}
