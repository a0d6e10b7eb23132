//! Logits against those of Hugging Face transformers, and against themselves in other groupings.

use std::ops::Range;
use std::path::{Path, PathBuf};

use levain_kernels::{DType, SeqRows, dequantize_row};
use levain_weights::convert_to_gguf;

use super::*;
use crate::config::{EngineConfig, ExpandedPrompts};
use crate::ops::{BatchRows, WantedRows};
use crate::plan::{self, BLOCK_LEN};

mod formats;

/// Passes the embedding on.
#[derive(Debug)]
pub(super) struct NoLayers;

impl Arch for NoLayers {
    fn layers(&mut self, _: &mut Ops, _: &ForwardBatch<'_>, _: &mut KvCache, _: &mut [f32]) {}

    fn each_matrix(&mut self, _: &mut dyn FnMut(&mut Matrix)) {}
}

/// Largest difference from the reference that rounding in another order explains.
const TOLERANCE: f32 = 1e-4;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A tensor of a reference's expected outputs, with its number of columns.
fn expected(folder: &Path, name: &str) -> (Vec<f32>, usize) {
    let checkpoint = Checkpoint::open(&folder.join("expected.safetensors")).unwrap();
    let tensor = checkpoint.tensor(name).unwrap();
    let mut values = vec![0.0; tensor.shape.iter().product()];
    dequantize_row(tensor.dtype, tensor.bytes, &mut values).unwrap();
    (values, tensor.shape[1])
}

/// A list of numbers from `expected.json`.
fn ids(folder: &Path, name: &str) -> Vec<u32> {
    let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    let list = text.split_once(&format!("\"{name}\": [")).unwrap().1.split_once(']').unwrap().0;
    list.split(',').map(|id| id.trim().parse().unwrap()).collect()
}

/// A model with a cache, and one sequence in it whose blocks lie in disorder.
struct Run {
    model: Model,
    kv: KvCache,
    blocks: Vec<u32>,
    vocab: usize,
    /// Positions that are computed in the expanded form of latent attention.
    expanded: Range<usize>,
}

impl Run {
    fn new(folder: &Path, config: &EngineConfig) -> Self {
        Self::load(folder, config, None, true)
    }

    /// With so many bytes of experts in memory.
    fn with_experts(folder: &Path, config: &EngineConfig, bytes: Option<u64>) -> Self {
        Self::load(folder, config, bytes, true)
    }

    /// With weights that are packed or not.
    fn load(folder: &Path, config: &EngineConfig, bytes: Option<u64>, packed: bool) -> Self {
        let checkpoint = Checkpoint::open(folder).unwrap();
        let model_config = checkpoint.config().unwrap();
        let plan = plan::plan(&checkpoint, config, None).unwrap();
        let pool = Arc::new(Pool::new(config.resolved_threads()));
        let kv = plan::allocate(&model_config, config, &plan).unwrap();
        let options = LoadOptions {
            rows_max: 128,
            logit_rows_max: 8,
            context_length: plan.context_length,
            expert_cache_bytes: bytes,
            mtp: plan::loads_mtp(&model_config, config),
            expanded_from: config.expanded_from(&model_config),
            prefetch: config.prefetch,
        };
        let mut model = Model::load(&checkpoint, &model_config, pool, &options).unwrap();
        if packed {
            model.pack(Duration::MAX).unwrap();
            assert_eq!(model.unpacked_bytes(), 0);
        }
        let blocks = (0..plan.n_blocks() as u32).rev().collect();
        Self { vocab: model.vocab_size(), model, kv, blocks, expanded: 0..0 }
    }

    /// A cache of the same blocks for the layer for multi-token prediction.
    fn layer_cache(&self, folder: &Path, config: &EngineConfig) -> KvCache {
        let model_config = Checkpoint::open(folder).unwrap().config().unwrap();
        KvCache::new(plan::layer_window_layout(&model_config, config, true), self.blocks.len()).unwrap()
    }

