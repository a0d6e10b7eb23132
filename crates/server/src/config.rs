//! What an operator can set.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::access::ApiKey;

/// How to serve.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Who may ask. With none, anyone who reaches the address may.
    pub api_keys: Vec<ApiKey>,
    /// Serve other machines without a key all the same.
    pub insecure_no_auth: bool,
    /// Names that the `Host` header may have besides the loopback ones. When empty, a server on loopback takes
    /// loopback names only, one on another address without keys addresses in place of names as well, and one with
    /// keys any.
    pub allowed_hosts: Vec<String>,
    /// Web origins whose pages may call, for example `https://chat.example.org`; `*` for all, `null` for pages
    /// without one.
    pub allowed_origins: Vec<String>,
    /// Take the names of control tokens in the text of raw prompts for the tokens, unless a request says otherwise.
    /// When false no request may ask for it.
    pub parse_special: bool,
    /// Bounds on what clients may cost.
    pub limits: Limits,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7171)),
            api_keys: Vec::new(),
            insecure_no_auth: false,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            parse_special: true,
            limits: Limits::default(),
        }
    }
}

/// Bounds on what clients may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Open connections; more are turned away.
    pub connections_max: usize,
    /// Requests that are being answered; more are told to come back.
    pub requests_max: usize,
    /// Bytes of one body.
    pub body_bytes_max: usize,
    /// Bytes that requests hold outside the engine: bodies that are read, what they become when they are parsed, and
    /// answers that clients have not taken.
    pub memory_bytes_max: usize,
    /// Header fields of a request.
    pub headers_max: usize,
    /// Bytes of a request's head.
    pub header_bytes_max: usize,
    /// From the first moment of a connection, or the last response on it, to the end of a request's head.
    pub header_timeout: Duration,
    /// Between two pieces of a body.
    pub body_idle_timeout: Duration,
    /// For a whole body.
    pub body_timeout: Duration,
    /// Before a key is looked at, where many wrong ones came from the same address.
    pub wrong_key_pause: Duration,
    /// For a client to take what was written to it, or a good part of it.
    pub write_timeout: Duration,
    /// Silence in a stream after which a comment is sent.
    pub keep_alive: Duration,
    /// For running answers after shutdown was asked for.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            requests_max: 512,
            body_bytes_max: 16 << 20,
            memory_bytes_max: 256 << 20,
            headers_max: 64,
            header_bytes_max: 32 << 10,
            header_timeout: Duration::from_secs(10),
            body_idle_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(60),
            wrong_key_pause: Duration::from_secs(1),
            write_timeout: Duration::from_secs(60),
            keep_alive: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(30),
        }
    }
}
