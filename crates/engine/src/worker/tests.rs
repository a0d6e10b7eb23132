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
        let faulty = |model: &mut Model| model.replace_layers(|layers| Box::new(Faulty(layers)));
        Self::with(&folder, None, faulty, &[]).0
    }

    /// With so many bytes of experts in memory and after `change`, which comes between loading and everything else; these
    /// prompts are there before weights are packed, and ask for a token each.
    fn with(
        folder: &Path,
        expert_cache_bytes: Option<u64>,
        change: impl FnOnce(&mut Model),
        prompts: &[&[u32]],
    ) -> (Self, Vec<Receiver<Event>>) {
        let checkpoint = Checkpoint::open(folder).unwrap();
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
            expert_cache_bytes,
            mtp: false,
            expanded_from: None,
            prefetch: config.prefetch,
        };
        let mut model = Model::load(&checkpoint, &model_config, Arc::new(Pool::new(1)), &options).unwrap();
        change(&mut model);
        let shared = Arc::new(Shared::default());
        let mut worker = Worker::new(Arc::clone(&shared), model, kv, DraftSource::Off, &config, &plan);
        worker.watch(checkpoint.intact());
        drop(checkpoint);
        let mut harness = Self { shared, thread: None, context_length };
        let events = prompts.iter().map(|prompt| harness.submit(prompt, 1, 1)).collect();
        harness.thread = Some(std::thread::spawn(move || worker.run()));
        (harness, events)
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

/// A copy of a fixture whose weights are cut short, and put back in place.
struct Copied(tempfile::TempDir, std::path::PathBuf);

impl Copied {
    fn new(fixture: &str) -> Self {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(fixture);
        let copied = Self(tempfile::tempdir().unwrap(), from);
        std::fs::copy(copied.1.join("config.json"), copied.0.path().join("config.json")).unwrap();
        copied.put_back();
        copied
    }

    fn cut(&self) {
        let path = self.0.path().join("model.safetensors");
        std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(4096).unwrap();
    }

    fn put_back(&self) {
        let whole = std::fs::read(self.1.join("model.safetensors")).unwrap();
        std::fs::write(self.0.path().join("model.safetensors"), whole).unwrap();
    }
}

#[track_caller]
fn assert_cut(events: &Receiver<Event>) {
    let (tokens, reasons) = outcome(events);
    let [FinishReason::Error(error @ EngineError::Weights(_))] = &reasons[..] else { panic!("{reasons:?}") };
    let error = error.to_string();
    assert!(error.contains("model.safetensors") && error.contains("cut short while in use"), "{error}");
    assert_eq!(tokens, 0);
}

/// Reading what is not there any more ends the process elsewhere.
#[test]
#[cfg(target_os = "linux")]
fn weights_that_are_cut_off_before_they_are_packed_answer_nobody() {
    // Steps come before packing where somebody asks, and after it where nobody does.
    for prompts in [&[][..], &[&[20; 5][..], &[21; 40]]] {
        let copied = Copied::new("llama-3.1");
        let (engine, asked) = Harness::with(copied.0.path(), None, |_| copied.cut(), prompts);
        asked.iter().for_each(assert_cut);
        let waited = engine.shared.packing.wait().unwrap_err().to_string();
        assert!(waited.contains("cut short while in use"), "{waited}");
        // Nor does it help to put the file back: what was read of it is void.
        copied.put_back();
        assert_cut(&engine.submit(&[20; 5], 1, 1));
    }
}

#[test]
#[cfg(target_os = "linux")]
fn experts_that_are_cut_off_answer_nobody_from_then_on() {
    let copied = Copied::new("deepseek-v3-tiny");
    let pack_all = |model: &mut Model| {
        while model.unpacked_bytes() > 0 {
            model.pack(std::time::Duration::from_secs(1)).unwrap();
        }
        copied.cut();
    };
    let (engine, _) = Harness::with(copied.0.path(), Some(1 << 20), pack_all, &[]);
    assert_cut(&engine.submit(&[5; 5], 1, 1));
    copied.put_back();
    assert_cut(&engine.submit(&[6; 5], 1, 1));
}
