//! The engine as its users see it.

mod common;
mod parity;
