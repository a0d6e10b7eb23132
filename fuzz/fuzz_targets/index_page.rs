//! A page of a package index names wheels by names that stay in the store, or is refused.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/hub/tests/hub/examine.rs"]
#[expect(dead_code, reason = "each target uses a part")]
mod examine;
#[path = "../../crates/hub/tests/hub/support.rs"]
#[expect(dead_code, reason = "each target uses a part")]
mod support;

fuzz_target!(|data: &[u8]| {
    examine::page(data);
});
