//! The block pool under random operations.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Operation {
    Allocate,
    Retain(usize),
    Release(usize),
    Name(usize, u8),
    Find(u8),
    ForgetAll,
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let operation = prop_oneof![
        4 => Just(Operation::Allocate),
        1 => any::<usize>().prop_map(Operation::Retain),
        4 => any::<usize>().prop_map(Operation::Release),
        3 => (any::<usize>(), 0_u8..12).prop_map(|(i, h)| Operation::Name(i, h)),
        3 => (0_u8..12).prop_map(Operation::Find),
        1 => Just(Operation::ForgetAll),
    ];
    proptest::collection::vec(operation, 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn references_add_up_and_contents_are_right(n_blocks in 1_usize..12, operations in operations()) {
        let mut pool = BlockPool::new(n_blocks, 4);
        // Who holds what, with repetitions, and what was last written into each block.
        let mut held: Vec<u32> = Vec::new();
        let mut contents: HashMap<u32, u8> = HashMap::new();
        for operation in operations {
            match operation {
                Operation::Allocate => {
                    let in_use = held.iter().collect::<std::collections::HashSet<_>>().len();
                    match pool.allocate(0) {
                        Some(id) => {
                            prop_assert!(!held.contains(&id), "block {id} was in use");
                            contents.remove(&id);
                            held.push(id);
                        }
                        None => prop_assert_eq!(in_use, n_blocks),
                    }
                }
                Operation::Retain(i) if !held.is_empty() => {
                    let id = held[i % held.len()];
                    pool.retain(id);
                    held.push(id);
                }
                Operation::Release(i) if !held.is_empty() => {
                    let id = held.swap_remove(i % held.len());
                    pool.release(id);
                }
                Operation::Name(i, h) if !held.is_empty() => {
                    let id = held[i % held.len()];
                    // A full block's contents never change: it is named once.
                    if let std::collections::hash_map::Entry::Vacant(entry) = contents.entry(id) {
                        entry.insert(h);
                        pool.name(id, [h; 32]);
                    }
                }
                Operation::Find(h) => {
                    if let Some(id) = pool.find(&[h; 32]) {
                        prop_assert_eq!(contents.get(&id), Some(&h));
                        held.push(id);
                    }
                }
                Operation::ForgetAll => pool.forget_all(),
                _ => {}
            }
            for id in 0..n_blocks as u32 {
                prop_assert_eq!(pool.ref_count(id) as usize, held.iter().filter(|&&h| h == id).count());
            }
            let in_use = (0..n_blocks as u32).filter(|&id| pool.ref_count(id) > 0).count();
            prop_assert_eq!(pool.n_free(), n_blocks - in_use);
            // Every free block that is found by one of the twelve hashes is counted as cached, and no other.
            let mut findable = 0;
            for h in 0..12 {
                if !pool.is_held(&[h; 32]) && let Some(id) = pool.find(&[h; 32]) {
                    pool.release(id);
                    findable += 1;
                }
            }
            prop_assert_eq!(pool.n_cached(), findable);
        }
        for id in held {
            pool.release(id);
        }
        prop_assert_eq!(pool.n_free(), n_blocks);
        let mut all: Vec<u32> = (0..n_blocks).map(|_| pool.allocate(0).unwrap()).collect();
        all.sort_unstable();
        prop_assert_eq!(all, (0..n_blocks as u32).collect::<Vec<_>>());
        prop_assert_eq!(pool.allocate(0), None);
    }
}

#[test]
fn the_longest_unused_contents_go_first() {
    let mut pool = BlockPool::new(3, 4);
    let ids: Vec<u32> = (0..3).map(|_| pool.allocate(0).unwrap()).collect();
    for (index, &id) in ids.iter().enumerate() {
        pool.name(id, [index as u8; 32]);
    }
    for id in [ids[1], ids[0], ids[2]] {
        pool.release(id);
    }
    let found = pool.find(&[1; 32]).unwrap();
    pool.release(found);
    // Now 0 has been unused longest, then 2, then 1.
    assert_eq!(pool.allocate(0), Some(ids[0]));
    assert!(pool.find(&[0; 32]).is_none());
    assert_eq!(pool.allocate(0), Some(ids[2]));
    assert_eq!(pool.find(&[1; 32]), Some(ids[1]));
}

#[test]
fn blocks_without_contents_go_before_cached_ones() {
    let mut pool = BlockPool::new(2, 4);
    let (named, nameless) = (pool.allocate(0).unwrap(), pool.allocate(0).unwrap());
    pool.name(named, [7; 32]);
    pool.release(named);
    pool.release(nameless);
    assert_eq!(pool.allocate(0), Some(nameless));
    assert_eq!(pool.find(&[7; 32]), Some(named));
}

