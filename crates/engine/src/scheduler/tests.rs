//! The scheduler without a model: tokens are made up, the bookkeeping is real.

use proptest::prelude::*;

use super::*;
use crate::kv::BlockHash;

const BLOCK_LEN: usize = 4;
/// A budget that does not depend on depth.
#[derive(Debug, Clone, Copy)]
struct StepBudget {
    rows: usize,
    prompt_rows_beside_answers: usize,
    prompt_rows_alone: usize,
}

impl Budget for StepBudget {
    fn rows(&self) -> usize {
        self.rows
    }

    fn prompt_rows(&self, answers: StepShape, _deepest: usize) -> usize {
        if answers.rows > 0 { self.prompt_rows_beside_answers } else { self.prompt_rows_alone }
    }
}

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

    fn copy(&mut self, (from, to): (u32, u32)) {
        let (from, to) = (from as usize * BLOCK_LEN, to as usize * BLOCK_LEN);
        self.0.copy_within(from..from + BLOCK_LEN, to);
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
        // All texts that there were: a block's name, and the names of those before it.
        let mut known: std::collections::HashMap<BlockHash, Vec<BlockHash>> = std::collections::HashMap::new();
        let mut steps = 0;
        while !wanted.is_empty() {
            steps += 1;
            prop_assert!(steps < 5000, "no end in sight");
            scheduler.schedule(&budget, &mut chunks);
            prop_assert!(!chunks.is_empty(), "a step without rows");
            scheduler.take_copies().for_each(|copy| cache.copy(copy));
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
                for hash in sequence.hashes() {
                    known.insert(*hash, sequence.hashes().iter().take_while(|h| *h != hash).copied().collect());
                }
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
            // No text is cut at its beginning.
            for (hash, before) in &known {
                if scheduler.pool().has(hash) {
                    prop_assert!(before.iter().all(|hash| scheduler.pool().has(hash)));
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
    scheduler.schedule(&WIDE, &mut chunks);
    scheduler.commit(chunks[0].sequence, chunks[0].positions.clone());
    scheduler.get_mut(answering).unwrap().push(9, BLOCK_LEN);
    let long: Vec<u32> = (0..90).collect();
    let short: Vec<u32> = (50..56).collect();
    let long = scheduler.add(sequence(1, 0, &long, 100));
    let short = scheduler.add(sequence(2, 0, &short, 100));
    let budget = StepBudget { prompt_rows_beside_answers: 20, ..WIDE };
    scheduler.schedule(&budget, &mut chunks);
    assert_eq!(chunks[0], Chunk { sequence: answering, positions: 3..4, drafted: 0 });
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
    scheduler.schedule(&WIDE, &mut chunks);
    scheduler.commit(chunks[0].sequence, chunks[0].positions.clone());
    scheduler.get_mut(first).unwrap().push(1, BLOCK_LEN);
    let same = scheduler.add(sequence(1, 5, &prompt, 50));
    let other_tenant = scheduler.add(sequence(2, 6, &prompt, 50));
    scheduler.schedule(&WIDE, &mut chunks);
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
    scheduler.schedule(&WIDE, &mut chunks);
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

/// Computes a step; each sequence whose tokens are all computed gets one more, and ends when it has `len_max`.
fn step(scheduler: &mut Scheduler, budget: StepBudget) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    scheduler.schedule(&budget, &mut chunks);
    scheduler.take_copies().for_each(drop);
    for chunk in &chunks {
        scheduler.commit(chunk.sequence, chunk.positions.clone());
        let sequence = scheduler.get_mut(chunk.sequence).unwrap();
        if sequence.remaining() == 0 {
            sequence.push(7, BLOCK_LEN);
            if sequence.tokens.len() == sequence.len_max {
                scheduler.finish(chunk.sequence);
            }
        }
    }
    chunks
}

fn rows_of(chunks: &[Chunk], id: SequenceId) -> usize {
    chunks.iter().filter(|chunk| chunk.sequence == id).map(Chunk::rows).sum()
}

#[test]
fn prompts_that_are_computed_side_by_side_end_up_in_the_same_blocks() {
    let mut scheduler = Scheduler::new(100, BLOCK_LEN, 8, true);
    let prompt: Vec<u32> = (0..19).collect();
    let ids = [0, 1].map(|job| scheduler.add(sequence(job, 0, &prompt, 50)));
    step(&mut scheduler, WIDE);
    let [a, b] = ids.map(|id| scheduler.get(id).unwrap().blocks.clone());
    assert_eq!((&a[..4], a.len()), (&b[..4], 5));
    assert_ne!(a[4], b[4]);
    assert_eq!(scheduler.pool().n_free(), 100 - 6);
}

#[test]
fn part_of_a_block_is_copied_where_the_beginning_is_the_same() {
    const LONG: usize = 8;
    let mut scheduler = Scheduler::new(100, LONG, 8, true);
    let first = scheduler.add(Sequence::new(0, 0, 0, &[1; 13], 14, LONG));
    step(&mut scheduler, WIDE);
    assert!(scheduler.get(first).is_none());
    // Goes on from the thirteenth token of the first one's text.
    let next = scheduler.add(Sequence::new(1, 0, 0, &[[1; 13], [2; 13]].concat(), 40, LONG));
    // Differs after the tenth, which leaves too few of the block.
    let other = scheduler.add(Sequence::new(2, 0, 0, &[[1; 10].as_slice(), &[3; 9]].concat(), 40, LONG));
    let stranger = scheduler.add(Sequence::new(3, 0, 9, &[1; 13], 40, LONG));
    let mut chunks = Vec::new();
    scheduler.schedule(&WIDE, &mut chunks);
    let start = |id| chunks.iter().find(|chunk| chunk.sequence == id).unwrap().positions.start;
    assert_eq!([next, other, stranger].map(start), [13, 8, 0]);
    let copies: Vec<_> = scheduler.take_copies().collect();
    assert_eq!(copies.len(), 1);
    assert_eq!(copies[0].1, scheduler.get(next).unwrap().blocks[1]);
    assert_eq!(scheduler.get(next).unwrap().cached_tokens, 13);
}

#[test]
fn a_tenant_with_many_long_prompts_does_not_hold_up_another() {
    for reuse in [true, false] {
        let mut scheduler = Scheduler::new(400, BLOCK_LEN, 4, reuse);
        let long: Vec<_> = (0..12)
            .map(|i| {
                scheduler.add(sequence(i, 1, &(0..100).map(|t| t + 1000 * i as u32).collect::<Vec<_>>(), 110))
            })
            .collect();
        let budget = StepBudget { rows: 20, prompt_rows_beside_answers: 16, prompt_rows_alone: 16 };
        for _ in 0..3 {
            step(&mut scheduler, budget);
        }
        assert_eq!(scheduler.n_running(), 4);
        // All places are taken and eight more wait, but of one tenant.
        let short = scheduler.add(sequence(20, 2, &[5; 20], 24));
        let mut steps = 0;
        let mut given_up = 0;
        while scheduler.get(short).is_some() {
            let chunks = step(&mut scheduler, budget);
            let theirs: usize = long.iter().map(|&id| rows_of(&chunks, id)).sum();
            assert!(theirs > 0, "nor does the other one hold them up");
            steps += 1;
            assert!(steps <= 7, "half of the rows were to be its own");
            given_up = given_up.max(scheduler.preemptions());
        }
        assert_eq!(given_up, 1);
        let mut rounds = 0;
        while scheduler.n_running() + scheduler.n_waiting() > 0 {
            step(&mut scheduler, budget);
            rounds += 1;
            assert!(rounds < 1000, "no end in sight");
        }
        assert_eq!(scheduler.preemptions(), 1);
        assert_eq!(scheduler.pool().n_free(), 400);
    }
}

#[test]
fn a_tenant_without_room_gets_it_from_one_that_has_most() {
    // Each long one takes 25 blocks.
    let mut scheduler = Scheduler::new(80, BLOCK_LEN, 8, true);
    let prompt = |start: u32, len: u32| (start..start + len).collect::<Vec<_>>();
    let long: Vec<_> =
        (0..3).map(|i| scheduler.add(sequence(i, 1, &prompt(1000 * i as u32, 98), 100))).collect();
    step(&mut scheduler, WIDE);
    let other = scheduler.add(sequence(5, 2, &prompt(9000, 60), 70));
    step(&mut scheduler, WIDE);
    let running = |scheduler: &Scheduler, id| scheduler.get(id).unwrap().status == SequenceStatus::Running;
    assert!(running(&scheduler, other));
    assert_eq!(long.iter().filter(|&&id| running(&scheduler, id)).count(), 2);
    assert!(running(&scheduler, long[0]) && running(&scheduler, long[1]), "the youngest made room");
    // What does not fit beside one of each is not made room for.
    let huge = scheduler.add(sequence(6, 3, &prompt(20_000, 300), 310));
    step(&mut scheduler, WIDE);
    assert!(!running(&scheduler, huge));
    assert!(running(&scheduler, long[0]) && running(&scheduler, long[1]) && running(&scheduler, other));
    while scheduler.n_running() + scheduler.n_waiting() > 0 {
        step(&mut scheduler, WIDE);
    }
    assert_eq!(scheduler.pool().n_free(), 80);
}

/// The youngest makes room for the others again and again, and goes on each time until none is left before it.
#[test]
fn with_too_few_blocks_the_oldest_goes_on() {
    let mut scheduler = Scheduler::new(14, BLOCK_LEN, 4, false);
    let ids: Vec<_> = (0..4).map(|i| scheduler.add(sequence(i, i as u64, &[i as u32; 8], 48))).collect();
    let mut ended = Vec::new();
    let mut steps = 0;
    while ended.len() < ids.len() {
        step(&mut scheduler, WIDE);
        ended.extend(
            ids.iter()
                .copied()
                .filter(|&id| scheduler.get(id).is_none() && !ended.contains(&id))
                .collect::<Vec<_>>(),
        );
        steps += 1;
        assert!(steps < 400, "no end in sight");
    }
    assert_eq!(ended, ids, "in the order in which they came");
    assert!(scheduler.preemptions() >= 2);
    // Each was sent back a few times at most.
    assert!(scheduler.preemptions() <= 12, "{}", scheduler.preemptions());
}
