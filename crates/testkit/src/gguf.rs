//! GGUF files with other metadata around the same tensors, as published files differ from those that Levain writes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A value to be set.
#[derive(Debug, Clone, Copy)]
pub enum Meta<'a> {
    /// A `u32`.
    U32(u32),
    /// An `i32`.
    I32(i32),
    /// A `bool`.
    Bool(bool),
    /// A text.
    Text(&'a str),
}

impl Meta<'_> {
    fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::U32(n) => {
                out.extend(4u32.to_le_bytes());
                out.extend(n.to_le_bytes());
            }
            Self::I32(n) => {
                out.extend(5u32.to_le_bytes());
                out.extend(n.to_le_bytes());
            }
            Self::Bool(flag) => {
                out.extend(7u32.to_le_bytes());
                out.push(flag.into());
            }
            Self::Text(text) => {
                out.extend(8u32.to_le_bytes());
                write_text(text.as_bytes(), out);
            }
        }
    }
}

/// Copies a whole (version 3, alignment 32) GGUF file into a `name` beside it, with keys set, or dropped for `None`.
///
/// # Errors
/// If a file can't be read or written, or is no such file.
pub fn with_metadata(from: &Path, name: &str, changes: &[(&str, Option<Meta<'_>>)]) -> io::Result<PathBuf> {
    let bytes = fs::read(from)?;
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "no GGUF file that is known here");
    let copy = rewritten(&bytes, changes).ok_or_else(damaged)?;
    let path = from.with_file_name(name);
    fs::write(&path, copy)?;
    Ok(path)
}

const ALIGNMENT: usize = 32;

fn rewritten(bytes: &[u8], changes: &[(&str, Option<Meta<'_>>)]) -> Option<Vec<u8>> {
    let mut at = Cursor { bytes, at: 8 };
    let (tensors, keys) = (at.u64()?, at.u64()?);
    let (mut kept, mut count) = (Vec::new(), 0u64);
    for _ in 0..keys {
        let start = at.at;
        let key = at.text()?;
        let kind = at.u32()?;
        at.skip(kind)?;
        if !changes.iter().any(|(changed, _)| changed.as_bytes() == key) {
            kept.extend(bytes.get(start..at.at)?);
            count += 1;
        }
    }
    for (key, value) in changes {
        if let Some(value) = value {
            write_text(key.as_bytes(), &mut kept);
            value.write(&mut kept);
            count += 1;
        }
    }
    let infos = at.at;
    for _ in 0..tensors {
        at.text()?;
        let dims = usize::try_from(at.u32()?).ok()?;
        at.at += 8 * dims + 4 + 8;
    }
    let mut out = bytes.get(..8)?.to_vec();
    out.extend(tensors.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend(kept);
    out.extend(bytes.get(infos..at.at)?);
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    out.extend(bytes.get(at.at.next_multiple_of(ALIGNMENT)..)?);
    Some(out)
}

fn write_text(text: &[u8], out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let found = self.bytes.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(found)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u64()?).ok()?;
        self.take(len)
    }

    /// Passes over a value of this type.
    fn skip(&mut self, kind: u32) -> Option<()> {
        match kind {
            0 | 1 | 7 => self.take(1).map(drop),
            2 | 3 => self.take(2).map(drop),
            4..=6 => self.take(4).map(drop),
            10..=12 => self.take(8).map(drop),
            8 => self.text().map(drop),
            9 => {
                let (kind, count) = (self.u32()?, self.u64()?);
                (0..count).try_for_each(|_| self.skip(kind))
            }
            _ => None,
        }
    }
}
