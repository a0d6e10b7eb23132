//! `levain fit`

use std::time::Duration;

use levain_engine::{
    BLOCK_LEN, DiskSpeed, EngineConfig, EngineError, MemoryPlan, TokenCost, WeightSizes, free_memory,
    measure_disk, plan_for,
};
use levain_hub::{Hub, ModelRef, bytes};
use levain_kernels::{Pool, ceilings};
use levain_weights::{Checkpoint, ModelConfig};
use serde_json::{Value, json};

use crate::app::App;
use crate::cli::FitArgs;
use crate::commands::JSON_VERSION;
use crate::commands::fit_decode::TokenWork;
use crate::error::CliError;
use crate::printer::table;

/// How long the disk is measured.
const MEASURE_DISK: Duration = Duration::from_millis(700);
/// Bytes read for each byte that is missing: some are guessed in vain.
const READ_FOR_MISSING: f64 = 1.2;
/// Contexts whose cache is told, as far as the model goes.
const CONTEXTS: [usize; 4] = [4096, 16_384, 65_536, 131_072];

/// Tells memory by part, the largest context and the expected speed, from headers alone.
pub(crate) fn run(app: &App, args: &FitArgs) -> Result<(), CliError> {
    let hub = app.hub()?;
    let reference = app.reference(&hub, &args.model)?;
    let (checkpoint, to_fetch, _headers) = open(app, &hub, &reference)?;
    let config = checkpoint.config()?;
    let weights = WeightSizes::of(&checkpoint, &config);
    let mut engine = app.engine_config(&args.engine)?;
    engine.max_num_seqs = args.parallel;
    if args.parallel == 1 {
        // As `levain run` does, which takes the most.
        engine = engine.for_single_answers();
    }
    let weights = match app.draft_model(&hub, &args.engine, &engine)? {
        Some(draft) => weights.with_draft(&Checkpoint::open(&draft)?, &engine)?,
        None => weights,
    };
    let free = free_memory();
    let (plan, needed) = match plan_for(&config, weights, &engine, free) {
        // What does not fit is planned for as much as it needs at least, so that the figures are there all the same.
        Err(EngineError::OutOfMemory { needed, .. }) => {
            let enough = EngineConfig { memory_limit: Some(needed), ..engine.clone() };
            (plan_for(&config, weights, &enough, None)?, Some(needed))
        }
        planned => (planned?, None),
    };
    let pool = Pool::new(engine.resolved_threads());
    let work = TokenWork::of(&checkpoint, &config)?;
    let bytes_per_token = TokenCost::of(&checkpoint, &config).weight_bytes;
    // Headers alone are not on the disk that the experts will be read from.
    let disk = match (&plan.expert_cache_bytes, to_fetch) {
        (Some(_), 0) => measure_disk(&checkpoint, &config, MEASURE_DISK)?,
        _ => None,
    };
    let report = Report {
        reference: reference.to_string(),
        fits: needed.is_none(),
        needed: needed.unwrap_or(plan.total()),
        usable: free.into_iter().chain(engine.memory_limit).min(),
        to_fetch,
        context_max: largest_context(&config, weights, &engine, free),
        read_gb_per_s: ceilings::read_gb_per_s(&pool),
        seconds_in_memory: work.seconds(&pool)?,
        bytes_per_token,
        disk,
        cache_by_context: cache_by_context(&config, &plan),
        plan,
        config,
    };
    if args.json { app.printer.json(&report.json()) } else { app.printer.data(report.text()) }
}

/// The checkpoint, or its headers alone if it is not here; and the bytes that a pull would fetch.
fn open(
    app: &App,
    hub: &Hub,
    reference: &ModelRef,
) -> Result<(Checkpoint, u64, Option<levain_hub::RemoteHeaders>), CliError> {
    if let Some(model) = hub.find(reference)? {
        return Ok((Checkpoint::open(&model.path)?, 0, None));
    }
    app.printer.say(format_args!("{reference} is not on this machine: reading its headers only"));
    let headers = app.block_on(async { Ok(hub.remote_headers(reference).await?) })?;
    app.printer.detail(format_args!("{} were fetched", bytes(headers.fetched)));
    let checkpoint = Checkpoint::open(&headers.path)?;
    Ok((checkpoint, headers.bytes, Some(headers)))
}

