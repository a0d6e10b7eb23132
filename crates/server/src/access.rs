//! Who may ask: keys, host names, web origins.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, HOST, HeaderName};
use axum::http::uri::{Authority, Uri};
use levain_wire::openai::ApiError;
use sha2::{Digest, Sha256};

use crate::config::ServerConfig;
use crate::cors::{Origins, Page};
use crate::error::ServerError;
use crate::throttle::Throttle;

const KEY_CHARS_MIN: usize = 8;
/// Where other machines can try keys.
const PUBLIC_KEY_CHARS_MIN: usize = 16;
const KEY_BYTES_MAX: usize = 4096;
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// A credential. Only its digest is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    name: String,
    digest: [u8; 32],
    chars: usize,
}

impl ApiKey {
    /// A key under a name that logs may show.
    ///
    /// # Errors
    /// If the key is shorter than 8 characters or has others than visible ASCII ones.
    pub fn new(name: impl Into<String>, secret: &str) -> Result<Self, ServerError> {
        let name = name.into();
        if secret.len() < KEY_CHARS_MIN || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ServerError::WeakKey { name, min: KEY_CHARS_MIN });
        }
        Ok(Self { name, digest: digest(secret.as_bytes()), chars: secret.len() })
    }

    /// What tells this caller's caches from others': stable over restarts, and says nothing about the key.
    fn tenant(&self) -> String {
        self.digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("name", &self.name).finish_non_exhaustive()
    }
}

fn digest(secret: &[u8]) -> [u8; 32] {
    // A domain, so that a digest here is no digest of the same key elsewhere.
    Sha256::new().chain_update(b"levain-api-key\0").chain_update(secret).finalize().into()
}

/// Equal or not, in a time that does not depend on where they differ.
fn equal(a: &[u8; 32], b: &[u8; 32]) -> bool {
    std::hint::black_box(a.iter().zip(b).fold(0u8, |different, (x, y)| different | (x ^ y))) == 0
}

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Principal {
    /// Keeps the caches of different callers apart; `None` where no keys are in use.
    pub(crate) tenant: Option<String>,
}

/// The rules.
#[derive(Debug)]
pub(crate) struct Access {
    keys: Vec<ApiKey>,
    /// Lower case, without ports; `None` takes any.
    hosts: Option<Vec<String>>,
    /// Takes addresses in place of names, too, which nobody can point elsewhere.
    any_address: bool,
    origins: Origins,
    throttle: Throttle,
}

impl Access {
    pub(crate) fn new(config: &ServerConfig) -> Result<Self, ServerError> {
        let listen = config.listen;
        let loopback = is_loopback(listen);
        if !loopback && config.api_keys.is_empty() && !config.insecure_no_auth {
            return Err(ServerError::OpenWithoutKey { listen });
        }
        if let Some(key) = config.api_keys.iter().find(|key| !loopback && key.chars < PUBLIC_KEY_CHARS_MIN) {
            return Err(ServerError::ShortKey { name: key.name.clone(), listen, min: PUBLIC_KEY_CHARS_MIN });
        }
        // Who has no key can be anybody, a page in a browser of this network too.
        let anybody = config.api_keys.is_empty();
        let hosts = (loopback || anybody || !config.allowed_hosts.is_empty()).then(|| {
            let own = match listen.ip() {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            };
            let fixed = ["localhost".to_owned(), "127.0.0.1".to_owned(), "[::1]".to_owned(), own];
            let named = config.allowed_hosts.iter().map(|host| host.to_ascii_lowercase());
            fixed.into_iter().chain(named).collect()
        });
        let origins = Origins::new(&config.allowed_origins)?;
        let throttle = Throttle::new(config.limits.wrong_key_pause);
        let any_address = !loopback && config.allowed_hosts.is_empty();
        Ok(Self { keys: config.api_keys.clone(), hosts, any_address, origins, throttle })
    }

    /// Waits where many wrong keys came from this address.
    pub(crate) async fn wait(&self, headers: &HeaderMap, peer: Option<IpAddr>) {
        if self.keys.is_empty() {
            return;
        }
        if let Some(peer) = peer {
            let given = credential(headers).ok().flatten().map(digest);
            self.throttle.wait(peer, given.as_ref()).await;
        }
    }

    /// The one place where a credential becomes a principal, whichever header carries it.
    pub(crate) fn principal(&self, headers: &HeaderMap, peer: Option<IpAddr>) -> Result<Principal, ApiError> {
        if self.keys.is_empty() {
            return Ok(Principal::default());
        }
        let Some(given) = credential(headers)? else {
            return refused(
                "this server needs an API key: send it as Authorization: Bearer KEY, or as x-api-key",
            );
        };
        let given = digest(given);
        // All keys are compared, so that time does not tell which one came close.
        let found = self.keys.iter().fold(
            None,
            |found, key| {
                if equal(&key.digest, &given) { Some(key) } else { found }
            },
        );
        if let Some(peer) = peer {
            self.throttle.note(peer, &given, found.is_some());
        }
        match found {
            Some(key) => Ok(Principal { tenant: Some(key.tenant()) }),
            None => refused("the API key is not one of this server's"),
        }
    }

    /// Refuses names that a page elsewhere could have pointed at this machine (DNS rebinding).
    pub(crate) fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(allowed) = &self.hosts else { return Ok(()) };
        let mut named = headers.get_all(HOST).iter().map(|value| {
            value.to_str().ok().and_then(|text| text.parse::<Authority>().ok()).map(|host| host_name(&host))
        });
        let from_header = named.next().flatten();
        let from_uri = uri.authority().map(host_name);
        let good = |host: &String| allowed.contains(host) || (self.any_address && is_address(host));
        let fine = from_header.is_some_and(|host| good(&host))
            && named.next().is_none()
            && from_uri.is_none_or(|host| good(&host));
        if fine {
            return Ok(());
        }
        Err(ApiError::with_status(
            403,
            "host_not_allowed",
            "the Host header names another machine: use the server's address, or start it with --allow-host and the name",
        ))
    }

    /// The page that the request comes from.
    pub(crate) fn page(&self, headers: &HeaderMap) -> Page {
        self.origins.page(headers)
    }

    /// Whether pages of all origins may call.
    pub(crate) fn any_origin(&self) -> bool {
        self.origins.any()
    }
}

pub(crate) fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

fn refused<T>(message: &str) -> Result<T, ApiError> {
    Err(ApiError::with_status(401, "invalid_api_key", message))
}

/// The credential of a request, if it brings one.
fn credential(headers: &HeaderMap) -> Result<Option<&[u8]>, ApiError> {
    let bearers = headers.get_all(AUTHORIZATION).iter().map(|value| bearer(value.as_bytes()));
    let plain = headers.get_all(X_API_KEY).iter().map(|value| Some(value.as_bytes()));
    let mut given: Option<&[u8]> = None;
    for credential in bearers.chain(plain) {
        let Some(credential) = credential else {
            return refused("the Authorization header must read: Bearer, a space, and an API key");
        };
        if given.is_some_and(|other| other != credential) {
            return refused("the request carries two different API keys: send one");
        }
        given = Some(credential);
    }
    if given.is_some_and(|given| given.len() > KEY_BYTES_MAX) {
        return refused("the API key is not one of this server's");
    }
    Ok(given)
}

fn is_address(host: &str) -> bool {
    host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

fn host_name(authority: &Authority) -> String {
    authority.host().trim_end_matches('.').to_ascii_lowercase()
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked("Bearer ".len())?;
    let key = rest.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"Bearer ") && !key.is_empty()).then_some(key)
}
