//! Right, and the same bit for bit whatever the instructions, the split, the threads and the blocks.

use super::*;
use crate::kv::{KvDType, KvLayout};
use crate::simd::tests::isas;

const DTYPES: [KvDType; 3] = [KvDType::F32, KvDType::F16, KvDType::Q8_0];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    fn values(&mut self, len: usize, scale: f32) -> Vec<f32> {
        (0..len).map(|_| (self.next() as f32 / (1_u32 << 30) as f32 - 1.0) * scale).collect()
    }
}

#[derive(Clone, Copy, Debug)]
struct Case {
    dtype: KvDType,
    n_heads: usize,
    n_kv_heads: usize,
    k_dim: usize,
    v_dim: usize,
    latent: bool,
    block_len: usize,
    positions: usize,
    /// How much larger than usual queries are: large ones make the softmax sharp.
    sharpness: f32,
}

const BASE: Case = Case {
    dtype: KvDType::F16,
    n_heads: 4,
    n_kv_heads: 2,
    k_dim: 64,
    v_dim: 64,
    latent: false,
    block_len: 16,
    positions: 300,
    sharpness: 1.0,
};

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in DTYPES {
        let base = Case { dtype, ..BASE };
        cases.extend([
            base,
            Case { n_heads: 1, n_kv_heads: 1, positions: 1, ..base },
            Case { n_heads: 7, n_kv_heads: 1, k_dim: 128, v_dim: 128, block_len: 32, positions: 700, ..base },
            Case { n_heads: 3, n_kv_heads: 3, k_dim: 40, v_dim: 24, positions: 270, ..base },
            Case { n_heads: 5, n_kv_heads: 1, k_dim: 5, v_dim: 100, positions: 33, ..base },
            Case { n_heads: 8, n_kv_heads: 1, k_dim: 96, v_dim: 80, positions: 520, sharpness: 30.0, ..base },
            Case { n_heads: 16, n_kv_heads: 1, k_dim: 72, v_dim: 64, latent: true, ..base },
            Case { n_heads: 4, n_kv_heads: 1, k_dim: 40, v_dim: 24, latent: true, positions: 90, ..base },
        ]);
    }
    cases
}

struct Setup {
    case: Case,
    cache: KvCache,
    table: Vec<u32>,
    q: Vec<f32>,
    scale: f32,
}

const LAYER: usize = 1;

impl Setup {
    /// A cache filled with a sequence in scattered blocks, and a query for each position.
    fn new(case: Case, seed: u64) -> Self {
        let mut random = Random(seed);
        let blocks = case.positions.div_ceil(case.block_len);
        let layout = KvLayout {
            dtype: case.dtype,
            n_layers: 2,
            n_kv_heads: case.n_kv_heads,
            k_dim: case.k_dim,
            v_dim: case.v_dim,
            values_in_keys: case.latent,
            block_len: case.block_len,
        };
        let mut cache = KvCache::new(layout, blocks + 3).unwrap();
        let mut free: Vec<u32> = (0..blocks as u32 + 3).collect();
        let table: Vec<u32> = (0..blocks).map(|_| free.swap_remove(random.below(free.len()))).collect();
        let kv_len = case.positions * case.n_kv_heads;
        let k = random.values(kv_len * case.k_dim, 1.5);
        let v = if case.latent { vec![] } else { random.values(kv_len * case.v_dim, 2.0) };
        let q = random.values(case.positions * case.n_heads * case.k_dim, 1.5 * case.sharpness);
        cache.append(&Pool::new(1), LAYER, &slots(&table, case.block_len, 0..case.positions), &k, &v);
        Self { case, cache, table, q, scale: 1.0 / (case.k_dim as f32).sqrt() }
    }

    fn q_len(&self) -> usize {
        self.case.n_heads * self.case.k_dim
    }

    fn out_len(&self) -> usize {
        self.case.n_heads * self.case.v_dim
    }

