//! From rows as files store them to panels.

use super::codebook_pack::pack_codebook_block;
use super::{CHUNK, GROUP, Layout};
use crate::blocks::{chunk, words};
use crate::lanes::LANES;
use crate::simd::{Kernel, Simd, dispatch_on};
use crate::{DType, Isa, isa};

/// The scale of `MXFP4` that is no number.
const E8M0_NAN: u8 = 255;
/// Bytes of a vector: a word of each row.
const VECTOR: usize = 4 * LANES;
/// Words of quants that a row has in a group, at most: a byte for each column.
const WORDS_MAX: usize = GROUP / 4;

/// How rows are stored, and how they are packed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowFormat {
    pub(crate) dtype: DType,
    pub(crate) cols: usize,
    /// Bytes of a row as it is stored.
    pub(crate) row_bytes: usize,
    pub(crate) layout: Layout,
}

impl RowFormat {
    /// Packs panel `index` of `stored`; rows that are missing stay as they are.
    ///
    /// # Errors
    /// The first row of the panel with a value or scale that is not a finite number, where the format can tell.
    pub(crate) fn pack_panel(&self, stored: &[u8], index: usize, panel: &mut [u8]) -> Result<(), usize> {
        self.pack_panel_on(isa(), stored, index, panel)
    }

    /// [`RowFormat::pack_panel`] with a set of instructions that the processor has.
    fn pack_panel_on(&self, isa: Isa, stored: &[u8], index: usize, panel: &mut [u8]) -> Result<(), usize> {
        let from = index * LANES * self.row_bytes;
        let rows = &stored[from..stored.len().min(from + LANES * self.row_bytes)];
        dispatch_on(isa, PackPanel { format: self, rows, panel })
    }
}

/// Packs up to 16 rows.
struct PackPanel<'a> {
    format: &'a RowFormat,
    rows: &'a [u8],
    panel: &'a mut [u8],
}

impl Kernel for PackPanel<'_> {
    type Output = Result<(), usize>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Result<(), usize> {
        let Self { format, rows, panel } = self;
        let &RowFormat { dtype, row_bytes, .. } = format;
        match dtype {
            DType::F8E4M3 => {
                // All bits but the sign set: the format has no infinity and this one pattern for what is no number.
                let no_number = |byte: &u8| byte & 0x7f == 0x7f;
                // Looking at all of them is quicker than stopping at the first.
                if rows.iter().fold(false, |found, byte| found | no_number(byte)) {
                    return Err(rows.iter().position(no_number).unwrap_or(0) / row_bytes);
                }
                pack_floats::<1, S>(s, row_bytes, rows, panel);
            }
            DType::F16 => pack_floats::<2, S>(s, row_bytes, rows, panel),
            DType::F32 | DType::BF16 => pack_words(s, row_bytes, rows, panel),
            _ => {
                // A call for each format: inside it the format is a constant.
                macro_rules! call {
                    ([$($plain:ident)*] [$($codebook:ident)*]) => {
                        match dtype {
                            $(DType::$plain => pack_quants(s, DType::$plain, format, rows, panel),)*
                            $(DType::$codebook => pack_codebooks(DType::$codebook, format, rows, panel),)*
                            DType::F32 | DType::F16 | DType::BF16 | DType::F8E4M3 => unreachable!("see above"),
                        }
                    };
                }
                return call!(
                    [Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K IQ4_NL IQ4_XS MXFP4 TQ2_0]
                    [IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S]
                );
            }
        }
        Ok(())
    }
}

