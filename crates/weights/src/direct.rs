//! Reads of whole tensors past the memory map, for weights that are used from the disk.
//!
//! A mapped file comes in page by page and fills the system's cache with what is not needed again soon. These
//! reads are as large as the tensor and, where the file system allows it, go from the disk to the buffer directly.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a place lies within its file, as was checked when the checkpoint was opened, and buffers are sized from it"
)]

use std::fs::File;
#[cfg(target_os = "linux")]
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use levain_kernels::DType;

use crate::error::WeightsError;
use crate::map::Stamp;

/// Offsets, lengths and addresses of direct reads are multiples of this on all common disks.
const ALIGN: usize = 4096;

/// Where a tensor lies, with what is needed to use its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorPlace {
    /// The block format.
    pub dtype: DType,
    pub(crate) file: usize,
    pub(crate) start: usize,
    /// Bytes.
    pub len: usize,
}

/// The files of a checkpoint, open for reading tensors as a whole. May be used by several threads at once.
#[derive(Debug)]
pub struct TensorReader {
    files: Vec<ReaderFile>,
}

#[derive(Debug)]
struct ReaderFile {
    path: PathBuf,
    /// For direct reads, where the file system has them.
    direct: Option<File>,
    /// For reads through the system's cache.
    cached: File,
    /// Whether the file system has refused a direct read.
    refused: AtomicBool,
    /// What the file was when its header was checked, where that is known.
    stamp: Option<Stamp>,
}

/// Memory that a tensor is read into, with room for the alignment that direct reads need.
#[derive(Debug, Default)]
pub struct ReadBuffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl ReadBuffer {
    /// The tensor's bytes as the last read left them.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    /// Bytes of memory held.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.capacity()
    }
}

impl TensorReader {
    /// Opens files that each were once what its stamp says.
    pub(crate) fn open<'a>(
        files: impl Iterator<Item = (&'a PathBuf, Option<Stamp>)>,
    ) -> Result<Self, WeightsError> {
        let files = files.map(|(path, stamp)| ReaderFile::open(path, stamp));
        Ok(Self { files: files.collect::<Result<_, _>>()? })
    }

    /// Whether reads go past the system's cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.files.iter().all(|file| file.direct().is_some())
    }

    /// Reads a tensor; its bytes are then [`ReadBuffer::bytes`].
    ///
    /// # Errors
    /// If the file can't be read, has become shorter or was changed since the checkpoint was opened.
    pub fn read(&self, place: &TensorPlace, buffer: &mut ReadBuffer) -> Result<(), WeightsError> {
        let Some(file) = self.files.get(place.file) else {
            let missing = io::Error::new(io::ErrorKind::NotFound, "no such file in this checkpoint");
            return Err(WeightsError::io(Path::new(""), missing));
        };
        let from = place.start / ALIGN * ALIGN;
        let skipped = place.start - from;
        let wanted = (skipped + place.len).next_multiple_of(ALIGN);
        if buffer.memory.len() < wanted + ALIGN {
            buffer.memory.resize(wanted + ALIGN, 0);
        }
        let aligned = buffer.memory.as_ptr().align_offset(ALIGN).min(ALIGN);
        let target = &mut buffer.memory[aligned..aligned + wanted];
        let read = file.read_at(target, from as u64);
        // Looked at afterwards, so that nothing of another file passes for what was asked for.
        file.check()?;
        let read = read.map_err(|e| WeightsError::io(&file.path, e))?;
        if read < skipped + place.len {
            let short = io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter");
            return Err(WeightsError::io(&file.path, short));
        }
        (buffer.start, buffer.len) = (aligned + skipped, place.len);
        Ok(())
    }
}

impl ReaderFile {
    fn open(path: &Path, stamp: Option<Stamp>) -> Result<Self, WeightsError> {
        let cached = File::open(path).map_err(|e| WeightsError::io(path, e))?;
        // A file system in memory, for one, has no direct reads.
        let direct = open_direct(path);
        let file = Self { path: path.to_owned(), direct, cached, refused: AtomicBool::new(false), stamp };
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> Result<(), WeightsError> {
        self.stamp.map_or(Ok(()), |stamp| stamp.check(&self.cached, &self.path))
    }

    fn direct(&self) -> Option<&File> {
        self.direct.as_ref().filter(|_| !self.refused.load(Ordering::Relaxed))
    }

    /// Fills `target` from `offset` on, or as much of it as the file has.
    fn read_at(&self, target: &mut [u8], offset: u64) -> io::Result<usize> {
        if let Some(file) = self.direct() {
            match read_at(file, target, offset) {
                // Some file systems open a file for direct reads and then refuse to read it, or want addresses to be
                // multiples of more.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    self.refused.store(true, Ordering::Relaxed);
                }
                result => return result,
            }
        }
        read_at(&self.cached, target, offset)
    }
}

