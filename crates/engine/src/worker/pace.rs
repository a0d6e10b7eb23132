//! How many rows of prompts a step may have.
//!
//! A step takes as long as its rows do, and whoever waits for a token, or to be noticed, waits that long. So the
//! rows are bounded by time, as measured on this machine with this model. What is computed does not depend on it.

use std::time::Duration;

use crate::scheduler::StepBudget;

/// The longest that prompts should delay an answer's next token.
const BESIDE_ANSWERS: Duration = Duration::from_millis(100);
/// The longest step where no answer waits.
const ALONE: Duration = Duration::from_millis(400);
/// Fewer rows waste the reading of the weights.
const ROWS_BESIDE_MIN: usize = 16;
const ROWS_ALONE_MIN: usize = 64;
/// Where nothing has been measured yet.
const ROWS_FIRST: usize = 64;
/// Steps with fewer prompt rows say little about the time of one.
const ROWS_MEASURED_MIN: usize = 16;

#[derive(Debug)]
pub(super) struct Pace {
    rows_max: usize,
    fixed: Option<usize>,
    /// Seconds for a prompt row, as a moving average.
    row_time: Option<f64>,
    /// Seconds for a step of answers alone, as a moving average.
    answers_time: f64,
}

impl Pace {
    pub(super) fn new(rows_max: usize, fixed: Option<usize>) -> Self {
        Self { rows_max, fixed, row_time: None, answers_time: 0.0 }
    }

    /// What the next step may have.
    pub(super) fn budget(&self) -> StepBudget {
        let rows = |time: Duration, least: usize| match (self.fixed, self.row_time) {
            (Some(fixed), _) => fixed,
            (None, Some(row_time)) => ((time.as_secs_f64() / row_time) as usize).clamp(least, self.rows_max),
            (None, None) => ROWS_FIRST,
        };
        StepBudget {
            rows: self.rows_max,
            prompt_rows_beside_answers: rows(BESIDE_ANSWERS, ROWS_BESIDE_MIN),
            prompt_rows_alone: rows(ALONE, ROWS_ALONE_MIN),
        }
    }

    /// Learns from a step.
    pub(super) fn note(&mut self, prompt_rows: usize, answer_rows: usize, time: Duration) {
        let seconds = time.as_secs_f64();
        if prompt_rows == 0 && answer_rows > 0 {
            self.answers_time += (seconds - self.answers_time) * 0.25;
        }
        if prompt_rows >= ROWS_MEASURED_MIN {
            let for_answers = if answer_rows > 0 { self.answers_time } else { 0.0 };
            let per_row = ((seconds - for_answers) / prompt_rows as f64).max(1e-7);
            let before = self.row_time.unwrap_or(per_row);
            self.row_time = Some(before + (per_row - before) * 0.5);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_models_get_short_chunks_and_fast_ones_long() {
        let mut pace = Pace::new(512, None);
        // 7B on two cores: some 110 rows a second.
        for _ in 0..10 {
            pace.note(64, 0, Duration::from_millis(580));
        }
        assert_eq!(pace.budget().prompt_rows_beside_answers, 16);
        assert_eq!(pace.budget().prompt_rows_alone, 64);
        // 135M: some 5,000 rows a second.
        for _ in 0..20 {
            pace.note(64, 1, Duration::from_millis(13));
        }
        assert!(pace.budget().prompt_rows_beside_answers > 400);
        assert_eq!(pace.budget().prompt_rows_alone, 512);
        assert_eq!(Pace::new(512, Some(7)).budget().prompt_rows_alone, 7);
    }
}
