//! Blocks of ggml's quantised formats, taken apart.
//!
//! Every format is seen as one thing: `value = (d * scale) * (q - zero) - (dmin * min)` with unsigned `q`,
//! one scale (and minimum) per group of 16 or 32 values. Dequantising and packing both start from here.
//! Layouts are those of ggml's `ggml-common.h` and `ggml-quants.c`.

mod write;

use half::f16;

use crate::panel::CHUNK;
use crate::{DType, codebook};

/// The 16 values of `IQ4_NL` and `IQ4_XS` (`kvalues_iq4nl` in ggml).
pub(crate) const IQ4_VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The values of an `MXFP4` code, doubled so that they are integers: E2M1 of the OCP Microscaling Formats 1.0.
pub(crate) const E2M1_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// One block of a row in a common form.
pub(crate) struct Block {
    /// Quantised values, unsigned: 0 stands for `-zero`. Table formats hold indices.
    pub(crate) q: [u8; 256],
    /// Scale of each group; 1 where the block has one scale only.
    pub(crate) scale: [i8; 16],
    /// Minimum of each group, subtracted; 0 where the format has none.
    pub(crate) min: [u8; 16],
    /// Scale of the whole block.
    pub(crate) d: f32,
    /// Scale of the minima; negative of the offset for `Q4_1` and `Q5_1`.
    pub(crate) dmin: f32,
}

/// What the fields of [`Block`] mean for one format.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// Values that share a scale.
    pub(crate) group: usize,
    /// What `q` holds for the value 0.
    pub(crate) zero: u8,
    /// Where `q` holds indices, what they stand for.
    pub(crate) table: Option<&'static [i8; 16]>,
}

impl Shape {
    pub(crate) fn of(dtype: DType) -> Self {
        let (group, zero) = match dtype {
            DType::Q4_0 => (32, 8),
            DType::Q5_0 => (32, 16),
            DType::Q3_K => (16, 4),
            DType::Q6_K => (16, 32),
            DType::Q2_K => (16, 0),
            DType::Q8_0 | DType::Q8_K => (32, 128),
            DType::IQ1_S | DType::IQ2_XXS | DType::IQ3_XXS | DType::IQ3_S => (32, 128),
            DType::IQ1_M | DType::IQ2_XS | DType::IQ2_S => (16, 128),
            DType::TQ2_0 => (32, 1),
            _ => (32, 0),
        };
        let table = match dtype {
            DType::IQ4_NL | DType::IQ4_XS => Some(&IQ4_VALUES),
            DType::MXFP4 => Some(&E2M1_VALUES),
            _ => None,
        };
        Self { group, zero, table }
    }
}

impl Shape {
    /// The integer that `q` stands for.
    pub(crate) fn value(self, q: u8) -> i16 {
        match self.table {
            Some(table) => i16::from(table[usize::from(q)]),
            None => i16::from(q) - i16::from(self.zero),
        }
    }
}

impl Block {
    pub(crate) fn new() -> Self {
        Self { q: [0; 256], scale: [1; 16], min: [0; 16], d: 0.0, dmin: 0.0 }
    }

    /// Takes one block apart; `bytes` holds exactly [`DType::block_bytes`] bytes of a quantised format.
    pub(crate) fn read(&mut self, dtype: DType, bytes: &[u8]) {
        if dtype.has_codebook() {
            codebook::read(dtype, bytes, self);
            return;
        }
        self.read_scales(dtype, bytes);
        for (index, q) in self.q[..dtype.block_len()].as_chunks_mut::<CHUNK>().0.iter_mut().enumerate() {
            for (q, four) in q.as_chunks_mut::<4>().0.iter_mut().zip(chunk(dtype, bytes, index)) {
                *q = four.to_le_bytes();
            }
        }
    }

    /// Everything but `q`; not for formats with codebooks.
    pub(crate) fn read_scales(&mut self, dtype: DType, bytes: &[u8]) {
        match dtype {
            DType::Q4_0 | DType::Q5_0 | DType::Q8_0 | DType::IQ4_NL => self.d = half(bytes, 0),
            DType::Q4_1 | DType::Q5_1 => {
                // An offset is added where the K formats subtract a minimum.
                (self.d, self.dmin) = (half(bytes, 0), -half(bytes, 2));
                self.min = [1; 16];
            }
            DType::Q8_K => self.d = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            DType::IQ4_XS => {
                self.d = half(bytes, 0);
                let high = u16::from_le_bytes([bytes[2], bytes[3]]);
                for group in 0..8 {
                    let low = (bytes[4 + group / 2] >> (4 * (group % 2))) & 15;
                    let scale = low | (((high >> (2 * group)) & 3) as u8) << 4;
                    self.scale[group] = scale as i8 - 32;
                }
            }
            DType::Q2_K => {
                for (group, byte) in bytes[..16].iter().enumerate() {
                    self.scale[group] = (byte & 15) as i8;
                    self.min[group] = byte >> 4;
                }
                (self.d, self.dmin) = (half(bytes, 80), half(bytes, 82));
            }
            DType::Q3_K => {
                let scales = &bytes[96..108];
                for group in 0..16 {
                    let low = if group < 8 { scales[group] & 15 } else { scales[group - 8] >> 4 };
                    let high = (scales[8 + group % 4] >> (2 * (group / 4))) & 3;
                    self.scale[group] = (low | high << 4) as i8 - 32;
                }
                self.d = half(bytes, 108);
            }
            DType::Q4_K | DType::Q5_K => self.read_scales_and_minima(bytes),
            DType::Q6_K => {
                for (scale, byte) in self.scale.iter_mut().zip(&bytes[192..208]) {
                    *scale = *byte as i8;
                }
                self.d = half(bytes, 208);
            }
            DType::MXFP4 => self.d = half_of_e8m0(bytes[0]),
            DType::TQ2_0 => self.d = half(bytes, 64),
            other => unreachable!("{other} is a float format or has a codebook"),
        }
    }

