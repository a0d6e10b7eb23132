//! The formats a weight can be stored in, compatible with ggml's blocks.
//!
//! A row is a run of blocks; a block holds [`DType::block_len`] values in [`DType::block_bytes`] bytes.
//! Layouts are those of ggml's `ggml-common.h`.

use std::fmt;

/// How the values of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(non_camel_case_types, reason = "the names are those that files and people use")]
pub enum DType {
    /// 32-bit floats.
    F32,
    /// IEEE half-precision floats.
    F16,
    /// The upper half of 32-bit floats.
    BF16,
    /// 8-bit floats, 4 exponent and 3 mantissa bits, with one scale per 128 x 128 block kept beside them.
    F8E4M3,
    /// 4 bits, one f16 scale per 32.
    Q4_0,
    /// 4 bits, one f16 scale and minimum per 32.
    Q4_1,
    /// 5 bits, one f16 scale per 32.
    Q5_0,
    /// 5 bits, one f16 scale and minimum per 32.
    Q5_1,
    /// 8 bits, one f16 scale per 32.
    Q8_0,
    /// 2 bits, 4-bit scales and minima per 16 under f16 ones per 256.
    Q2_K,
    /// 3 bits, 6-bit scales per 16 under an f16 one per 256.
    Q3_K,
    /// 4 bits, 6-bit scales and minima per 32 under f16 ones per 256.
    Q4_K,
    /// 5 bits, 6-bit scales and minima per 32 under f16 ones per 256.
    Q5_K,
    /// 6 bits, 8-bit scales per 16 under an f16 one per 256.
    Q6_K,
    /// 8 bits, one f32 scale per 256.
    Q8_K,
    /// 4-bit indices into a table of 16 values, one f16 scale per 32.
    IQ4_NL,
    /// 4-bit indices into a table of 16 values, 6-bit scales per 32 under an f16 one per 256.
    IQ4_XS,
    /// 11-bit indices of eight values of -1, 0 or 1, shifted by an eighth; 3-bit scales per 32 under an f16 one per 256.
    IQ1_S,
    /// As `IQ1_S`, with a shift for each eight values and a scale per 16.
    IQ1_M,
    /// 8-bit indices of eight magnitudes and 7 bits for their signs; 4-bit scales per 32 under an f16 one per 256.
    IQ2_XXS,
    /// 9-bit indices of eight magnitudes and 7 bits for their signs; 4-bit scales per 16 under an f16 one per 256.
    IQ2_XS,
    /// 10-bit indices of eight magnitudes and their signs; 4-bit scales per 16 under an f16 one per 256.
    IQ2_S,
    /// 8-bit indices of four magnitudes, 7 bits for eight signs; 4-bit scales per 32 under an f16 one per 256.
    IQ3_XXS,
    /// 9-bit indices of four magnitudes and their signs; 4-bit scales per 32 under an f16 one per 256.
    IQ3_S,
    /// 4-bit floats of 2 exponent and 1 mantissa bits, one power of two per 32.
    MXFP4,
    /// -1, 0 or 1 in 2 bits, one f16 scale per 256.
    TQ2_0,
}

impl DType {
    /// Every format, in the order of the enumeration.
    pub const ALL: [Self; 26] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::F8E4M3,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::Q8_K,
        Self::IQ4_NL,
        Self::IQ4_XS,
        Self::IQ1_S,
        Self::IQ1_M,
        Self::IQ2_XXS,
        Self::IQ2_XS,
        Self::IQ2_S,
        Self::IQ3_XXS,
        Self::IQ3_S,
        Self::MXFP4,
        Self::TQ2_0,
    ];

    /// The name that GGUF tools print, such as `Q4_K`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::F8E4M3 => "F8_E4M3",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2_K => "Q2_K",
            Self::Q3_K => "Q3_K",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
            Self::Q8_K => "Q8_K",
            Self::IQ4_NL => "IQ4_NL",
            Self::IQ4_XS => "IQ4_XS",
            Self::IQ1_S => "IQ1_S",
            Self::IQ1_M => "IQ1_M",
            Self::IQ2_XXS => "IQ2_XXS",
            Self::IQ2_XS => "IQ2_XS",
            Self::IQ2_S => "IQ2_S",
            Self::IQ3_XXS => "IQ3_XXS",
            Self::IQ3_S => "IQ3_S",
            Self::MXFP4 => "MXFP4",
            Self::TQ2_0 => "TQ2_0",
        }
    }

    /// Values in a block.
    #[must_use]
    pub fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::F8E4M3 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::IQ4_NL | Self::MXFP4 => 32,
            _ => 256,
        }
    }

    /// Bytes in a block.
    #[must_use]
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::F8E4M3 => 1,
            Self::Q4_0 | Self::IQ4_NL => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
            Self::Q8_K => 292,
            Self::IQ4_XS => 136,
            Self::IQ1_S => 50,
            Self::IQ1_M => 56,
            Self::IQ2_XXS | Self::TQ2_0 => 66,
            Self::IQ2_XS => 74,
            Self::IQ2_S => 82,
            Self::IQ3_XXS => 98,
            Self::IQ3_S => 110,
            Self::MXFP4 => 17,
        }
    }

    /// Bytes of a row of `cols` values; `None` where `cols` is no multiple of the block or the size overflows.
    #[must_use]
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// The format with this number in ggml's `enum ggml_type`, where it is one that the kernels know.
    #[must_use]
    pub fn from_ggml(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.ggml_id() == Some(id))
    }

    /// The format's number in ggml's `enum ggml_type`; `None` for those that ggml has not.
    #[must_use]
    pub fn ggml_id(self) -> Option<u32> {
        Some(match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q2_K => 10,
            Self::Q3_K => 11,
            Self::Q4_K => 12,
            Self::Q5_K => 13,
            Self::Q6_K => 14,
            Self::Q8_K => 15,
            Self::IQ4_NL => 20,
            Self::IQ4_XS => 23,
            Self::IQ1_S => 19,
            Self::IQ1_M => 29,
            Self::IQ2_XXS => 16,
            Self::IQ2_XS => 17,
            Self::IQ2_S => 22,
            Self::IQ3_XXS => 18,
            Self::IQ3_S => 21,
            Self::MXFP4 => 39,
            Self::TQ2_0 => 35,
            Self::BF16 => 30,
            Self::F8E4M3 => return None,
        })
    }

    /// Whether values are looked up in a codebook, four or eight at a time.
    #[must_use]
    pub fn has_codebook(self) -> bool {
        matches!(
            self,
            Self::IQ1_S
                | Self::IQ1_M
                | Self::IQ2_XXS
                | Self::IQ2_XS
                | Self::IQ2_S
                | Self::IQ3_XXS
                | Self::IQ3_S
        )
    }

    /// Whether values are floats, one to a block.
    #[must_use]
    pub fn is_float(self) -> bool {
        self.block_len() == 1
    }
}

impl fmt::Display for DType {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ggml_numbers_are_unique_and_round_trip() {
        for dtype in DType::ALL {
            if let Some(id) = dtype.ggml_id() {
                assert_eq!(DType::from_ggml(id), Some(dtype));
            }
        }
        assert_eq!(DType::from_ggml(9999), None);
    }

    #[test]
    fn rows_are_whole_blocks() {
        assert_eq!(DType::Q4_K.row_bytes(512), Some(288));
        assert_eq!(DType::Q4_K.row_bytes(300), None);
        assert_eq!(DType::F32.row_bytes(usize::MAX), None);
    }
}
