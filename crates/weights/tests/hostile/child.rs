//! Each run happens in a process of its own, with little memory, watched for progress: so a crash, an
//! exhausted memory and an endless loop are all seen, and none takes the other tests along.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::random::{Random, mutants, seed};
use crate::{canary, examine, fields, mutate, samples};

/// Address space of a child. The samples are below 1 MiB; the rest is the program itself.
const MEMORY_KIB: u64 = 256 << 10;
/// A child that opens no further file in this time is stuck; a file takes less than a millisecond.
const STUCK: Duration = Duration::from_secs(10);
const KIND: &str = "LEVAIN_HOSTILE_KIND";
const PROGRESS: &str = "LEVAIN_HOSTILE_PROGRESS";

/// How a child ended.
#[derive(Debug)]
pub(crate) enum End {
    Clean(String),
    /// Where it was, and what it said last.
    Died(u64, String),
    Stuck(u64),
}

pub(crate) fn run(kind: &str, seed: u64) -> End {
    run_within(kind, seed, STUCK)
}

pub(crate) fn run_within(kind: &str, seed: u64, stuck: Duration) -> End {
    let folder = tempfile::tempdir().unwrap();
    let progress = folder.path().join("progress");
    fs::write(&progress, 0u64.to_le_bytes()).unwrap();
    let output = fs::File::create(folder.path().join("output")).unwrap();
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(format!("ulimit -v {MEMORY_KIB}; exec \"$0\" \"$@\""))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child::child", "--nocapture", "--test-threads=1"])
        .env(KIND, kind)
        .env(PROGRESS, &progress)
        .env("LEVAIN_TEST_SEED", seed.to_string())
        .env("RUST_BACKTRACE", "0")
        // Each arena would reserve 64 MiB of address space.
        .env("MALLOC_ARENA_MAX", "1")
        .stdout(Stdio::null())
        .stderr(output)
        .spawn()
        .unwrap();
    let (mut last, mut since) = (0, Instant::now());
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            let text = fs::read_to_string(folder.path().join("output")).unwrap_or_default();
            return if status.success() { End::Clean(text) } else { End::Died(read(&progress), text) };
        }
        let now = read(&progress);
        if now != last {
            (last, since) = (now, Instant::now());
        } else if since.elapsed() > stuck {
            child.kill().unwrap();
            child.wait().unwrap();
            return End::Stuck(now);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn read(progress: &Path) -> u64 {
    let mut bytes = [0; 8];
    let mut file = fs::File::open(progress).unwrap();
    file.read_exact(&mut bytes).map_or(0, |()| u64::from_le_bytes(bytes))
}

/// The part that runs in the child; run by itself it has nothing to do.
#[test]
fn child() {
    let Ok(kind) = std::env::var(KIND) else { return };
    let mut progress = fs::OpenOptions::new().write(true).open(std::env::var(PROGRESS).unwrap()).unwrap();
    let gguf = kind != "safetensors";
    let samples = if gguf { samples::gguf() } else { samples::safetensors() };
    let layout = if gguf { fields::gguf } else { fields::safetensors };
    let layouts: Vec<_> = samples.iter().map(|sample| layout(&sample.bytes)).collect();
    let mut random = Random(seed());
    let (mut opened, total) = (0, mutants());
    for number in 0..total {
        progress.seek(SeekFrom::Start(0)).unwrap();
        progress.write_all(&(number as u64 + 1).to_le_bytes()).unwrap();
        let which = random.below(samples.len());
        let file = mutate::mutant(&mut random, &samples[which].bytes, &layouts[which]);
        let outcome = match kind.strip_prefix("canary-") {
            Some(bug) => canary::open(bug, &file),
            None => examine::open_and_examine(&samples[which].path, file),
        };
        match outcome {
            Ok(sound) => opened += usize::from(sound),
            Err(problem) => panic!("unsound checkpoint: {problem}"),
        }
    }
    eprintln!("{total} mutants, {opened} opened and were sound");
}

fn check(kind: &str) {
    let seed = seed();
    eprintln!("seed {seed}");
    match run(kind, seed) {
        End::Clean(text) => {
            let line = text.lines().find(|line| line.contains("mutants")).expect("the child has run");
            eprintln!("{kind}: {line}");
        }
        End::Died(number, text) => {
            panic!("{kind} mutant {number} with LEVAIN_TEST_SEED={seed} ended the process:\n{text}")
        }
        End::Stuck(number) => panic!("{kind} mutant {number} with LEVAIN_TEST_SEED={seed} never ended"),
    }
}

#[test]
fn mutated_gguf_headers_give_errors_or_sound_checkpoints() {
    check("gguf");
}

#[test]
fn mutated_safetensors_headers_give_errors_or_sound_checkpoints() {
    check("safetensors");
}
