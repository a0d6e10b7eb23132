//! A client that does what it is told, good manners or not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use levain_chat::Provider;
use levain_server::{Server, ServerConfig};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Far longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A server on a free port, shut down in order by [`Running::stop`].
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    shutdown: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

pub(crate) async fn serve(mut config: ServerConfig, provider: Arc<dyn Provider>) -> Running {
    config.listen.set_port(0);
    let server = Server::new(&config, provider).unwrap().bind().await.unwrap();
    let address = server.local_addr();
    let (shutdown, asked) = oneshot::channel();
    let task = tokio::spawn(server.serve(async {
        let _ = asked.await;
    }));
    Running { address, shutdown, task }
}

impl Running {
    /// Asks for shutdown; the task ends when the server has ended.
    pub(crate) fn shut_down(self) -> JoinHandle<()> {
        self.shutdown.send(()).unwrap();
        self.task
    }

    pub(crate) async fn stop(self) {
        timeout(PATIENCE, self.shut_down()).await.expect("the server does not end").unwrap();
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends one request and reads the whole response.
    pub(crate) async fn send(&self, request: &[u8]) -> Response {
        let mut stream = self.connect().await;
        stream.write_all(request).await.unwrap();
        read(&mut stream).await
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.send(head("GET", path, "connection: close\r\n").as_bytes()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Response {
        self.send(post(path, body, "connection: close\r\n").as_bytes()).await
    }

    /// A number from `/metrics`.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let page = self.get("/metrics").await.text();
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
    }
}

/// The head of a request, with more header lines.
pub(crate) fn head(method: &str, path: &str, more: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{more}\r\n")
}

/// A request with a JSON body.
pub(crate) fn post(path: &str, body: &Value, more: &str) -> String {
    let body = body.to_string();
    let more = format!("content-type: application/json\r\ncontent-length: {}\r\n{more}", body.len());
    head("POST", path, &more) + &body
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The `code` of an error body.
    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Reads one response to its end.
pub(crate) async fn read(stream: &mut TcpStream) -> Response {
    timeout(PATIENCE, read_unbounded(stream)).await.expect("no response")
}

async fn read_unbounded(stream: &mut TcpStream) -> Response {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        assert!(more(stream, &mut bytes).await, "closed before the head: {bytes:?}");
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut response = Response { status, head, body: bytes.split_off(end) };
    if let Some(length) = response.header("content-length") {
        let length: usize = length.parse().unwrap();
        while response.body.len() < length && more(stream, &mut response.body).await {}
    } else if response.header("transfer-encoding") == Some("chunked") {
        while !response.body.ends_with(b"0\r\n\r\n") && more(stream, &mut response.body).await {}
        response.body = dechunk(&response.body);
    }
    response
}

async fn more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> bool {
    stream.read_buf(bytes).await.is_ok_and(|read| read > 0)
}

/// The data of chunks, each after the other; stops at the last whole one.
pub(crate) fn dechunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    while let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        let Some(chunk) = bytes.get(end + 2..end + 2 + size) else { break };
        if size == 0 {
            break;
        }
        data.extend_from_slice(chunk);
        bytes = bytes.get(end + 4 + size..).unwrap_or_default();
    }
    data
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "never: {what}");
}
