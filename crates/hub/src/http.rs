//! One careful GET: redirects are followed by hand, so that credentials stay with their server and a public
//! server can't lead into a private network.

use std::path::Path;
use std::time::Duration;

use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Client, Response, StatusCode, Url};

use crate::address::{self, PublicOnly};
use crate::config::Secret;
use crate::{HubConfig, HubError};

const REDIRECTS_MAX: usize = 8;
const ANSWER_BYTES_MAX: usize = 32 << 20;
const METADATA_ATTEMPTS_MAX: u32 = 3;

/// A credential and the only origin that it may be sent to.
pub(crate) struct Credential {
    origin: url::Origin,
    value: HeaderValue,
}

impl Credential {
    pub(crate) fn bearer(url: &Url, token: &Secret) -> Result<Self, HubError> {
        Self::new(url, format!("Bearer {}", token.0), "HF_TOKEN")
    }

    /// From `user:password@` in an index's address; `None` if it has none.
    pub(crate) fn basic(url: &Url) -> Result<Option<Self>, HubError> {
        if url.username().is_empty() && url.password().is_none() {
            return Ok(None);
        }
        let decoded = crate::reference::percent_decoded;
        let pair = format!("{}:{}", decoded(url.username()), decoded(url.password().unwrap_or_default()));
        Self::new(url, format!("Basic {}", base64(pair.as_bytes())), "the index's password").map(Some)
    }

    fn new(url: &Url, value: String, setting: &str) -> Result<Self, HubError> {
        let mut value = HeaderValue::from_str(&value).map_err(|_| HubError::BadSetting {
            setting: setting.into(),
            reason: "it holds characters that can't be sent".into(),
        })?;
        value.set_sensitive(true);
        let stays_here = url.host().is_some_and(|host| address::is_loopback_host(&host));
        if url.scheme() != "https" && !stays_here {
            return Err(HubError::BadSetting {
                setting: setting.into(),
                reason: format!(
                    "it would be sent to {} unencrypted: use https there, or take the credential away",
                    url.host_str().unwrap_or_default()
                ),
            });
        }
        Ok(Self { origin: url.origin(), value })
    }
}

/// What to get.
pub(crate) struct Get<'a> {
    pub(crate) url: &'a Url,
    /// The page that named `url`, if the user did not: a public page may not lead to a private address.
    pub(crate) via: Option<&'a Url>,
    /// For error messages.
    pub(crate) what: &'a str,
    pub(crate) credential: Option<&'a Credential>,
    pub(crate) headers: HeaderMap,
}

/// The connections of one hub.
pub(crate) struct Http {
    open: Client,
    guarded: Client,
    proxied: bool,
    offline: Option<&'static str>,
    pause: Duration,
}

