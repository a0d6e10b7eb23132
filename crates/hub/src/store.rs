//! The models on this disk: the cache shared with the Hugging Face tools, and Levain's own store.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::pypi::Version;
use crate::{HubConfig, HubError, ModelRef, check_owners, disk, hf, names, nearest};

const MANIFEST: &str = "levain.json";
const MANIFEST_BYTES_MAX: u64 = 4 << 20;
const MANIFEST_FORMAT: u32 = 1;

/// A file of a stored model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredFile {
    /// Its name within the model.
    pub name: String,
    /// Where its bytes are.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, where the store knows it.
    pub sha256: Option<String>,
}

/// A model on this disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredModel {
    /// How to name it.
    pub reference: String,
    /// What to open: a `.gguf` file (of a split model the first part) or a checkpoint folder.
    pub path: PathBuf,
    /// Bytes on disk.
    pub bytes: u64,
    /// The hub's commit or the package's version.
    pub revision: Option<String>,
    /// Where it came from.
    pub source: String,
    /// Seconds since 1970 at which it arrived.
    pub modified_unix_s: u64,
    /// Its files.
    pub files: Vec<StoredFile>,
}

/// The record beside a model of Levain's own store. It is written last: a model without one does not exist.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    pub(crate) reference: String,
    pub(crate) source: String,
    /// What to open, relative to the manifest; `.` for the folder itself.
    pub(crate) open: String,
    pub(crate) files: Vec<ManifestFile>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ManifestFile {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

impl Manifest {
    pub(crate) fn new(reference: String, source: String, open: String, files: Vec<ManifestFile>) -> Self {
        Self { format: MANIFEST_FORMAT, reference, source, open, files }
    }

    pub(crate) fn write(&self, dir: &Path) -> Result<(), HubError> {
        let json = serde_json::to_vec_pretty(self).map_err(|error| HubError::Internal(error.to_string()))?;
        disk::write_atomic(&dir.join(MANIFEST), &json)
    }

    /// The model in `dir`, if its record is whole and its files have the recorded lengths.
    pub(crate) fn read(dir: &Path) -> Option<StoredModel> {
        let text = disk::read_small(&dir.join(MANIFEST), MANIFEST_BYTES_MAX)?;
        let manifest: Self = serde_json::from_str(&text).ok()?;
        if manifest.format != MANIFEST_FORMAT {
            return None;
        }
        let mut files = Vec::new();
        for file in &manifest.files {
            let path = dir.join(names::safe_path("the store", &file.name).ok()?);
            if fs::metadata(&path).ok()?.len() != file.bytes {
                return None;
            }
            let sha256 = Some(file.sha256.clone());
            files.push(StoredFile { name: file.name.clone(), path, bytes: file.bytes, sha256 });
        }
        let path = if manifest.open == "." {
            dir.to_owned()
        } else {
            dir.join(names::safe_path("the store", &manifest.open).ok()?)
        };
        Some(StoredModel {
            reference: manifest.reference,
            path,
            bytes: files.iter().map(|file| file.bytes).sum(),
            revision: None,
            source: manifest.source,
            modified_unix_s: modified(&dir.join(MANIFEST)),
            files,
        })
    }
}

pub(crate) fn package_dir(config: &HubConfig, package: &str) -> Result<PathBuf, HubError> {
    Ok(config.store()?.join("pypi").join(package))
}

/// The folder of a model from a plain address: the address's hash, so that nothing of it becomes a path.
pub(crate) fn url_dir(config: &HubConfig, url: &str) -> Result<PathBuf, HubError> {
    Ok(config.store()?.join("https").join(&crate::digest::sha256_hex(url.as_bytes())[..32]))
}

/// All models, sorted by reference.
pub(crate) fn list(config: &HubConfig) -> Vec<StoredModel> {
    let mut models = config.hf_cache.as_deref().map(hf::stored).unwrap_or_default();
    if let Some(store) = &config.store {
        for package in sub_dirs(&store.join("pypi")) {
            models.extend(package_versions(&package));
        }
        models.extend(sub_dirs(&store.join("https")).iter().filter_map(|dir| Manifest::read(dir)));
    }
    models.sort_by(|a, b| a.reference.cmp(&b.reference));
    models
}

/// The stored versions of a package, newest first; only the older ones are named with their version.
fn package_versions(dir: &Path) -> Vec<StoredModel> {
    let mut found: Vec<(Version, StoredModel)> = sub_dirs(dir)
        .iter()
        .filter_map(|dir| {
            let name = dir.file_name()?.to_str()?;
            let mut model = Manifest::read(dir)?;
            model.revision = Some(name.to_owned());
            Some((Version::parse(name), model))
        })
        .collect();
    found.sort_by(|a, b| b.0.cmp(&a.0));
    let mut models: Vec<StoredModel> = found.into_iter().map(|(_, model)| model).collect();
    for model in models.iter_mut().skip(1) {
        if let Some(version) = &model.revision {
            model.reference = format!("{}=={version}", model.reference);
        }
    }
    models
}

/// The stored model that `reference` means, if there is one. Touches no network.
pub(crate) fn find(config: &HubConfig, reference: &ModelRef) -> Result<Option<StoredModel>, HubError> {
    Ok(match reference {
        ModelRef::File(path) => Some(opened(path)?),
        ModelRef::Hf(of) => hf::find(config.hf_cache()?, of),
        ModelRef::PyPi { package, version } => {
            let mut models = package_versions(&package_dir(config, package)?).into_iter();
            let model = match version {
                None => models.next(),
                Some(version) => models.find(|model| model.revision.as_ref() == Some(version)),
            };
            model.map(trusted).transpose()?
        }
        ModelRef::Url(url) => Manifest::read(&url_dir(config, url.as_str())?).map(trusted).transpose()?,
        ModelRef::Hosted { provider, model } => {
            return Err(HubError::Hosted { provider: provider.clone(), model: model.clone() });
        }
        ModelRef::Name(name) => {
            return Err(HubError::UnknownName { name: name.clone(), nearest: nearest_stored(config, name) });
        }
    })
}

/// A model of Levain's own store, if nobody else has a say in what its files hold. The shared cache may be meant for
/// several users, and is theirs to guard.
pub(crate) fn trusted(model: StoredModel) -> Result<StoredModel, HubError> {
    model.files.iter().try_for_each(|file| check_owners(&file.path))?;
    Ok(model)
}

/// As [`find`], but a model that is not here is an error.
pub(crate) fn require(config: &HubConfig, reference: &ModelRef) -> Result<StoredModel, HubError> {
    find(config, reference)?.ok_or_else(|| {
        let reference = reference.to_string();
        let nearest = nearest_stored(config, &reference);
        HubError::NotStored { reference, nearest }
    })
}

fn nearest_stored(config: &HubConfig, name: &str) -> Vec<String> {
    nearest(name, list(config).iter().map(|model| model.reference.as_str()))
}

/// A file or folder that the user named: described, not judged.
fn opened(path: &Path) -> Result<StoredModel, HubError> {
    if let Some(model) = hf::of_cache_folder(path) {
        return Ok(model);
    }
    let meta = fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => HubError::NoSuchFile { path: path.to_owned() },
        _ => HubError::io("read", path, error),
    })?;
    let mut files = Vec::new();
    if meta.is_dir() {
        let entries = fs::read_dir(path).map_err(|error| HubError::io("read", path, error))?;
        for entry in entries.flatten() {
            let meta = fs::metadata(entry.path());
            if let (Ok(meta), Ok(name)) = (meta, entry.file_name().into_string())
                && meta.is_file()
            {
                files.push(StoredFile { name, path: entry.path(), bytes: meta.len(), sha256: None });
            }
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
    } else {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for part in crate::quant::all_parts(&name) {
            let part_path = path.with_file_name(&part);
            let bytes = fs::metadata(&part_path).map(|meta| meta.len());
            let bytes = bytes.map_err(|_| HubError::NoSuchFile { path: part_path.clone() })?;
            files.push(StoredFile { name: part, path: part_path, bytes, sha256: None });
        }
    }
    Ok(StoredModel {
        reference: path.display().to_string(),
        path: path.to_owned(),
        bytes: files.iter().map(|file| file.bytes).sum(),
        revision: None,
        source: "a file of yours".into(),
        modified_unix_s: modified(path),
        files,
    })
}

