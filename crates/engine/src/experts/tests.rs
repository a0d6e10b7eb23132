//! The cache against the file, whatever is asked for and predicted.

use levain_kernels::{DType, Pool, dequantize_row};
use levain_testkit::model::ModelSpec;
use levain_weights::Checkpoint;
use proptest::prelude::*;

use super::*;

const WIDTH: usize = 40;
const HIDDEN: usize = 64;
const EXPERTS: u32 = 8;

/// A cache for layers 1 to 3 of a model whose first layer is dense.
fn cache(checkpoint: &Checkpoint, bytes: usize) -> ExpertCache {
    let mut cache = ExpertCache::new(checkpoint.reader().unwrap(), bytes).unwrap();
    for layer in 1..4 {
        for expert in 0..EXPERTS {
            let place = |projection: &str, rows, cols| {
                let place = checkpoint.place(&name(layer, expert, projection), &[rows, cols]).unwrap();
                MatrixPlace { place, rows, cols, scales: Vec::new() }
            };
            let place = ExpertPlace {
                gate_proj: place("gate_proj", WIDTH, HIDDEN),
                up_proj: place("up_proj", WIDTH, HIDDEN),
                down_proj: place("down_proj", HIDDEN, WIDTH),
            };
            cache.insert_place(ExpertId { layer, expert }, place);
        }
    }
    cache
}

fn name(layer: u32, expert: u32, projection: &str) -> String {
    format!("model.layers.{layer}.mlp.experts.{expert}.{projection}.weight")
}

fn check(checkpoint: &Checkpoint, mlp: &crate::ops::GatedMlp, layer: u32, expert: u32) {
    for (projection, matrix) in
        [("gate_proj", &mlp.gate_proj), ("up_proj", &mlp.up_proj), ("down_proj", &mlp.down_proj)]
    {
        let tensor = checkpoint.tensor(&name(layer, expert, projection)).unwrap();
        let mut expected = vec![0.0; matrix.rows() * matrix.cols()];
        dequantize_row(DType::F32, tensor.bytes, &mut expected).unwrap();
        let mut row = vec![0.0; matrix.cols()];
        for (index, expected) in expected.chunks_exact(matrix.cols()).enumerate() {
            matrix.row_to_f32(index, &mut row);
            assert_eq!(row, expected, "{projection} of expert {expert} in layer {layer}");
        }
    }
}

/// Experts of a step of each layer, and what was predicted for it.
fn steps() -> impl Strategy<Value = Vec<(Vec<u32>, Vec<u32>)>> {
    let some = || proptest::sample::subsequence((0..EXPERTS).collect::<Vec<_>>(), 0..=EXPERTS as usize);
    proptest::collection::vec((some(), some()), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_expert_is_the_file_s(steps in steps(), room in 0_usize..14) {
        let model = ModelSpec { num_hidden_layers: 4, ..ModelSpec::deepseek_v3() }.build().unwrap();
        let checkpoint = model.checkpoint().unwrap();
        let pool = Pool::new(2);
        let one = 3 * (WIDTH + 8) * HIDDEN * 4;
        let mut cache = cache(&checkpoint, room * one);
        let (mut uses, mut before) = (0, ExpertStats::default());
        for (index, (mut experts, predicted)) in steps.into_iter().enumerate() {
            let layer = 1 + index as u32 % 3;
            cache.predict(1 + (index as u32 + 1) % 3, &predicted);
            cache.begin(layer, &mut experts);
            cache.read_predicted();
            uses += experts.len() as u64;
            for expert in experts {
                check(&checkpoint, cache.get(ExpertId { layer, expert }, &pool).unwrap(), layer, expert);
            }
            let stats = cache.stats();
            prop_assert_eq!(stats.hits + stats.misses, uses);
            prop_assert!(stats.read_ahead <= stats.misses && stats.bytes_in_vain <= stats.bytes_read);
            prop_assert!(stats.resident_bytes as usize <= (room * one).max(one), "{:?}", stats);
            prop_assert!(stats.bytes_read >= before.bytes_read && stats.reading >= before.reading);
            before = stats;
        }
    }
}

#[test]
fn a_sweep_through_all_experts_leaves_what_was_there() {
    let model = ModelSpec { num_hidden_layers: 4, ..ModelSpec::deepseek_v3() }.build().unwrap();
    let checkpoint = model.checkpoint().unwrap();
    let pool = Pool::new(1);
    let one = 3 * (WIDTH + 8) * HIDDEN * 4;
    let mut cache = cache(&checkpoint, 10 * one);
    let mut sweep = |hits: &mut Vec<u64>| {
        for layer in 1..4 {
            let before = cache.stats().hits;
            let mut all: Vec<u32> = (0..EXPERTS).collect();
            cache.begin(layer, &mut all);
            for expert in all {
                cache.get(ExpertId { layer, expert }, &pool).unwrap();
            }
            hits.push(cache.stats().hits - before);
        }
    };
    let mut hits = Vec::new();
    (0..3).for_each(|_| sweep(&mut hits));
    // Ten of 24 have room; used in turn, the one used last would always be gone when its turn comes.
    assert_eq!(hits[..3], [0, 0, 0]);
    assert!(hits[3..6].iter().sum::<u64>() >= 8 && hits[6..].iter().sum::<u64>() >= 8, "{hits:?}");
}

#[test]
fn what_was_used_most_stays() {
    let model = ModelSpec { num_hidden_layers: 4, ..ModelSpec::deepseek_v3() }.build().unwrap();
    let checkpoint = model.checkpoint().unwrap();
    let pool = Pool::new(1);
    let one = 3 * (WIDTH + 8) * HIDDEN * 4;
    let mut cache = cache(&checkpoint, 3 * one);
    let mut hits = |layer, experts: &[u32]| {
        let before = cache.stats().hits;
        let mut experts = experts.to_vec();
        cache.begin(layer, &mut experts);
        for expert in experts {
            cache.get(ExpertId { layer, expert }, &pool).unwrap();
        }
        cache.stats().hits - before
    };
    assert_eq!(hits(1, &[0, 1]), 0);
    assert_eq!(hits(2, &[5]), 0);
    assert_eq!(hits(1, &[0, 1]), 2);
    // The fifth of the second layer was used least and goes.
    assert_eq!(hits(3, &[7]), 0);
    assert_eq!(hits(1, &[0, 1]), 2);
    assert_eq!(hits(2, &[5]), 0);
}