impl Http {
    pub(crate) fn new(config: &HubConfig, extra_cert: Option<&Path>) -> Result<Self, HubError> {
        let builder = || -> Result<reqwest::ClientBuilder, HubError> {
            let mut builder = Client::builder()
                .user_agent(concat!("levain/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(config.connect_timeout)
                .read_timeout(config.read_timeout);
            for certificate in extra_cert.map(read_certificates).transpose()?.unwrap_or_default() {
                builder = builder.add_root_certificate(certificate);
            }
            Ok(builder)
        };
        let built = |builder: reqwest::ClientBuilder| {
            builder
                .build()
                .map_err(|error| HubError::Internal(format!("no HTTP client: {}", innermost(&error))))
        };
        Ok(Self {
            open: built(builder()?)?,
            guarded: built(builder()?.dns_resolver(std::sync::Arc::new(PublicOnly)))?,
            proxied: config.proxied,
            offline: config.offline,
            pause: config.retry.first_pause,
        })
    }

    /// Sends the request and follows redirects. Any final status that is neither a success nor 416 is an error.
    pub(crate) async fn get(&self, get: &Get<'_>) -> Result<Response, HubError> {
        if let Some(switch) = self.offline {
            return Err(HubError::Offline { what: get.what.into(), switch });
        }
        let start = get.via.unwrap_or(get.url);
        let mut url = get.url.clone();
        let mut guarded = false;
        if start.origin() != url.origin() {
            guarded = self.guard(start, &url).await?;
        }
        for _ in 0..=REDIRECTS_MAX {
            let client = if guarded { &self.guarded } else { &self.open };
            let mut request = client.get(without_userinfo(&url)).headers(get.headers.clone());
            if let Some(credential) = get.credential
                && credential.origin == url.origin()
            {
                request = request.header(header::AUTHORIZATION, credential.value.clone());
            }
            let response = request.send().await.map_err(|error| unreachable(&url, &error))?;
            let Some(next) = redirect_target(&url, &response)? else {
                return checked(response, &url, get.what);
            };
            if next.origin() != url.origin() {
                guarded = self.guard(start, &next).await? || guarded;
            }
            url = next;
        }
        Err(HubError::TooManyRedirects { host: host(start), limit: REDIRECTS_MAX })
    }

    /// Decides whether the way from `start` to `next` must lead to public addresses, and refuses one that
    /// visibly does not.
    async fn guard(&self, start: &Url, next: &Url) -> Result<bool, HubError> {
        let all_private = |url: Url| async move {
            let found = address::lookup(&url).await.unwrap_or_default();
            found.into_iter().any(address::is_private)
        };
        let literal = |url: &Url| !matches!(url.host(), Some(url::Host::Domain(_)));
        // Behind a proxy names are not resolved here, so only addresses written as such can be judged.
        let judged = |url: &Url| !self.proxied || literal(url);
        if judged(start) && all_private(start.clone()).await {
            return Ok(false);
        }
        if start.scheme() == "https" && next.scheme() == "http" {
            return Err(HubError::Downgrade { host: host(next) });
        }
        if next.host().is_some_and(|host| address::is_loopback_host(&host))
            || (judged(next) && all_private(next.clone()).await)
        {
            return Err(HubError::PrivateAddress { host: host(next) });
        }
        Ok(!self.proxied)
    }

    /// A small answer as text, with its headers. Tried again on overload, not when there is no connection: the
    /// caller has another source to ask.
    pub(crate) async fn text(&self, get: &Get<'_>) -> Result<(String, HeaderMap), HubError> {
        let mut pause = self.pause;
        let mut attempt = 1;
        loop {
            match self.text_once(get).await {
                Err(error) if attempt < METADATA_ATTEMPTS_MAX && is_overload(&error) => {
                    attempt += 1;
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                other => return other,
            }
        }
    }

    async fn text_once(&self, get: &Get<'_>) -> Result<(String, HeaderMap), HubError> {
        let mut response = self.get(get).await?;
        let headers = response.headers().clone();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(get.url, &error))? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(HubError::BadAnswer {
                    host: host(get.url),
                    reason: format!("its listing is longer than {}", crate::bytes(ANSWER_BYTES_MAX as u64)),
                });
            }
            body.extend_from_slice(&chunk);
        }
        let text = String::from_utf8(body).map_err(|_| HubError::BadAnswer {
            host: host(get.url),
            reason: "its listing is not UTF-8".into(),
        })?;
        Ok((text, headers))
    }
}

/// An address for people and manifests: no password, no query (which may hold a signature).
pub(crate) fn shown(url: &Url) -> String {
    let mut url = without_userinfo(url);
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

pub(crate) fn host(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => shown(url),
    }
}

/// True if the same request may work in a moment.
pub(crate) fn is_transient(error: &HubError) -> bool {
    matches!(error, HubError::Unreachable { .. }) || is_overload(error)
}

fn is_overload(error: &HubError) -> bool {
    match error {
        HubError::RateLimited { .. } => true,
        HubError::Status { status, .. } => *status >= 500 || *status == 408,
        _ => false,
    }
}

pub(crate) fn unreachable(url: &Url, error: &reqwest::Error) -> HubError {
    let reason = if error.is_timeout() { "it does not answer in time".to_owned() } else { innermost(error) };
    HubError::Unreachable { host: host(url), reason }
}

fn without_userinfo(url: &Url) -> Url {
    let mut url = url.clone();
    // Both fail only for addresses that can't have a host, and these are refused before.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url
}

fn redirect_target(url: &Url, response: &Response) -> Result<Option<Url>, HubError> {
    let status = response.status();
    if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let bad = |reason: &str| HubError::BadAnswer { host: host(url), reason: reason.into() };
    let location = response
        .headers()
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| bad("it redirects to nowhere"))?;
    let next = url.join(location).map_err(|_| bad("it redirects to something that is no address"))?;
    if !matches!(next.scheme(), "https" | "http") {
        return Err(bad("it redirects to something that is no web address"));
    }
    Ok(Some(next))
}

