//! Arithmetic on one CPU: block formats, matrix products, attention, norms, and the threads that do them.
//!
//! Every output value is computed by one fixed sequence of floating-point operations, whatever the number of
//! rows, their order, the number of threads or the instruction set: the same tokens give the same logits, bit
//! for bit.

mod activations;
pub mod attention;
mod blocks;
mod buffer;
mod call;
pub mod ceilings;
mod codebook;
mod dequantize;
mod dispatch;
mod dtype;
mod error;
mod experts;
mod kernels;
pub mod kv;
mod lanes;
mod matmul;
mod matrix;
mod panel;
pub mod pool;
mod prefetch;
mod processor;
mod quantize;
pub mod rope;
mod silu;
mod simd;
mod sizes;
mod stored;
pub mod vector;
mod workspace;

pub use attention::{AttentionWorkspace, KeyValueRows, SeqRows, attention, attention_over_rows};
pub use buffer::FloatBuffer;
pub use dequantize::{dequantize_row, f8e4m3_to_f32};
pub use dispatch::{
    BF16_VARIABLE, CpuFeatures, Isa, KERNELS_VARIABLE, bf16_dot, check_bf16, check_isa, cpu_features, isa,
};
pub use dtype::DType;
pub use error::KernelError;
pub use experts::{ExpertStack, Routing, moe_mlp};
pub use kv::{KvCache, KvDType, KvLayout};
pub use matmul::{Product, gated_mlp, matmul};
pub use matrix::Matrix;
pub use pool::Pool;
pub use prefetch::{
    Hint, PREFETCH_VARIABLE, Prefetch, PrefetchChoice, PrefetchPolicy, check_prefetch, first_prefetch,
    fixed_prefetch,
};
pub use processor::{Processor, Vendor, processor};
pub use quantize::quantize_row;
pub use rope::{RopeStyle, RopeTable};
pub use stored::StoredWeights;
pub use workspace::Workspace;
