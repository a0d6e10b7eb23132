//! From stored rows to 32-bit floats: the reference that every kernel is held against.

use half::{bf16, f16};

use crate::blocks::{Block, Shape};
use crate::{DType, KernelError};

/// Turns the bytes of a row (or several) into floats. `F8E4M3` values come without their block scales.
///
/// # Errors
/// When `bytes` is not exactly the size of `out.len()` values.
pub fn dequantize_row(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), KernelError> {
    let needed = dtype.row_bytes(out.len()).ok_or(KernelError::PartialBlock { dtype, cols: out.len() })?;
    if bytes.len() != needed {
        let given = bytes.len();
        return Err(KernelError::WrongLength { dtype, rows: 1, cols: out.len(), needed, given });
    }
    match dtype {
        DType::F32 => each(bytes, out, f32::from_le_bytes),
        DType::F16 => each(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
        DType::BF16 => each(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
        DType::F8E4M3 => each(bytes, out, |[b]| f8e4m3_to_f32(b)),
        _ => {
            let shape = Shape::of(dtype);
            let mut block = Block::new();
            let blocks = bytes.chunks_exact(dtype.block_bytes());
            for (bytes, out) in blocks.zip(out.chunks_exact_mut(dtype.block_len())) {
                block.read(dtype, bytes);
                dequantize_block(&block, shape, out);
            }
        }
    }
    Ok(())
}

/// The value of an 8-bit float with 4 exponent bits (bias 7) and 3 mantissa bits; it has no infinities and
/// one NaN per sign (`FP8 Formats for Deep Learning`, arXiv 2209.05433).
#[must_use]
pub fn f8e4m3_to_f32(bits: u8) -> f32 {
    let magnitude = u16::from(bits & 0x7f);
    if magnitude == 0x7f {
        return f32::NAN;
    }
    // Shifted into a half-precision float the exponent is off by its bias of 15 against 7.
    let value = f16::from_bits(magnitude << 7).to_f32() * 256.0;
    if bits & 0x80 == 0 { value } else { -value }
}

pub(crate) fn dequantize_block(block: &Block, shape: Shape, out: &mut [f32]) {
    let groups = out.chunks_exact_mut(shape.group).zip(block.q.chunks_exact(shape.group));
    for ((out, q), (scale, min)) in groups.zip(block.scale.iter().zip(&block.min)) {
        let scale = block.d * f32::from(*scale);
        let min = block.dmin * f32::from(*min);
        for (out, q) in out.iter_mut().zip(q) {
            *out = scale * f32::from(shape.value(*q)) - min;
        }
    }
}

fn each<const N: usize>(bytes: &[u8], out: &mut [f32], convert: impl Fn([u8; N]) -> f32) {
    for (bytes, out) in bytes.as_chunks::<N>().0.iter().zip(out) {
        *out = convert(*bytes);
    }
}
