//! However a server behaves (ranges, versions, redirects, lengths), a pull ends and shows no file but the promised one.
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
    LAB.with(|lab| lab.pull(data));
});
