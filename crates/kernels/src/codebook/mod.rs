//! The formats whose values are looked up in a codebook: the 1- to 3-bit i-quants and MXFP4.
//!
//! A block decodes to small integers and one f32 scale per 16 of them, which is all that a matrix product
//! needs: `value[i] = scale[i / 16] * integer[i]`. Layouts and codebooks are those of ggml's `ggml-common.h`;
//! MXFP4 is the E2M1 format of the OCP Microscaling specification 1.0.

mod grids;
mod grids_table;

use half::f16;

use grids::{Grid, SIGNED};

/// Values that share one scale.
pub(crate) const SCALE_LEN: usize = 16;

/// Values of an MXFP4 code, doubled so that they are integers.
const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// A format that is decoded by lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(non_camel_case_types, reason = "the names are those that files and people use")]
pub(crate) enum Codebook {
    IQ1_S,
    IQ1_M,
    IQ2_XXS,
    IQ2_XS,
    IQ2_S,
    IQ3_XXS,
    IQ3_S,
    MXFP4,
}

impl Codebook {
    /// Decodes one block: `block` holds the block's bytes, `values` its length in values (256, or 32 for
    /// MXFP4), `scales` one for each 16 values.
    ///
    /// The lengths are the caller's to get right; a short slice is a bug and panics.
    pub(crate) fn decode(self, block: &[u8], values: &mut [i8], scales: &mut [f32]) {
        match self {
            Self::IQ1_S => iq1_s(block, values, scales),
            Self::IQ1_M => iq1_m(block, values, scales),
            Self::IQ2_XXS => iq2_xxs(block, values, scales),
            Self::IQ2_XS => iq2_xs(block, values, scales),
            Self::IQ2_S => iq2_s(block, values, scales),
            Self::IQ3_XXS => iq3_xxs(block, values, scales),
            Self::IQ3_S => iq3_s(block, values, scales),
            Self::MXFP4 => mxfp4(block, values, scales),
        }
    }
}

fn f16_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// Writes eight values whose signs are the bits of `signs`.
fn put_signed(values: &mut [i8], magnitudes: &[i8], signs: u8) {
    for (bit, (value, magnitude)) in values.iter_mut().zip(magnitudes).enumerate() {
        *value = if signs >> bit & 1 == 0 { *magnitude } else { -*magnitude };
    }
}

/// 66 bytes: f16 d; per 32 values four codebook indices, then four 7-bit sign patterns and a 4-bit scale.
fn iq2_xxs(block: &[u8], values: &mut [i8], scales: &mut [f32]) {
    let d = f16_at(block, 0);
    for group in 0..8 {
        let indices = &block[2 + 8 * group..][..4];
        let signs_and_scale = u32_at(block, 6 + 8 * group);
        let scale = d * (0.5 + (signs_and_scale >> 28) as f32) * 0.25;
        scales[2 * group..][..2].fill(scale);
        for (quarter, index) in indices.iter().enumerate() {
            let signs = SIGNED[(signs_and_scale >> (7 * quarter) & 127) as usize];
            put_signed(
                &mut values[32 * group + 8 * quarter..][..8],
                Grid::iq2_xxs().at(usize::from(*index)),
                signs,
            );
        }
    }
}

/// 74 bytes: f16 d; 32 u16 of 9-bit index and 7-bit sign pattern; 4-bit scales per 16.
fn iq2_xs(block: &[u8], values: &mut [i8], scales: &mut [f32]) {
    let d = f16_at(block, 0);
    nibble_scales(&block[66..74], scales, |nibble| d * (0.5 + nibble) * 0.25);
    for (eighth, out) in values.chunks_exact_mut(8).enumerate() {
        let code = usize::from(u16_at(block, 2 + 2 * eighth));
        put_signed(out, Grid::iq2_xs().at(code & 511), SIGNED[code >> 9]);
    }
}

