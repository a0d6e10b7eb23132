//! The header of a GGUF file: metadata and tensor table, checked in full before anything is used.
//! Format: `docs/gguf.md` of the ggml project.

use std::collections::{HashMap, HashSet};

use crate::cursor::Cursor;
use crate::error::{Fault, Problem, WrongFile};
use crate::gguf::value::{self, Stored, Value};
use crate::limits::{ALIGNMENT_MAX, DIMENSIONS_MAX, METADATA_ENTRIES_MAX, STRING_BYTES_MAX, TENSORS_MAX};
use crate::storage::StorageType;

/// The first four bytes of each GGUF file.
pub(crate) const MAGIC: &[u8; 4] = b"GGUF";
/// Alignment of tensor data when `general.alignment` does not say otherwise.
pub(crate) const DEFAULT_ALIGNMENT: u64 = 32;
/// Fewest bytes that a metadata entry takes: key length, type, a value of one byte.
const METADATA_ENTRY_BYTES_MIN: u64 = 8 + 4 + 1;
/// Fewest bytes of a tensor's entry: name length, number of dimensions, type, offset.
const TENSOR_ENTRY_BYTES_MIN: u64 = 8 + 4 + 4 + 8;

/// A checked header. It holds positions in the file, no copies of values.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) version: u32,
    /// Keys in the file's order.
    pub(crate) keys: Vec<String>,
    pub(crate) values: HashMap<String, Stored>,
    pub(crate) tensors: Vec<TensorInfo>,
}

/// A tensor's entry, checked against the file's length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorInfo {
    pub(crate) name: String,
    pub(crate) storage: StorageType,
    /// Outermost dimension first: [rows, columns] of a matrix.
    pub(crate) shape: Vec<usize>,
    /// Where the data starts, in bytes from the start of the file.
    pub(crate) start: usize,
    /// Bytes of data.
    pub(crate) len: usize,
}

/// Why a header was not accepted.
#[derive(Debug)]
pub(crate) enum HeaderError {
    Wrong(WrongFile),
    Fault(Fault),
}

impl From<Fault> for HeaderError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Header {
    /// Reads and checks the header of a whole file. Time and memory are bounded by the file's length.
    pub(crate) fn parse(file: &[u8]) -> Result<Self, HeaderError> {
        let mut cursor = Cursor::new(file, 0);
        let version = Self::version(&mut cursor)?;
        let tensor_count = cursor.count("tensor count", TENSORS_MAX)?;
        let entry_count = cursor.count("metadata entry count", METADATA_ENTRIES_MAX)?;
        let (keys, values) = Self::metadata(&mut cursor, entry_count)?;
        let mut header = Self { version, keys, values, tensors: Vec::new() };
        let alignment = header.alignment(file)?;
        header.tensors = Self::tensor_table(&mut cursor, tensor_count, alignment, file.len())?;
        Ok(header)
    }

