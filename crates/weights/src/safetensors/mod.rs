//! safetensors: a JSON header with each tensor's type, shape and place, then the tensors.
//! Format: README of the safetensors project.

mod header;
mod names;
mod writer;

pub use writer::SafetensorsWriter;

pub(crate) use header::parse;
pub(crate) use names::Canonical;
