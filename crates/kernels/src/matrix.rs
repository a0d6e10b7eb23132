//! Weight matrices, packed once at load.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::{bf16, f16};

use crate::blocks::{Block, Shape};
use crate::buffer::PageBuffer;
use crate::dequantize::dequantize_block;
use crate::kernels::{F8_BLOCK, PANELS_MAX, Panels};
use crate::lanes::LANES;
use crate::panel::{Layout, pack_floats, pack_pairs, pack_quants, panels, read_block};
use crate::{DType, KernelError, Pool, f8e4m3_to_f32};

/// Weights that are packed before the next are asked for.
const PART_BYTES: usize = 16 << 20;

/// Weights of shape `[rows, cols]`, packed for the kernels; a product computes one output value per row.
///
/// The packed form takes as many bits a weight as the file's, plus what fills up the last 16 rows.
pub struct Matrix {
    dtype: DType,
    rows: usize,
    cols: usize,
    layout: Layout,
    data: PageBuffer,
    /// `F8E4M3`: the scale of each block of 128 x 128, rows of blocks first; otherwise empty.
    scales: Vec<f32>,
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
        Self::pack_in_parts(dtype, rows, cols, data, pool, |_| {})
    }

    /// As [`Matrix::pack`], telling which bytes of `data` are not needed any more: a part of some megabytes at a time,
    /// from first to last.
    ///
    /// # Errors
    /// As for [`Matrix::pack`].
    pub fn pack_in_parts(
        dtype: DType,
        rows: usize,
        cols: usize,
        data: &[u8],
        pool: &Pool,
        done: impl FnMut(Range<usize>),
    ) -> Result<Self, KernelError> {
        if dtype == DType::F8E4M3 {
            return Err(KernelError::BadScales { dtype, reason: "none were given" });
        }
        Self::pack_any(dtype, rows, cols, data, Vec::new(), pool, done)
    }

    /// Packs other weights of the same shape and format into the memory of these; `scales` are those of
    /// [`Matrix::pack_f8`], and empty for every other format.
    ///
    /// # Errors
    /// As for [`Matrix::pack`] and [`Matrix::pack_f8`]; the matrix keeps its weights then.
    pub fn repack(&mut self, data: &[u8], scales: &[f32], pool: &Pool) -> Result<(), KernelError> {
        let Self { dtype, rows, cols, .. } = *self;
        match dtype {
            DType::F8E4M3 => check_f8(rows, cols, data, scales)?,
            _ if scales.is_empty() => {}
            _ => return Err(KernelError::BadScales { dtype, reason: "this format has none" }),
        }
        let needed = dtype.row_bytes(cols).unwrap_or(0) * rows;
        if data.len() != needed {
            return Err(KernelError::WrongLength { dtype, rows, cols, needed, given: data.len() });
        }
        self.scales.copy_from_slice(scales);
        // What fills up the last panel is zero already and stays so.
        pack_panels(dtype, cols, self.layout, data, &mut self.data, pool)
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
        check_f8(rows, cols, data, scales)?;
        Self::pack_any(DType::F8E4M3, rows, cols, data, scales.to_vec(), pool, |_| {})
    }

    fn pack_any(
        dtype: DType,
        rows: usize,
        cols: usize,
        data: &[u8],
        scales: Vec<f32>,
        pool: &Pool,
        mut done: impl FnMut(Range<usize>),
    ) -> Result<Self, KernelError> {
        let bad_shape = KernelError::BadShape { dtype, rows, cols };
        if rows == 0 || cols == 0 {
            return Err(bad_shape);
        }
        let row_bytes = dtype.row_bytes(cols).ok_or(KernelError::PartialBlock { dtype, cols })?;
        let needed = row_bytes.checked_mul(rows).ok_or_else(|| bad_shape.clone())?;
        if data.len() != needed {
            return Err(KernelError::WrongLength { dtype, rows, cols, needed, given: data.len() });
        }
        let layout = Layout::new(dtype, cols).ok_or_else(|| bad_shape.clone())?;
        let bytes = layout.stride.checked_mul(panels(rows)).ok_or(bad_shape)?;
        let mut packed = PageBuffer::zeroed(bytes).ok_or(KernelError::OutOfMemory { bytes })?;
        packed.prefer_huge_pages();
        let panels_a_part = (PART_BYTES / (LANES * row_bytes)).max(1);
        let parts = data.chunks(panels_a_part * LANES * row_bytes);
        for (index, (part, out)) in parts.zip(packed.chunks_mut(panels_a_part * layout.stride)).enumerate() {
            pack_panels(dtype, cols, layout, part, out, pool).map_err(|error| match error {
                KernelError::NotFinite { dtype, row } => {
                    KernelError::NotFinite { dtype, row: row + index * panels_a_part * LANES }
                }
                other => other,
            })?;
            let start = index * panels_a_part * LANES * row_bytes;
            done(start..start + part.len());
        }
        Ok(Self { dtype, rows, cols, layout, data: packed, scales })
    }

    /// Output values of a product.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input values of a product.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The format of the weights.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes of memory held.
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
        assert!(row < self.rows, "row {row} of {}", self.rows);
        assert_eq!(out.len(), self.cols, "room for a row");
        let panel = &self.data[row / LANES * self.layout.stride..][..self.layout.stride];
        let lane = row % LANES;
        match self.dtype {
            DType::F32 => floats(panel, lane, out, f32::from_le_bytes),
            DType::F16 => floats(panel, lane, out, |b| f16::from_le_bytes(b).to_f32()),
            DType::BF16 => {
                for (out, pairs) in out.chunks_mut(2).zip(panel.chunks_exact(LANES * 4)) {
                    let pair = pairs[lane * 4..].as_chunks::<2>().0;
                    out.iter_mut()
                        .zip(pair)
                        .for_each(|(out, value)| *out = bf16::from_le_bytes(*value).to_f32());
                }
            }
            DType::F8E4M3 => {
                floats(panel, lane, out, |[b]| f8e4m3_to_f32(b));
                let scales = &self.scales[row / F8_BLOCK * self.cols.div_ceil(F8_BLOCK)..];
                for (out, scale) in out.chunks_mut(F8_BLOCK).zip(scales) {
                    out.iter_mut().for_each(|out| *out *= scale);
                }
            }
            _ => {
                let shape = Shape::of(self.dtype);
                let mut block = Block::new();
                for (index, out) in out.chunks_exact_mut(self.dtype.block_len()).enumerate() {
                    read_block(self.dtype, self.layout, panel, index, lane, &mut block);
                    dequantize_block(&block, shape, out);
                }
            }
        }
    }

    /// The panels with these numbers, one to [`PANELS_MAX`].
    pub(crate) fn panels(&self, range: Range<usize>) -> Panels {
        let scale_row = |index: usize| index * LANES / F8_BLOCK * self.cols.div_ceil(F8_BLOCK);
        let indices: [usize; PANELS_MAX] = std::array::from_fn(|i| (range.start + i).min(range.end - 1));
        Panels {
            start: indices.map(|index| self.data[index * self.layout.stride..].as_ptr()),
            count: range.len(),
            layout: self.layout,
            cols: self.cols,
            scales: indices.map(|index| self.scales.get(scale_row(index)..).unwrap_or_default().as_ptr()),
        }
    }
}