/// Packs rows of a quantised format; rows that are missing get a scale of zero if the panel was zero.
///
/// # Errors
/// The first row with a scale that is not a finite number.
#[inline(always)]
fn pack_quants<S: Simd>(
    s: S,
    dtype: DType,
    format: &RowFormat,
    rows: &[u8],
    panel: &mut [u8],
) -> Result<(), usize> {
    let &RowFormat { row_bytes, layout, .. } = format;
    let (block_bytes, chunks) = (dtype.block_bytes(), dtype.block_len() / CHUNK);
    let chunk_words = layout.quant_bytes / VECTOR;
    let mut words = [[0_u32; WORDS_MAX]; LANES];
    let mut bad_row = None;
    for index in 0..layout.groups() {
        let group = layout.group(index);
        for (row, (bytes, words)) in rows.chunks_exact(row_bytes).zip(&mut words).enumerate() {
            let mut words = words.chunks_exact_mut(chunk_words);
            let bytes = &bytes[group.first * block_bytes..][..group.count * block_bytes];
            for (i, bytes) in bytes.chunks_exact(block_bytes).enumerate() {
                if !is_number(dtype, bytes) {
                    bad_row = Some(bad_row.map_or(row, |bad: usize| bad.min(row)));
                }
                let head = &mut panel[group.heads_at + i * layout.head_bytes..][..layout.head_bytes];
                pack_head(dtype, bytes, row, head);
                for (index, words) in (0..chunks).zip(&mut words) {
                    pack_chunk(dtype, &chunk(dtype, bytes, index), words);
                }
            }
        }
        turn(s, &words, &mut panel[group.quants_at..][..group.count * chunks * layout.quant_bytes]);
    }
    bad_row.map_or(Ok(()), Err)
}

/// Packs rows of a format with codebooks.
///
/// # Errors
/// As for [`pack_quants`].
#[inline(always)]
fn pack_codebooks(dtype: DType, format: &RowFormat, rows: &[u8], panel: &mut [u8]) -> Result<(), usize> {
    let &RowFormat { row_bytes, layout, .. } = format;
    let chunks = dtype.block_len() / CHUNK;
    for (row, bytes) in rows.chunks_exact(row_bytes).enumerate() {
        for (index, bytes) in bytes.chunks_exact(dtype.block_bytes()).enumerate() {
            if !is_number(dtype, bytes) {
                return Err(row);
            }
            let (head, _) = layout.block(index, chunks);
            pack_codebook_block(dtype, bytes, row, &mut panel[head..]);
        }
    }
    Ok(())
}

/// Whether a block's scales are finite numbers.
#[inline(always)]
fn is_number(dtype: DType, bytes: &[u8]) -> bool {
    let half = |at: usize| bytes[at + 1] & 0x7c != 0x7c;
    match dtype {
        DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => half(0) && half(2),
        DType::Q2_K => half(80) && half(82),
        DType::Q3_K => half(108),
        DType::Q6_K => half(208),
        DType::TQ2_0 => half(64),
        DType::Q8_K => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]).is_finite(),
        DType::MXFP4 => bytes[0] != E8M0_NAN,
        // Four bits of it in each of four words: the upper ones are the exponent's.
        DType::IQ1_M => bytes[55] & 0x70 != 0x70 || bytes[53] & 0xc0 != 0xc0,
        _ => half(0),
    }
}

/// Puts the same word of all rows together, for as many words as `out` has vectors.
#[inline(always)]
fn turn<S: Simd>(s: S, words: &[[u32; WORDS_MAX]; LANES], out: &mut [u8]) {
    for (first, out) in out.chunks_mut(LANES * VECTOR).enumerate() {
        let mut square = [s.splat(0.0); LANES];
        for (lanes, words) in square.iter_mut().zip(words) {
            let words = &words[first * LANES..][..LANES];
            // SAFETY: 16 words are there; any bits are a float, and nothing computes with it.
            *lanes = unsafe { s.load(words.as_ptr().cast()) };
        }
        s.transpose(&mut square);
        for (vector, out) in square.iter().zip(out.chunks_exact_mut(VECTOR)) {
            // SAFETY: there is room for 16 words.
            unsafe { s.store(out.as_mut_ptr().cast(), *vector) };
        }
    }
}

/// The words from number `first` on of up to 16 rows, together for all rows; zeros where there is no row.
///
/// # Safety
/// Rows of `row_bytes` bytes hold 16 words from there on.
#[inline(always)]
unsafe fn turned_words<S: Simd>(s: S, row_bytes: usize, rows: &[u8], first: usize) -> [S::F; LANES] {
    let mut square = [s.splat(0.0); LANES];
    for (lanes, row) in square.iter_mut().zip(rows.chunks_exact(row_bytes)) {
        // SAFETY: the caller's contract; the load asks for no alignment, and any bits are a float.
        *lanes = unsafe { s.load(row.as_ptr().add(4 * first).cast()) };
    }
    s.transpose(&mut square);
    square
}

