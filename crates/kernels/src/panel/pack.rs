//! From rows as files store them to panels.

use super::codebook_pack::pack_codebook_block;
use super::{CHUNK, Layout};
use crate::DType;
use crate::blocks::Block;
use crate::lanes::LANES;

/// The scale of `MXFP4` that is no number.
const E8M0_NAN: u8 = 255;

/// Packs up to 16 rows of a quantised format; rows that are missing stay zero, which is a scale of zero.
///
/// # Errors
/// The first row with a scale that is not a finite number.
pub(crate) fn pack_quants(
    dtype: DType,
    layout: Layout,
    cols: usize,
    rows: &[u8],
    panel: &mut [u8],
) -> Result<(), usize> {
    let row_bytes = cols / dtype.block_len() * dtype.block_bytes();
    let chunks = dtype.block_len() / CHUNK;
    let mut block = Block::new();
    for (row, bytes) in rows.chunks_exact(row_bytes).enumerate() {
        for (index, bytes) in bytes.chunks_exact(dtype.block_bytes()).enumerate() {
            block.read(dtype, bytes);
            let no_number = dtype == DType::MXFP4 && bytes[0] == E8M0_NAN;
            if no_number || !block.d.is_finite() || !block.dmin.is_finite() {
                return Err(row);
            }
            let (head, quants) = layout.block(index, chunks);
            if dtype.has_codebook() {
                pack_codebook_block(dtype, bytes, row, &mut panel[head..]);
                continue;
            }
            pack_head(dtype, &block, bytes, row, &mut panel[head..head + layout.head_bytes]);
            let chunks = panel[quants..].chunks_exact_mut(layout.quant_bytes).take(chunks);
            for (q, chunk) in block.q.chunks_exact(CHUNK).zip(chunks) {
                pack_chunk(dtype, q, row, chunk);
            }
        }
    }
    Ok(())
}

/// Packs up to 16 rows of a float format whose values have `N` bytes.
pub(crate) fn pack_floats<const N: usize>(cols: usize, rows: &[u8], panel: &mut [u8]) {
    for (row, values) in rows.chunks_exact(cols * N).enumerate() {
        let columns = panel.chunks_exact_mut(LANES * N);
        for (value, column) in values.as_chunks::<N>().0.iter().zip(columns) {
            column[row * N..][..N].copy_from_slice(value);
        }
    }
}

/// Packs up to 16 rows of BF16, two columns at a time; where the last is alone, a zero stands beside it.
pub(crate) fn pack_pairs(cols: usize, rows: &[u8], panel: &mut [u8]) {
    for (row, values) in rows.chunks_exact(cols * 2).enumerate() {
        for (pair, columns) in values.chunks(4).zip(panel.chunks_exact_mut(LANES * 4)) {
            columns[row * 4..][..pair.len()].copy_from_slice(pair);
        }
    }
}

