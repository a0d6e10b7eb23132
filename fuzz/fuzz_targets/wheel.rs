//! A wheel is refused or unpacks to files of the lengths that it claims, and nowhere else.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

#[path = "../../crates/hub/tests/hub/examine.rs"]
#[expect(dead_code, reason = "each target uses a part")]
mod examine;
#[path = "../../crates/hub/tests/hub/support.rs"]
#[expect(dead_code, reason = "each target uses a part")]
mod support;

static SCRATCH: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a temporary folder"));

fuzz_target!(|data: &[u8]| {
    examine::wheel(SCRATCH.path(), data);
});