/// Removes a model and returns the bytes that this frees.
pub(crate) fn remove(config: &HubConfig, reference: &ModelRef) -> Result<StoredModel, HubError> {
    let model = require(config, reference)?;
    match reference {
        ModelRef::File(path) => {
            return Err(HubError::reference(
                &path.display().to_string(),
                "only models of the store are removed; delete your own files yourself",
            ));
        }
        ModelRef::Hf(of) => hf::remove(config.hf_cache()?, of, &model)?,
        _ => {
            let dir = model.files.first().and_then(|file| own_dir(config, &file.path)).ok_or_else(|| {
                HubError::Internal(format!("{} lies outside of the store", model.path.display()))
            })?;
            remove_dir(&dir)?;
        }
    }
    Ok(model)
}

/// The model folder in Levain's own store that holds `path`: two or three levels below its root.
fn own_dir(config: &HubConfig, path: &Path) -> Option<PathBuf> {
    let store = config.store.as_deref()?;
    let inside = path.strip_prefix(store).ok()?;
    let mut parts = inside.components();
    let kind = parts.next()?;
    let levels = if kind.as_os_str() == "pypi" { 2 } else { 1 };
    let mut dir = store.join(kind);
    for _ in 0..levels {
        dir.push(parts.next()?);
    }
    Some(dir)
}

/// Takes a folder away at once, then deletes it at leisure.
pub(crate) fn remove_dir(dir: &Path) -> Result<(), HubError> {
    let doomed = disk::beside(dir, "removed");
    fs::rename(dir, &doomed).map_err(|error| HubError::io("remove", dir, error))?;
    fs::remove_dir_all(&doomed).map_err(|error| HubError::io("remove", &doomed, error))
}

pub(crate) fn sub_dirs(dir: &Path) -> Vec<PathBuf> {
    const ENTRIES_MAX: usize = 100_000;
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut dirs: Vec<PathBuf> =
        entries.take(ENTRIES_MAX).flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    dirs.sort();
    dirs
}

pub(crate) fn modified(path: &Path) -> u64 {
    let time = fs::metadata(path).and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    time.duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