    /// Computes `tokens` from position `first` on in one step and returns their logits, `[n, vocab]`.
    fn step(&mut self, tokens: &[u32], first: usize) -> Vec<f32> {
        self.step_wanting(tokens.len(), tokens, first)
    }

    /// The same for the last `wanted` rows only, `[wanted, vocab]`.
    fn step_wanting(&mut self, wanted: usize, tokens: &[u32], first: usize) -> Vec<f32> {
        let positions: Vec<u32> = (first..first + tokens.len()).map(|p| p as u32).collect();
        let slot = |&p: &u32| self.blocks[p as usize / BLOCK_LEN] * BLOCK_LEN as u32 + p % BLOCK_LEN as u32;
        let slots: Vec<u32> = positions.iter().map(slot).collect();
        let rows =
            SeqRows { block_table: &self.blocks, first_row: 0, n_rows: tokens.len(), first_position: first };
        let (sequences, expanded) = (&[rows], std::slice::from_ref(&self.expanded));
        let rows = BatchRows { positions: &positions, sequences, expanded };
        let skipped = tokens.len() - wanted;
        let indices: Vec<usize> = (skipped..tokens.len()).collect();
        let tail = SeqRows {
            block_table: &self.blocks,
            first_row: 0,
            n_rows: wanted,
            first_position: first + skipped,
        };
        let tails = if wanted > 0 { &[tail][..] } else { &[] };
        let some = BatchRows { positions: &positions[skipped..], sequences: tails, expanded };
        let wanted = (skipped > 0).then_some(WantedRows { indices: &indices, rows: some });
        let batch = ForwardBatch { tokens, slots: &slots, rows, wanted };
        self.model.forward(&batch, &mut self.kv).unwrap();
        let mut logits = vec![0.0; indices.len() * self.vocab];
        for (group, logits) in indices.chunks(8).zip(logits.chunks_mut(8 * self.vocab)) {
            self.model.logits(group.iter().copied(), logits).unwrap();
        }
        logits
    }

