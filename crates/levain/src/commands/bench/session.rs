//! The measurements of one model.

use std::path::{Path, PathBuf};
use std::time::Instant;

use levain_engine::{TokenCost, free_memory};
use levain_hub::bytes;
use levain_kernels::ceilings::Ceilings;
use levain_kernels::{Pool, isa, processor};
use serde_json::{Map, Value, json};

use super::experts::{Counts, Streamed};
use super::peer::{self, Mode};
use super::peers::Peers;
use super::report::{Decode, Prefill, Rates, Samples, ceilings_json, round};
use super::speculation::Speculative;
use super::subject::Subject;
use super::{Load, Plan, prefetch, resident};
use crate::error::CliError;
use crate::printer::{Printer, table};

/// Tokens of a prompt that warms up, at most.
const WARM_PREFILL: usize = 128;
/// Tokens of an answer that warms up, at most.
const WARM_DECODE: usize = 16;

/// A loaded model and what it is compared with.
pub(super) struct Session {
    /// As the person named it.
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) subject: Subject,
    pub(super) speculation: Option<Speculative>,
    pub(super) peers: Option<Peers>,
    pub(super) pool: Pool,
    pub(super) cost: TokenCost,
    pub(super) load: Load,
    pub(super) reps: usize,
    pub(super) before_loading: Ceilings,
    /// Prompts made so far.
    pub(super) prompts: usize,
    pub(super) peak_resident: Option<u64>,
    /// What was read from the disk for each measurement, in words.
    pub(super) streamed: Vec<String>,
}

/// What was measured of a model.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) name: String,
    pub(super) threads: usize,
    pub(super) reps: usize,
    pub(super) prefills: Vec<Prefill>,
    pub(super) decodes: Vec<Decode>,
    /// llama.cpp's, if it was measured.
    pub(super) peer_version: Option<String>,
    /// What the reader has to know beside the figures.
    pub(super) notes: Vec<String>,
}

impl Session {
    pub(super) fn run(mut self, plan: &Plan, printer: Printer) -> Result<Measured, CliError> {
        if let Some(python) = &plan.peer {
            self.start_peers(plan, python)?;
        }
        let mut rows = vec![
            ["WHAT", "BATCH", "DEPTH", "tokens/s", "OF CEILING", "FIRST TOKEN"]
                .into_iter()
                .chain(["llama.cpp", "MODE", "RATIO"].into_iter().filter(|_| self.peers.is_some()))
                .map(str::to_owned)
                .collect(),
        ];
        // Prefill depends on neither batch nor depth: each length is measured once, and the first is told beside
        // every decode.
        let (mut prefills, mut decodes) = (Vec::new(), Vec::new());
        for &tokens in &plan.prefill {
            let prefill = self.prefill(tokens)?;
            rows.push(prefill.cells());
            if plan.json && !prefills.is_empty() {
                printer.json(&self.json(Some(&prefill), None))?;
            }
            prefills.push(prefill);
        }
        for &depth in &plan.depth {
            for &batch in &plan.batch {
                let decode = self.decode(batch, depth, plan.decode)?;
                rows.push(decode.cells());
                if plan.json {
                    printer.json(&self.json(prefills.first(), Some(&decode)))?;
                }
                decodes.push(decode);
            }
        }
        let choices = self.subject.engine.prefetch_choices();
        let mut notes = self.streamed.clone();
        notes.extend(prefetch::lines(&choices));
        let mut warnings = prefetch::warnings(&choices, &decodes);
        warnings.extend(self.peers.iter().flat_map(|peers| peers.lost.clone()));
        let told_here = !plan.json && !plan.all;
        if told_here {
            printer.data(table(&rows))?;
            notes.iter().try_for_each(|line| printer.line(line))?;
        }
        if let Some(speculation) = &self.speculation {
            speculation.run(&self, plan, printer)?;
        }
        if told_here {
            printer.line(self.summary())?;
        }
        warnings.iter().for_each(|warning| printer.warn(warning));
        notes.extend(warnings);
        Ok(Measured {
            threads: self.pool.threads(),
            reps: self.reps,
            peer_version: self.peers.map(|peers| peers.version),
            name: self.name,
            prefills,
            decodes,
            notes,
        })
    }

