//! The scheduler without a model: tokens are made up, the bookkeeping is real.

use proptest::prelude::*;

use super::*;

const BLOCK_LEN: usize = 4;
const WIDE: StepBudget = StepBudget { rows: 64, prompt_rows_beside_answers: 64, prompt_rows_alone: 64 };

fn sequence(job: usize, tenant: u64, prompt: &[u32], len_max: usize) -> Sequence {
    Sequence::new(job, 0, tenant, prompt, len_max, BLOCK_LEN)
}

/// What the cache holds, by slot: the token and its position, or nothing.
struct Cache(Vec<Option<(u32, usize)>>);

impl Cache {
    fn new(n_blocks: usize) -> Self {
        Self(vec![None; n_blocks * BLOCK_LEN])
    }

    /// Writes a chunk's rows and checks that everything before them is the sequence's own text.
    fn compute(&mut self, sequence: &Sequence, chunk: &Chunk) {
        assert_eq!(chunk.positions.start, sequence.num_computed);
        let slot = |position: usize| {
            sequence.blocks[position / BLOCK_LEN] as usize * BLOCK_LEN + position % BLOCK_LEN
        };
        for position in chunk.positions.clone() {
            self.0[slot(position)] = Some((sequence.tokens[position], position));
        }
        for position in 0..chunk.positions.end {
            assert_eq!(
                self.0[slot(position)],
                Some((sequence.tokens[position], position)),
                "position {position}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn every_sequence_gets_its_own_text_and_ends(
        requests in proptest::collection::vec((0_u64..3, 1_usize..30, 1_usize..20, 0_u32..3, 0_usize..25), 1..12),
        n_blocks in 13_usize..30,
        max_num_seqs in 1_usize..6,
        rows in 6_usize..40,
        beside in 1_usize..8,
        reuse in any::<bool>(),
    ) {
        let budget = StepBudget { rows, prompt_rows_beside_answers: beside, prompt_rows_alone: rows };
        let mut scheduler = Scheduler::new(n_blocks, BLOCK_LEN, max_num_seqs, reuse);
        let mut cache = Cache::new(n_blocks);
        let mut wanted = std::collections::HashMap::new();
        for (index, &(tenant, prompt_len, answer_len, variant, _)) in requests.iter().enumerate() {
            // Prompts share beginnings: only their last third differs by variant.
            let prompt: Vec<u32> =
                (0..prompt_len as u32).map(|i| if i * 3 > prompt_len as u32 * 2 { 100 + variant } else { i }).collect();
            let id = scheduler.add(sequence(index, tenant, &prompt, prompt_len + answer_len));
            wanted.insert(id, prompt_len + answer_len);
        }
        let mut chunks = Vec::new();
        let mut steps = 0;
        while !wanted.is_empty() {
            steps += 1;
            prop_assert!(steps < 5000, "no end in sight");
            scheduler.schedule(budget, &mut chunks);
            prop_assert!(!chunks.is_empty(), "a step without rows");
            prop_assert!(chunks.iter().map(|c| c.positions.len()).sum::<usize>() <= rows);
            prop_assert!(scheduler.n_running() <= max_num_seqs);
            for chunk in &chunks {
                let sequence = scheduler.get(chunk.sequence).unwrap();
                prop_assert!(!chunk.positions.is_empty());
                cache.compute(sequence, chunk);
            }
            for chunk in &chunks {
                scheduler.commit(chunk.sequence, chunk.positions.clone());
                let sequence = scheduler.get_mut(chunk.sequence).unwrap();
                if sequence.remaining() == 0 {
                    // The next token is a function of the text so far, as a model's would be.
                    let token = sequence.tokens.iter().fold(7_u32, |a, &t| a.wrapping_mul(31).wrapping_add(t)) % 50;
                    sequence.push(token, BLOCK_LEN);
                    let cancelled = requests[sequence.job].4 == steps;
                    if cancelled || sequence.tokens.len() == wanted[&chunk.sequence] {
                        wanted.remove(&chunk.sequence);
                        scheduler.finish(chunk.sequence);
                    }
                }
            }
        }
        prop_assert_eq!(scheduler.pool().n_free(), n_blocks);
        prop_assert_eq!(scheduler.n_waiting() + scheduler.n_running(), 0);
    }
}

#[test]
fn answers_come_before_prompts_and_prompts_share_what_is_left() {
    let mut scheduler = Scheduler::new(100, BLOCK_LEN, 8, true);
    let answering = scheduler.add(sequence(0, 0, &[1, 2, 3], 50));
    let mut chunks = Vec::new();
    scheduler.schedule(WIDE, &mut chunks);
    scheduler.commit(chunks[0].sequence, chunks[0].positions.clone());
    scheduler.get_mut(answering).unwrap().push(9, BLOCK_LEN);
    let long: Vec<u32> = (0..90).collect();
    let short: Vec<u32> = (50..56).collect();
    let long = scheduler.add(sequence(1, 0, &long, 100));
    let short = scheduler.add(sequence(2, 0, &short, 100));
    let budget = StepBudget { prompt_rows_beside_answers: 20, ..WIDE };
    scheduler.schedule(budget, &mut chunks);
    assert_eq!(chunks[0], Chunk { sequence: answering, positions: 3..4, drafted: 0, ahead: 0 });
    let rows = |id| chunks.iter().filter(|c| c.sequence == id).map(|c| c.positions.len()).sum::<usize>();
    // The short prompt is not held up by the long one, and the budget is used up or the prompts are.
    assert_eq!(rows(short), 6);
    assert!(rows(long) >= 10);
    assert!(rows(short) + rows(long) <= 20);
}

#[test]
fn a_second_prompt_uses_the_first_ones_blocks() {
    let mut scheduler = Scheduler::new(100, BLOCK_LEN, 8, true);
    let prompt: Vec<u32> = (0..16).collect();
    let first = scheduler.add(sequence(0, 5, &prompt, 50));
    let mut chunks = Vec::new();
    scheduler.schedule(WIDE, &mut chunks);
    scheduler.commit(chunks[0].sequence, chunks[0].positions.clone());
    scheduler.get_mut(first).unwrap().push(1, BLOCK_LEN);
    let same = scheduler.add(sequence(1, 5, &prompt, 50));
    let other_tenant = scheduler.add(sequence(2, 6, &prompt, 50));
    scheduler.schedule(WIDE, &mut chunks);
    let positions = |id| chunks.iter().find(|c| c.sequence == id).map(|c| c.positions.clone());
    // The last token is always computed, so the block that holds it is not reused.
    assert_eq!(positions(same), Some(12..16));
    assert_eq!(positions(other_tenant), Some(0..16));
    let (a, b) = (scheduler.get(first).unwrap(), scheduler.get(same).unwrap());
    assert_eq!(a.blocks[..3], b.blocks[..3]);
    assert_ne!(a.blocks[3], b.blocks[3]);
    assert_eq!(b.cached_tokens, 12);
}

#[test]
fn forks_share_the_prompt_and_copy_the_rest() {
    let mut scheduler = Scheduler::new(100, BLOCK_LEN, 3, true);
    let prompt: Vec<u32> = (0..10).collect();
    let leader = scheduler.add(sequence(0, 0, &prompt, 50));
    let held: Vec<_> = (1..4)
        .map(|answer| {
            let mut sequence = Sequence::new(0, answer, 0, &prompt, 50, BLOCK_LEN);
            sequence.status = SequenceStatus::Held;
            scheduler.add(sequence)
        })
        .collect();
    let mut chunks = Vec::new();
    scheduler.schedule(WIDE, &mut chunks);
    assert_eq!(chunks.len(), 1);
    scheduler.commit(chunks[0].sequence, chunks[0].positions.clone());
    let forks: Vec<_> = held.iter().map(|&id| scheduler.fork(leader, id)).collect();
    let last = scheduler.get(leader).unwrap().blocks[2];
    let copies: Vec<_> = forks.iter().take(2).map(|fork| fork.as_ref().unwrap().copy.unwrap()).collect();
    assert!(copies.iter().all(|&(from, to)| from == last && to != last));
    // Only three may run: the fourth answer waits.
    assert_eq!(forks[2], None);
    assert_eq!((scheduler.n_running(), scheduler.n_waiting()), (3, 1));
    for id in held.iter().chain([&leader]) {
        scheduler.finish(*id);
    }
    assert_eq!(scheduler.pool().n_free(), 100);
}
