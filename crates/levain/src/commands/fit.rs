//! `levain fit`

use levain_engine::{
    BLOCK_LEN, EngineConfig, EngineError, MemoryPlan, TokenCost, WeightSizes, free_memory, plan_for,
};
use levain_hub::{Hub, ModelRef, bytes};
use levain_kernels::{Pool, ceilings};
use levain_weights::{Checkpoint, ModelConfig};
use serde_json::{Value, json};

use crate::app::App;
use crate::cli::FitArgs;
use crate::commands::JSON_VERSION;
use crate::error::CliError;
use crate::printer::table;

/// The share of read bandwidth that decoding reaches, as a first estimate: the rest goes into attention, norms,
/// sampling and the threads' meetings.
const DECODE_SHARE: f64 = 0.8;

/// Tells memory by part, the largest context and the expected speed, from headers alone.
pub(crate) fn run(app: &App, args: &FitArgs) -> Result<(), CliError> {
    let hub = app.hub()?;
    let reference = app.reference(&hub, &args.model)?;
    let (checkpoint, to_fetch, _headers) = open(app, &hub, &reference)?;
    let config = checkpoint.config()?;
    let weights = WeightSizes::of(&checkpoint, &config);
    let mut engine = app.engine_config(&args.engine)?;
    engine.max_num_seqs = args.parallel;
    let free = free_memory();
    let planned = plan_for(&config, weights, &engine, free);
    let fits = match &planned {
        Ok(_) => true,
        Err(EngineError::OutOfMemory { .. }) => false,
        Err(_) => {
            return Err(planned.err().map_or_else(|| CliError::Internal("no plan".into()), CliError::from));
        }
    };
    // What does not fit is planned without a limit, so that the figures are there all the same.
    let unlimited = EngineConfig { memory_limit: None, ..engine.clone() };
    let plan = planned.or_else(|_| plan_for(&config, weights, &unlimited, None))?;
    let report = Report {
        reference: reference.to_string(),
        fits,
        to_fetch,
        context_max: largest_context(&config, weights, &engine, free),
        read_gb_per_s: ceilings::read_gb_per_s(&Pool::new(engine.resolved_threads())),
        bytes_per_token: TokenCost::of(&checkpoint, &config).weight_bytes,
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
    to_fetch: u64,
    context_max: Option<usize>,
    read_gb_per_s: f64,
    bytes_per_token: u64,
    plan: MemoryPlan,
    config: ModelConfig,
}

impl Report {
    /// Decode tokens a second at an empty context.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn decode_tokens_per_s(&self) -> f64 {
        DECODE_SHARE * self.read_gb_per_s * 1e9 / self.bytes_per_token.max(1) as f64
    }

    fn json(&self) -> Value {
        json!({
            "version": JSON_VERSION,
            "reference": self.reference,
            "fits": self.fits,
            "needed_bytes": self.plan.total(),
            "free_bytes": free_memory(),
            "weights_bytes": self.plan.weights.total(),
            "trunk_bytes": self.plan.weights.trunk_bytes,
            "expert_bytes": self.plan.weights.expert_bytes,
            "kv_cache_bytes": self.plan.kv_bytes,
            "kv_bytes_per_token": self.plan.kv_bytes_per_token,
            "scratch_bytes": self.plan.scratch_bytes,
            "context_length": self.plan.context_length,
            "context_length_max": self.context_max,
            "model_context_length": self.config.max_position_embeddings,
            "bytes_per_token": self.bytes_per_token,
            "read_gb_per_s": round(self.read_gb_per_s),
            "decode_tokens_per_s": round(self.decode_tokens_per_s()),
            "download_bytes": self.to_fetch,
        })
    }

    fn text(&self) -> String {
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
        let free = free_memory().map_or_else(|| "unknown".to_owned(), bytes);
        let verdict = if self.fits { "fits" } else { "does not fit" };
        row("model", self.reference.clone());
        row("verdict", format!("{verdict}: {} needed, {free} free", bytes(self.plan.total())));
        if self.to_fetch > 0 {
            row("download", bytes(self.to_fetch));
        }
        row("weights", bytes(self.plan.weights.total()));
        if self.plan.weights.expert_bytes > 0 {
            row("  of these experts", bytes(self.plan.weights.expert_bytes));
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
        row("scratch", bytes(self.plan.scratch_bytes));
        let longest = self.context_max.map_or_else(|| "none".to_owned(), |tokens| format!("{tokens} tokens"));
        row(
            "context",
            format!(
                "{} tokens planned; the longest that fits: {longest}; the model's own: {}",
                self.plan.context_length, self.config.max_position_embeddings
            ),
        );
        row(
            "decode",
            format!(
                "about {:.1} tokens/s: {} a token at {:.0} GB/s of measured read bandwidth",
                self.decode_tokens_per_s(),
                bytes(self.bytes_per_token),
                self.read_gb_per_s
            ),
        );
        table(&rows)
    }
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
