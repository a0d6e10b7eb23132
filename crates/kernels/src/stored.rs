//! Weights as a file stores them, for matrices that are multiplied with before they are packed.

use std::alloc::{Layout, handle_alloc_error};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::KernelError;
use crate::buffer::PageBuffer;
use crate::kernels::PANELS_MAX;
use crate::lanes::LANES;
use crate::panel::RowFormat;

/// Bytes of a file that stay readable, mapped or in memory.
pub trait StoredWeights: fmt::Debug + Send + Sync {
    /// The rows one after the other; the same bytes on each call.
    fn bytes(&self) -> &[u8];

    /// Some of the bytes are not needed any more. They may leave the memory but have to stay readable.
    fn let_go(&self, part: Range<usize>);
}

/// The part of a matrix that is not packed yet.
#[derive(Debug, Clone)]
pub(crate) struct Rest {
    pub(crate) stored: Arc<dyn StoredWeights>,
    /// Panels that are packed already: all before this one.
    pub(crate) packed: usize,
}

/// Where a thread packs panels that it multiplies with at once and then forgets.
#[derive(Debug, Default)]
pub(crate) struct PanelRoom {
    panels: PageBuffer,
    /// A row that could not be packed; what is computed with it is void.
    failure: Option<KernelError>,
}

impl PanelRoom {
    /// Packs the panel with number `index` of `stored` into place `place`, of which there are [`PANELS_MAX`].
    pub(crate) fn pack(&mut self, format: &RowFormat, stored: &[u8], index: usize, place: usize) {
        let stride = format.layout.stride;
        if self.panels.len() < PANELS_MAX * stride {
            match PageBuffer::zeroed(PANELS_MAX * stride) {
                Some(panels) => self.panels = panels,
                None => handle_alloc_error(Layout::new::<u8>()),
            }
        }
        let panel = &mut self.panels[place * stride..][..stride];
        // Rows and columns that fill a panel up are zero, and another panel may have been here.
        panel.fill(0);
        if let Err(row) = format.pack_panel(stored, index, panel) {
            let row = index * LANES + row;
            self.failure.get_or_insert(KernelError::NotFinite { dtype: format.dtype, row });
        }
    }

    /// Where the panel in a place begins; good until the next is packed.
    pub(crate) fn panel(&self, place: usize, stride: usize) -> *const u8 {
        self.panels[place * stride..].as_ptr()
    }

    pub(crate) fn take_failure(&mut self) -> Option<KernelError> {
        self.failure.take()
    }

    /// Gives the memory back.
    pub(crate) fn clear(&mut self) {
        self.panels = PageBuffer::default();
    }
}

#[cfg(test)]
pub(crate) mod tests;
