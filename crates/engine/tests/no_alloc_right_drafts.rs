//! Between two tokens nothing is allocated, with a model that drafts and is mostly right.

mod allocations;

use allocations::{check, drafting, open};
use levain_engine::{Engine, Speculation};

#[test]
fn drafting_allocates_nothing() {
    let (llama, draft) = (open("llama-3.1"), open("llama-3.1"));
    for threads in [1, 2] {
        let config = drafting(threads, Speculation::DraftModel);
        check(&Engine::load_with_draft(&llama, Some(&draft), config).unwrap(), "llama-3.1");
    }
}
