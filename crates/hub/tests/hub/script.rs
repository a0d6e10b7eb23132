//! A server whose every answer is scripted by bytes, and what must hold whatever it does; shared with the fuzz targets.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use levain_hub::{Hub, ModelRef, Silent};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::support::{Reply, Request, Server, hub_with_pauses, listing, noise};

const FILE: &str = "model-Q4_K_M.gguf";
/// Bytes of a step: what to do, and how.
const STEP: usize = 4;
/// Requests beyond those that the script answers: for listings, and until the hub gives up.
const REQUESTS_MORE: usize = 100;

/// What the server does now.
#[derive(Default)]
struct Script {
    steps: VecDeque<[u8; STEP]>,
    /// Name and bytes of the file that it has.
    name: String,
    content: Vec<u8>,
    /// Whether it does its work once the script is over, or is out of order.
    heals: bool,
}

impl Script {
    fn answer(&mut self, request: &Request) -> Reply {
        if request.path.starts_with("/api/models/org/repo/revision/main") {
            return Reply::json(listing(&[(&self.name, &self.content), ("config.json", b"{}")]));
        }
        if request.path.ends_with("/config.json") {
            return Reply::file(request, b"{}", "\"c\"");
        }
        match self.steps.pop_front() {
            Some(step) => lie(step, request, &self.content),
            None if self.heals => Reply::file(request, &self.content, "\"v1\""),
            None => Reply::status(503),
        }
    }
}

fn lie([what, how, high, low]: [u8; STEP], request: &Request, content: &[u8]) -> Reply {
    let number = usize::from(high) << 8 | usize::from(low);
    let etag = ["\"v1\"", "\"v2\"", "W/\"v1\"", "v1", "\"", "\"v\u{1}\""][usize::from(how) % 6];
    let mut honest = Reply::file(request, content, etag);
    let at = number % (honest.body.len() + 1);
    match what % 13 {
        0 | 1 => honest,
        2 => honest.cut(at),
        3 => Reply { status: 200, body: content.to_vec(), ..Reply::default() }.header("etag", etag),
        4 => {
            honest.headers.retain(|(name, _)| name != "content-range");
            let ranges = [
                format!("bytes {number}-{}/{}", number + 1, content.len()),
                format!("bytes 0-0/{}", u64::MAX),
                format!("bytes 0-0/{}", 1_u64 << (how % 64)),
                "bytes */5".to_owned(),
                "bytes 5-1/*".to_owned(),
                format!("bytes {0}{0}-1/{0}", u64::MAX),
                "lines 1-2/3".to_owned(),
                format!("bytes {number}-{number}/-1"),
            ];
            honest.status = 206;
            honest.header("content-range", &ranges[usize::from(how) % ranges.len()])
        }
        5 => {
            let all = [204, 206, 300, 301, 304, 400, 401, 403, 404, 408, 410, 416, 418, 429, 500, 503, 599];
            Reply::status(all[usize::from(how) % all.len()])
                .header("retry-after", &number.to_string())
                .header("x-error-code", ["GatedRepo", "RepoNotFound", "?"][usize::from(low) % 3])
        }
        6 => {
            let places = [
                "/files/again.gguf",
                request.path.as_str(),
                "",
                "//",
                "?",
                "../../../x",
                "ftp://127.0.0.1/x",
                "file:///etc/passwd",
                "http://127.0.0.1:1/x",
                "http://[::1]:1/x",
                "https://127.0.0.1:1/x",
                "http://user:secret@127.0.0.1:1/x",
                "http://127.0.0.1:99999/",
                "data:,x",
            ];
            Reply::status([301, 302, 303, 307, 308][usize::from(low) % 5])
                .header("location", places[usize::from(how) % places.len()])
        }
        7 => {
            if let Some(byte) = honest.body.get_mut(at) {
                *byte ^= 1 << (how % 8);
            }
            honest
        }
        8 => {
            honest.body.extend(noise(number % 600));
            honest
        }
        9 => honest.header("content-length", &number.to_string()),
        10 => honest.header("content-length", &u64::MAX.to_string()),
        11 => {
            honest.headers.clear();
            honest
        }
        _ => honest.header("content-encoding", "gzip").header("transfer-encoding", "chunked"),
    }
}

