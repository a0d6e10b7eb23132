//! How long a checkpoint file's header is, read from its first bytes: enough to plan a model before its
//! weights are here.

use crate::HubError;

/// Longest header that is read; the largest vocabularies need about 15 MB.
pub(crate) const HEADER_BYTES_MAX: u64 = 256 << 20;

const ENTRIES_MAX: u64 = 1 << 20;
const DEPTH_MAX: u32 = 4;

/// What the first bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderLength {
    /// The header ends here; the weights follow (after padding).
    Known(u64),
    /// More bytes are needed to tell.
    More,
}

/// Length of a GGUF header (metadata and tensor list).
pub fn gguf_header_length(start: &[u8]) -> Result<HeaderLength, HubError> {
    let mut scan = Scan { bytes: start, at: 0 };
    match scan.gguf() {
        Ok(()) => Ok(HeaderLength::Known(scan.at as u64)),
        Err(Stop::Short) if (start.len() as u64) < HEADER_BYTES_MAX => Ok(HeaderLength::More),
        Err(Stop::Short) => Err(bad("GGUF", format!("it is longer than {HEADER_BYTES_MAX} bytes"))),
        Err(Stop::Bad(reason)) => Err(bad("GGUF", reason)),
    }
}

/// Length of a safetensors header, its length field included.
pub fn safetensors_header_length(start: &[u8]) -> Result<HeaderLength, HubError> {
    let Some(field) = start.first_chunk::<8>() else {
        return Ok(HeaderLength::More);
    };
    let length = u64::from_le_bytes(*field);
    if length > HEADER_BYTES_MAX {
        return Err(bad("safetensors", format!("it claims {length} bytes")));
    }
    if start.get(8).is_some_and(|&byte| byte != b'{') {
        return Err(bad("safetensors", "it does not begin with {".into()));
    }
    Ok(HeaderLength::Known(8 + length))
}

fn bad(file: &str, reason: String) -> HubError {
    HubError::BadHeader { file: format!("the {file} file"), reason }
}

enum Stop {
    Short,
    Bad(String),
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn gguf(&mut self) -> Result<(), Stop> {
        if self.take(4)? != *b"GGUF" {
            return Err(Stop::Bad("it does not begin with GGUF".into()));
        }
        let version = self.u32()?;
        if !(2..=3).contains(&version) {
            return Err(Stop::Bad(format!("version {version} is not read here")));
        }
        let (tensors, pairs) = (self.u64()?, self.u64()?);
        if tensors > ENTRIES_MAX || pairs > ENTRIES_MAX {
            return Err(Stop::Bad(format!("it claims {tensors} tensors and {pairs} metadata entries")));
        }
        for _ in 0..pairs {
            self.string()?;
            let kind = self.u32()?;
            self.value(kind, 0)?;
        }
        for _ in 0..tensors {
            self.string()?;
            let dims = self.u32()?;
            if dims > 8 {
                return Err(Stop::Bad(format!("a tensor has {dims} dimensions")));
            }
            self.skip(u64::from(dims) * 8 + 4 + 8)?;
        }
        Ok(())
    }

    fn value(&mut self, kind: u32, depth: u32) -> Result<(), Stop> {
        match (fixed_size(kind), kind) {
            (Some(size), _) => self.skip(size),
            (None, 8) => self.string(),
            (None, 9) if depth < DEPTH_MAX => {
                let (item, count) = (self.u32()?, self.u64()?);
                if let Some(size) = fixed_size(item) {
                    return self.skip(
                        count.checked_mul(size).ok_or_else(|| Stop::Bad("an array is too long".into()))?,
                    );
                }
                if count > HEADER_BYTES_MAX {
                    return Err(Stop::Bad(format!("an array claims {count} entries")));
                }
                for _ in 0..count {
                    self.value(item, depth + 1)?;
                }
                Ok(())
            }
            _ => Err(Stop::Bad(format!("a metadata entry has the unknown type {kind}"))),
        }
    }

    fn string(&mut self) -> Result<(), Stop> {
        let length = self.u64()?;
        self.skip(length)
    }

    fn skip(&mut self, n: u64) -> Result<(), Stop> {
        if n > HEADER_BYTES_MAX {
            return Err(Stop::Bad(format!("a field claims {n} bytes")));
        }
        let end = usize::try_from(n).ok().and_then(|n| self.at.checked_add(n)).ok_or(Stop::Short)?;
        if end > self.bytes.len() {
            return Err(Stop::Short);
        }
        self.at = end;
        Ok(())
    }

    fn take<const N: usize>(&mut self, _n: usize) -> Result<[u8; N], Stop> {
        let chunk = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>()).ok_or(Stop::Short)?;
        self.at += N;
        Ok(*chunk)
    }

    fn u32(&mut self) -> Result<u32, Stop> {
        self.take(4).map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Stop> {
        self.take(8).map(u64::from_le_bytes)
    }
}

/// Bytes of a metadata value of a type that has a fixed size.
fn fixed_size(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3_u32.to_le_bytes());
        out.extend(1_u64.to_le_bytes());
        out.extend(2_u64.to_le_bytes());
        let string = |out: &mut Vec<u8>, s: &str| {
            out.extend((s.len() as u64).to_le_bytes());
            out.extend(s.as_bytes());
        };
        string(&mut out, "general.architecture");
        out.extend(8_u32.to_le_bytes());
        string(&mut out, "llama");
        string(&mut out, "tokens");
        out.extend(9_u32.to_le_bytes());
        out.extend(8_u32.to_le_bytes());
        out.extend(2_u64.to_le_bytes());
        string(&mut out, "a");
        string(&mut out, "b");
        string(&mut out, "w");
        out.extend(2_u32.to_le_bytes());
        out.extend([0; 16 + 4 + 8]);
        out
    }

    #[test]
    fn each_cut_asks_for_more_and_the_whole_is_known() {
        let whole = sample();
        let known = HeaderLength::Known(whole.len() as u64);
        for cut in 0..whole.len() {
            assert_eq!(gguf_header_length(&whole[..cut]).unwrap(), HeaderLength::More, "{cut}");
        }
        assert_eq!(gguf_header_length(&whole).unwrap(), known);
        let mut longer = whole;
        longer.extend([7; 100]);
        assert_eq!(gguf_header_length(&longer).unwrap(), known);
    }

    #[test]
    fn flipped_bytes_never_panic() {
        let whole = sample();
        for at in 0..whole.len() {
            for value in [0, 1, 9, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                let _ = gguf_header_length(&bytes);
            }
        }
        assert!(gguf_header_length(b"ELF\x7f0000").is_err());
    }

    #[test]
    fn safetensors_headers_are_bounded() {
        assert_eq!(safetensors_header_length(b"\x05\0\0\0\0\0\0\0{").unwrap(), HeaderLength::Known(13));
        assert_eq!(safetensors_header_length(b"\x05\0").unwrap(), HeaderLength::More);
        assert!(safetensors_header_length(&[0xff; 16]).is_err());
    }
}
