//! Thinking and answer of a stream do not depend on how it was cut. Behind a NUL stand the lengths of its pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/local/tests/suite/examine.rs"]
#[expect(dead_code, reason = "each target uses a part")]
mod examine;

fuzz_target!(|data: &[u8]| {
    examine::stream_input(data, examine::thinking);
});
