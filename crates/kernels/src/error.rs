//! The one error type of this crate.

use crate::DType;

/// What can be wrong with weights handed to the kernels, or with the machine they run on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A row does not divide into whole blocks of its format.
    #[error("{dtype}: rows of {cols} values do not divide into blocks of {}; the file is damaged or its type is wrong", .dtype.block_len())]
    PartialBlock {
        /// The format.
        dtype: DType,
        /// Values in a row.
        cols: usize,
    },
    /// The bytes given are not as many as the shape needs.
    #[error("{dtype}: {rows} x {cols} values need {needed} bytes, but {given} were given")]
    WrongLength {
        /// The format.
        dtype: DType,
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
        /// Bytes that the shape needs.
        needed: usize,
        /// Bytes there are.
        given: usize,
    },
    /// A slice for results is not as long as the row.
    #[error("{dtype}: the bytes hold {values} values, but there is room for {room}")]
    WrongRoom {
        /// The format.
        dtype: DType,
        /// Values that the bytes hold.
        values: usize,
        /// Length of the slice given.
        room: usize,
    },
    /// The shape overflows the address space, or is empty.
    #[error("a matrix of {rows} x {cols} {dtype} values is empty or larger than memory can address")]
    BadShape {
        /// The format.
        dtype: DType,
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
    },
    /// The format has no quantiser.
    #[error("{dtype} weights can be read but not written; write Q8_0 or another type instead")]
    NoQuantiser {
        /// The format.
        dtype: DType,
    },
    /// A format that needs block scales beside it came without them.
    #[error("{dtype} weights need block scales: {reason}")]
    BadScales {
        /// The format.
        dtype: DType,
        /// What is wrong with the scales.
        reason: &'static str,
    },
    /// A weight is not a number.
    #[error("{dtype}: the value at row {row} is not a finite number; the file is damaged, fetch it again")]
    NotFinite {
        /// The format.
        dtype: DType,
        /// The row it is in.
        row: usize,
    },
    /// Expert matrices of one stack differ.
    #[error("expert {index} differs from expert 0 in shape or type")]
    UnequalExperts {
        /// The expert that differs.
        index: usize,
    },
    /// Memory for the packed weights could not be had.
    #[error("{bytes} bytes for packed weights could not be allocated; use a smaller model or free memory")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// `LEVAIN_KERNELS` names something unknown.
    #[error("LEVAIN_KERNELS is {value:?}; use scalar, neon, avx2, avxvnni or avx512, or unset it")]
    UnknownIsa {
        /// The variable's value.
        value: String,
    },
    /// `LEVAIN_KERNELS` asks for instructions that the processor lacks.
    #[error("LEVAIN_KERNELS asks for {wanted}, but this processor lacks {missing}; unset it, or use {best}")]
    IsaMissing {
        /// What was asked for.
        wanted: &'static str,
        /// The processor features that are not there.
        missing: String,
        /// The best that would work.
        best: &'static str,
    },
    /// `LEVAIN_PREFETCH` is nothing that there are kernels for.
    #[error(
        "LEVAIN_PREFETCH is {value:?}; use HINT:BYTES:PANELS, such as t0:512:8 (t0 up to 65536 bytes ahead of 1 to 8 \
         panels in turn), t1:4096:1 (one panel) or nta:4096:1 (only so), or unset it"
    )]
    UnknownPrefetch {
        /// The variable's value.
        value: String,
    },
    /// `LEVAIN_BF16_DOT` is neither on nor off.
    #[error("LEVAIN_BF16_DOT is {value:?}; use on or off, or unset it")]
    UnknownSwitch {
        /// The variable's value.
        value: String,
    },
    /// `LEVAIN_BF16_DOT` asks for an instruction that the processor lacks.
    #[error("LEVAIN_BF16_DOT is on, but this processor lacks AVX512-BF16; unset it")]
    NoBf16Dot,
    /// A cache layout has a field out of its range.
    #[error("KV cache layout: {field} is {value} but must be {want}")]
    KvLayout {
        /// The field.
        field: &'static str,
        /// What it is.
        value: usize,
        /// What it may be.
        want: &'static str,
    },
    /// Memory for the KV cache could not be had.
    #[error(
        "{bytes} bytes for the KV cache could not be allocated; use a shorter context or a smaller cache format"
    )]
    NoMemoryForCache {
        /// Bytes asked for.
        bytes: usize,
    },
}
