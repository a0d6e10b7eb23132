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
use crate::reference::{HfRef, RepoId, Wanted};
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

const SAFETENSORS: &str = ".safetensors";
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
    /// Small files first, weights last, so that a half-fetched model never looks whole.
    pub(crate) files: Vec<HfFile>,
    /// For a GGUF model its (first) file; `None` for a folder of safetensors.
    pub(crate) gguf: Option<String>,
    /// The folder of safetensors in the repository, with `/` at its end; empty for the repository itself.
    pub(crate) folder: String,
}

pub(crate) fn credential(config: &HubConfig) -> Result<Option<Credential>, HubError> {
    config.hf_token.as_ref().map(|token| Credential::bearer(&config.hf_endpoint, token)).transpose()
}

/// Asks the hub what the repository holds and picks the files of the wanted model.
pub(crate) async fn select(http: &Http, config: &HubConfig, of: &HfRef) -> Result<Selection, HubError> {
    let (repo, revision) = (&of.repo, of.revision.as_deref().unwrap_or(BRANCH));
    let url = address(config, &["api", "models"], repo, &["revision", revision], Some("blobs=true"))?;
    let what = of.whole();
    let text = match ask(http, config, repo, &url, &what).await {
        Err(HubError::NotFound { .. }) if of.revision.is_some() => {
            return Err(no_such_revision(http, config, repo, revision).await);
        }
        other => other?,
    };
    let host = host(&config.hf_endpoint);
    let page: ModelPage = serde_json::from_str(&text)
        .map_err(|error| HubError::BadAnswer { host: host.clone(), reason: error.to_string() })?;
    if page.siblings.len() > FILES_MAX {
        let reason = format!("the repository lists more than {FILES_MAX} files");
        return Err(HubError::BadAnswer { host, reason });
    }
    let commit = digest::commit(&host, &page.sha)?;
    pick(&host, &what, commit, &page.siblings, of.wanted.as_ref())
}

/// The hub's answer to a question about a repository.
async fn ask(
    http: &Http,
    config: &HubConfig,
    repo: &RepoId,
    url: &Url,
    what: &str,
) -> Result<String, HubError> {
    let credential = credential(config)?;
    let get = Get { url, via: None, what, credential: credential.as_ref(), headers: HeaderMap::new() };
    let answer = http.text(&get).await;
    answer.map(|(text, _)| text).map_err(|error| gate(error, config, repo))
}

/// Branches and tags of a repository.
#[derive(Deserialize)]
struct RefsPage {
    #[serde(default)]
    branches: Vec<Ref>,
    #[serde(default)]
    tags: Vec<Ref>,
}

#[derive(Deserialize)]
struct Ref {
    name: String,
}

