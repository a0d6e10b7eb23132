//! Opening, describing, converting and writing checkpoints.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "helpers of tests may fail as tests do"
)]

mod config;
mod convert;
mod corpus;
mod gguf_config;
mod limits;
mod open;
mod reference;
mod roundtrip;