/// 82 bytes: f16 d; low index bytes, sign bytes, two high index bits each; 4-bit scales per 16.
fn iq2_s(block: &[u8], values: &mut [i8], scales: &mut [f32]) {
    let d = f16_at(block, 0);
    nibble_scales(&block[74..82], scales, |nibble| d * (0.5 + nibble) * 0.25);
    for (eighth, out) in values.chunks_exact_mut(8).enumerate() {
        let high = block[66 + eighth / 4] >> (2 * (eighth % 4)) & 3;
        let index = usize::from(block[2 + eighth]) | usize::from(high) << 8;
        put_signed(out, Grid::iq2_s().at(index), block[34 + eighth]);
    }
}

/// 98 bytes: f16 d; 64 codebook indices of four values; per 32 values four sign patterns and a 4-bit scale.
fn iq3_xxs(block: &[u8], values: &mut [i8], scales: &mut [f32]) {
    let d = f16_at(block, 0);
    for group in 0..8 {
        let signs_and_scale = u32_at(block, 66 + 4 * group);
        scales[2 * group..][..2].fill(d * (0.5 + (signs_and_scale >> 28) as f32) * 0.5);
        for quarter in 0..4 {
            let signs = SIGNED[(signs_and_scale >> (7 * quarter) & 127) as usize];
            let out = &mut values[32 * group + 8 * quarter..][..8];
            let indices = &block[2 + 8 * group + 2 * quarter..][..2];
            put_signed(&mut out[..4], Grid::iq3_xxs().at(usize::from(indices[0])), signs);
            put_signed(&mut out[4..], Grid::iq3_xxs().at(usize::from(indices[1])), signs >> 4);
        }
    }
}

/// 110 bytes: f16 d; low index bytes, one high index bit each, sign bytes, 4-bit scales per 32.
fn iq3_s(block: &[u8], values: &mut [i8], scales: &mut [f32]) {
    let d = f16_at(block, 0);
    for (group, scale) in scales.chunks_exact_mut(2).enumerate() {
        let nibble = block[106 + group / 2] >> (4 * (group % 2)) & 15;
        scale.fill(d * f32::from(1 + 2 * nibble));
    }
    for (quarter, out) in values.chunks_exact_mut(4).enumerate() {
        let high = block[66 + quarter / 8] >> (quarter % 8) & 1;
        let index = usize::from(block[2 + quarter]) | usize::from(high) << 8;
        put_signed(out, Grid::iq3_s().at(index), block[74 + quarter / 2] >> (4 * (quarter % 2)));
    }
}

/// Values of the 1-bit formats are -1, 0 or 1 plus or minus an eighth: kept as eighths.
fn put_eighths(values: &mut [i8], ternary: &[i8], minus: bool) {
    for (value, trit) in values.iter_mut().zip(ternary) {
        *value = 8 * *trit + if minus { -1 } else { 1 };
    }
}

/// 50 bytes: f16 d; low index bytes; per 32 values a u16 of four 3-bit high indices, 3-bit scale, shift sign.
fn iq1_s(block: &[u8], values: &mut [i8], scales: &mut [f32]) {
    let d = f16_at(block, 0);
    for group in 0..8 {
        let high = u16_at(block, 34 + 2 * group);
        scales[2 * group..][..2].fill(d * f32::from(2 * (high >> 12 & 7) + 1) * 0.125);
        for quarter in 0..4 {
            let index =
                usize::from(block[2 + 4 * group + quarter]) | usize::from(high >> (3 * quarter) & 7) << 8;
            let out = &mut values[32 * group + 8 * quarter..][..8];
            put_eighths(out, Grid::iq1().at(index), high & 0x8000 != 0);
        }
    }
}

