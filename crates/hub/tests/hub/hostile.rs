//! The fuzz targets' corpora, replayed, and many scripts at random.

use std::path::Path;

use crate::examine;
use crate::script::Lab;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| std::fs::read(path).unwrap()).collect()
}

/// Some of a corpus is sound and some is not.
fn replay(target: &str, check: impl Fn(&[u8]) -> bool) {
    let files = corpus(target);
    let sound = files.iter().filter(|input| check(input)).count();
    assert!(sound >= 2 && sound < files.len(), "{target}: {sound} of {}", files.len());
}

#[test]
fn index_pages_and_wheels_of_the_fuzz_corpora() {
    replay("index_page", examine::page);
    let scratch = tempfile::tempdir().unwrap();
    replay("wheel", |input| examine::wheel(scratch.path(), input));
}

#[test]
fn scripted_servers_of_the_fuzz_corpora() {
    let lab = Lab::new();
    replay("pull_state", |input| lab.pull(input));
    replay("remote_header", |input| lab.remote_header(input));
}

#[test]
fn random_servers_never_make_a_wrong_file_visible() {
    let lab = Lab::new();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = std::env::var("LEVAIN_TEST_SEED").map_or(now.as_nanos() as u64, |seed| seed.parse().unwrap());
    // Shown if the test fails.
    println!("LEVAIN_TEST_SEED={seed}");
    let mut state = seed;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let (mut whole, scripts) = (0, 500);
    for _ in 0..scripts {
        let steps = usize::from(byte() % 12);
        let input: Vec<u8> = (0..2 + 4 * steps).map(|_| byte()).collect();
        whole += usize::from(lab.pull(&input));
    }
    assert!(whole > scripts / 20 && whole < scripts, "{whole} of {scripts}");
}
