//! Blocks of ggml's quantised formats, taken apart.
//!
//! Every format is seen as one thing: `value = (d * scale) * (q - zero) - (dmin * min)` with unsigned `q`,
//! one scale (and minimum) per group of 16 or 32 values. Dequantising and packing both start from here.
//! Layouts are those of ggml's `ggml-common.h` and `ggml-quants.c`.

mod write;

use half::f16;

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
        match dtype {
            DType::Q4_0 => {
                self.d = half(bytes, 0);
                nibbles(&bytes[2..18], &mut self.q[..32]);
            }
            DType::Q4_1 => {
                self.d = half(bytes, 0);
                self.set_offset(half(bytes, 2));
                nibbles(&bytes[4..20], &mut self.q[..32]);
            }
            DType::Q5_0 => {
                self.d = half(bytes, 0);
                nibbles(&bytes[6..22], &mut self.q[..32]);
                fifth_bits(&bytes[2..6], &mut self.q[..32]);
            }
            DType::Q5_1 => {
                self.d = half(bytes, 0);
                self.set_offset(half(bytes, 2));
                nibbles(&bytes[8..24], &mut self.q[..32]);
                fifth_bits(&bytes[4..8], &mut self.q[..32]);
            }
            DType::Q8_0 => {
                self.d = half(bytes, 0);
                signed_bytes(&bytes[2..34], &mut self.q[..32]);
            }
            DType::Q8_K => {
                self.d = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                signed_bytes(&bytes[4..260], &mut self.q);
            }
            DType::IQ4_NL => {
                self.d = half(bytes, 0);
                nibbles(&bytes[2..18], &mut self.q[..32]);
            }
            DType::IQ4_XS => self.read_iq4_xs(bytes),
            DType::Q2_K => self.read_q2_k(bytes),
            DType::Q3_K => self.read_q3_k(bytes),
            DType::Q4_K => {
                self.read_scales_and_minima(bytes);
                for (half, q) in bytes[16..144].chunks_exact(32).zip(self.q.chunks_exact_mut(64)) {
                    wide_nibbles(half, q);
                }
            }
            DType::Q5_K => {
                self.read_scales_and_minima(bytes);
                for (half, q) in bytes[48..176].chunks_exact(32).zip(self.q.chunks_exact_mut(64)) {
                    wide_nibbles(half, q);
                }
                for (group, q) in self.q.chunks_exact_mut(32).enumerate() {
                    for (q, high) in q.iter_mut().zip(&bytes[16..48]) {
                        *q |= ((high >> group) & 1) << 4;
                    }
                }
            }
            DType::Q6_K => self.read_q6_k(bytes),
            DType::IQ1_S
            | DType::IQ1_M
            | DType::IQ2_XXS
            | DType::IQ2_XS
            | DType::IQ2_S
            | DType::IQ3_XXS
            | DType::IQ3_S => codebook::read(dtype, bytes, self),
            DType::MXFP4 => {
                self.d = half_of_e8m0(bytes[0]);
                nibbles(&bytes[1..17], &mut self.q[..32]);
            }
            DType::TQ2_0 => {
                two_bits(&bytes[..64], &mut self.q);
                self.d = half(bytes, 64);
            }
            DType::F32 | DType::F16 | DType::BF16 | DType::F8E4M3 => {
                unreachable!("float formats have no blocks")
            }
        }
    }

    /// `Q4_1` and `Q5_1` add an offset where the K formats subtract a minimum.
    fn set_offset(&mut self, offset: f32) {
        self.dmin = -offset;
        self.min = [1; 16];
    }

    fn read_iq4_xs(&mut self, bytes: &[u8]) {
        self.d = half(bytes, 0);
        let high = u16::from_le_bytes([bytes[2], bytes[3]]);
        for group in 0..8 {
            let low = (bytes[4 + group / 2] >> (4 * (group % 2))) & 15;
            let scale = low | (((high >> (2 * group)) & 3) as u8) << 4;
            self.scale[group] = scale as i8 - 32;
            nibbles(&bytes[8 + 16 * group..24 + 16 * group], &mut self.q[32 * group..32 * group + 32]);
        }
    }

    fn read_q2_k(&mut self, bytes: &[u8]) {
        for (group, byte) in bytes[..16].iter().enumerate() {
            self.scale[group] = (byte & 15) as i8;
            self.min[group] = byte >> 4;
        }
        two_bits(&bytes[16..80], &mut self.q);
        self.d = half(bytes, 80);
        self.dmin = half(bytes, 82);
    }

    fn read_q3_k(&mut self, bytes: &[u8]) {
        let (masks, low, scales) = (&bytes[..32], &bytes[32..96], &bytes[96..108]);
        two_bits(low, &mut self.q);
        for (part, q) in self.q.chunks_exact_mut(32).enumerate() {
            for (q, mask) in q.iter_mut().zip(masks) {
                *q |= ((mask >> part) & 1) << 2;
            }
        }
        for group in 0..16 {
            let low = if group < 8 { scales[group] & 15 } else { scales[group - 8] >> 4 };
            let high = (scales[8 + group % 4] >> (2 * (group / 4))) & 3;
            self.scale[group] = (low | high << 4) as i8 - 32;
        }
        self.d = half(bytes, 108);
    }

    fn read_q6_k(&mut self, bytes: &[u8]) {
        let (low, high, scales) = (&bytes[..128], &bytes[128..192], &bytes[192..208]);
        for ((low, high), q) in
            low.chunks_exact(64).zip(high.chunks_exact(32)).zip(self.q.chunks_exact_mut(128))
        {
            for l in 0..32 {
                q[l] = (low[l] & 15) | (high[l] & 3) << 4;
                q[l + 32] = (low[l + 32] & 15) | ((high[l] >> 2) & 3) << 4;
                q[l + 64] = (low[l] >> 4) | ((high[l] >> 4) & 3) << 4;
                q[l + 96] = (low[l + 32] >> 4) | (high[l] >> 6) << 4;
            }
        }
        for (scale, byte) in self.scale.iter_mut().zip(scales) {
            *scale = *byte as i8;
        }
        self.d = half(bytes, 208);
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

/// Low nibbles hold the first half of the values, high nibbles the second.
fn nibbles(bytes: &[u8], q: &mut [u8]) {
    let (first, second) = q.split_at_mut(16);
    for ((byte, a), b) in bytes.iter().zip(first).zip(second) {
        *a = byte & 15;
        *b = byte >> 4;
    }
}

/// As [`nibbles`], for runs of 64 values.
fn wide_nibbles(bytes: &[u8], q: &mut [u8]) {
    let (first, second) = q.split_at_mut(32);
    for ((byte, a), b) in bytes.iter().zip(first).zip(second) {
        *a = byte & 15;
        *b = byte >> 4;
    }
}

fn fifth_bits(bytes: &[u8], q: &mut [u8]) {
    let bits = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    for (i, q) in q.iter_mut().enumerate() {
        *q |= (((bits >> i) & 1) as u8) << 4;
    }
}

/// Each run of 32 bytes holds 128 values: 32 in the lowest bits of each byte, then 32 in the next, and so on.
fn two_bits(bytes: &[u8], q: &mut [u8]) {
    for (bytes, q) in bytes.chunks_exact(32).zip(q.chunks_exact_mut(128)) {
        for (shift, q) in q.chunks_exact_mut(32).enumerate() {
            for (q, byte) in q.iter_mut().zip(bytes) {
                *q = (byte >> (2 * shift)) & 3;
            }
        }
    }
}

fn signed_bytes(bytes: &[u8], q: &mut [u8]) {
    for (q, byte) in q.iter_mut().zip(bytes) {
        *q = byte ^ 0x80;
    }
}