    /// Logits of all tokens, in steps of at most `chunk`.
    fn in_chunks(&mut self, tokens: &[u32], chunk: usize) -> Vec<f32> {
        tokens.chunks(chunk).enumerate().flat_map(|(index, part)| self.step(part, index * chunk)).collect()
    }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn check_parity(folder: &Path) {
    check_parity_of(folder, folder, 0..0);
}

/// The model at `path` against the reference in `folder`, with some positions in the expanded form of latent attention.
fn check_parity_of(path: &Path, folder: &Path, expanded: Range<usize>) {
    let config = EngineConfig {
        threads: 2,
        kv_dtype: crate::KvCacheType::F32,
        expanded_prompts: ExpandedPrompts::From(0),
        ..EngineConfig::default()
    };
    let mut run = Run::new(path, &config);
    run.expanded = expanded.clone();
    let (prompt, greedy) = (ids(folder, "prompt"), ids(folder, "greedy"));
    let (logits, vocab) = expected(folder, "logits");
    let (greedy_logits, _) = expected(folder, "greedy_logits");
    let whole = run.step(&prompt, 0);
    let difference = largest_difference(&whole, &logits);
    assert!(difference < TOLERANCE, "{}: prompt differs by {difference}", path.display());
    let mut last = whole[(prompt.len() - 1) * vocab..].to_vec();
    for (index, &token) in greedy.iter().enumerate() {
        let difference = largest_difference(&last, &greedy_logits[index * vocab..(index + 1) * vocab]);
        assert!(difference < TOLERANCE, "{}: answer token {index} differs by {difference}", path.display());
        let best = (0..vocab).rev().max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
        assert_eq!(best as u32, token, "{}: answer token {index}", path.display());
        last = run.step(&[token], prompt.len() + index);
    }
}

/// All tokens of the reference's prompt and answer give the same logits in any chunks and with any threads.
fn check_chunks(folder: &Path) {
    let mut text = ids(folder, "prompt");
    text.extend(ids(folder, "greedy"));
    for kv_dtype in [crate::KvCacheType::F32, crate::KvCacheType::F16, crate::KvCacheType::Q8_0] {
        let config = |threads| EngineConfig { threads, kv_dtype, ..EngineConfig::default() };
        let whole = Run::new(folder, &config(1)).in_chunks(&text, text.len());
        for (threads, chunk) in [(1, 1), (2, 1), (1, 7), (2, 16), (2, 33), (2, text.len())] {
            let other = Run::new(folder, &config(threads)).in_chunks(&text, chunk);
            let same = whole.iter().zip(&other).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{}: {kv_dtype:?}, {threads} threads, chunks of {chunk}", folder.display());
        }
    }
}

#[test]
fn llama_agrees_with_transformers() {
    check_parity(&fixture("llama-3.1"));
}

#[test]
fn qwen2_agrees_with_transformers() {
    check_parity(&fixture("qwen2.5"));
}

/// A reference model that is too large for the repository, from the folder that `LEVAIN_SHARED` names or that lies
/// beside the repository.
fn shared(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3)?;
    let shared = std::env::var_os("LEVAIN_SHARED").map_or_else(|| root.join("shared"), PathBuf::from);
    let folder = shared.join("fixtures/reference").join(name);
    if folder.join("model.safetensors").exists() {
        return Some(folder);
    }
    eprintln!("skipped: no reference model at {}", folder.display());
    None
}

/// Everything in the expanded form, or a part: whole, in chunks and token by token.
#[test]
fn the_expanded_form_agrees_with_transformers_and_itself() {
    for name in ["deepseek-v2-tiny", "deepseek-v3-tiny"] {
        let folder = fixture(name);
        check_parity_of(&folder, &folder, 0..1000);
        check_parity_of(&folder, &folder, 9..20);
        let prompt = ids(&folder, "prompt");
        for kv_dtype in [crate::KvCacheType::F32, crate::KvCacheType::F16, crate::KvCacheType::Q8_0] {
            let config = EngineConfig {
                threads: 2,
                kv_dtype,
                expanded_prompts: ExpandedPrompts::From(0),
                ..EngineConfig::default()
            };
            let logits = |chunk| {
                let mut run = Run::new(&folder, &config);
                run.expanded = 9..20;
                run.in_chunks(&prompt, chunk)
            };
            let whole = logits(prompt.len());
            for chunk in [1, 7, 16] {
                let other = logits(chunk);
                let same = whole.iter().zip(&other).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{name}: {kv_dtype:?} in chunks of {chunk}");
            }
        }
    }
}

/// Weights are taken from the file, then some of them packed between steps, then all: the logits are the same.
#[test]
fn logits_do_not_depend_on_what_is_packed() {
    let out = tempfile::tempdir().unwrap();
    let q8_0 = out.path().join("q8_0.gguf");
    convert_to_gguf(&Checkpoint::open(&fixture("llama-3.1")).unwrap(), &q8_0, DType::Q8_0).unwrap();
    let mut models: Vec<PathBuf> =
        ["llama-3.1", "llama-odd", "qwen2.5", "deepseek-v2-tiny", "deepseek-v3-tiny"].map(fixture).into();
    models.extend(shared("deepseek-v3-fp8"));
    models.push(q8_0);
    for folder in models {
        let config = EngineConfig { threads: 2, ..EngineConfig::default() };
        let mut packed = Run::new(&folder, &config);
        let tokens: Vec<u32> = (0..60).map(|i| i * 7 % packed.vocab as u32).collect();
        let expected = packed.in_chunks(&tokens, 60);
        let mut run = Run::load(&folder, &config, None, false);
        let same = |logits: &[f32]| logits.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same(&run.in_chunks(&tokens, 25)), "{}", folder.display());
        let mut left = run.model.unpacked_bytes();
        let mut logits = Vec::new();
        for (index, chunk) in tokens.chunks(4).enumerate() {
            logits.extend(run.step(chunk, 4 * index));
            run.model.pack(Duration::ZERO).unwrap();
            assert!(run.model.unpacked_bytes() < left, "a part at a time");
            left = run.model.unpacked_bytes();
        }
        assert!(same(&logits), "{}", folder.display());
        run.model.pack(Duration::MAX).unwrap();
        assert_eq!(run.model.unpacked_bytes(), 0);
        assert!(same(&run.in_chunks(&tokens, 7)), "{}", folder.display());
    }
}

