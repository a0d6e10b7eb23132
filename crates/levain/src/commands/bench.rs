//! `levain bench`

mod experts;
mod peer;
mod report;
mod resident;
mod speculation;
mod subject;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use levain_engine::{BLOCK_LEN, Engine, EngineConfig, Speculation, TokenCost, free_memory};
use levain_hub::bytes;
use levain_kernels::ceilings::Ceilings;
use levain_kernels::{Pool, isa};
use levain_weights::Checkpoint;
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::cli::BenchArgs;
use crate::error::CliError;
use crate::printer::{Printer, table};
use crate::progress::seconds;

use experts::{Counts, Streamed};
use peer::Peer;
use report::{Decode, Prefill, Rates, Samples, ceilings_json, round};
use speculation::{Speculative, TEXT_TOKENS_MAX};
use subject::Subject;

/// Tokens of a prompt that warms up, at most.
const WARM_PREFILL: usize = 128;
/// Tokens of the prompt that the first token after loading answers.
const FIRST_PREFILL: usize = 8;
/// Prompts before the first measurement.
const PROMPTS_BEFORE: usize = 1;
/// Tokens of an answer that warms up, at most.
const WARM_DECODE: usize = 16;

/// Measures prefill for each length and decode for each depth and batch, beside the machine's ceilings and, if
/// asked to, llama.cpp.
pub(crate) fn run(app: &App, args: &BenchArgs) -> Result<(), CliError> {
    crate::check_kernels()?;
    let hub = app.hub()?;
    let model = app.obtain(&hub, &args.model)?;
    let config = engine_config(app, args)?;
    let threads = config.resolved_threads();
    let pool = Pool::new(threads);
    let before_loading = Ceilings::measure(&pool);
    resident::reset_peak();
    let begun = Instant::now();
    let path = model.path.clone();
    let speculation = Speculative::new(app, &hub, args, &config, &path)?;
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
    let plan = Plan {
        prefill: args.prefill.clone(),
        decode: args.decode,
        batch: args.batch.clone(),
        depth: args.depth.clone(),
        json: args.json,
        peer: args.compare.then(|| peer::python(args.python.as_deref())),
    };
    let printer = app.printer;
    let session = Session {
        path: model.path,
        subject,
        speculation,
        peer: None,
        pool,
        cost,
        load,
        reps: args.reps,
        before_loading,
        prompts: PROMPTS_BEFORE,
        peak_resident: None,
        streamed: Vec::new(),
    };
    app.blocking(move || session.run(&plan, printer))
}

