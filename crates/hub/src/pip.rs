//! pip's settings, read as pip reads them: configuration files (global, user, virtual environment,
//! `PIP_CONFIG_FILE`), then the environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use reqwest::Url;

use crate::config::{is_true, tilde};
use crate::{HubError, disk};

const DEFAULT_INDEX: &str = "https://pypi.org/simple";
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Where packages come from.
#[derive(Clone)]
pub struct PipConfig {
    /// The index first asked. Its address may hold a password and is never shown whole.
    pub index_url: Url,
    /// Further indexes, asked in order where the first has no such package.
    pub extra_index_urls: Vec<Url>,
    /// True if no index may be asked.
    pub no_index: bool,
    /// Folders that hold wheels.
    pub find_links: Vec<PathBuf>,
    /// A file of certificates to trust besides the system's.
    pub cert: Option<PathBuf>,
}

impl std::fmt::Debug for PipConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PipConfig")
            .field("index_url", &crate::http::shown(&self.index_url))
            .field(
                "extra_index_urls",
                &self.extra_index_urls.iter().map(crate::http::shown).collect::<Vec<_>>(),
            )
            .field("no_index", &self.no_index)
            .field("find_links", &self.find_links)
            .field("cert", &self.cert)
            .finish()
    }
}

impl PipConfig {
    pub(crate) fn from_env(
        set: &dyn Fn(&str) -> Option<String>,
        home: Option<&Path>,
    ) -> Result<Self, HubError> {
        let mut settings = BTreeMap::new();
        for file in config_files(set, home) {
            if let Some(text) = disk::read_small(&file, CONFIG_BYTES_MAX) {
                settings.append(&mut parse_ini(&text));
            }
        }
        for key in ["index-url", "extra-index-url", "no-index", "find-links", "cert"] {
            let variable = format!("PIP_{}", key.to_ascii_uppercase().replace('-', "_"));
            if let Some(value) = set(&variable) {
                settings.insert(key.to_owned(), value);
            }
        }
        let words = |key: &str| -> Vec<String> {
            settings.get(key).map(|v| v.split_whitespace().map(str::to_owned).collect()).unwrap_or_default()
        };
        let index_url = settings.get("index-url").map_or(DEFAULT_INDEX, |value| value.trim());
        let extra = words("extra-index-url");
        Ok(Self {
            index_url: index(index_url)?,
            extra_index_urls: extra.iter().map(|text| index(text)).collect::<Result<_, _>>()?,
            no_index: settings.get("no-index").is_some_and(|value| is_true(value.trim())),
            find_links: words("find-links")
                .iter()
                .filter(|text| !text.contains("://") || text.starts_with("file://"))
                .map(|text| tilde(text.strip_prefix("file://").unwrap_or(text), home))
                .collect(),
            cert: settings
                .get("cert")
                .map(|path| tilde(path.trim(), home))
                .or_else(|| set("REQUESTS_CA_BUNDLE").map(PathBuf::from)),
        })
    }
}

fn index(text: &str) -> Result<Url, HubError> {
    let bad =
        |reason: &str| HubError::BadSetting { setting: "pip's index-url".into(), reason: reason.into() };
    let mut url = Url::parse(text).map_err(|_| bad("it is no address"))?;
    if !matches!(url.scheme(), "https" | "http") || url.host().is_none() {
        return Err(bad("only http and https indexes are read"));
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

/// The files, weakest first. `PIP_CONFIG_FILE` set to the null device switches all of them off, as in pip.
fn config_files(set: &dyn Fn(&str) -> Option<String>, home: Option<&Path>) -> Vec<PathBuf> {
    let named = set("PIP_CONFIG_FILE").map(PathBuf::from);
    if named.as_deref() == Some(Path::new("/dev/null")) {
        return Vec::new();
    }
    let mut files = vec![PathBuf::from("/etc/pip.conf")];
    let global_dirs = set("XDG_CONFIG_DIRS").unwrap_or_else(|| "/etc/xdg".into());
    files.extend(
        global_dirs
            .split(':')
            .filter(|dir| dir.starts_with('/'))
            .map(|dir| Path::new(dir).join("pip/pip.conf")),
    );
    if let Some(home) = home {
        files.push(home.join(".pip/pip.conf"));
        if cfg!(target_os = "macos") {
            files.push(home.join("Library/Application Support/pip/pip.conf"));
        }
    }
    let user = set("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| home.map(|home| home.join(".config")));
    files.extend(user.map(|dir| dir.join("pip/pip.conf")));
    files.extend(set("VIRTUAL_ENV").map(|dir| Path::new(&dir).join("pip.conf")));
    files.extend(named);
    files
}

/// Keys of the sections that concern downloads; the command's own section wins over `[global]`.
fn parse_ini(text: &str) -> BTreeMap<String, String> {
    let mut by_section: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut section = String::new();
    let mut last: Option<String> = None;
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if line.starts_with([' ', '\t']) {
            let value = last.as_ref().and_then(|key| by_section.get_mut(&section)?.get_mut(key));
            if let Some(value) = value {
                value.push(' ');
                value.push_str(trimmed);
            }
        } else if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.trim().clone_into(&mut section);
            last = None;
        } else if let Some((key, value)) = trimmed.split_once(['=', ':']) {
            let key = key.trim().to_ascii_lowercase().replace('_', "-");
            by_section.entry(section.clone()).or_default().insert(key.clone(), value.trim().to_owned());
            last = Some(key);
        }
    }
    let mut merged = by_section.remove("global").unwrap_or_default();
    for section in ["download", "install"] {
        merged.append(&mut by_section.remove(section).unwrap_or_default());
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_environment_are_layered() {
        let dir = tempfile::tempdir().unwrap();
        let user = dir.path().join("config/pip/pip.conf");
        disk::write_atomic(
            &user,
            b"# mirrors\n[global]\nindex-url = https://u:secret@mirror.example/simple\nextra_index_url =\n  https://a.example/s\n  https://b.example/s\n[install]\nno-index: true\n",
        )
        .unwrap();
        let named = dir.path().join("named.conf");
        disk::write_atomic(
            &named,
            b"[global]\nno-index = no\nfind-links = /w1 file:///w2 https://ignored/\n",
        )
        .unwrap();
        let read = |extra: &[(&str, &str)]| {
            let mut vars: BTreeMap<String, String> = BTreeMap::new();
            vars.insert("XDG_CONFIG_HOME".into(), dir.path().join("config").display().to_string());
            vars.insert("XDG_CONFIG_DIRS".into(), dir.path().join("none").display().to_string());
            vars.extend(extra.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
            PipConfig::from_env(&|name| vars.get(name).cloned(), None).unwrap()
        };
        let config = read(&[]);
        assert_eq!(config.index_url.as_str(), "https://u:secret@mirror.example/simple/");
        assert_eq!(config.extra_index_urls.len(), 2);
        assert!(config.no_index);
        assert!(!format!("{config:?}").contains("secret"));

        let config = read(&[("PIP_CONFIG_FILE", &named.display().to_string())]);
        assert!(!config.no_index);
        assert_eq!(config.find_links, [PathBuf::from("/w1"), PathBuf::from("/w2")]);

        let config = read(&[("PIP_INDEX_URL", "https://c.example/simple/"), ("PIP_NO_INDEX", "0")]);
        assert_eq!(config.index_url.as_str(), "https://c.example/simple/");
        assert!(!config.no_index);
        let config = read(&[("PIP_CONFIG_FILE", "/dev/null")]);
        assert_eq!(config.index_url.as_str(), "https://pypi.org/simple/");
    }
}
