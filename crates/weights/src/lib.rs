//! Checkpoints as named tensors and a model description, whatever their format: GGUF (versions 2 and 3,
//! split or not) and safetensors (single or sharded) with Hugging Face's `config.json`.
//!
//! Files come from strangers. Every number in them is checked, with checked arithmetic, against the limits
//! in [`limits`] and the file's length before it is used; a header that passes describes tensors that lie
//! within the file, don't overlap, and have the sizes their shapes need. Weights are mapped, not read:
//! opening a checkpoint of any size takes milliseconds.

#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        clippy::indexing_slicing
    )
)]

mod atomic;
mod checkpoint;
mod config;
mod convert;
mod cursor;
mod direct;
mod error;
mod folder;
mod gguf;
pub mod limits;
mod map;
mod open;
mod safetensors;
mod storage;
mod tensor_data;

pub use checkpoint::{Checkpoint, Format, Intact, StoredTensor, TensorEntry, TensorView};
pub use config::{
    Fp8Config, GenerationDefaults, MlaConfig, ModelConfig, ModelType, MoeConfig, RopeConfig, RopeScaling,
    ScoringFunc, TopkMethod,
};
pub use convert::{GgufOptions, MlaLayout, convert_to_gguf, convert_to_gguf_with};
pub use direct::{ReadBuffer, TensorPlace, TensorReader};
pub use error::{ConfigProblem, Problem, WeightsError, WrongFile};
pub use gguf::{Array, GgufMetadata, GgufWriter, MetadataValue, Value, ValueType};
pub use safetensors::SafetensorsWriter;
pub use storage::StorageType;
pub use tensor_data::{RowSource, TensorData};
