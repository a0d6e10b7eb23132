//! Which way of asking for weights is fastest, learnt in the work itself.
//!
//! While answers begin, products of one row take the candidates in turn and are timed: in step `t` the `i`th matrix of a
//! format takes candidate `(i + t) mod n`, so that each matrix has taken each candidate equally often after every `n`
//! steps, and all of them see the same moods of the machine. What counts is the shortest of the times a byte, in which
//! nobody else was in the way. Nothing is read that would not have been read, no lock is taken, and nothing is allocated.

use std::time::Instant;

use crate::prefetch::{Prefetch, first_prefetch, fixed_prefetch};
use crate::{DType, Matrix};

/// Smaller matrices may be in a cache, and what a call takes besides is not small beside them.
const LEAST_BYTES: usize = 4 << 20;
/// Times that each matrix takes each candidate, at least.
const ROUNDS_MIN: u32 = 2;
/// Samples of each candidate, at least: where there is one matrix it takes more rounds.
const SAMPLES_MIN: u32 = 8;
/// The shortest times that are kept: a quarter of what there is, at most.
const KEPT: usize = 16;
/// Another candidate has to be so many times as fast as the guess: less may be chance.
const GAIN: f32 = 1.05;
/// The candidates, and a guess that is none of them.
const CANDIDATES_MAX: usize = Prefetch::CANDIDATES.len() + 1;
const FORMATS: usize = DType::ALL.len();

/// How weights are asked for by the products of a [`crate::Workspace`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PrefetchPolicy {
    /// As `LEVAIN_PREFETCH` says, or else as is likely to be best on this processor.
    #[default]
    First,
    /// Always so.
    Fixed(Prefetch),
    /// As for `First`, and where the variable does not fix it the fastest of the candidates, once it is known. Only
    /// matrices of the usual size count.
    Learn,
    /// As for `Learn`, whatever the variable says, by matrices of so many bytes and more.
    LearnFrom(usize),
}

/// What was chosen for the weights of a format.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrefetchChoice {
    /// The format.
    pub dtype: DType,
    /// What was chosen.
    pub prefetch: Prefetch,
    /// What was there before.
    pub first: Prefetch,
    /// How fast products of one row read large matrices with it, 10⁹ bytes a second.
    pub gb_per_s: f64,
    /// The same with the first.
    pub first_gb_per_s: f64,
}

/// A product that is timed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    what: Timed,
    begun: Instant,
}

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Timed {
    dtype: DType,
    candidate: usize,
    bytes: usize,
}

/// What products take for the weights of each format.
#[derive(Debug)]
pub(crate) struct Chooser {
    first: Prefetch,
    learner: Option<Box<Learner>>,
}

#[derive(Debug)]
struct Learner {
    candidates: [Prefetch; CANDIDATES_MAX],
    count: usize,
    least_bytes: usize,
    formats: [Format; FORMATS],
    /// Whether a choice was made since somebody asked.
    news: bool,
}

/// What is known about a format.
#[derive(Debug, Clone, Copy)]
struct Format {
    chosen: Option<usize>,
    /// Steps with samples so far, not counting this one.
    step: u32,
    /// Samples in this step.
    index: u32,
    candidates: [Shortest; CANDIDATES_MAX],
}

/// The shortest of some times, ascending.
#[derive(Debug, Clone, Copy)]
struct Shortest {
    seen: u32,
    times: [f32; KEPT],
}

impl Shortest {
    const NONE: Self = Self { seen: 0, times: [f32::INFINITY; KEPT] };

    fn push(&mut self, time: f32) {
        self.seen += 1;
        let at = self.times.partition_point(|kept| *kept <= time);
        if at < KEPT {
            self.times.copy_within(at..KEPT - 1, at + 1);
            self.times[at] = time;
        }
    }

    /// The mean of the best quarter, or of as much of it as is kept.
    fn best_quarter(&self) -> f32 {
        let count = (self.seen as usize / 4).clamp(1, KEPT);
        self.times[..count].iter().sum::<f32>() / count as f32
    }
}

impl Default for Chooser {
    fn default() -> Self {
        Self::new(PrefetchPolicy::First)
    }
}

impl Chooser {
    pub(crate) fn new(policy: PrefetchPolicy) -> Self {
        let learner = |first, least_bytes| Some(Box::new(Learner::new(first, least_bytes)));
        let first = first_prefetch();
        match policy {
            PrefetchPolicy::First => Self { first, learner: None },
            PrefetchPolicy::Fixed(prefetch) => Self { first: prefetch, learner: None },
            PrefetchPolicy::Learn => {
                let mut chooser = Self { first, learner: learner(first, LEAST_BYTES) };
                if let (Some(learner), Some(_)) = (&mut chooser.learner, fixed_prefetch()) {
                    // How fast it is gets timed all the same.
                    learner.count = 1;
                }
                chooser
            }
            PrefetchPolicy::LearnFrom(bytes) => Self { first, learner: learner(first, bytes) },
        }
    }

    /// Tells that a step begins. `true` if a choice was made since the last one began.
    pub(crate) fn begin_step(&mut self) -> bool {
        self.learner.as_mut().is_some_and(|learner| {
            learner.begin_step();
            std::mem::take(&mut learner.news)
        })
    }

