//! How many tokens to draft, so that speculation pays or is off.
//!
//! A step that verifies `k` drafted tokens takes longer than a step of one row, and yields one token plus those
//! accepted. With acceptance `a` a token, the expected yield is `(1 - a^(k+1)) / (1 - a)` (Leviathan et al.,
//! "Fast Inference from Transformers via Speculative Decoding", eq. 1). Acceptance and times are measured; what
//! is computed never depends on them, only when.

/// Weight of a new measurement in a moving average.
const WEIGHT: f64 = 0.1;
/// Speculation must promise at least this much, or it is off.
const GAIN_MIN: f64 = 1.05;
/// Steps without speculation before it is tried again; doubled while it does not pay.
const PAUSE_FIRST: u32 = 16;
const PAUSE_MAX: u32 = 512;

/// Measured times of verifying steps, shared by all sequences.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct StepTimes {
    /// Seconds of a step in which each sequence has one row.
    plain: Option<f64>,
    /// Seconds that verifying a drafted token adds.
    per_draft: Option<f64>,
    /// Seconds that drafting a token takes.
    drafting: f64,
}

impl StepTimes {
    /// Notes that drafting `count` tokens took so long.
    pub(crate) fn note_drafting(&mut self, count: usize, seconds: f64) {
        let each = seconds / count.max(1) as f64;
        self.drafting += (each - self.drafting) * if self.drafting == 0.0 { 1.0 } else { WEIGHT };
    }

    /// Notes a step of answers alone, in which `drafted` tokens were verified.
    pub(crate) fn note(&mut self, drafted: usize, seconds: f64) {
        let average = |before: Option<f64>, now: f64| Some(before.map_or(now, |b| b + (now - b) * WEIGHT));
        if drafted == 0 {
            self.plain = average(self.plain, seconds);
        } else if let Some(plain) = self.plain {
            self.per_draft = average(self.per_draft, ((seconds - plain) / drafted as f64).max(0.0));
        }
    }
}

/// What one sequence has learnt about its drafts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DraftPolicy {
    acceptance: f64,
    /// Steps until speculation is tried again, where it is off.
    paused: u32,
    pause: u32,
    /// Drafted tokens so far, and those of them that were accepted.
    pub(crate) drafted: u64,
    pub(crate) accepted: u64,
}

impl Default for DraftPolicy {
    fn default() -> Self {
        Self { acceptance: 0.6, paused: 0, pause: PAUSE_FIRST, drafted: 0, accepted: 0 }
    }
}

impl DraftPolicy {
    /// How many tokens to draft for the next step, at most `max`.
    pub(crate) fn length(&mut self, times: &StepTimes, max: usize) -> usize {
        if self.paused > 0 {
            self.paused -= 1;
            return 0;
        }
        let (Some(plain), Some(per_draft)) = (times.plain, times.per_draft) else {
            // Nothing measured yet: plain steps first, then short drafts.
            return if times.plain.is_some() { max.min(2) } else { 0 };
        };
        let each = per_draft + times.drafting;
        let (best, gain) = (1..=max)
            .map(|k| (k, self.expected_yield(k) * plain / (plain + each * k as f64)))
            .fold((0, 1.0), |best, now| if now.1 > best.1 { now } else { best });
        if gain >= GAIN_MIN {
            self.pause = PAUSE_FIRST;
            return best;
        }
        self.paused = self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        // One short trial each time the pause is over, so that a change is noticed.
        max.min(1)
    }

    /// Notes that the first `accepted` of `drafted` tokens were right.
    pub(crate) fn note(&mut self, drafted: usize, accepted: usize) {
        self.drafted += drafted as u64;
        self.accepted += accepted as u64;
        // The first wrong token says something, those after it nothing.
        for index in 0..drafted.min(accepted + 1) {
            let right = if index < accepted { 1.0 } else { 0.0 };
            self.acceptance += (right - self.acceptance) * WEIGHT;
        }
    }

    fn expected_yield(&self, k: usize) -> f64 {
        let a = self.acceptance.clamp(0.0, 0.999);
        (1.0 - a.powi(k as i32 + 1)) / (1.0 - a)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(plain: f64, per_draft: f64) -> StepTimes {
        StepTimes { plain: Some(plain), per_draft: Some(per_draft), drafting: 0.0 }
    }

    #[test]
    fn good_drafts_grow_long_and_bad_ones_stop() {
        let mut policy = DraftPolicy::default();
        for _ in 0..50 {
            policy.note(4, 4);
        }
        assert_eq!(policy.length(&times(1.0, 0.05), 8), 8);
        for _ in 0..50 {
            policy.note(4, 0);
        }
        let lengths: Vec<_> = (0..40).map(|_| policy.length(&times(1.0, 0.2), 8)).collect();
        assert!(lengths.iter().sum::<usize>() <= 3, "{lengths:?}");
    }

    #[test]
    fn dear_drafts_are_not_made_however_good() {
        let mut policy = DraftPolicy::default();
        for _ in 0..50 {
            policy.note(1, 1);
        }
        assert!(policy.length(&times(1.0, 1.2), 4) <= 1);
        assert_eq!(policy.length(&times(1.0, 1.2), 4), 0);
    }

    #[test]
    fn trials_of_hopeless_drafts_cost_less_than_three_per_cent() {
        let times = times(1.0, 0.5);
        let mut policy = DraftPolicy::default();
        let (mut steps, mut extra) = (0.0, 0.0);
        for _ in 0..4000 {
            let k = policy.length(&times, 8);
            if k > 0 {
                policy.note(k, 0);
            }
            steps += 1.0;
            extra += 0.5 * k as f64;
        }
        assert!(extra / steps < 0.03, "{}", extra / steps);
    }

    #[test]
    fn plain_steps_are_measured_before_anything_is_drafted() {
        let mut measured = StepTimes::default();
        let mut policy = DraftPolicy::default();
        assert_eq!(policy.length(&measured, 8), 0);
        measured.note(0, 1.0);
        assert_eq!(policy.length(&measured, 8), 2);
        measured.note(2, 1.2);
        assert!((measured.per_draft.unwrap() - 0.1).abs() < 1e-9);
    }
}
