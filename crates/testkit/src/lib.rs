//! What tests share: tiny models made by code and a scripted provider. Nothing of this ships.

pub mod model;
pub mod provider;
mod tokenizer;
