//! A server on this machine that does as a test tells it: cuts, lies and redirects included.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use levain_hub::{Hub, HubConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Start of `Range: bytes=5-` or `bytes=5-9` and the end, if there is one.
    pub(crate) fn range(&self) -> Option<(usize, Option<usize>)> {
        let (start, end) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((start.parse().ok()?, end.parse().ok()))
    }
}

/// What to answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Close the connection after this many bytes of the body.
    pub(crate) cut: Option<usize>,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn json(body: impl Into<String>) -> Self {
        Self { status: 200, body: body.into().into_bytes(), ..Self::default() }
            .header("content-type", "application/json")
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn cut(mut self, at: usize) -> Self {
        self.cut = Some(at);
        self
    }

    /// A file, honouring `Range` and `If-Range`.
    pub(crate) fn file(request: &Request, bytes: &[u8], etag: &str) -> Self {
        let same = request.header("if-range").is_none_or(|wanted| wanted == etag);
        match request.range() {
            Some((start, end)) if same && start < bytes.len() => {
                let end = end.map_or(bytes.len(), |end| (end + 1).min(bytes.len()));
                let range = format!("bytes {start}-{}/{}", end - 1, bytes.len());
                let body = bytes[start..end].to_vec();
                Self { status: 206, body, ..Self::default() }
                    .header("content-range", &range)
                    .header("etag", etag)
            }
            Some((start, _)) if same && start >= bytes.len() => Self::status(416),
            _ => Self { status: 200, body: bytes.to_vec(), ..Self::default() }.header("etag", etag),
        }
    }
}

/// A running server; gone when dropped with its runtime.
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) log: Arc<Mutex<Vec<Request>>>,
    pub(crate) body_bytes_sent: Arc<Mutex<usize>>,
}

impl Server {
    pub(crate) async fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (log, sent) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let (handler, seen, counted) = (Arc::new(handler), log.clone(), sent.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (handler, log, sent) = (handler.clone(), seen.clone(), counted.clone());
                tokio::spawn(async move {
                    let Some(request) = read_request(&mut stream).await else { return };
                    log.lock().unwrap().push(request.clone());
                    let reply = handler(&request);
                    let mut head = format!("HTTP/1.1 {} X\r\nconnection: close\r\n", reply.status);
                    if !reply.headers.iter().any(|(name, _)| name == "content-length") {
                        head += &format!("content-length: {}\r\n", reply.body.len());
                    }
                    for (name, value) in &reply.headers {
                        head += &format!("{name}: {value}\r\n");
                    }
                    head += "\r\n";
                    let body = &reply.body[..reply.cut.unwrap_or(reply.body.len()).min(reply.body.len())];
                    *sent.lock().unwrap() += body.len();
                    let _ = stream.write_all(head.as_bytes()).await;
                    let _ = stream.write_all(body).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self { port, log, body_bytes_sent: sent }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Paths asked for so far that contain `part`.
    pub(crate) fn asked(&self, part: &str) -> Vec<Request> {
        self.log.lock().unwrap().iter().filter(|request| request.path.contains(part)).cloned().collect()
    }
}

async fn read_request(stream: &mut tokio::net::TcpStream) -> Option<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Some(Request { path, headers })
}

/// A hub whose home is `dir` and whose hub and index are at `endpoint`.
pub(crate) fn hub(dir: &Path, endpoint: &str, extra: &[(&str, &str)]) -> Hub {
    hub_with_pauses(dir, endpoint, extra, Duration::from_millis(1))
}

/// As [`hub`], with a first pause between attempts, which may be none at all.
pub(crate) fn hub_with_pauses(
    dir: &Path,
    endpoint: &str,
    extra: &[(&str, &str)],
    first_pause: Duration,
) -> Hub {
    let mut vars: HashMap<String, String> = HashMap::from([
        ("HOME".into(), dir.display().to_string()),
        ("HF_ENDPOINT".into(), endpoint.into()),
        ("PIP_INDEX_URL".into(), format!("{endpoint}/simple/")),
        ("PIP_CONFIG_FILE".into(), "/dev/null".into()),
    ]);
    vars.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let mut config = HubConfig::from_env(&|name| vars.get(name).cloned()).unwrap();
    config.retry.first_pause = first_pause;
    config.retry.pause_max = 5 * first_pause;
    Hub::new(config).unwrap()
}

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Bytes that differ everywhere, so that a misplaced piece is noticed.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn git_sha1(bytes: &[u8]) -> String {
    use sha1::Digest;
    let mut hasher = sha1::Sha1::new();
    hasher.update(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hub's listing of a repository.
pub(crate) fn listing(files: &[(&str, &[u8])]) -> String {
    let siblings: Vec<String> = files
        .iter()
        .map(|(name, bytes)| {
            let name = serde_json::to_string(name).unwrap();
            if name.contains(".gguf") || name.contains(".safetensors") {
                let (len, sha) = (bytes.len(), sha256(bytes));
                format!(r#"{{"rfilename":{name},"size":{len},"blobId":"{COMMIT}","lfs":{{"sha256":"{sha}","size":{len},"pointerSize":1}}}}"#)
            } else {
                format!(r#"{{"rfilename":{name},"size":{},"blobId":"{}"}}"#, bytes.len(), git_sha1(bytes))
            }
        })
        .collect();
    format!(r#"{{"id":"org/repo","sha":"{COMMIT}","siblings":[{}]}}"#, siblings.join(","))
}

/// Every file below `dir`, links not followed, sorted.
pub(crate) fn tree(dir: &Path) -> Vec<String> {
    fn walk(dir: &Path, root: &Path, out: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                walk(&path, root, out);
            } else {
                out.push(path.strip_prefix(root).unwrap().display().to_string());
            }
        }
    }
    let mut out = Vec::new();
    walk(dir, dir, &mut out);
    out.sort();
    out
}
