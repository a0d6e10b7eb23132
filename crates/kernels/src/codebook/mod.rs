//! The i-quants of 1 to 3 bits: indices into codebooks of four or eight values.
//!
//! A block decodes to small integers, one small integer scale per 16 or 32 of them and one f32 scale, which is the
//! form that all other formats have too. Layouts and codebooks are those of ggml's `ggml-common.h`.

mod grids;
mod grids_table;

pub(crate) use grids::{IQ1, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, Octets, Quads, SIGNS};

use half::f16;

use crate::DType;
use crate::blocks::Block;

/// Takes one block of a codebook format apart; `bytes` holds exactly [`DType::block_bytes`] bytes.
pub(crate) fn read(dtype: DType, bytes: &[u8], block: &mut Block) {
    match dtype {
        DType::IQ1_S => iq1_s(bytes, block),
        DType::IQ1_M => iq1_m(bytes, block),
        DType::IQ2_XXS => iq2_xxs(bytes, block),
        DType::IQ2_XS => iq2_xs(bytes, block),
        DType::IQ2_S => iq2_s(bytes, block),
        DType::IQ3_XXS => iq3_xxs(bytes, block),
        DType::IQ3_S => iq3_s(bytes, block),
        _ => unreachable!("{dtype} has no codebook"),
    }
}