/// Tells which revisions there are; if the repository is not there either, that is what is wrong.
async fn no_such_revision(http: &Http, config: &HubConfig, repo: &RepoId, revision: &str) -> HubError {
    const SHOWN_MAX: usize = 12;
    let asked = async {
        let url = address(config, &["api", "models"], repo, &["refs"], None)?;
        let text = ask(http, config, repo, &url, &format!("hf:{}", repo.as_str())).await?;
        serde_json::from_str::<RefsPage>(&text).map_err(|error| HubError::BadAnswer {
            host: host(&config.hf_endpoint),
            reason: error.to_string(),
        })
    };
    let page = match asked.await {
        Ok(page) => page,
        Err(error) => return error,
    };
    let names: Vec<String> = page
        .branches
        .iter()
        .chain(&page.tags)
        .take(FILES_MAX)
        .map(|named| crate::error::shorten(&named.name))
        .collect();
    HubError::NoSuchRevision {
        repo: repo.as_str().to_owned(),
        revision: crate::error::shorten(revision),
        nearest: crate::nearest(revision, names.iter().map(String::as_str)),
        available: names.into_iter().take(SHOWN_MAX).collect(),
    }
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
    wanted: Option<&Wanted>,
) -> Result<Selection, HubError> {
    let groups = quant::groups(siblings.iter().map(|file| file.rfilename.as_str()));
    let folder = folder_of(wanted);
    let in_folder = groups.iter().any(|group| group.files.iter().any(|file| file.starts_with(folder)));
    let (chosen, gguf) = if in_folder || (folder.is_empty() && !groups.is_empty()) {
        let group = quant::choose(what, &groups, wanted)?;
        (group.files.clone(), group.files.first().cloned())
    } else {
        (safetensors_files(what, siblings, wanted)?, None)
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
    Ok(Selection { commit, files, gguf, folder: folder.to_owned() })
}

fn described(file: &Sibling) -> Option<HfFile> {
    let (bytes, digest) = match &file.lfs {
        Some(lfs) => (lfs.size.or(file.size)?, Digest::sha256(&lfs.sha256)?),
        None => (file.size?, Digest::git_blob(file.blob_id.as_deref()?)?),
    };
    Some(HfFile { path: file.rfilename.clone(), bytes, digest })
}

/// The folder that is wanted of a repository, with `/` at its end; empty for the repository itself.
fn folder_of(wanted: Option<&Wanted>) -> &str {
    match wanted {
        Some(Wanted::Path(path)) if path.ends_with('/') => path,
        _ => "",
    }
}

fn safetensors_files(
    what: &str,
    siblings: &[Sibling],
    wanted: Option<&Wanted>,
) -> Result<Vec<String>, HubError> {
    let folder = folder_of(wanted);
    let files = || siblings.iter().filter_map(|file| file.rfilename.strip_prefix(folder));
    let has = |name: &str| files().any(|file| file == name);
    let weights: Vec<&str> =
        files().filter(|name| name.ends_with(SAFETENSORS) && !name.contains('/')).collect();
    let all = || siblings.iter().map(|file| file.rfilename.as_str());
    if weights.is_empty() || !has("config.json") {
        return Err(if folder.is_empty() {
            let found = all().take(8).map(crate::error::shorten).collect();
            HubError::NoCheckpoint { reference: what.to_owned(), found }
        } else {
            HubError::no_such_path(what, folder, all())
        });
    }
    match wanted {
        Some(Wanted::Quant(quant)) => {
            let available = vec!["safetensors files only: leave the quantisation away".to_owned()];
            let (reference, quant) = (what.to_owned(), quant.clone());
            return Err(HubError::NoSuchQuant { reference, quant, nearest: None, available });
        }
        Some(Wanted::Path(path)) if folder.is_empty() => {
            return Err(HubError::no_such_path(what, path, all()));
        }
        _ => {}
    }
    // Some repositories hold the same weights twice: `model…` for transformers, `consolidated…` for others.
    let single = weights.iter().copied().filter(|name| *name == "model.safetensors");
    let shards = weights.iter().copied().filter(|name| name.starts_with("model-"));
    let usual: Vec<&str> = match has(INDEX) {
        false if has("model.safetensors") => single.collect(),
        _ => shards.collect(),
    };
    let weights = if usual.is_empty() { weights } else { usual };
    let small = COMPANIONS.iter().copied().filter(|name| has(name));
    let templates = files().filter(|name| is_named_template(name));
    let index = has(INDEX).then_some(INDEX);
    let names = small.chain(templates).chain(index).chain(weights);
    Ok(names.map(|name| format!("{folder}{name}")).collect())
}

/// Chat templates beside the usual one.
fn is_named_template(name: &str) -> bool {
    name.strip_prefix("additional_chat_templates/")
        .is_some_and(|name| name.ends_with(".jinja") && !name.contains('/'))
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

/// Fetches what is missing of a selection and links it into its snapshot. Where nothing is missing nothing is written,
/// so that a cache which others fill may be one that can't be written here.
pub(crate) async fn pull(
    http: &Http,
    config: &HubConfig,
    of: &HfRef,
    selection: &Selection,
    progress: &dyn Progress,
) -> Result<StoredModel, HubError> {
    let (cache, repo) = (config.hf_cache()?, &of.repo);
    let folder = folder(cache, repo)?;
    let snapshot = folder.join("snapshots").join(&selection.commit);
    let credential = credential(config)?;
    let is_whole = |path: &Path, file: &HfFile| fs::metadata(path).is_ok_and(|meta| meta.len() == file.bytes);
    let missing: Vec<&HfFile> = selection
        .files
        .iter()
        .filter(|file| !is_whole(&snapshot.join(&file.path), file) && !is_whole(&blob(&folder, file), file))
        .collect();
    let bytes = missing.iter().map(|file| file.bytes).fold(0, u64::saturating_add);
    progress.event(PullEvent::Plan { files: missing.len(), bytes: Some(bytes) });
    let begun: u64 =
        missing.iter().filter_map(|file| fs::metadata(partial(&folder, file)).ok()).map(|m| m.len()).sum();
    disk::require_room(&folder, bytes.saturating_sub(begun))?;
    for file in &selection.files {
        if is_whole(&snapshot.join(&file.path), file) {
            continue;
        }
        let dest = blob(&folder, file);
        let locks = cache.join(".locks").join(repo.folder());
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
    let revision = of.revision.as_deref().unwrap_or(BRANCH);
    // A commit needs no name, and one that is right already needs no writing.
    if revision != selection.commit && named(&folder, revision).as_ref() != Some(&selection.commit) {
        let path = folder.join("refs").join(revision);
        if let Some(dir) = path.parent() {
            disk::create_dir(dir)?;
        }
        disk::write_atomic(&path, selection.commit.as_bytes())?;
    }
    let fetched = match &selection.gguf {
        Some(file) => Some(Wanted::Path(file.clone())),
        None => of.wanted.clone(),
    };
    find(cache, &HfRef { wanted: fetched, ..of.clone() })
        .ok_or_else(|| HubError::Internal(format!("{of} was fetched but can't be found")))
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

/// All complete models of the shared cache: those of the main branches, and those of other revisions by their names.
pub(crate) fn stored(cache: &Path) -> Vec<StoredModel> {
    sub_dirs(cache)
        .iter()
        .filter_map(|dir| RepoId::from_folder(dir.file_name()?.to_str()?))
        .flat_map(|repo| snapshots(cache, &repo))
        .flat_map(|snapshot| snapshot.models())
        .collect()
}

/// The stored model that is wanted, or else the preferred one.
pub(crate) fn find(cache: &Path, of: &HfRef) -> Option<StoredModel> {
    let snapshot = snapshot(cache, of)?;
    let folder = folder_of(of.wanted.as_ref());
    let groups = snapshot.groups();
    let in_folder = groups.iter().any(|group| group.files.iter().any(|file| file.starts_with(folder)));
    if in_folder || (folder.is_empty() && !groups.is_empty()) {
        return Some(snapshot.gguf(quant::choose("", &groups, of.wanted.as_ref()).ok()?, &groups));
    }
    let is_checkpoint = of.wanted.is_none() || !folder.is_empty();
    if is_checkpoint { snapshot.safetensors(folder) } else { None }
}

/// The model of a repository's folder in a cache, or of one of its snapshots, that the user named by its path.
pub(crate) fn of_cache_folder(path: &Path) -> Option<StoredModel> {
    let is_repo = |path: &Path| path.join("snapshots").is_dir();
    let repo = |path: &Path| RepoId::from_folder(path.file_name()?.to_str()?);
    if !is_repo(path) {
        return None;
    }
    find(path.parent()?, &HfRef { repo: repo(path)?, revision: None, wanted: None })
}

struct Snapshot {
    repo: RepoId,
    /// How this one is named, if it is not the main one.
    revision: Option<String>,
    commit: String,
    dir: PathBuf,
    files: Vec<StoredFile>,
}

/// The commit that a branch or tag had when it was fetched.
fn named(folder: &Path, revision: &str) -> Option<String> {
    let text = disk::read_small(&folder.join("refs").join(revision), 256)?;
    digest::commit("", text.trim()).ok()
}

/// All names of revisions with their commits, sorted.
fn refs(folder: &Path) -> Vec<(String, String)> {
    let mut files = Vec::new();
    gather(&folder.join("refs"), "", &mut files, 0);
    let mut refs: Vec<(String, String)> = files
        .into_iter()
        .filter_map(|file| named(folder, &file.name).map(|commit| (file.name, commit)))
        .collect();
    refs.sort();
    refs
}

/// The commit that the main branch had, or where no name is known, the newest.
fn main_commit(folder: &Path, refs: &[(String, String)]) -> Option<String> {
    let is_here = |commit: &String| folder.join("snapshots").join(commit).is_dir();
    let main = refs.iter().find(|(name, _)| name == BRANCH).map(|(_, commit)| commit.clone()).filter(is_here);
    let newest = || {
        let dir = sub_dirs(&folder.join("snapshots")).into_iter().max_by_key(|dir| modified(dir))?;
        dir.file_name()?.to_str().map(str::to_owned)
    };
    main.or_else(|| if refs.iter().all(|(name, _)| name == BRANCH) { newest() } else { None })
}

/// The snapshot of a revision.
fn snapshot(cache: &Path, of: &HfRef) -> Option<Snapshot> {
    let folder = cache.join(of.repo.folder());
    let commit = match &of.revision {
        None => main_commit(&folder, &refs(&folder))?,
        Some(revision) => named(&folder, revision).or_else(|| by_commit(&folder, revision))?,
    };
    read_snapshot(&folder, &of.repo, of.revision.clone(), commit)
}

/// The snapshot whose commit begins so, if there is only one.
fn by_commit(folder: &Path, start: &str) -> Option<String> {
    const START_CHARS_MIN: usize = 7;
    let start = start.to_ascii_lowercase();
    let of = |dir: &PathBuf| dir.file_name()?.to_str().map(str::to_owned);
    let mut found = sub_dirs(&folder.join("snapshots")).iter().filter_map(of).collect::<Vec<_>>().into_iter();
    let mut found =
        found.by_ref().filter(|commit| start.len() >= START_CHARS_MIN && commit.starts_with(&start));
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

/// All snapshots, the main one first.
fn snapshots(cache: &Path, repo: &RepoId) -> Vec<Snapshot> {
    let folder = cache.join(repo.folder());
    let refs = refs(&folder);
    let mut commits: Vec<(String, Option<String>)> = Vec::new();
    let main = main_commit(&folder, &refs).map(|commit| (commit, None));
    let others = refs.into_iter().map(|(name, commit)| (commit, Some(name)));
    let unnamed = sub_dirs(&folder.join("snapshots")).into_iter().filter_map(|dir| {
        let commit = dir.file_name()?.to_str()?.to_owned();
        Some((commit.clone(), Some(commit)))
    });
    for (commit, name) in main.into_iter().chain(others).chain(unnamed) {
        if !commits.iter().any(|(known, _)| *known == commit) {
            commits.push((commit, name));
        }
    }
    commits.into_iter().filter_map(|(commit, name)| read_snapshot(&folder, repo, name, commit)).collect()
}

fn read_snapshot(folder: &Path, repo: &RepoId, revision: Option<String>, commit: String) -> Option<Snapshot> {
    let dir = folder.join("snapshots").join(&commit);
    if !dir.is_dir() {
        return None;
    }
    let mut files = Vec::new();
    gather(&dir, "", &mut files, 0);
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Some(Snapshot { repo: repo.clone(), revision, commit, dir, files })
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
    fn groups(&self) -> Vec<quant::GgufGroup> {
        quant::groups(self.files.iter().map(|file| file.name.as_str()))
    }

    fn models(&self) -> Vec<StoredModel> {
        let groups = self.groups();
        let mut models: Vec<StoredModel> = groups.iter().map(|group| self.gguf(group, &groups)).collect();
        if models.is_empty() {
            models.extend(self.safetensors(""));
        }
        models
    }

    /// A GGUF model by its quantisation, or by its file where that does not tell it from the others.
    fn gguf(&self, group: &quant::GgufGroup, all: &[quant::GgufGroup]) -> StoredModel {
        let files = self.files.iter().filter(|file| group.files.contains(&file.name)).cloned().collect();
        let alike = all.iter().filter(|other| other.label == group.label).count();
        let wanted = match (&group.label, group.files.first()) {
            (Some(label), _) if alike == 1 => Some(Wanted::Quant(label.clone())),
            (None, _) if all.len() == 1 => None,
            (_, file) => file.map(|file| Wanted::Path(file.clone())),
        };
        let path = group.files.first().map_or_else(|| self.dir.clone(), |name| self.dir.join(name));
        self.model(wanted, path, files)
    }

    /// A folder of the snapshot as a checkpoint, if all its weights are here.
    fn safetensors(&self, folder: &str) -> Option<StoredModel> {
        const INDEX_BYTES_MAX: u64 = 64 << 20;
        let names = || self.files.iter().filter_map(|file| file.name.strip_prefix(folder));
        let has = |name: &str| names().any(|file| file == name);
        let weights = || names().filter(|name| name.ends_with(SAFETENSORS) && !name.contains('/'));
        if !has("config.json") || weights().next().is_none() {
            return None;
        }
        let dir = if folder.is_empty() { self.dir.clone() } else { self.dir.join(folder) };
        if let Some(text) = disk::read_small(&dir.join(INDEX), INDEX_BYTES_MAX) {
            let index: serde_json::Value = serde_json::from_str(&text).ok()?;
            let shards: BTreeSet<&str> =
                index["weight_map"].as_object()?.values().filter_map(|v| v.as_str()).collect();
            if !shards.into_iter().all(has) {
                return None;
            }
        } else if !has("model.safetensors")
            && !weights().all(|name| quant::siblings(name).iter().all(|part| has(part)))
        {
            // Shards without an index tell by their names how many there are.
            return None;
        }
        let wanted = |name: &str| {
            COMPANIONS.contains(&name)
                || name == INDEX
                || name.ends_with(SAFETENSORS)
                || is_named_template(name)
        };
        let is_ours = |file: &&StoredFile| file.name.strip_prefix(folder).is_some_and(wanted);
        let files = self.files.iter().filter(is_ours).cloned().collect();
        let path = (!folder.is_empty()).then(|| Wanted::Path(folder.to_owned()));
        Some(self.model(path, dir, files))
    }

    fn model(&self, wanted: Option<Wanted>, path: PathBuf, files: Vec<StoredFile>) -> StoredModel {
        let of = HfRef { repo: self.repo.clone(), revision: self.revision.clone(), wanted };
        StoredModel {
            reference: of.to_string(),
            path,
            bytes: files.iter().map(|file| file.bytes).sum(),
            revision: Some(self.commit.clone()),
            source: format!("the Hugging Face hub, {}", self.repo.as_str()),
            modified_unix_s: files.iter().map(|file| modified(&file.path)).max().unwrap_or(0),
            files,
        }
    }
}

/// Removes one model, all of a revision if none is named, or the whole repository if nothing else is in it or nothing
/// of it is named.
pub(crate) fn remove(cache: &Path, of: &HfRef, model: &StoredModel) -> Result<(), HubError> {
    let folder = cache.join(of.repo.folder());
    let all: usize = snapshots(cache, &of.repo).iter().map(|snapshot| snapshot.models().len()).sum();
    if (of.wanted.is_none() && of.revision.is_none()) || all <= 1 {
        let _ = fs::remove_dir_all(cache.join(".locks").join(of.repo.folder()));
        return remove_dir(&folder);
    }
    let Some(snapshot) = snapshot(cache, of) else { return Ok(()) };
    let is_last = of.wanted.is_none() || snapshot.models().len() <= 1;
    for file in if is_last { &snapshot.files } else { &model.files } {
        let io = |error| HubError::io("remove", &file.path, error);
        let blob = fs::canonicalize(&file.path).map_err(io)?;
        fs::remove_file(&file.path).map_err(io)?;
        let Ok(blobs) = fs::canonicalize(folder.join("blobs")) else { continue };
        // A link that leads elsewhere was not made by us: what it points to stays.
        if blob.parent() == Some(&blobs) && !linked(&folder, &blob) {
            fs::remove_file(&blob).map_err(io)?;
        }
    }
    if is_last {
        remove_dir(&snapshot.dir)?;
        for (name, _) in refs(&folder).into_iter().filter(|(_, commit)| *commit == snapshot.commit) {
            let path = folder.join("refs").join(name);
            fs::remove_file(&path).map_err(|error| HubError::io("remove", &path, error))?;
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