    /// The value of a key; the file is the one that was parsed.
    pub(crate) fn value<'a>(&self, file: &'a [u8], key: &str) -> Option<Value<'a>> {
        let stored = self.values.get(key)?;
        value::read(&mut Cursor::new(file, stored.offset), stored.value_type, key).ok()
    }

    /// Where a key's value starts in the file.
    pub(crate) fn value_offset(&self, key: &str) -> u64 {
        self.values.get(key).map_or(0, |stored| stored.offset as u64)
    }

    fn version(cursor: &mut Cursor<'_>) -> Result<u32, HeaderError> {
        if cursor.take(4, "magic")? != MAGIC {
            return Err(HeaderError::Wrong(WrongFile::Unknown));
        }
        match cursor.u32("version")? {
            version @ (2 | 3) => Ok(version),
            // Versions are small, so one whose low half is zero was written in the other byte order.
            version if version != 0 && version & 0xffff == 0 => {
                Err(HeaderError::Wrong(WrongFile::BigEndianGguf))
            }
            version => Err(HeaderError::Wrong(WrongFile::GgufVersion(version))),
        }
    }

    fn metadata(
        cursor: &mut Cursor<'_>,
        count: u64,
    ) -> Result<(Vec<String>, HashMap<String, Stored>), Fault> {
        let capacity = bounded_capacity(count, cursor.remaining(), METADATA_ENTRY_BYTES_MIN);
        let mut keys = Vec::with_capacity(capacity);
        let mut values = HashMap::with_capacity(capacity);
        for index in 0..count {
            let at = cursor.offset();
            let key = cursor.text(&format!("key of metadata entry {index}"), STRING_BYTES_MAX)?;
            let stored = value::scan(cursor, key)?;
            if values.insert(key.to_owned(), stored).is_some() {
                return Err(Fault::new(format!("metadata key {key:?}"), at, Problem::Duplicate));
            }
            keys.push(key.to_owned());
        }
        Ok((keys, values))
    }

    fn alignment(&self, file: &[u8]) -> Result<u64, Fault> {
        const KEY: &str = "general.alignment";
        let fault = |problem| Fault::new(KEY, self.value_offset(KEY), problem);
        match self.value(file, KEY) {
            None => Ok(DEFAULT_ALIGNMENT),
            Some(Value::Unsigned(value)) if value > ALIGNMENT_MAX => {
                Err(fault(Problem::TooLarge { value, limit: ALIGNMENT_MAX }))
            }
            Some(Value::Unsigned(value)) if value.is_power_of_two() => Ok(value),
            Some(Value::Unsigned(value)) => {
                Err(fault(Problem::Unexpected { value, expected: "a power of two" }))
            }
            Some(other) => {
                let expected = "an unsigned integer";
                Err(fault(Problem::WrongType { found: other.type_name(), expected }))
            }
        }
    }

    fn tensor_table(
        cursor: &mut Cursor<'_>,
        count: u64,
        alignment: u64,
        file_len: usize,
    ) -> Result<Vec<TensorInfo>, Fault> {
        let capacity = bounded_capacity(count, cursor.remaining(), TENSOR_ENTRY_BYTES_MIN);
        let mut entries = Vec::with_capacity(capacity);
        let mut names = HashSet::with_capacity(capacity);
        for index in 0..count {
            let at = cursor.offset();
            let entry = Entry::read(cursor, index)?;
            if !names.insert(entry.name.clone()) {
                return Err(Fault::new(format!("tensor {:?}", entry.name), at, Problem::Duplicate));
            }
            entries.push(entry);
        }
        let header_end = cursor.offset();
        let data_start = header_end
            .checked_next_multiple_of(alignment)
            .ok_or_else(|| Fault::new("tensor data", header_end, Problem::Overflow))?;
        check_layout(&entries, data_start, alignment, file_len as u64)?;
        entries.into_iter().map(|entry| entry.locate(data_start)).collect()
    }
}

/// A tensor's entry as it stands in the file.
struct Entry {
    name: String,
    storage: StorageType,
    shape: Vec<usize>,
    bytes: u64,
    /// From the start of the tensor data.
    offset: u64,
    /// Where the offset field stands in the file, for messages.
    offset_at: u64,
}

