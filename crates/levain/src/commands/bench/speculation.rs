//! What speculation wins: answers with and without it in turn, on text that drafts badly and on text that drafts
//! well.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use levain_engine::{EngineConfig, Event, FinishReason, Request, Speculation};
use levain_hub::Hub;
use levain_local::{check_draft_vocabulary, vocabulary};
use levain_tokenizer::SpecialTokens;
use levain_weights::Checkpoint;
use serde_json::{Map, Value, json};

use super::report::{Samples, round};
use super::subject::{Step, Subject, ended, receive};
use super::{Plan, Session};
use crate::app::App;
use crate::cli::BenchArgs;
use crate::error::CliError;
use crate::printer::{Printer, table};

/// A story's beginning: what follows repeats little of it.
const PROSE: &str = "\
The ferry had been late for as long as anyone in the village could remember, and so nobody was surprised when the \
morning boat came in at noon. What surprised them was the passenger. She carried a wooden case, the kind that \
surveyors use, and she asked the first child she met for the way to the old lighthouse. By evening everyone had a \
theory. The baker said that";

/// A list whose lines are alike: an answer that goes on with it repeats most of it.
const REPETITIVE: &str = "\
{\"id\": 1, \"name\": \"sensor-1\", \"unit\": \"celsius\", \"active\": true, \"room\": \"north\"}
{\"id\": 2, \"name\": \"sensor-2\", \"unit\": \"celsius\", \"active\": true, \"room\": \"north\"}
{\"id\": 3, \"name\": \"sensor-3\", \"unit\": \"celsius\", \"active\": true, \"room\": \"north\"}
{\"id\": 4, \"name\": \"sensor-4\", \"unit\": \"celsius\", \"active\": true, \"room\": \"north\"}
{\"id\": 5, \"name\":";

/// Tokens of a text at most.
pub(super) const TEXT_TOKENS_MAX: usize = 256;

/// A way to speculate, and the texts it is measured on.
pub(super) struct Speculative {
    name: &'static str,
    /// The model that drafts, where one does.
    pub(super) draft: Option<PathBuf>,
    texts: [(&'static str, Vec<u32>); 2],
}

/// One answer's or batch's figures.
struct Measured {
    rate: f64,
    drafted: u64,
    accepted: u64,
    steps: u64,
}

impl Speculative {
    /// What `config` asks for; `None` where that is nothing. A draft model is fetched, and checked to have the tokens
    /// of the model at `path`.
    pub(super) fn new(
        app: &App,
        hub: &Hub,
        args: &BenchArgs,
        config: &EngineConfig,
        path: &Path,
    ) -> Result<Option<Self>, CliError> {
        let name = match config.speculation {
            Speculation::Off => return Ok(None),
            Speculation::PromptLookup => "lookup",
            Speculation::MultiTokenPrediction => "mtp",
            Speculation::DraftModel => "draft",
        };
        let checkpoint = Checkpoint::open(path)?;
        let draft = app.draft_model(hub, &args.engine, config)?;
        if let Some(draft) = &draft {
            check_draft_vocabulary(&checkpoint, &Checkpoint::open(draft)?)?;
        }
        let tokenizer = vocabulary(&checkpoint)?.tokenizer;
        let encode = |text| {
            let mut tokens = tokenizer
                .encode_with_special_tokens(text, SpecialTokens::AsText)
                .map_err(|error| CliError::Internal(format!("a text can't be tokenized: {error}")))?;
            // A vocabulary of bytes makes more of it.
            tokens.drain(..tokens.len().saturating_sub(TEXT_TOKENS_MAX));
            Ok::<_, CliError>(tokens)
        };
        let texts = [("prose", encode(PROSE)?), ("repetitive", encode(REPETITIVE)?)];
        Ok(Some(Self { name, draft, texts }))
    }

    /// Measures each text, depth and batch with and without speculation, once to warm up and then again and again.
    pub(super) fn run(&self, session: &Session, plan: &Plan, printer: Printer) -> Result<(), CliError> {
        const HEAD: [&str; 8] =
            ["TEXT", "BATCH", "DEPTH", "PLAIN tok/s", "DRAFTED tok/s", "GAIN", "ACCEPTED", "DRAFTED/STEP"];
        let mut rows = vec![HEAD.map(str::to_owned).to_vec()];
        for (text, tokens) in &self.texts {
            for (&depth, &batch) in
                plan.depth.iter().flat_map(|depth| plan.batch.iter().map(move |batch| (depth, batch)))
            {
                // A deeper one repeats the text.
                let prompt: Vec<u32> = tokens.iter().copied().cycle().take(depth.max(tokens.len())).collect();
                let pairs = Pairs::measure(&session.subject, &prompt, batch, plan.decode, session.reps)?;
                if plan.json {
                    let mut object = pairs.json();
                    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
                    put("model", json!(session.path));
                    put("speculation", json!(self.name));
                    put("draft_model", json!(self.draft));
                    put("text", json!(text));
                    put("batch", json!(batch));
                    put("depth", json!(depth));
                    put("decode", json!(plan.decode));
                    put("reps", json!(session.reps));
                    printer.json(&object)?;
                }
                rows.push(
                    [(*text).to_owned(), batch.to_string(), depth.to_string()]
                        .into_iter()
                        .chain(pairs.cells())
                        .collect(),
                );
            }
        }
        if plan.json {
            return Ok(());
        }
        printer.line(format_args!("speculation: {}, and plain decoding in turn", self.name))?;
        printer.data(table(&rows))
    }
}

/// Plain and speculative answers in turn.
#[derive(Default)]
struct Pairs {
    plain: Samples,
    speculative: Samples,
    gains: Samples,
    drafted: u64,
    accepted: u64,
    steps: u64,
}

impl Pairs {
    /// The first pair warms up, and lets the engine learn whether drafts pay.
    fn measure(
        subject: &Subject,
        prompt: &[u32],
        batch: usize,
        answer: usize,
        reps: usize,
    ) -> Result<Self, CliError> {
        let mut pairs = Self::default();
        for rep in 0..=reps {
            let plain = answers(subject, prompt, batch, answer, false)?;
            let speculative = answers(subject, prompt, batch, answer, true)?;
            if rep == 0 {
                continue;
            }
            pairs.plain.push(plain.rate);
            pairs.speculative.push(speculative.rate);
            pairs.gains.push(speculative.rate / plain.rate.max(1e-9));
            pairs.drafted += speculative.drafted;
            pairs.accepted += speculative.accepted;
            pairs.steps += speculative.steps;
        }
        Ok(pairs)
    }

    /// Drafted tokens that were right, as a share.
    fn acceptance(&self) -> Option<f64> {
        share(self.accepted, self.drafted)
    }

    fn json(&self) -> Map<String, Value> {
        let mut object = Map::new();
        let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
        put("plain_tokens_per_s", json!(round(self.plain.median())));
        put("plain_spread", json!(self.plain.spread()));
        put("speculative_tokens_per_s", json!(round(self.speculative.median())));
        put("speculative_spread", json!(self.speculative.spread()));
        put("gain", json!((self.gains.median() * 1e3).round() / 1e3));
        put("gain_spread", json!(self.gains.spread()));
        put("drafted_tokens", json!(self.drafted));
        put("accepted_tokens", json!(self.accepted));
        put("acceptance", json!(self.acceptance()));
        put("drafted_per_step", json!(share(self.drafted, self.steps)));
        object
    }

    fn cells(&self) -> [String; 5] {
        let [least, most] = self.gains.spread();
        [
            self.plain.shown(),
            self.speculative.shown(),
            format!("{:.2} ({least:.2} to {most:.2})", self.gains.median()),
            self.acceptance()
                .map_or_else(|| "none drafted".to_owned(), |share| format!("{:.0} %", 100.0 * share)),
            share(self.drafted, self.steps).map_or_else(String::new, |share| format!("{share:.2}")),
        ]
    }
}

/// From the moment when all sequences have their first token until the last of them is done.
fn answers(
    subject: &Subject,
    prompt: &[u32],
    batch: usize,
    answer: usize,
    speculate: bool,
) -> Result<Measured, CliError> {
    let (sender, steps) = mpsc::channel();
    let before = subject.engine.stats().steps;
    let counts = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let mut handles = Vec::new();
    for sequence in 0..batch {
        let steps = sender.clone();
        // Sequences of a batch differ, as those of a server do.
        let mut prompt = prompt.to_vec();
        if let (Some(place), &[token]) = (prompt.get_mut(1), &subject.prompt(sequence, 1)[..])
            && sequence > 0
        {
            *place = token;
        }
        let counts = Arc::clone(&counts);
        let mut request = Request::new(prompt, move |event| {
            if let Event::Finished { usage, .. } = &event {
                for (count, tokens) in counts.iter().zip([usage.drafted_tokens, usage.accepted_tokens]) {
                    count.fetch_add(tokens as u64, Ordering::Relaxed);
                }
            }
            let step = match event {
                Event::Token { .. } => Step::Token(sequence, Instant::now()),
                Event::Finished { reason: FinishReason::Error(error), .. } => Step::End(Some(error)),
                Event::Finished { .. } => Step::End(None),
                _ => return ControlFlow::Continue(()),
            };
            if steps.send(step).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        request.max_tokens = Some(u32::try_from(answer.saturating_add(1)).unwrap_or(u32::MAX));
        request.ignore_eos = true;
        request.speculate = speculate;
        handles.push(subject.engine.submit(request)?);
    }
    let (mut begun, mut last, mut counted, mut left) = (None, None, 0_u32, batch);
    let mut started = vec![false; batch];
    while left > 0 {
        match receive(&steps)? {
            Step::Token(sequence, at) if begun.is_none() => {
                started[sequence] = true;
                begun = started.iter().all(|&started| started).then_some(at);
            }
            Step::Token(_, at) => (last, counted) = (Some(at), counted + 1),
            Step::End(None) => left -= 1,
            Step::End(error) => return Err(ended(error)),
        }
    }
    drop(handles);
    let (Some(begun), Some(last)) = (begun, last) else {
        let message = "--decode is too small for this batch: the sequences ended one after another";
        return Err(CliError::input(message));
    };
    let [drafted, accepted] = [&counts[0], &counts[1]].map(|count| count.load(Ordering::Relaxed));
    let steps = subject.engine.stats().steps - before;
    let rate = f64::from(counted) / (last - begun).as_secs_f64().max(1e-9);
    Ok(Measured { rate, drafted, accepted, steps })
}

/// `part / whole`, to four digits; `None` of nothing.
#[expect(clippy::cast_precision_loss, reason = "counts of tokens are small")]
fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| (part as f64 / whole as f64 * 1e4).round() / 1e4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_nothing_are_not_known() {
        assert_eq!(share(0, 0), None);
        assert_eq!(share(1, 3), Some(0.3333));
    }
}
