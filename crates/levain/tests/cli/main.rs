//! The built program, as a user or a script meets it. No test needs a network; models are made by code.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise, its helpers too")]

mod answers;
mod output;
#[cfg(unix)]
mod peers;
mod store;
mod support;
mod templates;
#[cfg(target_os = "linux")]
mod terminal;
