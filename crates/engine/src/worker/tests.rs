//! The engine's thread when the model fails.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

use levain_kernels::{Matrix, Pool};
use levain_weights::Checkpoint;

use super::*;
use crate::arch::{Arch, LoadOptions};
use crate::ops::Ops;
use crate::request::{Event, Request};

const PANICS: u32 = 13;
const GIVES_NAN: u32 = 14;

/// Layers that fail on certain tokens.
#[derive(Debug)]
struct Faulty(Box<dyn Arch>);

impl Arch for Faulty {
    fn layers(&mut self, ops: &mut Ops, batch: &ForwardBatch<'_>, kv: &mut KvCache, x: &mut [f32]) {
        self.0.layers(ops, batch, kv, x);
        let hidden = x.len() / batch.n();
        for (row, &token) in x.chunks_exact_mut(hidden).zip(batch.tokens) {
            assert_ne!(token, PANICS, "a bug in a layer");
            if token == GIVES_NAN {
                row[3] = f32::NAN;
            }
        }
    }

    fn each_matrix(&mut self, f: &mut dyn FnMut(&mut Matrix)) {
        self.0.each_matrix(f);
    }
}

struct Harness {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
    context_length: usize,
}

impl Harness {
    fn new() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama-3.1");
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let config = EngineConfig { prompt_chunk_tokens: Some(8), ..EngineConfig::default() };
        let model_config = checkpoint.config().unwrap();
        let plan = plan::plan(&checkpoint, &config, None).unwrap();
        let kv = plan::allocate(&model_config, &config, &plan).unwrap();
        let rows = config.max_num_batched_tokens;
        let context_length = plan.context_length;
        let options = LoadOptions {
            rows_max: rows,
            logit_rows_max: plan::logit_rows(&config),
            context_length,
            expert_cache_bytes: None,
            mtp: false,
            expanded_from: None,
            prefetch: config.prefetch,
        };
        let mut model = Model::load(&checkpoint, &model_config, Arc::new(Pool::new(1)), &options).unwrap();
        model.replace_layers(|layers| Box::new(Faulty(layers)));
        let shared = Arc::new(Shared::default());
        let worker = Worker::new(Arc::clone(&shared), model, kv, DraftSource::Off, &config, &plan);
        let thread = Some(std::thread::spawn(move || worker.run()));
        Self { shared, thread, context_length }
    }

    fn submit(&self, prompt: &[u32], n: u32, max_tokens: u32) -> Receiver<Event> {
        let (sender, events) = channel();
        let mut request = Request::new(prompt.to_vec(), move |event| {
            sender.send(event).unwrap();
            ControlFlow::Continue(())
        });
        (request.n, request.max_tokens) = (n, Some(max_tokens));
        let submission =
            Submission::new(request, Default::default(), Arc::default(), self.context_length, None, 512);
        lock(&self.shared.inbox).submissions.push(submission);
        self.shared.bell.notify_one();
        events
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        lock(&self.shared.inbox).shutdown = Some(Shutdown::Drain);
        self.shared.bell.notify_one();
        self.thread.take().unwrap().join().unwrap();
        let stats = *lock(&self.shared.stats);
        assert_eq!((stats.running, stats.waiting, stats.free_blocks), (0, 0, stats.total_blocks));
    }
}

/// How many tokens came, and how each answer ended.
fn outcome(events: &Receiver<Event>) -> (usize, Vec<FinishReason>) {
    let (mut tokens, mut reasons) = (0, Vec::new());
    for event in events {
        match event {
            Event::Token { .. } => tokens += 1,
            Event::Finished { reason, .. } => reasons.push(reason),
            _ => {}
        }
    }
    (tokens, reasons)
}

#[test]
fn logits_that_are_no_numbers_end_their_sequence_and_no_other() {
    let engine = Harness::new();
    let healthy = engine.submit(&[20; 30], 1, 40);
    let sick = engine.submit(&[20, 21, GIVES_NAN], 3, 40);
    let (tokens, reasons) = outcome(&sick);
    assert_eq!((tokens, reasons.len()), (0, 3));
    for reason in reasons {
        let FinishReason::Error(error @ EngineError::NonFiniteLogits { position: 2 }) = reason else {
            panic!("{reason:?}")
        };
        assert!(error.to_string().contains("not finite"));
    }
    let (tokens, reasons) = outcome(&healthy);
    assert!(matches!(reasons[..], [FinishReason::Length]));
    assert_eq!(tokens, 40);
}

#[test]
fn a_panic_in_a_step_ends_its_sequences_and_not_the_engine() {
    let engine = Harness::new();
    for _ in 0..3 {
        let (tokens, reasons) = outcome(&engine.submit(&[20, PANICS, 22], 2, 40));
        assert_eq!((tokens, reasons.len()), (0, 2));
        assert!(reasons.iter().all(|reason| {
            matches!(reason, FinishReason::Error(error) if error.to_string().contains("a bug in a layer"))
        }));
        let (tokens, reasons) = outcome(&engine.submit(&[20; 40], 2, 10));
        assert!(matches!(reasons[..], [FinishReason::Length, FinishReason::Length]));
        assert_eq!(tokens, 20);
    }
}
