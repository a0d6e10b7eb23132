//! Repeatable random numbers.

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// A new seed for each run, or the one in `LEVAIN_TEST_SEED`.
pub(crate) fn seed() -> u64 {
    if let Ok(seed) = std::env::var("LEVAIN_TEST_SEED") {
        return seed.parse().expect("LEVAIN_TEST_SEED is a number");
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.as_nanos() as u64
}

/// How many mutants to try of each format.
pub(crate) fn mutants() -> usize {
    std::env::var("LEVAIN_TEST_MUTANTS").map_or(10_000, |n| n.parse().expect("a number"))
}
