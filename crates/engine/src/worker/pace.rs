//! How many rows of prompts a step may have.
//!
//! A step takes as long as its rows do, and whoever waits for a token, or to be noticed, waits that long. So the
//! rows are bounded by time, as measured on this machine with this model. What is computed does not depend on it.
//!
//! A step's time is that of its rows, which grows by less than their number, and that of the positions they attend
//! to. The first is learnt for some numbers of rows, the second as seconds for one row and one position.

use std::time::Duration;

use crate::scheduler::{Budget, StepShape};

/// The longest that a step should take in which answers grow, in seconds. The gap between two tokens of an answer is
/// one step, and 250 ms are to be kept with something left for surprises.
const BESIDE_ANSWERS_MAX: f64 = 0.175;
/// Where answers grow faster, prompts leave them this part of the time, but steps may take at least so long.
const BESIDE_ANSWERS_MIN: f64 = 0.1;
const ANSWERS_PART: f64 = 1.0 / 8.0;
/// The longest that a step may turn out to take which tries out more rows.
const TRIAL_MAX: f64 = 0.205;
/// The longest step where no answer waits, but requests may come that would have to.
const ALONE: f64 = 1.0;
/// The longest step where requests come one by one. The longer steps are, the less often weights are read and unpacked.
const ALONE_FOR_GOOD: f64 = 3.0;
/// Prompts go on however slow steps are.
const ROWS_BESIDE_MIN: usize = 2;
const ROWS_ALONE_MIN: usize = 64;
/// Each step in the expanded form of latent attention expands all that is before its rows, which so many share.
const ROWS_EXPANDED: usize = 384;
/// Where nothing has been measured yet.
const ROWS_FIRST: usize = 64;
/// How far one measurement moves what was known.
const GAIN: f64 = 0.4;
/// How much may be wrong with a known time of rows, as part of it, when a surprise is to be explained.
const ROWS_DOUBT: f64 = 0.3;
/// What a multiplication in attention takes, as a multiple of one in a product with weights, until it is measured.
const ATTENTION_COST_FIRST: f64 = 2.0;
/// The part of what is learnt for one number of rows that is learnt for the others too.
const SHARED: f64 = 0.5;
/// How much of a time that has not been measured again is forgotten with each step, so that it is tried again.
const FORGOTTEN: f64 = 0.001;

/// Numbers of rows whose times are learnt; a step counts for those next to its rows.
const CLASSES: [usize; 20] =
    [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048];

#[derive(Debug)]
pub(super) struct Pace {
    rows_max: usize,
    fixed: Option<usize>,
    /// The longest step where no answer waits, in seconds.
    alone: f64,
    /// Multiplications that a position before a row adds, as part of those a row takes anyway.
    attention_part: f64,
    /// The position from which on rows of prompts are computed in the expanded form of latent attention.
    expanded_from: Option<usize>,
    /// Seconds for a step of so many rows with nothing before them.
    times: [Option<f64>; CLASSES.len()],
    /// Seconds that a position before a row adds.
    position_time: Option<f64>,
}

impl Pace {
    /// For steps of up to `rows_max` rows, of which prompts have `fixed` where there is a number, and `seqs_max`
    /// sequences at a time.
    pub(super) fn new(
        rows_max: usize,
        fixed: Option<usize>,
        seqs_max: usize,
        attention_part: f64,
        expanded_from: Option<usize>,
    ) -> Self {
        let times = [None; CLASSES.len()];
        let alone = if seqs_max == 1 { ALONE_FOR_GOOD } else { ALONE };
        Self { rows_max, fixed, alone, attention_part, expanded_from, times, position_time: None }
    }

    /// Learns from a step.
    pub(super) fn note(&mut self, step: StepShape, has_answers: bool, time: Duration) {
        let Some(class) = CLASSES.iter().rposition(|&rows| rows <= step.rows) else { return };
        let seconds = time.as_secs_f64();
        // A step of a few more rows than the class has would have been so much shorter with the class's.
        let scale = step.rows as f64 / CLASSES[class] as f64;
        let position_time = self
            .position_time
            .unwrap_or(seconds / step.rows as f64 * self.attention_part * ATTENTION_COST_FIRST)
            .max(1e-15);
        let attention = position_time * step.positions as f64;
        if self.times[class].is_none() {
            let rows = (seconds - attention).max(seconds * 0.1);
            (self.times[class], self.position_time) = (Some(rows / scale), Some(position_time));
        } else {
            // Either part explains as much of a surprise as it is uncertain.
            let known = self.time(step.rows).unwrap_or(seconds);
            let surprise = GAIN * (seconds - known - attention);
            let (in_rows, in_attention) = ((ROWS_DOUBT * known).powi(2), attention.powi(2));
            let for_attention = surprise * in_attention / (in_rows + in_attention);
            self.learn_rows(class, step.rows, ((surprise - for_attention) / known).max(-0.9));
            let moved = position_time + for_attention / step.positions.max(1) as f64;
            self.position_time = Some(moved.max(position_time * 0.5));
        }
        self.forget_above(class, step, has_answers);
    }

