//! HTTP in front of a [`Provider`](levain_chat::Provider): OpenAI's dialect, health, metrics and a description of
//! it all.
//!
//! *Invariant:* this crate sees one `dyn Provider` and neither an engine nor a vendor. Every request passes
//! `guard`, which asks for a key on every route that the table in `routes` does not call open.

mod access;
mod body;
mod config;
mod cors;
mod error;
mod guard;
mod handlers;
mod held;
mod histogram;
mod io;
mod memory;
mod metrics;
mod openapi;
mod reply;
mod routes;
mod serve;
mod sse;
mod state;
mod throttle;

pub use access::ApiKey;
pub use config::{Limits, ServerConfig};
pub use error::ServerError;
pub use openapi::describe;
pub use routes::{ROUTES, Route};
pub use serve::{BoundServer, Server};