/// Room for the largest measurement.
fn engine_config(app: &App, args: &BenchArgs) -> Result<EngineConfig, CliError> {
    let mut config = app.engine_config(&args.engine)?;
    let largest = |numbers: &[usize]| numbers.iter().copied().max().unwrap_or(0);
    let (longest, mut deepest, widest) = (largest(&args.prefill), largest(&args.depth), largest(&args.batch));
    if config.speculation != Speculation::Off {
        deepest = deepest.max(TEXT_TOKENS_MAX);
    }
    if widest > 256 {
        return Err(CliError::input("--batch goes up to 256"));
    }
    let answer = args.decode.saturating_add(1);
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
struct Plan {
    prefill: Vec<usize>,
    decode: usize,
    batch: Vec<usize>,
    depth: Vec<usize>,
    json: bool,
    /// The Python that has llama.cpp.
    peer: Option<PathBuf>,
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

/// A loaded model and what it is compared with.
struct Session {
    path: PathBuf,
    subject: Subject,
    speculation: Option<Speculative>,
    peer: Option<Peer>,
    pool: Pool,
    cost: TokenCost,
    load: Load,
    reps: usize,
    before_loading: Ceilings,
    /// Prompts made so far.
    prompts: usize,
    peak_resident: Option<u64>,
    /// What was read from the disk for each measurement, in words.
    streamed: Vec<String>,
}

impl Session {
    fn run(mut self, plan: &Plan, printer: Printer) -> Result<(), CliError> {
        if let Some(python) = &plan.peer {
            self.start_peer(plan, python)?;
        }
        let mut rows = vec![
            ["WHAT", "BATCH", "DEPTH", "tokens/s", "OF CEILING", "FIRST TOKEN"]
                .into_iter()
                .chain(["llama.cpp", "RATIO"].into_iter().filter(|_| self.peer.is_some()))
                .map(str::to_owned)
                .collect(),
        ];
        // Prefill depends on neither batch nor depth: each length is measured once, and the first is told beside
        // every decode.
        let mut first = None;
        for &tokens in &plan.prefill {
            let prefill = self.prefill(tokens)?;
            rows.push(prefill.cells());
            if first.is_none() {
                first = Some(prefill);
            } else if plan.json {
                printer.json(&self.json(Some(&prefill), None))?;
            }
        }
        for &depth in &plan.depth {
            for &batch in &plan.batch {
                let decode = self.decode(batch, depth, plan.decode)?;
                rows.push(decode.cells());
                if plan.json {
                    printer.json(&self.json(first.as_ref(), Some(&decode)))?;
                }
            }
        }
        if !plan.json {
            printer.data(table(&rows))?;
        }
        if !plan.json {
            for line in &self.streamed {
                printer.line(line)?;
            }
        }
        if let Some(speculation) = &self.speculation {
            speculation.run(&self, plan, printer)?;
        }
        if plan.json { Ok(()) } else { printer.line(self.summary()) }
    }

    /// Starts llama.cpp on the same file, if there is memory for a second copy.
    fn start_peer(&mut self, plan: &Plan, python: &Path) -> Result<(), CliError> {
        let memory = self.subject.engine.plan();
        let needed = memory.weights.total().saturating_add(memory.kv_bytes);
        if free_memory().is_some_and(|free| free < needed) {
            return Err(CliError::Input {
                message: format!("llama.cpp needs about {} beside Levain, and less is free", bytes(needed)),
                hint: Some("without --compare Levain is measured alone".into()),
            });
        }
        self.peer = Some(Peer::start(
            python,
            peer::Setup {
                model: &self.path,
                threads: self.pool.threads(),
                context: self.subject.engine.context_length(),
                sequences: plan.batch.iter().copied().max().unwrap_or(1),
            },
        )?);
        Ok(())
    }

    /// Measures a prompt of `tokens` from nothing, and again when it has been computed before.
    #[expect(clippy::cast_precision_loss, reason = "a number of tokens")]
    fn prefill(&mut self, tokens: usize) -> Result<Prefill, CliError> {
        let (mut rates, mut first_token, mut cached) =
            (Rates::default(), Samples::default(), Samples::default());
        let warm = self.prompt(tokens.min(WARM_PREFILL));
        self.subject.first_token(warm.clone())?;
        if let Some(peer) = &mut self.peer {
            peer.prefill(&warm)?;
        }
        let before = self.expert_counts()?;
        rates.ceilings.push(&self.ceilings());
        for _ in 0..self.reps {
            let prompt = self.prompt(tokens);
            let took = self.subject.first_token(prompt.clone())?;
            first_token.push(took);
            cached.push(self.subject.first_token(prompt.clone())?);
            let peer = self.peer.as_mut().map(|peer| peer.prefill(&prompt)).transpose()?;
            rates.push(tokens as f64 / took.max(1e-9), peer.map(|took| tokens as f64 / took.max(1e-9)));
            rates.ceilings.push(&self.ceilings());
        }
        let streamed = self.streamed_since(before)?;
        self.streamed.extend(streamed.map(|streamed| streamed.line(&format!("prefill {tokens}"))));
        let notes = streamed.iter().flat_map(Streamed::notes);
        Ok(Prefill {
            tokens,
            notes: notes.map(|(key, value)| (format!("prefill_{key}"), value)).collect(),
            rates,
            first_token,
            cached_first_token: cached,
            operations: self.cost.prompt_operations(tokens as u64),
            arithmetic: self.cost.arithmetic(),
        })
    }

    /// Measures `batch` sequences together, each after `depth` positions.
    #[expect(clippy::cast_precision_loss, reason = "a number of tokens")]
    fn decode(&mut self, batch: usize, depth: usize, tokens: usize) -> Result<Decode, CliError> {
        let position = depth.max(1);
        let prompts: Vec<Vec<u32>> = (0..batch).map(|_| self.prompt(position)).collect();
        let answer = self.prompt(tokens);
        // Computed here one after another; each repetition then takes them from the prefix cache.
        for prompt in &prompts {
            self.subject.first_token(prompt.clone())?;
        }
        self.subject.decode(prompts.clone(), tokens.min(WARM_DECODE))?;
        if let Some(peer) = &mut self.peer {
            peer.fill(&prompts)?;
            peer.decode(position, batch, &answer[..tokens.min(WARM_DECODE)])?;
        }
        let experts_before = self.expert_counts()?;
        let mut rates = Rates::default();
        rates.ceilings.push(&self.ceilings());
        for _ in 0..self.reps {
            let ours = self.subject.decode(prompts.clone(), tokens)?;
            let took = self.peer.as_mut().map(|peer| peer.decode(position, batch, &answer)).transpose()?;
            rates.push(ours, took.map(|took| (batch * tokens) as f64 / took.max(1e-9)));
            rates.ceilings.push(&self.ceilings());
        }
        let mut notes = Map::new();
        let streamed = self.streamed_since(experts_before)?;
        let what = format!("decode {tokens}, batch {batch}, depth {depth}");
        self.streamed.extend(streamed.map(|streamed| streamed.line(&what)));
        notes.extend(streamed.iter().flat_map(Streamed::notes).map(|(key, value)| (key.to_owned(), value)));
        let step_bytes = self.step_bytes(batch, position, tokens);
        Ok(Decode { batch, depth, tokens, rates, step_bytes, notes })
    }

    /// Bytes of weights and cache that a step reads, on average over an answer. Unknown where rows choose experts of
    /// their own.
    fn step_bytes(&self, batch: usize, position: usize, tokens: usize) -> Option<u64> {
        let engine = &self.subject.engine;
        if engine.model_config().moe.is_some() && batch > 1 {
            return None;
        }
        let positions = (position + tokens / 2).saturating_mul(batch) as u64;
        let cache = engine.plan().kv_bytes_per_token.saturating_mul(positions);
        Some(self.cost.weight_bytes.saturating_add(cache))
    }

    /// What reading experts has come to and what the disk gives now, where they are read from it.
    fn expert_counts(&self) -> Result<Option<Counts>, CliError> {
        let engine = &self.subject.engine;
        if engine.plan().expert_cache_bytes.is_none() {
            return Ok(None);
        }
        Counts::now(engine.stats().experts.unwrap_or_default(), &self.path).map(Some)
    }

    fn streamed_since(&self, before: Option<Counts>) -> Result<Option<Streamed>, CliError> {
        let done = Instant::now();
        let after = self.expert_counts()?;
        Ok(before.zip(after).map(|(before, after)| Streamed::new(before, after, done)))
    }

    /// A prompt unlike those before.
    fn prompt(&mut self, tokens: usize) -> Vec<u32> {
        self.prompts += 1;
        self.subject.prompt(self.prompts, tokens)
    }

    /// What the machine can do in this moment. Where experts are read from the disk, memory is full by design and
    /// there is none to measure with: then what it could do before loading has to serve.
    fn ceilings(&mut self) -> Ceilings {
        if self.subject.engine.plan().expert_cache_bytes.is_some() {
            return self.before_loading;
        }
        self.peak_resident = self.peak_resident.max(resident::peak());
        let ceilings = Ceilings::measure(&self.pool);
        resident::reset_peak();
        ceilings
    }

    fn peak(&self) -> Option<u64> {
        self.peak_resident.max(resident::peak())
    }

    fn json(&self, prefill: Option<&Prefill>, decode: Option<&Decode>) -> Map<String, Value> {
        let memory = self.subject.engine.plan();
        let mut object = Map::new();
        let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
        put("model", json!(self.path));
        put("threads", json!(self.pool.threads()));
        put("batch", json!(1));
        put("depth", json!(0));
        put("reps", json!(self.reps));
        if let Some(peer) = &self.peer {
            put("peer", json!("llama.cpp"));
            put("peer_version", json!(peer.version));
        }
        if let Some(prefill) = prefill {
            prefill.json(&mut object);
        }
        if let Some(decode) = decode {
            decode.json(&mut object);
        }
        ceilings_json(prefill.map(|p| &p.rates), decode.map(|d| &d.rates), &mut object);
        let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
        put("weights_bytes", json!(memory.weights.total()));
        put("weights_bytes_per_token", json!(self.cost.weight_bytes));
        put("kv_cache_bytes", json!(memory.kv_bytes));
        put("kv_bytes_per_token", json!(memory.kv_bytes_per_token));
        put("scratch_bytes", json!(memory.scratch_bytes));
        put("peak_resident_bytes", json!(self.peak()));
        put("first_token_from_start_s", json!(round(self.load.first_token.as_secs_f64())));
        put("load_s", json!(round(self.load.packed.as_secs_f64())));
        put("kernels", json!(isa().name()));
        put("version", json!(env!("CARGO_PKG_VERSION")));
        object
    }

    fn summary(&self) -> String {
        let memory = self.subject.engine.plan();
        let peak = self.peak().map_or_else(|| "unknown".to_owned(), bytes);
        format!(
            "memory: {peak} resident at most; {} of weights, {} of KV cache, {} of buffers\n{} threads, {} kernels",
            bytes(memory.resident_weights()),
            bytes(memory.kv_bytes),
            bytes(memory.scratch_bytes.saturating_add(memory.read_buffer_bytes)),
            self.pool.threads(),
            isa().name(),
        )
    }
}
