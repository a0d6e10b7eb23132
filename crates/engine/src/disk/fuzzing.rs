//! Doors for fuzz targets and tests of mutants into the cache on the disk. No part of the interface.

use std::io;
use std::path::Path;

use super::file::HEADER_BYTES;
use super::store::Store;
use super::{Identity, SealKey};
use crate::kv::BlockHash;

const IDENTITY: Identity = [7; 32];
const NAME: BlockHash = [1; 32];

fn open(folder: &Path, block_bytes: usize) -> io::Result<Store> {
    Store::open(folder, 16 * (block_bytes + HEADER_BYTES) as u64, IDENTITY, SealKey([9; 32]), block_bytes)
}

fn path(folder: &Path) -> std::path::PathBuf {
    folder.join("07".repeat(16)).join("01".repeat(32) + ".kv")
}

/// The bytes of a file that holds a block of these contents, which goes on from `parent`.
///
/// # Errors
/// If `folder` can't be used.
pub fn kv_block_file(folder: &Path, parent: [u8; 32], contents: &[u8]) -> io::Result<Vec<u8>> {
    open(folder, contents.len())?.write(NAME, parent, contents)?;
    std::fs::read(path(folder))
}

/// What is read of a block of `block_bytes` whose file holds `file`, or `None` where it is refused.
///
/// # Errors
/// If `folder` can't be used.
pub fn read_kv_block(folder: &Path, file: &[u8], block_bytes: usize) -> io::Result<Option<Vec<u8>>> {
    let mut store = open(folder, block_bytes)?;
    std::fs::write(path(folder), file)?;
    store.scan();
    let mut contents = vec![0; block_bytes];
    let known = store.has(&NAME);
    Ok((store.read(&NAME, &mut contents).is_ok() && known).then_some(contents))
}
