//! One file, from a server to its final name: locked, resumed, verified, flushed, and only then visible.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode, Url};

use crate::config::RetryPolicy;
use crate::digest::{Digest, Hasher};
use crate::http::{Credential, Get, Http, host, is_transient, unreachable};
use crate::lock::Lock;
use crate::progress::Meter;
use crate::{HubError, Progress, PullEvent, disk};

/// No checkpoint file is larger; a server that sends more is lying.
const FILE_BYTES_MAX: u64 = 4 << 40;

/// How often a transfer may begin again because the file on the server changed.
const RESTARTS_MAX: u32 = 3;

/// What to fetch and where to.
pub(crate) struct Fetch<'a> {
    /// For people.
    pub(crate) name: &'a str,
    pub(crate) url: Url,
    /// The page that named `url`.
    pub(crate) via: Option<Url>,
    pub(crate) credential: Option<&'a Credential>,
    pub(crate) promised: Option<Digest>,
    pub(crate) length: Option<u64>,
    /// Where the bytes gather.
    pub(crate) partial: PathBuf,
    /// Where they are to be.
    pub(crate) dest: PathBuf,
    pub(crate) lock: PathBuf,
    pub(crate) keep_lock: bool,
}

/// Fetches unless it is there. Returns the SHA-256 if the bytes came just now.
pub(crate) async fn fetch(
    http: &Http,
    policy: RetryPolicy,
    fetch: &Fetch<'_>,
    progress: &dyn Progress,
) -> Result<Option<String>, HubError> {
    if is_present(fetch) {
        return Ok(None);
    }
    let _lock = Lock::acquire(&fetch.lock, fetch.keep_lock, fetch.name, progress).await?;
    if is_present(fetch) {
        return Ok(None);
    }
    let mut partial = Partial::open(fetch).await?;
    if let Some(length) = fetch.length {
        disk::require_room(&fetch.partial, length.saturating_sub(partial.len))?;
    }
    let sha256 = complete(http, policy, fetch, &mut partial, progress).await?;
    partial.file.sync_all().map_err(|error| HubError::io("flush", &fetch.partial, error))?;
    disk::publish(&fetch.partial, &fetch.dest)?;
    let _ = fs::remove_file(etag_path(&fetch.partial));
    progress.event(PullEvent::Complete { file: fetch.name, bytes: partial.len });
    Ok(Some(sha256))
}

fn is_present(fetch: &Fetch<'_>) -> bool {
    fs::metadata(&fetch.dest)
        .is_ok_and(|meta| meta.is_file() && fetch.length.is_none_or(|length| meta.len() == length))
}

/// How an attempt ended without the whole file.
enum Broken {
    /// The same request may work.
    Transient(HubError),
    /// What is here belongs to another version of the file.
    Changed,
    /// Nothing to be done.
    Fatal(HubError),
}

async fn complete(
    http: &Http,
    policy: RetryPolicy,
    fetch: &Fetch<'_>,
    partial: &mut Partial,
    progress: &dyn Progress,
) -> Result<String, HubError> {
    let mut meter = Meter::new(fetch.name, fetch.length, partial.len, progress);
    let (mut failures, mut restarts) = (0, 0);
    loop {
        let before = partial.len;
        let broken = match partial.attempt(http, fetch, &mut meter).await {
            Ok(()) => match partial.verify(fetch) {
                Ok(sha256) => {
                    meter.report(partial.len);
                    return Ok(sha256);
                }
                // The damage may lie in what an earlier run left: once from the start.
                Err(_) if partial.resumed => Broken::Changed,
                Err(error) => Broken::Fatal(error),
            },
            Err(broken) => broken,
        };
        match broken {
            Broken::Fatal(error) => {
                if matches!(error, HubError::Damaged { .. }) {
                    partial.discard(fetch);
                }
                return Err(error);
            }
            Broken::Changed => {
                restarts += 1;
                if restarts > RESTARTS_MAX {
                    let reason = format!("{} changes each time it is asked for", fetch.name);
                    return Err(HubError::BadAnswer { host: host(&fetch.url), reason });
                }
                partial.restart(fetch)?;
                meter.restart(0);
            }
            Broken::Transient(error) => {
                failures = if partial.len > before { 1 } else { failures + 1 };
                if failures >= policy.attempts_max {
                    return Err(error);
                }
                let wait = pause(policy, failures, &error);
                progress.event(PullEvent::Retrying { file: fetch.name, reason: &error.to_string(), wait });
                tokio::time::sleep(wait).await;
                meter.restart(partial.len);
            }
        }
    }
}

