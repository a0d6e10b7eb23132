//! `levain bench`

mod experts;
mod peer;
mod peers;
mod prefetch;
mod report;
mod resident;
mod session;
mod speculation;
mod standard;
mod subject;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use levain_engine::{BLOCK_LEN, Engine, EngineConfig, Speculation, TokenCost};
use levain_hub::{Hub, StoredModel, bytes};
use levain_kernels::Pool;
use levain_kernels::ceilings::Ceilings;
use levain_weights::Checkpoint;

use crate::app::App;
use crate::cli::BenchArgs;
use crate::error::CliError;
use crate::progress::seconds;

use session::{Measured, Session};
use speculation::{Speculative, TEXT_TOKENS_MAX};
use standard::Standard;
use subject::Subject;

/// Tokens of the prompt that the first token after loading answers.
const FIRST_PREFILL: usize = 8;
/// Prompts before the first measurement.
const PROMPTS_BEFORE: usize = 1;

/// Measures prefill for each length and decode for each depth and batch, beside the machine's ceilings and, if
/// asked to, llama.cpp; one model after the other.
pub(crate) fn run(app: &App, args: &BenchArgs) -> Result<(), CliError> {
    crate::check_kernels()?;
    let hub = app.hub()?;
    let plan = Plan::new(args);
    // Before the first is measured, which takes minutes.
    let models = args.models.iter().map(|model| app.obtain(&hub, model)).collect::<Result<Vec<_>, _>>()?;
    let mut standard = Standard::default();
    let mut failed = Ok(());
    for model in models {
        match measure(app, &hub, args, &plan, &model) {
            Ok(measured) => standard.push(measured),
            Err(error) => {
                // What was measured before it is told all the same.
                failed = Err(error);
                break;
            }
        }
    }
    if args.all && !args.json && !standard.is_empty() {
        app.printer.data(&standard)?;
    }
    failed
}

/// Measures a model.
fn measure(
    app: &App,
    hub: &Hub,
    args: &BenchArgs,
    plan: &Plan,
    model: &StoredModel,
) -> Result<Measured, CliError> {
    let config = engine_config(app, args, plan)?;
    let threads = config.resolved_threads();
    let pool = Pool::new(threads);
    let before_loading = Ceilings::measure(&pool);
    resident::reset_peak();
    let begun = Instant::now();
    let path = model.path.clone();
    let speculation = Speculative::new(app, hub, args, &config, &path)?;
    let draft = speculation.as_ref().and_then(|speculation| speculation.draft.clone());
    let (engine, cost) = app.blocking(move || {
        let checkpoint = Checkpoint::open(&path)?;
        let draft = draft.as_deref().map(Checkpoint::open).transpose()?;
        let cost = TokenCost::of(&checkpoint, &checkpoint.config()?);
        Ok((Engine::load_with_draft(&checkpoint, draft.as_ref(), config)?, cost))
    })?;
    let subject = Subject { engine };
    let load = Load::wait(&subject, begun)?;
    app.printer.say(format_args!(
        "{}: {} of weights, first token after {}, all packed after {}",
        model.reference,
        bytes(subject.engine.plan().weights.total()),
        seconds(load.first_token),
        seconds(load.packed)
    ));
    let printer = app.printer;
    let session = Session {
        name: model.reference.to_string(),
        path: model.path.clone(),
        subject,
        speculation,
        peers: None,
        pool,
        cost,
        load,
        reps: args.reps,
        before_loading,
        prompts: PROMPTS_BEFORE,
        peak_resident: None,
        streamed: Vec::new(),
    };
    let plan = plan.clone();
    app.blocking(move || session.run(&plan, printer))
}

/// Room for the largest measurement.
fn engine_config(app: &App, args: &BenchArgs, plan: &Plan) -> Result<EngineConfig, CliError> {
    let mut config = app.engine_config(&args.engine)?;
    let largest = |numbers: &[usize]| numbers.iter().copied().max().unwrap_or(0);
    let (longest, mut deepest, widest) = (largest(&plan.prefill), largest(&plan.depth), largest(&plan.batch));
    if config.speculation != Speculation::Off {
        deepest = deepest.max(TEXT_TOKENS_MAX);
    }
    if widest > 256 {
        return Err(CliError::input("--batch goes up to 256"));
    }
    let answer = plan.decode.saturating_add(1);
    let needed = longest.saturating_add(1).max(deepest.max(1).saturating_add(answer));
    let context = config.context_length.unwrap_or(needed);
    if context < needed {
        return Err(CliError::input(format!("--context is {context}, and these measurements take {needed}")));
    }
    config.context_length = Some(context);
    // Whole blocks for each sequence, with room for the answer before this one, whose blocks are kept as cached ones,
    // and for the block that is begun.
    let blocks = [context, answer, 1].map(|tokens| tokens.div_ceil(BLOCK_LEN));
    let tokens = blocks.iter().sum::<usize>().saturating_mul(BLOCK_LEN);
    config.kv_cache_tokens = Some(tokens.saturating_mul(widest));
    config.max_num_seqs = config.max_num_seqs.max(widest);
    if widest == 1 {
        config = config.for_single_answers();
    }
    config.max_num_batched_tokens = config.max_num_batched_tokens.max(widest + 1);
    Ok(config)
}

/// What to measure.
#[derive(Debug, Clone)]
struct Plan {
    prefill: Vec<usize>,
    decode: usize,
    batch: Vec<usize>,
    depth: Vec<usize>,
    json: bool,
    /// The results are told together, once all models are measured.
    all: bool,
    /// The Python that has llama.cpp.
    peer: Option<PathBuf>,
}

impl Plan {
    fn new(args: &BenchArgs) -> Self {
        let peer = args.compare.then(|| peer::python(args.python.as_deref()));
        let BenchArgs { decode, json, all, .. } = *args;
        if all {
            return standard::plan(json, peer);
        }
        let (prefill, batch, depth) = (args.prefill.clone(), args.batch.clone(), args.depth.clone());
        Self { prefill, decode, batch, depth, json, all, peer }
    }
}

/// From the opening of the model's files on.
#[derive(Debug, Clone, Copy)]
struct Load {
    /// Until there was the first token of an answer to a short prompt.
    first_token: Duration,
    /// Until all weights were packed.
    packed: Duration,
}

impl Load {
    fn wait(subject: &Subject, begun: Instant) -> Result<Self, CliError> {
        let room = subject.engine.context_length().saturating_sub(1);
        subject.first_token(subject.prompt(PROMPTS_BEFORE, FIRST_PREFILL.min(room)))?;
        let first_token = begun.elapsed();
        subject.engine.wait_until_packed()?;
        Ok(Self { first_token, packed: begun.elapsed() })
    }
}