/// What the integers of a block are multiplied with: `d` times this; a power of two.
pub(crate) const fn unit(dtype: DType) -> f32 {
    match dtype {
        DType::IQ3_S => 1.0,
        DType::IQ3_XXS => 0.25,
        _ => 0.125,
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

impl Block {
    fn set_d(&mut self, dtype: DType, bits: u16) {
        self.d = f16::from_bits(bits).to_f32() * unit(dtype);
    }

    fn put_octet<const N: usize>(&mut self, octet: usize, grid: &Octets<N>, index: usize, signs: u8) {
        let word = grid.entry(index >> 8, index as u8, signs);
        self.q[8 * octet..8 * octet + 8].copy_from_slice(&word.to_le_bytes());
    }

    fn put_quad<const N: usize>(&mut self, quad: usize, grid: &Quads<N>, index: usize, signs: u8) {
        let word = grid.entry(index >> 8, index as u8, signs);
        self.q[4 * quad..4 * quad + 4].copy_from_slice(&word.to_le_bytes());
    }
}

/// Scales are odd.
fn odd(packed: u32) -> i8 {
    (2 * packed + 1) as i8
}

fn odd_nibbles(packed: &[u8], scale: &mut [i8; 16]) {
    for (pair, byte) in scale.chunks_exact_mut(2).zip(packed) {
        pair[0] = odd(u32::from(byte & 15));
        pair[1] = odd(u32::from(byte >> 4));
    }
}

/// 66 bytes: f16 d; per 32 values four codebook indices, then four 7-bit sign patterns and a 4-bit scale.
fn iq2_xxs(bytes: &[u8], block: &mut Block) {
    block.set_d(DType::IQ2_XXS, u16_at(bytes, 0));
    for group in 0..8 {
        let signs_and_scale = u32_at(bytes, 6 + 8 * group);
        block.scale[group] = odd(signs_and_scale >> 28);
        for k in 0..4 {
            let signs = SIGNS[(signs_and_scale >> (7 * k) & 127) as usize];
            block.put_octet(4 * group + k, &IQ2_XXS, usize::from(bytes[2 + 8 * group + k]), signs);
        }
    }
}

/// 74 bytes: f16 d; 32 u16 of 9-bit index and 7-bit sign pattern; 4-bit scales per 16.
fn iq2_xs(bytes: &[u8], block: &mut Block) {
    block.set_d(DType::IQ2_XS, u16_at(bytes, 0));
    odd_nibbles(&bytes[66..74], &mut block.scale);
    for octet in 0..32 {
        let code = usize::from(u16_at(bytes, 2 + 2 * octet));
        block.put_octet(octet, &IQ2_XS, code & 511, SIGNS[code >> 9]);
    }
}

/// 82 bytes: f16 d; low index bytes, sign bytes, two high index bits each; 4-bit scales per 16.
fn iq2_s(bytes: &[u8], block: &mut Block) {
    block.set_d(DType::IQ2_S, u16_at(bytes, 0));
    odd_nibbles(&bytes[74..82], &mut block.scale);
    for octet in 0..32 {
        let high = usize::from(bytes[66 + octet / 4] >> (2 * (octet % 4)) & 3);
        block.put_octet(octet, &IQ2_S, usize::from(bytes[2 + octet]) | high << 8, bytes[34 + octet]);
    }
}

/// 98 bytes: f16 d; 64 codebook indices of four values; per 32 values four sign patterns and a 4-bit scale.
fn iq3_xxs(bytes: &[u8], block: &mut Block) {
    block.set_d(DType::IQ3_XXS, u16_at(bytes, 0));
    for group in 0..8 {
        let signs_and_scale = u32_at(bytes, 66 + 4 * group);
        block.scale[group] = odd(signs_and_scale >> 28);
        for k in 0..4 {
            let signs = SIGNS[(signs_and_scale >> (7 * k) & 127) as usize];
            for half in 0..2 {
                let quad = 8 * group + 2 * k + half;
                block.put_quad(quad, &IQ3_XXS, usize::from(bytes[2 + quad]), signs >> (4 * half));
            }
        }
    }
}

/// 110 bytes: f16 d; low index bytes, one high index bit each, sign bytes, 4-bit scales per 32.
fn iq3_s(bytes: &[u8], block: &mut Block) {
    block.set_d(DType::IQ3_S, u16_at(bytes, 0));
    odd_nibbles(&bytes[106..110], &mut block.scale);
    for quad in 0..64 {
        let high = usize::from(bytes[66 + quad / 8] >> (quad % 8) & 1);
        let signs = bytes[74 + quad / 2] >> (4 * (quad % 2));
        block.put_quad(quad, &IQ3_S, usize::from(bytes[2 + quad]) | high << 8, signs);
    }
}

/// 50 bytes: f16 d; low index bytes; per 32 values a u16 of four 3-bit high indices, 3-bit scale, shift sign.
fn iq1_s(bytes: &[u8], block: &mut Block) {
    block.set_d(DType::IQ1_S, u16_at(bytes, 0));
    for group in 0..8 {
        let high = u16_at(bytes, 34 + 2 * group);
        block.scale[group] = odd(u32::from(high >> 12 & 7));
        let up = if high & 0x8000 == 0 { 0xff } else { 0 };
        for k in 0..4 {
            let octet = 4 * group + k;
            let index = usize::from(bytes[2 + octet]) | usize::from(high >> (3 * k) & 7) << 8;
            block.put_octet(octet, &IQ1, index, up);
        }
    }
}

/// 56 bytes: low index bytes; nibbles of 3-bit high index and shift sign; 3-bit scales per 16, in four u16
/// whose top nibbles together are the f16 d.
fn iq1_m(bytes: &[u8], block: &mut Block) {
    let words: [u16; 4] = std::array::from_fn(|word| u16_at(bytes, 48 + 2 * word));
    let bits = words.iter().enumerate().fold(0, |bits, (word, packed)| bits | packed >> 12 << (4 * word));
    block.set_d(DType::IQ1_M, bits);
    for (group, scale) in block.scale.iter_mut().enumerate() {
        *scale = odd(u32::from(words[group / 4] >> (3 * (group % 4)) & 7));
    }
    for octet in 0..32 {
        let high = bytes[32 + octet / 2] >> (4 * (octet % 2));
        let index = usize::from(bytes[octet]) | usize::from(high & 7) << 8;
        block.put_octet(octet, &IQ1, index, if high & 8 == 0 { 0xff } else { 0 });
    }
}

/// `IQ1_M`'s scales with d first and sixteen scales of 3 bits behind it, as panels want them.
pub(crate) fn iq1_m_scales_apart(packed: [u8; 8]) -> [u8; 8] {
    let packed = u64::from_le_bytes(packed);
    let (mut d, mut scales) = (0, 0);
    for word in 0..4 {
        let bits = packed >> (16 * word) & 0xffff;
        d |= bits >> 12 << (4 * word);
        scales |= (bits & 0xfff) << (12 * word);
    }
    (d | scales << 16).to_le_bytes()
}

/// The way back.
pub(crate) fn iq1_m_scales_together(apart: [u8; 8]) -> [u8; 8] {
    let apart = u64::from_le_bytes(apart);
    let (d, scales) = (apart & 0xffff, apart >> 16);
    let word = |word: u32| scales >> (12 * word) & 0xfff | (d >> (4 * word) & 15) << 12;
    (word(0) | word(1) << 16 | word(2) << 32 | word(3) << 48).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dequantize_row;

    /// Random blocks of each format with the values that the Python package `gguf` gives for them.
    const BLOCKS: &[u8] = include_bytes!("../../tests/fixtures/codebook_blocks.bin");

    #[test]
    fn blocks_decode_as_the_reference_decodes_them() {
        let (mut rest, mut formats) = (BLOCKS, 0);
        while !rest.is_empty() {
            let dtype = DType::from_ggml(u32_at(rest, 0)).unwrap();
            let (block_len, block_bytes) = (dtype.block_len(), dtype.block_bytes());
            let count = u32_at(rest, 4) as usize;
            let (blocks, tail) = rest[8..].split_at(count * block_bytes);
            let (expected, tail) = tail.split_at(count * block_len * 4);
            rest = tail;
            formats += 1;
            let mut values = vec![f32::NAN; count * block_len];
            dequantize_row(dtype, blocks, &mut values).unwrap();
            for (i, got) in values.iter().enumerate() {
                let want = f32::from_bits(u32_at(expected, 4 * i));
                // A product of zero may have either sign.
                let same = got.to_bits() == want.to_bits() || (*got == 0.0 && want == 0.0);
                assert!(same, "{dtype} value {i}: {got} and not {want}");
            }
        }
        assert_eq!(formats, 8);
    }

    #[test]
    fn scales_that_were_taken_apart_come_together_again() {
        for packed in
            [[0; 8], [0xff; 8], [1, 2, 3, 4, 5, 6, 7, 8], [0x80, 0x7f, 0xee, 0x31, 9, 0xa0, 0x55, 0xc7]]
        {
            assert_eq!(iq1_m_scales_together(iq1_m_scales_apart(packed)), packed);
        }
    }
}
