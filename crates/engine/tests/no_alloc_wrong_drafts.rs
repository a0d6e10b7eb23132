//! Between two tokens nothing is allocated, with a model that drafts and is mostly wrong.

mod allocations;

use allocations::{check, drafting, open};
use levain_engine::{Engine, Speculation};

#[test]
fn drafting_allocates_nothing() {
    let (llama, draft) = (open("llama-3.1"), open("qwen2.5"));
    for threads in [1, 2] {
        let config = drafting(threads, Speculation::DraftModel);
        check(&Engine::load_with_draft(&llama, Some(&draft), config).unwrap(), "qwen2.5");
    }
}
