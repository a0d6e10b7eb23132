//! Weight matrices, packed once.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::{bf16, f16};

use crate::blocks::{Block, Shape};
use crate::buffer::PageBuffer;
use crate::dequantize::{dequantize_block, dequantize_row};
use crate::kernels::{F8_BLOCK, PANELS_MAX, Panels};
use crate::lanes::LANES;
use crate::panel::{Layout, RowFormat, panels, read_block};
use crate::stored::{PanelRoom, Rest, StoredWeights};
use crate::{DType, KernelError, Pool, f8e4m3_to_f32};

/// Weights that are packed before the next are asked for.
const PART_BYTES: usize = 16 << 20;

/// Weights of shape `[rows, cols]`, packed for the kernels; a product computes one output value per row.
///
/// The packed form takes as many bits a weight as the file's, plus what fills up the last 16 rows. A matrix of
/// [`StoredWeights`] can be used before it is packed: what is needed is packed for the moment then, in each product
/// anew, with the same results to the bit.
pub struct Matrix {
    rows: usize,
    format: RowFormat,
    /// Memory that has not been packed into yet is not taken.
    data: PageBuffer,
    /// `F8E4M3`: the scale of each block of 128 x 128, rows of blocks first; otherwise empty.
    scales: Vec<f32>,
    /// What is not packed yet.
    rest: Option<Box<Rest>>,
}

impl Matrix {
    /// Packs `rows` rows of `cols` values stored as `dtype`, with all of the pool's threads.
    ///
    /// # Errors
    /// When the shape is empty or overflows, a row is not a whole number of blocks, `data` has the wrong
    /// length, a block's scale is not a finite number, or there is not enough memory. `F8E4M3` needs
    /// [`Matrix::pack_f8`].
    pub fn pack(
        dtype: DType,
        rows: usize,
        cols: usize,
        data: &[u8],
        pool: &Pool,
    ) -> Result<Self, KernelError> {
        let mut matrix = Self::unpacked(dtype, rows, cols, data.len(), Vec::new())?;
        pack_panels(matrix.format, data, 0, &mut matrix.data, pool)?;
        Ok(matrix)
    }

    /// Packs 8-bit floats with one scale per block of 128 x 128, as DeepSeek-V3 publishes them
    /// (`weight_scale_inv`): `scales` is `[rows.div_ceil(128), cols.div_ceil(128)]`.
    ///
    /// # Errors
    /// As for [`Matrix::pack`]; also when `scales` has the wrong length, or a weight or scale is not a finite
    /// number.
    pub fn pack_f8(
        rows: usize,
        cols: usize,
        data: &[u8],
        scales: &[f32],
        pool: &Pool,
    ) -> Result<Self, KernelError> {
        let mut matrix = Self::unpacked(DType::F8E4M3, rows, cols, data.len(), scales.to_vec())?;
        pack_panels(matrix.format, data, 0, &mut matrix.data, pool)?;
        Ok(matrix)
    }

    /// Weights that are not packed yet; `scales` are those of [`Matrix::pack_f8`], and empty for every other format.
    ///
    /// # Errors
    /// As for [`Matrix::pack`] and [`Matrix::pack_f8`], but for values and scales in `stored`, at which
    /// [`Matrix::pack_next`] looks.
    pub fn stored(
        dtype: DType,
        rows: usize,
        cols: usize,
        stored: Arc<dyn StoredWeights>,
        scales: Vec<f32>,
    ) -> Result<Self, KernelError> {
        let mut matrix = Self::unpacked(dtype, rows, cols, stored.bytes().len(), scales)?;
        matrix.rest = Some(Box::new(Rest { stored, packed: 0 }));
        Ok(matrix)
    }

    /// Packs some megabytes of what is not packed yet; they are let go in the file.
    ///
    /// # Errors
    /// When a value or a block's scale is not a finite number. Nothing more can be packed then, and products with the
    /// matrix are void.
    pub fn pack_next(&mut self, pool: &Pool) -> Result<(), KernelError> {
        let Some(rest) = &mut self.rest else { return Ok(()) };
        let RowFormat { row_bytes, layout, .. } = self.format;
        let all = panels(self.rows);
        let end = all.min(rest.packed + (PART_BYTES / (LANES * row_bytes)).max(1));
        let stored = rest.stored.bytes();
        let out = &mut self.data[rest.packed * layout.stride..end * layout.stride];
        pack_panels(self.format, stored, rest.packed, out, pool)?;
        let byte = |panel: usize| stored.len().min(panel * LANES * row_bytes);
        rest.stored.let_go(byte(rest.packed)..byte(end));
        rest.packed = end;
        if end == all {
            self.rest = None;
        }
        Ok(())
    }

    /// Bytes that [`Matrix::pack_next`] has not packed yet.
    #[must_use]
    pub fn unpacked_bytes(&self) -> usize {
        let packed = |rest: &Rest| rest.packed * LANES * self.format.row_bytes;
        self.rest.as_ref().map_or(0, |rest| rest.stored.bytes().len().saturating_sub(packed(rest)))
    }

