//! The way back: one row's block out of a panel, for embeddings.

use half::f16;

use super::codebook_pack::{BLOCK_MAX, unpack_codebook_block};
use super::{CHUNK, Layout};
use crate::DType;
use crate::blocks::{Block, half_of_e8m0};
use crate::lanes::LANES;

/// Reads block `index` of row `row` of a panel into the common form; the inverse of packing.
pub(crate) fn read_block(
    dtype: DType,
    layout: Layout,
    panel: &[u8],
    index: usize,
    row: usize,
    block: &mut Block,
) {
    let chunks = dtype.block_len() / CHUNK;
    let (head, quants) = layout.block(index, chunks);
    if dtype.has_codebook() {
        let mut bytes = [0; BLOCK_MAX];
        let bytes = &mut bytes[..dtype.block_bytes()];
        unpack_codebook_block(dtype, row, &panel[head..], bytes);
        block.read(dtype, bytes);
        return;
    }
    read_head(dtype, &panel[head..head + layout.head_bytes], row, block);
    let quants = &panel[quants..];
    for (chunk, q) in
        quants.chunks_exact(layout.quant_bytes).zip(block.q.chunks_exact_mut(CHUNK)).take(chunks)
    {
        let words = read_chunk(dtype, chunk, row);
        for (q, word) in q.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *q = word.to_le_bytes();
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn read_chunk(dtype: DType, chunk: &[u8], row: usize) -> [u32; 8] {
    let plane = |v: usize| word(chunk, 64 * v + 4 * row);
    let nibbles = |s: usize| plane(s / 2) >> (4 * (s % 2)) & 0x0f0f_0f0f;
    let pairs = |first: usize, s: usize| plane(first + s / 4) >> (2 * (s % 4)) & 0x0303_0303;
    let bit = |first: usize, s: usize| plane(first) >> s & 0x0101_0101;
    std::array::from_fn(|s| match dtype {
        DType::Q4_0 | DType::Q4_1 | DType::IQ4_NL | DType::Q4_K | DType::IQ4_XS | DType::MXFP4 => nibbles(s),
        DType::Q5_0 | DType::Q5_1 | DType::Q5_K => nibbles(s) | bit(4, s) << 4,
        DType::Q6_K => nibbles(s) | pairs(4, s) << 4,
        DType::Q3_K => pairs(0, s) | bit(2, s) << 2,
        DType::Q2_K | DType::TQ2_0 => pairs(0, s),
        _ => plane(s),
    })
}

fn read_head(dtype: DType, head: &[u8], row: usize, block: &mut Block) {
    let half = |at: usize| f16::from_le_bytes([head[at + 2 * row], head[at + 2 * row + 1]]).to_f32();
    match dtype {
        DType::Q8_K => block.d = f32::from_bits(word(head, 4 * row)),
        DType::MXFP4 => block.d = half_of_e8m0(head[row]),
        _ => block.d = half(0),
    }
    match dtype {
        DType::Q4_1 | DType::Q5_1 => {
            block.dmin = -half(32);
            block.min = [1; 16];
        }
        DType::Q4_K | DType::Q5_K => {
            block.dmin = half(32);
            for group in 0..8 {
                block.scale[group] = six(&head[64..], row, group) as i8;
                block.min[group] = six(&head[64..], row, group + 8);
            }
        }
        DType::Q3_K => block.scale = std::array::from_fn(|group| six(&head[32..], row, group) as i8 - 32),
        DType::Q2_K => {
            block.dmin = half(32);
            for group in 0..16 {
                let byte = head[64 + LANES * group + row];
                (block.scale[group], block.min[group]) = ((byte & 15) as i8, byte >> 4);
            }
        }
        DType::Q6_K => block.scale = std::array::from_fn(|group| head[32 + LANES * group + row] as i8),
        DType::IQ4_XS => {
            let word = word(&head[32..], 4 * row);
            let half = u32::from(u16::from_le_bytes([head[96 + 2 * row], head[97 + 2 * row]]));
            for group in 0..8 {
                let scale = match group {
                    0..5 => word >> (6 * group) & 63,
                    5 | 6 => half >> (6 * (group - 5)) & 63,
                    _ => word >> 30 | half >> 12 << 2,
                };
                block.scale[group] = scale as i8 - 32;
            }
        }
        _ => {}
    }
}

/// See the packing of sixteen 6-bit values.
fn six(words: &[u8], row: usize, i: usize) -> u8 {
    let word = |w: usize| word(words, 64 * w + 4 * row);
    let value = if i == 15 {
        word(0) >> 30 | word(1) >> 30 << 2 | word(2) >> 30 << 4
    } else {
        word(i / 5) >> (6 * (i % 5)) & 63
    };
    value as u8
}