fn pause(policy: RetryPolicy, failures: u32, error: &HubError) -> Duration {
    let wished = match error {
        HubError::RateLimited { retry_after: Some(wish), .. } => *wish,
        _ => policy.first_pause.saturating_mul(1 << (failures - 1).min(16)),
    };
    wished.min(policy.pause_max)
}

/// The bytes that are here so far, with their running hash.
struct Partial {
    file: File,
    len: u64,
    hasher: Hasher,
    /// The server's name for the version that these bytes belong to.
    etag: Option<HeaderValue>,
    /// True while bytes of an earlier run are among them.
    resumed: bool,
}

impl Partial {
    async fn open(fetch: &Fetch<'_>) -> Result<Self, HubError> {
        if let Some(dir) = fetch.partial.parent() {
            disk::create_dir(dir)?;
        }
        let etag = disk::read_small(&etag_path(&fetch.partial), 1024)
            .and_then(|text| HeaderValue::from_str(&text).ok());
        // Without a promised digest, only the server's own name for a version says whether bytes fit together.
        let usable = fetch.promised.is_some() || etag.is_some();
        let hasher = Hasher::new(fetch.promised.as_ref(), fetch.length);
        let (path, limit) = (fetch.partial.clone(), fetch.length.unwrap_or(FILE_BYTES_MAX));
        let opened = tokio::task::spawn_blocking(move || reopen(&path, usable, limit, hasher)).await;
        let (file, len, hasher) = opened
            .map_err(|error| HubError::Internal(error.to_string()))?
            .map_err(|error| HubError::io("open", &fetch.partial, error))?;
        Ok(Self { file, len, hasher, etag, resumed: len > 0 })
    }