/// Packs rows of words: values of four bytes, or two columns of BF16; where the last column is alone, a zero stands
/// beside it if the panel was zero.
#[inline(always)]
fn pack_words<S: Simd>(s: S, row_bytes: usize, rows: &[u8], panel: &mut [u8]) {
    let whole = row_bytes / VECTOR * LANES;
    for (index, out) in panel.chunks_exact_mut(LANES * VECTOR).take(whole / LANES).enumerate() {
        // SAFETY: the words are among the whole sixteens of a row.
        let square = unsafe { turned_words(s, row_bytes, rows, index * LANES) };
        for (vector, out) in square.iter().zip(out.chunks_exact_mut(VECTOR)) {
            // SAFETY: there is room for 16 words.
            unsafe { s.store(out.as_mut_ptr().cast(), *vector) };
        }
    }
    for (row, bytes) in rows.chunks_exact(row_bytes).enumerate() {
        let vectors = panel.chunks_exact_mut(VECTOR).skip(whole);
        for (word, vector) in bytes[4 * whole..].chunks(4).zip(vectors) {
            vector[4 * row..][..word.len()].copy_from_slice(word);
        }
    }
}

/// Packs rows of values of `N` bytes, less than four.
#[inline(always)]
fn pack_floats<const N: usize, S: Simd>(s: S, row_bytes: usize, rows: &[u8], panel: &mut [u8]) {
    let whole = row_bytes / VECTOR * LANES;
    for (index, out) in panel.chunks_exact_mut(LANES * VECTOR).take(whole / LANES).enumerate() {
        // SAFETY: the words are among the whole sixteens of a row.
        let square = unsafe { turned_words(s, row_bytes, rows, index * LANES) };
        for (vector, out) in square.iter().zip(out.chunks_exact_mut(VECTOR)) {
            let words = s.to_array(*vector);
            for (value, column) in out.chunks_exact_mut(LANES * N).enumerate() {
                for (word, out) in words.iter().zip(column.as_chunks_mut::<N>().0) {
                    let bits = word.to_bits() >> (8 * N * value);
                    out.copy_from_slice(&bits.to_le_bytes()[..N]);
                }
            }
        }
    }
    for (row, bytes) in rows.chunks_exact(row_bytes).enumerate() {
        let columns = panel.chunks_exact_mut(LANES * N).skip(4 * whole / N);
        for (value, column) in bytes[4 * whole..].chunks_exact(N).zip(columns) {
            column[row * N..][..N].copy_from_slice(value);
        }
    }
}

/// The words of a chunk's planes for one row, from its values, four to a word.
#[inline(always)]
fn pack_chunk(dtype: DType, fours: &[u32; CHUNK / 4], words: &mut [u32]) {
    match dtype {
        DType::Q4_0 | DType::Q4_1 | DType::IQ4_NL | DType::Q4_K | DType::IQ4_XS | DType::MXFP4 => {
            words.copy_from_slice(&joined::<4>(fours, 4, 0));
        }
        DType::Q5_0 | DType::Q5_1 | DType::Q5_K => {
            words[..4].copy_from_slice(&joined::<4>(fours, 4, 0));
            words[4..].copy_from_slice(&joined::<1>(fours, 1, 4));
        }
        DType::Q6_K => {
            words[..4].copy_from_slice(&joined::<4>(fours, 4, 0));
            words[4..].copy_from_slice(&joined::<2>(fours, 2, 4));
        }
        DType::Q3_K => {
            words[..2].copy_from_slice(&joined::<2>(fours, 2, 0));
            words[2..].copy_from_slice(&joined::<1>(fours, 1, 2));
        }
        DType::Q2_K | DType::TQ2_0 => words.copy_from_slice(&joined::<2>(fours, 2, 0)),
        _ => words.copy_from_slice(fours),
    }
}

/// Words that are made of as many others each: `bits` bits of each byte, from bit `from` on, the first word's lowest.
#[inline(always)]
fn joined<const N: usize>(fours: &[u32; CHUNK / 4], bits: u32, from: u32) -> [u32; N] {
    let mask = 0x0101_0101 * ((1 << bits) - 1);
    let mut words = [0; N];
    for (word, fours) in words.iter_mut().zip(fours.chunks_exact(CHUNK / 4 / N)) {
        for (i, four) in (0..).zip(fours) {
            *word |= (four >> from & mask) << (bits * i);
        }
    }
    words
}

