//! Architectures, KV cache, scheduler and sampling: tokens in, tokens out.
//!
//! [`Engine::load`] reads a checkpoint and starts a thread that owns the model; [`Engine::submit`] hands it a
//! [`Request`], and what comes of it arrives as [`Event`]s at the request's sink. The engine knows no text.
//!
//! The same tokens give the same logits bit for bit, alone or in a batch, with any number of threads, whole or in
//! chunks, cold or from the prefix cache; and with a seed the same answer.

mod arch;
mod config;
mod cost;
mod disk;
mod engine;
mod error;
mod experts;
mod job;
mod kv;
mod logits;
mod memory;
mod ops;
mod plan;
mod request;
mod sampling;
mod scheduler;
mod sequence;
mod shares;
mod spec;
mod stats;
mod worker;

pub use arch::latent_dtypes;
pub use config::{
    CONTEXT_LENGTH_DEFAULT, EXPANDED_FROM_DEFAULT, EngineConfig, ExpandedPrompts, KvCacheType, Speculation,
};
pub use cost::{Arithmetic, TokenCost};
#[doc(hidden)]
pub use disk::fuzzing;
pub use disk::{DiskCacheConfig, DiskCacheStats, SealKey};
pub use engine::{Engine, RequestHandle, Shutdown};
pub use error::EngineError;
pub use experts::{DiskSpeed, ExpertStats, measure_disk};
pub use logits::logits;
pub use memory::free_memory;
pub use plan::{BLOCK_LEN, MemoryPlan, WeightSizes, plan, plan_for};
pub use request::{
    ANSWERS_MAX, Constraint, Event, FinishReason, Injector, Pooling, Request, RequestKind, Sink,
    TOP_LOGPROBS_MAX, TokenLogprob, Usage,
};
pub use sampling::{LOGIT_BIAS_MAX, SamplingParams, TokenMask};
pub use stats::{EngineStats, StepStats};
