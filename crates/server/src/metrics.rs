//! What `/metrics` tells.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use levain_chat::{ChatEvent, CompletionEvent, ProviderLoad, Usage};
use levain_wire::openai::ApiError;

use crate::histogram::Histogram;

/// Route, method and status: all three from fixed sets, so that clients can't grow the table.
type RequestKey = (&'static str, &'static str, u16);

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<RequestKey, u64>>,
    duration: Histogram,
    queue: Histogram,
    first_token: Histogram,
    per_token: Histogram,
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    reasoning_tokens: AtomicU64,
    drafted_tokens: AtomicU64,
    accepted_tokens: AtomicU64,
    cancelled: AtomicU64,
    panics: AtomicU64,
    pub(crate) connections: AtomicU64,
}

impl Metrics {
    pub(crate) fn request(&self, route: &'static str, method: &'static str, status: u16, time: Duration) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((route, method, status)).or_default() += 1;
        drop(requests);
        self.duration.record(time);
    }

    pub(crate) fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    fn usage(&self, usage: &Usage) {
        for (counter, tokens) in [
            (&self.prompt_tokens, usage.prompt_tokens),
            (&self.cached_tokens, usage.cached_tokens),
            (&self.completion_tokens, usage.completion_tokens),
            (&self.reasoning_tokens, usage.reasoning_tokens),
            (&self.drafted_tokens, usage.drafted_tokens),
            (&self.accepted_tokens, usage.accepted_tokens),
        ] {
            counter.fetch_add(tokens, Ordering::Relaxed);
        }
        self.queue.record(usage.queue_time);
        if let Some(gaps) = usage.completion_tokens.checked_sub(1).filter(|gaps| *gaps > 0) {
            self.per_token.record(usage.decode_time.div_f64(gaps as f64));
        }
    }

    /// The page, in the text form of Prometheus.
    pub(crate) fn page(&self, load: ProviderLoad) -> String {
        let mut out = String::with_capacity(4096);
        // Writing to a string can't fail.
        let _ = writeln!(out, "# HELP levain_requests_total Requests by route, method and status.");
        let _ = writeln!(out, "# TYPE levain_requests_total counter");
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for ((route, method, status), count) in requests {
            let _ = writeln!(
                out,
                "levain_requests_total{{route=\"{route}\",method=\"{method}\",status=\"{status}\"}} {count}"
            );
        }
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for (kind, name, help, value) in [
            ("counter", "levain_prompt_tokens_total", "Tokens of prompts.", read(&self.prompt_tokens)),
            (
                "counter",
                "levain_cached_tokens_total",
                "Tokens of prompts found cached.",
                read(&self.cached_tokens),
            ),
            ("counter", "levain_completion_tokens_total", "Tokens generated.", read(&self.completion_tokens)),
            (
                "counter",
                "levain_reasoning_tokens_total",
                "Generated tokens of reasoning.",
                read(&self.reasoning_tokens),
            ),
            ("counter", "levain_drafted_tokens_total", "Tokens drafted ahead.", read(&self.drafted_tokens)),
            (
                "counter",
                "levain_accepted_tokens_total",
                "Drafted tokens that were right.",
                read(&self.accepted_tokens),
            ),
            ("counter", "levain_cancelled_total", "Answers whose client left.", read(&self.cancelled)),
            ("counter", "levain_panics_total", "Requests that met a bug.", read(&self.panics) + load.panics),
            ("gauge", "levain_connections", "Open connections.", read(&self.connections)),
            ("gauge", "levain_sequences_running", "Sequences that generate.", load.running),
            ("gauge", "levain_sequences_waiting", "Sequences that wait.", load.waiting),
            ("gauge", "levain_kv_blocks_used", "KV cache blocks in use.", load.kv_blocks_used),
            ("gauge", "levain_kv_blocks_total", "KV cache blocks.", load.kv_blocks_total),
            (
                "gauge",
                "levain_weights_unpacked_bytes",
                "Weights not in their final form yet: answers grow slowly until there are none.",
                load.unpacked_bytes,
            ),
        ] {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        }
        if let Some(experts) = load.experts {
            for (kind, name, help, value) in [
                ("counter", "levain_expert_hits_total", "Uses of experts found in memory.", experts.hits),
                ("counter", "levain_expert_misses_total", "Uses of experts read from disk.", experts.misses),
                ("counter", "levain_expert_bytes_read_total", "Bytes of experts read.", experts.bytes_read),
                ("gauge", "levain_expert_resident_bytes", "Experts in memory.", experts.resident_bytes),
            ] {
                let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
            }
        }
        if let Some(bytes) = resident_bytes() {
            let name = "process_resident_memory_bytes";
            let _ = writeln!(out, "# HELP {name} Resident memory.\n# TYPE {name} gauge\n{name} {bytes}");
        }
        for (histogram, name, help) in [
            (&self.duration, "levain_request_seconds", "From a request's head to its response's head."),
            (&self.queue, "levain_queue_seconds", "From arrival to the first forward pass."),
            (&self.first_token, "levain_first_token_seconds", "From arrival to the first token."),
            (&self.per_token, "levain_decode_token_seconds", "Between two tokens of an answer."),
        ] {
            histogram.write(&mut out, name, help);
        }
        out
    }
}

