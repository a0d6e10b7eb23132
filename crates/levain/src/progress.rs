//! A pull's progress: bars on a terminal, a line at the begin and the end elsewhere.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use levain_hub::{Progress, PullEvent, Transfer, bytes};

use crate::answer::printable;
use crate::printer::Printer;

/// Shows a pull on standard error.
pub(crate) struct Bars {
    printer: Printer,
    bars: Option<MultiProgress>,
    files: Mutex<BTreeMap<String, Shown>>,
}

struct Shown {
    bar: Option<ProgressBar>,
    begun: Instant,
    first_byte: u64,
}

impl Bars {
    /// Bars if the printer shows progress, lines otherwise.
    pub(crate) fn new(printer: Printer) -> Self {
        let bars =
            printer.shows_progress().then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        Self { printer, bars, files: Mutex::default() }
    }

    /// Leaves the terminal clean.
    pub(crate) fn finish(&self) {
        if let Some(bars) = &self.bars {
            let _ = bars.clear();
        }
    }

    /// A line that does not tear the bars apart.
    fn say(&self, text: &str) {
        // Names of files come from a server.
        let text = &printable(text);
        match &self.bars {
            Some(bars) => bars.suspend(|| self.printer.say(text)),
            None => self.printer.say(text),
        }
    }

    /// The bar of a file, made at its first mention; true if this is the first.
    fn with<T>(&self, file: &str, done: u64, work: impl FnOnce(&Shown, bool) -> T) -> T {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let first = !files.contains_key(file);
        let shown = files.entry(file.to_owned()).or_insert_with(|| {
            let bar =
                self.bars.as_ref().map(|bars| bars.add(ProgressBar::no_length().with_prefix(short(file))));
            if let Some(bar) = &bar {
                bar.set_style(style());
            }
            Shown { bar, begun: Instant::now(), first_byte: done }
        });
        work(shown, first)
    }

    fn transfer(&self, transfer: &Transfer<'_>) {
        let first = self.with(transfer.file, transfer.done, |shown, first| {
            if let Some(bar) = &shown.bar {
                draw(bar, transfer);
            }
            first
        });
        if first && self.bars.is_none() {
            let total = transfer.total.map(|total| format!(", {}", bytes(total))).unwrap_or_default();
            let from = if transfer.done > 0 {
                format!(", of which {} are here", bytes(transfer.done))
            } else {
                String::new()
            };
            self.say(&format!("fetching {}{total}{from}", transfer.file));
        }
    }
}

impl Progress for Bars {
    fn event(&self, event: PullEvent<'_>) {
        match event {
            PullEvent::Plan { files, bytes: total } if files > 1 => {
                let total = total.map(|total| format!(", {}", bytes(total))).unwrap_or_default();
                self.say(&format!("{files} files to fetch{total}"));
            }
            PullEvent::Transfer(transfer) => self.transfer(&transfer),
            PullEvent::Kept { reason } => {
                self.say(&format!("{reason}: taking what is on this machine"));
            }
            PullEvent::Waiting { file } => {
                self.say(&format!("another process fetches {file}: waiting for it"));
            }
            PullEvent::Retrying { file, reason, wait } => {
                self.say(&format!("{file}: {reason}; trying again in {:.1} s", wait.as_secs_f64()));
            }
            PullEvent::Unpacking { file, done, total } => {
                let first = self.with(&format!("unpacking {file}"), 0, |shown, first| {
                    if let Some(bar) = &shown.bar {
                        draw(bar, &Transfer { file, done, total: Some(total), rate: 0.0, eta: None });
                    }
                    first
                });
                if first && self.bars.is_none() {
                    self.say(&format!("unpacking {file}, {}", bytes(total)));
                }
            }
            PullEvent::Complete { file, bytes: length } => {
                let (took, fetched) = self.with(file, 0, |shown, _| {
                    if let Some(bar) = &shown.bar {
                        bar.finish_and_clear();
                    }
                    (shown.begun.elapsed(), length.saturating_sub(shown.first_byte))
                });
                self.say(&format!("{file}: {} in {}, digest verified", bytes(fetched), seconds(took)));
            }
            _ => {}
        }
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:32} {wide_bar} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn draw(bar: &ProgressBar, transfer: &Transfer<'_>) {
    let mut message = match transfer.total {
        Some(total) => {
            bar.set_length(total);
            let percent = transfer.done.saturating_mul(100).checked_div(total).unwrap_or(100);
            format!("{percent:3} % of {}", bytes(total))
        }
        None => bytes(transfer.done),
    };
    bar.set_position(transfer.done);
    if transfer.rate > 0.0 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate for people")]
        let rate = transfer.rate as u64;
        message += &format!(", {}/s", bytes(rate));
    }
    if let Some(eta) = transfer.eta {
        message += &format!(", {} left", seconds(eta));
    }
    bar.set_message(message);
}

/// The last part of a path, cut to the width that it has.
fn short(file: &str) -> String {
    const WIDTH: usize = 32;
    let name = printable(file.rsplit('/').next().unwrap_or(file));
    if name.chars().count() <= WIDTH {
        return name;
    }
    let tail: String = name.chars().skip(name.chars().count() - (WIDTH - 1)).collect();
    format!("…{tail}")
}

/// A time for people: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`.
pub(crate) fn seconds(time: Duration) -> String {
    let s = time.as_secs();
    match s {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        _ => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}