#[test]
fn hashes_depend_on_tenant_tokens_and_everything_before() {
    let chain = |tenant, blocks: &[&[u32]]| {
        blocks.iter().fold(PrefixHasher::new(tenant), |hasher, tokens| hasher.next(tokens, false)).hash()
    };
    let base = chain(1, &[&[1, 2], &[3, 4]]);
    assert_eq!(base, chain(1, &[&[1, 2], &[3, 4]]));
    for other in [
        chain(2, &[&[1, 2], &[3, 4]]),
        chain(1, &[&[1, 5], &[3, 4]]),
        chain(1, &[&[1, 2], &[3, 5]]),
        chain(1, &[&[3, 4]]),
    ] {
        assert_ne!(base, other);
    }
    let start = PrefixHasher::new(1);
    assert_ne!(start.next(&[1, 2], true).hash(), start.next(&[1, 2], false).hash());
}

#[test]
fn a_block_that_begins_as_wanted_is_found() {
    let mut pool = BlockPool::new(4, 4);
    let text =
        |parent: u8, tokens: &'static [u32]| BlockText { parent: [parent; 32], tokens, expanded: false };
    let ids: Vec<u32> = (0..4).map(|_| pool.allocate(0).unwrap()).collect();
    pool.list(ids[0], &text(1, &[1, 2, 3, 4]));
    pool.list(ids[1], &text(1, &[1, 2, 7]));
    pool.list(ids[2], &text(2, &[1, 2, 7, 8]));
    pool.list(ids[3], &BlockText { expanded: true, ..text(1, &[1, 2, 7, 8]) });
    assert_eq!(pool.find_beginning(&text(1, &[1, 2, 3, 9])), Some((ids[0], 3)));
    assert_eq!(pool.find_beginning(&text(1, &[1, 2, 7, 8])), Some((ids[1], 3)));
    assert_eq!(pool.find_beginning(&text(2, &[1, 5])), Some((ids[2], 1)));
    assert_eq!(pool.find_beginning(&text(3, &[1, 2])), None);
    assert_eq!(pool.find_beginning(&text(1, &[4])), None);
    // Free blocks are still found, and count as cached, until their space is needed.
    ids.iter().for_each(|&id| pool.release(id));
    assert_eq!((pool.n_cached(), pool.allocate(0)), (4, Some(ids[0])));
    assert_eq!(pool.find_beginning(&text(1, &[1, 2, 3, 9])), Some((ids[1], 2)));
    assert_eq!(pool.allocate(0), Some(ids[1]));
    assert_eq!(pool.find_beginning(&text(1, &[1, 2, 3, 9])), None);
    pool.forget_all();
    assert_eq!((pool.n_cached(), pool.find_beginning(&text(2, &[1]))), (0, None));
}

/// Gives a tenant a block with these contents and lets it go.
fn leave(pool: &mut BlockPool, tenant: u64, name: u8) {
    let id = pool.allocate(tenant).unwrap();
    pool.name(id, [name; 32]);
    pool.release(id);
}

#[test]
fn a_tenant_pushes_out_no_more_of_others_contents_than_brings_it_to_an_equal_share() {
    let mut pool = BlockPool::new(12, 4);
    (0..3).for_each(|name| leave(&mut pool, 1, name));
    (10..110).for_each(|name| leave(&mut pool, 2, name));
    assert!((0..3).all(|name| pool.has(&[name; 32])), "a flood of another's pushed them out");
    assert!((101..110).all(|name| pool.has(&[name; 32])) && !pool.has(&[100; 32]));
    // Who comes new, or has less, takes from who has most.
    (3..9).for_each(|name| leave(&mut pool, 1, name));
    let of =
        |pool: &BlockPool, names: std::ops::Range<u8>| names.filter(|&name| pool.has(&[name; 32])).count();
    assert_eq!((of(&pool, 0..9), of(&pool, 10..110)), (6, 6));
    (200..212).for_each(|name| leave(&mut pool, 3, name));
    assert_eq!((of(&pool, 0..9), of(&pool, 10..110), of(&pool, 200..212)), (4, 4, 4));
    // Each keeps what it used last.
    assert!((208..212).all(|name| pool.has(&[name; 32])) && (106..110).all(|name| pool.has(&[name; 32])));
    pool.forget_all();
    assert_eq!((pool.n_cached(), pool.n_free()), (0, 12));
    leave(&mut pool, 7, 1);
    assert_eq!(pool.n_cached(), 1);
}