    async fn attempt(&mut self, http: &Http, fetch: &Fetch<'_>, meter: &mut Meter<'_>) -> Result<(), Broken> {
        if fetch.length == Some(self.len) {
            return Ok(());
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if self.len > 0 {
            let range = HeaderValue::from_str(&format!("bytes={}-", self.len));
            headers.insert(
                header::RANGE,
                range.map_err(|error| Broken::Fatal(HubError::Internal(error.to_string())))?,
            );
            // A weak validator can't be used in If-Range (RFC 9110, 13.1.5).
            if let Some(etag) = self.etag.clone().filter(|etag| !etag.as_bytes().starts_with(b"W/")) {
                headers.insert(header::IF_RANGE, etag);
            }
        }
        let get = Get {
            url: &fetch.url,
            via: fetch.via.as_ref(),
            what: fetch.name,
            credential: fetch.credential,
            headers,
        };
        let mut response = http.get(&get).await.map_err(sorted)?;
        let total = self.expect(fetch, &response)?;
        if let Some(total) = total {
            meter.set_total(total);
        }
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    let len = self.len + chunk.len() as u64;
                    if len > total.unwrap_or(FILE_BYTES_MAX) {
                        return Err(Broken::Fatal(wrong_length(
                            fetch,
                            total.unwrap_or(FILE_BYTES_MAX),
                            "more",
                        )));
                    }
                    self.write(fetch, &chunk, total).map_err(Broken::Fatal)?;
                    meter.at(self.len);
                }
                Ok(None) if total.is_none_or(|total| total == self.len) => return Ok(()),
                Ok(None) => {
                    let reason = "the connection ended early".to_owned();
                    return Err(Broken::Transient(HubError::Unreachable { host: host(&fetch.url), reason }));
                }
                Err(error) => return Err(Broken::Transient(unreachable(&fetch.url, &error))),
            }
        }
    }

    /// Reads from the answer's head what will come: the whole file or its rest, and how long the file is.
    fn expect(&mut self, fetch: &Fetch<'_>, response: &Response) -> Result<Option<u64>, Broken> {
        let etag = response.headers().get(header::ETAG).cloned();
        let status = response.status();
        let total = if status == StatusCode::PARTIAL_CONTENT {
            let (start, total) = content_range(response).ok_or(Broken::Changed)?;
            let changed = self.etag.is_some() && etag.is_some() && self.etag != etag;
            if self.len == 0 || start != self.len || changed {
                return Err(Broken::Changed);
            }
            total
        } else if status == StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(Broken::Changed);
        } else {
            if self.len > 0 {
                self.restart(fetch).map_err(Broken::Fatal)?;
            }
            response.content_length()
        };
        if let (Some(promised), Some(total)) = (fetch.length, total)
            && promised != total
        {
            return Err(Broken::Fatal(wrong_length(fetch, promised, &total.to_string())));
        }
        if etag.is_some() && self.etag != etag {
            if fetch.promised.is_none()
                && let Some(text) = etag.as_ref().and_then(|etag| etag.to_str().ok())
            {
                disk::write_atomic(&etag_path(&fetch.partial), text.as_bytes()).map_err(Broken::Fatal)?;
            }
            self.etag = etag;
        }
        Ok(total.or(fetch.length))
    }

    fn write(&mut self, fetch: &Fetch<'_>, chunk: &[u8], total: Option<u64>) -> Result<(), HubError> {
        if let Err(error) = self.file.write_all(chunk) {
            // What was written of this chunk is not hashed: the file goes back to what is known.
            let _ = self.file.set_len(self.len);
            return Err(match HubError::io("write", &fetch.partial, error) {
                HubError::DiskFull { path, free, .. } => {
                    let needed = total.unwrap_or(self.len + chunk.len() as u64).saturating_sub(self.len);
                    HubError::DiskFull { path, needed, free }
                }
                other => other,
            });
        }
        self.hasher.update(chunk);
        self.len += chunk.len() as u64;
        Ok(())
    }

    fn verify(&self, fetch: &Fetch<'_>) -> Result<String, HubError> {
        let (sha256, found) = self.hasher.clone().finish(fetch.promised.as_ref());
        match (&fetch.promised, found) {
            (Some(promised), Some(found)) if *promised != found => Err(HubError::Damaged {
                file: fetch.name.into(),
                kind: promised.kind(),
                expected: promised.hex().into(),
                found: found.hex().into(),
            }),
            (Some(_), None) => Err(HubError::Internal("a digest could not be computed".into())),
            _ => Ok(sha256),
        }
    }

    fn restart(&mut self, fetch: &Fetch<'_>) -> Result<(), HubError> {
        let cleared = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        cleared.map_err(|error| HubError::io("clear", &fetch.partial, error))?;
        self.len = 0;
        self.hasher = Hasher::new(fetch.promised.as_ref(), fetch.length);
        self.etag = None;
        self.resumed = false;
        Ok(())
    }

    fn discard(&mut self, fetch: &Fetch<'_>) {
        let _ = fs::remove_file(&fetch.partial);
        let _ = fs::remove_file(etag_path(&fetch.partial));
    }
}

fn reopen(path: &Path, usable: bool, limit: u64, mut hasher: Hasher) -> std::io::Result<(File, u64, Hasher)> {
    let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
    if !usable || file.metadata()?.len() > limit {
        file.set_len(0)?;
    }
    let mut buffer = vec![0; 1 << 20];
    let mut len = 0;
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok((file, len, hasher));
        }
        hasher.update(&buffer[..n]);
        len += n as u64;
    }
}

fn etag_path(partial: &Path) -> PathBuf {
    partial.with_extension("etag")
}

fn sorted(error: HubError) -> Broken {
    if is_transient(&error) { Broken::Transient(error) } else { Broken::Fatal(error) }
}

fn wrong_length(fetch: &Fetch<'_>, promised: u64, found: &str) -> HubError {
    HubError::Damaged {
        file: fetch.name.into(),
        kind: "length",
        expected: format!("{promised} bytes"),
        found: found.into(),
    }
}

/// Start and total of `Content-Range: bytes 5-9/10`.
fn content_range(response: &Response) -> Option<(u64, Option<u64>)> {
    let text = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((start.parse().ok()?, total))
}
