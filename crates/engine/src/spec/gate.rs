//! How many tokens to draft, so that speculation pays or is off.
//!
//! A step that verifies `k` drafted tokens takes longer than a step of one row, and yields one token plus those
//! accepted. With acceptance `a` a token, the expected yield is `(1 - a^(k+1)) / (1 - a)` (Leviathan et al.,
//! "Fast Inference from Transformers via Speculative Decoding", eq. 1). Acceptance and times are measured; what
//! is computed never depends on them, only when.
//!
//! What all this costs is kept in an account: a small share of the time that passes, and what drafts have saved.
//! Nothing is drafted on a debt, so speculation cannot cost more than that share and the little that it begins with.

use super::WINDOW_START_MAX;

/// Weight of a new measurement in a moving average.
const WEIGHT: f64 = 0.1;
/// Speculation must promise at least this much, or it is off.
const GAIN_MIN: f64 = 1.05;
/// Turns without speculation before it is tried again; doubled while it does not pay.
const PAUSE_FIRST: u32 = 16;
const PAUSE_MAX: u32 = 512;
/// Numbers of sequences whose times are kept apart; larger batches count as the largest.
const BATCH_CLASSES: usize = 8;
/// Plain steps that are measured before anything is drafted.
const PLAIN_STEPS_MIN: u32 = 3;
/// A plain step is measured anew after so many others: machines change their mind.
const STEPS_UNTIL_PLAIN: u32 = 32;
/// The share of the time that may go into drafts that do not pay.
const SHARE: f64 = 0.015;
/// What the account begins with, and what it is filled up to, in plain steps.
const GRANT: f64 = 3.0;
/// What the account may hold of what drafts have saved, in plain steps.
const SAVINGS_MAX: f64 = 64.0;
/// The fewest positions that a window begins with.
const WINDOW_START_MIN: usize = 16;

/// A moving average of measured times.
#[derive(Debug, Clone, Copy, Default)]
struct Average {
    value: f64,
    count: u32,
}

impl Average {
    /// The average of what has been noted, with `now`.
    fn note(&mut self, now: f64) -> f64 {
        self.count = self.count.saturating_add(1);
        // One measurement may be far off, when another program had the cores: it counts as twice or half at most.
        let steady = self.count > 3 && self.value > 0.0;
        let now = if steady { now.clamp(self.value / 2.0, self.value * 2.0) } else { now };
        self.value += (now - self.value) * WEIGHT.max(1.0 / f64::from(self.count));
        self.value
    }

    fn get(&self) -> Option<f64> {
        (self.count > 0).then_some(self.value)
    }
}

/// Measured times, for one number of sequences.
#[derive(Debug, Clone, Copy, Default)]
struct StepTimes {
    /// Seconds of a step in which each sequence has one row.
    plain: Average,
    /// Steps with drafts since the last one without.
    since_plain: u32,
    /// Seconds that verifying a drafted token adds.
    per_draft: Average,
    /// Seconds that drafting a token takes.
    drafting: Average,
}

/// Decides how many tokens are drafted, and learns from what became of them.
#[derive(Debug)]
pub(crate) struct Gate {
    /// As many as this, whatever it costs.
    fixed: Option<usize>,
    times: [StepTimes; BATCH_CLASSES],
    /// Seconds that drafts may still cost.
    account: f64,
    /// Seconds that a drafting model takes for a position that it has missed.
    per_missed: Average,
    /// The latest sequences' acceptance: what a new one is expected to have.
    acceptance: f64,
}

/// What one sequence has learnt about its drafts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DraftPolicy {
    /// `None` before its first draft.
    acceptance: Option<f64>,
    /// Turns until speculation is tried again, where it is off.
    paused: u32,
    pause: u32,
    /// Whether drafts would pay if they were right.
    may_pay: bool,
}

impl Default for DraftPolicy {
    fn default() -> Self {
        Self { acceptance: None, paused: 0, pause: PAUSE_FIRST, may_pay: true }
    }
}

