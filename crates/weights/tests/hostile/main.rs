//! Files from strangers: mutated, cut and patched headers must give an error or a checkpoint whose sizes
//! hold, never a panic, a hang, or memory out of proportion.
//!
//! `LEVAIN_TEST_SEED=123` repeats a run; `LEVAIN_TEST_MUTANTS=1000000` makes it longer.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "helpers of tests may fail as tests do"
)]

use levain_testkit::fields;

mod boundary;
mod canary;
mod child;
mod examine;
mod mutate;
mod random;
mod samples;
