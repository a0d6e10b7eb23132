//! The hub against servers on this machine. No test needs a network.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise, its helpers too")]

mod examine;
mod hostile;
mod models;
mod revisions;
mod script;
mod support;
mod transfer;