/// What to do for a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing: drafts do not pay.
    Rest,
    /// Let a drafter see what is new, if that costs little, and draft up to so many tokens; none where a plain step
    /// is to be measured.
    Draft(usize),
}

impl Gate {
    /// Drafts `fixed` tokens a turn, or measures and chooses.
    pub(crate) fn new(fixed: Option<usize>) -> Self {
        Self {
            fixed,
            times: Default::default(),
            account: 0.0,
            per_missed: Average::default(),
            acceptance: 0.6,
        }
    }

    /// How many tokens to draft for a sequence, at most `max`, where `sequences` are in a step.
    pub(crate) fn turn(&self, policy: &mut DraftPolicy, sequences: usize, max: usize) -> Turn {
        if let Some(fixed) = self.fixed {
            return Turn::Draft(fixed.min(max));
        }
        let times = &self.times[class(sequences)];
        if times.plain.count < PLAIN_STEPS_MIN {
            return Turn::Draft(0);
        }
        let plain = times.plain.value;
        if self.account <= 0.0 {
            return Turn::Rest;
        }
        if policy.paused > 0 {
            policy.paused -= 1;
            return Turn::Rest;
        }
        if times.since_plain >= STEPS_UNTIL_PLAIN {
            return Turn::Draft(0);
        }
        let acceptance = *policy.acceptance.get_or_insert(self.acceptance);
        let Some(per_draft) = times.per_draft.get() else {
            // Nothing measured yet.
            return Turn::Draft(max.min(2));
        };
        // All sequences are supposed to draft alike.
        let each = (per_draft + times.drafting.value) * sequences as f64;
        let longest = |acceptance| {
            (1..=max)
                .map(|k| (k, expected_yield(acceptance, k) * plain / (plain + each * k as f64)))
                .fold((0, 1.0), |best, now| if now.1 > best.1 { now } else { best })
        };
        policy.may_pay = longest(1.0).1 >= GAIN_MIN;
        let (best, gain) = longest(acceptance);
        if gain >= GAIN_MIN {
            policy.pause = PAUSE_FIRST;
            return Turn::Draft(best);
        }
        if self.account < each + self.per_missed.value * WINDOW_START_MIN as f64 {
            return Turn::Rest;
        }
        policy.paused = policy.pause;
        policy.pause = (policy.pause * 2).min(PAUSE_MAX);
        // One short trial each time the pause is over, so that a change is noticed.
        Turn::Draft(max.min(1))
    }

    /// With how many positions a drafting model's new window begins, of `len` that there are.
    pub(crate) fn window_start(&self, len: usize) -> usize {
        let affordable = match (self.fixed, self.per_missed.get()) {
            (Some(_), _) => WINDOW_START_MAX,
            (None, Some(each)) => (self.account / each) as usize,
            (None, None) => WINDOW_START_MIN,
        };
        len.min(affordable.clamp(WINDOW_START_MIN, WINDOW_START_MAX))
    }

    /// Notes a step of `sequences` answers alone, in which `accepted` of `drafted` tokens were right.
    pub(crate) fn note_step(&mut self, sequences: usize, drafted: usize, accepted: usize, seconds: f64) {
        let first = self.times.iter().all(|times| times.plain.count == 0);
        let times = &mut self.times[class(sequences)];
        if drafted == 0 {
            times.plain.note(seconds);
            times.since_plain = 0;
            if first {
                self.account = GRANT * seconds;
            }
        } else if let Some(plain) = times.plain.get() {
            times.since_plain += 1;
            let per_draft = times.per_draft.note(((seconds - plain) / drafted as f64).max(0.0));
            // The averages count, as a single step may have met with anything.
            let saved = plain * accepted as f64 / sequences.max(1) as f64 - per_draft * drafted as f64;
            self.account = (self.account + saved).min(SAVINGS_MAX * plain);
        }
        self.note_time(sequences, seconds);
    }