    /// Changes the times of the two numbers next to `rows` by a part of themselves, each by how near it is, and the
    /// others by less: what holds for one number mostly holds for others too, as when the machine gets slower.
    fn learn_rows(&mut self, class: usize, rows: usize, change: f64) {
        let near = self.known_above(class).filter(|&above| CLASSES[above] <= 2 * CLASSES[class]);
        let way = near
            .map_or(0.0, |above| (rows - CLASSES[class]) as f64 / (CLASSES[above] - CLASSES[class]) as f64);
        for (other, time) in self.times.iter_mut().enumerate() {
            let part = match other {
                _ if other == class => 1.0 - way,
                _ if Some(other) == near => way,
                _ => SHARED,
            };
            *time = time.map(|time| (time * (1.0 + change * part.max(SHARED))).max(1e-7));
        }
    }

    fn known_above(&self, class: usize) -> Option<usize> {
        (class + 1..CLASSES.len()).find(|&above| self.times[above].is_some())
    }

    fn forget_above(&mut self, class: usize, step: StepShape, has_answers: bool) {
        let near = |&above: &usize| has_answers && CLASSES[above] <= 2 * step.rows;
        if let Some(above) = self.known_above(class).filter(near) {
            let floor = self.times[class].unwrap_or(0.0).max(CLASSES[above] as f64 * self.row_time());
            self.times[above] = self.times[above].map(|time| (time * (1.0 - FORGOTTEN)).max(floor));
        }
    }

    /// The nearest numbers of rows whose times are known: at most `rows`, and more.
    fn known_around(&self, rows: usize) -> [Option<(f64, f64)>; 2] {
        let known = |class: usize| Some((CLASSES[class] as f64, self.times[class]?));
        let split = CLASSES.partition_point(|&class| class <= rows);
        [(0..split).rev().find_map(known), (split..CLASSES.len()).find_map(known)]
    }

    /// Seconds for a step of so many rows, attention apart; rather too many. `None` before the first measurement.
    fn time(&self, rows: usize) -> Option<f64> {
        let n = rows as f64;
        match self.known_around(rows) {
            [Some((a, time_a)), Some((b, time_b))] => {
                Some(time_a + (time_b - time_a).max(0.0) * (n - a) / (b - a))
            }
            [Some((a, time)), None] => Some(time * n / a),
            // What fewer rows would save is not known: weights are read for any number of them.
            [None, Some((_, time))] => Some(time),
            [None, None] => None,
        }
    }

    /// The most rows beside those of answers that take at most so long together.
    fn rows_within(&self, limit: f64, answers: StepShape, deepest: usize) -> usize {
        let position_time = self.position_time.unwrap_or(0.0);
        let attention = |n: usize| position_time * (answers.positions + n * deepest) as f64;
        let fits = |n: usize, limit: f64| {
            self.time(answers.rows + n).is_some_and(|time| time + attention(n) <= limit)
        };
        // The least number that does not fit, by halving.
        let (mut low, mut high) = (0, self.rows_max + 1);
        while low + 1 < high {
            let middle = (low + high) / 2;
            if fits(middle, limit) { low = middle } else { high = middle }
        }
        // Between two numbers that are known the time is mostly less than in proportion: try the next one out.
        let next = CLASSES.iter().position(|&rows| rows > answers.rows + low);
        if let Some(next) = next.filter(|&next| answers.rows > 0 && self.times[next].is_none()) {
            let more = CLASSES[next] - answers.rows;
            let [below, _] = self.known_around(CLASSES[next]);
            let least = below.map_or(0.0, |(_, time)| time).max(CLASSES[next] as f64 * self.row_time());
            if least + attention(more) <= limit && fits(more, TRIAL_MAX) {
                return more.min(self.rows_max);
            }
        }
        low
    }

    /// Seconds for a row in the largest step that was measured.
    fn row_time(&self) -> f64 {
        self.seconds_for(1).unwrap_or(0.0)
    }

    /// Seconds for so many rows of a prompt with nothing before them, where something has been measured.
    pub(super) fn seconds_for(&self, rows: usize) -> Option<f64> {
        let known = |class: usize| Some(self.times[class]? / CLASSES[class] as f64);
        (0..CLASSES.len()).rev().find_map(known).map(|time| time * rows as f64)
    }
}

impl Budget for Pace {
    fn rows(&self) -> usize {
        self.rows_max
    }