/// Bytes of cache for some contexts that the model can have.
fn cache_by_context(config: &ModelConfig, plan: &MemoryPlan) -> Vec<(usize, u64)> {
    let longest = config.max_position_embeddings;
    let mut contexts: Vec<usize> = CONTEXTS.into_iter().filter(|&tokens| tokens < longest).collect();
    contexts.push(longest);
    let bytes = |tokens: usize| plan.kv_bytes_per_token * tokens.next_multiple_of(BLOCK_LEN) as u64;
    contexts.into_iter().map(|tokens| (tokens, bytes(tokens))).collect()
}

/// The longest context that fits into free memory, by halving.
fn largest_context(
    config: &ModelConfig,
    weights: WeightSizes,
    engine: &EngineConfig,
    free: Option<u64>,
) -> Option<usize> {
    let fits = |length: usize| {
        let one =
            EngineConfig { context_length: Some(length), kv_cache_tokens: Some(length), ..engine.clone() };
        plan_for(config, weights, &one, free).is_ok()
    };
    let (mut low, mut high) = (0, config.max_position_embeddings / BLOCK_LEN);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if fits(middle * BLOCK_LEN) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    (low > 0).then_some(low * BLOCK_LEN)
}

struct Report {
    reference: String,
    fits: bool,
    /// Bytes; at least, where it does not fit.
    needed: u64,
    /// Free bytes, or what may be used of them.
    usable: Option<u64>,
    to_fetch: u64,
    context_max: Option<usize>,
    read_gb_per_s: f64,
    /// For a token, were all weights in memory.
    seconds_in_memory: f64,
    bytes_per_token: u64,
    /// Where experts are to be read from it and it is known.
    disk: Option<DiskSpeed>,
    cache_by_context: Vec<(usize, u64)>,
    plan: MemoryPlan,
    config: ModelConfig,
}

impl Report {
    /// Bytes of experts that a token goes through.
    fn expert_bytes_per_token(&self) -> u64 {
        self.config.moe.as_ref().map_or(0, |moe| {
            let (chosen, all) = (moe.num_experts_per_tok as u64, moe.n_routed_experts.max(1) as u64);
            self.plan.weights.expert_bytes / all * chosen.min(all)
        })
    }