/// Fills `target` from `offset` on, or as much of it as the file has.
#[cfg(unix)]
fn read_at(file: &File, target: &mut [u8], offset: u64) -> io::Result<usize> {
    use std::os::unix::fs::FileExt;

    let mut done = 0;
    while done < target.len() {
        match file.read_at(&mut target[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A direct read that goes on from the file's ragged end is refused: that end was all there is.
            Err(_) if done > 0 && !done.is_multiple_of(ALIGN) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[cfg(not(unix))]
fn read_at(file: &File, target: &mut [u8], offset: u64) -> io::Result<usize> {
    use std::io::{Read, Seek, SeekFrom};

    let mut file = file.try_clone()?;
    file.seek(SeekFrom::Start(offset))?;
    let mut done = 0;
    while done < target.len() {
        match file.read(&mut target[done..])? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;

    OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).ok()
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_path: &Path) -> Option<File> {
    None
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn tensors_are_read_from_any_offset_to_the_very_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        let contents: Vec<u8> = (0..20_011_u32).map(|i| (i * 7 % 251) as u8).collect();
        std::fs::write(&path, &contents).unwrap();
        for direct in [true, false] {
            let mut file = ReaderFile::open(&path, None).unwrap();
            file.direct = file.direct.filter(|_| direct);
            let reader = TensorReader { files: vec![file] };
            let mut buffer = ReadBuffer::default();
            for (start, len) in
                [(0, 1), (1, 4095), (4095, 2), (4096, 4096), (12_288, 7723), (20_010, 1), (3, 20_008)]
            {
                let place = TensorPlace { dtype: DType::Q8_0, file: 0, start, len };
                reader.read(&place, &mut buffer).unwrap();
                assert_eq!(buffer.bytes(), &contents[start..start + len], "{start} {len} {direct}");
            }
            let beyond = TensorPlace { dtype: DType::Q8_0, file: 0, start: 20_000, len: 12 };
            assert!(reader.read(&beyond, &mut buffer).unwrap_err().to_string().contains("shorter"));
        }
    }

    #[test]
    fn a_file_that_is_not_the_one_that_was_opened_gives_no_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        std::fs::write(&path, [7; 10_000]).unwrap();
        let write = || std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        // Clocks of file systems are coarse; this one was written long ago.
        write().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        let stamp = crate::map::Bytes::map(&path).unwrap().stamp();
        let open = || TensorReader::open([(&path, stamp)].into_iter());
        let reader = open().unwrap();
        let (mut buffer, place) =
            (ReadBuffer::default(), TensorPlace { dtype: DType::Q8_0, file: 0, start: 0, len: 10 });
        reader.read(&place, &mut buffer).unwrap();
        write().write_all(&[8; 10]).unwrap();
        let changed = reader.read(&place, &mut buffer);
        assert!(matches!(changed, Err(WeightsError::Changed { .. })), "{changed:?}");
        assert!(matches!(open(), Err(WeightsError::Changed { .. })));
        write().set_len(100).unwrap();
        let lost = reader.read(&place, &mut buffer);
        assert!(matches!(lost, Err(WeightsError::Lost { .. })), "{lost:?}");
    }

    #[test]
    fn a_refused_direct_read_goes_through_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        std::fs::write(&path, [7; 10_000]).unwrap();
        let file = ReaderFile::open(&path, None).unwrap();
        // No address, length or offset that a direct read could have.
        let mut memory = [0; 200];
        assert_eq!(file.read_at(&mut memory[1..101], 9951).unwrap(), 49);
        assert_eq!(memory[..51], [&[0][..], &[7; 49], &[0]].concat());
        if file.direct.is_some() {
            assert!(!TensorReader { files: vec![file] }.is_direct());
        }
    }
}
