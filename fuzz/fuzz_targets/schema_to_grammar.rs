//! A JSON schema is refused in words or becomes a grammar whose answers are JSON. Behind a NUL stand the choices among tokens.
#![no_main]

use std::sync::LazyLock;

use levain_local::fuzzing::Grammars;
use libfuzzer_sys::fuzz_target;

#[path = "../../crates/local/tests/suite/examine.rs"]
#[expect(dead_code, reason = "each target uses a part")]
mod examine;

static GRAMMARS: LazyLock<Grammars> = LazyLock::new(|| {
    // The compiler's own panics are caught and told as refusals; libFuzzer's hook would end the process before that.
    // What is not caught ends it all the same.
    drop(std::panic::take_hook());
    Grammars::new(&examine::vocabulary()).expect("a runtime")
});

fuzz_target!(|data: &[u8]| {
    examine::schema_input(&GRAMMARS, data);
});
