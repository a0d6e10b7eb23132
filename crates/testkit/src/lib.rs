//! What tests share: tiny models made by code, a scripted provider, and runs of mutants. Nothing of this ships.

pub mod fields;
#[cfg(feature = "models")]
pub mod gguf;
#[cfg(feature = "models")]
pub mod model;
pub mod mutants;
pub mod provider;
#[cfg(feature = "models")]
mod tokenizer;
