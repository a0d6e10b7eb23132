//! `levain bench`

use std::ops::ControlFlow;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use levain_engine::{Engine, EngineConfig, EngineError, Event, FinishReason, Request, RequestHandle};
use levain_hub::bytes;
use levain_kernels::ceilings::Ceilings;
use levain_kernels::{Pool, isa};
use levain_weights::Checkpoint;
use serde_json::json;

use crate::app::App;
use crate::cli::BenchArgs;
use crate::error::CliError;
use crate::printer::table;
use crate::progress::seconds;

/// Nothing in a measurement takes longer than this for one token, even on a slow machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// Measures prefill and decode for each depth and batch, beside the machine's ceilings.
pub(crate) fn run(app: &App, args: &BenchArgs) -> Result<(), CliError> {
    crate::check_kernels()?;
    let hub = app.hub()?;
    let model = app.obtain(&hub, &args.model)?;
    let config = engine_config(app, args)?;
    let threads = config.resolved_threads();
    let ceilings = Ceilings::measure(&Pool::new(threads));
    let begun = Instant::now();
    let path = model.path.clone();
    let engine = app.blocking(move || Ok(Engine::load(&Checkpoint::open(&path)?, config)?))?;
    let load = begun.elapsed();
    let weights = engine.plan().weights.total();
    app.printer.say(format_args!(
        "{}: {} of weights, loaded in {}",
        model.reference,
        bytes(weights),
        seconds(load)
    ));
    let vocab = u32::try_from(engine.model_config().vocab_size).unwrap_or(u32::MAX);
    let bench = Arc::new(Bench { engine, vocab });
    let (reps, prefill, decode) = (args.reps, args.prefill, args.decode);

    let mut rows = vec![["BATCH", "DEPTH", "PREFILL tok/s", "DECODE tok/s"].map(str::to_owned).to_vec()];
    // Prefill depends on neither batch nor depth, so it is measured once.
    let measuring = Arc::clone(&bench);
    let prefill = app.blocking(move || repeat(reps, || measuring.prefill(prefill)))?;
    for &depth in &args.depth {
        for &batch in &args.batch {
            let before = bench.engine.stats();
            let measuring = Arc::clone(&bench);
            let decode = app.blocking(move || repeat(reps, || measuring.decode(batch, depth, decode)))?;
            let now = bench.engine.stats();
            let (drafted, accepted) =
                (now.drafted_tokens - before.drafted_tokens, now.accepted_tokens - before.accepted_tokens);
            if args.json {
                app.printer.json(&json!({
                    "model": model.path,
                    "threads": threads,
                    "batch": batch,
                    "depth": depth,
                    "prefill_tokens_per_s": round(prefill.median),
                    "decode_tokens_per_s": round(decode.median),
                    "ceiling_read_gb_per_s": round(ceilings.read_gb_per_s),
                    "ceiling_int8_gop_per_s": round(ceilings.int8_gop_per_s),
                    "ceiling_f32_gflop_per_s": round(ceilings.f32_gflop_per_s),
                    "prefill": args.prefill,
                    "decode": args.decode,
                    "reps": args.reps,
                    "prefill_spread": prefill.spread(),
                    "decode_spread": decode.spread(),
                    "drafted_tokens": drafted,
                    "accepted_tokens": accepted,
                    "expert_stats": now.experts.map(|experts| json!({
                        "hits": experts.hits,
                        "misses": experts.misses,
                        "read_ahead": experts.read_ahead,
                        "bytes_read": experts.bytes_read,
                        "waited_s": round(experts.waited.as_secs_f64()),
                        "resident_bytes": experts.resident_bytes,
                    })),
                    "kernels": isa().name(),
                    "weights_bytes": weights,
                    "load_s": round(load.as_secs_f64()),
                    "version": env!("CARGO_PKG_VERSION"),
                }))?;
            }
            rows.push(vec![batch.to_string(), depth.to_string(), prefill.shown(), decode.shown()]);
        }
    }
    if args.json {
        return Ok(());
    }
    app.printer.data(table(&rows))?;
    app.printer.line(format_args!(
        "ceilings of this machine with {threads} threads ({} kernels): {:.1} GB/s read, {:.0} int8 GOP/s",
        isa().name(),
        ceilings.read_gb_per_s,
        ceilings.int8_gop_per_s
    ))
}

/// Room for the largest measurement, and no reuse of what an earlier repetition computed.
fn engine_config(app: &App, args: &BenchArgs) -> Result<EngineConfig, CliError> {
    const MARGIN_TOKENS: usize = 64;
    let mut config = app.engine_config(&args.engine)?;
    let deepest = args.depth.iter().copied().max().unwrap_or(0);
    let widest = args.batch.iter().copied().max().unwrap_or(1);
    if widest > 256 {
        return Err(CliError::input("--batch goes up to 256"));
    }
    let context = args.prefill.max(deepest.saturating_add(args.decode)).saturating_add(MARGIN_TOKENS);
    config.context_length = Some(context);
    config.kv_cache_tokens = Some(context.saturating_mul(widest));
    config.max_num_seqs = config.max_num_seqs.max(widest);
    config.max_num_batched_tokens = config.max_num_batched_tokens.max(widest + 1);
    config.prefix_cache = false;
    Ok(config)
}

