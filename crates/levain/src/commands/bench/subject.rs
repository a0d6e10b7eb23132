//! Levain's engine under measurement.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use levain_engine::{Engine, EngineError, Event, FinishReason, Request, RequestHandle};

use crate::error::CliError;

/// Nothing in a measurement takes longer than this for one token, even on a slow machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// An engine, and the tokens it is fed with.
pub(super) struct Subject {
    pub(super) engine: Engine,
}

/// Holds the engine at the first token while its lock is held: a small model would otherwise be done with the first
/// sequence of a batch before the last one is handed in.
type Gate = Arc<Mutex<()>>;

/// A token of one sequence, or its end.
pub(super) enum Step {
    Token(usize, Instant),
    End(Option<EngineError>),
}

impl Subject {
    /// Tokens that look like no other prompt's from the first one on, so that nothing cached fits: evenly spread
    /// over the vocabulary's plain middle, and always the same for the same `salt`.
    pub(super) fn prompt(&self, salt: usize, tokens: usize) -> Vec<u32> {
        const PLAIN_MAX: u64 = 5000;
        let plain = (self.engine.model_config().vocab_size as u64).clamp(1, PLAIN_MAX);
        let mut state = salt as u64;
        (0..tokens)
            .map(|_| {
                // The step of a linear congruential generator after Knuth; its high bits are good enough here.
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                u32::try_from((state >> 33) % plain).unwrap_or(0)
            })
            .collect()
    }

    /// Seconds from the submission of a prompt to the first token.
    pub(super) fn first_token(&self, prompt: Vec<u32>) -> Result<f64, CliError> {
        let (sender, steps) = mpsc::channel();
        let begun = Instant::now();
        let _handle = self.submit(0, prompt, 1, &sender, &Gate::default())?;
        match receive(&steps)? {
            Step::Token(_, at) => Ok((at - begun).as_secs_f64()),
            Step::End(error) => Err(ended(error)),
        }
    }

    /// Tokens a second of all sequences together, from the moment when all of them have their first token until
    /// the first of them is done.
    pub(super) fn decode(&self, prompts: Vec<Vec<u32>>, tokens: usize) -> Result<f64, CliError> {
        let (sender, steps) = mpsc::channel();
        let mut started = vec![false; prompts.len()];
        let gate = Gate::default();
        let closed = gate.lock();
        let handles = prompts
            .into_iter()
            .enumerate()
            .map(|(sequence, prompt)| self.submit(sequence, prompt, tokens + 1, &sender, &gate))
            .collect::<Result<Vec<_>, _>>()?;
        drop((closed, sender));
        let (mut begun, mut last, mut counted) = (None, None, 0_usize);
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
            #[expect(clippy::cast_precision_loss, reason = "a number of tokens")]
            (Some(begun), Some(last)) => Ok(counted as f64 / (last - begun).as_secs_f64().max(1e-9)),
            _ => Err(CliError::input(
                "--decode is too small for this batch: the sequences ended one after another",
            )),
        }
    }

    fn submit(
        &self,
        sequence: usize,
        prompt: Vec<u32>,
        answer: usize,
        steps: &mpsc::Sender<Step>,
        gate: &Gate,
    ) -> Result<RequestHandle, CliError> {
        let (steps, gate) = (steps.clone(), Arc::clone(gate));
        let mut request = Request::new(prompt, move |event| {
            // Waits while the gate is closed.
            drop(gate.lock());
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
        // What speculation wins is measured apart.
        request.speculate = false;
        Ok(self.engine.submit(request)?)
    }
}

pub(super) fn receive(steps: &mpsc::Receiver<Step>) -> Result<Step, CliError> {
    steps.recv_timeout(PATIENCE).map_err(|_| CliError::Internal("the engine went silent".into()))
}

pub(super) fn ended(error: Option<EngineError>) -> CliError {
    error.map_or_else(|| CliError::Internal("an answer ended without a token".into()), CliError::from)
}
