//! Tests of many mutants of sound input. They run in a child process with bounds of its own on memory and processor time,
//! so that a crash, memory out of proportion and a loop without end are all seen, and none takes the other tests along.
//!
//! `LEVAIN_TEST_SEED=123` repeats a run, with `LEVAIN_TEST_MUTANT=45` that mutant alone; `LEVAIN_TEST_MUTANTS=1000000`
//! makes a run longer.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "helpers of tests may fail as tests do"
)]

mod json;
mod random;
mod text;

use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

pub use json::mutate_json;
pub use random::Random;
pub use text::mutate_text;

/// The test that the child is to run, and the file that says how far it has come.
const CHILD: &str = "LEVAIN_MUTANTS_CHILD";
const PROGRESS: &str = "LEVAIN_MUTANTS_PROGRESS";

/// What the child process may use.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Address space in MiB: the program itself, its stacks, and all that a mutant makes it allocate.
    pub memory_mib: u64,
    /// Processor time in milliseconds for each mutant on the average, apart from a minute for everything else.
    pub cpu_ms_each: u64,
}

/// How many mutants to try: `LEVAIN_TEST_MUTANTS`, or what the test can afford.
#[must_use]
pub fn count(affordable: usize) -> usize {
    number("LEVAIN_TEST_MUTANTS").map_or(affordable, |n| usize::try_from(n).expect("a number of mutants"))
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|n| n.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// Runs `case` for so many mutants in a child process and returns how many of them it called sound by `true`.
///
/// `test` is the path of the test that calls this, as `cargo test` shows it: the child is the same program, running
/// that test alone.
///
/// # Panics
/// If the child fails, crashes or passes its bounds; the message says how to repeat that.
pub fn run(test: &str, bounds: Bounds, mutants: usize, case: impl FnMut(&mut Random) -> bool) -> usize {
    if std::env::var(CHILD).is_ok_and(|child| child == test) {
        return work(mutants, case);
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = number("LEVAIN_TEST_SEED").unwrap_or(now.as_nanos() as u64);
    let progress = Progress::new();
    let seconds = 60 + (bounds.cpu_ms_each * mutants as u64).div_ceil(1000);
    let program = std::env::current_exe().unwrap();
    let mut command = if cfg!(unix) {
        let mut shell = Command::new("sh");
        let limits =
            format!("ulimit -v {}; ulimit -t {seconds}; exec \"$0\" \"$@\"", bounds.memory_mib << 10);
        shell.arg("-c").arg(limits).arg(program);
        shell
    } else {
        Command::new(program)
    };
    let output = command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, test)
        .env(PROGRESS, &progress.0)
        .env("LEVAIN_TEST_SEED", seed.to_string())
        .env("RUST_BACKTRACE", "0")
        // Each arena would reserve 64 MiB of address space.
        .env("MALLOC_ARENA_MAX", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find_map(|line| line.strip_suffix(" mutants were sound"));
    match last.and_then(|line| line.trim().parse().ok()) {
        Some(sound) if output.status.success() => {
            eprintln!("{sound} of {mutants} mutants with LEVAIN_TEST_SEED={seed} were sound");
            sound
        }
        _ => panic!(
            "{}: mutant {} with LEVAIN_TEST_SEED={seed} ended the process (bounds: {} MiB, {seconds} s):\n{said}\n{}",
            output.status,
            progress.read(),
            bounds.memory_mib,
            String::from_utf8_lossy(&output.stdout),
        ),
    }
}

/// The child's part.
fn work(mutants: usize, mut case: impl FnMut(&mut Random) -> bool) -> usize {
    let mut progress = OpenOptions::new().write(true).open(std::env::var(PROGRESS).unwrap()).unwrap();
    let mut seeds = Random::new(number("LEVAIN_TEST_SEED").expect("the parent sets it"));
    let only = number("LEVAIN_TEST_MUTANT");
    let mut sound = 0;
    for at in 0..mutants as u64 {
        let mut random = Random::new(seeds.next());
        if only.is_some_and(|only| only != at) {
            continue;
        }
        progress.seek(SeekFrom::Start(0)).unwrap();
        progress.write_all(format!("{at:020}").as_bytes()).unwrap();
        sound += usize::from(case(&mut random));
    }
    eprintln!("\n{sound} mutants were sound");
    sound
}

/// A file of our own that is gone when this is dropped.
struct Progress(PathBuf);

impl Progress {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("levain-mutants-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        OpenOptions::new().write(true).create_new(true).open(&path).unwrap();
        Self(path)
    }

    fn read(&self) -> u64 {
        fs::read_to_string(&self.0).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { memory_mib: 512, cpu_ms_each: 1 };

    /// What a failing run says, with the test's own children told what to do.
    fn failure(test: &'static str, case: fn(&mut Random) -> bool) -> String {
        let failed = std::panic::catch_unwind(|| run(test, BOUNDS, 100, case));
        failed.err().and_then(|text| text.downcast_ref::<String>().cloned()).unwrap_or_default()
    }

    fn is_child() -> bool {
        std::env::var(CHILD).is_ok()
    }

    #[test]
    fn every_mutant_runs_once_with_numbers_of_its_own() {
        let mut seen = std::collections::BTreeSet::new();
        let test = "mutants::tests::every_mutant_runs_once_with_numbers_of_its_own";
        let sound = run(test, BOUNDS, 100, |random| seen.insert(random.next()) && seen.len() > 40);
        assert_eq!(sound, 60);
    }

    #[test]
    fn a_panic_is_told_with_what_repeats_it() {
        let test = "mutants::tests::a_panic_is_told_with_what_repeats_it";
        let case: fn(&mut Random) -> bool = |_| panic!("a hole");
        if is_child() {
            run(test, BOUNDS, 100, case);
            return;
        }
        let told = failure(test, case);
        assert!(told.contains("mutant 0 with LEVAIN_TEST_SEED=") && told.contains("a hole"), "{told}");
    }

    #[cfg(unix)]
    #[test]
    fn memory_is_bounded() {
        let test = "mutants::tests::memory_is_bounded";
        let case: fn(&mut Random) -> bool = |_| {
            std::hint::black_box(vec![1_u8; 4 << 30]);
            true
        };
        if is_child() {
            run(test, BOUNDS, 100, case);
            return;
        }
        let told = failure(test, case);
        assert!(told.contains("memory allocation of 4294967296 bytes failed"), "{told}");
    }
}