    /// Begins to time the product of `n` rows with these matrices, if that is of use.
    pub(crate) fn sample<'a>(
        &mut self,
        n: usize,
        matrices: impl Iterator<Item = &'a Matrix>,
    ) -> Option<Sample> {
        let learner = self.learner.as_mut().filter(|_| n == 1)?;
        let (mut dtype, mut bytes) = (None, 0);
        for w in matrices {
            // Times of what is packed meanwhile, or read in several ways, say nothing.
            if w.unpacked_bytes() > 0 || dtype.is_some_and(|dtype| dtype != w.dtype()) {
                return None;
            }
            dtype = Some(w.dtype());
            bytes += w.bytes();
        }
        let what = learner.next(dtype?, bytes)?;
        Some(Sample { what, begun: Instant::now() })
    }

    /// Notes how long the product took, if it was timed.
    pub(crate) fn end(&mut self, sample: Option<Sample>) {
        if let (Some(learner), Some(Sample { what, begun })) = (&mut self.learner, sample) {
            learner.note(what, begun.elapsed().as_secs_f64());
        }
    }

    /// How to ask for the weights of a format, in a product that may be timed.
    pub(crate) fn of(&self, dtype: DType, sample: Option<Sample>) -> Prefetch {
        self.learner.as_ref().map_or(self.first, |learner| match sample {
            Some(sample) => learner.candidates[sample.what.candidate],
            None => learner.candidates[learner.formats[place(dtype)].chosen.unwrap_or(0)],
        })
    }

    /// What was chosen so far, in the order of [`DType::ALL`].
    pub(crate) fn choices(&self) -> impl Iterator<Item = PrefetchChoice> {
        self.learner.iter().flat_map(|learner| learner.choices())
    }

    /// Takes over what another one has chosen.
    pub(crate) fn follow(&mut self, other: &Self) {
        let Some(learner) = &other.learner else { return };
        let own = self.learner.get_or_insert_with(|| Box::new(Learner::new(self.first, usize::MAX)));
        for (own, others) in own.formats.iter_mut().zip(&learner.formats) {
            own.chosen = others.chosen;
        }
        own.candidates = learner.candidates;
    }
}

impl Learner {
    fn new(first: Prefetch, least_bytes: usize) -> Self {
        let mut candidates = [first; CANDIDATES_MAX];
        let mut count = 1;
        for other in Prefetch::CANDIDATES.into_iter().filter(|other| *other != first) {
            candidates[count] = other;
            count += 1;
        }
        let format = Format { chosen: None, step: 0, index: 0, candidates: [Shortest::NONE; CANDIDATES_MAX] };
        Self { candidates, count, least_bytes, formats: [format; FORMATS], news: false }
    }

    fn begin_step(&mut self) {
        for format in &mut self.formats {
            if std::mem::take(&mut format.index) == 0 {
                continue;
            }
            format.step += 1;
            let candidates = &format.candidates[..self.count];
            let enough = candidates.iter().all(|candidate| candidate.seen >= SAMPLES_MIN);
            let round = self.count as u32;
            if enough && format.step >= ROUNDS_MIN * round && format.step.is_multiple_of(round) {
                format.chosen = Some(best(candidates));
                self.news = true;
            }
        }
    }

    /// The candidate for the next product that reads so many bytes of a format, if it is to be timed.
    fn next(&mut self, dtype: DType, bytes: usize) -> Option<Timed> {
        let format = &mut self.formats[place(dtype)];
        if format.chosen.is_some() || bytes < self.least_bytes.max(1) {
            return None;
        }
        let candidate = (format.index + format.step) as usize % self.count;
        format.index += 1;
        Some(Timed { dtype, candidate, bytes })
    }

    fn note(&mut self, Timed { dtype, candidate, bytes }: Timed, seconds: f64) {
        let times = &mut self.formats[place(dtype)].candidates[candidate];
        times.push((seconds / bytes as f64) as f32);
    }

    fn choices(&self) -> impl Iterator<Item = PrefetchChoice> {
        let rate = |times: &Shortest| 1e-9 / f64::from(times.best_quarter()).max(1e-15);
        DType::ALL.into_iter().zip(&self.formats).filter_map(move |(dtype, format)| {
            let chosen = format.chosen?;
            Some(PrefetchChoice {
                dtype,
                prefetch: self.candidates[chosen],
                first: self.candidates[0],
                gb_per_s: rate(&format.candidates[chosen]),
                first_gb_per_s: rate(&format.candidates[0]),
            })
        })
    }
}

/// The candidate with the shortest times, or the first where none is faster by as much as [`GAIN`].
fn best(candidates: &[Shortest]) -> usize {
    let mut best = (0, candidates[0].best_quarter() / GAIN);
    for (index, candidate) in candidates.iter().enumerate().skip(1) {
        let time = candidate.best_quarter();
        if time <= best.1 {
            best = (index, time);
        }
    }
    best.0
}

/// The place of a format in [`DType::ALL`].
fn place(dtype: DType) -> usize {
    dtype as usize
}

#[cfg(test)]
mod tests;
