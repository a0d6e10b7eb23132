//! Blocks of the codebook formats in panels: the file's bytes, sorted into planes.
//!
//! A group is one block, its chunks follow the head without a gap. Where a word holds a chunk's scale beside its
//! signs or high index bits, it stays there. The head begins with d; behind it are the scales of the formats that
//! keep them together. Within a plane of four bytes a row, byte `k` belongs to columns `8k` to `8k + 7`.

use super::codebook_formats::{Iq1M, Iq1S, Iq2S, Iq2Xs, Iq2Xxs, Iq3S, Iq3Xxs};
use super::formats::Format;
use crate::DType;
use crate::codebook::{iq1_m_scales_apart, iq1_m_scales_together};

/// Bytes `from`, `from + step` and so on of a block, `width` in number, in row order from `to` on.
#[derive(Clone, Copy)]
struct Plane {
    from: usize,
    step: usize,
    width: usize,
    to: usize,
}

/// The planes of the head, and those of the first chunk with what to add to `from` for each further one.
struct Planes {
    head: &'static [Plane],
    chunk: &'static [(Plane, usize)],
    head_bytes: usize,
    chunk_bytes: usize,
}

const fn plane(from: usize, step: usize, width: usize, to: usize) -> Plane {
    Plane { from, step, width, to }
}

const fn planes<F: Format>(head: &'static [Plane], chunk: &'static [(Plane, usize)]) -> Planes {
    Planes { head, chunk, head_bytes: F::HEAD_BYTES, chunk_bytes: F::CHUNK_BYTES }
}

const IQ1_S: Planes =
    planes::<Iq1S>(&[plane(0, 1, 2, 0)], &[(plane(2, 1, 4, 0), 4), (plane(34, 1, 2, 64), 2)]);
/// After [`iq1_m_scales_apart`].
const IQ1_M: Planes = planes::<Iq1M>(
    &[plane(48, 1, 2, 0), plane(50, 1, 4, 32), plane(54, 1, 2, 96)],
    &[(plane(0, 1, 4, 0), 4), (plane(32, 1, 2, 64), 2)],
);
const IQ2_XXS: Planes =
    planes::<Iq2Xxs>(&[plane(0, 1, 2, 0)], &[(plane(2, 1, 4, 0), 8), (plane(6, 1, 4, 64), 8)]);
const IQ2_XS: Planes = planes::<Iq2Xs>(
    &[plane(0, 1, 2, 0), plane(66, 1, 4, 32), plane(70, 1, 4, 96)],
    &[(plane(2, 2, 4, 0), 8), (plane(3, 2, 4, 64), 8)],
);
const IQ2_S: Planes = planes::<Iq2S>(
    &[plane(0, 1, 2, 0), plane(74, 1, 4, 32), plane(78, 1, 4, 96)],
    &[(plane(2, 1, 4, 0), 4), (plane(34, 1, 4, 64), 4), (plane(66, 1, 1, 128), 1)],
);
const IQ3_XXS: Planes = planes::<Iq3Xxs>(
    &[plane(0, 1, 2, 0)],
    &[(plane(2, 2, 4, 0), 8), (plane(3, 2, 4, 64), 8), (plane(66, 1, 4, 128), 4)],
);
const IQ3_S: Planes = planes::<Iq3S>(
    &[plane(0, 1, 2, 0), plane(106, 1, 4, 32)],
    &[(plane(2, 2, 4, 0), 8), (plane(3, 2, 4, 64), 8), (plane(74, 1, 4, 128), 4), (plane(66, 1, 1, 192), 1)],
);

impl Planes {
    #[inline(always)]
    fn of(dtype: DType) -> &'static Self {
        match dtype {
            DType::IQ1_S => &IQ1_S,
            DType::IQ1_M => &IQ1_M,
            DType::IQ2_XXS => &IQ2_XXS,
            DType::IQ2_XS => &IQ2_XS,
            DType::IQ2_S => &IQ2_S,
            DType::IQ3_XXS => &IQ3_XXS,
            DType::IQ3_S => &IQ3_S,
            _ => unreachable!("{dtype} has no codebook"),
        }
    }

    /// Calls `f` with the place of each byte in the block and in the group, for one row.
    #[inline(always)]
    fn for_each_byte(&self, row: usize, mut f: impl FnMut(usize, usize)) {
        let mut one = |plane: Plane, from: usize, to: usize| {
            for i in 0..plane.width {
                f(from + plane.from + plane.step * i, to + plane.to + plane.width * row + i);
            }
        };
        self.head.iter().for_each(|plane| one(*plane, 0, 0));
        for chunk in 0..8 {
            for (plane, step) in self.chunk {
                one(*plane, step * chunk, self.head_bytes + self.chunk_bytes * chunk);
            }
        }
    }
}

/// Bytes of the longest block.
pub(super) const BLOCK_MAX: usize = 110;

#[inline(always)]
fn scales(block: &mut [u8; BLOCK_MAX], dtype: DType, change: fn([u8; 8]) -> [u8; 8]) {
    if let (DType::IQ1_M, Some(scales)) = (dtype, block[48..].first_chunk_mut()) {
        *scales = change(*scales);
    }
}

/// Puts one row's block into its group, which begins at the head.
#[inline(always)]
pub(super) fn pack_codebook_block(dtype: DType, bytes: &[u8], row: usize, group: &mut [u8]) {
    let mut block = [0; BLOCK_MAX];
    block[..bytes.len()].copy_from_slice(bytes);
    scales(&mut block, dtype, iq1_m_scales_apart);
    Planes::of(dtype).for_each_byte(row, |from, to| group[to] = block[from]);
}

/// Takes one row's block out of its group: the bytes that [`pack_codebook_block`] put there.
pub(super) fn unpack_codebook_block(dtype: DType, row: usize, group: &[u8], bytes: &mut [u8]) {
    let mut block = [0; BLOCK_MAX];
    Planes::of(dtype).for_each_byte(row, |from, to| block[from] = group[to]);
    scales(&mut block, dtype, iq1_m_scales_together);
    bytes.copy_from_slice(&block[..bytes.len()]);
}