/// 56 bytes: low index bytes; nibbles of 3-bit high index and shift sign; 3-bit scales per 16, in four u16
/// whose top nibbles together are the f16 d.
fn iq1_m(block: &[u8], values: &mut [i8], scales: &mut [f32]) {
    let words: [u16; 4] = std::array::from_fn(|word| u16_at(block, 48 + 2 * word));
    let bits = words.iter().enumerate().fold(0, |bits, (word, packed)| bits | packed >> 12 << (4 * word));
    let d = f16::from_bits(bits).to_f32();
    for (sixteenth, scale) in scales.iter_mut().enumerate() {
        let packed = words[sixteenth / 4] >> (3 * (sixteenth % 4)) & 7;
        *scale = d * f32::from(2 * packed + 1) * 0.125;
    }
    for (eighth, out) in values.chunks_exact_mut(8).enumerate() {
        let high = block[32 + eighth / 2] >> (4 * (eighth % 2));
        let index = usize::from(block[eighth]) | usize::from(high & 7) << 8;
        put_eighths(out, Grid::iq1().at(index), high & 8 != 0);
    }
}

/// 17 bytes: an E8M0 exponent; 32 E2M1 codes, the low nibbles first.
fn mxfp4(block: &[u8], values: &mut [i8], scales: &mut [f32]) {
    scales.fill(half_of_e8m0(block[0]));
    let (low, high) = values.split_at_mut(16);
    for ((code, low), high) in block[1..17].iter().zip(low).zip(high) {
        *low = E2M1[usize::from(code & 15)];
        *high = E2M1[usize::from(code >> 4)];
    }
}

/// 2^(exponent - 128): half of the format's scale, because [`E2M1`] is doubled. The two smallest are subnormal.
fn half_of_e8m0(exponent: u8) -> f32 {
    let bits = match exponent {
        0 | 1 => 0x0020_0000 << exponent,
        _ => u32::from(exponent - 1) << 23,
    };
    f32::from_bits(bits)
}

fn nibble_scales(packed: &[u8], scales: &mut [f32], scale: impl Fn(f32) -> f32) {
    for (pair, byte) in scales.chunks_exact_mut(2).zip(packed) {
        pair[0] = scale(f32::from(byte & 15));
        pair[1] = scale(f32::from(byte >> 4));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random blocks of each format with the values that the Python package `gguf` gives for them.
    const BLOCKS: &[u8] = include_bytes!("../../tests/fixtures/codebook_blocks.bin");

    #[test]
    fn blocks_decode_as_the_reference_decodes_them() {
        let formats = [
            (19, Codebook::IQ1_S, 256, 50),
            (29, Codebook::IQ1_M, 256, 56),
            (16, Codebook::IQ2_XXS, 256, 66),
            (17, Codebook::IQ2_XS, 256, 74),
            (22, Codebook::IQ2_S, 256, 82),
            (18, Codebook::IQ3_XXS, 256, 98),
            (21, Codebook::IQ3_S, 256, 110),
            (39, Codebook::MXFP4, 32, 17),
        ];
        let mut rest = BLOCKS;
        for (id, codebook, block_len, block_bytes) in formats {
            assert_eq!(u32_at(rest, 0), id);
            let count = u32_at(rest, 4) as usize;
            let (blocks, tail) = rest[8..].split_at(count * block_bytes);
            let (expected, tail) = tail.split_at(count * block_len * 4);
            rest = tail;
            let (mut values, mut scales) = (vec![0; block_len], vec![0.0; block_len / SCALE_LEN]);
            for (index, block) in blocks.chunks_exact(block_bytes).enumerate() {
                codebook.decode(block, &mut values, &mut scales);
                for (i, value) in values.iter().enumerate() {
                    let got = f32::from(*value) * scales[i / SCALE_LEN];
                    let want = f32::from_bits(u32_at(expected, 4 * (index * block_len + i)));
                    let close = (got - want).abs() <= want.abs() * 1e-6 + f32::MIN_POSITIVE;
                    assert!(close, "{codebook:?} block {index} value {i}: {got} and not {want}");
                }
            }
        }
        assert!(rest.is_empty());
    }
}