    /// Notes that time has passed, of which a share may go into drafts.
    pub(crate) fn note_time(&mut self, sequences: usize, seconds: f64) {
        let full = self.times[class(sequences)].plain.value * GRANT;
        if self.account < full {
            self.account = (self.account + SHARE * seconds).min(full);
        }
    }

    /// Notes that drafting `count` tokens for `sequences` took so long.
    pub(crate) fn note_drafting(&mut self, sequences: usize, count: usize, seconds: f64) {
        let each = self.times[class(sequences)].drafting.note(seconds / count.max(1) as f64);
        self.account -= each * count as f64;
    }

    /// Notes that a drafting model took so long for `count` positions that it had missed.
    pub(crate) fn note_missed(&mut self, count: usize, seconds: f64) {
        let each = self.per_missed.note(seconds / count.max(1) as f64);
        self.account -= each * count as f64;
    }

    /// Notes that the first `accepted` of `drafted` tokens of a sequence were right.
    pub(crate) fn note_drafts(&mut self, policy: &mut DraftPolicy, drafted: usize, accepted: usize) {
        let mut acceptance = policy.acceptance.unwrap_or(self.acceptance);
        // The first wrong token says something, those after it nothing.
        for index in 0..drafted.min(accepted + 1) {
            let right = if index < accepted { 1.0 } else { 0.0 };
            acceptance += (right - acceptance) * WEIGHT;
            self.acceptance += (right - self.acceptance) * WEIGHT / 4.0;
        }
        policy.acceptance = Some(acceptance);
        if policy.may_pay && drafted > 0 && accepted == drafted {
            // A trial that went well is followed by another at once.
            policy.paused = 0;
        }
    }
}

fn class(sequences: usize) -> usize {
    sequences.clamp(1, BATCH_CLASSES) - 1
}

