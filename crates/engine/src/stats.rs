//! What the engine has done and is doing.

use std::time::Duration;

use crate::disk::DiskCacheStats;
use crate::experts::ExpertStats;

/// One step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepStats {
    /// Rows computed that continue a prompt, or redo what a preempted sequence had.
    pub prompt_rows: usize,
    /// Rows computed that let an answer grow.
    pub answer_rows: usize,
    /// Time for the layers.
    pub forward_time: Duration,
    /// Time for logits, sampling and events.
    pub output_time: Duration,
}

/// The engine as of its last step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Sequences that take part in steps.
    pub running: usize,
    /// Sequences that wait for a place, and requests not looked at yet.
    pub waiting: usize,
    /// Blocks of the KV cache.
    pub total_blocks: usize,
    /// Blocks that nobody holds; cached prefixes lie in these.
    pub free_blocks: usize,
    /// Free blocks whose contents can be used again.
    pub cached_blocks: usize,
    /// Steps so far.
    pub steps: u64,
    /// Prompt rows computed so far.
    pub prompt_rows: u64,
    /// Answer rows computed so far.
    pub answer_rows: u64,
    /// Prompt tokens that came from the prefix cache so far.
    pub cached_tokens: u64,
    /// Tokens generated so far.
    pub generated_tokens: u64,
    /// Tokens drafted by speculation so far.
    pub drafted_tokens: u64,
    /// Those of them that were accepted.
    pub accepted_tokens: u64,
    /// Sequences sent back into the queue for want of blocks so far.
    pub preemptions: u64,
    /// Answers that ended because of a panic, in a step or in what their request brought along.
    pub panics: u64,
    /// Experts read from the disk, where they do not all fit into memory.
    pub experts: Option<ExpertStats>,
    /// The prefix cache on the disk, where there is one.
    pub disk_cache: Option<DiskCacheStats>,
    /// Bytes of weights that are not packed yet: steps take them from the files.
    pub unpacked_bytes: u64,
    /// The last step.
    pub last_step: StepStats,
}