/// The kernel's own count, where it tells.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Follows one answer; when it is dropped before the end was seen, the client left.
#[derive(Debug)]
pub(crate) struct Meter {
    metrics: Arc<Metrics>,
    request_id: String,
    started: Instant,
    first: Option<Duration>,
    tokens: u64,
    ended: bool,
}

impl Meter {
    /// For a request that arrived at `started`.
    pub(crate) fn new(metrics: &Arc<Metrics>, request_id: &str, started: Instant) -> Self {
        let request_id = request_id.to_owned();
        Self { metrics: Arc::clone(metrics), request_id, started, first: None, tokens: 0, ended: false }
    }

    /// Passes a result on; an error ends the answer.
    pub(crate) fn watch<T, E: Into<ApiError>>(&mut self, result: Result<T, E>) -> Result<T, ApiError> {
        result.map_err(|error| {
            let error = error.into();
            self.end(error.code);
            error
        })
    }

    pub(crate) fn chat(&mut self, event: &ChatEvent) {
        match event {
            ChatEvent::Usage(usage) => self.usage(usage),
            ChatEvent::Unenforced(_) | ChatEvent::Finish { .. } => {}
            _ => self.content(),
        }
    }

    pub(crate) fn completion(&mut self, event: &CompletionEvent) {
        match event {
            CompletionEvent::Usage(usage) => self.usage(usage),
            CompletionEvent::Finish { .. } => {}
            CompletionEvent::Text { .. } => self.content(),
        }
    }

    pub(crate) fn prompt(&mut self, tokens: u64) {
        self.metrics.prompt_tokens.fetch_add(tokens, Ordering::Relaxed);
    }

    fn content(&mut self) {
        if self.first.is_none() {
            let time = self.started.elapsed();
            self.first = Some(time);
            self.metrics.first_token.record(time);
        }
    }

    fn usage(&mut self, usage: &Usage) {
        self.tokens = self.tokens.saturating_add(usage.completion_tokens);
        self.metrics.usage(usage);
    }

    /// The answer came to an end, good or bad.
    pub(crate) fn end(&mut self, outcome: &'static str) {
        self.ended = true;
        tracing::info!(
            request_id = self.request_id,
            outcome,
            completion_tokens = self.tokens,
            first_token_ms = self.first.map(|time| time.as_secs_f64() * 1e3),
            ms = self.started.elapsed().as_secs_f64() * 1e3,
            "answered"
        );
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if !self.ended {
            self.metrics.cancelled.fetch_add(1, Ordering::Relaxed);
            tracing::info!(
                request_id = self.request_id,
                ms = self.started.elapsed().as_secs_f64() * 1e3,
                "the client left"
            );
        }
    }
}
