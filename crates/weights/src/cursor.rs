//! A reading position in hostile bytes: every step is checked against what is left.

use crate::error::{Fault, Problem};

/// Reads little-endian values one after the other. All failures name a field and the byte where it starts.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// Bytes from the start of the file.
    pub(crate) fn offset(&self) -> u64 {
        self.at as u64
    }

    pub(crate) fn remaining(&self) -> u64 {
        self.bytes.len().saturating_sub(self.at) as u64
    }

    /// All bytes from here on.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    pub(crate) fn take(&mut self, len: u64, field: &str) -> Result<&'a [u8], Fault> {
        let truncated = || {
            Fault::new(field, self.offset(), Problem::Truncated { needed: len, available: self.remaining() })
        };
        let end = usize::try_from(len).ok().and_then(|len| self.at.checked_add(len)).ok_or_else(truncated)?;
        let taken = self.bytes.get(self.at..end).ok_or_else(truncated)?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N], Fault> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, field)?);
        Ok(out)
    }

    pub(crate) fn u8(&mut self, field: &str) -> Result<u8, Fault> {
        Ok(self.array::<1>(field)?[0])
    }

    pub(crate) fn u16(&mut self, field: &str) -> Result<u16, Fault> {
        self.array(field).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self, field: &str) -> Result<u32, Fault> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, field: &str) -> Result<u64, Fault> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// A number that must not exceed a limit.
    pub(crate) fn count(&mut self, field: &str, limit: u64) -> Result<u64, Fault> {
        let at = self.offset();
        let value = self.u64(field)?;
        if value > limit {
            return Err(Fault::new(field, at, Problem::TooLarge { value, limit }));
        }
        Ok(value)
    }

    /// A text with its length before it, as GGUF stores them.
    pub(crate) fn text(&mut self, field: &str, limit: u64) -> Result<&'a str, Fault> {
        let len = self.count(field, limit)?;
        let at = self.offset();
        std::str::from_utf8(self.take(len, field)?).map_err(|_| Fault::new(field, at, Problem::NotUtf8))
    }
}
