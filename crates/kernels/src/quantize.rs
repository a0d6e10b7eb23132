//! From 32-bit floats to stored rows: for tests, writers and training.
//!
//! `Q4_0` to `Q8_0` follow ggml's reference quantisers bit for bit. The K formats and the table formats search
//! for the scale (and minimum) with the least squared error of each group; the bytes are not ggml's, which
//! weighs errors differently.

use half::{bf16, f16};

use crate::blocks::{Block, IQ4_VALUES, Shape};
use crate::{DType, KernelError};

/// Stores `x` as `dtype` in `out`. `F8E4M3` values are stored without block scales and saturate at 448.
///
/// # Errors
/// When `x` is not a whole number of blocks, `out` has the wrong length, or the format can only be read.
pub fn quantize_row(dtype: DType, x: &[f32], out: &mut [u8]) -> Result<(), KernelError> {
    let needed = dtype.row_bytes(x.len()).ok_or(KernelError::PartialBlock { dtype, cols: x.len() })?;
    if out.len() != needed {
        return Err(KernelError::WrongLength { dtype, rows: 1, cols: x.len(), needed, given: out.len() });
    }
    match dtype {
        DType::F32 => each(x, out, f32::to_le_bytes),
        DType::F16 => each(x, out, |x| f16::from_f32(x).to_le_bytes()),
        DType::BF16 => each(x, out, |x| bf16::from_f32(x).to_le_bytes()),
        DType::F8E4M3 => each(x, out, |x| [f32_to_f8e4m3(x)]),
        DType::MXFP4 | DType::TQ2_0 => return Err(KernelError::NoQuantiser { dtype }),
        _ if dtype.has_codebook() => return Err(KernelError::NoQuantiser { dtype }),
        _ => {
            let blocks = x.chunks_exact(dtype.block_len()).zip(out.chunks_exact_mut(dtype.block_bytes()));
            for (x, out) in blocks {
                quantize_block(dtype, x).write(dtype, out);
            }
        }
    }
    Ok(())
}

/// The nearest 8-bit float (ties to even), saturating at 448; see [`crate::f8e4m3_to_f32`].
fn f32_to_f8e4m3(x: f32) -> u8 {
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    let magnitude = x.abs();
    if magnitude.is_nan() {
        return sign | 0x7f;
    }
    let bits = if magnitude < 2.0_f32.powi(-6) {
        (magnitude * 512.0).round_ties_even() as u32
    } else {
        let bits = magnitude.min(448.0).to_bits();
        let rounded = bits + 0x7_ffff + ((bits >> 20) & 1);
        (rounded >> 20) - ((127 - 7) << 3)
    };
    sign | bits.min(0x7e) as u8
}

fn each<const N: usize>(x: &[f32], out: &mut [u8], convert: impl Fn(f32) -> [u8; N]) {
    for (x, out) in x.iter().zip(out.as_chunks_mut::<N>().0) {
        *out = convert(*x);
    }
}

fn quantize_block(dtype: DType, x: &[f32]) -> Block {
    match dtype {
        DType::Q4_0 => signed_by_peak(x, 8),
        DType::Q5_0 => signed_by_peak(x, 16),
        DType::Q4_1 => between_extremes(x, 15),
        DType::Q5_1 => between_extremes(x, 31),
        DType::Q8_0 | DType::Q8_K => bytes_by_peak(dtype, x),
        DType::IQ4_NL => table_block(x),
        DType::IQ4_XS => table_blocks_with_scales(x),
        DType::Q3_K => signed_groups(dtype, x, 32.0),
        DType::Q6_K => signed_groups(dtype, x, 128.0),
        _ => groups_with_minima(dtype, x),
    }
}

fn to_half(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// The value farthest from zero, with its sign; the first of equals, as in ggml.
fn peak(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |peak: f32, x| if x.abs() > peak.abs() { *x } else { peak })
}

fn signed_by_peak(x: &[f32], zero: u8) -> Block {
    let mut block = Block::new();
    let d = peak(x) / -f32::from(zero);
    let inverse = f64::from(inverse(d));
    for (q, x) in block.q.iter_mut().zip(x) {
        *q = (f64::from(*x) * inverse + f64::from(zero) + 0.5).clamp(0.0, f64::from(2 * zero - 1)) as u8;
    }
    block.d = to_half(d);
    block
}

