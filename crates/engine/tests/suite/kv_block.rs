//! What must hold for any file in the cache on the disk; shared with the fuzz target.

use std::path::Path;

use levain_engine::fuzzing::{kv_block_file, read_kv_block};
use sha2::{Digest, Sha256};

pub(crate) const BLOCK_BYTES: usize = 64;
/// Where the name of what is before the block stands, and the checksum of all but itself.
const PARENT: std::ops::Range<usize> = 76..108;
const CHECKSUM: std::ops::Range<usize> = 116..148;

/// What is read of a block is used without being computed, so only the very file that is written for it will do. Tells
/// whether it was read.
pub(crate) fn examine(folder: &Path, file: &[u8]) -> bool {
    let Some(contents) = read_kv_block(folder, file, BLOCK_BYTES).unwrap() else { return false };
    let parent = file[PARENT].try_into().unwrap();
    let written = kv_block_file(&folder.join("written"), parent, &contents).unwrap();
    assert!(written == file, "a file that nobody wrote was read");
    true
}

/// The bytes of the key that the doors seal with.
const KEY: u8 = 9;

/// Makes the seal that of the rest, so that what is checked besides it is reached.
pub(crate) fn seal(file: &mut [u8]) {
    if file.len() >= CHECKSUM.end {
        let inner = Sha256::new()
            .chain_update([KEY ^ 0x36; 32])
            .chain_update([0x36; 32])
            .chain_update(&file[..CHECKSUM.start])
            .chain_update(&file[CHECKSUM.end..])
            .finalize();
        let outer = Sha256::new().chain_update([KEY ^ 0x5c; 32]).chain_update([0x5c; 32]);
        file[CHECKSUM].copy_from_slice(&outer.chain_update(inner).finalize());
    }
}
