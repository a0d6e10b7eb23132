//! Checkpoints as named tensors and a model description, whatever their format: GGUF (versions 2 and 3,
//! split or not) and safetensors (single or sharded) with Hugging Face's `config.json`.
//!
//! Files come from strangers. Every number in them is checked, with checked arithmetic, against the limits
//! in [`limits`] and the file's length before it is used; a header that passes describes tensors that lie
//! within the file, don't overlap, and have the sizes their shapes need. Weights are mapped, not read:
//! opening a checkpoint of any size takes milliseconds.

mod checkpoint;
mod config;
mod cursor;
mod error;
mod gguf;
pub mod limits;
mod map;
mod open;
mod safetensors;
mod storage;

pub use checkpoint::{Checkpoint, Format, TensorEntry, TensorView};
pub use config::{
    Fp8Config, GenerationDefaults, MlaConfig, ModelConfig, ModelType, MoeConfig, RopeConfig, RopeScaling,
    ScoringFunc, TopkMethod,
};
pub use error::{ConfigProblem, Problem, WeightsError, WrongFile};
pub use gguf::{Array, GgufMetadata, Value, ValueType};
pub use storage::StorageType;
