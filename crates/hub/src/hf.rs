//! The Hugging Face hub: its listing, and its cache layout, which other tools on this machine share.
//!
//! `models--org--repo/` holds `blobs/<digest>`, `snapshots/<commit>/<path>` as links to blobs, and
//! `refs/<branch>` with a commit.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use reqwest::Url;
use reqwest::header::HeaderMap;
use serde::Deserialize;

use crate::digest::{self, Digest};
use crate::download::{Fetch, fetch};
use crate::http::{Credential, Get, Http, host};
use crate::reference::RepoId;
use crate::store::{StoredFile, StoredModel, modified, remove_dir, sub_dirs};
use crate::{HubConfig, HubError, Progress, PullEvent, disk, names, quant};

const FILES_MAX: usize = 100_000;
const BRANCH: &str = "main";

/// Small files that a safetensors checkpoint may need.
const COMPANIONS: [&str; 11] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];

const INDEX: &str = "model.safetensors.index.json";

#[derive(Deserialize)]
struct ModelPage {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    #[serde(alias = "oid")]
    sha256: String,
    size: Option<u64>,
}

/// A file on the hub.
#[derive(Debug, Clone)]
pub(crate) struct HfFile {
    pub(crate) path: String,
    pub(crate) bytes: u64,
    pub(crate) digest: Digest,
}

/// What makes up the wanted model.
#[derive(Debug)]
pub(crate) struct Selection {
    pub(crate) commit: String,
    /// The chosen quantisation of a GGUF repository.
    pub(crate) label: Option<String>,
    /// Small files first, weights last, so that a half-fetched model never looks whole.
    pub(crate) files: Vec<HfFile>,
    /// For a GGUF model its (first) file; `None` for a folder of safetensors.
    pub(crate) gguf: Option<String>,
}

pub(crate) fn credential(config: &HubConfig) -> Result<Option<Credential>, HubError> {
    config.hf_token.as_ref().map(|token| Credential::bearer(&config.hf_endpoint, token)).transpose()
}

/// Asks the hub what the repository holds and picks the files of the wanted quantisation.
pub(crate) async fn select(
    http: &Http,
    config: &HubConfig,
    repo: &RepoId,
    wanted: Option<&str>,
) -> Result<Selection, HubError> {
    let url = address(config, &["api", "models"], repo, &["revision", BRANCH], Some("blobs=true"))?;
    let credential = credential(config)?;
    let what = format!("hf:{}", repo.as_str());
    let get =
        Get { url: &url, via: None, what: &what, credential: credential.as_ref(), headers: HeaderMap::new() };
    let (text, _) = http.text(&get).await.map_err(|error| gate(error, config, repo))?;
    let host = host(&config.hf_endpoint);
    let page: ModelPage = serde_json::from_str(&text)
        .map_err(|error| HubError::BadAnswer { host: host.clone(), reason: error.to_string() })?;
    if page.siblings.len() > FILES_MAX {
        let reason = format!("the repository lists more than {FILES_MAX} files");
        return Err(HubError::BadAnswer { host, reason });
    }
    let commit = digest::commit(&host, &page.sha)?;
    pick(&host, &what, commit, &page.siblings, wanted)
}

fn gate(error: HubError, config: &HubConfig, repo: &RepoId) -> HubError {
    match error {
        HubError::Gated { .. } => HubError::Gated {
            repo: repo.as_str().into(),
            page: format!("{}/{}", config.hf_endpoint.as_str().trim_end_matches('/'), repo.as_str()),
        },
        other => other,
    }
}