    /// Packs other weights of the same shape and format into the memory of these; `scales` are those of
    /// [`Matrix::pack_f8`], and empty for every other format.
    ///
    /// # Errors
    /// As for [`Matrix::pack`] and [`Matrix::pack_f8`]. Where a value or a block's scale is not a finite number the
    /// matrix is of no use afterwards; otherwise it keeps its weights.
    pub fn repack(&mut self, data: &[u8], scales: &[f32], pool: &Pool) -> Result<(), KernelError> {
        let Self { rows, format, .. } = *self;
        let RowFormat { dtype, cols, row_bytes, .. } = format;
        check_scales(dtype, rows, cols, scales)?;
        let needed = row_bytes * rows;
        if data.len() != needed {
            return Err(KernelError::WrongLength { dtype, rows, cols, needed, given: data.len() });
        }
        self.scales.copy_from_slice(scales);
        self.rest = None;
        // What fills up the last panel is zero already and stays so.
        pack_panels(format, data, 0, &mut self.data, pool)
    }

    /// A matrix of weights of which `given` bytes are to be packed.
    fn unpacked(
        dtype: DType,
        rows: usize,
        cols: usize,
        given: usize,
        scales: Vec<f32>,
    ) -> Result<Self, KernelError> {
        let bad_shape = KernelError::BadShape { dtype, rows, cols };
        if rows == 0 || cols == 0 {
            return Err(bad_shape);
        }
        let row_bytes = dtype.row_bytes(cols).ok_or(KernelError::PartialBlock { dtype, cols })?;
        let needed = row_bytes.checked_mul(rows).ok_or_else(|| bad_shape.clone())?;
        if given != needed {
            return Err(KernelError::WrongLength { dtype, rows, cols, needed, given });
        }
        check_scales(dtype, rows, cols, &scales)?;
        let layout = Layout::new(dtype, cols).ok_or_else(|| bad_shape.clone())?;
        let bytes = layout.stride.checked_mul(panels(rows)).ok_or(bad_shape)?;
        let mut data = PageBuffer::zeroed(bytes).ok_or(KernelError::OutOfMemory { bytes })?;
        data.prefer_huge_pages();
        Ok(Self { rows, format: RowFormat { dtype, cols, row_bytes, layout }, data, scales, rest: None })
    }

    /// Output values of a product.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input values of a product.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.format.cols
    }

    /// The format of the weights.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.format.dtype
    }

    /// Bytes of memory held once all is packed.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.data.len() + size_of_val(self.scales.as_slice())
    }

    /// Writes row `row` as floats, the same values that [`crate::dequantize_row`] gives, times the block
    /// scales of `F8E4M3`; used for embeddings.
    ///
    /// # Panics
    /// When `row` is out of range or `out` is not `cols` long.
    pub fn row_to_f32(&self, row: usize, out: &mut [f32]) {
        let RowFormat { dtype, cols, row_bytes, layout } = self.format;
        assert!(row < self.rows, "row {row} of {}", self.rows);
        assert_eq!(out.len(), cols, "room for a row");
        if let Some(rest) = self.rest.as_ref().filter(|rest| row / LANES >= rest.packed) {
            let stored = &rest.stored.bytes()[row * row_bytes..][..row_bytes];
            // The format and both lengths are right: the matrix was made of them.
            let _ = dequantize_row(dtype, stored, out);
        } else {
            let panel = &self.data[row / LANES * layout.stride..][..layout.stride];
            read_row(self.format, panel, row % LANES, out);
        }
        if dtype == DType::F8E4M3 {
            let scales = &self.scales[row / F8_BLOCK * cols.div_ceil(F8_BLOCK)..];
            for (out, scale) in out.chunks_mut(F8_BLOCK).zip(scales) {
                out.iter_mut().for_each(|out| *out *= scale);
            }
        }
    }

    /// Where the panel with this number lies, if it is packed.
    pub(crate) fn packed_panel(&self, index: usize) -> Option<*const u8> {
        let packed = self.rest.as_ref().is_none_or(|rest| index < rest.packed);
        packed.then(|| self.data[index * self.format.layout.stride..].as_ptr())
    }

    /// The panels with these numbers, one to [`PANELS_MAX`]; those that are not packed are packed in `room`, and lie
    /// there until it is used again. What comes `ahead` bytes later is asked for by kernels that may choose.
    #[inline(always)]
    pub(crate) fn panels(&self, range: Range<usize>, ahead: usize, room: &mut PanelRoom) -> Panels {
        let RowFormat { cols, layout, .. } = self.format;
        let scale_row = |index: usize| index * LANES / F8_BLOCK * cols.div_ceil(F8_BLOCK);
        let indices: [usize; PANELS_MAX] = std::array::from_fn(|i| (range.start + i).min(range.end - 1));
        let start = match &self.rest {
            None => indices.map(|index| self.data[index * layout.stride..].as_ptr()),
            Some(rest) => self.panels_for_now(rest, range.clone(), room),
        };
        Panels {
            start,
            count: range.len(),
            layout,
            cols,
            scales: indices.map(|index| self.scales.get(scale_row(index)..).unwrap_or_default().as_ptr()),
            ahead,
        }
    }

    #[cold]
    fn panels_for_now(
        &self,
        rest: &Rest,
        range: Range<usize>,
        room: &mut PanelRoom,
    ) -> [*const u8; PANELS_MAX] {
        for (place, index) in range.clone().enumerate().filter(|(_, index)| *index >= rest.packed) {
            room.pack(&self.format, rest.stored.bytes(), index, place);
        }
        // Only now that nothing is written any more.
        let mut start = [std::ptr::null(); PANELS_MAX];
        for (place, start) in start.iter_mut().enumerate() {
            let place = place.min(range.len() - 1);
            let packed = self.packed_panel(range.start + place);
            *start = packed.unwrap_or_else(|| room.panel(place, self.format.layout.stride));
        }
        start
    }
}