    /// Starts llama.cpp on the same file, if there is memory for a second copy: of its modes only one makes one.
    fn start_peers(&mut self, plan: &Plan, python: &Path) -> Result<(), CliError> {
        let memory = self.subject.engine.plan();
        let needed = memory.weights.total().saturating_add(memory.kv_bytes.saturating_mul(2));
        if free_memory().is_some_and(|free| free < needed) {
            return Err(CliError::Input {
                message: format!("llama.cpp needs about {} beside Levain, and less is free", bytes(needed)),
                hint: Some("without --compare Levain is measured alone".into()),
            });
        }
        self.peers = Some(Peers::start(peer::Setup {
            python,
            model: &self.path,
            threads: self.pool.threads(),
            context: self.subject.engine.context_length(),
            sequences: plan.batch.iter().copied().max().unwrap_or(1),
        })?);
        Ok(())
    }

    /// Measures a prompt of `tokens` from nothing, and again when it has been computed before.
    #[expect(clippy::cast_precision_loss, reason = "a number of tokens")]
    fn prefill(&mut self, tokens: usize) -> Result<Prefill, CliError> {
        let (mut rates, mut first_token, mut cached) =
            (Rates::default(), Samples::default(), Samples::default());
        let warm = self.prompt(tokens.min(WARM_PREFILL));
        self.subject.first_token(warm.clone())?;
        if let Some(peers) = &mut self.peers {
            peers.prefill(&warm)?;
        }
        let before = self.expert_counts()?;
        rates.ceilings.push(&self.ceilings());
        for _ in 0..self.reps {
            let prompt = self.prompt(tokens);
            let took = self.subject.first_token(prompt.clone())?;
            first_token.push(took);
            cached.push(self.subject.first_token(prompt.clone())?);
            let peers = self.peers.as_mut().map(|peers| peers.prefill(&prompt)).transpose()?;
            rates.push(tokens as f64 / took.max(1e-9), per_second(tokens, peers.unwrap_or_default()));
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
    fn decode(&mut self, batch: usize, depth: usize, tokens: usize) -> Result<Decode, CliError> {
        let position = depth.max(1);
        let prompts: Vec<Vec<u32>> = (0..batch).map(|_| self.prompt(position)).collect();
        let answer = self.prompt(tokens);
        // Computed here one after another; each repetition then takes them from the prefix cache.
        for prompt in &prompts {
            self.subject.first_token(prompt.clone())?;
        }
        self.subject.decode(prompts.clone(), tokens.min(WARM_DECODE))?;
        if let Some(peers) = &mut self.peers {
            peers.fill(&prompts)?;
            peers.decode(position, batch, &answer[..tokens.min(WARM_DECODE)])?;
        }
        let experts_before = self.expert_counts()?;
        let mut rates = Rates::default();
        rates.ceilings.push(&self.ceilings());
        for _ in 0..self.reps {
            let ours = self.subject.decode(prompts.clone(), tokens)?;
            let peers =
                self.peers.as_mut().map(|peers| peers.decode(position, batch, &answer)).transpose()?;
            rates.push(ours, per_second(batch * tokens, peers.unwrap_or_default()));
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
        if let Some(peers) = &self.peers {
            put("peer", json!("llama.cpp"));
            put("peer_version", json!(peers.version));
            put("peer_modes", json!(peers.modes().map(|mode| mode.name).collect::<Vec<_>>()));
            put("peer_lost", json!(peers.lost));
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
        put("processor", json!(processor().to_string()));
        let choices = self.subject.engine.prefetch_choices();
        put("prefetch", prefetch::json(&choices));
        let warnings = decode.map(|decode| prefetch::warnings(&choices, std::slice::from_ref(decode)));
        put("warnings", json!(warnings.unwrap_or_default()));
        put("version", json!(env!("CARGO_PKG_VERSION")));
        object
    }

    fn summary(&self) -> String {
        let memory = self.subject.engine.plan();
        let peak = self.peak().map_or_else(|| "unknown".to_owned(), bytes);
        format!(
            "memory: {peak} resident at most; {} of weights, {} of KV cache, {} of buffers\n{}, {} threads, {} kernels",
            bytes(memory.resident_weights()),
            bytes(memory.kv_bytes),
            bytes(memory.scratch_bytes.saturating_add(memory.read_buffer_bytes)),
            processor(),
            self.pool.threads(),
            isa().name(),
        )
    }
}

/// Tokens a second in each mode.
#[expect(clippy::cast_precision_loss, reason = "a number of tokens")]
fn per_second(tokens: usize, seconds: Vec<(Mode, f64)>) -> impl Iterator<Item = (Mode, f64)> {
    seconds.into_iter().map(move |(mode, took)| (mode, tokens as f64 / took.max(1e-9)))
}
