//! Where the integers of a valid GGUF or safetensors file stand, found by a reader of its own.

#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

/// An integer in the file.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Bytes from the start of the file.
    pub offset: usize,
    /// Bytes, or for a decimal number in JSON its digits.
    pub width: usize,
    /// Whether it is written in JSON.
    pub decimal: bool,
}

/// A header's parts.
#[derive(Debug, Default)]
pub struct Layout {
    /// The integers, in the order of the file.
    pub integers: Vec<Field>,
    /// Whole entries: a key with its value, or a tensor's line of the table.
    pub entries: Vec<(usize, usize)>,
    /// Where the table of tensors ends.
    pub header_end: usize,
}

/// Those of a GGUF file's header.
///
/// # Panics
/// If the file is not valid.
#[must_use]
pub fn gguf(file: &[u8]) -> Layout {
    let mut walk = Walk { file, at: 8, layout: Layout::default() };
    walk.layout.integers.push(Field { offset: 4, width: 4, decimal: false });
    let tensors = walk.int(8);
    let entries = walk.int(8);
    for _ in 0..entries {
        let start = walk.at;
        walk.text();
        let kind = walk.int(4);
        walk.value(kind);
        walk.layout.entries.push((start, walk.at));
    }
    for _ in 0..tensors {
        let start = walk.at;
        walk.text();
        let dimensions = walk.int(4);
        for _ in 0..dimensions {
            walk.int(8);
        }
        walk.int(4);
        walk.int(8);
        walk.layout.entries.push((start, walk.at));
    }
    walk.layout.header_end = walk.at;
    walk.layout
}

struct Walk<'a> {
    file: &'a [u8],
    at: usize,
    layout: Layout,
}

impl Walk<'_> {
    fn int(&mut self, width: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(&self.file[self.at..self.at + width]);
        self.layout.integers.push(Field { offset: self.at, width, decimal: false });
        self.at += width;
        u64::from_le_bytes(bytes)
    }

    fn text(&mut self) {
        self.at += self.int(8) as usize;
    }

    fn value(&mut self, kind: u64) {
        match kind {
            0 | 1 | 7 => _ = self.int(1),
            2 | 3 => _ = self.int(2),
            4..=6 => _ = self.int(4),
            10..=12 => _ = self.int(8),
            8 => self.text(),
            9 => {
                let kind = self.int(4);
                let count = self.int(8);
                // The first elements stand for all: a vocabulary has thousands of alike ones.
                let known = self.layout.integers.len();
                for _ in 0..count {
                    self.value(kind);
                }
                self.layout.integers.truncate(known + 24);
            }
            other => panic!("value type {other} in a valid file"),
        }
    }
}

/// Those of a safetensors file's header.
///
/// # Panics
/// If the file is not valid.
#[must_use]
pub fn safetensors(file: &[u8]) -> Layout {
    let header = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let mut layout = Layout { header_end: 8 + header, ..Layout::default() };
    layout.integers.push(Field { offset: 0, width: 8, decimal: false });
    let json = &file[8..8 + header];
    let mut i = 0;
    let mut in_text = false;
    let mut entry = None;
    while i < json.len() {
        match json[i] {
            b'\\' if in_text => i += 1,
            b'"' => in_text = !in_text,
            b'0'..=b'9' if !in_text => {
                let width = json[i..].iter().take_while(|b| b.is_ascii_digit()).count();
                layout.integers.push(Field { offset: 8 + i, width, decimal: true });
                i += width - 1;
            }
            b'{' if !in_text && i > 0 => {
                // An entry begins with the quote of its name, before the colon.
                let name = json[..i - 2].iter().rposition(|&b| b == b'"').unwrap();
                entry = Some(8 + name);
            }
            b'}' if !in_text => {
                if let Some(start) = entry.take() {
                    layout.entries.push((start, 8 + i + 1));
                }
            }
            _ => {}
        }
        i += 1;
    }
    layout
}

/// Puts a value in a field's place. A decimal number may become longer; the header's length is then kept true.
///
/// # Panics
/// If the field lies beyond the file.
pub fn put(file: &mut Vec<u8>, field: Field, value: u64) {
    if !field.decimal {
        file[field.offset..field.offset + field.width].copy_from_slice(&value.to_le_bytes()[..field.width]);
        return;
    }
    let digits = value.to_string().into_bytes();
    let grown = digits.len() as i64 - field.width as i64;
    file.splice(field.offset..field.offset + field.width, digits);
    let len = u64::from_le_bytes(file[..8].try_into().unwrap()).wrapping_add_signed(grown);
    file[..8].copy_from_slice(&len.to_le_bytes());
}

/// The value of a field.
///
/// # Panics
/// If it lies beyond the file, or is no number.
#[must_use]
pub fn get(file: &[u8], field: Field) -> u64 {
    let bytes = &file[field.offset..field.offset + field.width];
    if field.decimal {
        return std::str::from_utf8(bytes).unwrap().parse().unwrap();
    }
    let mut wide = [0; 8];
    wide[..field.width].copy_from_slice(bytes);
    u64::from_le_bytes(wide)
}

/// The values most likely to break a size check: 0, 1, the largest of each width and the first beyond it, and what
/// lies beside the length of the file and the field's own value.
#[must_use]
pub fn boundary_values(file: &[u8], field: Field) -> Vec<u64> {
    let max = if field.decimal || field.width == 8 { u64::MAX } else { (1 << (8 * field.width)) - 1 };
    let len = file.len() as u64;
    let value = get(file, field);
    let mut values = vec![0, 1, max, max - 1, max / 2, max / 2 + 1, len - 1, len, len + 1];
    values.extend([1 << 31, (1 << 32) - 1, 1 << 32]);
    values.extend([value.wrapping_add(1), value.wrapping_sub(1), value.wrapping_mul(2)]);
    values.sort_unstable();
    values.dedup();
    values.retain(|v| *v <= max && *v != value);
    values
}