/// Once to warm up, then `reps` times.
fn repeat(reps: usize, measure: impl Fn() -> Result<f64, CliError>) -> Result<Rates, CliError> {
    measure()?;
    Ok(Rates::of((0..reps).map(|_| measure()).collect::<Result<_, _>>()?))
}

/// Tokens a second of all repetitions but the first, which warms up.
struct Rates {
    median: f64,
    least: f64,
    most: f64,
}

impl Rates {
    fn of(mut rates: Vec<f64>) -> Self {
        rates.sort_by(f64::total_cmp);
        let at = |i: usize| rates.get(i).copied().unwrap_or(0.0);
        let middle = rates.len() / 2;
        let median =
            if rates.len() % 2 == 1 { at(middle) } else { (at(middle.saturating_sub(1)) + at(middle)) / 2.0 };
        Self { median, least: at(0), most: at(rates.len().saturating_sub(1)) }
    }

    fn spread(&self) -> [f64; 2] {
        [round(self.least), round(self.most)]
    }

    fn shown(&self) -> String {
        format!("{:.1} ({:.1} to {:.1})", self.median, self.least, self.most)
    }
}

struct Bench {
    engine: Engine,
    vocab: u32,
}

/// A token of one sequence, or its end.
enum Step {
    Token(usize, Instant),
    End(Option<EngineError>),
}

impl Bench {
    /// From submission to the first token.
    fn prefill(&self, tokens: usize) -> Result<f64, CliError> {
        let (sender, steps) = mpsc::channel();
        let begun = Instant::now();
        let _handle = self.submit(0, tokens, 1, &sender)?;
        match receive(&steps)? {
            Step::Token(_, at) => Ok(rate(tokens, at - begun)),
            Step::End(error) => Err(ended(error)),
        }
    }

    /// From the moment when all sequences have their first token until the first of them is done.
    fn decode(&self, batch: usize, depth: usize, tokens: usize) -> Result<f64, CliError> {
        let (sender, steps) = mpsc::channel();
        let handles = (0..batch)
            .map(|sequence| self.submit(sequence, depth.max(1), tokens + 1, &sender))
            .collect::<Result<Vec<_>, _>>()?;
        drop(sender);
        let (mut begun, mut last, mut counted) = (None, None, 0);
        let mut started = vec![false; batch];
        loop {
            match receive(&steps)? {
                Step::Token(sequence, at) => {
                    if begun.is_some() {
                        (last, counted) = (Some(at), counted + 1);
                    } else {
                        started[sequence] = true;
                        begun = started.iter().all(|&started| started).then_some(at);
                    }
                }
                Step::End(None) => break,
                Step::End(error) => return Err(ended(error)),
            }
        }
        drop(handles);
        match (begun, last) {
            (Some(begun), Some(last)) => Ok(rate(counted, last - begun)),
            _ => Err(CliError::input(
                "--decode is too small for this batch: the sequences ended one after another",
            )),
        }
    }

    fn submit(
        &self,
        sequence: usize,
        prompt: usize,
        answer: usize,
        steps: &mpsc::Sender<Step>,
    ) -> Result<RequestHandle, CliError> {
        let first = 100 + sequence as u64 * 13;
        let prompt: Vec<u32> = (0..prompt as u64).map(|i| self.token(first + i * 7)).collect();
        let steps = steps.clone();
        let mut request = Request::new(prompt, move |event| {
            let step = match event {
                Event::Token { .. } => Step::Token(sequence, Instant::now()),
                Event::Finished { reason: FinishReason::Error(error), .. } => Step::End(Some(error)),
                Event::Finished { .. } => Step::End(None),
                _ => return ControlFlow::Continue(()),
            };
            if steps.send(step).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        request.max_tokens = Some(u32::try_from(answer).unwrap_or(u32::MAX));
        request.ignore_eos = true;
        Ok(self.engine.submit(request)?)
    }

    /// Some token of the vocabulary's plain middle.
    fn token(&self, n: u64) -> u32 {
        u32::try_from(n % u64::from(self.vocab.clamp(1, 5000))).unwrap_or(0)
    }
}

fn receive(steps: &mpsc::Receiver<Step>) -> Result<Step, CliError> {
    steps.recv_timeout(PATIENCE).map_err(|_| CliError::Internal("the engine went silent".into()))
}

fn ended(error: Option<EngineError>) -> CliError {
    error.map_or_else(|| CliError::Internal("an answer ended without a token".into()), CliError::from)
}

#[expect(clippy::cast_precision_loss, reason = "counts of tokens are small")]
fn rate(tokens: usize, time: Duration) -> f64 {
    tokens as f64 / time.as_secs_f64().max(1e-9)
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::Rates;

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        let rates = Rates::of(vec![4.0, 1.0, 3.0, 2.0]);
        assert!((rates.median - 2.5).abs() < 1e-9 && rates.spread() == [1.0, 4.0]);
        assert!((Rates::of(vec![3.0, 1.0, 2.0]).median - 2.0).abs() < 1e-9);
    }
}