/// Copies the head's fields of one row: the halves as they stand, 6-bit scales into words (see [`sixes`]).
#[inline(always)]
fn pack_head(dtype: DType, bytes: &[u8], row: usize, head: &mut [u8]) {
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
            sixes(&k_scales_and_minima(bytes), row, &mut head[64..]);
        }
        DType::Q3_K => {
            half(108, 0);
            sixes(&q3_k_scales(bytes), row, &mut head[32..]);
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
            for (group, scale) in bytes[192..208].iter().enumerate() {
                head[32 + LANES * group + row] = *scale;
            }
        }
        DType::IQ4_XS => {
            half(0, 0);
            eight_sixes(&iq4_xs_scales(bytes), row, &mut head[32..]);
        }
        DType::MXFP4 => head[row] = bytes[0],
        DType::TQ2_0 => half(64, 0),
        _ => head[4 * row..4 * row + 4].copy_from_slice(&bytes[..4]),
    }
}

/// Sixteen 6-bit values a row in three words: five in each, and the last in the bits left over.
#[inline(always)]
fn sixes(values: &[u32; 4], row: usize, out: &mut [u8]) {
    let value = |i: usize| values[i / 4] >> (8 * (i % 4)) & 63;
    for word in 0..3 {
        let mut sixes = (value(15) >> (2 * word) & 3) << 30;
        for i in 0..5 {
            sixes |= value(5 * word + i) << (6 * i);
        }
        out[64 * word + 4 * row..][..4].copy_from_slice(&sixes.to_le_bytes());
    }
}

/// Eight 6-bit values a row in a word and a half: five in the word, two in the half, and the last in the bits
/// left over, its lowest two in the word.
#[inline(always)]
fn eight_sixes(values: &[u32; 8], row: usize, out: &mut [u8]) {
    let mut word = (values[7] & 3) << 30;
    for (i, value) in (0..5).zip(values) {
        word |= value << (6 * i);
    }
    let half = values[5] | values[6] << 6 | values[7] >> 2 << 12;
    out[4 * row..4 * row + 4].copy_from_slice(&word.to_le_bytes());
    out[64 + 2 * row..66 + 2 * row].copy_from_slice(&(half as u16).to_le_bytes());
}

/// The eight 6-bit scales and eight minima of `Q4_K` and `Q5_K`, four to a word. Twelve bytes hold the first four
/// scales, the first four minima, and the lower bits of the others, whose upper bits are those left over.
#[inline(always)]
fn k_scales_and_minima(bytes: &[u8]) -> [u32; 4] {
    let [scales, minima, low] = words(bytes, 4);
    let first = |word: u32| word & 0x3f3f_3f3f;
    let second = |low: u32, high: u32| low & 0x0f0f_0f0f | high >> 2 & 0x3030_3030;
    [first(scales), second(low, scales), first(minima), second(low >> 4, minima)]
}

/// The sixteen 6-bit scales of `Q3_K`, four to a word: twelve bytes hold the lower four bits of all and the upper two.
#[inline(always)]
fn q3_k_scales(bytes: &[u8]) -> [u32; 4] {
    let [first, second, high] = words(bytes, 96);
    let scale = |low: u32, by: u32| low & 0x0f0f_0f0f | (high >> by & 0x0303_0303) << 4;
    [scale(first, 0), scale(second, 2), scale(first >> 4, 4), scale(second >> 4, 6)]
}

/// The eight 6-bit scales of `IQ4_XS`.
#[inline(always)]
fn iq4_xs_scales(bytes: &[u8]) -> [u32; 8] {
    let high = u32::from(u16::from_le_bytes([bytes[2], bytes[3]]));
    let [low] = words(bytes, 4);
    let mut scales = [0; 8];
    for (i, scale) in (0..).zip(&mut scales) {
        *scale = low >> (4 * i) & 15 | (high >> (2 * i) & 3) << 4;
    }
    scales
}

#[cfg(test)]
mod tests;
