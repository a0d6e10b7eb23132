//! What the engine's tests share: fixtures, and a request that is waited for.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use levain_engine::{Engine, EngineConfig, Event, FinishReason, Request, RequestHandle, TokenLogprob, Usage};
use levain_weights::Checkpoint;

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

pub(crate) fn engine(folder: &Path, config: EngineConfig) -> Engine {
    Engine::load(&Checkpoint::open(folder).unwrap(), config).unwrap()
}

/// A list of numbers from a fixture's `expected.json`.
pub(crate) fn ids(folder: &Path, name: &str) -> Vec<u32> {
    let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    let list = text.split_once(&format!("\"{name}\": [")).unwrap().1.split_once(']').unwrap().0;
    list.split(',').map(|id| id.trim().parse().unwrap()).collect()
}

/// Made-up text of the fixtures' vocabulary.
pub(crate) fn text(seed: u32, len: usize) -> Vec<u32> {
    let mut x = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    (0..len)
        .map(|_| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            3 + (x >> 10) % 490
        })
        .collect()
}

/// Everything a request's sink was told.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) prompt: Vec<TokenLogprob>,
    pub(crate) answers: Vec<Answer>,
    pub(crate) embedding: Vec<f32>,
}

/// A token's log-probability and the likeliest tokens'.
pub(crate) type Logprobs = (Option<f32>, Vec<(u32, f32)>);
/// A token with its log-probabilities as bits.
pub(crate) type TokenBits = (u32, Option<u32>, Vec<(u32, u32)>);

#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) tokens: Vec<u32>,
    pub(crate) logprobs: Vec<Logprobs>,
    pub(crate) reason: Option<FinishReason>,
    pub(crate) usage: Usage,
}

impl Answer {
    /// Tokens and log-probabilities, the latter as bits.
    pub(crate) fn bits(&self) -> Vec<TokenBits> {
        self.tokens
            .iter()
            .zip(&self.logprobs)
            .map(|(&token, (logprob, top))| {
                let top = top.iter().map(|&(id, logprob)| (id, logprob.to_bits())).collect();
                (token, logprob.map(f32::to_bits), top)
            })
            .collect()
    }

    pub(crate) fn error(&self) -> String {
        match &self.reason {
            Some(FinishReason::Error(error)) => error.to_string(),
            other => panic!("no error but {other:?}"),
        }
    }
}

/// A request under way.
pub(crate) struct Running {
    pub(crate) handle: RequestHandle,
    events: Receiver<Event>,
    /// Events that came while waiting for something else.
    seen: Vec<Event>,
    n: usize,
}

impl Running {
    pub(crate) fn wait(self) -> Outcome {
        let mut outcome = Outcome::default();
        outcome.answers.resize_with(self.n, Answer::default);
        let mut left = self.n;
        for event in self.seen.into_iter().chain(&self.events) {
            match event {
                Event::PromptLogprobs { start, entries } => {
                    assert_eq!(start, outcome.prompt.len());
                    outcome.prompt.extend(entries);
                }
                Event::Token { answer, index, id, logprob, top } => {
                    let answer = &mut outcome.answers[answer as usize];
                    assert_eq!(index as usize, answer.tokens.len());
                    assert!(answer.reason.is_none(), "a token after the end");
                    answer.tokens.push(id);
                    answer.logprobs.push((logprob, top));
                }
                Event::Embedding(vector) => outcome.embedding = vector,
                Event::Finished { answer, reason, usage } => {
                    let answer = &mut outcome.answers[answer as usize];
                    assert!(answer.reason.is_none(), "a second end");
                    (answer.reason, answer.usage) = (Some(reason), usage);
                    left -= 1;
                }
            }
            if left == 0 {
                return outcome;
            }
        }
        panic!("the sink is gone before the end")
    }

    /// Waits for one token.
    pub(crate) fn wait_for_token(&mut self) {
        while !matches!(self.seen.last(), Some(Event::Token { .. })) {
            self.seen.push(self.events.recv().expect("the sink is kept until the end"));
        }
    }
}

/// Hands a request in; what `change` sets goes beyond a greedy answer of 24 tokens with log-probabilities.
pub(crate) fn start(engine: &Engine, prompt: &[u32], change: impl FnOnce(&mut Request)) -> Running {
    let (sender, events) = channel();
    let mut request = Request::new(prompt.to_vec(), move |event| {
        if sender.send(event).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    request.max_tokens = Some(24);
    request.logprobs = Some(3);
    change(&mut request);
    let n = request.n as usize;
    Running { handle: engine.submit(request).unwrap(), events, seen: Vec::new(), n }
}

pub(crate) fn run(engine: &Engine, prompt: &[u32], change: impl FnOnce(&mut Request)) -> Outcome {
    start(engine, prompt, change).wait()
}

/// Waits for something that another thread is about to do.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) fn all_free(engine: &Engine) -> bool {
    let stats = engine.stats();
    stats.running == 0 && stats.waiting == 0 && stats.free_blocks == stats.total_blocks
}