impl fmt::Debug for Matrix {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Matrix({} x {}, {})", self.rows, self.cols(), self.dtype())
    }
}

/// Checks the scales of blocks of 8-bit floats; other formats have none.
fn check_scales(dtype: DType, rows: usize, cols: usize, scales: &[f32]) -> Result<(), KernelError> {
    let bad = |reason| Err(KernelError::BadScales { dtype, reason });
    if dtype != DType::F8E4M3 {
        return if scales.is_empty() { Ok(()) } else { bad("this format has none") };
    }
    if scales.is_empty() {
        return bad("none were given");
    }
    if Some(scales.len()) != rows.div_ceil(F8_BLOCK).checked_mul(cols.div_ceil(F8_BLOCK)) {
        return bad("their number does not fit the shape");
    }
    if scales.iter().any(|scale| !scale.is_finite()) {
        return bad("one of them is not a finite number");
    }
    Ok(())
}

/// Packs panels from number `first` on, as many as `packed` has room for; `stored` holds all rows.
fn pack_panels(
    format: RowFormat,
    stored: &[u8],
    first: usize,
    packed: &mut [u8],
    pool: &Pool,
) -> Result<(), KernelError> {
    let stride = format.layout.stride;
    let to = PanelsOut { start: packed.as_mut_ptr(), stride };
    let bad_row = AtomicUsize::new(usize::MAX);
    pool.run(packed.len() / stride, &|index| {
        // SAFETY: each task takes another panel of the buffer, which outlives the region.
        let out = unsafe { to.panel(index) };
        if let Err(row) = format.pack_panel(stored, first + index, out) {
            bad_row.fetch_min((first + index) * LANES + row, Ordering::Relaxed);
        }
    });
    match bad_row.into_inner() {
        usize::MAX => Ok(()),
        row => Err(KernelError::NotFinite { dtype: format.dtype, row }),
    }
}

/// Reads a row out of its panel, without the block scales of `F8E4M3`.
fn read_row(format: RowFormat, panel: &[u8], lane: usize, out: &mut [f32]) {
    let RowFormat { dtype, layout, .. } = format;
    match dtype {
        DType::F32 => floats(panel, lane, out, f32::from_le_bytes),
        DType::F16 => floats(panel, lane, out, |b| f16::from_le_bytes(b).to_f32()),
        DType::BF16 => {
            for (out, pairs) in out.chunks_mut(2).zip(panel.chunks_exact(LANES * 4)) {
                let pair = pairs[lane * 4..].as_chunks::<2>().0;
                out.iter_mut().zip(pair).for_each(|(out, value)| *out = bf16::from_le_bytes(*value).to_f32());
            }
        }
        DType::F8E4M3 => floats(panel, lane, out, |[b]| f8e4m3_to_f32(b)),
        _ => {
            let shape = Shape::of(dtype);
            let mut block = Block::new();
            for (index, out) in out.chunks_exact_mut(dtype.block_len()).enumerate() {
                read_block(dtype, layout, panel, index, lane, &mut block);
                dequantize_block(&block, shape, out);
            }
        }
    }
}

/// Panels that threads write, each another one.
#[derive(Clone, Copy)]
struct PanelsOut {
    start: *mut u8,
    stride: usize,
}

// SAFETY: see `PanelsOut::panel`.
unsafe impl Send for PanelsOut {}
// SAFETY: see `PanelsOut::panel`.
unsafe impl Sync for PanelsOut {}

impl PanelsOut {
    /// # Safety
    /// The buffer holds panel `index` and nobody else uses it meanwhile.
    unsafe fn panel<'a>(self, index: usize) -> &'a mut [u8] {
        // SAFETY: the caller's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(index * self.stride), self.stride) }
    }
}

fn floats<const N: usize>(panel: &[u8], lane: usize, out: &mut [f32], convert: impl Fn([u8; N]) -> f32) {
    let (values, _) = panel.as_chunks::<N>();
    for (out, column) in out.iter_mut().zip(values.chunks_exact(LANES)) {
        *out = convert(column[lane]);
    }
}