fn expected_yield(acceptance: f64, k: usize) -> f64 {
    let a = acceptance.clamp(0.0, 0.999);
    (1.0 - a.powi(k as i32 + 1)) / (1.0 - a)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A gate that has measured: a plain step takes a second, verifying and drafting a token so much.
    fn gate(per_draft: f64, drafting: f64) -> Gate {
        let mut gate = Gate::new(None);
        for _ in 0..PLAIN_STEPS_MIN {
            gate.note_step(1, 0, 0, 1.0);
        }
        gate.times[0].per_draft.note(per_draft);
        gate.times[0].drafting.note(drafting);
        gate
    }

    /// Lets a sequence with drafts that are right with a chance of `acceptance` grow by `steps` steps and returns the
    /// time that took and the tokens it gave.
    fn run(gate: &mut Gate, steps: usize, acceptance: f64, per_draft: f64, drafting: f64) -> (f64, f64) {
        let mut policy = DraftPolicy::default();
        let (mut time, mut tokens, mut random) = (0.0, 0.0, 7u32);
        for _ in 0..steps {
            let drafted = match gate.turn(&mut policy, 1, 8) {
                Turn::Draft(count) => count,
                Turn::Rest => 0,
            };
            let right = |random: &mut u32| {
                *random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                f64::from(*random >> 8) / f64::from(1 << 24) < acceptance
            };
            let accepted = (0..drafted).take_while(|_| right(&mut random)).count();
            if drafted > 0 {
                gate.note_drafting(1, drafted, drafting * drafted as f64);
                gate.note_drafts(&mut policy, drafted, accepted);
            }
            let step = 1.0 + per_draft * drafted as f64;
            gate.note_step(1, drafted, accepted, step);
            time += step + drafting * drafted as f64;
            tokens += 1.0 + accepted as f64;
        }
        (time, tokens)
    }

    #[test]
    fn good_drafts_pay() {
        for (acceptance, per_draft, drafting, least) in
            [(0.95, 0.1, 0.0, 2.8), (0.8, 0.2, 0.05, 1.4), (0.9, 0.2, 0.1, 1.5)]
        {
            let (time, tokens) = run(&mut gate(per_draft, drafting), 400, acceptance, per_draft, drafting);
            assert!(tokens / time > least, "{acceptance}: {}", tokens / time);
        }
    }

    #[test]
    fn bad_or_dear_drafts_cost_less_than_three_per_cent_from_the_first_token_on() {
        for (acceptance, per_draft, drafting) in [
            (0.0, 0.5, 0.0),
            (0.1, 0.3, 0.3),
            (0.3, 0.4, 0.4),
            (0.9, 1.2, 0.0),
            (1.0, 0.2, 1.0),
            (0.5, 0.0, 0.6),
        ] {
            let mut fresh = Gate::new(None);
            for steps in [200, 600, 5000] {
                let (time, tokens) = run(&mut fresh, steps, acceptance, per_draft, drafting);
                assert!(time / tokens < 1.03, "{acceptance} {per_draft} {drafting}: {}", time / tokens);
            }
        }
    }

    #[test]
    fn drafts_that_turn_bad_stop_soon() {
        let mut gate = gate(0.2, 0.05);
        let (time, tokens) = run(&mut gate, 2000, 0.9, 0.2, 0.05);
        assert!(tokens > 1.5 * time);
        let (time, tokens) = run(&mut gate, 300, 0.1, 0.2, 0.05);
        assert!(time / tokens < 1.03, "{}", time / tokens);
    }

    #[test]
    fn a_change_for_the_better_is_noticed() {
        for per_draft in [0.1, 0.3] {
            let mut gate = gate(per_draft, 0.0);
            run(&mut gate, 2000, 0.0, per_draft, 0.0);
            let (time, tokens) = run(&mut gate, 1000, 0.9, per_draft, 0.0);
            assert!(tokens > 1.3 * time, "{per_draft}: {}", tokens / time);
        }
    }

    #[test]
    fn plain_steps_are_measured_before_anything_is_drafted_and_from_time_to_time() {
        let mut gate = Gate::new(None);
        let mut policy = DraftPolicy::default();
        for _ in 0..PLAIN_STEPS_MIN {
            assert_eq!(gate.turn(&mut policy, 1, 8), Turn::Draft(0));
            gate.note_step(1, 0, 0, 1.0);
        }
        for _ in 0..STEPS_UNTIL_PLAIN {
            assert!(matches!(gate.turn(&mut policy, 1, 8), Turn::Draft(1..)));
            gate.note_step(1, 2, 2, 1.1);
            gate.note_drafts(&mut policy, 2, 2);
        }
        assert_eq!(gate.turn(&mut policy, 1, 8), Turn::Draft(0));
        // Twice as many sequences have times of their own.
        assert_eq!(gate.turn(&mut policy, 2, 8), Turn::Draft(0));
    }

    #[test]
    fn what_costs_each_sequence_time_counts_for_each() {
        let mut gate = gate(0.2, 0.0);
        gate.times[3] = gate.times[0];
        let mut policy = DraftPolicy { acceptance: Some(0.7), ..DraftPolicy::default() };
        assert!(matches!(gate.turn(&mut policy, 1, 8), Turn::Draft(2..)));
        // Four tokens verified for four sequences take 0.8 seconds more.
        assert_eq!(gate.turn(&mut policy, 4, 8), Turn::Draft(1));
        assert_eq!(gate.turn(&mut policy, 4, 8), Turn::Rest);
    }

    #[test]
    fn a_fixed_number_is_drafted_whatever_it_costs() {
        let mut policy = DraftPolicy::default();
        assert_eq!(Gate::new(Some(3)).turn(&mut policy, 1, 8), Turn::Draft(3));
        assert_eq!(Gate::new(Some(3)).turn(&mut policy, 1, 2), Turn::Draft(2));
        assert_eq!(Gate::new(Some(3)).window_start(1000), WINDOW_START_MAX);
        assert_eq!(Gate::new(None).window_start(1000), WINDOW_START_MIN);
    }
}
