//! A file of the cache on the disk is refused or is the very one that was written. The first byte says whether to put a
//! right checksum into it.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

#[path = "../../crates/engine/tests/suite/kv_block.rs"]
mod kv_block;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a temporary folder"));

fuzz_target!(|data: &[u8]| {
    if let Some((seal, file)) = data.split_first() {
        let mut file = file.to_vec();
        if seal % 2 == 1 {
            kv_block::seal(&mut file);
        }
        kv_block::examine(FOLDER.path(), &file);
    }
});
