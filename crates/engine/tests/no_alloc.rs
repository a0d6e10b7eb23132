//! Between two tokens nothing is allocated.

mod allocations;

use allocations::{check, drafting, open};
use levain_engine::{Engine, EngineConfig, Speculation};

#[test]
fn decoding_allocates_nothing() {
    let llama = open("llama-3.1");
    for threads in [1, 2] {
        let plain = EngineConfig { threads, ..EngineConfig::default() };
        check(&Engine::load(&llama, plain).unwrap(), "plain");
        let lookup = drafting(threads, Speculation::PromptLookup);
        check(&Engine::load(&llama, lookup).unwrap(), "lookup");
    }
}