fn checked(response: Response, url: &Url, what: &str) -> Result<Response, HubError> {
    let status = response.status();
    if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE {
        return Ok(response);
    }
    let (host, what) = (host(url), what.to_owned());
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    Err(match status.as_u16() {
        404 | 410 => HubError::NotFound { host, what },
        status @ (401 | 403) => match header("x-error-code") {
            Some("GatedRepo") => HubError::Gated { page: shown(url), repo: what },
            Some("RepoNotFound" | "EntryNotFound" | "RevisionNotFound") if status != 401 => {
                HubError::NotFound { host, what }
            }
            _ => HubError::Unauthorized { host, what, status },
        },
        429 => HubError::RateLimited {
            host,
            retry_after: header("retry-after")
                .and_then(|text| text.trim().parse().ok())
                .map(Duration::from_secs),
        },
        status => HubError::Status { host, what, status },
    })
}

/// The last cause in the chain says it best ("connection refused"); the first only names the address.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn read_certificates(path: &Path) -> Result<Vec<reqwest::Certificate>, HubError> {
    let bad = |reason: String| HubError::BadSetting {
        setting: format!("the certificate file {}", path.display()),
        reason,
    };
    let pem = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
    reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| bad(innermost(&error)))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let n = chunk.iter().fold(0_u32, |n, &b| n << 8 | u32::from(b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let digit = DIGITS[(n >> (18 - 6 * i)) as usize & 63];
            text.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(proxied: bool) -> Http {
        let vars = |name: &str| (name == "HOME").then(|| "/nowhere".to_owned());
        let mut config = HubConfig::from_env(&vars).unwrap();
        config.proxied = proxied;
        Http::new(&config, None).unwrap()
    }

    #[tokio::test]
    async fn a_public_page_leads_to_no_private_address() {
        let url = |text: &str| Url::parse(text).unwrap();
        for proxied in [false, true] {
            let http = http(proxied);
            for private in [
                "https://127.0.0.1/x",
                "https://localhost/x",
                "https://169.254.169.254/latest/meta-data",
                "https://[::1]/x",
                "https://10.0.0.8/x",
                "https://2130706433/x",
                "https://0x7f.1/x",
                "https://[::ffff:192.168.0.1]/x",
            ] {
                let refused = http.guard(&url("https://93.184.215.14/a"), &url(private)).await;
                assert!(matches!(refused, Err(HubError::PrivateAddress { .. })), "{private}: {refused:?}");
            }
            let refused = http.guard(&url("https://93.184.215.14/a"), &url("http://93.184.215.15/b")).await;
            assert!(matches!(refused, Err(HubError::Downgrade { .. })), "{refused:?}");
            // Whoever named a server of a private network may be led around in it.
            assert!(!http.guard(&url("http://10.0.0.8/a"), &url("http://127.0.0.1:9/b")).await.unwrap());
        }
        let guarded =
            http(false).guard(&url("https://93.184.215.14/a"), &url("https://93.184.215.15/b")).await;
        assert!(guarded.unwrap());
    }

    #[test]
    fn base64_pads() {
        let all: Vec<String> = ["", "f", "fo", "foo", "foob"].iter().map(|s| base64(s.as_bytes())).collect();
        assert_eq!(all, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]);
    }

    #[test]
    fn credentials_are_not_sent_in_the_clear() {
        let url = |text: &str| Url::parse(text).unwrap();
        let token = Secret("marked-token".into());
        for fine in ["https://hub.example/", "http://127.0.0.1:80/", "http://localhost/", "http://[::1]/"] {
            assert!(Credential::bearer(&url(fine), &token).is_ok(), "{fine}");
        }
        for clear in ["http://hub.example/", "http://10.0.0.1/", "http://localhost.example/"] {
            let error = Credential::bearer(&url(clear), &token).err().unwrap().to_string();
            assert!(error.contains("unencrypted") && !error.contains("marked"), "{error}");
        }
        let error = Credential::basic(&url("http://user:marked@index.example/simple")).err().unwrap();
        assert!(error.to_string().contains("https") && !error.to_string().contains("marked"));
        assert!(Credential::basic(&url("http://index.example/simple")).unwrap().is_none());
    }

    #[test]
    fn shown_addresses_hold_no_secrets() {
        let url = Url::parse("https://user:pass@host.example/a/b?X-Amz-Signature=s#t").unwrap();
        assert_eq!(shown(&url), "https://host.example/a/b");
    }
}
