//! However a server behaves, headers of a model on it are refused or come to be files of the length that it claims.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/hub/tests/hub/script.rs"]
#[expect(dead_code, reason = "each target uses a part")]
mod script;
#[path = "../../crates/hub/tests/hub/support.rs"]
#[expect(dead_code, reason = "each target uses a part")]
mod support;

thread_local! {
    static LAB: script::Lab = script::Lab::new();
}

fuzz_target!(|data: &[u8]| {
    LAB.with(|lab| lab.remote_header(data));
});