#[test]
fn deepseek_v2_agrees_with_transformers_and_itself() {
    check_parity(&fixture("deepseek-v2-tiny"));
    check_chunks(&fixture("deepseek-v2-tiny"));
}

#[test]
fn deepseek_v3_agrees_with_transformers_and_itself() {
    check_parity(&fixture("deepseek-v3-tiny"));
    check_chunks(&fixture("deepseek-v3-tiny"));
}

/// 6 heads of 12 values, 499 tokens, no dimension a multiple of 32.
#[test]
fn odd_sizes_agree_with_transformers_and_themselves() {
    check_parity(&fixture("llama-odd"));
    check_chunks(&fixture("llama-odd"));
}

#[test]
fn large_deepseek_references_agree_with_transformers() {
    for name in ["deepseek-v2-lite", "deepseek-v3", "deepseek-v3-fp8"] {
        if let Some(folder) = shared(name) {
            check_parity(&folder);
        }
    }
}

#[test]
fn large_deepseek_references_are_the_same_in_any_chunks() {
    for name in ["deepseek-v2-lite", "deepseek-v3", "deepseek-v3-fp8"] {
        if let Some(folder) = shared(name) {
            check_chunks(&folder);
        }
    }
}

/// All reference models below the folder that `LEVAIN_REFERENCE` names, as the reference tool makes them, in both
/// forms of attention and in any chunks, and the same models as GGUF files of F32 in a folder `gguf` beside each.
#[test]
fn models_named_by_the_environment_agree_with_transformers() {
    let Some(root) = std::env::var_os("LEVAIN_REFERENCE") else {
        eprintln!("skipped: LEVAIN_REFERENCE names no folder of reference models");
        return;
    };
    let inside = |folder: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
    };
    let (mut folders, mut failed) = (vec![PathBuf::from(root)], Vec::new());
    while let Some(folder) = folders.pop() {
        if !folder.join("expected.json").exists() {
            folders.extend(inside(&folder).into_iter().filter(|path| path.is_dir()));
            continue;
        }
        let has_mtp = Checkpoint::open(&folder.join("expected.safetensors")).unwrap().contains("mtp_logits");
        // With BF16 weights activations are rounded to BF16: nearer than eight bits, but no match for F32.
        let original = Checkpoint::open(&folder).unwrap();
        let rounded = original.tensor("model.embed_tokens.weight").unwrap().dtype == DType::BF16;
        for path in std::iter::once(folder.clone()).chain(inside(&folder.join("gguf"))) {
            let checked = std::panic::catch_unwind(|| {
                for expanded in [0..0, 0..1000, 9..20].into_iter().filter(|_| !rounded || path != folder) {
                    check_parity_of(&path, &folder, expanded);
                }
                if path == folder {
                    check_chunks(&folder);
                }
                if has_mtp && !rounded {
                    check_mtp(&folder, &path, None);
                }
            });
            if checked.is_err() {
                failed.push(path);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn llama_is_the_same_in_any_chunks() {
    check_chunks(&fixture("llama-3.1"));
}

#[test]
fn qwen2_is_the_same_in_any_chunks() {
    check_chunks(&fixture("qwen2.5"));
}

/// What the last layer leaves out for rows that nobody wants changes nothing for the others, now or later.
#[test]
fn rows_are_the_same_whichever_of_their_step_are_wanted() {
    for name in ["llama-3.1", "qwen2.5", "llama-odd", "deepseek-v2-tiny", "deepseek-v3-tiny"] {
        let folder = fixture(name);
        let mut text = ids(&folder, "prompt");
        text.extend(ids(&folder, "greedy"));
        for (threads, bytes, expanded) in [(1, None, 0..0), (2, None, 9..20), (2, Some(30_000), 0..0)] {
            let config = EngineConfig {
                threads,
                expanded_prompts: ExpandedPrompts::From(0),
                ..EngineConfig::default()
            };
            let bytes = bytes.filter(|_| name.starts_with("deepseek"));
            let new = || {
                let mut run = Run::with_experts(&folder, &config, bytes);
                run.expanded = expanded.clone();
                run
            };
            let mut whole = new();
            let vocab = whole.vocab;
            let whole = whole.step(&text, 0);
            for (chunk, wanted) in [(text.len(), 1), (text.len(), 9), (7, 0), (7, 1), (16, 5), (30, 29)] {
                let mut run = new();
                for (index, part) in text.chunks(chunk).enumerate() {
                    let end = index * chunk + part.len();
                    // Of the last one more than a row is looked at, or none would be where no chunk wants any.
                    let wanted = if end == text.len() { wanted.max(2) } else { wanted }.min(part.len());
                    let logits = run.step_wanting(wanted, part, index * chunk);
                    let expected = &whole[(end - wanted) * vocab..end * vocab];
                    let same = expected.iter().zip(&logits).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same && logits.len() == expected.len(), "{name}: {wanted} of {chunk} at {end}");
                }
            }
        }
    }
}

#[test]
fn a_row_that_was_not_wanted_is_no_number() {
    let mut run = Run::new(&fixture("llama-3.1"), &EngineConfig::default());
    run.step_wanting(2, &[5, 6, 7, 8], 0);
    for (row, wanted) in [(0, false), (1, false), (2, true), (3, true)] {
        let mut logits = vec![0.0; run.vocab];
        run.model.logits(std::iter::once(row), &mut logits).unwrap();
        assert!(logits.iter().all(|logit| logit.is_finite() == wanted), "row {row}");
    }
}

#[test]
fn experts_from_the_disk_give_the_same_logits() {
    for name in ["deepseek-v3-tiny", "deepseek-v2-tiny"] {
        let folder = fixture(name);
        let mut text = ids(&folder, "prompt");
        text.extend(ids(&folder, "greedy"));
        let config = EngineConfig { threads: 2, ..EngineConfig::default() };
        let resident = Run::new(&folder, &config).in_chunks(&text, 5);
        for (bytes, chunk) in [(0, 1), (30_000, 1), (100_000, 2), (100_000, text.len()), (1 << 30, 3)] {
            let mut streamed = Run::with_experts(&folder, &config, Some(bytes));
            let logits = streamed.in_chunks(&text, chunk);
            let same = resident.iter().zip(&logits).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same && logits.len() == resident.len(), "{name}: {bytes} bytes, chunks of {chunk}");
            let stats = streamed.model.expert_stats().unwrap();
            assert!(stats.misses > 0 && stats.bytes_read > 0, "{stats:?}");
            assert!(bytes == 0 || stats.resident_bytes <= bytes, "{stats:?}");
            if bytes == 1 << 30 {
                // With room for all of them each is read once.
                assert!(stats.hits > stats.misses, "{stats:?}");
            }
        }
    }
}

#[test]
fn a_checkpoint_that_shrinks_fails_the_step_and_not_the_program() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture("deepseek-v3-tiny").join(file), folder.path().join(file)).unwrap();
    }
    let mut run = Run::with_experts(folder.path(), &EngineConfig::default(), Some(1 << 20));
    let model =
        std::fs::OpenOptions::new().write(true).open(folder.path().join("model.safetensors")).unwrap();
    model.set_len(4096).unwrap();
    let rows = SeqRows { block_table: &run.blocks, first_row: 0, n_rows: 1, first_position: 0 };
    let slots = [run.blocks[0] * BLOCK_LEN as u32];
    let rows = BatchRows { positions: &[0], sequences: &[rows], expanded: &[] };
    let batch = ForwardBatch { tokens: &[5], slots: &slots, rows, wanted: None };
    let error = run.model.forward(&batch, &mut run.kv).unwrap_err();
    assert!(error.to_string().contains("cut short while in use"), "{error}");
}

