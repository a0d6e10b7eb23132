//! Files of the cache on the disk from somebody who means harm.

use levain_engine::fuzzing::kv_block_file;
use levain_testkit::mutants::{self, Bounds, Random};

use crate::kv_block::{BLOCK_BYTES, examine, seal};

/// Start and end of each field: magic, version, identity, name, parent, length, checksum, contents.
const FIELDS: [(usize, usize); 8] =
    [(0, 8), (8, 12), (12, 44), (44, 76), (76, 108), (108, 116), (116, 148), (148, 148 + BLOCK_BYTES)];

fn sample(folder: &std::path::Path) -> Vec<u8> {
    let contents: Vec<u8> = (0..BLOCK_BYTES).map(|i| i as u8).collect();
    kv_block_file(folder, [0xff; 32], &contents).unwrap()
}

fn mutate(random: &mut Random, file: &mut Vec<u8>) {
    for _ in 0..random.below(3) {
        let (start, end) = *random.pick(&FIELDS);
        let end = end.min(file.len());
        let Some(field) = file.get_mut(start..end).filter(|field| !field.is_empty()) else { continue };
        match random.below(7) {
            0 => field.fill(0),
            1 => field.fill(0xff),
            2 => field.iter_mut().for_each(|byte| *byte = random.next() as u8),
            3 => field[random.below(field.len())] ^= 1 << random.below(8),
            4 => field.reverse(),
            5 => file.truncate(random.below(file.len())),
            _ => file.extend(std::iter::repeat_n(7, 1 + random.below(300))),
        }
    }
    if random.below(2) == 0 {
        seal(file);
    }
}

#[test]
fn the_fuzz_corpus_holds() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/kv_block");
    let files = std::fs::read_dir(corpus).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
    // The first byte of an input says whether to seal it.
    let read = files.filter(|file| file.first() == Some(&0) && examine(folder.path(), &file[1..])).count();
    assert!(read >= 1, "no sound file in the corpus");
}

#[test]
fn mutated_files_are_refused_or_what_was_written() {
    const BOUNDS: Bounds = Bounds { memory_mib: 512, cpu_ms_each: 10 };
    let folder = tempfile::tempdir().unwrap();
    let sample = sample(folder.path());
    assert!(examine(folder.path(), &sample));
    let mutants = mutants::count(10_000);
    let test = "kv_files::mutated_files_are_refused_or_what_was_written";
    let read = mutants::run(test, BOUNDS, mutants, |random| {
        let mut file = sample.clone();
        mutate(random, &mut file);
        examine(folder.path(), &file)
    });
    // Contents and parents may be anything under a checksum of their own.
    assert!(read > mutants / 20 && read < mutants * 3 / 4, "{read}");
}
