//! The way back: a block in common form to ggml's bytes. The exact inverse of [`Block::read`].

use half::f16;

use super::Block;
use crate::DType;

impl Block {
    /// Writes the block as `dtype`; `bytes` holds exactly [`DType::block_bytes`] bytes of a quantised format.
    pub(crate) fn write(&self, dtype: DType, bytes: &mut [u8]) {
        bytes.fill(0);
        match dtype {
            DType::Q4_0 => {
                put_half(self.d, bytes, 0);
                put_nibbles(&self.q[..32], &mut bytes[2..]);
            }
            DType::Q4_1 => {
                put_half(self.d, bytes, 0);
                put_half(-self.dmin, bytes, 2);
                put_nibbles(&self.q[..32], &mut bytes[4..]);
            }
            DType::Q5_0 => {
                put_half(self.d, bytes, 0);
                put_fifth_bits(&self.q[..32], &mut bytes[2..6]);
                put_nibbles(&self.q[..32], &mut bytes[6..]);
            }
            DType::Q5_1 => {
                put_half(self.d, bytes, 0);
                put_half(-self.dmin, bytes, 2);
                put_fifth_bits(&self.q[..32], &mut bytes[4..8]);
                put_nibbles(&self.q[..32], &mut bytes[8..]);
            }
            DType::Q8_0 => {
                put_half(self.d, bytes, 0);
                put_signed(&self.q[..32], &mut bytes[2..]);
            }
            DType::Q8_K => self.write_q8_k(bytes),
            DType::IQ4_NL => {
                put_half(self.d, bytes, 0);
                put_nibbles(&self.q[..32], &mut bytes[2..]);
            }
            DType::IQ4_XS => self.write_iq4_xs(bytes),
            DType::Q2_K => {
                for (group, byte) in bytes[..16].iter_mut().enumerate() {
                    *byte = self.scale[group] as u8 | self.min[group] << 4;
                }
                put_two_bits(&self.q, &mut bytes[16..80]);
                put_half(self.d, bytes, 80);
                put_half(self.dmin, bytes, 82);
            }
            DType::Q3_K => self.write_q3_k(bytes),
            DType::Q4_K => {
                self.write_scales_and_minima(bytes);
                put_wide_nibbles(&self.q, &mut bytes[16..]);
            }
            DType::Q5_K => {
                self.write_scales_and_minima(bytes);
                for (group, q) in self.q.chunks_exact(32).enumerate() {
                    for (high, q) in bytes[16..48].iter_mut().zip(q) {
                        *high |= (q >> 4) << group;
                    }
                }
                put_wide_nibbles(&self.q, &mut bytes[48..]);
            }
            DType::Q6_K => self.write_q6_k(bytes),
            DType::F32 | DType::F16 | DType::BF16 | DType::F8E4M3 => {
                unreachable!("float formats have no blocks")
            }
            _ => unreachable!("nothing quantises to {dtype}"),
        }
    }

    /// ggml's dot products want the sums of each 16 values beside them.
    fn write_q8_k(&self, bytes: &mut [u8]) {
        bytes[..4].copy_from_slice(&self.d.to_le_bytes());
        put_signed(&self.q, &mut bytes[4..260]);
        for (sum, q) in bytes[260..].as_chunks_mut::<2>().0.iter_mut().zip(self.q.chunks_exact(16)) {
            *sum = q.iter().map(|q| i16::from(*q) - 128).sum::<i16>().to_le_bytes();
        }
    }

    fn write_iq4_xs(&self, bytes: &mut [u8]) {
        put_half(self.d, bytes, 0);
        let mut high = 0_u16;
        for group in 0..8 {
            let scale = (self.scale[group] + 32) as u8;
            bytes[4 + group / 2] |= (scale & 15) << (4 * (group % 2));
            high |= u16::from(scale >> 4) << (2 * group);
            put_nibbles(&self.q[32 * group..32 * group + 32], &mut bytes[8 + 16 * group..24 + 16 * group]);
        }
        bytes[2..4].copy_from_slice(&high.to_le_bytes());
    }

    fn write_q3_k(&self, bytes: &mut [u8]) {
        for (part, q) in self.q.chunks_exact(32).enumerate() {
            for (mask, q) in bytes[..32].iter_mut().zip(q) {
                *mask |= (q >> 2) << part;
            }
        }
        put_two_bits(&self.q, &mut bytes[32..96]);
        for group in 0..16 {
            let scale = (self.scale[group] + 32) as u8;
            bytes[96 + group % 8] |= (scale & 15) << (4 * (group / 8));
            bytes[104 + group % 4] |= (scale >> 4) << (2 * (group / 4));
        }
        put_half(self.d, bytes, 108);
    }

    fn write_q6_k(&self, bytes: &mut [u8]) {
        for (half, q) in self.q.chunks_exact(128).enumerate() {
            for l in 0..32 {
                let (low, high) = (64 * half + l, 128 + 32 * half + l);
                bytes[low] = (q[l] & 15) | q[l + 64] << 4;
                bytes[low + 32] = (q[l + 32] & 15) | q[l + 96] << 4;
                bytes[high] =
                    q[l] >> 4 | (q[l + 32] >> 4) << 2 | (q[l + 64] >> 4) << 4 | (q[l + 96] >> 4) << 6;
            }
        }
        for (byte, scale) in bytes[192..208].iter_mut().zip(&self.scale) {
            *byte = *scale as u8;
        }
        put_half(self.d, bytes, 208);
    }

    fn write_scales_and_minima(&self, bytes: &mut [u8]) {
        put_half(self.d, bytes, 0);
        put_half(self.dmin, bytes, 2);
        for group in 0..4 {
            let (low, high) = (self.scale[group] as u8, self.scale[group + 4] as u8);
            let (low_min, high_min) = (self.min[group], self.min[group + 4]);
            bytes[4 + group] = low | (high >> 4) << 6;
            bytes[8 + group] = low_min | (high_min >> 4) << 6;
            bytes[12 + group] = (high & 15) | high_min << 4;
        }
    }
}

fn put_half(x: f32, bytes: &mut [u8], at: usize) {
    bytes[at..at + 2].copy_from_slice(&f16::from_f32(x).to_le_bytes());
}

fn put_nibbles(q: &[u8], bytes: &mut [u8]) {
    for (i, byte) in bytes[..16].iter_mut().enumerate() {
        *byte = (q[i] & 15) | q[i + 16] << 4;
    }
}

fn put_wide_nibbles(q: &[u8], bytes: &mut [u8]) {
    for (bytes, q) in bytes.chunks_exact_mut(32).zip(q.chunks_exact(64)) {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = (q[i] & 15) | q[i + 32] << 4;
        }
    }
}

fn put_fifth_bits(q: &[u8], bytes: &mut [u8]) {
    let bits = q.iter().enumerate().fold(0_u32, |bits, (i, q)| bits | u32::from(q >> 4) << i);
    bytes.copy_from_slice(&bits.to_le_bytes());
}

fn put_two_bits(q: &[u8], bytes: &mut [u8]) {
    for (bytes, q) in bytes.chunks_exact_mut(32).zip(q.chunks_exact(128)) {
        for (shift, q) in q.chunks_exact(32).enumerate() {
            for (byte, q) in bytes.iter_mut().zip(q) {
                *byte |= (q & 3) << (2 * shift);
            }
        }
    }
}

fn put_signed(q: &[u8], bytes: &mut [u8]) {
    for (byte, q) in bytes.iter_mut().zip(q) {
        *byte = q ^ 0x80;
    }
}