/// The layer of the model at `path`, with so many bytes of experts in memory, against the reference in `folder`.
fn check_mtp(folder: &Path, path: &Path, bytes: Option<u64>) {
    let speculation = crate::Speculation::MultiTokenPrediction;
    let kv_dtype = crate::KvCacheType::F32;
    let config = EngineConfig { threads: 2, kv_dtype, speculation, ..EngineConfig::default() };
    let (prompt, (logits, vocab)) = (ids(folder, "prompt"), expected(folder, "mtp_logits"));
    // In one piece and in two: the layer keeps a cache of its own.
    for split in [prompt.len() - 1, 11] {
        let mut run = Run::with_experts(path, &config, bytes);
        let mut layer_kv = run.layer_cache(path, &config);
        let mut got = Vec::new();
        for range in [0..split, split..prompt.len() - 1] {
            if range.is_empty() {
                continue;
            }
            run.step(&prompt[range.clone()], range.start);
            let positions: Vec<u32> = range.clone().map(|p| p as u32).collect();
            let slot =
                |&p: &u32| run.blocks[p as usize / BLOCK_LEN] * BLOCK_LEN as u32 + p % BLOCK_LEN as u32;
            let slots: Vec<u32> = positions.iter().map(slot).collect();
            let sequence = SeqRows {
                block_table: &run.blocks,
                first_row: 0,
                n_rows: range.len(),
                first_position: range.start,
            };
            let tokens = &prompt[range.start + 1..range.end + 1];
            let rows = BatchRows { positions: &positions, sequences: &[sequence], expanded: &[] };
            let batch = ForwardBatch { tokens, slots: &slots, rows, wanted: None };
            let rows: Vec<usize> = (0..range.len()).collect();
            assert!(run.model.predict_ahead(&batch, &mut layer_kv, AheadOf::Step(&rows)).unwrap());
            for rows in rows.chunks(8) {
                let mut logits = vec![0.0; rows.len() * vocab];
                run.model.ahead_logits(rows, &mut logits);
                got.extend(logits);
            }
        }
        let difference = largest_difference(&got, &logits);
        assert!(difference < TOLERANCE, "{}: differs by {difference}", folder.display());
    }
}

#[test]
fn the_token_after_the_next_is_predicted_as_by_transformers() {
    check_parity(&fixture("deepseek-v3-mtp"));
    for folder in [Some(fixture("deepseek-v3-mtp")), shared("deepseek-v3")].into_iter().flatten() {
        for bytes in [None, Some(0), Some(1 << 20)] {
            check_mtp(&folder, &folder, bytes);
        }
    }
}

#[test]
fn the_layer_is_read_from_gguf_too() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("model.gguf");
    for folder in [Some(fixture("deepseek-v3-mtp")), shared("deepseek-v3")].into_iter().flatten() {
        convert_to_gguf(&Checkpoint::open(&folder).unwrap(), &path, DType::F32).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        let layer = checkpoint.config().unwrap().num_hidden_layers;
        let names: Vec<_> = checkpoint.entries().map(|entry| entry.source_name).collect();
        for part in ["eh_proj", "enorm", "hnorm", "shared_head_norm"] {
            let name = format!("blk.{layer}.nextn.{part}.weight");
            assert!(names.contains(&name.as_str()), "{name} is not in {names:?}");
        }
        check_mtp(&folder, &path, None);
        check_mtp(&folder, &path, Some(1 << 20));
    }
}