    fn prompt_rows(&self, answers: StepShape, deepest: usize) -> usize {
        if let Some(fixed) = self.fixed {
            return fixed;
        }
        if answers.rows == 0 && self.expanded_from.is_some_and(|from| deepest >= from) {
            return ROWS_EXPANDED.min(self.rows_max);
        }
        if answers.rows == 0 {
            return match self.position_time {
                None => ROWS_FIRST,
                Some(_) => self.rows_within(self.alone, answers, deepest).max(ROWS_ALONE_MIN),
            };
        }
        let alone = self.time(answers.rows).unwrap_or(0.0);
        let limit = (alone / ANSWERS_PART).clamp(BESIDE_ANSWERS_MIN, BESIDE_ANSWERS_MAX);
        self.rows_within(limit, answers, deepest).max(ROWS_BESIDE_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that reads weights for `read` seconds, computes a row in `row` and attends to a position in
    /// `position`; small batches are computed at half the speed.
    struct Machine {
        read: f64,
        row: f64,
        position: f64,
    }

    impl Machine {
        fn time(&self, step: StepShape) -> f64 {
            let row = if step.rows < 16 { 2.0 * self.row } else { self.row };
            self.read.max(step.rows as f64 * row) + step.positions as f64 * self.position
        }

        /// Runs a prompt from `from` to `to`, beside one answer at position 1000 or alone, and returns the longest
        /// step and the time for all.
        fn prompt(&self, pace: &mut Pace, from: usize, to: usize, beside: bool) -> (f64, f64) {
            let (mut computed, mut longest, mut all) = (from, 0_f64, 0.0);
            while computed < to {
                let answers = StepShape { rows: usize::from(beside), positions: 1000 * usize::from(beside) };
                let rows = pace.prompt_rows(answers, computed).min(to - computed).min(512);
                let positions = answers.positions + rows * (computed + rows / 2);
                let step = StepShape { rows: answers.rows + rows, positions };
                let time = self.time(step);
                pace.note(step, beside, Duration::from_secs_f64(time));
                (computed, longest, all) = (computed + rows, longest.max(time), all + time);
            }
            (longest, all)
        }

        fn answer(&self, pace: &mut Pace, n: usize) {
            for position in 0..n {
                let step = StepShape { rows: 1, positions: 1000 + position };
                pace.note(step, true, Duration::from_secs_f64(self.time(step)));
            }
        }
    }

    /// 7B on two cores, 1.5B, 135M.
    const MACHINES: [Machine; 3] = [
        Machine { read: 0.15, row: 0.0195, position: 1e-6 },
        Machine { read: 0.033, row: 0.0052, position: 2e-7 },
        Machine { read: 0.004, row: 0.0007, position: 5e-8 },
    ];

    #[test]
    fn answers_keep_growing_while_a_long_prompt_comes() {
        for machine in &MACHINES {
            let mut pace = Pace::new(512, None, 4, 2e-5, None);
            machine.prompt(&mut pace, 0, 200, false);
            machine.answer(&mut pace, 50);
            let (longest, all) = machine.prompt(&mut pace, 0, 32_000, true);
            assert!(longest <= 0.25, "{longest}");
            let attention = 32_000.0 * 16_000.0 * machine.position;
            let alone = 32_000.0 * machine.row + attention;
            // Reading the weights for each step is what the machine takes for it; small steps are slow ones.
            assert!(all <= 2.9 * alone, "{all} {alone}");
            // Nor when the next one goes on from a long cached text.
            machine.answer(&mut pace, 50);
            machine.prompt(&mut pace, 0, 100, true);
            let (longest, _) = machine.prompt(&mut pace, 30_000, 30_500, true);
            assert!(longest <= 0.25, "{longest}");
        }
    }

    #[test]
    fn nothing_is_known_at_first() {
        for machine in &MACHINES {
            let mut pace = Pace::new(512, None, 4, 2e-5, None);
            machine.answer(&mut pace, 1);
            let (longest, _) = machine.prompt(&mut pace, 30_000, 30_400, true);
            assert!(longest <= 0.25, "{longest}");
        }
    }

    #[test]
    fn slow_models_get_short_chunks_and_fast_ones_long() {
        let rows = |seqs| {
            MACHINES.each_ref().map(|machine| {
                let mut pace = Pace::new(512, None, seqs, 2e-5, None);
                machine.prompt(&mut pace, 0, 4000, false);
                pace.prompt_rows(StepShape::default(), 0)
            })
        };
        let none = StepShape::default();
        let shared = rows(4);
        assert!((64..=100).contains(&shared[0]), "{shared:?}");
        assert!((150..=200).contains(&shared[1]), "{shared:?}");
        assert_eq!(shared[2], 512);
        // Nobody else can come.
        let single = rows(1);
        assert!((130..=160).contains(&single[0]), "{single:?}");
        assert_eq!(single[1..], [512, 512]);
        assert_eq!(Pace::new(512, Some(7), 4, 0.0, None).prompt_rows(none, 9), 7);
    }

    #[test]
    fn what_was_slow_once_is_tried_again() {
        let machine = &MACHINES[1];
        let mut pace = Pace::new(512, None, 4, 2e-5, None);
        machine.prompt(&mut pace, 0, 2000, false);
        machine.answer(&mut pace, 10);
        machine.prompt(&mut pace, 0, 2000, true);
        let answer = StepShape { rows: 1, positions: 1000 };
        let before = pace.prompt_rows(answer, 0);
        // For a while everything takes three times as long.
        let slow =
            Machine { read: 3.0 * machine.read, row: 3.0 * machine.row, position: 3.0 * machine.position };
        slow.prompt(&mut pace, 0, 1000, true);
        assert!(pace.prompt_rows(answer, 0) < before);
        machine.prompt(&mut pace, 0, 8000, true);
        assert!(pace.prompt_rows(answer, 0) * 10 >= before * 9, "{before}");
    }
}