/// One server and one hub for many scripts.
pub(crate) struct Lab {
    runtime: Runtime,
    home: TempDir,
    server: Server,
    script: Arc<Mutex<Script>>,
    hub: Hub,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // Each file is flushed to the disk, which takes no time in memory.
        let memory = std::path::Path::new("/dev/shm");
        let home = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap();
        let script = Arc::new(Mutex::new(Script::default()));
        let asked = Arc::clone(&script);
        let server = runtime.block_on(Server::start(move |request| asked.lock().unwrap().answer(request)));
        let hub = hub_with_pauses(home.path(), &server.url(""), &[], Duration::ZERO);
        Self { runtime, home, server, script, hub }
    }

    fn begin(&self, name: &str, steps: &[u8], content: Vec<u8>, heals: bool) -> usize {
        for entry in std::fs::read_dir(self.home.path()).unwrap() {
            std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
        self.server.log.lock().unwrap().clear();
        *self.server.body_bytes_sent.lock().unwrap() = 0;
        let steps: VecDeque<_> = steps.as_chunks::<STEP>().0.iter().copied().collect();
        let count = steps.len();
        *self.script.lock().unwrap() = Script { steps, name: name.to_owned(), content, heals };
        count
    }

    /// However a server behaves, a pull ends, what it makes visible is what was promised, and what it could not get is
    /// not there. Tells whether there is a model in the end.
    pub(crate) fn pull(&self, input: &[u8]) -> bool {
        let Some((&[mode, len], steps)) = input.split_first_chunk::<2>() else { return false };
        let (promised, heals) = (mode & 1 == 0, mode & 2 == 0);
        let content = noise(1 + usize::from(len) * 16);
        let steps = self.begin(FILE, steps, content.clone(), heals);
        let reference = match promised {
            true => ModelRef::parse("hf:org/repo"),
            false => ModelRef::parse(&self.server.url(&format!("/files/{FILE}"))),
        }
        .unwrap();
        let pulled = self.runtime.block_on(self.hub.pull(&reference, &Silent));
        let asked = self.server.log.lock().unwrap().len();
        assert!(asked <= steps + REQUESTS_MORE, "{asked} requests for {steps} steps");
        match pulled {
            Ok(model) => {
                let file = std::fs::read(&model.path).unwrap();
                assert!(!promised || file == content, "a file that was not promised is visible");
                true
            }
            Err(error) => {
                let told = error.to_string();
                assert!(told.len() < 4096 && !told.contains("secret"), "{told}");
                assert!(self.hub.find(&reference).unwrap().is_none(), "{told}");
                false
            }
        }
    }

    /// However a server behaves, the headers of a model on it come to be files of the length that it claims, or are
    /// refused. Tells whether they came.
    pub(crate) fn remote_header(&self, input: &[u8]) -> bool {
        let Some((&[mode, count], rest)) = input.split_first_chunk::<2>() else { return false };
        let (steps, content) = rest.split_at((usize::from(count % 8) * STEP).min(rest.len()));
        let gguf = mode & 1 == 0;
        let name = if gguf { FILE } else { "model.safetensors" };
        self.begin(name, steps, content.to_vec(), true);
        let reference = match gguf {
            true => ModelRef::parse(&self.server.url(&format!("/files/{FILE}"))),
            false => ModelRef::parse("hf:org/repo"),
        }
        .unwrap();
        let headers = match self.runtime.block_on(self.hub.remote_headers(&reference)) {
            Ok(headers) => headers,
            Err(error) => {
                assert!(error.to_string().len() < 4096, "{error}");
                return false;
            }
        };
        let sent = *self.server.body_bytes_sent.lock().unwrap() as u64;
        assert!(headers.fetched <= sent, "{} of {sent} bytes", headers.fetched);
        let file = if gguf { headers.path.clone() } else { headers.path.join(name) };
        let found = std::fs::metadata(&file).unwrap().len();
        assert!(found <= headers.bytes || steps.len() >= STEP, "{found} of {}", headers.bytes);
        if steps.len() < STEP {
            assert_eq!(found, content.len() as u64);
        }
        let path = headers.path.clone();
        drop(headers);
        assert!(!path.exists(), "what was fetched for the plan is gone with it");
        true
    }
}
