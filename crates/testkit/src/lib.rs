//! What tests share: tiny models made by code and a scripted provider. Nothing of this ships.

#[cfg(feature = "models")]
pub mod gguf;
#[cfg(feature = "models")]
pub mod model;
pub mod provider;
#[cfg(feature = "models")]
mod tokenizer;
