//! Proof that the mutation test can find something: a careless reader with three well-known bugs, each of
//! which the same mutants must bring to light.

use std::time::Duration;

use crate::child::{End, run, run_within};

/// Reads a GGUF header as carelessly as the bug's name says; otherwise with care.
pub(crate) fn open(bug: &str, file: &[u8]) -> Result<bool, String> {
    let mut reader = Reader { file, at: 0 };
    Ok(reader.header(bug)?.is_some())
}

struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn int(&mut self, width: usize) -> Option<u64> {
        let mut wide = [0; 8];
        wide[..width].copy_from_slice(self.file.get(self.at..self.at.checked_add(width)?)?);
        self.at += width;
        Some(u64::from_le_bytes(wide))
    }

    fn skip(&mut self, len: u64) -> Option<()> {
        let end = self.at.checked_add(usize::try_from(len).ok()?)?;
        self.file.get(self.at..end)?;
        self.at = end;
        Some(())
    }

    fn value(&mut self, kind: u64, depth: usize) -> Option<u64> {
        match kind {
            0 | 1 | 7 => self.int(1),
            2 | 3 => self.int(2),
            4..=6 => self.int(4),
            10..=12 => self.int(8),
            8 => {
                let len = self.int(8)?;
                self.skip(len).map(|()| len)
            }
            9 if depth < 4 => {
                let kind = self.int(4)?;
                let count = self.int(8)?;
                (0..count.min(1 << 20)).try_for_each(|_| self.value(kind, depth + 1).map(drop))?;
                Some(count)
            }
            _ => None,
        }
    }

    fn header(&mut self, bug: &str) -> Result<Option<()>, String> {
        let Some((tensors, entries)) = self.counts() else { return Ok(None) };
        let mut names: Vec<[u8; 64]> = Vec::new();
        if bug == "alloc" {
            // The bug: room for what a number in the file says.
            names.reserve_exact(usize::try_from(tensors).unwrap_or(0).min(isize::MAX as usize / 64));
        }
        std::hint::black_box(&mut names);
        let mut alignment = 32;
        for _ in 0..entries {
            let start = self.at;
            let Some(len) = self.int(8) else { return Ok(None) };
            let Some(()) = self.skip(len) else { return Ok(None) };
            let is_alignment = self.file[start + 8..self.at] == *b"general.alignment";
            let Some(value) = self.int(4).and_then(|kind| self.value(kind, 0)) else { return Ok(None) };
            if is_alignment {
                alignment = value;
            }
        }
        if bug == "loop" {
            // The bug: an alignment of zero never gets there.
            let mut start = 0;
            while start < self.at as u64 {
                start += std::hint::black_box(alignment);
            }
        } else if alignment == 0 {
            return Ok(None);
        }
        for _ in 0..tensors {
            let Some((size, shape)) = self.tensor() else { return Ok(None) };
            let true_size = shape.iter().fold(1u128, |n, &d| n.saturating_mul(d.into()));
            // The bug: a product that has wrapped looks small enough for the file.
            if bug == "wrap" && size <= self.file.len() as u64 && true_size > u128::from(size) {
                return Err(format!("{shape:?} was taken for {size} values"));
            }
        }
        Ok(Some(()))
    }

    fn counts(&mut self) -> Option<(u64, u64)> {
        self.skip(8)?;
        Some((self.int(8)?, self.int(8)?))
    }

    fn tensor(&mut self) -> Option<(u64, Vec<u64>)> {
        let len = self.int(8)?;
        self.skip(len)?;
        let dimensions = self.int(4)?;
        let shape = (0..dimensions.min(4)).map(|_| self.int(8)).collect::<Option<Vec<_>>>()?;
        self.skip(12)?;
        Some((shape.iter().fold(1u64, |n, &d| n.wrapping_mul(d)), shape))
    }
}

#[test]
fn a_wrapped_size_is_found() {
    let end = run("canary-wrap", 1);
    assert!(matches!(&end, End::Died(_, text) if text.contains("was taken for")), "{end:?}");
}

#[test]
fn an_allocation_by_the_files_word_is_found() {
    let end = run("canary-alloc", 1);
    assert!(matches!(&end, End::Died(_, text) if text.contains("memory allocation")), "{end:?}");
}

#[test]
fn an_endless_loop_is_found() {
    let end = run_within("canary-loop", 1, Duration::from_secs(2));
    assert!(matches!(end, End::Stuck(_)), "{end:?}");
}

#[test]
fn the_careful_variant_passes() {
    let end = run("canary-none", 1);
    assert!(matches!(end, End::Clean(_)), "{end:?}");
}
