//! A GGUF file gives an error or a checkpoint whose sizes hold.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/weights/tests/hostile/examine.rs"]
mod examine;

fuzz_target!(|data: &[u8]| {
    if let Err(problem) = examine::open_and_examine(Path::new("x.gguf"), data.to_vec()) {
        panic!("{problem}");
    }
});
