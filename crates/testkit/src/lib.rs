//! What tests share: a scripted provider. Nothing of this ships.

pub mod provider;
