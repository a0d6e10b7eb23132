//! Bytes of a file, mapped read-only into memory. The only `unsafe` of this crate is here.

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{WeightsError, WrongFile};

/// The contents of a file. Pages come in as they are touched and may be given back with [`Bytes::release`].
#[derive(Debug)]
pub(crate) enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Default for Bytes {
    fn default() -> Self {
        Self::Owned(Vec::new())
    }
}

impl Bytes {
    /// Maps a whole file. Refuses folders, devices, pipes and empty files.
    pub(crate) fn map(path: &Path) -> Result<Self, WeightsError> {
        let at = |e| WeightsError::io(path, e);
        let file = File::open(path).map_err(at)?;
        let meta = file.metadata().map_err(at)?;
        if !meta.is_file() {
            return Err(at(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
        }
        if meta.len() == 0 {
            return Err(WeightsError::wrong(path, WrongFile::Empty));
        }
        #[expect(unsafe_code, reason = "a memory map has no safe constructor")]
        // SAFETY: the map is read-only and private to this struct. The file's bytes are only ever read as
        // `u8`, for which each bit pattern is valid. What can't be ruled out is another process changing
        // or cutting the file while it is mapped: a change gives other numbers, a cut ends this process
        // with SIGBUS. The store therefore never changes a file in place; it renames whole new ones.
        let map = unsafe { Mmap::map(&file) }.map_err(at)?;
        Ok(Self::Mapped(map))
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }

    /// Tells the system that the pages of this range need not stay in memory. The bytes stay readable:
    /// they are read from the file again when touched.
    pub(crate) fn release(&self, start: usize, len: usize) -> io::Result<()> {
        #[cfg(unix)]
        if let Self::Mapped(map) = self
            && len > 0
        {
            if start.checked_add(len).is_none_or(|end| end > map.len()) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "range outside the file"));
            }
            #[expect(unsafe_code, reason = "MADV_DONTNEED has no safe wrapper")]
            // SAFETY: the map is a read-only view of a file, so dropped pages come back with the file's
            // bytes; MADV_DONTNEED loses data only in anonymous or privately written pages, and there are none.
            unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, len) }?;
        }
        #[cfg(not(unix))]
        let _ = (start, len);
        Ok(())
    }

    /// Asks the system to read this range ahead of use.
    pub(crate) fn will_need(&self, start: usize, len: usize) -> io::Result<()> {
        #[cfg(unix)]
        if let Self::Mapped(map) = self
            && len > 0
        {
            map.advise_range(memmap2::Advice::WillNeed, start, len)?;
        }
        #[cfg(not(unix))]
        let _ = (start, len);
        Ok(())
    }
}