impl fmt::Debug for Matrix {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Matrix({} x {}, {})", self.rows, self.cols, self.dtype)
    }
}

/// Checks 8-bit floats and the scales of their blocks.
fn check_f8(rows: usize, cols: usize, data: &[u8], scales: &[f32]) -> Result<(), KernelError> {
    let dtype = DType::F8E4M3;
    if Some(scales.len()) != rows.div_ceil(F8_BLOCK).checked_mul(cols.div_ceil(F8_BLOCK)) {
        return Err(KernelError::BadScales { dtype, reason: "their number does not fit the shape" });
    }
    if scales.iter().any(|scale| !scale.is_finite()) {
        return Err(KernelError::BadScales { dtype, reason: "one of them is not a finite number" });
    }
    match data.iter().position(|byte| byte & 0x7f == 0x7f) {
        Some(at) => Err(KernelError::NotFinite { dtype, row: at.checked_div(cols).unwrap_or(0) }),
        None => Ok(()),
    }
}

/// Packs rows of `cols` values, as many as `data` has, into `packed`, which has a panel for each 16 of them.
fn pack_panels(
    dtype: DType,
    cols: usize,
    layout: Layout,
    data: &[u8],
    packed: &mut [u8],
    pool: &Pool,
) -> Result<(), KernelError> {
    let row_bytes = dtype.row_bytes(cols).ok_or(KernelError::PartialBlock { dtype, cols })?;
    let rows = data.len() / row_bytes;
    assert_eq!(packed.len(), layout.stride * panels(rows), "a panel for each 16 rows");
    let to = PanelsOut { start: packed.as_mut_ptr(), stride: layout.stride };
    let bad_row = AtomicUsize::new(rows);
    pool.run(panels(rows), &|panel| {
        // SAFETY: each task takes another panel of the buffer, which outlives the region.
        let out = unsafe { to.panel(panel) };
        let from = panel * LANES * row_bytes;
        let source = &data[from..data.len().min(from + LANES * row_bytes)];
        match dtype.block_bytes() {
            1 => pack_floats::<1>(cols, source, out),
            2 if dtype == DType::BF16 => pack_pairs(cols, source, out),
            2 => pack_floats::<2>(cols, source, out),
            4 => pack_floats::<4>(cols, source, out),
            _ => {
                if let Err(row) = pack_quants(dtype, layout, cols, source, out) {
                    bad_row.fetch_min(panel * LANES + row, Ordering::Relaxed);
                }
            }
        }
    });
    let row = bad_row.into_inner();
    if row < rows { Err(KernelError::NotFinite { dtype, row }) } else { Ok(()) }
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
