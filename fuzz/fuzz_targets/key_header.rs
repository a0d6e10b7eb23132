//! Only this server's key, a name of this machine and no foreign page let a request in, whatever its headers hold.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/server/tests/suite/key_header.rs"]
mod key_header;

static GATE: LazyLock<key_header::Gate> = LazyLock::new(key_header::Gate::new);

fuzz_target!(|data: &[u8]| {
    GATE.check(data);
});
