//! A block of the KV cache as a file.
//!
//! | bytes | what |
//! |--:|---|
//! | 8 | `levainKV` |
//! | 4 | version, little endian |
//! | 32 | identity of model, cache layout and program |
//! | 32 | name of the block |
//! | 32 | name of everything before it |
//! | 8 | bytes of contents, little endian |
//! | 32 | seal: a keyed SHA-256 of all of the above and the contents |
//! | … | contents, as the kernels arrange them |
//!
//! What is read back is used without being computed, so a file counts only if all of this is as expected. The key of the
//! seal lies elsewhere, so that who can put files here still can't make one that counts.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{Identity, SealKey};
use crate::kv::BlockHash;

const MAGIC: &[u8; 8] = b"levainKV";
const VERSION: u32 = 2;
/// Bytes before the checksum.
const FIELDS_BYTES: usize = 116;
/// Bytes before the contents.
pub(super) const HEADER_BYTES: usize = FIELDS_BYTES + 32;

type Header = [u8; HEADER_BYTES];

/// What a file is expected to hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected<'a> {
    pub(super) identity: &'a Identity,
    pub(super) key: &'a SealKey,
    pub(super) block_bytes: usize,
}

impl Expected<'_> {
    /// Bytes of a whole file.
    pub(super) fn file_bytes(&self) -> u64 {
        (self.block_bytes + HEADER_BYTES) as u64
    }

    fn fields(&self, name: &BlockHash, parent: &BlockHash) -> [u8; FIELDS_BYTES] {
        let mut fields = [0; FIELDS_BYTES];
        let parts: [&[u8]; 6] = [
            MAGIC,
            &VERSION.to_le_bytes(),
            self.identity,
            name,
            parent,
            &(self.block_bytes as u64).to_le_bytes(),
        ];
        let mut at = 0;
        for part in parts {
            fields[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        fields
    }

    /// Writes a block under another name and then gives the file its own, so that there are only whole ones.
    pub(super) fn write(
        &self,
        path: &Path,
        unfinished: &Path,
        name: &BlockHash,
        parent: &BlockHash,
        contents: &[u8],
    ) -> io::Result<()> {
        let fields = self.fields(name, parent);
        let seal = self.key.seal(&fields, contents);
        let written = create_private(unfinished).and_then(|mut file| {
            file.write_all(&fields)?;
            file.write_all(&seal)?;
            file.write_all(contents)
        });
        let renamed = written.and_then(|()| fs::rename(unfinished, path));
        if renamed.is_err() {
            // What is left of it is of no use; that it can't be removed either changes nothing.
            let _ = fs::remove_file(unfinished);
        }
        renamed
    }

    /// Reads a block's contents into `contents`, which is as long as a block.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] if the file is not what it should be.
    pub(super) fn read(&self, path: &Path, name: &BlockHash, contents: &mut [u8]) -> io::Result<()> {
        let mut file = self.open(path)?;
        let header = read_header(&mut file)?;
        let parent = self.parent(&header, name).ok_or(io::ErrorKind::InvalidData)?;
        file.read_exact(contents)?;
        let expected = self.key.seal(&self.fields(name, &parent), contents);
        if header[FIELDS_BYTES..] != expected {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(())
    }

    /// The name of what is before the block in a file, as far as its header is as expected.
    pub(super) fn read_parent(&self, path: &Path, name: &BlockHash) -> io::Result<BlockHash> {
        let header = read_header(&mut self.open(path)?)?;
        self.parent(&header, name).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Opens a file of the right length. Nothing but a regular file is opened, as a pipe would never end.
    fn open(&self, path: &Path) -> io::Result<File> {
        let meta = fs::symlink_metadata(path)?;
        if !meta.is_file() || meta.len() != self.file_bytes() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        File::open(path)
    }

    fn parent(&self, header: &Header, name: &BlockHash) -> Option<BlockHash> {
        let parent = header[76..108].try_into().ok()?;
        (header[..FIELDS_BYTES] == self.fields(name, &parent)).then_some(parent)
    }
}

fn read_header(file: &mut File) -> io::Result<Header> {
    let mut header = [0; HEADER_BYTES];
    file.read_exact(&mut header)?;
    Ok(header)
}

impl SealKey {
    /// The key inside and outside, as in HMAC: the inner digest alone could be carried on.
    fn seal(&self, fields: &[u8; FIELDS_BYTES], contents: &[u8]) -> [u8; 32] {
        let pads = [0x36, 0x5c].map(|pad| self.0.map(|byte| byte ^ pad));
        let inner = Sha256::new().chain_update(pads[0]).chain_update([0x36; 32]);
        let inner = inner.chain_update(fields).chain_update(contents).finalize();
        Sha256::new().chain_update(pads[1]).chain_update([0x5c; 32]).chain_update(inner).finalize().into()
    }
}

/// A new file that only its owner may read: it says what somebody wrote.
fn create_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
