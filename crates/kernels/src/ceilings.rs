//! What this machine can do at most, measured, so that a speed can be judged by how much of it is used.
//!
//! Each measurement takes well under 150 ms and keeps the best of several short rounds: other tenants of the
//! machine can only make a round slower.

mod loops;

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::buffer::PageBuffer;
use crate::pool::Pool;

/// Time spent in the rounds of one measurement.
const MEASURE: Duration = Duration::from_millis(80);
/// Rounds at the least, should they be slow.
const ROUNDS_MIN: usize = 4;
/// Many times the last-level cache of most machines, for what a cache keeps from one round to the next makes memory
/// look faster than it is: with 32 MiB of cache 256 MiB read 4 to 6 % faster than 1 GiB.
const BUFFER_BYTES: usize = 512 << 20;
/// Bytes per claimed task of the bandwidth measurement, at most, and tasks for each thread at least.
const STRIPE_BYTES: usize = 1 << 20;
const STRIPES_PER_THREAD: usize = 12;
/// The reading loops take so many bytes at a time.
const LINE_GROUP: usize = 1024;
/// Steps of the arithmetic loops, per task: some two hundred microseconds, so that handing out tasks takes next to
/// nothing of it.
const STEPS: usize = 100_000;

/// The measured ceilings of a machine with a given number of threads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceilings {
    /// Threads that took part.
    pub threads: usize,
    /// Sequential reading from main memory, 10⁹ bytes a second.
    pub read_gb_per_s: f64,
    /// 8-bit integer dot products, 10⁹ operations a second; a multiplication and an addition are two.
    pub int8_gop_per_s: f64,
    /// f32 fused multiply-adds, 10⁹ operations a second; one is two.
    pub f32_gflop_per_s: f64,
    /// Dot products of BF16, 10⁹ operations a second; where no instruction for them is taken, as `f32_gflop_per_s`.
    pub bf16_gflop_per_s: f64,
}

impl Ceilings {
    /// Measures all four with the pool's threads, in about half a second. Takes 512 MiB of memory for
    /// the time being, or less where there is less.
    #[must_use]
    pub fn measure(pool: &Pool) -> Self {
        Self {
            threads: pool.threads(),
            read_gb_per_s: read_gb_per_s(pool),
            int8_gop_per_s: int8_gop_per_s(pool),
            f32_gflop_per_s: f32_gflop_per_s(pool),
            bf16_gflop_per_s: bf16_gflop_per_s(pool),
        }
    }
}

/// Sequential read bandwidth from main memory in 10⁹ bytes a second; zero if no buffer can be had.
#[must_use]
pub fn read_gb_per_s(pool: &Pool) -> f64 {
    let mut wanted = BUFFER_BYTES;
    let mut buffer = loop {
        match PageBuffer::zeroed(wanted) {
            Some(buffer) => break buffer,
            None if wanted > STRIPE_BYTES => wanted /= 2,
            None => return 0.0,
        }
    };
    // Untouched pages all map to one page of zeros, which would be read from the cache.
    for page in buffer.chunks_mut(4096) {
        page[0] = 1;
    }
    // Which of the two is faster depends on the machine's own prefetchers.
    let best = best_round(|round| read_all(pool, &buffer, round % 2 == 0));
    buffer.len() as f64 / best / 1e9
}

/// Reads `bytes` once with all threads, in the way that gets most of the memory: for measurements that set the read
/// bandwidth beside something else that goes through as many bytes. They start on a cache line; up to 1023 at their
/// end are left out.
pub fn read_all(pool: &Pool, bytes: &[u8], prefetch: bool) {
    // Stripes so short that no thread waits long for the one that took the last.
    let stripe = (bytes.len() / (pool.threads() * STRIPES_PER_THREAD)).clamp(LINE_GROUP, STRIPE_BYTES);
    let stripe = stripe / LINE_GROUP * LINE_GROUP;
    pool.run(bytes.len().div_ceil(stripe), &|task| {
        let stripe = &bytes[task * stripe..bytes.len().min((task + 1) * stripe)];
        black_box(loops::read(&stripe[..stripe.len() / LINE_GROUP * LINE_GROUP], prefetch));
    });
}

/// 8-bit dot products in registers, 10⁹ operations a second, with the widest instructions there are.
#[must_use]
pub fn int8_gop_per_s(pool: &Pool) -> f64 {
    arithmetic(pool, loops::int8)
}

/// f32 fused multiply-adds in registers, 10⁹ operations a second, with the widest instructions there are.
#[must_use]
pub fn f32_gflop_per_s(pool: &Pool) -> f64 {
    arithmetic(pool, loops::fma)
}

/// Dot products of BF16 in registers, 10⁹ operations a second, with the widest instructions there are.
#[must_use]
pub fn bf16_gflop_per_s(pool: &Pool) -> f64 {
    arithmetic(pool, loops::bf16)
}

/// Operations a second, in 10⁹, of a loop that takes steps and returns operations per step.
fn arithmetic(pool: &Pool, steps: fn(usize) -> usize) -> f64 {
    let per_step = steps(1);
    let tasks = pool.threads() * 4;
    let best = best_round(|_| {
        pool.run(tasks, &|_| {
            black_box(steps(black_box(STEPS)));
        });
    });
    (tasks * STEPS * per_step) as f64 / best / 1e9
}

/// Seconds of the fastest round.
fn best_round(round: impl Fn(usize)) -> f64 {
    round(0);
    let start = Instant::now();
    let mut best = Duration::MAX;
    let mut rounds = 0;
    while rounds < ROUNDS_MIN || start.elapsed() < MEASURE {
        let round_start = Instant::now();
        round(rounds);
        best = best.min(round_start.elapsed());
        rounds += 1;
    }
    best.max(Duration::from_nanos(1)).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceilings_are_positive_and_finite() {
        let ceilings = Ceilings::measure(&Pool::new(2));
        assert_eq!(ceilings.threads, 2);
        for rate in [ceilings.read_gb_per_s, ceilings.int8_gop_per_s, ceilings.f32_gflop_per_s] {
            assert!(rate.is_finite() && rate > 0.0, "{ceilings:?}");
        }
    }

    #[test]
    #[should_panic(expected = "as a multiple of 1024")]
    fn a_part_of_a_group_is_refused() {
        loops::read(&[0; 1124], false);
    }

    #[test]
    fn reading_adds_up_all_bytes() {
        let bytes: Vec<u8> = (0..4096_u32).map(|i| (i * 7 % 251) as u8).collect();
        let words = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
        let want = words.fold(0, u64::wrapping_add);
        assert_eq!([loops::read(&bytes, false), loops::read(&bytes, true)], [want, want]);
    }
}
