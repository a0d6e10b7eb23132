//! What goes through the pipes: a letter, a length in four bytes, and as many bytes.

use std::io::{Error, ErrorKind, Read, Result, Write};

/// To the worker: a template's source.
pub(super) const SOURCE: u8 = b'S';
/// To the worker: a [`levain_tokenizer::RenderJob`] as JSON.
pub(super) const JOB: u8 = b'J';
/// From the worker: what the template wrote.
pub(super) const TEXT: u8 = b'T';
/// From the worker: a [`levain_tokenizer::RenderFailure`] as JSON.
pub(super) const FAILURE: u8 = b'F';

/// The letter and the body.
pub(super) type Frame = (u8, Vec<u8>);

/// Bytes of one frame: a body of 16 MiB may be written four times over, escaped.
pub(super) const FRAME_BYTES_MAX: usize = 256 << 20;

pub(super) fn write(out: &mut impl Write, kind: u8, body: &[u8]) -> Result<()> {
    let too_long = || Error::new(ErrorKind::InvalidInput, "a frame is too long");
    let len = u32::try_from(body.len()).map_err(|_| too_long())?;
    if body.len() > FRAME_BYTES_MAX {
        return Err(too_long());
    }
    out.write_all(&[kind])?;
    out.write_all(&len.to_le_bytes())?;
    out.write_all(body)?;
    out.flush()
}

/// The next frame; `None` where the other side has closed the pipe between two.
pub(super) fn read(input: &mut impl Read) -> Result<Option<Frame>> {
    let mut kind = [0];
    if input.read(&mut kind)? == 0 {
        return Ok(None);
    }
    let mut len = [0; 4];
    input.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len) as usize;
    if len > FRAME_BYTES_MAX {
        return Err(Error::new(ErrorKind::InvalidData, "a frame is too long"));
    }
    // Grows with what really comes.
    let mut body = Vec::new();
    input.take(len as u64).read_to_end(&mut body)?;
    if body.len() < len {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(Some((kind[0], body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_and_broken_ones_are_told() {
        let mut pipe = Vec::new();
        write(&mut pipe, SOURCE, b"{{ 1 }}").unwrap();
        write(&mut pipe, JOB, b"").unwrap();
        let mut input = pipe.as_slice();
        assert_eq!(read(&mut input).unwrap(), Some((SOURCE, b"{{ 1 }}".to_vec())));
        assert_eq!(read(&mut input).unwrap(), Some((JOB, Vec::new())));
        assert_eq!(read(&mut input).unwrap(), None);
        for len in 1..pipe.len() - 5 {
            let cut = pipe.get(..len).unwrap();
            let whole = read(&mut &*cut).ok().flatten().is_some();
            assert_eq!(whole, len >= 12, "{len}");
        }
        assert!(read(&mut [JOB, 255, 255, 255, 255].as_slice()).is_err());
    }
}