    /// The head of `Q4_K` and `Q5_K`: two f16 scales, then eight 6-bit scales and eight 6-bit minima in 12 bytes.
    fn read_scales_and_minima(&mut self, bytes: &[u8]) {
        self.d = half(bytes, 0);
        self.dmin = half(bytes, 2);
        let s = &bytes[4..16];
        for group in 0..4 {
            self.scale[group] = (s[group] & 63) as i8;
            self.min[group] = s[group + 4] & 63;
            self.scale[group + 4] = (s[group + 8] & 15 | (s[group] >> 6) << 4) as i8;
            self.min[group + 4] = s[group + 8] >> 4 | (s[group + 4] >> 6) << 4;
        }
    }
}

/// `2^(exponent - 128)`: half of the format's scale, because [`E2M1_VALUES`] are doubled. The two smallest are
/// subnormal.
pub(crate) fn half_of_e8m0(exponent: u8) -> f32 {
    let bits = match exponent {
        0 | 1 => 0x0020_0000 << exponent,
        _ => u32::from(exponent - 1) << 23,
    };
    f32::from_bits(bits)
}

fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// The values of chunk `index` of a block, four to a word; not for formats with codebooks.
#[inline(always)]
pub(crate) fn chunk(dtype: DType, bytes: &[u8], index: usize) -> [u32; CHUNK / 4] {
    // Formats of 256 values keep several chunks in different bits of the same bytes.
    let (half, quarter) = (index / 2, index / 4);
    let (odd, part) = (index as u32 % 2, index as u32 % 4);
    match dtype {
        DType::Q4_0 | DType::IQ4_NL => nibbles(bytes, 2),
        DType::Q4_1 => nibbles(bytes, 4),
        DType::MXFP4 => nibbles(bytes, 1),
        DType::IQ4_XS => nibbles(bytes, 8 + 16 * index),
        DType::Q5_0 => or(nibbles(bytes, 6), fifth_bits(bytes, 2)),
        DType::Q5_1 => or(nibbles(bytes, 8), fifth_bits(bytes, 4)),
        DType::Q8_0 => from_signed(words(bytes, 2)),
        DType::Q8_K => from_signed(words(bytes, 4 + CHUNK * index)),
        DType::Q4_K => field(bytes, 16 + CHUNK * half, 4 * odd, 4, 0),
        DType::Q5_K => {
            or(field(bytes, 48 + CHUNK * half, 4 * odd, 4, 0), field(bytes, 16, index as u32, 1, 4))
        }
        DType::Q6_K => {
            let low = 64 * quarter + CHUNK * (part as usize % 2);
            or(field(bytes, low, 4 * (part / 2), 4, 0), field(bytes, 128 + CHUNK * quarter, 2 * part, 2, 4))
        }
        DType::Q3_K => {
            or(field(bytes, 32 + CHUNK * quarter, 2 * part, 2, 0), field(bytes, 0, index as u32, 1, 2))
        }
        DType::Q2_K => field(bytes, 16 + CHUNK * quarter, 2 * part, 2, 0),
        DType::TQ2_0 => field(bytes, CHUNK * quarter, 2 * part, 2, 0),
        other => unreachable!("{other} is a float format or has a codebook"),
    }
}

/// Little-endian words from byte `at` on.
#[inline(always)]
pub(crate) fn words<const N: usize>(bytes: &[u8], at: usize) -> [u32; N] {
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(bytes[at..][..4 * N].as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    words
}

/// `bits` bits of each of 32 bytes, from bit `from` on, moved to bit `to`.
#[inline(always)]
fn field(bytes: &[u8], at: usize, from: u32, bits: u32, to: u32) -> [u32; 8] {
    let mask = 0x0101_0101 * ((1 << bits) - 1);
    let mut words = words::<8>(bytes, at);
    for word in &mut words {
        *word = (*word >> from & mask) << to;
    }
    words
}

/// 16 bytes whose low nibbles are the first half of the values and whose high nibbles are the second.
#[inline(always)]
fn nibbles(bytes: &[u8], at: usize) -> [u32; 8] {
    let bytes = words::<4>(bytes, at);
    let mut words = [0; 8];
    for i in 0..4 {
        words[i] = bytes[i] & 0x0f0f_0f0f;
        words[i + 4] = bytes[i] >> 4 & 0x0f0f_0f0f;
    }
    words
}

/// Bit 4 of 32 values from 32 bits.
#[inline(always)]
fn fifth_bits(bytes: &[u8], at: usize) -> [u32; 8] {
    let [bits] = words::<1>(bytes, at);
    let mut words = [0; 8];
    for (i, word) in words.iter_mut().enumerate() {
        // Copies of four bits, each seven further up: bit j comes to lie lowest in byte j.
        *word = ((bits >> (4 * i) & 15).wrapping_mul(0x0020_4081) & 0x0101_0101) << 4;
    }
    words
}

/// 128 stands for what was zero.
#[inline(always)]
fn from_signed(mut words: [u32; 8]) -> [u32; 8] {
    for word in &mut words {
        *word ^= 0x8080_8080;
    }
    words
}

#[inline(always)]
fn or(mut a: [u32; 8], b: [u32; 8]) -> [u32; 8] {
    for (a, b) in a.iter_mut().zip(b) {
        *a |= b;
    }
    a
}