impl Entry {
    fn read(cursor: &mut Cursor<'_>, index: u64) -> Result<Self, Fault> {
        let name = cursor.text(&format!("name of tensor {index}"), STRING_BYTES_MAX)?.to_owned();
        let field = |part: &str| format!("{part} of tensor {name:?}");
        let at = cursor.offset();
        let dimensions = u64::from(cursor.u32(&field("number of dimensions"))?);
        if dimensions > DIMENSIONS_MAX {
            let problem = Problem::TooLarge { value: dimensions, limit: DIMENSIONS_MAX };
            return Err(Fault::new(field("number of dimensions"), at, problem));
        }
        let shape_at = cursor.offset();
        let mut shape = Vec::with_capacity(4);
        for _ in 0..dimensions {
            let at = cursor.offset();
            let value = cursor.u64(&field("shape"))?;
            // A dimension of zero is a tensor without data; no model has one, and it would make room for
            // sizes that don't add up.
            if value == 0 {
                let expected = "at least 1";
                return Err(Fault::new(field("shape"), at, Problem::Unexpected { value, expected }));
            }
            let overflow = |_| Fault::new(field("shape"), at, Problem::Overflow);
            shape.push(usize::try_from(value).map_err(overflow)?);
        }
        // The file gives the fastest dimension first.
        shape.reverse();
        let type_at = cursor.offset();
        let id = cursor.u32(&field("type"))?;
        let storage = StorageType::from_ggml(id).ok_or_else(|| {
            let expected = "a tensor type that this version knows";
            Fault::new(field("type"), type_at, Problem::Unexpected { value: id.into(), expected })
        })?;
        let bytes =
            storage.bytes_of(&shape).map_err(|problem| Fault::new(field("shape"), shape_at, problem))?;
        let offset_at = cursor.offset();
        let offset = cursor.u64(&field("offset"))?;
        Ok(Self { name, storage, shape, bytes, offset, offset_at })
    }

    fn fault(&self, problem: Problem) -> Fault {
        Fault::new(format!("offset of tensor {:?}", self.name), self.offset_at, problem)
    }

    fn locate(self, data_start: u64) -> Result<TensorInfo, Fault> {
        let start = data_start.checked_add(self.offset).and_then(|start| usize::try_from(start).ok());
        match (start, usize::try_from(self.bytes)) {
            (Some(start), Ok(len)) => {
                Ok(TensorInfo { name: self.name, storage: self.storage, shape: self.shape, start, len })
            }
            _ => Err(self.fault(Problem::Overflow)),
        }
    }
}

/// Checks that the tensors lie one after the other, each at the next aligned place, and fill the file.
fn check_layout(entries: &[Entry], data_start: u64, alignment: u64, file_len: u64) -> Result<(), Fault> {
    let mut order: Vec<&Entry> = entries.iter().collect();
    order.sort_by_key(|entry| entry.offset);
    let available = file_len.saturating_sub(data_start);
    let mut previous_end = 0u64;
    for entry in order {
        let end = entry.offset.checked_add(entry.bytes).ok_or_else(|| entry.fault(Problem::Overflow))?;
        let expected =
            previous_end.checked_next_multiple_of(alignment).ok_or_else(|| entry.fault(Problem::Overflow))?;
        if entry.offset < previous_end {
            return Err(entry.fault(Problem::Overlap { previous_end }));
        }
        if !entry.offset.is_multiple_of(alignment) {
            let expected = "a multiple of the alignment";
            return Err(entry.fault(Problem::Unexpected { value: entry.offset, expected }));
        }
        if entry.offset > available || end > available {
            let available = available.saturating_sub(entry.offset);
            return Err(entry.fault(Problem::Truncated { needed: entry.bytes, available }));
        }
        if entry.offset != expected {
            return Err(entry.fault(Problem::Gap { bytes: entry.offset.saturating_sub(previous_end) }));
        }
        previous_end = end;
    }
    // Writers may pad the last tensor like the others, or not.
    let padded = previous_end.checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    if available > padded {
        let at = data_start.saturating_add(padded);
        return Err(Fault::new(
            "end of file",
            at,
            Problem::TrailingBytes { bytes: available.saturating_sub(padded) },
        ));
    }
    Ok(())
}

/// How many entries to make room for: no more than the rest of the file could hold.
fn bounded_capacity(count: u64, remaining: u64, entry_bytes_min: u64) -> usize {
    usize::try_from(count.min(remaining.checked_div(entry_bytes_min).unwrap_or(0))).unwrap_or(0)
}