fn between_extremes(x: &[f32], levels: u8) -> Block {
    let mut block = Block::new();
    let low = x.iter().copied().fold(f32::INFINITY, f32::min);
    let high = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let d = (high - low) / f32::from(levels);
    let inverse = inverse(d);
    for (q, x) in block.q.iter_mut().zip(x) {
        *q = ((x - low) * inverse + 0.5).clamp(0.0, f32::from(levels)) as u8;
    }
    block.d = to_half(d);
    block.dmin = -to_half(low);
    block.min = [1; 16];
    block
}

fn bytes_by_peak(dtype: DType, x: &[f32]) -> Block {
    let mut block = Block::new();
    let d = peak(x).abs() / 127.0;
    let inverse = inverse(d);
    for (q, x) in block.q.iter_mut().zip(x) {
        *q = ((x * inverse).round() as i8) as u8 ^ 0x80;
    }
    block.d = if dtype == DType::Q8_0 { to_half(d) } else { d };
    block
}

/// A scale for `x ≈ scale * q` with `q` from `candidates`' rounding, least in squared error.
fn best_scale(x: &[f32], full: f32, round: impl Fn(f32) -> f32) -> f32 {
    let peak = peak(x);
    if peak == 0.0 {
        return 0.0;
    }
    let mut best = (0.0_f32, 0.0_f32);
    for step in -9_i8..=9 {
        let inverse = -(full + 0.1 * f32::from(step)) / peak;
        let (mut product, mut square) = (0.0, 0.0);
        for x in x {
            let q = round(x * inverse);
            product += x * q;
            square += q * q;
        }
        // The error is Σx² - gain, for the scale product / square.
        let gain = if square > 0.0 { product * product / square } else { 0.0 };
        if gain > best.0 {
            best = (gain, product / square);
        }
    }
    best.1
}

/// `Q3_K` and `Q6_K`: signed values and signed scales per 16; `levels` is how far down scales reach.
fn signed_groups(dtype: DType, x: &[f32], levels: f32) -> Block {
    let mut block = Block::new();
    let zero = f32::from(Shape::of(dtype).zero);
    let mut scales = [0.0; 16];
    for (scale, x) in scales.iter_mut().zip(x.chunks_exact(16)) {
        *scale = best_scale(x, zero, |v| v.round().clamp(-zero, zero - 1.0));
    }
    block.d = to_half(peak(&scales) / -levels);
    let inverse_d = inverse(block.d);
    for (group, (x, q)) in x.chunks_exact(16).zip(block.q.chunks_exact_mut(16)).enumerate() {
        block.scale[group] = (scales[group] * inverse_d).round().clamp(-levels, levels - 1.0) as i8;
        let inverse = inverse(block.d * f32::from(block.scale[group]));
        for (q, x) in q.iter_mut().zip(x) {
            *q = ((x * inverse).round().clamp(-zero, zero - 1.0) + zero) as u8;
        }
    }
    block
}

/// A scale and minimum for `x ≈ scale * q - minimum`, both not negative, least in squared error.
fn best_scale_and_minimum(x: &[f32], levels: f32) -> (f32, f32) {
    let low = x.iter().copied().fold(0.0, f32::min);
    let high = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if high <= low {
        return (0.0, -low);
    }
    let count = x.len() as f32;
    let mut best = (f32::INFINITY, 0.0, 0.0);
    for step in -10_i8..=10 {
        let inverse = (levels + 0.1 * f32::from(step)) / (high - low);
        let quantised = |x: f32| ((x - low) * inverse).round().clamp(0.0, levels);
        let (mut sum_q, mut sum_qq, mut sum_x, mut sum_xq) = (0.0, 0.0, 0.0, 0.0);
        for x in x {
            let q = quantised(*x);
            sum_q += q;
            sum_qq += q * q;
            sum_x += x;
            sum_xq += x * q;
        }
        let determinant = count * sum_qq - sum_q * sum_q;
        if determinant <= 0.0 {
            continue;
        }
        let mut scale = (count * sum_xq - sum_x * sum_q) / determinant;
        let mut minimum = (scale * sum_q - sum_x) / count;
        if minimum < 0.0 {
            minimum = 0.0;
            scale = sum_xq / sum_qq;
        }
        let error = x.iter().map(|x| (scale * quantised(*x) - minimum - x).powi(2)).sum::<f32>();
        if error < best.0 {
            best = (error, scale, minimum);
        }
    }
    (best.1.max(0.0), best.2)
}

