//! GGUF: one file with metadata, vocabulary and tensors, or several such files.

mod config;
pub(crate) mod header;
mod metadata;
pub(crate) mod names;
mod value;
mod writer;

pub use metadata::GgufMetadata;
pub use value::{Array, Value, ValueType};
pub use writer::{GgufWriter, MetadataValue};

pub(crate) use config::{TensorFacts, generation_defaults, model_config};