fn pack_chunk(dtype: DType, q: &[u8], row: usize, chunk: &mut [u8]) {
    let mut words = [0_u32; CHUNK / 4];
    for (word, bytes) in words.iter_mut().zip(q.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    match dtype {
        DType::Q4_0 | DType::Q4_1 | DType::IQ4_NL | DType::Q4_K | DType::IQ4_XS | DType::MXFP4 => {
            nibbles(&words, row, chunk)
        }
        DType::Q5_0 | DType::Q5_1 | DType::Q5_K => {
            nibbles(&words, row, chunk);
            bits(&words, 4, row, &mut chunk[256..]);
        }
        DType::Q6_K => {
            nibbles(&words, row, chunk);
            pairs(&words, 4, row, &mut chunk[256..]);
        }
        DType::Q3_K => {
            pairs(&words, 0, row, chunk);
            bits(&words, 2, row, &mut chunk[128..]);
        }
        DType::Q2_K | DType::TQ2_0 => pairs(&words, 0, row, chunk),
        _ => words.iter().enumerate().for_each(|(v, word)| put(*word, v, row, chunk)),
    }
}

fn put(word: u32, vector: usize, row: usize, chunk: &mut [u8]) {
    chunk[64 * vector + 4 * row..][..4].copy_from_slice(&word.to_le_bytes());
}

fn nibbles(words: &[u32; 8], row: usize, chunk: &mut [u8]) {
    for (v, pair) in words.as_chunks::<2>().0.iter().enumerate() {
        put(pair[0] & 0x0f0f_0f0f | (pair[1] & 0x0f0f_0f0f) << 4, v, row, chunk);
    }
}

fn pairs(words: &[u32; 8], from: u32, row: usize, chunk: &mut [u8]) {
    for (v, four) in words.as_chunks::<4>().0.iter().enumerate() {
        let word = four.iter().rev().fold(0, |all, word| all << 2 | word >> from & 0x0303_0303);
        put(word, v, row, chunk);
    }
}

fn bits(words: &[u32; 8], from: u32, row: usize, chunk: &mut [u8]) {
    put(words.iter().rev().fold(0, |all, word| all << 1 | word >> from & 0x0101_0101), 0, row, chunk);
}

/// Copies the head's fields of one row: the halves as they stand, 6-bit scales into words (see [`sixes`]).
fn pack_head(dtype: DType, block: &Block, bytes: &[u8], row: usize, head: &mut [u8]) {
    let mut half = |from: usize, at: usize| head[at + 2 * row..][..2].copy_from_slice(&bytes[from..from + 2]);
    match dtype {
        DType::Q4_0 | DType::Q5_0 | DType::Q8_0 | DType::IQ4_NL => half(0, 0),
        DType::Q4_1 | DType::Q5_1 => {
            half(0, 0);
            half(2, 32);
        }
        DType::Q4_K | DType::Q5_K => {
            half(0, 0);
            half(2, 32);
            let values = std::array::from_fn(|i| if i < 8 { block.scale[i] as u8 } else { block.min[i - 8] });
            sixes(&values, row, &mut head[64..]);
        }
        DType::Q3_K => {
            half(108, 0);
            sixes(&block.scale.map(|scale| (scale + 32) as u8), row, &mut head[32..]);
        }
        DType::Q2_K => {
            half(80, 0);
            half(82, 32);
            for (group, byte) in bytes[..16].iter().enumerate() {
                head[64 + LANES * group + row] = *byte;
            }
        }
        DType::Q6_K => {
            half(208, 0);
            for (group, scale) in block.scale.iter().enumerate() {
                head[32 + LANES * group + row] = *scale as u8;
            }
        }
        DType::IQ4_XS => {
            half(0, 0);
            eight_sixes(&block.scale, row, &mut head[32..]);
        }
        DType::MXFP4 => head[row] = bytes[0],
        DType::TQ2_0 => half(64, 0),
        _ => head[4 * row..4 * row + 4].copy_from_slice(&bytes[..4]),
    }
}

/// Sixteen 6-bit values a row in three words: five in each, and the last in the bits left over.
fn sixes(values: &[u8; 16], row: usize, out: &mut [u8]) {
    for word in 0..3 {
        let five = values[5 * word..5 * word + 5].iter().rev().fold(0, |all, v| all << 6 | u32::from(*v));
        let rest = u32::from(values[15] >> (2 * word) & 3) << 30;
        out[64 * word + 4 * row..][..4].copy_from_slice(&(five | rest).to_le_bytes());
    }
}

/// Eight 6-bit values a row in a word and a half: five in the word, two in the half, and the last in the bits
/// left over, its lowest two in the word.
fn eight_sixes(scale: &[i8; 16], row: usize, out: &mut [u8]) {
    let value = |i: usize| (scale[i] + 32) as u32;
    let word = (0..5).rev().fold(0, |all, i| all << 6 | value(i)) | (value(7) & 3) << 30;
    let half = value(5) | value(6) << 6 | value(7) >> 2 << 12;
    out[4 * row..4 * row + 4].copy_from_slice(&word.to_le_bytes());
    out[64 + 2 * row..66 + 2 * row].copy_from_slice(&(half as u16).to_le_bytes());
}