fn groups_with_minima(dtype: DType, x: &[f32]) -> Block {
    let mut block = Block::new();
    let group_len = Shape::of(dtype).group;
    let (levels, scale_levels) = match dtype {
        DType::Q2_K => (3.0, 15.0),
        DType::Q4_K => (15.0, 63.0),
        _ => (31.0, 63.0),
    };
    let (mut scales, mut minima) = ([0.0; 16], [0.0; 16]);
    for (group, x) in x.chunks_exact(group_len).enumerate() {
        (scales[group], minima[group]) = best_scale_and_minimum(x, levels);
    }
    block.d = to_half(peak(&scales) / scale_levels);
    block.dmin = to_half(peak(&minima) / scale_levels);
    let (inverse_d, inverse_dmin) = (inverse(block.d), inverse(block.dmin));
    for (group, (x, q)) in x.chunks_exact(group_len).zip(block.q.chunks_exact_mut(group_len)).enumerate() {
        block.scale[group] = (scales[group] * inverse_d).round().min(scale_levels) as i8;
        block.min[group] = (minima[group] * inverse_dmin).round().min(scale_levels) as u8;
        let inverse = inverse(block.d * f32::from(block.scale[group]));
        let minimum = block.dmin * f32::from(block.min[group]);
        for (q, x) in q.iter_mut().zip(x) {
            *q = ((x + minimum) * inverse).round().clamp(0.0, levels) as u8;
        }
    }
    block
}

/// Index of the nearest value of the table.
fn nearest_index(x: f32) -> u8 {
    let above = IQ4_VALUES.iter().position(|value| f32::from(*value) >= x).unwrap_or(15);
    let below = above.saturating_sub(1);
    let nearer_below = x - f32::from(IQ4_VALUES[below]) < f32::from(IQ4_VALUES[above]) - x;
    (if nearer_below { below } else { above }) as u8
}

fn nearest_value(x: f32) -> f32 {
    f32::from(IQ4_VALUES[usize::from(nearest_index(x))])
}

fn fill_from_table(x: &[f32], scale: f32, q: &mut [u8]) {
    let inverse = inverse(scale);
    for (q, x) in q.iter_mut().zip(x) {
        *q = nearest_index(x * inverse);
    }
}

/// The table reaches farther down than up, so both signs of the peak are tried.
fn best_table_scale(x: &[f32]) -> f32 {
    let error = |scale: f32| {
        let inverse = inverse(scale);
        x.iter().map(|x| (nearest_value(x * inverse) * scale - x).powi(2)).sum::<f32>()
    };
    let (down, up) = (best_scale(x, 127.0, nearest_value), best_scale(x, -113.0, nearest_value));
    if error(up) < error(down) { up } else { down }
}

fn table_block(x: &[f32]) -> Block {
    let mut block = Block::new();
    block.d = to_half(best_table_scale(x));
    let d = block.d;
    fill_from_table(x, d, &mut block.q[..32]);
    block
}

fn table_blocks_with_scales(x: &[f32]) -> Block {
    let mut block = Block::new();
    let mut scales = [0.0; 8];
    for (scale, x) in scales.iter_mut().zip(x.chunks_exact(32)) {
        *scale = best_table_scale(x);
    }
    block.d = to_half(peak(&scales) / -32.0);
    let inverse_d = inverse(block.d);
    for (group, (x, q)) in x.chunks_exact(32).zip(block.q.chunks_exact_mut(32)).enumerate() {
        block.scale[group] = (scales[group] * inverse_d).round().clamp(-32.0, 31.0) as i8;
        fill_from_table(x, block.d * f32::from(block.scale[group]), q);
    }
    block
}
