//! What `levain bench` tells about a model whose experts are read from the disk.

use std::path::Path;
use std::time::{Duration, Instant};

use levain_engine::{DiskSpeed, ExpertStats, measure_disk};
use levain_hub::bytes;
use levain_weights::Checkpoint;
use serde_json::{Value, json};

use crate::error::CliError;

/// Enough for some hundred reads.
const MEASURE: Duration = Duration::from_millis(700);

/// What reading experts has come to, and what the disk gives with nothing to wait for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    experts: ExpertStats,
    disk: Option<DiskSpeed>,
    /// When the disk had been measured.
    at: Instant,
}

impl Counts {
    /// Measures the disk that holds `model`.
    pub(super) fn now(experts: ExpertStats, model: &Path) -> Result<Self, CliError> {
        let checkpoint = Checkpoint::open(model)?;
        let disk = measure_disk(&checkpoint, &checkpoint.config()?, MEASURE)?;
        Ok(Self { experts, disk, at: Instant::now() })
    }
}

/// What streaming did during a measurement, beside what the disk gave right before and after it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Streamed {
    done: ExpertStats,
    elapsed: Duration,
    ceiling_gb_per_s: f64,
    direct: bool,
}

impl Streamed {
    /// `done` is when the measurement ended and the disk's began.
    pub(super) fn new(before: Counts, after: Counts, done: Instant) -> Self {
        let speeds = [before.disk, after.disk];
        let elapsed = done.saturating_duration_since(before.at);
        let (before, after) = (before.experts, after.experts);
        let done = ExpertStats {
            hits: after.hits - before.hits,
            misses: after.misses - before.misses,
            read_ahead: after.read_ahead - before.read_ahead,
            bytes_read: after.bytes_read - before.bytes_read,
            bytes_in_vain: after.bytes_in_vain - before.bytes_in_vain,
            reading: after.reading.saturating_sub(before.reading),
            waited: after.waited.saturating_sub(before.waited),
            resident_bytes: after.resident_bytes,
        };
        let known = || speeds.into_iter().flatten();
        // The disk's other users come and go: the better of the two is nearer to what it can give.
        let ceiling_gb_per_s = known().map(|speed| speed.gb_per_s).fold(0.0, f64::max);
        Self { done, elapsed, ceiling_gb_per_s, direct: known().all(|speed| speed.direct) }
    }

    /// Uses of experts that were in memory, of all uses.
    fn hit_rate(&self) -> f64 {
        ratio(self.done.hits as f64, (self.done.hits + self.done.misses) as f64)
    }

    /// What was read, while at least one read was under way.
    fn read_gb_per_s(&self) -> f64 {
        ratio(self.done.bytes_read as f64 / 1e9, self.done.reading.as_secs_f64())
    }

    /// Of what the disk gives, while something is missing.
    fn share(&self) -> f64 {
        ratio(self.read_gb_per_s(), self.ceiling_gb_per_s)
    }

    /// The part of the time during which something was read.
    fn busy(&self) -> f64 {
        ratio(self.done.reading.as_secs_f64(), self.elapsed.as_secs_f64())
    }

    /// Of the missing experts, those whose read had begun before they were asked for.
    fn ahead(&self) -> f64 {
        ratio(self.done.read_ahead as f64, self.done.misses as f64)
    }

    /// For `--json`: the disk's two speeds by themselves, and everything together.
    pub(super) fn notes(&self) -> [(&'static str, Value); 3] {
        [
            ("disk_read_gb_per_s", json!(round(self.read_gb_per_s()))),
            ("ceiling_disk_gb_per_s", json!(round(self.ceiling_gb_per_s))),
            ("experts_from_disk", self.json()),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "disk_read_gb_per_s": round(self.read_gb_per_s()),
            "ceiling_disk_gb_per_s": round(self.ceiling_gb_per_s),
            "disk_share": round(self.share()),
            "disk_busy_share": round(self.busy()),
            "disk_direct": self.direct,
            "hit_rate": round(self.hit_rate()),
            "hits": self.done.hits,
            "misses": self.done.misses,
            "read_ahead": self.done.read_ahead,
            "bytes_read": self.done.bytes_read,
            "bytes_in_vain": self.done.bytes_in_vain,
            "reading_s": round(self.done.reading.as_secs_f64()),
            "waited_s": round(self.done.waited.as_secs_f64()),
            "elapsed_s": round(self.elapsed.as_secs_f64()),
            "resident_bytes": self.done.resident_bytes,
        })
    }

    /// The same as a line of text; `what` was measured.
    pub(super) fn line(&self, what: &str) -> String {
        let percent = |share: f64| format!("{:.0} %", share * 100.0);
        format!(
            "experts from the disk, {what}: {} read at {:.2} GB/s, {} of the {:.2} GB/s that the disk gives{}, busy \
             {} of the time; {} of uses found in memory ({}), {} of the others begun ahead, waited {:.2} s of {:.2} s",
            bytes(self.done.bytes_read),
            self.read_gb_per_s(),
            percent(self.share()),
            self.ceiling_gb_per_s,
            if self.direct { "" } else { " with the system's cache" },
            percent(self.busy()),
            percent(self.hit_rate()),
            bytes(self.done.resident_bytes),
            percent(self.ahead()),
            self.done.waited.as_secs_f64(),
            self.elapsed.as_secs_f64(),
        )
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_what_was_done_between_the_two_counts() {
        let before =
            ExpertStats { hits: 10, misses: 10, bytes_read: 7_000_000_000, ..ExpertStats::default() };
        let after = ExpertStats {
            hits: 40,
            misses: 20,
            read_ahead: 5,
            bytes_read: 10_000_000_000,
            reading: Duration::from_secs(2),
            ..before
        };
        let at = Instant::now();
        let counts =
            |experts, gb_per_s| Counts { experts, disk: Some(DiskSpeed { gb_per_s, direct: true }), at };
        let done = at + Duration::from_secs(4);
        let streamed = Streamed::new(counts(before, 1.0), counts(after, 2.0), done);
        let object = streamed.json();
        for (name, expected) in [
            ("disk_read_gb_per_s", 1.5),
            ("ceiling_disk_gb_per_s", 2.0),
            ("disk_share", 0.75),
            ("disk_busy_share", 0.5),
            ("hit_rate", 0.75),
        ] {
            assert_eq!(object[name].as_f64(), Some(expected), "{name}");
        }
        assert_eq!(object["misses"].as_u64(), Some(10));
        let line = streamed.line("decode");
        assert!(line.contains("75 % of the 2.00 GB/s") && line.contains("50 % of the others"), "{line}");
    }

    #[test]
    fn nothing_done_is_nothing_and_not_a_division_by_zero() {
        let at = Instant::now();
        let none = Counts { experts: ExpertStats::default(), disk: None, at };
        let streamed = Streamed::new(none, none, at);
        assert_eq!(streamed.json()["disk_share"].as_f64(), Some(0.0));
    }
}