    /// Bytes of experts that a token finds missing in memory, were all chosen equally often; real models choose some
    /// more often, which are then in memory.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn missing_bytes(&self) -> f64 {
        let held = self
            .plan
            .expert_cache_bytes
            .map_or(1.0, |bytes| (bytes as f64 / self.plan.weights.expert_bytes.max(1) as f64).min(1.0));
        self.expert_bytes_per_token() as f64 * (1.0 - held)
    }

    /// Decode tokens a second at an empty context; unknown where experts come from a disk that is not here.
    fn decode_tokens_per_s(&self) -> Option<f64> {
        let reading = match (self.plan.expert_cache_bytes, self.disk) {
            (None, _) => 0.0,
            (Some(_), Some(disk)) => READ_FOR_MISSING * self.missing_bytes() / (disk.gb_per_s * 1e9).max(1.0),
            (Some(_), None) => return None,
        };
        Some(1.0 / (self.seconds_in_memory + reading))
    }

    fn json(&self) -> Value {
        json!({
            "version": JSON_VERSION,
            "reference": self.reference,
            "fits": self.fits,
            "needed_bytes": self.needed,
            "free_bytes": free_memory(),
            "usable_bytes": self.usable,
            "weights_bytes": self.plan.weights.total(),
            "trunk_bytes": self.plan.weights.trunk_bytes,
            "expert_bytes": self.plan.weights.expert_bytes,
            "drafting_bytes": self.plan.weights.drafting(),
            "expert_cache_bytes": self.plan.expert_cache_bytes,
            "read_buffer_bytes": self.plan.read_buffer_bytes,
            "kv_cache_by_context": self
                .cache_by_context
                .iter()
                .map(|(tokens, bytes)| json!({ "tokens": tokens, "bytes": bytes }))
                .collect::<Vec<_>>(),
            "kv_cache_bytes": self.plan.kv_bytes,
            "kv_bytes_per_token": self.plan.kv_bytes_per_token,
            "scratch_bytes": self.plan.scratch_bytes,
            "program_bytes": self.plan.program_bytes,
            "context_length": self.plan.context_length,
            "context_length_max": self.context_max,
            "model_context_length": self.config.max_position_embeddings,
            "bytes_per_token": self.bytes_per_token,
            "expert_bytes_per_token": self.expert_bytes_per_token(),
            "disk_bytes_per_token": self.missing_bytes().round(),
            "read_gb_per_s": round(self.read_gb_per_s),
            "disk_gb_per_s": self.disk.map(|disk| round(disk.gb_per_s)),
            "decode_tokens_per_s": self.decode_tokens_per_s().map(round),
            "download_bytes": self.to_fetch,
        })
    }

    fn text(&self) -> String {
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
        let usable = self.usable.map_or_else(|| "unknown".to_owned(), bytes);
        let allowed = if self.usable < free_memory() { "allowed" } else { "free" };
        let (verdict, least) = if self.fits { ("fits", "") } else { ("does not fit", "at least ") };
        row("model", self.reference.clone());
        row("verdict", format!("{verdict}: {least}{} needed, {usable} {allowed}", bytes(self.needed)));
        if self.to_fetch > 0 {
            row("download", bytes(self.to_fetch));
        }
        let weights = &self.plan.weights;
        row("weights", bytes(weights.total()));
        if weights.expert_bytes > 0 {
            row("  trunk", format!("{}, needed by every token", bytes(weights.trunk_bytes)));
            let held = match self.plan.expert_cache_bytes {
                None => "all in memory".to_owned(),
                Some(held) => format!("{} in memory, the others read from the disk as needed", bytes(held)),
            };
            row("  experts", format!("{}, {held}", bytes(weights.expert_bytes)));
        }
        if weights.drafting() > 0 {
            row("  drafting", bytes(weights.drafting()));
        }
        if self.plan.read_buffer_bytes > 0 {
            row("read buffers", bytes(self.plan.read_buffer_bytes));
        }
        row(
            "KV cache",
            format!(
                "{} for {} tokens ({} each)",
                bytes(self.plan.kv_bytes),
                self.plan.kv_cache_tokens,
                bytes(self.plan.kv_bytes_per_token)
            ),
        );
        let by_context =
            self.cache_by_context.iter().map(|&(tokens, size)| format!("{tokens}: {}", bytes(size)));
        row("  by context", by_context.collect::<Vec<_>>().join(", "));
        row("scratch", bytes(self.plan.scratch_bytes));
        row("program", bytes(self.plan.program_bytes));
        let longest = self.context_max.map_or_else(|| "none".to_owned(), |tokens| format!("{tokens} tokens"));
        row(
            "context",
            format!(
                "{} tokens planned; the longest that fits: {longest}; the model's own: {}",
                self.plan.context_length, self.config.max_position_embeddings
            ),
        );
        let speed = self
            .decode_tokens_per_s()
            .map_or_else(|| "unknown".to_owned(), |speed| format!("about {speed:.1} tokens/s"));
        row(
            "decode",
            format!(
                "{speed}: {} of weights a token, timed on this machine (it reads {:.0} GB/s at most)",
                bytes(self.bytes_per_token),
                self.read_gb_per_s
            ),
        );
        if self.plan.expert_cache_bytes.is_some() {
            let disk = self.disk.map_or_else(
                || "a disk that is measured once the model is here".to_owned(),
                |disk| format!("the disk's {:.2} GB/s", disk.gb_per_s),
            );
            let missing = bytes(self.missing_bytes() as u64);
            row("  from the disk", format!("at most about {missing} a token, at {disk}"));
        }
        table(&rows)
    }
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