    /// Rows `range`, computed in one call.
    fn rows(&self, isa: Isa, pool: &Pool, range: std::ops::Range<usize>) -> Vec<f32> {
        let seq = SeqRows {
            block_table: &self.table,
            first_row: 0,
            n_rows: range.len(),
            first_position: range.start,
        };
        let q = &self.q[range.start * self.q_len()..range.end * self.q_len()];
        let mut out = vec![f32::NAN; range.len() * self.out_len()];
        let mut ws = AttentionWorkspace::new();
        let heads = self.case.n_heads;
        attention_on(isa, pool, &mut ws, q, &self.cache, LAYER, &[seq], heads, self.scale, &mut out);
        out
    }

    /// One row by the definition, in f64, from what the cache holds.
    fn reference(&self, row: usize) -> Vec<f64> {
        let Case { n_heads, n_kv_heads, k_dim, v_dim, block_len, .. } = self.case;
        let slots = slots(&self.table, block_len, 0..row + 1);
        let mut out = Vec::new();
        for head in 0..n_heads {
            let kv_head = head / (n_heads / n_kv_heads);
            let q = &self.q[(row * n_heads + head) * k_dim..][..k_dim];
            let (mut key, mut value) = (vec![0.0; k_dim], vec![0.0; v_dim]);
            let scores: Vec<f64> = slots
                .iter()
                .map(|slot| {
                    self.cache.read_key(LAYER, kv_head, *slot, &mut key);
                    let dot: f64 = q.iter().zip(&key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                    dot * f64::from(self.scale)
                })
                .collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
            let mut sums = vec![0.0; v_dim];
            for (slot, score) in slots.iter().zip(&scores) {
                self.cache.read_value(LAYER, kv_head, *slot, &mut value);
                for (sum, v) in sums.iter_mut().zip(&value) {
                    *sum += (score - largest).exp() / total * f64::from(*v);
                }
            }
            out.extend(sums);
        }
        out
    }
}

fn slots(table: &[u32], block_len: usize, positions: std::ops::Range<usize>) -> Vec<u32> {
    positions.map(|p| table[p / block_len] * block_len as u32 + (p % block_len) as u32).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn agrees_with_the_definition() {
    let pool = Pool::new(2);
    for (seed, case) in cases().into_iter().enumerate() {
        let setup = Setup::new(case, seed as u64);
        let all = setup.rows(isa(), &pool, 0..case.positions);
        // Queries against Q8_0 keys are rounded to 16 bits.
        let tolerance = if case.dtype == KvDType::Q8_0 { 2e-4 } else { 2e-5 };
        for row in [0, 1, case.positions / 2, case.positions - 1] {
            let row = row.min(case.positions - 1);
            for (got, want) in all[row * setup.out_len()..].iter().zip(setup.reference(row)) {
                let error = (f64::from(*got) - want).abs();
                assert!(
                    error < tolerance * f64::from(case.sharpness),
                    "{case:?} row {row}: {got} for {want}"
                );
            }
        }
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    let pool = Pool::new(2);
    for (seed, case) in cases().into_iter().enumerate() {
        let case = Case { positions: case.positions.min(280), ..case };
        let setup = Setup::new(case, 100 + seed as u64);
        let rows = case.positions.saturating_sub(26)..case.positions;
        let scalar = setup.rows(Isa::Scalar, &pool, rows.clone());
        for isa in isas() {
            assert_eq!(bits(&scalar), bits(&setup.rows(isa, &pool, rows.clone())), "{isa} {case:?}");
        }
    }
}

#[test]
fn neither_rows_nor_threads_change_a_bit() {
    let pools = [Pool::new(1), Pool::new(2), Pool::new(5)];
    for (seed, case) in cases().into_iter().enumerate() {
        let setup = Setup::new(case, 200 + seed as u64);
        let all = setup.rows(isa(), &pools[0], 0..case.positions);
        let mut random = Random(seed as u64);
        for pool in &pools {
            assert_eq!(bits(&all), bits(&setup.rows(isa(), pool, 0..case.positions)), "{case:?}");
            for _ in 0..8 {
                let start = random.below(case.positions);
                let most = [1, 2, 5, 13, 40, 300][random.below(6)];
                let n = 1 + random.below(most);
                let end = (start + n).min(case.positions);
                let some = setup.rows(isa(), pool, start..end);
                let want = &all[start * setup.out_len()..end * setup.out_len()];
                assert_eq!(bits(want), bits(&some), "{case:?} rows {start}..{end}, {pool:?}");
            }
        }
    }
}

#[test]
fn a_batch_gives_each_sequence_what_it_gets_alone() {
    for dtype in DTYPES {
        let case = Case { dtype, positions: 600, ..BASE };
        let setup = Setup::new(case, 7);
        let pool = Pool::new(3);
        let all = setup.rows(isa(), &pool, 0..600);
        let mut random = Random(9);
        let mut ws = AttentionWorkspace::new();
        for _ in 0..10 {
            // All share the blocks, as sequences with a common prefix do.
            let ranges: Vec<_> = (0..1 + random.below(6))
                .map(|_| {
                    let start = random.below(590);
                    start..start + 1 + random.below(10)
                })
                .collect();
            let mut seqs = Vec::new();
            let (mut q, mut want) = (Vec::new(), Vec::new());
            let mut first_row = 0;
            for range in &ranges {
                let (n_rows, first_position) = (range.len(), range.start);
                seqs.push(SeqRows { block_table: &setup.table, first_row, n_rows, first_position });
                first_row += n_rows;
                q.extend_from_slice(&setup.q[range.start * setup.q_len()..range.end * setup.q_len()]);
                want.extend_from_slice(&all[range.start * setup.out_len()..range.end * setup.out_len()]);
            }
            seqs.reverse();
            let mut out = vec![0.0; want.len()];
            attention(&pool, &mut ws, &q, &setup.cache, LAYER, &seqs, 4, setup.scale, &mut out);
            assert_eq!(bits(&want), bits(&out), "{dtype:?} {ranges:?}");
        }
    }
}

#[test]
fn where_blocks_lie_does_not_matter() {
    for dtype in DTYPES {
        let mut want: Option<Vec<u32>> = None;
        for block_len in [16, 32, 256] {
            let case = Case { dtype, block_len, positions: 300, ..BASE };
            let mut setup = Setup::new(case, 3);
            // The same numbers, in this block length's own scattered blocks.
            let mut random = Random(77);
            let (k, v) = (random.values(300 * 2 * 64, 1.0), random.values(300 * 2 * 64, 1.0));
            setup.q = random.values(300 * 4 * 64, 2.0);
            setup.cache.append(&Pool::new(1), LAYER, &slots(&setup.table, block_len, 0..300), &k, &v);
            let got = bits(&setup.rows(isa(), &Pool::new(2), 250..300));
            assert_eq!(want.get_or_insert(got.clone()), &got, "{dtype:?} {block_len}");
        }
    }
}

#[test]
fn quantised_keys_and_values_stay_near_the_exact_ones() {
    let case = Case { k_dim: 128, v_dim: 128, positions: 500, ..BASE };
    let mut outs = Vec::new();
    for dtype in [KvDType::F32, KvDType::Q8_0, KvDType::F16] {
        outs.push(Setup::new(Case { dtype, ..case }, 21).rows(isa(), &Pool::new(2), 400..500));
    }
    for (index, limit) in [(1, 2e-2), (2, 2e-3)] {
        let error = outs[0].iter().zip(&outs[index]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error < limit, "error {error}, limit {limit}");
        assert!(error > 0.0);
    }
}

#[test]
fn a_bad_number_spoils_only_the_rows_that_see_it() {
    for dtype in DTYPES {
        for latent in [false, true] {
            let (n_kv_heads, block_len) = (if latent { 1 } else { 2 }, 16);
            let case = Case { dtype, latent, n_kv_heads, block_len, positions: 290, ..BASE };
            let mut setup = Setup::new(case, 5);
            let clean = setup.rows(isa(), &Pool::new(2), 0..290);
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
                let k = vec![bad; n_kv_heads * 64];
                let v = if latent { vec![] } else { vec![bad; 2 * 64] };
                let slot = slots(&setup.table, block_len, 270..271);
                setup.cache.append(&Pool::new(1), LAYER, &slot, &k, &v);
                let dirty = setup.rows(isa(), &Pool::new(2), 0..290);
                let split = 270 * setup.out_len();
                assert_eq!(bits(&clean[..split]), bits(&dirty[..split]), "{dtype:?} {bad}");
                if bad.is_nan() {
                    assert!(dirty[split..].iter().all(|value| value.is_nan()), "{dtype:?}");
                }
                // The second row after the bad one, alone, is no different.
                let alone = setup.rows(isa(), &Pool::new(1), 272..273);
                let together = &dirty[272 * setup.out_len()..273 * setup.out_len()];
                assert_eq!(bits(&alone), bits(together), "{dtype:?} {bad}");
            }
            setup.q.fill(f32::NAN);
            assert!(setup.rows(isa(), &Pool::new(2), 0..290).iter().all(|value| value.is_nan()));
            setup.q.fill(f32::INFINITY);
            let _ = setup.rows(isa(), &Pool::new(2), 0..290);
        }
    }
}

#[test]
fn a_long_sequence_is_split_and_folded_the_same() {
    for case in [
        Case { n_heads: 2, n_kv_heads: 1, positions: 5000, block_len: 256, ..BASE },
        Case { n_heads: 2, n_kv_heads: 1, positions: 3000, latent: true, dtype: KvDType::Q8_0, ..BASE },
    ] {
        let setup = Setup::new(case, 31);
        let last = case.positions - 1..case.positions;
        let one = setup.rows(isa(), &Pool::new(1), last.clone());
        let seq = SeqRows { block_table: &setup.table, first_row: 0, n_rows: 1, first_position: last.start };
        let (mut items, mut tasks) = (Vec::new(), Vec::new());
        let shape = Shape::of_cache(&setup.cache);
        let parts = plan(&[seq], 2, &shape, 4, &mut items, &mut tasks);
        assert!(tasks.len() >= 4 && parts > 0, "{} tasks for four threads", tasks.len());
        for threads in [2, 3, 8] {
            assert_eq!(bits(&one), bits(&setup.rows(isa(), &Pool::new(threads), last.clone())));
        }
        let reference = setup.reference(last.start);
        for (got, want) in one.iter().zip(reference) {
            assert!((f64::from(*got) - want).abs() < 2e-4, "{got} for {want}");
        }
    }
}

#[test]
fn plain_rows_give_what_an_exact_cache_gives() {
    let pool = Pool::new(2);
    for (k_dim, v_dim, n_heads, n_kv_heads) in [(64, 64, 4, 2), (24, 40, 6, 6), (192, 128, 2, 2)] {
        let case = Case { dtype: KvDType::F32, n_heads, n_kv_heads, k_dim, v_dim, ..BASE };
        let setup = Setup::new(case, 11);
        let (mut k, mut v) = (Vec::new(), Vec::new());
        for slot in slots(&setup.table, case.block_len, 0..case.positions) {
            for head in 0..n_kv_heads {
                let (mut key, mut value) = (vec![0.0; k_dim], vec![0.0; v_dim]);
                setup.cache.read_key(LAYER, head, slot, &mut key);
                setup.cache.read_value(LAYER, head, slot, &mut value);
                k.extend(key);
                v.extend(value);
            }
        }
        let rows = KeyValueRows { k: &k, v: &v, n_kv_heads, k_dim, v_dim };
        for range in [0..300, 299..300, 40..77] {
            let want = setup.rows(isa(), &pool, range.clone());
            let q = &setup.q[range.start * setup.q_len()..range.end * setup.q_len()];
            for isa in isas() {
                let mut out = vec![0.0; want.len()];
                let mut ws = AttentionWorkspace::new();
                let (start, scale) = (range.start, setup.scale);
                attention_over_rows_on(isa, &pool, &mut ws, q, &rows, start, n_heads, scale, &mut out);
                assert_eq!(bits(&want), bits(&out), "{range:?} {isa}");
            }
        }
    }
}

#[test]
fn rows_of_no_sequence_are_left_alone() {
    let setup = Setup::new(BASE, 13);
    let n = 5;
    let mut out = vec![42.0; n * setup.out_len()];
    let seq = SeqRows { block_table: &setup.table, first_row: 2, n_rows: 1, first_position: 17 };
    let empty = SeqRows { block_table: &[], first_row: 4, n_rows: 0, first_position: 0 };
    let q = &setup.q[..n * setup.q_len()];
    let mut ws = AttentionWorkspace::new();
    attention(&Pool::new(2), &mut ws, q, &setup.cache, LAYER, &[seq, empty], 4, setup.scale, &mut out);
    for (row, out) in out.chunks_exact(setup.out_len()).enumerate() {
        assert_eq!(row != 2, out.iter().all(|value| *value == 42.0));
    }
    attention(&Pool::new(2), &mut ws, q, &setup.cache, LAYER, &[], 4, setup.scale, &mut out);
}

#[test]
#[should_panic(expected = "sequences do not share rows")]
fn sequences_that_share_rows_are_refused() {
    let setup = Setup::new(BASE, 13);
    let seq = |first_row, n_rows| SeqRows { block_table: &setup.table, first_row, n_rows, first_position: 0 };
    let mut out = vec![0.0; 20 * setup.out_len()];
    let q = &setup.q[..20 * setup.q_len()];
    let seqs = [seq(10, 10), seq(0, 5), seq(5, 6)];
    let mut ws = AttentionWorkspace::new();
    attention(&Pool::new(1), &mut ws, q, &setup.cache, LAYER, &seqs, 4, setup.scale, &mut out);
}

#[test]
fn a_workspace_stops_growing() {
    let setup = Setup::new(BASE, 17);
    let sizes = |threads| {
        let pool = Pool::new(threads);
        let mut ws = AttentionWorkspace::new();
        let mut out = vec![0.0; setup.out_len()];
        let calls = (280..300).map(|position| {
            let seq =
                SeqRows { block_table: &setup.table, first_row: 0, n_rows: 1, first_position: position };
            let q = &setup.q[..setup.q_len()];
            attention(&pool, &mut ws, q, &setup.cache, LAYER, &[seq], 4, setup.scale, &mut out);
            ws.bytes()
        });
        calls.collect::<Vec<_>>()
    };
    let alone = sizes(1);
    assert_eq!(alone[1], alone[19]);
    // Which worker takes part varies from call to call: there is a bound only, each one's scratch and the parts.
    let shared = sizes(2);
    assert!(shared[19] <= 3 * alone[19], "{shared:?} {alone:?}");
}

/// Vectors that grow by more than they are asked to would drive each other on until memory runs out.
#[test]
fn scratch_is_levelled_once() {
    let mut scratch = [6, 4].map(|len| {
        let mut scratch = Scratch::default();
        scratch.grow([len; 10]);
        Mutex::new(scratch)
    });
    let mut lengths = || {
        level(&mut scratch);
        scratch.each_mut().map(|scratch| scratch.get_mut().unwrap().lengths())
    };
    let [first, second] = lengths();
    assert_eq!(first, second);
    for _ in 0..4 {
        assert_eq!(lengths(), [first, first]);
    }
}