fn pick(
    host: &str,
    what: &str,
    commit: String,
    siblings: &[Sibling],
    wanted: Option<&str>,
) -> Result<Selection, HubError> {
    let groups = quant::groups(siblings.iter().map(|file| file.rfilename.as_str()));
    let (label, chosen, gguf) = if groups.is_empty() {
        (None, safetensors_files(what, siblings, wanted)?, None)
    } else {
        let group = quant::choose(what, &groups, wanted)?;
        (group.label.clone(), group.files.clone(), group.files.first().cloned())
    };
    names::no_case_clash(host, chosen.iter().map(String::as_str))?;
    let files = chosen
        .iter()
        .map(|path| {
            names::safe_path(host, path)?;
            let file = siblings.iter().find(|file| file.rfilename == *path);
            file.and_then(described).ok_or_else(|| HubError::BadAnswer {
                host: host.to_owned(),
                reason: format!("it gives no length and digest for {path}"),
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(Selection { commit, label, files, gguf })
}

fn described(file: &Sibling) -> Option<HfFile> {
    let (bytes, digest) = match &file.lfs {
        Some(lfs) => (lfs.size.or(file.size)?, Digest::sha256(&lfs.sha256)?),
        None => (file.size?, Digest::git_blob(file.blob_id.as_deref()?)?),
    };
    Some(HfFile { path: file.rfilename.clone(), bytes, digest })
}

fn safetensors_files(
    what: &str,
    siblings: &[Sibling],
    wanted: Option<&str>,
) -> Result<Vec<String>, HubError> {
    let has = |name: &str| siblings.iter().any(|file| file.rfilename == name);
    let weights: Vec<&str> = siblings
        .iter()
        .map(|file| file.rfilename.as_str())
        .filter(|name| name.ends_with(".safetensors") && !name.contains('/'))
        .collect();
    if weights.is_empty() || !has("config.json") {
        let found = siblings.iter().take(8).map(|file| crate::error::shorten(&file.rfilename)).collect();
        return Err(HubError::NoCheckpoint { reference: what.to_owned(), found });
    }
    if let Some(quant) = wanted {
        let available = vec!["safetensors files only: leave the quantisation away".to_owned()];
        return Err(HubError::NoSuchQuant { reference: what.to_owned(), quant: quant.to_owned(), available });
    }
    // Some repositories hold the same weights twice: `model…` for transformers, `consolidated…` for others.
    let usual: Vec<&str> = if has(INDEX) {
        weights.iter().copied().filter(|name| name.starts_with("model-")).collect()
    } else {
        weights.iter().copied().filter(|name| *name == "model.safetensors").collect()
    };
    let weights = if usual.is_empty() { weights } else { usual };
    let small = COMPANIONS.iter().copied().filter(|name| has(name));
    let index = has(INDEX).then_some(INDEX);
    Ok(small.chain(index).chain(weights).map(str::to_owned).collect())
}

/// `endpoint/before/org/repo/after`, each part encoded.
fn address(
    config: &HubConfig,
    before: &[&str],
    repo: &RepoId,
    after: &[&str],
    query: Option<&str>,
) -> Result<Url, HubError> {
    let mut url = config.hf_endpoint.clone();
    url.path_segments_mut()
        .map_err(|()| HubError::Internal("the hub's address takes no path".into()))?
        .pop_if_empty()
        .extend(before)
        .extend(repo.as_str().split('/'))
        .extend(after);
    url.set_query(query);
    Ok(url)
}

/// The cheapest question that the hub answers.
pub(crate) fn api_address(config: &HubConfig) -> Result<Url, HubError> {
    let mut url = config.hf_endpoint.clone();
    url.path_segments_mut()
        .map_err(|()| HubError::Internal("the hub's address takes no path".into()))?
        .pop_if_empty()
        .extend(["api", "models"]);
    url.set_query(Some("limit=1"));
    Ok(url)
}

/// Where a file of a selection is downloaded from.
pub(crate) fn file_address(
    config: &HubConfig,
    repo: &RepoId,
    commit: &str,
    path: &str,
) -> Result<Url, HubError> {
    let after: Vec<&str> = ["resolve", commit].into_iter().chain(path.split('/')).collect();
    address(config, &[], repo, &after, None)
}

/// Fetches what is missing of a selection and links it into its snapshot.
pub(crate) async fn pull(
    http: &Http,
    config: &HubConfig,
    repo: &RepoId,
    selection: &Selection,
    progress: &dyn Progress,
) -> Result<StoredModel, HubError> {
    let folder = folder(&config.hf_cache, repo)?;
    let snapshot = folder.join("snapshots").join(&selection.commit);
    let credential = credential(config)?;
    let missing: Vec<&HfFile> = selection
        .files
        .iter()
        .filter(|file| !fs::metadata(blob(&folder, file)).is_ok_and(|meta| meta.len() == file.bytes))
        .collect();
    let bytes = missing.iter().map(|file| file.bytes).fold(0, u64::saturating_add);
    progress.event(PullEvent::Plan { files: missing.len(), bytes: Some(bytes) });
    let begun: u64 =
        missing.iter().filter_map(|file| fs::metadata(partial(&folder, file)).ok()).map(|m| m.len()).sum();
    disk::require_room(&folder, bytes.saturating_sub(begun))?;
    for file in &selection.files {
        let dest = blob(&folder, file);
        let locks = config.hf_cache.join(".locks").join(repo.folder());
        let one = Fetch {
            name: &file.path,
            url: file_address(config, repo, &selection.commit, &file.path)?,
            via: None,
            credential: credential.as_ref(),
            promised: Some(file.digest.clone()),
            length: Some(file.bytes),
            partial: partial(&folder, file),
            dest: dest.clone(),
            lock: locks.join(format!("{}.lock", file.digest.hex())),
            keep_lock: true,
        };
        fetch(http, config.retry, &one, progress).await.map_err(|error| gate(error, config, repo))?;
        link(&dest, &snapshot.join(&file.path), file)?;
    }
    disk::write_atomic(&folder.join("refs").join(BRANCH), selection.commit.as_bytes())?;
    find(&config.hf_cache, repo, selection.label.as_deref())
        .ok_or_else(|| HubError::Internal(format!("{} was fetched but can't be found", repo.as_str())))
}

/// The repository's folder. A folder whose name differs in case only is someone else's on most disks.
fn folder(cache: &Path, repo: &RepoId) -> Result<PathBuf, HubError> {
    let name = repo.folder();
    let clash = sub_dirs(cache)
        .into_iter()
        .filter_map(|dir| dir.file_name()?.to_str().map(str::to_owned))
        .find(|other| *other != name && other.eq_ignore_ascii_case(&name));
    match clash.and_then(|other| RepoId::from_folder(&other)) {
        Some(other) => Err(HubError::reference(
            &format!("hf:{}", repo.as_str()),
            format!(
                "hf:{} is stored already, and the names differ in case only: use that spelling",
                other.as_str()
            ),
        )),
        None => Ok(cache.join(name)),
    }
}

fn blob(folder: &Path, file: &HfFile) -> PathBuf {
    folder.join("blobs").join(file.digest.hex())
}

fn partial(folder: &Path, file: &HfFile) -> PathBuf {
    folder.join("blobs").join(format!("{}.incomplete", file.digest.hex()))
}

/// Puts a relative link to the blob into the snapshot, as the other tools do.
fn link(blob: &Path, at: &Path, file: &HfFile) -> Result<(), HubError> {
    if fs::metadata(at).is_ok_and(|meta| meta.len() == file.bytes) {
        return Ok(());
    }
    if let Some(dir) = at.parent() {
        disk::create_dir(dir)?;
    }
    let io = |error| HubError::io("link", at, error);
    let tmp = disk::beside(at, "tmp");
    #[cfg(unix)]
    {
        let up = file.path.split('/').count() + 1;
        let target = Path::new(&"../".repeat(up)).join("blobs").join(file.digest.hex());
        std::os::unix::fs::symlink(target, &tmp).map_err(io)?;
        let _ = blob;
    }
    #[cfg(not(unix))]
    fs::hard_link(blob, &tmp).or_else(|_| fs::copy(blob, &tmp).map(|_| ())).map_err(io)?;
    fs::rename(&tmp, at).map_err(io)
}

/// All complete models of the shared cache.
pub(crate) fn stored(cache: &Path) -> Vec<StoredModel> {
    sub_dirs(cache)
        .iter()
        .filter_map(|dir| RepoId::from_folder(dir.file_name()?.to_str()?))
        .flat_map(|repo| snapshot(cache, &repo).map(|snapshot| snapshot.models()).unwrap_or_default())
        .collect()
}

/// The stored model of a repository in the wanted (or else the preferred) quantisation.
pub(crate) fn find(cache: &Path, repo: &RepoId, wanted: Option<&str>) -> Option<StoredModel> {
    let snapshot = snapshot(cache, repo)?;
    let names: Vec<&str> = snapshot.files.iter().map(|file| file.name.as_str()).collect();
    let groups = quant::groups(names);
    if groups.is_empty() {
        return if wanted.is_none() { snapshot.safetensors() } else { None };
    }
    let group = quant::choose("", &groups, wanted).ok()?;
    Some(snapshot.gguf(group))
}

struct Snapshot {
    repo: RepoId,
    commit: String,
    dir: PathBuf,
    files: Vec<StoredFile>,
}

/// The snapshot that `refs/main` names, else the newest.
fn snapshot(cache: &Path, repo: &RepoId) -> Option<Snapshot> {
    let folder = cache.join(repo.folder());
    let named = disk::read_small(&folder.join("refs").join(BRANCH), 256)
        .and_then(|text| digest::commit("", text.trim()).ok())
        .map(|commit| folder.join("snapshots").join(commit))
        .filter(|dir| dir.is_dir());
    let dir =
        named.or_else(|| sub_dirs(&folder.join("snapshots")).into_iter().max_by_key(|dir| modified(dir)))?;
    let commit = dir.file_name()?.to_str()?.to_owned();
    let mut files = Vec::new();
    gather(&dir, "", &mut files, 0);
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Some(Snapshot { repo: repo.clone(), commit, dir, files })
}

fn gather(dir: &Path, prefix: &str, files: &mut Vec<StoredFile>, depth: usize) {
    const DEPTH_MAX: usize = 4;
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let (path, Ok(name)) = (entry.path(), entry.file_name().into_string()) else {
            continue;
        };
        // `metadata` follows the link: one that leads nowhere is a file that is not here.
        let Ok(meta) = fs::metadata(&path) else {
            continue;
        };
        let name = format!("{prefix}{name}");
        if meta.is_dir() && depth < DEPTH_MAX {
            gather(&path, &format!("{name}/"), files, depth + 1);
        } else if meta.is_file() && files.len() < FILES_MAX {
            let sha256 = fs::read_link(&path).ok().and_then(|target| {
                Digest::sha256(target.file_name()?.to_str()?).map(|digest| digest.hex().to_owned())
            });
            files.push(StoredFile { name, path, bytes: meta.len(), sha256 });
        }
    }
}

impl Snapshot {
    fn models(&self) -> Vec<StoredModel> {
        let groups = quant::groups(self.files.iter().map(|file| file.name.as_str()));
        let mut models: Vec<StoredModel> = groups.iter().map(|group| self.gguf(group)).collect();
        if models.is_empty() {
            models.extend(self.safetensors());
        }
        models
    }

    fn gguf(&self, group: &quant::GgufGroup) -> StoredModel {
        let files = self.files.iter().filter(|file| group.files.contains(&file.name)).cloned().collect();
        let label = group.label.as_ref().map(|label| format!(":{label}")).unwrap_or_default();
        let path = group.files.first().map_or_else(|| self.dir.clone(), |name| self.dir.join(name));
        self.model(label, path, files)
    }

    /// The snapshot as a checkpoint folder, if all weights that its index names are here.
    fn safetensors(&self) -> Option<StoredModel> {
        const INDEX_BYTES_MAX: u64 = 64 << 20;
        let has = |name: &str| self.files.iter().any(|file| file.name == name);
        let weights =
            self.files.iter().any(|file| file.name.ends_with(".safetensors") && !file.name.contains('/'));
        if !has("config.json") || !weights {
            return None;
        }
        if let Some(text) = disk::read_small(&self.dir.join(INDEX), INDEX_BYTES_MAX) {
            let index: serde_json::Value = serde_json::from_str(&text).ok()?;
            let shards: BTreeSet<&str> =
                index["weight_map"].as_object()?.values().filter_map(|v| v.as_str()).collect();
            if !shards.into_iter().all(has) {
                return None;
            }
        }
        let wanted =
            |name: &str| COMPANIONS.contains(&name) || name == INDEX || name.ends_with(".safetensors");
        let files = self.files.iter().filter(|file| wanted(&file.name)).cloned().collect();
        Some(self.model(String::new(), self.dir.clone(), files))
    }

    fn model(&self, label: String, path: PathBuf, files: Vec<StoredFile>) -> StoredModel {
        StoredModel {
            reference: format!("hf:{}{label}", self.repo.as_str()),
            path,
            bytes: files.iter().map(|file| file.bytes).sum(),
            revision: Some(self.commit.clone()),
            source: format!("the Hugging Face hub, {}", self.repo.as_str()),
            modified_unix_s: files.iter().map(|file| modified(&file.path)).max().unwrap_or(0),
            files,
        }
    }
}

/// Removes one quantisation, or the whole repository if nothing else is in it or none was named.
pub(crate) fn remove(
    cache: &Path,
    repo: &RepoId,
    quant: Option<&str>,
    model: &StoredModel,
) -> Result<(), HubError> {
    let folder = cache.join(repo.folder());
    let others = snapshot(cache, repo).map_or(0, |snapshot| snapshot.models().len());
    if quant.is_none() || others <= 1 {
        let _ = fs::remove_dir_all(cache.join(".locks").join(repo.folder()));
        return remove_dir(&folder);
    }
    for file in &model.files {
        let io = |error| HubError::io("remove", &file.path, error);
        let blob = fs::canonicalize(&file.path).map_err(io)?;
        fs::remove_file(&file.path).map_err(io)?;
        let blobs = fs::canonicalize(folder.join("blobs")).map_err(io)?;
        // A link that leads elsewhere was not made by us: what it points to stays.
        if blob.parent() == Some(&blobs) && !linked(&folder, &blob) {
            fs::remove_file(&blob).map_err(io)?;
        }
    }
    Ok(())
}

fn linked(folder: &Path, blob: &Path) -> bool {
    sub_dirs(&folder.join("snapshots")).iter().any(|dir| {
        let mut files = Vec::new();
        gather(dir, "", &mut files, 0);
        files.iter().any(|file| fs::canonicalize(&file.path).is_ok_and(|target| target == blob))
    })
}
